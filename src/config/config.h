/*
 * config: what the administrator asked for, parsed, checked and complete with its defaults. A struct config
 * is immutable and counted: a reload makes a new one, and each connection keeps a reference to the one that
 * it was born with. It never logs; faults come back as text, every one of them with file and line.
 *
 * All times are in microseconds, USEC_INFINITY where a key says `infinity`; limits that are `infinity` are
 * UINT64_MAX. Strings are never NULL unless said so.
 */
#pragma once

#include "base/address.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/rules.h"
#include "base/util.h"
#include "base/words.h"
#include <stdio.h>
#include <sys/types.h>

#define CONFIG_NAME_MAX     32 /* of a listener or resource */
#define CONFIG_DEFAULT_PATH "/etc/tetherd/tetherd.conf"

enum preserve_mode { PRESERVE_NO, PRESERVE_RESTART, PRESERVE_ALWAYS };
enum handler_kind { HANDLER_DISCARD, HANDLER_ECHO, HANDLER_PLUGIN };
enum half_close { HALF_CLOSE_CLOSE, HALF_CLOSE_KEEP };
enum load_failure { LOAD_FAILURE_NOTHING, LOAD_FAILURE_RELEASE };
enum resource_kind {
        RESOURCE_NONE,
        RESOURCE_DIRECTORY,
        RESOURCE_EXEC,
        RESOURCE_POOL,
        RESOURCE_PROCESS,
        RESOURCE_UNIT,
        RESOURCE_HELPER,
        N_RESOURCE_KINDS,
};
enum when_empty { WHEN_EMPTY_REJECT, WHEN_EMPTY_WAIT };
enum process_socket { PROCESS_SOCKET_NONE, PROCESS_SOCKET_STDIO };
enum on_exit { ON_EXIT_CLOSE, ON_EXIT_KEEP };
enum job_mode {
        JOB_MODE_REPLACE,
        JOB_MODE_FAIL,
        JOB_MODE_IGNORE_DEPENDENCIES,
        JOB_MODE_IGNORE_REQUIREMENTS,
};

struct daemon_config {
        uint64_t max_connections; /* 0 = auto */
        char *runtime_directory;  /* $RUNTIME_DIRECTORY where systemd sets it and the key is not given */
        char *state_directory;    /* likewise $STATE_DIRECTORY */
        enum preserve_mode preserve;
        uint64_t drain_timeout;
        struct log_options log;
};

struct resource_config {
        char name[CONFIG_NAME_MAX + 1];
        enum resource_kind kind;
        /* directory */
        char *path; /* a template; NULL for other kinds */
        mode_t mode;
        /* directory, exec, process: (uid_t)-1, (gid_t)-1 and NULL = the daemon's own */
        uid_t user;
        gid_t group;     /* without the key `group`: the user's login group */
        char *user_name; /* the login name behind `user`, for USER and initgroups(3) */
        char *home;      /* its home directory */
        /*
         * exec, NULL for other kinds: words, each a template; the first is literal: an absolute path, or a name for
         * program_find(). At least one of the two has words; one without does nothing.
         */
        char **load;
        char **release;
        /* exec, process, helper; the command as above, of a helper without specifiers of a connection */
        char **environment;      /* NAME=value, value a template; empty = none */
        char *working_directory; /* "/" by default; NULL for other kinds, and helper */
        char **command;          /* process, helper */
        enum process_socket socket;
        enum on_exit on_exit; /* process, unit */
        /* unit */
        char *unit; /* a template; NULL for other kinds */
        enum job_mode job_mode;
        /* pool */
        char **items; /* ranges written out; no two are the same */
        enum when_empty when_empty;
        uint64_t wait_timeout;
        /* all */
        enum load_failure on_load_failure;
        bool persistent;
        uint64_t load_timeout;
        uint64_t release_timeout;
        uint64_t queue_timeout;
        unsigned release_attempts;
        unsigned max_concurrent;
};

struct config;

struct listener_config {
        struct config *config;     /* that it is part of: a reference to it keeps this alive */
        struct listener *listener; /* who listens as it says; not config's, which leaves it NULL */
        char name[CONFIG_NAME_MAX + 1];
        bool enabled;
        struct endpoint *endpoints;
        size_t n_endpoints;
        bool v6only;
        enum handler_kind handler;
        char *plugin; /* HANDLER_PLUGIN: the path of its object; else NULL */
        uint64_t handler_timeout;
        struct resource_config **resources; /* borrowed from config->resources, in loading order */
        size_t n_resources;
        int backlog;
        bool reuse_port;
        bool nodelay;
        mode_t socket_mode;
        uid_t socket_user;  /* (uid_t)-1: as created */
        gid_t socket_group; /* (gid_t)-1: as created */
        uint64_t max_connections;
        uint64_t max_connections_per_source;
        uint64_t accept_rate_per_source; /* a second */
        struct rules allow;              /* empty: everyone */
        struct rules deny;
        bool proxy_protocol;
        struct rules proxy_from; /* CIDRs only; empty without proxy_protocol */
        bool hello;
        size_t hello_max;
        uint64_t handshake_timeout;
        char *greeting; /* template; "" = none */
        char *refusal;  /* template with %c, the cause, and without %{name}; "" = none */
        uint64_t idle_timeout;
        enum half_close half_close;
        uint64_t half_close_timeout;
        uint64_t detect_within;
        uint64_t keepalive_idle;     /* effective: `auto` is resolved; USEC_INFINITY = keepalive off */
        uint64_t keepalive_interval; /* likewise */
        unsigned keepalive_count; /* effective; 0 = the kernel's (detect_within = infinity, and not given) */
        uint64_t user_timeout;    /* effective; USEC_INFINITY = off */
        uint64_t max_age;
        uint64_t receive_buffer; /* bytes, 0 = the kernel's */
        uint64_t send_buffer;
};

struct config {
        unsigned n_refs;
        struct daemon_config daemon;
        struct resource_config **resources;
        size_t n_resources;
        struct listener_config **listeners; /* in file order, those that are not enabled included */
        size_t n_listeners;
        struct config_origins *origins; /* where each value was written */
};

/*
 * Reads FILE, then FILE.d/?*.conf in strcmp order. Returns 0 and a config with one reference; or -ENOMEM; or
 * CONFIG_E_INVALID with *ret_faults, a strv of "FILE:LINE: message" lines, ordered by file and line, holding
 * every fault that could be found, not only the first. A file that cannot be read is a fault as well
 * ("FILE: cannot be read: No such file or directory").
 */
enum { CONFIG_E_INVALID = 1 };
int config_load(const char *path, struct config **ret_config, char ***ret_faults);

/*
 * What is allowed and hardly meant, as a strv of the same form ("FILE:LINE: key = value: warning: message"), NULL
 * where there is nothing. 0 or -ENOMEM.
 */
int config_warnings(const struct config *config, char ***ret_warnings);

struct config *config_ref(struct config *config);
struct config *config_unref(struct config *config); /* takes NULL, returns NULL */
DEFINE_CLEANUP(struct config *, config_unref);

/* NULL if there is none of that name. */
struct listener_config *config_find_listener(const struct config *config, const char *name);
struct resource_config *config_find_resource(const struct config *config, const char *name);

/*
 * Where a key was given: "FILE:LINE: key = value", or "FILE: [section] key = value (the default)" where no
 * file gives it. For faults that only show when the daemon runs (a port in use, a missing directory).
 * `section` as in the file ("daemon", "listener:presence"). Returns `buffer`.
 */
#define CONFIG_WHERE_MAX 512
const char *config_where(const struct config *config, const char *section, const char *key,
                         char buffer[static CONFIG_WHERE_MAX]);

/*
 * The keys for which two configs differ although they can only change with a restart (runtime_directory,
 * state_directory, preserve). Returns a constant key name, or NULL.
 */
const char *config_needs_restart(const struct config *running, const struct config *wanted);

/* Prints the effective configuration as valid INI, every key with its value. 0, or -EIO. */
int config_print(const struct config *config, FILE *file);

/*
 * daemon: the root object. It wires the parts together, lets the earlier run's leases be released, opens the
 * listeners, serves, drains and tears down in reverse.
 *
 *      recovering ──> serving ──> draining ──> (loop ends)
 */
#pragma once

#include "config/config.h"
#include "connection/listener.h"
#include "resource/ledger.h"

/* The exit statuses of interface.md. */
enum { EXIT_OK = 0, EXIT_RUNTIME = 1, EXIT_USAGE = 2, EXIT_CONFIG = 78 };

enum daemon_state { DAEMON_RECOVERING, DAEMON_SERVING, DAEMON_DRAINING };

struct daemon {
        enum daemon_state state;
        const char *config_path;
        const enum log_target *log_target; /* of the command line, or NULL */
        struct config *config;
        struct journal *journal;
        struct loop *loop;
        struct ledger *ledger;
        int runtime_lock_fd;
        int state_lock_fd;
        uint64_t n_descriptors; /* the limit that we have */
        struct leases leases;
        struct connections connections;
        struct listeners listeners;
        size_t n_recovering;          /* leases of an earlier run that are not settled yet */
        struct listener_plan **plans; /* until recovery is over */
        size_t n_plans;
        uint64_t started_usec;
        struct source journal_source; /* woken while journald is slow */
        struct timer journal_timer;   /* likewise, or gone */
        struct timer limit_timer;     /* for the count of rejections that were not written */
        struct timer drain_timer;
        struct timer watchdog_timer;
        struct timer status_timer;
        struct timer ready_timer; /* while the manager takes no READY=1 */
        uint64_t watchdog_usec;
        bool has_manager;         /* $NOTIFY_SOCKET */
        bool is_reload_due;       /* SIGHUP came before it served */
        uint64_t status_shown[2]; /* accepted and open connections when STATUS was last sent */
};

/*
 * Runs until it is told to stop; returns the exit status. What goes wrong before it serves is said on
 * stderr, or in the journal. `config` is consumed. `log_target`: overrides the key of the same name.
 */
int daemon_run(const char *config_path, struct config *config, const enum log_target *log_target);

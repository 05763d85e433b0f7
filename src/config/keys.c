/*
 * keys: promises one row for every key of the manual, in its order; --print-config follows it. It relies on
 * the structs of config.h. It deliberately holds no code but the search: what a type means is in value.c.
 */
#include "config/keys.h"
#include <limits.h>
#include <syslog.h>

static const struct key_word preserves[] = {
        { "no", PRESERVE_NO },
        { "restart", PRESERVE_RESTART },
        { "always", PRESERVE_ALWAYS },
        { NULL, 0 },
};
static const struct key_word log_targets[] = {
        { "auto", LOG_TARGET_AUTO },
        { "journal", LOG_TARGET_JOURNAL },
        { "stderr", LOG_TARGET_STDERR },
        { NULL, 0 },
};
static const struct key_word log_levels[] = {
        { "debug", LOG_DEBUG },     { "info", LOG_INFO }, { "notice", LOG_NOTICE },
        { "warning", LOG_WARNING }, { "err", LOG_ERR },   { NULL, 0 },
};
static const struct key_word log_events[] = {
        { "all", LOG_EVENTS_ALL },
        { "closed", LOG_EVENTS_CLOSED },
        { "problems", LOG_EVENTS_PROBLEMS },
        { "none", LOG_EVENTS_NONE },
        { NULL, 0 },
};
static const struct key_word handlers[] = {
        { "discard", HANDLER_DISCARD },
        { "echo", HANDLER_ECHO },
        { "plugin:", HANDLER_PLUGIN },
        { NULL, 0 },
};
static const struct key_word half_closes[] = {
        { "close", HALF_CLOSE_CLOSE },
        { "keep", HALF_CLOSE_KEEP },
        { NULL, 0 },
};
static const struct key_word types[] = {
        { "none", RESOURCE_NONE },       { "directory", RESOURCE_DIRECTORY },
        { "exec", RESOURCE_EXEC },       { "pool", RESOURCE_POOL },
        { "process", RESOURCE_PROCESS }, { "unit", RESOURCE_UNIT },
        { "helper", RESOURCE_HELPER },   { NULL, 0 },
};
static const struct key_word when_emptys[] = {
        { "reject", WHEN_EMPTY_REJECT },
        { "wait", WHEN_EMPTY_WAIT },
        { NULL, 0 },
};
static const struct key_word sockets[] = {
        { "none", PROCESS_SOCKET_NONE },
        { "stdio", PROCESS_SOCKET_STDIO },
        { NULL, 0 },
};
static const struct key_word on_exits[] = {
        { "close", ON_EXIT_CLOSE },
        { "keep", ON_EXIT_KEEP },
        { NULL, 0 },
};
static const struct key_word job_modes[] = {
        { "replace", JOB_MODE_REPLACE },
        { "fail", JOB_MODE_FAIL },
        { "ignore-dependencies", JOB_MODE_IGNORE_DEPENDENCIES },
        { "ignore-requirements", JOB_MODE_IGNORE_REQUIREMENTS },
        { NULL, 0 },
};
static const struct key_word load_failures[] = {
        { "nothing", LOAD_FAILURE_NOTHING },
        { "release", LOAD_FAILURE_RELEASE },
        { NULL, 0 },
};

#define AT(config, field) \
        .offset = offsetof(struct config, field), .size = sizeof(((struct config *)0)->field)
#define DAEMON(field)    .section = SECTION_DAEMON, AT(daemon_config, field)
#define LISTENER(field)  .section = SECTION_LISTENER, AT(listener_config, field)
#define RESOURCE(field)  .section = SECTION_RESOURCE, AT(resource_config, field)
#define RANGE(low, high) .min = (low), .max = (high)
#define TIMEOUT          RANGE(USEC_PER_MSEC, USEC_INFINITY - 1), .flags = KEY_INFINITY

#define SECONDS(n)    ((n)*USEC_PER_SEC)
#define MAX_USER_TIME (INT_MAX * USEC_PER_MSEC) /* TCP_USER_TIMEOUT is an int of milliseconds */
#define MAX_BUFFER    (INT_MAX / 2)             /* the kernel doubles SO_RCVBUF and SO_SNDBUF */
#define COMMANDS      (KIND_EXEC | KIND_PROCESS)
#define SAYING        (KIND_EXEC | KIND_UNIT | KIND_HELPER)

#define KEY(key, kind, text, when, line, ...)                                                   \
        {                                                                                       \
                .name = (key), .type = KEY_##kind, .standard = (text), .effect = EFFECT_##when, \
                .help = (line), __VA_ARGS__                                                     \
        }

/* clang-format off */
const struct key keys[] = {
        KEY("max_connections", COUNT, "auto", RELOAD, "connections of all listeners together",
            DAEMON(max_connections), RANGE(1, UINT32_MAX), .flags = KEY_AUTO),
        KEY("runtime_directory", FOLDER, "/run/tetherd", RESTART, "where the ledger of this boot is",
            DAEMON(runtime_directory), .variable = "RUNTIME_DIRECTORY"),
        KEY("state_directory", FOLDER, "/var/lib/tetherd", RESTART, "where what outlives a reboot is",
            DAEMON(state_directory), .variable = "STATE_DIRECTORY"),
        KEY("preserve", WORD, "restart", RESTART, "when connections are handed to the next process",
            DAEMON(preserve), .words = preserves),
        KEY("drain_timeout", SPAN, "30s", RELOAD, "how long SIGTERM waits for releases",
            DAEMON(drain_timeout), RANGE(0, USEC_INFINITY - 1), .flags = KEY_INFINITY),
        KEY("log_target", WORD, "auto", RELOAD, "where records go",
            DAEMON(log.target), .words = log_targets),
        KEY("log_level", WORD, "info", RELOAD, "the least important records that are written",
            DAEMON(log.level), .words = log_levels),
        KEY("log_events", WORD, "all", RELOAD, "the lifecycle events that are written",
            DAEMON(log.events), .words = log_events),
        KEY("log_queue", COUNT, "16384", RELOAD, "records kept while journald is slow",
            DAEMON(log.n_queue), RANGE(1, 1 << 20)),

        KEY("enabled", BOOLEAN, "yes", RELOAD, "whether the listener is opened", LISTENER(enabled)),
        KEY("listen", ENDPOINTS, "", RELOAD, "where: host:port, [v6]:port, *:port, /path.sock, @abstract, systemd:NAME",
            LISTENER(endpoints)),
        KEY("v6only", BOOLEAN, "no", RELOAD, "whether [::] leaves IPv4 alone", LISTENER(v6only)),
        KEY("handler", HANDLER, "discard", CONNECTION, "what becomes of received bytes",
            LISTENER(handler), .words = handlers),
        KEY("handler_timeout", SPAN, "30s", CONNECTION, "how long a plugin's handshake may be pending",
            LISTENER(handler_timeout), TIMEOUT),
        KEY("resources", NAMES, "", CONNECTION, "loaded left to right, released right to left", LISTENER(resources)),
        KEY("backlog", COUNT, "4096", RELOAD, "connections that the kernel queues", LISTENER(backlog), RANGE(1, INT_MAX)),
        KEY("reuse_port", BOOLEAN, "no", RELOAD, "whether several daemons share the port", LISTENER(reuse_port)),
        KEY("nodelay", BOOLEAN, "yes", CONNECTION, "TCP_NODELAY", LISTENER(nodelay)),
        KEY("socket_mode", MODE, "0600", RELOAD, "of a UNIX socket's file", LISTENER(socket_mode), RANGE(0, 0777)),
        KEY("socket_user", USER, "", RELOAD, "owner of a UNIX socket's file", LISTENER(socket_user)),
        KEY("socket_group", GROUP, "", RELOAD, "group of a UNIX socket's file", LISTENER(socket_group)),
        KEY("max_connections", COUNT, "infinity", RELOAD, "connections of this listener; reached: accepting pauses",
            LISTENER(max_connections), RANGE(1, UINT32_MAX), .flags = KEY_INFINITY),
        KEY("max_connections_per_source", COUNT, "infinity", CONNECTION, "connections of one address or uid",
            LISTENER(max_connections_per_source), RANGE(1, UINT32_MAX), .flags = KEY_INFINITY),
        KEY("accept_rate_per_source", COUNT, "infinity", CONNECTION, "connections a second of one address or uid",
            LISTENER(accept_rate_per_source), RANGE(1, UINT32_MAX), .flags = KEY_INFINITY),
        KEY("allow", RULES, "", CONNECTION, "who may connect; empty: everyone", LISTENER(allow)),
        KEY("deny", RULES, "", CONNECTION, "who may not; wins over allow", LISTENER(deny)),
        KEY("proxy_protocol", BOOLEAN, "no", CONNECTION, "whether a PROXY header must come first",
            LISTENER(proxy_protocol)),
        KEY("proxy_from", RULES, "", CONNECTION, "the proxies", LISTENER(proxy_from), .flags = KEY_CIDRS),
        KEY("hello", BOOLEAN, "no", CONNECTION, "whether the first line is the client's identity", LISTENER(hello)),
        KEY("hello_max", COUNT, "128", CONNECTION, "bytes of that line", LISTENER(hello_max), RANGE(1, 4096)),
        KEY("handshake_timeout", SPAN, "10s", CONNECTION, "accept to the end of the handshake",
            LISTENER(handshake_timeout), TIMEOUT),
        KEY("greeting", TEMPLATE, "", CONNECTION, "sent when ready, with a newline", LISTENER(greeting)),
        KEY("refusal", TEMPLATE, "", CONNECTION, "sent when refused, with a newline",
            LISTENER(refusal), .flags = KEY_CAUSE),
        KEY("idle_timeout", SPAN, "infinity", CONNECTION, "no byte received for so long ends it",
            LISTENER(idle_timeout), TIMEOUT),
        KEY("half_close", WORD, "close", CONNECTION, "what a peer's FIN means",
            LISTENER(half_close), .words = half_closes),
        KEY("half_close_timeout", SPAN, "infinity", CONNECTION, "how long a half-closed connection may live",
            LISTENER(half_close_timeout), TIMEOUT),
        KEY("detect_within", SPAN, "60s", CONNECTION, "a peer that vanished is noticed within this",
            LISTENER(detect_within), RANGE(SECONDS(6), SECONDS(18 * 3600)), .flags = KEY_INFINITY),
        KEY("keepalive_idle", SPAN, "auto", CONNECTION, "TCP_KEEPIDLE; auto: a quarter of detect_within",
            LISTENER(keepalive_idle), RANGE(SECONDS(1), SECONDS(32767)),
            .flags = KEY_AUTO | KEY_INFINITY | KEY_WHOLE_SECONDS),
        KEY("keepalive_interval", SPAN, "auto", CONNECTION, "TCP_KEEPINTVL; auto: a twelfth of detect_within",
            LISTENER(keepalive_interval), RANGE(SECONDS(1), SECONDS(32767)),
            .flags = KEY_AUTO | KEY_INFINITY | KEY_WHOLE_SECONDS),
        KEY("keepalive_count", COUNT, "auto", CONNECTION, "TCP_KEEPCNT; counts only with user_timeout = infinity",
            LISTENER(keepalive_count), RANGE(1, 127), .flags = KEY_AUTO),
        KEY("user_timeout", SPAN, "auto", CONNECTION, "TCP_USER_TIMEOUT; auto: half of detect_within",
            LISTENER(user_timeout), RANGE(USEC_PER_MSEC, MAX_USER_TIME), .flags = KEY_AUTO | KEY_INFINITY),
        KEY("max_age", SPAN, "infinity", CONNECTION, "a connection is ended after so long", LISTENER(max_age), TIMEOUT),
        KEY("receive_buffer", SIZE, "", CONNECTION, "SO_RCVBUF; empty: the kernel's",
            LISTENER(receive_buffer), RANGE(1, MAX_BUFFER)),
        KEY("send_buffer", SIZE, "", CONNECTION, "SO_SNDBUF; empty: the kernel's",
            LISTENER(send_buffer), RANGE(1, MAX_BUFFER)),

        KEY("type", WORD, "", CONNECTION, "what it is", RESOURCE(kind), .words = types),
        KEY("path", PATH, "", CONNECTION, "the directory", RESOURCE(path), .kinds = KIND_DIRECTORY),
        KEY("mode", MODE, "0700", CONNECTION, "of the directory",
            RESOURCE(mode), RANGE(0, 07777), .kinds = KIND_DIRECTORY),
        KEY("unit", UNIT, "", CONNECTION, "the unit", RESOURCE(unit), .kinds = KIND_UNIT),
        KEY("mode", WORD, "replace", CONNECTION, "how its jobs are queued",
            RESOURCE(job_mode), .words = job_modes, .kinds = KIND_UNIT),
        KEY("items", ITEMS, "", RELOAD, "what is in the pool", RESOURCE(items), .kinds = KIND_POOL),
        KEY("when_empty", WORD, "reject", CONNECTION, "whether to wait for an item",
            RESOURCE(when_empty), .words = when_emptys, .kinds = KIND_POOL),
        KEY("wait_timeout", SPAN, "30s", CONNECTION, "how long to wait for an item",
            RESOURCE(wait_timeout), TIMEOUT, .kinds = KIND_POOL),
        KEY("load", COMMAND, "", CONNECTION, "the command that loads", RESOURCE(load), .kinds = KIND_EXEC),
        KEY("release", COMMAND, "", CONNECTION, "the command that releases", RESOURCE(release), .kinds = KIND_EXEC),
        KEY("command", COMMAND, "", CONNECTION, "the program",
            RESOURCE(command), .kinds = KIND_PROCESS | KIND_HELPER),
        KEY("socket", WORD, "none", CONNECTION, "whether the program gets the connection",
            RESOURCE(socket), .words = sockets, .kinds = KIND_PROCESS),
        KEY("on_exit", WORD, "close", CONNECTION, "what becomes of the connection when it ends",
            RESOURCE(on_exit), .words = on_exits, .kinds = KIND_PROCESS | KIND_UNIT),
        KEY("user", USER, "", CONNECTION, "owner of the directory, or user of the command",
            RESOURCE(user), .kinds = KIND_DIRECTORY | COMMANDS),
        KEY("group", GROUP, "", CONNECTION, "likewise; by default the user's login group",
            RESOURCE(group), .kinds = KIND_DIRECTORY | COMMANDS),
        KEY("environment", ENVIRONMENT, "", CONNECTION, "NAME=value, added to that of the command",
            RESOURCE(environment), .kinds = COMMANDS | KIND_HELPER),
        KEY("working_directory", FOLDER, "/", CONNECTION, "where the command runs",
            RESOURCE(working_directory), .kinds = COMMANDS),
        KEY("on_load_failure", WORD, "nothing", CONNECTION, "whether a load that says it failed is released",
            RESOURCE(on_load_failure), .words = load_failures, .kinds = SAYING),
        KEY("persistent", BOOLEAN, "no", CONNECTION, "whether what was loaded outlives a reboot", RESOURCE(persistent)),
        KEY("load_timeout", SPAN, "30s", CONNECTION, "of a load, from its start", RESOURCE(load_timeout), TIMEOUT),
        KEY("release_timeout", SPAN, "30s", CONNECTION, "of a release, from its start",
            RESOURCE(release_timeout), TIMEOUT),
        KEY("queue_timeout", SPAN, "infinity", CONNECTION, "how long a load may wait for its turn",
            RESOURCE(queue_timeout), TIMEOUT),
        KEY("release_attempts", COUNT, "3", CONNECTION, "after so many it is quarantined",
            RESOURCE(release_attempts), RANGE(1, 16)),
        KEY("max_concurrent", COUNT, "16", RELOAD, "loads and releases under way at once",
            RESOURCE(max_concurrent), RANGE(1, 65535)),
};
/* clang-format on */
const size_t n_keys = ARRAY_SIZE(keys);

const struct key *key_find(enum section_kind section, const char *name, unsigned kinds)
{
        const struct key *other = NULL;

        for (size_t i = 0; i < n_keys; i++)
                if (keys[i].section == section && streq(keys[i].name, name)) {
                        if (key_belongs(&keys[i], kinds))
                                return &keys[i];
                        other = &keys[i];
                }
        return other;
}

const struct key_word *key_find_word(const struct key *key, const char *text)
{
        for (const struct key_word *word = key->words; word->name; word++) {
                size_t length = strlen(word->name);
                if (word->name[length - 1] == ':' ? strncmp(text, word->name, length) == 0
                                                  : streq(text, word->name))
                        return word;
        }
        return NULL;
}

/*
 * The order of the start: what can fail without anybody noticing comes first (limits, directories, locks,
 * sockets), then the leases of an earlier run are released while clients wait in the backlog, and only then
 * is anything accepted. The order of the end is the reverse, and every wait in it has a bound.
 */
#include "daemon/daemon.h"
#include "daemon/reload.h"
#include "loop/child.h"
#include "service/ids.h"
#include "service/lock.h"
#include "service/notify.h"
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <systemd/sd-event.h>

#define DESCRIPTORS_RESERVED    64 /* for everything that is neither a connection nor a command */
#define DESCRIPTORS_PER_COMMAND 6  /* two pipes, a pidfd, /dev/null */
#define JOURNAL_RETRY_USEC      (1 * USEC_PER_SEC)
#define STATUS_USEC             (1 * USEC_PER_SEC)
#define READY_RETRY_USEC        (100 * USEC_PER_MSEC)

static void daemon_hup(struct daemon *daemon);

static const int handled_signals[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1 };

static uint64_t now(const struct daemon *daemon)
{
        return loop_now(daemon->loop);
}

static void daemon_arm(struct daemon *daemon, struct timer *timer, uint64_t span_usec)
{
        timer_arm(loop_wheel(daemon->loop), timer, deadline_after(now(daemon), span_usec));
}

/* A fault of the start goes to where the person who started it looks. */
_printf_(1, 2) static void say_fault(const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        (void)fputs(getenv("JOURNAL_STREAM") ? "<3>" : "tetherd: ", stderr);
        (void)vfprintf(stderr, format, arguments);
        (void)fputc('\n', stderr);
        va_end(arguments);
}

/* ---- the journal: flushed at the end of each turn, waited for while it is slow ---- */

static void daemon_flush_journal(struct daemon *daemon)
{
        int r = journal_flush(daemon->journal), fd = journal_fd(daemon->journal);

        if (fd != daemon->journal_source.fd) {
                source_deinit(&daemon->journal_source, daemon->loop);
                if (fd >= 0)
                        (void)source_init(&daemon->journal_source, daemon->loop, fd, EPOLLOUT, 0,
                                          daemon->journal_source.ready);
        }
        if (r == 0)
                return;
        source_clear(&daemon->journal_source, EPOLLOUT);
        source_want(&daemon->journal_source, daemon->loop, EPOLLOUT);
        daemon_arm(daemon, &daemon->journal_timer, JOURNAL_RETRY_USEC);
}

static void daemon_journal_ready(struct source *source)
{
        /* The end of this turn flushes. */
        source_clear(source, EPOLLOUT);
}

static void daemon_journal_timer(struct timer *timer _unused_)
{
        /* Likewise. */
}

static void daemon_limit_timer(struct timer *timer)
{
        struct daemon *daemon = container_of(timer, struct daemon, limit_timer);

        timer_arm(loop_wheel(daemon->loop), timer, events_tick(daemon->journal, now(daemon)));
}

/* ---- what the service manager sees ---- */

static void daemon_status_timer(struct timer *timer)
{
        struct daemon *daemon = container_of(timer, struct daemon, status_timer);
        const struct connections *connections = &daemon->connections;
        const size_t *n_in = connections->n_in_state;

        daemon->status_shown[0] = connections->n_accepted;
        daemon->status_shown[1] = connections->n_connections;
        (void)notify_status("%zu connections (%zu ready, %zu loading, %zu releasing), %" PRIu64
                            " since the start, %zu resources quarantined",
                            connections->n_connections, n_in[CONNECTION_READY] + n_in[CONNECTION_HALF_CLOSED],
                            n_in[CONNECTION_LOADING], n_in[CONNECTION_RELEASING], connections->n_accepted,
                            daemon->leases.n_quarantined);
}

/* Until it is told, the manager takes us for starting or reloading: it must hear it, however busy it is. */
static void daemon_ready_timer(struct timer *timer)
{
        struct daemon *daemon = container_of(timer, struct daemon, ready_timer);
        int r = notify_ready(NULL);

        if (r == -EAGAIN || errno_is_exhaustion(-r))
                daemon_arm(daemon, timer, READY_RETRY_USEC);
}

static void daemon_watchdog_timer(struct timer *timer)
{
        struct daemon *daemon = container_of(timer, struct daemon, watchdog_timer);

        (void)notify_watchdog();
        daemon_arm(daemon, timer, daemon->watchdog_usec / 2);
}

static void daemon_end_of_turn(void *userdata)
{
        struct daemon *daemon = userdata;
        struct connections *connections = &daemon->connections;

        if (daemon->has_manager && !timer_is_armed(&daemon->status_timer) &&
            (daemon->status_shown[0] != connections->n_accepted ||
             daemon->status_shown[1] != connections->n_connections))
                daemon_arm(daemon, &daemon->status_timer, STATUS_USEC);
        if (!timer_is_armed(&daemon->limit_timer))
                timer_arm(loop_wheel(daemon->loop), &daemon->limit_timer,
                          events_tick(daemon->journal, now(daemon)));
        daemon_flush_journal(daemon);
}

/* ---- draining ---- */

static void daemon_exit(struct daemon *daemon, size_t n_left)
{
        if (n_left > 0)
                log_message(daemon->journal, LOG_ERR,
                            "%zu leases were not released, they are left for the next start", n_left);
        loop_exit(daemon->loop, n_left > 0 ? EXIT_RUNTIME : EXIT_OK);
}

static void daemon_check_drained(struct daemon *daemon)
{
        if (daemon->state != DAEMON_DRAINING || daemon->connections.n_connections > 0 ||
            daemon->n_recovering > 0)
                return;
        daemon_exit(daemon, leases_abandon(&daemon->leases)); /* quarantined ones */
}

static void daemon_give_up(struct daemon *daemon)
{
        size_t n_left = daemon->leases.n_leases;

        connections_abandon_all(&daemon->connections);
        (void)leases_abandon(&daemon->leases);
        daemon_exit(daemon, n_left);
}

static void daemon_drain_timer(struct timer *timer)
{
        daemon_give_up(container_of(timer, struct daemon, drain_timer));
}

static void daemon_drop_plans(struct daemon *daemon)
{
        reload_cancel(TAKE_PTR(daemon->plans), daemon->n_plans);
        daemon->n_plans = 0;
}

static void daemon_drain(struct daemon *daemon)
{
        if (daemon->state == DAEMON_DRAINING) { /* the second signal does not wait */
                daemon_give_up(daemon);
                return;
        }
        daemon->state = DAEMON_DRAINING;
        (void)notify_stopping();
        log_message(daemon->journal, LOG_INFO, "stopping: %zu connections to end",
                    daemon->connections.n_connections);
        daemon_drop_plans(daemon);
        listeners_close(&daemon->listeners);
        daemon_arm(daemon, &daemon->drain_timer, daemon->config->daemon.drain_timeout);
        connections_end_all(&daemon->connections);
        daemon_check_drained(daemon);
}

/* ---- recovering ---- */

static void daemon_serve(struct daemon *daemon)
{
        daemon->state = DAEMON_SERVING;
        listeners_commit(&daemon->listeners, daemon->plans, daemon->n_plans);
        free(TAKE_PTR(daemon->plans));
        log_message(daemon->journal, LOG_INFO,
                    "tetherd " TETHERD_VERSION " serves %zu listener%s, at most %" PRIu64 " connections",
                    daemon->n_plans, daemon->n_plans == 1 ? "" : "s", daemon->connections.n_max);
        daemon->n_plans = 0;
        daemon_ready_timer(&daemon->ready_timer);
        if (daemon->is_reload_due)
                daemon_hup(daemon);
}

static void recovered_is_settled(struct lease *lease, void *userdata)
{
        struct daemon *daemon = userdata;
        struct event_connection facts;

        lease_event_connection(lease, &facts);
        lease->ending.release_usec = now(daemon) - daemon->started_usec;
        event_recovered(daemon->journal, &facts, "released");
        event_closed(daemon->journal, &facts, &lease->ending);
        lease_free(lease);
        daemon->n_recovering--;
        if (daemon->n_recovering == 0 && daemon->state == DAEMON_RECOVERING)
                daemon_serve(daemon);
        daemon_check_drained(daemon);
}

static void daemon_recover_lease(struct lease *lease, void *userdata)
{
        static const struct lease_callbacks callbacks = { .settled = recovered_is_settled };
        struct daemon *daemon = userdata;

        lease_set_callbacks(lease, &callbacks, daemon);
        daemon->n_recovering++;
}

static void daemon_release_recovered(struct daemon *daemon)
{
        const struct event_ending ending = {
                .cause = cause_name(CAUSE_ORPHANED),
                .initiator = cause_initiator(CAUSE_ORPHANED),
                .operation = operation_name(OPERATION_NONE),
                .state = connection_state_name(CONNECTION_READY),
                .sentence = cause_sentence(CAUSE_ORPHANED),
                .priority = LOG_NOTICE,
                .handshake_usec = USEC_INFINITY,
                .load_usec = USEC_INFINITY,
                .last_receive_usec = USEC_INFINITY,
        };
        struct list restored = LIST_INIT(restored);

        /* Counted already, so that the first that is settled does not pass for the last. */
        list_splice(&restored, &daemon->leases.all);
        for (struct list *node; (node = list_take_first(&restored));) {
                struct lease *lease = container_of(node, struct lease, link);
                struct event_ending own = ending;

                own.duration_usec = clock_usec(CLOCK_BOOTTIME) - lease->born_usec;
                list_append(&daemon->leases.all, node);
                lease_release(lease, &own);
        }
}

/* ---- reloading ---- */

static struct log_options daemon_log_options(const struct daemon *daemon, const struct config *config)
{
        struct log_options options = config->daemon.log;

        if (daemon->log_target)
                options.target = *daemon->log_target;
        return options;
}

static void daemon_set_log(struct daemon *daemon, const struct config *config)
{
        struct log_options options = daemon_log_options(daemon, config);
        int r;

        source_deinit(&daemon->journal_source, daemon->loop); /* its descriptor may be closed in there */
        r = journal_set_options(daemon->journal, &options);
        if (r < 0)
                log_message(daemon->journal, LOG_WARNING, "the log's options stay as they were: %s",
                            strerror(-r));
}

/* How many connections the descriptor limit allows; it is a fault if the configuration asks for more. */
static int daemon_max_connections(const struct daemon *daemon, const struct config *config, uint64_t *ret_max,
                                  char **ret_fault)
{
        uint64_t reserved = DESCRIPTORS_RESERVED, wanted = config->daemon.max_connections, most;
        char where[CONFIG_WHERE_MAX];

        for (size_t i = 0; i < config->n_resources; i++)
                if (resource_type_of(config->resources[i]->kind)->is_queued)
                        reserved += (uint64_t)config->resources[i]->max_concurrent * DESCRIPTORS_PER_COMMAND;
        most = daemon->n_descriptors - MIN(reserved, daemon->n_descriptors / 2);
        if (wanted <= most) {
                *ret_max = wanted == 0 ? most : wanted;
                return 0;
        }
        if (asprintf(ret_fault, "%s: does not fit: the descriptor limit of %" PRIu64 " allows %" PRIu64,
                     config_where(config, "daemon", "max_connections", where), daemon->n_descriptors,
                     most) < 0)
                return -ENOMEM;
        return -EMFILE;
}

static int daemon_apply(struct daemon *daemon, struct config *config, char **ret_fault)
{
        struct listener_plan **plans;
        size_t n_plans;
        uint64_t n_max;
        int r;

        r = daemon_max_connections(daemon, config, &n_max, ret_fault);
        if (r == 0)
                r = leases_configure(&daemon->leases, config);
        if (r == 0)
                r = reload_prepare(&daemon->listeners, config, &plans, &n_plans, ret_fault);
        if (r < 0)
                return r;

        /* From here on nothing can fail. */
        daemon->connections.n_max = n_max;
        listeners_commit(&daemon->listeners, plans, n_plans);
        free(plans);
        config_unref(daemon->config);
        daemon->config = config_ref(config);
        daemon_set_log(daemon, config);
        return 0;
}

static int daemon_reload(struct daemon *daemon, char **ret_fault)
{
        _cleanup_(config_unrefp) struct config *config = NULL;
        _cleanup_strv_free_ char **faults = NULL;
        const char *key;
        int r;

        r = config_load(daemon->config_path, &config, &faults);
        if (r == CONFIG_E_INVALID) {
                for (char **fault = faults; *fault; fault++)
                        log_message(daemon->journal, LOG_ERR, "%s", *fault);
                if (asprintf(ret_fault, "%s", faults[0]) < 0)
                        return -ENOMEM;
                return -EINVAL;
        }
        if (r < 0)
                return r;
        key = config_needs_restart(daemon->config, config);
        if (key) {
                char where[CONFIG_WHERE_MAX];

                if (asprintf(ret_fault, "%s: needs a restart", config_where(config, "daemon", key, where)) <
                    0)
                        return -ENOMEM;
                return -EINVAL;
        }
        return daemon_apply(daemon, config, ret_fault);
}

static void daemon_hup(struct daemon *daemon)
{
        _cleanup_free_ char *fault = NULL;
        int r;

        if (daemon->state != DAEMON_SERVING) {
                daemon->is_reload_due = true; /* once it serves */
                return;
        }
        (void)notify_reloading();
        r = daemon_reload(daemon, &fault);
        if (r < 0)
                event_reload_failed(daemon->journal, daemon->config_path, fault ? fault : strerror(-r));
        else
                event_reloaded(daemon->journal, daemon->config_path);
        leases_retry(&daemon->leases);
        daemon_ready_timer(&daemon->ready_timer);
}

/* ---- signals ---- */

static void daemon_summary(struct daemon *daemon)
{
        const struct connections *connections = &daemon->connections;
        const size_t *n_in = connections->n_in_state;
        struct journal *journal = daemon->journal;

        log_message(journal, LOG_NOTICE,
                    "summary: %zu of at most %" PRIu64
                    " connections (%zu in handshake, %zu loading, %zu ready, "
                    "%zu half closed, %zu releasing), %" PRIu64 " since the start",
                    connections->n_connections, connections->n_max, n_in[CONNECTION_HANDSHAKE],
                    n_in[CONNECTION_LOADING], n_in[CONNECTION_READY], n_in[CONNECTION_HALF_CLOSED],
                    n_in[CONNECTION_RELEASING], connections->n_accepted);
        list_for_each (node, &daemon->listeners.all) {
                const struct listener *listener = container_of(node, struct listener, link);

                log_message(journal, LOG_NOTICE,
                            "summary: listener %s: %zu connections, %" PRIu64 " since the start%s",
                            listener->config->name, listener->n_connections, listener->n_accepted,
                            listener->is_gone     ? ", removed"
                            : listener->is_paused ? ", accepting is paused"
                                                  : "");
        }
        list_for_each (node, &daemon->leases.queues) {
                const struct queue *queue = container_of(node, struct queue, link);
                size_t n_releases = 0, n_loads = 0;

                list_for_each (claim, &queue->releases)
                        n_releases++;
                list_for_each (claim, &queue->loads)
                        n_loads++;
                log_message(journal, LOG_NOTICE,
                            "summary: resource %s: %u of at most %u commands under way, %zu releases and %zu "
                            "loads wait",
                            queue->name, queue->n_under_way, queue->n_max, n_releases, n_loads);
        }
        log_message(journal, LOG_NOTICE,
                    "summary: %zu leases, %zu resources quarantined; journal: %zu records wait, %" PRIu64
                    " dropped",
                    daemon->leases.n_leases, daemon->leases.n_quarantined, journal_n_staged(journal),
                    journal_n_dropped(journal));
}

static int daemon_signal(sd_event_source *source _unused_, const struct signalfd_siginfo *info,
                         void *userdata)
{
        struct daemon *daemon = userdata;

        switch (info->ssi_signo) {
        case SIGTERM:
        case SIGINT:
                daemon_drain(daemon);
                break;
        case SIGHUP:
                daemon_hup(daemon);
                break;
        default:
                daemon_summary(daemon);
        }
        return 0;
}

static void daemon_connection_freed(void *userdata)
{
        struct daemon *daemon = userdata;

        listeners_resume(&daemon->listeners);
        daemon_check_drained(daemon);
}

/* ---- start and end ---- */

static int daemon_lock(const struct config *config, const char *key, const char *path, int *ret_fd)
{
        char where[CONFIG_WHERE_MAX];
        pid_t holder = 0;
        int r = lock_directory(path, ret_fd, &holder);

        if (r == LOCK_E_HELD)
                say_fault("%s: is locked by another tetherd, pid %d",
                          config_where(config, "daemon", key, where), holder);
        else if (r < 0)
                say_fault("%s: %s", config_where(config, "daemon", key, where), strerror(-r));
        return r == LOCK_E_HELD ? -EBUSY : r;
}

static int daemon_raise_limits(struct daemon *daemon)
{
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                return -errno;
        child_keep_limits();
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
                return -errno;
        daemon->n_descriptors = limit.rlim_cur;
        return 0;
}

static int daemon_catch_signals(struct daemon *daemon)
{
        sigset_t blocked;

        (void)signal(SIGPIPE, SIG_IGN);
        (void)sigemptyset(&blocked);
        (void)sigaddset(&blocked, SIGCHLD); /* sd_event_add_child(3) asks for it */
        for (size_t i = 0; i < ARRAY_SIZE(handled_signals); i++)
                (void)sigaddset(&blocked, handled_signals[i]);
        if (sigprocmask(SIG_BLOCK, &blocked, NULL) < 0)
                return -errno;
        for (size_t i = 0; i < ARRAY_SIZE(handled_signals); i++) {
                int r = sd_event_add_signal(loop_event(daemon->loop), NULL, handled_signals[i], daemon_signal,
                                            daemon);

                if (r < 0)
                        return r;
        }
        return 0;
}

static int daemon_open_directories(struct daemon *daemon)
{
        const struct daemon_config *keys = &daemon->config->daemon;
        char where[CONFIG_WHERE_MAX];
        int r;

        r = daemon_lock(daemon->config, "runtime_directory", keys->runtime_directory,
                        &daemon->runtime_lock_fd);
        if (r < 0)
                return r;
        if (!streq(keys->runtime_directory, keys->state_directory)) {
                r = daemon_lock(daemon->config, "state_directory", keys->state_directory,
                                &daemon->state_lock_fd);
                if (r < 0)
                        return r;
        }
        r = ids_reserve(keys->state_directory, &daemon->connections.next_id);
        if (r < 0) {
                say_fault("%s: next-id cannot be kept there: %s",
                          config_where(daemon->config, "daemon", "state_directory", where), strerror(-r));
                return r;
        }
        r = ledger_open(&daemon->ledger, keys->runtime_directory);
        if (r < 0) {
                say_fault("%s: the ledger cannot be kept there: %s",
                          config_where(daemon->config, "daemon", "runtime_directory", where), strerror(-r));
                return r;
        }
        daemon->leases.ledger = daemon->ledger;
        return 0;
}

static int daemon_open_listeners(struct daemon *daemon)
{
        _cleanup_free_ char *fault = NULL;
        int r;

        r = daemon_max_connections(daemon, daemon->config, &daemon->connections.n_max, &fault);
        if (r == 0)
                r = leases_configure(&daemon->leases, daemon->config);
        if (r == 0)
                r = reload_prepare(&daemon->listeners, daemon->config, &daemon->plans, &daemon->n_plans,
                                   &fault);
        if (r < 0)
                say_fault("%s", fault ? fault : strerror(-r));
        return r;
}

/* What needs no clean-up of its own on the way; daemon_deinit() takes any half-built daemon. */
static int daemon_init(struct daemon *daemon)
{
        struct log_options options = daemon_log_options(daemon, daemon->config);
        int r;

        daemon->runtime_lock_fd = daemon->state_lock_fd = -1;
        daemon->journal_source.fd = -1;
        daemon->journal_source.ready = daemon_journal_ready;
        timer_init(&daemon->journal_timer, daemon_journal_timer);
        timer_init(&daemon->limit_timer, daemon_limit_timer);
        timer_init(&daemon->drain_timer, daemon_drain_timer);
        timer_init(&daemon->watchdog_timer, daemon_watchdog_timer);
        timer_init(&daemon->status_timer, daemon_status_timer);
        timer_init(&daemon->ready_timer, daemon_ready_timer);
        daemon->has_manager = getenv("NOTIFY_SOCKET");
        daemon->watchdog_usec = notify_watchdog_usec();
        daemon->started_usec = clock_usec(CLOCK_MONOTONIC);

        r = journal_new(&daemon->journal, &options, NULL);
        if (r == 0)
                r = loop_new(&daemon->loop);
        leases_init(&daemon->leases, daemon->loop, daemon->journal, NULL);
        if (r == 0)
                r = connections_init(&daemon->connections, daemon->loop, daemon->journal, &daemon->leases);
        listeners_init(&daemon->listeners, &daemon->connections);
        if (r == 0)
                r = daemon_raise_limits(daemon);
        if (r == 0)
                r = daemon_catch_signals(daemon);
        if (r < 0) {
                say_fault("cannot start: %s", strerror(-r));
                return r;
        }
        daemon->connections.freed = daemon_connection_freed;
        daemon->connections.userdata = daemon;
        loop_set_turn_hook(daemon->loop, daemon_end_of_turn, daemon);
        return 0;
}

static void daemon_deinit(struct daemon *daemon)
{
        if (daemon->loop) {
                daemon->connections.freed = NULL;
                daemon_drop_plans(daemon);
                listeners_close(&daemon->listeners);
                connections_end_all(&daemon->connections);
                connections_abandon_all(&daemon->connections);
                (void)leases_abandon(&daemon->leases);
                (void)loop_turn(daemon->loop, 0); /* buries what was just ended */
                source_deinit(&daemon->journal_source, daemon->loop);
        }
        connections_deinit(&daemon->connections);
        listeners_deinit(&daemon->listeners);
        leases_deinit(&daemon->leases);
        timer_disarm(&daemon->journal_timer);
        timer_disarm(&daemon->limit_timer);
        timer_disarm(&daemon->drain_timer);
        timer_disarm(&daemon->watchdog_timer);
        timer_disarm(&daemon->status_timer);
        timer_disarm(&daemon->ready_timer);
        if (daemon->journal)
                (void)events_tick(daemon->journal, USEC_INFINITY);
        daemon->journal = journal_free(daemon->journal);
        daemon->ledger = ledger_free(daemon->ledger);
        daemon->loop = loop_free(daemon->loop);
        daemon->runtime_lock_fd = fd_close(daemon->runtime_lock_fd);
        daemon->state_lock_fd = fd_close(daemon->state_lock_fd);
        daemon->config = config_unref(daemon->config);
}

static int daemon_start(struct daemon *daemon)
{
        int r = daemon_init(daemon);

        if (r == 0)
                r = daemon_open_directories(daemon);
        if (r == 0)
                r = daemon_open_listeners(daemon);
        if (r < 0)
                return r;
        r = ledger_restore(daemon->ledger, &daemon->leases, daemon->journal, daemon_recover_lease, daemon);
        if (r < 0) {
                say_fault("the leases of the last run cannot be read: %s", strerror(-r));
                return r;
        }
        if (daemon->watchdog_usec != USEC_INFINITY)
                daemon_watchdog_timer(&daemon->watchdog_timer);
        if (daemon->config->daemon.preserve != PRESERVE_NO)
                log_message(daemon->journal, LOG_INFO,
                            "preserve: this version keeps no connections over a restart, "
                            "they end as at a stop");
        if (daemon->n_recovering == 0)
                daemon_serve(daemon);
        else
                daemon_release_recovered(daemon);
        return 0;
}

int daemon_run(const char *config_path, struct config *config, const enum log_target *log_target)
{
        struct daemon daemon = { .config_path = config_path, .config = config, .log_target = log_target };
        int r = daemon_start(&daemon);

        if (r == 0) {
                daemon_end_of_turn(&daemon); /* what the start said is not kept until something happens */
                r = loop_run(daemon.loop);
                if (r < 0)
                        log_message(daemon.journal, LOG_ERR, "the event loop failed: %s", strerror(-r));
        }
        daemon_deinit(&daemon);
        return r < 0 ? EXIT_RUNTIME : r;
}

/*
 * The order of the start: what can fail without anybody noticing comes first (limits, directories, locks,
 * sockets), then the leases of an earlier run are released while clients wait in the backlog, and only then
 * is anything accepted. The order of the end is the reverse, and every wait in it has a bound.
 */
#include "daemon/daemon.h"
#include "daemon/recover.h"
#include "daemon/reload.h"
#include "daemon/stop.h"
#include "daemon/summary.h"
#include "journal/sink.h"
#include "loop/child.h"
#include "loop/slice.h"
#include "service/fds.h"
#include "service/ids.h"
#include "service/lock.h"
#include "service/unit.h"
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <systemd/sd-event.h>

#define JOURNAL_RETRY_USEC (1 * USEC_PER_SEC)

static const int handled_signals[] = { SIGTERM, SIGINT, SIGHUP, SIGUSR1 };

uint64_t daemon_now(const struct daemon *daemon)
{
        return loop_now(daemon->loop);
}

void daemon_arm(struct daemon *daemon, struct timer *timer, uint64_t span_usec)
{
        timer_arm(loop_wheel(daemon->loop), timer, deadline_after(daemon_now(daemon), span_usec));
}

void say_fault(const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        (void)fputs(stderr_is_journal_stream() ? "<3>" : "tetherd: ", stderr);
        (void)vfprintf(stderr, format, arguments);
        (void)fputc('\n', stderr);
        va_end(arguments);
}

/* ---- the journal: flushed at the end of a turn, not of each, and waited for while it is slow ---- */

/*
 * Its socket is in the loop only while journald is slow: else each record that it reads would wake us; and while it is
 * gone, each look for its successor, at once and for ever.
 */
static void daemon_flush_journal(struct daemon *daemon)
{
        int r = journal_flush(daemon->journal), fd = journal_fd(daemon->journal);

        if (r != -EAGAIN || fd != daemon->journal_source.fd)
                source_deinit(&daemon->journal_source, daemon->loop);
        if (r == 0)
                return;
        if (r == -EAGAIN && daemon->journal_source.fd < 0)
                (void)source_init(&daemon->journal_source, daemon->loop, fd, EPOLLOUT, EPOLLOUT,
                                  daemon->journal_source.ready);
        daemon_arm(daemon, &daemon->journal_timer, JOURNAL_RETRY_USEC);
}

static void daemon_journal_ready(struct source *source)
{
        struct daemon *daemon = container_of(source, struct daemon, journal_source);

        /* The end of this turn flushes. */
        source_clear(source, EPOLLOUT);
        timer_disarm(&daemon->journal_timer);
}

static void daemon_journal_timer(struct timer *timer _unused_)
{
        /* Likewise. */
}

static void daemon_limit_timer(struct timer *timer)
{
        struct daemon *daemon = container_of(timer, struct daemon, limit_timer);

        timer_arm(loop_wheel(daemon->loop), timer, events_tick(daemon->journal, daemon_now(daemon)));
}

/* Returns until when the next turn may wait. */
static uint64_t daemon_say(struct daemon *daemon)
{
        uint64_t until_usec;

        if (timer_is_armed(&daemon->journal_timer))
                return USEC_INFINITY; /* who is slow or gone is not told at every turn that there is more */
        until_usec = pace_wait(&daemon->pace, daemon_now(daemon), journal_n_staged(daemon->journal));
        if (until_usec == USEC_INFINITY)
                daemon_flush_journal(daemon);
        return until_usec;
}

static uint64_t daemon_end_of_turn(void *userdata)
{
        struct daemon *daemon = userdata;

        report_tick(&daemon->report);
        if (!timer_is_armed(&daemon->limit_timer))
                timer_arm(loop_wheel(daemon->loop), &daemon->limit_timer,
                          events_tick(daemon->journal, daemon_now(daemon)));
        preserve_tick(&daemon->preserve);
        if (daemon->is_check_due) {
                daemon->is_check_due = false;
                stop_check(daemon);
        }
        return daemon_say(daemon);
}

/* ---- signals ---- */

static int daemon_signal(sd_event_source *source _unused_, const struct signalfd_siginfo *info,
                         void *userdata)
{
        struct daemon *daemon = userdata;

        switch (info->ssi_signo) {
        case SIGTERM:
                stop_by_sigterm(daemon);
                break;
        case SIGINT:
                stop_by_sigint(daemon);
                break;
        case SIGHUP:
                reload(daemon);
                break;
        default:
                summary_write(daemon);
        }
        return 0;
}

static void daemon_connection_ready(struct connection *connection, void *userdata)
{
        struct daemon *daemon = userdata;

        preserve_append(&daemon->preserve, connection);
}

/* Of what leases share or release. Whoever says so is still at work on it: the end of the turn looks. */
static void daemon_something_ended(void *userdata)
{
        struct daemon *daemon = userdata;

        daemon->is_check_due = true;
}

static void daemon_connection_freed(void *userdata)
{
        struct daemon *daemon = userdata;

        listeners_resume(&daemon->listeners);
        stop_check(daemon);
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
        slice_shorten();
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
        /* Whoever started us may have had it ignored: children would be reaped unseen. */
        (void)signal(SIGCHLD, SIG_DFL);
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
        r = ledger_open(&daemon->ledger, daemon->loop, keys->runtime_directory, keys->state_directory);
        if (r < 0) {
                say_fault("the ledger cannot be kept in %s and %s: %s", keys->runtime_directory,
                          keys->state_directory, strerror(-r));
                return r;
        }
        daemon->leases.ledger = daemon->ledger;
        return 0;
}

/* Clients may queue from here on, while what an earlier run left is dealt with. */
static int daemon_open_listeners(struct daemon *daemon)
{
        _cleanup_free_ char *fault = NULL;
        int r;

        listeners_hold(&daemon->listeners);
        r = reload_apply(daemon, daemon->config, &fault);
        if (r < 0)
                say_fault("%s", fault ? fault : strerror(-r));
        /*
         * What we may not do, a plugin is not or our limits do not allow does not get better by trying again, as the
         * unit would otherwise.
         */
        return r == -EPERM || r == -EACCES || r == -ENOEXEC || r == -ERANGE ? EXIT_CONFIG : r;
}

/* What needs no clean-up of its own on the way; daemon_deinit() takes any half-built daemon. */
static int daemon_init(struct daemon *daemon)
{
        struct log_options options = reload_log_options(daemon, daemon->config);
        _cleanup_free_ char *instance = unit_instance();
        int r;

        daemon->runtime_lock_fd = daemon->state_lock_fd = -1;
        daemon->journal_source.fd = daemon->barrier.fd = -1;
        daemon->journal_source.ready = daemon_journal_ready;
        timer_init(&daemon->journal_timer, daemon_journal_timer);
        timer_init(&daemon->limit_timer, daemon_limit_timer);
        timer_init(&daemon->drain_timer, stop_timer);
        daemon->started_usec = clock_usec(CLOCK_MONOTONIC);

        r = journal_new(&daemon->journal, &options, instance, NULL);
        if (r == 0)
                r = loop_new(&daemon->loop);
        leases_init(&daemon->leases, daemon->loop, daemon->journal, NULL);
        if (r == 0)
                r = connections_init(&daemon->connections, daemon->loop, daemon->journal, &daemon->leases);
        listeners_init(&daemon->listeners, &daemon->connections);
        report_init(&daemon->report, daemon->loop, &daemon->connections, &daemon->leases);
        preserve_init(&daemon->preserve, &daemon->connections);
        manager_init(&daemon->manager, daemon->loop);
        if (r == 0)
                r = listeners_receive(&daemon->listeners, daemon->fds);
        if (r == 0)
                r = daemon_raise_limits(daemon);
        if (r == 0)
                r = daemon_catch_signals(daemon);
        if (r < 0) {
                say_fault("cannot start: %s", strerror(-r));
                return r;
        }
        daemon->connections.ready = daemon_connection_ready;
        daemon->connections.freed = daemon_connection_freed;
        daemon->connections.userdata = daemon;
        daemon->leases.ended = daemon_something_ended;
        daemon->leases.userdata = daemon;
        loop_set_turn_hook(daemon->loop, daemon_end_of_turn, daemon);
        return 0;
}

static void daemon_deinit(struct daemon *daemon)
{
        if (daemon->loop) {
                daemon->connections.freed = NULL;
                listeners_close(&daemon->listeners);
                connections_end_all(&daemon->connections);
                connections_abandon_all(&daemon->connections);
                (void)leases_abandon(&daemon->leases);
                (void)loop_turn(daemon->loop, 0); /* buries what was just ended */
                source_deinit(&daemon->journal_source, daemon->loop);
                source_deinit(&daemon->barrier, daemon->loop);
        }
        daemon->barrier.fd = fd_close(daemon->barrier.fd);
        manager_deinit(&daemon->manager);
        preserve_deinit(&daemon->preserve);
        connections_deinit(&daemon->connections);
        listeners_deinit(&daemon->listeners);
        leases_deinit(&daemon->leases);
        timer_disarm(&daemon->journal_timer);
        timer_disarm(&daemon->limit_timer);
        timer_disarm(&daemon->drain_timer);
        report_deinit(&daemon->report);
        if (daemon->journal)
                (void)events_tick(daemon->journal, USEC_INFINITY);
        daemon->fds = fds_free(daemon->fds);
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
        if (r != 0)
                return r;
        report_starting(&daemon->report);
        return recover(daemon);
}

int daemon_run(const char *config_path, struct config *config, const enum log_target *log_target)
{
        struct daemon daemon = { .config_path = config_path, .config = config, .log_target = log_target };
        int r = fds_receive(&daemon.fds); /* before we open any of our own */

        if (r < 0) {
                say_fault("what LISTEN_FDS hands over cannot be taken: %s", strerror(-r));
                (void)config_unref(config);
                return EXIT_RUNTIME;
        }
        r = daemon_start(&daemon);
        if (r == 0) {
                r = loop_run(daemon.loop);
                if (r < 0)
                        log_message(daemon.journal, LOG_ERR, "the event loop failed: %s", strerror(-r));
        }
        daemon_deinit(&daemon);
        return r < 0 ? EXIT_RUNTIME : r;
}

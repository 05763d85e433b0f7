/*
 * Every way out. A stop drains: everything ends and is released. A restart that ends nobody hands over what is ready
 * when the rest is settled, and leaves when the manager has read it: it would take an earlier end for a crash. Every
 * wait has a bound; at drain_timeout, and at a second signal, what still runs is killed and left to the next start.
 */
#include "daemon/stop.h"
#include "service/fds.h"
#include <inttypes.h>
#include <stdio.h>

#define LEAVE_RETRY_USEC (100 * USEC_PER_MSEC)
#define LEAVE_USEC       (5 * USEC_PER_SEC) /* for the manager to read what was handed over */
/* What the manager must be ready to keep: service/store.h, daemon/preserve.c. */
#define STORE_MIN_RESTART 8
#define STORE_MIN_ALWAYS  256

/* ---- draining ---- */

static void leave_loop(struct daemon *daemon, size_t n_left)
{
        if (n_left > 0)
                log_message(daemon->journal, LOG_ERR,
                            "%zu leases were not released, they are left for the next start", n_left);
        loop_exit(daemon->loop, n_left > 0 ? EXIT_RUNTIME : EXIT_OK);
}

static void hand_over(struct daemon *daemon);
static void give_up(struct daemon *daemon);

/* All that the connections held is released; what served their resources ends now. */
static void leave_when_ended(struct daemon *daemon)
{
        if (leases_end(&daemon->leases))
                leave_loop(daemon, leases_abandon(&daemon->leases)); /* quarantined ones */
}

void stop_check(struct daemon *daemon)
{
        const struct connections *connections = &daemon->connections;

        if (daemon->n_recovering > 0)
                return;
        /*
         * Not only connections release: so do quarantined leases that are tried again. But once the manager has read
         * what was handed over, the time of all of them is over.
         */
        if (daemon->leases.n_releasing > 0 && daemon->state != DAEMON_LEFT)
                return;
        if (daemon->state == DAEMON_DRAINING && connections->n_connections == 0)
                leave_when_ended(daemon);
        else if (daemon->state == DAEMON_LEFT && leases_end(&daemon->leases))
                give_up(daemon);
        else if (daemon->state == DAEMON_HANDING_OVER &&
                 connections->n_connections == preserve_n_ready(connections))
                hand_over(daemon);
}

static void give_up(struct daemon *daemon)
{
        connections_end_all(&daemon->connections);

        size_t n_left = daemon->leases.n_leases;

        connections_abandon_all(&daemon->connections);
        (void)leases_abandon(&daemon->leases);
        leave_loop(daemon, n_left);
}

void stop_timer(struct timer *timer)
{
        struct daemon *daemon = container_of(timer, struct daemon, drain_timer);

        if (daemon->state == DAEMON_HANDING_OVER)
                hand_over(daemon);
        else
                give_up(daemon);
}

/* No new connections, and so long for those that are there. */
static void stop_accepting(struct daemon *daemon)
{
        manager_deinit(&daemon->manager);
        listeners_close(&daemon->listeners);
        daemon_arm(daemon, &daemon->drain_timer, daemon->config->daemon.drain_timeout);
        report_stopping(&daemon->report, deadline_after(daemon->drain_timer.deadline_usec, 2 * LEAVE_USEC));
}

static void drain(struct daemon *daemon)
{
        daemon->state = DAEMON_DRAINING;
        log_message(daemon->journal, LOG_INFO, "stopping: %zu connections to end",
                    daemon->connections.n_connections);
        stop_accepting(daemon);
        connections_end_all(&daemon->connections);
        stop_check(daemon);
}

/* ---- handing over ---- */

static void manager_has_read(struct source *source)
{
        struct daemon *daemon = container_of(source, struct daemon, barrier);

        source_want(source, daemon->loop, 0);
        daemon->state = DAEMON_LEFT;
        stop_check(daemon);
}

/* Until the manager has read it, it would take our end for a crash. */
static void await_manager(struct daemon *daemon)
{
        int fd = fds_barrier(), r = fd;

        if (fd >= 0)
                r = source_init(&daemon->barrier, daemon->loop, fd, 0, EPOLLHUP, manager_has_read);
        if (r < 0)
                (void)fd_close(fd);
        daemon_arm(daemon, &daemon->drain_timer, LEAVE_USEC);
}

static void hand_over(struct daemon *daemon)
{
        size_t n_ready = preserve_n_ready(&daemon->connections);
        int r = preserve_hand_over(&daemon->preserve);

        if (r == -EAGAIN && daemon_now(daemon) < daemon->leave_until_usec) {
                daemon_arm(daemon, &daemon->drain_timer, LEAVE_RETRY_USEC);
                return;
        }
        if (r < 0) {
                log_message(daemon->journal, LOG_ERR,
                            "%zu connections cannot be handed to the next process, they end: %s", n_ready,
                            strerror(-r));
                drain(daemon);
                return;
        }
        daemon->state = DAEMON_LEAVING;
        log_message(daemon->journal, LOG_INFO, "%zu connections are handed to the next process", n_ready);
        (void)leases_end(&daemon->leases); /* they need not wait for each other */
        await_manager(daemon);
}

static void begin_hand_over(struct daemon *daemon)
{
        daemon->state = DAEMON_HANDING_OVER;
        stop_accepting(daemon);
        daemon->leave_until_usec = deadline_after(
                deadline_after(daemon_now(daemon), daemon->config->daemon.drain_timeout), LEAVE_USEC);
        connections_end_early(&daemon->connections);
        stop_check(daemon);
}

static void job_is_known(struct manager *manager, int r)
{
        struct daemon *daemon = container_of(manager, struct daemon, manager);

        if (r == 0 && streq(manager->job_type, "restart"))
                begin_hand_over(daemon);
        else
                drain(daemon);
}

void stop_by_sigterm(struct daemon *daemon)
{
        if (daemon->state > DAEMON_SERVING) { /* the second signal does not wait */
                give_up(daemon);
        } else if (daemon->can_preserve) {
                daemon->state = DAEMON_ASKING;
                manager_ask_job(&daemon->manager, job_is_known);
        } else {
                drain(daemon);
        }
}

void stop_by_sigint(struct daemon *daemon)
{
        if (daemon->state > DAEMON_ASKING)
                give_up(daemon);
        else
                drain(daemon);
}

/* Without it, connections end as at a stop, which somebody who relies on it must be told. */
static void cannot_preserve(struct daemon *daemon, const char *why)
{
        daemon->can_preserve = false;
        preserve_end_log(&daemon->preserve);
        log_message(daemon->journal, LOG_NOTICE, "preserve: %s; connections end at a restart as at a stop",
                    why);
}

static void store_is_known(struct manager *manager, int r)
{
        struct daemon *daemon = container_of(manager, struct daemon, manager);
        unsigned n_min =
                daemon->config->daemon.preserve == PRESERVE_ALWAYS ? STORE_MIN_ALWAYS : STORE_MIN_RESTART;
        char why[128];

        if (r == 0 && manager->n_store_max >= n_min)
                return;
        if (r < 0)
                (void)snprintf(why, sizeof(why),
                               "systemd does not say over the bus what it would keep for us (%s)",
                               strerror(-r));
        else
                (void)snprintf(why, sizeof(why),
                               "the unit's FileDescriptorStoreMax= is %" PRIu32 ", at least %u are needed",
                               manager->n_store_max, n_min);
        cannot_preserve(daemon, why);
}

void stop_prepare(struct daemon *daemon)
{
        enum preserve_mode mode = daemon->config->daemon.preserve;
        int r = 0;

        if (mode == PRESERVE_NO)
                return;
        if (!daemon->report.has_manager) {
                cannot_preserve(daemon, "we are no service of systemd");
                return;
        }
        daemon->can_preserve = true;
        if (mode == PRESERVE_ALWAYS)
                r = preserve_begin_log(&daemon->preserve);
        if (r < 0)
                cannot_preserve(daemon, strerror(-r));
        else
                manager_ask_store(&daemon->manager, store_is_known);
}

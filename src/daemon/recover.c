/*
 * Nothing new is accepted before everything that is found here is taken up or released, in the order of the
 * connections' ids.
 */
#include "daemon/recover.h"
#include "daemon/reload.h"
#include "daemon/stop.h"
#include "service/fds.h"
#include <inttypes.h>

static void serve(struct daemon *daemon)
{
        size_t n_listeners = 0;

        list_for_each (node, &daemon->listeners.all)
                n_listeners++;
        daemon->state = DAEMON_SERVING;
        listeners_release(&daemon->listeners);
        log_message(daemon->journal, LOG_INFO,
                    "tetherd " TETHERD_VERSION " serves %zu listener%s, at most %" PRIu64 " connections",
                    n_listeners, n_listeners == 1 ? "" : "s", daemon->connections.n_max);
        listeners_say_spare(&daemon->listeners);
        report_ready(&daemon->report);
        if (daemon->is_reload_due)
                reload(daemon);
}

/* So many of what an earlier run left are dealt with. */
static void dealt_with(struct daemon *daemon, size_t n)
{
        daemon->n_recovering -= n;
        if (daemon->n_recovering > 0)
                return;
        if (daemon->state == DAEMON_RECOVERING)
                serve(daemon);
        stop_check(daemon);
}

static void recovered_is_settled(struct lease *lease, void *userdata)
{
        struct daemon *daemon = userdata;
        struct event_connection facts;

        lease_event_connection(lease, &facts);
        lease->ending.release_usec = daemon_now(daemon) - daemon->started_usec;
        if (!lease_is_quarantined(lease))
                event_recovered(daemon->journal, &facts, "released");
        event_closed(daemon->journal, &facts, &lease->ending);
        lease_free(lease);
        dealt_with(daemon, 1);
}

static void lease_is_found(struct lease *lease, void *userdata)
{
        static const struct lease_callbacks callbacks = { .settled = recovered_is_settled };
        struct daemon *daemon = userdata;

        lease_set_callbacks(lease, &callbacks, daemon);
        daemon->n_recovering++;
}

static void release_all(struct daemon *daemon)
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

        list_splice(&restored, &daemon->leases.all);
        for (struct list *node; (node = list_take_first(&restored));) {
                struct lease *lease = container_of(node, struct lease, link);
                struct event_ending own = ending;

                own.duration_usec =
                        lease->is_rebooted ? USEC_INFINITY : clock_usec(CLOCK_BOOTTIME) - lease->born_usec;
                list_append(&daemon->leases.all, node);
                if (lease->is_recovered && !lease->is_releasing)
                        lease_release(lease, &own);
        }
}

/* Everybody took what is his: the rest would only keep its peers waiting. */
static void close_rest(struct daemon *daemon)
{
        for (size_t i = 0; i < daemon->fds->n; i++)
                if (daemon->fds->items[i].fd >= 0)
                        log_message(daemon->journal, LOG_WARNING,
                                    "the descriptor %s, which was handed over at the start, is no listening "
                                    "stream socket: closed",
                                    daemon->fds->items[i].name);
        daemon->fds = fds_free(daemon->fds);
}

/* What an earlier run left: what lives is taken up, the rest released. One more is counted until all of it has begun. */
int recover(struct daemon *daemon)
{
        int r;

        daemon->n_recovering = 1;
        r = ledger_restore(daemon->ledger, &daemon->leases, daemon->journal, lease_is_found, daemon);
        if (r < 0) {
                say_fault("the leases of the last run cannot be read: %s", strerror(-r));
                return r;
        }
        loop_update_now(daemon->loop); /* or the first releases' time would have begun with the start */
        daemon->n_recovering -= preserve_take_up(&daemon->preserve, daemon->fds, &daemon->listeners);
        close_rest(daemon);
        stop_prepare(daemon);
        preserve_tell(&daemon->preserve); /* not before the log is begun: a crash in between loses nothing */
        loop_update_now(daemon->loop);
        release_all(daemon);
        dealt_with(daemon, 1);
        return 0;
}

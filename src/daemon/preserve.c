/*
 * Nothing is told to the manager before it is written, and nothing is removed there before its successor was told:
 * its messages are read in order. It deliberately does not ask whether the manager kept anything, for it does not
 * say (sd_pid_notify_with_fds(3)): daemon.c asks once, at the start, how much it would keep.
 */
#include "daemon/preserve.h"
#include "base/fields.h"
#include "connection/snapshot.h"
#include "service/fds.h"
#include "service/store.h"
#include <inttypes.h>

#define RETRY_USEC     (100 * USEC_PER_MSEC)
#define SAY_FAULT_USEC (5 * USEC_PER_SEC)
/* Dead entries that are not worth writing anew for; appended ones that are, for each is a message of its own. */
#define N_DEAD_MIN     1024
#define N_APPENDED_MAX 16384

static void preserve_retry(struct timer *timer);

void preserve_init(struct preserve *preserve, struct connections *connections)
{
        *preserve = (struct preserve){ .connections = connections };
        timer_init(&preserve->retry, preserve_retry);
}

void preserve_deinit(struct preserve *preserve)
{
        timer_disarm(&preserve->retry);
        preserve->log = store_free(preserve->log);
        free(TAKE_PTR(preserve->removals));
}

static uint64_t now(const struct preserve *preserve)
{
        return loop_now(preserve->connections->loop);
}

static bool is_for_later(int r)
{
        return r == -EAGAIN || errno_is_exhaustion(-r);
}

static void say_fault(struct preserve *preserve, int r)
{
        if (now(preserve) < preserve->next_fault_usec)
                return;
        preserve->next_fault_usec = now(preserve) + SAY_FAULT_USEC;
        log_message(preserve->connections->journal, LOG_WARNING,
                    "preserve = always: not every connection would outlive a crash now: %s", strerror(-r));
}

void preserve_tell(struct preserve *preserve)
{
        int r = preserve->log ? store_hand_over(preserve->log) : 0; /* first what is new */

        while (r == 0 && preserve->removals && preserve->removals[0]) {
                r = store_remove(preserve->removals[0]);
                if (r == 0 || !is_for_later(r)) {
                        size_t n = 0;

                        while (preserve->removals[n++]) /* the closing 0 moves along */
                                preserve->removals[n - 1] = preserve->removals[n];
                }
        }
        if (is_for_later(r))
                timer_arm(loop_wheel(preserve->connections->loop), &preserve->retry,
                          now(preserve) + RETRY_USEC);
        else if (r < 0 && r != -ENOTCONN)
                say_fault(preserve, r);
}

/* ---- writing ---- */

size_t preserve_n_ready(const struct connections *connections)
{
        return connections->n_in_state[CONNECTION_READY] + connections->n_in_state[CONNECTION_HALF_CLOSED];
}

static bool is_ready(const struct connection *c)
{
        return c->state == CONNECTION_READY || c->state == CONNECTION_HALF_CLOSED;
}

/* Everything that is ready, as the next generation, of which nobody knows yet. */
static int write_all(struct preserve *preserve, bool is_last, struct store **ret_store)
{
        _cleanup_(store_freep) struct store *store = NULL;
        int r = store_new(&store, ++preserve->generation);

        for (const struct connection *c = NULL; r == 0 && (c = connections_next(preserve->connections, c));) {
                if (!is_ready(c) || !connection_outlives_us(c))
                        continue;
                snapshot_write(c, is_last, store_record(store));
                r = store_add(store, c->fd);
        }
        if (r == 0)
                r = store_flush(store);
        if (r == 0)
                *ret_store = TAKE_PTR(store);
        return r;
}

static int add_removal(struct preserve *preserve, uint64_t generation)
{
        size_t n = 0;
        uint64_t *removals;

        while (preserve->removals && preserve->removals[n])
                n++;
        removals = reallocarray(preserve->removals, n + 2, sizeof(*removals));
        if (!removals)
                return -ENOMEM;
        removals[n] = generation;
        removals[n + 1] = 0;
        preserve->removals = removals;
        return 0;
}

/* Writes the log anew, without what is dead. */
static int preserve_renew(struct preserve *preserve)
{
        _cleanup_(store_freep) struct store *store = NULL;
        int r = write_all(preserve, false, &store);

        if (r == 0 && preserve->log)
                r = add_removal(preserve, store_generation(preserve->log));
        if (r < 0)
                return r;
        store_free(preserve->log);
        preserve->log = TAKE_PTR(store);
        preserve->n_written = store_n_entries(preserve->log);
        preserve_tell(preserve);
        return 0;
}

static void preserve_try_renew(struct preserve *preserve)
{
        int r = preserve_renew(preserve);

        preserve->is_broken = r < 0;
        if (r == 0)
                return;
        say_fault(preserve, r);
        timer_arm(loop_wheel(preserve->connections->loop), &preserve->retry, now(preserve) + SAY_FAULT_USEC);
}

void preserve_append(struct preserve *preserve, const struct connection *c)
{
        int r;

        if (!preserve->log || preserve->is_broken || !connection_outlives_us(c))
                return;
        snapshot_write(c, false, store_record(preserve->log));
        r = store_add(preserve->log, c->fd);
        if (r == 0)
                r = store_flush(preserve->log);
        if (r == 0)
                preserve_tell(preserve);
        else
                preserve_try_renew(preserve);
}

static void preserve_retry(struct timer *timer)
{
        struct preserve *preserve = container_of(timer, struct preserve, retry);

        if (preserve->is_broken)
                preserve_try_renew(preserve);
        else
                preserve_tell(preserve);
}

int preserve_begin_log(struct preserve *preserve)
{
        preserve->connections->are_stored = true;
        return preserve_renew(preserve);
}

void preserve_end_log(struct preserve *preserve)
{
        preserve->connections->are_stored = false;
        if (!preserve->log)
                return;
        (void)add_removal(preserve, store_generation(preserve->log));
        preserve->log = store_free(preserve->log);
        preserve_tell(preserve);
}

void preserve_tick(struct preserve *preserve)
{
        size_t n_entries, n_live = preserve_n_ready(preserve->connections);

        if (!preserve->log || preserve->is_broken)
                return;
        n_entries = store_n_entries(preserve->log);
        if (n_entries > n_live + MAX(n_live, (size_t)N_DEAD_MIN) ||
            n_entries > preserve->n_written + N_APPENDED_MAX)
                preserve_try_renew(preserve);
}

/* ---- the end ---- */

int preserve_hand_over(struct preserve *preserve)
{
        struct connections *connections = preserve->connections;
        _cleanup_(store_freep) struct store *store = NULL;
        int r = write_all(preserve, true, &store);

        if (r == 0)
                r = store_hand_over(store);
        if (r < 0)
                return r;
        /* The manager takes the highest generation for the one that counts, and the next start removes the others. */
        for (struct connection *c = NULL; (c = connections_next(connections, c));)
                if (is_ready(c))
                        connection_pass_on(c);
        return 0;
}

/* ---- the start ---- */

/* A lease that was restored. It may be gone once its connection was found: then only the id may be looked at. */
struct restored {
        uint64_t id;
        struct lease *lease;
};

struct taking {
        struct preserve *preserve;
        struct listeners *listeners;
        struct restored *leases; /* by id */
        size_t n_leases;
        size_t n_taken_up;
        size_t n_leases_taken;
        size_t n_ended;
        size_t n_lost;
};

static int compare_leases(const void *a, const void *b)
{
        uint64_t a_id = ((const struct restored *)a)->id, b_id = ((const struct restored *)b)->id;

        return a_id < b_id ? -1 : a_id > b_id;
}

/* NULL: there is none, or it was taken already. */
static struct lease *take_lease(const struct taking *taking, uint64_t id)
{
        const struct restored key = { .id = id };
        struct restored *found = bsearch(&key, taking->leases, taking->n_leases, sizeof(key), compare_leases);

        return found ? TAKE_PTR(found->lease) : NULL;
}

static int list_leases(struct taking *taking)
{
        const struct leases *leases = taking->preserve->connections->leases;

        taking->leases = calloc(leases->n_leases + 1, sizeof(*taking->leases));
        if (!taking->leases)
                return -ENOMEM;
        list_for_each (node, &leases->all) {
                struct lease *lease = container_of(node, struct lease, link);

                taking->leases[taking->n_leases++] =
                        (struct restored){ .id = lease->subject.id, .lease = lease };
        }
        qsort(taking->leases, taking->n_leases, sizeof(*taking->leases), compare_leases);
        return 0;
}

/* Its listener is gone. The lease reports for the connection when it is released, as its callbacks say. */
static void end_homeless(struct taking *taking, const struct connection *c, const struct snapshot *snapshot,
                         struct lease *lease)
{
        uint64_t now_usec = now(taking->preserve);
        const struct event_connection facts = {
                .id = c->id,
                .listener = snapshot->listener,
                .identity = c->identity,
                .remote = &c->remote,
                .local = &(struct address){ .family = AF_UNSPEC },
                .peer_pid = connection_peer_pid(c),
                .peer_uid = connection_peer_uid(c),
        };
        const struct event_ending ending = {
                .cause = cause_name(CAUSE_SHUTDOWN),
                .initiator = cause_initiator(CAUSE_SHUTDOWN),
                .operation = operation_name(cause_local(CAUSE_SHUTDOWN, 0).operation),
                .state = connection_state_name(CONNECTION_READY),
                .sentence = cause_sentence(CAUSE_SHUTDOWN),
                .priority = LOG_INFO,
                .duration_usec = now_usec - c->accepted_usec,
                .handshake_usec = connection_handshake_usec(c),
                .load_usec = connection_load_usec(c),
                .last_receive_usec = now_usec - MIN(c->received_usec, now_usec),
                .bytes_received = c->bytes_received,
                .bytes_sent = c->bytes_sent,
        };

        taking->n_ended++;
        if (lease) {
                lease->is_recovered = !snapshot->is_last;
                lease_release(lease, &ending);
        } else {
                event_closed(taking->preserve->connections->journal, &facts, &ending);
        }
}

static void take_up(struct taking *taking, int fd, struct connection *c, struct listener *listener,
                    struct lease *lease)
{
        taking->n_taken_up++;
        if (lease) {
                struct event_connection facts;

                taking->n_leases_taken++;
                lease_take_up(lease);
                lease_event_connection(lease, &facts);
                event_recovered(taking->preserve->connections->journal, &facts, "taken up");
        }
        connection_take_up(c, listener, fd, lease);
}

/* Whether it lives on. */
static bool is_taken_up(struct taking *taking, int fd, struct connection *c, char *const *fields)
{
        struct snapshot snapshot;
        struct listener *listener;
        struct lease *lease;

        if (snapshot_identify(fields, &snapshot) < 0 || snapshot_read(c, fields, fd) < 0) {
                taking->n_lost++;
                return false;
        }
        lease = take_lease(taking, snapshot.id);
        /* It was ending: what is left of its lease is released as any other. */
        if (snapshot.has_lease && (!lease || !lease_is_loaded(lease)))
                return false;
        listener = listener_find(taking->listeners, snapshot.listener);
        if (listener && listener->hosted)
                listener = NULL; /* a plugin is its handler now, which was never told of this connection */
        if (listener)
                take_up(taking, fd, c, listener, lease);
        else
                end_homeless(taking, c, &snapshot, lease);
        return listener;
}

static void connection_found(int fd, char *const *fields, void *userdata)
{
        struct taking *taking = userdata;
        struct connections *connections = taking->preserve->connections;
        struct connection *c = connection_new(connections);

        if (c && is_taken_up(taking, fd, c, fields))
                return;
        store_bury(fd);
        (void)fd_close(fd);
        if (c)
                snapshot_drop(connections, c);
        else
                taking->n_lost++;
}

size_t preserve_take_up(struct preserve *preserve, struct fds *fds, struct listeners *listeners)
{
        struct taking taking = { .preserve = preserve, .listeners = listeners };
        struct journal *journal = preserve->connections->journal;
        int r = list_leases(&taking);

        if (r == 0)
                r = store_restore(fds, connection_found, &taking, &preserve->generation, &preserve->removals);
        free(taking.leases);
        if (taking.n_taken_up + taking.n_ended > 0)
                log_message(
                        journal, LOG_INFO,
                        "%zu connections of the last process go on, %zu were ended: their listeners are gone",
                        taking.n_taken_up, taking.n_ended);
        if (r < 0 || taking.n_lost > 0)
                log_message(journal, LOG_ERR,
                            "not every connection of the last process could be taken up: %s",
                            r < 0 ? strerror(-r) : "its record cannot be understood");
        return taking.n_leases_taken;
}

/*
 * The order of things. Every completion, immediate or late, comes in through claim_loaded() and its three
 * sisters, which end in lease_step(): it looks at the claims and does the next thing, and it is always the
 * last call, because the receiver may free the lease in there.
 */
#include "resource/lease.h"
#include "base/span.h"
#include "loop/child.h"
#include "resource/ledger.h"
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>

#define RETRY_USEC (1 * USEC_PER_SEC)

static void lease_step(struct lease *lease);
static void claim_timer(struct timer *timer);

/* ---- claims ---- */

static struct journal *journal_of(const struct claim *claim)
{
        return claim->lease->leases->journal;
}

static uint64_t now(const struct claim *claim)
{
        return loop_now(claim_loop(claim));
}

static void claim_enter(struct claim *claim, enum claim_state state, uint64_t span_usec)
{
        claim->state = state;
        claim->state_usec = now(claim);
        timer_arm(loop_wheel(claim_loop(claim)), &claim->timer, deadline_after(claim->state_usec, span_usec));
}

static bool claim_can_wait(const struct claim *claim)
{
        return claim->state == CLAIM_LOAD_QUEUED || claim->state == CLAIM_INTENDED ||
               claim->state == CLAIM_LOADING || claim->state == CLAIM_RELEASE_QUEUED ||
               claim->state == CLAIM_RELEASING;
}

/* What is short for now, and is waited for, is told of when accepting pauses. */
static void claim_say_ledger(const struct claim *claim, const char *what, int error)
{
        if (errno_is_starvation(-error) && claim_can_wait(claim))
                return;
        log_message(journal_of(claim), LOG_WARNING, "connection %" PRIx64 ": the ledger cannot be %s: %s",
                    claim->lease->subject.id, what, strerror(-error));
}

int claim_note(struct claim *claim)
{
        struct ledger *ledger = claim->lease->leases->ledger;
        int r;

        if (!ledger || !claim->type->is_recorded)
                return 0;
        r = ledger_save(ledger, claim);
        if (r < 0)
                claim_say_ledger(claim, "written", r);
        return r;
}

int claim_save(struct claim *claim)
{
        claim->lease->kept_length = 0;
        return claim_note(claim);
}

/* An attempt came to nothing: it may be made again any number of times. */
static void claim_take_back(struct claim *claim)
{
        struct lease *lease = claim->lease;
        struct ledger *ledger = lease->leases->ledger;
        int r = ledger && lease->has_record ? ledger_take_back(ledger, lease) : 0;

        if (r < 0)
                claim_say_ledger(claim, "shortened", r);
}

int claim_note_anew(struct claim *claim)
{
        claim_take_back(claim);
        return claim_note(claim);
}

static void claim_synced(struct sync *sync, int error)
{
        struct claim *claim = container_of(sync, struct claim, sync);

        if (error < 0)
                claim_say_ledger(claim, "synced", error);
        claim->secured(claim, error);
}

void claim_secure(struct claim *claim, void (*secured)(struct claim *claim, int error))
{
        struct ledger *ledger = claim->lease->leases->ledger;
        int r = claim_note(claim);

        if (r == 0 && claim->is_persistent && ledger) {
                claim->secured = secured;
                r = ledger_sync(ledger, claim->lease, &claim->sync, claim_synced);
                if (r == 0)
                        return;
                claim_say_ledger(claim, "synced", r);
        }
        secured(claim, r);
}

static void claim_report(const struct claim *claim, const char *phase, int exit_status, const char *reason,
                         struct event_connection *ret_connection, struct event_resource *ret_resource)
{
        lease_event_connection(claim->lease, ret_connection);
        *ret_resource = (struct event_resource){
                .name = claim->name,
                .phase = phase,
                .reason = reason,
                .has_status = exit_status >= 0,
                .exit_status = exit_status,
        };
}

static void claim_fail_load(struct claim *claim, enum lease_failure failure, bool may_have_left,
                            int exit_status, const char *reason)
{
        struct lease *lease = claim->lease;
        struct event_connection connection;
        struct event_resource resource;

        claim_report(claim, "load", exit_status, reason, &connection, &resource);
        event_load_failed(journal_of(claim), &connection, &resource);
        claim_enter(claim, may_have_left ? CLAIM_LOADED : CLAIM_EMPTY, USEC_INFINITY);
        (void)claim_save(claim);
        if (!lease->failed)
                lease->failed = claim;
        if (lease->is_releasing)
                lease_step(lease);
        else
                lease->callbacks->failed(lease, failure, lease->userdata);
}

/* Its turn has come, if it had to wait for one. */
static void claim_enter_queue(struct claim *claim)
{
        if (claim->type->is_queued)
                queue_enter(claim->queue, &claim->place);
        else
                claim->queue = NULL;
}

static void claim_leave_queue(struct claim *claim)
{
        if (claim->queue)
                queue_leave(claim->queue, &claim->place);
}

/* Its load() was not called, and will not be: somebody else may have what its type kept for it. */
static void claim_drop(struct claim *claim)
{
        if (claim->type->drop)
                claim->type->drop(claim);
}

static void claim_intent_secured(struct claim *claim, int error)
{
        if (error < 0 && errno_is_starvation(-error)) {
                claim_defer(claim, -error);
                return;
        }
        if (error < 0) {
                claim_leave_queue(claim);
                claim_drop(claim);
                claim_fail_load(claim, LEASE_LOAD_FAILED, false, -1, "the ledger cannot be written");
                return;
        }
        if (claim->state == CLAIM_INTENDED)
                claim_enter(claim, CLAIM_LOADING, claim->config->load_timeout);
        claim->type->load(claim);
}

static void claim_start_load(struct claim *claim)
{
        claim_enter_queue(claim);
        claim_enter(claim, claim->is_persistent ? CLAIM_INTENDED : CLAIM_LOADING,
                    claim->config->load_timeout);
        claim_secure(claim, claim_intent_secured); /* intent before effect */
}

static void claim_begin_load(struct claim *claim)
{
        _cleanup_free_ char *reason = NULL;
        int r = claim->type->prepare(claim, &reason);

        if (r != 0) {
                claim_fail_load(claim, LEASE_LOAD_FAILED, false, -1,
                                r > 0 && reason ? reason : strerror(abs(r)));
                return;
        }
        claim->place.since_usec = now(claim);
        if (!claim->queue) {
                claim_start_load(claim);
                return;
        }
        claim_enter(claim, CLAIM_LOAD_QUEUED, claim->config->queue_timeout);
        list_append(&claim->queue->loads, &claim->place.link);
        queue_run(claim->queue);
}

/* Not begun: its intent, if the ledger has it, is taken back. */
static void claim_drop_intent(struct claim *claim)
{
        sync_deinit(&claim->sync);
        claim_enter(claim, CLAIM_EMPTY, USEC_INFINITY);
        (void)claim_save(claim);
        claim_leave_queue(claim);
        claim_drop(claim);
}

static void claim_start_release(struct claim *claim)
{
        claim_enter_queue(claim);
        claim_enter(claim, CLAIM_RELEASING, claim->release_timeout_usec);
        claim->type->release(claim);
}

static void claim_begin_release(struct claim *claim)
{
        sync_deinit(&claim->sync); /* that it is loaded need not be on disk any more */
        claim->place.since_usec = now(claim);
        if (!claim->type->is_queued) {
                claim_start_release(claim);
                return;
        }
        claim_enter(claim, CLAIM_RELEASE_QUEUED, USEC_INFINITY);
        list_append(&claim->queue->releases, &claim->place.link);
        queue_run(claim->queue);
}

/* No program of it ran: the socket is its connection's again. */
static void claim_return_socket(struct claim *claim)
{
        if (claim->lease->program == claim)
                claim->lease->program = NULL;
}

static void claim_timer(struct timer *timer)
{
        static const char disk_timed_out[] = "its ledger record was not on disk within load_timeout";
        struct claim *claim = container_of(timer, struct claim, timer);

        switch (claim->state) {
        case CLAIM_LOAD_QUEUED:
                list_unlink(&claim->place.link);
                claim_return_socket(claim);
                claim_drop(claim);
                claim_fail_load(claim, LEASE_LOAD_TIMEOUT, false, -1,
                                "waited in the queue for longer than queue_timeout");
                break;
        case CLAIM_INTENDED:
                sync_deinit(&claim->sync);
                claim_leave_queue(claim);
                claim_drop(claim);
                claim_fail_load(claim, LEASE_LOAD_TIMEOUT, false, -1, disk_timed_out);
                break;
        case CLAIM_WAITING:
                claim_drop(claim);
                claim_fail_load(claim, claim->wait_failure, false, -1, claim->wait_reason);
                break;
        case CLAIM_LOADING:
                claim_enter(claim, CLAIM_LOAD_STOPPING, USEC_INFINITY);
                sync_deinit(&claim->sync);
                claim->type->stop(claim);
                break;
        case CLAIM_LOADED:
                sync_deinit(&claim->sync);
                claim_fail_load(claim, LEASE_LOAD_TIMEOUT, true, -1, disk_timed_out);
                break;
        case CLAIM_RELEASING:
                claim_enter(claim, CLAIM_RELEASE_STOPPING, USEC_INFINITY);
                claim->type->stop(claim);
                break;
        case CLAIM_RETRYING:
                claim_begin_release(claim);
                break;
        default:
                assert(false); /* no deadline */
        }
}

static const char *timed_out(uint64_t span_usec, char buffer[static SPAN_TEXT_MAX + 32])
{
        char span[SPAN_TEXT_MAX];

        (void)snprintf(buffer, SPAN_TEXT_MAX + 32, "timed out after %s", span_format(span_usec, span));
        return buffer;
}

static bool value_is_valid(const char *value)
{
        size_t length = 0;

        for (; value[length]; length++)
                if ((unsigned char)value[length] < ' ' || value[length] == 0x7f)
                        return false;
        return length <= CLAIM_VALUE_MAX;
}

static void claim_fact_secured(struct claim *claim, int error)
{
        /* Without the fact, the intent stands in the ledger: after a crash it is released as well. */
        if (error < 0 && claim->is_persistent) {
                claim_fail_load(claim, LEASE_LOAD_FAILED, true, -1, "the ledger cannot be written");
                return;
        }
        if (claim->is_persistent)
                claim_enter(claim, CLAIM_LOADED, USEC_INFINITY);
        lease_step(claim->lease);
}

void claim_loaded(struct claim *claim, const char *value)
{
        assert(claim->state == CLAIM_LOADING || claim->state == CLAIM_LOAD_STOPPING);
        if (!value_is_valid(value)) {
                claim_load_failed(claim, false, -1,
                                  "its value is longer than 4096 bytes or has control characters");
                return;
        }
        if (claim->state == CLAIM_LOAD_STOPPING) {
                claim_load_failed(claim, false, -1, NULL);
                return;
        }
        claim->value = strdup(value);
        if (!claim->value) {
                claim_load_failed(claim, false, -1, "out of memory");
                return;
        }
        claim_enter(claim, CLAIM_LOADED, claim->is_persistent ? claim->config->load_timeout : USEC_INFINITY);
        claim_leave_queue(claim);
        claim->lease->kept_length = 0;
        claim_secure(claim, claim_fact_secured);
}

void claim_load_failed(struct claim *claim, bool is_said, int exit_status, const char *reason)
{
        bool is_timeout = claim->state == CLAIM_LOAD_STOPPING;
        bool may_have_left = !is_said || is_timeout || claim->config->on_load_failure == LOAD_FAILURE_RELEASE;
        char text[SPAN_TEXT_MAX + 32];

        assert(claim->state == CLAIM_LOADING || is_timeout);
        if (is_said)
                claim_return_socket(claim);
        claim_leave_queue(claim);
        claim_fail_load(claim, is_timeout ? LEASE_LOAD_TIMEOUT : LEASE_LOAD_FAILED, may_have_left,
                        exit_status, is_timeout ? timed_out(claim->config->load_timeout, text) : reason);
}

void claim_load_refused(struct claim *claim, const char *reason)
{
        assert(claim->state == CLAIM_LOADING);
        claim_leave_queue(claim);
        claim_fail_load(claim, LEASE_POOL_EMPTY, false, -1, reason);
}

void claim_defer(struct claim *claim, int error)
{
        struct queue *queue;

        if (claim->type->is_queued)
                queue_take_back(claim->queue, &claim->place);
        else
                claim->queue = &claim->lease->leases->deferred;
        queue = claim->queue;
        if (claim->state == CLAIM_LOADING || claim->state == CLAIM_INTENDED) {
                claim_enter(claim, CLAIM_LOAD_QUEUED, USEC_INFINITY);
                timer_arm(loop_wheel(claim_loop(claim)), &claim->timer,
                          deadline_after(claim->place.since_usec, claim->config->queue_timeout));
                if (claim->type->is_queued)
                        list_prepend(&queue->loads, &claim->place.link);
                else /* what one is short of, the next may not be */
                        list_append(&queue->loads, &claim->place.link);
        } else {
                assert(claim->state == CLAIM_RELEASING);
                claim_enter(claim, CLAIM_RELEASE_QUEUED, USEC_INFINITY);
                list_prepend(&queue->releases, &claim->place.link);
        }
        if (claim->lease->kept_length > 0 || claim_save(claim) == 0) /* that it waits is written once */
                claim_take_back(claim);
        queue_starve(queue, error);
}

void claim_wait(struct claim *claim, uint64_t span_usec, enum lease_failure failure, const char *reason)
{
        assert(claim->state == CLAIM_LOADING && !claim->type->is_queued && claim->type->drop);
        claim->wait_failure = failure;
        claim->wait_reason = reason;
        claim_enter(claim, CLAIM_WAITING, span_usec);
        (void)claim_save(claim); /* the intent is taken back */
}

void claim_proceed(struct claim *claim)
{
        assert(claim->state == CLAIM_WAITING);
        claim->place.since_usec = now(claim);
        claim_start_load(claim);
}

void claim_lost(struct claim *claim, enum lease_loss loss, int exit_status, const char *reason)
{
        struct lease *lease = claim->lease;

        if (lease->is_releasing || lease->failed)
                return;
        lease->failed = claim;
        lease->loss_status = exit_status;
        lease->loss_reason = strdup(reason);
        lease->callbacks->lost(lease, loss, lease->userdata);
}

/* Else the whole record is erased next, and need not be written before. */
static bool lease_holds_more(const struct claim *claim)
{
        const struct lease *lease = claim->lease;

        for (size_t i = 0; i < lease->n_claims; i++)
                if (&lease->claims[i] != claim && lease->claims[i].state != CLAIM_EMPTY)
                        return true;
        return false;
}

int claim_take_socket(struct claim *claim)
{
        struct lease *lease = claim->lease;

        assert(claim->state == CLAIM_LOADING && !lease->program);
        if (lease->is_releasing || !lease->callbacks->give_socket)
                return -ENOTCONN;
        lease->program = claim;
        return lease->callbacks->give_socket(lease, lease->userdata);
}

void claim_released(struct claim *claim)
{
        struct lease *lease = claim->lease;

        assert(claim->state == CLAIM_RELEASING || claim->state == CLAIM_RELEASE_STOPPING);
        claim_enter(claim, CLAIM_EMPTY, USEC_INFINITY);
        if (lease_holds_more(claim))
                (void)claim_save(claim);
        claim_leave_queue(claim);
        lease_step(lease);
}

void claim_release_failed(struct claim *claim, int exit_status, const char *reason)
{
        struct lease *lease = claim->lease;
        struct event_connection connection;
        struct event_resource resource;
        char text[SPAN_TEXT_MAX + 32];

        assert(claim->state == CLAIM_RELEASING || claim->state == CLAIM_RELEASE_STOPPING);
        if (claim->state == CLAIM_RELEASE_STOPPING)
                reason = timed_out(claim->release_timeout_usec, text);
        claim->n_attempts++;
        claim_report(claim, "release", exit_status, reason, &connection, &resource);
        event_release_failed(journal_of(claim), &connection, &resource,
                             claim->release_attempts - MIN(claim->n_attempts, claim->release_attempts));
        if (claim->type->is_queued) /* a command has ended, which a helper that was asked need not have */
                claim_take_back(claim);
        if (claim->n_attempts < claim->release_attempts) {
                claim_enter(claim, CLAIM_RETRYING, RETRY_USEC << MIN(claim->n_attempts - 1, 16U));
        } else {
                claim_enter(claim, CLAIM_QUARANTINED, USEC_INFINITY);
                lease->leases->n_quarantined++;
                event_quarantined(journal_of(claim), &connection, &resource);
        }
        claim_leave_queue(claim);
        lease_step(lease);
}

void claim_output(struct claim *claim, const char *line)
{
        struct event_connection connection;

        lease_event_connection(claim->lease, &connection);
        event_output(journal_of(claim), &connection, claim->name,
                     claim->lease->is_releasing && claim->state >= CLAIM_LOADED ? "release" : "load", line);
}

/* ---- queues ---- */

static void place_load(struct place *place)
{
        claim_start_load(container_of(place, struct claim, place));
}

static void place_release(struct place *place)
{
        claim_start_release(container_of(place, struct claim, place));
}

static void leases_init_queue(struct leases *leases, struct queue *queue, unsigned n_max)
{
        queue_init(queue, n_max, leases->loop, &leases->starvation, place_load, place_release);
}

static int leases_get_queue(struct leases *leases, const char *name, struct queue **ret_queue)
{
        struct queue *queue;

        list_for_each (node, &leases->queues) {
                queue = container_of(node, struct queue, link);
                if (streq(queue->name, name)) {
                        *ret_queue = queue;
                        return 0;
                }
        }
        queue = calloc(1, sizeof(*queue));
        if (!queue)
                return -ENOMEM;
        leases_init_queue(leases, queue, 1);
        queue->name = strdup(name);
        if (!queue->name) {
                free(queue);
                return -ENOMEM;
        }
        list_append(&leases->queues, &queue->link);
        *ret_queue = queue;
        return 0;
}

/* A lease may be younger than the configuration in force, and born with an older one. */
static void queue_configure(struct queue *queue, const struct resource_config *resource)
{
        queue->n_max = resource->max_concurrent;
        queue->is_configured = true;
}

/* ---- leases ---- */

static void lease_destroy(struct lease *lease)
{
        for (size_t i = 0; i < lease->n_claims; i++) {
                struct claim *claim = &lease->claims[i];

                timer_disarm(&claim->timer);
                sync_deinit(&claim->sync);
                if (list_is_linked(&claim->place.link) && claim->state != CLAIM_LOAD_QUEUED &&
                    claim->state != CLAIM_RELEASE_QUEUED)
                        queue_take_back(claim->queue, &claim->place);
                list_unlink(&claim->place.link);
                if (claim->state == CLAIM_QUARANTINED)
                        lease->leases->n_quarantined--;
                claim->type->forget(claim);
                free(claim->name);
                free(claim->value);
        }
        list_unlink(&lease->link);
        lease->leases->n_leases--;
        lease->leases->n_releasing -= lease->is_releasing && !lease->is_settled;
        config_unref(lease->born);
        free(lease->subject.listener);
        free(lease->subject.identity);
        free(lease->loss_reason);
        free(lease);
}

bool lease_is_quarantined(const struct lease *lease)
{
        for (size_t i = 0; i < lease->n_claims; i++)
                if (lease->claims[i].state == CLAIM_QUARANTINED)
                        return true;
        return false;
}

/* Nothing of it is under way. */
static void lease_retry(struct lease *lease)
{
        lease->is_retried = false;
        for (size_t i = 0; i < lease->n_claims; i++)
                if (lease->claims[i].state == CLAIM_QUARANTINED) {
                        lease->claims[i].n_attempts = 0;
                        claim_enter(&lease->claims[i], CLAIM_LOADED, USEC_INFINITY);
                        lease->leases->n_quarantined--;
                }
        lease_step(lease);
}

static void lease_settle(struct lease *lease)
{
        struct leases *leases = lease->leases;
        bool is_quarantined = lease_is_quarantined(lease);

        if (lease->is_retried) {
                lease_retry(lease);
                return;
        }
        lease->is_settled = true;
        leases->n_releasing--;
        if (leases->ledger && (lease->has_record || lease_is_recorded(lease)) && !is_quarantined) {
                int r = ledger_erase(leases->ledger, lease);

                if (r < 0)
                        log_message(leases->journal, LOG_WARNING,
                                    "connection %" PRIx64 ": its ledger record cannot be removed: %s",
                                    lease->subject.id, strerror(-r));
        }
        if (lease->callbacks) {
                lease->callbacks->settled(lease, lease->userdata);
                return;
        }
        if (!is_quarantined)
                lease_destroy(lease);
        if (leases->ended)
                leases->ended(leases->userdata);
}

static void lease_step_release(struct lease *lease)
{
        bool is_quarantined = false;

        for (size_t i = lease->n_claims; i-- > 0;) {
                struct claim *claim = &lease->claims[i];

                switch (claim->state) {
                case CLAIM_EMPTY:
                        break;
                case CLAIM_QUARANTINED:
                        is_quarantined = true;
                        break;
                case CLAIM_LOAD_QUEUED: /* it waits for its turn: dropped */
                        list_unlink(&claim->place.link);
                        claim_enter(claim, CLAIM_EMPTY, USEC_INFINITY);
                        claim_drop(claim);
                        break;
                case CLAIM_INTENDED: /* for the disk */
                        claim_drop_intent(claim);
                        break;
                case CLAIM_WAITING: /* likewise */
                        claim_enter(claim, CLAIM_EMPTY, USEC_INFINITY);
                        claim_drop(claim);
                        break;
                case CLAIM_LOADED:
                        if (is_quarantined && claim->type->is_exclusive)
                                break;
                        claim_begin_release(claim);
                        return;
                default: /* a load that runs to its end, or a release under way: its completion comes here */
                        return;
                }
        }
        lease_settle(lease);
}

static void lease_step_load(struct lease *lease)
{
        for (size_t i = 0; i < lease->n_claims; i++) {
                struct claim *claim = &lease->claims[i];

                if (claim->state == CLAIM_LOADED)
                        continue;
                assert(claim->state == CLAIM_EMPTY);
                claim_begin_load(claim);
                return;
        }
        lease->callbacks->loaded(lease, lease->userdata);
}

static void lease_step(struct lease *lease)
{
        if (lease->is_releasing)
                lease_step_release(lease);
        else
                lease_step_load(lease);
}

int lease_claim_init(struct lease *lease, size_t i, const struct resource_type *type, const char *name)
{
        struct claim *claim = &lease->claims[i];

        claim->type = type;
        claim->name = strdup(name);
        if (!claim->name)
                return -ENOMEM;
        return type->is_queued ? leases_get_queue(lease->leases, name, &claim->queue) : 0;
}

int lease_new_empty(struct lease **ret_lease, struct leases *leases, size_t n_claims,
                    const struct lease_subject *subject)
{
        struct lease *lease = calloc(1, sizeof(*lease) + n_claims * sizeof(lease->claims[0]));

        if (!lease)
                return -ENOMEM;
        lease->leases = leases;
        lease->subject = *subject;
        lease->subject.listener = strdup(subject->listener);
        lease->subject.identity = strdup(subject->identity ? subject->identity : "");
        lease->born_usec = clock_usec(CLOCK_BOOTTIME);
        lease->loss_status = -1;
        lease->n_claims = n_claims;
        for (size_t i = 0; i < n_claims; i++) {
                lease->claims[i].lease = lease;
                lease->claims[i].type = resource_type_of(RESOURCE_NONE); /* as one without a record stays */
                list_init(&lease->claims[i].place.link);
                timer_init(&lease->claims[i].timer, claim_timer);
        }
        list_init(&lease->link);
        list_append(&leases->all, &lease->link);
        leases->n_leases++;
        if (!lease->subject.listener || !lease->subject.identity) {
                lease_destroy(lease);
                return -ENOMEM;
        }
        *ret_lease = lease;
        return 0;
}

int lease_new(struct lease **ret_lease, struct leases *leases, struct config *born,
              struct resource_config *const *resources, size_t n_resources,
              const struct lease_subject *subject, const struct lease_callbacks *callbacks, void *userdata)
{
        struct lease *lease;
        int r = lease_new_empty(&lease, leases, n_resources, subject);

        if (r < 0)
                return r;
        lease->born = config_ref(born);
        lease_set_callbacks(lease, callbacks, userdata);
        for (size_t i = 0; i < n_resources; i++) {
                struct claim *claim = &lease->claims[i];

                r = lease_claim_init(lease, i, resource_type_of(resources[i]->kind), resources[i]->name);
                if (r < 0) {
                        lease_destroy(lease);
                        return r;
                }
                claim->config = resources[i];
                claim->is_persistent = resources[i]->persistent && claim->type->is_recorded;
                lease->is_persistent |= claim->is_persistent;
                lease->n_recorded += claim->type->is_recorded;
                claim->release_attempts = resources[i]->release_attempts;
                claim->release_timeout_usec = resources[i]->release_timeout;
                if (claim->queue && !claim->queue->is_configured)
                        queue_configure(claim->queue, resources[i]);
        }
        *ret_lease = lease;
        return 0;
}

void lease_set_callbacks(struct lease *lease, const struct lease_callbacks *callbacks, void *userdata)
{
        lease->callbacks = callbacks;
        lease->userdata = userdata;
}

bool lease_is_recorded(const struct lease *lease)
{
        return lease->n_recorded > 0;
}

bool lease_tells_subject(const struct lease *lease)
{
        for (size_t i = 0; i < lease->n_claims; i++)
                if (!lease->claims[i].type->is_silent)
                        return true;
        return false;
}

bool lease_outlives_us(const struct lease *lease)
{
        for (size_t i = 0; i < lease->n_claims; i++)
                if (lease->claims[i].type->ends_with_us)
                        return false;
        return true;
}

bool lease_is_loaded(const struct lease *lease)
{
        size_t n_loaded = 0;

        for (size_t i = 0; i < lease->n_claims; i++)
                n_loaded += lease->claims[i].state == CLAIM_LOADED && !lease->claims[i].was_under_way;
        return !lease->is_releasing && n_loaded == lease->n_recorded;
}

void lease_take_up(struct lease *lease)
{
        assert(lease_is_loaded(lease));
        lease->is_recovered = false;
        for (size_t i = 0; i < lease->n_claims; i++) {
                struct claim *claim = &lease->claims[i];

                if (claim->state == CLAIM_LOADED && claim->type->take_up)
                        claim->type->take_up(claim);
        }
}

void lease_load(struct lease *lease)
{
        lease_step(lease);
}

void lease_release(struct lease *lease, const struct event_ending *ending)
{
        assert(!lease->is_releasing);
        lease->is_releasing = true;
        lease->leases->n_releasing++;
        lease->ending = *ending;
        lease_step(lease);
}

struct lease *lease_free(struct lease *lease)
{
        if (!lease)
                return NULL;
        if (lease->is_settled && lease_is_quarantined(lease))
                lease_set_callbacks(lease, NULL, NULL);
        else
                lease_destroy(lease);
        return NULL;
}

const char *lease_failed_resource(const struct lease *lease)
{
        return lease->failed ? lease->failed->name : NULL;
}

const char *lease_value(const struct lease *lease, const char *resource)
{
        for (size_t i = 0; i < lease->n_claims; i++)
                if (lease->claims[i].name && streq(lease->claims[i].name, resource))
                        return lease->claims[i].value;
        return NULL;
}

void lease_event_connection(const struct lease *lease, struct event_connection *ret)
{
        *ret = (struct event_connection){
                .id = lease->subject.id,
                .listener = lease->subject.listener,
                .identity = lease->subject.identity[0] ? lease->subject.identity : NULL,
                .remote = &lease->subject.remote,
                .local = &lease->subject.local,
                .peer_pid = lease->subject.peer_pid,
                .peer_uid = lease->subject.peer_uid,
        };
}

/* ---- all of them ---- */

void leases_init(struct leases *leases, struct loop *loop, struct journal *journal, struct ledger *ledger)
{
        *leases = (struct leases){ .loop = loop, .journal = journal, .ledger = ledger };
        list_init(&leases->queues);
        list_init(&leases->all);
        leases_init_queue(leases, &leases->deferred, UINT_MAX);
}

void leases_deinit(struct leases *leases)
{
        assert(list_is_empty(&leases->all));
        for (enum resource_kind kind = 0; kind < N_RESOURCE_KINDS; kind++) {
                const struct resource_type *type = resource_type_of(kind);

                if (type && type->deinit)
                        type->deinit(leases);
        }
        queue_deinit(&leases->deferred);
        list_for_each (node, &leases->queues) {
                struct queue *queue = container_of(node, struct queue, link);

                queue_deinit(queue);
                free(queue);
        }
}

static int configure_types(struct leases *leases, const struct config *config)
{
        int r = 0;

        for (enum resource_kind kind = 0; r == 0 && kind < N_RESOURCE_KINDS; kind++) {
                const struct resource_type *type = resource_type_of(kind);

                if (type && type->configure)
                        r = type->configure(leases, config);
        }
        return r;
}

bool leases_end(struct leases *leases)
{
        bool is_ended = true;

        for (enum resource_kind kind = 0; kind < N_RESOURCE_KINDS; kind++) {
                const struct resource_type *type = resource_type_of(kind);

                if (type && type->end)
                        is_ended &= type->end(leases);
        }
        return is_ended;
}

void leases_summarize(const struct leases *leases)
{
        for (enum resource_kind kind = 0; kind < N_RESOURCE_KINDS; kind++) {
                const struct resource_type *type = resource_type_of(kind);

                if (type && type->summarize)
                        type->summarize(leases);
        }
}

int leases_configure(struct leases *leases, const struct config *config)
{
        struct queue *queue;
        int r = 0;

        /* What can fail comes first. */
        for (size_t i = 0; r == 0 && i < config->n_resources; i++)
                if (resource_type_of(config->resources[i]->kind)->is_queued)
                        r = leases_get_queue(leases, config->resources[i]->name, &queue);
        if (r == 0)
                r = configure_types(leases, config);
        if (r < 0)
                return r;
        for (size_t i = 0; i < config->n_resources; i++) {
                if (!resource_type_of(config->resources[i]->kind)->is_queued)
                        continue;
                (void)leases_get_queue(leases, config->resources[i]->name, &queue); /* it is there */
                queue_configure(queue, config->resources[i]);
                queue_run(queue);
        }
        return 0;
}

struct waiting leases_waiting(const struct leases *leases, uint64_t now_usec)
{
        struct waiting waiting = { 0 };

        list_for_each (node, &leases->queues) {
                const struct queue *queue = container_of(node, struct queue, link);

                list_for_each (link, &queue->releases) {
                        const struct place *place = container_of(link, struct place, link);

                        waiting.n++;
                        waiting.oldest_usec = MAX(waiting.oldest_usec, now_usec - place->since_usec);
                }
        }
        return waiting;
}

bool leases_make_progress(const struct leases *leases, uint64_t now_usec, uint64_t grace_usec)
{
        list_for_each (node, &leases->queues) {
                const struct queue *queue = container_of(node, struct queue, link);

                if (queue_is_stuck(queue))
                        return false;
                list_for_each (link, &queue->under_way) {
                        const struct claim *claim = container_of(link, struct claim, place.link);

                        if (deadline_after(claim->timer.deadline_usec, grace_usec) < now_usec)
                                return false;
                }
        }
        return true;
}

size_t leases_abandon(struct leases *leases)
{
        size_t n_leases = leases->n_leases;

        while (!list_is_empty(&leases->all))
                lease_destroy(container_of(leases->all.next, struct lease, link));
        return n_leases;
}

void leases_retry(struct leases *leases)
{
        struct list again = LIST_INIT(again);

        /* Those that are quarantined now; what is quarantined anew meanwhile has to wait for the next call. */
        list_splice(&again, &leases->all);
        for (struct list *node; (node = list_take_first(&again));) {
                struct lease *lease = container_of(node, struct lease, link);

                list_append(&leases->all, node);
                if (!lease->is_settled)
                        lease->is_retried = lease_is_quarantined(lease);
                if (!lease->is_settled || lease->callbacks)
                        continue;
                lease->is_settled = false;
                leases->n_releasing++;
                lease_retry(lease);
        }
}

/*
 * fake: resource types that do nothing but keep books, for the tests of lease and ledger, which link no real
 * type. Each claim follows a script, "LOAD/RELEASE", one letter each:
 *
 *      o  succeeds at once              l  ends later, when the test calls fake_complete()
 *      s  fails and says so             f  fails without saying (killed); as a release: always
 *      v  comes with a bad value        1  as a release: fails once, then succeeds
 *      i  cannot be prepared            n  as i, out of memory
 *      d  cannot be begun at first, for want of a process; then succeeds
 *      D  as d, but always, and something was written down; F  as a release: as f, likewise
 *      w  waits until the test calls fake_proceed(), then succeeds; e  is refused (both: RESOURCE_POOL)
 *      g  takes the socket (fake_socket_fd) and succeeds; G takes it and fails as s, H takes it and fails as f
 *      ?  one of these at random
 *
 * The hooks check what must hold at any moment: order, one at a time, bounds of the queue, no release of what
 * was never loaded. Whoever includes this gets the parts of config and journal that lease needs as well.
 */
#pragma once

#include "random.h"
#include "unit.h"

#include "journal/events.h"
#include "resource/lease.h"
#include <stdarg.h>

struct fake {
        struct list link; /* in fake_pending while something is under way that ends later */
        struct claim *claim;
        char load, release;
        bool is_loading, is_releasing, is_stopped, has_waited;
        bool may_exist; /* there is something to release */
        unsigned n_loads, n_releases, n_released, n_deferred;
};

static struct list fake_pending = LIST_INIT(fake_pending);
static struct list fake_waiting = LIST_INIT(fake_waiting);
static size_t n_fakes, n_existing, n_fake_loads, n_fake_releases, n_fake_take_ups;
static bool fake_stop_is_late;
static int fake_socket_fd = -1; /* of the program that has a connection: a duplicate */
#define FAKE_WAIT_USEC (9 * USEC_PER_SEC)
static char fake_log
        [512]; /* "+a" load, "-a" release, "!a" stop, "?a" wait, "~a" drop; not kept when it is full */
static void (*fake_hook)(void); /* called before anything is done: a moment to crash */

static void fake_note(char what, const struct claim *claim)
{
        size_t length = strlen(fake_log);

        if (length + 4 < sizeof(fake_log))
                (void)snprintf(fake_log + length, sizeof(fake_log) - length, "%c%s ", what, claim->name);
        if (fake_hook)
                fake_hook();
}

static int fake_prepare(struct claim *claim, char **ret_reason)
{
        const char *script = claim->config->path;
        struct fake *fake;
        char load = script[0] != '?'    ? script[0]
                    : claim->type->drop ? "ooowwwwei"[random_below(9)]
                                        : "oooollllsfvid"[random_below(claim->queue ? 13 : 12)];

        ck_assert_ptr_null(claim->data); /* once */
        if (load == 'n')
                return -ENOMEM;
        if (load == 'i') {
                *ret_reason = strdup("it is invalid");
                return RESOURCE_E_INVALID;
        }
        fake = calloc(1, sizeof(*fake));
        ck_assert_ptr_nonnull(fake);
        *fake = (struct fake){ .claim = claim, .load = load, .release = script[2] };
        list_init(&fake->link);
        claim->data = fake;
        n_fakes++;
        return 0;
}

static void fake_end_load(struct fake *fake, char how)
{
        bool is_released = fake->claim->config->on_load_failure == LOAD_FAILURE_RELEASE;

        list_unlink(&fake->link);
        fake->is_loading = false;
        if (how == 's' && !is_released && !fake->is_stopped) {
                fake->may_exist = false;
                n_existing--;
        }
        switch (how) {
        case 'o':
        case 'd':
                claim_loaded(fake->claim, fake->claim->name);
                break;
        case 'v':
                claim_loaded(fake->claim, "two\nlines");
                break;
        default:
                claim_load_failed(fake->claim, how == 's', 3, "exit status 3");
        }
}

static void fake_end_release(struct fake *fake, char how)
{
        list_unlink(&fake->link);
        fake->is_releasing = false;
        if (how != 'o') {
                claim_release_failed(fake->claim, 3, "exit status 3");
                return;
        }
        if (fake->may_exist) {
                fake->may_exist = false;
                n_existing--;
        }
        fake->n_released++;
        claim_released(fake->claim);
}

static void fake_complete(struct fake *fake, char how)
{
        ck_assert(fake->is_loading != fake->is_releasing);
        if (fake->is_loading)
                fake_end_load(fake, how);
        else
                fake_end_release(fake, how);
}

static unsigned fake_under_way(const struct queue *queue, const struct leases *leases)
{
        unsigned n_under_way = 0;

        list_for_each (node, &leases->all) {
                const struct lease *lease = container_of(node, struct lease, link);

                for (size_t i = 0; i < lease->n_claims; i++) {
                        const struct fake *fake = lease->claims[i].data;

                        n_under_way += lease->claims[i].queue == queue && fake &&
                                       (fake->is_loading || fake->is_releasing);
                }
        }
        return n_under_way;
}

static void fake_check_bounds(const struct claim *claim)
{
        if (claim->queue && claim->lease->leases->n_leases < 100) /* looking through all takes time */
                ck_assert_uint_le(fake_under_way(claim->queue, claim->lease->leases), claim->queue->n_max);
        if (claim->queue)
                ck_assert_uint_le(claim->queue->n_under_way, claim->queue->n_max);
}

static void fake_wait(struct fake *fake)
{
        fake->has_waited = true;
        fake_note('?', fake->claim);
        list_append(&fake_waiting, &fake->link);
        claim_wait(fake->claim, FAKE_WAIT_USEC, LEASE_POOL_EMPTY, "it waited in vain");
}

static inline void fake_proceed(struct fake *fake)
{
        list_unlink(&fake->link);
        claim_proceed(fake->claim);
}

static void fake_drop(struct claim *claim)
{
        struct fake *fake = claim->data;

        ck_assert(fake->n_loads == 0 && !fake->may_exist);
        fake_note('~', claim);
        list_unlink(&fake->link);
}

static bool fake_take_socket(struct claim *claim)
{
        int fd = claim_take_socket(claim);

        fake_socket_fd = fd < 0 ? -1 : dup(fd);
        return fd >= 0;
}

static void fake_load(struct claim *claim)
{
        struct fake *fake = claim->data;

        if (fake->load == 'D')
                ck_assert_int_eq(claim_note(claim), 0);
        if (fake->load == 'D' || (fake->load == 'd' && fake->n_deferred++ == 0)) {
                claim_defer(claim, EAGAIN);
                return;
        }
        for (struct claim *c = claim->lease->claims; c < claim; c++)
                if (c->state != CLAIM_LOADED)
                        ck_abort_msg("a claim is loaded before the one in front of it");
        if (fake->load == 'w' && !fake->has_waited) {
                fake_wait(fake);
                return;
        }
        ck_assert_uint_eq(fake->n_loads++, 0);
        if (fake->load == 'e') {
                claim_load_refused(claim, "nothing is left");
                return;
        }
        fake->is_loading = true;
        n_fake_loads++;
        fake_check_bounds(claim);
        fake_note('+', claim);
        fake->may_exist = true;
        n_existing++;
        if (strchr("gGH", fake->load)) {
                fake->load = "osf"[strchr("gGH", fake->load) - "gGH"];
                if (!fake_take_socket(claim))
                        fake->load = 's';
        }
        if (fake->load == 'l')
                list_append(&fake_pending, &fake->link);
        else
                fake_end_load(fake, fake->load == 'w' ? 'o' : fake->load);
}

static void fake_release(struct claim *claim)
{
        const struct lease *lease = claim->lease;
        struct fake *fake = claim->data;
        bool is_quarantined = false;
        char how = fake->release == '?' ? "oooollllf1d"[random_below(claim->queue ? 11 : 10)] : fake->release;

        if (how == 'D' || how == 'F')
                ck_assert_int_eq(claim_note(claim), 0);
        if (how == 'd' || how == 'D') {
                if (fake->release == 'd')
                        fake->release = 'o';
                claim_defer(claim, EAGAIN);
                return;
        }
        for (const struct claim *c = claim + 1; c < lease->claims + lease->n_claims; c++)
                if (c->state == CLAIM_QUARANTINED)
                        is_quarantined = true;
                else if (c->state != CLAIM_EMPTY && !(c->type->is_exclusive && c->state == CLAIM_LOADED))
                        ck_abort_msg("a claim is released before the one behind it");
        if (is_quarantined && claim->type->is_exclusive)
                ck_abort_msg("%s may still be used", claim->name);
        if (!fake->may_exist || fake->is_loading || fake->is_releasing || fake->n_released > 0)
                ck_abort_msg("%s: nothing to release", claim->name);
        fake->n_releases++;
        fake->is_releasing = true;
        n_fake_releases++;
        fake_check_bounds(claim);
        fake_note('-', claim);
        if (how == 'l')
                list_append(&fake_pending, &fake->link);
        else
                fake_end_release(fake, how == '1' ? (fake->n_releases > 1 ? 'o' : 'f') : how);
}

static void fake_stop(struct claim *claim)
{
        struct fake *fake = claim->data;

        ck_assert(list_is_linked(&fake->link));
        fake_note('!', claim);
        fake->is_stopped = true;
        if (!fake_stop_is_late)
                fake_complete(fake, 'f');
}

static int fake_save(const struct claim *claim, char ***fields)
{
        const struct fake *fake = claim->data;

        return fake ? strv_appendf(fields, "release=%c\nback\\slash\x7f", fake->release) : 0;
}

static int fake_restore(struct claim *claim, char *const *fields, char **ret_reason)
{
        const char *release = NULL;
        struct fake *fake;

        for (char *const *field = fields; *field; field++)
                if (startswith(*field, "release="))
                        release = *field + strlen("release=");
        if (!release && claim->state == CLAIM_EMPTY)
                return 0;
        if (!release || !streq(release + 1, "\nback\\slash\x7f")) {
                *ret_reason = strdup("release is missing or was changed");
                return RESOURCE_E_INVALID;
        }
        fake = calloc(1, sizeof(*fake));
        ck_assert_ptr_nonnull(fake);
        *fake = (struct fake){ .claim = claim,
                               .release = release[0],
                               .may_exist = claim->state == CLAIM_LOADED };
        n_existing += fake->may_exist;
        list_init(&fake->link);
        claim->data = fake;
        n_fakes++;
        return 0;
}

static void fake_take_up(struct claim *claim)
{
        const struct fake *fake = claim->data;

        ck_assert_int_eq(claim->state, CLAIM_LOADED);
        ck_assert(fake->may_exist);
        n_fake_take_ups++;
}

static void fake_forget(struct claim *claim)
{
        struct fake *fake = claim->data;

        if (!fake)
                return;
        n_existing -= fake->may_exist; /* abandoned */
        list_unlink(&fake->link);
        free(fake);
        claim->data = NULL;
        n_fakes--;
}

#define FAKE_HOOKS                                                                              \
        .prepare = fake_prepare, .load = fake_load, .release = fake_release, .stop = fake_stop, \
        .save = fake_save, .restore = fake_restore, .take_up = fake_take_up, .forget = fake_forget

/*
 * Kinds stand for: RESOURCE_NONE: neither queued nor recorded; RESOURCE_DIRECTORY: recorded; RESOURCE_EXEC: both;
 * RESOURCE_POOL: recorded, may wait, and exclusive; RESOURCE_PROCESS: recorded, and ends with the daemon.
 */
static const struct resource_type fake_types[N_RESOURCE_KINDS] = {
        [RESOURCE_NONE] = { .name = "fake-none", FAKE_HOOKS },
        [RESOURCE_DIRECTORY] = { .name = "fake-directory", .is_recorded = true, FAKE_HOOKS },
        [RESOURCE_EXEC] = { .name = "fake-exec", .is_recorded = true, .is_queued = true, FAKE_HOOKS },
        [RESOURCE_POOL] = { .name = "fake-pool",
                            .is_recorded = true,
                            .is_exclusive = true,
                            .drop = fake_drop,
                            FAKE_HOOKS },
        [RESOURCE_PROCESS] = { .name = "fake-process",
                               .is_recorded = true,
                               .ends_with_us = true,
                               FAKE_HOOKS },
};
static const struct resource_type *fake_pool; /* a test may link the real one */

const struct resource_type *resource_type_of(enum resource_kind kind)
{
        if (kind == RESOURCE_POOL && fake_pool)
                return fake_pool;
        return fake_types[kind].name ? &fake_types[kind] : NULL;
}

const struct resource_type *resource_type_find(const char *name)
{
        if (fake_pool && streq(fake_pool->name, name))
                return fake_pool;
        for (size_t i = 0; i < ARRAY_SIZE(fake_types); i++)
                if (fake_types[i].name && streq(fake_types[i].name, name))
                        return &fake_types[i];
        return NULL;
}

/* Everything that a configuration says of a resource, with short names: "a" to "z". */
static struct resource_config *fake_resource(struct resource_config *ret, char name, enum resource_kind kind,
                                             char *script)
{
        *ret = (struct resource_config){
                .name = { name },
                .kind = kind,
                .path = script,
                .load_timeout = 30 * USEC_PER_SEC,
                .release_timeout = 30 * USEC_PER_SEC,
                .queue_timeout = USEC_INFINITY,
                .release_attempts = 3,
                .max_concurrent = 16,
        };
        return ret;
}

/* ---- a disk: what is to be synced waits for the test ---- */

struct sync_request {
        struct list link;
        struct sync *sync;
};

static struct list fake_syncs = LIST_INIT(fake_syncs);
static int fake_syncer_error; /* there is none */
static unsigned n_fake_erasures;

int syncer_new(struct syncer **ret_syncer, struct loop *loop)
{
        *ret_syncer = (void *)loop;
        return fake_syncer_error;
}

struct syncer *syncer_free(struct syncer *syncer _unused_)
{
        ck_assert(list_is_empty(&fake_syncs));
        return NULL;
}

int sync_start(struct sync *sync, struct syncer *syncer, const int fds[static SYNC_FDS], sync_fn done)
{
        ck_assert_ptr_nonnull(syncer);
        (void)fd_close(fds[0]);
        (void)fd_close(fds[1]);
        if (!sync) {
                n_fake_erasures++;
                return 0;
        }
        ck_assert(!sync_is_under_way(sync) && fds[0] >= 0);
        *sync = (struct sync){ .request = calloc(1, sizeof(struct sync_request)), .done = done };
        ck_assert_ptr_nonnull(sync->request);
        sync->request->sync = sync;
        list_init(&sync->request->link);
        list_append(&fake_syncs, &sync->request->link);
        return 0;
}

void sync_deinit(struct sync *sync)
{
        if (!sync->request)
                return;
        list_unlink(&sync->request->link);
        free(sync->request);
        sync->request = NULL;
}

/* The disk is done with the oldest. Whether there was one. */
static inline bool fake_disk(int error)
{
        struct sync *sync;

        if (list_is_empty(&fake_syncs))
                return false;
        sync = container_of(fake_syncs.next, struct sync_request, link)->sync;
        sync_deinit(sync);
        sync->done(sync, error);
        return true;
}

/* ---- what lease needs of others ---- */

struct config *config_ref(struct config *config)
{
        config->n_refs++;
        return config;
}

struct config *config_unref(struct config *config)
{
        if (config)
                config->n_refs--;
        return NULL;
}

static unsigned n_load_failed, n_release_failed, n_quarantined_said, n_messages, last_n_left;
static char last_reason[256], last_output[256];

void event_load_failed(struct journal *journal _unused_, const struct event_connection *connection,
                       const struct event_resource *resource)
{
        ck_assert_str_eq(connection->listener, "presence");
        ck_assert_str_eq(resource->phase, "load");
        (void)snprintf(last_reason, sizeof(last_reason), "%s", resource->reason);
        n_load_failed++;
}

void event_release_failed(struct journal *journal _unused_,
                          const struct event_connection *connection _unused_,
                          const struct event_resource *resource, unsigned n_left)
{
        ck_assert_str_eq(resource->phase, "release");
        (void)snprintf(last_reason, sizeof(last_reason), "%s", resource->reason);
        last_n_left = n_left;
        n_release_failed++;
}

void event_quarantined(struct journal *journal _unused_, const struct event_connection *connection _unused_,
                       const struct event_resource *resource _unused_)
{
        n_quarantined_said++;
}

void event_output(struct journal *journal _unused_, const struct event_connection *connection _unused_,
                  const char *resource _unused_, const char *phase, const char *line)
{
        (void)snprintf(last_reason, sizeof(last_reason), "%s", phase);
        (void)snprintf(last_output, sizeof(last_output), "%s", line);
}

static void (*fake_message)(const char *text); /* hears what is logged */

void log_message(struct journal *journal _unused_, int priority _unused_, const char *format, ...)
{
        static char text[16384];
        va_list arguments;

        n_messages++;
        va_start(arguments, format);
        (void)vsnprintf(text, sizeof(text), format, arguments);
        va_end(arguments);
        if (fake_message)
                fake_message(text);
}

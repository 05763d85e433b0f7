/*
 * pool: promises that an item is one connection's only, from its load to the release of everything that was loaded
 * after it, also across a crash, and that those who wait get theirs in the order in which they came. Listeners share
 * a pool by its name, and so do configurations: what the newest one says is in it. An item that it does not name
 * any more leaves when it is given back; until then nobody else gets it, whatever a reload says meanwhile.
 *
 * The item that was free for longest is taken first: what its last holder left behind somewhere (a port in
 * TIME_WAIT) has the longest time to go. Taking, giving back, waiting, giving up and finding one by its name are
 * O(1), however many there are.
 *
 * Handing out runs code of other connections, which may take, give back and end as they like: it is one loop
 * (pool_serve()), never nested, and touches no claim after it told it.
 *
 * Deliberately not here: an item is a text and nothing else, nobody looks whether it is in use outside.
 */
#include "base/index.h"
#include "resource/lease.h"
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>

#define HOLDERS_MAX   1000 /* bytes of a line of the summary, unless one item alone is longer */
#define N_HOLDERS_MAX 500  /* such lines of one pool */

struct item {
        struct index_node node;
        struct list link;    /* in pool->fresh, free or taken */
        struct list holds;   /* one, or several where ledger records contradict each other */
        uint64_t generation; /* of the newest configuration that names it; 0: none did yet */
        char text[];
};

struct pool {
        struct list link; /* in pools->all */
        char *name;
        struct index items;
        struct list fresh; /* made, and not in the pool yet */
        struct list free;  /* the longest first */
        size_t n_free;
        struct list taken;
        struct list waiting; /* holds without an item, the first that came first */
        size_t n_waiting;
        size_t n_users; /* holds, and who still needs it further up the stack: it stays as long as there are any */
        bool is_serving;
};

struct pools {
        struct list all;
        uint64_t generation; /* of the configuration that is in force */
};

/* What a claim has of a pool. */
struct hold {
        struct claim *claim;
        struct pool *pool;
        struct item *item; /* NULL: none yet, or given back */
        struct list link;  /* in item->holds or pool->waiting */
};

/* ---- items by name ---- */

/* FNV-1a: the names are the administrator's, nobody wants them to collide. */
_pure_ static uint64_t hash(const char *text)
{
        uint64_t value = UINT64_C(0xcbf29ce484222325);

        for (; *text; text++)
                value = (value ^ (unsigned char)*text) * UINT64_C(0x100000001b3);
        return value ^ value >> 32;
}

static struct item *item_find(const struct pool *pool, const char *text)
{
        struct index_node *node = index_find(&pool->items, hash(text));

        for (; node; node = index_find_next(node)) {
                struct item *item = container_of(node, struct item, node);

                if (streq(item->text, text))
                        return item;
        }
        return NULL;
}

/* The item of that name. One that is made is neither free nor taken yet, and not in the configuration. */
static int item_get(struct pool *pool, const char *text, struct item **ret_item)
{
        struct item *item = item_find(pool, text);

        if (!item) {
                item = calloc(1, sizeof(*item) + strlen(text) + 1);
                if (!item)
                        return -ENOMEM;
                (void)strcpy(item->text, text);
                index_node_init(&item->node);
                list_init(&item->link);
                list_init(&item->holds);
                index_add(&pool->items, &item->node, hash(text));
                list_append(&pool->fresh, &item->link);
        }
        *ret_item = item;
        return 0;
}

/* Of nobody's: one that no configuration has named yet is fresh, any other free. */
static bool item_is_free(const struct item *item)
{
        return list_is_empty(&item->holds) && item->generation > 0;
}

static void item_remove(struct pool *pool, struct item *item)
{
        list_unlink(&item->link);
        index_remove(&pool->items, &item->node);
        free(item);
}

/* ---- pools by name: as few as the configuration has ---- */

static int pools_get(struct leases *leases, struct pools **ret_pools)
{
        struct pools *pools = leases->shared[RESOURCE_POOL];

        if (!pools) {
                pools = calloc(1, sizeof(*pools));
                if (!pools)
                        return -ENOMEM;
                list_init(&pools->all);
                pools->generation = 1;
                leases->shared[RESOURCE_POOL] = pools;
        }
        *ret_pools = pools;
        return 0;
}

static struct pool *pool_find(const struct pools *pools, const char *name)
{
        list_for_each (node, &pools->all) {
                struct pool *pool = container_of(node, struct pool, link);

                if (streq(pool->name, name))
                        return pool;
        }
        return NULL;
}

static int pool_get(struct leases *leases, const char *name, struct pool **ret_pool)
{
        struct pools *pools;
        struct pool *pool;
        int r = pools_get(leases, &pools);

        if (r < 0)
                return r;
        pool = pool_find(pools, name);
        if (!pool) {
                pool = calloc(1, sizeof(*pool));
                if (!pool)
                        return -ENOMEM;
                pool->name = strdup(name);
                if (!pool->name || index_init(&pool->items) < 0) {
                        free(pool->name);
                        free(pool);
                        return -ENOMEM;
                }
                list_init(&pool->link);
                list_init(&pool->fresh);
                list_init(&pool->free);
                list_init(&pool->taken);
                list_init(&pool->waiting);
                list_append(&pools->all, &pool->link);
        }
        *ret_pool = pool;
        return 0;
}

/* Removes what nobody holds and the generation in force does not name. */
static void pool_sweep(struct pool *pool, uint64_t generation)
{
        list_for_each (node, &pool->fresh)
                item_remove(pool, container_of(node, struct item, link));
        list_for_each (node, &pool->free) {
                struct item *item = container_of(node, struct item, link);

                if (item->generation == generation)
                        continue;
                item_remove(pool, item);
                pool->n_free--;
        }
}

static void pool_free(struct pool *pool)
{
        assert(pool->n_users == 0);
        pool_sweep(pool, UINT64_MAX);
        assert(pool->n_free == 0 && pool->n_waiting == 0);
        list_unlink(&pool->link);
        index_deinit(&pool->items);
        free(pool->name);
        free(pool);
}

/* ---- taking and giving back ---- */

static void take(struct hold *hold, struct item *item)
{
        struct pool *pool = hold->pool;

        pool->n_free -= item_is_free(item);
        list_unlink(&item->link);
        list_append(&pool->taken, &item->link);
        list_append(&item->holds, &hold->link);
        hold->item = item;
}

static void take_free(struct hold *hold)
{
        take(hold, container_of(hold->pool->free.next, struct item, link));
}

static void give_back(struct hold *hold)
{
        const struct pools *pools = hold->claim->lease->leases->shared[RESOURCE_POOL];
        struct item *item = TAKE_PTR(hold->item);
        struct pool *pool = hold->pool;

        list_unlink(&hold->link);
        if (!list_is_empty(&item->holds))
                return;
        if (item->generation != pools->generation) {
                item_remove(pool, item);
                return;
        }
        list_unlink(&item->link);
        list_append(&pool->free, &item->link);
        pool->n_free++;
}

static void stop_waiting(struct hold *hold)
{
        if (hold->item || !list_is_linked(&hold->link))
                return;
        list_unlink(&hold->link);
        hold->pool->n_waiting--;
}

/*
 * Hands what is free to those who wait. It is theirs before they are told, since what runs then may come here to
 * load, release or drop: the loop below goes on with the next, not the stack.
 */
static void pool_serve(struct pool *pool)
{
        if (pool->is_serving)
                return;
        pool->is_serving = true;
        pool->n_users++;
        while (pool->n_free > 0 && pool->n_waiting > 0) {
                struct hold *hold = container_of(pool->waiting.next, struct hold, link);

                stop_waiting(hold);
                take_free(hold);
                claim_proceed(hold->claim);
        }
        pool->n_users--;
        pool->is_serving = false;
}

/* ---- the claim ---- */

static int hold_new(struct claim *claim)
{
        struct hold *hold;
        struct pool *pool;
        int r = pool_get(claim->lease->leases, claim->name, &pool);

        if (r < 0)
                return r;
        hold = calloc(1, sizeof(*hold));
        if (!hold)
                return -ENOMEM;
        hold->claim = claim;
        hold->pool = pool;
        list_init(&hold->link);
        pool->n_users++;
        claim->data = hold;
        return 0;
}

static int pool_prepare(struct claim *claim, char **ret_reason _unused_)
{
        return hold_new(claim);
}

/* For "who holds it", asked of the journal. */
static void say_taken(const struct hold *hold)
{
        char text[CLAIM_VALUE_MAX + sizeof("took ")];

        if (!event_is_wanted(hold->claim->lease->leases->journal, LOG_INFO, false))
                return;
        (void)snprintf(text, sizeof(text), "took %s", hold->item->text);
        claim_output(hold->claim, text);
}

static void pool_load(struct claim *claim)
{
        struct hold *hold = claim->data;
        struct pool *pool = hold->pool;

        /* Those who wait come first: what is free beyond their number is there while pool_serve() is at work. */
        if (!hold->item && pool->n_free > pool->n_waiting)
                take_free(hold);
        if (hold->item) {
                say_taken(hold);
                claim_loaded(claim, hold->item->text);
        } else if (claim->config->when_empty == WHEN_EMPTY_WAIT) {
                list_append(&pool->waiting, &hold->link);
                pool->n_waiting++;
                claim_wait(claim, claim->config->wait_timeout, LEASE_POOL_EMPTY,
                           "no item became free within wait_timeout");
        } else {
                claim_load_refused(claim, "no item is free");
        }
}

/* It waits, or got an item that it will not use. */
static void pool_drop(struct claim *claim)
{
        struct hold *hold = claim->data;

        stop_waiting(hold);
        if (!hold->item)
                return;
        give_back(hold);
        pool_serve(hold->pool);
}

/* It is wholly released, on record as well, before somebody else's load begins. */
static void pool_release(struct claim *claim)
{
        struct hold *hold = claim->data;
        struct pool *pool = hold->pool;

        if (hold->item) /* after a crash between intent and fact there is none */
                give_back(hold);
        pool->n_users++;
        claim_released(claim);
        pool_serve(pool);
        pool->n_users--;
}

static void pool_stop(struct claim *claim _unused_)
{
        assert(false); /* neither load nor release takes time */
}

/* Nobody is served: whoever forgets what is held forgets all, or the connection goes on elsewhere. */
static void pool_forget(struct claim *claim)
{
        struct hold *hold = TAKE_PTR(claim->data);

        if (!hold)
                return;
        stop_waiting(hold);
        if (hold->item)
                give_back(hold);
        hold->pool->n_users--;
        free(hold);
}

/* ---- the ledger record ---- */

static int pool_save(const struct claim *claim, char ***fields)
{
        const struct hold *hold = claim->data;

        return hold && hold->item ? strv_appendf(fields, "item=%s", hold->item->text) : 0;
}

static bool is_item(const char *text)
{
        size_t length = 0;

        while (text[length] && !iscntrl((unsigned char)text[length]))
                length++;
        return !text[length] && length > 0 && length <= CLAIM_VALUE_MAX;
}

/* The configuration need not know it any more, nor the pool. */
static int pool_restore(struct claim *claim, char *const *fields, char **ret_reason)
{
        const char *text = fields_get(fields, "item");
        struct hold *hold;
        struct item *item;
        int r;

        if (text ? !is_item(text) : claim->value != NULL) {
                *ret_reason = strdup("item is missing or wrong");
                return *ret_reason ? RESOURCE_E_INVALID : -ENOMEM;
        }
        r = hold_new(claim);
        if (r < 0 || !text)
                return r;
        hold = claim->data;
        r = item_get(hold->pool, text, &item);
        if (r < 0)
                return r;
        if (!list_is_empty(&item->holds))
                log_message(claim->lease->leases->journal, LOG_WARNING,
                            "connection %" PRIx64
                            ": %s of the pool %s is another's as well, as the ledger has it; it is free "
                            "when both have given it back",
                            claim->lease->subject.id, text, claim->name);
        take(hold, item);
        return 0;
}

/* ---- what they share ---- */

static bool is_pool(const struct resource_config *resource)
{
        return resource->kind == RESOURCE_POOL;
}

/* Makes what is new. It is not in the pool yet: what fails later leaves nothing. */
static int prepare_items(struct leases *leases, const struct resource_config *resource)
{
        struct pool *pool;
        struct item *item;
        int r = pool_get(leases, resource->name, &pool);

        for (char **text = resource->items; r == 0 && text && *text; text++)
                r = item_get(pool, *text, &item);
        return r;
}

static void set_items(const struct pools *pools, const struct resource_config *resource)
{
        struct pool *pool = pool_find(pools, resource->name);

        for (char **text = resource->items; text && *text; text++) {
                struct item *item = item_find(pool, *text);
                bool is_fresh = list_is_empty(&item->holds) && item->generation == 0;

                item->generation = pools->generation;
                if (!is_fresh)
                        continue;
                list_unlink(&item->link);
                list_append(&pool->free, &item->link);
                pool->n_free++;
        }
}

static int pool_configure(struct leases *leases, const struct config *config)
{
        struct pools *pools;
        int r = pools_get(leases, &pools);

        if (r < 0)
                return r;
        for (size_t i = 0; r == 0 && i < config->n_resources; i++)
                if (is_pool(config->resources[i]))
                        r = prepare_items(leases, config->resources[i]);
        if (r == 0) {
                pools->generation++;
                for (size_t i = 0; i < config->n_resources; i++)
                        if (is_pool(config->resources[i]))
                                set_items(pools, config->resources[i]);
        }
        list_for_each (node, &pools->all) {
                struct pool *pool = container_of(node, struct pool, link);

                pool_sweep(pool, pools->generation);
                if (pool->items.n_nodes == 0 && pool->n_users == 0)
                        pool_free(pool);
        }
        list_for_each (node, &pools->all)
                pool_serve(container_of(node, struct pool, link));
        return r;
}

static void pool_deinit(struct leases *leases)
{
        struct pools *pools = TAKE_PTR(leases->shared[RESOURCE_POOL]);

        if (!pools)
                return;
        while (!list_is_empty(&pools->all))
                pool_free(container_of(pools->all.next, struct pool, link));
        free(pools);
}

/* ---- the summary ---- */

struct holders {
        struct journal *journal;
        const struct pool *pool;
        size_t length;
        size_t n_lines;
        size_t n_left_out;
        char text[CLAIM_VALUE_MAX + 128];
};

static void holders_flush(struct holders *holders)
{
        if (holders->length > 0)
                log_message(holders->journal, LOG_NOTICE, "summary: pool %s: %s", holders->pool->name,
                            holders->text);
        holders->n_lines += holders->length > 0;
        holders->length = 0;
}

static void holders_add(struct holders *holders, const struct item *item, const struct lease *lease)
{
        char holder[64];
        size_t length = (size_t)snprintf(holder, sizeof(holder), " held by %" PRIx64 "%s", lease->subject.id,
                                         lease->is_settled ? " (quarantined)" : "");

        length += strlen(item->text) + strlen(", ");
        if (holders->length + length > HOLDERS_MAX)
                holders_flush(holders);
        if (holders->n_lines == N_HOLDERS_MAX) {
                holders->n_left_out++;
                return;
        }
        holders->length +=
                (size_t)snprintf(holders->text + holders->length, sizeof(holders->text) - holders->length,
                                 "%s%s%s", holders->length > 0 ? ", " : "", item->text, holder);
}

static void pool_list_holders(const struct pool *pool, struct journal *journal)
{
        struct holders holders = { .journal = journal, .pool = pool };

        list_for_each (node, &pool->taken) {
                const struct item *item = container_of(node, struct item, link);

                list_for_each (hold_node, &item->holds)
                        holders_add(&holders, item, container_of(hold_node, struct hold, link)->claim->lease);
        }
        holders_flush(&holders);
        if (holders.n_left_out > 0)
                log_message(journal, LOG_NOTICE,
                            "summary: pool %s: %zu more, which the records of the leases name", pool->name,
                            holders.n_left_out);
}

static void pool_summarize(const struct leases *leases)
{
        const struct pools *pools = leases->shared[RESOURCE_POOL];

        if (!pools)
                return;
        list_for_each (node, &pools->all) {
                const struct pool *pool = container_of(node, struct pool, link);
                size_t n_removed = 0;

                list_for_each (item_node, &pool->taken)
                        n_removed +=
                                container_of(item_node, struct item, link)->generation != pools->generation;
                log_message(leases->journal, LOG_NOTICE,
                            "summary: pool %s: %zu of %zu items taken, %zu loads wait; %zu items leave when "
                            "they are given back",
                            pool->name, pool->items.n_nodes - pool->n_free, pool->items.n_nodes,
                            pool->n_waiting, n_removed);
                pool_list_holders(pool, leases->journal);
        }
}

const struct resource_type resource_type_pool = {
        .name = "pool",
        .is_recorded = true,
        .is_exclusive = true,
        .prepare = pool_prepare,
        .load = pool_load,
        .release = pool_release,
        .stop = pool_stop,
        .save = pool_save,
        .restore = pool_restore,
        .drop = pool_drop,
        .forget = pool_forget,
        .configure = pool_configure,
        .summarize = pool_summarize,
        .deinit = pool_deinit,
};

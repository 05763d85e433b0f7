/*
 * admission: promises O(1) work for each connection that comes or goes, whatever sources an attacker chooses,
 * and exact limits: in any span of time no more than rate + rate * span are admitted, and nobody who is slower
 * than the rate is turned away. It relies on getentropy(3) for a key that the table's hash is seeded with.
 *
 * The table is a linear hash (Litwin, 1980): it grows by splitting one chain, not by moving everything at once,
 * for which the other connections would have to wait. It deliberately has no timer: what is not needed any more
 * is looked for when somebody comes.
 */
#include "connection/admission.h"

#define CHAINS_MIN 16 /* a power of two */
#define N_DROPS    2

/* Tokens are counted in millionths, for then one microsecond brings exactly `rate` of them. */
#define TOKEN USEC_PER_SEC

struct source_key {
        uint64_t prefix;
        uint32_t scope;
        uint32_t family;
};

struct source_entry {
        struct source_entry *next; /* in its chain */
        struct list link;          /* in sources->idle while it has no connections */
        struct source_key key;
        uint64_t taken_usec; /* when the last token was taken */
        uint64_t missing;    /* from a full bucket, at that time */
        uint32_t n_connections;
};

/* ---- the table ---- */

int sources_init(struct sources *sources)
{
        struct siphash_key key;

        if (getentropy(&key, sizeof(key)) < 0)
                return -errno;
        *sources = (struct sources){ .key = key };
        slab_init(&sources->slab, sizeof(struct source_entry));
        list_init(&sources->idle);
        return 0;
}

/* A power of two. */
static size_t top_bit(size_t n)
{
        return (size_t)1 << (63 - __builtin_clzll(n));
}

/* The chain that `chain` was split from. */
static size_t parent_of(size_t chain)
{
        return chain - top_bit(chain);
}

static size_t chain_of(const struct sources *sources, const struct source_key *key)
{
        uint64_t hash = siphash(&sources->key, key->prefix, (uint64_t)key->scope << 32 | key->family);
        size_t chain = hash & (2 * top_bit(sources->n_chains) - 1);

        /* Half of those numbers may not be split off yet. */
        return chain < sources->n_chains ? chain : parent_of(chain);
}

static struct source_entry *find(const struct sources *sources, const struct source_key *key)
{
        struct source_entry *entry = sources->n_chains > 0 ? sources->chains[chain_of(sources, key)] : NULL;

        while (entry && memcmp(&entry->key, key, sizeof(*key)) != 0)
                entry = entry->next;
        return entry;
}

/* Moves the entries of the chain to where they belong, which may be the same one. */
static void redistribute(struct sources *sources, size_t chain)
{
        struct source_entry *entry = sources->chains[chain];

        sources->chains[chain] = NULL;
        while (entry) {
                struct source_entry *next = entry->next,
                                    **to = &sources->chains[chain_of(sources, &entry->key)];
                entry->next = *to;
                *to = entry;
                entry = next;
        }
}

/* Without memory the table stays as it is, and its chains grow longer. */
static bool resize(struct sources *sources, size_t capacity)
{
        struct source_entry **chains = reallocarray(sources->chains, capacity, sizeof(*chains));

        if (!chains)
                return false;
        sources->chains = chains;
        return true;
}

static void split(struct sources *sources)
{
        size_t last = sources->n_chains;

        if (top_bit(last) == last && !resize(sources, 2 * last))
                return;
        sources->chains[last] = NULL;
        sources->n_chains++;
        redistribute(sources, parent_of(last));
}

static void merge(struct sources *sources)
{
        size_t last = --sources->n_chains;

        redistribute(sources, last);
        if (top_bit(last) == last)
                (void)resize(sources, last);
}

/* NULL when out of memory. */
static struct source_entry *add(struct sources *sources, const struct source_key *key)
{
        if (sources->n_chains == 0) {
                sources->chains = calloc(CHAINS_MIN, sizeof(*sources->chains));
                if (!sources->chains)
                        return NULL;
                sources->n_chains = CHAINS_MIN;
        }
        struct source_entry *entry = slab_alloc(&sources->slab);
        if (!entry)
                return NULL;
        struct source_entry **chain = &sources->chains[chain_of(sources, key)];
        entry->key = *key;
        entry->next = *chain;
        *chain = entry;
        list_init(&entry->link);
        if (++sources->n_entries > sources->n_chains)
                split(sources);
        return entry;
}

static void drop(struct sources *sources, struct source_entry *entry)
{
        struct source_entry **chain = &sources->chains[chain_of(sources, &entry->key)];

        while (*chain != entry)
                chain = &(*chain)->next;
        *chain = entry->next;
        list_unlink(&entry->link);
        slab_free(&sources->slab, entry);
        sources->n_entries--;
        /* Two chains for an entry at most: one that goes takes two of them along. */
        while (sources->n_chains > CHAINS_MIN && sources->n_chains > 2 * sources->n_entries)
                merge(sources);
}

/* Those that were full a second after their last token, whatever the rate: the burst is as much as a second brings. */
static void drop_idle(struct sources *sources, uint64_t now_usec)
{
        for (unsigned i = 0; i < N_DROPS && !list_is_empty(&sources->idle); i++) {
                struct source_entry *entry = container_of(sources->idle.next, struct source_entry, link);

                if (now_usec < deadline_after(entry->taken_usec, USEC_PER_SEC))
                        return;
                drop(sources, entry);
        }
}

void sources_deinit(struct sources *sources)
{
        list_for_each (node, &sources->idle)
                drop(sources, container_of(node, struct source_entry, link));
        assert(sources->n_entries == 0);
        free(sources->chains);
        slab_deinit(&sources->slab);
}

/* ---- limits ---- */

static struct source_key key_of(const struct peer *peer)
{
        const struct address *address = peer->address;
        struct source_key key = { .family = address->family };

        switch (address->family) {
        case AF_INET:
                memcpy(&key.prefix, address->ip, 4);
                break;
        case AF_INET6:
                memcpy(&key.prefix, address->ip, 8); /* the /64 */
                key.scope = address->scope;
                break;
        case AF_UNIX:
                key.prefix = peer->uid;
                break;
        default:
                break;
        }
        return key;
}

/* What the bucket lacks now. The rate may have changed since the last token was taken. */
static uint64_t missing_now(const struct source_entry *entry, uint64_t now_usec, uint64_t rate)
{
        uint64_t missing = MIN(entry->missing, rate * TOKEN);
        uint64_t filled = MIN(now_usec - entry->taken_usec, USEC_PER_SEC) * rate;

        return missing > filled ? missing - filled : 0;
}

static bool is_limited(const struct source_entry *entry, uint64_t now_usec, uint64_t max, uint64_t rate)
{
        if (entry->n_connections >= max)
                return true;
        return rate != UINT64_MAX && missing_now(entry, now_usec, rate) + TOKEN > rate * TOKEN;
}

static int sources_admit(struct sources *sources, const struct source_key *key, uint64_t now_usec,
                         uint64_t max, uint64_t rate, struct source_entry **ret_entry)
{
        struct source_entry *entry;

        drop_idle(sources, now_usec);
        if (max == UINT64_MAX && rate == UINT64_MAX) {
                *ret_entry = NULL;
                return ADMISSION_GRANTED;
        }
        entry = find(sources, key);
        if (entry && is_limited(entry, now_usec, max, rate))
                return ADMISSION_LIMITED;
        if (!entry)
                entry = add(sources, key);
        if (!entry)
                return -ENOMEM;
        entry->missing = rate != UINT64_MAX ? missing_now(entry, now_usec, rate) + TOKEN : 0;
        entry->taken_usec = now_usec;
        list_unlink(&entry->link);
        if (max != UINT64_MAX)
                entry->n_connections++;
        if (entry->n_connections == 0)
                list_append(&sources->idle, &entry->link);
        *ret_entry = max != UINT64_MAX ? entry : NULL;
        return ADMISSION_GRANTED;
}

void sources_join(struct sources *sources, const struct listener_config *config, const struct peer *peer,
                  uint64_t now_usec, struct source_entry **ret_entry)
{
        struct source_key key = key_of(peer);
        struct source_entry *entry = NULL;

        if (config->max_connections_per_source != UINT64_MAX) {
                entry = find(sources, &key);
                if (!entry && (entry = add(sources, &key)))
                        entry->taken_usec = now_usec;
        }
        if (entry) { /* without memory it is not counted: turning it away would be worse */
                list_unlink(&entry->link);
                entry->n_connections++;
        }
        *ret_entry = entry;
}

struct source_entry *sources_find(const struct sources *sources, const struct peer *peer)
{
        struct source_key key = key_of(peer);

        return find(sources, &key);
}

void sources_leave(struct sources *sources, struct source_entry *entry)
{
        if (!entry)
                return;
        assert(entry->n_connections > 0);
        if (--entry->n_connections > 0)
                return;
        list_append(&sources->idle, &entry->link);
        if (entry->missing == 0)
                drop(sources, entry);
}

/* ---- all ---- */

int admission_decide(struct sources *sources, const struct listener_config *config, const struct peer *peer,
                     uint64_t now_usec, struct source_entry **ret_entry)
{
        struct source_key key = key_of(peer);

        if (rules_match(&config->deny, peer) || (config->allow.n > 0 && !rules_match(&config->allow, peer)))
                return ADMISSION_DENIED;
        return sources_admit(sources, &key, now_usec, config->max_connections_per_source,
                             config->accept_rate_per_source, ret_entry);
}

size_t sources_check(const struct sources *sources)
{
        size_t n = 0, n_idle = 0, n_listed = 0, longest = 0;

        for (size_t i = 0; i < sources->n_chains; i++) {
                size_t before = n;
                for (const struct source_entry *entry = sources->chains[i]; entry; entry = entry->next) {
                        assert(chain_of(sources, &entry->key) == i && find(sources, &entry->key) == entry);
                        assert((entry->n_connections == 0) == list_is_linked(&entry->link));
                        assert(entry->n_connections > 0 || entry->missing > 0);
                        n_idle += entry->n_connections == 0;
                        n++;
                }
                longest = MAX(longest, n - before);
        }
        list_for_each (node, &sources->idle)
                n_listed++;
        assert(n_idle == n_listed && n == sources->n_entries && n == sources->slab.n_objects);
        assert(n <= sources->n_chains && sources->n_chains <= MAX((size_t)CHAINS_MIN, 2 * n));
        return longest;
}

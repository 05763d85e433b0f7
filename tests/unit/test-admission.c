/*
 * What connection/admission promises: the rules in their order, limits that are exact to the microsecond, sources
 * as interface.md groups them, and memory that comes back. The naive twin is an array of buckets that are all
 * filled whenever time goes on, with a counter of connections each.
 */
#include "aborts.h"
#include "random.h"
#include "unit.h"

#include "connection/admission.h"
#include <arpa/inet.h>
#include <malloc.h>
#include <sys/resource.h>

#define TOKEN      USEC_PER_SEC
#define NONE       UINT64_MAX
#define CHAINS_MIN 16

static struct sources sources;
static struct listener_config config;

static void open_sources(uint64_t max, uint64_t rate)
{
        ck_assert_int_eq(sources_init(&sources), 0);
        config =
                (struct listener_config){ .max_connections_per_source = max, .accept_rate_per_source = rate };
}

static int ask(const struct address *address, uid_t uid, uint64_t now_usec, struct source_entry **ret_entry)
{
        const struct peer peer = { .address = address, .uid = uid, .gid = (gid_t)-1 };

        int r = admission_decide(&sources, &config, &peer, now_usec, ret_entry);

        if (r == ADMISSION_GRANTED && *ret_entry)
                ck_assert_ptr_eq(sources_find(&sources, &peer), *ret_entry);
        return r;
}

/* NULL: a UNIX peer */
static struct address address_of(const char *ip, uint32_t scope)
{
        union address_socket s = { .sa = { .sa_family = AF_UNIX } };
        struct address address;

        if (ip && strchr(ip, ':')) {
                s.in6.sin6_family = AF_INET6;
                s.in6.sin6_scope_id = scope;
                ck_assert_int_eq(inet_pton(AF_INET6, ip, &s.in6.sin6_addr), 1);
        } else if (ip) {
                s.in.sin_family = AF_INET;
                ck_assert_int_eq(inet_pton(AF_INET, ip, &s.in.sin_addr), 1);
        }
        address_from_socket(&address, &s, sizeof(s));
        return address;
}

/* The n-th IPv4 address. */
static struct address ipv4(uint32_t n)
{
        n = htonl(n);
        struct address address = { .family = AF_INET };

        memcpy(address.ip, &n, sizeof(n));
        return address;
}

/* ---- the hash ---- */

/* The 17th of the vectors that the authors publish: bytes 0, 1, 2 … as key and as message. */
START_TEST(test_siphash)
{
        const struct siphash_key key = { UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908) };

        ck_assert_uint_eq(siphash(&key, UINT64_C(0x0706050403020100), UINT64_C(0x0f0e0d0c0b0a0908)),
                          UINT64_C(0x3f2acc7f57c29bdb));
}
END_TEST

/* ---- rules ---- */

static void add_rules(struct rules *rules, const char *list)
{
        char text[128], reason[RULE_REASON_MAX] = "";

        rules_deinit(rules);
        (void)strcpy(text, list);
        for (char *p = text, *item = strsep(&p, " "); item && *item != '\0'; item = strsep(&p, " "))
                ck_assert_msg(rules_add(rules, item, reason) == 0, "%s: %s", item, reason);
}

START_TEST(test_rules)
{
        static const struct {
                const char *allow, *deny, *ip; /* no ip: a UNIX peer of uid 5 */
                enum admission expected;
        } rows[] = {
                { "", "", "192.0.2.7", ADMISSION_GRANTED },
                { "", "", NULL, ADMISSION_GRANTED },
                { "10.0.0.0/8", "", "10.1.2.3", ADMISSION_GRANTED },
                { "10.0.0.0/8", "", "::ffff:10.1.2.3", ADMISSION_GRANTED },
                { "10.0.0.0/8", "", "11.1.2.3", ADMISSION_DENIED },
                { "10.0.0.0/8", "", "::1", ADMISSION_DENIED },
                { "10.0.0.0/8", "", NULL, ADMISSION_DENIED }, /* allow names no UNIX peer */
                { "uid:5", "", "10.1.2.3", ADMISSION_DENIED },
                { "uid:5", "", NULL, ADMISSION_GRANTED },
                { "uid:6", "", NULL, ADMISSION_DENIED },
                { "uid:5 10.0.0.0/8", "", "10.1.2.3", ADMISSION_GRANTED },
                { "uid:5 10.0.0.0/8", "", NULL, ADMISSION_GRANTED },
                { "", "10.0.0.0/8", "10.1.2.3", ADMISSION_DENIED },
                { "", "10.0.0.0/8", "11.1.2.3", ADMISSION_GRANTED },
                { "", "10.0.0.0/8", NULL, ADMISSION_GRANTED }, /* deny names those who may not */
                { "", "uid:5", NULL, ADMISSION_DENIED },
                { "", "uid:5", "10.1.2.3", ADMISSION_GRANTED },
                { "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", ADMISSION_DENIED },
                { "10.0.0.0/8", "10.1.0.0/16", "10.2.2.3", ADMISSION_GRANTED },
                { "10.1.0.0/16", "10.0.0.0/8", "10.1.2.3", ADMISSION_DENIED },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct address address = address_of(rows[i].ip, 0);
                struct source_entry *entry = NULL;

                open_sources(1, NONE);
                add_rules(&config.allow, rows[i].allow);
                add_rules(&config.deny, rows[i].deny);
                ck_assert_msg(ask(&address, 5, 1, &entry) == (int)rows[i].expected, "row %zu", i);
                /* Who is denied takes no room, who is not has the only place. */
                ck_assert((entry != NULL) == (rows[i].expected == ADMISSION_GRANTED));
                ck_assert_uint_eq(sources.n_entries, entry != NULL);
                ck_assert_int_eq(ask(&address, 5, 1, &entry), entry ? ADMISSION_LIMITED : ADMISSION_DENIED);
                sources_leave(&sources, entry);
                sources_deinit(&sources);
                rules_deinit(&config.allow);
                rules_deinit(&config.deny);
        }
}
END_TEST

/* ---- sources ---- */

START_TEST(test_same_source)
{
        static const struct {
                const char *a, *b;
                uint32_t a_id, b_id; /* scope, or uid without an address */
                bool is_same;
        } rows[] = {
                { "192.0.2.7", "192.0.2.7", 0, 0, true },
                { "192.0.2.7", "192.0.2.8", 0, 0, false },
                { "192.0.2.7", "::ffff:192.0.2.7", 0, 0, true },
                { "::ffff:192.0.2.7", "::ffff:192.0.2.8", 0, 0, false },
                { "2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", 0, 0, true },
                { "2001:db8::1", "2001:db8:0:1::1", 0, 0, false },
                { "fe80::1", "fe80::2", 3, 3, true },
                { "fe80::1", "fe80::1", 3, 4, false },
                { "0.0.0.0", "::", 0, 0, false },
                { NULL, NULL, 0, 0, true },
                { NULL, NULL, 0, 1, false },
                { NULL, "0.0.0.0", 0, 0, false },
                { NULL, "::", 0, 0, false },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct address a = address_of(rows[i].a, rows[i].a_id),
                               b = address_of(rows[i].b, rows[i].b_id);
                struct source_entry *first = NULL, *second = NULL;

                a.port = 1;
                b.port = 2;
                open_sources(1, NONE);
                ck_assert_int_eq(ask(&a, rows[i].a_id, 0, &first), ADMISSION_GRANTED);
                ck_assert_msg(ask(&b, rows[i].b_id, 0, &second) ==
                                      (rows[i].is_same ? ADMISSION_LIMITED : ADMISSION_GRANTED),
                              "row %zu", i);
                sources_leave(&sources, first);
                sources_leave(&sources, second);
                sources_deinit(&sources);
        }
}
END_TEST

START_TEST(test_max)
{
        struct source_entry *entries[4] = { NULL };
        struct address address = address_of("192.0.2.7", 0);

        open_sources(3, NONE);
        for (unsigned round = 0; round < 3; round++) {
                for (unsigned i = 0; i < 3; i++)
                        ck_assert_int_eq(ask(&address, 0, 0, &entries[i]), ADMISSION_GRANTED);
                ck_assert_int_eq(ask(&address, 0, 0, &entries[3]), ADMISSION_LIMITED);
                ck_assert_int_eq(ask(&address, 0, USEC_PER_SEC, &entries[3]), ADMISSION_LIMITED);
                ck_assert_ptr_null(entries[3]);
                sources_leave(&sources, entries[0]);
                ck_assert_int_eq(ask(&address, 0, 0, &entries[0]), ADMISSION_GRANTED);
                ck_assert_uint_eq(sources.n_entries, 1);
                for (unsigned i = 0; i < 3; i++)
                        sources_leave(&sources, entries[i]);
                ck_assert_uint_eq(sources.n_entries, 0); /* at once: it has no bucket */
        }
        sources_deinit(&sources);
}
END_TEST

START_TEST(test_unlimited)
{
        open_sources(NONE, NONE);
        for (uint32_t i = 0; i < 1000; i++) {
                struct address address = ipv4(i % 10);
                struct source_entry *entry = (void *)&address; /* not NULL */

                ck_assert_int_eq(ask(&address, 0, i, &entry), ADMISSION_GRANTED);
                ck_assert_ptr_null(entry);
                sources_leave(&sources, entry);
        }
        ck_assert(sources.n_entries == 0 && !sources.chains && sources.slab.n_chunks == 0);
        sources_deinit(&sources);
}
END_TEST

/* A reload changes limits while there are connections; each leaves as it came. */
START_TEST(test_reload)
{
        struct address address = address_of("192.0.2.7", 0);
        struct source_entry *before = NULL, *during = NULL, *after = NULL;

        open_sources(NONE, NONE);
        ck_assert_int_eq(ask(&address, 0, 0, &before), ADMISSION_GRANTED);
        config.max_connections_per_source = 1;
        ck_assert_int_eq(ask(&address, 0, 0, &during), ADMISSION_GRANTED); /* `before` was not counted */
        sources_leave(&sources, before);
        ck_assert_int_eq(ask(&address, 0, 0, &after), ADMISSION_LIMITED);
        config.max_connections_per_source = NONE;
        config.accept_rate_per_source = 1000;
        for (unsigned i = 0; i < 1000; i++)
                ck_assert_int_eq(ask(&address, 0, 0, &after), ADMISSION_GRANTED);
        ck_assert_ptr_null(after);
        ck_assert_int_eq(ask(&address, 0, 0, &after), ADMISSION_LIMITED);
        sources_check(&sources);

        /* At the lower rate the bucket is as empty as it can be, and full after a second. */
        config.accept_rate_per_source = 2;
        ck_assert_int_eq(ask(&address, 0, 499999, &after), ADMISSION_LIMITED);
        ck_assert_int_eq(ask(&address, 0, 500000, &after), ADMISSION_GRANTED);
        ck_assert_int_eq(ask(&address, 0, 500000, &after), ADMISSION_LIMITED);

        config.accept_rate_per_source = NONE;
        config.max_connections_per_source = 1;
        ck_assert_int_eq(ask(&address, 0, 500000, &after), ADMISSION_LIMITED); /* `during` */
        sources_leave(&sources, during);
        sources_check(&sources);
        ck_assert_int_eq(ask(&address, 0, 500000, &after), ADMISSION_GRANTED);
        sources_leave(&sources, after);
        ck_assert_uint_eq(sources.n_entries, 0);

        /* What a rate left behind goes also when there are no limits any more. */
        config.accept_rate_per_source = 5;
        config.max_connections_per_source = NONE;
        ck_assert_int_eq(ask(&address, 0, 500000, &after), ADMISSION_GRANTED);
        config.accept_rate_per_source = NONE;
        ck_assert_int_eq(ask(&address, 0, 1499999, &after), ADMISSION_GRANTED);
        ck_assert_uint_eq(sources.n_entries, 1);
        ck_assert_int_eq(ask(&address, 0, 1500000, &after), ADMISSION_GRANTED);
        ck_assert_uint_eq(sources.n_entries, 0);
        sources_deinit(&sources);
}
END_TEST

/* ---- rates ---- */

/*
 * Somebody who tries all the time gets the burst and then exactly the rate. (Not at 1 a second, whose bucket is
 * full, and runs over, before the next attempt comes.)
 */
START_TEST(test_rate_flood)
{
        static const uint64_t rates[] = { 2, 3, 7, 10, 1000, 9973 };
        struct address address = address_of("192.0.2.7", 0);

        for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
                uint64_t rate = rates[i], start = 1000000007, n = 0;
                struct source_entry *entry;

                open_sources(NONE, rate);
                for (uint64_t now = 0; now <= 3 * USEC_PER_SEC; now += 997) {
                        while (ask(&address, 0, start + now, &entry) == ADMISSION_GRANTED)
                                n++;
                        ck_assert_uint_eq(n, rate + rate * now / USEC_PER_SEC);
                }
                sources_deinit(&sources);
        }
}
END_TEST

/* Somebody who keeps to the rate is never turned away; one microsecond too early, he is. */
START_TEST(test_rate_steady)
{
        static const uint64_t rates[] = { 1, 2, 3, 7, 1000, 3333, 1000000, UINT32_MAX };
        struct address address = address_of("192.0.2.7", 0);
        struct source_entry *entry;

        for (size_t i = 0; i < ARRAY_SIZE(rates); i++) {
                uint64_t rate = rates[i], start = 77, burst = MIN(rate, UINT64_C(10000));

                open_sources(NONE, rate);
                for (uint64_t n = 0; n < burst; n++)
                        ck_assert_int_eq(ask(&address, 0, start, &entry), ADMISSION_GRANTED);
                for (uint64_t n = 1; rate <= 10000 && n <= 5000; n++) {
                        uint64_t due = start + (n * USEC_PER_SEC + rate - 1) / rate;
                        ck_assert_int_eq(ask(&address, 0, due - 1, &entry), ADMISSION_LIMITED);
                        ck_assert_int_eq(ask(&address, 0, due, &entry), ADMISSION_GRANTED);
                }
                sources_deinit(&sources);
        }
}
END_TEST

/* In any span of time, not only from the start. */
START_TEST(test_rate_any_span)
{
        struct address address = address_of("2001:db8::1", 0);
        uint64_t granted[2000], now = 0, rate = 13;
        struct source_entry *entry;
        size_t n = 0;

        random_seed();
        open_sources(NONE, rate);
        while (n < ARRAY_SIZE(granted)) {
                now += random_below(40) == 0 ? random_below(2 * USEC_PER_SEC) : random_below(100000);
                if (ask(&address, 0, now, &entry) == ADMISSION_GRANTED)
                        granted[n++] = now;
        }
        for (size_t i = 0; i < n; i++) {
                bool fits = true; /* asserted once: each assertion of Check costs a write */
                for (size_t j = i; j < n; j++)
                        fits &= (j - i + 1) * TOKEN <= rate * TOKEN + rate * (granted[j] - granted[i]);
                ck_assert(fits);
        }
        sources_deinit(&sources);
}
END_TEST

/* ---- the naive twin ---- */

#define N_SOURCES 200

static struct twin {
        uint64_t level; /* of the bucket, in millionths */
        uint64_t n_connections;
} twins[N_SOURCES];

static struct {
        struct source_entry *entry;
        size_t source;
} live[400];

static void fill_twins(uint64_t span_usec)
{
        for (size_t i = 0; i < N_SOURCES; i++)
                for (uint64_t rest = span_usec, part; rest > 0; rest -= part) {
                        part = MIN(rest, USEC_PER_SEC);
                        twins[i].level = MIN(twins[i].level + part * config.accept_rate_per_source,
                                             config.accept_rate_per_source * TOKEN);
                }
}

/* One of the many addresses of the source. */
static struct address any_address(size_t source)
{
        struct address address = { .family = AF_INET6, .port = (uint16_t)random_next() };
        char text[32];

        switch (source % 4) {
        case 0:
                (void)snprintf(text, sizeof(text), "%s192.0.2.%zu", random_below(2) ? "::ffff:" : "", source);
                return address_of(text, 0);
        case 1:
                return address_of(NULL, 0);
        case 2:
                address.scope = (uint32_t)source;
                memcpy(address.ip, "\xfe\x80", 2);
                break;
        default:
                address.ip[0] = 0x20;
                address.ip[7] = (uint8_t)source;
                break;
        }
        for (unsigned i = 8; i < 16; i++)
                address.ip[i] = (uint8_t)random_next();
        return address;
}

static size_t play_admission(size_t n_live, uint64_t now_usec)
{
        bool has_max = config.max_connections_per_source != NONE,
             has_rate = config.accept_rate_per_source != NONE;
        size_t source = random_below(N_SOURCES);
        struct twin *twin = &twins[source];
        struct address address = any_address(source);
        struct source_entry *entry = NULL;
        bool is_limited = (has_max && twin->n_connections >= config.max_connections_per_source) ||
                          (has_rate && twin->level < TOKEN);

        ck_assert_int_eq(ask(&address, (uid_t)source, now_usec, &entry),
                         is_limited ? ADMISSION_LIMITED : ADMISSION_GRANTED);
        ck_assert((entry != NULL) == (has_max && !is_limited));
        if (is_limited)
                return n_live;
        if (has_rate)
                twin->level -= TOKEN;
        twin->n_connections++;
        live[n_live].entry = entry;
        live[n_live].source = source;
        return n_live + 1;
}

static void play(uint64_t max, uint64_t rate, unsigned n_steps)
{
        uint64_t now = random_below(UINT64_C(1) << 50);
        size_t n_live = 0;

        open_sources(max, rate);
        for (size_t i = 0; i < N_SOURCES; i++)
                twins[i] = (struct twin){ .level = rate != NONE ? rate * TOKEN : 0 };
        for (unsigned step = 0; step < n_steps; step++) {
                if (random_below(3) == 0) {
                        uint64_t span = random_below(random_below(100) == 0 ? 3 * USEC_PER_SEC : 20000);
                        now += span;
                        if (rate != NONE)
                                fill_twins(span);
                }
                /* In turns more comes and more goes. */
                if (n_live < ARRAY_SIZE(live) &&
                    (n_live == 0 || random_below(5) < (step / 3000 % 2 ? 2 : 3))) {
                        n_live = play_admission(n_live, now);
                } else {
                        size_t i = random_below(n_live);
                        sources_leave(&sources, live[i].entry);
                        twins[live[i].source].n_connections--;
                        live[i] = live[--n_live];
                }
                if (step % 64 == 0)
                        sources_check(&sources);
                ck_assert_uint_le(sources.n_entries, N_SOURCES);
        }
        while (n_live-- > 0)
                sources_leave(&sources, live[n_live].entry);
        sources_check(&sources);
        ck_assert_uint_eq(sources.n_entries == 0, rate == NONE);
        sources_deinit(&sources);
}

START_TEST(test_twin)
{
        static const uint64_t limits[][2] = { { 3, NONE },  { NONE, 2 }, { 2, 5 },      { 1, 1 },
                                              { NONE, 37 }, { 5, 3000 }, { NONE, NONE } };

        random_seed();
        for (size_t i = 0; i < ARRAY_SIZE(limits); i++)
                play(limits[i][0], limits[i][1], 16000);
}
END_TEST

/* ---- memory ---- */

#define N_MANY 1000000U

static void assert_empty(void)
{
        ck_assert_uint_eq(sources.n_entries, 0);
        ck_assert_uint_eq(sources.n_chains, CHAINS_MIN);
        /* A page is what realloc(3) may leave of a block that was mapped. */
        ck_assert_uint_le(malloc_usable_size(sources.chains), 4096);
        ck_assert_uint_le(sources.slab.n_chunks, 1);
        sources_check(&sources);
}

START_TEST(test_million_connections)
{
        struct source_entry **entries = calloc(N_MANY, sizeof(struct source_entry *));

        ck_assert_ptr_nonnull(entries);
        open_sources(1, NONE);
        for (uint32_t i = 0; i < N_MANY; i++) {
                struct address address = ipv4(i);
                (void)ask(&address, 0, i, &entries[i]);
        }
        ck_assert_uint_eq(sources.n_entries, N_MANY);
        ck_assert_uint_le(sources.slab.n_chunks, N_MANY / 1000); /* 64 bytes each */
        ck_assert_uint_le(sources_check(&sources), 20);
        for (uint32_t i = 0; i < N_MANY; i++)
                sources_leave(&sources, entries[(uint64_t)i * 7 % N_MANY]);
        assert_empty();
        sources_deinit(&sources);
        free(entries);
}
END_TEST

/* A flood of new sources, 10 microseconds apart, leaves no more behind than those of the last second. */
START_TEST(test_million_buckets)
{
        struct source_entry *entry;
        struct address address;
        uint64_t now = 0;
        size_t n_granted = 0, most = 0;

        open_sources(NONE, 2);
        for (uint32_t i = 0; i < N_MANY; i++, now += 10) {
                address = ipv4(i);
                n_granted += ask(&address, 0, now, &entry) == ADMISSION_GRANTED;
                most = MAX(most, sources.n_entries);
        }
        ck_assert_uint_eq(n_granted, N_MANY);
        ck_assert_uint_le(most, 100000);
        sources_check(&sources);
        now += USEC_PER_SEC;
        for (uint32_t i = 0; i < 100000; i++, now += USEC_PER_SEC) { /* each brings one and takes two along */
                address = ipv4(i);
                (void)ask(&address, 0, now, &entry);
        }
        ck_assert_uint_eq(sources.n_entries, 1);
        config.accept_rate_per_source = NONE;
        ck_assert_int_eq(ask(&address, 0, now, &entry), ADMISSION_GRANTED);
        assert_empty();
        sources_deinit(&sources);
}
END_TEST

/* Sources that collide are still told apart; and nobody knows which ones do. */
START_TEST(test_collisions)
{
        static const struct siphash_key known = { 1, 2 };
        struct source_entry *entries[100];
        struct address addresses[100];
        size_t n = 0;

        open_sources(1, NONE);
        ck_assert(sources.key.k0 != 0 && sources.key.k1 != 0);
        uint64_t k0 = sources.key.k0;
        sources.key = known;
        for (uint32_t i = 0; n < ARRAY_SIZE(addresses); i++) {
                uint64_t prefix = 0;
                struct address address = ipv4(i);
                memcpy(&prefix, address.ip, 4);
                if ((siphash(&known, prefix, AF_INET) & 1023) == 0)
                        addresses[n++] = address;
        }
        for (size_t i = 0; i < n; i++)
                ck_assert_int_eq(ask(&addresses[i], 0, 0, &entries[i]), ADMISSION_GRANTED);
        ck_assert_uint_eq(sources_check(&sources), n);
        for (size_t i = 0; i < n; i += 2)
                sources_leave(&sources, entries[i]);
        for (size_t i = 0; i < n; i++)
                ck_assert_int_eq(ask(&addresses[i], 0, 0, &entries[i]),
                                 i % 2 == 0 ? ADMISSION_GRANTED : ADMISSION_LIMITED);
        for (size_t i = 0; i < n; i++)
                sources_leave(&sources, entries[i]);
        assert_empty();
        sources_deinit(&sources);
        open_sources(1, NONE);
        ck_assert(sources.key.k0 != k0);
        sources_deinit(&sources);
}
END_TEST

/* ---- what must not be ---- */

static void deinit_with_one_inside(const void *argument)
{
        struct address address = ipv4(1);
        struct source_entry *entry;

        (void)argument;
        open_sources(1, NONE);
        (void)ask(&address, 0, 0, &entry);
        sources_deinit(&sources);
}

static void leave_twice(const void *argument)
{
        struct address address = ipv4(1);
        struct source_entry *entry;

        (void)argument;
        open_sources(1, 1); /* its bucket keeps the entry */
        (void)ask(&address, 0, 0, &entry);
        sources_leave(&sources, entry);
        sources_leave(&sources, entry);
}

START_TEST(test_asserts)
{
        ck_assert(aborts(deinit_with_one_inside, NULL));
        ck_assert(aborts(leave_twice, NULL));
}
END_TEST

/* Without memory for more nobody new is admitted; those that are known are served, and nothing is lost. */
START_TEST(test_out_of_memory)
{
        static struct source_entry *entries[4096];
        struct source_entry *entry = NULL;
        struct rlimit limit;
        uint32_t n = 0;
        int r;

        open_sources(2, NONE);
        ck_assert_int_eq(getrlimit(RLIMIT_AS, &limit), 0);
        const struct rlimit little = { .rlim_cur = 4096, .rlim_max = limit.rlim_max };
        ck_assert_int_eq(setrlimit(RLIMIT_AS, &little), 0);
        do {
                struct address address = ipv4(n);
                r = ask(&address, 0, 0, &entries[n]);
        } while (r == ADMISSION_GRANTED && ++n < ARRAY_SIZE(entries));
        struct address known = ipv4(0);
        int r_known = n > 0 ? ask(&known, 0, 0, &entry) : ADMISSION_GRANTED;
        ck_assert_int_eq(setrlimit(RLIMIT_AS, &limit), 0);

        ck_assert_int_eq(r, -ENOMEM);
        ck_assert_int_eq(r_known, ADMISSION_GRANTED);
        ck_assert_uint_eq(sources.n_entries, n);
        struct address address = ipv4(n);
        ck_assert_int_eq(ask(&address, 0, 0, &entries[n]), ADMISSION_GRANTED);
        sources_check(&sources);
        sources_leave(&sources, entry);
        for (uint32_t i = 0; i <= n; i++)
                sources_leave(&sources, entries[i]);
        assert_empty();
        sources_deinit(&sources);
}
END_TEST

UNIT_MAIN("admission", test_siphash, test_rules, test_same_source, test_max, test_unlimited, test_reload,
          test_rate_flood, test_rate_steady, test_rate_any_span, test_twin, test_million_connections,
          test_million_buckets, test_collisions, test_asserts, test_out_of_memory)

/*
 * What resource/pool promises: an item is one connection's only, waiters get theirs in the order in which they came,
 * whatever reloads, deaths, quarantines and crashes come in between. A naive twin that knows only arrays says what
 * must have become of everybody.
 */
#include "fake.h"

#include "resource/ledger.h"
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#define S USEC_PER_SEC

static char directory[64]; /* of the ledger, where there is one */
static struct loop *loop;
static struct ledger *ledger;
static struct leases leases;
static struct config config; /* the one in force */

/* ---- what is logged ---- */

enum { N_LINES = 1000 };
static char *lines[N_LINES];
static size_t n_lines;

bool event_is_wanted(const struct journal *journal _unused_, int priority _unused_, bool is_ending _unused_)
{
        return true;
}

static void keep_line(const char *text)
{
        ck_assert_uint_lt(n_lines, N_LINES);
        lines[n_lines] = strdup(text);
        ck_assert_ptr_nonnull(lines[n_lines++]);
}

static void forget_lines(void)
{
        while (n_lines > 0)
                free(lines[--n_lines]);
}

static void summarize(void)
{
        forget_lines();
        leases_summarize(&leases);
}

/* ---- configurations ---- */

static struct resource_config pools[2];
static struct resource_config *resources[2] = { &pools[0], &pools[1] };

/* A pool as a configuration has it; `items` is the test's. */
static void set_pool(struct resource_config *pool, const char *name, char **items)
{
        static char nothing[] = "";

        fake_resource(pool, 'a', RESOURCE_POOL, nothing);
        (void)snprintf(pool->name, sizeof(pool->name), "%s", name);
        pool->items = items;
        pool->when_empty = WHEN_EMPTY_WAIT;
        pool->wait_timeout = 30 * S;
}

static void configure(size_t n_pools)
{
        config.resources = resources;
        config.n_resources = n_pools;
        ck_assert_int_eq(leases_configure(&leases, &config), 0);
}

static void configure_items(char **items)
{
        set_pool(&pools[0], "ports", items);
        configure(1);
}

static void open_leases(void)
{
        leases_init(&leases, loop, NULL, ledger);
}

static void begin(char **items)
{
        fake_pool = &resource_type_pool;
        fake_message = keep_line;
        ck_assert_int_eq(loop_new(&loop), 0);
        open_leases();
        config.n_refs = 1;
        n_load_failed = 0;
        configure_items(items);
}

static void finish(void)
{
        ck_assert_uint_eq(leases.n_leases, 0);
        leases_deinit(&leases);
        ck_assert_uint_eq(n_fakes, 0);
        ck_assert_uint_eq(n_existing, 0);
        ck_assert_uint_eq(config.n_refs, 1);
        ck_assert_uint_eq(wheel_check(loop_wheel(loop)), 0);
        loop = loop_free(loop);
        forget_lines();
}

/* ---- clients ---- */

struct client {
        struct lease *lease;
        struct resource_config pool, behind, *list[2];
        unsigned n_loaded, n_failed;
        enum lease_failure failure;
        bool is_ended;
        void (*then)(struct client *client); /* from inside `loaded` */
};

static void client_end(struct client *client)
{
        static const struct event_ending ending = { .cause = "eof", .operation = "receive" };

        ck_assert(!client->is_ended);
        client->is_ended = true;
        lease_release(client->lease, &ending);
}

static void client_loaded(struct lease *lease _unused_, void *userdata)
{
        struct client *client = userdata;

        ck_assert(!client->is_ended);
        client->n_loaded++;
        if (client->then)
                client->then(client);
}

static void client_failed(struct lease *lease _unused_, enum lease_failure failure, void *userdata)
{
        struct client *client = userdata;

        client->n_failed++;
        client->failure = failure;
        client_end(client);
}

static void client_settled(struct lease *lease, void *userdata)
{
        struct client *client = userdata;

        ck_assert(client->is_ended);
        client->lease = lease_free(lease);
}

static const struct lease_callbacks callbacks = {
        .loaded = client_loaded,
        .failed = client_failed,
        .settled = client_settled,
};

static uint64_t next_id = 1;

static void client_load(struct client *client, size_t n_resources)
{
        char listener[] = "presence";
        struct lease_subject subject = { .id = next_id++, .listener = listener };

        client->list[0] = &client->pool;
        client->list[1] = &client->behind;
        ck_assert_int_eq(lease_new(&client->lease, &leases, &config, client->list, n_resources, &subject,
                                   &callbacks, client),
                         0);
        lease_load(client->lease);
}

/* Of the pool alone. */
static void come(struct client *client, enum when_empty when_empty)
{
        void (*then)(struct client * client) = client->then;

        *client = (struct client){ .then = then };
        set_pool(&client->pool, "ports", NULL);
        client->pool.when_empty = when_empty;
        client_load(client, 1);
}

/* With something behind the pool, which fails to be released when `script` says so. */
static void come_with(struct client *client, char *script)
{
        *client = (struct client){ 0 };
        set_pool(&client->pool, "ports", NULL);
        fake_resource(&client->behind, 'b', RESOURCE_DIRECTORY, script);
        client->behind.release_attempts = 1;
        client_load(client, 2);
}

static const char *item_of(const struct client *client)
{
        return client->lease ? lease_value(client->lease, "ports") : NULL;
}

static bool waits(const struct client *client)
{
        return client->lease && client->lease->claims[0].state == CLAIM_WAITING;
}

static void expect_items(const struct client *clients, size_t n, const char *const *items)
{
        for (size_t i = 0; i < n; i++) {
                const char *item = item_of(&clients[i]);

                if (items[i])
                        ck_assert_msg(item && streq(item, items[i]), "client %zu has %s, not %s", i,
                                      item ? item : "nothing", items[i]);
                else
                        ck_assert_msg(!item, "client %zu has %s", i, item);
        }
}

static void all_end(struct client *clients, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (clients[i].lease)
                        client_end(&clients[i]);
}

#define ITEMS(...)                \
        (char *[])                \
        {                         \
                __VA_ARGS__, NULL \
        }
#define EXPECT(clients, ...)                                                      \
        expect_items(clients, ARRAY_SIZE(((const char *const[]){ __VA_ARGS__ })), \
                     (const char *const[]){ __VA_ARGS__ })

static char a[] = "a", b[] = "b", c[] = "c", d[] = "d";

START_TEST(test_pool_items_in_order)
{
        struct client clients[4] = { 0 };

        begin(ITEMS(c, a, b));
        for (size_t i = 0; i < 3; i++)
                come(&clients[i], WHEN_EMPTY_REJECT);
        EXPECT(clients, "c", "a", "b");
        ck_assert_str_eq(last_output, "took b");
        client_end(&clients[2]);
        client_end(&clients[0]);
        come(&clients[3], WHEN_EMPTY_REJECT);
        EXPECT(clients, NULL, "a", NULL, "b"); /* free for longer than c */
        all_end(clients, 4);
        finish();
}
END_TEST

START_TEST(test_pool_reject)
{
        struct client clients[3] = { 0 };

        begin(ITEMS(a));
        come(&clients[0], WHEN_EMPTY_REJECT);
        come(&clients[1], WHEN_EMPTY_REJECT);
        ck_assert_uint_eq(clients[1].n_failed, 1);
        ck_assert_int_eq(clients[1].failure, LEASE_POOL_EMPTY);
        ck_assert_str_eq(last_reason, "no item is free");
        ck_assert_ptr_null(clients[1].lease);
        client_end(&clients[0]);
        come(&clients[2], WHEN_EMPTY_REJECT);
        EXPECT(clients, NULL, NULL, "a");
        all_end(clients, 3);
        finish();
}
END_TEST

START_TEST(test_pool_first_come_first_served)
{
        struct client clients[6] = { 0 };

        begin(ITEMS(a, b));
        for (size_t i = 0; i < 5; i++)
                come(&clients[i], WHEN_EMPTY_WAIT);
        ck_assert(waits(&clients[2]) && waits(&clients[3]) && waits(&clients[4]));
        client_end(&clients[3]); /* leaves at once */
        client_end(&clients[1]);
        EXPECT(clients, "a", NULL, "b", NULL, NULL);
        come(&clients[5], WHEN_EMPTY_REJECT); /* nor does this one overtake */
        ck_assert_uint_eq(clients[5].n_failed, 1);
        client_end(&clients[2]);
        EXPECT(clients, "a", NULL, NULL, NULL, "b");
        all_end(clients, 6);
        finish();
}
END_TEST

START_TEST(test_pool_wait_timeout)
{
        struct client clients[3] = { 0 };

        begin(ITEMS(a));
        for (size_t i = 0; i < 3; i++)
                come(&clients[i], WHEN_EMPTY_WAIT);
        ck_assert_uint_eq(clients[1].lease->claims[0].timer.deadline_usec, loop_now(loop) + 30 * S);
        timer_arm(loop_wheel(loop), &clients[2].lease->claims[0].timer, loop_now(loop) + 60 * S);
        wheel_run(loop_wheel(loop), loop_now(loop) + 31 * S);
        ck_assert_uint_eq(clients[1].n_failed, 1);
        ck_assert_int_eq(clients[1].failure, LEASE_POOL_EMPTY);
        ck_assert_str_eq(last_reason, "no item became free within wait_timeout");
        client_end(&clients[0]);
        EXPECT(clients, NULL, NULL, "a");
        ck_assert_uint_eq(wheel_next(loop_wheel(loop)), USEC_INFINITY);
        all_end(clients, 3);
        finish();
}
END_TEST

/* ---- reloads ---- */

START_TEST(test_pool_added_item_serves_at_once)
{
        struct client clients[4] = { 0 };

        begin(ITEMS(a));
        for (size_t i = 0; i < 4; i++)
                come(&clients[i], WHEN_EMPTY_WAIT);
        configure_items(ITEMS(a, b, c));
        EXPECT(clients, "a", "b", "c", NULL);
        all_end(clients, 4);
        finish();
}
END_TEST

START_TEST(test_pool_removed_item_leaves)
{
        struct client clients[4] = { 0 };

        begin(ITEMS(a, b, c));
        come(&clients[0], WHEN_EMPTY_REJECT);
        configure_items(ITEMS(c)); /* a is in use, b is not */
        EXPECT(clients, "a");
        summarize();
        ck_assert_str_eq(lines[0],
                         "summary: pool ports: 1 of 2 items taken, 0 loads wait; 1 items leave when "
                         "they are given back");
        come(&clients[1], WHEN_EMPTY_REJECT);
        come(&clients[2], WHEN_EMPTY_WAIT);
        EXPECT(clients, "a", "c", NULL);
        client_end(&clients[0]);
        EXPECT(clients, NULL, "c", NULL);
        client_end(&clients[1]);
        EXPECT(clients, NULL, NULL, "c");
        all_end(clients, 4);
        finish();
}
END_TEST

START_TEST(test_pool_removed_and_added_again)
{
        struct client clients[2] = { 0 };

        begin(ITEMS(a, b));
        come(&clients[0], WHEN_EMPTY_REJECT);
        configure_items(ITEMS(b));
        configure_items(ITEMS(a));
        come(&clients[1], WHEN_EMPTY_WAIT);
        EXPECT(clients, "a", NULL);
        client_end(&clients[0]);
        EXPECT(clients, NULL, "a");
        all_end(clients, 2);
        finish();
}
END_TEST

static size_t n_pools_summarized(void)
{
        size_t n = 0;

        summarize();
        for (size_t i = 0; i < n_lines; i++)
                n += strstr(lines[i], "items taken") != NULL;
        return n;
}

/* Who was born with a pool that the configuration does not have any more. */
START_TEST(test_pool_removed)
{
        struct client clients[3] = { 0 };

        begin(ITEMS(a));
        come(&clients[0], WHEN_EMPTY_WAIT);
        come(&clients[1], WHEN_EMPTY_WAIT);
        configure(0);
        ck_assert_uint_eq(n_pools_summarized(), 1);
        client_end(&clients[0]);
        ck_assert(waits(&clients[1]));
        client_end(&clients[1]);
        configure(0);
        ck_assert_uint_eq(n_pools_summarized(), 0);
        come(&clients[2], WHEN_EMPTY_REJECT);
        ck_assert_int_eq(clients[2].failure, LEASE_POOL_EMPTY);
        configure_items(ITEMS(b));
        come(&clients[2], WHEN_EMPTY_REJECT);
        EXPECT(clients, NULL, NULL, "b");
        all_end(clients, 3);
        finish();
}
END_TEST

/* Pools do not know each other's items. */
START_TEST(test_pool_two)
{
        struct client clients[2] = { 0 };
        char *items[] = { a, NULL };

        begin(items);
        set_pool(&pools[1], "lines", items);
        configure(2);
        come(&clients[0], WHEN_EMPTY_REJECT);
        set_pool(&clients[1].pool, "lines", NULL);
        client_load(&clients[1], 1);
        EXPECT(clients, "a");
        ck_assert_str_eq(lease_value(clients[1].lease, "lines"), "a");
        all_end(clients, 2);
        finish();
}
END_TEST

/* ---- quarantine ---- */

START_TEST(test_pool_quarantine_keeps_the_item)
{
        struct client clients[2] = { 0 };
        char fails[] = "o/f";
        struct lease *lease;

        begin(ITEMS(a));
        come_with(&clients[0], fails);
        lease = clients[0].lease;
        client_end(&clients[0]);
        ck_assert_ptr_null(clients[0].lease);
        ck_assert_uint_eq(leases.n_quarantined, 1);
        come(&clients[1], WHEN_EMPTY_WAIT);
        summarize();
        ck_assert_ptr_nonnull(strstr(lines[1], "summary: pool ports: a held by "));
        ck_assert_ptr_nonnull(strstr(lines[1], " (quarantined)"));
        leases_retry(&leases); /* in vain */
        ck_assert(waits(&clients[1]));

        ((struct fake *)lease->claims[1].data)->release = 'o';
        leases_retry(&leases);
        EXPECT(clients, NULL, "a");
        all_end(clients, 2);
        finish();
}
END_TEST

/* What could not be loaded and was never there lets go of the item at once. */
START_TEST(test_pool_load_behind_it_fails)
{
        struct client clients[2] = { 0 };
        char fails[] = "s/o";

        begin(ITEMS(a));
        come_with(&clients[0], fails);
        ck_assert_int_eq(clients[0].failure, LEASE_LOAD_FAILED);
        come(&clients[1], WHEN_EMPTY_REJECT);
        EXPECT(clients, NULL, "a");
        all_end(clients, 2);
        finish();
}
END_TEST

/* ---- what runs inside ---- */

/* Thousands wait for one item, and each is gone as soon as it has it: the stack stays flat, the order stays. */
START_TEST(test_pool_is_no_recursion)
{
        enum { N = 20000 };
        static struct client clients[N];

        begin(ITEMS(a));
        come(&clients[0], WHEN_EMPTY_WAIT);
        for (size_t i = 1; i < N; i++) {
                clients[i].then = client_end;
                come(&clients[i], WHEN_EMPTY_WAIT);
        }
        client_end(&clients[0]);
        for (size_t i = 0; i < N; i++)
                ck_assert(clients[i].n_loaded == 1 && !clients[i].lease);
        finish();
}
END_TEST

static struct client bystanders[3];

/* One comes that would not wait, one that would, and one that waited goes. */
static void bustle(struct client *client _unused_)
{
        come(&bystanders[0], WHEN_EMPTY_REJECT);
        come(&bystanders[1], WHEN_EMPTY_WAIT);
        client_end(&bystanders[2]);
}

START_TEST(test_pool_bustle_while_it_serves)
{
        struct client clients[3] = { 0 };

        begin(ITEMS(a));
        come(&clients[0], WHEN_EMPTY_WAIT);
        clients[1].then = bustle;
        come(&clients[1], WHEN_EMPTY_WAIT);
        come(&bystanders[2], WHEN_EMPTY_WAIT);
        come(&clients[2], WHEN_EMPTY_WAIT);
        configure_items(ITEMS(a, b, c));
        /* b to the first who waited; then two wait and only c is free, so the one that comes is refused. */
        EXPECT(clients, "a", "b", "c");
        ck_assert_uint_eq(bystanders[0].n_failed, 1);
        ck_assert(waits(&bystanders[1]));
        ck_assert_ptr_null(bystanders[2].lease);
        all_end(clients, 3);
        EXPECT(bystanders, NULL, "a");
        all_end(bystanders, 2);
        finish();
}
END_TEST

static void another_comes(struct client *client _unused_)
{
        come(&bystanders[0], WHEN_EMPTY_REJECT);
}

/* What is free beyond those who wait is there for who comes just now. */
START_TEST(test_pool_more_is_free_than_wait)
{
        struct client clients[3] = { 0 };

        begin(ITEMS(a));
        come(&clients[0], WHEN_EMPTY_WAIT);
        clients[1].then = another_comes;
        come(&clients[1], WHEN_EMPTY_WAIT);
        come(&clients[2], WHEN_EMPTY_WAIT);
        configure_items(ITEMS(a, b, c, d));
        EXPECT(clients, "a", "b", "d");
        EXPECT(bystanders, "c");
        all_end(clients, 3);
        all_end(bystanders, 1);
        finish();
}
END_TEST

static void unlike(char **items, size_t n)
{
        for (size_t i = 0; i < n; i++)
                ck_assert_int_gt(asprintf(&items[i], "%zu", 10000 + i), 0);
}

static void free_items(char **items, size_t n)
{
        for (size_t i = 0; i < n; i++)
                free(items[i]);
}

/* As many items as waiters: where anything looks through either, this does not end within the time of a test. */
START_TEST(test_pool_many)
{
        enum { N_MAX = 100000 };
        static struct client clients[2 * N_MAX];
        static char *items[N_MAX + 1];
        size_t n = getenv("RUNS_UNDER_VALGRIND") ? 5000 : N_MAX;

        unlike(items, n);
        begin(items);
        for (size_t i = 0; i < 2 * n; i++)
                come(&clients[i], WHEN_EMPTY_WAIT);
        configure_items(items);
        for (size_t i = 0; i < n / 2; i++) {
                client_end(&clients[2 * n - 1 - i]); /* the last one that waits */
                client_end(&clients[i]);
                if (!streq(item_of(&clients[n + i]), items[i]))
                        ck_abort_msg("the first one that waits got something else");
        }
        all_end(clients, 2 * n);
        finish();
        free_items(items, n);
}
END_TEST

/* ---- the ledger ---- */

static void begin_with_ledger(char **items)
{
        begin(items);
        leases_deinit(&leases);
        (void)strcpy(directory, "/tmp/test-pool-XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(directory));
        ck_assert_int_eq(ledger_open(&ledger, loop, directory, directory), 0);
        open_leases();
        configure_items(items);
}

static int remove_one(const char *path, const struct stat *st _unused_, int flag _unused_,
                      struct FTW *ftw _unused_)
{
        return remove(path);
}

static void finish_with_ledger(void)
{
        char path[128];
        struct stat st;

        (void)snprintf(path, sizeof(path), "%s/leases", directory);
        ck_assert_int_eq(stat(path, &st), 0);
        finish();
        ledger = ledger_free(ledger);
        ck_assert_int_eq(nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
}

/* SIGKILL, and the next start up to where it looks into the ledger. */
static void crash(size_t n_pools)
{
        (void)leases_abandon(&leases);
        leases_deinit(&leases);
        ck_assert_uint_eq(n_existing, 0);
        open_leases();
        configure(n_pools);
}

enum { N_FOUND_MAX = 100 };
static struct client found[N_FOUND_MAX];
static size_t n_found;

static void is_found(struct lease *lease, void *userdata _unused_)
{
        struct client *client = &found[n_found++];

        ck_assert_uint_le(n_found, N_FOUND_MAX);
        *client = (struct client){ .lease = lease };
        lease_set_callbacks(lease, &callbacks, client);
}

static void restore(void)
{
        n_found = 0;
        ck_assert_int_eq(ledger_restore(ledger, &leases, NULL, is_found, NULL), 0);
}

START_TEST(test_pool_restored_item_is_taken)
{
        struct client clients[3] = { 0 };

        begin_with_ledger(ITEMS(a, b));
        come(&clients[0], WHEN_EMPTY_WAIT);
        come(&clients[1], WHEN_EMPTY_WAIT);
        come(&clients[2], WHEN_EMPTY_WAIT); /* it waits: nothing to restore */
        client_end(&clients[0]);
        EXPECT(clients, NULL, "b", "a");
        crash(1);
        restore();
        ck_assert_uint_eq(n_found, 2);
        EXPECT(found, "b", "a");
        for (size_t i = 0; i < 2; i++) {
                ck_assert(lease_is_loaded(found[i].lease));
                lease_take_up(found[i].lease);
        }
        come(&clients[0], WHEN_EMPTY_REJECT);
        ck_assert_int_eq(clients[0].failure, LEASE_POOL_EMPTY);
        come(&clients[0], WHEN_EMPTY_WAIT);
        client_end(&found[1]);
        EXPECT(clients, "a");
        client_end(&found[0]);
        all_end(clients, 1);
        finish_with_ledger();
}
END_TEST

START_TEST(test_pool_restored_waiter_holds_nothing)
{
        struct client clients[2] = { 0 };

        begin_with_ledger(ITEMS(a));
        come(&clients[0], WHEN_EMPTY_WAIT);
        come(&clients[1], WHEN_EMPTY_WAIT);
        crash(1);
        restore();
        EXPECT(found, "a", NULL);
        ck_assert(!lease_is_loaded(found[1].lease));
        client_end(&found[1]);
        client_end(&found[0]);
        come(&clients[0], WHEN_EMPTY_REJECT);
        EXPECT(clients, "a");
        client_end(&clients[0]);
        finish_with_ledger();
}
END_TEST

/* Neither the item nor the pool need be there any more. */
START_TEST(test_pool_restored_item_is_gone)
{
        for (size_t n_pools = 0; n_pools < 2; n_pools++) {
                struct client clients[2] = { 0 };

                begin_with_ledger(ITEMS(a, b));
                come(&clients[0], WHEN_EMPTY_WAIT);
                set_pool(&pools[0], "ports", ITEMS(b));
                crash(n_pools);
                restore();
                EXPECT(found, "a");
                client_end(&found[0]);
                configure_items(ITEMS(b));
                come(&clients[0], WHEN_EMPTY_REJECT);
                come(&clients[1], WHEN_EMPTY_REJECT);
                EXPECT(clients, "b", NULL);
                all_end(clients, 2);
                finish_with_ledger();
        }
}
END_TEST

/* A quarantine outlives a crash, and what retries it. */
START_TEST(test_pool_restored_quarantine)
{
        struct client clients[1] = { 0 };
        char fails[] = "o/f";

        begin_with_ledger(ITEMS(a));
        come_with(&clients[0], fails);
        client_end(&clients[0]);
        crash(1);
        restore();
        for (unsigned i = 0; i < 2; i++) {
                struct lease *lease = found[0].lease;

                if (i == 1)
                        ((struct fake *)lease->claims[1].data)->release = 'o';
                client_end(&found[0]);
                ck_assert_uint_eq(leases.n_quarantined, i == 0);
                come(&clients[0], WHEN_EMPTY_REJECT);
                ck_assert_uint_eq(clients[0].n_loaded, i);
                if (i == 0) {
                        crash(1);
                        restore();
                }
        }
        all_end(clients, 1);
        finish_with_ledger();
}
END_TEST

/* What the record of a connection says becomes that of `as`, with another line for its item. */
static void rewrite(uint64_t id, uint64_t as, const char *item_line, bool is_rebooted)
{
        char path[128], line[512], *text = NULL;
        size_t length = 0;
        FILE *file, *whole = open_memstream(&text, &length);

        (void)snprintf(path, sizeof(path), "%s/leases/%" PRIx64, directory, id);
        file = fopen(path, "re");
        ck_assert(file && whole);
        while (fgets(line, sizeof(line), file))
                if (startswith(line, "connection="))
                        (void)fprintf(whole, "connection=%" PRIx64 "\n", as);
                else if (startswith(line, "boot=") && is_rebooted)
                        (void)fputs("boot=another\n", whole);
                else if (startswith(line, "item="))
                        (void)fprintf(whole, "%s\n", item_line);
                else
                        (void)fputs(line, whole);
        (void)fclose(file);
        (void)fclose(whole);
        (void)snprintf(path, sizeof(path), "%s/leases/%" PRIx64, directory, as);
        file = fopen(path, "we");
        ck_assert(file && fwrite(text, 1, length, file) == length);
        ck_assert_int_eq(fclose(file), 0);
        free(text);
}

/* Two records name the same item: nobody else gets it until both have let go. */
START_TEST(test_pool_restored_twice)
{
        struct client clients[2] = { 0 };
        uint64_t id = next_id;

        begin_with_ledger(ITEMS(a, b));
        come(&clients[0], WHEN_EMPTY_REJECT);
        rewrite(id, id + 1, "item=a", false);
        next_id++;
        crash(1);
        forget_lines();
        restore();
        EXPECT(found, "a", "a");
        ck_assert_uint_eq(n_lines, 1);
        ck_assert_ptr_nonnull(strstr(lines[0], "another's as well"));
        summarize();
        ck_assert_ptr_nonnull(strstr(lines[0], ": 1 of 2 items taken"));
        ck_assert_ptr_nonnull(strstr(lines[1], ": a held by "));
        ck_assert_ptr_nonnull(strstr(lines[1], ", a held by "));
        client_end(&found[1]);
        come(&clients[0], WHEN_EMPTY_REJECT);
        come(&clients[1], WHEN_EMPTY_WAIT);
        EXPECT(clients, "b", NULL);
        client_end(&found[0]);
        EXPECT(clients, "b", "a");
        all_end(clients, 2);
        finish_with_ledger();
}
END_TEST

/* Nothing is guessed: such a record is set aside. */
START_TEST(test_pool_restored_wrong)
{
        static const char *const wrong[] = { "itm=a", "item=", "item=\\x01", "item=a\\x0ab" };

        for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
                struct client clients[1] = { 0 };
                uint64_t id = next_id;

                begin_with_ledger(ITEMS(a));
                come(&clients[0], WHEN_EMPTY_REJECT);
                rewrite(id, id, wrong[i], false);
                crash(1);
                restore();
                ck_assert_msg(n_found == 0, "%s", wrong[i]);
                come(&clients[0], WHEN_EMPTY_REJECT);
                EXPECT(clients, "a");
                client_end(&clients[0]);
                finish_with_ledger();
        }
}
END_TEST

/* What is persistent outlived the reboot, so what it may still use is not given to anybody else. */
START_TEST(test_pool_restored_after_a_reboot)
{
        struct client clients[2] = { 0 };
        char fails[] = "o/f";
        uint64_t id = next_id;

        begin_with_ledger(ITEMS(a));
        set_pool(&clients[0].pool, "ports", NULL);
        fake_resource(&clients[0].behind, 'b', RESOURCE_DIRECTORY, fails);
        clients[0].behind.persistent = true;
        clients[0].behind.release_attempts = 1;
        client_load(&clients[0], 2);
        while (fake_disk(0))
                continue;
        ck_assert_uint_eq(clients[0].n_loaded, 1);
        rewrite(id, id, "item=a", true);
        crash(1);
        restore();
        ck_assert(found[0].lease->is_rebooted);
        client_end(&found[0]);
        ck_assert_uint_eq(leases.n_quarantined, 1);
        come(&clients[1], WHEN_EMPTY_REJECT);
        ck_assert_int_eq(clients[1].failure, LEASE_POOL_EMPTY);
        crash(1);
        restore();
        ((struct fake *)found[0].lease->claims[1].data)->release = 'o';
        client_end(&found[0]);
        come(&clients[1], WHEN_EMPTY_REJECT);
        ck_assert_str_eq(item_of(&clients[1]), "a");
        client_end(&clients[1]);
        finish_with_ledger();
}
END_TEST

/* ---- what waits for the disk ---- */

static void come_persistently(struct client *client)
{
        *client = (struct client){ 0 };
        set_pool(&client->pool, "ports", NULL);
        client->pool.persistent = true;
        client->pool.load_timeout = 7 * S;
        client_load(client, 1);
}

/* It waited, got an item, and does not take it: for that its record would have to be on disk. */
START_TEST(test_pool_intent_does_not_reach_the_disk)
{
        enum { ENDS, TIMES_OUT, FAILS, N_WAYS };

        for (unsigned way = 0; way < N_WAYS; way++) {
                struct client clients[3] = { 0 };

                begin_with_ledger(ITEMS(a));
                come(&clients[0], WHEN_EMPTY_WAIT);
                come_persistently(&clients[1]);
                ck_assert(fake_disk(0)); /* its intent, which it then takes back */
                ck_assert(waits(&clients[1]));
                come(&clients[2], WHEN_EMPTY_WAIT);
                client_end(&clients[0]);
                ck_assert_int_eq(clients[1].lease->claims[0].state, CLAIM_INTENDED);
                ck_assert(waits(&clients[2]));
                if (way == ENDS)
                        client_end(&clients[1]);
                else if (way == TIMES_OUT)
                        wheel_run(loop_wheel(loop), loop_now(loop) + 8 * S);
                else
                        ck_assert(fake_disk(-EIO));
                ck_assert_ptr_null(clients[1].lease);
                ck_assert_uint_eq(clients[1].n_failed, way != ENDS);
                EXPECT(clients, NULL, NULL, "a");
                all_end(clients, 3);
                finish_with_ledger();
        }
}
END_TEST

START_TEST(test_pool_persistent)
{
        struct client clients[2] = { 0 };

        begin_with_ledger(ITEMS(a));
        for (size_t i = 0; i < 2; i++)
                come_persistently(&clients[i]);
        while (fake_disk(0))
                continue;
        ck_assert_uint_eq(clients[0].n_loaded, 1);
        client_end(&clients[0]);
        while (fake_disk(0))
                continue;
        EXPECT(clients, NULL, "a");
        ck_assert_uint_eq(clients[1].n_loaded, 1);
        client_end(&clients[1]);
        finish_with_ledger();
}
END_TEST

/* ---- the summary ---- */

START_TEST(test_pool_summary)
{
        struct client clients[3] = { 0 };
        char expected[128];
        uint64_t id = next_id;

        begin(ITEMS(a, b));
        summarize();
        ck_assert_uint_eq(n_lines, 1);
        for (size_t i = 0; i < 3; i++)
                come(&clients[i], WHEN_EMPTY_WAIT);
        summarize();
        ck_assert_uint_eq(n_lines, 2);
        ck_assert_str_eq(lines[0],
                         "summary: pool ports: 2 of 2 items taken, 1 loads wait; 0 items leave when "
                         "they are given back");
        (void)snprintf(expected, sizeof(expected),
                       "summary: pool ports: a held by %" PRIx64 ", b held by %" PRIx64, id, id + 1);
        ck_assert_str_eq(lines[1], expected);
        all_end(clients, 3);
        finish();
}
END_TEST

static size_t n_holders(void)
{
        size_t n = 0;

        for (size_t i = 0; i < n_lines; i++)
                for (const char *p = lines[i]; (p = strstr(p, " held by ")); p++)
                        n++;
        return n;
}

/* Every holder is in it, up to a bound, in lines that are not too long. */
START_TEST(test_pool_summary_is_bounded)
{
        enum { N = 30000, N_LISTED = 10000 };
        static struct client clients[N];
        static char *items[N + 1];

        unlike(items, N);
        begin(items);
        for (size_t i = 0; i < N_LISTED; i++)
                come(&clients[i], WHEN_EMPTY_REJECT);
        summarize();
        ck_assert_uint_eq(n_holders(), N_LISTED);
        for (size_t i = 0; i < n_lines; i++)
                ck_assert_uint_lt(strlen(lines[i]), 1100);
        for (size_t i = N_LISTED; i < N; i++)
                come(&clients[i], WHEN_EMPTY_REJECT);
        summarize();
        ck_assert_uint_le(n_lines, 502);
        ck_assert_ptr_nonnull(strstr(lines[n_lines - 1], " more, "));
        ck_assert_uint_eq(strtoull(lines[n_lines - 1] + strlen("summary: pool ports: "), NULL, 10),
                          N - n_holders());
        all_end(clients, N);
        finish();
        free_items(items, N);
}
END_TEST

START_TEST(test_pool_summary_of_long_items)
{
        struct client clients[3] = { 0 };
        static char long_a[CLAIM_VALUE_MAX + 1], long_b[CLAIM_VALUE_MAX + 1];

        memset(long_a, 'a', CLAIM_VALUE_MAX);
        memset(long_b, 'b', CLAIM_VALUE_MAX);
        begin(ITEMS(long_a, long_b, c));
        for (size_t i = 0; i < 3; i++)
                come(&clients[i], WHEN_EMPTY_REJECT);
        EXPECT(clients, long_a, long_b, "c");
        summarize();
        ck_assert_uint_eq(n_lines, 4);
        ck_assert_uint_eq(n_holders(), 3);
        all_end(clients, 3);
        finish();
}
END_TEST

/* ---- the twin ---- */

enum { N_ITEMS = 6, N_CLIENTS = 40, N_STEPS = 3000 };

enum fate { ABSENT, WAITING, READY, KEPT }; /* KEPT: it is gone, what stands behind its item is quarantined */

static struct twin {
        struct {
                enum fate fate;
                char *item;
                bool fails_to_load, fails_to_release;
                uint64_t deadline_usec;
                uint64_t id;
        } clients[N_CLIENTS]; /* those who are somewhere, the oldest first */
        size_t order[N_CLIENTS];
        size_t n;
        char *configured[N_ITEMS + 1];
        size_t n_configured;
        char *free[N_ITEMS];
        size_t n_free;
} twin;
static struct client players[N_CLIENTS];
static char item_texts[N_ITEMS][4];

static void twin_remove(size_t i)
{
        size_t k = 0;

        while (twin.order[k] != i)
                ck_assert_uint_lt(++k, twin.n);
        for (twin.n--; k < twin.n; k++)
                twin.order[k] = twin.order[k + 1];
        twin.clients[i].fate = ABSENT;
}

static char *twin_take(size_t i)
{
        char *item = twin.free[i];

        for (twin.n_free--; i < twin.n_free; i++)
                twin.free[i] = twin.free[i + 1];
        return item;
}

static bool twin_has(char *item)
{
        for (size_t i = 0; i < twin.n_configured; i++)
                if (twin.configured[i] == item)
                        return true;
        return false;
}

static bool twin_holds(char *item)
{
        for (size_t k = 0; k < twin.n; k++)
                if (twin.clients[twin.order[k]].fate >= READY && twin.clients[twin.order[k]].item == item)
                        return true;
        return false;
}

static void twin_give_back(size_t i)
{
        char *item = twin.clients[i].item;

        twin_remove(i);
        if (twin_has(item))
                twin.free[twin.n_free++] = item;
}

static void twin_get(size_t i)
{
        twin.clients[i].item = twin_take(0);
        twin.clients[i].fate = READY;
        if (twin.clients[i].fails_to_load)
                twin_give_back(i);
}

static void twin_serve(void)
{
        for (size_t k = 0; k < twin.n && twin.n_free > 0;)
                if (twin.clients[twin.order[k]].fate == WAITING) {
                        twin_get(twin.order[k]);
                        k = 0;
                } else {
                        k++;
                }
}

static uint64_t twin_now; /* what the wheel has seen */

static void play_come(size_t i)
{
        static char *const scripts[] = { "o/o", "o/f", "s/o" };
        struct client *player = &players[i];
        size_t kind = MIN(random_below(6), (uint64_t)5);
        bool may_wait = random_below(4) > 0;
        char *script = scripts[kind < 4 ? 0 : kind - 3];

        twin.clients[i].fails_to_load = script[0] == 's';
        twin.clients[i].fails_to_release = script[2] == 'f';
        twin.clients[i].deadline_usec = twin_now + (1 + random_below(1000)) * S + i * USEC_PER_MSEC;
        twin.clients[i].id = next_id;
        twin.clients[i].fate = WAITING;
        twin.order[twin.n++] = i;
        if (twin.n_free > 0) {
                twin_get(i);
                twin_serve();
        } else if (!may_wait) {
                twin_remove(i);
        }

        *player = (struct client){ 0 };
        set_pool(&player->pool, "ports", NULL);
        player->pool.when_empty = may_wait ? WHEN_EMPTY_WAIT : WHEN_EMPTY_REJECT;
        player->pool.wait_timeout = twin.clients[i].deadline_usec - loop_now(loop);
        fake_resource(&player->behind, 'b', RESOURCE_DIRECTORY, script);
        player->behind.release_attempts = 1;
        client_load(player, 2);
}

static void play_go(size_t i)
{
        if (twin.clients[i].fate == READY && twin.clients[i].fails_to_release)
                twin.clients[i].fate = KEPT;
        else if (twin.clients[i].fate == READY)
                twin_give_back(i);
        else
                twin_remove(i);
        twin_serve();
        client_end(&players[i]);
}

static void play_time(void)
{
        uint64_t next_usec = wheel_next(loop_wheel(loop));

        if (next_usec == USEC_INFINITY)
                return;
        for (size_t i = 0; i < N_CLIENTS; i++)
                if (twin.clients[i].fate == WAITING && twin.clients[i].deadline_usec <= next_usec)
                        twin_remove(i);
        wheel_run(loop_wheel(loop), next_usec);
        twin_now = next_usec;
}

static void play_reload(void)
{
        twin.n_configured = 0;
        for (size_t i = 0; i < N_ITEMS; i++)
                if (random_below(4) > 0)
                        twin.configured[twin.n_configured++] = item_texts[i];
        twin.configured[twin.n_configured] = NULL;
        for (size_t i = 0; i < twin.n_free;)
                if (twin_has(twin.free[i]))
                        i++;
                else
                        (void)twin_take(i);
        for (size_t i = 0; i < twin.n_configured; i++) {
                bool is_free = twin_holds(twin.configured[i]);

                for (size_t k = 0; k < twin.n_free; k++)
                        is_free |= twin.free[k] == twin.configured[i];
                if (!is_free)
                        twin.free[twin.n_free++] = twin.configured[i];
        }
        twin_serve();
        configure_items(twin.configured);
}

static size_t player_of(uint64_t id)
{
        for (size_t i = 0; i < N_CLIENTS; i++)
                if (twin.clients[i].fate != ABSENT && twin.clients[i].id == id)
                        return i;
        ck_abort();
}

/* Some of what is quarantined can be released by now. */
static void play_retry(void)
{
        list_for_each (node, &leases.all) {
                struct lease *lease = container_of(node, struct lease, link);
                size_t i = player_of(lease->subject.id);

                if (twin.clients[i].fate != KEPT || random_below(2) == 0)
                        continue;
                ((struct fake *)lease->claims[1].data)->release = 'o';
                twin.clients[i].fails_to_release = false;
        }
        for (size_t k = 0; k < twin.n;) {
                size_t i = twin.order[k];

                if (twin.clients[i].fate == KEPT && !twin.clients[i].fails_to_release) {
                        twin_give_back(i);
                        twin_serve();
                        k = 0;
                } else {
                        k++;
                }
        }
        leases_retry(&leases);
}

/* Those who wait lose their connection, who is ready goes on, what is quarantined is tried again. */
static void play_crash(void)
{
        twin.n_free = 0;
        for (size_t i = 0; i < N_CLIENTS; i++) {
                players[i].lease = NULL;
                if (twin.clients[i].fate == WAITING)
                        twin_remove(i);
        }
        for (size_t i = 0; i < twin.n_configured; i++)
                if (!twin_holds(twin.configured[i]))
                        twin.free[twin.n_free++] = twin.configured[i];
        crash(1);
        restore();
        for (size_t k = 0; k < n_found; k++) {
                struct lease *lease = found[k].lease;
                struct client *player = &players[0];

                if (!lease_value(lease, "ports")) {
                        client_end(&found[k]);
                        continue;
                }
                player = &players[player_of(lease->subject.id)];
                player->lease = lease;
                player->is_ended = false;
                lease_set_callbacks(lease, &callbacks, player);
                if (twin.clients[player - players].fate == KEPT)
                        client_end(player);
                else
                        lease_take_up(lease);
        }
}

static void check_twin(void)
{
        size_t n_taken = 0, n_waiting = 0;
        char expected[64];

        for (size_t i = 0; i < N_CLIENTS; i++) {
                enum fate fate = twin.clients[i].fate;
                const char *item = item_of(&players[i]);

                n_taken += fate >= READY;
                n_waiting += fate == WAITING;
                ck_assert_msg(waits(&players[i]) == (fate == WAITING), "client %zu", i);
                if (fate == READY)
                        ck_assert_msg(item && streq(item, twin.clients[i].item), "client %zu has %s, not %s",
                                      i, item ? item : "nothing", twin.clients[i].item);
                else
                        ck_assert_ptr_null(item);
        }
        summarize();
        (void)snprintf(expected, sizeof(expected),
                       "summary: pool ports: %zu of %zu items taken, %zu loads wait;", n_taken,
                       n_taken + twin.n_free, n_waiting);
        if (n_lines > 0)
                ck_assert_msg(startswith(lines[0], expected), "%s, not: %s", lines[0], expected);
        else
                ck_assert_uint_eq(n_taken + twin.n_free + n_waiting, 0);
        ck_assert_uint_eq(n_holders(), n_taken);
}

START_TEST(test_pool_twin)
{
        random_seed();
        for (size_t i = 0; i < N_ITEMS; i++)
                (void)snprintf(item_texts[i], sizeof(item_texts[i]), "i%zu", i);
        begin_with_ledger(ITEMS(item_texts[0]));
        twin_now = loop_now(loop);
        play_reload();
        for (unsigned step = 0; step < N_STEPS; step++) {
                size_t i = random_below(N_CLIENTS), what = random_below(40);

                if (what == 0)
                        play_crash();
                else if (what < 4)
                        play_reload();
                else if (what < 6)
                        play_time();
                else if (what < 8)
                        play_retry();
                else if (twin.clients[i].fate == ABSENT)
                        play_come(i);
                else if (twin.clients[i].fate != KEPT && random_below(3) > 0)
                        play_go(i);
                check_twin();
        }
        for (size_t i = 0; i < N_CLIENTS; i++)
                if (twin.clients[i].fate == WAITING || twin.clients[i].fate == READY)
                        play_go(i);
        while (twin.n > 0)
                play_retry();
        check_twin();
        finish_with_ledger();
}
END_TEST

UNIT_MAIN("pool", test_pool_items_in_order, test_pool_reject, test_pool_first_come_first_served,
          test_pool_wait_timeout, test_pool_added_item_serves_at_once, test_pool_removed_item_leaves,
          test_pool_removed_and_added_again, test_pool_removed, test_pool_two,
          test_pool_quarantine_keeps_the_item, test_pool_load_behind_it_fails, test_pool_is_no_recursion,
          test_pool_bustle_while_it_serves, test_pool_more_is_free_than_wait, test_pool_many,
          test_pool_restored_item_is_taken, test_pool_restored_waiter_holds_nothing,
          test_pool_restored_item_is_gone, test_pool_restored_quarantine, test_pool_restored_twice,
          test_pool_restored_wrong, test_pool_restored_after_a_reboot,
          test_pool_intent_does_not_reach_the_disk, test_pool_persistent, test_pool_summary,
          test_pool_summary_is_bounded, test_pool_summary_of_long_items, test_pool_twin)

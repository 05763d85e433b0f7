/*
 * What resource/lease promises: loaded forward, released backward, each that may have left something released
 * exactly once, whatever fails, times out or ends when.
 */
#include "fake.h"

#include "aborts.h"

#define S USEC_PER_SEC

static struct loop *loop;
static struct leases leases;
static struct config config;

struct client {
        struct lease *lease;
        unsigned n_loaded, n_failed, n_lost, n_settled;
        enum lease_failure failure;
        enum lease_loss loss;
        bool is_ended;
        bool ends_when_loaded;
        int socket_fd;
};

static void client_end(struct client *client)
{
        static const struct event_ending ending = { .cause = "eof", .operation = "receive" };

        if (client->is_ended)
                return;
        client->is_ended = true;
        lease_release(client->lease, &ending);
}

static void client_loaded(struct lease *lease, void *userdata)
{
        struct client *client = userdata;

        ck_assert_ptr_eq(lease, client->lease);
        ck_assert(!client->is_ended);
        ck_assert_uint_eq(client->n_loaded++ + client->n_failed, 0);
        if (client->ends_when_loaded)
                client_end(client);
}

static void client_failed(struct lease *lease, enum lease_failure failure, void *userdata)
{
        struct client *client = userdata;

        ck_assert_ptr_eq(lease, client->lease);
        ck_assert(!client->is_ended);
        ck_assert_uint_eq(client->n_loaded + client->n_failed++, 0);
        client->failure = failure;
        client_end(client);
}

static bool has_quarantined_behind(const struct lease *lease, size_t i)
{
        while (++i < lease->n_claims)
                if (lease->claims[i].state == CLAIM_QUARANTINED)
                        return true;
        return false;
}

static void client_lost(struct lease *lease, enum lease_loss loss, void *userdata)
{
        struct client *client = userdata;

        ck_assert_ptr_eq(lease, client->lease);
        ck_assert(!client->is_ended);
        ck_assert_uint_eq(client->n_failed + client->n_lost++, 0);
        client->loss = loss;
        client_end(client);
}

static int client_give_socket(struct lease *lease, void *userdata)
{
        struct client *client = userdata;

        ck_assert_ptr_eq(lease, client->lease);
        return client->socket_fd;
}

static void client_settled(struct lease *lease, void *userdata)
{
        struct client *client = userdata;

        ck_assert(client->is_ended);
        ck_assert_uint_eq(client->n_settled++, 0);
        for (size_t i = 0; i < lease->n_claims; i++) {
                const struct fake *fake = lease->claims[i].data;

                ck_assert(!fake || !fake->may_exist || lease->claims[i].state == CLAIM_QUARANTINED ||
                          (lease->claims[i].type->is_exclusive && has_quarantined_behind(lease, i)));
        }
        client->lease = lease_free(lease);
}

static const struct lease_callbacks callbacks = {
        .loaded = client_loaded,
        .failed = client_failed,
        .lost = client_lost,
        .give_socket = client_give_socket,
        .settled = client_settled,
};

static void begin(void)
{
        ck_assert_int_eq(loop_new(&loop), 0);
        leases_init(&leases, loop, NULL, NULL);
        config.n_refs = 1;
        fake_log[0] = '\0';
        n_fake_loads = n_fake_releases = 0;
        n_load_failed = n_release_failed = n_quarantined_said = 0;
}

static void finish(void)
{
        ck_assert_uint_eq(leases.n_leases, 0);
        ck_assert_uint_eq(leases.n_quarantined, 0);
        list_for_each (node, &leases.queues) {
                const struct queue *queue = container_of(node, struct queue, link);

                ck_assert_uint_eq(queue->n_under_way, 0);
                ck_assert(list_is_empty(&queue->loads) && list_is_empty(&queue->releases));
        }
        ck_assert_uint_eq(leases.deferred.n_under_way, 0);
        ck_assert(list_is_empty(&leases.deferred.loads) && list_is_empty(&leases.deferred.releases));
        leases_deinit(&leases);
        ck_assert_uint_eq(n_fakes, 0);
        ck_assert_uint_eq(n_existing, 0);
        ck_assert_uint_eq(config.n_refs, 1);
        ck_assert_uint_eq(wheel_check(loop_wheel(loop)), 0);
        loop_free(loop);
}

static void client_begin(struct client *client, struct resource_config *const *resources, size_t n_resources)
{
        static uint64_t next_id = 1;
        char listener[] = "presence";
        struct lease_subject subject = { .id = next_id++, .listener = listener };

        *client = (struct client){ .ends_when_loaded = client->ends_when_loaded,
                                   .socket_fd = client->socket_fd };
        ck_assert_int_eq(lease_new(&client->lease, &leases, &config, resources, n_resources, &subject,
                                   &callbacks, client),
                         0);
        lease_load(client->lease);
}

static struct fake *oldest(void)
{
        return list_is_empty(&fake_pending) ? NULL : container_of(fake_pending.next, struct fake, link);
}

/* Time goes on to the next deadline. */
static void skip_time(void)
{
        uint64_t next_usec = wheel_next(loop_wheel(loop));

        ck_assert_uint_ne(next_usec, USEC_INFINITY);
        wheel_run(loop_wheel(loop), MAX(next_usec, loop_now(loop)));
}

/* Completes what is pending and ends the connection after `end_after` steps, or when it has nothing to do. */
static unsigned play(struct client *client, unsigned end_after)
{
        unsigned n_steps = 0;

        while (client->lease) {
                if (n_steps++ == end_after)
                        client_end(client);
                else if (oldest())
                        fake_complete(oldest(), 'o');
                else if (!client->is_ended)
                        client_end(client);
                else
                        skip_time();
                ck_assert_uint_lt(n_steps, 100);
        }
        return n_steps;
}

/* ---- one lease ---- */

enum { NEVER = 1000 };

START_TEST(test_lease_table)
{
        static const struct {
                const char *scripts[3];
                unsigned end_after;
                const char *log;
                unsigned n_loaded, n_failed;
        } rows[] = {
                { { "o/o", "o/o", "o/o" }, NEVER, "+a +b +c -c -b -a ", 1, 0 },
                { { "l/l", "l/l", "l/l" }, NEVER, "+a +b +c -c -b -a ", 1, 0 },
                { { "o/o", "s/o", "o/o" }, NEVER, "+a +b -a ", 0, 1 },
                { { "o/o", "f/o", "o/o" }, NEVER, "+a +b -b -a ", 0, 1 },
                { { "o/o", "v/o", "o/o" }, NEVER, "+a +b -b -a ", 0, 1 },
                { { "o/o", "o/o", "i/o" }, NEVER, "+a +b -b -a ", 0, 1 },
                { { "n/o", "o/o", "o/o" }, NEVER, "", 0, 1 },
                { { "s/o", "o/o", "o/o" }, NEVER, "+a ", 0, 1 },
                { { "f/o", "o/o", "o/o" }, NEVER, "+a -a ", 0, 1 },
                { { "o/o", "o/o", "s/o" }, NEVER, "+a +b +c -b -a ", 0, 1 },
                /* It ends while one loads: that one runs to its end first, the rest is not begun. */
                { { "l/o", "o/o", "o/o" }, 0, "+a -a ", 0, 0 },
                { { "o/o", "l/o", "o/o" }, 0, "+a +b -b -a ", 0, 0 },
                { { "l/o", "l/o", "o/o" }, 1, "+a +b -b -a ", 0, 0 },
                { { "o/o", "o/o", "l/l" }, 0, "+a +b +c -c -b -a ", 0, 0 },
                /* A release that fails is tried again before the next one's turn. */
                { { "o/o", "o/1", "o/o" }, NEVER, "+a +b +c -c -b -b -a ", 1, 0 },
                { { "o/1", "o/o", "f/1" }, NEVER, "+a +b +c -c -c -b -a -a ", 0, 1 },
        };

        for (int kind = RESOURCE_NONE; kind <= RESOURCE_EXEC; kind++)
                for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                        struct resource_config resources[3], *list[3];
                        struct client client = { 0 };

                        begin();
                        for (unsigned k = 0; k < 3; k++)
                                list[k] = fake_resource(&resources[k], (char)('a' + k),
                                                        (enum resource_kind)kind, (char *)rows[i].scripts[k]);
                        client_begin(&client, list, 3);
                        (void)play(&client, rows[i].end_after);
                        ck_assert_msg(streq(fake_log, rows[i].log), "row %zu: %s", i, fake_log);
                        ck_assert_uint_eq(client.n_loaded, rows[i].n_loaded);
                        ck_assert_uint_eq(client.n_failed, rows[i].n_failed);
                        ck_assert_uint_eq(client.n_settled, 1);
                        ck_assert_uint_eq(n_load_failed, rows[i].n_failed);
                        finish();
                }
}
END_TEST

/* Every combination of three scripts, ended at every step; the hooks and client_settled() are the oracle. */
START_TEST(test_lease_every_combination)
{
        static const char *const scripts[] = { "o/o", "l/l", "s/o", "f/l", "o/1", "l/1", "i/o" };
        enum { N = ARRAY_SIZE(scripts) };
        unsigned n_lives = 0;

        for (unsigned combination = 0; combination < N * N * N; combination++)
                for (unsigned end_after = 0, n_steps = 1; end_after < n_steps; end_after++) {
                        unsigned digits[3] = { combination % N, combination / N % N, combination / N / N };
                        struct resource_config resources[3], *list[3];
                        struct client client = { 0 };

                        begin();
                        for (unsigned k = 0; k < 3; k++)
                                list[k] = fake_resource(&resources[k], (char)('a' + k),
                                                        k == 1 ? RESOURCE_DIRECTORY : RESOURCE_EXEC,
                                                        (char *)scripts[digits[k]]);
                        client_begin(&client, list, 3);
                        n_steps = play(&client, end_after);
                        ck_assert_uint_eq(client.n_settled, 1);
                        finish();
                        n_lives++;
                }
        ck_assert_uint_gt(n_lives, 900);
}
END_TEST

START_TEST(test_lease_without_resources)
{
        struct client client = { 0 };

        begin();
        client_begin(&client, NULL, 0);
        ck_assert_uint_eq(client.n_loaded, 1);
        client_end(&client);
        ck_assert_uint_eq(client.n_settled, 1);
        ck_assert_ptr_null(lease_free(NULL));
        finish();
}
END_TEST

/* The receiver ends it from inside `loaded`, as a greeting that cannot be sent does. */
START_TEST(test_lease_ended_inside_loaded)
{
        char script[] = "o/o";
        struct resource_config a, b,
                *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, script),
                            fake_resource(&b, 'b', RESOURCE_NONE, script) };
        struct client client = { .ends_when_loaded = true };

        begin();
        client_begin(&client, list, 2);
        ck_assert_ptr_null(client.lease);
        ck_assert_str_eq(fake_log, "+a +b -b -a ");
        finish();
}
END_TEST

START_TEST(test_lease_values)
{
        char late[] = "l/o";
        struct resource_config a, b,
                *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, late),
                            fake_resource(&b, 'b', RESOURCE_EXEC, late) };
        struct client client = { 0 };

        begin();
        client_begin(&client, list, 2);
        ck_assert_ptr_null(lease_value(client.lease, "a"));
        ck_assert_ptr_null(lease_value(client.lease, "nobody"));
        ck_assert_ptr_null(lease_failed_resource(client.lease));
        claim_output(&client.lease->claims[0], "hello");
        ck_assert_str_eq(last_reason, "load");

        fake_complete(oldest(), 'o');
        ck_assert_str_eq(lease_value(client.lease, "a"), "a");
        fake_complete(oldest(), 'v');
        ck_assert_ptr_null(client.lease);
        ck_assert_ptr_nonnull(strstr(last_reason, "control characters"));
        finish();
}
END_TEST

START_TEST(test_lease_value_limits)
{
        static const struct {
                size_t length;
                char byte;
                unsigned n_loaded;
        } rows[] = {
                { 0, 'x', 1 },    { 4096, 'x', 1 }, { 4097, 'x', 0 }, { 1, '\t', 0 },
                { 1, '\x1f', 0 }, { 1, ' ', 1 },    { 1, '\x7f', 0 }, { 2, '\xc3', 1 },
        };
        static char value[5000];
        char late[] = "l/o";
        struct resource_config a, *list[] = { fake_resource(&a, 'a', RESOURCE_NONE, late) };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct client client = { 0 };
                struct fake *fake;

                begin();
                client_begin(&client, list, 1);
                memset(value, rows[i].byte, rows[i].length);
                value[rows[i].length] = '\0';
                fake = oldest();
                list_unlink(&fake->link);
                fake->is_loading = false;
                claim_loaded(fake->claim, value);
                ck_assert_msg(client.n_loaded == rows[i].n_loaded, "row %zu", i);
                if (client.lease)
                        ck_assert_str_eq(lease_value(client.lease, "a"), value);
                (void)play(&client, NEVER);
                finish();
        }
}
END_TEST

START_TEST(test_lease_failed_resource)
{
        char late[] = "l/l";
        struct resource_config a, b,
                *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, late),
                            fake_resource(&b, 'b', RESOURCE_EXEC, late) };
        struct client client = { 0 };

        begin();
        client_begin(&client, list, 2);
        fake_complete(oldest(), 'o');
        fake_complete(oldest(), 's');
        ck_assert_int_eq(client.failure, LEASE_LOAD_FAILED);
        ck_assert_str_eq(lease_failed_resource(client.lease), "b");
        ck_assert_str_eq(last_reason, "exit status 3");
        (void)play(&client, NEVER);
        finish();
}
END_TEST

/* on_load_failure = release */
START_TEST(test_lease_release_what_failed)
{
        char said[] = "s/o";
        struct resource_config a, *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, said) };
        struct client client = { 0 };

        begin();
        a.on_load_failure = LOAD_FAILURE_RELEASE;
        client_begin(&client, list, 1);
        ck_assert_str_eq(fake_log, "+a -a ");
        ck_assert_uint_eq(client.n_failed, 1);
        ck_assert_uint_eq(client.n_settled, 1);
        finish();
}
END_TEST

/* ---- time ---- */

static void check_deadline(const struct client *client, size_t i, uint64_t span_usec)
{
        ck_assert_uint_eq(client->lease->claims[i].timer.deadline_usec, loop_now(loop) + span_usec);
}

START_TEST(test_lease_load_timeout)
{
        char late[] = "l/l";
        struct resource_config a, *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, late) };

        /* How the load ends that was stopped makes no difference: it may have left something. */
        for (const char *how = "fosv"; *how; how++)
                for (int is_ended = 0; is_ended < 2; is_ended++) {
                        struct client client = { 0 };

                        begin();
                        fake_stop_is_late = true;
                        a.load_timeout = 7 * S;
                        client_begin(&client, list, 1);
                        if (is_ended)
                                client_end(&client);
                        check_deadline(&client, 0, 7 * S);
                        skip_time();
                        ck_assert_str_eq(fake_log, "+a !a ");
                        ck_assert_uint_eq(client.n_failed, 0); /* the command is being ended */
                        fake_complete(oldest(), *how);
                        ck_assert_uint_eq(client.n_failed, !is_ended);
                        ck_assert_int_eq(client.failure, is_ended ? 0 : LEASE_LOAD_TIMEOUT);
                        ck_assert_uint_eq(n_load_failed, 1);
                        if (*how != 'v')
                                ck_assert_str_eq(last_reason, "timed out after 7s");
                        ck_assert_str_eq(fake_log, "+a !a -a ");
                        (void)play(&client, NEVER);
                        finish();
                        fake_stop_is_late = false;
                }
}
END_TEST

START_TEST(test_lease_release_timeout)
{
        char late[] = "o/l";
        struct resource_config a, *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, late) };
        struct client client = { 0 };

        begin();
        a.release_timeout = 5 * S;
        client_begin(&client, list, 1);
        client_end(&client);
        check_deadline(&client, 0, 5 * S);
        skip_time(); /* fake_stop() ends it at once */
        ck_assert_str_eq(fake_log, "+a -a !a ");
        ck_assert_str_eq(last_reason, "timed out after 5s");
        ck_assert_uint_eq(last_n_left, 2);
        check_deadline(&client, 0, 1 * S);
        skip_time();
        ck_assert_str_eq(fake_log, "+a -a !a -a ");
        fake_complete(oldest(), 'o');
        ck_assert_uint_eq(client.n_settled, 1);
        finish();
}
END_TEST

START_TEST(test_lease_retries)
{
        char fails[] = "o/f", ok[] = "o/o";
        struct resource_config a, b,
                *list[] = { fake_resource(&a, 'a', RESOURCE_DIRECTORY, ok),
                            fake_resource(&b, 'b', RESOURCE_EXEC, fails) };
        struct client client = { 0 };
        struct lease *lease;

        begin();
        b.release_attempts = 5;
        client_begin(&client, list, 2);
        lease = client.lease;
        client_end(&client);
        for (unsigned i = 0; i < 4; i++) {
                ck_assert_uint_eq(n_release_failed, i + 1);
                ck_assert_uint_eq(last_n_left, 4 - i);
                check_deadline(&client, 1, S << i); /* 1 s, 2 s, 4 s, 8 s */
                ck_assert_uint_eq(client.n_settled, 0);
                skip_time();
        }
        /* Given up: it is kept, the others are released. */
        ck_assert_uint_eq(last_n_left, 0);
        ck_assert_uint_eq(n_quarantined_said, 1);
        ck_assert_uint_eq(leases.n_quarantined, 1);
        ck_assert_uint_eq(client.n_settled, 1);
        ck_assert_uint_eq(leases.n_leases, 1); /* lives on inside */
        ck_assert_str_eq(fake_log, "+a +b -b -b -b -b -b -a ");
        ck_assert_uint_eq(wheel_next(loop_wheel(loop)), USEC_INFINITY);

        /* Asked to try again: in vain, with all its attempts. */
        fake_log[0] = '\0';
        leases_retry(&leases);
        ck_assert_uint_eq(leases.n_quarantined, 0);
        leases_retry(&leases); /* it is at work: nothing happens twice */
        for (unsigned i = 0; i < 4; i++)
                skip_time();
        ck_assert_str_eq(fake_log, "-b -b -b -b -b ");
        ck_assert_uint_eq(leases.n_quarantined, 1);
        ck_assert_uint_eq(n_quarantined_said, 2);

        ((struct fake *)lease->claims[1].data)->release = 'o';
        leases_retry(&leases);
        ck_assert_uint_eq(leases.n_leases, 0);
        finish();
}
END_TEST

/* Asked to try again while another of the same lease is being released: that one first. */
START_TEST(test_lease_retry_unsettled)
{
        char late[] = "o/l", fails[] = "o/f";
        struct resource_config a, b,
                *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, late),
                            fake_resource(&b, 'b', RESOURCE_EXEC, fails) };
        struct client client = { 0 };
        struct lease *lease;

        begin();
        b.release_attempts = 1;
        client_begin(&client, list, 2);
        lease = client.lease;
        client_end(&client);
        ck_assert_str_eq(fake_log, "+a +b -b -a ");
        ck_assert_uint_eq(leases.n_quarantined, 1);
        leases_retry(&leases);
        ck_assert_str_eq(fake_log, "+a +b -b -a ");
        fake_complete(oldest(), 'o');
        ck_assert_str_eq(fake_log, "+a +b -b -a -b ");
        ck_assert_uint_eq(client.n_settled, 1); /* in vain, once */
        ck_assert_uint_eq(leases.n_quarantined, 1);

        ((struct fake *)lease->claims[1].data)->release = 'o';
        leases_retry(&leases);
        ck_assert_uint_eq(leases.n_leases, 0);
        finish();
}
END_TEST

/* Several are quarantined; some of their releases end at once, some later, some fail again. */
START_TEST(test_lease_retry_many)
{
        enum { N = 20 };
        char fails[] = "o/f";
        struct resource_config a, *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, fails) };
        static struct client clients[N];
        size_t n_left;

        begin();
        a.release_attempts = 1;
        a.max_concurrent = 3;
        for (size_t i = 0; i < N; i++) {
                client_begin(&clients[i], list, 1);
                client_end(&clients[i]);
        }
        ck_assert_uint_eq(leases.n_quarantined, N);
        list_for_each (node, &leases.all) {
                struct lease *lease = container_of(node, struct lease, link);

                ((struct fake *)lease->claims[0].data)->release = "ofl"[lease->subject.id % 3];
        }
        leases_retry(&leases);
        while (oldest())
                fake_complete(oldest(), 'o');
        n_left = leases.n_leases;
        ck_assert_uint_gt(n_left, 0);
        ck_assert_uint_eq(leases.n_quarantined, n_left);
        ck_assert_uint_eq(leases_abandon(&leases), n_left);
        finish();
}
END_TEST

/* ---- the queue ---- */

START_TEST(test_lease_queue_order)
{
        char late[] = "l/l";
        struct resource_config a, *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, late) };
        struct client clients[5] = { 0 };
        struct queue *queue;

        begin();
        a.max_concurrent = 2;
        for (size_t i = 0; i < 5; i++)
                client_begin(&clients[i], list, 1);
        ck_assert_uint_eq(n_fake_loads, 2); /* three wait */
        fake_complete(oldest(), 'o');
        ck_assert_uint_eq(n_fake_loads, 3);
        ck_assert_uint_eq(clients[0].n_loaded, 1);

        client_end(&clients[0]); /* its release waits, but goes before the loads */
        client_end(&clients[3]); /* its load waits: dropped, it never ran */
        ck_assert_uint_eq(clients[3].n_settled, 1);
        ck_assert_uint_eq(n_fake_loads + n_fake_releases, 3);
        fake_complete(oldest(), 'o');
        ck_assert_uint_eq(n_fake_releases, 1);
        ck_assert_uint_eq(n_fake_loads, 3);

        /* A reload lets more at once. */
        queue = clients[4].lease->claims[0].queue;
        ck_assert_uint_eq(queue->n_under_way, 2);
        a.max_concurrent = 10;
        config.resources = list;
        config.n_resources = 1;
        ck_assert_int_eq(leases_configure(&leases, &config), 0);
        ck_assert_uint_eq(n_fake_loads, 4);
        for (size_t i = 0; i < 5; i++)
                if (clients[i].lease)
                        (void)play(&clients[i], 0);
        ck_assert_uint_eq(n_fake_loads, 4);
        ck_assert_uint_eq(n_fake_releases, 4);
        finish();
}
END_TEST

/* What the watchdog is fed by. */
START_TEST(test_lease_progress)
{
        char late[] = "l/l";
        struct resource_config a, *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, late) };
        struct client clients[3] = { 0 };
        uint64_t now, deadline;
        struct queue *queue;
        struct waiting waiting;

        begin();
        now = loop_now(loop);
        a.max_concurrent = 1;
        for (size_t i = 0; i < 3; i++)
                client_begin(&clients[i], list, 1);
        for (size_t i = 0; i < 3; i++)
                fake_complete(oldest(), 'o');
        ck_assert_uint_eq(leases_waiting(&leases, now).n, 0);
        for (size_t i = 0; i < 3; i++)
                client_end(&clients[i]);
        waiting = leases_waiting(&leases, now + 5 * S);
        ck_assert_uint_eq(waiting.n, 2);
        ck_assert_uint_eq(waiting.oldest_usec, 5 * S);

        /* One may be under way, and may be late by so much. */
        queue = clients[0].lease->claims[0].queue;
        deadline = clients[0].lease->claims[0].timer.deadline_usec;
        ck_assert(leases_make_progress(&leases, now, 0));
        ck_assert(leases_make_progress(&leases, deadline + S, S));
        ck_assert(!leases_make_progress(&leases, deadline + S + 1, S));
        queue->n_max = 2; /* and nobody looked whether one may begin */
        ck_assert(!leases_make_progress(&leases, now, S));
        queue->n_max = 1;

        /* It is being ended: how long that takes is not our doing. */
        fake_stop_is_late = true;
        skip_time();
        ck_assert_int_eq(clients[0].lease->claims[0].state, CLAIM_RELEASE_STOPPING);
        ck_assert(leases_make_progress(&leases, deadline + 100 * S, 0));
        fake_stop_is_late = false;
        for (size_t i = 0; i < 3; i++)
                (void)play(&clients[i], 0);
        finish();
}
END_TEST

START_TEST(test_lease_queue_timeout)
{
        char late[] = "l/o";
        struct resource_config a, *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, late) };
        struct client first = { 0 }, second = { 0 };

        begin();
        a.max_concurrent = 1;
        a.queue_timeout = 3 * S;
        client_begin(&first, list, 1);
        client_begin(&second, list, 1);
        check_deadline(&second, 0, 3 * S);
        skip_time();
        ck_assert_uint_eq(second.n_failed, 1);
        ck_assert_int_eq(second.failure, LEASE_LOAD_TIMEOUT);
        ck_assert_uint_eq(second.n_settled, 1);
        ck_assert_str_eq(fake_log, "+a "); /* the first one's */
        ck_assert_ptr_nonnull(strstr(last_reason, "queue_timeout"));
        fake_complete(oldest(), 'o');
        (void)play(&first, NEVER);
        finish();
}
END_TEST

/* No process can be started: nobody is begun until the retry, and then the first is the first; nothing failed. */
START_TEST(test_lease_starved)
{
        char deferred[] = "d/o", ok[] = "o/d";
        struct resource_config a, b, *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, deferred) };
        struct resource_config *others[] = { fake_resource(&b, 'b', RESOURCE_EXEC, ok) };
        struct client first = { 0 }, second = { 0 }, other = { 0 };

        begin();
        client_begin(&first, list, 1);
        a.path = ok;
        client_begin(&second, list, 1);
        ck_assert_str_eq(fake_log, "");
        ck_assert_int_eq(starvation_error(&leases.starvation), EAGAIN);
        ck_assert(leases_make_progress(&leases, loop_now(loop), 0));
        client_begin(&other, others, 1); /* another queue has not heard of it */
        ck_assert_uint_eq(other.n_loaded, 1);
        skip_time();
        ck_assert_int_eq(starvation_error(&leases.starvation), 0);
        ck_assert_str_eq(fake_log, "+b +a +a ");
        ck_assert_uint_eq(first.n_loaded + second.n_loaded, 2);

        client_end(&second);
        client_end(&first);
        ck_assert_uint_eq(leases_waiting(&leases, loop_now(loop)).n, 2);
        ck_assert_int_eq(starvation_error(&leases.starvation), EAGAIN);
        skip_time();
        ck_assert_uint_eq(first.n_settled + second.n_settled, 2);
        ck_assert_uint_eq(n_load_failed + n_release_failed, 0);
        client_end(&other);
        skip_time();
        ck_assert_uint_eq(other.n_settled, 1);
        finish();
}
END_TEST

/* Of a type that is not queued: it is put off likewise, others of its kind are begun meanwhile. */
START_TEST(test_lease_starved_without_a_queue)
{
        char deferred[] = "d/d", never[] = "D/o", ok[] = "o/o";
        struct resource_config a, *list[] = { fake_resource(&a, 'a', RESOURCE_DIRECTORY, deferred) };
        struct client clients[4] = { 0 };

        begin();
        client_begin(&clients[0], list, 1);
        client_begin(&clients[1], list, 1);
        ck_assert_int_eq(starvation_error(&leases.starvation), EAGAIN);
        a.path = ok;
        client_begin(&clients[2], list, 1);
        ck_assert_uint_eq(clients[2].n_loaded, 1);
        skip_time();
        ck_assert_uint_eq(clients[0].n_loaded + clients[1].n_loaded, 2);
        ck_assert_int_eq(starvation_error(&leases.starvation), 0);
        client_end(&clients[0]);
        ck_assert_int_eq(starvation_error(&leases.starvation), EAGAIN);
        client_end(&clients[2]);
        ck_assert_uint_eq(clients[2].n_settled, 1);
        skip_time();
        ck_assert_uint_eq(clients[0].n_settled, 1);
        client_end(&clients[1]);
        skip_time();
        ck_assert_uint_eq(clients[1].n_settled, 1);
        ck_assert_str_eq(fake_log, "+a +a +a -a -a -a ");
        ck_assert_uint_eq(n_load_failed + n_release_failed, 0);

        finish();

        /* Its client ends; or its time does. */
        begin();
        a.path = never;
        a.queue_timeout = 10000; /* before the retry */
        client_begin(&clients[0], list, 1);
        client_begin(&clients[1], list, 1);
        client_end(&clients[0]);
        ck_assert_uint_eq(clients[0].n_settled, 1);
        skip_time();
        ck_assert_int_eq(clients[1].failure, LEASE_LOAD_TIMEOUT);
        ck_assert_uint_eq(clients[1].n_settled, 1);
        client_begin(&clients[3], list, 1);
        (void)lease_free(clients[3].lease); /* abandoned */
        skip_time();
        finish();
}
END_TEST

/* A load that was put off is still one that waits: dropped with its client, and not for longer than it may. */
START_TEST(test_lease_starved_and_dropped)
{
        char deferred[] = "d/o";
        struct resource_config a, *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, deferred) };
        struct client first = { 0 }, second = { 0 };

        begin();
        a.queue_timeout = 10000; /* before the retry */
        client_begin(&first, list, 1);
        client_begin(&second, list, 1);
        client_end(&first);
        ck_assert_uint_eq(first.n_settled, 1);
        skip_time();
        ck_assert_uint_eq(second.n_failed, 1);
        ck_assert_int_eq(second.failure, LEASE_LOAD_TIMEOUT);
        ck_assert_uint_eq(second.n_settled, 1);
        ck_assert_str_eq(fake_log, "");
        skip_time();
        finish();
}
END_TEST

/* A retry waits without holding a place in the queue. */
START_TEST(test_lease_retry_leaves_the_queue)
{
        char once[] = "o/1", ok[] = "o/o";
        struct resource_config a, *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, once) };
        struct client first = { 0 }, second = { 0 };

        begin();
        a.max_concurrent = 1;
        client_begin(&first, list, 1);
        client_end(&first);
        ck_assert_uint_eq(first.n_settled, 0);
        a.path = ok;
        client_begin(&second, list, 1);
        ck_assert_uint_eq(second.n_loaded, 1);
        client_end(&second);
        ck_assert_uint_eq(second.n_settled, 1);
        skip_time();
        ck_assert_uint_eq(first.n_settled, 1);
        finish();
}
END_TEST

/* Thousands that wait and then all end at once: the stack stays flat. */
START_TEST(test_lease_queue_is_no_recursion)
{
        enum { N = 20000 };
        char late[] = "l/o", ok[] = "o/o";
        struct resource_config first_a, a,
                *first_list[] = { fake_resource(&first_a, 'a', RESOURCE_EXEC, late) },
                *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, ok) };
        static struct client clients[N];
        size_t n_loaded = 0;

        begin();
        first_a.max_concurrent = a.max_concurrent = 1;
        client_begin(&clients[0], first_list, 1);
        for (size_t i = 1; i < N; i++)
                client_begin(&clients[i], list, 1);
        ck_assert_uint_eq(n_fake_loads, 1);
        fake_complete(oldest(), 'o');
        for (size_t i = 0; i < N; i++)
                n_loaded += clients[i].n_loaded;
        ck_assert_uint_eq(n_loaded, N);
        for (size_t i = 0; i < N; i++)
                client_end(&clients[i]);
        finish();
}
END_TEST

/* ---- what waits for an item ---- */

static struct fake *first_waiting(void)
{
        return list_is_empty(&fake_waiting) ? NULL : container_of(fake_waiting.next, struct fake, link);
}

/* Two others around one of the kind that waits. */
static void begin_around(struct client *client, struct resource_config resources[static 3], char *script)
{
        static char ok[] = "o/o";
        struct resource_config *list[] = { fake_resource(&resources[0], 'a', RESOURCE_EXEC, ok),
                                           fake_resource(&resources[1], 'b', RESOURCE_POOL, script),
                                           fake_resource(&resources[2], 'c', RESOURCE_EXEC, ok) };

        begin();
        client_begin(client, list, 3);
}

START_TEST(test_lease_wait)
{
        struct resource_config resources[3];
        struct client client = { 0 };
        char waits[] = "w/o";

        begin_around(&client, resources, waits);
        ck_assert_str_eq(fake_log, "+a ?b ");
        check_deadline(&client, 1, FAKE_WAIT_USEC);
        fake_proceed(first_waiting());
        ck_assert_uint_eq(client.n_loaded, 1);
        ck_assert_uint_eq(wheel_next(loop_wheel(loop)), USEC_INFINITY);
        client_end(&client);
        ck_assert_str_eq(fake_log, "+a ?b +b +c -c -b -a ");
        finish();
}
END_TEST

START_TEST(test_lease_wait_timeout)
{
        struct resource_config resources[3];
        struct client client = { 0 };
        char waits[] = "w/o";

        begin_around(&client, resources, waits);
        skip_time();
        ck_assert_uint_eq(client.n_failed, 1);
        ck_assert_int_eq(client.failure, LEASE_POOL_EMPTY);
        ck_assert_str_eq(last_reason, "it waited in vain");
        ck_assert_str_eq(fake_log, "+a ?b ~b -a ");
        ck_assert_uint_eq(client.n_settled, 1);
        finish();
}
END_TEST

START_TEST(test_lease_ended_while_it_waits)
{
        struct resource_config resources[3];
        struct client client = { 0 };
        char waits[] = "w/o";

        begin_around(&client, resources, waits);
        client_end(&client);
        ck_assert_str_eq(fake_log, "+a ?b ~b -a ");
        ck_assert_uint_eq(client.n_settled, 1);
        ck_assert_uint_eq(n_load_failed, 0);
        ck_assert_ptr_null(first_waiting());
        finish();

        begin_around(&client, resources, waits);
        client.lease = lease_free(client.lease); /* abandoned */
        ck_assert_ptr_null(first_waiting());
        finish();
}
END_TEST

START_TEST(test_lease_refused)
{
        char refused[] = "e/o", ok[] = "o/o";
        struct resource_config a, b,
                *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, ok),
                            fake_resource(&b, 'b', RESOURCE_POOL, refused) };
        struct client client = { 0 };

        begin();
        b.on_load_failure = LOAD_FAILURE_RELEASE; /* nothing was done that could be released */
        client_begin(&client, list, 2);
        ck_assert_uint_eq(client.n_failed, 1);
        ck_assert_int_eq(client.failure, LEASE_POOL_EMPTY);
        ck_assert_str_eq(last_reason, "nothing is left");
        ck_assert_str_eq(fake_log, "+a -a ");
        ck_assert_uint_eq(client.n_settled, 1);
        finish();
}
END_TEST

/* What is exclusive is not released while something behind it may still use it; what stands behind that is. */
START_TEST(test_lease_exclusive)
{
        char fails[] = "o/f", ok[] = "o/o";
        struct resource_config a, b, c, d,
                *list[] = { fake_resource(&a, 'a', RESOURCE_POOL, ok),
                            fake_resource(&b, 'b', RESOURCE_DIRECTORY, ok),
                            fake_resource(&c, 'c', RESOURCE_EXEC, fails),
                            fake_resource(&d, 'd', RESOURCE_POOL, ok) };
        struct client client = { 0 };
        struct lease *lease;

        begin();
        c.release_attempts = 1;
        client_begin(&client, list, 4);
        lease = client.lease;
        client_end(&client);
        ck_assert_uint_eq(client.n_settled, 1);
        ck_assert_str_eq(fake_log, "+a +b +c +d -d -c -b ");
        ck_assert_int_eq(lease->claims[0].state, CLAIM_LOADED);

        leases_retry(&leases); /* in vain */
        ck_assert_str_eq(fake_log, "+a +b +c +d -d -c -b -c ");
        ck_assert_uint_eq(leases.n_quarantined, 1);
        ck_assert_int_eq(lease->claims[0].state, CLAIM_LOADED);

        ((struct fake *)lease->claims[2].data)->release = 'o';
        leases_retry(&leases);
        ck_assert_str_eq(fake_log, "+a +b +c +d -d -c -b -c -c -a ");
        ck_assert_uint_eq(leases.n_leases, 0);
        finish();
}
END_TEST

/* ---- the end of the daemon ---- */

START_TEST(test_lease_abandon)
{
        static char scripts[][4] = { "l/o", "o/l", "o/f", "o/o", "o/1", "l/l" };
        enum { N = ARRAY_SIZE(scripts) };
        struct resource_config resources[N], *list[N];
        struct client clients[N + 1] = { 0 };

        begin();
        for (size_t i = 0; i < N; i++) {
                list[i] = fake_resource(&resources[i], 'a', RESOURCE_EXEC, scripts[i]);
                list[i]->max_concurrent = 3;
                list[i]->release_attempts = 1 + (i == 4);
                client_begin(&clients[i], &list[i], 1);
                if (i > 0 && i < 5)
                        client_end(&clients[i]);
        }
        client_begin(&clients[N], &list[N - 1], 1); /* waits in the queue */
        ck_assert_uint_eq(clients[3].n_settled, 1);
        ck_assert_uint_eq(leases.n_quarantined, 1);
        ck_assert_uint_eq(leases_abandon(&leases),
                          N); /* loading, releasing, quarantined, retrying, waiting */
        ck_assert_uint_eq(leases_abandon(&leases), 0);
        finish();
}
END_TEST

/* A connection that is dropped in any state: lease_free() alone. */
START_TEST(test_lease_free_unsettled)
{
        static char late[] = "l/l";
        struct resource_config a, *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, late) };
        struct client client = { 0 };

        begin();
        client_begin(&client, list, 1);
        client.lease = lease_free(client.lease); /* loading */
        client_begin(&client, list, 1);
        fake_complete(oldest(), 'o');
        client.lease = lease_free(client.lease); /* loaded */
        client_begin(&client, list, 1);
        fake_complete(oldest(), 'o');
        client_end(&client);
        client.lease = lease_free(client.lease); /* releasing */
        ck_assert_ptr_null(oldest());
        finish();
}
END_TEST

static void deinit_with_a_lease(const void *argument _unused_)
{
        static struct client client;

        begin();
        client_begin(&client, NULL, 0);
        leases_deinit(&leases);
}

static void release_twice(const void *argument _unused_)
{
        static char late[] = "l/l";
        static struct event_ending ending;
        struct resource_config a, *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, late) };
        struct client client = { 0 };

        begin();
        client_begin(&client, list, 1);
        lease_release(client.lease, &ending);
        lease_release(client.lease, &ending);
}

/* ---- what ends by itself ---- */

/* The connection ends, once, and all is released; the first one that is lost is told. */
START_TEST(test_lease_lost)
{
        char ok[] = "o/o", late[] = "o/l";
        struct resource_config a, b,
                *list[] = { fake_resource(&a, 'a', RESOURCE_PROCESS, late),
                            fake_resource(&b, 'b', RESOURCE_PROCESS, ok) };
        struct client client = { 0 };

        begin();
        client_begin(&client, list, 2);
        ck_assert_int_eq(client.lease->loss_status, -1);
        claim_lost(&client.lease->claims[0], LEASE_RESOURCE_LOST, 3, "exit status 3");
        ck_assert_uint_eq(client.n_lost, 1);
        ck_assert_int_eq(client.loss, LEASE_RESOURCE_LOST);
        ck_assert_str_eq(lease_failed_resource(client.lease), "a");
        ck_assert_int_eq(client.lease->loss_status, 3);
        ck_assert_str_eq(client.lease->loss_reason, "exit status 3");
        ck_assert_str_eq(fake_log, "+a +b -b -a ");
        claim_lost(&client.lease->claims[0], LEASE_PROCESS_EXITED, 4, "exit status 4"); /* too late */
        ck_assert_uint_eq(client.n_lost, 1);
        ck_assert_int_eq(client.lease->loss_status, 3);
        fake_complete(oldest(), 'o');
        ck_assert_uint_eq(client.n_settled, 1);
        finish();
}
END_TEST

/* While a later one loads: that runs to its end and is released. */
START_TEST(test_lease_lost_while_loading)
{
        char ok[] = "o/o", late[] = "l/o";
        struct resource_config a, b, c,
                *list[] = { fake_resource(&a, 'a', RESOURCE_PROCESS, ok),
                            fake_resource(&b, 'b', RESOURCE_EXEC, late),
                            fake_resource(&c, 'c', RESOURCE_EXEC, ok) };

        for (const char *how = "osf"; *how; how++) {
                struct client client = { 0 };

                begin();
                client_begin(&client, list, 3);
                claim_lost(&client.lease->claims[0], LEASE_PROCESS_EXITED, 0, "exit status 0");
                ck_assert_uint_eq(client.n_lost, 1);
                ck_assert_str_eq(fake_log, "+a +b ");
                fake_complete(oldest(), *how);
                ck_assert_uint_eq(client.n_settled, 1);
                ck_assert_uint_eq(client.n_loaded, 0);
                ck_assert_str_eq(fake_log, *how == 's' ? "+a +b -a " : "+a +b -b -a ");
                finish();
        }
}
END_TEST

START_TEST(test_lease_socket)
{
        static const struct {
                char script[4];
                int socket_fd;
                bool has_program; /* when the connection ends */
        } rows[] = {
                { "g/o", 0, true },
                { "G/o", 0, false }, /* it never ran */
                { "H/o", 0, true },
                { "g/o", -ENOBUFS, false },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char script[4], late[] = "o/l";
                struct resource_config a, b,
                        *list[] = { fake_resource(&a, 'a', RESOURCE_PROCESS, late),
                                    fake_resource(&b, 'b', RESOURCE_PROCESS, script) };
                struct client client = { .socket_fd = rows[i].socket_fd };

                (void)stpcpy(script, rows[i].script);
                begin();
                client_begin(&client, list, 2);
                ck_assert_uint_eq(client.n_loaded, script[0] == 'g' && rows[i].socket_fd >= 0);
                client_end(&client);
                ck_assert_ptr_eq(client.lease->program,
                                 rows[i].has_program ? &client.lease->claims[1] : NULL);
                ck_assert_int_eq(fake_socket_fd >= 0, rows[i].socket_fd >= 0);
                fake_socket_fd = fd_close(fake_socket_fd);
                fake_complete(oldest(), 'o');
                finish();
        }
}
END_TEST

START_TEST(test_lease_outlives_us)
{
        char ok[] = "o/o";
        struct resource_config a, b,
                *list[] = { fake_resource(&a, 'a', RESOURCE_EXEC, ok),
                            fake_resource(&b, 'b', RESOURCE_PROCESS, ok) };

        for (size_t n = 0; n <= 2; n++) {
                struct client client = { 0 };

                begin();
                client_begin(&client, list, n);
                ck_assert_int_eq(lease_outlives_us(client.lease), n < 2);
                (void)play(&client, NEVER);
                finish();
        }
}
END_TEST

START_TEST(test_lease_asserts)
{
        ck_assert(aborts(deinit_with_a_lease, NULL));
        ck_assert(aborts(release_twice, NULL));
}
END_TEST

/* ---- a storm ---- */

/* Exclusive claims that are kept for what is quarantined behind them. */
static size_t count_kept(void)
{
        size_t n_kept = 0;

        list_for_each (node, &leases.all) {
                const struct lease *lease = container_of(node, struct lease, link);

                for (size_t i = 0; i < lease->n_claims; i++)
                        n_kept += lease->claims[i].state == CLAIM_LOADED;
        }
        return n_kept;
}

START_TEST(test_lease_storm)
{
        enum { N = 1000, N_RESOURCES = 4 };
        static char script[] = "?/?";
        static struct client clients[N];
        struct resource_config resources[N_RESOURCES], *list[N_RESOURCES];
        size_t n_settled = 0, n_begun = 0, n_quarantined = 0;

        random_seed();
        begin();
        for (unsigned i = 0; i < N_RESOURCES; i++) {
                list[i] = fake_resource(&resources[i], (char)('a' + i),
                                        i == 1   ? RESOURCE_POOL
                                        : i == 2 ? RESOURCE_DIRECTORY
                                                 : RESOURCE_EXEC,
                                        script);
                list[i]->max_concurrent = 3 + i;
                list[i]->queue_timeout = 60 * S;
                list[i]->on_load_failure = i == 3 ? LOAD_FAILURE_RELEASE : LOAD_FAILURE_NOTHING;
        }
        while (n_settled < N) {
                struct client *client = &clients[random_below(n_begun + 1) % N];

                switch (random_below(9)) {
                case 0:
                case 1:
                        if (n_begun < N) {
                                fake_stop_is_late = random_below(2);
                                client_begin(&clients[n_begun++], list + random_below(2),
                                             1 + random_below(3));
                        }
                        break;
                case 2:
                        if (client->lease)
                                client_end(client);
                        break;
                case 3:
                        if (random_below(4) == 0 && wheel_next(loop_wheel(loop)) != USEC_INFINITY)
                                skip_time();
                        break;
                case 4:
                        if (first_waiting())
                                fake_proceed(first_waiting());
                        break;
                default:
                        if (oldest())
                                fake_complete(oldest(), "oooofs"[random_below(6)]);
                        else if (n_begun == N)
                                for (size_t i = 0; i < N; i++)
                                        if (clients[i].lease)
                                                client_end(&clients[i]);
                        if (!oldest() && n_begun == N && wheel_next(loop_wheel(loop)) != USEC_INFINITY)
                                skip_time();
                }
                n_settled = 0;
                for (size_t i = 0; i < n_begun; i++)
                        n_settled += clients[i].n_settled;
                ck_assert(leases_make_progress(&leases, 0, 0));
        }
        n_quarantined = leases.n_quarantined;
        ck_assert_uint_eq(n_existing, n_quarantined + count_kept()); /* nothing else is left */
        for (size_t i = 0; i < N; i++)
                ck_assert_uint_le(clients[i].n_loaded + clients[i].n_failed, 1);

        /* At last every release succeeds. */
        list_for_each (node, &leases.all) {
                struct lease *lease = container_of(node, struct lease, link);

                for (size_t i = 0; i < lease->n_claims; i++)
                        if (lease->claims[i].data)
                                ((struct fake *)lease->claims[i].data)->release = 'o';
        }
        leases_retry(&leases);
        finish();
}
END_TEST

/* What was loaded ends by itself: the first to do so ends the connection, and is released like the others. */
START_TEST(test_lost)
{
        struct resource_config configs[3], *resources[] = { &configs[0], &configs[1], &configs[2] };
        struct client client = { 0 };

        begin();
        (void)fake_resource(&configs[0], 'a', RESOURCE_NONE, (char *)"o/l");
        (void)fake_resource(&configs[1], 'b', RESOURCE_NONE, (char *)"o/o");
        (void)fake_resource(&configs[2], 'c', RESOURCE_NONE, (char *)"o/o");
        client_begin(&client, resources, 3);
        ck_assert_uint_eq(client.n_loaded, 1);
        claim_lost(&client.lease->claims[1], LEASE_RESOURCE_LOST, 3, "it ended");
        ck_assert_uint_eq(client.n_lost, 1);
        ck_assert_str_eq(lease_failed_resource(client.lease), "b");
        claim_lost(&client.lease->claims[0], LEASE_RESOURCE_LOST, 4, "too late");
        fake_complete(oldest(), 'o');
        ck_assert_ptr_null(client.lease);
        ck_assert_str_eq(fake_log, "+a +b +c -c -b -a ");
        finish();

        /* While a later one loads: that one runs to its end first. */
        begin();
        configs[2].path = (char *)"l/o";
        configs[0].path = (char *)"o/o";
        client_begin(&client, resources, 3);
        claim_lost(&client.lease->claims[0], LEASE_RESOURCE_LOST, 3, "it ended");
        ck_assert_uint_eq(client.n_lost, 1);
        ck_assert_uint_eq(client.n_loaded, 0);
        fake_complete(oldest(), 'o');
        ck_assert_ptr_null(client.lease);
        ck_assert_str_eq(fake_log, "+a +b +c -c -b -a ");
        finish();

        /* When the connection ends anyhow it is no news. */
        begin();
        configs[2].path = (char *)"o/l";
        client_begin(&client, resources, 3);
        client_end(&client);
        claim_lost(&client.lease->claims[0], LEASE_RESOURCE_LOST, 3, "it ended");
        ck_assert_uint_eq(client.n_lost, 0);
        fake_complete(oldest(), 'o');
        ck_assert_ptr_null(client.lease);
        finish();
}
END_TEST

UNIT_MAIN("lease", test_lease_table, test_lease_every_combination, test_lease_without_resources,
          test_lease_ended_inside_loaded, test_lease_values, test_lease_value_limits,
          test_lease_failed_resource, test_lease_release_what_failed, test_lease_load_timeout,
          test_lease_release_timeout, test_lease_retries, test_lease_retry_unsettled, test_lease_retry_many,
          test_lease_queue_order, test_lease_progress, test_lease_queue_timeout, test_lease_starved,
          test_lease_starved_without_a_queue, test_lease_starved_and_dropped,
          test_lease_retry_leaves_the_queue, test_lease_queue_is_no_recursion, test_lease_wait,
          test_lease_wait_timeout, test_lease_ended_while_it_waits, test_lease_refused, test_lease_exclusive,
          test_lease_abandon, test_lease_free_unsettled, test_lease_lost, test_lease_lost_while_loading,
          test_lease_socket, test_lease_outlives_us, test_lease_asserts, test_lease_storm, test_lost)

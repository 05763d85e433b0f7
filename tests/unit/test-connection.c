/*
 * Whole lives on loopback: listeners and connections with the real loop and sockets, fake resources, and
 * the clients in this same process. Each life ends with exactly one record, of the right cause, and leaves
 * nothing behind.
 */
#include "fake.h"

#include "base/fields.h"
#include "base/words.h"
#include "connection/guest.h"
#include "connection/listener.h"
#include "connection/snapshot.h"
#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <gnu/libc-version.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/stat.h>

#define MSEC USEC_PER_MSEC

static struct loop *loop;
static struct leases leases;
static struct connections connections;
static struct listeners listeners;
static struct config config;
static struct listener_config listening;
static struct endpoint endpoint;
static struct resource_config resource, *resources[] = { &resource };

/* ---- what is told ---- */

static struct {
        unsigned n_accepted, n_ready, n_closed, n_rejected, n_paused, n_resumed;
        unsigned n_eof, n_reset;
        char cause[32], state[32], operation[32], identity[64], sentence[64], said[64];
        int error, priority;
        uint64_t bytes_received, bytes_sent;
        uint16_t port, said_port; /* where it listens, and where a plugin says so */
        size_t said_length;
} told;

static void note_ending(const struct event_connection *connection, const struct event_ending *ending)
{
        (void)snprintf(told.cause, sizeof(told.cause), "%s", ending->cause);
        (void)snprintf(told.state, sizeof(told.state), "%s", ending->state);
        (void)snprintf(told.operation, sizeof(told.operation), "%s", ending->operation);
        (void)snprintf(told.identity, sizeof(told.identity), "%s",
                       connection->identity ? connection->identity : "");
        (void)snprintf(told.sentence, sizeof(told.sentence), "%s", ending->sentence);
        told.error = ending->error;
        told.priority = ending->priority;
        told.bytes_received = ending->bytes_received;
        told.bytes_sent = ending->bytes_sent;
        told.n_eof += streq(ending->cause, "eof");
        told.n_reset += streq(ending->cause, "reset");
}

void event_closed(struct journal *journal _unused_, const struct event_connection *connection,
                  const struct event_ending *ending)
{
        told.n_closed++;
        note_ending(connection, ending);
}

void event_rejected(struct journal *journal _unused_, const struct event_connection *connection,
                    const struct event_ending *ending)
{
        told.n_rejected++;
        note_ending(connection, ending);
}

void event_accepted(struct journal *journal _unused_, const struct event_connection *connection)
{
        ck_assert_str_eq(connection->listener, "presence");
        told.n_accepted++;
}

void event_ready(struct journal *journal _unused_, const struct event_connection *connection _unused_,
                 uint64_t handshake_usec _unused_, uint64_t load_usec _unused_)
{
        told.n_ready++;
}

bool event_is_wanted(const struct journal *journal _unused_, int priority _unused_, bool is_ending _unused_)
{
        return true;
}

void event_listening(struct journal *journal _unused_, const char *listener _unused_, const char *address)
{
        const char *colon = strrchr(address, ':');

        told.port = colon ? (uint16_t)strtoul(colon + 1, NULL, 10) : 0;
}

void event_stopped_listening(struct journal *journal _unused_, const char *listener _unused_,
                             const char *address _unused_)
{
}

void event_accept_paused(struct journal *journal _unused_, const char *listener _unused_,
                         const char *reason _unused_, int error _unused_)
{
        told.n_paused++;
}

void event_accept_resumed(struct journal *journal _unused_, const char *listener _unused_,
                          uint64_t paused_usec _unused_)
{
        told.n_resumed++;
}

void event_said(struct journal *journal _unused_, const struct event_connection *connection,
                const char *plugin, int priority _unused_, const char *line)
{
        (void)snprintf(told.said, sizeof(told.said), "%" PRIu64 " %s %s", connection->id, plugin, line);
        told.said_port = connection->local->port;
        told.said_length = strlen(line);
}

const char *config_where(const struct config *c _unused_, const char *section, const char *key,
                         char buffer[static CONFIG_WHERE_MAX])
{
        (void)snprintf(buffer, CONFIG_WHERE_MAX, "[%s] %s", section, key);
        return buffer;
}

/* ---- the daemon in small ---- */

static char no_text[] = "", script_ok[] = "o/o", script_late[] = "l/l";

static void resume(void *userdata _unused_)
{
        listeners_resume(&listeners);
}

/* What a listener says where its section is empty; the tests change it before they call listen_at(). */
static void begin(void)
{
        memset(&told, 0, sizeof(told));
        fake_log[0] = '\0';
        config.n_refs = 1;
        listening = (struct listener_config){
                .config = &config,
                .name = "presence",
                .enabled = true,
                .endpoints = &endpoint,
                .n_endpoints = 1,
                .handler = HANDLER_DISCARD,
                .resources = resources,
                .n_resources = 1,
                .backlog = 4096,
                .nodelay = true,
                .socket_mode = 0600,
                .socket_user = (uid_t)-1,
                .socket_group = (gid_t)-1,
                .max_connections = UINT64_MAX,
                .hello_max = 16,
                .handshake_timeout = 10 * USEC_PER_SEC,
                .greeting = no_text,
                .refusal = no_text,
                .max_connections_per_source = UINT64_MAX,
                .accept_rate_per_source = UINT64_MAX,
                .idle_timeout = USEC_INFINITY,
                .half_close_timeout = USEC_INFINITY,
                .detect_within = 60 * USEC_PER_SEC,
                .keepalive_idle = 15 * USEC_PER_SEC,
                .keepalive_interval = 5 * USEC_PER_SEC,
                .keepalive_count = 6,
                .user_timeout = 30 * USEC_PER_SEC,
                .max_age = USEC_INFINITY,
        };
        (void)fake_resource(&resource, 'a', RESOURCE_EXEC, script_ok);
        ck_assert_int_eq(loop_new(&loop), 0);
        leases_init(&leases, loop, NULL, NULL);
        ck_assert_int_eq(connections_init(&connections, loop, NULL, &leases), 0);
        listeners_init(&listeners, &connections);
        connections.freed = resume;
}

static void listen_at(const char *where)
{
        struct listener_plan *plan;
        const char *reason;
        char *fault;

        ck_assert_int_eq(endpoint_parse(where, &endpoint, &reason), 0);
        if (endpoint.kind == ENDPOINT_IP)
                endpoint.address.in.sin_port = 0; /* any that is free */
        ck_assert_int_eq(listener_prepare(&listeners, &listening, &plan, &fault), 0);
        listeners_commit(&listeners, &plan, 1);
}

static void finish(void)
{
        connections_end_all(&connections);
        while (!list_is_empty(&fake_pending))
                fake_complete(container_of(fake_pending.next, struct fake, link), 'o');
        listeners_close(&listeners);
        ck_assert_int_eq(loop_turn(loop, 0), 0);
        ck_assert_uint_eq(told.n_closed + told.n_rejected, connections.n_accepted);
        ck_assert_uint_eq(leases.n_leases, 0);
        listeners_deinit(&listeners);
        connections_deinit(&connections);
        leases_deinit(&leases);
        endpoint_deinit(&endpoint);
        ck_assert_uint_eq(config.n_refs, 1);
        ck_assert_uint_eq(n_existing, 0);
        ck_assert_uint_eq(n_fakes, 0);
        loop_free(loop);
}

/* Turns until the counter has this value; a test that waits in vain ends by Check's timeout. */
static void turns_until(const unsigned *counter, unsigned value)
{
        while (*counter < value)
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
        ck_assert_uint_eq(*counter, value);
}

static void turns(unsigned n)
{
        while (n-- > 0)
                ck_assert_int_eq(loop_turn(loop, 0), 0);
}

/* ---- clients ---- */

static int client_new(void)
{
        struct sockaddr_in address = { .sin_family = AF_INET,
                                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                       .sin_port = htons(told.port) };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        return fd;
}

static int client_new_unix(void)
{
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        ck_assert_int_eq(connect(fd, &endpoint.address.sa, endpoint.length), 0);
        return fd;
}

static void client_send(int fd, const char *text)
{
        ck_assert_int_eq(send(fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

static void client_reset(int fd)
{
        struct linger linger = { .l_onoff = 1 };

        ck_assert_int_eq(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
        (void)close(fd);
}

/* How a client ends, and what becomes of it; 'c' close, 'r' reset, 'h' half-close, 'f' FIN and then RST. */
static void client_end(int fd, char how)
{
        switch (how) {
        case 'r':
                client_reset(fd);
                break;
        case 'f':
                ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
                client_reset(fd);
                break;
        case 'h':
                ck_assert_int_eq(shutdown(fd, SHUT_WR), 0);
                break;
        default:
                (void)close(fd);
        }
}

static struct connection *only(enum connection_state state)
{
        struct connection *c = connections_next(&connections, NULL);

        while (c && c->state != state)
                c = connections_next(&connections, c);
        ck_assert_ptr_nonnull(c);
        return c;
}

/* In the place of libc's: where `send_breaks`, the next call sends 2 bytes, and the one after it finds a RST. */
static bool send_breaks;

ssize_t send(int fd, const void *bytes, size_t n, int flags)
{
        static bool is_broken;

        if (is_broken) {
                is_broken = false;
                errno = ECONNRESET;
                return -1;
        }
        is_broken = send_breaks;
        send_breaks = false;
        return sendto(fd, bytes, is_broken ? 2 : n, flags, NULL, 0);
}

/* ---- lives ---- */

START_TEST(test_connection_endings)
{
        static const struct {
                char how;
                bool keeps;
                const char *bytes, *cause, *operation;
                int error;
        } rows[] = {
                { 'c', false, "", "eof", "receive", 0 },
                { 'c', false, "hello", "eof", "receive", 0 },
                { 'h', false, "hello", "eof", "receive", 0 },
                { 'r', false, "", "reset", "receive", ECONNRESET },
                { 'r', false, "hello", "reset", "receive", ECONNRESET },
                { 'f', false, "hello", "reset", "receive", EPIPE },
                { 'r', true, "hello", "reset", "receive", ECONNRESET },
                { 'f', true, "hello", "reset", "receive", EPIPE },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                int fd;

                begin();
                listening.half_close = rows[i].keeps ? HALF_CLOSE_KEEP : HALF_CLOSE_CLOSE;
                listen_at("127.0.0.1:7400");
                fd = client_new();
                turns_until(&told.n_ready, 1);
                client_send(fd, rows[i].bytes);
                client_end(fd, rows[i].how);
                turns_until(&told.n_closed, 1);
                ck_assert_msg(streq(told.cause, rows[i].cause), "row %zu: %s", i, told.cause);
                ck_assert_str_eq(told.operation, rows[i].operation);
                ck_assert_int_eq(told.error, rows[i].error);
                ck_assert_str_eq(told.state, "ready");
                ck_assert_uint_eq(told.bytes_received, strlen(rows[i].bytes));
                ck_assert_int_eq(told.priority, streq(rows[i].cause, "eof") ? LOG_INFO : LOG_NOTICE);
                ck_assert_str_eq(fake_log, "+a -a ");
                if (rows[i].how == 'h')
                        (void)close(fd);
                finish();
        }
}
END_TEST

/* A FIN that is kept: what comes behind it is an end in order, or half_close_timeout's. */
START_TEST(test_connection_half_closed)
{
        int fd;

        begin();
        listening.half_close = HALF_CLOSE_KEEP;
        listening.half_close_timeout = 30 * MSEC;
        listen_at("127.0.0.1:7400");
        fd = client_new();
        turns_until(&told.n_ready, 1);
        client_end(fd, 'h');
        turns_until(&told.n_closed, 1);
        ck_assert_str_eq(told.cause, "half-close-timeout");
        ck_assert_str_eq(told.state, "ready");
        (void)close(fd);

        listening.half_close_timeout = USEC_INFINITY;
        fd = client_new();
        turns_until(&told.n_ready, 2);
        client_end(fd, 'h');
        while (connections.n_in_state[CONNECTION_HALF_CLOSED] == 0)
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
        client_end(fd, 'r');
        turns_until(&told.n_closed, 2);
        ck_assert_str_eq(told.cause, "eof");
        finish();
}
END_TEST

START_TEST(test_connection_timeouts)
{
        int fd;

        begin();
        listening.hello = true;
        listening.handshake_timeout = 20 * MSEC;
        listen_at("127.0.0.1:7400");
        fd = client_new();
        client_send(fd, "alic");
        turns_until(&told.n_rejected, 1);
        ck_assert_str_eq(told.cause, "handshake-timeout");
        ck_assert_str_eq(told.state, "handshake");
        ck_assert_str_eq(fake_log, "");
        (void)close(fd);

        listening.hello = false;
        listening.idle_timeout = 20 * MSEC;
        fd = client_new();
        turns_until(&told.n_closed, 1);
        ck_assert_str_eq(told.cause, "idle-timeout");
        (void)close(fd);

        listening.idle_timeout = USEC_INFINITY;
        listening.max_age = 20 * MSEC;
        fd = client_new();
        turns_until(&told.n_closed, 2);
        ck_assert_str_eq(told.cause, "max-age");
        (void)close(fd);
        finish();
}
END_TEST

START_TEST(test_connection_hello)
{
        static const struct {
                const char *bytes, *identity; /* NULL: refused */
                uint64_t n_received;
        } rows[] = {
                { "alice\n", "alice", 6 },
                { "alice\r\nand more", "alice", 15 },
                { "-alice\n", NULL, 1 },
                { "GET / HTTP/1.1\r\n", NULL, 4 },
                { "12345678901234567\n", NULL, 17 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                int fd;

                begin();
                listening.hello = true;
                listen_at("127.0.0.1:7400");
                fd = client_new();
                turns(2);
                client_send(fd, rows[i].bytes);
                turns(3);
                (void)close(fd);
                turns_until(rows[i].identity ? &told.n_closed : &told.n_rejected, 1);
                ck_assert_str_eq(told.cause, rows[i].identity ? "eof" : "protocol-error");
                ck_assert_str_eq(told.identity, rows[i].identity ? rows[i].identity : "");
                ck_assert_uint_eq(told.bytes_received, rows[i].n_received);
                ck_assert_str_eq(fake_log, rows[i].identity ? "+a -a " : "");
                finish();
        }
}
END_TEST

/* Whoever says nothing and goes is a probe. */
START_TEST(test_connection_probe)
{
        begin();
        listening.hello = true;
        listen_at("127.0.0.1:7400");
        client_end(client_new(), 'c');
        turns_until(&told.n_rejected, 1);
        ck_assert_int_eq(told.priority, LOG_DEBUG);
        client_end(client_new(), 'r');
        turns_until(&told.n_rejected, 2);
        ck_assert_int_eq(told.priority, LOG_DEBUG);
        ck_assert_str_eq(told.cause, "reset");
        finish();
}
END_TEST

/* The peer dies while its resources load: the load runs to its end and is then released. */
START_TEST(test_connection_dies_while_loading)
{
        static const struct {
                char how;
                const char *bytes, *cause, *state;
        } rows[] = {
                { 'c', "", "eof", "loading" },
                { 'h', "", "eof", "loading" },
                { 'r', "", "reset", "loading" },
                { 'r', "hello", "reset", "loading" },
                { 'f', "hello", "reset", "loading" },
                { 'c', "hello", "eof", "ready" }, /* a FIN behind unread bytes is kept until ready */
                { 'h', "hello", "eof", "ready" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                int fd;

                begin();
                resource.path = script_late;
                listen_at("127.0.0.1:7400");
                fd = client_new();
                turns_until(&told.n_accepted, 1);
                client_send(fd, rows[i].bytes);
                turns(2);
                client_end(fd, rows[i].how);
                turns(3);
                ck_assert_str_eq(fake_log, "+a ");
                fake_complete(container_of(fake_pending.next, struct fake, link), 'o');
                turns(2);
                ck_assert_uint_eq(told.n_closed, 0);
                ck_assert_str_eq(fake_log, "+a -a ");
                fake_complete(container_of(fake_pending.next, struct fake, link), 'o');
                turns_until(&told.n_closed, 1);
                ck_assert_msg(streq(told.cause, rows[i].cause), "row %zu: %s", i, told.cause);
                ck_assert_msg(streq(told.state, rows[i].state), "row %zu: %s", i, told.state);
                ck_assert_uint_eq(told.bytes_received, strlen(rows[i].bytes));
                if (rows[i].how == 'h')
                        (void)close(fd);
                finish();
        }
}
END_TEST

START_TEST(test_connection_load_fails)
{
        static char said[] = "s/o", late[] = "l/o";
        int fd;

        begin();
        resource.path = said;
        listen_at("127.0.0.1:7400");
        fd = client_new();
        turns_until(&told.n_closed, 1);
        ck_assert_str_eq(told.cause, "load-failed");
        ck_assert_str_eq(told.state, "loading");
        ck_assert_str_eq(fake_log, "+a ");
        (void)close(fd);

        resource.path = late;
        resource.load_timeout = 20 * MSEC;
        fd = client_new();
        turns_until(&told.n_closed, 2);
        ck_assert_str_eq(told.cause, "load-timeout");
        ck_assert_str_eq(fake_log, "+a +a !a -a ");
        (void)close(fd);
        finish();
}
END_TEST

START_TEST(test_connection_greeting)
{
        static char greeting[] = "hello %h, %{a}";
        char line[64];
        ssize_t n;
        int fd;

        begin();
        listening.hello = true;
        listening.greeting = greeting;
        listen_at("127.0.0.1:7400");
        fd = client_new();
        client_send(fd, "bob\n");
        turns_until(&told.n_ready, 1);
        n = recv(fd, line, sizeof(line) - 1, 0);
        ck_assert_int_gt(n, 0);
        line[n] = '\0';
        ck_assert_str_eq(line, "hello bob, a\n");
        (void)close(fd);
        turns_until(&told.n_closed, 1);
        ck_assert_str_eq(told.cause, "eof");
        ck_assert_uint_eq(told.bytes_sent, (uint64_t)n);
        finish();
}
END_TEST

/* ---- many at once ---- */

/* Slots and descriptor numbers are used again at once; no ending is taken for another one's. */
START_TEST(test_connection_storm)
{
        enum { N = 400 };
        int fds[16];
        char hows[16];
        unsigned n_new = 0, n_live = 0, n_eof = 0, n_reset = 0;

        random_seed();
        begin();
        listen_at("127.0.0.1:7400");
        while (n_new < N || n_live > 0) {
                if (n_new < N && n_live < ARRAY_SIZE(fds) && random_below(2)) {
                        fds[n_live] = client_new();
                        hows[n_live++] = "crf"[random_below(3)];
                        n_new++;
                } else if (n_live > 0) {
                        size_t i = random_below(n_live);

                        if (random_below(2))
                                client_send(fds[i], "hello");
                        turns((unsigned)random_below(3));
                        client_end(fds[i], hows[i]);
                        *(hows[i] == 'c' ? &n_eof : &n_reset) += 1;
                        n_live--;
                        fds[i] = fds[n_live];
                        hows[i] = hows[n_live];
                }
        }
        turns_until(&told.n_closed, N);
        ck_assert_uint_eq(told.n_eof, n_eof);
        ck_assert_uint_eq(told.n_reset, n_reset);
        ck_assert_uint_eq(n_fake_loads, N);
        ck_assert_uint_eq(n_fake_releases, N);
        finish();
}
END_TEST

/* Echo to a peer that does not read: what we hold is bounded, others are served, nothing is lost. */
START_TEST(test_connection_echo)
{
        static char bytes[65536];
        size_t n_sent = 0, n_back = 0;
        struct connection *c;
        int fd, other_fd;
        char byte;

        begin();
        listening.handler = HANDLER_ECHO;
        listening.send_buffer = 16384;
        listen_at("127.0.0.1:7400");
        fd = client_new();
        turns_until(&told.n_ready, 1);
        c = only(CONNECTION_READY);
        ck_assert_int_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
        for (size_t i = 0; i < sizeof(bytes); i++)
                bytes[i] = (char)(i * 7);
        for (unsigned i = 0; i < 2000; i++) {
                /* Each byte is a function of its place. */
                ssize_t n = send(fd, bytes + n_sent % sizeof(bytes), sizeof(bytes) - n_sent % sizeof(bytes),
                                 MSG_NOSIGNAL);

                if (n > 0)
                        n_sent += (size_t)n;
                turns(1);
                if (c->output)
                        ck_assert_uint_le(c->output->n_bytes, 32768);
        }
        ck_assert_ptr_nonnull(c->output);

        other_fd = client_new();
        client_send(other_fd, "x");
        turns_until(&told.n_ready, 2);
        turns(2);
        ck_assert_int_eq(recv(other_fd, &byte, 1, MSG_DONTWAIT), 1);
        (void)close(other_fd);
        turns_until(&told.n_closed, 1);

        ck_assert_int_eq(shutdown(fd, SHUT_WR), 0); /* the FIN comes behind all of it */
        while (told.n_closed < 2) {
                static char back[65536];
                ssize_t n = recv(fd, back, sizeof(back), 0);

                for (ssize_t i = 0; i < n; i++)
                        if (back[i] != bytes[(n_back + (size_t)i) % sizeof(bytes)])
                                ck_abort_msg("byte %zu", n_back + (size_t)i);
                if (n > 0)
                        n_back += (size_t)n;
                ck_assert_int_eq(loop_turn(loop, MSEC), 0);
        }
        for (ssize_t n; (n = recv(fd, bytes, sizeof(bytes), 0)) > 0;)
                n_back += (size_t)n;
        ck_assert_uint_eq(n_back, n_sent);
        ck_assert_str_eq(told.cause, "eof");
        ck_assert_uint_eq(told.bytes_received, n_sent);
        ck_assert_uint_eq(told.bytes_sent, n_sent);
        (void)close(fd);
        finish();
}
END_TEST

/* What went out before the connection broke counts. */
START_TEST(test_connection_breaks_in_the_middle)
{
        int fd;

        begin();
        listening.handler = HANDLER_ECHO;
        listen_at("127.0.0.1:7400");
        fd = client_new();
        turns_until(&told.n_ready, 1);
        client_send(fd, "hello");
        send_breaks = true;
        turns_until(&told.n_closed, 1);
        ck_assert_str_eq(told.cause, "reset");
        ck_assert_str_eq(told.operation, "send");
        ck_assert_int_eq(told.error, ECONNRESET);
        ck_assert_uint_eq(told.bytes_sent, 2);
        (void)close(fd);
        finish();
}
END_TEST

/* Full: the next one waits in the backlog, and is served when there is room. */
START_TEST(test_connection_limit)
{
        int fds[3];

        begin();
        connections.n_max = 2;
        listen_at("127.0.0.1:7400");
        for (size_t i = 0; i < 3; i++)
                fds[i] = client_new();
        turns(4);
        ck_assert_uint_eq(told.n_ready, 2);
        ck_assert_uint_eq(told.n_paused, 1);
        (void)close(fds[0]);
        turns_until(&told.n_ready, 3);
        turns(3);
        ck_assert_uint_eq(connections.n_connections, 2);
        (void)close(fds[1]);
        (void)close(fds[2]);
        turns_until(&told.n_closed, 3);
        ck_assert_uint_eq(told.n_resumed, 1);
        ck_assert_uint_eq(told.n_eof, 3);
        finish();
}
END_TEST

/* ---- the end of the daemon ---- */

START_TEST(test_connection_shutdown)
{
        int fds[4];

        begin();
        listening.hello = true;
        resource.path = script_late;
        resource.max_concurrent = 1;
        listen_at("127.0.0.1:7400");
        for (size_t i = 0; i < 4; i++) {
                fds[i] = client_new();
                if (i > 0) /* the first one's handshake is not done */
                        client_send(fds[i], "x\n");
        }
        turns(4);
        ck_assert_uint_eq(told.n_accepted, 4);
        ck_assert_str_eq(fake_log, "+a "); /* one loads, two wait for their turn */
        connections_end_all(&connections);
        connections_end_all(&connections); /* ended once */
        turns(1);
        ck_assert_uint_eq(told.n_rejected, 1);
        ck_assert_uint_eq(told.n_closed, 2); /* those that waited have nothing to release */
        ck_assert_str_eq(told.cause, "shutdown");
        ck_assert_uint_eq(connections.n_connections, 1);

        /* The daemon does not wait for the last one. */
        connections_abandon_all(&connections);
        turns(1);
        ck_assert_uint_eq(connections.n_connections, 0);
        ck_assert_uint_eq(leases.n_leases, 0);
        told.n_closed++; /* no record was written of it: it is the next start's */
        for (size_t i = 0; i < 4; i++)
                (void)close(fds[i]);
        finish();
}
END_TEST

/* A listener goes while its connections live: they end as they were born. */
START_TEST(test_connection_outlives_its_listener)
{
        int fd;

        begin();
        listen_at("127.0.0.1:7400");
        fd = client_new();
        turns_until(&told.n_ready, 1);
        listeners_close(&listeners);
        ck_assert(!list_is_empty(&listeners.all));
        client_send(fd, "still here");
        turns(2);
        (void)close(fd);
        turns_until(&told.n_closed, 1);
        ck_assert_uint_eq(told.bytes_received, 10);
        ck_assert(list_is_empty(&listeners.all));
        finish();
}
END_TEST

/* ---- a program has the connection; here it is the test that plays it, with fake_socket_fd ---- */

static char script_given[] = "g/o", greeting_line[] = "welcome %i";
#define GREETING_LENGTH (sizeof("welcome 1"))

static void given_begin(bool is_unix)
{
        begin();
        (void)fake_resource(&resource, 'a', RESOURCE_PROCESS, script_given);
        listening.greeting = greeting_line;
        listen_at(is_unix ? "@tetherd-test-given" : "127.0.0.1:7400");
}

/* A client whose connection is given; the greeting is read. */
static int given_client(bool is_unix)
{
        int fd = is_unix ? client_new_unix() : client_new();
        char line[GREETING_LENGTH];

        turns_until(&told.n_ready, 1);
        ck_assert_int_eq(recv(fd, line, sizeof(line), MSG_WAITALL), sizeof(line));
        ck_assert_mem_eq(line, "welcome ", 8);
        return fd;
}

static void program_ends(int status)
{
        struct connection *c = only(CONNECTION_READY);

        fake_socket_fd = fd_close(fake_socket_fd);
        claim_lost(&c->lease->claims[0], LEASE_PROCESS_EXITED, status, "exit status");
        turns_until(&told.n_closed, 1);
}

/* The program gets what is behind the hello, to the byte, and reads and writes as it likes. */
START_TEST(test_connection_given)
{
        for (int i = 0; i < 8; i++) {
                bool is_unix = i & 1, has_fin = i & 2, is_failure = i & 4;
                char bytes[64];
                int fd;

                given_begin(is_unix);
                listening.hello = true;
                listening.idle_timeout = 1 * MSEC; /* not used */
                fd = is_unix ? client_new_unix() : client_new();
                client_send(fd, "alice\nrequest");
                if (has_fin)
                        client_end(fd, 'h');
                turns_until(&told.n_ready, 1);
                ck_assert(!(fcntl(fake_socket_fd, F_GETFL) & O_NONBLOCK));
                ck_assert(!connection_outlives_us(only(CONNECTION_READY)));
                ck_assert_int_eq(recv(fake_socket_fd, bytes, 7, MSG_WAITALL), 7);
                ck_assert_mem_eq(bytes, "request", 7);
                if (has_fin)
                        ck_assert_int_eq(recv(fake_socket_fd, bytes, 1, 0), 0);
                turns(4);
                (void)usleep(2000);
                turns(4);
                ck_assert_uint_eq(told.n_closed, 0);
                ck_assert_int_eq(send(fake_socket_fd, "answer", 6, MSG_NOSIGNAL), 6);
                program_ends(is_failure ? 3 : 0);
                ck_assert_str_eq(told.cause, "process-exited");
                ck_assert_str_eq(told.operation, "none");
                ck_assert_int_eq(told.priority, is_failure ? LOG_NOTICE : LOG_INFO);
                ck_assert_str_eq(fake_log, "+a -a ");
                ck_assert_uint_eq(told.bytes_received, is_unix ? 6 : 13); /* UNIX sockets do not count */
                ck_assert_uint_eq(told.bytes_sent, GREETING_LENGTH + (is_unix ? 0 : 6));
                ck_assert_int_eq(recv(fd, bytes, sizeof(bytes), MSG_WAITALL), GREETING_LENGTH + 6);
                ck_assert_mem_eq(bytes, "welcome ", 8);
                ck_assert_mem_eq(bytes + GREETING_LENGTH, "answer", 6);
                (void)close(fd);
                finish();
        }
}
END_TEST

/* What it wrote arrives, although it left unread what the client sent. */
START_TEST(test_connection_given_unread)
{
        static char bytes[65536];
        size_t n_written = 0, n_read = 0;
        ssize_t n;
        int fd;

        for (int is_unix = 0; is_unix < 2; is_unix++) {
                given_begin(is_unix);
                fd = given_client(is_unix);
                ck_assert_int_eq(send(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0, 1);
                n_written = n_read = 0;
                while ((n = send(fake_socket_fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL)) > 0)
                        n_written += (size_t)n;
                program_ends(0);
                while ((n = recv(fd, bytes, sizeof(bytes), 0)) > 0)
                        n_read += (size_t)n;
                ck_assert_int_eq(n, 0);
                ck_assert_uint_eq(n_read, n_written);
                (void)close(fd);
                finish();
        }
}
END_TEST

/* Its death is noticed without reading, also where the program took the errno; a FIN is the program's business. */
START_TEST(test_connection_given_deaths)
{
        static const struct {
                char how;
                bool is_unix, program_reads, program_writes;
                const char *bytes, *cause; /* NULL: nothing has ended */
                int error;
                uint64_t n_received;
        } rows[] = {
                { 'r', false, false, false, "", "reset", ECONNRESET, 0 },
                { 'r', false, false, false, "hello", "reset", ECONNRESET, 0 },
                { 'r', false, true, false, "", "reset", 0, 0 },
                { 'r', false, true, false, "hello", "reset", 0, 5 },
                { 'f', false, false, false, "", "reset", EPIPE, 0 },
                { 'c', false, false, true, "", "reset", EPIPE, 0 },
                { 'c', false, false, false, "hello", NULL, 0, 0 },
                { 'h', false, true, true, "hello", NULL, 0, 0 },
                { 'c', true, false, false, "", "eof", 0, 0 },
                { 'h', true, true, true, "hello", NULL, 0, 0 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char bytes[64];
                int fd;

                given_begin(rows[i].is_unix);
                fd = given_client(rows[i].is_unix);
                client_send(fd, rows[i].bytes);
                turns(2);
                client_end(fd, rows[i].how);
                if (rows[i].program_reads)
                        while (recv(fake_socket_fd, bytes, sizeof(bytes), 0) > 0)
                                ;
                if (rows[i].how == 'c')
                        turns(2); /* the FIN is seen by itself */
                if (rows[i].program_writes)
                        ck_assert_int_eq(send(fake_socket_fd, "x", 1, MSG_NOSIGNAL), 1);
                if (!rows[i].cause) {
                        turns(4);
                        ck_assert_uint_eq(told.n_closed, 0);
                        program_ends(0);
                } else {
                        turns_until(&told.n_closed, 1);
                        ck_assert_msg(streq(told.cause, rows[i].cause), "row %zu: %s", i, told.cause);
                        ck_assert_int_eq(told.error, rows[i].error);
                        ck_assert_msg(told.bytes_received == rows[i].n_received, "row %zu: %d", i,
                                      (int)told.bytes_received);
                        ck_assert_int_eq(recv(fake_socket_fd, bytes, sizeof(bytes), MSG_DONTWAIT) < 0 &&
                                                 errno == EAGAIN,
                                         0); /* it is shut for the program as well */
                        fake_socket_fd = fd_close(fake_socket_fd);
                }
                if (rows[i].how == 'h')
                        (void)close(fd);
                finish();
        }
}
END_TEST

/* The peer's RST ended the program, whose end is heard first: the RST was the cause, and nothing of ours is named. */
START_TEST(test_connection_given_reset_ends_program)
{
        char byte;
        int fd;

        given_begin(false);
        fd = given_client(false);
        client_end(fd, 'r');
        while (recv(fake_socket_fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN)
                ;
        ck_assert_int_eq(errno, ECONNRESET); /* the program took it, and exits with a status of 1 */
        program_ends(1);
        ck_assert_str_eq(told.cause, "reset");
        ck_assert_int_eq(told.error, 0);
        finish();
}
END_TEST

/* Both ends shut in order: no reset, the program is left to end. Bytes that are the program's do not wake us. */
START_TEST(test_connection_given_is_left_alone)
{
        char bytes[64];
        int fd;

        given_begin(false);
        fd = given_client(false);
        turns(2);
        only(CONNECTION_READY)->source.pending = 0;
        for (int i = 0; i < 10; i++) {
                client_send(fd, "hello");
                ck_assert_int_eq(recv(fake_socket_fd, bytes, 5, MSG_WAITALL), 5);
                ck_assert_int_eq(send(fake_socket_fd, bytes, 5, MSG_NOSIGNAL), 5);
                ck_assert_int_eq(recv(fd, bytes, 5, MSG_WAITALL), 5);
                turns(2);
                ck_assert_uint_eq(only(CONNECTION_READY)->source.pending, 0);
        }
        ck_assert_int_eq(shutdown(fake_socket_fd, SHUT_WR), 0);
        turns(2);
        ck_assert_int_eq(recv(fd, bytes, 1, 0), 0);
        client_end(fd, 'h');
        ck_assert_int_eq(recv(fake_socket_fd, bytes, 1, 0), 0);
        turns(10);
        ck_assert_uint_eq(told.n_closed, 0);
        program_ends(0);
        ck_assert_str_eq(told.cause, "process-exited");
        ck_assert_uint_eq(told.bytes_received, 50);
        ck_assert_uint_eq(told.bytes_sent, 50 + GREETING_LENGTH);
        (void)close(fd);
        finish();
}
END_TEST

/* Every other ending reaches both sides at once, though the program has a duplicate. */
START_TEST(test_connection_given_is_ended)
{
        char bytes[64];
        int fd;

        given_begin(false);
        listening.max_age = 30 * MSEC;
        fd = given_client(false);
        turns_until(&told.n_closed, 1);
        ck_assert_str_eq(told.cause, "max-age");
        ck_assert_int_eq(recv(fake_socket_fd, bytes, 1, 0), 0);
        ck_assert_int_eq(send(fake_socket_fd, bytes, 1, MSG_NOSIGNAL), -1);
        ck_assert_int_eq(errno, EPIPE);
        ck_assert_int_eq(recv(fd, bytes, 1, 0), 0);
        fake_socket_fd = fd_close(fake_socket_fd);
        (void)close(fd);
        finish();
}
END_TEST

/* A later load fails: nothing of ours comes into what the program writes. Where it never ran, the client is told. */
START_TEST(test_connection_given_and_refused)
{
        static char said[] = "s/o", refused[] = "G/o", lost[] = "H/o", line[] = "BUSY %c";
        static const struct {
                char *first, *second;
                const char *answer;
        } rows[] = {
                { script_given, said, "" },
                { refused, script_ok, "BUSY load-failed\n" },
                { lost, script_ok, "" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct resource_config other, *both[] = { &resource, &other };
                char answer[64];
                int fd;

                begin();
                (void)fake_resource(&resource, 'a', RESOURCE_PROCESS, rows[i].first);
                (void)fake_resource(&other, 'b', RESOURCE_EXEC, rows[i].second);
                listening.resources = both;
                listening.n_resources = 2;
                listening.refusal = line;
                listen_at("127.0.0.1:7400");
                fd = client_new();
                turns_until(&told.n_closed, 1);
                ck_assert_str_eq(told.cause, "load-failed");
                fake_socket_fd = fd_close(fake_socket_fd);
                ssize_t n = recv(fd, answer, sizeof(answer) - 1, MSG_WAITALL);

                ck_assert_int_ge(n, 0);
                answer[n] = '\0';
                ck_assert_str_eq(answer, rows[i].answer);
                (void)close(fd);
                finish();
        }
}
END_TEST

/* More than the kernel takes at once cannot be said before the program speaks. */
START_TEST(test_connection_given_long_greeting)
{
        static char greeting[1 << 23];
        int fd;

        memset(greeting, 'x', sizeof(greeting) - 1);
        begin();
        (void)fake_resource(&resource, 'a', RESOURCE_PROCESS, script_given);
        listening.greeting = greeting;
        listen_at("127.0.0.1:7400");
        fd = client_new();
        turns_until(&told.n_closed, 1);
        ck_assert_str_eq(told.cause, "load-failed");
        ck_assert_int_eq(fake_socket_fd, -1);
        (void)close(fd);
        finish();
}
END_TEST

/* ---- UNIX sockets ---- */

START_TEST(test_connection_unix)
{
        char path[64];
        struct stat st;
        int fd;

        (void)snprintf(path, sizeof(path), "/tmp/test-connection-%d.sock", getpid());
        for (int is_abstract = 0; is_abstract < 2; is_abstract++) {
                char abstract[64];

                begin();
                (void)snprintf(abstract, sizeof(abstract), "@test-connection-%d", getpid());
                listen_at(is_abstract ? abstract : path);
                if (!is_abstract) {
                        ck_assert_int_eq(stat(path, &st), 0);
                        ck_assert_uint_eq(st.st_mode & 07777, 0600);
                }
                fd = client_new_unix();
                turns_until(&told.n_ready, 1);
                ck_assert_int_eq(connection_peer_pid(only(CONNECTION_READY)), getpid());
                ck_assert_uint_eq(connection_peer_uid(only(CONNECTION_READY)), getuid());
                client_send(fd, "hello");
                (void)close(fd);
                turns_until(&told.n_closed, 1);
                ck_assert_str_eq(told.cause, "eof");
                ck_assert_uint_eq(told.bytes_received, 5);
                finish();
                ck_assert_int_eq(access(path, F_OK), -1); /* the file went with the listener */
        }
}
END_TEST

/* The kernel has no TCP_USER_TIMEOUT here: our own timer finds a peer that does not read. */
START_TEST(test_connection_unix_stalled)
{
        static char bytes[65536];
        int fd;

        begin();
        listening.handler = HANDLER_ECHO;
        listening.detect_within = 30 * MSEC;
        listen_at("@test-connection-stalled");
        fd = client_new_unix();
        ck_assert_int_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
        while (told.n_closed == 0) {
                (void)send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL);
                ck_assert_int_eq(loop_turn(loop, MSEC), 0);
        }
        ck_assert_str_eq(told.cause, "stalled");
        ck_assert_str_eq(told.operation, "send");
        (void)close(fd);
        finish();
}
END_TEST

/* ---- a life that goes on elsewhere ---- */

/* Its record as of now. */
static char *record_of(const struct connection *c, bool is_last)
{
        char *text = NULL;
        size_t length = 0;
        FILE *file = open_memstream(&text, &length);

        snapshot_write(c, is_last, file);
        ck_assert_int_eq(fclose(file), 0);
        return text;
}

/* Out of here, and in again as in another process. Consumes the record. */
static struct connection *move(struct connection *c, char *record)
{
        _cleanup_strv_free_ char **fields = NULL;
        int fd = fcntl(c->fd, F_DUPFD_CLOEXEC, 3);
        struct listener *listener = c->config->listener;
        struct snapshot snapshot;
        uint64_t id = c->id;
        char *rest = record;

        connection_pass_on(c);
        turns(1);
        ck_assert_uint_eq(connections.n_connections, 0);
        ck_assert_int_eq(fields_read(&rest, &fields), 1);
        free(record);
        ck_assert_int_eq(snapshot_identify(fields, &snapshot), 0);
        ck_assert_uint_eq(snapshot.id, id);
        ck_assert_str_eq(snapshot.listener, "presence");
        ck_assert(!snapshot.has_lease);
        c = connection_new(&connections);
        ck_assert_int_eq(snapshot_read(c, fields, fd), 0);
        connection_take_up(c, listener, fd, NULL);
        ck_assert_uint_eq(c->id, id);
        return c;
}

START_TEST(test_connection_moves)
{
        for (int i = 0; i < 8; i++) {
                bool is_last = i & 1, is_unix = i & 2, does_reset = i & 4;
                struct connection *c;
                struct connection before;
                uint64_t n_bytes;
                char answer[64];
                int fd;

                begin();
                listening.handler = HANDLER_ECHO;
                listening.hello = true;
                listening.n_resources = 0;
                listening.max_connections_per_source = 1;
                listen_at(is_unix ? "@tetherd-test-moves" : "127.0.0.1:7400");
                fd = is_unix ? client_new_unix() : client_new();
                client_send(fd, "alice\n");
                turns_until(&told.n_ready, 1);
                c = only(CONNECTION_READY);

                /* Without `is_last` the record gets old. */
                char *record = is_last ? NULL : record_of(c, false);

                client_send(fd, "hello");
                while (c->bytes_sent < 5)
                        turns(1);
                client_send(fd, "later");
                before = *c;
                c = move(c, is_last ? record_of(c, true) : record);
                ck_assert_uint_eq(c->accepted_usec, before.accepted_usec);
                ck_assert_uint_eq(c->ready, before.ready);
                ck_assert_int_eq(connection_peer_pid(c), connection_peer_pid(&before));
                ck_assert_uint_eq(connection_peer_uid(c), connection_peer_uid(&before));
                ck_assert_int_eq(c->is_unix, is_unix);
                ck_assert_uint_eq(connections.n_accepted, 1);

                /* It is counted, and served. */
                client_end(is_unix ? client_new_unix() : client_new(), 'c');
                turns_until(&told.n_rejected, 1);
                ck_assert_str_eq(told.cause, "limit");
                ck_assert_int_eq(recv(fd, answer, 10, MSG_WAITALL), 10);
                ck_assert_mem_eq(answer, "hellolater", 10);
                if (does_reset && !is_unix)
                        client_reset(fd);
                else
                        (void)close(fd);
                turns_until(&told.n_closed, 1);
                ck_assert_str_eq(told.cause, does_reset && !is_unix ? "reset" : "eof");
                ck_assert_str_eq(told.identity, "alice");
                n_bytes = is_unix && !is_last ? 5 : 10; /* UNIX sockets do not count */
                ck_assert_uint_eq(told.bytes_received, 6 + n_bytes);
                ck_assert_uint_eq(told.bytes_sent, n_bytes);
                finish();
        }
}
END_TEST

START_TEST(test_connection_moves_unsent_bytes)
{
        static uint8_t sent[1 << 23], received[1 << 23];
        size_t n_sent = 0, n_received = 0;
        struct connection *c;
        int fd;

        begin();
        listening.handler = HANDLER_ECHO;
        listening.n_resources = 0;
        listen_at("127.0.0.1:7400");
        fd = client_new();
        ck_assert_int_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
        turns_until(&told.n_ready, 1);
        c = only(CONNECTION_READY);
        for (size_t i = 0; i < sizeof(sent); i++)
                sent[i] = (uint8_t)(i * 7 % 251);
        while (!c->output) {
                ssize_t n = send(fd, sent + n_sent, sizeof(sent) - n_sent, 0);

                n_sent += n > 0 ? (size_t)n : 0;
                turns(1);
        }
        while (n_received < n_sent) {
                ssize_t n;

                if (c->output)
                        c = move(c, record_of(c, true));
                turns(1);
                n = recv(fd, received + n_received, sizeof(received) - n_received, 0);
                n_received += n > 0 ? (size_t)n : 0;
        }
        ck_assert_mem_eq(received, sent, n_sent);
        (void)close(fd);
        turns_until(&told.n_closed, 1);
        ck_assert_uint_eq(told.bytes_received, n_sent);
        ck_assert_uint_eq(told.bytes_sent, n_sent);
        finish();
}
END_TEST

START_TEST(test_connection_moves_half_closed)
{
        struct connection *c;
        int fd;

        begin();
        listening.half_close = HALF_CLOSE_KEEP;
        listening.half_close_timeout = 300 * MSEC;
        listening.n_resources = 0;
        listen_at("127.0.0.1:7400");
        fd = client_new();
        turns_until(&told.n_ready, 1);
        client_end(fd, 'h');
        while (connections.n_in_state[CONNECTION_HALF_CLOSED] == 0)
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
        c = only(CONNECTION_HALF_CLOSED);

        uint32_t fin = c->fin;

        c = move(c, record_of(c, true));
        ck_assert_int_eq(c->state, CONNECTION_HALF_CLOSED);
        ck_assert_uint_eq(c->fin, fin);
        turns_until(&told.n_closed, 1);
        ck_assert_str_eq(told.cause, "half-close-timeout");
        (void)close(fd);
        finish();
}
END_TEST

START_TEST(test_connection_bad_records)
{
        static const char *const texts[] = {
                "listener=x\nhas_lease=0\n.\n",
                "connection=0\nlistener=x\nhas_lease=0\n.\n",
                "connection=5g\nlistener=x\nhas_lease=0\n.\n",
                "connection=5\nhas_lease=0\n.\n",
                "connection=5\nlistener=x\n.\n",
                "connection=5\nlistener=x\nhas_lease=no\n.\n",
                "connection=5\nlistener=x\nhas_lease=0\nunsent=6g\n.\n",
        };

        begin();
        for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
                _cleanup_strv_free_ char **fields = NULL;
                _cleanup_free_ char *copy = strdup(texts[i]);
                char *rest = copy;
                struct connection *c = connection_new(&connections);

                ck_assert_int_eq(fields_read(&rest, &fields), 1);
                ck_assert_int_eq(snapshot_read(c, fields, -1), -EINVAL);
                snapshot_drop(&connections, c);
        }
        finish();
}
END_TEST

/* ---- plugins: letters in the log beside those of the resources, one for each callback ---- */

static struct {
        int prepare, accept, handshake, receive; /* what they answer */
        void (*in_accept)(struct tetherd_connection *c);
        void (*in_handshake)(struct tetherd_connection *c);
        void (*in_receive)(struct tetherd_connection *c);
        void (*in_send)(struct tetherd_connection *c);
        void (*in_close)(struct tetherd_connection *c);
        struct tetherd_connection *first; /* that was accepted, until it is closed */
        struct tetherd_ending ending;
        unsigned n_closed, n_shutdown;
        size_t n_received, n_sent, n_queued;
        char bytes[64]; /* the last ones */
        int in_callback;
} guest;

/* No callback comes from inside another, and the log says which came when. */
static void guest_enter(const char *what)
{
        size_t length = strlen(fake_log);

        ck_assert_int_eq(guest.in_callback++, 0);
        (void)snprintf(fake_log + length, sizeof(fake_log) - length, "%s ", what);
}

static int guest_leave(int answer)
{
        guest.in_callback--;
        return answer;
}

static int plugin_prepare(struct tetherd_listener *l, int fd)
{
        int is_listening;
        socklen_t length = sizeof(is_listening);

        guest_enter("prepare");
        ck_assert_str_eq(tetherd_listener_name(l), "presence");
        ck_assert_int_eq(getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &length), 0);
        ck_assert_int_eq(is_listening, !list_is_empty(&listeners.all));
        return guest_leave(guest.prepare);
}

static int plugin_accept(struct tetherd_connection *c)
{
        guest_enter("accept");
        ck_assert_int_eq(tetherd_send(c, "x", 1), -ENOTCONN);
        ck_assert_int_eq(tetherd_ready(c), -EALREADY);
        ck_assert_ptr_null(tetherd_data(c));
        ck_assert_ptr_null(tetherd_identity(c));
        ck_assert_ptr_null(tetherd_value(c, "a"));
        tetherd_set_data(c, &guest);
        if (!guest.first)
                guest.first = c;
        if (guest.in_accept)
                guest.in_accept(c);
        return guest_leave(guest.accept);
}

static int plugin_handshake(struct tetherd_connection *c)
{
        guest_enter("handshake");
        if (listening.n_resources > 0)
                ck_assert_str_eq(tetherd_value(c, "a"), "a");
        ck_assert_ptr_null(tetherd_value(c, "b"));
        if (guest.in_handshake)
                guest.in_handshake(c);
        return guest_leave(guest.handshake);
}

static int plugin_receive(struct tetherd_connection *c, const void *bytes, size_t n)
{
        guest_enter(n == 0 ? "fin" : "receive");
        guest.n_received += n;
        (void)snprintf(guest.bytes, sizeof(guest.bytes), "%.*s", (int)MIN(n, sizeof(guest.bytes) - 1),
                       (const char *)bytes);
        if (guest.in_receive)
                guest.in_receive(c);
        return guest_leave(guest.receive);
}

static int plugin_send(struct tetherd_connection *c, size_t n_sent, size_t n_queued)
{
        guest_enter("send");
        ck_assert_uint_gt(n_sent, 0);
        guest.n_sent += n_sent;
        guest.n_queued = n_queued;
        if (guest.in_send)
                guest.in_send(c);
        fake_log[strlen(fake_log) - strlen("send ")] = '\0'; /* how often is the kernel's choice */
        return guest_leave(TETHERD_OK);
}

static void plugin_close(struct tetherd_connection *c, const struct tetherd_ending *ending)
{
        guest_enter("close");
        ck_assert_uint_eq(ending->size, sizeof(*ending));
        ck_assert_ptr_eq(tetherd_data(c), &guest);
        ck_assert_int_eq(tetherd_send(c, "x", 1), -ENOTCONN);
        ck_assert_int_eq(tetherd_ready(c), -ENOTCONN);
        ck_assert_int_eq(tetherd_pause(c), -ENOTCONN);
        ck_assert_int_eq(tetherd_resume(c), -ENOTCONN);
        ck_assert_int_eq(tetherd_disconnect(c), 0);
        if (guest.in_close)
                guest.in_close(c);
        guest.ending = *ending;
        guest.n_closed++;
        if (guest.first == c)
                guest.first = NULL;
        (void)guest_leave(0);
}

static void plugin_shutdown(struct tetherd_listener *l)
{
        guest_enter("shutdown");
        ck_assert_str_eq(tetherd_listener_name(l), "presence");
        guest.n_shutdown++;
        (void)guest_leave(0);
}

/* A plugin that is "loaded" already: at the path of some object that nobody else can write. */
static void plugin_at(const char *path)
{
        struct plugin *plugin = calloc(1, sizeof(*plugin));
        char reason[OBJECT_REASON_MAX];

        list_init(&plugin->link);
        plugin->path = strdup(path);
        ck_assert_int_eq(object_judge(path, &plugin->identity, reason), 0);
        plugin->table = (struct tetherd_plugin){
                .name = "tester",
                .prepare_listen = plugin_prepare,
                .accept = plugin_accept,
                .handshake = plugin_handshake,
                .receive = plugin_receive,
                .send = plugin_send,
                .close = plugin_close,
                .shutdown = plugin_shutdown,
        };
        list_append(&listeners.plugins, &plugin->link);
}

static char plugin_path[256];

static void begin_plugin(void)
{
        const union {
                const char *(*function)(void);
                void *address;
        } libc = { .function = gnu_get_libc_version };
        Dl_info info;

        begin();
        memset(&guest, 0, sizeof(guest));
        ck_assert_int_ne(dladdr(libc.address, &info), 0);
        (void)snprintf(plugin_path, sizeof(plugin_path), "%s", info.dli_fname);
        plugin_at(plugin_path);
        listening.handler = HANDLER_PLUGIN;
        listening.plugin = plugin_path;
        listening.handler_timeout = USEC_INFINITY;
}

/* It ended with this, and the plugin was told the same. */
static void check_plugin_ending(const char *cause, const char *operation, int error, const char *state)
{
        ck_assert_str_eq(told.cause, cause);
        ck_assert_str_eq(told.operation, operation);
        ck_assert_int_eq(told.error, error);
        ck_assert_str_eq(told.state, state);
        ck_assert_str_eq(guest.ending.cause, cause);
        ck_assert_str_eq(guest.ending.operation, operation);
        ck_assert_int_eq(guest.ending.error, error);
        ck_assert_str_eq(guest.ending.state, state);
        ck_assert_uint_eq(guest.ending.bytes_received, told.bytes_received);
        ck_assert_uint_eq(guest.ending.bytes_sent, told.bytes_sent);
        ck_assert(!connections.n_connections || guest.n_closed > 0);
}

static void leave_it(struct tetherd_connection *c)
{
        ck_assert_int_eq(tetherd_disconnect(c), 0);
        ck_assert_int_eq(tetherd_disconnect(c), 0);
        ck_assert_int_eq(tetherd_send(c, "x", 1), -ENOTCONN);
        ck_assert_int_eq(tetherd_ready(c), -ENOTCONN);
}

static void ready_it(struct tetherd_connection *c)
{
        ck_assert_int_eq(tetherd_ready(c), 0);
        ck_assert_int_eq(tetherd_ready(c), -EALREADY);
}

static void greet_it(struct tetherd_connection *c)
{
        ck_assert_int_eq(tetherd_send(c, "hey\n", 4), 0);
}

static void pause_it(struct tetherd_connection *c)
{
        ck_assert_int_eq(tetherd_pause(c), 0);
        ck_assert_int_eq(tetherd_pause(c), 0);
}

/* What the plugin may ask in its close: everything that is told of the connection. */
static void ask_all(struct tetherd_connection *c)
{
        uint16_t port = 0;

        ck_assert_str_eq(tetherd_remote(c, &port), "127.0.0.1");
        ck_assert_uint_ne(port, 0);
        ck_assert_str_eq(tetherd_local(c, &port), "127.0.0.1");
        ck_assert_uint_eq(port, told.port);
        ck_assert_str_eq(tetherd_remote(c, NULL), "127.0.0.1");
        ck_assert_str_eq(tetherd_listener_name(tetherd_listener(c)), "presence");
        ck_assert_uint_eq(tetherd_connection_id(c), 1);
        tetherd_log(c, LOG_INFO, "%d of %s", 1, "one");
        ck_assert_str_eq(told.said, "1 tester 1 of one");
        ck_assert_uint_eq(told.said_port, told.port);
        tetherd_log(c, LOG_INFO, "%3000s", "x");
        ck_assert_uint_eq(told.said_length, 2047);
}

static void ask_everything(struct tetherd_connection *c)
{
        ask_all(c);
        ck_assert_str_eq(tetherd_identity(c), "alice");
        ck_assert_str_eq(tetherd_value(c, "a"), "a");
}

/* Each callback once, what is the plugin's own inside of what was declared, however it ends. */
START_TEST(test_connection_plugin)
{
        static const struct {
                char how;
                const char *cause;
                int error;
        } rows[] = {
                { 'c', "eof", 0 }, { 'r', "reset", ECONNRESET }, { 'f', "reset", EPIPE }, { 'h', "eof", 0 }
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                int fd;

                begin_plugin();
                listening.hello = true;
                guest.in_accept = ask_all;
                guest.in_handshake = guest.in_receive = guest.in_close = ask_everything;
                listen_at("127.0.0.1:7400");
                fd = client_new();
                client_send(fd, "alice\n");
                turns_until(&told.n_ready, 1);
                client_send(fd, "hello");
                client_end(fd, rows[i].how);
                turns_until(&told.n_closed, 1);
                check_plugin_ending(rows[i].cause, "receive", rows[i].error, "ready");
                ck_assert_str_eq(guest.ending.initiator, "peer");
                ck_assert_str_eq(guest.bytes, "hello");
                ck_assert_uint_eq(told.bytes_received, 11);
                if (rows[i].how == 'h')
                        (void)close(fd);
                finish();
                ck_assert_str_eq(fake_log, "prepare accept +a handshake receive close -a shutdown ");
        }
}
END_TEST

/* Each way for the plugin to end it. */
START_TEST(test_connection_plugin_ends_it)
{
        enum { NOTHING, ACCEPT, HANDSHAKE, RECEIVE };
        static const struct {
                int where;
                int answer;
                void (*call)(struct tetherd_connection *c);
                const char *state, *log;
        } rows[] = {
                { ACCEPT, TETHERD_ERROR, NULL, "accept", "prepare accept close shutdown " },
                { ACCEPT, TETHERD_PENDING, NULL, "accept", "prepare accept close shutdown " },
                { ACCEPT, TETHERD_OK, leave_it, "accept", "prepare accept close shutdown " },
                { HANDSHAKE, TETHERD_ERROR, NULL, "loading",
                  "prepare accept +a handshake close -a shutdown " },
                { HANDSHAKE, TETHERD_ERROR, ready_it, "loading",
                  "prepare accept +a handshake close -a shutdown " },
                { HANDSHAKE, TETHERD_OK, leave_it, "loading",
                  "prepare accept +a handshake close -a shutdown " },
                { HANDSHAKE, TETHERD_PENDING, leave_it, "loading",
                  "prepare accept +a handshake close -a shutdown " },
                { HANDSHAKE, 99, NULL, "loading", "prepare accept +a handshake close -a shutdown " },
                { RECEIVE, TETHERD_ERROR, NULL, "ready",
                  "prepare accept +a handshake receive close -a shutdown " },
                { RECEIVE, TETHERD_OK, leave_it, "ready",
                  "prepare accept +a handshake receive close -a shutdown " },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                bool is_refused = rows[i].where == ACCEPT;
                char byte;
                int fd;

                begin_plugin();
                if (rows[i].where == ACCEPT) {
                        guest.accept = rows[i].answer;
                        guest.in_accept = rows[i].call;
                } else if (rows[i].where == HANDSHAKE) {
                        guest.handshake = rows[i].answer;
                        guest.in_handshake = rows[i].call;
                } else {
                        guest.receive = rows[i].answer;
                        guest.in_receive = rows[i].call;
                }
                listen_at("127.0.0.1:7400");
                fd = client_new();
                client_send(fd, "hello");
                turns_until(is_refused ? &told.n_rejected : &told.n_closed, 1);
                check_plugin_ending("handler", "close", 0, rows[i].state);
                ck_assert_str_eq(guest.ending.initiator, "local");
                ck_assert_int_eq(told.priority, is_refused ? LOG_NOTICE : LOG_INFO);
                ck_assert_int_eq(recv(fd, &byte, 1, 0), 0); /* no reset, though bytes were unread */
                (void)close(fd);
                finish();
                ck_assert_msg(streq(fake_log, rows[i].log), "row %zu: %s", i, fake_log);
        }
}
END_TEST

/* A pending handshake: it is told, or it is not, or the peer goes meanwhile. */
START_TEST(test_connection_plugin_pending)
{
        int fd;

        begin_plugin();
        guest.handshake = TETHERD_PENDING;
        listening.handler_timeout = 20 * MSEC;
        listen_at("127.0.0.1:7400");
        fd = client_new();
        client_send(fd, "hello"); /* stays unread */
        turns_until(&told.n_closed, 1);
        check_plugin_ending("handler", "close", ETIMEDOUT, "loading");
        ck_assert_str_eq(told.sentence, "its handshake was pending for longer than handler_timeout");
        ck_assert_str_eq(fake_log, "prepare accept +a handshake close -a ");
        (void)close(fd);

        /* At once, from inside. */
        listening.handler_timeout = USEC_INFINITY;
        guest.in_handshake = ready_it;
        client_end(client_new(), 'c');
        turns_until(&told.n_closed, 2);
        ck_assert_uint_eq(told.n_ready, 1);
        check_plugin_ending("eof", "receive", 0, "ready");
        guest.in_handshake = NULL;

        for (const char *how = "cr"; *how; how++) {
                fd = client_new();
                turns(4);
                ck_assert_uint_eq(connections.n_in_state[CONNECTION_LOADING], 1);
                client_end(fd, *how);
                turns_until(&told.n_closed, *how == 'c' ? 3 : 4);
                check_plugin_ending(*how == 'c' ? "eof" : "reset", "receive", *how == 'c' ? 0 : ECONNRESET,
                                    "loading");
        }

        /* Later, from outside of any callback of its own. What came meanwhile is still there. */
        fd = client_new();
        client_send(fd, "hello");
        turns(5);
        ck_assert_uint_eq(told.n_ready, 1);
        ck_assert_str_eq(guest.bytes, "");
        ready_it(guest.first);
        ck_assert_uint_eq(told.n_ready, 1); /* not from inside the call */
        turns_until(&told.n_ready, 2);
        (void)close(fd);
        turns_until(&told.n_closed, 5);
        ck_assert_str_eq(guest.bytes, "hello");

        /* The daemon stops meanwhile; somebody was just told. */
        fd = client_new();
        turns(4);
        ready_it(guest.first);
        connections_end_all(&connections);
        turns(2);
        check_plugin_ending("shutdown", "close", 0, "loading");
        ck_assert_uint_eq(told.n_ready, 2);
        (void)close(fd);
        finish();
        ck_assert_uint_eq(guest.n_closed, 6);
        ck_assert_uint_eq(guest.n_shutdown, 1);
}
END_TEST

static void leave_first(struct tetherd_connection *c)
{
        ck_assert_ptr_ne(c, guest.first);
        leave_it(guest.first);
}

static void send_first(struct tetherd_connection *c _unused_)
{
        if (guest.first)
                (void)tetherd_send(guest.first, "x", 1);
}

/* One ends another: it ends soon, not inside the call; and whatever else ends it first comes second. */
START_TEST(test_connection_plugin_ends_others)
{
        static char script_loads_late[] = "l/o";
        int fd, other_fd;

        begin_plugin();
        listen_at("127.0.0.1:7400");
        fd = client_new();
        turns_until(&told.n_ready, 1);
        other_fd = client_new();
        turns_until(&told.n_ready, 2);
        guest.in_receive = leave_first;
        client_send(other_fd, "you go");
        turns_until(&told.n_closed, 1);
        check_plugin_ending("handler", "close", 0, "ready");
        ck_assert_ptr_null(guest.first);
        guest.in_receive = NULL;
        (void)close(fd);

        /* From a close; both end in this one call of ours, each once. */
        fd = client_new();
        turns_until(&told.n_ready, 3);
        guest.in_close = send_first;
        connections_end_all(&connections);
        turns(2);
        ck_assert_uint_eq(told.n_closed, 3);
        (void)close(fd);
        (void)close(other_fd);
        guest.in_close = NULL;

        /* It has not shaken hands yet, or its resources load: its handshake callback never comes. */
        for (int is_loading = 0; is_loading < 2; is_loading++) {
                listening.hello = !is_loading;
                resource.path = is_loading ? script_loads_late : script_ok;
                fd = client_new();
                turns(3);
                ck_assert_uint_eq(
                        connections.n_in_state[is_loading ? CONNECTION_LOADING : CONNECTION_HANDSHAKE], 1);
                ck_assert_int_eq(tetherd_send(guest.first, "x", 1), -ENOTCONN);
                fake_log[0] = '\0';
                leave_it(guest.first);
                if (is_loading)
                        fake_complete(container_of(fake_pending.next, struct fake, link), 'o');
                else
                        client_send(fd, "alice\n"); /* in the same turn */
                turns_until(is_loading ? &told.n_closed : &told.n_rejected, is_loading ? 4 : 1);
                check_plugin_ending("handler", "close", 0, is_loading ? "loading" : "handshake");
                ck_assert_str_eq(fake_log, is_loading ? "close -a " : "close ");
                (void)close(fd);
                turns(1);
        }
        listening.hello = false;
        resource.path = script_ok;

        /* What was asked for first is the cause. */
        fd = client_new();
        turns_until(&told.n_ready, 4);
        leave_it(guest.first);
        ck_assert_uint_eq(guest.n_closed, 5);
        connections_end_all(&connections);
        check_plugin_ending("handler", "close", 0, "ready");
        ck_assert_uint_eq(guest.n_closed, 6);
        (void)close(fd);
        finish();
}
END_TEST

static char flood[TETHERD_SEND_MAX];

/* Until the queue is full. */
static void flood_it(struct tetherd_connection *c)
{
        int n = 0, queued = 0;

        ck_assert_int_eq(tetherd_send(c, flood, sizeof(flood) + 1), -EMSGSIZE);
        while ((n = tetherd_send(c, flood, 5000)) >= 0) {
                ck_assert_int_ge(n, queued);
                ck_assert_int_le(n, TETHERD_SEND_MAX);
                queued = n;
                guest.n_queued += 5000;
        }
        ck_assert_int_eq(n, -EAGAIN);
        ck_assert_int_gt(queued, TETHERD_SEND_MAX - 5000);
}

static void flood_more(struct tetherd_connection *c)
{
        if (guest.n_sent < 3 * TETHERD_SEND_MAX)
                while (tetherd_send(c, flood, 700) >= 0)
                        ;
}

/* The queue has a bound, empties as the peer reads, and what is queued is told when it goes. Reading goes on. */
START_TEST(test_connection_plugin_send)
{
        static char received[65536];
        uint64_t n_received = 0;
        int fd;

        for (int is_unix = 0; is_unix < 2; is_unix++) {
                begin_plugin();
                guest.in_receive = flood_it;
                listening.n_resources = 0;
                listen_at(is_unix ? "@tetherd-test-send" : "127.0.0.1:7400");
                fd = is_unix ? client_new_unix() : client_new();
                ck_assert_int_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
                turns_until(&told.n_ready, 1);
                client_send(fd, "go");
                while (guest.n_received < 2)
                        turns(1);
                guest.in_receive = NULL;
                guest.in_send = flood_more;
                client_send(fd, "and"); /* received while much is queued */
                while (guest.n_received < 5)
                        turns(1);
                ck_assert_ptr_nonnull(connection_output(only(CONNECTION_READY)));
                n_received = 0;
                while (guest.n_sent < 3 * TETHERD_SEND_MAX || guest.n_queued > 0 ||
                       n_received < only(CONNECTION_READY)->bytes_sent) {
                        ssize_t n = recv(fd, received, sizeof(received), 0);

                        n_received += n > 0 ? (uint64_t)n : 0;
                        turns(1);
                }
                ck_assert_ptr_null(connection_output(only(CONNECTION_READY)));
                ck_assert_uint_gt(n_received, 3 * TETHERD_SEND_MAX);
                (void)close(fd);
                turns_until(&told.n_closed, 1);
                check_plugin_ending("eof", "receive", 0, "ready");
                ck_assert_uint_eq(told.bytes_sent, n_received);
                finish();
        }
}
END_TEST

/* What is said in the handshake comes before the greeting; a peer that does not read while pending is not lost. */
START_TEST(test_connection_plugin_greets)
{
        static char greeting[] = "welcome";
        char answer[16] = "";
        int fd;

        begin_plugin();
        guest.in_handshake = greet_it;
        listening.greeting = greeting;
        listen_at("127.0.0.1:7400");
        fd = client_new();
        turns_until(&told.n_ready, 1);
        ck_assert_int_eq(recv(fd, answer, 12, MSG_WAITALL), 12);
        ck_assert_str_eq(answer, "hey\nwelcome\n");
        (void)close(fd);
        turns_until(&told.n_closed, 1);

        listening.greeting = no_text;
        guest.in_handshake = flood_it;
        guest.handshake = TETHERD_PENDING;
        fd = client_new();
        client_send(fd, "unread");
        ck_assert_int_eq(fcntl(fd, F_SETFL, O_NONBLOCK), 0);
        guest.n_queued = SIZE_MAX;
        while (guest.n_queued > 0) {
                char bytes[4096];

                (void)recv(fd, bytes, sizeof(bytes), 0);
                turns(1);
        }
        ck_assert_uint_eq(connections.n_in_state[CONNECTION_LOADING], 1);
        client_end(fd, 'r');
        turns_until(&told.n_closed, 2);
        check_plugin_ending("reset", "receive", ECONNRESET, "loading");
        finish();
}
END_TEST

/* While it is paused nothing is received and no idle time passes; a FIN waits, a reset does not. */
START_TEST(test_connection_plugin_pause)
{
        const uint64_t days = 60 * 86400 * USEC_PER_SEC; /* more milliseconds than 32 bits hold */
        int fd;

        begin_plugin();
        guest.in_receive = pause_it;
        listening.idle_timeout = 20 * MSEC;
        listen_at("127.0.0.1:7400");
        fd = client_new();
        turns_until(&told.n_ready, 1);
        client_send(fd, "one");
        while (guest.n_received < 3)
                turns(1);
        client_send(fd, "two");
        (void)shutdown(fd, SHUT_WR);
        only(CONNECTION_READY)->paused = span_pack(days); /* it was before, too */
        for (uint64_t end = clock_usec(CLOCK_MONOTONIC) + 50 * MSEC; clock_usec(CLOCK_MONOTONIC) < end;)
                ck_assert_int_eq(loop_turn(loop, 10 * MSEC), 0);
        ck_assert_uint_eq(told.n_closed, 0);
        ck_assert_str_eq(guest.bytes, "one");
        guest.in_receive = NULL;
        ck_assert_int_eq(tetherd_resume(guest.first), 0);
        ck_assert_int_eq(tetherd_resume(guest.first), 0);
        ck_assert_uint_gt(only(CONNECTION_READY)->timer.deadline_usec, days);
        turns_until(&told.n_closed, 1);
        ck_assert_str_eq(guest.bytes, "two");
        check_plugin_ending("eof", "receive", 0, "ready");
        (void)close(fd);

        listening.idle_timeout = USEC_INFINITY;
        guest.in_receive = pause_it;
        fd = client_new();
        turns_until(&told.n_ready, 2);
        client_send(fd, "one");
        while (guest.n_received < 9)
                turns(1);
        client_send(fd, "two");
        client_end(fd, 'r');
        turns_until(&told.n_closed, 2);
        ck_assert_str_eq(guest.bytes, "two"); /* came before the reset */
        check_plugin_ending("reset", "receive", ECONNRESET, "ready");
        finish();

        /* On a UNIX socket a close is no mere FIN. */
        begin_plugin();
        guest.in_receive = pause_it;
        listen_at("@tetherd-test-pause");
        fd = client_new_unix();
        turns_until(&told.n_ready, 1);
        client_send(fd, "one");
        while (guest.n_received < 3)
                turns(1);
        client_send(fd, "two");
        client_end(fd, 'h');
        turns(4);
        ck_assert_str_eq(guest.bytes, "one");
        client_end(fd, 'c');
        turns_until(&told.n_closed, 1);
        ck_assert_str_eq(guest.bytes, "two");
        check_plugin_ending("eof", "receive", 0, "ready");
        finish();
}
END_TEST

/* How long it was paused before it was ready does not count: neither does the idle time. */
START_TEST(test_connection_plugin_pause_before)
{
        const struct connection *c;
        uint64_t since_usec;
        int fd;

        begin_plugin();
        guest.in_accept = pause_it;
        guest.handshake = TETHERD_PENDING;
        listening.idle_timeout = USEC_PER_SEC;
        listen_at("127.0.0.1:7400");
        since_usec = loop_now(loop);
        fd = client_new();
        while (!guest.first || guest.first->state != GUEST_PENDING || loop_now(loop) < since_usec + 20 * MSEC)
                ck_assert_int_eq(loop_turn(loop, MSEC), 0);
        ck_assert_int_eq(tetherd_resume(guest.first), 0);
        ck_assert_int_eq(tetherd_ready(guest.first), 0);
        turns_until(&told.n_ready, 1);
        c = only(CONNECTION_READY);
        ck_assert_uint_eq(c->timer.deadline_usec, c->received_usec + USEC_PER_SEC);
        (void)close(fd);
        turns_until(&told.n_closed, 1);
        finish();
}
END_TEST

/* A peer that is gone: what it sent before comes first, also where a send was the first to notice. */
START_TEST(test_connection_plugin_breaks)
{
        static const int n_sends[] = { 1, 2 };

        for (size_t i = 0; i < ARRAY_SIZE(n_sends); i++) {
                int fd, r = 0;

                begin_plugin();
                listen_at("127.0.0.1:7400");
                fd = client_new();
                turns_until(&told.n_ready, 1);
                client_send(fd, "last words");
                client_end(fd, 'r');
                for (int k = 0; k < n_sends[i]; k++)
                        r = tetherd_send(guest.first, "x", 1);
                ck_assert_int_eq(r, n_sends[i] == 1 ? -ECONNRESET : -ENOTCONN);
                ck_assert_uint_eq(guest.n_received, 0);
                turns_until(&told.n_closed, 1);
                ck_assert_str_eq(guest.bytes, "last words");
                check_plugin_ending("reset", "send", ECONNRESET, "ready");
                finish();
                ck_assert_str_eq(fake_log, "prepare accept +a handshake receive close -a shutdown ");
        }

        /* It does not want to hear them. */
        for (int is_asked = 0; is_asked < 2; is_asked++) {
                int fd;

                begin_plugin();
                listen_at("127.0.0.1:7400");
                fd = client_new();
                turns_until(&told.n_ready, 1);
                client_send(fd, "last words");
                client_end(fd, 'r');
                ck_assert_int_eq(tetherd_send(guest.first, "x", 1), -ECONNRESET);
                guest.receive = TETHERD_ERROR;
                if (is_asked)
                        ck_assert_int_eq(tetherd_disconnect(guest.first), 0);
                turns_until(&told.n_closed, 1);
                check_plugin_ending("reset", "send", ECONNRESET, "ready");
                ck_assert_uint_eq(guest.n_received, is_asked ? 0 : 10);
                finish();
        }
}
END_TEST

/* With half_close = keep the plugin hears of the FIN, and has the last word. */
START_TEST(test_connection_plugin_half_closed)
{
        char answer[16] = "";
        int fd;

        begin_plugin();
        listening.half_close = HALF_CLOSE_KEEP;
        listen_at("127.0.0.1:7400");
        fd = client_new();
        client_send(fd, "question");
        client_end(fd, 'h');
        while (connections.n_in_state[CONNECTION_HALF_CLOSED] == 0)
                turns(1);
        ck_assert_str_eq(fake_log, "prepare accept +a handshake receive fin ");
        ck_assert_int_eq(tetherd_send(guest.first, "answer", 6), 0);
        leave_it(guest.first);
        turns_until(&told.n_closed, 1);
        check_plugin_ending("handler", "close", 0, "ready");
        ck_assert_int_eq(recv(fd, answer, sizeof(answer), MSG_WAITALL), 6);
        (void)close(fd);
        finish();
}
END_TEST

/* Rules and limits come before the plugin: it hears nothing of whom they turn away at once. */
START_TEST(test_connection_plugin_admission)
{
        int fd, other_fd;

        begin_plugin();
        listening.max_connections_per_source = 1;
        listen_at("127.0.0.1:7400");
        fd = client_new();
        turns_until(&told.n_ready, 1);
        other_fd = client_new();
        turns_until(&told.n_rejected, 1);
        ck_assert_str_eq(fake_log, "prepare accept +a handshake ");
        (void)close(other_fd);
        (void)close(fd);
        turns_until(&told.n_closed, 1);

        /* In the handshake it has heard of it already. */
        listening.hello = true;
        fake_log[0] = '\0';
        fd = client_new();
        client_send(fd, "-bad\n");
        turns_until(&told.n_rejected, 2);
        check_plugin_ending("protocol-error", "handshake", 0, "handshake");
        (void)close(fd);
        fd = client_new();
        turns(3);
        connections_end_all(&connections);
        turns_until(&told.n_rejected, 3);
        check_plugin_ending("shutdown", "close", 0, "handshake");
        (void)close(fd);
        turns(1); /* it is counted until it is buried */

        /* A load that fails: the plugin is not asked, and told all the same. */
        listening.hello = false;
        static char script_fails[] = "s/o";
        resource.path = script_fails;
        fd = client_new();
        turns_until(&told.n_closed, 2);
        check_plugin_ending("load-failed", "handshake", 0, "loading");
        (void)close(fd);
        finish();
        ck_assert_str_eq(fake_log, "accept close accept close accept +a close shutdown ");
}
END_TEST

/* A plugin that has nothing to say is a discard. */
START_TEST(test_connection_plugin_without_callbacks)
{
        struct plugin *plugin;
        int fd;

        begin_plugin();
        plugin = container_of(listeners.plugins.next, struct plugin, link);
        plugin->table = (struct tetherd_plugin){ .name = "empty" };
        listen_at("127.0.0.1:7400");
        fd = client_new();
        turns_until(&told.n_ready, 1);
        client_send(fd, "hello");
        client_end(fd, 'r');
        turns_until(&told.n_closed, 1);
        ck_assert_str_eq(told.cause, "reset");
        ck_assert_uint_eq(told.bytes_received, 5);
        finish();
        ck_assert_str_eq(fake_log, "+a -a ");
}
END_TEST

/* The plugin may not want a socket: then nothing is there, and it is told that it is over. */
START_TEST(test_connection_plugin_refuses_to_listen)
{
        struct listener_plan *plan;
        const char *reason;
        char *fault;

        begin_plugin();
        guest.prepare = TETHERD_ERROR;
        ck_assert_int_eq(endpoint_parse("127.0.0.1:7400", &endpoint, &reason), 0);
        endpoint.address.in.sin_port = 0;
        ck_assert_int_eq(listener_prepare(&listeners, &listening, &plan, &fault), -ECANCELED);
        ck_assert_str_eq(fault,
                         "[listener:presence] listen: cannot listen at 127.0.0.1:7400: the plugin does "
                         "not want it (its prepare_listen)");
        free(fault);
        ck_assert_str_eq(fake_log, "prepare shutdown ");
        finish();
}
END_TEST

/* Another plugin, or none, at a reload: who is connected keeps the old one, which is told when the last is gone. */
START_TEST(test_connection_plugin_is_replaced)
{
        struct listener_plan *plan;
        char other_path[300], *fault;
        int fd, other_fd;

        begin_plugin();
        (void)snprintf(other_path, sizeof(other_path), "/.%s", plugin_path);
        plugin_at(other_path);
        listen_at("127.0.0.1:7400");
        endpoint.address.in.sin_port = htons(7400); /* as its text: it is the one that is open */
        fd = client_new();
        turns_until(&told.n_ready, 1);
        ck_assert_str_eq(fake_log, "prepare accept +a handshake ");

        /* The same once more changes nothing. */
        ck_assert_int_eq(listener_prepare(&listeners, &listening, &plan, &fault), 0);
        listeners_commit(&listeners, &plan, 1);
        ck_assert_str_eq(fake_log, "prepare accept +a handshake ");

        listening.plugin = other_path;
        ck_assert_int_eq(listener_prepare(&listeners, &listening, &plan, &fault), 0);
        ck_assert_str_eq(fake_log, "prepare accept +a handshake prepare ");
        (void)listener_plan_free(plan); /* refused after all */
        ck_assert_str_eq(fake_log, "prepare accept +a handshake prepare shutdown ");
        ck_assert_int_eq(listener_prepare(&listeners, &listening, &plan, &fault), 0);
        listeners_commit(&listeners, &plan, 1);
        fake_log[0] = '\0';
        guest.first = NULL; /* both count */
        other_fd = client_new();
        turns_until(&told.n_ready, 2);
        ck_assert_str_eq(fake_log, "accept +a handshake ");
        guest.first = NULL;
        (void)close(fd);
        turns_until(&told.n_closed, 1);
        ck_assert_str_eq(fake_log, "accept +a handshake close shutdown -a ");

        /* Its file changed. */
        container_of(listeners.plugins.prev, struct plugin, link)->identity.size++;
        ck_assert_int_eq(listener_prepare(&listeners, &listening, &plan, &fault), -EBUSY);
        ck_assert_str_eq(fault, "[listener:presence] handler: the file changed since it was loaded: needs a "
                                "restart");
        free(fault);

        listening.handler = HANDLER_ECHO;
        ck_assert_int_eq(listener_prepare(&listeners, &listening, &plan, &fault), 0);
        listeners_commit(&listeners, &plan, 1);
        (void)close(other_fd);
        turns_until(&told.n_closed, 2);
        ck_assert_str_eq(fake_log, "accept +a handshake close shutdown -a close shutdown -a ");
        finish();
}
END_TEST

static pthread_t loop_thread;
static unsigned n_errands;

static void errand(void *userdata)
{
        ck_assert(pthread_equal(pthread_self(), loop_thread));
        ck_assert_uint_eq(n_errands++, (uintptr_t)userdata);
        if (guest.first && n_errands == 100)
                ready_it(guest.first);
}

static void *run_errands(void *userdata _unused_)
{
        for (uintptr_t i = 0; i < 100; i++)
                ck_assert_int_eq(tetherd_run(errand, (void *)i), 0); /* NOLINT */
        return NULL;
}

/* Another thread does what takes long, and says so. */
START_TEST(test_connection_plugin_thread)
{
        pthread_t thread;
        int fd;

        begin_plugin();
        loop_thread = pthread_self();
        n_errands = 0;
        guest.handshake = TETHERD_PENDING;
        listen_at("127.0.0.1:7400");
        fd = client_new();
        turns(4);
        ck_assert_int_eq(pthread_create(&thread, NULL, run_errands, NULL), 0);
        turns_until(&told.n_ready, 1);
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
        ck_assert_uint_eq(n_errands, 100);
        (void)close(fd);
        turns_until(&told.n_closed, 1);
        finish();
        ck_assert_int_eq(tetherd_run(errand, NULL), -ESHUTDOWN);
}
END_TEST

UNIT_MAIN("connection", test_connection_endings, test_connection_half_closed, test_connection_timeouts,
          test_connection_hello, test_connection_probe, test_connection_dies_while_loading,
          test_connection_load_fails, test_connection_greeting, test_connection_storm, test_connection_echo,
          test_connection_breaks_in_the_middle, test_connection_limit, test_connection_shutdown,
          test_connection_outlives_its_listener, test_connection_given, test_connection_given_unread,
          test_connection_given_deaths, test_connection_given_reset_ends_program,
          test_connection_given_is_left_alone, test_connection_given_is_ended,
          test_connection_given_and_refused, test_connection_given_long_greeting, test_connection_unix,
          test_connection_unix_stalled, test_connection_moves, test_connection_moves_unsent_bytes,
          test_connection_moves_half_closed, test_connection_bad_records, test_connection_plugin,
          test_connection_plugin_ends_it, test_connection_plugin_pending, test_connection_plugin_ends_others,
          test_connection_plugin_send, test_connection_plugin_greets, test_connection_plugin_pause,
          test_connection_plugin_pause_before, test_connection_plugin_breaks,
          test_connection_plugin_half_closed, test_connection_plugin_admission,
          test_connection_plugin_without_callbacks, test_connection_plugin_refuses_to_listen,
          test_connection_plugin_is_replaced, test_connection_plugin_thread)

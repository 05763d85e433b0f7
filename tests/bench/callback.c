/*
 * What a callback of a plugin costs, without the socket: guest_receive() as stream.c calls it, with a plugin that only
 * counts, beside that function called through a pointer; and a call into us. Prints a line for each: its name, and
 * the median of ROUNDS rounds, which take turns, in ns of CPU time.
 *
 *     callback [ROUNDS]
 *
 * What it relies on: nothing in here waits, so that CPU time is all that there is.
 */
#include "connection/guest.h"
#include "connection/listener.h"
#include <err.h>
#include <stdio.h>

#define N_CALLS    1000000
#define ROUNDS_MAX 1000

static size_t n_bytes;

static int on_receive(struct tetherd_connection *connection _unused_, const void *bytes _unused_, size_t n)
{
        n_bytes += n;
        return TETHERD_OK;
}

/* The compiler is not to know what is called. */
static int (*volatile bare)(struct tetherd_connection *connection, const void *bytes, size_t n) = on_receive;
static void *(*volatile call)(const struct tetherd_connection *connection) = tetherd_data;

static bool do_bare(struct connection *c)
{
        return bare(c->guest, "x", 1) == TETHERD_OK;
}

static bool do_callback(struct connection *c)
{
        return guest_receive(c, "x", 1);
}

static bool do_call(struct connection *c)
{
        return call(c->guest) == NULL;
}

static double measure(bool (*what)(struct connection *c), struct connection *c)
{
        uint64_t before_usec = clock_usec(CLOCK_PROCESS_CPUTIME_ID);

        for (unsigned i = 0; i < N_CALLS; i++)
                if (!what(c))
                        errx(EXIT_FAILURE, "the connection ended");
        return (double)(clock_usec(CLOCK_PROCESS_CPUTIME_ID) - before_usec) * 1000 / N_CALLS;
}

static int compare(const void *a, const void *b)
{
        double x = *(const double *)a, y = *(const double *)b;

        return (x > y) - (x < y);
}

/* A connection that is ready, over a socket pair; the rest is as a daemon has it. */
static struct connection *open_connection(struct listener *listener)
{
        static const struct address remote = { .family = AF_UNIX };
        struct connection *c = connection_new(listener->connections);
        int fds[2];

        if (!c || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
                err(EXIT_FAILURE, "starting");
        connection_open(c, listener, fds[0], &remote);
        if (c->state != CONNECTION_READY)
                errx(EXIT_FAILURE, "the connection did not become ready");
        return c;
}

int main(int argc, char **argv)
{
        static const struct {
                const char *name;
                bool (*what)(struct connection *c);
        } rows[] = { { "bare", do_bare }, { "callback", do_callback }, { "call", do_call } };
        static double samples[ARRAY_SIZE(rows)][ROUNDS_MAX];
        static char empty[] = "";
        static struct config config = { .n_refs = 1 };
        static struct listener_config listening = {
                .config = &config,
                .name = "bench",
                .handler = HANDLER_PLUGIN,
                .greeting = empty,
                .refusal = empty,
                .max_connections_per_source = UINT64_MAX,
                .accept_rate_per_source = UINT64_MAX,
                .idle_timeout = USEC_INFINITY,
                .max_age = USEC_INFINITY,
                .detect_within = USEC_INFINITY,
        };
        static const struct plugin plugin = { .table = { .name = "bench", .receive = on_receive } };
        static const struct log_options quiet = {
                .target = LOG_TARGET_STDERR, .level = LOG_ERR, .events = LOG_EVENTS_NONE, .n_queue = 16
        };
        struct listener listener = { .config = &listening };
        struct connections connections;
        struct journal *journal;
        struct loop *loop;
        struct leases leases;
        unsigned n_rounds = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 15;

        if (n_rounds < 1 || n_rounds > ROUNDS_MAX)
                errx(EXIT_FAILURE, "usage: callback [ROUNDS]");
        if (loop_new(&loop) < 0 || journal_new(&journal, &quiet, NULL, NULL) < 0)
                errx(EXIT_FAILURE, "starting");
        leases_init(&leases, loop, journal, NULL);
        if (connections_init(&connections, loop, journal, &leases) < 0 || guests_open(&connections) < 0 ||
            sources_init(&listener.sources) < 0 || hosted_new(&listener.hosted, &plugin, "bench") < 0)
                errx(EXIT_FAILURE, "starting");
        listener.connections = &connections;
        listening.listener = &listener;

        struct connection *c = open_connection(&listener);

        for (unsigned i = 0; i < n_rounds; i++)
                for (size_t k = 0; k < ARRAY_SIZE(rows); k++)
                        samples[k][i] = measure(rows[k].what, c);
        for (size_t k = 0; k < ARRAY_SIZE(rows); k++) {
                qsort(samples[k], n_rounds, sizeof(samples[k][0]), compare);
                (void)printf("%s %.1f\n", rows[k].name, samples[k][n_rounds / 2]);
        }
        return EXIT_SUCCESS;
}

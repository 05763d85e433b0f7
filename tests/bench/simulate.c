/*
 * Simulated connections: the slab, the loop, the timers and the admission table, driven in one process with more
 * connections than it may have descriptors.
 *
 *     simulate CONNECTIONS OPERATIONS LIMIT
 *
 * fills them with so many, each from an address of its own, and then takes turns: 256 connections of which the kernel
 * "has news" move their deadline, and 64 end and 64 begin. Prints what an operation costs: nanoseconds of CPU of
 * one that has news, of one that ends and one that begins together, and of a deadline that passes. Each source may have LIMIT connections; with 0 nobody is counted.
 *
 * What is simulated: the kernel, of which the loop sees epoll_ctl and epoll_wait alone (the linker leads them here).
 * What a cost may depend on is how many connections there are, and which: `near` takes those that follow each other
 * in memory, as lives do that begin and end together; `far` takes any, so that each is cold in every cache.
 */
#include "base/clock.h"
#include "connection/admission.h"
#include "loop/loop.h"
#include <err.h>
#include <inttypes.h>
#include <stdio.h>

#define FIRST_FD  (1 << 24) /* above every real one */
#define N_EVENTS  256       /* a turn */
#define N_LIVES   64
#define SIZE      192 /* of a struct connection */
#define SPAN_USEC (UINT64_C(3600) * USEC_PER_SEC)

int __real_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event);
int __wrap_epoll_wait(int epoll_fd, struct epoll_event *events, int n_events, int timeout);

struct simulated {
        struct source source;
        struct timer timer;
        struct source_entry *entry;
        uint32_t address;
        size_t index; /* in `all` */
};

static struct simulation {
        struct loop *loop;
        struct slab slab;
        struct sources sources;
        struct listener_config config;
        struct simulated **all;
        size_t n;
        size_t cursor;
        bool is_far;
        uint64_t random;
        uint32_t next_address;
        struct simulated *news[N_EVENTS];
        size_t n_news;
        uint64_t n_served, n_fired;
        uint64_t passed_usec; /* since the loop last looked at its clock */
} simulation;

int __wrap_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
        return fd >= FIRST_FD ? 0 : __real_epoll_ctl(epoll_fd, operation, fd, event);
}

int __wrap_epoll_wait(int epoll_fd _unused_, struct epoll_event *events, int n_events _unused_,
                      int timeout _unused_)
{
        for (size_t i = 0; i < simulation.n_news; i++)
                events[i] =
                        (struct epoll_event){ .events = EPOLLIN, .data.ptr = &simulation.news[i]->source };
        return (int)simulation.n_news;
}

static uint64_t cpu_nsec(void)
{
        struct timespec ts;

        (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
        return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* xorshift64* */
static uint64_t random_number(void)
{
        simulation.random ^= simulation.random >> 12;
        simulation.random ^= simulation.random << 25;
        simulation.random ^= simulation.random >> 27;
        return simulation.random * UINT64_C(0x2545f4914f6cdd1d);
}

static void arm(struct simulated *s)
{
        timer_arm(loop_wheel(simulation.loop), &s->timer,
                  loop_now(simulation.loop) + simulation.passed_usec + SPAN_USEC +
                          random_number() % SPAN_USEC);
}

static void has_news(struct source *source)
{
        struct simulated *s = container_of(source, struct simulated, source);

        source_clear(source, EPOLLIN);
        simulation.n_served++;
        arm(s);
}

static void fired(struct timer *timer)
{
        simulation.n_fired++;
        arm(container_of(timer, struct simulated, timer));
}

static struct simulated *begin_one(size_t index)
{
        struct simulated *s = slab_alloc(&simulation.slab);
        struct address address = { .family = AF_INET };
        const struct peer peer = { .address = &address, .uid = (uid_t)-1, .gid = (gid_t)-1 };

        if (!s)
                err(EXIT_FAILURE, "slab_alloc");
        s->address = simulation.next_address++;
        s->index = index;
        memcpy(address.ip, &s->address, sizeof(s->address));
        if (admission_decide(&simulation.sources, &simulation.config, &peer, loop_now(simulation.loop),
                             &s->entry) != ADMISSION_GRANTED ||
            source_init(&s->source, simulation.loop, FIRST_FD + (int)index, EPOLLIN, EPOLLIN, has_news) < 0)
                errx(EXIT_FAILURE, "not admitted");
        timer_init(&s->timer, fired);
        arm(s);
        return s;
}

static void end_one(struct simulated *s)
{
        source_deinit(&s->source, simulation.loop);
        timer_disarm(&s->timer);
        sources_leave(&simulation.sources, s->entry);
        slab_free(&simulation.slab, s);
}

static size_t choose(void)
{
        if (simulation.is_far)
                return random_number() % simulation.n;
        simulation.cursor = (simulation.cursor + 1) % simulation.n;
        return simulation.cursor;
}

static void turn(void)
{
        if (loop_turn(simulation.loop, 0) < 0)
                errx(EXIT_FAILURE, "loop_turn");
        simulation.n_news = 0;
}

static void report(const char *what, uint64_t nsec, uint64_t n)
{
        (void)printf("%s %s %.1f\n", simulation.is_far ? "far" : "near", what, (double)nsec / (double)n);
}

/* Not inlined, so that callgrind can tell it apart, as lives(). */
__attribute__((noinline)) static void news(size_t n_operations)
{
        uint64_t nsec = 0;

        simulation.n_served = 0;
        while (simulation.n_served < n_operations) {
                for (size_t i = 0; i < N_EVENTS; i++)
                        simulation.news[i] = simulation.all[choose()];
                simulation.n_news = N_EVENTS;
                nsec -= cpu_nsec();
                turn();
                nsec += cpu_nsec();
        }
        report("news", nsec, simulation.n_served);
}

__attribute__((noinline)) static void lives(size_t n_operations)
{
        size_t which[N_LIVES];
        uint64_t nsec = 0;

        for (size_t done = 0; done < n_operations; done += N_LIVES) {
                for (size_t i = 0; i < N_LIVES; i++)
                        which[i] = choose();
                nsec -= cpu_nsec();
                for (size_t i = 0; i < N_LIVES; i++) {
                        end_one(simulation.all[which[i]]);
                        simulation.all[which[i]] = begin_one(which[i]);
                }
                nsec += cpu_nsec();
        }
        report("life", nsec, n_operations / N_LIVES * N_LIVES);
}

/* Time passes a second at once, so that some deadlines are due and some are sorted again. */
static void deadlines(void)
{
        uint64_t nsec = 0;

        simulation.n_fired = 0;
        for (simulation.passed_usec = 0; simulation.passed_usec < 2 * SPAN_USEC;) {
                simulation.passed_usec += USEC_PER_SEC;
                nsec -= cpu_nsec();
                wheel_run(loop_wheel(simulation.loop), loop_now(simulation.loop) + simulation.passed_usec);
                nsec += cpu_nsec();
        }
        if (simulation.n_fired > 0)
                report("deadline", nsec, simulation.n_fired);
}

int main(int argc, char **argv)
{
        size_t n_operations;

        if (argc != 4)
                errx(EXIT_FAILURE, "usage: simulate CONNECTIONS OPERATIONS LIMIT");
        simulation.n = strtoul(argv[1], NULL, 10);
        n_operations = strtoul(argv[2], NULL, 10);
        simulation.random = 88172645463325252;
        simulation.config.max_connections_per_source = strtoul(argv[3], NULL, 10);
        if (simulation.config.max_connections_per_source == 0)
                simulation.config.max_connections_per_source = UINT64_MAX;
        simulation.config.accept_rate_per_source = UINT64_MAX;
        simulation.all = calloc(simulation.n, sizeof(struct simulated *));
        slab_init(&simulation.slab, SIZE);
        if (!simulation.all || sources_init(&simulation.sources) < 0 || loop_new(&simulation.loop) < 0)
                errx(EXIT_FAILURE, "starting");
        for (size_t i = 0; i < simulation.n; i++)
                simulation.all[i] = begin_one(i);
        for (int is_far = 0; is_far <= 1; is_far++) {
                simulation.is_far = is_far;
                lives(n_operations);
                news(n_operations);
        }
        deadlines();
        for (size_t i = 0; i < simulation.n; i++)
                end_one(simulation.all[i]);
        sources_deinit(&simulation.sources);
        slab_deinit(&simulation.slab);
        simulation.loop = loop_free(simulation.loop);
        free(simulation.all);
        return EXIT_SUCCESS;
}

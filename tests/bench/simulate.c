/*
 * Simulated connections: the slab, the loop, the timers and the admission table, driven in one process with more
 * connections than it may have descriptors.
 *
 *     simulate CONNECTIONS OPERATIONS LIMIT [sockets]
 *
 * fills them with so many, each from an address of its own, and then takes turns as the daemon does: 256 connections
 * have news, which moves no deadline but only notes the time; 64 have a FIN and end, and 64 begin. Prints what an
 * operation costs: nanoseconds of CPU of one that has news, of one that ends and one that begins together, and of a
 * deadline that passes. Each source may have LIMIT connections; with 0 nobody is counted.
 *
 * What is simulated: the kernel, of which the loop sees epoll_ctl and epoll_wait alone (the linker leads them here).
 * With `sockets` it is asked as well: those of a turn have real ones, of TCP, and each operation makes the system calls
 * that it makes in the daemon. What their clients do is not counted.
 *
 * What a cost may depend on is how many connections there are, and which: `near` takes those that follow each other
 * in memory, as lives do that begin and end together; `far` takes any, so that each is cold in every cache. All have
 * the same timeout, and came one after the other within an hour.
 */
#include "base/clock.h"
#include "connection/connection.h"
#include "loop/loop.h"
#include <err.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>

#define FIRST_FD  (1 << 24) /* above every real one */
#define N_EVENTS  256       /* a turn */
#define N_LIVES   64
#define SPAN_USEC (UINT64_C(3600) * USEC_PER_SEC)

int __real_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event);
int __real_epoll_wait(int epoll_fd, struct epoll_event *events, int n_events, int timeout);
int __wrap_epoll_wait(int epoll_fd, struct epoll_event *events, int n_events, int timeout);

/* What is touched lies where it lies in a struct connection. */
struct simulated {
        struct source source;
        struct timer timer;
        struct source_entry *entry;
        size_t index; /* in `all` */
        uint64_t rest[4];
        uint64_t received_usec;
        uint64_t n_received;
        struct address remote;
        uint64_t more[3];
        uint32_t fd;
        uint32_t state;
};

static_assert(sizeof(struct simulated) == sizeof(struct connection), "as large as the real ones");

static struct simulation {
        struct loop *loop;
        struct slab slab;
        struct sources sources;
        struct listener_config config;
        struct simulated **all;
        uint64_t *marks; /* a bit for each of them */
        size_t n;
        size_t cursor;
        bool is_far;
        uint64_t random;
        uint32_t next_address;
        size_t chosen[N_EVENTS];
        size_t n_chosen;
        uint32_t events; /* of all that were chosen */
        bool is_told;
        uint64_t n_served, n_fired;
        uint64_t passed_usec; /* since the loop last looked at its clock */
} simulation;

/* Of those that have news in this turn, in the order in which they get it. */
static struct sockets {
        bool are_used;
        int epoll_fd; /* the loop's */
        int listen_fd;
        int clients[N_EVENTS], servers[N_EVENTS];
        size_t next;
} sockets;

int __wrap_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
        sockets.epoll_fd = epoll_fd;
        if (fd >= FIRST_FD && !sockets.are_used)
                return 0;
        return __real_epoll_ctl(epoll_fd, operation, fd >= FIRST_FD ? sockets.servers[sockets.next] : fd,
                                event);
}

int __wrap_epoll_wait(int epoll_fd, struct epoll_event *events, int n_events, int timeout _unused_)
{
        int n = 0;

        if (sockets.are_used)
                (void)__real_epoll_wait(epoll_fd, events, n_events, 0); /* the same news, of the sockets */
        for (; !simulation.is_told && n < (int)simulation.n_chosen; n++)
                events[n] = (struct epoll_event){ .events = simulation.events,
                                                  .data.ptr = simulation.all[simulation.chosen[n]] };
        simulation.is_told = true;
        return n;
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

static uint64_t now_usec(void)
{
        return loop_now(simulation.loop) + simulation.passed_usec;
}

/* ---- sockets ---- */

static void sockets_listen(void)
{
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

        sockets.listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (sockets.listen_fd < 0 ||
            bind(sockets.listen_fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
            listen(sockets.listen_fd, N_EVENTS) < 0)
                err(EXIT_FAILURE, "listening");
}

/* From addresses that take turns, for each life leaves one of its ports in TIME_WAIT. */
static void client_connect(size_t i)
{
        static uint32_t n_lives;
        const struct sockaddr_in source = { .sin_family = AF_INET,
                                            .sin_addr.s_addr = htonl(0x7f010001 + n_lives++ % 250) };
        struct sockaddr_in address;
        socklen_t length = sizeof(address);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        if (fd < 0 || setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){ 1 }, sizeof(int)) < 0 ||
            bind(fd, (const struct sockaddr *)&source, sizeof(source)) < 0 ||
            getsockname(sockets.listen_fd, (struct sockaddr *)&address, &length) < 0 ||
            connect(fd, (struct sockaddr *)&address, length) < 0)
                err(EXIT_FAILURE, "connecting");
        sockets.clients[i] = fd;
}

static void client_reconnect(size_t i)
{
        (void)close(sockets.clients[i]);
        client_connect(i);
}

static void wait_for_news(size_t i)
{
        struct pollfd pollfd = { .fd = sockets.servers[i], .events = POLLIN };

        if (poll(&pollfd, 1, -1) < 0)
                err(EXIT_FAILURE, "poll");
}

static void client_end(size_t i)
{
        if (shutdown(sockets.clients[i], SHUT_WR) < 0)
                err(EXIT_FAILURE, "shutdown");
        wait_for_news(i);
}

static void client_send(size_t i)
{
        if (send(sockets.clients[i], "", 1, MSG_NOSIGNAL) != 1)
                err(EXIT_FAILURE, "send");
        wait_for_news(i);
}

static void clients_do(void (*act)(size_t i), size_t n)
{
        for (size_t i = 0; sockets.are_used && i < n; i++)
                act(i);
        sockets.next = 0;
}

static void server_accept(void)
{
        int fd = accept4(sockets.listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0)
                err(EXIT_FAILURE, "accept4");
        sockets.servers[sockets.next] = fd;
}

static void server_receive(ssize_t n_expected)
{
        char byte;

        if (recv(sockets.servers[sockets.next], &byte, sizeof(byte), 0) != n_expected)
                err(EXIT_FAILURE, "recv");
}

/* The first of them belong to nobody yet. */
static void sockets_open(void)
{
        struct epoll_event event = { .events = EPOLLIN | EPOLLET };

        sockets_listen();
        for (sockets.next = 0; sockets.next < N_EVENTS; sockets.next++) {
                client_connect(sockets.next);
                server_accept();
                if (__real_epoll_ctl(sockets.epoll_fd, EPOLL_CTL_ADD, sockets.servers[sockets.next], &event) <
                    0)
                        err(EXIT_FAILURE, "epoll_ctl");
        }
        sockets.are_used = true;
}

static void sockets_close(void)
{
        sockets.are_used = false;
        for (size_t i = 0; i < N_EVENTS; i++) {
                (void)close(sockets.clients[i]);
                (void)close(sockets.servers[i]);
        }
        (void)close(sockets.listen_fd);
}

/* ---- connections ---- */

static void end_one(struct simulated *s)
{
        source_deinit(&s->source, simulation.loop);
        timer_disarm(&s->timer);
        sources_leave(&simulation.sources, s->entry);
        slab_free(&simulation.slab, s);
}

static void has_news(struct source *source)
{
        struct simulated *s = container_of(source, struct simulated, source);

        simulation.n_served++;
        if (sockets.are_used)
                server_receive(source->pending & EPOLLRDHUP ? 0 : 1);
        if (source->pending & EPOLLRDHUP) {
                end_one(s);
                if (sockets.are_used)
                        (void)close(sockets.servers[sockets.next]);
                sockets.next++;
                return;
        }
        sockets.next++;
        source_clear(source, EPOLLIN);
        s->received_usec = now_usec();
        s->n_received += s->fd + s->state;
}

static void fired(struct timer *timer)
{
        simulation.n_fired++;
        timer_arm(loop_wheel(simulation.loop), timer, now_usec() + SPAN_USEC);
}

static struct simulated *begin_one(size_t index)
{
        struct simulated *s = slab_alloc(&simulation.slab);
        const struct peer peer = { .address = &s->remote, .uid = (uid_t)-1, .gid = (gid_t)-1 };

        if (!s)
                err(EXIT_FAILURE, "slab_alloc");
        if (sockets.are_used)
                server_accept();
        s->index = index;
        s->remote.family = AF_INET;
        memcpy(s->remote.ip, &simulation.next_address, sizeof(simulation.next_address));
        simulation.next_address++;
        if (admission_decide(&simulation.sources, &simulation.config, &peer, loop_now(simulation.loop),
                             &s->entry) != ADMISSION_GRANTED ||
            source_init(&s->source, simulation.loop, FIRST_FD + (int)index, EPOLLIN, EPOLLIN, has_news) < 0)
                errx(EXIT_FAILURE, "not admitted");
        timer_init(&s->timer, fired);
        simulation.passed_usec += SPAN_USEC / simulation.n;
        timer_arm(loop_wheel(simulation.loop), &s->timer, now_usec() + SPAN_USEC);
        sockets.next++;
        return s;
}

/* So many, each once, and without a look at them. */
static void choose(size_t n, uint32_t events)
{
        simulation.events = events;
        simulation.n_chosen = 0;
        simulation.is_told = false;
        while (simulation.n_chosen < n) {
                size_t which = simulation.is_far
                                       ? random_number() % simulation.n
                                       : (simulation.cursor = (simulation.cursor + 1) % simulation.n);

                if (simulation.marks[which / 64] & UINT64_C(1) << which % 64)
                        continue;
                simulation.marks[which / 64] |= UINT64_C(1) << which % 64;
                simulation.chosen[simulation.n_chosen++] = which;
        }
        for (size_t i = 0; i < n; i++)
                simulation.marks[simulation.chosen[i] / 64] = 0;
}

/* Mostly one turn; but the loop has only so much time for ends. */
static void serve(size_t n)
{
        do {
                if (loop_turn(simulation.loop, 0) < 0)
                        errx(EXIT_FAILURE, "loop_turn");
        } while (sockets.next < n);
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
                choose(N_EVENTS, EPOLLIN);
                clients_do(client_send, N_EVENTS);
                nsec -= cpu_nsec();
                serve(N_EVENTS);
                nsec += cpu_nsec();
        }
        report("news", nsec, simulation.n_served);
}

__attribute__((noinline)) static void lives(size_t n_operations)
{
        struct simulated *begun[N_LIVES];
        uint64_t nsec = 0;

        simulation.n_served = 0;
        while (simulation.n_served < n_operations) {
                choose(N_LIVES, EPOLLIN | EPOLLRDHUP);
                clients_do(client_end, N_LIVES);
                nsec -= cpu_nsec();
                serve(N_LIVES);
                nsec += cpu_nsec();
                clients_do(client_reconnect, N_LIVES);
                nsec -= cpu_nsec();
                for (size_t i = 0; i < N_LIVES; i++)
                        begun[i] = begin_one(simulation.chosen[i]);
                nsec += cpu_nsec();
                for (size_t i = 0; i < N_LIVES; i++)
                        simulation.all[simulation.chosen[i]] = begun[i];
        }
        report("life", nsec, simulation.n_served);
}

/* Time passes a second at once, so that some deadlines are due and some are sorted again. */
static void deadlines(void)
{
        uint64_t nsec = 0;

        simulation.n_fired = 0;
        for (uint64_t end_usec = now_usec() + 2 * SPAN_USEC; now_usec() < end_usec;) {
                simulation.passed_usec += USEC_PER_SEC;
                nsec -= cpu_nsec();
                wheel_run(loop_wheel(simulation.loop), now_usec());
                nsec += cpu_nsec();
        }
        if (simulation.n_fired > 0)
                report("deadline", nsec, simulation.n_fired);
}

int main(int argc, char **argv)
{
        size_t n_operations;

        if (argc != 4 && (argc != 5 || strcmp(argv[4], "sockets") != 0))
                errx(EXIT_FAILURE, "usage: simulate CONNECTIONS OPERATIONS LIMIT [sockets]");
        simulation.n = strtoul(argv[1], NULL, 10);
        n_operations = strtoul(argv[2], NULL, 10);
        simulation.random = 88172645463325252;
        simulation.config.max_connections_per_source = strtoul(argv[3], NULL, 10);
        if (simulation.config.max_connections_per_source == 0)
                simulation.config.max_connections_per_source = UINT64_MAX;
        simulation.config.accept_rate_per_source = UINT64_MAX;
        simulation.all = calloc(simulation.n, sizeof(struct simulated *));
        simulation.marks = calloc(simulation.n / 64 + 1, sizeof(uint64_t));
        slab_init(&simulation.slab, sizeof(struct simulated));
        if (!simulation.all || !simulation.marks || sources_init(&simulation.sources) < 0 ||
            loop_new(&simulation.loop) < 0)
                errx(EXIT_FAILURE, "starting");
        for (size_t i = 0; i < simulation.n; i++)
                simulation.all[i] = begin_one(i);
        if (argc == 5)
                sockets_open();
        for (int is_far = 0; is_far <= 1; is_far++) {
                simulation.is_far = is_far;
                lives(n_operations);
                news(n_operations);
        }
        if (argc == 5)
                sockets_close();
        else
                deadlines();
        for (size_t i = 0; i < simulation.n; i++)
                end_one(simulation.all[i]);
        sources_deinit(&simulation.sources);
        slab_deinit(&simulation.slab);
        simulation.loop = loop_free(simulation.loop);
        free(simulation.marks);
        free(simulation.all);
        return EXIT_SUCCESS;
}

/*
 * The load: lives of clients against 127.0.0.1.
 *
 *     load [-n LIVES] [-w WINDOW] [-r RATE] [-s SOURCE] [-e fin|reset|hold|greeted] [-a fin|reset] [-l] PORT
 *
 * At most WINDOW lives are under way, at most RATE begin in a second (0: flat out). With `fin` a client sends
 * FIN as soon as it is connected and waits for the server's; TIME_WAIT stays on this side. With `reset` it sends
 * RST; nothing tells it when the server has seen that, so every 64th life and the last one end with FIN, and the
 * answer confirms all that began before: accept queues are first in, first out. With `greeted` a client waits for a
 * line from the server, and so until its resources are loaded, before it sends FIN. With `hold` the clients stay,
 * "open" is printed, and at the end of stdin they all send FIN and wait, or with `-a reset` send RST and do not. The
 * last line, "ended", is written when the server has answered the last FIN. With `-l` the line before says how long
 * the server's FINs took, p50 and p99 in nanoseconds, from ours to theirs.
 *
 * What it relies on: the kernel finds at most 14,116 ports from one address to another, so the lives take turns
 * in using 250 addresses of 127.0.0.0/8, from 127.1.0.1 on and SOURCE (IP_BIND_ADDRESS_NO_PORT leaves the choice of
 * the port to connect).
 *
 * What it deliberately does not do: send data, or go on after a fault. A life that fails makes the round void
 * and ends the program with status 1.
 */
#include "base/clock.h"
#include "base/util.h"
#include <arpa/inet.h>
#include <err.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define N_EVENTS     256
#define N_SOURCES    250
#define FIN_EVERY    64
#define PATIENCE_SEC 20

enum ending { ENDING_FIN, ENDING_RESET, ENDING_HOLD, ENDING_GREETED };

enum life_state { LIFE_NONE, LIFE_CONNECTING, LIFE_CONNECTED, LIFE_ENDING };

struct life {
        enum life_state state;
        unsigned int number;
        uint64_t fin_nsec; /* with -l: when ours was sent */
};

struct load {
        unsigned int n_lives, n_window, rate, source;
        enum ending ending;
        enum ending held_ending; /* of those that were held */
        uint64_t *delays_nsec;   /* with -l: of each life */
        in_port_t port;          /* network order */
        int epoll_fd;
        struct life *lives; /* by descriptor */
        int n_fds;
        uint64_t begin_usec;
        unsigned int n_begun;
        unsigned int n_done; /* ended and confirmed; with `hold`, connected */
};

static void life_begin(struct load *load)
{
        struct sockaddr_in source = { .sin_family = AF_INET,
                                      .sin_addr.s_addr =
                                              htonl(0x7f010001 + load->source + load->n_begun % N_SOURCES) };
        struct sockaddr_in server = { .sin_family = AF_INET,
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                      .sin_port = load->port };
        struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

        if (fd < 0)
                err(EXIT_FAILURE, "socket");
        assert(fd < load->n_fds);
        if (setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){ 1 }, sizeof(int)) < 0 ||
            bind(fd, (const struct sockaddr *)&source, sizeof(source)) < 0)
                err(EXIT_FAILURE, "bind");
        if (connect(fd, (const struct sockaddr *)&server, sizeof(server)) < 0 && errno != EINPROGRESS)
                err(EXIT_FAILURE, "connect");
        event.data.fd = fd;
        if (epoll_ctl(load->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
                err(EXIT_FAILURE, "epoll_ctl");
        load->lives[fd] = (struct life){ .state = LIFE_CONNECTING, .number = load->n_begun++ };
}

static void life_close(struct load *load, int fd)
{
        load->lives[fd].state = LIFE_NONE;
        (void)close(fd);
}

static uint64_t clock_nsec(void)
{
        struct timespec ts;

        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void life_send_fin(struct load *load, int fd)
{
        load->lives[fd].fin_nsec = load->delays_nsec ? clock_nsec() : 0;
        if (shutdown(fd, SHUT_WR) < 0)
                err(EXIT_FAILURE, "shutdown");
        load->lives[fd].state = LIFE_ENDING;
}

static void life_send_reset(struct load *load, int fd)
{
        struct linger linger = { .l_onoff = 1, .l_linger = 0 };

        if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) < 0)
                err(EXIT_FAILURE, "SO_LINGER");
        life_close(load, fd);
}

static void life_connected(struct load *load, int fd)
{
        unsigned int next = load->lives[fd].number + 1;

        load->lives[fd].state = LIFE_CONNECTED;
        if (load->ending == ENDING_HOLD)
                load->n_done++;
        else if (load->ending == ENDING_RESET && next % FIN_EVERY != 0 && next != load->n_lives)
                life_send_reset(load, fd);
        else if (load->ending != ENDING_GREETED)
                life_send_fin(load, fd);
}

/* Reads what is there; the line may come in parts. */
static void life_greeted(struct load *load, int fd)
{
        char bytes[256];
        ssize_t n_bytes = recv(fd, bytes, sizeof(bytes), 0);

        if (n_bytes == 0 || (n_bytes < 0 && errno != EAGAIN))
                errx(EXIT_FAILURE, "life %u: ended by the server before its greeting",
                     load->lives[fd].number);
        if (n_bytes > 0 && bytes[n_bytes - 1] == '\n')
                life_send_fin(load, fd);
}

static void life_ended(struct load *load, int fd)
{
        char byte;
        ssize_t n_bytes = recv(fd, &byte, sizeof(byte), 0);

        if (n_bytes != 0)
                errx(EXIT_FAILURE, "life %u: FIN awaited: %s", load->lives[fd].number,
                     n_bytes > 0 ? "a byte came" : strerror(errno));
        if (load->delays_nsec)
                load->delays_nsec[load->lives[fd].number] = clock_nsec() - load->lives[fd].fin_nsec;
        if (load->ending == ENDING_RESET)
                load->n_done = MAX(load->n_done, load->lives[fd].number + 1);
        else
                load->n_done++;
        life_close(load, fd);
}

static void life_event(struct load *load, int fd, uint32_t events)
{
        enum life_state state = load->lives[fd].state;
        bool is_over = events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR);

        if (load->ending == ENDING_GREETED && state != LIFE_ENDING) {
                if (state == LIFE_CONNECTING)
                        life_connected(load, fd);
                life_greeted(load, fd);
                return;
        }
        if (is_over && state != LIFE_ENDING)
                errx(EXIT_FAILURE, "life %u: refused, or ended by the server", load->lives[fd].number);
        if (is_over)
                life_ended(load, fd);
        else if (state == LIFE_CONNECTING)
                life_connected(load, fd);
}

/* When the next life may begin; USEC_INFINITY where something else has to happen first. */
static uint64_t load_next_usec(const struct load *load)
{
        if (load->n_begun == load->n_lives || load->n_begun - load->n_done >= load->n_window)
                return USEC_INFINITY;
        if (load->rate == 0)
                return load->begin_usec;
        return load->begin_usec + load->n_begun * USEC_PER_SEC / load->rate;
}

static void load_wait(struct load *load, uint64_t next_usec)
{
        struct epoll_event events[N_EVENTS];
        uint64_t now_usec = clock_usec(CLOCK_MONOTONIC);
        struct timespec timeout = { .tv_sec = PATIENCE_SEC };

        if (next_usec != USEC_INFINITY) {
                uint64_t left_usec = next_usec > now_usec ? next_usec - now_usec : 0;

                timeout.tv_sec = (time_t)(left_usec / USEC_PER_SEC);
                timeout.tv_nsec = (long)(left_usec % USEC_PER_SEC * 1000);
        }
        int n_events = epoll_pwait2(load->epoll_fd, events, N_EVENTS, &timeout, NULL);
        if (n_events < 0 && errno != EINTR)
                err(EXIT_FAILURE, "epoll_pwait2");
        if (n_events == 0 && next_usec == USEC_INFINITY)
                errx(EXIT_FAILURE, "%u of %u lives done, and nothing happened for %d s", load->n_done,
                     load->n_lives, PATIENCE_SEC);
        for (int i = 0; i < n_events; i++)
                life_event(load, events[i].data.fd, events[i].events);
}

static void load_run(struct load *load)
{
        load->begin_usec = clock_usec(CLOCK_MONOTONIC);
        while (load->n_done < load->n_lives) {
                uint64_t next_usec = load_next_usec(load);

                if (next_usec <= clock_usec(CLOCK_MONOTONIC))
                        life_begin(load);
                else
                        load_wait(load, next_usec);
        }
}

/* `hold`: all are open. They end when whoever started us says so, at once. */
static void load_end_held(struct load *load)
{
        char byte;

        (void)puts("open");
        (void)fflush(stdout);
        while (read(STDIN_FILENO, &byte, sizeof(byte)) > 0)
                ;
        load->ending = ENDING_FIN;
        load->n_done = load->held_ending == ENDING_RESET ? load->n_lives : 0;
        for (int fd = 0; fd < load->n_fds; fd++)
                if (load->lives[fd].state == LIFE_CONNECTED && load->held_ending == ENDING_RESET)
                        life_send_reset(load, fd);
                else if (load->lives[fd].state == LIFE_CONNECTED)
                        life_send_fin(load, fd);
        while (load->n_done < load->n_lives)
                load_wait(load, USEC_INFINITY);
}

static int compare_delays(const void *a, const void *b)
{
        uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

        return (x > y) - (x < y);
}

static void say_delays(struct load *load)
{
        qsort(load->delays_nsec, load->n_lives, sizeof(*load->delays_nsec), compare_delays);
        (void)printf("%" PRIu64 " %" PRIu64 "\n", load->delays_nsec[load->n_lives / 2],
                     load->delays_nsec[load->n_lives - 1 - load->n_lives / 100]);
}

static int raise_descriptor_limit(void)
{
        struct rlimit limit;

        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                err(EXIT_FAILURE, "getrlimit");
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
                err(EXIT_FAILURE, "setrlimit");
        return (int)MIN(limit.rlim_cur, (rlim_t)(1 << 20));
}

static enum ending parse_ending(const char *text)
{
        static const char *const names[] = { [ENDING_FIN] = "fin",
                                             [ENDING_RESET] = "reset",
                                             [ENDING_HOLD] = "hold",
                                             [ENDING_GREETED] = "greeted" };

        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                if (streq(text, names[i]))
                        return (enum ending)i;
        errx(EXIT_FAILURE, "unknown ending: %s", text);
}

static unsigned int parse_number(const char *text)
{
        return (unsigned int)strtoul(text, NULL, 10);
}

int main(int argc, char **argv)
{
        struct load load = { .n_lives = 10000, .n_window = 256 };
        bool tells_delays = false;
        int option;

        while ((option = getopt(argc, argv, "n:w:r:s:e:a:l")) != -1) {
                if (option == 'n')
                        load.n_lives = parse_number(optarg);
                else if (option == 'w')
                        load.n_window = parse_number(optarg);
                else if (option == 'r')
                        load.rate = parse_number(optarg);
                else if (option == 'e')
                        load.ending = parse_ending(optarg);
                else if (option == 's')
                        load.source = parse_number(optarg);
                else if (option == 'a')
                        load.held_ending = parse_ending(optarg);
                else if (option == 'l')
                        tells_delays = true;
                else
                        return EXIT_FAILURE;
        }
        if (optind != argc - 1 || load.n_window < FIN_EVERY)
                errx(EXIT_FAILURE,
                     "usage: load [-n LIVES] [-w WINDOW, at least %d] [-r RATE] [-s SOURCE] "
                     "[-e fin|reset|hold|greeted] [-a fin|reset] [-l] PORT",
                     FIN_EVERY);
        load.port = htons((in_port_t)parse_number(argv[optind]));
        load.n_fds = raise_descriptor_limit();
        load.lives = calloc((size_t)load.n_fds, sizeof(*load.lives));
        load.delays_nsec = tells_delays ? calloc(load.n_lives, sizeof(*load.delays_nsec)) : NULL;
        load.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (!load.lives || tells_delays != !!load.delays_nsec || load.epoll_fd < 0)
                err(EXIT_FAILURE, "starting");
        load_run(&load);
        if (load.ending == ENDING_HOLD)
                load_end_held(&load);
        if (tells_delays)
                say_delays(&load);
        (void)puts("ended");
        free(load.delays_nsec);
        free(load.lives);
        return EXIT_SUCCESS;
}

/*
 * The floor: the least that any server must do for a whole life. `floor PORT` accepts on 127.0.0.1, reads each
 * connection to its end and closes it: accept4, epoll_ctl, recv and close, with epoll_wait shared, in one thread
 * over edge-triggered epoll.
 *
 * It accepts until there is nobody, as every such server does. With `floor PORT asks` it asks first how many there are,
 * as tetherd does, for to accept nobody is dear.
 *
 * What it deliberately does not do: timers, records, limits, budgets, state of a connection, faults. An errno
 * that is not the end of one connection ends the program, for then the measurement is void.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define N_EVENTS 256
#define BACKLOG  4096

static int listen_on(const char *port)
{
        struct sockaddr_in address = { .sin_family = AF_INET,
                                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                       .sin_port = htons((uint16_t)strtoul(port, NULL, 10)) };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

        if (fd < 0)
                err(EXIT_FAILURE, "socket");
        if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)) < 0)
                err(EXIT_FAILURE, "SO_REUSEADDR");
        if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, BACKLOG) < 0)
                err(EXIT_FAILURE, "listening on 127.0.0.1:%s", port);
        return fd;
}

static void watch(int epoll_fd, int fd, uint32_t events)
{
        struct epoll_event event = { .events = events | EPOLLET, .data.fd = fd };

        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
                err(EXIT_FAILURE, "epoll_ctl");
}

static unsigned int n_waiting(int listen_fd)
{
        struct tcp_info info;
        socklen_t length = sizeof(info);

        if (getsockopt(listen_fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0)
                err(EXIT_FAILURE, "TCP_INFO");
        return info.tcpi_unacked;
}

static void accept_all(int epoll_fd, int listen_fd, bool asks)
{
        for (unsigned int n = asks ? n_waiting(listen_fd) : UINT_MAX; n > 0; n--) {
                int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

                if (fd >= 0)
                        watch(epoll_fd, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
                else if (errno == EAGAIN)
                        return;
                else
                        err(EXIT_FAILURE, "accept4");
        }
}

static void read_to_end(int fd)
{
        static char buffer[65536];
        ssize_t n_bytes;

        do
                n_bytes = recv(fd, buffer, sizeof(buffer), 0);
        while (n_bytes > 0);
        if (n_bytes == 0 || errno != EAGAIN)
                (void)close(fd);
}

int main(int argc, char **argv)
{
        struct epoll_event events[N_EVENTS];
        bool asks = argc == 3 && strcmp(argv[2], "asks") == 0;

        if (argc != 2 && !asks)
                errx(EXIT_FAILURE, "usage: floor PORT [asks]");
        int listen_fd = listen_on(argv[1]);
        int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        if (epoll_fd < 0)
                err(EXIT_FAILURE, "epoll_create1");
        watch(epoll_fd, listen_fd, EPOLLIN);
        for (;;) {
                int n_events = epoll_wait(epoll_fd, events, N_EVENTS, -1);

                if (n_events < 0 && errno != EINTR)
                        err(EXIT_FAILURE, "epoll_wait");
                for (int i = 0; i < n_events; i++)
                        if (events[i].data.fd == listen_fd)
                                accept_all(epoll_fd, listen_fd, asks);
                        else if (events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
                                read_to_end(events[i].data.fd);
        }
}

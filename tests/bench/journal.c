/*
 * The floor that writes records: what floor.c does, and the two records of a life, `ready` and `closed`, with the
 * fields that tetherd gives them, by sd_journal_send(3), as a server does that has no journal of its own making.
 * `journal PORT [none]`: with `none` it keeps and asks what the records need and sends nothing, so that the
 * difference is what the records cost.
 */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <syslog.h>
#include <systemd/sd-journal.h>
#include <time.h>
#include <unistd.h>

#define N_EVENTS 256
#define BACKLOG  4096
#define N_FDS    20000

static struct life {
        uint64_t id;
        uint64_t accepted_usec;
        struct sockaddr_in remote;
} lives[N_FDS];

static uint64_t n_lives, sequence;
static bool sends = true;

static uint64_t now_usec(void)
{
        struct timespec ts;

        (void)clock_gettime(CLOCK_MONOTONIC, &ts);
        return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void host(const struct sockaddr_in *address, char text[static INET_ADDRSTRLEN])
{
        (void)inet_ntop(AF_INET, &address->sin_addr, text, INET_ADDRSTRLEN);
}

static void say_ready(int fd)
{
        const struct life *life = &lives[fd];
        char remote[INET_ADDRSTRLEN], local_text[INET_ADDRSTRLEN];
        struct sockaddr_in local;
        socklen_t length = sizeof(local);

        if (!sends || getsockname(fd, (struct sockaddr *)&local, &length) < 0)
                return;
        host(&life->remote, remote);
        host(&local, local_text);
        (void)sd_journal_send(
                "MESSAGE=connection %" PRIx64 " from %s:%u on bench ready", life->id, remote,
                ntohs(life->remote.sin_port), "PRIORITY=%d", LOG_INFO, "SYSLOG_IDENTIFIER=floor",
                "TETHERD_SEQUENCE=%" PRIu64, ++sequence, "MESSAGE_ID=1ab13e36a3e64242abeaae8f43c80371",
                "TETHERD_EVENT=ready", "TETHERD_CONNECTION=%" PRIx64, life->id, "TETHERD_LISTENER=bench",
                "TETHERD_REMOTE_ADDRESS=%s", remote, "TETHERD_REMOTE_PORT=%u", ntohs(life->remote.sin_port),
                "TETHERD_LOCAL_ADDRESS=%s", local_text, "TETHERD_LOCAL_PORT=%u", ntohs(local.sin_port),
                "TETHERD_HANDSHAKE_USEC=0", "TETHERD_LOAD_USEC=0", NULL);
}

static void say_closed(int fd, int error, uint64_t n_received)
{
        const struct life *life = &lives[fd];
        char remote[INET_ADDRSTRLEN], local_text[INET_ADDRSTRLEN];
        uint64_t duration_usec = now_usec() - life->accepted_usec;
        struct tcp_info info = { 0 };
        struct sockaddr_in local;
        socklen_t length = sizeof(local), info_length = sizeof(info);
        const char *cause = error ? "reset" : "eof";

        if (!sends || getsockname(fd, (struct sockaddr *)&local, &length) < 0 ||
            getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &info_length) < 0)
                return;
        host(&life->remote, remote);
        host(&local, local_text);
        (void)sd_journal_send(
                "MESSAGE=connection %" PRIx64 " from %s:%u on bench closed: %s by peer, after %" PRIu64
                "us, %" PRIu64 " B received, 0 B sent",
                life->id, remote, ntohs(life->remote.sin_port), cause, duration_usec, n_received,
                "PRIORITY=%d", LOG_INFO, "SYSLOG_IDENTIFIER=floor", "TETHERD_SEQUENCE=%" PRIu64, ++sequence,
                "MESSAGE_ID=5537425fd5dc48eeb973b976877e63e8", "TETHERD_EVENT=closed",
                "TETHERD_CONNECTION=%" PRIx64, life->id, "TETHERD_LISTENER=bench",
                "TETHERD_REMOTE_ADDRESS=%s", remote, "TETHERD_REMOTE_PORT=%u", ntohs(life->remote.sin_port),
                "TETHERD_LOCAL_ADDRESS=%s", local_text, "TETHERD_LOCAL_PORT=%u", ntohs(local.sin_port),
                "TETHERD_CAUSE=%s", cause, "TETHERD_INITIATOR=peer", "TETHERD_OPERATION=receive", "ERRNO=%d",
                error, "TETHERD_STATE=ready", "TETHERD_DURATION_USEC=%" PRIu64, duration_usec,
                "TETHERD_HANDSHAKE_USEC=0", "TETHERD_LOAD_USEC=0", "TETHERD_RELEASE_USEC=0",
                "TETHERD_LAST_RECEIVE_USEC=%" PRIu64, duration_usec, "TETHERD_BYTES_RECEIVED=%" PRIu64,
                n_received, "TETHERD_BYTES_SENT=0", "TETHERD_RTT_USEC=%" PRIu32, info.tcpi_rtt,
                "TETHERD_RETRANSMITS=%" PRIu32, info.tcpi_total_retrans, NULL);
}

static int listen_on(const char *port)
{
        struct sockaddr_in address = { .sin_family = AF_INET,
                                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                       .sin_port = htons((uint16_t)strtoul(port, NULL, 10)) };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

        if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int)) < 0 ||
            bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, BACKLOG) < 0)
                err(EXIT_FAILURE, "listening on 127.0.0.1:%s", port);
        return fd;
}

static void watch(int epoll_fd, int fd, uint32_t events)
{
        struct epoll_event event = { .events = events | EPOLLET, .data.fd = fd };

        if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
                err(EXIT_FAILURE, "epoll_ctl");
}

static void accept_all(int epoll_fd, int listen_fd)
{
        for (;;) {
                struct life life = { .id = ++n_lives, .accepted_usec = now_usec() };
                socklen_t length = sizeof(life.remote);
                int fd = accept4(listen_fd, (struct sockaddr *)&life.remote, &length,
                                 SOCK_NONBLOCK | SOCK_CLOEXEC);

                if (fd < 0 && errno == EAGAIN)
                        return;
                if (fd < 0 || fd >= N_FDS)
                        err(EXIT_FAILURE, "accept4");
                lives[fd] = life;
                watch(epoll_fd, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP);
                say_ready(fd);
        }
}

static void read_to_end(int fd)
{
        static char buffer[65536];
        uint64_t n_received = 0;
        ssize_t n_bytes;

        while ((n_bytes = recv(fd, buffer, sizeof(buffer), 0)) > 0)
                n_received += (uint64_t)n_bytes;
        if (n_bytes < 0 && errno == EAGAIN)
                return;
        say_closed(fd, n_bytes < 0 ? errno : 0, n_received);
        (void)close(fd);
}

int main(int argc, char **argv)
{
        struct epoll_event events[N_EVENTS];

        if (argc != 2 && (argc != 3 || strcmp(argv[2], "none") != 0))
                errx(EXIT_FAILURE, "usage: journal PORT [none]");
        sends = argc == 2;
        if (sends) /* opens its socket, which stays open, before anybody counts descriptors */
                (void)sd_journal_send("MESSAGE=listening", "SYSLOG_IDENTIFIER=floor", NULL);
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
                                accept_all(epoll_fd, listen_fd);
                        else if (events[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
                                read_to_end(events[i].data.fd);
        }
}

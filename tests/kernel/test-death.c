/*
 * What a dying connection says, on this kernel: pins the rows of design.md's table that loopback can show,
 * for cause.c and connection.c rely on them. Nothing of tetherd is linked.
 */
#include "../unit/unit.h"

#include "base/util.h"
#include <arpa/inet.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define EVENTS (EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET)
#define DEAD   (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)

static int listen_fd = -1, epoll_fd = -1, our_fd = -1, their_fd = -1;

static void listen_tcp(void)
{
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };

        listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(bind(listen_fd, (struct sockaddr *)&address, sizeof(address)), 0);
        ck_assert_int_eq(listen(listen_fd, 10), 0);
}

static in_port_t port_of(int fd)
{
        struct sockaddr_in address;
        socklen_t length = sizeof(address);

        ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&address, &length), 0);
        return ntohs(address.sin_port);
}

static int connect_tcp(void)
{
        struct sockaddr_in address = { .sin_family = AF_INET,
                                       .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                       .sin_port = htons(port_of(listen_fd)) };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        return fd;
}

static void add(int fd)
{
        struct epoll_event event = { .events = EVENTS };

        epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        ck_assert_int_eq(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event), 0);
}

/* What epoll told since the last call; waits until all of `wanted` was told, for 10 s at most. */
static uint32_t told(uint32_t wanted)
{
        struct epoll_event event;
        uint32_t events = 0;

        while (epoll_wait(epoll_fd, &event, 1, (events & wanted) == wanted ? 0 : 10000) > 0)
                events |= event.events;
        ck_assert_uint_eq(events & wanted, wanted);
        return events & ~(uint32_t)EPOLLOUT;
}

/* Our end is accepted and watched, and its first EPOLLOUT was taken. */
static void begin(void)
{
        listen_tcp();
        their_fd = connect_tcp();
        our_fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        ck_assert_int_ge(our_fd, 0);
        add(our_fd);
        ck_assert_uint_eq(told(EPOLLOUT), 0);
}

static void begin_unix(void)
{
        int fds[2];

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
        our_fd = fds[0];
        their_fd = fds[1];
        add(our_fd);
        ck_assert_uint_eq(told(EPOLLOUT), 0);
}

static void finish(void)
{
        int *fds[] = { &listen_fd, &epoll_fd, &our_fd, &their_fd };

        for (size_t i = 0; i < ARRAY_SIZE(fds); i++)
                *fds[i] = fd_close(*fds[i]);
}

/* recv(2): the number of bytes, or minus the errno. */
static int received(void)
{
        char bytes[64];
        ssize_t n = recv(our_fd, bytes, sizeof(bytes), MSG_DONTWAIT);

        return n < 0 ? -errno : (int)n;
}

static int socket_error(void)
{
        int error = 0;
        socklen_t length = sizeof(error);

        ck_assert_int_eq(getsockopt(our_fd, SOL_SOCKET, SO_ERROR, &error, &length), 0);
        return error;
}

static void they_close(void)
{
        their_fd = fd_close(their_fd);
}

static void they_reset(void)
{
        struct linger linger = { .l_onoff = 1 };

        ck_assert_int_eq(setsockopt(their_fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)), 0);
        they_close();
}

static void they_send(size_t n)
{
        char bytes[64] = { 0 };

        ck_assert_int_eq(send(their_fd, bytes, n, MSG_NOSIGNAL), (ssize_t)n);
}

START_TEST(test_close)
{
        begin();
        they_close();
        ck_assert_uint_eq(told(EPOLLIN | EPOLLRDHUP), EPOLLIN | EPOLLRDHUP);
        ck_assert_int_eq(received(), 0);
        ck_assert_int_eq(socket_error(), 0);
        finish();
}
END_TEST

START_TEST(test_kill)
{
        pid_t pid;

        begin();
        pid = fork();
        if (pid == 0)
                for (;;)
                        (void)pause();
        they_close(); /* now only the child has it */
        ck_assert_uint_eq(told(0), 0);
        ck_assert_int_eq(kill(pid, SIGKILL), 0);
        ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
        ck_assert_uint_eq(told(EPOLLIN | EPOLLRDHUP), EPOLLIN | EPOLLRDHUP);
        ck_assert_int_eq(received(), 0);
        ck_assert_int_eq(socket_error(), 0);
        finish();
}
END_TEST

/* Looks the same as a close; the full close behind it is not told, only a write finds it. */
START_TEST(test_half_close_then_close)
{
        begin();
        ck_assert_int_eq(shutdown(their_fd, SHUT_WR), 0);
        ck_assert_uint_eq(told(EPOLLIN | EPOLLRDHUP), EPOLLIN | EPOLLRDHUP);
        ck_assert_int_eq(received(), 0);
        ck_assert_int_eq(socket_error(), 0);
        they_close();
        ck_assert_uint_eq(told(0), 0);
        ck_assert_int_eq(send(our_fd, "x", 1, MSG_NOSIGNAL), 1);
        ck_assert_uint_eq(told(DEAD), DEAD);
        ck_assert_int_eq(send(our_fd, "x", 1, MSG_NOSIGNAL), -1);
        ck_assert_int_eq(errno, EPIPE);
        finish();
}
END_TEST

START_TEST(test_fin_then_reset)
{
        begin();
        ck_assert_int_eq(shutdown(their_fd, SHUT_WR), 0);
        they_reset();
        ck_assert_uint_eq(told(DEAD), DEAD);
        ck_assert_int_eq(received(), 0); /* recv alone calls it a clean close */
        ck_assert_int_eq(socket_error(), EPIPE);
        ck_assert_int_eq(socket_error(), 0);
        finish();
}
END_TEST

START_TEST(test_reset)
{
        begin();
        they_reset();
        ck_assert_uint_eq(told(DEAD), DEAD);
        ck_assert_int_eq(received(), -ECONNRESET);
        ck_assert_int_eq(received(), 0); /* told once */
        ck_assert_int_eq(socket_error(), 0);
        finish();

        begin();
        they_reset();
        ck_assert_uint_eq(told(DEAD), DEAD);
        ck_assert_int_eq(socket_error(), ECONNRESET); /* to whoever asks first */
        ck_assert_int_eq(received(), 0);
        finish();
}
END_TEST

START_TEST(test_close_with_our_bytes_unread)
{
        begin();
        ck_assert_int_eq(send(our_fd, "x", 1, MSG_NOSIGNAL), 1);
        they_close();
        ck_assert_uint_eq(told(DEAD), DEAD);
        ck_assert_int_eq(received(), -ECONNRESET);
        finish();
}
END_TEST

START_TEST(test_data_then_reset)
{
        begin();
        they_send(5);
        they_reset();
        ck_assert_uint_eq(told(DEAD), DEAD);
        ck_assert_int_eq(received(), 5);
        ck_assert_int_eq(received(), -ECONNRESET);
        finish();
}
END_TEST

START_TEST(test_reset_before_accept)
{
        struct sockaddr_in address = { 0 };
        socklen_t length = sizeof(address);
        in_port_t port;

        listen_tcp();
        their_fd = connect_tcp();
        port = port_of(their_fd);
        they_reset();
        our_fd = accept4(listen_fd, (struct sockaddr *)&address, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);
        ck_assert_int_ge(our_fd, 0);
        ck_assert_uint_eq(ntohs(address.sin_port), port);
        ck_assert_int_eq(getpeername(our_fd, (struct sockaddr *)&address, &length), -1);
        ck_assert_int_eq(errno, ENOTCONN);
        add(our_fd);
        ck_assert_uint_eq(told(DEAD), DEAD);
        ck_assert_int_eq(received(), -ECONNRESET);
        finish();
}
END_TEST

START_TEST(test_unix)
{
        begin_unix();
        they_send(3);
        they_close();
        ck_assert_uint_eq(told(EPOLLIN | EPOLLRDHUP | EPOLLHUP), EPOLLIN | EPOLLRDHUP | EPOLLHUP);
        ck_assert_int_eq(received(), 3);
        ck_assert_int_eq(received(), 0);
        ck_assert_int_eq(send(our_fd, "x", 1, MSG_NOSIGNAL), -1);
        ck_assert_int_eq(errno, EPIPE);
        finish();

        begin_unix();
        ck_assert_int_eq(shutdown(their_fd, SHUT_WR), 0);
        ck_assert_uint_eq(told(EPOLLIN | EPOLLRDHUP), EPOLLIN | EPOLLRDHUP); /* no HUP: told apart */
        ck_assert_int_eq(received(), 0);
        they_close();
        ck_assert_uint_ne(told(EPOLLHUP) & EPOLLHUP, 0); /* and the full close is told */
        finish();

        begin_unix();
        ck_assert_int_eq(send(our_fd, "x", 1, MSG_NOSIGNAL), 1);
        they_close(); /* our byte was not read */
        ck_assert_uint_eq(told(DEAD), DEAD);
        ck_assert_int_eq(received(), -ECONNRESET);
        finish();
}
END_TEST

/* ---- shared with a program, which takes the errno: what TCP_INFO tells then ---- */

#define STATE_CLOSE 7 /* tcpi_state */

static struct tcp_info info_of(int fd)
{
        struct tcp_info info = { 0 };
        socklen_t length = sizeof(info);

        ck_assert_int_eq(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length), 0);
        return info;
}

/* Registered for less, it is not told of what it does not want, but of its end. */
static void give(void)
{
        struct epoll_event event = { .events = EPOLLRDHUP | EPOLLET };
        char bytes[3];

        ck_assert_int_eq(epoll_ctl(epoll_fd, EPOLL_CTL_MOD, our_fd, &event), 0);
        they_send(5);
        ck_assert_int_eq(send(our_fd, "abc", 3, MSG_NOSIGNAL), 3);
        ck_assert_int_eq(recv(their_fd, bytes, sizeof(bytes), MSG_WAITALL), 3);
        ck_assert_uint_eq(told(0), 0);
}

static void wait_state(int state)
{
        for (int i = 0; i < 10000 && info_of(our_fd).tcpi_state != state; i++)
                (void)usleep(1000);
        ck_assert_int_eq(info_of(our_fd).tcpi_state, state);
}

START_TEST(test_program_takes_the_errno)
{
        struct tcp_info info;

        begin();
        give();
        they_reset();
        wait_state(STATE_CLOSE);
        ck_assert_int_eq(received(), 5); /* the program's */
        ck_assert_int_eq(received(), -ECONNRESET);
        ck_assert_uint_eq(told(EPOLLHUP) & (EPOLLHUP | EPOLLERR), EPOLLHUP);
        ck_assert_int_eq(socket_error(), 0);
        info = info_of(our_fd);
        ck_assert_uint_eq(info.tcpi_bytes_sent, 3);
        ck_assert_uint_eq(info.tcpi_bytes_acked, 3);
        ck_assert_uint_eq(info.tcpi_bytes_received, 5);
        ck_assert_int_eq(info.tcpi_retransmits + info.tcpi_probes, 0);
        finish();
}
END_TEST

/* Both ends are shut, in either order: told as HUP as well, but the peer has acknowledged our FIN, which counts as a byte. */
START_TEST(test_program_ends_in_order)
{
        struct tcp_info info;

        for (int is_theirs_first = 0; is_theirs_first < 2; is_theirs_first++) {
                begin();
                give();
                ck_assert_int_eq(shutdown(is_theirs_first ? their_fd : our_fd, SHUT_WR), 0);
                if (is_theirs_first)
                        ck_assert_uint_eq(told(EPOLLRDHUP), EPOLLRDHUP);
                else
                        ck_assert_uint_eq(told(0), 0);
                ck_assert_int_eq(shutdown(is_theirs_first ? our_fd : their_fd, SHUT_WR), 0);
                wait_state(STATE_CLOSE);
                ck_assert_uint_eq(told(EPOLLHUP) & (EPOLLHUP | EPOLLERR), EPOLLHUP);
                ck_assert_int_eq(socket_error(), 0);
                info = info_of(our_fd);
                ck_assert_uint_eq(info.tcpi_bytes_sent, 3);
                ck_assert_uint_eq(info.tcpi_bytes_acked, 4);
                ck_assert_uint_eq(info.tcpi_bytes_received, 6); /* their FIN, too */
                finish();
        }
}
END_TEST

/* Shut both ways by the program alone: HUP, though nothing has ended. */
START_TEST(test_program_shuts_both)
{
        begin();
        give();
        ck_assert_int_eq(shutdown(our_fd, SHUT_RDWR), 0);
        ck_assert_uint_eq(told(EPOLLHUP) & (EPOLLHUP | EPOLLERR), EPOLLHUP);
        ck_assert_int_ne(info_of(our_fd).tcpi_state, STATE_CLOSE);
        finish();
}
END_TEST

/* A peer that is alive and does not read: only TCP_INFO tells it from one that is gone. */
START_TEST(test_stalled)
{
        static char bytes[65536];
        struct tcp_info info = { 0 };
        socklen_t length = sizeof(info);
        int user_msec = 3000; /* the shortest that a configuration can ask for */

        begin();
        ck_assert_int_eq(setsockopt(our_fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_msec, sizeof(user_msec)), 0);
        while (send(our_fd, bytes, sizeof(bytes), MSG_NOSIGNAL) > 0)
                ;
        ck_assert_int_eq(errno, EAGAIN);
        ck_assert_uint_eq(told(DEAD) & DEAD, DEAD);
        ck_assert_int_eq(received(), -ETIMEDOUT);
        ck_assert_int_eq(getsockopt(our_fd, IPPROTO_TCP, TCP_INFO, &info, &length), 0);
        ck_assert_uint_eq(info.tcpi_snd_wnd, 0);
        ck_assert_uint_gt(info.tcpi_notsent_bytes, 0);
        ck_assert_uint_eq(info.tcpi_probes, 0);
        /* Nothing went out for all that time, which a RST would not have waited for. */
        ck_assert_uint_ge(info.tcpi_last_data_sent + 10, (uint32_t)user_msec);
        finish();
}
END_TEST

/* Destroyed on this host; a kernel or a user that cannot do it says nothing. */
START_TEST(test_destroyed)
{
        char command[256];

        begin();
        (void)snprintf(command, sizeof(command), "ss -K 'sport = :%u and dport = :%u' >/dev/null 2>&1",
                       port_of(our_fd), port_of(their_fd));
        if (system(command) == 0 && told(0) == DEAD)
                ck_assert_int_eq(received(), -ECONNABORTED);
        else
                printf("SKIP: ss -K does not work here\n");
        finish();
}
END_TEST

UNIT_MAIN("death", test_close, test_kill, test_half_close_then_close, test_fin_then_reset, test_reset,
          test_close_with_our_bytes_unread, test_data_then_reset, test_reset_before_accept, test_unix,
          test_program_takes_the_errno, test_program_ends_in_order, test_program_shuts_both, test_stalled,
          test_destroyed)

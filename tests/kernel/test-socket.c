/*
 * What tetherd relies on of sockets, epoll and locks, on this kernel. Nothing of tetherd is linked.
 */
#include "../unit/unit.h"

#include "base/util.h"
#include <fcntl.h>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

static int listen_tcp(void)
{
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        ck_assert_int_eq(listen(fd, 10), 0);
        return fd;
}

static int connect_to(int listen_fd)
{
        struct sockaddr_storage address;
        socklen_t length = sizeof(address);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

        ck_assert_int_eq(getsockname(listen_fd, (struct sockaddr *)&address, &length), 0);
        ck_assert_int_eq(connect(fd, (struct sockaddr *)&address, length), 0);
        return fd;
}

/* ---- options that accepted sockets inherit ---- */

static const struct {
        int level, name, value;
} options[] = {
        { SOL_SOCKET, SO_KEEPALIVE, 1 },          { IPPROTO_TCP, TCP_KEEPIDLE, 15 },
        { IPPROTO_TCP, TCP_KEEPINTVL, 5 },        { IPPROTO_TCP, TCP_KEEPCNT, 4 },
        { IPPROTO_TCP, TCP_USER_TIMEOUT, 30000 }, { IPPROTO_TCP, TCP_NODELAY, 1 },
        { SOL_SOCKET, SO_RCVBUF, 40000 },         { SOL_SOCKET, SO_SNDBUF, 50000 },
};

static unsigned n_options_of(int fd)
{
        unsigned n = 0;

        for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
                socklen_t length = sizeof(int);
                int value = -1, wanted = options[i].value;

                ck_assert_int_eq(getsockopt(fd, options[i].level, options[i].name, &value, &length), 0);
                if (options[i].name == SO_RCVBUF || options[i].name == SO_SNDBUF)
                        wanted *= options[i].level == SOL_SOCKET ? 2 : 1; /* socket(7) */
                n += value == wanted;
        }
        return n;
}

START_TEST(test_options_are_inherited)
{
        int listen_fd = listen_tcp(), queued_fd = connect_to(listen_fd), later_fd, fd;

        for (size_t i = 0; i < ARRAY_SIZE(options); i++)
                ck_assert_int_eq(setsockopt(listen_fd, options[i].level, options[i].name, &options[i].value,
                                            sizeof(int)),
                                 0);
        later_fd = connect_to(listen_fd);

        /* Who was established before they were set, and waits in the queue, does not have them. */
        fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
        ck_assert_uint_eq(n_options_of(fd), 0);
        (void)close(fd);
        fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
        ck_assert_uint_eq(n_options_of(fd), ARRAY_SIZE(options));
        (void)close(fd);
        ck_assert_int_eq(accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC), -1);
        ck_assert_int_eq(errno, EAGAIN);
        (void)close(later_fd);
        (void)close(queued_fd);
        (void)close(listen_fd);
}
END_TEST

START_TEST(test_descriptor_flags)
{
        int listen_fd = listen_tcp(), their_fds[2] = { connect_to(listen_fd), connect_to(listen_fd) };
        int plain_fd = accept4(listen_fd, NULL, NULL, 0);
        int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC), dup_fd = dup(fd);

        /* Neither flag is inherited from the listening socket, and F_SETFL ignores O_CLOEXEC. */
        ck_assert_int_eq(fcntl(plain_fd, F_GETFL) & O_NONBLOCK, 0);
        ck_assert_int_eq(fcntl(plain_fd, F_GETFD) & FD_CLOEXEC, 0);
        ck_assert_int_eq(fcntl(plain_fd, F_SETFL, O_NONBLOCK | O_CLOEXEC), 0);
        ck_assert_int_eq(fcntl(plain_fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
        ck_assert_int_eq(fcntl(plain_fd, F_GETFD) & FD_CLOEXEC, 0);
        ck_assert_int_eq(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);

        /* O_NONBLOCK belongs to the open socket, which a child shares. */
        ck_assert_int_eq(fcntl(dup_fd, F_SETFL, 0), 0);
        ck_assert_int_eq(fcntl(fd, F_GETFL) & O_NONBLOCK, 0);

        for (size_t i = 0; i < 2; i++)
                (void)close(their_fds[i]);
        (void)close(plain_fd);
        (void)close(dup_fd);
        (void)close(fd);
        (void)close(listen_fd);
}
END_TEST

/* listen(2) on a socket that listens changes its backlog and drops nobody. */
START_TEST(test_listen_again)
{
        int listen_fd = listen_tcp(), their_fd = connect_to(listen_fd), fd;
        struct tcp_info info = { 0 };
        socklen_t length = sizeof(info);

        ck_assert_int_eq(listen(listen_fd, 77), 0);
        ck_assert_int_eq(getsockopt(listen_fd, IPPROTO_TCP, TCP_INFO, &info, &length), 0);
        ck_assert_uint_eq(info.tcpi_sacked, 77); /* of a listening socket: its backlog */
        ck_assert_uint_eq(info.tcpi_unacked, 1); /* and how many wait */
        fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC);
        ck_assert_int_ge(fd, 0);
        (void)close(fd);
        (void)close(their_fd);
        (void)close(listen_fd);
}
END_TEST

/* ---- epoll ---- */

static int fds[2], epoll_fd;

static void begin(uint32_t events)
{
        struct epoll_event event = { .events = events | EPOLLET, .data.u32 = 77 };

        epoll_fd = epoll_create1(EPOLL_CLOEXEC);
        ck_assert_int_eq(epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fds[0], &event), 0);
}

static uint32_t told(void)
{
        struct epoll_event event = { 0 };
        int n = epoll_wait(epoll_fd, &event, 1, 0);

        ck_assert_int_ge(n, 0);
        if (n > 0)
                ck_assert_uint_eq(event.data.u32, 77);
        return event.events;
}

static void pair(void)
{
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
}

static void finish(void)
{
        (void)close(fds[1]);
        (void)close(epoll_fd);
}

/* What was there before the descriptor was added is told, and each change after it once. */
START_TEST(test_edges)
{
        char byte;

        pair();
        ck_assert_int_eq(write(fds[1], "ab", 2), 2);
        begin(EPOLLIN | EPOLLOUT | EPOLLRDHUP);
        ck_assert_uint_eq(told(), EPOLLIN | EPOLLOUT);
        ck_assert_uint_eq(told(), 0);
        ck_assert_int_eq(read(fds[0], &byte, 1), 1);
        ck_assert_uint_eq(told(), 0); /* one is left: that is no change */
        ck_assert_int_eq(write(fds[1], "c", 1), 1);
        ck_assert_uint_eq(told() & EPOLLIN, EPOLLIN);
        ck_assert_uint_eq(told(), 0);
        (void)close(fds[0]);
        finish();
}
END_TEST

/* A full send buffer that the peer empties is a change. */
START_TEST(test_edge_of_writing)
{
        static char bytes[65536];

        pair();
        begin(EPOLLIN | EPOLLOUT | EPOLLRDHUP);
        ck_assert_uint_eq(told(), EPOLLOUT);
        while (write(fds[0], bytes, sizeof(bytes)) > 0)
                ;
        ck_assert_uint_eq(told(), 0);
        while (read(fds[1], bytes, sizeof(bytes)) > 0)
                ;
        ck_assert_uint_eq(told() & EPOLLOUT, EPOLLOUT);
        (void)close(fds[0]);
        finish();
}
END_TEST

/* close(2) is not enough where a dup lives: events go on for the dead number, and cannot be stopped by it. */
START_TEST(test_closed_while_a_dup_lives)
{
        int dup_fd;

        pair();
        begin(EPOLLIN);
        dup_fd = dup(fds[0]);
        (void)close(fds[0]);
        ck_assert_int_eq(write(fds[1], "a", 1), 1);
        ck_assert_uint_eq(told(), EPOLLIN);
        ck_assert_int_eq(epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fds[0], NULL), -1);
        ck_assert_int_eq(errno, EBADF);
        (void)close(dup_fd);
        finish();

        pair();
        begin(EPOLLIN);
        dup_fd = dup(fds[0]);
        ck_assert_int_eq(epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fds[0], NULL), 0);
        (void)close(fds[0]);
        ck_assert_int_eq(write(fds[1], "a", 1), 1);
        ck_assert_uint_eq(told(), 0);
        (void)close(dup_fd);
        finish();
}
END_TEST

/* ---- where a read stops before the end of what is there ---- */

/* recv(2): the number of bytes, or minus the errno. */
static int received(int fd)
{
        char bytes[64];
        ssize_t n = recv(fd, bytes, sizeof(bytes), 0);

        return n < 0 ? -errno : (int)n;
}

/* At an urgent byte, which the next read leaves out. EPOLLPRI tells it, together with what is there. */
START_TEST(test_read_stops_at_an_urgent_byte)
{
        int listen_fd = listen_tcp(), n_unacknowledged = 1;

        fds[1] = connect_to(listen_fd);
        fds[0] = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        begin(EPOLLIN | EPOLLPRI | EPOLLRDHUP);
        ck_assert_int_eq(send(fds[1], "before", 6, 0), 6);
        ck_assert_int_eq(send(fds[1], "!", 1, MSG_OOB), 1);
        ck_assert_int_eq(send(fds[1], "behind it", 9, 0), 9);
        while (n_unacknowledged > 0)
                ck_assert_int_eq(ioctl(fds[1], SIOCOUTQ, &n_unacknowledged), 0);
        ck_assert_uint_eq(told(), EPOLLIN | EPOLLPRI);
        ck_assert_int_eq(received(fds[0]), 6);
        ck_assert_uint_eq(told(), 0); /* nothing else would tell that there is more */
        ck_assert_int_eq(received(fds[0]), 9);
        ck_assert_int_eq(received(fds[0]), -EAGAIN);
        (void)close(fds[0]);
        (void)close(listen_fd);
        finish();
}
END_TEST

/* Behind descriptors that were passed; who does not ask for them does not get them. */
START_TEST(test_read_stops_behind_descriptors)
{
        char control[CMSG_SPACE(sizeof(int))] = { 0 }, bytes[] = "with";
        struct iovec vector = { bytes, 4 };
        struct msghdr message = {
                .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)
        };
        int pipe_fds[2];

        pair();
        begin(EPOLLIN | EPOLLPRI | EPOLLRDHUP);
        ck_assert_int_eq(pipe2(pipe_fds, O_CLOEXEC), 0);
        *CMSG_FIRSTHDR(&message) = (struct cmsghdr){ .cmsg_level = SOL_SOCKET,
                                                     .cmsg_type = SCM_RIGHTS,
                                                     .cmsg_len = CMSG_LEN(sizeof(int)) };
        memcpy(CMSG_DATA(CMSG_FIRSTHDR(&message)), &pipe_fds[1], sizeof(int));
        ck_assert_int_eq(send(fds[1], "before", 6, 0), 6);
        ck_assert_int_eq(sendmsg(fds[1], &message, 0), 4);
        ck_assert_int_eq(send(fds[1], "behind it", 9, 0), 9);
        (void)close(pipe_fds[1]);
        ck_assert_uint_eq(told(), EPOLLIN);
        ck_assert_int_eq(received(fds[0]), 10);
        ck_assert_uint_eq(told(), 0);
        ck_assert_int_eq(read(pipe_fds[0], bytes, 1), 0); /* nobody has it any more */
        ck_assert_int_eq(received(fds[0]), 9);
        ck_assert_int_eq(received(fds[0]), -EAGAIN);
        (void)close(pipe_fds[0]);
        (void)close(fds[0]);
        finish();
}
END_TEST

/* ---- UNIX socket files ---- */

/* A bound socket can be renamed over another; a file that nobody listens at refuses. */
START_TEST(test_rename_bound_socket)
{
        char directory[] = "/tmp/test-socket-XXXXXX";
        struct sockaddr_un first = { .sun_family = AF_UNIX }, second = first;
        int listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int stale_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        ck_assert_ptr_nonnull(mkdtemp(directory));
        (void)snprintf(first.sun_path, sizeof(first.sun_path), "%s/first", directory);
        (void)snprintf(second.sun_path, sizeof(second.sun_path), "%s/second", directory);
        ck_assert_int_eq(bind(stale_fd, (struct sockaddr *)&second, sizeof(second)), 0);
        (void)close(stale_fd);
        ck_assert_int_eq(connect(fd, (struct sockaddr *)&second, sizeof(second)), -1);
        ck_assert_int_eq(errno, ECONNREFUSED);

        ck_assert_int_eq(bind(listen_fd, (struct sockaddr *)&first, sizeof(first)), 0);
        ck_assert_int_eq(listen(listen_fd, 1), 0);
        ck_assert_int_eq(rename(first.sun_path, second.sun_path), 0);
        ck_assert_int_eq(connect(fd, (struct sockaddr *)&second, sizeof(second)), 0);
        (void)close(fd);
        (void)close(listen_fd);
        ck_assert_int_eq(unlink(second.sun_path), 0);
        ck_assert_int_eq(rmdir(directory), 0);
}
END_TEST

/* ---- record locks ---- */

/* Who holds the lock, as another process sees it; 0: nobody. */
static pid_t holder_of(const char *path)
{
        struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
        int status = -1, pipe_fds[2];
        pid_t pid, holder = -1;

        ck_assert_int_eq(pipe(pipe_fds), 0);
        pid = fork();
        if (pid == 0) {
                int fd = open(path, O_RDWR | O_CLOEXEC);

                holder = fcntl(fd, F_GETLK, &lock) < 0 ? -1 : lock.l_type == F_UNLCK ? 0 : lock.l_pid;
                (void)!write(pipe_fds[1], &holder, sizeof(holder));
                _exit(0);
        }
        ck_assert_int_eq(read(pipe_fds[0], &holder, sizeof(holder)), sizeof(holder));
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        (void)close(pipe_fds[0]);
        (void)close(pipe_fds[1]);
        return holder;
}

START_TEST(test_record_locks)
{
        char path[] = "/tmp/test-lock-XXXXXX";
        struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
        int fd = mkstemp(path);

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(holder_of(path), 0);
        ck_assert_int_eq(fcntl(fd, F_SETLK, &lock), 0);
        ck_assert_int_eq(holder_of(path), getpid()); /* the child that asks did not inherit it */

        /* The trap: closing any other descriptor of the file drops it. */
        (void)close(open(path, O_RDONLY | O_CLOEXEC));
        ck_assert_int_eq(holder_of(path), 0);
        (void)close(fd);
        ck_assert_int_eq(unlink(path), 0);
}
END_TEST

UNIT_MAIN("socket", test_options_are_inherited, test_descriptor_flags, test_listen_again, test_edges,
          test_edge_of_writing, test_closed_while_a_dup_lives, test_read_stops_at_an_urgent_byte,
          test_read_stops_behind_descriptors, test_rename_bound_socket, test_record_locks)

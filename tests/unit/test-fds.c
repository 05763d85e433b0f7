/* fds: what is handed to us is found by name, in order; what we hand over arrives; the barrier tells when. */
#include "service/fds.h"
#include "service/notify.h"
#include "unit.h"
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

/* ---- handed to us ---- */

static bool is_open(int fd)
{
        return fcntl(fd, F_GETFD) >= 0;
}

/*
 * In a process of its own, whose descriptors 3 to 6 are pipes' ends: Check's own may be among them elsewhere. It
 * says itself what is not true.
 */
static void play(int (*scene)(void))
{
        int status = 0;
        pid_t pid = fork();

        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
                char text[32];
                int ends[2];

                (void)snprintf(text, sizeof(text), "%ld", (long)getpid());
                (void)setenv("LISTEN_PID", text, 1);
                for (int fd = 3; fd < 7; fd++)
                        (void)close(fd);
                for (int i = 0; i < 2; i++)
                        if (pipe(ends) < 0 || ends[0] != 3 + 2 * i || ends[1] != 4 + 2 * i)
                                _exit(1);
                _exit(scene());
        }
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert_int_eq(status, 0);
}

#define EXPECT(truth)                                                                            \
        do                                                                                       \
                if (!(truth)) {                                                                  \
                        (void)fprintf(stderr, __FILE__ ":%d: not true: " #truth "\n", __LINE__); \
                        return 1;                                                                \
                }                                                                                \
        while (false)

static int by_name_in_order(void)
{
        struct fds *fds;

        (void)setenv("LISTEN_FDS", "4", 1);
        (void)setenv("LISTEN_FDNAMES", "web:queue:web:queue", 1);
        EXPECT(fds_receive(&fds) == 0 && fds->n == 4);
        EXPECT(!getenv("LISTEN_PID") && !getenv("LISTEN_FDS") && !getenv("LISTEN_FDNAMES"));
        for (int fd = 3; fd < 7; fd++)
                EXPECT(fcntl(fd, F_GETFD) == FD_CLOEXEC);
        EXPECT(fds_take(fds, "nobody") == -1);
        EXPECT(fds_take(fds, "queue") == 4);
        EXPECT(fds_take(fds, "queue") == 6);
        EXPECT(fds_take(fds, "queue") == -1);
        EXPECT(fds_take(fds, "web") == 3);
        EXPECT(fds->items[0].fd == -1 && fds->items[2].fd == 5 && streq(fds->items[2].name, "web"));
        EXPECT(fds_free(fds) == NULL);
        EXPECT(is_open(3) && is_open(4) && !is_open(5) && is_open(6));
        return 0;
}

static int without_names(void)
{
        _cleanup_(fds_freep) struct fds *fds = NULL;

        (void)setenv("LISTEN_FDS", "2", 1);
        EXPECT(fds_receive(&fds) == 0 && fds->n == 2);
        EXPECT(fds_take(fds, "unknown") == 3);
        return 0;
}

static int nothing(void)
{
        _cleanup_(fds_freep) struct fds *fds = NULL;

        EXPECT(fds_receive(&fds) == 0 && fds->n == 0 && fds_take(fds, "web") == -1);
        return 0;
}

static int for_another_process(void)
{
        _cleanup_(fds_freep) struct fds *fds = NULL;

        (void)setenv("LISTEN_FDS", "4", 1);
        (void)setenv("LISTEN_PID", "1", 1);
        EXPECT(fds_receive(&fds) == 0 && fds->n == 0);
        EXPECT(!getenv("LISTEN_FDS"));
        return 0;
}

static int more_than_there_are(void)
{
        struct fds *fds = NULL;

        (void)close(6);
        (void)setenv("LISTEN_FDS", "4", 1);
        EXPECT(fds_receive(&fds) == -EBADF && !fds);
        return 0;
}

static int nonsense(void)
{
        struct fds *fds = NULL;

        (void)setenv("LISTEN_FDS", "many", 1);
        EXPECT(fds_receive(&fds) == -EINVAL && !fds);
        return 0;
}

static int other_number_of_names(void)
{
        struct fds *fds = NULL;
        char pid[32];

        (void)snprintf(pid, sizeof(pid), "%s", getenv("LISTEN_PID"));
        (void)setenv("LISTEN_FDS", "2", 1);
        (void)setenv("LISTEN_FDNAMES", "a:b:c", 1);
        EXPECT(fds_receive(&fds) == -EINVAL && !fds);
        return 0;
}

START_TEST(test_receive)
{
        play(by_name_in_order);
        play(without_names);
        play(nothing);
        play(for_another_process);
        play(more_than_there_are);
        play(nonsense);
        play(other_number_of_names);
}
END_TEST

/* ---- handed over ---- */

static char manager_path[64];

/* Sets $NOTIFY_SOCKET. */
static int open_manager(void)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        (void)snprintf(manager_path, sizeof(manager_path), "@tetherd-fds-%ld", (long)getpid());
        memcpy(address.sun_path, manager_path, strlen(manager_path));
        address.sun_path[0] = '\0';
        ck_assert_int_eq(bind(fd, (struct sockaddr *)&address,
                              (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(manager_path))),
                         0);
        ck_assert_int_eq(setenv("NOTIFY_SOCKET", manager_path, 1), 0);
        return fd;
}

/* One message: its text, and its descriptors in `fds`. */
static const char *received(int manager, int fds[static NOTIFY_FDS_MAX], size_t *ret_n)
{
        static char text[1024];
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(NOTIFY_FDS_MAX * sizeof(int))];
        } control;
        struct iovec iov = { .iov_base = text, .iov_len = sizeof(text) - 1 };
        struct msghdr message = {
                .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)
        };
        ssize_t n = recvmsg(manager, &message, MSG_CMSG_CLOEXEC);

        text[n < 0 ? 0 : n] = '\0';
        ck_assert_int_eq(message.msg_flags & (MSG_CTRUNC | MSG_TRUNC), 0);
        *ret_n = 0;
        if (n >= 0 && message.msg_controllen > 0) {
                *ret_n = (control.header.cmsg_len - CMSG_LEN(0)) / sizeof(int);
                memcpy(fds, CMSG_DATA(&control.header), *ret_n * sizeof(int));
        }
        return text;
}

static bool is_same_file(int a, int b)
{
        char byte = 'x';

        return write(a, "y", 1) == 1 && read(b, &byte, 1) == 1 && byte == 'y';
}

START_TEST(test_store)
{
        int manager = open_manager(), fds[NOTIFY_FDS_MAX], many[NOTIFY_FDS_MAX], pair[2];
        size_t n;

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
        ck_assert_int_eq(fds_store("queue-1", pair, 2), 0);
        ck_assert_str_eq(received(manager, fds, &n), "FDSTORE=1\nFDNAME=queue-1\nFDPOLL=0");
        ck_assert_uint_eq(n, 2);
        ck_assert(is_same_file(fds[0], pair[1]));
        ck_assert(is_same_file(fds[1], pair[0]));
        for (size_t i = 0; i < n; i++)
                (void)close(fds[i]);

        ck_assert_int_eq(fds_store_remove("queue-1"), 0);
        ck_assert_str_eq(received(manager, fds, &n), "FDSTOREREMOVE=1\nFDNAME=queue-1");
        ck_assert_uint_eq(n, 0);

        for (size_t i = 0; i < NOTIFY_FDS_MAX; i++)
                many[i] = pair[i % 2];
        ck_assert_int_eq(fds_store("all", many, NOTIFY_FDS_MAX), 0);
        (void)received(manager, fds, &n);
        ck_assert_uint_eq(n, NOTIFY_FDS_MAX);
        for (size_t i = 0; i < n; i++)
                (void)close(fds[i]);

        ck_assert_int_eq(fds_store("none", &(int){ -1 }, 1), -EBADF);
        (void)close(pair[0]);
        (void)close(pair[1]);
        (void)close(manager);
}
END_TEST

static bool is_through(int barrier_fd)
{
        struct pollfd poll_fd = { .fd = barrier_fd, .events = POLLIN };
        char byte;

        return poll(&poll_fd, 1, 0) == 1 && read(barrier_fd, &byte, 1) == 0;
}

START_TEST(test_barrier)
{
        int manager = open_manager(), fds[NOTIFY_FDS_MAX], barrier_fd;
        size_t n;

        ck_assert_int_eq(notify_status("busy"), 0);
        barrier_fd = fds_barrier();
        ck_assert_int_ge(barrier_fd, 0);
        ck_assert(!is_through(barrier_fd));
        ck_assert_str_eq(received(manager, fds, &n), "STATUS=busy");
        ck_assert(!is_through(barrier_fd));
        ck_assert_str_eq(received(manager, fds, &n), "BARRIER=1");
        ck_assert_uint_eq(n, 1);
        ck_assert(!is_through(barrier_fd));
        (void)close(fds[0]);
        ck_assert(is_through(barrier_fd));
        (void)close(barrier_fd);
        (void)close(manager);
}
END_TEST

START_TEST(test_manager_that_does_not_read)
{
        int manager = open_manager(), fds[NOTIFY_FDS_MAX], n_sent = 0, pair[2];
        size_t n;

        ck_assert_int_eq(pipe2(pair, O_CLOEXEC), 0);
        while (notify_watchdog() == 0 && n_sent < 100000)
                n_sent++;
        ck_assert_int_eq(fds_barrier(), -EAGAIN);
        ck_assert_int_eq(fds_store("pipe", pair, 2), -EAGAIN);
        ck_assert_int_eq(fds_store_remove("pipe"), -EAGAIN);
        for (; n_sent > 0; n_sent--)
                ck_assert_str_eq(received(manager, fds, &n), "WATCHDOG=1");
        ck_assert_int_eq(fds_store_remove("pipe"), 0);
        (void)close(pair[0]);
        (void)close(pair[1]);
        (void)close(manager);
}
END_TEST

START_TEST(test_no_manager)
{
        int zero = 0, barrier_fd;

        ck_assert_int_eq(unsetenv("NOTIFY_SOCKET"), 0);
        ck_assert_int_eq(fds_store("name", &zero, 1), -ENOTCONN);
        ck_assert_int_eq(fds_store_remove("name"), -ENOTCONN);
        barrier_fd = fds_barrier();
        ck_assert_int_ge(barrier_fd, 0);
        ck_assert(is_through(barrier_fd));
        (void)close(barrier_fd);
}
END_TEST

UNIT_MAIN("fds", test_receive, test_store, test_barrier, test_manager_that_does_not_read, test_no_manager)

/* notify: what a service manager gets, and that one that does not read is not waited for. */
#include "base/clock.h"
#include "service/notify.h"
#include "unit.h"
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>

/* The manager: a path in /tmp, or the same text as an abstract name. Sets $NOTIFY_SOCKET. */
static int open_manager(bool is_abstract, char path[static 64])
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        int length = snprintf(path, 64, "%ctmp/tetherd-notify-%ld", is_abstract ? '@' : '/', (long)getpid());

        memcpy(address.sun_path, path, (size_t)length);
        if (is_abstract)
                address.sun_path[0] = '\0';
        else
                (void)unlink(path);
        ck_assert_int_eq(bind(fd, (struct sockaddr *)&address,
                              (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)length)),
                         0);
        ck_assert_int_eq(setenv("NOTIFY_SOCKET", path, 1), 0);
        return fd;
}

static void close_manager(int fd, const char *path)
{
        (void)fd_close(fd);
        (void)unlink(path);
        ck_assert_int_eq(unsetenv("NOTIFY_SOCKET"), 0);
}

static const char *received(int fd)
{
        static char text[1024];
        ssize_t n = recv(fd, text, sizeof(text) - 1, 0);

        text[n < 0 ? 0 : n] = '\0';
        return text;
}

START_TEST(test_messages)
{
        for (int is_abstract = 0; is_abstract < 2; is_abstract++) {
                char path[64], large[2000];
                int fd = open_manager(is_abstract, path);
                uint64_t before = clock_usec(CLOCK_MONOTONIC), usec;

                ck_assert_int_eq(notify_ready(NULL), 0);
                ck_assert_str_eq(received(fd), "READY=1");
                ck_assert_int_eq(notify_ready(""), 0);
                ck_assert_str_eq(received(fd), "READY=1");
                ck_assert_int_eq(notify_ready("2 listeners\nWATCHDOG=trigger"), 0);
                ck_assert_str_eq(received(fd), "READY=1\nSTATUS=2 listeners WATCHDOG=trigger");
                ck_assert_int_eq(notify_reloading(), 0);
                ck_assert_int_eq(sscanf(received(fd), "RELOADING=1\nMONOTONIC_USEC=%ju", &usec), 1);
                ck_assert_uint_ge(usec, before);
                ck_assert_uint_le(usec, clock_usec(CLOCK_MONOTONIC));
                ck_assert_int_eq(notify_stopping(), 0);
                ck_assert_str_eq(received(fd), "STOPPING=1");
                ck_assert_int_eq(notify_status("%d connections\n\x7f", 5), 0);
                ck_assert_str_eq(received(fd), "STATUS=5 connections  ");
                memset(large, 'x', sizeof(large));
                large[sizeof(large) - 1] = '\0';
                ck_assert_int_eq(notify_status("%s", large), 0);
                ck_assert_uint_eq(strlen(received(fd)), strlen("STATUS=") + 511);
                ck_assert_int_eq(notify_watchdog(), 0);
                ck_assert_str_eq(received(fd), "WATCHDOG=1");
                ck_assert_int_eq(notify_extend_timeout(2500000), 0);
                ck_assert_str_eq(received(fd), "EXTEND_TIMEOUT_USEC=2500000");
                close_manager(fd, path);
        }
}
END_TEST

START_TEST(test_no_manager)
{
        char path[64], large[300];
        int fd = open_manager(false, path);

        close_manager(fd, path);
        ck_assert_int_eq(notify_ready("nobody asked"), 0);
        ck_assert_int_eq(setenv("NOTIFY_SOCKET", "", 1), 0);
        ck_assert_int_eq(notify_stopping(), 0);
        ck_assert_int_eq(setenv("NOTIFY_SOCKET", path, 1), 0);
        ck_assert_int_eq(notify_stopping(), -ENOENT);
        ck_assert_int_eq(setenv("NOTIFY_SOCKET", "vsock:2:1234", 1), 0);
        ck_assert_int_eq(notify_stopping(), -EINVAL);
        memset(large, '/', sizeof(large));
        large[sizeof(large) - 1] = '\0';
        ck_assert_int_eq(setenv("NOTIFY_SOCKET", large, 1), 0);
        ck_assert_int_eq(notify_stopping(), -EINVAL);
        ck_assert_int_eq(unsetenv("NOTIFY_SOCKET"), 0);
}
END_TEST

START_TEST(test_manager_that_does_not_read)
{
        char path[64];
        int fd = open_manager(false, path), r, n = 0;

        while ((r = notify_watchdog()) == 0 && n < 100000)
                n++;
        ck_assert_int_eq(r, -EAGAIN);
        for (; n > 0; n--)
                ck_assert_str_eq(received(fd), "WATCHDOG=1");
        ck_assert_int_eq(notify_watchdog(), 0);
        close_manager(fd, path);
}
END_TEST

START_TEST(test_watchdog_interval)
{
        char pid[32];

        ck_assert_uint_eq(notify_watchdog_usec(), USEC_INFINITY);
        ck_assert_int_eq(setenv("WATCHDOG_USEC", "3000000", 1), 0);
        ck_assert_uint_eq(notify_watchdog_usec(), 3000000);
        ck_assert_int_eq(setenv("WATCHDOG_PID", "1", 1), 0); /* meant for another process */
        ck_assert_uint_eq(notify_watchdog_usec(), USEC_INFINITY);
        (void)snprintf(pid, sizeof(pid), "%ld", (long)getpid());
        ck_assert_int_eq(setenv("WATCHDOG_PID", pid, 1), 0);
        ck_assert_uint_eq(notify_watchdog_usec(), 3000000);
        ck_assert_int_eq(setenv("WATCHDOG_USEC", "nonsense", 1), 0);
        ck_assert_uint_eq(notify_watchdog_usec(), USEC_INFINITY);
}
END_TEST

UNIT_MAIN("notify", test_messages, test_no_manager, test_manager_that_does_not_read, test_watchdog_interval)

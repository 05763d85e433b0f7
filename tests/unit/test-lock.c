/*
 * What service/lock promises: one holder at a time, who can be named, for as long as its process lives,
 * whatever its children do.
 */
#include "unit.h"

#include "service/lock.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char base[] = "/tmp/test-lock-XXXXXX", directory[64];

static void begin(void)
{
        ck_assert_ptr_nonnull(mkdtemp(base));
        (void)snprintf(directory, sizeof(directory), "%s/run", base);
}

static void end(void)
{
        char path[128];

        (void)snprintf(path, sizeof(path), "%s/lock", directory);
        (void)unlink(path);
        (void)rmdir(directory);
        ck_assert_int_eq(rmdir(base), 0);
}

static void wait_for_ever(void)
{
        for (;;)
                (void)pause();
}

/* A process that takes the lock, has a child, tells its pid, and waits to be killed. */
static pid_t start_holder(pid_t *ret_child)
{
        int pipe_fds[2];
        pid_t pid;

        ck_assert_int_eq(pipe(pipe_fds), 0);
        pid = fork();
        ck_assert_int_ge(pid, 0);
        if (pid == 0) {
                pid_t holder;
                int fd;

                if (lock_directory(directory, &fd, &holder) != 0)
                        _exit(1);
                *ret_child = fork();
                if (*ret_child != 0)
                        (void)!write(pipe_fds[1], ret_child, sizeof(*ret_child));
                wait_for_ever();
        }
        (void)close(pipe_fds[1]);
        ck_assert_int_eq(read(pipe_fds[0], ret_child, sizeof(*ret_child)), sizeof(*ret_child));
        (void)close(pipe_fds[0]);
        return pid;
}

static void stop(pid_t pid)
{
        ck_assert_int_eq(kill(pid, SIGKILL), 0);
        ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

START_TEST(test_lock_one_holder)
{
        pid_t holder = 0, pid, child;
        int fd = -5;

        begin();
        pid = start_holder(&child);
        ck_assert_int_eq(lock_directory(directory, &fd, &holder), LOCK_E_HELD);
        ck_assert_int_eq(holder, pid);
        ck_assert_int_eq(fd, -5);

        /* It goes with the process, although a child that has the descriptor lives on. */
        stop(pid);
        ck_assert_int_eq(kill(child, 0), 0);
        ck_assert_int_eq(lock_directory(directory, &fd, &holder), 0);
        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        ck_assert_int_eq(kill(child, SIGKILL), 0);

        /* And with the descriptor. */
        (void)close(fd);
        stop(start_holder(&child));
        ck_assert_int_eq(kill(child, SIGKILL), 0);
        end();
}
END_TEST

START_TEST(test_lock_makes_the_directory)
{
        struct stat st;
        pid_t holder;
        int fd;

        begin();
        (void)umask(022);
        ck_assert_int_eq(lock_directory(directory, &fd, &holder), 0);
        ck_assert_int_eq(stat(directory, &st), 0);
        ck_assert_uint_eq(st.st_mode & 07777, 0755);
        ck_assert_int_eq(fstat(fd, &st), 0);
        ck_assert_uint_eq(st.st_mode & 07777, 0600);
        (void)close(fd);
        end();
}
END_TEST

START_TEST(test_lock_errors)
{
        char path[128];
        pid_t holder;
        int fd = -5;

        begin();
        (void)snprintf(path, sizeof(path), "%s/not/there", base);
        ck_assert_int_eq(lock_directory(path, &fd, &holder), -ENOENT); /* only the last component is made */

        (void)snprintf(path, sizeof(path), "%s/file", base);
        ck_assert_int_eq(close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)), 0);
        ck_assert_int_eq(lock_directory(path, &fd, &holder), -ENOTDIR);
        (void)unlink(path);

        ck_assert_int_eq(mkdir(directory, 0700), 0);
        (void)snprintf(path, sizeof(path), "%s/lock", directory);
        ck_assert_int_eq(symlink("/etc/passwd", path), 0);
        ck_assert_int_eq(lock_directory(directory, &fd, &holder), -ELOOP);
        (void)unlink(path);
        ck_assert_int_eq(mkdir(path, 0700), 0);
        ck_assert_int_eq(lock_directory(directory, &fd, &holder), -EISDIR);
        (void)rmdir(path);
        ck_assert_int_eq(fd, -5);
        end();
}
END_TEST

UNIT_MAIN("lock", test_lock_one_holder, test_lock_makes_the_directory, test_lock_errors)

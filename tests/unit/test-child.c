/*
 * What loop/child and loop/lines promise: what a child inherits and what not, how its end is told, that a
 * start that fails leaves nothing behind, and that what it prints comes line by line within its bounds.
 */
#include "unit.h"

#include "base/words.h"
#include "loop/child.h"
#include "loop/lines.h"
#include "loop/slice.h"
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define LINE_MAX_BYTES 64

static struct loop *loop;

/* One child, and what it said. */
struct run {
        struct child child;
        struct lines lines;
        char **said;
        unsigned n_cut;
        unsigned n_exited;
        int status_code;
        int status;
};

static unsigned n_closed;

static void pipe_closed(struct lines *lines)
{
        n_closed++;
        lines_deinit(lines); /* it may */
}

static void line_came(struct lines *lines, const char *line, bool is_cut)
{
        struct run *run = container_of(lines, struct run, lines);

        ck_assert_int_eq(strv_append(&run->said, line), 0);
        run->n_cut += is_cut;
}

static void exited(struct child *child)
{
        struct run *run = container_of(child, struct run, child);

        run->n_exited++;
        run->status_code = child->status_code;
        run->status = child->status;
        ck_assert_int_gt(child->pid, 0);
}

static void setup(void)
{
        sigset_t mask;

        ck_assert_int_eq(sigemptyset(&mask), 0);
        ck_assert_int_eq(sigaddset(&mask, SIGCHLD), 0);
        ck_assert_int_eq(sigaddset(&mask, SIGUSR1), 0);
        ck_assert_int_eq(sigprocmask(SIG_BLOCK, &mask, NULL), 0);
        ck_assert(signal(SIGPIPE, SIG_IGN) != SIG_ERR);
        child_keep_limits(); /* and descriptors, which stay */
        ck_assert_int_eq(loop_new(&loop), 0);
}

static void turn(void)
{
        ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
}

static struct child_options shell_options(char *const argv[])
{
        static char *environment[] = { "PATH=" PROGRAM_PATH, "LANG=C", NULL };

        return (struct child_options){
                .argv = argv,
                .environment = environment,
                .working_directory = "/",
                .uid = (uid_t)-1,
                .gid = (gid_t)-1,
                .stdin_fd = -1,
                .stdout_fd = -1,
                .stderr_fd = -1,
        };
}

/* Starts it with stdout in run->lines, unless `options` says that it has none of ours. */
static int run_start(struct run *run, const struct child_options *given)
{
        struct child_options options = *given;
        int r;

        *run = (struct run){ 0 };
        ck_assert_int_eq(lines_init(&run->lines, loop, LINE_MAX_BYTES, line_came, &options.stdout_fd), 0);
        r = child_start(&run->child, loop, &options, exited);
        (void)fd_close(options.stdout_fd);
        return r;
}

static void run_shell(struct run *run, const char *script)
{
        char *argv[] = { "sh", "-c", (char *)script, NULL };
        struct child_options options = shell_options(argv);

        ck_assert_int_eq(run_start(run, &options), 0);
}

static void run_wait(struct run *run)
{
        while (run->n_exited == 0)
                turn();
        lines_drain(&run->lines);
}

static void run_free(struct run *run)
{
        child_deinit(&run->child);
        lines_deinit(&run->lines);
        run->said = strv_free(run->said);
}

static void assert_said(const struct run *run, const char *expected)
{
        char *said = words_join(run->said);

        ck_assert_ptr_nonnull(said);
        ck_assert_str_eq(said, expected);
        free(said);
}

static unsigned n_descriptors(void)
{
        unsigned n = 0;
        DIR *folder = opendir("/proc/self/fd");

        ck_assert_ptr_nonnull(folder);
        while (readdir(folder))
                n++;
        (void)closedir(folder);
        return n;
}

static void assert_no_child(void)
{
        siginfo_t info;

        ck_assert_int_eq(waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT), -1);
        ck_assert_int_eq(errno, ECHILD);
}

static void teardown(void)
{
        assert_no_child();
        loop = loop_free(loop);
}

START_TEST(test_ends)
{
        static const struct {
                const char *script;
                int status_code, status;
        } rows[] = {
                { "exit 0", CLD_EXITED, 0 },
                { "exit 7", CLD_EXITED, 7 },
                { "exit 127", CLD_EXITED, 127 },
                { "kill -9 $$", CLD_KILLED, SIGKILL },
                { "kill -TERM $$", CLD_KILLED, SIGTERM },
        };

        setup();
        unsigned n_before = n_descriptors();
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct run run;

                run_shell(&run, rows[i].script);
                ck_assert_uint_eq(run.n_exited, 0);
                run_wait(&run);
                ck_assert_int_eq(run.status_code, rows[i].status_code);
                ck_assert_int_eq(run.status, rows[i].status);
                ck_assert_int_eq(run.child.pid, 0);
                ck_assert_ptr_null(run.child.loop);
                run_free(&run);
        }
        ck_assert_uint_eq(n_descriptors(), n_before);
        teardown();
}
END_TEST

static void write_file(const char *path, const char *text, mode_t mode)
{
        FILE *file = fopen(path, "w");

        ck_assert_ptr_nonnull(file);
        (void)fputs(text, file);
        ck_assert_int_eq(fclose(file), 0);
        ck_assert_int_eq(chmod(path, mode), 0);
}

START_TEST(test_starts_that_fail)
{
        char folder[] = "/tmp/test-child-XXXXXX", garbage[64], plain[64];
        char *huge = calloc(1, 1 << 20);

        ck_assert_ptr_nonnull(huge);
        memset(huge, 'x', (1 << 20) - 1);
        ck_assert_ptr_nonnull(mkdtemp(folder));
        (void)snprintf(garbage, sizeof(garbage), "%s/garbage", folder);
        (void)snprintf(plain, sizeof(plain), "%s/plain", folder);
        write_file(garbage, "\x7f no program", 0755);
        write_file(plain, "#!/bin/sh\n", 0644);

        const struct {
                char *program, *argument;
                const char *folder;
                int error;
        } rows[] = {
                { "/nonexistent/program", NULL, "/", -ENOENT },
                { "no-such-program", NULL, "/", -ENOENT },
                { "bin/true", NULL, "/", -EINVAL },
                { plain, NULL, "/", -EACCES },
                { garbage, NULL, "/", -ENOEXEC },
                { "true", NULL, "/nonexistent", -ENOENT },
                { "true", NULL, plain, -ENOTDIR },
                { "true", huge, "/", -E2BIG },
        };

        setup();
        unsigned n_before = n_descriptors();
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char *argv[] = { rows[i].program, rows[i].argument, NULL };
                struct child_options options = shell_options(argv);
                struct run run;

                options.working_directory = rows[i].folder;
                ck_assert_msg(run_start(&run, &options) == rows[i].error, "row %zu", i);
                assert_no_child();
                ck_assert_ptr_null(run.child.loop);
                child_kill(&run.child, SIGKILL); /* harmless */
                run_free(&run);
        }
        ck_assert_uint_eq(n_descriptors(), n_before);
        ck_assert_int_eq(unlink(garbage), 0);
        ck_assert_int_eq(unlink(plain), 0);
        ck_assert_int_eq(rmdir(folder), 0);
        free(huge);
        teardown();
}
END_TEST

/* Leaves room for `n_free` descriptors; returns the limit to set again. */
static struct rlimit leave_descriptors(unsigned n_free)
{
        struct rlimit old, scarce;
        int lowest = open("/dev/null", O_RDONLY | O_CLOEXEC);

        ck_assert_int_ge(lowest, 0);
        (void)fd_close(lowest);
        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &old), 0);
        scarce = (struct rlimit){ .rlim_cur = (rlim_t)lowest + n_free, .rlim_max = old.rlim_max };
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &scarce), 0);
        return old;
}

START_TEST(test_out_of_descriptors)
{
        char *argv[] = { "true", NULL };

        setup();
        struct child_options options = shell_options(argv);
        for (unsigned n_free = 0; n_free < 4; n_free++) {
                struct run run = { 0 };
                struct rlimit old = leave_descriptors(n_free);
                int fd, r = child_start(&run.child, loop, &options, exited);
                int lines_r = lines_init(&run.lines, loop, 10, line_came, &fd);

                ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
                ck_assert_int_eq(r, n_free < 1 ? -EMFILE : 0);
                ck_assert_int_eq(lines_r, n_free < 3 ? -EMFILE : 0);
                if (lines_r == 0)
                        (void)fd_close(fd);
                if (r == 0)
                        run_wait(&run);
                assert_no_child();
                run_free(&run);
        }
        teardown();
}
END_TEST

/* That nobody holds the other end is told once, after the last line, and only to whom it concerns. */
START_TEST(test_lines_closed)
{
        setup();
        for (unsigned is_told = 0; is_told < 2; is_told++) {
                struct run run = { 0 };
                int fd;

                ck_assert_int_eq(lines_init(&run.lines, loop, LINE_MAX_BYTES, line_came, &fd), 0);
                run.lines.closed = is_told ? pipe_closed : NULL;
                ck_assert_int_eq(write(fd, "one\ntwo", 7), 7);
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
                ck_assert_uint_eq(n_closed, 0);
                ck_assert_int_eq(close(fd), 0);
                while (!run.said || strv_length(run.said) < 2)
                        ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
                ck_assert_uint_eq(n_closed, is_told);
                run_free(&run);
        }
        teardown();
}
END_TEST

static int wait_for_ever(void *userdata _unused_)
{
        return pause();
}

START_TEST(test_fork_out_of_descriptors)
{
        struct run run = { 0 };

        setup();
        struct rlimit old = leave_descriptors(0);
        int r = child_fork(&run.child, loop, wait_for_ever, NULL, -1, exited);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &old), 0);
        ck_assert_int_eq(r, CHILD_E_LOST);
        teardown(); /* what was forked is killed and reaped */
}
END_TEST

START_TEST(test_inheritance)
{
        static const char *const rows[][2] = {
                { "env", "LANG=C PATH=" PROGRAM_PATH " PWD=/" },
                { "readlink /proc/self/fd/0 /proc/self/fd/2", "/dev/null /dev/null" },
                { "ls /proc/self/fd | tail -n +4 | wc -l", "1" }, /* the one that ls reads with */
                { "grep -E '^Sig(Blk|Ign)' /proc/self/status | tr '\\t' ' '",
                  "\"SigBlk: 0000000000000000\" \"SigIgn: 0000000000000000\"" },
                { "[ $(ps -o pgid= -p $$) = $$ ] || [ $(cut -d' ' -f5 /proc/$$/stat) = $$ ] && echo leader",
                  "leader" },
                { "ulimit -Sn", "77" },
                { "pwd", "/" },
                { "read line; echo $?", "1" },
        };
        struct rlimit limit, kept;

        setup();
        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        kept = (struct rlimit){ .rlim_cur = 77, .rlim_max = limit.rlim_max };
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &kept), 0);
        child_keep_limits();
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        ck_assert_int_ge(dup(STDERR_FILENO), 0); /* without O_CLOEXEC */

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct run run;

                run_shell(&run, rows[i][0]);
                run_wait(&run);
                if (i == 0) { /* in whatever order; dash adds PWD */
                        ck_assert_uint_le(strv_length(run.said), 3);
                        ck_assert_uint_ge(strv_length(run.said), 2);
                } else {
                        assert_said(&run, rows[i][1]);
                }
                run_free(&run);
        }
        teardown();
}
END_TEST

START_TEST(test_slice_is_not_passed_on)
{
        static const char script[] = "grep ^se.slice /proc/self/sched || echo untold";
        struct run run;
        char *before;

        setup();
        run_shell(&run, script);
        run_wait(&run);
        before = words_join(run.said);
        ck_assert_ptr_nonnull(before);
        run_free(&run);
        slice_shorten();
        run_shell(&run, script);
        run_wait(&run);
        assert_said(&run, before);
        free(before);
        run_free(&run);
        teardown();
}
END_TEST

/* However many we hold: it has its three, and nothing of what it got stays with us. */
START_TEST(test_high_descriptors)
{
        char *argv[] = { "cat", NULL };
        int fds[2], in_fd, out_fd, many[500];
        size_t n_before = n_descriptors();
        char answer[8];

        setup();
        for (size_t i = 0; i < ARRAY_SIZE(many); i++)
                many[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
        struct child_options options = shell_options(argv);
        struct run run = { 0 };

        ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
        options.stdin_fd = fds[0];
        in_fd = fds[1];
        ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
        options.stdout_fd = fds[1];
        out_fd = fds[0];
        ck_assert_int_eq(child_start(&run.child, loop, &options, exited), 0);
        (void)close(options.stdin_fd);
        (void)close(options.stdout_fd);
        ck_assert_int_eq(write(in_fd, "word", 4), 4);
        ck_assert_int_eq(read(out_fd, answer, sizeof(answer)), 4);

        char path[64];

        (void)snprintf(path, sizeof(path), "/proc/%d/fd/3", (int)run.child.pid);
        ck_assert_int_eq(access(path, F_OK), -1);
        (void)close(in_fd); /* nobody else holds it: cat ends */
        ck_assert_int_eq(read(out_fd, answer, sizeof(answer)), 0);
        run_wait(&run);
        ck_assert_int_eq(run.status_code, CLD_EXITED);
        (void)close(out_fd);
        for (size_t i = 0; i < ARRAY_SIZE(many); i++)
                (void)close(many[i]);
        run_free(&run);
        teardown();
        ck_assert_uint_le(n_descriptors(), n_before + 4); /* those that are kept for the next */
}
END_TEST

START_TEST(test_folder)
{
        char *argv[] = { "pwd", NULL };
        struct run run;

        setup();
        struct child_options options = shell_options(argv);
        options.working_directory = "/usr";
        ck_assert_int_eq(run_start(&run, &options), 0);
        run_wait(&run);
        assert_said(&run, "/usr");
        run_free(&run);
        teardown();
}
END_TEST

START_TEST(test_users)
{
        static const struct {
                uid_t uid;
                gid_t gid;
                const char *user_name;
                const char *said;
        } rows[] = {
                { 65534, 65534, "nobody", "65534 65534 65534" },
                { 65534, 1, NULL, "65534 1 1" },
                { (uid_t)-1, 1, NULL, "0 1 \"1 4\"" }, /* keeps our supplementary group */
                { 0, 0, "root", "0 0 \"0 4\"" },
                { (uid_t)-1, (gid_t)-1, NULL, "0 0 \"0 4\"" },
        };
        const gid_t groups[] = { 4 };

        if (geteuid() != 0)
                return;
        setup();
        ck_assert_int_eq(setgroups(1, groups), 0);
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char *argv[] = { "sh", "-c", "id -u; id -g; id -G", NULL };
                struct child_options options = shell_options(argv);
                struct run run;

                options.uid = rows[i].uid;
                options.gid = rows[i].gid;
                options.user_name = rows[i].user_name;
                ck_assert_int_eq(run_start(&run, &options), 0);
                run_wait(&run);
                assert_said(&run, rows[i].said);
                run_free(&run);
        }
        teardown();
}
END_TEST

START_TEST(test_users_that_we_may_not_become)
{
        char *argv[] = { "true", NULL };
        struct child_options options = shell_options(argv);
        struct run run;

        setup();
        if (geteuid() == 0)
                ck_assert_int_eq(seteuid(65534), 0);
        options.uid = 1;
        ck_assert_int_eq(run_start(&run, &options), -EPERM);
        run_free(&run);
        options.uid = geteuid(); /* nothing to change: nothing to be refused */
        options.gid = getegid();
        options.user_name = "nobody";
        ck_assert_int_eq(run_start(&run, &options), 0);
        run_wait(&run);
        ck_assert_int_eq(run.status, 0);
        run_free(&run);
        if (getuid() == 0)
                ck_assert_int_eq(seteuid(0), 0);
        teardown();
}
END_TEST

static bool is_at_end(const struct run *run)
{
        return run->lines.source.fd < 0;
}

static struct {
        struct process_identity self; /* of the child that announced itself */
        pid_t pid, group;
        int result;
} * announced; /* shared with it */

static int announce(const struct process_identity *self, void *userdata)
{
        ck_assert_ptr_eq(userdata, &announced);
        announced->self = *self;
        announced->pid = getpid();
        announced->group = getpgid(0);
        return announced->result;
}

/* Before the program runs, as the leader of its group; what cannot be announced does not run. */
START_TEST(test_announce)
{
        char *argv[] = { (char *)"sh", (char *)"-c", (char *)"echo $$", NULL };
        struct child_options options;

        setup();
        announced = mmap(NULL, sizeof(*announced), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        ck_assert_ptr_ne(announced, MAP_FAILED);
        options = shell_options(argv);
        options.announce = announce;
        options.userdata = &announced;
        for (int is_other = 0; is_other <= (geteuid() == 0); is_other++) { /* in our memory, in its own */
                struct run run;

                if (is_other)
                        options.gid = 65534;
                announced->result = -ENOSPC;
                ck_assert_int_eq(run_start(&run, &options), -ENOSPC);
                run_free(&run);
                announced->result = 0;
                ck_assert_int_eq(run_start(&run, &options), 0);
                ck_assert_int_eq(announced->pid, run.child.pid);
                ck_assert_int_eq(announced->group, run.child.pid);
                run_wait(&run);
                ck_assert_int_eq(atoi(run.said[0]), announced->pid);
                run_free(&run);
        }
        (void)munmap(announced, sizeof(*announced));
        teardown();
}
END_TEST

/* Whether a tick of the clock passes at its start or not. */
START_TEST(test_announce_says_who_it_is)
{
        char *argv[] = { (char *)"true", NULL };
        struct child_options options = shell_options(argv);

        setup();
        announced = mmap(NULL, sizeof(*announced), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        ck_assert_ptr_ne(announced, MAP_FAILED);
        options.announce = announce;
        options.userdata = &announced;
        for (int i = 0; i < 200; i++) {
                struct process_identity looked_up;
                struct run run;

                ck_assert_int_eq(run_start(&run, &options), 0);
                ck_assert_int_eq(process_identify(run.child.pid, &looked_up), 0);
                ck_assert_int_eq(announced->self.pid, run.child.pid);
                ck_assert_uint_eq(announced->self.start, looked_up.start);
                ck_assert_str_eq(announced->self.boot, looked_up.boot);
                run_wait(&run);
                run_free(&run);
        }
        (void)munmap(announced, sizeof(*announced));
        teardown();
}
END_TEST

START_TEST(test_kill_reaches_the_group)
{
        struct run run;

        setup();
        run_shell(&run, "sleep 1000 & echo begun; wait");
        while (!run.said)
                turn();
        child_kill(&run.child, SIGKILL);
        while (!is_at_end(&run) || run.n_exited == 0) /* the end of file comes with the last of them */
                turn();
        ck_assert_int_eq(run.status_code, CLD_KILLED);
        ck_assert_int_eq(run.status, SIGKILL);
        run_free(&run);
        teardown();
}
END_TEST

static void kill_rest(struct child *child)
{
        exited(child);
        child_kill(child, SIGKILL);
}

START_TEST(test_kill_after_the_leader_ended)
{
        struct run run;

        setup();
        run_shell(&run, "sleep 1000 & exit 3");
        run.child.exited = kill_rest;
        while (!is_at_end(&run) || run.n_exited == 0)
                turn();
        ck_assert_int_eq(run.status, 3);
        run_free(&run);
        teardown();
}
END_TEST

START_TEST(test_deinit_of_a_running_child)
{
        struct run *run = calloc(1, sizeof(*run));
        siginfo_t info;

        setup();
        ck_assert_ptr_nonnull(run);
        unsigned n_before = n_descriptors();
        run_shell(run, "sleep 1000");
        run_free(run);
        run_free(run); /* idempotent */
        memset(run, 0x5a, sizeof(*run));
        free(run);
        while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0)
                turn();
        ck_assert_uint_eq(n_descriptors(), n_before);
        teardown();
}
END_TEST

static void note_end(struct child *child)
{
        struct run *run = container_of(child, struct run, child);

        run->n_exited++;
        run->status_code = child->status_code;
        ck_assert_int_eq(child->pid, 0); /* it may be another's */
}

START_TEST(test_somebody_else_reaps_it)
{
        struct run run;

        setup();
        run_shell(&run, "exit 0");
        run.child.exited = note_end;
        ck_assert_int_eq(waitpid(run.child.pid, NULL, 0), run.child.pid);
        run_wait(&run);
        ck_assert_int_eq(run.status_code, CLD_KILLED); /* nobody knows */
        run_free(&run);
        teardown();
}
END_TEST

START_TEST(test_loop_ends_before_the_child)
{
        struct run run;

        setup();
        run_shell(&run, "sleep 1000");
        run_free(&run);
        loop = loop_free(loop); /* what it did not reap is for init(1) */
        ck_assert_int_gt(wait(NULL), 0);
}
END_TEST

static unsigned n_freed;

static void free_owner(struct child *child)
{
        struct run *run = container_of(child, struct run, child);

        run_free(run);
        memset(run, 0x5a, sizeof(*run));
        free(run);
        n_freed++;
}

START_TEST(test_exited_frees_its_owner)
{
        struct run *run = calloc(1, sizeof(*run));

        setup();
        ck_assert_ptr_nonnull(run);
        run_shell(run, "exit 0");
        run->child.exited = free_owner;
        n_freed = 0;
        while (n_freed == 0)
                turn();
        teardown();
}
END_TEST

static void start_again(struct child *child)
{
        struct run *run = container_of(child, struct run, child);
        unsigned n_exited = run->n_exited + 1;

        run_free(run);
        if (n_exited < 3) {
                run_shell(run, "exit 0");
                run->child.exited = start_again;
        }
        run->n_exited = n_exited;
}

START_TEST(test_exited_starts_the_next)
{
        struct run run;

        setup();
        run_shell(&run, "exit 0");
        run.child.exited = start_again;
        while (run.n_exited < 3)
                turn();
        teardown();
}
END_TEST

static int work(void *userdata)
{
        const int *status = userdata;
        struct stat st;
        sigset_t mask;

        for (int fd = 3; fd < 100; fd++)
                if (fstat(fd, &st) == 0)
                        return 101;
        if (sigprocmask(SIG_BLOCK, NULL, &mask) < 0 || sigismember(&mask, SIGUSR1) || getpgrp() != getpid() ||
            signal(SIGPIPE, SIG_DFL) != SIG_DFL)
                return 102;
        return dprintf(STDERR_FILENO, "worked\n") == 7 ? *status : 103;
}

START_TEST(test_fork)
{
        struct run run = { 0 };
        int status = 42, fd;

        setup();
        ck_assert_int_eq(lines_init(&run.lines, loop, LINE_MAX_BYTES, line_came, &fd), 0);
        ck_assert_int_eq(child_fork(&run.child, loop, work, &status, fd, exited), 0);
        (void)fd_close(fd);
        run_wait(&run);
        ck_assert_int_eq(run.status_code, CLD_EXITED);
        ck_assert_int_eq(run.status, 42);
        assert_said(&run, "worked");
        run_free(&run);
        teardown();
}
END_TEST

/* ---- processes told from later ones ---- */

START_TEST(test_process_identity)
{
        struct process_identity process, another;
        struct run run;

        setup();
        run_shell(&run, "echo '>' > /proc/$$/comm; printf ') a (' > /proc/$$/comm; echo begun; sleep 1000");
        while (!run.said)
                turn();
        ck_assert_int_eq(process_identify(run.child.pid, &process), 0);
        ck_assert_int_eq(process.pid, run.child.pid);
        ck_assert_uint_gt(process.start, 0);
        ck_assert_uint_eq(strlen(process.boot), 36);

        /* Another one that had its pid. */
        another = process;
        another.start--;
        ck_assert_int_eq(process_end(&another, "NO=mark", 0), 0);
        another = process;
        another.boot[0] = another.boot[0] == '0' ? '1' : '0';
        ck_assert_int_eq(process_end(&another, "NO=mark", 0), 0);
        ck_assert_int_eq(kill(process.pid, 0), 0);

        ck_assert_int_eq(process_end(&process, "NO=mark", 10000), 0);
        run_wait(&run);
        ck_assert_int_eq(run.status_code, CLD_KILLED);
        ck_assert_int_eq(process_end(&process, "NO=mark", 0), 0);
        ck_assert_int_eq(process_identify(process.pid, &another), -ENOENT);
        run_free(&run);
        teardown();
}
END_TEST

static int thread_sockets[2]; /* its number comes out of the first; when that is closed it ends */

static void *say_number(void *userdata _unused_)
{
        pid_t number = gettid();
        char end;

        ck_assert_int_eq(send(thread_sockets[1], &number, sizeof(number), 0), sizeof(number));
        ck_assert_int_eq(recv(thread_sockets[1], &end, sizeof(end), 0), 0);
        return NULL;
}

/* Its number is that of a thread by now, in this boot or after another. */
START_TEST(test_process_is_a_thread)
{
        struct process_identity process;
        pthread_t thread;

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, thread_sockets), 0);
        ck_assert_int_eq(process_identify(getpid(), &process), 0);
        ck_assert_int_eq(pthread_create(&thread, NULL, say_number, NULL), 0);
        ck_assert_int_eq(recv(thread_sockets[0], &process.pid, sizeof(process.pid), 0), sizeof(process.pid));
        ck_assert_int_ne(process.pid, getpid());
        for (size_t i = 0; i < 2; i++) {
                ck_assert_int_eq(process_end(&process, NULL, 0), 0);
                ck_assert_int_eq(process_end(&process, "NO=mark", 0), 0);
                process.boot[0] = process.boot[0] == '0' ? '1' : '0';
        }
        ck_assert_int_eq(close(thread_sockets[0]), 0);
        ck_assert_int_eq(pthread_join(thread, NULL), 0);
        ck_assert_int_eq(close(thread_sockets[1]), 0);
}
END_TEST

/* ---- lines ---- */

#define X16 "xxxxxxxxxxxxxxxx"
#define X64 X16 X16 X16 X16

START_TEST(test_lines)
{
        static const struct {
                const char *bytes;
                size_t n_bytes;
                const char *said;
                unsigned n_cut;
        } rows[] = {
                { "", 0, "", 0 },
                { "\n", 1, "\"\"", 0 },
                { "a\nb\n", 4, "a b", 0 },
                { "a\n\nb", 4, "a \"\" b", 0 },
                { "a\0b\n", 4,
                  "a\x1a"
                  "b",
                  0 },
                { "\0", 1, "\x1a", 0 },
                { X64 "\n", 65, X64, 0 },
                { X64 "y\nz\n", 68, X64 " z", 1 },
                { X64 X64, 128, X64, 1 },
                { X64 "y\n" X64 "z", 132, X64 " " X64, 2 },
                { "\xff\xfe\r\n", 4, "\"\xff\xfe\r\"", 0 },
        };

        setup();
        for (size_t i = 0; i < ARRAY_SIZE(rows) * 2; i++) {
                struct run run = { 0 };
                bool drains = i >= ARRAY_SIZE(rows);
                size_t row = i % ARRAY_SIZE(rows);
                int fd;

                ck_assert_int_eq(lines_init(&run.lines, loop, LINE_MAX_BYTES, line_came, &fd), 0);
                ck_assert_int_eq(write(fd, rows[row].bytes, rows[row].n_bytes), (ssize_t)rows[row].n_bytes);
                if (drains) {
                        lines_drain(&run.lines); /* while the other end is open */
                } else {
                        (void)fd_close(fd);
                        while (!is_at_end(&run))
                                turn();
                        lines_drain(&run.lines); /* harmless */
                }
                assert_said(&run, rows[row].said);
                ck_assert_uint_eq(run.n_cut, rows[row].n_cut);
                run_free(&run);
                run_free(&run);
                if (drains)
                        (void)fd_close(fd);
        }
        teardown();
}
END_TEST

START_TEST(test_lines_in_slices)
{
        struct run run = { 0 };
        int fd;

        setup();
        ck_assert_int_eq(lines_init(&run.lines, loop, LINE_MAX_BYTES, line_came, &fd), 0);
        for (const char *p = "one\ntwo\nthree"; *p; p++) {
                ck_assert_int_eq(write(fd, p, 1), 1);
                turn();
        }
        assert_said(&run, "one two");
        (void)fd_close(fd);
        while (!is_at_end(&run))
                turn();
        assert_said(&run, "one two three");
        run_free(&run);
        teardown();
}
END_TEST

START_TEST(test_much_is_printed)
{
        struct run run;

        setup();
        run_shell(&run, "i=0; while [ $i -lt 2000 ]; do echo " X64 X64 X64 X64 "$i; i=$((i + 1)); done");
        while (!is_at_end(&run) || run.n_exited == 0)
                turn();
        ck_assert_uint_eq(strv_length(run.said), 2000);
        ck_assert_uint_eq(run.n_cut, 2000);
        run_free(&run);
        teardown();
}
END_TEST

START_TEST(test_drain_ends_though_a_grandchild_prints_on)
{
        struct run run;

        setup();
        run_shell(&run, "while :; do echo more; done & exit 0");
        run.child.exited = exited;
        while (run.n_exited == 0)
                turn();
        lines_drain(&run.lines);
        run_free(&run); /* its next line is its last: SIGPIPE */
        teardown();
}
END_TEST

UNIT_MAIN("child", test_ends, test_starts_that_fail, test_out_of_descriptors, test_fork_out_of_descriptors,
          test_inheritance, test_slice_is_not_passed_on, test_high_descriptors, test_folder, test_users,
          test_users_that_we_may_not_become, test_announce, test_announce_says_who_it_is,
          test_kill_reaches_the_group, test_kill_after_the_leader_ended, test_deinit_of_a_running_child,
          test_somebody_else_reaps_it, test_loop_ends_before_the_child, test_exited_frees_its_owner,
          test_exited_starts_the_next, test_fork, test_process_identity, test_process_is_a_thread, test_lines,
          test_lines_in_slices, test_lines_closed, test_much_is_printed,
          test_drain_ends_though_a_grandchild_prints_on)

/*
 * What resource/process promises, with real programs: it is loaded when it runs, its end is told with status or signal,
 * its whole group ends with it, and a later run ends what is left of it and nobody else.
 */
#include "claims.h"

#include "loop/child.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

static char *words[4];

static struct claim *process_open(const char *script)
{
        struct claim *claim = claims_open(&resource_type_process);

        words[0] = (char *)"/bin/sh";
        words[1] = (char *)"-c";
        words[2] = (char *)script;
        words[3] = NULL;
        config.command = words;
        return claim;
}

/* The program runs when this returns. */
static pid_t process_begin(struct claim *claim)
{
        claims_prepare(claim);
        ck_assert_int_eq(claims_run(claim, claim->type->load), LOADED);
        claim->state = CLAIM_LOADED;
        return (pid_t)strtol(seen.text, NULL, 10);
}

static enum said process_end_it(struct claim *claim)
{
        claim->state = CLAIM_RELEASING;
        return claims_run(claim, claim->type->release);
}

static void wait_output(size_t n)
{
        while (strv_length(seen.output) < n)
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
}

/* Whether nobody but a zombie has it, waited for: whoever has lost its parent is not ours to reap. */
static void assert_gone(pid_t pid)
{
        for (int i = 0;; i++) {
                char path[64], state = 'X';
                FILE *file;

                (void)snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
                file = fopen(path, "re");
                if (file) {
                        ck_assert_int_eq(fscanf(file, "%*d (%*[^)]) %c", &state), 1);
                        (void)fclose(file);
                }
                if (!file || state == 'Z' || state == 'X')
                        return;
                ck_assert_msg(i < 10000, "%d runs on", (int)pid);
                (void)usleep(1000);
        }
}

static void assert_no_child(void)
{
        siginfo_t info;

        ck_assert_int_eq(waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT), -1);
}

START_TEST(test_life)
{
        struct claim *claim = process_open("echo out; echo err >&2; exec sleep 1000");
        pid_t pid = process_begin(claim);
        int death_signal = 0;

        ck_assert_int_eq(getpgid(pid), pid);
        ck_assert_int_eq(prctl(PR_GET_PDEATHSIG, &death_signal), 0);
        ck_assert_int_eq(death_signal, 0); /* ours was not touched, although it shared our memory */
        wait_output(2);
        ck_assert_int_eq(process_end_it(claim), RELEASED);
        ck_assert_uint_eq(seen.n_said, 2);
        assert_gone(pid);
        assert_no_child();
        claims_close();
}
END_TEST

START_TEST(test_ends_by_itself)
{
        static const struct {
                const char *script;
                int exit_status;
                const char *reason;
        } rows[] = {
                { "exit 0", 0, "exit status 0" },
                { "exit 3", 3, "exit status 3" },
                { "kill -9 $$", 137, "killed by SIGKILL" },
                { "kill -40 $$", 168, "killed by a signal" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows) * 2; i++) {
                bool gets_socket = i % 2;
                struct claim *claim = process_open(rows[i / 2].script);
                int fds[2];

                ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
                given_socket_fd = fds[0];
                config.socket = gets_socket ? PROCESS_SOCKET_STDIO : PROCESS_SOCKET_NONE;
                (void)process_begin(claim);
                ck_assert_int_eq(claims_wait(), LOST);
                ck_assert_int_eq(seen.exit_status, rows[i / 2].exit_status);
                ck_assert_str_eq(seen.text, rows[i / 2].reason);
                ck_assert_int_eq(seen.is_said, gets_socket);
                ck_assert_int_eq(process_end_it(claim), RELEASED); /* at once */
                assert_no_child();
                claims_close();
                (void)close(fds[0]);
                (void)close(fds[1]);
        }
}
END_TEST

START_TEST(test_keep)
{
        struct claim *claim = process_open("sleep 1000 & echo $!; exit 3");
        pid_t grandchild;

        config.on_exit = ON_EXIT_KEEP;
        seen.n_messages = 0;
        (void)process_begin(claim);
        while (seen.n_messages == 0)
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
        ck_assert_uint_eq(seen.n_said, 1);
        ck_assert_uint_eq(strv_length(seen.output), 1);
        grandchild = (pid_t)strtol(seen.output[0], NULL, 10);
        assert_gone(grandchild);
        ck_assert_int_eq(process_end_it(claim), RELEASED);
        claims_close();
}
END_TEST

/* Whoever is of its group ends with it, however it ends. */
START_TEST(test_group)
{
        static const struct {
                const char *script;
                bool is_stopped;
        } rows[] = {
                { "sleep 1000 & echo $!; wait", false },
                { "(trap '' TERM; echo $(exec sh -c 'echo $PPID'); while :; do sleep 1000; done) & wait",
                  false },
                { "trap '' TERM; sleep 1000 & echo $!; while :; do wait; sleep 1; done", true },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct claim *claim = process_open(rows[i].script);
                pid_t pid = process_begin(claim), grandchild;

                wait_output(1);
                grandchild = (pid_t)strtol(seen.output[0], NULL, 10);
                ck_assert_int_eq(getpgid(grandchild), pid);
                if (rows[i].is_stopped) { /* release_timeout is over */
                        claim->state = CLAIM_RELEASING;
                        claim->type->release(claim);
                        ck_assert_int_eq(loop_turn(loop, 0), 0);
                        ck_assert_int_eq(kill(pid, 0), 0);
                        claim->state = CLAIM_RELEASE_STOPPING;
                        ck_assert_int_eq(claims_run(claim, claim->type->stop), RELEASED);
                } else {
                        ck_assert_int_eq(process_end_it(claim), RELEASED);
                }
                assert_gone(grandchild);
                assert_gone(pid);
                claims_close();
        }
}
END_TEST

/* The kernel may not get rid of it: a later attempt finds out. */
START_TEST(test_does_not_end)
{
        struct claim *claim = process_open("exec sleep 1000");
        pid_t pid = process_begin(claim);
        struct wheel *wheel = loop_wheel(loop);

        ck_assert_int_eq(kill(pid, SIGSTOP), 0);
        claim->state = CLAIM_RELEASING;
        claim->type->release(claim);
        claim->state = CLAIM_RELEASE_STOPPING;
        claim->type->stop(claim);
        wheel_run(wheel, wheel_next(wheel)); /* before the loop hears of its end */
        ck_assert_int_eq(seen.said, RELEASE_FAILED);
        ck_assert_str_eq(seen.text, "it was killed and does not end");
        claim->state = CLAIM_RETRYING;
        while (leases.loop && waitid(P_PID, (id_t)pid, &(siginfo_t){ 0 }, WEXITED | WNOHANG | WNOWAIT) == 0)
                ck_assert_int_eq(loop_turn(loop, 1000), 0);
        ck_assert_uint_eq(seen.n_said, 2);
        ck_assert_int_eq(process_end_it(claim), RELEASED);
        claims_close();
}
END_TEST

START_TEST(test_starts_that_fail)
{
        static const struct {
                const char *program, *folder, *reason;
        } rows[] = {
                { "/nonexistent", "/", "/nonexistent cannot be started: No such file or directory" },
                { "/etc/passwd", "/", "/etc/passwd cannot be started: Permission denied" },
                { "true", "/nonexistent", "true cannot be started: No such file or directory" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct claim *claim = process_open("");

                words[0] = (char *)rows[i].program;
                words[1] = NULL;
                config.working_directory = (char *)rows[i].folder;
                claims_prepare(claim);
                ck_assert_int_eq(claims_run(claim, claim->type->load), LOAD_FAILED);
                ck_assert_str_eq(seen.text, rows[i].reason);
                ck_assert_int_eq(seen.exit_status, -1);
                ck_assert(seen.is_said); /* nothing ran */
                assert_no_child();
                claims_close();
        }

        struct claim *claim = process_open("");

        config.socket = PROCESS_SOCKET_STDIO;
        given_socket_fd = -ENOBUFS;
        claims_prepare(claim);
        ck_assert_int_eq(claims_run(claim, claim->type->load), LOAD_FAILED);
        ck_assert_str_eq(seen.text, "/bin/sh cannot be started: No buffer space available");
        claims_close();

        /* Nor is that tried again: what was short may be half of a greeting. */
        claim = process_open("");
        config.socket = PROCESS_SOCKET_STDIO;
        given_socket_fd = -ENOMEM;
        claims_prepare(claim);
        ck_assert_int_eq(claims_run(claim, claim->type->load), LOAD_FAILED);
        claims_close();
}
END_TEST

START_TEST(test_words_refused)
{
        struct claim *claim = process_open("");
        char *reason = NULL, **fields = NULL;

        words[2] = (char *)"%{second}";
        ck_assert_int_eq(claim->type->prepare(claim, &reason), RESOURCE_E_INVALID);
        ck_assert_str_eq(reason, "%{second} is not known here");
        ck_assert_ptr_null(claim->data);
        ck_assert_int_eq(claim->type->save(claim, &fields), 0);
        ck_assert_ptr_null(fields);
        free(reason);
        claims_close();
}
END_TEST

/* With ever more descriptors: it waits until it can be started, and takes the socket once. */
START_TEST(test_out_of_descriptors)
{
        for (int gets_socket = 0; gets_socket <= 1; gets_socket++) {
                struct claim *claim = process_open("exec sleep 1000");
                struct rlimit limit, scarce;
                enum said said = DEFERRED;
                int fds[2], lowest;

                ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
                given_socket_fd = fds[0];
                n_sockets_taken = 0;
                config.socket = gets_socket ? PROCESS_SOCKET_STDIO : PROCESS_SOCKET_NONE;
                claims_prepare(claim);
                lowest = dup(0);
                ck_assert_int_eq(close(lowest), 0);
                ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
                for (rlim_t n = 0; n < 2; n++) {
                        scarce =
                                (struct rlimit){ .rlim_cur = (rlim_t)lowest + n, .rlim_max = limit.rlim_max };
                        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &scarce), 0);
                        said = claims_run(claim, claim->type->load);
                        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
                        ck_assert_int_eq(said, DEFERRED);
                }
                ck_assert_int_eq(claims_run(claim, claim->type->load), LOADED);
                ck_assert_int_eq((int)n_sockets_taken, gets_socket);
                ck_assert_int_eq(process_end_it(claim), RELEASED);
                claims_close();
                (void)close(fds[0]);
                (void)close(fds[1]);
        }
}
END_TEST

/* stdin and stdout are the socket, blocking or not as it is; stderr is the journal's; and there is nothing else. */
START_TEST(test_socket)
{
        struct claim *claim = process_open("echo begun >&2; exec cat");
        char answer[64], path[64];
        int fds[2], n_fds = 0;
        pid_t pid;
        DIR *folder;

        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        given_socket_fd = fds[0];
        config.socket = PROCESS_SOCKET_STDIO;
        pid = process_begin(claim);
        ck_assert_int_eq(close(fds[0]), 0);
        wait_output(1);
        ck_assert_int_eq(send(fds[1], "word\n", 5, 0), 5);
        ck_assert_int_eq(recv(fds[1], answer, sizeof(answer), 0), 5);
        ck_assert_mem_eq(answer, "word\n", 5);

        (void)snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
        folder = opendir(path);
        ck_assert_ptr_nonnull(folder);
        for (struct dirent *entry; (entry = readdir(folder));)
                if (entry->d_name[0] != '.') {
                        ck_assert_int_lt(atoi(entry->d_name), 3);
                        n_fds++;
                }
        (void)closedir(folder);
        ck_assert_int_eq(n_fds, 3);

        ck_assert_int_eq(shutdown(fds[1], SHUT_WR), 0);
        ck_assert_int_eq(recv(fds[1], answer, sizeof(answer), 0), 0);
        ck_assert_int_eq(claims_wait(), LOST);
        (void)close(fds[1]);
        claims_close();
}
END_TEST

START_TEST(test_environment)
{
        struct claim *claim = process_open(
                "echo $TETHERD_PHASE $TETHERD_RESOURCE $COLOUR $TETHERD_VALUE_FIRST; pwd; exec sleep 1000");
        char *environment[] = { (char *)"COLOUR=blue-%h", NULL };

        config.environment = environment;
        config.working_directory = (char *)"/proc";
        (void)process_begin(claim);
        wait_output(2);
        ck_assert_str_eq(seen.output[0], "load third blue-alice one");
        ck_assert_str_eq(seen.output[1], "/proc");
        ck_assert_int_eq(process_end_it(claim), RELEASED);
        claims_close();
}
END_TEST

/* Written down before it runs; where that fails nothing runs. */
START_TEST(test_record)
{
        struct process_identity process;
        struct claim *claim = process_open("exec sleep 1000");
        char **fields = NULL, *reason = NULL;
        pid_t pid;
        uint64_t value;

        pid = process_begin(claim);
        ck_assert_uint_eq(seen.n_saves, 1);
        ck_assert_int_eq(process_identify(pid, &process), 0);
        ck_assert_int_eq(fields_get_u64(seen.saved, "pid", &value), 0);
        ck_assert_uint_eq(value, (uint64_t)pid);
        ck_assert_int_eq(fields_get_u64(seen.saved, "start", &value), 0);
        ck_assert_uint_eq(value, process.start);
        ck_assert_str_eq(fields_get(seen.saved, "boot"), process.boot);
        ck_assert_int_eq(process_end_it(claim), RELEASED);

        ck_assert_int_eq(strv_append(&fields, "pid=0"), 0);
        claim->type->forget(claim);
        ck_assert_int_eq(claim->type->restore(claim, fields, &reason), RESOURCE_E_INVALID);
        ck_assert_str_eq(reason, "its pid, start or boot is missing or wrong");
        free(reason);
        strv_free(fields);
        claim->state = CLAIM_EMPTY;
        ck_assert_int_eq(claim->type->restore(claim, NULL, &reason), 0);
        ck_assert_ptr_null(claim->data);
        claims_close();

        claim = process_open("exec sleep 1000");
        seen.save_result = -ENOSPC;
        claims_prepare(claim);
        ck_assert_int_eq(claims_run(claim, claim->type->load), LOAD_FAILED);
        ck_assert_str_eq(seen.text, "/bin/sh cannot be started: No space left on device");
        assert_no_child();
        claims_close();
}
END_TEST

/* A daemon that starts `script` as a process resource and dies; a claim of the next run, and the record that it finds. */
static struct claim *crash(const char *script, const char *mark_path)
{
        int status, fds[2];
        char record[512], *rest = record;
        struct claim *claim;
        ssize_t n;

        ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
        pid_t pid = fork();

        if (pid == 0) {
                (void)process_begin(process_open(script));
                while (access(mark_path, F_OK) < 0) /* the program has come as far as the test needs it */
                        (void)usleep(1000);
                for (char **field = seen.saved; *field; field++)
                        (void)dprintf(fds[1], "%s\n", *field);
                (void)raise(SIGKILL);
        }
        ck_assert_int_eq(close(fds[1]), 0);
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        n = read(fds[0], record, sizeof(record) - 1);
        ck_assert_int_gt(n, 0);
        record[n] = '\0';
        for (char *line; (line = strsep(&rest, "\n")) && *line;)
                ck_assert_int_eq(strv_append(&seen.saved, line), 0);
        (void)close(fds[0]);
        claim = process_open(script);
        claim->config = NULL;
        claim->state = CLAIM_LOADED;
        return claim;
}

static pid_t read_pid(const char *path)
{
        FILE *file = fopen(path, "re");
        int pid = 0;

        ck_assert_ptr_nonnull(file);
        ck_assert_int_eq(fscanf(file, "%d", &pid), 1);
        (void)fclose(file);
        return pid;
}

/* The kernel ends the program, the next run what it left in its group; one that has another connection's mark is not ours. */
START_TEST(test_crash)
{
        for (int i = 0; i < 2; i++) {
                bool is_ours = i == 0;
                char folder[] = "/tmp/tetherd-test-XXXXXX", path[64], script[512];
                char *reason = NULL;
                struct claim *claim;
                pid_t grandchild, leader;

                ck_assert_ptr_nonnull(mkdtemp(folder));
                (void)snprintf(path, sizeof(path), "%s/pid", folder);
                (void)snprintf(script, sizeof(script),
                               "%s sleep 1000 >/dev/null 2>&1 & echo $! >%s.new; mv %s.new %s; wait",
                               is_ours ? "" : "TETHERD_CONNECTION=5", path, path, path);
                claim = crash(script, path);
                grandchild = read_pid(path);
                leader = (pid_t)strtol(fields_get(seen.saved, "pid"), NULL, 10);
                assert_gone(leader);
                ck_assert_int_eq(kill(grandchild, 0), 0);
                ck_assert_int_eq(claim->type->restore(claim, seen.saved, &reason), 0);
                ck_assert_int_eq(process_end_it(claim), RELEASED);
                if (is_ours) {
                        assert_gone(grandchild);
                } else {
                        ck_assert_int_eq(kill(grandchild, 0), 0);
                        ck_assert_int_eq(kill(grandchild, SIGKILL), 0);
                }
                claims_close();
                (void)unlink(path);
                ck_assert_int_eq(rmdir(folder), 0);
        }
}
END_TEST

START_TEST(test_forgotten)
{
        struct claim *claim = process_open("exec sleep 1000");
        pid_t pid = process_begin(claim);

        claim->type->forget(claim); /* killed, without waiting */
        while (waitid(P_PID, (id_t)pid, &(siginfo_t){ 0 }, WEXITED | WNOHANG | WNOWAIT) == 0)
                ck_assert_int_eq(loop_turn(loop, 1000), 0);
        claims_close();
}
END_TEST

UNIT_MAIN("process", test_life, test_ends_by_itself, test_keep, test_group, test_does_not_end,
          test_starts_that_fail, test_words_refused, test_out_of_descriptors, test_socket, test_environment,
          test_record, test_crash, test_forgotten)

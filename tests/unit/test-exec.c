/*
 * What resource/exec promises, with real commands: values, endings and reasons, output, timeouts, the
 * environment to the last variable, and releases from the ledger record alone. With it the table of types and
 * `none`.
 */
#include "claims.h"

#include "loop/child.h"
#include <sys/resource.h>
#include <sys/wait.h>

static char *load_words[4], *release_words[8];

static void set_shell(char *words[static 4], const char *script)
{
        words[0] = (char *)"/bin/sh";
        words[1] = (char *)"-c";
        words[2] = (char *)script;
        words[3] = NULL;
}

/* A claim that is prepared to run these scripts; NULL: no command. */
static struct claim *exec_open(const char *load, const char *release)
{
        struct claim *claim = claims_open(&resource_type_exec);

        if (load) {
                set_shell(load_words, load);
                config.load = load_words;
        }
        if (release) {
                set_shell(release_words, release);
                config.release = release_words;
        }
        claims_prepare(claim);
        return claim;
}

static void assert_heard(enum said said, int exit_status, const char *text)
{
        ck_assert_int_eq(seen.said, said);
        ck_assert_int_eq(seen.exit_status, exit_status);
        ck_assert_str_eq(seen.text, text);
}

static void assert_no_child(void)
{
        siginfo_t info;

        ck_assert_int_eq(waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT), -1);
}

START_TEST(test_values)
{
        static const struct {
                const char *script, *value, *output;
        } rows[] = {
                { "exit 0", "", "" },
                { "echo", "", "" },
                { "echo a value", "a value", "" },
                { "printf 'no newline'", "no newline", "" },
                { "printf '\\n\\nthird\\n'", "", "\"\" third" },
                { "echo one; echo two; echo three", "one", "two three" },
                { "echo to-stderr >&2; echo one", "one", "to-stderr" },
                { "printf 'a\\tb\\n'", "a\tb", "" }, /* which claim_loaded() refuses */
                { "printf 'a\\000b\\n'",
                  "a\x1a"
                  "b",
                  "" }, /* likewise */
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct claim *claim = exec_open(rows[i].script, NULL);

                ck_assert_int_eq(claims_run(claim, claim->type->load), LOADED);
                assert_heard(LOADED, 0, rows[i].value);
                char *output = words_join(seen.output);
                ck_assert_str_eq(output, rows[i].output);
                free(output);
                assert_no_child();
                claims_close();
        }
}
END_TEST

START_TEST(test_long_values)
{
        static const struct {
                const char *script;
                size_t length;
        } rows[] = {
                { "head -c 4095 /dev/zero | tr '\\0' x; echo; echo more", 4095 },
                { "head -c 4096 /dev/zero | tr '\\0' x; echo; echo more", 4096 },
                { "head -c 4097 /dev/zero | tr '\\0' x; echo; echo more", 4097 }, /* claim_loaded() sees it */
                { "head -c 9000 /dev/zero | tr '\\0' x; echo; echo more", 4097 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct claim *claim = exec_open(rows[i].script, NULL);

                ck_assert_int_eq(claims_run(claim, claim->type->load), LOADED);
                ck_assert_uint_eq(strlen(seen.text), rows[i].length);
                ck_assert_uint_eq(strspn(seen.text, "x"), rows[i].length);
                ck_assert_str_eq(seen.output[0], "more");
                claims_close();
        }
}
END_TEST

START_TEST(test_failures)
{
        static const struct {
                const char *script;
                bool is_said;
                int exit_status;
                const char *reason;
        } rows[] = {
                { "exit 3", true, 3, "exit status 3" },
                { "echo value; exit 1", true, 1, "exit status 1" },
                { "exit 255", true, 255, "exit status 255" },
                { "kill -9 $$", false, 137, "killed by SIGKILL" },
                { "kill -SEGV $$", false, 139, "killed by SIGSEGV" },
                { "kill -40 $$", false, 168, "killed by a signal" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct claim *claim = exec_open(rows[i].script, rows[i].script);

                ck_assert_int_eq(claims_run(claim, claim->type->load), LOAD_FAILED);
                assert_heard(LOAD_FAILED, rows[i].exit_status, rows[i].reason);
                ck_assert_int_eq(seen.is_said, rows[i].is_said);

                /* Twice: a release may be tried again. */
                for (int attempt = 0; attempt < 2; attempt++) {
                        ck_assert_int_eq(claims_run(claim, claim->type->release), RELEASE_FAILED);
                        assert_heard(RELEASE_FAILED, rows[i].exit_status, rows[i].reason);
                }
                claims_close();
        }
}
END_TEST

START_TEST(test_commands_that_do_not_start)
{
        static const struct {
                const char *program, *folder, *reason;
        } rows[] = {
                { "/nonexistent", "/", "/nonexistent cannot be started: No such file or directory" },
                { "no-such-program", "/", "no-such-program cannot be started: No such file or directory" },
                { "/etc/passwd", "/", "/etc/passwd cannot be started: Permission denied" },
                { "true", "/nonexistent", "true cannot be started: No such file or directory" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char *words[] = { (char *)rows[i].program, NULL };
                struct claim *claim = claims_open(&resource_type_exec);

                config.load = config.release = words;
                config.working_directory = (char *)rows[i].folder;
                claims_prepare(claim);
                ck_assert_int_eq(claims_run(claim, claim->type->load), LOAD_FAILED);
                assert_heard(LOAD_FAILED, -1, rows[i].reason);
                ck_assert(seen.is_said); /* nothing ran */
                ck_assert_int_eq(claims_run(claim, claim->type->release), RELEASE_FAILED);
                assert_heard(RELEASE_FAILED, -1, rows[i].reason);
                claims_close();
        }
}
END_TEST

START_TEST(test_no_commands)
{
        struct claim *claim = exec_open(NULL, NULL);

        claim->type->load(claim);
        assert_heard(LOADED, 0, "");
        claim->type->release(claim);
        assert_heard(RELEASED, 0, "");
        ck_assert_uint_eq(seen.n_said, 2);
        claims_close();
}
END_TEST

START_TEST(test_words)
{
        char *const words[] = { (char *)"printf",      (char *)"[%%s]", (char *)"%i",
                                (char *)"x%{first} y", (char *)"100%%", NULL };
        struct claim *claim = claims_open(&resource_type_exec);

        free(lease->claims[0].value);
        lease->claims[0].value = strdup("two words");
        config.load = config.release = (char **)words;
        claims_prepare(claim);
        ck_assert_int_eq(claims_run(claim, claim->type->load), LOADED);
        ck_assert_str_eq(seen.text, "[6421f0a3b7c01][xtwo words y][100%]");
        ck_assert_int_eq(claims_run(claim, claim->type->release), RELEASED);
        ck_assert_str_eq(seen.output[0], "[6421f0a3b7c01][xtwo words y][100%]");
        claims_close();
}
END_TEST

START_TEST(test_words_refused)
{
        static const struct {
                const char *load, *release, *variable, *reason;
        } rows[] = {
                { "%{first}", "x", "A=", "%{first} begins with '-'" },
                { "x", "%h", "A=", "%h is empty" },
                { "x", "%{third}", "A=", "%{third} is not known here" },
                { "x", "%{second}", "A=", "%{second} is not known here" },
                { "x", "x", "A=%c", "%c is not known here" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char *load[] = { (char *)"true", (char *)rows[i].load, NULL };
                char *release[] = { (char *)"true", (char *)rows[i].release, NULL };
                char *environment[] = { (char *)rows[i].variable, NULL };
                struct claim *claim = claims_open(&resource_type_exec);
                char *reason = NULL, **fields = NULL;

                free(lease->claims[0].value);
                lease->claims[0].value = strdup("-rf");
                lease->subject.identity[0] = '\0';
                config.load = load;
                config.release = release;
                config.environment = environment;
                ck_assert_int_eq(claim->type->prepare(claim, &reason), RESOURCE_E_INVALID);
                ck_assert_str_eq(reason, rows[i].reason);
                ck_assert_ptr_null(claim->data);
                ck_assert_int_eq(claim->type->save(claim, &fields), 0); /* of nothing */
                ck_assert_ptr_null(fields);
                free(reason);
                claims_close();
        }
}
END_TEST

/* `env` prints its environment; what the shell adds of its own does not come in. */
START_TEST(test_exact_environment)
{
        static const char *const at_load[] = {
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG=C.UTF-8",
                "HOME=/home/web",
                "USER=web",
                "COLOUR=blue",
                "TETHERD_CONNECTION=6421f0a3b7c01",
                "TETHERD_LISTENER=presence",
                "TETHERD_RESOURCE=third",
                "TETHERD_REMOTE_ADDRESS=192.0.2.7",
                "TETHERD_REMOTE_PORT=51514",
                "TETHERD_LOCAL_ADDRESS=2001:db8::1",
                "TETHERD_LOCAL_PORT=7400",
                "TETHERD_IDENTITY=alice",
                "TETHERD_VALUE_FIRST=one",
                "TETHERD_PHASE=load",
        };
        static const char *const at_release[] = {
                "TETHERD_VALUE=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "TETHERD_CAUSE=eof",
                "TETHERD_OPERATION=receive",
                "TETHERD_ERRNO=0",
                "TETHERD_DURATION_USEC=5",
                "TETHERD_BYTES_RECEIVED=6",
                "TETHERD_BYTES_SENT=7",
                "TETHERD_RECOVERED=0",
        };
        char *const words[] = { (char *)"env", NULL }, *const environment[] = { (char *)"COLOUR=blue", NULL };
        struct claim *claim = claims_open(&resource_type_exec);

        ck_assert_int_eq(unsetenv("LANG"), 0);
        ck_assert_int_eq(setenv("SECRET", "of the daemon", 1), 0);
        config.load = config.release = (char **)words;
        config.environment = (char **)environment;
        config.user_name = (char *)"web"; /* uid and gid stay ours */
        config.home = (char *)"/home/web";
        claims_prepare(claim);
        ck_assert_int_eq(claims_run(claim, claim->type->load), LOADED);
        ck_assert_str_eq(seen.text, at_load[0]);
        ck_assert_uint_eq(strv_length(seen.output), ARRAY_SIZE(at_load) - 1);
        for (size_t i = 1; i < ARRAY_SIZE(at_load); i++)
                ck_assert_str_eq(seen.output[i - 1], at_load[i]);

        seen.output = strv_free(seen.output);
        lease->ending = (struct event_ending){ .cause = "eof",
                                               .operation = "receive",
                                               .duration_usec = 5,
                                               .bytes_received = 6,
                                               .bytes_sent = 7 };
        ck_assert_int_eq(claims_run(claim, claim->type->release), RELEASED);
        ck_assert_uint_eq(strv_length(seen.output), ARRAY_SIZE(at_load) + ARRAY_SIZE(at_release));
        for (size_t i = 0; i < ARRAY_SIZE(at_load) - 1; i++)
                ck_assert_str_eq(seen.output[i], at_load[i]);
        ck_assert_str_eq(seen.output[ARRAY_SIZE(at_load) - 1], "TETHERD_PHASE=release");
        for (size_t i = 0; i < ARRAY_SIZE(at_release); i++)
                ck_assert_str_eq(seen.output[ARRAY_SIZE(at_load) + i], at_release[i]);
        claims_close();
}
END_TEST

START_TEST(test_stop)
{
        struct claim *claim = exec_open("trap '' TERM; sleep 1000 & echo begun >&2; wait", "sleep 1000");

        claim->type->load(claim);
        while (!seen.output)
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
        claim->type->stop(claim);
        ck_assert_int_eq(claims_wait(), LOAD_FAILED);
        assert_heard(LOAD_FAILED, 137, "killed by SIGKILL");
        ck_assert(!seen.is_said);
        claim->type->release(claim);
        claim->type->stop(claim);
        ck_assert_int_eq(claims_wait(), RELEASE_FAILED);
        claims_close();
}
END_TEST

START_TEST(test_forget_kills)
{
        struct claim *claim = exec_open("sleep 1000", NULL);
        siginfo_t info;

        claim->type->load(claim);
        claim->type->forget(claim);
        claim->type->forget(claim);
        while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0)
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
        ck_assert_uint_eq(seen.n_said, 0);
        claims_close();
}
END_TEST

/* The daemon's end is not waited for: who printed on after the command ended does not hold it up. */
START_TEST(test_grandchild_that_stays)
{
        struct claim *claim = exec_open("echo value; sleep 1000 & echo $! >&2", NULL);

        ck_assert_int_eq(claims_run(claim, claim->type->load), LOADED);
        ck_assert_str_eq(seen.text, "value");
        ck_assert_int_eq(kill((pid_t)atoi(seen.output[0]), SIGKILL), 0); /* it is left alone */
        claims_close();
}
END_TEST

/* ---- the ledger ---- */

START_TEST(test_a_running_command_is_recorded)
{
        struct process_identity process;
        struct claim *claim = exec_open("read never < /dev/null; sleep 1000", NULL);
        uint64_t pid, start;

        claim->type->load(claim);
        ck_assert_uint_eq(seen.n_saves, 1);
        ck_assert_int_eq(fields_get_u64(seen.saved, "pid", &pid), 0);
        ck_assert_int_eq(fields_get_u64(seen.saved, "start", &start), 0);
        ck_assert_int_eq(process_identify((pid_t)pid, &process), 0);
        ck_assert_uint_eq(process.start, start);
        ck_assert_str_eq(fields_get(seen.saved, "boot"), process.boot);
        claim->type->stop(claim);
        (void)claims_wait();
        (void)claim_save(claim); /* it does not run any more */
        ck_assert_ptr_null(fields_get(seen.saved, "pid"));
        claims_close();
}
END_TEST

START_TEST(test_a_command_that_cannot_be_recorded)
{
        struct claim *claim = exec_open("sleep 1000", "exit 0");

        seen.save_result = -ENOSPC;
        ck_assert_int_eq(claims_run(claim, claim->type->load), LOAD_FAILED);
        ck_assert(seen.is_said); /* it did not run */
        ck_assert_ptr_nonnull(strstr(seen.text, "cannot be started: No space left on device"));
        ck_assert_int_eq(claims_run(claim, claim->type->release), RELEASED); /* that one matters more */
        claims_close();
}
END_TEST

/* Out of descriptors: nothing was begun, nothing failed, and it works as soon as there are some. */
START_TEST(test_a_command_that_has_to_wait)
{
        struct claim *claim = exec_open("echo here", "exit 0");
        struct rlimit limit, none;

        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        none = limit;
        none.rlim_cur = 4;
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
        ck_assert_int_eq(claims_run(claim, claim->type->load), DEFERRED);
        ck_assert_str_eq(seen.text, strerror(EMFILE));
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        ck_assert_int_eq(claims_run(claim, claim->type->load), LOADED);
        ck_assert_str_eq(seen.text, "here");
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
        ck_assert_int_eq(claims_run(claim, claim->type->release), DEFERRED);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        ck_assert_int_eq(claims_run(claim, claim->type->release), RELEASED);
        claims_close();
}
END_TEST

START_TEST(test_release_in_the_next_run)
{
        char *const release[] = {
                (char *)"sh",
                (char *)"-c",
                (char *)"echo \"$1 $TETHERD_IDENTITY $TETHERD_VALUE_FIRST $TETHERD_RECOVERED $COLOUR\"; "
                        "pwd",
                (char *)"sh",
                (char *)"a\nb%%%i",
                NULL
        };
        char *const environment[] = { (char *)"COLOUR=a\nb", NULL };
        struct claim *claim = claims_open(&resource_type_exec);

        config.release = (char **)release;
        config.environment = (char **)environment;
        config.working_directory = (char *)"/usr";
        config.user = geteuid();
        config.group = getegid();
        config.user_name = (char *)"me";
        config.home = (char *)"/home/me";
        claims_prepare(claim);
        (void)claim_save(claim);
        claims_restart(claim);

        char **fields = NULL; /* saved again it is the same record */
        ck_assert_int_eq(claim->type->save(claim, &fields), 0);
        char *first = words_join(seen.saved), *again = words_join(fields);
        ck_assert_str_eq(again, first);
        free(first);
        free(again);
        strv_free(fields);

        free(lease->subject.identity);
        lease->subject.identity = strdup("somebody else"); /* expanded is expanded */
        lease->is_recovered = true;
        ck_assert_int_eq(claims_run(claim, claim->type->release), RELEASED);
        char *output = words_join(seen.output);
        ck_assert_str_eq(output, "a \"b%6421f0a3b7c01 alice one 1 a\" b /usr");
        free(output);
        claims_close();
}
END_TEST

/* As a daemon that died: nobody knows the load that still runs but its record. */
START_TEST(test_command_of_the_dead_daemon_is_ended_first)
{
        int fds[2];
        char byte;

        ck_assert_int_eq(pipe(fds), 0);
        struct claim *claim = exec_open(NULL, "echo released");
        pid_t pid = fork();
        if (pid == 0) {
                (void)setpgid(0, 0);
                (void)!write(fds[1], "x", 1);
                for (;;)
                        (void)pause();
        }
        ck_assert_int_eq(read(fds[0], &byte, 1), 1);

        struct process_identity process;
        ck_assert_int_eq(process_identify(pid, &process), 0);
        (void)claim_save(claim);
        ck_assert_int_eq(strv_appendf(&seen.saved, "pid=%d", pid), 0);
        ck_assert_int_eq(strv_appendf(&seen.saved, "start=%llu", (unsigned long long)process.start), 0);
        ck_assert_int_eq(strv_appendf(&seen.saved, "boot=%s", process.boot), 0);
        claims_restart(claim);

        char **fields = NULL;
        ck_assert_int_eq(claim->type->save(claim, &fields), 0); /* a second crash must not forget it */
        ck_assert_ptr_nonnull(fields_get(fields, "pid"));
        strv_free(fields);
        ck_assert_int_eq(waitpid(pid, NULL, WNOHANG), 0); /* not before the release */
        ck_assert_int_eq(claims_run(claim, claim->type->release), RELEASED);
        ck_assert_str_eq(seen.output[0], "released");
        int status;
        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        (void)close(fds[0]);
        (void)close(fds[1]);
        claims_close();
}
END_TEST

START_TEST(test_records_that_are_wrong)
{
        static const char *const rows[][7] = {
                { NULL },
                { "uid=0", "gid=0", NULL },
                { "cwd=/", "gid=0", NULL },
                { "cwd=/", "uid=0", NULL },
                { "cwd=/", "uid=x", "gid=0", NULL },
                { "cwd=/", "uid=4294967296", "gid=0", NULL },
                { "cwd=/", "uid=0", "gid=4294967296", NULL },
                { "cwd=/", "uid=0", "gid=0", "pid=1", NULL },
                { "cwd=/", "uid=0", "gid=0", "pid=0", "start=1", NULL },
                { "cwd=/", "uid=0", "gid=0", "pid=1", "start=1", NULL },
                { "cwd=/", "uid=0", "gid=0", "pid=1", "start=1",
                  "boot=0123456789012345678901234567890123456" },
        };
        struct claim *claim = claims_open(&resource_type_exec);

        claim->state = CLAIM_LOADED;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char *const *fields = (char *const *)(const void *)rows[i];
                char *reason = NULL;

                ck_assert_msg(claim->type->restore(claim, fields, &reason) == RESOURCE_E_INVALID, "row %zu",
                              i);
                ck_assert_ptr_nonnull(reason);
                ck_assert_ptr_null(claim->data);
                free(reason);
        }
        claim->state = CLAIM_EMPTY; /* a load that could not be prepared: nothing is needed */
        char *reason = NULL;
        ck_assert_int_eq(claim->type->restore(claim, NULL, &reason), 0);
        claims_close();
}
END_TEST

/* ---- the table, none ---- */

START_TEST(test_types)
{
        ck_assert_ptr_eq(resource_type_of(RESOURCE_NONE), &resource_type_none);
        ck_assert_ptr_eq(resource_type_of(RESOURCE_DIRECTORY), &resource_type_directory);
        ck_assert_ptr_eq(resource_type_of(RESOURCE_EXEC), &resource_type_exec);
        ck_assert_ptr_eq(resource_type_find("none"), &resource_type_none);
        ck_assert_ptr_eq(resource_type_find("directory"), &resource_type_directory);
        ck_assert_ptr_eq(resource_type_find("exec"), &resource_type_exec);
        ck_assert_ptr_null(resource_type_find("exe"));
        ck_assert_ptr_null(resource_type_find(""));
}
END_TEST

START_TEST(test_none)
{
        struct claim *claim = claims_open(&resource_type_none);

        claims_prepare(claim);
        claim->type->load(claim);
        assert_heard(LOADED, 0, "third");
        (void)claim_save(claim);
        ck_assert_ptr_null(seen.saved);
        claims_restart(claim);
        claim->type->stop(claim);
        claim->type->release(claim);
        assert_heard(RELEASED, 0, "");
        claims_close();
}
END_TEST

UNIT_MAIN("exec", test_values, test_long_values, test_failures, test_commands_that_do_not_start,
          test_no_commands, test_words, test_words_refused, test_exact_environment, test_stop,
          test_forget_kills, test_grandchild_that_stays, test_a_running_command_is_recorded,
          test_a_command_that_cannot_be_recorded, test_a_command_that_has_to_wait,
          test_release_in_the_next_run, test_command_of_the_dead_daemon_is_ended_first,
          test_records_that_are_wrong, test_types, test_none)

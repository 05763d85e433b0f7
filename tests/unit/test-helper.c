/*
 * What resource/helper promises, with real programs: what they are asked, answers in every shape, their deaths, lines
 * that are no answers, their ends, and releases from the ledger record alone.
 */
#include "claims.h"

#include "config/config.h"
#include "loop/child.h"
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define ANSWER_ALL "while read -r verb number rest; do echo \"OK $number\"; done"

static char *command[4];
static unsigned n_ended;

static void count_ended(void *userdata _unused_)
{
        n_ended++;
}

static void set_script(const char *script)
{
        command[0] = (char *)"/bin/sh";
        command[1] = (char *)"-c";
        command[2] = (char *)script;
        config.command = command;
}

/* A claim that is not prepared yet, of a resource whose helper is this script. */
static struct claim *helper_open(const char *script)
{
        struct claim *claim = claims_open(&resource_type_helper);

        (void)signal(SIGPIPE, SIG_IGN); /* as in the daemon */
        (void)strcpy(config.name, "third");
        config.kind = RESOURCE_HELPER;
        config.load_timeout = config.release_timeout = 30 * USEC_PER_SEC;
        config.queue_timeout = USEC_INFINITY;
        set_script(script);
        return claim;
}

static struct claim *helper_open_prepared(const char *script)
{
        struct claim *claim = helper_open(script);

        claims_prepare(claim);
        return claim;
}

/* A load, which waits until the program has started and is asked then. */
static enum said load(struct claim *claim)
{
        enum said said = claims_run(claim, claim->type->load);

        return said == WAITING ? claims_wait() : said;
}

static enum said release(struct claim *claim)
{
        claim->state = CLAIM_RELEASING;
        return claims_run(claim, claim->type->release);
}

static bool has_line(char *const *lines, const char *text)
{
        for (; lines && *lines; lines++)
                if (strstr(*lines, text))
                        return true;
        return false;
}

static void wait_for_line(char ***lines, const char *text)
{
        while (!has_line(*lines, text))
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
}

static void assert_no_child(void)
{
        siginfo_t info;

        ck_assert_int_eq(waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT), -1);
}

/* As the daemon ends: nobody holds anything any more. */
static void helper_close(struct claim *claim)
{
        n_ended = 0;
        leases.ended = count_ended;
        claim->type->forget(claim);
        while (!claim->type->end(&leases))
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
        assert_no_child();
        claims_close();
}

START_TEST(test_answers)
{
        static const struct {
                const char *answer; /* after "verb number rest" is read */
                enum said said;
                bool is_said;
                const char *text;
        } rows[] = {
                { "echo \"OK $number\"", LOADED, true, "" },
                { "echo \"OK $number a%%20value%%25\"", LOADED, true, "a value%" },
                { "printf 'OK '; sleep 0.02; printf $number; sleep 0.02; printf ' va'; sleep 0.02; echo lue",
                  LOADED, true, "value" },
                { "echo 'OK 99 not asked'; echo \"OK $number\"; echo \"OK $number twice\"", LOADED, true,
                  "" },
                { "echo hello; echo; echo \"OK $number\"", LOADED, true, "" },
                { "echo \"FAIL $number\"", LOAD_FAILED, true, "its helper said FAIL" },
                { "echo \"FAIL $number no such user\"", LOAD_FAILED, true, "no such user" },
                { "exit 3", LOAD_FAILED, false, "its helper ended before it answered: exit status 3" },
                { "kill -9 $$", LOAD_FAILED, false,
                  "its helper ended before it answered: killed by SIGKILL" },
                { "echo \"OK $number v\"; exit 3", LOADED, true, "v" },
                { "printf \"OK $number v\"; exit 3", LOAD_FAILED, false, /* there might be more of it */
                  "its helper ended before it answered: exit status 3" },
                { "echo 1; echo 2; echo 3; sleep 1000", LOAD_FAILED, false,
                  "its helper ended before it answered: killed by SIGTERM" },
                { "head -c 70000 /dev/zero | tr '\\0' x; echo; echo \"OK $number\"", LOADED, true, "" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char script[512];

                (void)snprintf(script, sizeof(script), "while read -r verb number rest; do %s; done",
                               rows[i].answer);
                struct claim *claim = helper_open_prepared(script);

                ck_assert_msg(load(claim) == rows[i].said, "%s: %s", rows[i].answer, seen.text);
                ck_assert_str_eq(seen.text, rows[i].text);
                ck_assert_int_eq(seen.is_said, rows[i].is_said);
                helper_close(claim);
        }
}
END_TEST

START_TEST(test_requests)
{
        struct claim *claim = helper_open_prepared(
                "while read -r line; do echo \"$line\" >&2; set -- $line; echo OK $2 a%%20b; done");

        ck_assert_int_eq(load(claim), LOADED);
        wait_for_line(&seen.output, "LOAD");
        ck_assert_str_eq(
                seen.output[0],
                "third: LOAD 1 6421f0a3b7c01 connection=6421f0a3b7c01 listener=presence resource=third "
                "remote_address=192.0.2.7 remote_port=51514 local_address=2001:db8::1 local_port=7400 "
                "identity=alice value_first=one phase=load");
        seen.output = strv_free(seen.output);
        lease->ending = (struct event_ending){ .cause = "reset",
                                               .operation = "receive",
                                               .error = 104,
                                               .duration_usec = 5,
                                               .bytes_received = 6,
                                               .bytes_sent = 7 };
        ck_assert_int_eq(release(claim), RELEASED);
        wait_for_line(&seen.output, "RELEASE");
        ck_assert_str_eq(
                seen.output[0],
                "third: RELEASE 2 6421f0a3b7c01 connection=6421f0a3b7c01 listener=presence resource=third "
                "remote_address=192.0.2.7 remote_port=51514 local_address=2001:db8::1 local_port=7400 "
                "identity=alice value_first=one phase=release value=a%20b cause=reset operation=receive "
                "errno=104 duration_usec=5 bytes_received=6 bytes_sent=7 recovered=0");
        helper_close(claim);
}
END_TEST

START_TEST(test_environment)
{
        struct claim *claim =
                helper_open("read -r a b c; tr '\\0' ' ' </proc/$$/environ >&2; echo >&2; echo OK $b; "
                            "read -r a");
        char *extra[] = { (char *)"COLOUR=100%% blue", (char *)"PATH=/bin", NULL };

        config.environment = extra;
        ck_assert_int_eq(setenv("LANG", "C.UTF-8", 1), 0);
        claims_prepare(claim);
        ck_assert_int_eq(load(claim), LOADED);
        wait_for_line(&seen.output, "PATH");
        ck_assert(has_line(seen.output, "third: PATH=/bin LANG=C.UTF-8 HOME="));
        ck_assert(has_line(seen.output, " COLOUR=100% blue TETHERD_RESOURCE=third "));
        ck_assert(!has_line(seen.output, "TETHERD_CONNECTION"));
        helper_close(claim);
}
END_TEST

/* A release that is not answered is asked again, by one more instance, and is told once. */
START_TEST(test_death_at_release)
{
        char path[] = "/tmp/test-helper-XXXXXX", script[512];
        int fd = mkstemp(path);

        ck_assert_int_ge(fd, 0);
        (void)snprintf(script, sizeof(script),
                       "while read -r verb number rest; do echo $verb $number >>%s; [ $verb = LOAD ] || "
                       "[ $(grep -c RELEASE %s) -gt 1 ] || exit 3; echo \"OK $number\"; done",
                       path, path);
        struct claim *claim = helper_open_prepared(script);

        ck_assert_int_eq(load(claim), LOADED);
        ck_assert_int_eq(release(claim), RELEASED);
        ck_assert(has_line(seen.log, "<4> helper third: pid "));
        ck_assert(has_line(seen.log, "ended: exit status 3; started again after 1s"));

        char text[256];
        ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

        ck_assert_int_ge(n, 0);
        text[n] = '\0';
        ck_assert_str_eq(text, "LOAD 1\nRELEASE 2\nRELEASE 3\n");
        ck_assert_int_eq(close(fd), 0);
        ck_assert_int_eq(unlink(path), 0);
        helper_close(claim);
}
END_TEST

START_TEST(test_late_answer)
{
        struct claim *claim =
                helper_open_prepared("read -r verb number rest; echo asked >&2; read -r verb other rest; "
                                     "echo OK $number late; echo OK 77; echo OK $other; read -r x");

        claim->type->load(claim);
        ck_assert_int_eq(seen.said, WAITING);
        wait_for_line(&seen.output, "asked");
        claim->state = CLAIM_LOAD_STOPPING;
        ck_assert_int_eq(claims_run(claim, claim->type->stop), LOAD_FAILED);
        ck_assert(!seen.is_said);
        ck_assert_int_eq(release(claim), RELEASED);
        ck_assert(has_line(seen.log, "request 1 waits no more, its answer is ignored: OK 1 late"));
        ck_assert(has_line(seen.log, "request 77 was never made, its answer is ignored: OK 77"));
        helper_close(claim);
}
END_TEST

START_TEST(test_nonsense_is_not_endless)
{
        struct claim *claim =
                helper_open_prepared("yes 'OK 77' & read -r verb number rest; echo OK $number; read -r x; "
                                     "kill $!");

        uint64_t begin_usec = clock_usec(CLOCK_MONOTONIC);

        ck_assert_int_eq(load(claim), LOADED);
        uint64_t n_seconds = (clock_usec(CLOCK_MONOTONIC) - begin_usec) / USEC_PER_SEC;

        /* Ten in each second and how many more, and the start. */
        ck_assert_uint_le(strv_length(seen.log), 15 + 11 * n_seconds);
        helper_close(claim);
}
END_TEST

START_TEST(test_cannot_start)
{
        struct claim *claim = helper_open("");

        command[0] = (char *)"/nonexistent/program";
        claims_prepare(claim);
        claim->type->load(claim);
        ck_assert_int_eq(seen.said, WAITING);
        ck_assert_str_eq(seen.text, "its helper was not running for longer than queue_timeout");
        wait_for_line(&seen.log,
                      "<3> helper third: /nonexistent/program cannot be started: No such file or directory; "
                      "tried again after 1s");
        wait_for_line(&seen.log, "tried again after 2s");
        claim->type->drop(claim);
        helper_close(claim);
}
END_TEST

static int lowest_free_fd(void)
{
        int fd = dup(STDIN_FILENO);

        ck_assert_int_ge(fd, 0);
        (void)close(fd);
        return fd;
}

static void set_descriptors(const struct rlimit *limit)
{
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, limit), 0);
}

START_TEST(test_short_of_descriptors)
{
        struct claim *claim = helper_open_prepared(ANSWER_ALL);
        struct rlimit limit, none;

        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        none = (struct rlimit){ .rlim_cur = (rlim_t)lowest_free_fd(), .rlim_max = limit.rlim_max };
        set_descriptors(&none);
        claim->type->load(claim);
        wait_for_line(&seen.log, "<4> helper third: /bin/sh cannot be started: Too many open files; "
                                 "tried again every 50ms");
        for (int i = 0; i < 3; i++) /* no back-off, and it is said once */
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
        ck_assert_uint_eq(strv_length(seen.log), 1);
        ck_assert_uint_eq(leases.starvation.n, 1);
        ck_assert_int_eq(leases.starvation.error, EMFILE);
        claim->type->drop(claim);
        while (leases.starvation.n > 0) /* nobody waits for it any more */
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);

        claim->type->load(claim);
        while (leases.starvation.n == 0)
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
        set_descriptors(&limit);
        ck_assert_int_eq(claims_wait(), LOADED);
        ck_assert_uint_eq(leases.starvation.n, 0);
        helper_close(claim);
}
END_TEST

START_TEST(test_too_long)
{
        struct claim *claim = helper_open(ANSWER_ALL);
        char *reason = NULL;

        free(lease->claims[0].value);
        lease->claims[0].value = malloc(60001);
        ck_assert_ptr_nonnull(lease->claims[0].value);
        memset(lease->claims[0].value, 'x', 60000);
        lease->claims[0].value[60000] = '\0';
        ck_assert_int_eq(claim->type->prepare(claim, &reason), RESOURCE_E_INVALID);
        ck_assert_str_eq(reason, "its requests would be longer than 64 KiB");
        free(reason);

        /* As long as they may be, with the longest value that has to be escaped. */
        lease->claims[0].value[52000] = '\0';
        claims_prepare(claim);
        ck_assert_int_eq(load(claim), LOADED);
        claim->value = realloc(claim->value, CLAIM_VALUE_MAX + 1);
        memset(claim->value, ' ', CLAIM_VALUE_MAX);
        claim->value[CLAIM_VALUE_MAX] = '\0';
        ck_assert_int_eq(release(claim), RELEASED);
        helper_close(claim);
}
END_TEST

/* ---- who needs it ---- */

static struct listener_config listener = { .enabled = true };
static struct config whole;

static void configure(bool is_used)
{
        static struct resource_config *resources[1];
        static struct listener_config *listeners[1];

        resources[0] = &config;
        listeners[0] = &listener;
        listener.resources = resources;
        listener.n_resources = is_used;
        whole = (struct config){
                .resources = resources, .n_resources = 1, .listeners = listeners, .n_listeners = 1
        };
        ck_assert_int_eq(resource_type_helper.configure(&leases, &whole), 0);
}

START_TEST(test_reload)
{
        struct claim *claim = helper_open("echo first >&2; " ANSWER_ALL);

        configure(true);
        wait_for_line(&seen.output, "first"); /* although nobody asked it */
        configure(true);
        claims_prepare(claim);
        ck_assert_int_eq(load(claim), LOADED);

        /* Another command: a new one starts, and the old one goes on for the one that it loaded. */
        set_script("echo second >&2; " ANSWER_ALL);
        configure(true);
        wait_for_line(&seen.output, "second");
        ck_assert(!has_line(seen.log, "ended"));
        ck_assert_int_eq(release(claim), RELEASED);
        claim->type->forget(claim);
        wait_for_line(&seen.log, "<6> helper third: pid ");
        wait_for_line(&seen.log, " ended: exit status 0");

        /* No listener uses it any more; then one does again. */
        seen.log = strv_free(seen.log);
        configure(false);
        wait_for_line(&seen.log, "<6> helper third: pid ");
        wait_for_line(&seen.log, " ended: exit status 0");
        seen.output = strv_free(seen.output);
        configure(true);
        wait_for_line(&seen.output, "second");
        helper_close(claim);
        ck_assert_uint_ge(n_ended, 1);
}
END_TEST

/* One that is still ending when it is needed again is replaced when it has ended, at once. */
START_TEST(test_needed_again)
{
        struct claim *claim = helper_open("echo one >&2; " ANSWER_ALL "; echo end >&2; sleep 0.2");

        configure(true);
        wait_for_line(&seen.output, "one");
        configure(false);
        wait_for_line(&seen.output, "end");
        configure(true);
        claims_prepare(claim);
        ck_assert_int_eq(load(claim), LOADED);
        ck_assert(!has_line(seen.log, "<4>"));
        helper_close(claim);
}
END_TEST

START_TEST(test_end_is_firm)
{
        struct claim *claim =
                helper_open("trap '' TERM; echo ready >&2; while :; do sleep 1000 & wait; done");

        config.release_timeout = 100 * USEC_PER_MSEC;
        configure(true);
        wait_for_line(&seen.output, "ready");
        helper_close(claim); /* with the log, so look before */
}
END_TEST

START_TEST(test_closed_pipes)
{
        static const char *const scripts[] = {
                "exec >&-; read -r verb number rest; sleep 1000",
                "exec <&-; sleep 1000",
        };

        for (size_t i = 0; i < ARRAY_SIZE(scripts); i++) {
                struct claim *claim = helper_open(scripts[i]);

                config.release_timeout = 100 * USEC_PER_MSEC;
                claims_prepare(claim);
                claim->type->load(claim);
                wait_for_line(&seen.log, "<4> helper third: pid ");
                wait_for_line(&seen.log, "ended: killed by SIGTERM; started again after 1s");
                if (seen.said == WAITING)
                        claim->type->drop(claim);
                else
                        ck_assert_int_eq(seen.said, LOAD_FAILED);
                helper_close(claim);
        }
}
END_TEST

/* ---- after a crash ---- */

static pid_t orphan_start(void)
{
        pid_t pid = fork();

        if (pid == 0) {
                (void)setpgid(0, 0);
                (void)pause();
                _exit(0);
        }
        (void)setpgid(pid, pid);
        return pid;
}

static void reap(pid_t pid, int signal)
{
        int status;

        ck_assert_int_eq(waitpid(pid, &status, 0), pid);
        ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == signal);
}

START_TEST(test_recovery)
{
        struct claim *claim = helper_open_prepared("while read -r line; do echo \"$line\" >&2; set -- $line; "
                                                   "echo OK $2 its%%20value; done");
        pid_t orphan = orphan_start();
        struct process_identity identity;

        ck_assert_int_eq(load(claim), LOADED);
        ck_assert_int_eq(claim_save(claim), 0);
        ck_assert_ptr_nonnull(fields_get(seen.saved, "pid"));

        /* The next run finds the record, and another process that the record says was asked. */
        ck_assert_int_eq(process_identify(orphan, &identity), 0);
        for (char **field = seen.saved; *field; field++)
                if (startswith(*field, "pid=") || startswith(*field, "start=")) {
                        bool is_pid = startswith(*field, "pid=");

                        free(*field);
                        ck_assert_int_ge(asprintf(field, is_pid ? "pid=%llu" : "start=%llu",
                                                  is_pid ? (unsigned long long)orphan
                                                         : (unsigned long long)identity.start),
                                         0);
                }
        claim->type->forget(claim);
        claim->type->deinit(&leases);
        set_script("exit 9"); /* the configuration has changed: the record counts */
        claims_restart(claim);
        lease->is_recovered = true;
        ck_assert_int_eq(kill(orphan, 0), 0);
        seen.output = strv_free(seen.output);
        ck_assert_int_eq(release(claim), RELEASED);
        wait_for_line(&seen.output, "RELEASE");
        ck_assert(has_line(seen.output, " value_first=one phase=release value=its%20value cause= "));
        ck_assert(has_line(seen.output, " recovered=1"));
        reap(orphan, SIGKILL);
        helper_close(claim);
}
END_TEST

START_TEST(test_records_that_are_none)
{
        static const char *const rows[][6] = {
                { "env=A=b", "request= a=b" },
                { "arg=/bin/sh", "request= a=b" },
                { "arg=/bin/sh", "env=A=b" },
                { "arg=/bin/sh", "env=A=b", "request= a=b\nRELEASE 7 8" },
                { "arg=/bin/sh", "env=A=b", "request= a=b", "pid=x" },
                { "arg=/bin/sh", "env=A=b", "request= a=b", "pid=1", "start=1" },
        };
        struct claim *claim = helper_open(ANSWER_ALL);

        claim->state = CLAIM_LOADED;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char *reason = NULL;

                ck_assert_int_eq(claim->type->restore(claim, (char *const *)rows[i], &reason),
                                 RESOURCE_E_INVALID);
                ck_assert_ptr_nonnull(reason);
                ck_assert_ptr_null(claim->data);
                free(reason);
        }
        claims_close();
}
END_TEST

UNIT_MAIN("helper", test_answers, test_requests, test_environment, test_death_at_release, test_late_answer,
          test_nonsense_is_not_endless, test_cannot_start, test_short_of_descriptors, test_too_long,
          test_reload, test_needed_again, test_end_is_firm, test_closed_pipes, test_recovery,
          test_records_that_are_none)

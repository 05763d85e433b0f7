/*
 * helper: one long-lived program that all connections ask, over its stdin and stdout; request.h has the lines. Promises
 * that a program which does not read, does not answer, answers nonsense or dies costs nobody but those who asked it:
 * requests are written when there is room for them, and until then wait as claims, not as bytes; what it says is read
 * within a budget (lines.h). A load that it had not answered when it died may have left something, and is released by
 * its successor; a release is asked again, and is not the worse for it.
 *
 * A program is known by its command and environment (with the resource's name in it): one that a reload replaces goes
 * on for those who were loaded by it, and a record can be released by the program that loaded it. It starts when a
 * listener's resources name it, and ends when neither a configuration nor a claim needs it: by the end of its stdin,
 * else by SIGTERM and SIGKILL within release_timeout. It is not ended with us: when we die, its stdin does.
 *
 * Deliberately not here: timeouts and attempts, which are the lease's; and any bound of the requests under way but that
 * of the connections.
 */
#include "base/span.h"
#include "loop/child.h"
#include "loop/lines.h"
#include "resource/lease.h"
#include "resource/request.h"
#include "resource/saved.h"
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/wait.h>

#define PRINT_MAX 4096 /* bytes of a line for the journal */
#define SHOWN_MAX 100  /* of a line that is no answer */
#define END_MAX_MSEC \
        1000 /* how long the loop may stand still for a killed program of an earlier run to be gone */
#define BACKOFF_MIN_USEC (1 * USEC_PER_SEC)
#define BACKOFF_MAX_USEC (30 * USEC_PER_SEC)
#define N_WRONG_MAX      3                 /* lines of one program that are no answers */
#define N_SAID_MAX       10                /* messages a second about what one program says */
#define OUTPUT_MAX       (2 * REQUEST_MAX) /* below half of it, there is room for one more request */
/* What a release says more than its load: the value, and how the connection ended. */
#define MORE_MAX (3 * CLAIM_VALUE_MAX + 512)

enum program_state {
        PROGRAM_DOWN,
        PROGRAM_RUNNING,
        PROGRAM_ENDING, /* nobody needs it */
        PROGRAM_BROKEN, /* it does not keep to the protocol */
};

struct helpers {
        struct leases *leases;
        struct list programs;
        bool is_ending; /* nothing starts any more */
};

struct program {
        struct list link; /* in helpers->programs */
        struct helpers *helpers;
        char *name; /* of the resource */
        char **command;
        char **environment;
        enum program_state state;
        bool is_wanted;  /* a listener of the configuration in force uses it */
        size_t n_claims; /* that will ask it */
        uint64_t release_timeout_usec;

        struct child child;
        struct process_identity process;  /* pid 0: none */
        struct process_identity *orphans; /* of an earlier run: ended before it starts */
        size_t n_orphans;
        struct lines out;
        struct lines err;
        struct source in;
        char *output; /* what could not be written yet is at [begin, end) */
        size_t output_begin;
        size_t output_end;

        struct requests requests;
        struct list asked;    /* struct helper, the longest first; those in `requests` */
        struct list releases; /* that wait until they can be asked */
        struct list loads;    /* likewise */

        struct timer timer;       /* down: the start; ending and broken: the next signal */
        int signal;               /* that one */
        uint64_t started_usec;    /* of this one */
        uint64_t not_before_usec; /* of the next one */
        uint64_t backoff_usec;
        unsigned n_wrong;

        uint64_t said_usec; /* when this second of messages began */
        unsigned n_said;
        uint64_t n_unsaid;
};

struct helper {
        struct claim *claim;
        struct program *program;
        char *words;                     /* of its requests */
        struct process_identity process; /* that is or was asked, as the ledger has it; pid 0: none */
        struct request request;
        struct list link; /* in one of the program's */
        bool is_loading;
};

static void program_admit(struct program *program);
static void program_timer(struct timer *timer);

static struct loop *loop_of(const struct program *program)
{
        return program->helpers->leases->loop;
}

static uint64_t now(const struct program *program)
{
        return loop_now(loop_of(program));
}

/* ---- what there is to say about what it says ---- */

static void say_unsaid(struct program *program)
{
        if (program->n_unsaid > 0)
                log_message(program->helpers->leases->journal, LOG_NOTICE,
                            "helper %s: %" PRIu64 " more messages of this kind were not written",
                            program->name, program->n_unsaid);
        program->n_said = 0;
        program->n_unsaid = 0;
}

_printf_(3, 4) static void say(struct program *program, int priority, const char *format, ...)
{
        char text[512];
        va_list arguments;

        if (now(program) - program->said_usec >= USEC_PER_SEC) {
                say_unsaid(program);
                program->said_usec = now(program);
        }
        if (program->n_said == N_SAID_MAX) {
                program->n_unsaid++;
                return;
        }
        program->n_said++;
        va_start(arguments, format);
        (void)vsnprintf(text, sizeof(text), format, arguments);
        va_end(arguments);
        log_message(program->helpers->leases->journal, priority, "helper %s: %s", program->name, text);
}

/* ---- programs ---- */

static bool are_same_words(char *const *a, char *const *b)
{
        for (; *a && *b; a++, b++)
                if (!streq(*a, *b))
                        return false;
        return !*a && !*b;
}

static struct program *program_lookup(struct helpers *helpers, const char *name, char *const *command,
                                      char *const *environment)
{
        list_for_each (node, &helpers->programs) {
                struct program *program = container_of(node, struct program, link);

                if (streq(program->name, name) && are_same_words(program->command, command) &&
                    are_same_words(program->environment, environment))
                        return program;
        }
        return NULL;
}

static void program_free(struct program *program)
{
        assert(list_is_empty(&program->asked) && list_is_empty(&program->releases) &&
               list_is_empty(&program->loads));
        timer_disarm(&program->timer);
        source_deinit(&program->in, loop_of(program));
        lines_deinit(&program->out);
        lines_deinit(&program->err);
        child_deinit(&program->child);
        requests_deinit(&program->requests);
        list_unlink(&program->link);
        strv_free(program->command);
        strv_free(program->environment);
        free(program->name);
        free(program->output);
        free(program->orphans);
        free(program);
}

/* Takes both arrays, also when it fails. */
static int program_new(struct program **ret_program, struct helpers *helpers, const char *name,
                       char **command, char **environment)
{
        struct program *program = calloc(1, sizeof(*program));

        if (!program) {
                strv_free(command);
                strv_free(environment);
                return -ENOMEM;
        }
        program->helpers = helpers;
        program->command = command;
        program->environment = environment;
        program->in.fd = -1;
        timer_init(&program->timer, program_timer);
        list_init(&program->asked);
        list_init(&program->releases);
        list_init(&program->loads);
        list_init(&program->link);
        list_append(&helpers->programs, &program->link);
        program->name = strdup(name);
        if (!program->name) {
                program_free(program);
                return -ENOMEM;
        }
        *ret_program = program;
        return 0;
}

/* Likewise. */
static int program_get(struct program **ret_program, struct helpers *helpers, const char *name,
                       char **command, char **environment)
{
        struct program *program = program_lookup(helpers, name, command, environment);

        if (!program)
                return program_new(ret_program, helpers, name, command, environment);
        strv_free(command);
        strv_free(environment);
        *ret_program = program;
        return 0;
}

static int program_of(struct program **ret_program, struct helpers *helpers,
                      const struct resource_config *config, char **ret_reason)
{
        _cleanup_strv_free_ char **command = NULL, **environment = NULL;
        int r = program_words(config->command, &command, ret_reason);

        if (r == 0)
                r = program_environment(config->name, config->environment, &environment, ret_reason);
        if (r != 0)
                return r;
        return program_get(ret_program, helpers, config->name, TAKE_PTR(command), TAKE_PTR(environment));
}

static bool program_is_needed(const struct program *program)
{
        return program->is_wanted || program->n_claims > 0;
}

static bool program_has_work(const struct program *program)
{
        return program->is_wanted || !list_is_empty(&program->releases) || !list_is_empty(&program->loads);
}

static bool program_has_room(const struct program *program)
{
        return program->state == PROGRAM_RUNNING && program->output_end - program->output_begin < REQUEST_MAX;
}

/* ---- its end ---- */

static void program_close_input(struct program *program)
{
        int fd = program->in.fd;

        source_deinit(&program->in, loop_of(program));
        (void)fd_close(fd);
        program->output_begin = program->output_end = 0;
}

static void program_arm(struct program *program, uint64_t deadline_usec)
{
        timer_arm(loop_wheel(loop_of(program)), &program->timer, deadline_usec);
}

/* Half of the time is the program's, half is SIGTERM's. */
static void program_arm_signal(struct program *program, int signal)
{
        uint64_t timeout_usec = program->release_timeout_usec;

        program->signal = signal;
        program_arm(program, deadline_after(now(program),
                                            timeout_usec == USEC_INFINITY ? timeout_usec : timeout_usec / 2));
}

static void program_end(struct program *program, enum program_state state)
{
        program->state = state;
        program_close_input(program);
        program_arm_signal(program, SIGTERM);
}

static void program_send_signal(struct program *program)
{
        bool is_last = program->signal == SIGKILL;

        child_kill(&program->child, program->signal);
        if (!is_last)
                program_arm_signal(program, SIGKILL);
}

/* The time that it had is over. */
static void program_be_firm(struct program *program)
{
        log_message(program->helpers->leases->journal, LOG_WARNING,
                    "helper %s: pid %d does not end, it gets %s", program->name, (int)program->child.pid,
                    program->signal == SIGKILL ? "SIGKILL" : "SIGTERM");
        program_send_signal(program);
}

/* It cannot be relied on any more; what it was asked is settled when it has ended. */
static void program_break(struct program *program, int priority, const char *reason)
{
        if (program->state != PROGRAM_RUNNING)
                return;
        log_message(program->helpers->leases->journal, priority, "helper %s: pid %d %s, it is to end",
                    program->name, (int)program->child.pid, reason);
        program_end(program, PROGRAM_BROKEN);
}

/* What is due next for one that does not run. */
static void program_schedule(struct program *program)
{
        assert(program->state == PROGRAM_DOWN);
        if (program->helpers->is_ending)
                timer_disarm(&program->timer);
        else if (!program_is_needed(program))
                program_arm(program, now(program)); /* freed when nobody is looking */
        else if (program_has_work(program))
                program_arm(program, program->not_before_usec);
        else
                timer_disarm(&program->timer);
}

/* Something about who needs it has changed. */
static void program_review(struct program *program)
{
        if (program->state == PROGRAM_DOWN)
                program_schedule(program);
        else if (program->state == PROGRAM_RUNNING && !program_is_needed(program))
                program_end(program, PROGRAM_ENDING);
}

static void program_forget_end(struct program *program)
{
        timer_disarm(&program->timer);
        program_close_input(program);
        lines_deinit(&program->out);
        lines_deinit(&program->err);
        child_deinit(&program->child);
        program->process = (struct process_identity){ 0 };
        program->n_wrong = 0;
        say_unsaid(program);
}

static void program_back_off(struct program *program)
{
        bool has_lived =
                program->started_usec > 0 && now(program) - program->started_usec >= BACKOFF_MAX_USEC;

        program->backoff_usec = has_lived || program->backoff_usec == 0
                                        ? BACKOFF_MIN_USEC
                                        : MIN(2 * program->backoff_usec, BACKOFF_MAX_USEC);
        program->not_before_usec = now(program) + program->backoff_usec;
}

static void say_end(struct program *program, pid_t pid, const char *how)
{
        char span[SPAN_TEXT_MAX];
        struct journal *journal = program->helpers->leases->journal;

        if (program->state == PROGRAM_ENDING || program->helpers->is_ending)
                log_message(journal, LOG_INFO, "helper %s: pid %d ended: %s", program->name, (int)pid, how);
        else
                log_message(journal, LOG_WARNING, "helper %s: pid %d ended: %s; started again after %s",
                            program->name, (int)pid, how, span_format(program->backoff_usec, span));
}

/* What it had not answered: releases are asked again, before any that came later; loads have failed. */
static void program_settle(struct program *program, int exit_status, const char *how)
{
        struct list again = LIST_INIT(again), lost = LIST_INIT(lost);
        char reason[128];

        for (struct list *node; (node = list_take_first(&program->asked));) {
                struct helper *helper = container_of(node, struct helper, link);

                requests_remove(&program->requests, &helper->request);
                list_append(helper->is_loading ? &lost : &again, node);
        }
        list_splice(&again, &program->releases);
        list_splice(&program->releases, &again);
        (void)snprintf(reason, sizeof(reason), "its helper ended before it answered: %s", how);
        for (struct list *node; (node = list_take_first(&lost));)
                claim_load_failed(container_of(node, struct helper, link)->claim, false, exit_status, reason);
}

static void program_exited(struct child *child)
{
        struct program *program = container_of(child, struct program, child);
        struct leases *leases = program->helpers->leases;
        bool is_exit = child->status_code == CLD_EXITED;
        int status = is_exit ? child->status : 128 + child->status;
        pid_t pid = child->pid;
        char how[64];

        if (is_exit)
                (void)snprintf(how, sizeof(how), "exit status %d", child->status);
        else
                (void)snprintf(how, sizeof(how), "killed by SIG%s", sigabbrev_np(child->status));
        lines_drain(&program->out); /* what it answered before */
        lines_drain(&program->err);
        child_kill(child, SIGKILL); /* what it has left would work on beside its successor */
        program_forget_end(program);
        if (program->state == PROGRAM_ENDING)
                program->backoff_usec = program->not_before_usec = 0;
        else
                program_back_off(program);
        say_end(program, pid, how);
        program->state = PROGRAM_DOWN;
        program_settle(program, status, how);
        program_schedule(program);
        if (program->helpers->is_ending && leases->ended)
                leases->ended(leases->userdata);
}

/* ---- what it says ---- */

static void helper_answered(struct helper *helper, const struct answer *answer)
{
        struct claim *claim = helper->claim;
        const char *reason = answer->text[0] ? answer->text : "its helper said FAIL";

        list_unlink(&helper->link);
        if (!helper->is_loading && answer->is_ok)
                claim_released(claim);
        else if (!helper->is_loading)
                claim_release_failed(claim, -1, reason);
        else if (answer->is_ok)
                claim_loaded(claim, answer->text);
        else
                claim_load_failed(claim, true, -1, reason);
}

static void program_said_nonsense(struct program *program, const char *line)
{
        if (program->state != PROGRAM_RUNNING)
                return;
        say(program, LOG_WARNING, "this is no answer, and ignored: %s", line);
        if (++program->n_wrong < N_WRONG_MAX)
                return;
        program_break(program, LOG_WARNING, "said three lines that are no answers");
        program_send_signal(program);
}

/* The beginning of a line, as far as it prints. */
static void show(const char *line, char ret[static SHOWN_MAX + 1])
{
        size_t i = 0;

        for (; i < SHOWN_MAX && line[i]; i++)
                ret[i] = line[i] >= ' ' && line[i] <= '~' ? line[i] : '?';
        ret[i] = '\0';
}

static void program_said(struct lines *lines, const char *line, bool is_cut)
{
        struct program *program = container_of(lines, struct program, out);
        struct request *request;
        struct answer answer;
        char shown[SHOWN_MAX + 1];

        show(line, shown);          /* before it is decoded in its place */
        if (lines->is_unfinished) { /* OK 12 may be the beginning of OK 123 */
                say(program, LOG_NOTICE, "its last line has no end, and is ignored: %s", shown);
                return;
        }
        if (is_cut || !answer_read(lines->buffer, &answer)) {
                program_said_nonsense(program, shown);
                return;
        }
        request = requests_take(&program->requests, answer.number);
        if (request)
                helper_answered(container_of(request, struct helper, request), &answer);
        else
                say(program, LOG_NOTICE, "request %" PRIu64 " %s, its answer is ignored: %s", answer.number,
                    answer.number > 0 && answer.number <= program->requests.last ? "waits no more"
                                                                                 : "was never made",
                    shown);
}

static void program_shut_up(struct lines *lines)
{
        /* As a rule it has ended, which we are told next. */
        program_break(container_of(lines, struct program, out), LOG_DEBUG, "closed its stdout");
}

static void program_printed(struct lines *lines, const char *line, bool is_cut _unused_)
{
        struct program *program = container_of(lines, struct program, err);

        event_shared_output(program->helpers->leases->journal, program->name, line);
}

/* ---- what it is asked ---- */

static void program_write(struct source *source)
{
        struct program *program = container_of(source, struct program, in);
        ssize_t n = 0;

        if (!(source->pending & EPOLLERR))
                n = write(source->fd, program->output + program->output_begin,
                          program->output_end - program->output_begin);
        if (n < 0 && errno == EAGAIN) {
                source_clear(source, EPOLLOUT);
                return;
        }
        if (n <= 0) { /* nobody holds the other end */
                program_break(program, LOG_DEBUG, "closed its stdin");
                return;
        }
        program->output_begin += (size_t)n;
        if (program->output_begin == program->output_end) {
                program->output_begin = program->output_end = 0;
                source_want(source, loop_of(program), EPOLLERR);
        }
        program_admit(program);
}

/* Where the next request is written: there is room for the longest one. */
static char *program_output(struct program *program)
{
        size_t n = program->output_end - program->output_begin;

        if (program->output_end > OUTPUT_MAX - REQUEST_MAX) {
                memmove(program->output, program->output + program->output_begin, n);
                program->output_begin = 0;
                program->output_end = n;
        }
        return program->output + program->output_end;
}

/* The ledger is to know whom to end after a crash, before another is asked. */
static int helper_bind(struct helper *helper)
{
        const struct process_identity *process = &helper->program->process;

        if (helper->process.pid == process->pid && helper->process.start == process->start)
                return 0;
        helper->process = *process;
        return claim_save(helper->claim);
}

static int helper_ask(struct helper *helper)
{
        struct program *program = helper->program;
        struct claim *claim = helper->claim;
        _cleanup_strv_free_ char **variables = NULL;
        _cleanup_free_ char *more_words = NULL;
        int r = claim_phase_environment(claim, NULL, helper->is_loading ? "load" : "release", &variables);

        if (r == 0)
                r = request_words(variables, &more_words);
        if (r == 0 && request_length(strlen(helper->words) + strlen(more_words)) > REQUEST_MAX)
                r = -EMSGSIZE; /* a record that we did not write */
        if (r == 0)
                r = requests_add(&program->requests, &helper->request);
        if (r < 0)
                return r;
        program->output_end +=
                request_write(program_output(program), helper->is_loading ? "LOAD" : "RELEASE",
                              helper->request.number, claim->lease->subject.id, helper->words, more_words);
        list_append(&program->asked, &helper->link);
        source_want(&program->in, loop_of(program),
                    EPOLLOUT | EPOLLERR); /* written with all others of this turn */
        return 0;
}

static void helper_ask_load(struct helper *helper)
{
        int r = helper_bind(helper);

        if (r == 0)
                r = helper_ask(helper);
        if (r < 0)
                claim_load_failed(helper->claim, true, -1, strerror(-r));
}

static void helper_ask_release(struct helper *helper)
{
        int r;

        (void)helper_bind(helper); /* it is needed more than that */
        r = helper_ask(helper);
        if (r < 0)
                claim_release_failed(helper->claim, -1, strerror(-r));
}

/* Those that wait, as far as there is room: releases before loads. */
static void program_admit(struct program *program)
{
        while (program_has_room(program)) {
                struct list *node = list_take_first(&program->releases);
                struct helper *helper;

                if (node) {
                        helper_ask_release(container_of(node, struct helper, link));
                        continue;
                }
                node = list_take_first(&program->loads);
                if (!node)
                        return;
                helper = container_of(node, struct helper, link);
                helper->process = program->process; /* saved in there, with the intent */
                claim_proceed(helper->claim);
        }
}

/* ---- its start ---- */

static int program_end_orphans(struct program *program)
{
        while (program->n_orphans > 0) {
                const struct process_identity *orphan = &program->orphans[program->n_orphans - 1];
                int r = process_end(orphan, NULL, END_MAX_MSEC);

                if (r < 0) {
                        log_message(program->helpers->leases->journal, LOG_ERR,
                                    "helper %s: pid %d of an earlier run cannot be ended: %s", program->name,
                                    (int)orphan->pid, strerror(-r));
                        return -EBUSY;
                }
                program->n_orphans--;
        }
        return 0;
}

static int program_open_input(struct program *program, int *ret_child_fd)
{
        int fds[2], r = 0;

        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        _cleanup_close_ int child_fd = fds[0], our_fd = fds[1];
        if (fcntl(our_fd, F_SETFL, O_NONBLOCK) < 0)
                return -errno;
        r = source_init(&program->in, loop_of(program), our_fd, EPOLLOUT, EPOLLERR, program_write);
        if (r < 0)
                return r;
        (void)TAKE_FD(our_fd);
        *ret_child_fd = TAKE_FD(child_fd);
        return 0;
}

static int program_spawn(struct program *program)
{
        struct loop *loop = loop_of(program);
        _cleanup_close_ int in_fd = -1, out_fd = -1, err_fd = -1;
        int r = 0;

        if (!program->output && !(program->output = malloc(OUTPUT_MAX)))
                return -ENOMEM;
        r = program_open_input(program, &in_fd);
        if (r == 0)
                r = lines_init(&program->out, loop, REQUEST_MAX - 1, program_said, &out_fd);
        if (r == 0)
                r = lines_init(&program->err, loop, PRINT_MAX, program_printed, &err_fd);
        if (r < 0)
                return r;
        program->out.closed = program_shut_up;

        struct child_options options = {
                .argv = program->command,
                .environment = program->environment,
                .working_directory = "/",
                .uid = (uid_t)-1,
                .gid = (gid_t)-1,
                .stdin_fd = in_fd,
                .stdout_fd = out_fd,
                .stderr_fd = err_fd,
        };
        r = child_start(&program->child, loop, &options, program_exited);
        if (r == CHILD_E_LOST)
                return -EMFILE;
        return r == 0 ? process_identify(program->child.pid, &program->process) : r;
}

static void program_start(struct program *program)
{
        struct journal *journal = program->helpers->leases->journal;
        char span[SPAN_TEXT_MAX];
        int r = program_end_orphans(program);

        program->started_usec = now(program);
        if (r == 0)
                r = program_spawn(program);
        if (r == 0) {
                program->state = PROGRAM_RUNNING;
                log_message(journal, LOG_INFO, "helper %s: started, pid %d", program->name,
                            (int)program->child.pid);
                program_admit(program);
                return;
        }
        program_forget_end(program);
        program_back_off(program);
        log_message(journal, LOG_ERR, "helper %s: %s cannot be started: %s; tried again after %s",
                    program->name, program->command[0], strerror(-r),
                    span_format(program->backoff_usec, span));
        program_schedule(program);
}

static void program_timer(struct timer *timer)
{
        struct program *program = container_of(timer, struct program, timer);

        if (program->state != PROGRAM_DOWN)
                program_be_firm(program);
        else if (program_is_needed(program))
                program_start(program);
        else
                program_free(program);
}

/* ---- claims ---- */

/* NULL when out of memory. */
static struct helpers *helpers_get(struct leases *leases)
{
        struct helpers *helpers = leases->shared[RESOURCE_HELPER];

        if (helpers)
                return helpers;
        helpers = calloc(1, sizeof(*helpers));
        if (!helpers)
                return NULL;
        helpers->leases = leases;
        list_init(&helpers->programs);
        leases->shared[RESOURCE_HELPER] = helpers;
        return helpers;
}

/* Takes `words`, also when it fails. */
static int helper_new(struct claim *claim, struct program *program, char *words)
{
        struct helper *helper = calloc(1, sizeof(*helper));

        if (!helper) {
                free(words);
                program_review(program);
                return -ENOMEM;
        }
        helper->claim = claim;
        helper->program = program;
        helper->words = words;
        list_init(&helper->link);
        program->n_claims++;
        claim->data = helper;
        return 0;
}

/* Also for the release, which is longer. */
static bool words_fit(const char *words)
{
        return request_length(strlen(words) + MORE_MAX) <= REQUEST_MAX;
}

static int helper_prepare(struct claim *claim, char **ret_reason)
{
        struct helpers *helpers = helpers_get(claim->lease->leases);
        _cleanup_strv_free_ char **variables = NULL;
        _cleanup_free_ char *words = NULL;
        struct program *program;
        int r = helpers ? claim_environment(claim, NULL, NULL, NULL, &variables, ret_reason) : -ENOMEM;

        if (r == 0)
                r = request_words(variables, &words);
        if (r == 0 && !words_fit(words)) {
                *ret_reason = strdup("its requests would be longer than 64 KiB");
                r = *ret_reason ? RESOURCE_E_INVALID : -ENOMEM;
        }
        if (r == 0)
                r = program_of(&program, helpers, claim->config, ret_reason);
        if (r != 0)
                return r;
        program->release_timeout_usec = claim->config->release_timeout;
        r = helper_new(claim, program, TAKE_PTR(words));
        if (r == 0)
                ((struct helper *)claim->data)->process = program->process;
        return r;
}

static void helper_load(struct claim *claim)
{
        static const char is_down[] = "its helper was not running for longer than queue_timeout";
        static const char is_full[] = "its helper did not read the request within load_timeout";
        struct helper *helper = claim->data;
        struct program *program = helper->program;
        uint64_t queue_timeout = claim->config->queue_timeout;

        helper->is_loading = true;
        if (program_has_room(program)) {
                helper_ask_load(helper);
                return;
        }
        list_append(&program->loads, &helper->link);
        if (program->state == PROGRAM_RUNNING)
                claim_wait(claim, MIN(claim->config->load_timeout, queue_timeout), LEASE_LOAD_TIMEOUT,
                           is_full);
        else
                claim_wait(claim, queue_timeout, LEASE_LOAD_TIMEOUT, is_down);
        program_review(program);
}

static void helper_drop(struct claim *claim)
{
        struct helper *helper = claim->data;

        list_unlink(&helper->link);
}

static void helper_release(struct claim *claim)
{
        struct helper *helper = claim->data;

        helper->is_loading = false;
        if (program_has_room(helper->program)) {
                helper_ask_release(helper);
                return;
        }
        list_append(&helper->program->releases, &helper->link);
        program_review(helper->program);
}

static void helper_withdraw(struct helper *helper)
{
        requests_remove(&helper->program->requests, &helper->request);
        list_unlink(&helper->link);
}

static void helper_stop(struct claim *claim)
{
        struct helper *helper = claim->data;

        helper_withdraw(helper); /* an answer is late now */
        if (helper->is_loading)
                claim_load_failed(claim, false, -1, NULL);
        else
                claim_release_failed(claim, -1, NULL);
}

static void helper_forget(struct claim *claim)
{
        struct helper *helper = claim->data;

        if (!helper)
                return;
        helper_withdraw(helper);
        helper->program->n_claims--;
        program_review(helper->program);
        free(helper->words);
        free(helper);
        claim->data = NULL;
}

/* ---- the ledger record ---- */

static int helper_save(const struct claim *claim, char ***fields)
{
        const struct helper *helper = claim->data;
        int r;

        if (!helper) /* it could not be prepared: there is nothing to release */
                return 0;
        r = saved_words(fields, "arg", helper->program->command);
        if (r == 0)
                r = saved_words(fields, "env", helper->program->environment);
        if (r == 0)
                r = strv_appendf(fields, "request=%s", helper->words);
        return r == 0 ? saved_process(fields, &helper->process) : r;
}

static int program_add_orphan(struct program *program, const struct process_identity *process)
{
        struct process_identity *grown;

        if (process->pid == 0)
                return 0;
        for (size_t i = 0; i < program->n_orphans; i++)
                if (program->orphans[i].pid == process->pid && program->orphans[i].start == process->start)
                        return 0;
        grown = reallocarray(program->orphans, program->n_orphans + 1, sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        program->orphans = grown;
        program->orphans[program->n_orphans++] = *process;
        return 0;
}

static int helper_restore(struct claim *claim, char *const *fields, char **ret_reason)
{
        _cleanup_strv_free_ char **command = NULL, **environment = NULL;
        const char *words = fields_get(fields, "request");
        struct process_identity process = { 0 };
        struct helpers *helpers;
        struct program *program;
        char *copy;
        int r;

        if (claim->state == CLAIM_EMPTY)
                return 0;
        helpers = helpers_get(claim->lease->leases);
        r = helpers ? saved_words_read(fields, "arg", &command) : -ENOMEM;
        if (r == 0)
                r = saved_words_read(fields, "env", &environment);
        if (r < 0)
                return r;
        if (!command || !environment || !words || !request_words_are_valid(words) || !words_fit(words) ||
            saved_process_read(fields, &process) < 0) {
                *ret_reason = strdup("arg, env, request or the process is missing or wrong");
                return *ret_reason ? RESOURCE_E_INVALID : -ENOMEM;
        }
        r = program_get(&program, helpers, claim->name, TAKE_PTR(command), TAKE_PTR(environment));
        if (r < 0)
                return r;
        program->release_timeout_usec = claim->release_timeout_usec;
        copy = strdup(words);
        r = copy ? program_add_orphan(program, &process) : -ENOMEM;
        if (r == 0)
                r = helper_new(claim, program, TAKE_PTR(copy));
        else
                program_review(program);
        free(copy);
        if (r == 0)
                ((struct helper *)claim->data)->process = process;
        return r;
}

/* ---- all of them ---- */

/* Whether a listener that is open has it: nobody else would ask. */
static bool is_used(const struct config *config, const struct resource_config *resource)
{
        for (size_t i = 0; i < config->n_listeners; i++) {
                const struct listener_config *listener = config->listeners[i];

                for (size_t k = 0; listener->enabled && k < listener->n_resources; k++)
                        if (listener->resources[k] == resource)
                                return true;
        }
        return false;
}

static void helpers_review(struct helpers *helpers)
{
        list_for_each (node, &helpers->programs)
                program_review(container_of(node, struct program, link));
}

/* The program of each resource; NULL: it is no helper, or no listener uses it. */
static int helpers_list(struct helpers *helpers, const struct config *config, struct program **ret_programs)
{
        for (size_t i = 0; i < config->n_resources; i++) {
                const struct resource_config *resource = config->resources[i];
                _cleanup_free_ char *reason = NULL;
                int r;

                if (resource->kind != RESOURCE_HELPER || !is_used(config, resource))
                        continue;
                r = program_of(&ret_programs[i], helpers, resource, &reason);
                if (r != 0)
                        return r < 0 ? r : -EINVAL; /* check.c has seen to that */
        }
        return 0;
}

static void program_want(struct program *program, const struct resource_config *resource)
{
        program->is_wanted = true;
        program->release_timeout_usec = resource->release_timeout;
        program->backoff_usec = program->not_before_usec = 0; /* what was wrong with it may be mended */
}

static int helpers_configure(struct leases *leases, const struct config *config)
{
        struct helpers *helpers = helpers_get(leases);
        _cleanup_free_ struct program **programs = calloc(config->n_resources + 1, sizeof(struct program *));
        int r = helpers && programs ? helpers_list(helpers, config, programs) : -ENOMEM;

        if (r == 0) {
                list_for_each (node, &helpers->programs)
                        container_of(node, struct program, link)->is_wanted = false;
                for (size_t i = 0; i < config->n_resources; i++)
                        if (programs[i])
                                program_want(programs[i], config->resources[i]);
        }
        if (helpers)
                helpers_review(helpers);
        return r;
}

static bool helpers_end(struct leases *leases)
{
        struct helpers *helpers = leases->shared[RESOURCE_HELPER];
        bool is_ended = true;

        if (!helpers)
                return true;
        helpers->is_ending = true;
        list_for_each (node, &helpers->programs) {
                struct program *program = container_of(node, struct program, link);

                if (program->state == PROGRAM_RUNNING)
                        program_end(program, PROGRAM_ENDING);
                program_review(program);
                is_ended &= program->state == PROGRAM_DOWN;
        }
        return is_ended;
}

static size_t n_linked(const struct list *list)
{
        size_t n = 0;

        list_for_each (node, list)
                n++;
        return n;
}

static void helpers_summarize(const struct leases *leases)
{
        static const char *const states[] = {
                [PROGRAM_DOWN] = "is not running",
                [PROGRAM_RUNNING] = "runs",
                [PROGRAM_ENDING] = "is ending",
                [PROGRAM_BROKEN] = "is being ended",
        };
        const struct helpers *helpers = leases->shared[RESOURCE_HELPER];

        if (!helpers)
                return;
        list_for_each (node, &helpers->programs) {
                const struct program *program = container_of(node, struct program, link);

                log_message(
                        leases->journal, LOG_NOTICE,
                        "summary: helper %s: pid %d %s%s, %zu connections, %zu requests are not answered, "
                        "%zu releases and %zu loads wait",
                        program->name, (int)program->child.pid, states[program->state],
                        program->is_wanted ? "" : " for older connections", program->n_claims,
                        program->requests.n, n_linked(&program->releases), n_linked(&program->loads));
        }
}

static void helpers_deinit(struct leases *leases)
{
        struct helpers *helpers = leases->shared[RESOURCE_HELPER];

        if (!helpers)
                return;
        for (struct list *node; (node = helpers->programs.next) != &helpers->programs;) {
                struct program *program = container_of(node, struct program, link);

                program_close_input(program);
                program_free(program);
        }
        free(helpers);
        leases->shared[RESOURCE_HELPER] = NULL;
}

const struct resource_type resource_type_helper = {
        .name = "helper",
        .is_recorded = true,
        .prepare = helper_prepare,
        .load = helper_load,
        .release = helper_release,
        .stop = helper_stop,
        .save = helper_save,
        .restore = helper_restore,
        .drop = helper_drop,
        .forget = helper_forget,
        .configure = helpers_configure,
        .end = helpers_end,
        .summarize = helpers_summarize,
        .deinit = helpers_deinit,
};

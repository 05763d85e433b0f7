/*
 * Helper programs. Promises that a program which does not read, does not answer, answers nonsense or dies costs nobody
 * but those who asked it: requests are written when there is room for them, and until then wait as claims, not as
 * bytes; what it says is read within a budget (lines.h). It is not ended with us: when we die, its stdin does.
 *
 * Deliberately not here: what a claim of it is, and any bound of the requests under way but that of the connections.
 */
#include "resource/program.h"
#include "base/span.h"
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

static void program_close_input(struct program *program)
{
        int fd = program->in.fd;

        source_deinit(&program->in, loop_of(program));
        (void)fd_close(fd);
        program->output_begin = program->output_end = 0;
}

/* What it needs to start is short for now: listeners let nobody in who would wait for it. */
static void program_starve(struct program *program, int error)
{
        program->is_starved = true;
        starvation_join(&program->helpers->leases->starvation, error);
        program->not_before_usec = deadline_after(now(program), STARVE_RETRY_USEC);
}

static void program_relieve(struct program *program)
{
        if (program->is_starved)
                starvation_leave(&program->helpers->leases->starvation);
        program->is_starved = false;
}

void program_free(struct program *program)
{
        assert(list_is_empty(&program->asked) && list_is_empty(&program->releases) &&
               list_is_empty(&program->loads));
        timer_disarm(&program->timer);
        program_close_input(program);
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

/* Takes both arrays, as program_get(). */
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

int program_get(struct program **ret_program, struct helpers *helpers, const char *name, char **command,
                char **environment)
{
        struct program *program = program_lookup(helpers, name, command, environment);

        if (!program)
                return program_new(ret_program, helpers, name, command, environment);
        strv_free(command);
        strv_free(environment);
        *ret_program = program;
        return 0;
}

int program_of(struct program **ret_program, struct helpers *helpers, const struct resource_config *config,
               char **ret_reason)
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

bool program_has_room(const struct program *program)
{
        return program->state == PROGRAM_RUNNING && program->output_end - program->output_begin < REQUEST_MAX;
}

/* ---- its end ---- */

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

static void program_close(struct program *program, enum program_state state)
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
        program_close(program, PROGRAM_BROKEN);
}

/* What is due next for one that does not run. */
static void program_schedule(struct program *program)
{
        bool is_ending = program->helpers->is_ending, has_work = !is_ending && program_has_work(program);

        assert(program->state == PROGRAM_DOWN);
        if (!has_work)
                program_relieve(program);
        if (has_work)
                program_arm(program, program->not_before_usec);
        else if (!is_ending && !program_is_needed(program))
                program_arm(program, now(program)); /* freed when nobody is looking */
        else
                timer_disarm(&program->timer);
}

void program_end(struct program *program)
{
        if (program->state == PROGRAM_RUNNING)
                program_close(program, PROGRAM_ENDING);
}

void program_review(struct program *program)
{
        if (program->state == PROGRAM_DOWN)
                program_schedule(program);
        else if (!program_is_needed(program))
                program_end(program);
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

static void program_answered(struct helper *helper, const struct answer *answer)
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
                program_answered(container_of(request, struct helper, request), &answer);
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
static int program_bind(struct helper *helper)
{
        const struct process_identity *process = &helper->program->process;

        if (helper->process.pid == process->pid && helper->process.start == process->start)
                return 0;
        helper->process = *process;
        return helper->is_loading ? claim_save(helper->claim) : claim_note_anew(helper->claim);
}

static int program_ask(struct helper *helper)
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

void program_ask_load(struct helper *helper)
{
        int r = program_bind(helper);

        if (r == 0)
                r = program_ask(helper);
        if (r < 0)
                claim_load_failed(helper->claim, true, -1, strerror(-r));
}

void program_ask_release(struct helper *helper)
{
        int r;

        (void)program_bind(helper); /* it is needed more than that */
        r = program_ask(helper);
        if (r < 0)
                claim_release_failed(helper->claim, -1, strerror(-r));
}

void program_withdraw(struct helper *helper)
{
        requests_remove(&helper->program->requests, &helper->request);
        list_unlink(&helper->link);
}

/* Those that wait, as far as there is room: releases before loads. */
static void program_admit(struct program *program)
{
        while (program_has_room(program)) {
                struct list *node = list_take_first(&program->releases);
                struct helper *helper;

                if (node) {
                        program_ask_release(container_of(node, struct helper, link));
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

void program_want(struct program *program, const struct resource_config *resource)
{
        program->is_wanted = true;
        program->release_timeout_usec = resource->release_timeout;
        program->backoff_usec = program->not_before_usec = 0; /* what was wrong with it may be mended */
}

int program_add_orphan(struct program *program, const struct process_identity *process)
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
        bool was_starved = program->is_starved;
        char span[SPAN_TEXT_MAX];
        int r = program_end_orphans(program);

        program_relieve(program);
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
        if (errno_is_starvation(-r)) { /* no fault of its own */
                program_starve(program, -r);
                if (!was_starved)
                        log_message(journal, LOG_WARNING,
                                    "helper %s: %s cannot be started: %s; tried again every %s",
                                    program->name, program->command[0], strerror(-r),
                                    span_format(STARVE_RETRY_USEC, span));
        } else {
                program_back_off(program);
                log_message(journal, LOG_ERR, "helper %s: %s cannot be started: %s; tried again after %s",
                            program->name, program->command[0], strerror(-r),
                            span_format(program->backoff_usec, span));
        }
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

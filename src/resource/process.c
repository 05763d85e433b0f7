/*
 * process: a program that lives as long as the connection. It is loaded as soon as it runs, and released when it has
 * ended: SIGTERM to its process group, SIGKILL when the time is over. With `socket = stdio` it gets the connection
 * itself (lease.h, claim_take_socket()).
 *
 * It relies on a group being nobody else's until its leader is reaped (child.h): what the program leaves behind in its
 * group is killed before that. After a crash the kernel has killed the program (PR_SET_PDEATHSIG(2const)), and the
 * record leads the next run to the rest. Deliberately not here: a turn to wait for, since nothing is under way once
 * the program runs, and an ending must not wait for that of others. Only when no process can be started, a load waits.
 */
#include "resource/command.h"
#include "resource/saved.h"
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>

#define KILL_USEC (10 * USEC_PER_SEC) /* for the kernel to end what was killed; then the release has failed */

struct process {
        struct claim *claim;
        char **words;
        struct command command; /* running where it has a child; or of an earlier run */
        bool gets_socket;
        int socket_fd; /* its connection's, once it was asked for; -1: it was not */
        bool may_end;  /* by itself: the connection lives on */
        struct timer kill_timer;
};

static bool process_is_running(const struct process *process)
{
        return process->command.child.pid > 0;
}

static struct process *process_free(struct process *process)
{
        if (!process)
                return NULL;
        timer_disarm(&process->kill_timer);
        command_deinit(&process->command);
        strv_free(process->words);
        free(process);
        return NULL;
}
DEFINE_CLEANUP(struct process *, process_free);

static void process_forget(struct claim *claim)
{
        claim->data = process_free(claim->data);
}

static void process_does_not_end(struct timer *timer)
{
        struct process *process = container_of(timer, struct process, kill_timer);

        claim_release_failed(process->claim, -1, "it was killed and does not end");
}

static struct process *process_new(struct claim *claim)
{
        struct process *process = calloc(1, sizeof(*process));

        if (process) {
                process->claim = process->command.claim = claim;
                process->socket_fd = -1;
                timer_init(&process->kill_timer, process_does_not_end);
        }
        return process;
}

static int process_prepare(struct claim *claim, char **ret_reason)
{
        const struct resource_config *config = claim->config;
        _cleanup_(process_freep) struct process *process = process_new(claim);
        int r;

        if (!process)
                return -ENOMEM;
        process->gets_socket = config->socket == PROCESS_SOCKET_STDIO;
        process->may_end = config->on_exit == ON_EXIT_KEEP;
        r = command_expand(claim, config->command, &process->words, ret_reason);
        if (r == 0)
                r = command_init(&process->command, claim, ret_reason);
        if (r == 0)
                claim->data = TAKE_PTR(process);
        return r;
}

/* ---- its end ---- */

static void process_is_lost(struct process *process, const struct command_end *end)
{
        struct claim *claim = process->claim;

        if (process->may_end)
                log_message(claim->lease->leases->journal, LOG_INFO,
                            "connection %" PRIx64 ": %s ended (%s), the connection goes on",
                            claim->lease->subject.id, claim->name, end->reason);
        else
                claim_lost(claim, process->gets_socket ? LEASE_PROCESS_EXITED : LEASE_RESOURCE_LOST,
                           end->exit_status, end->reason);
}

static void process_exited(struct child *child)
{
        struct process *process = container_of(child, struct process, command.child);
        struct claim *claim = process->claim;
        struct command_end end;

        (void)child_kill(child, SIGKILL); /* the rest of its group, which is ours until this one is reaped */
        command_take_end(&process->command, &end);
        timer_disarm(&process->kill_timer);
        if (claim->state == CLAIM_RELEASING || claim->state == CLAIM_RELEASE_STOPPING)
                claim_released(claim);
        else if (claim->state == CLAIM_LOADED)
                process_is_lost(process, &end);
        /* Else a release failed before, and the next attempt finds it gone. */
}

/* ---- load and release ---- */

/* Once: a load that was deferred has it. */
static int process_take_socket(struct process *process)
{
        if (process->gets_socket && process->socket_fd < 0)
                process->socket_fd = claim_take_socket(process->claim);
        return process->gets_socket ? MIN(process->socket_fd, 0) : 0;
}

static int process_start(struct process *process)
{
        const struct command_options options = {
                .argv = process->words,
                .phase = "load",
                .has_socket = process->gets_socket,
                .socket_fd = process->socket_fd,
                .dies_with_us = true,
                .exited = process_exited,
        };

        return command_start(&process->command, &options);
}

static void process_load(struct claim *claim)
{
        struct process *process = claim->data;
        int r = process_take_socket(process);
        bool has_all = r == 0;
        char text[COMMAND_TEXT_MAX];

        if (r == 0)
                r = process_start(process);
        if (r == 0) {
                (void)snprintf(text, sizeof(text), "%d", (int)process->command.child.pid);
                claim_loaded(claim, text);
        } else if (has_all && r < 0 && errno_is_starvation(-r)) {
                claim_defer(claim, -r);
        } else { /* one whose end cannot be watched was killed, with its group */
                claim_load_failed(claim, r != CHILD_E_LOST, -1, command_fault(process->words[0], r, text));
        }
}

static void process_fail_to_signal(struct process *process, int r)
{
        char reason[128];

        (void)snprintf(reason, sizeof(reason), "process %d cannot be signalled: %s",
                       (int)process->command.child.pid, strerror(-r));
        claim_release_failed(process->claim, -1, reason);
}

static void process_release(struct claim *claim)
{
        struct process *process = claim->data;
        char reason[COMMAND_TEXT_MAX];

        if (process_is_running(process)) {
                int r = child_kill(&process->command.child, SIGTERM);

                if (r < 0)
                        process_fail_to_signal(process, r);
        } else if (command_end_earlier(&process->command, reason) < 0) {
                claim_release_failed(claim, -1, reason);
        } else {
                claim_released(claim);
        }
}

/* Of a release: a load is never under way. */
static void process_stop(struct claim *claim)
{
        struct process *process = claim->data;
        struct loop *loop = claim_loop(claim);
        int r = child_kill(&process->command.child, SIGKILL);

        if (r < 0)
                process_fail_to_signal(process, r);
        else
                timer_arm(loop_wheel(loop), &process->kill_timer, loop_now(loop) + KILL_USEC);
}

/* ---- the ledger record ---- */

static int process_save(const struct claim *claim, char ***fields)
{
        const struct process *process = claim->data;

        return process ? saved_process(fields, &process->command.process) : 0;
}

static int process_restore(struct claim *claim, char *const *fields, char **ret_reason)
{
        _cleanup_(process_freep) struct process *process = NULL;

        if (claim->state == CLAIM_EMPTY)
                return 0;
        process = process_new(claim);
        if (!process)
                return -ENOMEM;
        if (saved_process_read(fields, &process->command.process) < 0) {
                *ret_reason = strdup("its pid, start or boot is missing or wrong");
                return *ret_reason ? RESOURCE_E_INVALID : -ENOMEM;
        }
        claim->data = TAKE_PTR(process);
        return 0;
}

const struct resource_type resource_type_process = {
        .name = "process",
        .is_recorded = true,
        .ends_with_us = true,
        .prepare = process_prepare,
        .load = process_load,
        .release = process_release,
        .stop = process_stop,
        .save = process_save,
        .restore = process_restore,
        .forget = process_forget,
};

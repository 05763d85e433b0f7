/*
 * exec: two commands, one loads, one releases. Promises that a claim can be released from its ledger record
 * alone: the release command and its environment are expanded before the load begins. A command of an earlier run
 * that outlived it is ended before another runs.
 *
 * Deliberately not here: retries and timeouts, which are the lease's; and any SIGTERM: a command whose time is
 * over is killed, with its process group, for a promise about time cannot wait for its good will.
 */
#include "resource/command.h"
#include "resource/saved.h"
#include <signal.h>
#include <stdio.h>

struct exec {
        struct claim *claim;
        char **load;
        char **release;
        struct command command; /* the one under way, perhaps of an earlier run */
        bool is_loading;
        bool has_value;
        char *value; /* the first line that load printed; NULL with has_value: out of memory */
};

static struct exec *exec_free(struct exec *exec)
{
        if (!exec)
                return NULL;
        command_deinit(&exec->command);
        strv_free(exec->load);
        strv_free(exec->release);
        free(exec->value);
        free(exec);
        return NULL;
}
DEFINE_CLEANUP(struct exec *, exec_free);

static void exec_forget(struct claim *claim)
{
        claim->data = exec_free(claim->data);
}

/* Before it begins. */
static int exec_prepare(struct claim *claim, char **ret_reason)
{
        const struct resource_config *config = claim->config;
        _cleanup_(exec_freep) struct exec *exec = calloc(1, sizeof(*exec));
        int r;

        if (!exec)
                return -ENOMEM;
        exec->claim = claim;
        r = command_expand(claim, config->load, &exec->load, ret_reason);
        if (r == 0)
                r = command_expand(claim, config->release, &exec->release, ret_reason);
        if (r == 0)
                r = command_init(&exec->command, claim, ret_reason);
        if (r == 0)
                claim->data = TAKE_PTR(exec);
        return r;
}

/* ---- a command ---- */

static void exec_fail(struct exec *exec, bool is_said, int exit_status, const char *reason)
{
        if (exec->is_loading)
                claim_load_failed(exec->claim, is_said, exit_status, reason);
        else
                claim_release_failed(exec->claim, exit_status, reason);
}

static void exec_succeed(struct exec *exec)
{
        _cleanup_free_ char *value = TAKE_PTR(exec->value);

        if (!exec->is_loading)
                claim_released(exec->claim);
        else if (exec->has_value && !value)
                claim_load_failed(exec->claim, false, -1, strerror(ENOMEM));
        else
                claim_loaded(exec->claim, value ? value : "");
}

static void exec_exited(struct child *child)
{
        struct exec *exec = container_of(child, struct exec, command.child);
        struct command_end end;

        command_take_end(&exec->command, &end);
        if (end.exit_status == 0)
                exec_succeed(exec);
        else
                exec_fail(exec, end.is_exit, end.exit_status, end.reason);
}

static void exec_out(struct lines *lines, const char *line, bool is_cut _unused_)
{
        struct exec *exec = container_of(lines, struct exec, command.out);

        if (exec->is_loading && !exec->has_value) {
                exec->has_value = true;
                exec->value = strdup(line);
        } else {
                claim_output(exec->claim, line);
        }
}

static void exec_run(struct exec *exec, char *const *argv, bool is_loading)
{
        const struct command_options options = {
                .argv = argv,
                .phase = is_loading ? "load" : "release",
                .out = exec_out,
                .exited = exec_exited,
        };
        int r;

        exec->is_loading = is_loading;
        exec->command.is_optional = !is_loading;
        r = command_start(&exec->command, &options);
        if (r < 0 && errno_is_starvation(-r)) {
                claim_defer(exec->claim, -r);
        } else if (r != 0) {
                char reason[COMMAND_TEXT_MAX];

                /* One that never ran left nothing. */
                exec_fail(exec, r != CHILD_E_LOST, -1, command_fault(argv[0], r, reason));
        }
}

static void exec_load(struct claim *claim)
{
        struct exec *exec = claim->data;

        if (exec->load)
                exec_run(exec, exec->load, true);
        else
                claim_loaded(claim, "");
}

static void exec_release(struct claim *claim)
{
        struct exec *exec = claim->data;
        char reason[COMMAND_TEXT_MAX];

        if (command_end_earlier(&exec->command, reason) < 0)
                claim_release_failed(claim, -1, reason);
        else if (exec->release)
                exec_run(exec, exec->release, false);
        else
                claim_released(claim);
}

static void exec_stop(struct claim *claim)
{
        struct exec *exec = claim->data;

        (void)child_kill(&exec->command.child, SIGKILL);
}

/* ---- the ledger record ---- */

static int exec_save(const struct claim *claim, char ***fields)
{
        const struct exec *exec = claim->data;
        int r;

        if (!exec) /* it could not be prepared: there is nothing to release */
                return 0;
        r = saved_words(fields, "arg", exec->release);
        if (r == 0)
                r = saved_words(fields, "env", exec->command.environment);
        if (r == 0)
                r = strv_appendf(fields, "uid=%u", exec->command.uid);
        if (r == 0)
                r = strv_appendf(fields, "gid=%u", exec->command.gid);
        if (r == 0 && exec->command.user_name)
                r = strv_appendf(fields, "user=%s", exec->command.user_name);
        if (r == 0)
                r = strv_appendf(fields, "cwd=%s", exec->command.working_directory);
        if (r == 0)
                r = saved_process(fields, &exec->command.process);
        return r;
}

static int restore_text(const char *text, char **ret)
{
        *ret = text ? strdup(text) : NULL;
        return text && !*ret ? -ENOMEM : 0;
}

static int exec_restore(struct claim *claim, char *const *fields, char **ret_reason)
{
        _cleanup_(exec_freep) struct exec *exec = NULL;
        const char *cwd = fields_get(fields, "cwd");
        struct command *command;
        uint64_t uid, gid;
        int r;

        if (claim->state == CLAIM_EMPTY)
                return 0;
        exec = calloc(1, sizeof(*exec));
        if (!exec)
                return -ENOMEM;
        exec->claim = claim;
        command = &exec->command;
        command->claim = claim;
        if (!cwd || fields_get_u64(fields, "uid", &uid) < 0 || uid > UINT32_MAX ||
            fields_get_u64(fields, "gid", &gid) < 0 || gid > UINT32_MAX ||
            saved_process_read(fields, &command->process) < 0) {
                *ret_reason = strdup("cwd, uid, gid or the process is missing or wrong");
                return *ret_reason ? RESOURCE_E_INVALID : -ENOMEM;
        }
        command->uid = (uid_t)uid;
        command->gid = (gid_t)gid;
        r = restore_text(cwd, &command->working_directory);
        if (r == 0)
                r = restore_text(fields_get(fields, "user"), &command->user_name);
        if (r == 0)
                r = saved_words_read(fields, "arg", &exec->release);
        if (r == 0)
                r = saved_words_read(fields, "env", &command->environment);
        if (r == 0)
                claim->data = TAKE_PTR(exec);
        return r;
}

const struct resource_type resource_type_exec = {
        .name = "exec",
        .is_queued = true,
        .is_recorded = true,
        .prepare = exec_prepare,
        .load = exec_load,
        .release = exec_release,
        .stop = exec_stop,
        .save = exec_save,
        .restore = exec_restore,
        .forget = exec_forget,
};

/*
 * exec: two commands, one loads, one releases. Promises that a claim can be released from its ledger record
 * alone: the release command and its environment are expanded before the load begins. The record also names
 * the command that runs, before it does, so that the next daemon ends one that outlived this one before it runs
 * another.
 *
 * Deliberately not here: retries and timeouts, which are the lease's; and any SIGTERM: a command whose time is
 * over is killed, with its process group, for a promise about time cannot wait for its good will.
 */
#include "loop/child.h"
#include "loop/lines.h"
#include "resource/lease.h"
#include "resource/saved.h"
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

#define PRINT_MAX 4096 /* bytes of a line for the journal */
#define END_MAX_MSEC \
        1000 /* how long the loop may stand still for a killed command of an earlier run to be gone */

struct exec {
        struct claim *claim;
        char **load;
        char **release;
        char **environment;
        char *user_name;
        char *working_directory;
        uid_t uid;
        gid_t gid;
        struct child child;
        struct lines out;
        struct lines err;
        bool is_loading;
        bool has_value;
        char *value; /* the first line that load printed; NULL with has_value: out of memory */
        struct process_identity process; /* the command under way, perhaps of an earlier run; pid 0: none */
};

static struct exec *exec_free(struct exec *exec)
{
        if (!exec)
                return NULL;
        child_deinit(&exec->child);
        lines_deinit(&exec->out);
        lines_deinit(&exec->err);
        strv_free(exec->load);
        strv_free(exec->release);
        strv_free(exec->environment);
        free(exec->user_name);
        free(exec->working_directory);
        free(exec->value);
        free(exec);
        return NULL;
}
DEFINE_CLEANUP(struct exec *, exec_free);

static void exec_forget(struct claim *claim)
{
        claim->data = exec_free(claim->data);
}

/* ---- before it begins ---- */

static int expand_words(struct claim *claim, char *const *templates, char ***ret_words, char **ret_reason)
{
        _cleanup_strv_free_ char **words = NULL;

        for (size_t i = 0; templates && templates[i]; i++) {
                char *word;
                int r = 0;

                if (i == 0) /* the program, as it stands */
                        word = strdup(templates[i]);
                else
                        r = specifier_expand(templates[i], SPECIFIER_WORD, claim_specifier, claim, &word,
                                             ret_reason);
                if (r == 0)
                        r = strv_append_take(&words, word);
                if (r < 0)
                        return r == -EINVAL ? RESOURCE_E_INVALID : r;
        }
        *ret_words = TAKE_PTR(words);
        return 0;
}

/* Copies what may be NULL. */
static int copy_text(const char *text, char **ret)
{
        char *copy = text ? strdup(text) : NULL;

        if (text && !copy)
                return -ENOMEM;
        *ret = copy;
        return 0;
}

static int exec_prepare(struct claim *claim, char **ret_reason)
{
        const struct resource_config *config = claim->config;
        _cleanup_(exec_freep) struct exec *exec = calloc(1, sizeof(*exec));
        int r;

        if (!exec)
                return -ENOMEM;
        exec->claim = claim;
        exec->uid = config->user;
        exec->gid = config->group;
        r = copy_text(config->user_name, &exec->user_name);
        if (r == 0)
                r = copy_text(config->working_directory, &exec->working_directory);
        if (r == 0)
                r = expand_words(claim, config->load, &exec->load, ret_reason);
        if (r == 0)
                r = expand_words(claim, config->release, &exec->release, ret_reason);
        if (r == 0)
                r = claim_environment(claim, config->environment, config->user_name, config->home,
                                      &exec->environment, ret_reason);
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
        struct exec *exec = container_of(child, struct exec, child);
        int status_code = child->status_code, status = child->status;
        char reason[64];

        lines_drain(&exec->out);
        lines_drain(&exec->err);
        lines_deinit(&exec->out);
        lines_deinit(&exec->err);
        child_deinit(child);
        exec->process = (struct process_identity){ 0 };

        if (status_code == CLD_EXITED && status == 0) {
                exec_succeed(exec);
        } else if (status_code == CLD_EXITED) {
                (void)snprintf(reason, sizeof(reason), "exit status %d", status);
                exec_fail(exec, true, status, reason);
        } else {
                const char *name = sigabbrev_np(status);

                (void)snprintf(reason, sizeof(reason), name ? "killed by SIG%s" : "killed by a signal", name);
                exec_fail(exec, false, 128 + status, reason);
        }
}

static void exec_out(struct lines *lines, const char *line, bool is_cut _unused_)
{
        struct exec *exec = container_of(lines, struct exec, out);

        if (exec->is_loading && !exec->has_value) {
                exec->has_value = true;
                exec->value = strdup(line);
        } else {
                claim_output(exec->claim, line);
        }
}

static void exec_err(struct lines *lines, const char *line, bool is_cut _unused_)
{
        claim_output(container_of(lines, struct exec, err)->claim, line);
}

/* In the child. What nobody could end after a crash may not run; a release is needed more than that. */
static int exec_announce(void *userdata)
{
        struct exec *exec = userdata;
        int r = process_identify(getpid(), &exec->process);

        if (r == 0)
                r = claim_save(exec->claim);
        return exec->is_loading ? r : 0;
}

static int exec_start(struct exec *exec, char *const *argv)
{
        struct loop *loop = claim_loop(exec->claim);
        _cleanup_strv_free_ char **environment = NULL;
        _cleanup_close_ int out_fd = -1, err_fd = -1;
        int r;

        r = claim_phase_environment(exec->claim, exec->environment, exec->is_loading ? "load" : "release",
                                    &environment);
        if (r == 0) /* one byte more than a value may have: claim_loaded() sees that it is too long */
                r = lines_init(&exec->out, loop, CLAIM_VALUE_MAX + 1, exec_out, &out_fd);
        if (r == 0)
                r = lines_init(&exec->err, loop, CLAIM_VALUE_MAX, exec_err, &err_fd);
        if (r < 0)
                return r;

        struct child_options options = {
                .argv = argv,
                .environment = environment,
                .working_directory = exec->working_directory,
                .user_name = exec->user_name,
                .uid = exec->uid,
                .gid = exec->gid,
                .announce = exec_announce,
                .userdata = exec,
                .stdin_fd = -1,
                .stdout_fd = out_fd,
                .stderr_fd = err_fd,
        };
        return child_start(&exec->child, loop, &options, exec_exited);
}

static void exec_forget_start(struct exec *exec)
{
        lines_deinit(&exec->out);
        lines_deinit(&exec->err);
        exec->process = (struct process_identity){ 0 };
}

static void exec_run(struct exec *exec, char *const *argv, bool is_loading)
{
        exec->is_loading = is_loading;
        int r = exec_start(exec, argv);

        if (r < 0 && errno_is_starvation(-r)) {
                exec_forget_start(exec);
                claim_defer(exec->claim, -r);
        } else if (r != 0) {
                bool is_lost = r == CHILD_E_LOST;
                char reason[512];

                exec_forget_start(exec);
                (void)snprintf(reason, sizeof(reason), "%s cannot be %s: %s", argv[0],
                               is_lost ? "watched, it was killed" : "started",
                               strerror(is_lost ? EMFILE : -r));
                exec_fail(exec, !is_lost, -1, reason); /* one that never ran left nothing */
        } else if (exec->process.pid == 0) {           /* the child had a memory of its own */
                (void)process_identify(exec->child.pid, &exec->process);
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

        if (exec->process.pid > 0) {
                int r = process_end(&exec->process, END_MAX_MSEC);

                if (r < 0) {
                        char reason[128];

                        (void)snprintf(reason, sizeof(reason),
                                       "process %d of an earlier run cannot be ended: %s",
                                       (int)exec->process.pid, strerror(-r));
                        claim_release_failed(claim, -1, reason);
                        return;
                }
                exec->process = (struct process_identity){ 0 };
        }
        if (exec->release)
                exec_run(exec, exec->release, false);
        else
                claim_released(claim);
}

static void exec_stop(struct claim *claim)
{
        struct exec *exec = claim->data;

        child_kill(&exec->child, SIGKILL);
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
                r = saved_words(fields, "env", exec->environment);
        if (r == 0)
                r = strv_appendf(fields, "uid=%u", exec->uid);
        if (r == 0)
                r = strv_appendf(fields, "gid=%u", exec->gid);
        if (r == 0 && exec->user_name)
                r = strv_appendf(fields, "user=%s", exec->user_name);
        if (r == 0)
                r = strv_appendf(fields, "cwd=%s", exec->working_directory);
        if (r == 0)
                r = saved_process(fields, &exec->process);
        return r;
}

static int exec_restore(struct claim *claim, char *const *fields, char **ret_reason)
{
        _cleanup_(exec_freep) struct exec *exec = NULL;
        const char *cwd = fields_get(fields, "cwd");
        uint64_t uid, gid;
        int r;

        if (claim->state == CLAIM_EMPTY)
                return 0;
        exec = calloc(1, sizeof(*exec));
        if (!exec)
                return -ENOMEM;
        exec->claim = claim;
        if (!cwd || fields_get_u64(fields, "uid", &uid) < 0 || uid > UINT32_MAX ||
            fields_get_u64(fields, "gid", &gid) < 0 || gid > UINT32_MAX ||
            saved_process_read(fields, &exec->process) < 0) {
                *ret_reason = strdup("cwd, uid, gid or the process is missing or wrong");
                return *ret_reason ? RESOURCE_E_INVALID : -ENOMEM;
        }
        exec->uid = (uid_t)uid;
        exec->gid = (gid_t)gid;
        r = copy_text(cwd, &exec->working_directory);
        if (r == 0)
                r = copy_text(fields_get(fields, "user"), &exec->user_name);
        if (r == 0)
                r = saved_words_read(fields, "arg", &exec->release);
        if (r == 0)
                r = saved_words_read(fields, "env", &exec->environment);
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

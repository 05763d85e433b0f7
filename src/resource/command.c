/*
 * Commands. The record names the process before the program runs, so that the next daemon ends one that outlived
 * this one before it does anything else; it relies on child.h for that. Deliberately not here: what a command is
 * for, and any waiting for one of our own.
 */
#include "resource/command.h"
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

#define END_MAX_MSEC \
        1000 /* how long the loop may stand still for a killed command of an earlier run to be gone */

/* Copies what may be NULL. */
static int copy_text(const char *text, char **ret)
{
        char *copy = text ? strdup(text) : NULL;

        if (text && !copy)
                return -ENOMEM;
        *ret = copy;
        return 0;
}

int command_init(struct command *command, struct claim *claim, char **ret_reason)
{
        const struct resource_config *config = claim->config;
        int r;

        command->claim = claim;
        command->uid = config->user;
        command->gid = config->group;
        r = copy_text(config->user_name, &command->user_name);
        if (r == 0)
                r = copy_text(config->working_directory, &command->working_directory);
        if (r == 0)
                r = claim_environment(claim, config->environment, config->user_name, config->home,
                                      &command->environment, ret_reason);
        return r;
}

void command_deinit(struct command *command)
{
        child_deinit(&command->child);
        lines_deinit(&command->out);
        lines_deinit(&command->err);
        command->environment = strv_free(command->environment);
        free(TAKE_PTR(command->user_name));
        free(TAKE_PTR(command->working_directory));
}

int command_expand(struct claim *claim, char *const *templates, char ***ret_words, char **ret_reason)
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

/* ---- its life ---- */

static void command_out(struct lines *lines, const char *line, bool is_cut _unused_)
{
        claim_output(container_of(lines, struct command, out)->claim, line);
}

static void command_err(struct lines *lines, const char *line, bool is_cut _unused_)
{
        claim_output(container_of(lines, struct command, err)->claim, line);
}

/* In the child. What nobody could end after a crash may not run, unless it is needed more than that. */
static int command_announce(const struct process_identity *self, void *userdata)
{
        struct command *command = userdata;
        int r = -ESRCH;

        if (self) {
                command->process = *self;
                r = claim_note(command->claim);
        }
        return command->is_optional ? 0 : r;
}

static int command_run(struct command *command, const struct command_options *options)
{
        struct loop *loop = claim_loop(command->claim);
        _cleanup_strv_free_ char **environment = NULL;
        _cleanup_close_ int out_fd = -1, err_fd = -1;
        int r;

        r = claim_phase_environment(command->claim, command->environment, options->phase, &environment);
        if (r == 0 && !options->has_socket) /* one byte more than a value may have: claim_loaded() sees it */
                r = lines_init(&command->out, loop, CLAIM_VALUE_MAX + 1,
                               options->out ? options->out : command_out, &out_fd);
        if (r == 0)
                r = lines_init(&command->err, loop, CLAIM_VALUE_MAX, command_err, &err_fd);
        if (r < 0)
                return r;

        const struct child_options child_options = {
                .argv = options->argv,
                .environment = environment,
                .working_directory = command->working_directory,
                .user_name = command->user_name,
                .uid = command->uid,
                .gid = command->gid,
                .dies_with_us = options->dies_with_us,
                .announce = command_announce,
                .userdata = command,
                .stdin_fd = options->has_socket ? options->socket_fd : -1,
                .stdout_fd = options->has_socket ? options->socket_fd : out_fd,
                .stderr_fd = err_fd,
        };
        return child_start(&command->child, loop, &child_options, options->exited);
}

static void close_lines(struct command *command)
{
        lines_deinit(&command->out);
        lines_deinit(&command->err);
}

int command_start(struct command *command, const struct command_options *options)
{
        int r = command_run(command, options);

        if (r != 0) {
                close_lines(command);
                command->process = (struct process_identity){ 0 };
        } else if (command->process.pid == 0) { /* the child had a memory of its own */
                (void)process_identify(command->child.pid, &command->process);
        }
        return r;
}

const char *command_fault(const char *program, int r, char buffer[static COMMAND_TEXT_MAX])
{
        bool is_lost = r == CHILD_E_LOST;

        (void)snprintf(buffer, COMMAND_TEXT_MAX, "%s cannot be %s: %s", program,
                       is_lost ? "watched, it was killed" : "started",
                       is_lost ? "no memory or watch is left" : strerror(-r));
        return buffer;
}

void command_take_end(struct command *command, struct command_end *ret)
{
        int status = command->child.status;
        const char *name = sigabbrev_np(status);

        *ret = (struct command_end){ .is_exit = command->child.status_code == CLD_EXITED };
        ret->exit_status = ret->is_exit ? status : 128 + status;
        if (ret->is_exit)
                (void)snprintf(ret->reason, sizeof(ret->reason), "exit status %d", status);
        else
                (void)snprintf(ret->reason, sizeof(ret->reason),
                               name ? "killed by SIG%s" : "killed by a signal", name);
        lines_drain(&command->out);
        lines_drain(&command->err);
        close_lines(command);
        child_deinit(&command->child);
        command->process = (struct process_identity){ 0 };
}

/* ---- for the next run ---- */

int command_end_earlier(struct command *command, char reason[static COMMAND_TEXT_MAX])
{
        const struct process_identity *process = &command->process;
        char mark[64];
        int r;

        if (process->pid == 0)
                return 0;
        (void)snprintf(mark, sizeof(mark), "TETHERD_CONNECTION=%" PRIx64, command->claim->lease->subject.id);
        r = process_end(process, mark, END_MAX_MSEC);
        if (r == 0)
                command->process = (struct process_identity){ 0 };
        else
                (void)snprintf(reason, COMMAND_TEXT_MAX, "process %d of an earlier run cannot be ended: %s",
                               (int)process->pid, strerror(-r));
        return r;
}

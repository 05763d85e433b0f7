/*
 * command: a program that a resource runs: what it is given, where its lines go, how it ended, and how a later run of
 * the daemon finds it. Whoever owns one decides when it starts and what its end means.
 *
 * It writes into the ledger that the program exists before the program runs: claim_note() is called in the child,
 * and the owner's save() writes `process` (saved.h).
 */
#pragma once

#include "loop/child.h"
#include "loop/lines.h"
#include "resource/lease.h"

struct command {
        struct claim *claim; /* borrowed */
        char **environment;
        char *user_name;
        char *working_directory;
        uid_t uid;
        gid_t gid;
        struct child child;
        struct lines out;
        struct lines err;
        bool is_optional;                /* it runs even where the ledger cannot be told of it */
        struct process_identity process; /* the one under way, perhaps of an earlier run; pid 0: none */
};

/* Expands what the claim's configuration says, but for the words. 0, -ENOMEM, or RESOURCE_E_INVALID with a sentence. */
int command_init(struct command *command, struct claim *claim, char **ret_reason);
/* One that runs is killed with its group. Zeroed is fine, twice as well. */
void command_deinit(struct command *command);

/* Words from templates, but for the first, which is the program. Returns as command_init(). */
int command_expand(struct claim *claim, char *const *templates, char ***ret_words, char **ret_reason);

struct command_options {
        char *const *argv;
        const char *phase; /* TETHERD_PHASE */
        lines_fn out;      /* gets the lines of stdout; NULL: the journal, as those of stderr */
        bool has_socket;   /* `socket_fd` is its stdin and stdout */
        bool dies_with_us; /* as in struct child_options */
        int socket_fd;     /* borrowed */
        child_fn exited;
};

/* Returns as child_start(); where it failed, nothing is left. */
int command_start(struct command *command, const struct command_options *options);

/* Why it failed, for a reader: `r` is what command_start() returned. Returns `buffer`. */
#define COMMAND_TEXT_MAX 512
const char *command_fault(const char *program, int r, char buffer[static COMMAND_TEXT_MAX]);

struct command_end {
        bool is_exit;    /* it said so itself; otherwise a signal killed it */
        int exit_status; /* or 128 and the signal's number */
        char reason[64]; /* "exit status 3", "killed by SIGKILL" */
};

/* From inside `exited`: what was printed until now is told, and the command is as before its start. */
void command_take_end(struct command *command, struct command_end *ret);

/*
 * Ends what an earlier run left: that very process, and whatever is left of its group. Waits for it for no longer than
 * a second. 0, also when there is nothing; or a negative errno, with a sentence in `reason`.
 */
int command_end_earlier(struct command *command, char reason[static COMMAND_TEXT_MAX]);

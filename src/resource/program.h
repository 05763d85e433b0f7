/*
 * program: the long-lived program of a helper resource: its start, its back-off, its end, and the lines that go to and
 * fro (request.h). Part of the type helper, and of nobody else's business.
 *
 * A program is known by its command and environment (with the resource's name in it). It starts when it is wanted or
 * has work, and ends when neither a configuration nor a claim needs it: by the end of its stdin, else by SIGTERM and
 * SIGKILL within release_timeout. Of those who ask it, struct helper belongs to helper.c, which links it in and takes
 * it out; what becomes of a claim that was asked is told to the lease (lease.h) from here.
 *
 * Functions return 0 or a negative errno, or RESOURCE_E_INVALID with a reason where they take `ret_reason`.
 */
#pragma once

#include "loop/child.h"
#include "loop/lines.h"
#include "resource/lease.h"
#include "resource/request.h"

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
        bool is_starved; /* down: it has work, and what its start needs is short (struct starvation) */
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

/* The one of that name, command and environment, which is made where there is none. Takes both arrays, also when it fails. */
int program_get(struct program **ret_program, struct helpers *helpers, const char *name, char **command,
                char **environment);
/* The same, of a resource as it is configured. */
int program_of(struct program **ret_program, struct helpers *helpers, const struct resource_config *config,
               char **ret_reason);
void program_free(struct program *program); /* nobody waits for it any more; one that runs is killed */

/* A configuration uses it, as from now. */
void program_want(struct program *program, const struct resource_config *resource);
/* An earlier run left this one, which is to be ended before another is started. */
int program_add_orphan(struct program *program, const struct process_identity *process);
/* Something about who needs it has changed. It may be freed, but not in here. */
void program_review(struct program *program);
/* It is to end, and will be told that by the end of its stdin. */
void program_end(struct program *program);

/* Whether a request can be written now; else it waits in `releases` or `loads`. */
bool program_has_room(const struct program *program);
void program_ask_load(struct helper *helper);
void program_ask_release(struct helper *helper);
/* What it answers from now on is late. */
void program_withdraw(struct helper *helper);

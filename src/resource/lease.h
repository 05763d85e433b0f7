/*
 * lease: the ordered resources of one connection. They are loaded forward, one after the other, and released
 * backward; each that was loaded is released exactly once while the daemon lives, whatever happens in between.
 * A load under way is never cut short by the end of its connection: it runs to its end and is then released.
 * One that waits for its turn is dropped.
 *
 *      intent -> ledger, load, fact -> ledger;   release, erase from ledger
 *
 * Where a resource is persistent, the arrows of its load end on the disk: the load begins when its intent is
 * there, and the claim is loaded when the fact is. Meanwhile nothing waits but this lease (sync.h).
 *
 * A release that fails is tried again after 1 s, 2 s, 4 s, …; after `release_attempts` the claim is
 * *quarantined*: logged, kept in the ledger, tried again by leases_retry() and at the next start.
 * The same code releases what an earlier run left behind (lease_restore(), in ledger.h).
 */
#pragma once

#include "base/address.h"
#include "journal/events.h"
#include "loop/sync.h"
#include "resource/queue.h"
#include "resource/resource.h"

struct ledger;

/* Everything that the leases of one daemon share. */
struct leases {
        struct loop *loop;
        struct journal *journal;
        struct ledger *ledger; /* NULL: nothing is recorded (tests, benchmarks) */
        struct list queues;    /* one struct queue a resource name */
        struct queue
                deferred; /* without a bound: loads of no other queue that were deferred, each in its turn */
        struct list all;  /* every struct lease */
        size_t n_leases;
        size_t n_releasing;             /* leases; quarantined ones only while they are tried again */
        size_t n_quarantined;           /* claims */
        struct starvation starvation;   /* of queues and helpers */
        void *shared[N_RESOURCE_KINDS]; /* each type's own: resource.h */
        /* What leases_end() waits for has ended, or the release of a lease that nobody waits for. May be NULL. */
        void (*ended)(void *userdata);
        void *userdata;
};

void leases_init(struct leases *leases, struct loop *loop, struct journal *journal, struct ledger *ledger);
void leases_deinit(struct leases *leases); /* asserts that no lease is left */

/* A configuration takes effect: `max_concurrent` of its resources, and what types share. 0 or -ENOMEM. */
int leases_configure(struct leases *leases, const struct config *config);

/* Gives up every lease that is left, quarantined ones included; returns how many stay in the ledger. */
size_t leases_abandon(struct leases *leases);

/* Tries every quarantined claim again: at once, or when all else of its lease is released. */
void leases_retry(struct leases *leases);

/*
 * No lease asks for anything any more: ends what types share and what runs, as it wants to be ended. Returns whether
 * nothing runs; else leases->ended is called each time that something has ended. May be called again.
 */
bool leases_end(struct leases *leases);

/* What types share, to the log. */
void leases_summarize(const struct leases *leases);

/* What waits for its turn to be released: how many, and how long the first one does. */
struct waiting {
        size_t n;
        uint64_t oldest_usec;
};
struct waiting leases_waiting(const struct leases *leases, uint64_t now_usec);

/*
 * Whether the queues go on as they should: nothing waits where there is a free place, and no command is under way
 * whose deadline has passed by more than `grace_usec` without it being ended. False is a fault of ours, which only a
 * restart mends. A command that SIGKILL does not end (it waits for a device, in the kernel) is none.
 */
bool leases_make_progress(const struct leases *leases, uint64_t now_usec, uint64_t grace_usec);

enum lease_failure { LEASE_LOAD_FAILED, LEASE_LOAD_TIMEOUT, LEASE_POOL_EMPTY };

/* What ended by itself although its connection depends on it. */
enum lease_loss {
        LEASE_RESOURCE_LOST,
        LEASE_PROCESS_EXITED, /* the program that the connection was given to */
};

/* What the resources see of their connection. The strings belong to the lease. */
struct lease_subject {
        uint64_t id;
        char *listener;
        char *identity; /* "" = none */
        struct address remote;
        struct address local;
        pid_t peer_pid;
        uid_t peer_uid;
};

enum claim_state {
        CLAIM_EMPTY, /* holds nothing: not begun, failed cleanly, or released */
        CLAIM_LOAD_QUEUED,
        CLAIM_INTENDED, /* persistent: has its turn, and waits until the intent is on disk */
        CLAIM_WAITING,  /* its type waits for something before it begins: dropped when the connection ends */
        CLAIM_LOADING,
        CLAIM_LOAD_STOPPING, /* load_timeout is over, the load is being ended */
        CLAIM_LOADED,        /* persistent: perhaps not on disk yet, then the next one waits */
        CLAIM_RELEASE_QUEUED,
        CLAIM_RELEASING,
        CLAIM_RELEASE_STOPPING,
        CLAIM_RETRYING, /* a release failed; waits for its next attempt */
        CLAIM_QUARANTINED,
};

struct claim {
        struct lease *lease;
        const struct resource_type *type;     /* `none`, until it is known */
        const struct resource_config *config; /* NULL when restored from the ledger */
        struct queue *queue;                  /* NULL when the type is not queued, unless it is deferred */
        char *name;                           /* of the resource */
        char *value;                          /* NULL until loaded */
        void *data;                           /* the type's own */
        enum claim_state state;
        bool is_persistent;
        bool was_under_way;  /* restored: its load or release was under way when the last run ended */
        unsigned n_attempts; /* of this round of releases that failed */
        unsigned release_attempts;
        uint64_t release_timeout_usec;
        uint64_t state_usec;             /* when the state was entered */
        enum lease_failure wait_failure; /* while waiting: what it fails as, and why */
        const char *wait_reason;         /* a constant string */
        struct place place;              /* in the queue */
        struct timer timer;              /* the state's deadline */
        struct sync sync;                /* of its record */
        void (*secured)(struct claim *claim, int error);
};

/* One receiver a lease; called from the loop or from inside lease_load() and lease_release(). */
struct lease_callbacks {
        void (*loaded)(struct lease *lease, void *userdata);
        /* The first load that failed; the receiver calls lease_release() when it has ended the connection. */
        void (*failed)(struct lease *lease, enum lease_failure failure, void *userdata);
        /* Likewise, of what was loaded; lease->failed is that claim. Never once lease_release() was called. */
        void (*lost)(struct lease *lease, enum lease_loss loss, void *userdata);
        /*
         * A claim that loads wants the connection's socket for its program: returns the descriptor, which stays the
         * receiver's, blocking and with the greeting sent, or a negative errno. From here on what the peer sends is
         * the program's, and lease->program that claim. NULL: there is none to give.
         */
        int (*give_socket)(struct lease *lease, void *userdata);
        /* Everything is released or quarantined: the lease asks for nothing more; lease_free() it. */
        void (*settled)(struct lease *lease, void *userdata);
};

struct lease {
        struct leases *leases;
        struct config *born; /* keeps claim->config alive; NULL when restored from the ledger */
        struct lease_subject subject;
        struct event_ending
                ending; /* once it is releasing: for the release commands and the record `closed` */
        const struct lease_callbacks
                *callbacks; /* NULL: nobody waits any more, only quarantined claims are left */
        void *userdata;
        struct list link;            /* in leases->all */
        const struct claim *failed;  /* whose load failed first, or that was lost; or NULL */
        const struct claim *program; /* whose program has the socket; or NULL */
        char *loss_reason;  /* of a claim that was lost: "exit status 3"; NULL: none, or out of memory */
        int loss_status;    /* likewise, as in struct event_resource; -1: there is none */
        uint64_t born_usec; /* CLOCK_BOOTTIME: survives our restart; USEC_INFINITY: in another boot */
        size_t n_recorded;  /* claims of types that the ledger keeps */
        bool is_persistent; /* a claim is: the record outlives a reboot */
        bool has_record;    /* in the ledger, to append to */
        off_t kept_length;  /* of the record: behind it is only what came to nothing; 0: not known */
        bool is_rebooted;   /* the record is of an earlier boot */
        bool is_releasing;
        bool is_recovered; /* a crash ended its connection: the commands hear of it */
        bool is_settled;
        bool is_retried; /* once more before it settles: it was asked for while something else was being released */
        size_t n_claims;
        struct claim claims[];
};

/*
 * Takes no ownership of `subject`, whose strings are copied; refers to `born`. Returns 0 or -ENOMEM.
 */
int lease_new(struct lease **ret_lease, struct leases *leases, struct config *born,
              struct resource_config *const *resources, size_t n_resources,
              const struct lease_subject *subject, const struct lease_callbacks *callbacks, void *userdata);

/* Begins loading. Exactly one of `loaded` and `failed` follows, unless lease_release() comes first. */
void lease_load(struct lease *lease);

/* Begins releasing, once; `settled` follows. */
void lease_release(struct lease *lease, const struct event_ending *ending);

/*
 * For the ledger: a lease of an earlier run whose claims the caller fills in (lease_claim_init(), state
 * CLAIM_LOADED for what has to be released; one that is left as it is holds nothing). lease_release() then
 * releases it.
 */
int lease_new_empty(struct lease **ret_lease, struct leases *leases, size_t n_claims,
                    const struct lease_subject *subject);
int lease_claim_init(struct lease *lease, size_t i, const struct resource_type *type, const char *name);

void lease_set_callbacks(struct lease *lease, const struct lease_callbacks *callbacks, void *userdata);

/* Whether a claim of it stands in the ledger: only then is there anything to restore. */
bool lease_is_recorded(const struct lease *lease);

/* Whether somebody may be told all of the subject: `local` is then wanted before lease_load(). */
bool lease_tells_subject(const struct lease *lease);

/* Whether all that it holds can go on in the next process, with its connection. */
bool lease_outlives_us(const struct lease *lease);

/*
 * For a lease that the ledger restored and whose connection lived on: whether the last run had loaded all of it
 * and released none. Only then may it be taken up: the lease then goes on as any other that is loaded. What
 * types that are not recorded held (`none`) is lost, with its value. A lease without a recorded claim left no
 * record: there is none to take up.
 */
bool lease_is_loaded(const struct lease *lease);
void lease_take_up(struct lease *lease); /* asserts that it is */

/*
 * Drops the memory. A settled lease with quarantined claims lives on inside `leases` until they are released.
 * One that is not settled is abandoned: what is under way is killed, its ledger record stays for the next
 * start. Takes NULL.
 */
struct lease *lease_free(struct lease *lease);
DEFINE_CLEANUP(struct lease *, lease_free);

/* Whether a claim of it was given up for now. */
bool lease_is_quarantined(const struct lease *lease);

/* The resource whose load failed, or NULL. Borrowed. */
const char *lease_failed_resource(const struct lease *lease);

/* The value of a loaded resource of the lease, or NULL. */
const char *lease_value(const struct lease *lease, const char *resource);

/* Fills what the events need. */
void lease_event_connection(const struct lease *lease, struct event_connection *ret);

/* ---- for resource types ---- */

static inline struct loop *claim_loop(const struct claim *claim)
{
        return claim->lease->leases->loop;
}

/* Value: at most 4096 bytes, no control characters, else the load fails and is released. Copied. */
#define CLAIM_VALUE_MAX 4096
void claim_loaded(struct claim *claim, const char *value);

/*
 * `is_said`: the load itself said that it failed, so it left nothing behind. Otherwise (killed, timed out,
 * vanished) it may have, and is released. `exit_status` as in struct event_resource, -1: there is none.
 */
void claim_load_failed(struct claim *claim, bool is_said, int exit_status, const char *reason);

/* The load is refused for want of an item: it left nothing, whatever `on_load_failure` says. */
void claim_load_refused(struct claim *claim, const char *reason);

/*
 * From inside load() or release(): nothing was begun, for want of processes, memory or descriptors (`error`, an errno).
 * It waits, or waits again as the first of its queue, until there may be some; then it is called again.
 */
void claim_defer(struct claim *claim, int error);

/*
 * From inside load(), of a type that is not queued: nothing is begun yet, the claim waits for something that its type
 * knows. After `span_usec` the load fails as `failure`; when the connection ends first it is dropped. Both call drop().
 */
void claim_wait(struct claim *claim, uint64_t span_usec, enum lease_failure failure, const char *reason);
/* What it waited for has come: load() is called again, from in here or, where a record has to reach the disk, later. */
void claim_proceed(struct claim *claim);

/*
 * What was loaded ended by itself, and the connection depends on it: it ends, and the claim is released with all
 * others. Ignored once the lease is releasing. `exit_status` as above.
 */
void claim_lost(struct claim *claim, enum lease_loss loss, int exit_status, const char *reason);

/*
 * From inside load(), of at most one claim of a lease: the socket for its program, or a negative errno. Borrowed. It
 * is taken back where the load then says that it failed: no program ran.
 */
int claim_take_socket(struct claim *claim);
void claim_released(struct claim *claim);
void claim_release_failed(struct claim *claim, int exit_status, const char *reason);

/* The type changed `data` in a way that the ledger must know before it goes on. 0 or a negative errno. */
int claim_save(struct claim *claim);

/* The same, of what is nothing any more when this load or release is deferred, or the command of a release failed. */
int claim_note(struct claim *claim);
/* The same, in place of what this attempt noted before. */
int claim_note_anew(struct claim *claim);

/*
 * The same, and `secured` follows when the record is where the claim needs it: from inside this call, or for a
 * persistent one later, when it is on disk. `error`: 0 or a negative errno. Not when the load is stopped first.
 */
void claim_secure(struct claim *claim, void (*secured)(struct claim *claim, int error));

/* A line for the journal that the claim's command printed. */
void claim_output(struct claim *claim, const char *line);

/* For specifier_expand(): resolves %i %l %a %p %h and %{name} of earlier resources; userdata is the claim. */
const char *claim_specifier(void *claim, char letter, const char *name);

/*
 * The environment that interface.md promises to commands: everything that is known when the resource is
 * loaded (TETHERD_PHASE, TETHERD_VALUE and how it ended excepted). `extra`: the resource's `environment`,
 * templates. Returns 0, -ENOMEM, or RESOURCE_E_INVALID with a sentence.
 */
int claim_environment(struct claim *claim, char *const *extra, const char *user, const char *home,
                      char ***ret_environment, char **ret_reason);

/*
 * The command and the environment of a program that serves all connections: no specifier but %% is known there, and the
 * environment has TETHERD_RESOURCE alone of the names that interface.md lists. Returns as claim_environment().
 */
int program_words(char *const *templates, char ***ret_words, char **ret_reason);
int program_environment(const char *resource, char *const *extra, char ***ret_environment, char **ret_reason);

/* Adds to a copy of `base` what is known at this moment: TETHERD_PHASE=`phase`, and at release the value and the ending. */
int claim_phase_environment(const struct claim *claim, char *const *base, const char *phase,
                            char ***ret_environment);

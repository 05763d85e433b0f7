/*
 * resource: the interface that every resource type implements, and the table of types.
 *
 * A *claim* is one resource of one lease. The lease decides what happens to it and when (order, queue,
 * timeouts, attempts, ledger); the type only knows how to load and release one of its kind:
 *
 *      prepare   everything that load and release will need is expanded from templates into claim->data,
 *                before the ledger writes down the intent; a claim can be released from `data` alone
 *      load      begins; ends with exactly one claim_loaded() or claim_load_failed(), now or later. Where nothing
 *                can be begun it says claim_load_refused(), claim_wait() or claim_defer() instead, at once
 *      release   begins; ends with exactly one claim_released() or claim_release_failed(), now or later.
 *                What is already gone counts as released. May be called again after a failure; or claim_defer()
 *      stop      load or release under way is to end at once (time is up): it still ends with one of the above
 *      save      writes `data` as fields for the ledger; restore reads them back in a later run
 *      take_up   of what was restored and is loaded: its connection lived on, so it is not released but goes on
 *      drop      of a claim that said claim_wait(), or whose load() was not called yet, as after claim_proceed(): it
 *                will not be loaded, and gives up its place. Nothing was begun, nothing is told
 *      forget    frees `data`; nothing is under way then, or it is killed without waiting
 *
 * What the claims of a type share (the items of a pool, a bus) hangs in leases->shared[kind], which is the type's own:
 *
 *      configure a configuration takes effect, before anything is loaded that was born with it
 *      end       nothing is asked of it any more: what runs is to end, as it wants to be ended. Returns whether
 *                nothing runs; else leases->ended is called when it has ended, or part of it
 *      summarize writes what there is to know to the log, for SIGUSR1
 *      deinit    frees it; every claim is forgotten then
 */
#pragma once

#include "base/fields.h"
#include "base/list.h"
#include "base/words.h"
#include "config/config.h"
#include "loop/timer.h"

struct claim;
struct lease;
struct leases;

/* prepare and restore return 0, a negative errno, or this with a sentence for the log in *ret_reason. */
enum { RESOURCE_E_INVALID = 1 };

struct resource_type {
        const char *name;
        bool is_queued;    /* loads and releases are commands: max_concurrent bounds those under way */
        bool is_recorded;  /* a crash can leave something behind: the ledger keeps it */
        bool is_silent;    /* tells nobody of the connection, so that subject.local is not asked for */
        bool is_exclusive; /* is not released while a claim behind it is quarantined, and may still use it */
        bool ends_with_us; /* does not outlive the daemon: its connection is not handed to the next process */
        int (*prepare)(struct claim *claim, char **ret_reason);
        void (*load)(struct claim *claim);
        void (*release)(struct claim *claim);
        void (*stop)(struct claim *claim);
        int (*save)(const struct claim *claim, char ***fields); /* appends "name=value"; 0 or -ENOMEM */
        int (*restore)(struct claim *claim, char *const *fields, char **ret_reason);
        void (*take_up)(struct claim *claim); /* NULL: nothing has to be done for it */
        void (*drop)(struct claim *claim);    /* NULL: never waits */
        void (*forget)(struct claim *claim);
        int (*configure)(struct leases *leases,
                         const struct config *config); /* 0; or -ENOMEM, nothing changed */
        bool (*end)(struct leases *leases);
        void (*summarize)(const struct leases *leases);
        void (*deinit)(struct leases *leases);
};

extern const struct resource_type resource_type_none;
extern const struct resource_type resource_type_directory;
extern const struct resource_type resource_type_exec;
extern const struct resource_type resource_type_pool;
extern const struct resource_type resource_type_unit;
extern const struct resource_type resource_type_helper;
extern const struct resource_type resource_type_process;

const struct resource_type *resource_type_of(enum resource_kind kind); /* NULL: not in this version */
const struct resource_type *resource_type_find(const char *name);      /* NULL: no such type */

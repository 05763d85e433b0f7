/*
 * ledger: what has to be released if we die. One file a lease below RUNTIME_DIRECTORY/leases, named by the
 * connection's id, 0600 in a 0700 directory, text that a person can read. A file is a head and a sequence of
 * blocks, each appended in one write(2) and closed by a line with a single dot; the last complete block of a
 * claim counts, so a write that was cut short by a crash is as if it had not been made. It is not synced: the
 * runtime directory goes with the machine, as do the resources.
 *
 * Functions return 0 or a negative errno.
 */
#pragma once

#include "base/util.h"

struct ledger;
struct claim;
struct lease;
struct leases;
struct journal;

int ledger_open(struct ledger **ret_ledger, const char *runtime_directory);
struct ledger *ledger_free(struct ledger *ledger);
DEFINE_CLEANUP(struct ledger *, ledger_free);

/* Appends the claim as it is now; the first one creates the record. */
int ledger_save(struct ledger *ledger, const struct claim *claim);

/* Everything of the lease is released. Harmless where there is no record. */
int ledger_erase(struct ledger *ledger, const struct lease *lease);

/*
 * Makes a lease of every record that an earlier run left, through `found`, in the order of their ids; the
 * receiver owns it and sets its callbacks. A record that cannot be understood is logged, and set aside in
 * RUNTIME_DIRECTORY/set-aside.
 */
int ledger_restore(struct ledger *ledger, struct leases *leases, struct journal *journal,
                   void (*found)(struct lease *lease, void *userdata), void *userdata);

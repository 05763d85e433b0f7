/*
 * ledger: what has to be released if we die. One file a lease, text that a person can read (text.h), named by the
 * connection's id, 0600 in a 0700 directory:
 *
 *      RUNTIME_DIRECTORY/leases    where no claim of the lease is persistent. Not synced: this directory goes with
 *                                  the machine, as do the resources
 *      STATE_DIRECTORY/leases      where one is: the whole lease, so that its order is in one place. Synced by
 *                                  ledger_sync(), before the effect
 *
 * A file is a head and a sequence of blocks, each appended in one write(2) and closed by a line with a single dot;
 * the last complete block of a claim counts, so a write that was cut short by a crash is as if it had not been
 * made. A new file gets its name when its first block is in it. What a power cut does to the end of a file that
 * was not synced, to leave it out or full of zeros, counts as cut short, too.
 *
 * After a reboot, which the boot's id in the head tells, claims that are not persistent count as released: they
 * went with the machine. Of the others no process is signalled, and no device number compared, for both are
 * another's by now: a directory is known by its inode and its time of birth.
 *
 * Functions return 0 or a negative errno.
 */
#pragma once

#include "base/util.h"
#include "loop/sync.h"

struct ledger;
struct claim;
struct lease;
struct leases;
struct journal;

/* The directories may be the same one. */
int ledger_open(struct ledger **ret_ledger, struct loop *loop, const char *runtime_directory,
                const char *state_directory);
struct ledger *ledger_free(struct ledger *ledger);
DEFINE_CLEANUP(struct ledger *, ledger_free);

/* Appends the claim as it is now; the first one creates the record. */
int ledger_save(struct ledger *ledger, const struct claim *claim);

/*
 * What was written last was for an attempt that came to nothing, and others may follow: the record ends again where it
 * did after the first of them, or when it was restored, so that it does not grow with them. Whoever writes what has to
 * stay sets lease->kept_length to 0 before.
 */
int ledger_take_back(struct ledger *ledger, struct lease *lease);

/* Has the record written to disk, as it is now; `done` as in sync.h. */
int ledger_sync(struct ledger *ledger, const struct lease *lease, struct sync *sync, sync_fn done);

/*
 * Everything of the lease is released. Harmless where there is no record. That it is gone from the disk as well
 * is begun, and nobody waits for it: after a power cut in between, what was released is released again.
 */
int ledger_erase(struct ledger *ledger, const struct lease *lease);

/*
 * Makes a lease of every record that an earlier run left, through `found`, in the order of their ids; the
 * receiver owns it and sets its callbacks. A record that cannot be understood is logged, and set aside in
 * set-aside beside the directory where it was.
 */
int ledger_restore(struct ledger *ledger, struct leases *leases, struct journal *journal,
                   void (*found)(struct lease *lease, void *userdata), void *userdata);

/*
 * store: connections that outlive us, in the service manager's fd store: not one by one, which costs the manager
 * time that grows with their square, but packed. Up to 252 of them travel in one message (SCM_RIGHTS), with a
 * record of base/fields.h for each, into a socket pair; what the manager keeps is the two ends of the pair, and
 * more pairs where one is full.
 *
 * A store is one *generation*: everything that the manager holds under one name. The highest generation counts,
 * and is whole: it is handed over in one datagram after it was written, and only then an older one is removed.
 * Afterwards more may be appended, one by one, so that it works as a log; what ended stays in it as a dead entry
 * until a new generation is written. Reading consumes nothing (SO_PEEK_OFF, unix(7)), so whoever dies while
 * reading leaves everything to the next.
 *
 * A connection in a store is open twice: shutdown(2) before close(2), or the peer hears nothing of it.
 * RLIMIT_NOFILE bounds what one user may have in flight (ETOOMANYREFS), dead entries included.
 */
#pragma once

#include "base/util.h"
#include <stdio.h>

struct fds;
struct store;

/* An empty one, of which the manager knows nothing yet. 0 or -ENOMEM. */
int store_new(struct store **ret_store, uint64_t generation);
/* Closes our ends; what the manager has it keeps. Takes NULL. */
struct store *store_free(struct store *store);
DEFINE_CLEANUP(struct store *, store_free);

/*
 * Adds a connection; the descriptor stays the caller's. The record is what was written to store_record() since the
 * last call, closed by fields_write_end(). 0; or a negative errno, and then the store can only be freed.
 */
FILE *store_record(struct store *store); /* borrowed */
int store_add(struct store *store, int fd);

/* It ends: its entry, in whatever store, is dead from here on, and the peer hears of it. To be called before close(2). */
void store_bury(int fd);

/* Sends what was added, so that the store is whole. 0, or a negative errno as store_add(). */
int store_flush(struct store *store);

/*
 * Tells the manager of the pairs that it does not know yet. 0; -EAGAIN: it does not read just now, call again; or
 * another negative errno.
 */
int store_hand_over(struct store *store);

uint64_t store_generation(const struct store *store);
size_t store_n_entries(const struct store *store);

/* The manager forgets this generation. As store_hand_over(). */
int store_remove(uint64_t generation);

/*
 * Reads the highest generation among what the manager handed to us; takes all of them. `found` gets each connection
 * that lives: the descriptor is its own, the fields are borrowed. *ret_highest: 0 where there is none. *ret_all:
 * what is to be removed from the manager's store once everything is safe elsewhere, closed by a 0, owned by the
 * caller. 0; or a negative errno: some or all of it could not be read.
 */
typedef void (*store_fn)(int fd, char *const *fields, void *userdata);
int store_restore(struct fds *fds, store_fn found, void *userdata, uint64_t *ret_highest, uint64_t **ret_all);

/*
 * admission: who may come in. Pure: a peer goes in, with the time and the listener's configuration; whether it
 * is admitted comes out. No socket, no clock.
 *
 * The rules first: who is on `deny` is denied; where `allow` is empty everyone else may come, and where it is
 * not, only who is on it. So where `allow` lists CIDRs only, nobody comes in over a UNIX socket, and the other
 * way round. Then the limits of its source: an IPv4 address, an IPv6 /64 (of one interface, where it is
 * link-local), or the uid of a UNIX peer.
 *
 * accept_rate_per_source is a bucket of as many tokens, filled at that rate. An admission takes one; an attempt
 * that is rejected takes none, so that somebody who never stops trying still gets what the rate allows.
 */
#pragma once

#include "base/clock.h"
#include "base/rules.h"
#include "base/siphash.h"
#include "base/slab.h"
#include "config/config.h"

enum admission {
        ADMISSION_GRANTED,
        ADMISSION_DENIED,  /* cause `denied` */
        ADMISSION_LIMITED, /* cause `limit` */
};

/* What is known of one source while it has connections or its bucket is not full. */
struct source_entry;

/*
 * The sources of one listener, 64 bytes each. An entry that is not needed any more is dropped by a later
 * admission; each of them makes one entry at most and drops two, so there are never more than there were
 * connections at one time and admissions within one second.
 */
struct sources {
        struct slab slab;
        struct source_entry **chains; /* a hash table that grows and shrinks by one chain at a time */
        size_t n_chains;              /* in use; the array has room for the next power of two */
        size_t n_entries;
        struct list idle; /* without connections, the longest idle first */
        struct siphash_key key;
};

/* 0, or the negative errno of getentropy(3). Without limits nothing is ever allocated. */
int sources_init(struct sources *sources);
/* Asserts that every connection has left. */
void sources_deinit(struct sources *sources);

/*
 * Whether the peer may come in now. Returns an enum admission, or -ENOMEM when there is no memory to count it.
 * *ret_entry is only set when it is granted: where the connection is counted, for sources_leave(); NULL where
 * it is not, because max_connections_per_source is `infinity`.
 */
int admission_decide(struct sources *sources, const struct listener_config *config, const struct peer *peer,
                     uint64_t now_usec, struct source_entry **ret_entry);

/* Counts one that was granted in another process, whatever the limits say: *ret_entry as above. */
void sources_join(struct sources *sources, const struct listener_config *config, const struct peer *peer,
                  uint64_t now_usec, struct source_entry **ret_entry);

/* Where a peer that is counted is; NULL for another. So whoever counts need not keep it. */
struct source_entry *sources_find(const struct sources *sources, const struct peer *peer);

/* A connection that was granted is gone; takes NULL. */
void sources_leave(struct sources *sources, struct source_entry *entry);

/* For tests: asserts every invariant; returns the length of the longest chain. */
size_t sources_check(const struct sources *sources);

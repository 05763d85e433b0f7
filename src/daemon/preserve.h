/*
 * preserve: connections that live on while the daemon is replaced. With `restart` everything that is ready is
 * written to a store (service/store.h) when the daemon leaves. With `always` each connection is put into one as it
 * becomes ready, so that it outlives a crash as well; what ended stays there until it outweighs what lives, and
 * then a new generation is written. The next start takes up what it finds, whatever the key says by then.
 */
#pragma once

#include "connection/listener.h"

struct fds;
struct store;

struct preserve {
        struct connections *connections;
        struct store *log;        /* `always`: where each one is; else NULL */
        size_t n_written;         /* entries that the log began with */
        bool is_broken;           /* it could not be written; tried again in a while */
        uint64_t generation;      /* the last one that was used */
        uint64_t *removals;       /* generations that the manager still has to forget, closed by a 0 */
        struct timer retry;       /* while the manager does not read */
        uint64_t next_fault_usec; /* when a fault may be said again */
};

void preserve_init(struct preserve *preserve, struct connections *connections);
void preserve_deinit(struct preserve *preserve);

/*
 * The start: what an earlier process passed on lives on here. Needs the listeners, which do not accept yet, and the
 * restored leases: those that belong to a connection become its own, the others stay for the caller to release. One
 * whose listener is gone is ended with cause shutdown. Takes its descriptors out of `fds`. Returns how many leases it
 * took. The manager goes on keeping all of it until preserve_tell().
 */
size_t preserve_take_up(struct preserve *preserve, struct fds *fds, struct listeners *listeners);

/* `always`, after preserve_take_up(): begins the log. 0 or a negative errno. */
int preserve_begin_log(struct preserve *preserve);

/* The manager hears what it has not been told yet: what is new, then what it may forget. Harmless at any time. */
void preserve_tell(struct preserve *preserve);

/* A connection is ready. Without a log nothing happens. */
void preserve_append(struct preserve *preserve, const struct connection *connection);

/* Connections go on, but none outlives us any more. */
void preserve_end_log(struct preserve *preserve);

/* How many there are to be passed on. */
size_t preserve_n_ready(const struct connections *connections);

/* For the end of each turn: writes the log anew when most of it is dead. Cheap. */
void preserve_tick(struct preserve *preserve);

/*
 * The end: passes on everything that is ready. 0, and then it is gone from here; -EAGAIN: the manager does not read
 * just now; or another negative errno. Unless it is 0 nothing happened.
 */
int preserve_hand_over(struct preserve *preserve);

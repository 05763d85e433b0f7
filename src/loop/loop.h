/*
 * loop: edge-triggered epoll, mirrored into a ready list (← dbus-broker's dispatch).
 *
 * A turn: fetch kernel events and merge them into each source's `pending`; fire due timers; call each source that
 * has news once, and after them, in the order of their coming and for a limited time, those whose news is an end;
 * call those that were called before and are still ready, in rotation and for a limited time; bury the dead; call the
 * end-of-turn hook. The kernel tells each edge once and we remember it in `pending` until somebody who saw EAGAIN
 * clears it, so a source may stop in the middle (budget, pause) and nothing is lost. Nothing else runs while events
 * are collected, and source_deinit() takes the source out of the ready list, so an event for a closed descriptor
 * cannot reach its successor.
 *
 * All functions return 0 or a negative errno. Nothing here logs.
 */
#pragma once

#include "base/list.h"
#include "loop/timer.h"
#include <stdint.h>
#include <sys/epoll.h>

struct loop;
struct source;
struct sd_event;
typedef void (*source_fn)(struct source *source);

/*
 * A descriptor in the loop. The descriptor stays the caller's. `ready` is called while (pending & wanted), at
 * most once a turn. The kernel always tells EPOLLERR and EPOLLHUP; whether they wake is `wanted` alone.
 */
struct source {
        struct list ready_link;
        source_fn ready;
        int fd;           /* -1: not registered */
        uint16_t pending; /* EPOLL* seen and not yet used up */
        uint16_t wanted;
};

/* What is put aside until the end of the turn. */
struct grave {
        struct grave *next;
        void (*bury)(struct grave *grave);
};

int loop_new(struct loop **ret_loop);
struct loop *loop_free(struct loop *loop); /* asserts that no source and no timer is left; takes NULL */
DEFINE_CLEANUP(struct loop *, loop_free);

/* CLOCK_MONOTONIC, read once a turn. */
uint64_t loop_now(const struct loop *loop);
/* Reads it again: for who was long about something before the first turn. */
void loop_update_now(struct loop *loop);
struct wheel *loop_wheel(struct loop *loop);

/* The embedded sd-event, for signals and the bus. */
struct sd_event *loop_event(struct loop *loop);
/* To be called after asking something of a bus that is attached to it, but for callbacks of sd-event itself. */
void loop_event_changed(struct loop *loop);

/*
 * Called at the end of every turn, when nothing else runs any more. Returns until when (CLOCK_MONOTONIC) the next turn
 * may wait for news: 0 not at all, nor does the first one; USEC_INFINITY as long as there is none.
 */
void loop_set_turn_hook(struct loop *loop, uint64_t (*hook)(void *userdata), void *userdata);

/* Runs turns until loop_exit(); returns the status given there, or a negative errno (epoll itself failed). */
int loop_run(struct loop *loop);
/* One turn, waiting at most `timeout_usec`; for tests and for loop_run(). */
int loop_turn(struct loop *loop, uint64_t timeout_usec);
void loop_exit(struct loop *loop, int status);

/* Calls grave->bury at the end of this turn. */
void loop_bury(struct loop *loop, struct grave *grave, void (*bury)(struct grave *grave));

/* `events` is what to register with the kernel, EPOLLET is added; `wanted` as in struct source. */
int source_init(struct source *source, struct loop *loop, int fd, uint32_t events, uint32_t wanted,
                source_fn ready);
/* Deregisters; before close(2), since a dup of the descriptor may live on (epoll(7), Q6). Idempotent. */
void source_deinit(struct source *source, struct loop *loop);

/*
 * Registers other events with the kernel, for good: those that nobody will want any more would still wake the loop.
 * What holds of them now is told.
 */
int source_register(struct source *source, struct loop *loop, uint32_t events);

/* Changes what the source is woken for; an event seen earlier wakes it now. No system call. */
void source_want(struct source *source, struct loop *loop, uint32_t wanted);

/* EAGAIN was seen: forget these events until the kernel tells them again. */
static inline void source_clear(struct source *source, uint32_t events)
{
        source->pending &= (uint16_t)~events;
}

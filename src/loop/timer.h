/*
 * timer: deadlines in a hierarchical timing wheel: eight levels of 64 slots, a tick of one millisecond.
 * Arming, disarming and firing cost O(1) however many timers there are (firing: at most one move a level).
 * A timer fires late by less than a tick plus the turn under way, never early. Nothing here reads a clock:
 * the loop tells the wheel what time it is, and so do tests.
 */
#pragma once

#include "base/clock.h"
#include "base/list.h"

struct timer;
typedef void (*timer_fn)(struct timer *timer);

/* Embedded in what it belongs to. `fire` may arm it again, disarm any other, or free its owner. */
struct timer {
        struct list link;
        uint64_t deadline_usec; /* USEC_INFINITY: not armed */
        timer_fn fire;
};

#define WHEEL_LEVELS 8
#define WHEEL_SLOTS  64

struct wheel {
        uint64_t tick; /* everything due at or before it has been moved to `due` */
        struct list due;
        unsigned occupied; /* bit l: levels[l].occupied is not 0; a set bit may be stale */
        struct wheel_level {
                uint64_t occupied;              /* bit s: slots[s] is not empty; likewise, after a disarm */
                uint64_t earliest[WHEEL_SLOTS]; /* deadline, a lower bound */
                struct list slots[WHEEL_SLOTS];
        } levels[WHEEL_LEVELS];
};

void wheel_init(struct wheel *wheel, uint64_t now_usec);
void wheel_deinit(struct wheel *wheel); /* asserts that no timer is armed */

void timer_init(struct timer *timer, timer_fn fire);

/* Moves the deadline if the timer is armed already; USEC_INFINITY disarms. A deadline in the past is due at once. */
void timer_arm(struct wheel *wheel, struct timer *timer, uint64_t deadline_usec);
void timer_disarm(struct timer *timer);
static inline bool timer_is_armed(const struct timer *timer)
{
        return timer->deadline_usec != USEC_INFINITY;
}

/* Fires what is due at now_usec; what a callback arms for a past time waits for the next call. */
void wheel_run(struct wheel *wheel, uint64_t now_usec);

/* When wheel_run() has something to do next: a lower bound of the earliest deadline, USEC_INFINITY when idle. */
uint64_t wheel_next(struct wheel *wheel);

/* For tests: walks everything and asserts the invariants; returns the number of armed timers. */
size_t wheel_check(const struct wheel *wheel);

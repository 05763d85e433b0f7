/*
 * queue: whose turn it is. The commands of one resource, whichever lease they belong to, have a place each: at most
 * n_max are under way at once, releases come before loads, and of each kind the one that has waited for the longest.
 *
 * Who wants a turn is put into `loads` or `releases` (at the head, if it had its turn and could not use it), and then
 * queue_run() says whose it is, by `load` or `release`, which take it by queue_enter(). A command may end at once, and
 * come back in here.
 *
 * A queue is *starved* when a command could not be started for want of processes, memory or descriptors: nobody has a
 * turn until STARVE_RETRY_USEC later.
 *
 * It owns its name, and nothing of those who wait; nothing in here can fail.
 */
#pragma once

#include "loop/loop.h"

/* What could not be started for want of something is tried again after this. */
#define STARVE_RETRY_USEC \
        (50 * USEC_PER_MSEC) /* a listener looks as often: accepting goes on within twice that */

/* Who all have something to start and cannot: accepting pauses while there are any. */
struct starvation {
        size_t n;
        int error; /* why not: an errno, of whoever came last */
};

/* 0: as far as we know, whatever there is to start can be started. */
static inline int starvation_error(const struct starvation *starvation)
{
        return starvation->n > 0 ? starvation->error : 0;
}

static inline void starvation_join(struct starvation *starvation, int error)
{
        starvation->n++;
        starvation->error = error;
}

static inline void starvation_leave(struct starvation *starvation)
{
        assert(starvation->n > 0);
        starvation->n--;
}

/* Embedded in whoever has turns. */
struct place {
        struct list link;    /* in one of the lists of its queue, or none */
        uint64_t since_usec; /* it waits, or has waited */
};

struct queue {
        struct list link; /* its owner's */
        char *name;       /* of the resource; NULL: there is none */
        unsigned n_max;
        unsigned n_under_way;
        bool is_configured; /* its owner's: n_max is what a configuration says */
        bool is_running;    /* queue_run() is at work further up the stack */
        bool is_starved;
        struct loop *loop;
        struct starvation *starvation;
        void (*load)(struct place *place); /* its turn has come, and it is in no list any more */
        void (*release)(struct place *place);
        struct timer retry;
        struct list releases; /* places that wait, the longest first */
        struct list loads;
        struct list under_way;
};

void queue_init(struct queue *queue, unsigned n_max, struct loop *loop, struct starvation *starvation,
                void (*load)(struct place *place), void (*release)(struct place *place));
void queue_deinit(struct queue *queue);

void queue_run(struct queue *queue);
/* It is under way now. */
void queue_enter(struct queue *queue, struct place *place);
/* It is not, and nobody else has its turn yet: whoever calls this knows what is next. */
void queue_take_back(struct queue *queue, struct place *place);
/* It has ended: the next one has its turn. */
void queue_leave(struct queue *queue, struct place *place);
/* One could not be started, for this errno. */
void queue_starve(struct queue *queue, int error);

/* Whether somebody waits although there is a free place: a fault of ours. */
bool queue_is_stuck(const struct queue *queue);

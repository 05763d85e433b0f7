/*
 * bus: systemd, asked to start and stop units over the system bus (org.freedesktop.systemd1(5)), and heard of what
 * becomes of them. One connection for all, kept, and made again when it breaks; it never waits.
 *
 * Whatever is asked is answered once, from the loop, never from in here; or it is taken back. No more than the bus
 * allows are under way at a time, the others wait in order. While there is no bus they wait as well: what was not sent
 * yet is not lost. What was sent when the connection broke is answered BUS_LOST.
 */
#pragma once

#include "base/clock.h"
#include "loop/loop.h"

struct bus;
struct bus_call;
struct sd_bus;
struct sd_bus_slot;

enum bus_request {
        BUS_START,
        BUS_STOP,
        BUS_LOOK, /* at the unit's state */
};

enum bus_outcome {
        BUS_ANSWERED,
        BUS_REFUSED,
        BUS_DENIED,  /* polkit, or the bus itself, does not let us */
        BUS_NO_UNIT, /* it is not loaded, or there is none */
        BUS_LOST,    /* the connection broke before the answer came: nobody knows whether it was done */
};

/* Valid while the callback runs. */
struct bus_answer {
        enum bus_outcome outcome;
        const char *reason;   /* where it was refused, denied, or is no unit; perhaps "" */
        uint32_t job;         /* BUS_START, BUS_STOP: what was queued. BUS_LOOK: what is queued; 0: nothing */
        const char *job_type; /* BUS_LOOK: "start", "stop", …; "" */
        const char *active_state; /* BUS_LOOK: "active", "inactive", … */
        const char *name;         /* BUS_LOOK: the unit's own, where it was asked for by an alias */
};

typedef void (*bus_answered_fn)(struct bus_call *call, const struct bus_answer *answer);

/* Embedded in who asks; one thing at a time. */
struct bus_call {
        struct list link;
        struct bus *bus;          /* NULL: nothing is asked */
        struct sd_bus_slot *slot; /* NULL: not sent yet */
        enum bus_request request;
        const char *unit; /* borrowed */
        const char *mode;
        bus_answered_fn answered;
};

struct bus_callbacks {
        /* A new connection: what was heard before may be out of date. `was_missed`: as told before. */
        void (*came)(struct bus *bus, bool was_missed);
        /* There has been no bus for BUS_PATIENCE_USEC; bus_absence() says why. Once, until it came again. */
        void (*missed)(struct bus *bus);
        void (*job_removed)(struct bus *bus, uint32_t job, const char *unit, const char *result);
        void (*unit_changed)(struct bus *bus, const char *unit, const char *active_state);
};

#define BUS_PATIENCE_USEC (5 * USEC_PER_SEC)

enum bus_state {
        BUS_ASLEEP,  /* nobody needs it */
        BUS_AWAY,    /* until the next attempt */
        BUS_OPENING, /* until it and systemd have answered */
        BUS_READY,
};

struct bus {
        struct loop *loop;
        const struct bus_callbacks *callbacks;
        enum bus_state state;
        struct sd_bus *bus; /* while opening and ready */
        char *systemd;      /* its unique name on the bus; NULL: not known */
        struct timer timer; /* the next attempt, or the end of this one */
        uint64_t pause_usec;
        struct timer patience;
        bool is_missed;
        char reason[128];    /* why it is not there */
        struct list waiting; /* calls that are not sent */
        struct list sent;
        size_t n_sent;
};

void bus_init(struct bus *bus, struct loop *loop, const struct bus_callbacks *callbacks);
void bus_deinit(struct bus *bus); /* asserts that nothing is asked */

/* Connects, without having anything to ask yet. Idempotent. */
void bus_wake(struct bus *bus);

/* NULL: it is there, or was a moment ago. Else why not; valid until the next turn. */
const char *bus_absence(const struct bus *bus);

void bus_call_init(struct bus_call *call);

/*
 * `unit` and, for BUS_START and BUS_STOP, the job's `mode` stay the caller's, unchanged until it is answered. Nothing
 * may be asked with this call already.
 */
void bus_ask(struct bus *bus, struct bus_call *call, enum bus_request request, const char *unit,
             const char *mode, bus_answered_fn answered);

/* Takes it back: there will be no answer. What was sent is done nevertheless. Idempotent. */
void bus_call_cancel(struct bus_call *call);

static inline bool bus_call_is_sent(const struct bus_call *call)
{
        return call->slot;
}

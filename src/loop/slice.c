/* The time slice. Deliberately not here: nice values and policies, which are for whoever runs us to choose. */
#include "loop/slice.h"
#include "base/util.h"
#include <sched.h>
#include <sys/syscall.h>

#define SHORTEST_NSEC 100000

/* The kernel's struct sched_attr, as it was at first; its header and that of the C library exclude each other. */
struct scheduling {
        uint32_t size;
        uint32_t policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime; /* of SCHED_OTHER: the slice, in ns */
        uint64_t deadline, period;
};

static struct scheduling before; /* zeroed: not changed */

static int change(struct scheduling *scheduling)
{
        return (int)syscall(SYS_sched_setattr, 0, scheduling, 0);
}

void slice_shorten(void)
{
        struct scheduling now = { 0 };

        if (syscall(SYS_sched_getattr, 0, &now, sizeof(now), 0) < 0 || now.policy != SCHED_OTHER)
                return;
        struct scheduling shortened = now;
        shortened.runtime = SHORTEST_NSEC;
        if (change(&shortened) == 0)
                before = now;
}

void slice_restore(void)
{
        if (before.size > 0)
                (void)change(&before);
}

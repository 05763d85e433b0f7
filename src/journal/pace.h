/*
 * pace: which turn of the loop sends the records that are staged. Waking journald is the most of what a record costs,
 * so records that come close together go together. It reads no clock and sends nothing.
 */
#pragma once

#include "base/clock.h"
#include "base/util.h"

/* So many go at once: more would keep journald, and a CPU, for longer than others like to wait. */
#define PACE_MANY 8

/* Who sends more often than each so often waits, at most so long; a burst of what fits in that wait does not. */
#define PACE_EACH_USEC 2500
#define PACE_WAIT_USEC (20 * USEC_PER_MSEC)

/* Zeroed: nothing was sent yet. */
struct pace {
        uint64_t owed_usec; /* what is staged goes then at the latest; 0: nothing is */
        uint64_t sent_usec; /* ahead of now by what was sent of late */
};

/*
 * At the end of a turn, with `n_staged` records. USEC_INFINITY: they go now, and are counted as sent; or there are none.
 * Else until when the next turn may wait: not at all (0), so that a life that ends as it began sends both its records
 * together, or to the time when they have waited long enough.
 */
uint64_t pace_wait(struct pace *pace, uint64_t now_usec, size_t n_staged);

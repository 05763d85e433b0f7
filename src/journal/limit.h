/*
 * limit: at most so many rejections a second for each listener and cause; the rest is counted. It reads no
 * clock and writes no record.
 */
#pragma once

#include "base/clock.h"
#include "base/util.h"

#define LIMIT_PER_SECOND 10
#define LIMIT_PAIRS      64 /* listeners and causes told apart at a time; all that come later share one entry */
#define LIMIT_NAME_MAX   33

struct limit_entry {
        char listener[LIMIT_NAME_MAX]; /* "" and "": all that found no entry of their own */
        char cause[LIMIT_NAME_MAX];
        uint64_t begin_usec; /* of its second */
        unsigned n_passed;
        uint64_t n_more; /* were not written */
};

/* Zeroed: nothing was seen yet. */
struct limit {
        size_t n_entries;
        struct limit_entry entries[LIMIT_PAIRS + 1];
};

/* Whether this one may be written; counts it otherwise. */
bool limit_allows(struct limit *limit, const char *listener, const char *cause, uint64_t now_usec);

/*
 * Takes out one entry whose second is over, with its count, which may be 0. Returns whether there was one.
 * USEC_INFINITY as time: all of them are over.
 */
bool limit_take_over(struct limit *limit, uint64_t now_usec, struct limit_entry *ret_entry);

/* When the first second with something to tell is over; USEC_INFINITY: there is nothing to tell. */
uint64_t limit_next(const struct limit *limit);

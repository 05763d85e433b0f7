/*
 * clock: time is a count of microseconds, absolute ones on CLOCK_MONOTONIC unless a name says otherwise.
 * USEC_INFINITY is "never"; deadline_after() saturates there instead of wrapping around.
 */
#pragma once

#include <stdint.h>
#include <time.h>

#define USEC_PER_MSEC UINT64_C(1000)
#define USEC_PER_SEC  UINT64_C(1000000)
#define USEC_INFINITY UINT64_MAX

static inline uint64_t clock_usec(clockid_t clock)
{
        struct timespec ts = { 0 };

        (void)clock_gettime(clock, &ts); /* fails only for a clock that does not exist */
        return (uint64_t)ts.tv_sec * USEC_PER_SEC + (uint64_t)ts.tv_nsec / 1000;
}

static inline uint64_t deadline_after(uint64_t now_usec, uint64_t span_usec)
{
        return span_usec >= USEC_INFINITY - now_usec ? USEC_INFINITY : now_usec + span_usec;
}

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

/*
 * A span in 32 bits, for what is kept as often as there are connections: exact below 17 minutes, and above that
 * rounded up by less than a millionth. A longer span is never packed into a smaller number.
 */
#define SPAN_BITS      30 /* above them: how many times it was divided by 1024 */
#define SPAN_UNIT_BITS 10

static inline uint32_t span_pack(uint64_t usec)
{
        uint32_t n_divided = 0;

        if (usec > USEC_INFINITY >> 5) /* 18,000 years: the most that fits */
                usec = USEC_INFINITY >> 5;
        for (; usec >> SPAN_BITS; n_divided++)
                usec = (usec + (1 << SPAN_UNIT_BITS) - 1) >> SPAN_UNIT_BITS;
        return n_divided << SPAN_BITS | (uint32_t)usec;
}

static inline uint64_t span_unpack(uint32_t packed)
{
        return (uint64_t)(packed & ((1U << SPAN_BITS) - 1)) << SPAN_UNIT_BITS * (packed >> SPAN_BITS);
}

static inline uint64_t deadline_after(uint64_t now_usec, uint64_t span_usec)
{
        return span_usec >= USEC_INFINITY - now_usec ? USEC_INFINITY : now_usec + span_usec;
}

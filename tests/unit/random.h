/*
 * random: what a test that plays at random needs: a seed that is printed, so that a failure can be played
 * again with TEST_SEED=…, and small numbers from it (xorshift64*).
 */
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static uint64_t random_state;

static inline void random_seed(void)
{
        const char *given = getenv("TEST_SEED");
        struct timespec now = { 0 };

        (void)clock_gettime(CLOCK_REALTIME, &now);
        random_state =
                given ? strtoull(given, NULL, 0) : (uint64_t)now.tv_sec * 1000003 + (uint64_t)now.tv_nsec;
        random_state |= 1;
        printf("TEST_SEED=%llu\n", (unsigned long long)random_state);
        (void)fflush(stdout);
}

static inline uint64_t random_next(void)
{
        random_state ^= random_state >> 12;
        random_state ^= random_state << 25;
        random_state ^= random_state >> 27;
        return random_state * UINT64_C(2685821657736338717);
}

/* 0 to n - 1 */
static inline uint64_t random_below(uint64_t n)
{
        return (random_next() >> 11) % n;
}

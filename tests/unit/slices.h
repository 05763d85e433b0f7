/*
 * slices: bytes as a network may bring them: one at a time, two at a time, all at once, or cut at random
 * (random.h). Each slice is a copy in memory of exactly its size, so that a sanitizer sees a read beyond it.
 */
#pragma once

#include "random.h"
#include "unit.h"

#include "base/util.h"

#define N_SLICINGS 30

/* A string literal with NULs in it, and its length. */
#define BYTES(b) (b), sizeof(b) - 1

/* The size of the next slice of `n_left` bytes, when they are cut in way number `slicing`. */
static inline size_t slice_size(unsigned slicing, size_t n_left)
{
        if (slicing < 2)
                return MIN((size_t)slicing + 1, n_left);
        return slicing == 2 ? n_left : (size_t)random_below(n_left) + 1;
}

static inline char *slice_copy(const char *bytes, size_t n)
{
        char *slice = malloc(n);

        ck_assert_ptr_nonnull(slice);
        return memcpy(slice, bytes, n);
}

/*
 * siphash: SipHash-2-4 (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012) of 16 bytes: a hash
 * that nobody without the key can make collide.
 */
#pragma once

#include <stdint.h>

struct siphash_key {
        uint64_t k0, k1;
};

static inline uint64_t siphash_rotate(uint64_t x, unsigned n)
{
        return x << n | x >> (64 - n);
}

static inline void siphash_rounds(uint64_t v[static 4], unsigned n)
{
        while (n-- > 0) {
                v[0] += v[1];
                v[1] = siphash_rotate(v[1], 13) ^ v[0];
                v[0] = siphash_rotate(v[0], 32);
                v[2] += v[3];
                v[3] = siphash_rotate(v[3], 16) ^ v[2];
                v[0] += v[3];
                v[3] = siphash_rotate(v[3], 21) ^ v[0];
                v[2] += v[1];
                v[1] = siphash_rotate(v[1], 17) ^ v[2];
                v[2] = siphash_rotate(v[2], 32);
        }
}

/* Of the bytes of `a` and `b`, little endian. */
static inline uint64_t siphash(const struct siphash_key *key, uint64_t a, uint64_t b)
{
        uint64_t v[4] = { key->k0 ^ UINT64_C(0x736f6d6570736575), key->k1 ^ UINT64_C(0x646f72616e646f6d),
                          key->k0 ^ UINT64_C(0x6c7967656e657261), key->k1 ^ UINT64_C(0x7465646279746573) };
        const uint64_t words[] = { a, b, UINT64_C(16) << 56 }; /* the last one holds the length */

        for (unsigned i = 0; i < 3; i++) {
                v[3] ^= words[i];
                siphash_rounds(v, 2);
                v[0] ^= words[i];
        }
        v[2] ^= 0xff;
        siphash_rounds(v, 4);
        return v[0] ^ v[1] ^ v[2] ^ v[3];
}

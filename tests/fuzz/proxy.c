/*
 * Fuzzes connection/proxy. The first byte says how the rest is cut into slices; the verdict must not depend on
 * it, and must be that of a plain reader of version 2 who has the whole header before him.
 */
#include "connection/proxy.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HEAD ((size_t)16)

static uint32_t crc32c(const uint8_t *bytes, size_t n)
{
        uint32_t crc = UINT32_MAX;

        for (size_t i = 0; i < n; i++)
                for (unsigned bit = 0; bit < 8; bit++)
                        crc = crc >> 1 ^ (((crc ^ bytes[i] >> bit) & 1) ? UINT32_C(0x82f63b78) : 0);
        return ~crc;
}

/* Of a header that is complete and whose first 16 bytes were found good: its TLVs and its checksum. */
static bool block_is_good(const uint8_t *header, size_t n)
{
        static const size_t n_addresses[] = { 0, 12, 36, 216 }; /* by family */
        size_t at = HEAD + n_addresses[header[13] >> 4], checksum_at = 0;
        uint8_t blanked[HEAD + PROXY_BLOCK_MAX];
        uint32_t checksum;

        while (at < n) {
                if (n - at < 3 || n - at - 3 < (size_t)(header[at + 1] << 8 | header[at + 2]))
                        return false;
                if (header[at] == 3) {
                        if (checksum_at != 0 || header[at + 1] != 0 || header[at + 2] != 4)
                                return false;
                        checksum_at = at + 3;
                }
                at += 3 + (size_t)(header[at + 1] << 8 | header[at + 2]);
        }
        if (checksum_at == 0)
                return true;
        checksum = (uint32_t)header[checksum_at] << 24 | (uint32_t)header[checksum_at + 1] << 16 |
                   (uint32_t)header[checksum_at + 2] << 8 | header[checksum_at + 3];
        memcpy(blanked, header, n);
        memset(blanked + checksum_at, 0, 4);
        return crc32c(blanked, n) == checksum;
}

static enum proxy_result feed_sliced(struct proxy *p, const uint8_t *bytes, size_t n, size_t seed,
                                     size_t *ret_n_used)
{
        enum proxy_result result = PROXY_MORE;
        size_t n_fed = 0, n_used;

        proxy_init(p);
        for (size_t i = 0; result == PROXY_MORE && n_fed < n; i++) {
                size_t n_slice = MIN(1 + seed * i % 41, n - n_fed);
                _cleanup_free_ uint8_t *slice = malloc(n_slice);

                assert(slice && proxy_room(p) >= 1);
                memcpy(slice, bytes + n_fed, n_slice);
                result = proxy_feed(p, slice, n_slice, &n_used);
                assert(n_used <= n_slice && (result != PROXY_MORE || n_used == n_slice));
                n_fed += n_used;
        }
        *ret_n_used = n_fed;
        return result;
}

static void check_done(const struct proxy *p, const uint8_t *bytes, size_t n)
{
        uint16_t family = p->source.family;

        assert(family == AF_UNSPEC || family == AF_INET || family == AF_INET6 || family == AF_UNIX);
        assert((family == AF_UNSPEC) == (p->destination.family == AF_UNSPEC));
        if (bytes[0] == 'P') {
                assert(n <= PROXY_LINE_MAX && bytes[n - 2] == '\r' && bytes[n - 1] == '\n');
                return;
        }
        assert(n == HEAD + (size_t)(bytes[14] << 8 | bytes[15]));
        assert(p->is_local ? family == AF_UNSPEC : block_is_good(bytes, n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct proxy whole, sliced;
        size_t n_whole = 0, n_sliced;

        if (size < 1)
                return 0;
        proxy_init(&whole);
        enum proxy_result result = proxy_feed(&whole, data + 1, size - 1, &n_whole);
        assert(feed_sliced(&sliced, data + 1, size - 1, data[0], &n_sliced) == result);
        assert(n_whole == n_sliced && n_whole <= size - 1);
        assert(whole.fault == sliced.fault && whole.is_local == sliced.is_local);
        assert(memcmp(&whole.source, &sliced.source, sizeof(whole.source)) == 0);
        assert(memcmp(&whole.destination, &sliced.destination, sizeof(whole.destination)) == 0);

        assert((result == PROXY_BAD) == (whole.fault != NULL));
        if (result == PROXY_DONE)
                check_done(&whole, data + 1, n_whole);
        if (result == PROXY_BAD && data[1] != 'P' && n_whole > HEAD && size - 1 >= whole.n_total)
                assert(!block_is_good(data + 1, whole.n_total));
        return 0;
}

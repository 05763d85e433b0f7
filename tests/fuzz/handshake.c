/*
 * Fuzzes connection/handshake: the first byte says what is wanted, the second how the rest is cut into slices.
 * The verdict must not depend on the slices, and an identity must be what stands before the end of the line.
 */
#include "connection/handshake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
        enum handshake_result result;
        size_t n_used;
        const char *fault;
        char *identity;
        bool is_local;
        bool has_addresses;
        struct address source, destination;
};

/* As from a socket: what is looked at is no more than handshake_room(), and what is left is looked at again. */
static void play(struct outcome *ret, const uint8_t *data, size_t size, size_t seed)
{
        bool is_proxied = data[0] & 1, has_hello = !is_proxied || data[0] & 2;
        _cleanup_(handshake_freep) struct handshake *h = NULL;
        size_t hello_max = 1 + (data[0] >> 2), n_used;

        *ret = (struct outcome){ .result = HANDSHAKE_MORE };
        if (handshake_new(&h, is_proxied, has_hello, hello_max) < 0)
                abort();
        for (size_t i = 0; ret->result == HANDSHAKE_MORE && ret->n_used < size - 2; i++) {
                size_t n_room = handshake_room(h), n_there = MIN(n_room, size - 2 - ret->n_used);
                size_t n_slice = seed ? MIN(1 + seed * i % 41, n_there) : n_there;
                _cleanup_free_ uint8_t *slice = malloc(n_slice);

                assert(slice && n_room >= 1);
                memcpy(slice, data + 2 + ret->n_used, n_slice);
                ret->result = handshake_feed(h, slice, n_slice, &n_used);
                assert(n_used <= n_slice && (ret->result != HANDSHAKE_MORE || n_used == n_slice));
                ret->n_used += n_used;
        }
        ret->fault = handshake_fault(h);
        assert((ret->result == HANDSHAKE_BAD) == (ret->fault != NULL));
        if (ret->result != HANDSHAKE_DONE)
                return;
        ret->identity = handshake_take_identity(h);
        ret->is_local = handshake_is_local(h);
        ret->has_addresses = handshake_proxied(h, &ret->source, &ret->destination);
        assert((ret->identity != NULL) == (has_hello && !ret->is_local));
        assert(is_proxied || (!ret->is_local && !ret->has_addresses));
        assert(!ret->identity || (strlen(ret->identity) >= 1 && strlen(ret->identity) <= hello_max));
}

static void check_identity(const char *identity, const uint8_t *line_end)
{
        size_t n = strlen(identity), n_end = line_end[-2] == '\r' ? 2 : 1;

        assert(line_end[-1] == '\n');
        assert(memcmp(identity, line_end - n_end - n, n) == 0);
        assert(!strchr(".:@-", identity[0]) && !strstr(identity, ".."));
        assert(strspn(identity, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._:@-") == n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        struct outcome whole, sliced;

        if (size < 2)
                return 0;
        play(&whole, data, size, 0);
        play(&sliced, data, size, 1 + data[1]);
        assert(whole.result == sliced.result && whole.n_used == sliced.n_used);
        assert(whole.fault == sliced.fault && whole.is_local == sliced.is_local);
        assert(whole.has_addresses == sliced.has_addresses);
        assert(memcmp(&whole.source, &sliced.source, sizeof(whole.source)) == 0);
        assert(memcmp(&whole.destination, &sliced.destination, sizeof(whole.destination)) == 0);
        assert(!whole.identity == !sliced.identity);
        if (whole.identity) {
                assert(streq(whole.identity, sliced.identity));
                check_identity(whole.identity, data + 2 + whole.n_used);
        }
        free(whole.identity);
        free(sliced.identity);
        return 0;
}

/*
 * ring: the records that wait to be sent, first in, first out, in chunks of memory that are given back to the
 * kernel as they empty. It has no bound of its own: journal decides what may come in.
 */
#pragma once

#include "base/util.h"

/* One record; `data` is a datagram of journald's native protocol. */
struct ring_entry {
        uint64_t sequence;
        size_t size;
        size_t message_offset;
        size_t message_size;
        int priority;
        char data[];
};

struct ring_chunk;

/* Zeroed: empty. */
struct ring {
        struct ring_chunk *first;
        struct ring_chunk *last;
        size_t n_entries;
        size_t n_bytes; /* of the entries, with what precedes each */
};

void ring_deinit(struct ring *ring); /* what is left is dropped */

/* Copies *entry, without its `data`, and entry->size bytes of `data`. Returns 0 or -ENOMEM. */
int ring_append(struct ring *ring, const struct ring_entry *entry, const char *data);

/* Borrows the first entries, at most `n`, oldest first, until they are popped. Returns how many there were. */
size_t ring_peek(const struct ring *ring, const struct ring_entry **ret_entries, size_t n);

/* The oldest entry and its removal; there must be one. */
const struct ring_entry *ring_first(const struct ring *ring);
void ring_pop(struct ring *ring);

/* For tests: asserts the invariants; returns how much memory is mapped. */
size_t ring_check(const struct ring *ring);

/*
 * ring: promises that memory follows what is staged: one chunk while journald keeps up, written from its
 * beginning again and again (no allocation, and the same few pages), as many as needed when it does not, and
 * one again when the backlog is gone. Relies on mmap(2), since free(3) of many blocks gives nothing back. An
 * entry lies in one chunk, so a large one gets a chunk of its own size.
 */
#include "journal/ring.h"
#include <sys/mman.h>

#define CHUNK_SIZE (64 * (size_t)1024)

struct ring_chunk {
        struct ring_chunk *next;
        size_t size;  /* of the mapping */
        size_t begin; /* offsets of the oldest entry and behind the newest; equal: empty */
        size_t end;
};

static size_t entry_size(const struct ring_entry *entry)
{
        const size_t mask = _Alignof(struct ring_entry) - 1;

        return (sizeof(*entry) + entry->size + mask) & ~mask;
}

static struct ring_entry *entry_at(const struct ring_chunk *chunk, size_t offset)
{
        return (struct ring_entry *)((uintptr_t)chunk + offset);
}

static struct ring_chunk *chunk_new(size_t n_bytes)
{
        size_t size = MAX(CHUNK_SIZE, sizeof(struct ring_chunk) + n_bytes);
        struct ring_chunk *chunk =
                mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (chunk == MAP_FAILED)
                return NULL;
        chunk->size = size;
        chunk->begin = chunk->end = sizeof(struct ring_chunk);
        return chunk;
}

static void remove_first_chunk(struct ring *ring)
{
        struct ring_chunk *chunk = ring->first;

        ring->first = chunk->next;
        if (!ring->first)
                ring->last = NULL;
        (void)munmap(chunk, chunk->size);
}

void ring_deinit(struct ring *ring)
{
        while (ring->first)
                remove_first_chunk(ring);
        *ring = (struct ring){ 0 };
}

int ring_append(struct ring *ring, const struct ring_entry *entry, const char *data)
{
        size_t size = entry_size(entry);
        struct ring_chunk *chunk = ring->last;

        if (!chunk || chunk->size - chunk->end < size) {
                chunk = chunk_new(size);
                if (!chunk)
                        return -ENOMEM;
                if (ring->n_entries == 0)
                        ring_deinit(ring); /* only a ring that is empty has an empty chunk */
                if (ring->last)
                        ring->last->next = chunk;
                else
                        ring->first = chunk;
                ring->last = chunk;
        }

        struct ring_entry *copy = entry_at(chunk, chunk->end);

        *copy = *entry;
        memcpy(copy->data, data, entry->size);
        chunk->end += size;
        ring->n_entries++;
        ring->n_bytes += size;
        return 0;
}

size_t ring_peek(const struct ring *ring, const struct ring_entry **ret_entries, size_t n)
{
        size_t n_found = 0;

        for (const struct ring_chunk *chunk = ring->first; chunk && n_found < n; chunk = chunk->next) {
                for (size_t offset = chunk->begin; offset < chunk->end && n_found < n;) {
                        const struct ring_entry *entry = entry_at(chunk, offset);

                        ret_entries[n_found++] = entry;
                        offset += entry_size(entry);
                }
        }
        return n_found;
}

const struct ring_entry *ring_first(const struct ring *ring)
{
        assert(ring->n_entries > 0);
        return entry_at(ring->first, ring->first->begin);
}

void ring_pop(struct ring *ring)
{
        size_t size = entry_size(ring_first(ring));
        struct ring_chunk *chunk = ring->first;

        chunk->begin += size;
        ring->n_entries--;
        ring->n_bytes -= size;
        if (chunk->begin < chunk->end)
                return;
        if (chunk->next || chunk->size > CHUNK_SIZE)
                remove_first_chunk(ring);
        else
                chunk->begin = chunk->end = sizeof(struct ring_chunk);
}

size_t ring_check(const struct ring *ring)
{
        size_t n_entries = 0, n_bytes = 0, n_mapped = 0;
        const struct ring_chunk *last = NULL;

        for (const struct ring_chunk *chunk = ring->first; chunk; last = chunk, chunk = chunk->next) {
                size_t offset = chunk->begin;

                assert(chunk->begin >= sizeof(*chunk) && chunk->end <= chunk->size);
                assert(chunk->begin < chunk->end || ring->n_entries == 0);
                for (; offset < chunk->end; n_entries++)
                        offset += entry_size(entry_at(chunk, offset));
                assert(offset == chunk->end);
                n_bytes += chunk->end - chunk->begin;
                n_mapped += chunk->size;
        }
        assert(last == ring->last);
        assert(n_entries == ring->n_entries && n_bytes == ring->n_bytes);
        return n_mapped;
}

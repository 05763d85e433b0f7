/*
 * A chunk is aligned to its size, so that an object's chunk is found by masking its address. Its free objects
 * are chained through their first bytes; those never used yet are not touched, so that their pages stay
 * unallocated.
 */
#include "base/slab.h"
#include <sanitizer/asan_interface.h>
#include <sys/mman.h>

#define CHUNK_SIZE   ((size_t)64 * 1024)
#define HEADER_SIZE  ((sizeof(struct chunk) + 15) & ~(size_t)15)
#define CHUNK_END(c) ((uint8_t *)(c) + CHUNK_SIZE)

struct chunk {
        struct list link; /* in slab->partial while it has room */
        void **free;      /* given back */
        uint8_t *fresh;   /* from here on never given out */
        size_t n_used;
};

void slab_init(struct slab *slab, size_t object_size)
{
        assert(object_size >= sizeof(void *) && object_size <= 4096);
        *slab = (struct slab){ .object_size = (object_size + 15) & ~(size_t)15 };
        list_init(&slab->partial);
}

static void chunk_free(struct slab *slab, struct chunk *chunk)
{
        list_unlink(&chunk->link);
        slab->n_chunks--;
        ASAN_UNPOISON_MEMORY_REGION(chunk, CHUNK_SIZE);
        (void)munmap(chunk, CHUNK_SIZE);
}

void slab_deinit(struct slab *slab)
{
        assert(slab->n_objects == 0);
        if (slab->n_chunks == 0) /* nor was it ever initialised, maybe */
                return;
        list_for_each (node, &slab->partial)
                chunk_free(slab, container_of(node, struct chunk, link));
        assert(slab->n_chunks == 0);
}

static struct chunk *chunk_new(struct slab *slab)
{
        uint8_t *map = mmap(NULL, 2 * CHUNK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (map == MAP_FAILED)
                return NULL;

        /* Twice the size has one aligned chunk in it; what lies around it goes back. */
        struct chunk *chunk = (void *)(((uintptr_t)map + CHUNK_SIZE - 1) & ~(CHUNK_SIZE - 1));
        size_t before = (size_t)((uint8_t *)chunk - map);

        if (before > 0)
                (void)munmap(map, before);
        if (before < CHUNK_SIZE)
                (void)munmap(CHUNK_END(chunk), CHUNK_SIZE - before);

        *chunk = (struct chunk){ .fresh = (uint8_t *)chunk + HEADER_SIZE };
        list_init(&chunk->link);
        list_append(&slab->partial, &chunk->link);
        slab->n_chunks++;
        ASAN_POISON_MEMORY_REGION(chunk->fresh, CHUNK_SIZE - HEADER_SIZE);
        return chunk;
}

static bool chunk_is_full(const struct slab *slab, const struct chunk *chunk)
{
        return !chunk->free && (size_t)(CHUNK_END(chunk) - chunk->fresh) < slab->object_size;
}

void *slab_alloc(struct slab *slab)
{
        struct chunk *chunk = list_is_empty(&slab->partial)
                                      ? chunk_new(slab)
                                      : container_of(slab->partial.next, struct chunk, link);
        void *object;

        if (!chunk)
                return NULL;
        if (chunk->free) {
                object = chunk->free;
                ASAN_UNPOISON_MEMORY_REGION(object, slab->object_size);
                chunk->free = *(void **)object;
        } else {
                object = chunk->fresh;
                ASAN_UNPOISON_MEMORY_REGION(object, slab->object_size);
                chunk->fresh += slab->object_size;
        }
        chunk->n_used++;
        slab->n_objects++;
        if (chunk_is_full(slab, chunk))
                list_unlink(&chunk->link);
        memset(object, 0, slab->object_size);
        return object;
}

void slab_free(struct slab *slab, void *object)
{
        struct chunk *chunk = (void *)((uintptr_t)object & ~(CHUNK_SIZE - 1));

        *(void **)object = chunk->free;
        chunk->free = object;
        ASAN_POISON_MEMORY_REGION(object, slab->object_size);
        chunk->n_used--;
        slab->n_objects--;
        if (!list_is_linked(&chunk->link))
                list_append(&slab->partial, &chunk->link);
        if (chunk->n_used == 0 && slab->n_chunks > 1)
                chunk_free(slab, chunk);
}

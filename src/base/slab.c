/*
 * A chunk is aligned to its size, so that an object's chunk is found by masking its address. Its free objects
 * are chained through their first bytes; those never used yet are not touched, so that their pages stay
 * unallocated. Which ones are given out is kept beside them, a bit for each SLAB_WALK_MIN bytes: that takes no
 * division, and no two objects of that size begin in the same.
 */
#include "base/slab.h"
#include <sanitizer/asan_interface.h>
#include <sys/mman.h>

#define CHUNK_SIZE   ((size_t)64 * 1024)
#define CHUNK_END(c) ((uint8_t *)(c) + CHUNK_SIZE)

struct chunk {
        struct list link;         /* in slab->chunks */
        struct list partial_link; /* in slab->partial while it has room */
        void **free;              /* given back */
        uint8_t *fresh;           /* from here on never given out */
        size_t n_used;
        uint64_t used[CHUNK_SIZE / SLAB_WALK_MIN / 64];
        uint8_t objects[];
};

static struct chunk *chunk_of(const void *object)
{
        return (void *)((uintptr_t)object & ~(CHUNK_SIZE - 1));
}

static uint64_t used_bit(const void *object)
{
        return UINT64_C(1) << ((uintptr_t)object / SLAB_WALK_MIN % 64);
}

static uint64_t *used_word(const void *object)
{
        return &chunk_of(object)->used[(uintptr_t)object % CHUNK_SIZE / SLAB_WALK_MIN / 64];
}

void slab_init(struct slab *slab, size_t object_size)
{
        assert(object_size >= sizeof(void *) && object_size <= 4096);
        *slab = (struct slab){ .object_size = (object_size + 7) & ~(size_t)7 };
        list_init(&slab->chunks);
        list_init(&slab->partial);
}

static void chunk_free(struct slab *slab, struct chunk *chunk)
{
        list_unlink(&chunk->link);
        list_unlink(&chunk->partial_link);
        slab->n_chunks--;
        ASAN_UNPOISON_MEMORY_REGION(chunk, CHUNK_SIZE);
        (void)munmap(chunk, CHUNK_SIZE);
}

void slab_deinit(struct slab *slab)
{
        assert(slab->n_objects == 0);
        if (slab->n_chunks == 0) /* nor was it ever initialised, maybe */
                return;
        list_for_each (node, &slab->chunks)
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

        chunk->fresh = chunk->objects; /* the rest is zero */
        list_init(&chunk->link);
        list_init(&chunk->partial_link);
        list_append(&slab->chunks, &chunk->link);
        list_append(&slab->partial, &chunk->partial_link);
        slab->n_chunks++;
        ASAN_POISON_MEMORY_REGION(chunk->objects, CHUNK_SIZE - sizeof(*chunk));
        return chunk;
}

static bool chunk_is_full(const struct slab *slab, const struct chunk *chunk)
{
        return !chunk->free && (size_t)(CHUNK_END(chunk) - chunk->fresh) < slab->object_size;
}

bool slab_reserve(struct slab *slab)
{
        return !list_is_empty(&slab->partial) || chunk_new(slab);
}

void *slab_alloc(struct slab *slab)
{
        struct chunk *chunk;
        void *object;

        if (!slab_reserve(slab))
                return NULL;
        chunk = container_of(slab->partial.next, struct chunk, partial_link);
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
        *used_word(object) |= used_bit(object);
        if (chunk_is_full(slab, chunk))
                list_unlink(&chunk->partial_link);
        memset(object, 0, slab->object_size);
        return object;
}

void slab_free(struct slab *slab, void *object)
{
        struct chunk *chunk = chunk_of(object);

        *used_word(object) &= ~used_bit(object);
        *(void **)object = chunk->free;
        chunk->free = object;
        ASAN_POISON_MEMORY_REGION(object, slab->object_size);
        chunk->n_used--;
        slab->n_objects--;
        if (!list_is_linked(&chunk->partial_link))
                list_append(&slab->partial, &chunk->partial_link);
        if (chunk->n_used == 0 && slab->n_chunks > 1)
                chunk_free(slab, chunk);
}

/* The first object at `from` or behind it that is given out. */
static void *chunk_next(const struct slab *slab, const struct chunk *chunk, const uint8_t *from)
{
        for (const uint8_t *object = from; object < chunk->fresh; object += slab->object_size)
                if (*used_word(object) & used_bit(object))
                        return (void *)(uintptr_t)object;
        return NULL;
}

void *slab_next(const struct slab *slab, const void *object)
{
        const struct list *node = object ? &chunk_of(object)->link : slab->chunks.next;
        const uint8_t *from = object ? (const uint8_t *)object + slab->object_size : NULL;
        void *next = NULL;

        assert(slab->object_size >= SLAB_WALK_MIN);
        for (; node != &slab->chunks && !next; node = node->next, from = NULL) {
                const struct chunk *chunk = container_of(node, struct chunk, link);

                next = chunk_next(slab, chunk, from ? from : chunk->objects);
        }
        return next;
}

/*
 * slab: objects of one size in chunks of 64 KiB, straight from mmap(2). Taking and giving back costs O(1), an
 * object costs its size and nothing else, and a chunk that becomes empty goes back to the kernel (one is
 * kept), which glibc's malloc would not do after a storm. All objects can be walked, so that no list of them has to
 * lie in them. Use after free is seen by AddressSanitizer.
 */
#pragma once

#include "base/list.h"

struct slab {
        size_t object_size;
        struct list chunks;
        struct list partial; /* chunks with room */
        size_t n_chunks;
        size_t n_objects; /* given out */
};

void slab_init(struct slab *slab, size_t object_size); /* at most 4096 bytes; aligned to 8 */
void slab_deinit(struct slab *slab);                   /* asserts that every object came back */
void *slab_alloc(struct slab *slab);                   /* zeroed; NULL when out of memory */
bool slab_reserve(struct slab *slab);                  /* whether slab_alloc() has memory; it does then */
void slab_free(struct slab *slab, void *object);

/*
 * The object that follows `object`, or with NULL the first; NULL: there is no more. In no order. Between two calls
 * objects may come, but `object` must not go. Only for objects of at least SLAB_WALK_MIN bytes.
 */
#define SLAB_WALK_MIN 64
void *slab_next(const struct slab *slab, const void *object);

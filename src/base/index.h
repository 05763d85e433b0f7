/*
 * index: nodes that are found again by a hash of 64 bits, in O(1) on the average. Several may have the same hash: who
 * asks compares. Embedded in what it belongs to; it owns nothing but its chains. The hash is the caller's, and where
 * somebody else chooses what is hashed it takes a key (siphash.h).
 */
#pragma once

#include "base/util.h"

struct index_node {
        struct index_node *next; /* in its chain; itself: in no index */
        uint64_t hash;
};

struct index {
        struct index_node **chains;
        size_t n_chains; /* a power of two */
        size_t n_nodes;
};

int index_init(struct index *index);    /* 0 or -ENOMEM */
void index_deinit(struct index *index); /* asserts that it is empty; takes one that is all zeros */

static inline void index_node_init(struct index_node *node)
{
        node->next = node;
}

static inline bool index_has(const struct index_node *node)
{
        return node->next != node;
}

/* Without memory the chains grow longer, and that is all. The node must not be in an index. */
void index_add(struct index *index, struct index_node *node, uint64_t hash);
/* Idempotent. */
void index_remove(struct index *index, struct index_node *node);

/* The first, and those behind it, of this hash; NULL: no more. The latter's node may not be removed in between. */
struct index_node *index_find(const struct index *index, uint64_t hash);
struct index_node *index_find_next(const struct index_node *node);

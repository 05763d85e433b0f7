/*
 * index: chains that are twice as many whenever they would hold more than one node each. It never shrinks: what was
 * needed once is needed again, and it is one pointer a node.
 */
#include "base/index.h"

#define CHAINS_MIN 16

int index_init(struct index *index)
{
        *index = (struct index){ .n_chains = CHAINS_MIN };
        index->chains = calloc(CHAINS_MIN, sizeof(struct index_node *));
        return index->chains ? 0 : -ENOMEM;
}

void index_deinit(struct index *index)
{
        assert(index->n_nodes == 0);
        free(TAKE_PTR(index->chains));
}

static struct index_node **chain_of(const struct index *index, uint64_t hash)
{
        return &index->chains[hash & (index->n_chains - 1)];
}

static void prepend(struct index *index, struct index_node *node)
{
        struct index_node **chain = chain_of(index, node->hash);

        node->next = *chain;
        *chain = node;
}

static void grow(struct index *index)
{
        struct index larger = { .n_chains = 2 * index->n_chains, .n_nodes = index->n_nodes };

        larger.chains = calloc(larger.n_chains, sizeof(struct index_node *));
        if (!larger.chains)
                return;
        for (size_t i = 0; i < index->n_chains; i++)
                for (struct index_node *node = index->chains[i], *next; node; node = next) {
                        next = node->next;
                        prepend(&larger, node);
                }
        free(index->chains);
        *index = larger;
}

void index_add(struct index *index, struct index_node *node, uint64_t hash)
{
        assert(!index_has(node));
        if (index->n_nodes >= index->n_chains)
                grow(index);
        node->hash = hash;
        prepend(index, node);
        index->n_nodes++;
}

void index_remove(struct index *index, struct index_node *node)
{
        if (!index_has(node))
                return;

        struct index_node **at = chain_of(index, node->hash);

        while (*at != node)
                at = &(*at)->next;
        *at = node->next;
        index_node_init(node);
        index->n_nodes--;
}

static struct index_node *find_from(struct index_node *node, uint64_t hash)
{
        while (node && node->hash != hash)
                node = node->next;
        return node;
}

struct index_node *index_find(const struct index *index, uint64_t hash)
{
        return find_from(*chain_of(index, hash), hash);
}

struct index_node *index_find_next(const struct index_node *node)
{
        return find_from(node->next, node->hash);
}

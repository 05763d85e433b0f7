/*
 * What base/index promises, against an array that is searched from end to end: whatever is added, removed and asked
 * for, also where hashes are the same, and where they differ in nothing that a small table looks at.
 */
#include "random.h"
#include "unit.h"

#include "base/index.h"

#define N_ITEMS 3000

struct item {
        struct index_node node;
        uint64_t hash;
};

static struct item items[N_ITEMS];

static size_t count(const struct index *index, uint64_t hash)
{
        size_t n = 0;

        for (struct index_node *node = index_find(index, hash); node; node = index_find_next(node)) {
                ck_assert_uint_eq(container_of(node, struct item, node)->hash, hash);
                n++;
        }
        return n;
}

static size_t count_dumbly(uint64_t hash)
{
        size_t n = 0;

        for (size_t i = 0; i < N_ITEMS; i++)
                n += index_has(&items[i].node) && items[i].hash == hash;
        return n;
}

START_TEST(test_random)
{
        struct index index;
        size_t n_nodes = 0;

        random_seed();
        ck_assert_int_eq(index_init(&index), 0);
        for (size_t i = 0; i < N_ITEMS; i++)
                index_node_init(&items[i].node);
        for (size_t step = 0; step < 20000; step++) {
                struct item *item = &items[random_below(N_ITEMS)];

                if (index_has(&item->node)) {
                        index_remove(&index, &item->node);
                        n_nodes--;
                } else {
                        item->hash = (uint64_t)random_below(500) << (random_below(2) * 40);
                        index_add(&index, &item->node, item->hash);
                        n_nodes++;
                }
                ck_assert_uint_eq(index.n_nodes, n_nodes);
                if (step % 16 == 0)
                        ck_assert_uint_eq(count(&index, item->hash), count_dumbly(item->hash));
        }
        for (size_t i = 0; i < N_ITEMS; i++) {
                index_remove(&index, &items[i].node);
                index_remove(&index, &items[i].node); /* harmless */
        }
        index_deinit(&index);
}
END_TEST

START_TEST(test_growth)
{
        struct index index;

        ck_assert_int_eq(index_init(&index), 0);
        ck_assert_ptr_null(index_find(&index, 0));
        for (size_t i = 0; i < N_ITEMS; i++) {
                index_node_init(&items[i].node);
                index_add(&index, &items[i].node, i);
        }
        ck_assert_uint_ge(index.n_chains, N_ITEMS); /* or it would not be O(1) */
        for (size_t i = 0; i < N_ITEMS; i++) {
                ck_assert_ptr_eq(index_find(&index, i), &items[i].node);
                index_remove(&index, &items[i].node);
                ck_assert_ptr_null(index_find(&index, i));
        }
        index_deinit(&index);
}
END_TEST

UNIT_MAIN("index", test_random, test_growth)

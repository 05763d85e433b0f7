/*
 * What base/slab promises: zeroed, aligned objects that do not overlap, and empty chunks given back to the
 * kernel; and base/list's few operations. The naive twin of the slab is an array of what was handed out, each
 * object filled with a pattern of its own.
 */
#include "aborts.h"
#include "random.h"
#include "unit.h"

#include "base/slab.h"
#include <sys/mman.h>

#define N_OBJECTS 3000
#define CHUNK     ((size_t)64 * 1024)

static uint8_t *objects[N_OBJECTS];

static uint8_t pattern_of(size_t i)
{
        return (uint8_t)(i % 251 + 1);
}

static bool is_filled(const uint8_t *object, size_t size, uint8_t pattern)
{
        for (size_t b = 0; b < size; b++)
                if (object[b] != pattern)
                        return false;
        return true;
}

static void take(struct slab *slab, size_t i, size_t size)
{
        objects[i] = slab_alloc(slab);
        ck_assert_ptr_nonnull(objects[i]);
        ck_assert_uint_eq((uintptr_t)objects[i] % 8, 0);
        ck_assert(is_filled(objects[i], size, 0));
        memset(objects[i], pattern_of(i), size);
}

static void give(struct slab *slab, size_t i, size_t size)
{
        ck_assert(is_filled(objects[i], size, pattern_of(i))); /* nobody else wrote here */
        slab_free(slab, objects[i]);
        objects[i] = NULL;
}

static void storm(size_t size)
{
        size_t n_taken = 0;
        struct slab slab;

        slab_init(&slab, size);
        for (unsigned step = 0; step < 20000; step++) {
                size_t i = random_below(N_OBJECTS);
                /* In turns more comes and more goes, so that chunks fill and empty. */
                bool is_tide = step / 4000 % 2 == 0;

                if (!objects[i] && random_below(4) < (is_tide ? 3 : 1)) {
                        take(&slab, i, size);
                        n_taken++;
                } else if (objects[i] && random_below(4) < (is_tide ? 1 : 3)) {
                        give(&slab, i, size);
                        n_taken--;
                } else {
                        continue;
                }
                ck_assert_uint_eq(slab.n_objects, n_taken);
                ck_assert_uint_ge(slab.n_chunks * CHUNK, n_taken * slab.object_size);
        }
        for (size_t i = 0; i < N_OBJECTS; i++)
                if (objects[i])
                        give(&slab, i, size);
        ck_assert_uint_le(slab.n_chunks, 1);
        slab_deinit(&slab);
        ck_assert_uint_eq(slab.n_chunks, 0);
}

/* Every object that is out is walked once, and nothing else. */
static void walk(const struct slab *slab)
{
        static bool is_seen[N_OBJECTS];
        size_t n_walked = 0;

        memset(is_seen, 0, sizeof(is_seen));
        for (uint8_t *object = NULL; (object = slab_next(slab, object)); n_walked++) {
                size_t i = 0;

                while (i < N_OBJECTS && objects[i] != object)
                        i++;
                ck_assert_uint_lt(i, N_OBJECTS);
                ck_assert(!is_seen[i]);
                is_seen[i] = true;
        }
        ck_assert_uint_eq(n_walked, slab->n_objects);
}

START_TEST(test_slab_walk)
{
        static const size_t sizes[] = { 64, 72, 200, 4096 };
        struct slab slab;

        random_seed();
        for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
                slab_init(&slab, sizes[s]);
                ck_assert_ptr_null(slab_next(&slab, NULL));
                for (unsigned step = 0; step < 4000; step++) {
                        size_t i = random_below(N_OBJECTS);

                        if (objects[i])
                                give(&slab, i, sizes[s]);
                        else
                                take(&slab, i, sizes[s]);
                        if (step % 400 == 0)
                                walk(&slab);
                }
                for (size_t i = 0; i < N_OBJECTS; i++)
                        if (objects[i] && random_below(100) > 0)
                                give(&slab, i, sizes[s]);
                walk(&slab);
                for (size_t i = 0; i < N_OBJECTS; i++)
                        if (objects[i])
                                give(&slab, i, sizes[s]);
                walk(&slab);
                slab_deinit(&slab);
        }
}
END_TEST

START_TEST(test_slab_storm)
{
        static const size_t sizes[] = { 8, 16, 24, 200, 1000, 4096 };

        random_seed();
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++)
                storm(sizes[i]);
}
END_TEST

static bool is_mapped(void *address)
{
        unsigned char resident;

        return mincore((void *)((uintptr_t)address & ~(CHUNK - 1)), 1, &resident) == 0;
}

START_TEST(test_slab_gives_chunks_back)
{
        struct slab slab;
        void *last;

        slab_init(&slab, 4096);
        for (size_t i = 0; i < 150; i++)
                take(&slab, i, 4096);
        ck_assert_uint_eq(slab.n_chunks, 10); /* 15 objects and a header fill one */
        last = objects[149];
        ck_assert(is_mapped(last));
        for (size_t i = 150; i-- > 0;)
                give(&slab, i, 4096);
        ck_assert_uint_eq(slab.n_chunks, 1);
        ck_assert(!is_mapped(last));
        take(&slab, 0, 4096); /* from the one that was kept */
        ck_assert_uint_eq(slab.n_chunks, 1);
        give(&slab, 0, 4096);
        slab_deinit(&slab);
        slab_init(&slab, 4096);
        slab_deinit(&slab); /* never used */
}
END_TEST

/* What is given back is used again before anything new: memory does not grow with time. */
START_TEST(test_slab_reuses)
{
        struct slab slab;

        slab_init(&slab, 256);
        for (size_t i = 0; i < 100; i++)
                take(&slab, i, 256);
        for (unsigned round = 0; round < 10000; round++) {
                give(&slab, round % 100, 256);
                take(&slab, round % 100, 256);
        }
        ck_assert_uint_eq(slab.n_chunks, 1);
        for (size_t i = 0; i < 100; i++)
                give(&slab, i, 256);
        slab_deinit(&slab);
}
END_TEST

static void init_with_size(const void *size)
{
        struct slab slab;

        slab_init(&slab, *(const size_t *)size);
}

static void walk_small_ones(const void *argument _unused_)
{
        struct slab slab;

        slab_init(&slab, 56);
        (void)slab_next(&slab, NULL);
}

static void deinit_with_one_out(const void *argument _unused_)
{
        struct slab slab;

        slab_init(&slab, 64);
        (void)slab_alloc(&slab);
        slab_deinit(&slab);
}

START_TEST(test_slab_asserts)
{
        static const size_t too_small = 4, too_large = 4097;

        ck_assert(aborts(init_with_size, &too_small));
        ck_assert(aborts(init_with_size, &too_large));
        ck_assert(aborts(walk_small_ones, NULL));
        ck_assert(aborts(deinit_with_one_out, NULL));
}
END_TEST

/* ---- list ---- */

struct item {
        struct list link;
        int number;
};

static void check_order(struct list *head, const int *numbers, size_t n)
{
        size_t i = 0;

        list_for_each (node, head) {
                ck_assert_uint_lt(i, n);
                ck_assert_int_eq(container_of(node, struct item, link)->number, numbers[i++]);
                ck_assert_ptr_eq(node->next->prev, node);
        }
        ck_assert_uint_eq(i, n);
        ck_assert_int_eq(list_is_empty(head), n == 0);
}

START_TEST(test_list)
{
        struct item items[5];
        struct list head = LIST_INIT(head), other = LIST_INIT(other);

        for (int i = 0; i < 5; i++) {
                items[i].number = i;
                list_init(&items[i].link);
                ck_assert(!list_is_linked(&items[i].link));
                list_unlink(&items[i].link); /* harmless */
        }
        check_order(&head, NULL, 0);
        ck_assert_ptr_null(list_take_first(&head));
        list_splice(&head, &other); /* both empty */

        list_append(&head, &items[1].link);
        list_append(&head, &items[2].link);
        list_prepend(&head, &items[0].link);
        check_order(&head, (const int[]){ 0, 1, 2 }, 3);

        list_splice(&other, &head); /* into an empty one */
        check_order(&head, NULL, 0);
        list_append(&head, &items[3].link);
        list_append(&head, &items[4].link);
        list_splice(&head, &other);
        check_order(&head, (const int[]){ 3, 4, 0, 1, 2 }, 5);

        list_for_each (node, &head) /* a node may go while it is visited */
                if (container_of(node, struct item, link)->number % 2 == 0)
                        list_unlink(node);
        check_order(&head, (const int[]){ 3, 1 }, 2);
        ck_assert_ptr_eq(list_take_first(&head), &items[3].link);
        ck_assert(!list_is_linked(&items[3].link));
        list_unlink(&items[1].link);
        check_order(&head, NULL, 0);
}
END_TEST

static void append_twice(const void *argument _unused_)
{
        struct list head = LIST_INIT(head), node = LIST_INIT(node);

        list_append(&head, &node);
        list_append(&head, &node);
}

START_TEST(test_list_append_asserts)
{
        ck_assert(aborts(append_twice, NULL));
}
END_TEST

UNIT_MAIN("slab", test_slab_storm, test_slab_walk, test_slab_gives_chunks_back, test_slab_reuses,
          test_slab_asserts, test_list, test_list_append_asserts)

/*
 * What resource/queue promises: whose turn it is, how many at once, and nobody's while something is short. The naive
 * twin looks through everybody each time that one has a turn.
 */
#include "aborts.h"
#include "random.h"
#include "unit.h"

#include "resource/queue.h"

#define N_PEOPLE 200

enum want { NOTHING, LOAD, RELEASE };

static struct person {
        struct place place;
        enum want wants;
        int64_t ticket; /* of those who wait: the lowest is the first */
        bool is_under_way;
        bool ends_at_once;
} people[N_PEOPLE];

static struct loop *loop;
static struct starvation starvation;
static struct queue queue;
static int64_t next_ticket;
static unsigned n_turns;
static struct person *last;

static unsigned count_under_way(void)
{
        unsigned n = 0;

        for (size_t i = 0; i < N_PEOPLE; i++)
                n += people[i].is_under_way;
        return n;
}

static bool is_first(const struct person *person)
{
        for (size_t i = 0; i < N_PEOPLE; i++)
                if (people[i].wants > person->wants ||
                    (people[i].wants == person->wants && people[i].ticket < person->ticket))
                        return false;
        return true;
}

static void end(struct person *person)
{
        person->is_under_way = false;
        queue_leave(&queue, &person->place);
}

static void have_turn(struct place *place, enum want wanted)
{
        static unsigned depth;
        struct person *person = container_of(place, struct person, place);

        ck_assert_uint_eq(depth++, 0);
        ck_assert_int_eq(person->wants, wanted);
        ck_assert(is_first(person));
        ck_assert_uint_lt(count_under_way(), queue.n_max);
        ck_assert_uint_eq(starvation.n, 0);
        ck_assert(!list_is_linked(&place->link));
        person->wants = NOTHING;
        person->is_under_way = true;
        queue_enter(&queue, place);
        n_turns++;
        last = person;
        if (person->ends_at_once)
                end(person);
        depth--;
}

static void load(struct place *place)
{
        have_turn(place, LOAD);
}

static void release(struct place *place)
{
        have_turn(place, RELEASE);
}

static void come(struct person *person, enum want wants)
{
        person->wants = wants;
        person->ticket = next_ticket++;
        list_append(wants == LOAD ? &queue.loads : &queue.releases, &person->place.link);
        queue_run(&queue);
}

/* It had its turn and could not use it. */
static void come_back(struct person *person)
{
        person->is_under_way = false;
        person->wants = random_below(2) ? LOAD : RELEASE;
        person->ticket = -next_ticket++;
        queue_take_back(&queue, &person->place);
        list_prepend(person->wants == LOAD ? &queue.loads : &queue.releases, &person->place.link);
        queue_starve(&queue, ENOMEM);
}

static void go_away(struct person *person)
{
        person->wants = NOTHING;
        list_unlink(&person->place.link);
}

static void pass_time(void)
{
        wheel_run(loop_wheel(loop), loop_now(loop) + 2 * STARVE_RETRY_USEC);
}

static void begin(unsigned n_max)
{
        ck_assert_int_eq(loop_new(&loop), 0);
        for (size_t i = 0; i < N_PEOPLE; i++) {
                people[i] = (struct person){ 0 };
                list_init(&people[i].place.link);
        }
        n_turns = 0;
        starvation = (struct starvation){ 0 };
        queue_init(&queue, n_max, loop, &starvation, load, release);
}

static void finish(void)
{
        queue_deinit(&queue);
        ck_assert_uint_eq(starvation.n, 0);
        ck_assert_uint_eq(wheel_check(loop_wheel(loop)), 0);
        loop_free(loop);
}

static void check(void)
{
        bool is_waited_for = false;

        for (size_t i = 0; i < N_PEOPLE; i++) {
                is_waited_for |= people[i].wants != NOTHING;
                ck_assert_int_eq(list_is_linked(&people[i].place.link),
                                 people[i].wants != NOTHING || people[i].is_under_way);
        }
        ck_assert_uint_eq(queue.n_under_way, count_under_way());
        ck_assert(!queue_is_stuck(&queue));
        ck_assert(!is_waited_for || starvation.n == 1 || queue.n_under_way >= queue.n_max);
}

START_TEST(test_queue_storm)
{
        random_seed();
        begin(4);
        for (unsigned step = 0; step < 50000; step++) {
                struct person *person = &people[random_below(N_PEOPLE)];

                person->ends_at_once = random_below(4) == 0;
                if (person->is_under_way && random_below(8) == 0)
                        come_back(person);
                else if (person->is_under_way)
                        end(person);
                else if (person->wants == NOTHING)
                        come(person, random_below(2) ? LOAD : RELEASE);
                else if (random_below(4) == 0)
                        go_away(person);
                if (random_below(50) == 0) { /* a reload */
                        queue.n_max = 1 + (unsigned)random_below(20);
                        queue_run(&queue);
                }
                if (random_below(10) == 0)
                        pass_time();
                check();
        }
        ck_assert_uint_gt(n_turns, 1000);
        for (pass_time(); count_under_way() > 0; pass_time())
                for (size_t i = 0; i < N_PEOPLE; i++)
                        if (people[i].is_under_way)
                                end(&people[i]);
        check();
        finish();
}
END_TEST

/* However many end at once, the stack does not grow. */
START_TEST(test_queue_ends_at_once)
{
        begin(1);
        come(&people[0], LOAD);
        for (size_t i = 1; i < N_PEOPLE; i++) {
                people[i].ends_at_once = true;
                come(&people[i], i % 2 ? LOAD : RELEASE);
        }
        ck_assert_uint_eq(n_turns, 1);
        ck_assert(!queue.is_running);
        end(&people[0]);
        ck_assert_uint_eq(n_turns, N_PEOPLE);
        ck_assert_ptr_eq(last, &people[N_PEOPLE - 1]); /* a load */
        finish();
}
END_TEST

START_TEST(test_queue_starved)
{
        begin(2);
        ck_assert_int_eq(starvation_error(&starvation), 0);
        come(&people[0], RELEASE);
        come(&people[1], LOAD);
        queue_starve(&queue, EAGAIN);
        queue_starve(&queue, EMFILE); /* who had a turn before; it is one queue all the same */
        ck_assert_uint_eq(starvation.n, 1);
        ck_assert_int_eq(starvation_error(&starvation), EAGAIN);
        come(&people[2], LOAD);
        end(&people[0]);
        end(&people[1]);
        ck_assert_uint_eq(n_turns, 2);
        wheel_run(loop_wheel(loop), loop_now(loop) + STARVE_RETRY_USEC - 1);
        ck_assert_uint_eq(n_turns, 2);
        pass_time();
        ck_assert_uint_eq(n_turns, 3);
        ck_assert_int_eq(starvation_error(&starvation), 0);
        end(&people[2]);

        queue_starve(&queue, EAGAIN);
        finish(); /* nobody waits for what is not there any more */
}
END_TEST

static void deinit_with_one_waiting(const void *argument _unused_)
{
        begin(0);
        come(&people[0], LOAD);
        queue_deinit(&queue);
}

static void leave_twice(const void *argument _unused_)
{
        begin(1);
        come(&people[0], LOAD);
        end(&people[0]);
        end(&people[0]);
}

START_TEST(test_queue_asserts)
{
        ck_assert(aborts(deinit_with_one_waiting, NULL));
        ck_assert(aborts(leave_twice, NULL));
}
END_TEST

UNIT_MAIN("queue", test_queue_storm, test_queue_ends_at_once, test_queue_starved, test_queue_asserts)

/*
 * What loop/timer promises: never early, late by less than a tick, no wake-up that is not needed, whatever is
 * armed, moved and disarmed when. The naive twin is an array that is looked through.
 */
#include "aborts.h"
#include "random.h"
#include "unit.h"

#include "loop/timer.h"

#define TICK     USEC_PER_MSEC
#define YEAR     (UINT64_C(31557600) * USEC_PER_SEC)
#define N_TIMERS 300

struct toy {
        struct timer timer;
        uint64_t deadline_usec; /* the twin's; USEC_INFINITY: not armed */
        unsigned n_fired;
};

static struct wheel wheel;
static struct toy toys[N_TIMERS];
static uint64_t now_usec;
static unsigned n_fired;

static void toy_fire(struct timer *timer)
{
        struct toy *toy = container_of(timer, struct toy, timer);

        ck_assert(!timer_is_armed(timer));
        ck_assert_uint_le(toy->deadline_usec, now_usec); /* never early, never one that was disarmed */
        toy->deadline_usec = USEC_INFINITY;
        toy->n_fired++;
        n_fired++;
}

static void toys_init(uint64_t start_usec)
{
        now_usec = start_usec;
        n_fired = 0;
        wheel_init(&wheel, now_usec);
        for (size_t i = 0; i < N_TIMERS; i++) {
                timer_init(&toys[i].timer, toy_fire);
                toys[i].deadline_usec = USEC_INFINITY;
                toys[i].n_fired = 0;
        }
}

static void toy_arm(struct toy *toy, uint64_t deadline_usec)
{
        timer_arm(&wheel, &toy->timer, deadline_usec);
        toy->deadline_usec = deadline_usec;
        ck_assert_uint_eq(toy->timer.deadline_usec, deadline_usec);
}

static void toy_disarm(struct toy *toy)
{
        timer_disarm(&toy->timer);
        toy->deadline_usec = USEC_INFINITY;
}

static uint64_t twin_next(void)
{
        uint64_t next_usec = USEC_INFINITY;

        for (size_t i = 0; i < N_TIMERS; i++)
                next_usec = MIN(next_usec, toys[i].deadline_usec);
        return next_usec;
}

static size_t twin_count(void)
{
        size_t n_armed = 0;

        for (size_t i = 0; i < N_TIMERS; i++)
                n_armed += toys[i].deadline_usec != USEC_INFINITY;
        return n_armed;
}

static void check_all(void)
{
        uint64_t next_usec = wheel_next(&wheel), true_usec = twin_next();

        ck_assert_uint_eq(wheel_check(&wheel), twin_count());
        if (true_usec == USEC_INFINITY)
                ck_assert_uint_eq(next_usec, USEC_INFINITY);
        else
                ck_assert_uint_lt(next_usec, deadline_after(true_usec, TICK));
}

static void run_at(uint64_t usec)
{
        now_usec = usec;
        wheel_run(&wheel, now_usec);
}

static uint64_t random_span(void)
{
        static const uint64_t scales[] = {
                1,    TICK,        64 * TICK, 4096 * TICK, UINT64_C(262144) * TICK, UINT64_C(16777216) * TICK,
                YEAR, 5000 * YEAR,
        };

        return random_below(2 * scales[random_below(ARRAY_SIZE(scales))]) + random_below(2) * TICK;
}

/* ---- against the twin ---- */

static void storm_fire(struct timer *timer)
{
        struct toy *other = &toys[random_below(N_TIMERS)];

        toy_fire(timer);
        switch (random_below(6)) {
        case 0:
                toy_arm(container_of(timer, struct toy, timer), deadline_after(now_usec, random_span()));
                break;
        case 1: /* in the past: not before the next call */
                toy_arm(container_of(timer, struct toy, timer), now_usec - MIN(now_usec, random_span()));
                break;
        case 2:
                toy_disarm(other);
                break;
        case 3:
                toy_arm(other, deadline_after(now_usec, random_span()));
                break;
        default:
                break;
        }
}

START_TEST(test_timer_storm)
{
        random_seed();
        toys_init(random_span());
        for (size_t i = 0; i < N_TIMERS; i++)
                toys[i].timer.fire = storm_fire;
        for (unsigned i = 0; i < 30000; i++) {
                struct toy *toy = &toys[random_below(N_TIMERS)];

                switch (random_below(8)) {
                case 0:
                case 1:
                case 2:
                        toy_arm(toy, deadline_after(now_usec, random_span()));
                        break;
                case 3:
                        toy_arm(toy, now_usec - MIN(now_usec, random_span()));
                        break;
                case 4:
                        toy_disarm(toy);
                        break;
                case 5: { /* to the next deadline, as the loop does it */
                        uint64_t next_usec = wheel_next(&wheel);

                        if (next_usec < 4000 * YEAR)
                                run_at(MAX(next_usec, now_usec));
                        break;
                }
                default: {
                        uint64_t span_usec = random_span() >> random_below(32);
                        uint64_t last_usec = now_usec;

                        if (span_usec > 100 * YEAR || now_usec > 4000 * YEAR)
                                break;
                        run_at(now_usec + span_usec);
                        /* What is left was armed in there, for a time that was past already: the next call's. */
                        run_at(now_usec);
                        ck_assert_uint_ge(now_usec, last_usec);
                        break;
                }
                }
                check_all();
        }
        for (size_t i = 0; i < N_TIMERS; i++)
                toy_disarm(&toys[i]);
        wheel_deinit(&wheel);
}
END_TEST

/* Nothing is armed in a callback: then after wheel_run() nothing is left that was due a tick ago. */
START_TEST(test_timer_never_late)
{
        random_seed();
        toys_init(12345);
        for (unsigned i = 0; i < 20000; i++) {
                toy_arm(&toys[random_below(N_TIMERS)],
                        now_usec + random_below(UINT64_C(1) << (10 + random_below(30))));
                if (random_below(3) == 0)
                        toy_disarm(&toys[random_below(N_TIMERS)]);
                run_at(now_usec + random_below(UINT64_C(1) << random_below(30)));
                ck_assert_uint_gt(deadline_after(twin_next(), TICK), now_usec);
                check_all();
        }
        ck_assert_uint_gt(n_fired, 1000);
        for (size_t i = 0; i < N_TIMERS; i++)
                toy_disarm(&toys[i]);
        wheel_deinit(&wheel);
}
END_TEST

/* ---- idle costs nothing ---- */

START_TEST(test_timer_no_idle_wakeup)
{
        random_seed();
        toys_init(98765432);
        for (size_t i = 0; i < N_TIMERS; i++)
                toy_arm(&toys[i], now_usec + TICK + random_below(UINT64_C(1) << random_below(50)));
        while (twin_next() != USEC_INFINITY) {
                unsigned before = n_fired;
                uint64_t next_usec = wheel_next(&wheel);

                ck_assert_uint_ge(next_usec, twin_next());
                run_at(next_usec);
                ck_assert_uint_gt(n_fired, before); /* each wake-up fires something */
        }
        ck_assert_uint_eq(n_fired, N_TIMERS);
        ck_assert_uint_eq(wheel_next(&wheel), USEC_INFINITY);
        wheel_deinit(&wheel);
}
END_TEST

START_TEST(test_timer_few_wakeups_after_disarm)
{
        unsigned n_steps = 0;

        random_seed();
        toys_init(1);
        for (size_t i = 0; i < N_TIMERS; i++)
                toy_arm(&toys[i], now_usec + random_below(UINT64_C(1) << random_below(50)));
        for (size_t i = 0; i < N_TIMERS; i += 2)
                toy_disarm(&toys[i]);
        for (; twin_next() != USEC_INFINITY; n_steps++)
                run_at(MAX(wheel_next(&wheel), now_usec));
        ck_assert_uint_eq(n_fired, N_TIMERS / 2);
        ck_assert_uint_le(n_steps, N_TIMERS); /* one that was disarmed costs at most one */
        ck_assert_uint_eq(wheel_next(&wheel), USEC_INFINITY);
        wheel_deinit(&wheel);
}
END_TEST

/* ---- single cases ---- */

START_TEST(test_timer_one)
{
        static const struct {
                uint64_t start, deadline, early, late;
        } rows[] = {
                { 0, 1, 0, TICK },
                { 0, TICK, TICK - 1, TICK },
                { 0, TICK + 1, 2 * TICK - 1, 2 * TICK },
                { 0, 63 * TICK, 63 * TICK - 1, 63 * TICK },
                { 0, 64 * TICK, 64 * TICK - 1, 64 * TICK },
                { 63 * TICK, 64 * TICK, 64 * TICK - 1, 64 * TICK },
                { 4095 * TICK, 4096 * TICK, 4096 * TICK - 1, 4096 * TICK },
                { 999, 4097 * TICK, 4097 * TICK - 1, 4097 * TICK },
                { YEAR, YEAR + 5, YEAR, YEAR + TICK },
                { 7, YEAR, YEAR - 1, YEAR },
                { 7, 1000 * YEAR, 1000 * YEAR - 1, 1000 * YEAR },
                { 500 * YEAR, 8000 * YEAR, 8000 * YEAR - 1, 8000 * YEAR },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                toys_init(rows[i].start);
                toy_arm(&toys[0], rows[i].deadline);
                ck_assert(timer_is_armed(&toys[0].timer));
                run_at(rows[i].early);
                ck_assert_msg(n_fired == 0, "row %zu: early", i);
                ck_assert_uint_le(wheel_next(&wheel), rows[i].late);
                run_at(rows[i].late);
                ck_assert_msg(n_fired == 1, "row %zu: late", i);
                ck_assert_uint_eq(wheel_next(&wheel), USEC_INFINITY);
                wheel_deinit(&wheel);
        }
}
END_TEST

START_TEST(test_timer_past_and_never)
{
        toys_init(10 * USEC_PER_SEC);
        toy_arm(&toys[0], 0);
        toy_arm(&toys[1], now_usec);
        toy_arm(&toys[2], USEC_INFINITY);
        toy_arm(&toys[3], USEC_INFINITY - 1); /* past the wheel's last tick */
        ck_assert_uint_eq(wheel_next(&wheel), 0);
        run_at(now_usec);
        ck_assert_uint_eq(n_fired, 2);
        ck_assert(!timer_is_armed(&toys[2].timer));
        run_at(now_usec + 1000 * YEAR);
        ck_assert_uint_eq(n_fired, 2);
        toy_arm(&toys[3], USEC_INFINITY); /* disarms */
        ck_assert_uint_eq(wheel_next(&wheel), USEC_INFINITY);
        wheel_deinit(&wheel);
}
END_TEST

START_TEST(test_timer_moved)
{
        toys_init(0);
        toy_arm(&toys[0], 50 * TICK);
        toy_arm(&toys[0], 90 * TICK); /* later */
        run_at(60 * TICK);
        ck_assert_uint_eq(n_fired, 0);
        toy_arm(&toys[0], 61 * TICK); /* earlier */
        run_at(61 * TICK);
        ck_assert_uint_eq(n_fired, 1);
        run_at(YEAR);
        ck_assert_uint_eq(n_fired, 1); /* once */
        toy_disarm(&toys[0]);
        toy_disarm(&toys[0]); /* harmless */
        wheel_deinit(&wheel);
}
END_TEST

START_TEST(test_timer_clock_going_back)
{
        toys_init(USEC_PER_SEC);
        toy_arm(&toys[0], USEC_PER_SEC + TICK);
        wheel_run(&wheel, 0);
        check_all();
        run_at(USEC_PER_SEC + TICK);
        ck_assert_uint_eq(n_fired, 1);
        wheel_deinit(&wheel);
}
END_TEST

static void fire_and_disarm_all(struct timer *timer)
{
        toy_fire(timer);
        for (size_t i = 0; i < N_TIMERS; i++)
                toy_disarm(&toys[i]);
}

/* Of those due in the same call, one may disarm the others. */
START_TEST(test_timer_disarm_in_fire)
{
        toys_init(0);
        for (size_t i = 0; i < N_TIMERS; i++) {
                toys[i].timer.fire = fire_and_disarm_all;
                toy_arm(&toys[i], TICK);
        }
        run_at(TICK);
        ck_assert_uint_eq(n_fired, 1);
        wheel_deinit(&wheel);
}
END_TEST

static void fire_and_arm_again(struct timer *timer)
{
        toy_fire(timer);
        toy_arm(container_of(timer, struct toy, timer), now_usec);
}

START_TEST(test_timer_arm_in_fire)
{
        toys_init(0);
        toys[0].timer.fire = fire_and_arm_again;
        toy_arm(&toys[0], TICK);
        for (unsigned i = 1; i <= 5; i++) {
                run_at(TICK);
                ck_assert_uint_eq(n_fired, i); /* once a call, although it is due again at once */
                ck_assert_uint_eq(wheel_next(&wheel), 0);
        }
        toy_disarm(&toys[0]);
        wheel_deinit(&wheel);
}
END_TEST

static void deinit_with_one_armed(const void *argument _unused_)
{
        toys_init(0);
        toy_arm(&toys[0], YEAR);
        wheel_deinit(&wheel);
}

START_TEST(test_timer_deinit_asserts)
{
        ck_assert(aborts(deinit_with_one_armed, NULL));
}
END_TEST

UNIT_MAIN("timer", test_timer_storm, test_timer_never_late, test_timer_no_idle_wakeup,
          test_timer_few_wakeups_after_disarm, test_timer_one, test_timer_past_and_never, test_timer_moved,
          test_timer_clock_going_back, test_timer_disarm_in_fire, test_timer_arm_in_fire,
          test_timer_deinit_asserts)

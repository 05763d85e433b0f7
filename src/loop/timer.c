/*
 * The wheel. A timer sits at the level of the highest base-64 digit in which its tick differs from the
 * wheel's tick, in the slot of that digit. From that one rule follows the rest:
 *
 *   - a lower level is always due before a higher one, and in a level a lower slot before a higher one, so
 *     the next deadline is found with two bit scans;
 *   - when the wheel's tick moves on, everything below the highest digit that changed is due, and of that
 *     level only the slot that the new digit names has to be sorted again.
 *
 * There is no periodic tick: wheel_next() tells the earliest deadline of the first slot, not the slot's
 * beginning, so an idle loop sleeps until a timer is really due. Deliberately not here: the order of timers
 * that are due in the same call.
 */
#include "loop/timer.h"

#define DIGIT_BITS 6
#define TICK_USEC  USEC_PER_MSEC
#define TICK_MAX   ((UINT64_C(1) << (DIGIT_BITS * WHEEL_LEVELS)) - 1)

static uint64_t tick_of(uint64_t deadline_usec)
{
        uint64_t tick = deadline_usec / TICK_USEC + (deadline_usec % TICK_USEC > 0); /* never early */

        return MIN(tick, TICK_MAX);
}

static unsigned digit_of(uint64_t tick, unsigned level)
{
        return (unsigned)(tick >> (DIGIT_BITS * level)) & (WHEEL_SLOTS - 1);
}

static unsigned level_of(uint64_t a, uint64_t b)
{
        return (63 - (unsigned)__builtin_clzll(a ^ b)) / DIGIT_BITS;
}

static void wheel_insert(struct wheel *wheel, struct timer *timer)
{
        uint64_t tick = tick_of(timer->deadline_usec);

        if (tick <= wheel->tick) {
                list_append(&wheel->due, &timer->link);
                return;
        }

        unsigned l = level_of(tick, wheel->tick), slot = digit_of(tick, l);
        struct wheel_level *level = &wheel->levels[l];

        if (list_is_empty(&level->slots[slot]) || tick < level->earliest[slot])
                level->earliest[slot] = tick;
        level->occupied |= UINT64_C(1) << slot;
        wheel->occupied |= 1U << l;
        list_append(&level->slots[slot], &timer->link);
}

void wheel_init(struct wheel *wheel, uint64_t now_usec)
{
        *wheel = (struct wheel){ .tick = MIN(now_usec / TICK_USEC, TICK_MAX) };
        list_init(&wheel->due);
        for (unsigned level = 0; level < WHEEL_LEVELS; level++)
                for (unsigned slot = 0; slot < WHEEL_SLOTS; slot++)
                        list_init(&wheel->levels[level].slots[slot]);
}

void wheel_deinit(struct wheel *wheel)
{
        assert(wheel_check(wheel) == 0);
}

void timer_init(struct timer *timer, timer_fn fire)
{
        list_init(&timer->link);
        timer->deadline_usec = USEC_INFINITY;
        timer->fire = fire;
}

void timer_arm(struct wheel *wheel, struct timer *timer, uint64_t deadline_usec)
{
        timer_disarm(timer);
        if (deadline_usec == USEC_INFINITY)
                return;
        timer->deadline_usec = deadline_usec;
        wheel_insert(wheel, timer);
}

void timer_disarm(struct timer *timer)
{
        list_unlink(&timer->link);
        timer->deadline_usec = USEC_INFINITY;
}

static void wheel_advance(struct wheel *wheel, uint64_t tick)
{
        if (tick <= wheel->tick)
                return;

        unsigned top = level_of(tick, wheel->tick);
        unsigned digit = digit_of(tick, top);
        struct list again = LIST_INIT(again);

        for (unsigned l = 0; l <= top; l++) {
                struct wheel_level *level = &wheel->levels[l];
                /* Below `top` every slot is over, at `top` those before the new digit. */
                uint64_t over = l < top ? UINT64_MAX : (UINT64_C(1) << digit) - 1;

                for (uint64_t rest = level->occupied & over; rest; rest &= rest - 1)
                        list_splice(&wheel->due, &level->slots[__builtin_ctzll(rest)]);
                level->occupied &= ~over;
        }
        list_splice(&again, &wheel->levels[top].slots[digit]);
        wheel->levels[top].occupied &= ~(UINT64_C(1) << digit);

        wheel->tick = tick;
        for (struct list *node; (node = list_take_first(&again));)
                wheel_insert(wheel, container_of(node, struct timer, link));
}

void wheel_run(struct wheel *wheel, uint64_t now_usec)
{
        struct list due = LIST_INIT(due);

        wheel_advance(wheel, MIN(now_usec / TICK_USEC, TICK_MAX));
        list_splice(&due, &wheel->due);
        for (struct list *node; (node = list_take_first(&due));) {
                struct timer *timer = container_of(node, struct timer, link);

                timer->deadline_usec = USEC_INFINITY;
                timer->fire(timer);
        }
}

uint64_t wheel_next(struct wheel *wheel)
{
        if (!list_is_empty(&wheel->due))
                return 0;
        for (; wheel->occupied; wheel->occupied &= wheel->occupied - 1) {
                struct wheel_level *level = &wheel->levels[__builtin_ctz(wheel->occupied)];

                while (level->occupied) {
                        unsigned slot = (unsigned)__builtin_ctzll(level->occupied);

                        if (!list_is_empty(&level->slots[slot]))
                                return level->earliest[slot] * TICK_USEC;
                        level->occupied &= level->occupied - 1; /* its timers were disarmed */
                }
        }
        return USEC_INFINITY;
}

size_t wheel_check(const struct wheel *wheel)
{
        size_t n_timers = 0;

        list_for_each (node, &wheel->due)
                n_timers++;
        for (unsigned l = 0; l < WHEEL_LEVELS; l++)
                for (unsigned slot = 0; slot < WHEEL_SLOTS; slot++)
                        list_for_each (node, &wheel->levels[l].slots[slot]) {
                                uint64_t tick =
                                        tick_of(container_of(node, struct timer, link)->deadline_usec);

                                assert(tick > wheel->tick);
                                assert(level_of(tick, wheel->tick) == l);
                                assert(digit_of(tick, l) == slot);
                                assert(wheel->occupied & (1U << l));
                                assert(wheel->levels[l].occupied & (UINT64_C(1) << slot));
                                assert(wheel->levels[l].earliest[slot] <= tick);
                                n_timers++;
                        }
        return n_timers;
}

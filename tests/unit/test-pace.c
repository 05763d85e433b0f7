/*
 * What journal/pace promises: no record waits for longer than a turn and PACE_WAIT_USEC; who says little has it said by
 * the next turn, and who says much says it together.
 */
#include "unit.h"

#include "journal/pace.h"

#define START USEC_PER_SEC

/* Lives of two records each, both in one turn, `each_usec` apart for `n` lives; the loop wakes for each and when told. */
struct told {
        unsigned n_sent;
        size_t n_most;      /* records in one */
        uint64_t wait_usec; /* the longest of a record */
};

static struct told live(struct pace *pace, uint64_t now_usec, uint64_t each_usec, unsigned n_lives)
{
        struct told told = { 0 };
        uint64_t next_usec = now_usec, first_usec = 0, wake_usec = USEC_INFINITY;
        size_t n_staged = 0;

        while (n_lives > 0 || n_staged > 0) {
                now_usec = n_lives > 0 ? MIN(next_usec, MAX(wake_usec, now_usec)) : MAX(wake_usec, now_usec);
                if (n_lives > 0 && now_usec == next_usec) {
                        first_usec = n_staged == 0 ? now_usec : first_usec;
                        n_staged += 2;
                        n_lives--;
                        next_usec += each_usec;
                }
                if (n_staged == 0)
                        continue;
                wake_usec = pace_wait(pace, now_usec, n_staged);
                ck_assert(wake_usec == 0 || wake_usec > now_usec);
                if (wake_usec != USEC_INFINITY)
                        continue;
                told.n_sent++;
                told.n_most = MAX(told.n_most, n_staged);
                told.wait_usec = MAX(told.wait_usec, now_usec - first_usec);
                n_staged = 0;
        }
        return told;
}

START_TEST(test_one_life)
{
        struct pace pace = { 0 };

        for (uint64_t now = START; now < START + 100 * USEC_PER_SEC; now += USEC_PER_SEC) {
                /* It was accepted, and may end in the next turn. */
                ck_assert_uint_eq(pace_wait(&pace, now, 1), 0);
                ck_assert_uint_eq(pace_wait(&pace, now, 2), USEC_INFINITY);
        }
        ck_assert_uint_eq(pace_wait(&pace, START + 200 * USEC_PER_SEC, PACE_MANY), USEC_INFINITY);
}
END_TEST

START_TEST(test_gone_meanwhile)
{
        struct pace pace = { 0 };

        ck_assert_uint_eq(pace_wait(&pace, START, 1), 0);
        ck_assert_uint_eq(pace_wait(&pace, START, 0), USEC_INFINITY);
        ck_assert_uint_eq(pace.sent_usec, 0);
        ck_assert_uint_eq(pace_wait(&pace, START + USEC_PER_SEC, 1),
                          0); /* another life, which waits for its end */
}
END_TEST

START_TEST(test_rates)
{
        static const struct {
                uint64_t each_usec;
                unsigned n_most_sent; /* of 1,000 lives */
                size_t n_most;
                uint64_t wait_usec;
        } rows[] = {
                { PACE_EACH_USEC, 1000, 2, 0 }, /* each by itself, for ever */
                { 2000, 810, 4, 2000 },
                { 1000, 410, 6, PACE_WAIT_USEC }, /* which only the last ones do: nobody comes after them */
                { 500, 260, PACE_MANY, PACE_WAIT_USEC },
                { 10, 260, PACE_MANY, PACE_WAIT_USEC },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct pace pace = { 0 };
                struct told told = live(&pace, START, rows[i].each_usec, 1000);

                ck_assert_uint_le(told.n_sent, rows[i].n_most_sent);
                ck_assert_uint_eq(told.n_most, rows[i].n_most);
                ck_assert_uint_le(told.wait_usec, rows[i].wait_usec);
        }
}
END_TEST

START_TEST(test_after_a_burst)
{
        struct pace pace = { 0 };
        uint64_t now = START;

        for (uint64_t n = 0; n <= PACE_WAIT_USEC / PACE_EACH_USEC; n++) {
                ck_assert_uint_eq(pace_wait(&pace, now, 1), 0);
                ck_assert_uint_eq(pace_wait(&pace, now, 1), USEC_INFINITY);
        }
        ck_assert_uint_eq(pace_wait(&pace, now, 1), now + PACE_WAIT_USEC);
        ck_assert_uint_eq(pace_wait(&pace, now + 1, PACE_MANY - 1), now + PACE_WAIT_USEC);
        ck_assert_uint_eq(pace_wait(&pace, now + 1, PACE_MANY), USEC_INFINITY);
        /* However many were sent by force, a pause sets it right. */
        for (unsigned n = 0; n < 1000; n++)
                ck_assert_uint_eq(pace_wait(&pace, now + 1, PACE_MANY), USEC_INFINITY);
        now += 1 + PACE_EACH_USEC;
        ck_assert_uint_eq(pace_wait(&pace, now - 1, 1), now - 1 + PACE_WAIT_USEC);
        ck_assert_uint_eq(pace_wait(&pace, now, 1), USEC_INFINITY);
        now += PACE_WAIT_USEC + PACE_EACH_USEC;
        ck_assert_uint_eq(pace_wait(&pace, now, 1), 0);
}
END_TEST

START_TEST(test_at_the_latest)
{
        struct pace pace = { .sent_usec = USEC_INFINITY };

        ck_assert_uint_eq(pace_wait(&pace, START, 1), START + PACE_WAIT_USEC);
        ck_assert_uint_eq(pace_wait(&pace, START + PACE_WAIT_USEC - 1, 2), START + PACE_WAIT_USEC);
        ck_assert_uint_eq(pace_wait(&pace, START + PACE_WAIT_USEC, 2), USEC_INFINITY);
}
END_TEST

UNIT_MAIN("pace", test_one_life, test_gone_meanwhile, test_rates, test_after_a_burst, test_at_the_latest)

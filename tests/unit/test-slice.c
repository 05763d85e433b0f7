/* What loop/slice promises: a slice that is short while it is ours, and what it was when a child wants it back. */
#include "unit.h"

#include "loop/slice.h"
#include <sched.h>
#include <stdio.h>

/* In ns, as the kernel has it, which counts only since Linux 6.12; 0: it does not say (proc(5) has no sched). */
static unsigned long slice(void)
{
        FILE *file = fopen("/proc/self/sched", "re");
        unsigned long nsec = 0;
        char line[256];

        while (file && nsec == 0 && fgets(line, sizeof(line), file))
                (void)sscanf(line, "se.slice : %lu", &nsec);
        if (file)
                (void)fclose(file);
        return nsec;
}

START_TEST(test_shorten_and_restore)
{
        unsigned long before = slice();

        slice_restore(); /* nothing was changed */
        ck_assert_uint_eq(slice(), before);
        slice_shorten();
        if (before == 0 || slice() == before)
                return;
        ck_assert_uint_eq(slice(), 100000);
        slice_restore();
        ck_assert_uint_eq(slice(), before);
}
END_TEST

START_TEST(test_another_policy_stays)
{
        struct sched_param parameters = { 0 };

        ck_assert_int_eq(sched_setscheduler(0, SCHED_BATCH, &parameters), 0);
        unsigned long before = slice();
        slice_shorten();
        ck_assert_uint_eq(slice(), before);
        ck_assert_int_eq(sched_getscheduler(0), SCHED_BATCH);
        slice_restore();
        ck_assert_int_eq(sched_getscheduler(0), SCHED_BATCH);
}
END_TEST

UNIT_MAIN("slice", test_shorten_and_restore, test_another_policy_stays)

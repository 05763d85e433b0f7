/*
 * unit: the frame of every Check program here. UNIT_MAIN(name, test, …) runs the tests as one suite, each in
 * a process of its own unless CK_FORK=no, and ends with Check's closing line.
 */
#pragma once

#include <check.h>
#include <stdlib.h>

/* clang-format off */
#define UNIT_MAIN(name, ...)                                                                                 \
        int main(void)                                                                                       \
        {                                                                                                    \
                const TTest *tests[] = { __VA_ARGS__ };                                                      \
                Suite *suite = suite_create(name);                                                           \
                TCase *tcase = tcase_create(name);                                                           \
                                                                                                             \
                tcase_set_timeout(tcase, 60);                                                                \
                for (size_t i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)                                \
                        tcase_add_test(tcase, tests[i]);                                                     \
                suite_add_tcase(suite, tcase);                                                               \
                SRunner *runner = srunner_create(suite);                                                     \
                srunner_run_all(runner, CK_ENV);                                                             \
                int n_failed = srunner_ntests_failed(runner);                                                \
                srunner_free(runner);                                                                        \
                return n_failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;                                          \
        }
/* clang-format on */

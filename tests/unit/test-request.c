/*
 * What resource/request promises: words that are escaped as the manual says and come back from there, lines that are
 * answers and lines that are none, and the table of those that wait, against a naive one.
 */
#include "random.h"
#include "unit.h"

#include "resource/request.h"
#include <stdio.h>

/* ---- requests ---- */

static char *words_of(const char *const *variables)
{
        char *words = NULL;

        ck_assert_int_eq(request_words((char *const *)variables, &words), 0);
        return words;
}

START_TEST(test_words)
{
        static const struct {
                const char *variables[4];
                const char *words;
        } rows[] = {
                { { NULL }, "" },
                { { "PATH=/bin", "HOME=/" }, "" },
                { { "TETHERD_LISTENER=presence" }, " listener=presence" },
                { { "TETHERD_IDENTITY=", "LANG=C", "TETHERD_REMOTE_PORT=1" }, " identity= remote_port=1" },
                { { "TETHERD_VALUE_WORKDIR=/run/a b" }, " value_workdir=/run/a%20b" },
                { { "TETHERD_VALUE=100% = a\tb\x7f\x01\n" }, " value=100%25%20=%20a%09b%7F%01%0A" },
                { { "TETHERD_VALUE=\xc3\xa4\xff" }, " value=\xc3\xa4\xff" },
                { { "TETHERD_=x", "TETHERD=x", "xTETHERD_A=x" }, " =x" },
        };

        ck_assert(request_words_are_valid(""));
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char *words = words_of(rows[i].variables);

                ck_assert_str_eq(words, rows[i].words);
                ck_assert(request_words_are_valid(words));
                free(words);
        }
        char *none = NULL;
        ck_assert_int_eq(request_words(NULL, &none), 0);
        ck_assert_str_eq(none, "");
        free(none);
}
END_TEST

START_TEST(test_words_that_are_none)
{
        static const char *const rows[] = { "a=b",     " ",      " a=b ",  " a=b\nLOAD", " a=b  c=d",
                                            " a=b\tc", " a=%",   " a=%2",  " a=%zz",     " a=\x7f",
                                            "\n",      " a=b\r", " a=\x01" };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                ck_assert_msg(!request_words_are_valid(rows[i]), "'%s'", rows[i]);
}
END_TEST

START_TEST(test_lines)
{
        static char buffer[REQUEST_MAX];
        size_t length = request_write(buffer, "LOAD", 7, 0x6421f0a3b7c01, " listener=a", " phase=load");

        ck_assert_str_eq(buffer, "LOAD 7 6421f0a3b7c01 listener=a phase=load\n");
        ck_assert_uint_eq(length, strlen(buffer));
        length = request_write(buffer, "RELEASE", UINT64_MAX, UINT64_MAX, " a=b", "");
        ck_assert_str_eq(buffer, "RELEASE 18446744073709551615 ffffffffffffffff a=b\n");
        ck_assert_uint_le(length, request_length(strlen(" a=b")));

        /* The longest that request_length() lets through. */
        char *words = malloc(REQUEST_MAX);
        size_t n = REQUEST_MAX - request_length(0);

        ck_assert_ptr_nonnull(words);
        memset(words, 'x', n);
        words[n] = '\0';
        ck_assert_uint_eq(request_length(n), REQUEST_MAX);
        ck_assert_uint_lt(request_write(buffer, "RELEASE", UINT64_MAX, UINT64_MAX, words, ""), REQUEST_MAX);
        free(words);
}
END_TEST

/* ---- answers ---- */

START_TEST(test_answers)
{
        static const struct {
                const char *line;
                uint64_t number;
                bool is_ok;
                const char *text;
        } rows[] = {
                { "OK 1", 1, true, "" },
                { "OK 1 ", 1, true, "" },
                { "OK 12 value", 12, true, "value" },
                { "OK 007 x", 7, true, "x" },
                { "OK 0", 0, true, "" },
                { "OK 18446744073709551615 x", UINT64_MAX, true, "x" },
                { "OK 3 two%20words%25", 3, true, "two words%" },
                { "OK 3 two words ", 3, true, "two words " },
                { "OK 3  x", 3, true, " x" },
                { "OK 3 a=b%3dc%3D", 3, true, "a=b=c=" },
                { "OK 3 %0a%7f\t", 3, true, "\n\x7f\t" }, /* which claim_loaded() refuses */
                { "FAIL 4", 4, false, "" },
                { "FAIL 4 no such user", 4, false, "no such user" },
                { "FAIL 4 no%20such%20user", 4, false, "no such user" },
                { "FAIL 4 disk 100% full, %zz %", 4, false, "disk 100% full, %zz %" },
                { "FAIL 4 a%0ab%00c%7f", 4, false, "a%0ab%00c%7f" }, /* one line, and text */
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char *line = strdup(rows[i].line);
                struct answer answer;

                ck_assert_msg(answer_read(line, &answer), "%s", rows[i].line);
                ck_assert_uint_eq(answer.number, rows[i].number);
                ck_assert_int_eq(answer.is_ok, rows[i].is_ok);
                ck_assert_str_eq(answer.text, rows[i].text);
                free(line);
        }
}
END_TEST

START_TEST(test_no_answers)
{
        static const char *const rows[] = {
                "",           " ",        "OK",       "OK ",      "OK x",           "OK -1",
                "OK +1",      "OK  1",    "ok 1",     "OKAY 1",   "FAIL",           "FAIL ",
                "FAIL x",     "FAILED 1", " OK 1",    "OK 1x",    "OK 1\t",         "OK 1\r",
                "OK 0x1",     "OK 1,2",   "OK 1 %",   "OK 1 %2",  "OK 1 %zz",       "OK 1 a%00b",
                "hello",      "OK\t1",    "OK 1.5 x", "OKFAIL 1", "OK 1 100% sure", "OK 18446744073709551616",
                "FAIL 1e9 x",
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char *line = strdup(rows[i]);
                struct answer answer;

                ck_assert_msg(!answer_read(line, &answer), "'%s' is taken for an answer", rows[i]);
                free(line);
        }
}
END_TEST

/* What goes into a request is what a helper that decodes it, and sends it back, is understood to have said. */
START_TEST(test_there_and_back)
{
        random_seed();
        for (unsigned round = 0; round < 2000; round++) {
                char variable[80] = "TETHERD_VALUE=", line[300];
                const char *const variables[] = { variable, NULL };
                size_t n = random_below(60), length = strlen(variable);
                struct answer answer;
                char *words;

                for (size_t i = 0; i < n; i++)
                        variable[length + i] = (char)(1 + random_below(255));
                words = words_of(variables);
                (void)snprintf(line, sizeof(line), "OK 1 %s", words + strlen(" value="));
                ck_assert(answer_read(line, &answer));
                ck_assert_str_eq(answer.text, variable + length);
                free(words);
        }
}
END_TEST

/* ---- those that wait ---- */

#define N_REQUESTS 5000

struct asker {
        struct request request;
        uint64_t number; /* in the naive table; 0: does not wait */
};

static struct asker askers[N_REQUESTS];

static struct asker *naive_find(uint64_t number)
{
        for (size_t i = 0; i < N_REQUESTS; i++)
                if (number > 0 && askers[i].number == number)
                        return &askers[i];
        return NULL;
}

static void check_take(struct requests *requests, uint64_t number)
{
        struct asker *wanted = naive_find(number);
        struct request *found = requests_take(requests, number);

        ck_assert_ptr_eq(found, wanted ? &wanted->request : NULL);
        if (wanted) {
                ck_assert_uint_eq(wanted->request.number, 0);
                wanted->number = 0;
        }
}

START_TEST(test_table)
{
        struct requests requests = { 0 };
        size_t n_waiting = 0;

        random_seed();
        ck_assert_ptr_null(requests_take(&requests, 1));
        for (unsigned round = 0; round < 60000; round++) {
                struct asker *asker = &askers[random_below(N_REQUESTS)];
                uint64_t what = random_below(4);

                if (what < 2 && asker->number == 0) {
                        ck_assert_int_eq(requests_add(&requests, &asker->request), 0);
                        ck_assert_uint_eq(asker->request.number, requests.last);
                        asker->number = asker->request.number;
                        n_waiting++;
                } else if (what == 2) {
                        requests_remove(&requests, &asker->request); /* harmless when it does not wait */
                        ck_assert_uint_eq(asker->request.number, 0);
                        n_waiting -= asker->number > 0;
                        asker->number = 0;
                } else if (what == 3 && round % 8 == 0) {
                        uint64_t number = random_below(requests.last + 3);

                        n_waiting -= naive_find(number) != NULL;
                        check_take(&requests, number);
                }
                ck_assert_uint_eq(requests.n, n_waiting);
        }
        for (size_t i = 0; i < N_REQUESTS; i++)
                if (askers[i].number > 0)
                        check_take(&requests, askers[i].number);
        ck_assert_uint_eq(requests.n, 0);
        uint64_t last = requests.last;
        requests_deinit(&requests);

        /* A number is never used twice. */
        ck_assert_int_eq(requests_add(&requests, &askers[0].request), 0);
        ck_assert_uint_eq(askers[0].request.number, last + 1);
        requests_remove(&requests, &askers[0].request);
        requests_deinit(&requests);
}
END_TEST

UNIT_MAIN("request", test_words, test_words_that_are_none, test_lines, test_answers, test_no_answers,
          test_there_and_back, test_table)

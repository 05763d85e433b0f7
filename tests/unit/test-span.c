/*
 * What base/span promises: the grammar of systemd.time(7), faults told apart, exact round trips, and text for
 * people that is never misleading at the border between two units.
 */
#include "unit.h"

#include "base/clock.h"
#include "base/span.h"

#define S      USEC_PER_SEC
#define MINUTE (60 * S)
#define H      (60 * MINUTE)

START_TEST(test_span_pack)
{
        uint32_t before = 0;

        for (uint64_t usec = 0; usec < UINT64_C(1) << 59; usec += 1 + usec / 7) {
                for (uint64_t near = usec > 2 ? usec - 2 : 0; near < usec + 2; near++) {
                        uint64_t again = span_unpack(span_pack(near));

                        ck_assert_uint_ge(again, near);
                        ck_assert_uint_le(again - near, near < UINT64_C(1) << 30 ? 0 : near / 1000000);
                }
                ck_assert_uint_ge(span_pack(usec), before);
                before = span_pack(usec);
        }
        ck_assert_uint_ge(span_pack(USEC_INFINITY), before);
}
END_TEST

START_TEST(test_span_parse)
{
        static const struct {
                const char *text;
                int result;
                uint64_t usec;
        } rows[] = {
                { "0", 0, 0 },
                { "5", 0, 5 * S },
                { " 5 ", 0, 5 * S },
                { "30s", 0, 30 * S },
                { "1min 30s", 0, 90 * S },
                { "1min30s", 0, 90 * S },
                { "2 h", 0, 2 * H },
                { "500ms", 0, S / 2 },
                { "1.5h", 0, 90 * MINUTE },
                { "0.000001s", 0, 1 },
                { "0.0000019s", 0, 1 },
                { "1.5 3", 0, 4500000 },
                { "18hr", 0, 18 * H },
                { "1day 1d 1days", 0, 72 * H },
                { "2w", 0, 14 * 24 * H },
                { "1week", 0, 7 * 24 * H },
                { "1M", 0, UINT64_C(2629800000000) },
                { "1year", 0, UINT64_C(31557600000000) },
                { "7us", 0, 7 },
                { "7usec", 0, 7 },
                { "7\u00b5s", 0, 7 },
                { "7\u03bcs", 0, 7 },
                { "3msec", 0, 3000 },
                { "1m", 0, MINUTE },
                { "infinity", 0, USEC_INFINITY },
                { " infinity ", 0, USEC_INFINITY },
                { "18446744073709551614us", 0, UINT64_MAX - 1 },
                { "18446744073709551615us", -ERANGE, 0 },
                { "18446744073709551616us", -ERANGE, 0 },
                { "99999999999999999999999us", -ERANGE, 0 },
                { "600000years", -ERANGE, 0 },
                { "18446744073709551614us 1us", -ERANGE, 0 },
                { "18446744073709s 1s", -ERANGE, 0 },
                { "18446744073709.6s", -ERANGE, 0 },
                { "600000years nonsense", -EINVAL, 0 },
                { "", -EINVAL, 0 },
                { "  ", -EINVAL, 0 },
                { "-1s", -EINVAL, 0 },
                { "s", -EINVAL, 0 },
                { "5x", -EINVAL, 0 },
                { "5 minutesx", -EINVAL, 0 },
                { "1.s", -EINVAL, 0 },
                { ".5s", -EINVAL, 0 },
                { "1..5s", -EINVAL, 0 },
                { "infinity 1s", -EINVAL, 0 },
                { "1s infinity", -EINVAL, 0 },
                { "30s;", -EINVAL, 0 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                uint64_t usec = 42;
                ck_assert_msg(span_parse(rows[i].text, &usec) == rows[i].result, "\"%s\"", rows[i].text);
                ck_assert_msg(usec == (rows[i].result == 0 ? rows[i].usec : 42), "\"%s\"", rows[i].text);
        }
}
END_TEST

START_TEST(test_span_format)
{
        static const struct {
                uint64_t usec;
                const char *exact, *rounded;
        } rows[] = {
                { 0, "0s", "0s" },
                { 1, "1us", "1us" },
                { 999, "999us", "999us" },
                { 1000, "1ms", "1ms" },
                { 45200, "45ms 200us", "45ms" },
                { 999499, "999ms 499us", "999ms" },
                { 999500, "999ms 500us", "1s" },
                { S, "1s", "1s" },
                { 1249999, "1s 249ms 999us", "1.2s" },
                { 1250000, "1s 250ms", "1.3s" },
                { 59949999, "59s 949ms 999us", "59.9s" },
                { 59950000, "59s 950ms", "1min" },
                { 90 * S, "1min 30s", "1min 30s" },
                { 182 * S + 100000, "3min 2s 100ms", "3min 2.1s" },
                { 60 * S + 500000, "1min 500ms", "1min 0.5s" },
                { H - 50001, "59min 59s 949ms 999us", "59min 59.9s" },
                { H - 50000, "59min 59s 950ms", "1h" },
                { H + 29 * S, "1h 29s", "1h" },
                { H + 30 * S, "1h 30s", "1h 1min" },
                { 18 * H, "18h", "18h" },
                { 24 * H - S, "23h 59min 59s", "1d" },
                { 25 * H + 40 * MINUTE, "1d 1h 40min", "1d 2h" },
                { 7 * 24 * H - S, "6d 23h 59min 59s", "1w" },
                { 10 * 24 * H + 13 * H, "1w 3d 13h", "1w 4d" },
                { USEC_INFINITY, "infinity", "infinity" },
        };
        char buffer[SPAN_TEXT_MAX];

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                ck_assert_str_eq(span_format(rows[i].usec, buffer), rows[i].exact);
                ck_assert_str_eq(span_format_rounded(rows[i].usec, buffer), rows[i].rounded);
        }
}
END_TEST

START_TEST(test_span_round_trip)
{
        uint64_t state = 1;

        for (unsigned i = 0; i < 20000; i++) {
                char buffer[SPAN_TEXT_MAX];
                uint64_t read = 0;

                state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
                uint64_t usec = state >> (state % 64);
                ck_assert_int_eq(span_parse(span_format(usec, buffer), &read), 0);
                ck_assert_msg(read == usec, "%s", buffer);
        }
        uint64_t read;
        char buffer[SPAN_TEXT_MAX];
        ck_assert_int_eq(span_parse(span_format(USEC_INFINITY - 1, buffer), &read), 0);
        ck_assert(read == USEC_INFINITY - 1);
}
END_TEST

START_TEST(test_size)
{
        static const struct {
                const char *text;
                int result;
                uint64_t bytes;
        } rows[] = {
                { "0", 0, 0 },
                { "1", 0, 1 },
                { "64K", 0, 65536 },
                { "1M", 0, 1048576 },
                { "2G", 0, UINT64_C(2) << 30 },
                { "3T", 0, UINT64_C(3) << 40 },
                { "18446744073709551615", 0, UINT64_MAX },
                { "18446744073709551616", -ERANGE, 0 },
                { "16777216T", -ERANGE, 0 },
                { "99999999999999999999999K", -ERANGE, 0 },
                { "", -EINVAL, 0 },
                { "K", -EINVAL, 0 },
                { "1k", -EINVAL, 0 },
                { "1KB", -EINVAL, 0 },
                { "1 K", -EINVAL, 0 },
                { "-1", -EINVAL, 0 },
                { "1.5M", -EINVAL, 0 },
        };
        static const struct {
                uint64_t bytes;
                const char *text;
        } shown[] = {
                { 0, "0 B" },
                { 120, "120 B" },
                { 1023, "1023 B" },
                { 1024, "1.0 KiB" },
                { 65536, "64.0 KiB" },
                { 1048575, "1.0 MiB" },
                { 1024 * 1023, "1023.0 KiB" },
                { 3 << 19, "1.5 MiB" },
                { UINT64_C(5) << 30, "5.0 GiB" },
                { UINT64_MAX, "16.0 EiB" },
        };
        char buffer[SPAN_TEXT_MAX];

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                uint64_t bytes = 42;
                ck_assert_msg(size_parse(rows[i].text, &bytes) == rows[i].result, "\"%s\"", rows[i].text);
                ck_assert_msg(bytes == (rows[i].result == 0 ? rows[i].bytes : 42), "\"%s\"", rows[i].text);
        }
        for (size_t i = 0; i < ARRAY_SIZE(shown); i++)
                ck_assert_str_eq(size_format_rounded(shown[i].bytes, buffer), shown[i].text);
}
END_TEST

START_TEST(test_count)
{
        static const struct {
                const char *text;
                uint64_t max;
                int r;
                uint64_t value;
        } rows[] = {
                { "0", 0, 0, 0 },
                { "007", 9, 0, 7 },
                { "65535", 65535, 0, 65535 },
                { "65536", 65535, -ERANGE, 0 },
                { "18446744073709551615", UINT64_MAX, 0, UINT64_MAX },
                { "18446744073709551616", UINT64_MAX, -ERANGE, 0 },
                { "", 9, -EINVAL, 0 },
                { "x", 9, -EINVAL, 0 },
                { "1x", 9, -EINVAL, 0 },
                { " 1", 9, -EINVAL, 0 },
                { "1 ", 9, -EINVAL, 0 },
                { "+1", 9, -EINVAL, 0 },
                { "-1", 9, -EINVAL, 0 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                uint64_t value = 42;
                ck_assert_msg(count_parse(rows[i].text, rows[i].max, &value) == rows[i].r, "'%s'",
                              rows[i].text);
                ck_assert_uint_eq(value, rows[i].r == 0 ? rows[i].value : 42);
        }
}
END_TEST

START_TEST(test_boolean)
{
        static const char *const yes[] = { "yes", "true", "on", "1" },
                                 *const no[] = { "no", "false", "off", "0" }, *const bad[] = { "",     "Yes",
                                                                                               "y",    "2",
                                                                                               "yes ", "00" };
        bool value;

        for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
                value = false;
                ck_assert(boolean_parse(yes[i], &value) == 0 && value);
                ck_assert(boolean_parse(no[i], &value) == 0 && !value);
        }
        for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
                value = true;
                ck_assert(boolean_parse(bad[i], &value) == -EINVAL && value);
        }
}
END_TEST

UNIT_MAIN("span", test_span_pack, test_span_parse, test_span_format, test_span_round_trip, test_size,
          test_count, test_boolean)

/*
 * span: promises that what span_format() writes, span_parse() reads back as the same number, and that nothing
 * overflows silently. It relies on nothing but integers: no floating point, no locale. It does not do
 * calendars: a month is 30.44 and a year 365.25 days, as in systemd.time(7).
 */
#include "base/span.h"
#include "base/clock.h"
#include "base/digits.h"

#define MINUTE (60 * USEC_PER_SEC)
#define HOUR   (60 * MINUTE)
#define DAY    (24 * HOUR)
#define WEEK   (7 * DAY)
#define MONTH  UINT64_C(2629800000000)
#define YEAR   UINT64_C(31557600000000)

static const struct unit {
        const char *name;
        uint64_t usec;
} units[] = {
        { "seconds", USEC_PER_SEC },
        { "second", USEC_PER_SEC },
        { "sec", USEC_PER_SEC },
        { "s", USEC_PER_SEC },
        { "minutes", MINUTE },
        { "minute", MINUTE },
        { "min", MINUTE },
        { "m", MINUTE },
        { "msec", USEC_PER_MSEC },
        { "ms", USEC_PER_MSEC },
        { "usec", 1 },
        { "us", 1 },
        { "\u00b5s", 1 },
        { "\u03bcs", 1 },
        { "hours", HOUR },
        { "hour", HOUR },
        { "hr", HOUR },
        { "h", HOUR },
        { "days", DAY },
        { "day", DAY },
        { "d", DAY },
        { "weeks", WEEK },
        { "week", WEEK },
        { "w", WEEK },
        { "months", MONTH },
        { "month", MONTH },
        { "M", MONTH },
        { "years", YEAR },
        { "year", YEAR },
        { "y", YEAR },
};

/* What is written, the largest first. */
static const struct unit written[] = {
        { "w", WEEK },           { "d", DAY }, { "h", HOUR }, { "min", MINUTE }, { "s", USEC_PER_SEC },
        { "ms", USEC_PER_MSEC }, { "us", 1 },
};

static bool is_digit(char c)
{
        return c >= '0' && c <= '9';
}

static bool is_blank(char c)
{
        return c == ' ' || c == '\t';
}

static const char *skip_blanks(const char *p)
{
        while (is_blank(*p))
                p++;
        return p;
}

/* Reads the digits at *p. A number that does not fit sets *fits to false and is read on to its end. */
static uint64_t parse_digits(const char **p, bool *fits)
{
        uint64_t number = 0;

        for (; is_digit(**p); (*p)++)
                if (__builtin_mul_overflow(number, 10, &number) ||
                    __builtin_add_overflow(number, (uint64_t)(**p - '0'), &number))
                        *fits = false;
        return number;
}

/* The unit at *p up to a blank, a digit or the end; none is a second. 0: not known. */
static uint64_t parse_unit(const char **p)
{
        size_t length = strcspn(*p, " \t0123456789.");

        if (length == 0)
                return USEC_PER_SEC;
        for (size_t i = 0; i < ARRAY_SIZE(units); i++)
                if (strlen(units[i].name) == length && strncmp(units[i].name, *p, length) == 0) {
                        *p += length;
                        return units[i].usec;
                }
        return 0;
}

int span_parse(const char *text, uint64_t *ret_usec)
{
        const char *p = skip_blanks(text);
        uint64_t sum = 0;
        bool fits = true;

        if (startswith(p, "infinity") && *skip_blanks(p + strlen("infinity")) == '\0') {
                *ret_usec = USEC_INFINITY;
                return 0;
        }
        if (*p == '\0')
                return -EINVAL;
        while (*p != '\0') {
                if (!is_digit(*p))
                        return -EINVAL;
                uint64_t number = parse_digits(&p, &fits), value;
                const char *fraction = NULL;
                if (*p == '.') {
                        fraction = ++p;
                        if (!is_digit(*p))
                                return -EINVAL;
                        while (is_digit(*p))
                                p++;
                }
                p = skip_blanks(p);
                uint64_t unit = parse_unit(&p);
                if (unit == 0)
                        return -EINVAL;
                if (__builtin_mul_overflow(number, unit, &value) || __builtin_add_overflow(sum, value, &sum))
                        fits = false;
                for (uint64_t part = unit / 10; fraction && is_digit(*fraction) && part > 0; part /= 10)
                        if (__builtin_add_overflow(sum, (uint64_t)(*fraction++ - '0') * part, &sum))
                                fits = false;
                p = skip_blanks(p);
        }
        if (!fits || sum == USEC_INFINITY)
                return -ERANGE;
        *ret_usec = sum;
        return 0;
}

int size_parse(const char *text, uint64_t *ret_bytes)
{
        static const char suffixes[] = "KMGT";
        const char *p = text;
        bool fits = true;

        if (!is_digit(*p))
                return -EINVAL;
        uint64_t number = parse_digits(&p, &fits);
        if (*p != '\0') {
                const char *suffix = strchr(suffixes, *p);
                if (!suffix || p[1] != '\0')
                        return -EINVAL;
                if (__builtin_mul_overflow(number, UINT64_C(1) << (10 * (suffix - suffixes + 1)), &number))
                        fits = false;
        }
        if (!fits)
                return -ERANGE;
        *ret_bytes = number;
        return 0;
}

int count_parse(const char *text, uint64_t max, uint64_t *ret)
{
        const char *p = text;
        bool fits = true;
        uint64_t number = parse_digits(&p, &fits);

        if (p == text || *p != '\0')
                return -EINVAL;
        if (!fits || number > max)
                return -ERANGE;
        *ret = number;
        return 0;
}

int boolean_parse(const char *text, bool *ret)
{
        static const char *const words[] = { "no", "yes", "false", "true", "off", "on", "0", "1" };

        for (size_t i = 0; i < ARRAY_SIZE(words); i++)
                if (streq(text, words[i])) {
                        *ret = i % 2 == 1;
                        return 0;
                }
        return -EINVAL;
}

/* The longest has 7 units of at most 9 characters. */
const char *span_format(uint64_t usec, char buffer[static SPAN_TEXT_MAX])
{
        char *p = buffer;

        if (usec == USEC_INFINITY)
                return strcpy(buffer, "infinity");
        if (usec == 0)
                return strcpy(buffer, "0s");
        for (size_t i = 0; i < ARRAY_SIZE(written); i++) {
                uint64_t count = usec / written[i].usec;
                if (count == 0)
                        continue;
                if (p > buffer)
                        *p++ = ' ';
                p = stpcpy(put_digits(p, count, 10), written[i].name);
                usec %= written[i].usec;
        }
        return buffer;
}

static uint64_t round_to(uint64_t usec, uint64_t step)
{
        return (usec + step / 2) / step * step;
}

/* The smallest step that is shown: a tenth of a second below an hour, else the unit after the largest. */
static uint64_t visible_step(uint64_t usec)
{
        if (usec < USEC_PER_MSEC)
                return 1;
        if (usec < USEC_PER_SEC)
                return USEC_PER_MSEC;
        if (usec < HOUR)
                return USEC_PER_SEC / 10;
        return usec < DAY ? MINUTE : usec < WEEK ? HOUR : DAY;
}

/* "2.1" of 21 */
static char *put_tenths(char *p, uint64_t tenths)
{
        p = put_digits(p, tenths / 10, 10);
        *p++ = '.';
        return put_digits(p, tenths % 10, 10);
}

const char *span_format_rounded(uint64_t usec, char buffer[static SPAN_TEXT_MAX])
{
        if (usec >= USEC_INFINITY - DAY)
                return strcpy(buffer, "infinity");

        uint64_t rounded = round_to(usec, visible_step(usec));
        rounded = round_to(rounded, visible_step(rounded)); /* rounding up may have reached a larger unit */
        if (rounded < USEC_PER_SEC || rounded % USEC_PER_SEC == 0)
                return span_format(rounded, buffer);

        char *p = buffer;
        if (rounded >= MINUTE)
                p = stpcpy(put_digits(p, rounded / MINUTE, 10), "min ");
        (void)strcpy(put_tenths(p, rounded % MINUTE / (USEC_PER_SEC / 10)), "s");
        return buffer;
}

const char *size_format_rounded(uint64_t bytes, char buffer[static SPAN_TEXT_MAX])
{
        static const char *const names[] = { "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
        size_t i = 0;

        if (bytes < 1024) {
                (void)strcpy(put_digits(buffer, bytes, 10), " B");
                return buffer;
        }
        /* Bits that a tenth of the unit cannot show go first, so that 10 times the number always fits. */
        while (bytes >= 1024 * 1024) {
                bytes /= 1024;
                i++;
        }
        uint64_t tenths = (bytes * 10 + 512) / 1024;
        if (tenths == 10240 && i + 1 < ARRAY_SIZE(names)) {
                tenths = 10;
                i++;
        }
        (void)strcpy(stpcpy(put_tenths(buffer, tenths), " "), names[i]);
        return buffer;
}

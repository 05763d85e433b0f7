/*
 * number: promises that every value that is one number in its struct (spans, sizes, counts, words, modes, users)
 * is within its row of the table, and prints as it is read. It relies on the table for ranges, and on the user
 * database for names.
 */
#include "config/number.h"
#include <ctype.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdio.h>

static int parse_mode(const char *text, uint64_t *ret)
{
        char *end;

        if (!isdigit((unsigned char)text[0]))
                return -EINVAL;
        errno = 0;
        unsigned long long value = strtoull(text, &end, 8);
        if (*end != '\0' || errno != 0)
                return -EINVAL;
        *ret = value;
        return 0;
}

static int parse_user(const char *text, uint64_t *ret)
{
        const struct passwd *user = getpwnam(text);
        uint64_t uid;

        if (!user && count_parse(text, (uid_t)-1 - 1, &uid) == 0)
                user = getpwuid((uid_t)uid);
        if (!user)
                return -ENOENT;
        *ret = user->pw_uid;
        return 0;
}

static int parse_group(const char *text, uint64_t *ret)
{
        const struct group *group = getgrnam(text);
        uint64_t gid;

        if (!group && count_parse(text, (gid_t)-1 - 1, &gid) == 0)
                group = getgrgid((gid_t)gid);
        if (!group)
                return -ENOENT;
        *ret = group->gr_gid;
        return 0;
}

static int check_range(const struct key *key, uint64_t value)
{
        if (value == USEC_INFINITY && key->flags & KEY_INFINITY)
                return 0;
        if (value < key->min || value > key->max)
                return -ERANGE;
        return key->flags & KEY_WHOLE_SECONDS && value % USEC_PER_SEC != 0 ? -ERANGE : 0;
}

int number_parse(const struct key *key, const char *text, uint64_t *ret)
{
        const struct key_word *word;
        bool yes;
        int r;

        if (*text == '\0') {
                *ret = key->type == KEY_USER || key->type == KEY_GROUP ? (uid_t)-1 : 0;
                return 0;
        }
        if (key->flags & KEY_AUTO && streq(text, "auto")) {
                *ret = 0;
                return 0;
        }
        if (key->type == KEY_COUNT && key->flags & KEY_INFINITY && streq(text, "infinity")) {
                *ret = UINT64_MAX;
                return 0;
        }
        switch (key->type) {
        case KEY_BOOLEAN:
                r = boolean_parse(text, &yes);
                if (r == 0)
                        *ret = yes;
                return r;
        case KEY_WORD:
                word = key_find_word(key, text);
                if (!word)
                        return -EINVAL;
                *ret = word->value;
                return 0;
        case KEY_USER:
                return parse_user(text, ret);
        case KEY_GROUP:
                return parse_group(text, ret);
        case KEY_SPAN:
                r = span_parse(text, ret);
                break;
        case KEY_SIZE:
                r = size_parse(text, ret);
                break;
        case KEY_MODE:
                r = parse_mode(text, ret);
                break;
        default:
                r = count_parse(text, UINT64_MAX, ret);
                break;
        }
        return r < 0 ? r : check_range(key, *ret);
}

const char *number_format(const struct key *key, uint64_t value, char buffer[static SPAN_TEXT_MAX])
{
        if (key->flags & KEY_AUTO && value == 0)
                return "auto";
        if (key->flags & KEY_INFINITY && value == UINT64_MAX)
                return "infinity";
        switch (key->type) {
        case KEY_BOOLEAN:
                return value ? "yes" : "no";
        case KEY_SPAN:
                return span_format(value, buffer);
        case KEY_SIZE:
                if (value == 0)
                        return "";
                break;
        case KEY_WORD:
                for (const struct key_word *word = key->words; word->name; word++)
                        if (word->value == value)
                                return word->name;
                break;
        case KEY_MODE:
                (void)snprintf(buffer, SPAN_TEXT_MAX, "%04" PRIo64, value);
                return buffer;
        default:
                break;
        }
        (void)snprintf(buffer, SPAN_TEXT_MAX, "%" PRIu64, value);
        return buffer;
}

const char *number_wanted(const struct key *key, char buffer[static NUMBER_WANTED_MAX])
{
        char low[SPAN_TEXT_MAX], high[SPAN_TEXT_MAX];
        const struct key plain = { .type = key->type };
        const char *what = "a number", *infinity = key->flags & KEY_INFINITY ? ", or infinity" : "";
        size_t length;

        switch (key->type) {
        case KEY_BOOLEAN:
                return "it must be yes or no (true, false, on, off, 1, 0)";
        case KEY_USER:
                return "there is no such user";
        case KEY_GROUP:
                return "there is no such group";
        case KEY_WORD:
        case KEY_HANDLER:
                length = (size_t)snprintf(buffer, NUMBER_WANTED_MAX, "it must be one of");
                for (const struct key_word *word = key->words; word->name; word++)
                        length += (size_t)snprintf(buffer + length, NUMBER_WANTED_MAX - length, "%s %s",
                                                   word == key->words ? "" : ",", word->name);
                return buffer;
        case KEY_MODE:
                what = "an octal mode";
                break;
        case KEY_SPAN:
                what = key->flags & KEY_WHOLE_SECONDS ? "whole seconds" : "a time such as 30s or 1min 30s";
                break;
        case KEY_SIZE:
                what = "a size such as 64K or 1M";
                break;
        default:
                break;
        }
        if (key->max == USEC_INFINITY - 1)
                (void)snprintf(buffer, NUMBER_WANTED_MAX, "it must be %s, at least %s%s", what,
                               number_format(&plain, key->min, low), infinity);
        else
                (void)snprintf(buffer, NUMBER_WANTED_MAX, "it must be %s, %s to %s%s%s", what,
                               number_format(&plain, key->min, low), number_format(&plain, key->max, high),
                               infinity, key->flags & KEY_AUTO ? ", or auto" : "");
        return buffer;
}

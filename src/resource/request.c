/*
 * Promises that what is in a value never breaks out of its word or line, in either direction. The numbers count up, so
 * they are their own hash: those that wait at one moment are neighbours but for a few that linger.
 * Deliberately not here: what an answer means for the one who asked.
 */
#include "resource/request.h"
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>

#define BUCKETS_MIN ((size_t)64)
#define PREFIX      "TETHERD_"

/* ---- escapes ---- */

static bool is_escaped(char c)
{
        return (unsigned char)c <= ' ' || c == '%' || c == 0x7f;
}

/* To `to`, which has room for three bytes each. Returns the end. */
static char *escape(char *to, const char *from)
{
        static const char digits[] = "0123456789ABCDEF";

        for (; *from; from++)
                if (is_escaped(*from)) {
                        *to++ = '%';
                        *to++ = digits[(unsigned char)*from >> 4];
                        *to++ = digits[(unsigned char)*from & 0xf];
                } else {
                        *to++ = *from;
                }
        *to = '\0';
        return to;
}

static int digit_value(char c)
{
        if (isdigit((unsigned char)c))
                return c - '0';
        c = (char)tolower((unsigned char)c);
        return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte that an escape stands for; -1: it is none. */
static int escaped_byte(const char *escape)
{
        int high = escape[0] == '%' ? digit_value(escape[1]) : -1;
        int low = high < 0 ? -1 : digit_value(escape[2]);

        return low < 0 ? -1 : high << 4 | low;
}

/* In place. `is_lenient`: what has no meaning, or would not print, stays as it is; else false. */
static bool unescape(char *text, bool is_lenient)
{
        char *to = text;

        for (const char *from = text; *from; to++) {
                int byte = escaped_byte(from);

                if (*from != '%') {
                        *to = *from++;
                } else if (byte > 0 && (!is_lenient || (byte >= ' ' && byte != 0x7f))) {
                        *to = (char)byte;
                        from += 3;
                } else if (is_lenient) {
                        *to = *from++;
                } else {
                        return false;
                }
        }
        *to = '\0';
        return true;
}

/* ---- requests ---- */

int request_words(char *const *variables, char **ret)
{
        size_t size = 1;
        char *words, *to;

        for (char *const *variable = variables; variable && *variable; variable++)
                if (startswith(*variable, PREFIX))
                        size += 3 * strlen(*variable) + 1;
        words = malloc(size);
        if (!words)
                return -ENOMEM;
        *(to = words) = '\0';
        for (; variables && *variables; variables++) {
                const char *p = *variables + strlen(PREFIX);

                if (!startswith(*variables, PREFIX))
                        continue;
                for (*to++ = ' '; *p && *p != '='; p++)
                        *to++ = (char)tolower((unsigned char)*p);
                to = escape(to, p);
        }
        to = realloc(words, (size_t)(to - words) + 1); /* it is kept for as long as its connection lives */
        *ret = to ? to : words;
        return 0;
}

bool request_words_are_valid(const char *words)
{
        if (*words && *words != ' ')
                return false;
        for (; *words; words++) {
                if (*words == ' ' ? words[1] == ' ' || words[1] == '\0' : is_escaped(*words) && *words != '%')
                        return false;
                if (*words == '%' && escaped_byte(words) < 0)
                        return false;
        }
        return true;
}

size_t request_write(char buffer[static REQUEST_MAX], const char *verb, uint64_t number, uint64_t connection,
                     const char *words, const char *more_words)
{
        int n = snprintf(buffer, REQUEST_MAX, "%s %" PRIu64 " %" PRIx64 "%s%s\n", verb, number, connection,
                         words, more_words);

        assert(n > 0 && (size_t)n < REQUEST_MAX);
        return (size_t)n;
}

/* ---- answers ---- */

static char *skip(char *text, const char *prefix)
{
        return startswith(text, prefix) ? text + strlen(prefix) : NULL;
}

bool answer_read(char *line, struct answer *ret)
{
        char *p = skip(line, "OK "), *end;
        bool is_ok = p;
        uint64_t number;

        if (!p)
                p = skip(line, "FAIL ");
        if (!p || !isdigit((unsigned char)*p)) /* strtoull(3) takes blanks and signs */
                return false;
        errno = 0;
        number = strtoull(p, &end, 10);
        if (errno != 0 || (*end && *end != ' '))
                return false;
        if (*end == ' ')
                end++;
        if (!unescape(end, !is_ok))
                return false;
        *ret = (struct answer){ .number = number, .is_ok = is_ok, .text = end };
        return true;
}

/* ---- those that wait ---- */

void requests_deinit(struct requests *requests)
{
        assert(requests->n == 0);
        free(requests->buckets);
        *requests = (struct requests){ .last = requests->last };
}

static struct request **bucket_of(const struct requests *requests, uint64_t number)
{
        return &requests->buckets[number & (requests->n_buckets - 1)];
}

static void put(struct requests *requests, struct request *request)
{
        struct request **bucket = bucket_of(requests, request->number);

        request->next = *bucket;
        *bucket = request;
}

/* Without memory it stays as it is, and is slower. */
static void grow(struct requests *requests)
{
        struct requests grown = { .n_buckets = MAX(2 * requests->n_buckets, BUCKETS_MIN) };

        grown.buckets = calloc(grown.n_buckets, sizeof(*grown.buckets));
        if (!grown.buckets)
                return;
        for (size_t i = 0; i < requests->n_buckets; i++)
                for (struct request *request = requests->buckets[i], *next; request; request = next) {
                        next = request->next;
                        put(&grown, request);
                }
        free(requests->buckets);
        requests->buckets = grown.buckets;
        requests->n_buckets = grown.n_buckets;
}

int requests_add(struct requests *requests, struct request *request)
{
        assert(request->number == 0);
        if (requests->n >= requests->n_buckets)
                grow(requests);
        if (requests->n_buckets == 0)
                return -ENOMEM;
        request->number = ++requests->last;
        put(requests, request);
        requests->n++;
        return 0;
}

struct request *requests_take(struct requests *requests, uint64_t number)
{
        struct request *request;

        if (requests->n_buckets == 0)
                return NULL;
        for (struct request **link = bucket_of(requests, number); (request = *link); link = &request->next)
                if (request->number == number) {
                        *link = request->next;
                        *request = (struct request){ 0 };
                        requests->n--;
                        return request;
                }
        return NULL;
}

void requests_remove(struct requests *requests, struct request *request)
{
        if (request->number > 0)
                (void)requests_take(requests, request->number);
}

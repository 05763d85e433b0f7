/*
 * request: the lines of the helper protocol, and which of them wait for an answer. It starts nothing, reads and
 * writes no descriptor and never logs.
 *
 *      LOAD <request> <connection> <name=value>…          RELEASE <request> <connection> <name=value>…
 *      OK <request> [value]                               FAIL <request> [reason]
 *
 * Blanks, control characters and per cent signs in values are written %XX. A request is known by its number, which is
 * never used twice.
 */
#pragma once

#include "base/util.h"

#define REQUEST_MAX ((size_t)64 * 1024) /* bytes of a line, with its newline */

/*
 * What the TETHERD_NAME=value among the variables come to in a request: " name=value" each, the name in lower case.
 * 0 with *ret owned by the caller, or -ENOMEM.
 */
int request_words(char *const *variables, char **ret);

/* Whether the text may be put into a request: such words and nothing else, no end of a line above all. */
bool request_words_are_valid(const char *words);

/*
 * Writes a request with its newline to `buffer`, which has room for REQUEST_MAX bytes; what does not fit is for the
 * caller to refuse before, by request_length(). Returns its length.
 */
size_t request_write(char buffer[static REQUEST_MAX], const char *verb, uint64_t number, uint64_t connection,
                     const char *words, const char *more_words);

/* At most so long is a request with words of this length. */
static inline size_t request_length(size_t n_words)
{
        return sizeof("RELEASE 18446744073709551615 ffffffffffffffff\n") + n_words;
}

struct answer {
        uint64_t number;
        bool is_ok;       /* OK, else FAIL */
        const char *text; /* the value or the reason, decoded; "" where there is none. Part of the line */
};

/*
 * Reads a line, which it changes. False: it is no answer. A blank that is not escaped is part of the text, for it is
 * the last word. In a reason, which only people read, a per cent sign without a meaning stays one, and control
 * characters stay escaped.
 */
bool answer_read(char *line, struct answer *ret);

/* ---- those that wait for an answer, by number: O(1) however many there are ---- */

/* Embedded in what asks. Zeroed: does not wait. */
struct request {
        struct request *next;
        uint64_t number; /* 0: does not wait */
};

/* Zeroed: there are none. */
struct requests {
        struct request **buckets;
        size_t n_buckets; /* a power of two, or 0 */
        size_t n;
        uint64_t last; /* number given */
};

void requests_deinit(struct requests *requests); /* asserts that none waits */

int requests_add(struct requests *requests, struct request *request); /* gives it a number; 0 or -ENOMEM */
void requests_remove(struct requests *requests, struct request *request); /* harmless when it does not wait */
struct request *requests_take(struct requests *requests, uint64_t number); /* removed; NULL: none waits */

/*
 * number: the values of a configuration that are one number, between text and struct. Private to src/config.
 */
#pragma once

#include "base/span.h"
#include "config/keys.h"

/*
 * The number that the text stands for: 0 for `auto` and, as an empty default, for nothing; (uid_t)-1 for no user
 * or group. 0, or a negative errno when number_wanted() is what to say.
 */
int number_parse(const struct key *key, const char *text, uint64_t *ret);

/* As text that number_parse() reads back, but for users and groups; `buffer` or a constant. */
const char *number_format(const struct key *key, uint64_t value, char buffer[static SPAN_TEXT_MAX]);

/* What would have been right: "it must be a size such as 64K or 1M, 1 to 1073741823"; `buffer` or a constant. */
#define NUMBER_WANTED_MAX 256
const char *number_wanted(const struct key *key, char buffer[static NUMBER_WANTED_MAX]);

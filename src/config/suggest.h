/*
 * suggest: the known name that is nearest to a misspelt one.
 */
#pragma once

#include "base/util.h"

struct suggestion {
        const char *misspelt;
        const char *nearest; /* borrowed from the candidates; NULL: none is near enough */
        unsigned distance;
};

/* Keeps the candidate if it is nearer than those before it. */
void suggestion_offer(struct suggestion *suggestion, const char *candidate);

#define SUGGESTION_TEXT_MAX 128

/* "; did you mean 'x'?", or "" where nothing is near; `before` and `after` stand in for the quotes. */
const char *suggestion_text(const struct suggestion *suggestion, const char *before, const char *after,
                            char buffer[static SUGGESTION_TEXT_MAX]);

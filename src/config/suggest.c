/*
 * suggest: promises a suggestion only where at most a third of the name is wrong. It counts single letters
 * added, left out or replaced (Levenshtein). Names longer than any of ours get none.
 */
#include "config/suggest.h"
#include <stdio.h>

#define LENGTH_MAX 64

static unsigned edit_distance(const char *a, const char *b)
{
        unsigned row[LENGTH_MAX + 1];
        size_t length = strlen(b);

        if (strlen(a) > LENGTH_MAX || length > LENGTH_MAX)
                return LENGTH_MAX;
        for (unsigned j = 0; j <= length; j++)
                row[j] = j;
        for (unsigned i = 1; a[i - 1] != '\0'; i++) {
                unsigned diagonal = row[0];
                row[0] = i;
                for (unsigned j = 1; j <= length; j++) {
                        unsigned replaced = diagonal + (a[i - 1] != b[j - 1]);
                        diagonal = row[j];
                        unsigned shifted = MIN(row[j], row[j - 1]) + 1;
                        row[j] = MIN(replaced, shifted);
                }
        }
        return row[length];
}

void suggestion_offer(struct suggestion *suggestion, const char *candidate)
{
        unsigned distance = edit_distance(suggestion->misspelt, candidate);

        if (distance > MAX(strlen(candidate) / 3, 1U) ||
            (suggestion->nearest && distance >= suggestion->distance))
                return;
        suggestion->nearest = candidate;
        suggestion->distance = distance;
}

const char *suggestion_text(const struct suggestion *suggestion, const char *before, const char *after,
                            char buffer[static SUGGESTION_TEXT_MAX])
{
        buffer[0] = '\0';
        if (suggestion->nearest)
                (void)snprintf(buffer, SUGGESTION_TEXT_MAX, "; did you mean %s%s%s?", before,
                               suggestion->nearest, after);
        return buffer;
}

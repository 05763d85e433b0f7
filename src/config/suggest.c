/*
 * suggest: promises a suggestion only where at most a third of the name is wrong. It counts single letters
 * added, left out or replaced, and neighbours swapped (optimal string alignment). Names longer than any of ours get
 * none.
 */
#include "config/suggest.h"
#include <stdio.h>

#define LENGTH_MAX 64

static unsigned edit_distance(const char *a, const char *b)
{
        unsigned rows[3][LENGTH_MAX + 1]; /* [i % 3][j]: from the first i letters of a to the first j of b */
        size_t n_a = strlen(a), n_b = strlen(b);

        if (n_a > LENGTH_MAX || n_b > LENGTH_MAX)
                return LENGTH_MAX;
        for (unsigned j = 0; j <= n_b; j++)
                rows[0][j] = j;
        for (unsigned i = 1; i <= n_a; i++) {
                unsigned *row = rows[i % 3], *above = rows[(i - 1) % 3], *before = rows[(i + 1) % 3];

                row[0] = i;
                for (unsigned j = 1; j <= n_b; j++) {
                        unsigned replaced = above[j - 1] + (a[i - 1] != b[j - 1]);
                        unsigned shifted = MIN(above[j], row[j - 1]) + 1;

                        row[j] = MIN(replaced, shifted);
                        if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                                row[j] = MIN(row[j], before[j - 2] + 1);
                }
        }
        return rows[n_a % 3][n_b];
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

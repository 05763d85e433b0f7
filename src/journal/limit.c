/*
 * limit: promises a bound on what a flood of refused clients writes, and that the rest is told as a number. A
 * second begins with the first rejection of its pair. Deliberately a short list that is searched from its
 * beginning: a flood has one listener and one cause, and its entry is where the flood began.
 */
#include "journal/limit.h"

static struct limit_entry *find(struct limit *limit, const char *listener, const char *cause)
{
        for (size_t i = 0; i < limit->n_entries; i++) {
                struct limit_entry *entry = limit->entries + i;

                if (strncmp(entry->cause, cause, LIMIT_NAME_MAX - 1) == 0 &&
                    strncmp(entry->listener, listener, LIMIT_NAME_MAX - 1) == 0)
                        return entry;
        }
        return NULL;
}

static struct limit_entry *find_or_add(struct limit *limit, const char *listener, const char *cause,
                                       uint64_t now_usec)
{
        struct limit_entry *entry = find(limit, listener, cause);

        if (entry)
                return entry;
        if (limit->n_entries >= LIMIT_PAIRS) {
                listener = cause = "";
                entry = find(limit, listener, cause);
                if (entry)
                        return entry;
        }
        assert(limit->n_entries < ARRAY_SIZE(limit->entries));
        entry = limit->entries + limit->n_entries++;
        *entry = (struct limit_entry){ .begin_usec = now_usec };
        memcpy(entry->listener, listener, strnlen(listener, LIMIT_NAME_MAX - 1));
        memcpy(entry->cause, cause, strnlen(cause, LIMIT_NAME_MAX - 1));
        return entry;
}

bool limit_allows(struct limit *limit, const char *listener, const char *cause, uint64_t now_usec)
{
        struct limit_entry *entry = find_or_add(limit, listener, cause, now_usec);

        if (entry->n_passed < LIMIT_PER_SECOND) {
                entry->n_passed++;
                return true;
        }
        entry->n_more++;
        return false;
}

static uint64_t end_of(const struct limit_entry *entry)
{
        return deadline_after(entry->begin_usec, USEC_PER_SEC);
}

bool limit_take_over(struct limit *limit, uint64_t now_usec, struct limit_entry *ret_entry)
{
        for (size_t i = 0; i < limit->n_entries; i++) {
                if (end_of(limit->entries + i) > now_usec)
                        continue;
                *ret_entry = limit->entries[i];
                limit->n_entries--;
                memmove(limit->entries + i, limit->entries + i + 1,
                        (limit->n_entries - i) * sizeof(limit->entries[0]));
                return true;
        }
        return false;
}

uint64_t limit_next(const struct limit *limit)
{
        uint64_t next = USEC_INFINITY;

        for (size_t i = 0; i < limit->n_entries; i++)
                if (limit->entries[i].n_more > 0)
                        next = MIN(next, end_of(limit->entries + i));
        return next;
}

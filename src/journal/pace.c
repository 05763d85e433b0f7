/*
 * pace: promises that no record waits for longer than a turn and PACE_WAIT_USEC, and that few at a time do not wait
 * for more than the turn.
 *
 * How often something was sent is one time, as the generic cell rate algorithm has it (ITU-T I.371): each sending
 * moves it on by PACE_EACH_USEC, from now at the least.
 */
#include "journal/pace.h"

uint64_t pace_wait(struct pace *pace, uint64_t now_usec, size_t n_staged)
{
        uint64_t soon = deadline_after(now_usec, PACE_WAIT_USEC);

        if (n_staged == 0) { /* or they went in the middle of the turn */
                pace->owed_usec = 0;
                return USEC_INFINITY;
        }
        if (n_staged < PACE_MANY) {
                bool is_new = pace->owed_usec == 0;

                if (is_new)
                        pace->owed_usec = soon;
                if (pace->sent_usec > soon && now_usec < pace->owed_usec)
                        return pace->owed_usec;
                if (is_new)
                        return 0;
        }
        pace->owed_usec = 0;
        pace->sent_usec = deadline_after(MIN(MAX(pace->sent_usec, now_usec), soon), PACE_EACH_USEC);
        return USEC_INFINITY;
}

/*
 * explain: how each way for a peer to die is noticed, and after how long at worst. Pure: it knows what the kernel
 * does with the options that listener.c sets (tcp(7); measured in tests/kernel and tests/system/network).
 */
#pragma once

#include "config/config.h"
#include <stdio.h>

/*
 * From the last sign of life; USEC_INFINITY: never. `idle`: keepalive, which TCP_USER_TIMEOUT replaces the probe
 * count of. `sending`: with our data under way, and where there is a user timeout also with a window that stays shut
 * (otherwise that is never noticed). `late`: we send just before `idle` would have noticed, and the clock starts
 * anew.
 */
struct detection {
        uint64_t idle_usec;
        uint64_t sending_usec;
        uint64_t late_usec;
};
struct detection detection_of(const struct listener_config *config);

/* For `tetherd --explain`: a table for each listener, columns apart by two blanks or more. 0, or -EIO. */
int explain_print(const struct config *config, FILE *file);

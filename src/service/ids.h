/*
 * ids: connection ids grow, and no id is used twice with one state directory. A range is reserved on disk
 * (STATE_DIRECTORY/next-id, synced) before its first id is used, and the next start begins after it. It is
 * so large (2^44: eleven years of 50,000 connections a second) that it is reserved once a start and the loop
 * never waits for a disk; half a million starts fit into 63 bits. The first range begins at the wall clock's
 * microseconds, so that ids of several hosts hardly ever meet.
 */
#pragma once

#include "base/util.h"

/* 0 with the first id of the range, or a negative errno; -EBADMSG: the file is not one of ours. */
int ids_reserve(const char *state_directory, uint64_t *ret_first);

/*
 * log: what may be asked of the log; shared by config, which reads it from a file, and journal, which does it.
 */
#pragma once

#include <stdint.h>

enum log_target { LOG_TARGET_AUTO, LOG_TARGET_JOURNAL, LOG_TARGET_STDERR };

/* Which lifecycle events are written; warning and worse always are. */
enum log_events {
        LOG_EVENTS_ALL,
        LOG_EVENTS_CLOSED,   /* closed and rejected only */
        LOG_EVENTS_PROBLEMS, /* notice and worse */
        LOG_EVENTS_NONE,
};

struct log_options {
        enum log_target target;
        int level; /* syslog priority, LOG_ERR to LOG_DEBUG: records above it are not written, take no number */
        enum log_events events;
        uint64_t n_queue; /* bound of the ring, in records */
};

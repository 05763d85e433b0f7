/*
 * sink: the one place where staged records go: journald's socket, or stderr. It takes them or says why not;
 * what becomes of them then is journal's business.
 */
#pragma once

#include "base/log.h"
#include "journal/record.h"
#include "journal/ring.h"
#include <sys/un.h>

struct sink {
        struct sockaddr_un address;
        int fd;             /* of journald; -1: stderr */
        int stderr_fd;      /* of our own where it is a terminal */
        bool has_prefix;    /* stderr is a journal stream */
        size_t n_written;   /* bytes of the oldest record's line that stderr has taken */
        struct record line; /* for stderr */
};

/* Whether systemd reads it, so that a line may begin with its priority. */
bool stderr_is_journal_stream(void);

/* Returns 0, -ENAMETOOLONG, or the negative errno of socket(2). */
int sink_init(struct sink *sink, enum log_target target, const char *path);
void sink_deinit(struct sink *sink);

/* Returns 0, or a negative errno with nothing changed. */
int sink_set_target(struct sink *sink, enum log_target target);

/*
 * Offers the oldest records of `ring`, which must have one. Returns how many were taken, for the caller to pop;
 * -EAGAIN or -ECONNREFUSED as journal_flush() has it: keep them; any other negative errno: the oldest cannot be
 * written at all. Never blocks.
 */
int sink_send(struct sink *sink, const struct ring *ring);

/* To wait for POLLOUT on. */
int sink_fd(const struct sink *sink);

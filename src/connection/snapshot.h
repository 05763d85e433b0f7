/*
 * snapshot: what another process of ours must know of a connection that is ready, to go on with it, as one record
 * of base/fields.h. Its resources are not in it: they have their record in the ledger. Times are those of
 * CLOCK_MONOTONIC: a snapshot does not outlive the boot.
 */
#pragma once

#include "connection/connection.h"
#include <stdio.h>

/*
 * Writes the record, its end included. `is_last`: nothing happens to the connection any more in this process.
 * Otherwise the record gets old, so that unsent bytes are left out, and what is counted later is asked of the kernel.
 */
void snapshot_write(const struct connection *connection, bool is_last, FILE *file);

/* What the record says of where the connection belongs. */
struct snapshot {
        uint64_t id;
        const char *listener; /* borrowed from the fields */
        bool has_lease;
        bool is_last; /* it was handed over; else the last process crashed */
};

/* 0, or -EINVAL. */
int snapshot_identify(char *const *fields, struct snapshot *ret);

/*
 * Fills a connection that is fresh from connection_new(), for connection_take_up() or snapshot_drop(). 0, -EINVAL or
 * -ENOMEM.
 */
int snapshot_read(struct connection *connection, char *const *fields, int fd);

/* Nobody takes it up: frees it and what was read into it. */
void snapshot_drop(struct connections *connections, struct connection *connection);

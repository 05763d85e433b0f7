/*
 * sync: has files written to disk without waiting for the disk. It returns errors and never logs.
 */
#pragma once

#include "base/util.h"
#include "loop/loop.h"

struct syncer; /* what all of one loop share */
struct sync;
/* `error`: 0, or a negative errno of fsync(2). May call sync_start() again, and free what the sync is part of. */
typedef void (*sync_fn)(struct sync *sync, int error);

/* Zeroed: none under way. */
struct sync {
        struct sync_request *request;
        sync_fn done;
};

/* 0 or a negative errno: -ENOSYS, -EPERM and -EAGAIN where the system has no AIO for us (io_setup(2)). */
int syncer_new(struct syncer **ret_syncer, struct loop *loop);
/* Nobody is told any more. Waits for the disk: the kernel would do so at our exit. Takes NULL. */
struct syncer *syncer_free(struct syncer *syncer);

/*
 * As fsync(2) on both descriptors, of which one may be -1. They are used up, also when it fails. `done`
 * follows, from the loop, never from inside this call. With `sync` NULL nobody waits for it. 0 or a negative
 * errno.
 */
#define SYNC_FDS 2
int sync_start(struct sync *sync, struct syncer *syncer, const int fds[static SYNC_FDS], sync_fn done);

static inline bool sync_is_under_way(const struct sync *sync)
{
        return sync->request;
}

/* Does not wait for it any more; it goes on. Idempotent. */
void sync_deinit(struct sync *sync);

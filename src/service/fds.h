/*
 * fds: descriptors that the service manager hands to us when it starts us (sockets that it opened, and what an
 * earlier run left in its store), and that we hand to it: it keeps them while we are away (sd_notify(3),
 * "FDSTORE=1"). Like notify.h, nothing here waits for the manager.
 */
#pragma once

#include "base/util.h"

struct fds {
        size_t n;
        struct handed_fd {
                char *name; /* FileDescriptorName= of a socket unit, FDNAME= of what was stored */
                int fd;     /* -1: somebody took it */
        } items[];          /* in the order in which they came: sockets, then what was stored, newest first */
};

/*
 * Everything that was handed to this process; once, before any child is started: the descriptors get FD_CLOEXEC
 * and the variables that tell of them (sd_listen_fds(3)) are taken out of the environment. Returns 0, also when
 * there is nothing, or a negative errno: what is in the environment cannot be true.
 */
int fds_receive(struct fds **ret_fds);

/* The first of that name that nobody took, which is the caller's from then on; -1: none is left. */
int fds_take(struct fds *fds, const char *name);

/* Closes what nobody took. Takes NULL. */
struct fds *fds_free(struct fds *fds);
DEFINE_CLEANUP(struct fds *, fds_free);

/*
 * These return 0 when the message went out, which does not say that the manager keeps anything: past
 * FileDescriptorStoreMax= it closes the descriptors without a word. -ENOTCONN: there is no manager; -EAGAIN: it
 * does not read just now; or another negative errno. The descriptors, at most NOTIFY_FDS_MAX, stay the caller's.
 * The manager keeps them whatever happens to them (FDPOLL=0), each under `name`: at most 255 bytes, no ':' and no
 * control characters.
 */
int fds_store(const char *name, const int *fds, size_t n_fds);
/* All of that name; the manager closes them. */
int fds_store_remove(const char *name);

/*
 * Whether the manager has done what it was sent so far: returns a descriptor, the caller's, that becomes readable
 * (EPOLLHUP: the end of the pipe) when it has; at once where there is no manager. Or a negative errno, -EAGAIN as above.
 */
int fds_barrier(void);

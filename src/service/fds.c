/*
 * fds: promises that no descriptor is handed on to a child, kept twice, or lost without the caller knowing. It
 * relies on libsystemd for what is in the environment, and not for talking: sd_notify_barrier(3) and
 * sd_pid_notify_with_fds(3) wait for the manager. It deliberately does not look at what a descriptor is.
 */
#include "service/fds.h"
#include "service/notify.h"
#include <fcntl.h>
#include <stdio.h>
#include <systemd/sd-daemon.h>

#define NAME_MAX_BYTES 255
#define STATE_MAX      (NAME_MAX_BYTES + 64)

int fds_receive(struct fds **ret_fds)
{
        char **names = NULL;
        int n = sd_listen_fds_with_names(1, &names);
        struct fds *fds;

        if (n < 0)
                return n;
        fds = malloc(sizeof(*fds) + (size_t)n * sizeof(fds->items[0]));
        if (fds) {
                fds->n = (size_t)n;
                for (int i = 0; i < n; i++)
                        fds->items[i] = (struct handed_fd){ .name = names[i], .fd = SD_LISTEN_FDS_START + i };
        } else {
                for (int i = 0; i < n; i++)
                        free(names[i]);
        }
        free(names);
        if (!fds)
                return -ENOMEM;
        *ret_fds = fds;
        return 0;
}

int fds_take(struct fds *fds, const char *name)
{
        for (size_t i = 0; i < fds->n; i++)
                if (fds->items[i].fd >= 0 && streq(fds->items[i].name, name))
                        return TAKE_FD(fds->items[i].fd);
        return -1;
}

struct fds *fds_free(struct fds *fds)
{
        if (!fds)
                return NULL;
        for (size_t i = 0; i < fds->n; i++) {
                (void)fd_close(fds->items[i].fd);
                free(fds->items[i].name);
        }
        free(fds);
        return NULL;
}

int fds_store(const char *name, const int *fds, size_t n_fds)
{
        char state[STATE_MAX];

        assert(strlen(name) <= NAME_MAX_BYTES && n_fds > 0 && n_fds <= NOTIFY_FDS_MAX);
        if (!notify_has_manager())
                return -ENOTCONN;
        (void)snprintf(state, sizeof(state), "FDSTORE=1\nFDNAME=%s\nFDPOLL=0", name);
        return notify_send(state, fds, n_fds);
}

int fds_store_remove(const char *name)
{
        char state[STATE_MAX];

        assert(strlen(name) <= NAME_MAX_BYTES);
        if (!notify_has_manager())
                return -ENOTCONN;
        (void)snprintf(state, sizeof(state), "FDSTOREREMOVE=1\nFDNAME=%s", name);
        return notify_send(state, NULL, 0);
}

/* The manager reads its messages in order and closes its copy of the write end when it comes to this one. */
int fds_barrier(void)
{
        int ends[2], r;

        if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
                return -errno;
        r = notify_send("BARRIER=1", &ends[1], 1);
        (void)fd_close(ends[1]);
        if (r < 0) {
                (void)fd_close(ends[0]);
                return r;
        }
        return ends[0];
}

/*
 * notify: promises that a service manager that does not read cannot stop the loop. That is why it does not
 * use sd_notify(3): libsystemd 252 sends on a blocking socket, and a caller stands still as soon as PID 1's
 * queue is full (measured: in the 12th call with net.unix.max_dgram_qlen = 10), while all services share that
 * queue. The protocol is one datagram of NAME=value lines. Sockets of file systems and abstract ones are
 * spoken to; vsock, which is for virtual machines and not for services, is not.
 */
#include "service/notify.h"
#include "base/clock.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#define STATUS_MAX 512

bool notify_has_manager(void)
{
        const char *path = getenv("NOTIFY_SOCKET");

        return path && *path;
}

int notify_send(const char *state, const int *fds, size_t n_fds)
{
        const char *path = getenv("NOTIFY_SOCKET");
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(NOTIFY_FDS_MAX * sizeof(int))];
        } control = { 0 };
        struct iovec text = { .iov_base = (char *)(uintptr_t)state, .iov_len = strlen(state) };
        struct msghdr message = { .msg_name = &address, .msg_iov = &text, .msg_iovlen = 1 };
        _cleanup_close_ int fd = -1;

        assert(n_fds <= NOTIFY_FDS_MAX);
        if (!notify_has_manager())
                return 0;
        if ((*path != '/' && *path != '@') || strlen(path) >= sizeof(address.sun_path))
                return -EINVAL;
        memcpy(address.sun_path, path, strlen(path));
        message.msg_namelen = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
        if (*path == '@')
                address.sun_path[0] = '\0';
        if (n_fds > 0) {
                control.header.cmsg_level = SOL_SOCKET;
                control.header.cmsg_type = SCM_RIGHTS;
                control.header.cmsg_len = CMSG_LEN(n_fds * sizeof(int));
                memcpy(CMSG_DATA(&control.header), fds, n_fds * sizeof(int));
                message.msg_control = &control;
                message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        }
        fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (fd < 0)
                return -errno;
        return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int send_state(const char *state)
{
        return notify_send(state, NULL, 0);
}

/* A newline would begin another NAME=value. */
static void make_one_line(char *text)
{
        for (; *text; text++)
                if ((unsigned char)*text < 0x20 || *text == 0x7f)
                        *text = ' ';
}

int notify_ready(const char *status)
{
        char line[STATUS_MAX], state[STATUS_MAX + 32];

        if (!status || !*status)
                return send_state("READY=1");
        (void)snprintf(line, sizeof(line), "%s", status);
        make_one_line(line);
        (void)snprintf(state, sizeof(state), "READY=1\nSTATUS=%s", line);
        return send_state(state);
}

int notify_reloading(void)
{
        char state[64];

        (void)snprintf(state, sizeof(state), "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
                       clock_usec(CLOCK_MONOTONIC));
        return send_state(state);
}

int notify_stopping(void)
{
        return send_state("STOPPING=1");
}

int notify_status(const char *format, ...)
{
        char line[STATUS_MAX], state[STATUS_MAX + 32];
        va_list arguments;

        va_start(arguments, format);
        (void)vsnprintf(line, sizeof(line), format, arguments);
        va_end(arguments);
        make_one_line(line);
        (void)snprintf(state, sizeof(state), "STATUS=%s", line);
        return send_state(state);
}

int notify_watchdog(void)
{
        return send_state("WATCHDOG=1");
}

int notify_extend_timeout(uint64_t usec)
{
        char state[64];

        (void)snprintf(state, sizeof(state), "EXTEND_TIMEOUT_USEC=%" PRIu64, usec);
        return send_state(state);
}

uint64_t notify_watchdog_usec(void)
{
        uint64_t usec;

        return sd_watchdog_enabled(0, &usec) > 0 ? usec : USEC_INFINITY;
}

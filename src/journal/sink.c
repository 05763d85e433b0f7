/*
 * sink: promises not to block.
 *
 * Relies on unix(7): a datagram is taken whole or not at all; a connected, non-blocking socket says EAGAIN when
 * the receiver's queue is full and becomes writable when it has room; ECONNREFUSED when the receiver is gone;
 * connect(2) again on the same descriptor finds its successor, so that the loop's registration stays good.
 * Relies on poll(2) for stderr, which belongs to others as well and so cannot be made non-blocking; but of a terminal,
 * of which poll(2) says writable while it has room for one byte, an open file of our own is.
 */
#include "journal/sink.h"
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define BATCH       64
#define SEND_BUFFER (8 << 20) /* as sd-journal; the kernel gives what it allows */

/* ---- target ---- */

static int connect_socket(int fd, const struct sockaddr_un *address)
{
        return connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;
}

/* sd-daemon(3): $JOURNAL_STREAM is "device:inode" of the stream that systemd connected to stdout or stderr. */
bool stderr_is_journal_stream(void)
{
        const char *stream = getenv("JOURNAL_STREAM");
        char own[64];
        struct stat st;

        if (!stream || fstat(STDERR_FILENO, &st) < 0)
                return false;
        (void)snprintf(own, sizeof(own), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
        return streq(stream, own);
}

static int open_stderr(void)
{
        int fd = isatty(STDERR_FILENO) ? open("/proc/self/fd/2", O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)
                                       : -1;

        return fd < 0 ? STDERR_FILENO : fd;
}

int sink_init(struct sink *sink, enum log_target target, const char *path)
{
        *sink = (struct sink){ .address.sun_family = AF_UNIX, .fd = -1, .stderr_fd = -1 };
        if (strlen(path) >= sizeof(sink->address.sun_path))
                return -ENAMETOOLONG;
        memcpy(sink->address.sun_path, path, strlen(path));
        sink->has_prefix = stderr_is_journal_stream();
        sink->stderr_fd = open_stderr();
        return sink_set_target(sink, target);
}

void sink_deinit(struct sink *sink)
{
        sink->fd = fd_close(sink->fd);
        if (sink->stderr_fd != STDERR_FILENO)
                sink->stderr_fd = fd_close(sink->stderr_fd);
        record_deinit(&sink->line);
}

/* Whether journald is there is only asked for LOG_TARGET_AUTO; else it may come later. */
int sink_set_target(struct sink *sink, enum log_target target)
{
        static const int size = SEND_BUFFER;
        _cleanup_close_ int fd = -1;

        if (target != LOG_TARGET_STDERR) {
                fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
                if (fd < 0)
                        return -errno;
                (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
                if (connect_socket(fd, &sink->address) < 0 && target == LOG_TARGET_AUTO)
                        fd = fd_close(fd);
        }
        (void)fd_close(sink->fd);
        sink->fd = TAKE_FD(fd);
        sink->n_written = 0; /* a line that stderr took half of goes to journald whole */
        return 0;
}

/* ---- journald ---- */

/* Sends the oldest records; returns how many (at least 1), or the negative errno of the first. */
static int send_batch(int fd, const struct ring *ring)
{
        const struct ring_entry *entries[BATCH];
        struct mmsghdr messages[BATCH];
        struct iovec vectors[BATCH];
        size_t n = ring_peek(ring, entries, BATCH);
        int r;

        for (size_t i = 0; i < n; i++) {
                vectors[i] = (struct iovec){ (char *)(uintptr_t)entries[i]->data, entries[i]->size };
                messages[i] = (struct mmsghdr){ .msg_hdr = { .msg_iov = vectors + i, .msg_iovlen = 1 } };
        }
        r = sendmmsg(fd, messages, (unsigned)n, MSG_DONTWAIT | MSG_NOSIGNAL);
        return r < 0 ? -errno : r;
}

static int write_sealed(int fd, const struct ring_entry *entry)
{
        for (size_t done = 0; done < entry->size;) {
                ssize_t n = write(fd, entry->data + done, entry->size - done);

                if (n < 0)
                        return -errno;
                done += (size_t)n;
        }
        /* Sealed, or journald would not read it: we could change it under its eyes. */
        if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
                return -errno;
        return 0;
}

/*
 * The oldest record is too large for a datagram: its text goes in a file, whose descriptor is the message.
 * Returns 1, or the negative errno: EMSGSIZE where there is no memory or descriptor for a file, since what is
 * too large must not hold up those behind it.
 */
static int send_in_file(int socket_fd, const struct ring_entry *entry)
{
        _cleanup_close_ int fd = memfd_create("tetherd-record", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        union {
                struct cmsghdr header;
                char buffer[CMSG_SPACE(sizeof(int))];
        } control = { .header = { .cmsg_level = SOL_SOCKET,
                                  .cmsg_type = SCM_RIGHTS,
                                  .cmsg_len = CMSG_LEN(sizeof(int)) } };
        struct msghdr message = { .msg_control = &control, .msg_controllen = sizeof(control) };

        if (fd < 0 || write_sealed(fd, entry) < 0)
                return -EMSGSIZE;
        memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
        return sendmsg(socket_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 1;
}

/* The receiver went away, or was never there. */
static bool errno_is_away(int error)
{
        return error == ECONNREFUSED || error == ENOENT || error == ENOTCONN || error == ECONNRESET;
}

static int send_to_journald(struct sink *sink, const struct ring *ring)
{
        bool is_reconnected = false;

        for (;;) {
                int r = send_batch(sink->fd, ring);

                if (r == -EMSGSIZE)
                        r = send_in_file(sink->fd, ring_first(ring));
                if (r == -ENOBUFS || r == -ENOMEM) /* the kernel's, for now */
                        return -ECONNREFUSED;
                if (r >= 0 || !errno_is_away(-r))
                        return r;
                if (is_reconnected || connect_socket(sink->fd, &sink->address) < 0)
                        return -ECONNREFUSED;
                is_reconnected = true;
        }
}

/* ---- stderr ---- */

/*
 * Where poll(2) says writable, a pipe takes PIPE_BUF bytes without blocking. Returns how many were written, 0
 * when it is full.
 */
static ssize_t write_some(int fd, const char *data, size_t size)
{
        struct pollfd pollfd = { .fd = fd, .events = POLLOUT };
        ssize_t n;

        if (poll(&pollfd, 1, 0) <= 0)
                return 0;
        if (pollfd.revents & (POLLERR | POLLNVAL))
                return -EPIPE;
        n = write(fd, data, MIN(size, (size_t)PIPE_BUF));
        if (n < 0)
                return errno == EAGAIN || errno == EINTR ? 0 : -errno;
        return n;
}

static int send_to_stderr(struct sink *sink, const struct ring_entry *entry)
{
        struct record *line = &sink->line;

        record_reset(line);
        record_add_line(line, sink->has_prefix ? entry->priority : -1, entry->data + entry->message_offset,
                        entry->message_size);
        while (!line->is_failed) {
                ssize_t n = write_some(sink->stderr_fd, line->data + sink->n_written,
                                       line->size - sink->n_written);

                if (n == 0)
                        return -EAGAIN;
                if (n < 0)
                        break;
                sink->n_written += (size_t)n;
                if (sink->n_written == line->size) {
                        sink->n_written = 0;
                        return 1;
                }
        }
        sink->n_written = 0;
        return -EIO;
}

int sink_fd(const struct sink *sink)
{
        return sink->fd >= 0 ? sink->fd : sink->stderr_fd;
}

int sink_send(struct sink *sink, const struct ring *ring)
{
        return sink->fd >= 0 ? send_to_journald(sink, ring) : send_to_stderr(sink, ring_first(ring));
}

/*
 * Lines. Relies on pipe(7): the end of file comes when the last process that holds the other end is gone,
 * which may be long after the child. Deliberately not here: what a line means.
 */
#include "loop/lines.h"
#include <fcntl.h>
#include <sys/ioctl.h>

#define READ_MAX ((size_t)64 * 1024) /* a turn: who prints without end does not keep the others waiting */
#define SUB      '\x1a'

static void finish_line(struct lines *lines)
{
        bool is_cut = lines->is_cut;

        lines->buffer[lines->n_bytes] = '\0';
        lines->n_bytes = 0;
        lines->is_cut = false;
        lines->line(lines, lines->buffer, is_cut);
}

static void finish_unfinished_line(struct lines *lines)
{
        if (lines->n_bytes == 0 && !lines->is_cut)
                return;
        lines->is_unfinished = true;
        finish_line(lines);
        lines->is_unfinished = false;
}

static void take_bytes(struct lines *lines, const char *bytes, size_t n_bytes)
{
        for (; n_bytes > 0; bytes++, n_bytes--)
                if (*bytes == '\n')
                        finish_line(lines);
                else if (lines->n_bytes < lines->n_max)
                        lines->buffer[lines->n_bytes++] = *bytes ? *bytes : SUB;
                else
                        lines->is_cut = true;
}

/* Returns 0 at the end of file, 1 when there may be more than the `n_most` bytes, or a negative errno. */
static int read_bytes(struct lines *lines, size_t n_most)
{
        char bytes[4096];

        while (n_most > 0) {
                ssize_t n = read(lines->source.fd, bytes, MIN(sizeof(bytes), n_most));

                if (n <= 0)
                        return n == 0 ? 0 : -errno;
                take_bytes(lines, bytes, (size_t)n);
                n_most -= (size_t)n;
        }
        return 1;
}

static void lines_close(struct lines *lines)
{
        int fd = lines->source.fd;

        source_deinit(&lines->source, lines->loop);
        (void)fd_close(fd);
}

static void lines_ready(struct source *source)
{
        struct lines *lines = container_of(source, struct lines, source);
        int r = read_bytes(lines, READ_MAX);

        if (r == -EAGAIN) {
                source_clear(source, EPOLLIN);
        } else if (r == 0) {
                lines_close(lines);
                finish_unfinished_line(lines);
                if (lines->closed)
                        lines->closed(lines);
        }
}

int lines_init(struct lines *lines, struct loop *loop, size_t n_max, lines_fn line, int *ret_child_fd)
{
        _cleanup_free_ char *buffer = malloc(n_max + 1);
        int fds[2];

        if (!buffer)
                return -ENOMEM;
        if (pipe2(fds, O_CLOEXEC) < 0)
                return -errno;
        _cleanup_close_ int our_fd = fds[0], child_fd = fds[1];
        if (fcntl(our_fd, F_SETFL, O_NONBLOCK) < 0)
                return -errno;
        *lines = (struct lines){ 0 };
        int r = source_init(&lines->source, loop, our_fd, EPOLLIN, EPOLLIN | EPOLLHUP, lines_ready);
        if (r < 0)
                return r;
        (void)TAKE_FD(our_fd);
        lines->loop = loop;
        lines->line = line;
        lines->buffer = TAKE_PTR(buffer);
        lines->n_max = n_max;
        *ret_child_fd = TAKE_FD(child_fd);
        return 0;
}

void lines_deinit(struct lines *lines)
{
        if (!lines->loop)
                return;
        lines_close(lines);
        free(TAKE_PTR(lines->buffer));
        lines->loop = NULL;
}

void lines_drain(struct lines *lines)
{
        int n_bytes;

        if (lines->source.fd < 0)
                return;
        /* Once more where it failed for a passing reason: there is no later turn to do it. */
        if (ioctl(lines->source.fd, FIONREAD, &n_bytes) == 0 && read_bytes(lines, (size_t)n_bytes) < 0)
                (void)read_bytes(lines, (size_t)n_bytes);
        finish_unfinished_line(lines);
}

/* The file is replaced as a whole (write, fsync, rename, fsync): a power cut leaves the old or the new one. */
#include "service/ids.h"
#include "base/clock.h"
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>

#define RANGE (UINT64_C(1) << 44)

static int read_next(int directory_fd, uint64_t *ret_next)
{
        _cleanup_close_ int fd = openat(directory_fd, "next-id", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
        char text[32] = { 0 }, *end;
        ssize_t n;

        *ret_next = 0;
        if (fd < 0)
                return errno == ENOENT ? 0 : -errno;
        n = read(fd, text, sizeof(text) - 1);
        if (n < 0)
                return -errno;
        errno = 0;
        *ret_next = strtoull(text, &end, 16);
        /* Guessing could give an id away twice. */
        return errno != 0 || end == text || *end != '\n' || *ret_next > INT64_MAX - RANGE ? -EBADMSG : 0;
}

int ids_reserve(const char *state_directory, uint64_t *ret_first)
{
        _cleanup_close_ int directory_fd = open(state_directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1;
        uint64_t next;
        int r;

        if (directory_fd < 0)
                return -errno;
        r = read_next(directory_fd, &next);
        if (r < 0)
                return r;
        next = MAX(next, clock_usec(CLOCK_REALTIME));
        fd = openat(directory_fd, "next-id.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return -errno;
        if (dprintf(fd, "%" PRIx64 "\n", next + RANGE) < 0 || fsync(fd) < 0 ||
            renameat(directory_fd, "next-id.new", directory_fd, "next-id") < 0 || fsync(directory_fd) < 0)
                return -errno;
        *ret_first = next;
        return 0;
}

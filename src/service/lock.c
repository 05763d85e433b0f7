/*
 * F_SETLK rather than flock(2) because F_GETLK tells who holds it. Its known trap, that closing any
 * descriptor of the file drops the lock, is met by opening the file here and nowhere else.
 */
#include "service/lock.h"
#include <fcntl.h>
#include <sys/stat.h>

int lock_directory(const char *path, int *ret_fd, pid_t *ret_holder)
{
        struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
        _cleanup_close_ int directory_fd = -1, fd = -1;

        if (mkdir(path, 0755) < 0 && errno != EEXIST)
                return -errno;
        directory_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (directory_fd < 0)
                return -errno;
        fd = openat(directory_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (fd < 0)
                return -errno;
        if (fcntl(fd, F_SETLK, &lock) == 0) {
                *ret_fd = TAKE_FD(fd);
                return 0;
        }
        if (errno != EAGAIN && errno != EACCES)
                return -errno;
        if (fcntl(fd, F_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
                lock.l_pid = 0;
        *ret_holder = lock.l_pid;
        return LOCK_E_HELD;
}

/*
 * No recursion, no path and no "..": a directory in the tree is emptied where it is, except for directories in
 * it that are not empty, which are moved up to the top and have their turn there. So however deep the tree is,
 * two directories are open, and there is no way up that others could bend while we are below: every call is
 * about one name in a directory that is held open.
 *
 * Relies on rmdir(2) and unlink(2) refusing what something is mounted on (EBUSY), and on mount ids (statx(2))
 * for what is mounted in between. Deliberately not here: a bound for a tree that others fill as fast as it is
 * emptied; the release's own time limit ends that.
 */
#include "resource/tree.h"
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

struct tree {
        int top_fd;
        const char *name; /* of the top */
        uint64_t mount;
        uint64_t n_moved;
        char *path; /* what could not be removed, TREE_PATH_MAX */
};

static void closedirp(DIR **stream)
{
        if (*stream)
                (void)closedir(*stream);
}

/* Finds the directory `name` without following a link or needing permissions in it. */
static int find_directory(int parent_fd, const char *name, struct statx *ret_stx)
{
        _cleanup_close_ int fd = openat(parent_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        if (fd < 0 || statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_MODE | STATX_MNT_ID, ret_stx) < 0)
                return -errno;
        return TAKE_FD(fd);
}

/* Opens what find_directory() found, and gives itself the permissions that it needs in there (owner and root may). */
static int open_directory(int found_fd, const struct statx *stx)
{
        char link[32];
        int fd;

        (void)snprintf(link, sizeof(link), "/proc/self/fd/%d", found_fd);
        if ((stx->stx_mode & S_IRWXU) != S_IRWXU)
                (void)chmod(link, (stx->stx_mode & 07777) | S_IRWXU); /* what needs it says why it failed */
        fd = openat(found_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        return fd < 0 ? -errno : fd;
}

static bool is_not_empty(int error)
{
        return error == ENOTEMPTY || error == EEXIST; /* rmdir(2): either */
}

static bool is_dot(const char *name)
{
        return streq(name, ".") || streq(name, "..");
}

/* 0: it is gone. 1: it is a directory with something in it. */
static int remove_name(int fd, const char *name, unsigned char type)
{
        if (type != DT_DIR) {
                if (unlinkat(fd, name, 0) == 0 || errno == ENOENT)
                        return 0;
                if (errno != EISDIR)
                        return -errno;
        }
        if (unlinkat(fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
                return 0;
        return is_not_empty(errno) ? 1 : -errno;
}

static int move_up(struct tree *tree, int fd, const char *name)
{
        char moved[NAME_MAX + 1];

        for (;;) {
                /* Some of its name, so that one that cannot be removed is recognised. */
                (void)snprintf(moved, sizeof(moved), "%" PRIu64 "-%.200s", tree->n_moved++, name);
                if (renameat2(fd, name, tree->top_fd, moved, RENAME_NOREPLACE) == 0 || errno == ENOENT)
                        return 0;
                /* A directory that changes its parent has to be writable (rename(2), EACCES). */
                if (errno == EACCES && fchmodat(fd, name, S_IRWXU, AT_SYMLINK_NOFOLLOW) == 0 &&
                    renameat2(fd, name, tree->top_fd, moved, RENAME_NOREPLACE) == 0)
                        return 0;
                if (errno != EEXIST)
                        return -errno;
        }
}

static int empty(struct tree *tree, int fd, const char *name, bool is_top);

/* A directory of the top that is not empty. */
static int empty_inner(struct tree *tree, const char *name)
{
        struct statx stx;
        _cleanup_close_ int found_fd = find_directory(tree->top_fd, name, &stx), fd = -1;
        int r;

        if (found_fd == -ENOENT)
                return 0;
        if (found_fd < 0)
                return found_fd;
        if (stx.stx_mnt_id != tree->mount)
                return -EBUSY;
        fd = open_directory(found_fd, &stx);
        if (fd < 0)
                return fd;
        r = empty(tree, fd, name, false);
        if (r < 0)
                return r;
        r = remove_name(tree->top_fd, name, DT_DIR);
        return r > 0 ? 0 : r; /* others filled it meanwhile: it has another turn */
}

/* Looks once through an open directory. `name`: of it in the top, for the report. */
static int empty(struct tree *tree, int fd, const char *name, bool is_top)
{
        int own_fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        _cleanup_(closedirp) DIR *stream = own_fd < 0 ? NULL : fdopendir(own_fd);
        const struct dirent *entry;
        int r = 0;

        if (!stream) {
                r = -errno;
                (void)fd_close(own_fd);
                return r;
        }
        rewinddir(stream); /* the offset is shared with `fd`, which was read before */
        while (r == 0) {
                errno = 0;
                entry = readdir(stream);
                if (!entry)
                        return -errno;
                if (is_dot(entry->d_name))
                        continue;
                r = remove_name(fd, entry->d_name, entry->d_type);
                if (r > 0)
                        r = is_top ? empty_inner(tree, entry->d_name) : move_up(tree, fd, entry->d_name);
                if (r < 0 && !tree->path[0])
                        (void)snprintf(tree->path, TREE_PATH_MAX, "%s/%s%s%s", tree->name, name,
                                       *name ? "/" : "", entry->d_name);
        }
        return r;
}

int tree_remove(int parent_fd, const char *name, dev_t device, ino_t inode, char path[static TREE_PATH_MAX])
{
        struct tree tree = { .name = name, .path = path };
        struct statx stx;
        _cleanup_close_ int found_fd = find_directory(parent_fd, name, &stx), fd = -1;
        int r;

        path[0] = '\0';
        if (found_fd == -ENOENT || found_fd == -ENOTDIR || found_fd == -ELOOP)
                return 0; /* it is not there any more */
        if (found_fd >= 0 &&
            (makedev(stx.stx_dev_major, stx.stx_dev_minor) != device || stx.stx_ino != inode))
                return 0; /* what is there now is not it */
        r = fd = found_fd < 0 ? found_fd : open_directory(found_fd, &stx);
        tree.top_fd = fd;
        tree.mount = stx.stx_mnt_id;
        while (r >= 0 && (r = remove_name(parent_fd, name, DT_DIR)) > 0)
                r = empty(&tree, fd, "", true);
        if (r < 0 && !path[0])
                (void)snprintf(path, TREE_PATH_MAX, "%s", name);
        return r;
}

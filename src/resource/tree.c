/*
 * The walk. It keeps one level for each directory between the top and where it is, and goes down by
 * openat(O_NOFOLLOW) of one name at a time. At most STREAMS_MAX levels, the lowest ones, keep their directory
 * open; the others are opened again as ".." of the one below, which counts only when it is the directory that
 * we came from: somebody may have moved the one below elsewhere.
 *
 * Relies on rmdir(2) and unlink(2) refusing what something is mounted on (EBUSY), and on mount ids (statx(2))
 * for what is mounted in between. Deliberately not here: waiting for others to stop filling a directory.
 */
#include "resource/tree.h"
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define STREAMS_MAX 32
#define ROUNDS_MAX  4 /* how often a directory is looked through when new names come in */

struct identity {
        uint64_t inode;
        uint64_t mount;
        dev_t device;
};

struct level {
        DIR *stream; /* NULL: closed for now */
        char *name;  /* in the level above */
        struct identity identity;
        unsigned n_rounds;
};

struct walk {
        int parent_fd;
        struct level *levels;
        size_t n_levels;
};

static int identify(int fd, struct identity *ret_identity, mode_t *ret_mode)
{
        struct statx stx;

        if (statx(fd, "", AT_EMPTY_PATH, STATX_INO | STATX_MODE | STATX_MNT_ID, &stx) < 0)
                return -errno;
        *ret_identity = (struct identity){
                .inode = stx.stx_ino,
                .mount = stx.stx_mnt_id,
                .device = makedev(stx.stx_dev_major, stx.stx_dev_minor),
        };
        *ret_mode = stx.stx_mode;
        return 0;
}

static bool is_same(const struct identity *a, const struct identity *b)
{
        return a->inode == b->inode && a->device == b->device && a->mount == b->mount;
}

static int open_directory(int parent_fd, const char *name)
{
        int fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        return fd < 0 ? -errno : fd;
}

/* A directory may lack the permissions that we need in it; its owner and root may give them to themselves. */
static int open_locked_directory(int parent_fd, const char *name)
{
        int fd = open_directory(parent_fd, name);

        if (fd != -EACCES)
                return fd;
        if (fchmodat(parent_fd, name, S_IRWXU, AT_SYMLINK_NOFOLLOW) < 0)
                return -errno;
        return open_directory(parent_fd, name);
}

static int walk_parent_fd(const struct walk *walk)
{
        return walk->n_levels > 1 ? dirfd(walk->levels[walk->n_levels - 2].stream) : walk->parent_fd;
}

/* Takes `fd`. */
static int open_stream(struct level *level, int fd)
{
        level->stream = fdopendir(fd);
        if (level->stream)
                return 0;
        int r = -errno;
        (void)fd_close(fd);
        return r;
}

static void close_stream(struct level *level)
{
        if (level->stream)
                (void)closedir(level->stream);
        level->stream = NULL;
}

/* Goes down into `name`. `top`: which one it has to be, NULL for what is below the top. */
static int walk_push(struct walk *walk, int parent_fd, const char *name, const struct identity *top)
{
        struct level level = { .n_rounds = 1 };
        struct level *levels = reallocarray(walk->levels, walk->n_levels + 1, sizeof(*levels));
        mode_t mode;
        int r;

        if (!levels)
                return -ENOMEM;
        walk->levels = levels;
        _cleanup_close_ int fd = open_locked_directory(parent_fd, name);
        if (fd < 0)
                return fd;
        r = identify(fd, &level.identity, &mode);
        if (r < 0)
                return r;
        if (top && (level.identity.inode != top->inode || level.identity.device != top->device))
                return -ENOENT;
        if (!top && level.identity.mount != levels[0].identity.mount)
                return -EBUSY;
        if ((mode & S_IRWXU) != S_IRWXU)
                (void)fchmod(fd, mode | S_IRWXU); /* what it would have been needed for says why it failed */
        level.name = strdup(name);
        if (!level.name)
                return -ENOMEM;
        r = open_stream(&level, TAKE_FD(fd));
        if (r < 0) {
                free(level.name);
                return r;
        }
        levels[walk->n_levels++] = level;
        if (walk->n_levels > STREAMS_MAX)
                close_stream(&levels[walk->n_levels - 1 - STREAMS_MAX]);
        return 0;
}

/* Leaves the lowest level. */
static void walk_pop(struct walk *walk)
{
        struct level *level = &walk->levels[--walk->n_levels];

        close_stream(level);
        free(level->name);
}

/* Opens the level above the lowest one again. */
static int walk_reopen(struct walk *walk)
{
        struct level *level = &walk->levels[walk->n_levels - 2];
        struct identity identity;
        mode_t mode;
        int r;

        if (level->stream)
                return 0;
        _cleanup_close_ int fd = open_directory(dirfd(walk->levels[walk->n_levels - 1].stream), "..");
        if (fd < 0)
                return fd;
        r = identify(fd, &identity, &mode);
        if (r < 0)
                return r;
        if (!is_same(&identity, &level->identity))
                return -ESTALE;
        return open_stream(level, TAKE_FD(fd));
}

static bool is_not_empty(int error)
{
        return error == ENOTEMPTY || error == EEXIST; /* rmdir(2): either */
}

/* Removes one name, or goes down into it. */
static int walk_remove(struct walk *walk, const struct dirent *entry)
{
        int fd = dirfd(walk->levels[walk->n_levels - 1].stream);

        if (entry->d_type != DT_DIR) {
                if (unlinkat(fd, entry->d_name, 0) == 0 || errno == ENOENT)
                        return 0;
                if (errno != EISDIR)
                        return -errno;
        }
        if (unlinkat(fd, entry->d_name, AT_REMOVEDIR) == 0 || errno == ENOENT)
                return 0;
        if (!is_not_empty(errno))
                return -errno;
        int r = walk_push(walk, fd, entry->d_name, NULL);
        return r == -ENOENT ? 0 : r;
}

/* The lowest directory was looked through: removes it, or looks again where new names came in. */
static int walk_finish_level(struct walk *walk)
{
        struct level *level = &walk->levels[walk->n_levels - 1];

        if (walk->n_levels > 1) {
                int r = walk_reopen(walk);

                if (r < 0)
                        return r;
        }
        if (unlinkat(walk_parent_fd(walk), level->name, AT_REMOVEDIR) == 0 || errno == ENOENT) {
                walk_pop(walk);
                return 0;
        }
        if (!is_not_empty(errno) || level->n_rounds >= ROUNDS_MAX)
                return -errno;
        level->n_rounds++;
        rewinddir(level->stream);
        return 0;
}

static bool is_dot(const char *name)
{
        return streq(name, ".") || streq(name, "..");
}

/* Writes the names of all levels and `name`, the end of it where there is too little room. */
static void walk_path(const struct walk *walk, const char *name, char path[static TREE_PATH_MAX])
{
        size_t i = walk->n_levels, room = TREE_PATH_MAX - 1;

        path[room] = '\0';
        for (;;) {
                size_t length = MIN(strlen(name), room);

                room -= length;
                memcpy(path + room, name + strlen(name) - length, length);
                if (i == 0 || room == 0)
                        break;
                path[--room] = '/';
                name = walk->levels[--i].name;
        }
        memmove(path, path + room, TREE_PATH_MAX - room);
}

static int walk_step(struct walk *walk, char path[static TREE_PATH_MAX])
{
        struct level *level = &walk->levels[walk->n_levels - 1];
        const struct dirent *entry;
        int r;

        errno = 0;
        entry = readdir(level->stream);
        if (entry && is_dot(entry->d_name))
                return 0;
        if (!entry && errno != 0)
                r = -errno;
        else
                r = entry ? walk_remove(walk, entry) : walk_finish_level(walk);
        if (r < 0)
                walk_path(walk, entry ? entry->d_name : ".", path);
        return r;
}

int tree_remove(int parent_fd, const char *name, dev_t device, ino_t inode, char path[static TREE_PATH_MAX])
{
        struct walk walk = { .parent_fd = parent_fd };
        const struct identity top = { .device = device, .inode = inode };
        int r;

        r = walk_push(&walk, parent_fd, name, &top);
        if (r == -ENOENT || r == -ENOTDIR)
                r = 0; /* it is not there any more */
        else if (r < 0)
                (void)snprintf(path, TREE_PATH_MAX, "%s", name);
        while (r == 0 && walk.n_levels > 0)
                r = walk_step(&walk, path);
        while (walk.n_levels > 0)
                walk_pop(&walk);
        free(walk.levels);
        return r;
}

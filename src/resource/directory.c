/*
 * directory: promises that a directory appears at its path complete, with owner and mode, or not at all; and
 * that what is removed is that very directory, by device, inode and time of birth, for inodes are used again. It
 * is made under a random name, which the ledger knows beforehand, and moved to its place with
 * renameat2(RENAME_NOREPLACE) when the ledger knows the rest. After a reboot the device may have another number:
 * a persistent one is told by the rest, so its file system has to keep times of birth (statx(2)).
 *
 * A parent must belong to root or to us, and may not be writable by anybody else: not by all, not by a group
 * other than root's or ours. Further up a sticky directory such as /tmp is good enough, since nobody else can
 * replace what is ours in there. No symbolic link is followed on the way.
 *
 * Deliberately not here: parents are not removed, somebody else may use them by now. Making a directory is
 * done in the loop; emptying one, which may take long, in a process of its own.
 */
#include "loop/child.h"
#include "loop/lines.h"
#include "resource/lease.h"
#include "resource/tree.h"
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#define REASON_MAX 512

struct directory {
        struct claim *claim;
        char *path;         /* absolute, without a slash at the end */
        const char *name;   /* the last component of it */
        char temporary[32]; /* its name while it is made */
        int parent_fd;      /* while it is made, else -1 */
        ino_t inode;        /* 0: not known, it was not made or a crash came between */
        dev_t device;       /* 0: not known, it may have changed with a reboot */
        uint64_t birth;     /* in ns; 0: its file system does not say */
        struct child remover;
        struct lines err;
        char *reason; /* what the remover said */
};

static void directory_forget(struct claim *claim)
{
        struct directory *directory = TAKE_PTR(claim->data);

        if (!directory)
                return;
        child_deinit(&directory->remover);
        lines_deinit(&directory->err);
        (void)fd_close(directory->parent_fd);
        free(directory->path);
        free(directory->reason);
        free(directory);
}

/* Writes the sentence, whose last word is what `error` (negative) means. Returns `error`. */
_printf_(3, 4) static int explain(char reason[static REASON_MAX], int error, const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        int length = vsnprintf(reason, REASON_MAX, format, arguments);
        va_end(arguments);
        if (length >= 0 && length < REASON_MAX)
                (void)snprintf(reason + length, REASON_MAX - (size_t)length, ": %s", strerror(-error));
        return error;
}

/* ---- before it begins ---- */

/* Takes `path`. */
static int directory_new(struct directory **ret_directory, struct claim *claim, char *path)
{
        struct directory *directory = calloc(1, sizeof(*directory));

        if (!directory) {
                free(path);
                return -ENOMEM;
        }
        for (size_t length = strlen(path); length > 1 && path[length - 1] == '/'; length--)
                path[length - 1] = '\0';
        directory->claim = claim;
        directory->path = path;
        directory->name = strrchr(path, '/') + 1;
        directory->parent_fd = -1;
        *ret_directory = directory;
        return 0;
}

static int refuse_path(const char *path, char **ret_reason)
{
        return asprintf(ret_reason, "%s is not the absolute path of a directory", path) < 0
                       ? -ENOMEM
                       : RESOURCE_E_INVALID;
}

static bool path_is_good(const char *path)
{
        return path[0] == '/' && path[strspn(path, "/")] != '\0';
}

static int directory_prepare(struct claim *claim, char **ret_reason)
{
        struct directory *directory;
        uint64_t random;
        char *path;
        int r;

        r = specifier_expand(claim->config->path, SPECIFIER_PATH, claim_specifier, claim, &path, ret_reason);
        if (r < 0)
                return r == -EINVAL ? RESOURCE_E_INVALID : r;
        if (!path_is_good(path)) {
                r = refuse_path(path, ret_reason);
                free(path);
                return r;
        }
        if (getrandom(&random, sizeof(random), 0) != sizeof(random)) {
                free(path);
                return -errno;
        }
        r = directory_new(&directory, claim, path);
        if (r < 0)
                return r;
        (void)snprintf(directory->temporary, sizeof(directory->temporary), ".tetherd-%016" PRIx64, random);
        claim->data = directory;
        return 0;
}

/* ---- which one it is ---- */

/* What is called `name`, or the directory `fd` itself where that is empty. */
static int look_at(int fd, const char *name, struct statx *ret)
{
        const int flags = AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH;

        return statx(fd, name, flags, STATX_INO | STATX_BTIME, ret) < 0 ? -errno : 0;
}

static uint64_t birth_of(const struct statx *stx)
{
        if (!(stx->stx_mask & STATX_BTIME))
                return 0;
        return (uint64_t)stx->stx_btime.tv_sec * 1000000000 + stx->stx_btime.tv_nsec;
}

static dev_t device_of(const struct statx *stx)
{
        return makedev(stx->stx_dev_major, stx->stx_dev_minor);
}

static bool is_it(const struct directory *directory, const struct statx *stx)
{
        bool is_known = directory->device != 0 || directory->birth != 0;

        return is_known && stx->stx_ino == directory->inode &&
               (directory->device == 0 || device_of(stx) == directory->device) &&
               (directory->birth == 0 || birth_of(stx) == directory->birth);
}

/* ---- the way to it ---- */

static bool is_writable_by_others(const struct stat *st)
{
        return st->st_mode & S_IWOTH || (st->st_mode & S_IWGRP && st->st_gid != 0 && st->st_gid != getegid());
}

/* `path`, `length`: how to name it. `is_last`: it is to hold our directory. */
static int check_parent(int fd, const char *path, int length, bool is_last, char reason[static REASON_MAX])
{
        struct stat st;

        if (fstat(fd, &st) < 0)
                return explain(reason, -errno, "%.*s", length, path);
        if (st.st_uid != 0 && st.st_uid != geteuid())
                return explain(reason, -EPERM, "%.*s belongs to another user (%u)", length, path, st.st_uid);
        if (is_writable_by_others(&st) && (is_last || !(st.st_mode & S_ISVTX)))
                return explain(reason, -EPERM, "%.*s is writable by others", length, path);
        return 0;
}

/* Opens a component in `parent_fd`; makes it with mode 0755 if it is not there and `creates`. */
static int open_component(int parent_fd, const char *component, size_t length, bool creates)
{
        const int flags = O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC;
        char name[NAME_MAX + 1] = "";

        if (length >= sizeof(name))
                return -ENAMETOOLONG;
        memcpy(name, component, length);
        int fd = openat(parent_fd, name, flags);
        if (fd < 0 && errno == ENOENT && creates) {
                mode_t mask = umask(S_IWGRP | S_IWOTH);
                int r = mkdirat(parent_fd, name, 0755);

                (void)umask(mask);
                if (r == 0 || errno == EEXIST)
                        fd = openat(parent_fd, name, flags);
        }
        return fd < 0 ? -errno : fd;
}

/*
 * Opens the parent directory. To load, missing ones are made and all are checked; to release it does not matter
 * who may write there: what is removed is told by its inode. Returns a descriptor, or a negative errno with
 * `reason`.
 */
static int open_parent(const struct directory *directory, bool is_load, char reason[static REASON_MAX])
{
        _cleanup_close_ int fd = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
        const char *path = directory->path, *end = path + 1; /* `fd` is what stands between them */

        if (fd < 0)
                return explain(reason, -errno, "/");
        for (;;) {
                const char *component = end + strspn(end, "/");
                int r = 0;

                if (is_load)
                        r = check_parent(fd, path, (int)(end - path), component == directory->name, reason);
                if (r < 0)
                        return r;
                if (component == directory->name)
                        return TAKE_FD(fd);

                end = component + strcspn(component, "/");
                int next_fd = open_component(fd, component, (size_t)(end - component), is_load);
                if (next_fd < 0)
                        return explain(reason, next_fd,
                                       next_fd == -ENOTDIR ? "%.*s (symbolic links are not followed)"
                                                           : "%.*s",
                                       (int)(end - path), path);
                (void)fd_close(fd);
                fd = next_fd;
        }
}

/* ---- loading ---- */

/* Its load ends with what went wrong, and takes back what was made. */
static void abort_load(struct directory *directory, const char *reason)
{
        int parent_fd = TAKE_FD(directory->parent_fd);
        bool is_clean = unlinkat(parent_fd, directory->temporary, AT_REMOVEDIR) == 0;

        (void)fd_close(parent_fd);
        claim_load_failed(directory->claim, is_clean, -1, reason);
}

/* The ledger knows which one it is. */
static void directory_secured(struct claim *claim, int error)
{
        struct directory *directory = claim->data;
        int parent_fd = directory->parent_fd;
        char reason[REASON_MAX];

        if (error < 0) {
                (void)explain(reason, error, "%s cannot be set up", directory->path);
                abort_load(directory, reason);
        } else if (renameat2(parent_fd, directory->temporary, parent_fd, directory->name, RENAME_NOREPLACE) <
                   0) {
                (void)explain(reason, -errno, "%s cannot be made", directory->path);
                abort_load(directory, reason);
        } else {
                directory->parent_fd = fd_close(parent_fd);
                claim_loaded(claim, directory->path);
        }
}

/* Owner first: changing it takes bits away from the mode. */
static int set_attributes(struct directory *directory, int fd)
{
        const struct resource_config *config = directory->claim->config;
        struct statx stx;
        int r;

        if ((config->user != (uid_t)-1 || config->group != (gid_t)-1) &&
            fchown(fd, config->user, config->group) < 0)
                return -errno;
        if (fchmod(fd, config->mode) < 0)
                return -errno;
        r = look_at(fd, "", &stx);
        if (r < 0)
                return r;
        directory->inode = stx.stx_ino;
        directory->device = device_of(&stx);
        directory->birth = birth_of(&stx);
        return directory->claim->is_persistent && directory->birth == 0 ? -EOPNOTSUPP : 0;
}

static int fill_in(struct directory *directory)
{
        _cleanup_close_ int fd = openat(directory->parent_fd, directory->temporary,
                                        O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

        return fd < 0 ? -errno : set_attributes(directory, fd);
}

static void directory_load(struct claim *claim)
{
        struct directory *directory = claim->data;
        char reason[REASON_MAX];

        int parent_fd = open_parent(directory, true, reason);
        int r = parent_fd < 0 ? parent_fd : 0;

        if (r == 0 && mkdirat(parent_fd, directory->temporary, S_IRWXU) < 0)
                r = explain(reason, -errno, "%s cannot be made", directory->path);
        if (r < 0) {
                (void)fd_close(parent_fd);
                if (errno_is_starvation(-r))
                        claim_defer(claim, -r);
                else
                        claim_load_failed(claim, true, -1, reason);
                return;
        }
        directory->parent_fd = parent_fd;
        r = fill_in(directory);
        if (r == 0) {
                claim_secure(claim, directory_secured);
        } else {
                (void)explain(reason, r,
                              r == -EOPNOTSUPP
                                      ? "%s cannot be persistent on a file system without times of birth"
                                      : "%s cannot be set up",
                              directory->path);
                abort_load(directory, reason);
        }
}

/* ---- releasing ---- */

/*
 * 0: `name` is our directory, or, where it is not known which one that is, is there at all; -ENOENT: it is not;
 * -EBUSY: something is mounted there, and may hide it; or another errno.
 */
static int find(const struct directory *directory, int parent_fd, const char *name, struct statx *ret)
{
        int r = look_at(parent_fd, name, ret);

        if (r < 0)
                return r;
        if (directory->inode == 0 || is_it(directory, ret))
                return 0;
        return ret->stx_attributes & STATX_ATTR_MOUNT_ROOT ? -EBUSY : -ENOENT;
}

/*
 * Where it is: at its place, or still under its temporary name, which nobody else would use. Without an inode it
 * never came to its place: what is there is not ours. 0; -ENOENT: it is gone; or another errno: who
 * knows.
 */
static int locate(const struct directory *directory, int parent_fd, const char **ret_name, struct statx *ret)
{
        int r = directory->inode == 0 ? -ENOENT : find(directory, parent_fd, directory->name, ret);

        *ret_name = r == -ENOENT ? directory->temporary : directory->name;
        return r == -ENOENT ? find(directory, parent_fd, directory->temporary, ret) : r;
}

/* The way leads there no more: with what was moved or removed on it, our directory went. */
static bool is_gone(int error)
{
        return error == -ENOENT || error == -ENOTDIR;
}

/* In a process of its own; says on its stderr what went wrong. */
static int remove_tree(void *userdata)
{
        const struct directory *directory = userdata;
        char reason[REASON_MAX], path[TREE_PATH_MAX];
        struct statx stx;
        const char *name;
        int r;

        _cleanup_close_ int parent_fd = open_parent(directory, false, reason);
        r = parent_fd < 0 ? parent_fd : locate(directory, parent_fd, &name, &stx);
        if (is_gone(r))
                return 0;
        if (parent_fd >= 0 && r < 0) {
                (void)explain(reason, r, "%s cannot be removed", directory->path);
        } else if (r == 0) {
                r = tree_remove(parent_fd, name, device_of(&stx), stx.stx_ino, path);
                if (r < 0)
                        (void)explain(reason, r, "%s cannot be removed", path);
        }
        if (r < 0)
                (void)dprintf(STDERR_FILENO, "%s\n", reason);
        return r < 0;
}

static void directory_err(struct lines *lines, const char *line, bool is_cut _unused_)
{
        struct directory *directory = container_of(lines, struct directory, err);

        free(directory->reason);
        directory->reason = strdup(line);
}

static void remover_exited(struct child *child)
{
        struct directory *directory = container_of(child, struct directory, remover);
        bool is_removed = child->status_code == CLD_EXITED && child->status == 0;

        lines_drain(&directory->err);
        lines_deinit(&directory->err);
        child_deinit(child);
        if (is_removed)
                claim_released(directory->claim);
        else
                claim_release_failed(directory->claim, -1,
                                     directory->reason ? directory->reason : "its removal was killed");
}

/* What is short will be there again: that is no attempt. */
static void release_not_begun(struct directory *directory, int error, const char *reason)
{
        if (errno_is_starvation(-error))
                claim_defer(directory->claim, -error);
        else
                claim_release_failed(directory->claim, -1, reason);
}

static void start_remover(struct directory *directory)
{
        struct loop *loop = claim_loop(directory->claim);
        _cleanup_close_ int err_fd = -1;
        char reason[REASON_MAX];
        int r;

        free(TAKE_PTR(directory->reason));
        r = lines_init(&directory->err, loop, REASON_MAX - 1, directory_err, &err_fd);
        if (r == 0)
                r = child_fork(&directory->remover, loop, remove_tree, directory, err_fd, remover_exited);
        if (r != 0) {
                lines_deinit(&directory->err);
                r = explain(reason, r == CHILD_E_LOST ? -EMFILE : r, "%s cannot be removed", directory->path);
                release_not_begun(directory, r, reason);
        }
}

static void say_what_is_there(struct directory *directory, int parent_fd)
{
        char text[REASON_MAX];
        struct statx stx;

        if (parent_fd < 0 || directory->inode == 0 || look_at(parent_fd, directory->name, &stx) < 0)
                return;
        (void)snprintf(text, sizeof(text), "%s is not the one that was made any more: left alone",
                       directory->path);
        claim_output(directory->claim, text);
}

static void directory_release(struct claim *claim)
{
        struct directory *directory = claim->data;
        char reason[REASON_MAX];
        struct statx stx;
        const char *name;
        int r;

        _cleanup_close_ int parent_fd = open_parent(directory, false, reason);
        r = parent_fd < 0 ? parent_fd : locate(directory, parent_fd, &name, &stx);
        if (is_gone(r)) {
                say_what_is_there(directory, parent_fd);
                claim_released(claim);
        } else if (parent_fd < 0) {
                release_not_begun(directory, parent_fd, reason);
        } else if (r < 0) {
                (void)explain(reason, r, "%s cannot be removed", directory->path);
                claim_release_failed(claim, -1, reason);
        } else if (unlinkat(parent_fd, name, AT_REMOVEDIR) == 0 || errno == ENOENT) {
                claim_released(claim);
        } else if (errno == ENOTEMPTY || errno == EEXIST) {
                start_remover(directory);
        } else {
                (void)explain(reason, -errno, "%s cannot be removed", directory->path);
                claim_release_failed(claim, -1, reason);
        }
}

static void directory_stop(struct claim *claim)
{
        struct directory *directory = claim->data;

        if (directory->parent_fd >= 0) /* it waits for the disk */
                abort_load(directory, "stopped");
        else
                (void)child_kill(&directory->remover, SIGKILL);
}

/* ---- the ledger record ---- */

static int directory_save(const struct claim *claim, char ***fields)
{
        const struct directory *directory = claim->data;
        int r;

        if (!directory) /* it could not be prepared: there is nothing to release */
                return 0;
        r = strv_appendf(fields, "path=%s", directory->path);
        if (r == 0)
                r = strv_appendf(fields, "temporary=%s", directory->temporary);
        if (r == 0)
                r = strv_appendf(fields, "device=%" PRIu64, (uint64_t)directory->device);
        if (r == 0)
                r = strv_appendf(fields, "inode=%" PRIu64, (uint64_t)directory->inode);
        if (r == 0)
                r = strv_appendf(fields, "birth=%" PRIu64, directory->birth);
        return r;
}

static int directory_restore(struct claim *claim, char *const *fields, char **ret_reason)
{
        const char *path = fields_get(fields, "path"), *temporary = fields_get(fields, "temporary");
        struct directory *directory;
        uint64_t device, inode, birth;
        char *copy;
        int r;

        if (claim->state == CLAIM_EMPTY)
                return 0;
        if (!path || !path_is_good(path) || !temporary || strlen(temporary) >= sizeof(directory->temporary) ||
            !startswith(temporary, ".tetherd-") || strchr(temporary, '/') ||
            fields_get_u64(fields, "device", &device) < 0 || fields_get_u64(fields, "inode", &inode) < 0 ||
            fields_get_u64(fields, "birth", &birth) < 0) {
                *ret_reason = strdup("path, temporary, device, inode or birth is missing or wrong");
                return *ret_reason ? RESOURCE_E_INVALID : -ENOMEM;
        }
        copy = strdup(path);
        if (!copy)
                return -ENOMEM;
        r = directory_new(&directory, claim, copy);
        if (r < 0)
                return r;
        (void)stpcpy(directory->temporary, temporary);
        directory->inode = (ino_t)inode;
        directory->device = claim->lease->is_rebooted ? 0 : (dev_t)device;
        directory->birth = birth;
        claim->data = directory;
        return 0;
}

const struct resource_type resource_type_directory = {
        .name = "directory",
        .is_queued = true, /* each removal may be a process */
        .is_recorded = true,
        .prepare = directory_prepare,
        .load = directory_load,
        .release = directory_release,
        .stop = directory_stop,
        .save = directory_save,
        .restore = directory_restore,
        .forget = directory_forget,
};

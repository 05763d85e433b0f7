/*
 * What may be loaded into the process is as trusted as the process: the file and every directory on the way to it, by
 * each link that the path takes, belong to root or to us, and nobody else may write there. In a directory with the
 * sticky bit others may, but cannot touch what is not theirs (unlink(2)). ACLs show in the bits of the group (acl(5)).
 */
#include "base/object.h"
#include <elf.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>

#define LINKS_MAX 40 /* as path_resolution(7) */

/* Our own ELF header: an object for this machine has the same in it. The linker defines the symbol. */
extern const ElfW(Ehdr) __ehdr_start __attribute__((visibility("hidden")));

_printf_(2, 3) static int refuse(char reason[static OBJECT_REASON_MAX], const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        (void)vsnprintf(reason, OBJECT_REASON_MAX, format, arguments);
        va_end(arguments);
        return -EINVAL;
}

static bool is_trusted(uid_t uid)
{
        return uid == 0 || uid == geteuid();
}

/* What is at `path`, which somebody else must not be able to change, nor to replace what is in it. */
static int judge_step(const char *path, struct stat *ret_st, char reason[static OBJECT_REASON_MAX])
{
        bool is_sticky;

        if (lstat(path, ret_st) < 0)
                return refuse(reason, "%s: %s", path, strerror(errno));
        is_sticky = S_ISDIR(ret_st->st_mode) && ret_st->st_mode & S_ISVTX;
        if (!is_trusted(ret_st->st_uid))
                return refuse(reason, "%s belongs to uid %u, which is neither root nor us", path,
                              ret_st->st_uid);
        if (!S_ISLNK(ret_st->st_mode) && !is_sticky && ret_st->st_mode & (S_IWGRP | S_IWOTH))
                return refuse(reason, "others may write to %s (mode %04o)", path, ret_st->st_mode & 07777U);
        return 0;
}

static int walk(const char *path, unsigned n_links, struct stat *ret_st,
                char reason[static OBJECT_REASON_MAX]);

/* The path goes on where the link `part` leads to, with `rest`, which is empty or begins with a slash. */
static int follow(const char *part, const char *rest, unsigned n_links, struct stat *ret_st,
                  char reason[static OBJECT_REASON_MAX])
{
        char target[PATH_MAX], path[2 * PATH_MAX];
        ssize_t n = readlink(part, target, sizeof(target) - 1);
        int length;

        if (n < 0)
                return refuse(reason, "%s: %s", part, strerror(errno));
        target[n] = '\0';
        if (target[0] == '/')
                length = snprintf(path, sizeof(path), "%s%s", target, rest);
        else
                length = snprintf(path, sizeof(path), "%.*s/%s%s", (int)(strrchr(part, '/') - part), part,
                                  target, rest);
        if (n_links >= LINKS_MAX || length < 0 || (size_t)length >= PATH_MAX)
                return refuse(reason, "%s: %s", part, strerror(ELOOP));
        return walk(path, n_links + 1, ret_st, reason);
}

/* Judges every step of the path, the last one included. */
static int walk(const char *path, unsigned n_links, struct stat *ret_st,
                char reason[static OBJECT_REASON_MAX])
{
        char part[PATH_MAX];
        int r = judge_step("/", ret_st, reason);

        if (strlen(path) >= sizeof(part))
                return refuse(reason, "%s", strerror(ENAMETOOLONG));
        for (size_t end = 0; r == 0 && path[end + strspn(path + end, "/")] != '\0';) {
                end += strspn(path + end, "/");
                end += strcspn(path + end, "/");
                (void)snprintf(part, sizeof(part), "%.*s", (int)end, path);
                r = judge_step(part, ret_st, reason);
                if (r == 0 && S_ISLNK(ret_st->st_mode))
                        return follow(part, path + end, n_links, ret_st, reason);
        }
        return r;
}

static int judge_header(const char *path, char reason[static OBJECT_REASON_MAX])
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
        ElfW(Ehdr) header;
        ssize_t n;

        if (fd < 0)
                return refuse(reason, "%s", strerror(errno));
        n = pread(fd, &header, sizeof(header), 0);
        if (n < 0)
                return refuse(reason, "%s", strerror(errno));
        if ((size_t)n < sizeof(header) || memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
                return refuse(reason, "it is no ELF file");
        if (header.e_ident[EI_CLASS] != __ehdr_start.e_ident[EI_CLASS] ||
            header.e_ident[EI_DATA] != __ehdr_start.e_ident[EI_DATA] ||
            header.e_machine != __ehdr_start.e_machine)
                return refuse(reason, "it is built for another kind of machine");
        if (header.e_type != ET_DYN)
                return refuse(reason, "it is no shared object");
        return 0;
}

int object_judge(const char *path, struct object_identity *ret_identity,
                 char reason[static OBJECT_REASON_MAX])
{
        struct stat st;
        int r = walk(path, 0, &st, reason);

        if (r == 0 && !S_ISREG(st.st_mode))
                r = refuse(reason, "it is no regular file");
        if (r == 0)
                r = judge_header(path, reason);
        if (r < 0)
                return r;
        *ret_identity = (struct object_identity){
                .device = st.st_dev,
                .inode = st.st_ino,
                .size = st.st_size,
                .modified = st.st_mtim,
        };
        return 0;
}

bool object_is_same(const struct object_identity *a, const struct object_identity *b)
{
        return a->device == b->device && a->inode == b->inode && a->size == b->size &&
               a->modified.tv_sec == b->modified.tv_sec && a->modified.tv_nsec == b->modified.tv_nsec;
}

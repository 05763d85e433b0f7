/*
 * faults: makes one call that may fail, fail. It is linked into a daemon of its own: every symbol __wrap_X here
 * becomes an option --wrap=X of the linker (Makefile), so that our own calls come through here, those of the C
 * library and libsystemd do not, and the sanitizers see all of them. A call that fails is not made.
 *
 * Which one is to fail, and which one did, stands in the file that $FAULTS names, shared with run and with our
 * children. It is named by its callers and a number among the calls that have the same: unlike a number among all
 * calls, that says the same in every run, however the kernel cuts its answers. A call fails for a reason that it
 * really may have; where there are several, its name chooses. Not here: EAGAIN where the kernel would tell of the
 * end of it later, for it would have nothing to tell; and what never fails, which never-fail lists.
 */
#include "base/util.h"
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-daemon.h>
#include <systemd/sd-event.h>
#include <systemd/sd-id128.h>

#define N_FRAMES  12
#define N_PLACES  16384 /* that are kept */
#define CUT_SHORT (-1)  /* not an errno: only half of it is done */

/* As faults.py has it. */
static struct faults {
        uint32_t is_armed; /* calls are counted */
        uint32_t n_calls;
        uint64_t place; /* the call that fails is one with these callers; 0: none does */
        uint32_t nth;   /* which of them, from 1 */
        uint32_t n_seen;
        int32_t error; /* of the one that failed */
        char call[28]; /* its name; "": none did yet */
        uint64_t frames[N_FRAMES];
        uint64_t places[N_PLACES]; /* of each call, a hash of its callers */
} * faults;

extern const char __executable_start[], etext[];

/* The wrappers are our own, the compiler is to be told of none of them in a header. */
#pragma GCC diagnostic ignored "-Wmissing-prototypes"

void *__real_mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset);
int __real_open(const char *path, int flags, ...);

__attribute__((constructor)) static void attach(void)
{
        const char *path = getenv("FAULTS");
        int fd = path ? __real_open(path, O_RDWR | O_CLOEXEC) : -1;
        void *map = fd < 0 ? MAP_FAILED
                           : __real_mmap(NULL, sizeof(*faults), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

        if (map == MAP_FAILED) {
                perror("$FAULTS");
                _exit(2);
        }
        (void)close(fd);
        faults = map;
}

/*
 * Who called, up to the first that is not ours: frames are linked, for we are built with frame pointers. Returns a
 * hash of them (FNV-1a, a frame at a time), which is the same in every run.
 */
__attribute__((noinline, no_sanitize("address"))) static uint64_t
find_callers(uint64_t frames[static N_FRAMES])
{
        void *const *frame = __builtin_frame_address(0);
        uint64_t hash = UINT64_C(0xcbf29ce484222325);

        for (size_t i = 0; i < N_FRAMES; i++) {
                void *const *caller = frame[0];
                const char *code = frame[1];

                if (code < __executable_start || code >= etext)
                        break;
                frames[i] = (uint64_t)(code - __executable_start);
                hash = (hash ^ frames[i]) * UINT64_C(0x100000001b3);
                if (caller <= frame) /* the first that there is */
                        break;
                frame = caller;
        }
        return hash;
}

/* 0: the call is to be made; else how it fails. */
static int fails(const char *call, const int *errors, size_t n_errors)
{
        uint64_t frames[N_FRAMES] = { 0 }, place;
        uint32_t n;

        if (!faults || !__atomic_load_n(&faults->is_armed, __ATOMIC_SEQ_CST))
                return 0;
        n = __atomic_add_fetch(&faults->n_calls, 1, __ATOMIC_SEQ_CST);
        place = find_callers(frames);
        if (n <= N_PLACES)
                faults->places[n - 1] = place;
        if (place != faults->place || __atomic_add_fetch(&faults->n_seen, 1, __ATOMIC_SEQ_CST) != faults->nth)
                return 0;
        memcpy(faults->frames, frames, sizeof(frames));
        faults->error = errors[(place + faults->nth) % n_errors];
        (void)stpncpy(faults->call, call, sizeof(faults->call) - 1);
        return faults->error;
}

#define FAILS(name, ...) fails(name, (const int[]){ __VA_ARGS__ }, ARRAY_SIZE(((const int[]){ __VA_ARGS__ })))

/* A call that returns `failure` and sets errno to one of those behind it. */
#define CALL(type, name, parameters, arguments, failure, ...) \
        type __real_##name parameters;                        \
        type __wrap_##name parameters                         \
        {                                                     \
                int error = FAILS(#name, __VA_ARGS__);        \
                                                              \
                if (error == 0)                               \
                        return __real_##name arguments;       \
                errno = error;                                \
                return failure;                               \
        }

/* One of libsystemd, which returns it negative. */
#define SD_CALL(name, parameters, arguments, ...)                     \
        int __real_##name parameters;                                 \
        int __wrap_##name parameters                                  \
        {                                                             \
                int error = FAILS(#name, __VA_ARGS__);                \
                                                                      \
                return error == 0 ? __real_##name arguments : -error; \
        }

/* clang-format off */

/* ---- memory ---- */

CALL(void *, malloc, (size_t size), (size), NULL, ENOMEM)
CALL(void *, calloc, (size_t n, size_t size), (n, size), NULL, ENOMEM)
CALL(void *, realloc, (void *p, size_t size), (p, size), NULL, ENOMEM)
CALL(void *, reallocarray, (void *p, size_t n, size_t size), (p, n, size), NULL, ENOMEM)
CALL(char *, strdup, (const char *text), (text), NULL, ENOMEM)
CALL(char *, strndup, (const char *text, size_t n), (text, n), NULL, ENOMEM)
CALL(int, vasprintf, (char **ret, const char *format, va_list list), (ret, format, list), -1, ENOMEM)
CALL(FILE *, open_memstream, (char **text, size_t *size), (text, size), NULL, ENOMEM)
CALL(void *, mmap, (void *address, size_t size, int protection, int flags, int fd, off_t offset),
     (address, size, protection, flags, fd, offset), MAP_FAILED, ENOMEM)

/* ---- files ---- */

CALL(FILE *, fopen, (const char *path, const char *mode), (path, mode), NULL, EMFILE, EIO)
CALL(ssize_t, read, (int fd, void *bytes, size_t n), (fd, bytes, n), -1, EIO, ENOMEM)
CALL(ssize_t, pread, (int fd, void *bytes, size_t n, off_t offset), (fd, bytes, n, offset), -1, EIO, ENOMEM)
CALL(int, fseek, (FILE *file, long offset, int whence), (file, offset, whence), -1, EIO)
CALL(int, ftruncate, (int fd, off_t length), (fd, length), -1, EIO)
CALL(int, fsync, (int fd), (fd), -1, EIO, ENOSPC)
CALL(int, stat, (const char *path, struct stat *st), (path, st), -1, ENOMEM, EACCES)
CALL(int, lstat, (const char *path, struct stat *st), (path, st), -1, ENOMEM, EIO)
CALL(int, fstat, (int fd, struct stat *st), (fd, st), -1, ENOMEM, EIO)
CALL(int, fstatat, (int fd, const char *path, struct stat *st, int flags), (fd, path, st, flags), -1, ENOMEM, EIO)
CALL(int, statx, (int fd, const char *path, int flags, unsigned mask, struct statx *st),
     (fd, path, flags, mask, st), -1, ENOMEM, EIO)
CALL(void *, dlopen, (const char *path, int mode), (path, mode), NULL, ENOMEM)
CALL(void *, dlsym, (void *object, const char *name), (object, name), NULL, ENOMEM)
CALL(int, access, (const char *path, int mode), (path, mode), -1, ENOMEM, EIO)
CALL(int, mkdir, (const char *path, mode_t mode), (path, mode), -1, ENOSPC, EROFS)
CALL(int, mkdirat, (int fd, const char *path, mode_t mode), (fd, path, mode), -1, ENOSPC, EDQUOT)
CALL(int, unlink, (const char *path), (path), -1, EIO, EROFS)
CALL(int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags), -1, EIO, EROFS)
CALL(int, rename, (const char *from, const char *to), (from, to), -1, ENOSPC, EIO)
CALL(int, renameat, (int from_fd, const char *from, int to_fd, const char *to), (from_fd, from, to_fd, to), -1,
     ENOSPC, EIO)
CALL(int, renameat2, (int from_fd, const char *from, int to_fd, const char *to, unsigned flags),
     (from_fd, from, to_fd, to, flags), -1, ENOSPC, EIO)
CALL(int, chmod, (const char *path, mode_t mode), (path, mode), -1, EPERM, EIO)
CALL(int, fchmod, (int fd, mode_t mode), (fd, mode), -1, EPERM, EIO)
CALL(int, fchmodat, (int fd, const char *path, mode_t mode, int flags), (fd, path, mode, flags), -1, EPERM, EIO)
CALL(int, lchown, (const char *path, uid_t uid, gid_t gid), (path, uid, gid), -1, EPERM, EDQUOT)
CALL(int, fchown, (int fd, uid_t uid, gid_t gid), (fd, uid, gid), -1, EPERM, EDQUOT)
CALL(int, scandir, (const char *path, struct dirent ***entries, int (*filter)(const struct dirent *),
     int (*compare)(const struct dirent **, const struct dirent **)), (path, entries, filter, compare), -1,
     EMFILE, ENOMEM)
CALL(int, scandirat, (int fd, const char *path, struct dirent ***entries, int (*filter)(const struct dirent *),
     int (*compare)(const struct dirent **, const struct dirent **)), (fd, path, entries, filter, compare), -1,
     EMFILE, ENOMEM)
CALL(DIR *, opendir, (const char *path), (path), NULL, EMFILE, ENOMEM)
CALL(DIR *, fdopendir, (int fd), (fd), NULL, ENOMEM)
CALL(struct dirent *, readdir, (DIR *dir), (dir), NULL, EIO)
CALL(int, memfd_create, (const char *name, unsigned flags), (name, flags), -1, EMFILE, ENOMEM)
CALL(struct passwd *, getpwnam, (const char *name), (name), NULL, EMFILE)
CALL(struct passwd *, getpwuid, (uid_t uid), (uid), NULL, EMFILE)
CALL(struct group *, getgrnam, (const char *name), (name), NULL, EMFILE)
CALL(struct group *, getgrgid, (gid_t gid), (gid), NULL, EMFILE)
CALL(ssize_t, getrandom, (void *bytes, size_t n, unsigned flags), (bytes, n, flags), -1, EINTR)
CALL(int, getentropy, (void *bytes, size_t n), (bytes, n), -1, EIO)

/* ---- sockets ---- */

CALL(int, socket, (int family, int type, int protocol), (family, type, protocol), -1, EMFILE, ENFILE, ENOBUFS, ENOMEM)
CALL(int, socketpair, (int family, int type, int protocol, int fds[2]), (family, type, protocol, fds), -1,
     EMFILE, ENFILE)
CALL(int, bind, (int fd, const struct sockaddr *address, socklen_t length), (fd, address, length), -1,
     EADDRINUSE, ENOMEM)
CALL(int, listen, (int fd, int backlog), (fd, backlog), -1, EADDRINUSE)
CALL(int, connect, (int fd, const struct sockaddr *address, socklen_t length), (fd, address, length), -1,
     ECONNREFUSED, ENOENT, EAGAIN)
CALL(int, accept4, (int fd, struct sockaddr *address, socklen_t *length, int flags), (fd, address, length, flags),
     -1, EMFILE, ECONNABORTED, ENOBUFS, ENFILE, EINTR, ENOMEM)
CALL(int, getsockname, (int fd, struct sockaddr *address, socklen_t *length), (fd, address, length), -1, ENOBUFS)
CALL(int, getsockopt, (int fd, int level, int name, void *value, socklen_t *length), (fd, level, name, value, length),
     -1, ENOBUFS, ENOMEM)
CALL(int, setsockopt, (int fd, int level, int name, const void *value, socklen_t length),
     (fd, level, name, value, length), -1, ENOMEM, ENOBUFS)
CALL(int, shutdown, (int fd, int how), (fd, how), -1, ENOTCONN)
CALL(ssize_t, send, (int fd, const void *bytes, size_t n, int flags), (fd, bytes, n, flags), -1,
     EINTR, ENOBUFS, EPIPE, ENOMEM, ECONNRESET)
/* The manager lives as long as we do: it refuses nothing. */
CALL(ssize_t, sendmsg, (int fd, const struct msghdr *message, int flags), (fd, message, flags), -1, ENOBUFS, EAGAIN)
CALL(ssize_t, recvmsg, (int fd, struct msghdr *message, int flags), (fd, message, flags), -1, ENOMEM)
CALL(int, sendmmsg, (int fd, struct mmsghdr *messages, unsigned n, int flags), (fd, messages, n, flags), -1,
     ENOBUFS, EAGAIN, ECONNREFUSED, EMSGSIZE)

/* ---- the loop ---- */

CALL(int, epoll_create1, (int flags), (flags), -1, EMFILE, ENOMEM)
CALL(int, epoll_wait, (int fd, struct epoll_event *events, int n, int timeout), (fd, events, n, timeout), -1, EINTR)
CALL(int, eventfd, (unsigned count, int flags), (count, flags), -1, EMFILE, ENFILE, ENOMEM)
CALL(int, poll, (struct pollfd *fds, nfds_t n, int timeout), (fds, n, timeout), -1, ENOMEM, EINTR)
SD_CALL(sd_listen_fds_with_names, (int unset_environment, char ***names), (unset_environment, names), ENOMEM, EBADF)
SD_CALL(sd_is_socket, (int fd, int family, int type, int listening), (fd, family, type, listening), ENOMEM)
SD_CALL(sd_id128_get_boot, (sd_id128_t *boot), (boot), ENOENT, EMFILE)
SD_CALL(sd_event_new, (sd_event **event), (event), ENOMEM, EMFILE)
SD_CALL(sd_event_add_signal, (sd_event *event, sd_event_source **source, int signal,
        sd_event_signal_handler_t handler, void *userdata), (event, source, signal, handler, userdata), ENOMEM, EMFILE)
SD_CALL(sd_event_add_child, (sd_event *event, sd_event_source **source, pid_t pid, int options,
        sd_event_child_handler_t handler, void *userdata), (event, source, pid, options, handler, userdata),
        ENOMEM, EMFILE)
SD_CALL(sd_event_wait, (sd_event *event, uint64_t usec), (event, usec), ENOMEM)
SD_CALL(sd_bus_open_system, (sd_bus **bus), (bus), ENOMEM, ECONNREFUSED)
SD_CALL(sd_bus_attach_event, (sd_bus *bus, sd_event *event, int priority), (bus, event, priority), ENOMEM)
SD_CALL(sd_bus_path_encode, (const char *prefix, const char *name, char **path), (prefix, name, path), ENOMEM)
SD_CALL(sd_bus_path_decode, (const char *path, const char *prefix, char **name), (path, prefix, name), ENOMEM)
SD_CALL(sd_bus_add_match_async, (sd_bus *bus, sd_bus_slot **slot, const char *rule, sd_bus_message_handler_t handler,
        sd_bus_message_handler_t installed, void *userdata), (bus, slot, rule, handler, installed, userdata),
        ENOMEM, ENOTCONN)
SD_CALL(sd_bus_message_enter_container, (sd_bus_message *message, char type, const char *contents),
        (message, type, contents), ENOMEM, EBADMSG)
SD_CALL(sd_bus_message_exit_container, (sd_bus_message *message), (message), EBADMSG)
SD_CALL(sd_bus_message_skip, (sd_bus_message *message, const char *types), (message, types), EBADMSG)

/* ---- processes; a child's calls are counted like ours ---- */

CALL(pid_t, fork, (void), (), -1, EAGAIN, ENOMEM)
CALL(int, execve, (const char *path, char *const *argv, char *const *environment), (path, argv, environment), -1,
     ENOMEM, EAGAIN)
CALL(int, pipe2, (int fds[2], int flags), (fds, flags), -1, EMFILE, ENFILE)
CALL(int, dup2, (int fd, int to_fd), (fd, to_fd), -1, EMFILE, EBUSY)
CALL(int, pidfd_open, (pid_t pid, unsigned flags), (pid, flags), -1, EMFILE, ENOMEM)
CALL(int, close_range, (unsigned first, unsigned last, int flags), (first, last, flags), -1, ENOMEM)
CALL(int, setpgid, (pid_t pid, pid_t group), (pid, group), -1, EPERM)
CALL(int, setrlimit, (__rlimit_resource_t resource, const struct rlimit *limit), (resource, limit), -1, EPERM)
CALL(int, setgroups, (size_t n, const gid_t *groups), (n, groups), -1, ENOMEM)
CALL(int, setresgid, (gid_t real, gid_t effective, gid_t saved), (real, effective, saved), -1, EAGAIN)
CALL(int, setresuid, (uid_t real, uid_t effective, uid_t saved), (real, effective, saved), -1, EAGAIN)
CALL(int, chdir, (const char *path), (path), -1, EACCES, ENOMEM)

CALL(int, dup3, (int fd, int to_fd, int flags), (fd, to_fd, flags), -1, EMFILE, EBUSY)
CALL(int, pidfd_send_signal, (int fd, int number, siginfo_t *info, unsigned flags), (fd, number, info, flags), -1, EPERM)

/* clang-format on */

int __real_clone(int (*work)(void *), void *stack, int flags, void *argument, ...);
int __wrap_clone(int (*work)(void *), void *stack, int flags, void *argument, ...)
{
        int error = FAILS("clone", EAGAIN, ENOMEM, EMFILE);
        va_list list;

        va_start(list, argument);
        int *pidfd = va_arg(list, int *);
        va_end(list);
        if (error == 0)
                return __real_clone(work, stack, flags, argument, pidfd);
        errno = error;
        return -1;
}

/* ---- those that take more words ---- */

int __wrap_sd_bus_call_method_async(sd_bus *bus, sd_bus_slot **slot, const char *destination,
                                    const char *path, const char *interface, const char *member,
                                    sd_bus_message_handler_t handler, void *userdata, const char *types, ...)
{
        int r = -FAILS("sd_bus_call_method_async", ENOMEM, ENOTCONN);
        va_list list;

        va_start(list, types);
        if (r == 0)
                r = sd_bus_call_method_asyncv(bus, slot, destination, path, interface, member, handler,
                                              userdata, types, list);
        va_end(list);
        return r;
}

int __wrap_sd_bus_message_read(sd_bus_message *message, const char *types, ...)
{
        int r = -FAILS("sd_bus_message_read", ENOMEM, EBADMSG);
        va_list list;

        va_start(list, types);
        if (r == 0)
                r = sd_bus_message_readv(message, types, list);
        va_end(list);
        return r;
}

static mode_t mode_of(int flags, va_list list)
{
        return flags & O_CREAT ? va_arg(list, mode_t) : 0;
}

int __wrap_open(const char *path, int flags, ...)
{
        int error = FAILS("open", EMFILE, ENFILE, EIO);
        va_list list;

        va_start(list, flags);
        mode_t mode = mode_of(flags, list);
        va_end(list);
        if (error == 0)
                return __real_open(path, flags, mode);
        errno = error;
        return -1;
}

int __real_openat(int fd, const char *path, int flags, ...);
int __wrap_openat(int fd, const char *path, int flags, ...)
{
        int error = FAILS("openat", EMFILE, ENFILE, EIO, ENOSPC);
        va_list list;

        va_start(list, flags);
        mode_t mode = mode_of(flags, list);
        va_end(list);
        if (error == 0)
                return __real_openat(fd, path, flags, mode);
        errno = error;
        return -1;
}

int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...)
{
        int error = command == F_SETLK           ? FAILS("fcntl", ENOLCK)
                    : command == F_DUPFD_CLOEXEC ? FAILS("fcntl", EMFILE)
                                                 : 0;
        va_list list;

        va_start(list, command);
        void *argument = va_arg(list, void *);
        va_end(list);
        if (error == 0)
                return __real_fcntl(fd, command, argument);
        errno = error;
        return -1;
}

_printf_(2, 3) int __wrap_asprintf(char **ret, const char *format, ...)
{
        va_list list;

        va_start(list, format);
        int r = __wrap_vasprintf(ret, format, list);
        va_end(list);
        return r;
}

_printf_(2, 3) int __wrap_dprintf(int fd, const char *format, ...)
{
        int error = FAILS("dprintf", ENOSPC, EIO);
        va_list list;
        int r = -1;

        va_start(list, format);
        if (error == 0)
                r = vdprintf(fd, format, list);
        else
                errno = error;
        va_end(list);
        return r;
}

ssize_t __real_write(int fd, const void *bytes, size_t n);
ssize_t __wrap_write(int fd, const void *bytes, size_t n)
{
        int error = FAILS("write", ENOSPC, CUT_SHORT, EIO);

        if (error == 0 || error == CUT_SHORT)
                return __real_write(fd, bytes, error == 0 ? n : n / 2);
        errno = error;
        return -1;
}

/* The file is closed all the same. */
int __real_fclose(FILE *file);
int __wrap_fclose(FILE *file)
{
        int error = FAILS("fclose", ENOMEM), r = __real_fclose(file);

        if (error == 0)
                return r;
        errno = error;
        return EOF;
}

/* Taking a descriptor out never fails. */
int __real_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event);
int __wrap_epoll_ctl(int epoll_fd, int operation, int fd, struct epoll_event *event)
{
        int error = operation == EPOLL_CTL_DEL ? 0 : FAILS("epoll_ctl", ENOMEM, ENOSPC);

        if (error == 0)
                return __real_epoll_ctl(epoll_fd, operation, fd, event);
        errno = error;
        return -1;
}

/* Those for which the C library has no function: of them only these may fail. */
long __real_syscall(long number, ...);
long __wrap_syscall(long number, ...)
{
        int error = number == SYS_io_setup    ? FAILS("io_setup", EAGAIN, ENOSYS, ENOMEM)
                    : number == SYS_io_submit ? FAILS("io_submit", EAGAIN, EINVAL)
                                              : 0;
        long arguments[5];
        va_list list;

        va_start(list, number);
        for (size_t i = 0; i < ARRAY_SIZE(arguments); i++)
                arguments[i] = va_arg(list, long);
        va_end(list);
        if (error == 0)
                return __real_syscall(number, arguments[0], arguments[1], arguments[2], arguments[3],
                                      arguments[4]);
        errno = error;
        return -1;
}

/* What was seen with MSG_PEEK is there to be taken. */
ssize_t __real_recv(int fd, void *bytes, size_t n, int flags);
ssize_t __wrap_recv(int fd, void *bytes, size_t n, int flags)
{
        static int peeked_fd = -1;
        int error = fd == peeked_fd ? 0 : FAILS("recv", EINTR, ECONNRESET, ENOMEM, ETIMEDOUT);
        ssize_t r = error == 0 ? __real_recv(fd, bytes, n, flags) : -1;

        peeked_fd = flags & MSG_PEEK && r > 0 ? fd : -1;
        if (error != 0)
                errno = error;
        return r;
}

/*
 * util: the few macros that every file may use. Cleanup attributes (← systemd), container_of,
 * string equality. Nothing here allocates, logs or keeps state.
 */
#pragma once

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef NDEBUG
#error "asserts state invariants and stay in release builds"
#endif

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define container_of(ptr, type, member)                                           \
        __extension__({                                                           \
                const __typeof__(((type *)0)->member) *member_ptr = (ptr);        \
                (type *)(void *)((uintptr_t)member_ptr - offsetof(type, member)); \
        })

#define MIN(a, b)                              \
        __extension__({                        \
                __typeof__(a) min_a = (a);     \
                __typeof__(b) min_b = (b);     \
                min_a < min_b ? min_a : min_b; \
        })
#define MAX(a, b)                              \
        __extension__({                        \
                __typeof__(a) max_a = (a);     \
                __typeof__(b) max_b = (b);     \
                max_a > max_b ? max_a : max_b; \
        })

#define _printf_(text, first) __attribute__((format(printf, text, first)))
#define _pure_                __attribute__((pure))
#define _const_               __attribute__((const))
#define _unused_              __attribute__((unused))

/* A variable with `_cleanup_(f)` owns what it holds: f(&variable) runs when it leaves its scope. */
#define _cleanup_(f) __attribute__((cleanup(f)))

/* Defines the cleanup function NAMEp for a destructor that takes NULL: DEFINE_CLEANUP(struct config *, config_unref). */
#define DEFINE_CLEANUP(type, destructor)          \
        static inline void destructor##p(type *p) \
        {                                         \
                if (*p)                           \
                        destructor(*p);           \
        }                                         \
        struct destructor##_cleanup_needs_a_semicolon

static inline void freep(void *p)
{
        free(*(void **)p);
}

/* Closes fd unless it is negative, keeps errno, returns -1: `x->fd = fd_close(x->fd);` (close(2): never retried). */
static inline int fd_close(int fd)
{
        if (fd >= 0) {
                int saved = errno;
                (void)close(fd);
                errno = saved;
        }
        return -1;
}

static inline void fd_closep(int *fd)
{
        (void)fd_close(*fd);
}

#define _cleanup_free_  _cleanup_(freep)
#define _cleanup_close_ _cleanup_(fd_closep)

/* Hands the value over: the cleanup attribute of `p` then has nothing left to do. */
#define TAKE_PTR(p)                                 \
        __extension__({                             \
                __typeof__(p) *take_p = &(p);       \
                __typeof__(p) take_value = *take_p; \
                *take_p = NULL;                     \
                take_value;                         \
        })
#define TAKE_FD(fd)                        \
        __extension__({                    \
                int *take_fd = &(fd);      \
                int take_value = *take_fd; \
                *take_fd = -1;             \
                take_value;                \
        })

static inline bool streq(const char *a, const char *b)
{
        return strcmp(a, b) == 0;
}

static inline bool startswith(const char *text, const char *prefix)
{
        return strncmp(text, prefix, strlen(prefix)) == 0;
}

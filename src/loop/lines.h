/*
 * lines: what a child prints, line by line, from a pipe in the loop. Lines that are longer than the bound are
 * cut there and the rest is thrown away, so that a child cannot make us hold more; bytes that are no text
 * are the receiver's business. A last line without newline counts as one.
 */
#pragma once

#include "base/util.h"
#include "loop/loop.h"

struct lines;
/*
 * `line` ends with NUL; a NUL inside it became SUB (0x1a), the control character that is there for it.
 * `is_cut`: it was longer than the bound. Must not deinitialise `lines`.
 */
typedef void (*lines_fn)(struct lines *lines, const char *line, bool is_cut);
/* Nobody holds the other end any more. May deinitialise `lines`. */
typedef void (*lines_closed_fn)(struct lines *lines);

/* Zeroed: none. */
struct lines {
        struct source source;
        struct loop *loop;
        lines_fn line;
        lines_closed_fn closed; /* set after lines_init() by whom it concerns; NULL: nobody */
        char *buffer;
        size_t n_bytes;
        size_t n_max;
        bool is_cut;        /* inside the rest of a long line */
        bool is_unfinished; /* in `line`: it has no newline, and may not be all that was to be said */
};

/*
 * Makes a pipe (O_CLOEXEC; our end non-blocking) and puts our end into the loop; *ret_child_fd is for the
 * child and the caller closes it after the start. lines_deinit() closes ours; idempotent. Returns 0 or a
 * negative errno.
 */
int lines_init(struct lines *lines, struct loop *loop, size_t n_max, lines_fn line, int *ret_child_fd);
void lines_deinit(struct lines *lines);

/*
 * Reads what is there now, and no more, also an unfinished last line: for when the child has ended, though a
 * grandchild may hold the pipe and print on.
 */
void lines_drain(struct lines *lines);

/*
 * ini: configuration files as a list of entries, each with its place, and the faults found on the way. A fault
 * never ends the reading, so that all of them are found; running out of memory is remembered in `error` and
 * ends everything after it, so that callers need ask only once, at the end.
 */
#pragma once

#include "base/util.h"

struct ini_entry {
        unsigned file; /* index into ini.files */
        unsigned line;
        char *section; /* what stands in the brackets; "" before the first header */
        char *key;     /* NULL: this is the header itself */
        char *value;   /* continuation lines joined to it; NULL in a header */
};

struct ini_fault {
        unsigned file;
        unsigned line;  /* 0: the file as a whole */
        unsigned order; /* of being found, among those of one line */
        char *message;
};

struct ini {
        char **files; /* a strv */
        struct ini_entry *entries;
        size_t n_entries;
        struct ini_fault *faults;
        size_t n_faults;
        int error; /* 0 or -ENOMEM */
};

/* Appends what `path` holds. A file that cannot be read is a fault. */
void ini_read(struct ini *ini, const char *path);

/* Adds a fault at a line of a file, or at an entry. */
_printf_(4, 5) void ini_fault(struct ini *ini, unsigned file, unsigned line, const char *format, ...);
#define ini_fault_at(ini, entry, ...) ini_fault(ini, (entry)->file, (entry)->line, __VA_ARGS__)

/* Adds a fault of the file as a whole, which need not have been read: "PATH: message". */
_printf_(3, 4) void ini_fault_of_file(struct ini *ini, const char *path, const char *format, ...);

/* All faults as a strv of "FILE:LINE: message", ordered by file and line. 0 or -ENOMEM. */
int ini_faults(struct ini *ini, char ***ret_faults);

void ini_deinit(struct ini *ini);

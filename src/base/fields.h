/*
 * fields: records of "name=value" lines that a later run of ours reads: a person can read them too, and what a
 * newer version adds an older one skips. A record is a block of lines, closed by a line with a single dot: one
 * without it was cut short. Control characters and backslashes in values are written \xNN.
 */
#pragma once

#include "base/util.h"
#include <stdio.h>

/* The first value of the field `name` among "name=value" strings, or NULL. */
const char *fields_get(char *const *fields, const char *name);
int fields_get_u64(char *const *fields, const char *name, uint64_t *ret); /* 0, -ENOENT or -EINVAL */

/* What cannot be written shows at fclose(3), for files of open_memstream(3). */
void fields_write(FILE *file, const char *name, const char *value);
void fields_write_u64(FILE *file, const char *name, uint64_t value);
void fields_write_text(FILE *file, const char *field); /* "name=value" */
void fields_write_end(FILE *file);

/*
 * Takes the next complete block off *text, which it changes, as strings owned by the caller. 1: there was one;
 * 0: there is no more (what is left is cut short or empty); or -EINVAL, -ENOMEM.
 */
int fields_read(char **text, char ***ret_fields);

/*
 * words: command lines and their %-specifiers. A command is split into words first, as systemd's ExecStart=
 * does it (blanks; "double" quotes with \" \\ \n \t escapes; 'single' quotes), and each word is expanded
 * afterwards, so that what a specifier brings in is never split.
 */
#pragma once

#include "base/util.h"

/* A NULL-terminated array of strings, all owned by it. */
char **strv_free(char **strv);
size_t strv_length(char *const *strv);
bool strv_contains(char *const *strv, const char *text);
int strv_append(char ***strv, const char *text); /* 0 or -ENOMEM */
int strv_append_take(char ***strv, char *text);  /* takes text also when it fails */
_printf_(2, 3) int strv_appendf(char ***strv, const char *format, ...);
DEFINE_CLEANUP(char **, strv_free);
#define _cleanup_strv_free_ _cleanup_(strv_freep)

/*
 * Splits `text` into words. Returns 0 with *ret_strv (NULL-terminated, never NULL; empty for a blank text),
 * -ENOMEM, or -EINVAL with *ret_reason, a constant sentence ("the double quote is not closed").
 */
int words_split(const char *text, char ***ret_strv, const char **ret_reason);

/* The same for a list: its items are separated by commas as well, empty items do not count. */
int list_split(const char *text, char ***ret_strv, const char **ret_reason);

/* Joins words so that words_split() gives the same words again. NULL when out of memory. */
char *words_join(char *const *strv);

/*
 * Resolves one specifier: `letter` is i, l, a, p, h or c; `{` stands for %{name} with the name in `name`
 * (NULL otherwise). Returns the value, or NULL where this specifier is not known here.
 */
typedef const char *(*specifier_fn)(void *userdata, char letter, const char *name);

enum specifier_flags {
        /* Refuse a value that is empty or begins with '-' at the start of the text. */
        SPECIFIER_WORD = 1 << 0,
        /* Refuse a value with '/' or ".." in it, or an empty one at the start of a component; a result with a . or .. */
        SPECIFIER_PATH = 1 << 1,
};

/*
 * Expands `text`. Returns 0 with *ret owned by the caller, -ENOMEM, or -EINVAL with a sentence in *ret_reason,
 * owned by the caller, naming the specifier ("%{session} is empty", "%h begins with '-'", "%q is not known here").
 */
int specifier_expand(const char *text, unsigned flags, specifier_fn resolve, void *userdata, char **ret,
                     char **ret_reason);

/*
 * Where the program of a command is: `name` is an absolute path, or is searched in PROGRAM_PATH (never in our
 * own environment's PATH). Returns 0 with *ret_path owned by the caller; -ENOENT; -EACCES (not an executable
 * file); -EINVAL for a relative path; -ENOMEM.
 */
#define PROGRAM_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
int program_find(const char *name, char **ret_path);

/*
 * section: one section of a config: what was written in it, where, and the struct that it fills. For the files
 * of src/config only; the rest of the daemon sees config.h.
 */
#pragma once

#include "base/span.h"
#include "config/ini.h"
#include "config/keys.h"

struct section {
        enum section_kind kind;
        unsigned kinds; /* the resource's type as a bit; 0: no usable type is known, nothing more is judged */
        char *text;     /* "listener:presence" */
        const char *name; /* "presence", part of `text`; "" for the daemon */
        void *object;     /* borrowed: struct daemon_config, listener_config or resource_config */
        const struct ini_entry *header; /* the first one; NULL: in no file (daemon) */
        const struct ini_entry **given; /* by index into keys[]: the last that says it, NULL: none does */
};

struct config_origins {
        struct ini ini;
        struct section **sections; /* the daemon first, then as the files have them */
        size_t n_sections;
};

/* ---- section.c ---- */

/*
 * The section that the text in brackets names, made with its defaults when it is new. NULL with a fault at
 * `header` when there can be no such section, or without memory.
 */
struct section *section_open(struct config *config, const char *text, const struct ini_entry *header);
struct section *section_find(const struct config *config, const char *text);
struct section *section_free(struct section *section);

/* What the files say about the key, NULL where nothing is said or the last word is the empty value. */
const struct ini_entry *section_given(const struct section *section, const char *key);

/* A fault at the key where it is given, else at the section's header. */
_printf_(4, 5) void section_fault(struct config *config, const struct section *section, const char *key,
                                  const char *format, ...);

/* ---- value.c ---- */

/*
 * Sets the key's field of section->object to what the entry says, or to its default when the entry is NULL or
 * empty. What is wrong is a fault at the entry; the field stays as it was then.
 */
void value_set(const struct key *key, const struct section *section, const struct ini_entry *entry,
               struct ini *ini);
void value_free(const struct key *key, void *object);

/* The effective value as text: `buffer`, or a string of the config. */
const char *value_text(const struct key *key, const struct section *section,
                       char buffer[static SPAN_TEXT_MAX]);

/* The strings of the value that hold specifiers, as many as there are; NULL for other types. */
char *const *value_templates(const struct key *key, const struct section *section, size_t *ret_n);

/* ---- check.c ---- */

/* Everything that involves more than one key: adds faults, and fills the listeners' resources. */
void check_config(struct config *config);

/*
 * keys: the one table of everything that a configuration file may say. Parser, defaults, ranges, suggestions,
 * --print-config and the check that the man page names every key come from it.
 */
#pragma once

#include "base/util.h"
#include "config/config.h"

enum section_kind { SECTION_DAEMON, SECTION_LISTENER, SECTION_RESOURCE };

/* The first group is one number in the struct, the second is text that is printed as it was written. */
enum key_type {
        KEY_BOOLEAN,
        KEY_SPAN,
        KEY_SIZE,
        KEY_COUNT,
        KEY_WORD, /* one of key->words */
        KEY_MODE, /* octal */
        KEY_USER,
        KEY_GROUP,

        KEY_FOLDER,      /* char *: an absolute path */
        KEY_TEMPLATE,    /* char *: text with specifiers */
        KEY_PATH,        /* char *: an absolute path with specifiers */
        KEY_COMMAND,     /* char **: words with specifiers */
        KEY_UNIT,        /* char *: the name of a unit, with specifiers */
        KEY_ENVIRONMENT, /* char **: NAME=value, with specifiers */
        KEY_ITEMS,       /* char **: of a pool */
        KEY_ENDPOINTS,   /* the listener's endpoints */
        KEY_RULES,       /* struct rules */
        KEY_HANDLER,     /* the listener's handler, one of key->words, and what a plugin's path is */
        KEY_NAMES,       /* the listener's resources */
};

enum key_flags {
        KEY_AUTO = 1 << 0,          /* `auto` is allowed, 0 in the struct */
        KEY_INFINITY = 1 << 1,      /* `infinity` is allowed, UINT64_MAX in the struct */
        KEY_WHOLE_SECONDS = 1 << 2, /* no fractions of a second */
        KEY_CIDRS = 1 << 4,         /* of rules, only CIDRs are allowed */
        KEY_CAUSE = 1 << 5,         /* a template that is used at an ending: %c is known, %{name} is not */
};

/* What a change at a reload applies to. */
enum key_effect {
        EFFECT_CONNECTION, /* connections accepted from then on */
        EFFECT_RELOAD,     /* everything, at once */
        EFFECT_RESTART,    /* nothing: such a reload is refused */
};

/* Resource types, as bits: which ones a key belongs to. 0 for other sections: all. */
enum key_kinds {
        KIND_NONE = 1 << RESOURCE_NONE,
        KIND_DIRECTORY = 1 << RESOURCE_DIRECTORY,
        KIND_EXEC = 1 << RESOURCE_EXEC,
        KIND_POOL = 1 << RESOURCE_POOL,
        KIND_PROCESS = 1 << RESOURCE_PROCESS,
        KIND_UNIT = 1 << RESOURCE_UNIT,
        KIND_HELPER = 1 << RESOURCE_HELPER,
};

/* A table of these ends with a NULL name. */
struct key_word {
        const char *name; /* with a ':' at its end: anything may follow */
        unsigned value;
};

struct key {
        enum section_kind section;
        const char *name;
        enum key_type type;
        unsigned size; /* of the field */
        size_t offset; /* of the field */
        const char *standard;
        const char *variable; /* of the environment, that replaces the default where it is set */
        uint64_t min, max;
        unsigned flags;
        enum key_effect effect;
        unsigned kinds;
        const struct key_word *words;
        const char *help;
};

extern const struct key keys[];
extern const size_t n_keys;

/* The key `name` of such a section that belongs to one of `kinds`, else one of another type, else NULL. */
const struct key *key_find(enum section_kind section, const char *name, unsigned kinds);

static inline bool key_belongs(const struct key *key, unsigned kinds)
{
        return key->kinds == 0 || key->kinds & kinds;
}

/* The word of a KEY_WORD or KEY_HANDLER that the text is, NULL if it is none. */
const struct key_word *key_find_word(const struct key *key, const char *text);

/*
 * record: one log record while it is put together, as systemd-journald's native protocol wants it on the wire
 * (systemd.io/JOURNAL_NATIVE_PROTOCOL): NAME=value lines, and for a value with a newline in it the binary form
 * NAME, newline, size in 64 bits little endian, value, newline. So a value may hold anything and the record
 * stays valid; a name is a constant of ours. The buffer is kept from one record to the next.
 *
 * All adders take a record that ran out of memory, and do nothing then: `is_failed` is looked at once, at the
 * end.
 */
#pragma once

#include "base/util.h"
#include <stdarg.h>

struct record {
        char *data;
        size_t size;
        size_t capacity;
        size_t message_offset; /* where the text of MESSAGE is in `data` */
        size_t message_size;
        bool is_failed; /* out of memory: not to be sent */
};

/* Empties it, keeps the buffer; a zeroed struct is an empty record. */
void record_reset(struct record *record);
void record_deinit(struct record *record);

/* Not to be called but by the next, which know the length of a name when they are compiled. */
void record_add(struct record *record, const char *name, size_t name_size, const char *value);
void record_add_number(struct record *record, const char *name, size_t name_size, uint64_t value,
                       unsigned base);

/* A value that is NULL or "" is left out: a missing field and an empty one say the same. */
static inline void record_add_text(struct record *record, const char *name, const char *value)
{
        record_add(record, name, strlen(name), value);
}

static inline void record_add_u64(struct record *record, const char *name, uint64_t value)
{
        record_add_number(record, name, strlen(name), value, 10);
}

/* Lower case, no 0x. */
static inline void record_add_hex(struct record *record, const char *name, uint64_t value)
{
        record_add_number(record, name, strlen(name), value, 16);
}

/* ERRNO; 0 = there was none */
static inline void record_add_errno(struct record *record, int error)
{
        record_add_u64(record, "ERRNO", (uint64_t)abs(error));
}

/* Copies what `fields` holds. */
void record_add_all(struct record *record, const struct record *fields);

/*
 * MESSAGE, once a record: at one go, or part by part between begin and end, where no field may be added. What is
 * written of every connection goes without printf(3), which took half of the time of a record.
 */
_printf_(2, 3) void record_set_message(struct record *record, const char *format, ...);
_printf_(2, 0) void record_set_message_va(struct record *record, const char *format, va_list arguments);
void record_begin_message(struct record *record);
__attribute__((sentinel)) void record_say(struct record *record, ...); /* texts, and NULL */
void record_say_hex(struct record *record, uint64_t value);
_printf_(2, 3) void record_say_format(struct record *record, const char *format, ...);
void record_end_message(struct record *record);

/*
 * Adds `text` as one line for people: control characters (C0, DEL, C1) as \xNN, so that no peer plays with a
 * terminal or forges a line; `<priority>` first (sd-daemon(3)) unless priority is negative.
 */
void record_add_line(struct record *record, int priority, const char *text, size_t size);

/*
 * record: promises a valid native-protocol datagram whatever the values hold, and no allocation once the
 * buffer has grown to the size of the largest record so far. Relies on nothing but memory. Does not know what
 * a record means (events does), nor where it goes (journal does).
 */
#include "journal/record.h"
#include "base/digits.h"
#include <endian.h>
#include <stdio.h>

#define RECORD_MIN_CAPACITY 2048
#define BINARY_HEADER       9 /* newline and size, in place of '=' */
#define MESSAGE_NAME        "MESSAGE"
#define MESSAGE_HEADER      (strlen(MESSAGE_NAME) + BINARY_HEADER)

void record_reset(struct record *record)
{
        record->size = record->message_offset = record->message_size = 0;
        record->is_failed = false;
}

void record_deinit(struct record *record)
{
        free(record->data);
        *record = (struct record){ 0 };
}

static bool grow(struct record *record, size_t size)
{
        size_t least = MAX(record->size + size, (size_t)RECORD_MIN_CAPACITY);
        size_t capacity = MAX(2 * record->capacity, least);
        char *data = realloc(record->data, capacity);

        if (!data) {
                record->is_failed = true;
                return false;
        }
        record->data = data;
        record->capacity = capacity;
        return true;
}

/* Returns where `size` more bytes may be written, or NULL. */
static inline char *reserve(struct record *record, size_t size)
{
        if (record->is_failed || (size > record->capacity - record->size && !grow(record, size)))
                return NULL;
        return record->data + record->size;
}

static void advance(struct record *record, const char *end)
{
        record->size = (size_t)(end - record->data);
}

static char *put_binary_header(char *p, size_t value_size)
{
        uint64_t size = htole64(value_size);

        *p++ = '\n';
        return mempcpy(p, &size, sizeof(size));
}

void record_add(struct record *record, const char *name, size_t name_size, const char *value)
{
        size_t size = value ? strlen(value) : 0;
        char *p = size > 0 ? reserve(record, name_size + BINARY_HEADER + size + 1) : NULL;

        if (!p)
                return;
        p = mempcpy(p, name, name_size);
        if (memchr(value, '\n', size))
                p = put_binary_header(p, size);
        else
                *p++ = '=';
        p = mempcpy(p, value, size);
        *p++ = '\n';
        advance(record, p);
}

void record_add_number(struct record *record, const char *name, size_t name_size, uint64_t value,
                       unsigned base)
{
        char *p = reserve(record, name_size + 1 + DIGITS_MAX + 1);

        if (!p)
                return;
        p = mempcpy(p, name, name_size);
        *p++ = '=';
        p = base == 10 ? put_digits(p, value, 10) : put_digits(p, value, 16); /* two that are compiled */
        *p++ = '\n';
        advance(record, p);
}

void record_add_all(struct record *record, const struct record *fields)
{
        char *p;

        if (fields->size == 0)
                return;
        p = reserve(record, fields->size);
        if (!p)
                return;
        memcpy(p, fields->data, fields->size);
        record->size += fields->size;
}

/* The text is written behind the room that the longer, binary form needs, and moved up when it needs less. */
void record_begin_message(struct record *record)
{
        if (!reserve(record, MESSAGE_HEADER))
                return;
        record->size += MESSAGE_HEADER;
        record->message_offset = record->size;
}

void record_say(struct record *record, ...)
{
        const char *text;
        va_list texts;

        va_start(texts, record);
        while ((text = va_arg(texts, const char *))) {
                size_t size = strlen(text);
                char *p = reserve(record, size);

                if (p)
                        advance(record, mempcpy(p, text, size));
        }
        va_end(texts);
}

void record_say_hex(struct record *record, uint64_t value)
{
        char *p = reserve(record, DIGITS_MAX);

        if (p)
                advance(record, put_digits(p, value, 16));
}

_printf_(2, 0) static void say_va(struct record *record, const char *format, va_list arguments)
{
        size_t room = 256;

        for (;;) {
                char *p = reserve(record, room);
                va_list copy;
                int n;

                if (!p)
                        return;
                va_copy(copy, arguments);
                n = vsnprintf(p, room, format, copy);
                va_end(copy);
                if (n < 0)
                        record->is_failed = true;
                else if ((size_t)n < room)
                        record->size += (size_t)n;
                if (n < 0 || (size_t)n < room)
                        return;
                room = (size_t)n + 1;
        }
}

void record_say_format(struct record *record, const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        say_va(record, format, arguments);
        va_end(arguments);
}

void record_end_message(struct record *record)
{
        if (!reserve(record, 1))
                return;

        char *text = record->data + record->message_offset;
        size_t size = record->size - record->message_offset;
        char *p = mempcpy(text - MESSAGE_HEADER, MESSAGE_NAME, strlen(MESSAGE_NAME));

        if (memchr(text, '\n', size)) {
                p = put_binary_header(p, size);
        } else {
                *p++ = '=';
                memmove(p, text, size);
        }
        record->message_offset = (size_t)(p - record->data);
        record->message_size = size;
        p[size] = '\n';
        advance(record, p + size + 1);
}

void record_set_message_va(struct record *record, const char *format, va_list arguments)
{
        record_begin_message(record);
        say_va(record, format, arguments);
        record_end_message(record);
}

void record_set_message(struct record *record, const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        record_set_message_va(record, format, arguments);
        va_end(arguments);
}

/* How many bytes of `text` make up one control character; 0: it begins with something else. */
static size_t control_size(const unsigned char *text, size_t size)
{
        if (text[0] < 0x20 || text[0] == 0x7f)
                return 1;
        if (size > 1 && text[0] == 0xc2 && text[1] >= 0x80 && text[1] <= 0x9f) /* U+0080 to U+009F */
                return 2;
        return 0;
}

void record_add_line(struct record *record, int priority, const char *text, size_t size)
{
        const unsigned char *bytes = (const unsigned char *)text;
        char *p = reserve(record, 4 * size + sizeof("<7>\n"));

        if (!p)
                return;
        if (priority >= 0)
                p += sprintf(p, "<%d>", priority & 7);
        for (size_t i = 0; i < size;) {
                size_t n = control_size(bytes + i, size - i);

                if (n == 0)
                        *p++ = text[i++];
                for (; n > 0; n--)
                        p += sprintf(p, "\\x%02x", bytes[i++]);
        }
        *p++ = '\n';
        record->size = (size_t)(p - record->data);
}

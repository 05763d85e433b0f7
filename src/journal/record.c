/*
 * record: promises a valid native-protocol datagram whatever the values hold, and no allocation once the
 * buffer has grown to the size of the largest record so far. Relies on nothing but memory. Does not know what
 * a record means (events does), nor where it goes (journal does).
 */
#include "journal/record.h"
#include <endian.h>
#include <stdio.h>

#define RECORD_MIN_CAPACITY 2048
#define BINARY_HEADER       9  /* newline and size, in place of '=' */
#define NUMBER_TEXT_MAX     21 /* UINT64_MAX and its NUL */

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

/* Returns where `size` more bytes may be written, or NULL. */
static char *reserve(struct record *record, size_t size)
{
        if (record->is_failed)
                return NULL;
        if (size > record->capacity - record->size) {
                size_t least = MAX(record->size + size, (size_t)RECORD_MIN_CAPACITY);
                size_t capacity = MAX(2 * record->capacity, least);
                char *data = realloc(record->data, capacity);

                if (!data) {
                        record->is_failed = true;
                        return NULL;
                }
                record->data = data;
                record->capacity = capacity;
        }
        return record->data + record->size;
}

static char *put_binary_header(char *p, size_t value_size)
{
        uint64_t size = htole64(value_size);

        *p++ = '\n';
        return mempcpy(p, &size, sizeof(size));
}

static void add_field(struct record *record, const char *name, const char *value, size_t size)
{
        size_t name_size = strlen(name);
        char *p = reserve(record, name_size + BINARY_HEADER + size + 1);

        if (!p)
                return;
        p = mempcpy(p, name, name_size);
        if (memchr(value, '\n', size))
                p = put_binary_header(p, size);
        else
                *p++ = '=';
        p = mempcpy(p, value, size);
        *p++ = '\n';
        record->size = (size_t)(p - record->data);
}

void record_add_text(struct record *record, const char *name, const char *value)
{
        if (value && *value)
                add_field(record, name, value, strlen(value));
}

static void add_number(struct record *record, const char *name, uint64_t value, unsigned base)
{
        char text[NUMBER_TEXT_MAX];
        char *end = text + sizeof(text);
        char *p = end;

        do
                *--p = "0123456789abcdef"[value % base];
        while (value /= base);
        add_field(record, name, p, (size_t)(end - p));
}

void record_add_u64(struct record *record, const char *name, uint64_t value)
{
        add_number(record, name, value, 10);
}

void record_add_hex(struct record *record, const char *name, uint64_t value)
{
        add_number(record, name, value, 16);
}

void record_add_errno(struct record *record, int error)
{
        record_add_u64(record, "ERRNO", (uint64_t)abs(error));
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

/* The text is printed behind the room that the longer, binary form needs, and moved up when it needs less. */
void record_set_message_va(struct record *record, const char *format, va_list arguments)
{
        static const char name[] = "MESSAGE";
        const size_t name_size = sizeof(name) - 1;
        size_t room = 256;
        char *p;
        int n;

        for (;;) {
                va_list copy;

                p = reserve(record, name_size + BINARY_HEADER + room);
                if (!p)
                        return;
                va_copy(copy, arguments);
                n = vsnprintf(p + name_size + BINARY_HEADER, room, format, copy);
                va_end(copy);
                if (n < 0) {
                        record->is_failed = true;
                        return;
                }
                if ((size_t)n < room)
                        break;
                room = (size_t)n + 1;
        }

        char *text = p + name_size + BINARY_HEADER;
        size_t size = (size_t)n;

        p = mempcpy(p, name, name_size);
        if (memchr(text, '\n', size)) {
                p = put_binary_header(p, size);
        } else {
                *p++ = '=';
                memmove(p, text, size);
        }
        record->message_offset = (size_t)(p - record->data);
        record->message_size = size;
        p[size] = '\n';
        record->size = record->message_offset + size + 1;
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

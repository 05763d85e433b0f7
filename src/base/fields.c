/*
 * Promises that what is written comes back the same from fields_read(), whatever is in a value; relies on the
 * dot, which cannot be a line of a record because every line has a "=". Deliberately not here: what the fields
 * mean, and where records are kept.
 */
#include "base/fields.h"
#include "base/words.h"
#include <ctype.h>
#include <inttypes.h>

const char *fields_get(char *const *fields, const char *name)
{
        size_t length = strlen(name);

        for (; fields && *fields; fields++)
                if (strncmp(*fields, name, length) == 0 && (*fields)[length] == '=')
                        return *fields + length + 1;
        return NULL;
}

int fields_get_u64(char *const *fields, const char *name, uint64_t *ret)
{
        const char *text = fields_get(fields, name);
        char *end;

        if (!text)
                return -ENOENT;
        if (!isdigit((unsigned char)*text)) /* strtoull(3) takes blanks and signs */
                return -EINVAL;
        errno = 0;
        unsigned long long value = strtoull(text, &end, 10);
        if (errno != 0 || *end != '\0')
                return -EINVAL;
        *ret = value;
        return 0;
}

/* ---- writing ---- */

static bool is_plain(char c)
{
        return (unsigned char)c >= ' ' && c != '\\' && c != 0x7f;
}

void fields_write_text(FILE *file, const char *field)
{
        while (*field) {
                size_t n_plain = 0;

                /* As a rule all of it, at once: a record is written several times in each connection's life. */
                while (is_plain(field[n_plain]))
                        n_plain++;
                (void)fwrite(field, 1, n_plain, file);
                field += n_plain;
                if (*field)
                        (void)fprintf(file, "\\x%02x", (unsigned char)*field++);
        }
        (void)fputc('\n', file);
}

void fields_write(FILE *file, const char *name, const char *value)
{
        (void)fprintf(file, "%s=", name);
        fields_write_text(file, value);
}

void fields_write_u64(FILE *file, const char *name, uint64_t value)
{
        (void)fprintf(file, "%s=%" PRIu64 "\n", name, value);
}

void fields_write_end(FILE *file)
{
        (void)fputs(".\n", file);
}

/* ---- reading ---- */

/* Undoes fields_write_text(), in place. */
static int unescape(char *text)
{
        char *to = text;

        for (const char *from = text; *from; to++) {
                unsigned byte;

                if (*from != '\\') {
                        *to = *from++;
                        continue;
                }
                if (from[1] != 'x' || sscanf(from + 2, "%2x", &byte) != 1 || byte == 0 || !from[3])
                        return -EINVAL;
                *to = (char)byte;
                from += 4;
        }
        *to = '\0';
        return 0;
}

int fields_read(char **text, char ***ret_fields)
{
        _cleanup_strv_free_ char **fields = NULL;
        char *rest = *text, *end;

        for (; (end = strchr(rest, '\n')); rest = end + 1) {
                *end = '\0';
                if (streq(rest, ".")) {
                        *text = end + 1;
                        *ret_fields = TAKE_PTR(fields);
                        return *ret_fields ? 1 : -EINVAL;
                }
                if (!strchr(rest, '=') || unescape(rest) < 0)
                        return -EINVAL;
                if (strv_append(&fields, rest) < 0)
                        return -ENOMEM;
        }
        return 0;
}

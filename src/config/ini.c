/*
 * ini: promises that nothing in a file is lost without a word. It relies on inih (55 as Debian builds it) to
 * take lines apart, and on seeing each line before inih does, as the reader of ini_parse_stream(). Measured:
 *
 *   - a line has room for 200 bytes with its newline and NUL; the rest is thrown away, and only the number of
 *     the first such line comes back
 *   - sections are cut at 49 bytes, and so are keys, but only for the continuation lines below them
 *   - a blank followed by ';' cuts a value short (not in a continuation line of this version, but in those of
 *     later ones), and ';' as the first of a value does when a blank stands before it
 *   - '=' and ':' both end a key; text behind a header's ']' is ignored, ':' inside a header is plain text
 *   - an indented line below a key calls the handler again with the same key, also where it reads "a = b";
 *     below a header, where there is no key yet, indentation means nothing
 *   - a NUL byte ends the line; a line without '=' is skipped
 *   - the handler gets no line number
 *
 * So the reader refuses what would be cut or skipped, hands inih an empty line instead, and knows the line
 * that a call of the handler belongs to. It deliberately gives no meaning to any section or key.
 */
#include "config/ini.h"
#include "base/words.h"
#include <ini.h>
#include <stdarg.h>
#include <stdio.h>

#define NAME_MAX_LENGTH 49 /* of a section or key: inih's MAX_SECTION and MAX_NAME without the NUL */

struct reader {
        struct ini *ini;
        FILE *stream;
        unsigned file;
        unsigned line;
        int error;        /* errno of reading */
        bool is_indented; /* the current line */
        bool has_key;     /* inih has a key that an indented line goes on with */
        bool is_refused;  /* the last key was refused, and so are its continuation lines */
        bool is_lost;     /* the last header was refused: whose keys these are is not known */
};

/* ---- faults ---- */

_printf_(4, 0) static void add_fault(struct ini *ini, unsigned file, unsigned line, const char *format,
                                     va_list arguments)
{
        char *message;

        if (ini->error < 0)
                return;
        struct ini_fault *grown = reallocarray(ini->faults, ini->n_faults + 1, sizeof(*grown));
        if (grown)
                ini->faults = grown;
        if (!grown || vasprintf(&message, format, arguments) < 0) {
                ini->error = -ENOMEM;
                return;
        }
        ini->faults[ini->n_faults] = (struct ini_fault){
                .file = file, .line = line, .order = (unsigned)ini->n_faults, .message = message
        };
        ini->n_faults++;
}

void ini_fault(struct ini *ini, unsigned file, unsigned line, const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        add_fault(ini, file, line, format, arguments);
        va_end(arguments);
}

/* Gives the file its index. */
static unsigned add_file(struct ini *ini, const char *path)
{
        size_t index = strv_length(ini->files);

        if (strv_append(&ini->files, path) < 0)
                ini->error = -ENOMEM;
        return (unsigned)index;
}

void ini_fault_of_file(struct ini *ini, const char *path, const char *format, ...)
{
        unsigned file = add_file(ini, path);
        va_list arguments;

        va_start(arguments, format);
        add_fault(ini, file, 0, format, arguments);
        va_end(arguments);
}

static int compare_faults(const void *a, const void *b)
{
        const struct ini_fault *x = a, *y = b;

        if (x->file != y->file)
                return x->file < y->file ? -1 : 1;
        if (x->line != y->line)
                return x->line < y->line ? -1 : 1;
        return x->order < y->order ? -1 : 1;
}

int ini_faults(struct ini *ini, char ***ret_faults)
{
        _cleanup_strv_free_ char **faults = NULL;
        int r = ini->error;

        if (ini->n_faults > 0)
                qsort(ini->faults, ini->n_faults, sizeof(*ini->faults), compare_faults);
        for (size_t i = 0; r == 0 && i < ini->n_faults; i++) {
                const struct ini_fault *fault = &ini->faults[i];
                const char *path = ini->files[fault->file];
                r = fault->line == 0 ? strv_appendf(&faults, "%s: %s", path, fault->message)
                                     : strv_appendf(&faults, "%s:%u: %s", path, fault->line, fault->message);
        }
        if (r < 0)
                return r;
        *ret_faults = TAKE_PTR(faults);
        return 0;
}

/* ---- entries ---- */

/* Takes `section`, `key` and `value`, which may be NULL when memory ran out for them. */
static void add_entry(struct reader *reader, char *section, char *key, char *value, bool is_complete)
{
        struct ini *ini = reader->ini;
        struct ini_entry *grown =
                is_complete ? reallocarray(ini->entries, ini->n_entries + 1, sizeof(*grown)) : NULL;

        if (!grown) {
                ini->error = -ENOMEM;
                free(section);
                free(key);
                free(value);
                return;
        }
        ini->entries = grown;
        ini->entries[ini->n_entries++] = (struct ini_entry){
                .file = reader->file, .line = reader->line, .section = section, .key = key, .value = value
        };
}

static void add_header(struct reader *reader, const char *name, size_t length)
{
        char *section = strndup(name, length);

        add_entry(reader, section, NULL, NULL, section != NULL);
}

/* Joins a continuation line to the value above it. */
static void go_on(struct ini *ini, const char *more)
{
        struct ini_entry *entry = &ini->entries[ini->n_entries - 1];
        char *joined;

        if (asprintf(&joined, "%s%s%s", entry->value, entry->value[0] != '\0' ? " " : "", more) < 0) {
                ini->error = -ENOMEM;
                return;
        }
        free(entry->value);
        entry->value = joined;
}

/* inih's handler; at most once a line, after the reader gave the line away. */
static int take_value(void *userdata, const char *section, const char *key, const char *value)
{
        struct reader *reader = userdata;

        if (reader->ini->error < 0)
                return 1;
        if (reader->is_indented && reader->has_key) {
                go_on(reader->ini, value);
                return 1;
        }
        char *entry_section = strdup(section), *entry_key = strdup(key), *entry_value = strdup(value);
        add_entry(reader, entry_section, entry_key, entry_value, entry_section && entry_key && entry_value);
        reader->has_key = true;
        return 1;
}

/* ---- lines ---- */

_printf_(2, 3) static bool refuse(struct reader *reader, const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        add_fault(reader->ini, reader->file, reader->line, format, arguments);
        va_end(arguments);
        return false;
}

static bool is_blank(char c)
{
        return c == ' ' || c == '\t';
}

static const char *skip_blanks(const char *p)
{
        return p + strspn(p, " \t");
}

/* `value` is where a value begins, so that a ';' there counts as well. */
static bool check_comment(struct reader *reader, const char *line, const char *value)
{
        for (const char *p = strchr(line, ';'); p; p = strchr(p + 1, ';'))
                if (p == value || (p > line && is_blank(p[-1])))
                        return refuse(
                                reader,
                                "a ';' after a blank or at the start of a value begins a comment, which "
                                "cuts the value: comments stand on lines of their own");
        return true;
}

/* Cuts off what stands behind it: that is a fault, but whose keys follow is known. */
static bool check_header(struct reader *reader, char *start)
{
        char *end = strchr(start, ']');

        reader->is_lost = true;
        reader->is_refused = false;
        if (!end)
                return refuse(reader, "the ']' of the section is missing");
        if (end - start - 1 > NAME_MAX_LENGTH)
                return refuse(reader, "the name of the section is longer than %d bytes", NAME_MAX_LENGTH);
        if (*skip_blanks(end + 1) != '\0')
                (void)refuse(reader, "nothing may follow the ']' of a section");
        end[1] = '\0';
        if (!check_comment(reader, start, NULL))
                return false;
        add_header(reader, start + 1, (size_t)(end - start - 1));
        reader->has_key = false;
        reader->is_lost = false;
        return true;
}

static bool check_key(struct reader *reader, const char *start)
{
        const char *end = start + strcspn(start, "=:");
        size_t length = (size_t)(end - start);

        if (reader->is_lost)
                return false;
        while (length > 0 && is_blank(start[length - 1]))
                length--;
        reader->is_refused = true;
        if (*end == '\0')
                return refuse(reader, "this is neither a comment, nor a [section], nor key = value");
        if (length == 0)
                return refuse(reader, "the key before the '%c' is missing", *end);
        if (length > NAME_MAX_LENGTH)
                return refuse(reader, "the key is longer than %d bytes", NAME_MAX_LENGTH);
        if (!check_comment(reader, start, skip_blanks(end + 1)))
                return false;
        reader->is_refused = false;
        return true;
}

/* Whether inih may see the line, which has neither newline nor carriage return any more. */
static bool check_line(struct reader *reader, char *line)
{
        char *start = line + strspn(line, " \t");

        if (*start == '\0' || *start == ';' || *start == '#')
                return false;
        reader->is_indented = start > line;
        if (reader->is_indented && (reader->is_refused || reader->is_lost))
                return false;
        if (reader->is_indented && reader->has_key)
                return check_comment(reader, start, NULL);
        return *start == '[' ? check_header(reader, start) : check_key(reader, start);
}

/* A line that cannot even be looked at takes the lines that depend on it with it. */
static void lose_line(struct reader *reader, const char *line)
{
        if (line[0] == '[')
                reader->is_lost = true;
        else if (!is_blank(line[0]) && line[0] != ';' && line[0] != '#')
                reader->is_refused = true;
}

/*
 * Reads one line of at most `size` - 1 bytes into `line`, without its end, and a byte order mark away from the
 * first. Returns its whole length, which may be larger, or -1 at the end of the file. `ret_control` is a
 * control character that was in it, or -1.
 */
static ssize_t read_line(struct reader *reader, char *line, size_t size, int *ret_control)
{
        size_t length = 0;
        int c, control = -1;

        while ((c = getc_unlocked(reader->stream)) != EOF && c != '\n') {
                if ((c < ' ' && c != '\t' && c != '\r') || c == 0x7f)
                        control = c;
                if (length < size - 1)
                        line[length] = (char)c;
                length++;
        }
        if (c == EOF && ferror(reader->stream))
                reader->error = errno;
        if (c == EOF && length == 0)
                return -1;
        line[MIN(length, size - 1)] = '\0';
        if (length > 0 && length < size && line[length - 1] == '\r')
                line[--length] = '\0';
        if (memchr(line, '\r', MIN(length, size - 1)))
                control = '\r';
        if (reader->line == 0 && startswith(line, "\xef\xbb\xbf")) {
                length -= 3;
                memmove(line, line + 3, MIN(length, size - 4) + 1);
        }
        *ret_control = control;
        return (ssize_t)length;
}

/* inih's reader, as fgets(3): what was refused becomes an empty line. */
static char *give_line(char *line, int size, void *userdata)
{
        struct reader *reader = userdata;
        size_t room = (size_t)size - 1; /* for the newline */
        int control;

        ssize_t length = reader->ini->error < 0 ? -1 : read_line(reader, line, room, &control);
        if (length < 0)
                return NULL;
        reader->line++;
        bool is_readable = false;
        if (control >= 0)
                (void)refuse(reader, "a control character (0x%02x) in the line", (unsigned)control);
        else if ((size_t)length >= room)
                (void)refuse(reader, "the line is longer than %zu bytes; an indented line goes on with it",
                             room - 1);
        else
                is_readable = true;
        if (!is_readable)
                lose_line(reader, line);
        (void)strcpy(is_readable && check_line(reader, line) ? line + strlen(line) : line, "\n");
        return line;
}

void ini_read(struct ini *ini, const char *path)
{
        FILE *stream = fopen(path, "re");

        if (!stream) {
                ini_fault_of_file(ini, path, "cannot be read: %s", strerror(errno));
                return;
        }
        struct reader reader = { .ini = ini, .stream = stream, .file = add_file(ini, path) };
        int r = ini_parse_stream(give_line, &reader, take_value, &reader);
        if (reader.error != 0)
                ini_fault(ini, reader.file, 0, "cannot be read: %s", strerror(reader.error));
        else if (r != 0 && ini->error == 0)
                ini_fault(ini, reader.file, r > 0 ? (unsigned)r : 0, "the line cannot be understood");
        (void)fclose(stream);
}

void ini_deinit(struct ini *ini)
{
        for (size_t i = 0; i < ini->n_entries; i++) {
                free(ini->entries[i].section);
                free(ini->entries[i].key);
                free(ini->entries[i].value);
        }
        for (size_t i = 0; i < ini->n_faults; i++)
                free(ini->faults[i].message);
        free(ini->entries);
        free(ini->faults);
        ini->files = strv_free(ini->files);
        *ini = (struct ini){ 0 };
}

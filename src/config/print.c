/*
 * print: promises INI that ini.c reads back to the same values, with every key, and that printing those again
 * gives the same text. It deliberately does not keep comments, or the order of keys in the file.
 */
#include "config/section.h"
#include <ctype.h>

/* The longest line that inih takes, and what stands before a line that goes on. */
#define WIDTH  198
#define INDENT " "

/*
 * Where the value may be cut so that the part has at most `room` bytes and reads back the same: at a single
 * blank, and not where the next line would begin as a comment (a ';' never stands behind a blank). The whole
 * length if it fits; 0 if there is no such place.
 */
static size_t find_cut(const char *value, size_t room)
{
        size_t cut = 0;

        if (strlen(value) <= room)
                return strlen(value);
        for (size_t i = 1; i <= room; i++)
                if (value[i] == ' ' && !isspace((unsigned char)value[i - 1]) &&
                    !isspace((unsigned char)value[i + 1]) && value[i + 1] != '#')
                        cut = i;
        return cut;
}

static void print_value(FILE *file, const char *key, const char *value)
{
        const char *separator = " = ";
        size_t cut = find_cut(value, WIDTH - strlen(key) - strlen(separator));

        /* The next line would be a comment; without the blanks there is as much room as in the file it comes from. */
        if (cut == 0 && *value == '#') {
                separator = "=";
                cut = find_cut(value, WIDTH - strlen(key) - strlen(separator));
        }
        (void)fprintf(file, "%s%s%.*s", key, cut > 0 ? separator : " =", (int)cut, value);
        if (cut > 0)
                value += cut + (value[cut] != '\0'); /* the blank that joins the lines */
        while (*value != '\0') {
                cut = find_cut(value, WIDTH - strlen(INDENT));
                if (cut == 0) /* too long for inih, so from no file: a directory from the environment */
                        cut = strlen(value);
                (void)fprintf(file, "\n" INDENT "%.*s", (int)cut, value);
                value += cut + (value[cut] != '\0');
        }
        (void)fputc('\n', file);
}

int config_print(const struct config *config, FILE *file)
{
        const struct config_origins *origins = config->origins;
        char buffer[SPAN_TEXT_MAX];

        for (size_t i = 0; i < origins->n_sections; i++) {
                const struct section *section = origins->sections[i];
                (void)fprintf(file, "%s[%s]\n", i > 0 ? "\n" : "", section->text);
                for (size_t k = 0; k < n_keys; k++)
                        if (keys[k].section == section->kind && key_belongs(&keys[k], section->kinds))
                                print_value(file, keys[k].name, value_text(&keys[k], section, buffer));
        }
        return fflush(file) == 0 && !ferror(file) ? 0 : -EIO;
}

const char *config_where(const struct config *config, const char *section_text, const char *key_name,
                         char buffer[static CONFIG_WHERE_MAX])
{
        const struct config_origins *origins = config->origins;
        const struct section *section = section_find(config, section_text);
        const struct key *key = section ? key_find(section->kind, key_name, section->kinds) : NULL;
        char text[SPAN_TEXT_MAX];

        if (!key) {
                (void)snprintf(buffer, CONFIG_WHERE_MAX, "%s: [%s] %s", origins->ini.files[0], section_text,
                               key_name);
                return buffer;
        }
        const struct ini_entry *entry = section_given(section, key_name);
        if (entry)
                (void)snprintf(buffer, CONFIG_WHERE_MAX, "%s:%u: %s = %s", origins->ini.files[entry->file],
                               entry->line, key->name, entry->value);
        else
                (void)snprintf(buffer, CONFIG_WHERE_MAX, "%s: [%s] %s = %s (the default)",
                               origins->ini.files[0], section_text, key->name,
                               value_text(key, section, text));
        return buffer;
}

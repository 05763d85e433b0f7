/*
 * unitname: promises to escape as systemd's unit_name_escape() does, byte for byte, for else a unit would be another
 * than systemctl(1) shows it to be; and to refuse what unit_name_is_valid() there refuses.
 */
#include "base/unitname.h"

#define DIGITS "0123456789"
#define LETTERS                      \
        "abcdefghijklmnopqrstuvwxyz" \
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define PLAIN DIGITS LETTERS ":_."
#define VALID PLAIN "-\\@"

static char *write_escaped(char *to, unsigned char c)
{
        static const char digits[] = "0123456789abcdef";

        *to++ = '\\';
        *to++ = 'x';
        *to++ = digits[c >> 4];
        *to++ = digits[c & 0xf];
        return to;
}

char *unit_name_escape(const char *text)
{
        char *escaped = malloc(4 * strlen(text) + 1), *to = escaped;

        if (!escaped)
                return NULL;
        for (const char *p = text; *p; p++)
                if (*p == '/')
                        *to++ = '-';
                else if (!strchr(PLAIN, *p) || (p == text && *p == '.')) /* no hidden files */
                        to = write_escaped(to, (unsigned char)*p);
                else
                        *to++ = *p;
        *to = '\0';
        return escaped;
}

static bool is_among(const char *suffix, const char *const *suffixes, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (streq(suffix, suffixes[i]))
                        return true;
        return false;
}

const char *unit_name_fault(const char *name)
{
        static const char *const startable[] = { ".service", ".socket", ".target", ".mount", ".automount",
                                                 ".swap",    ".timer",  ".path",   ".slice" };
        static const char *const others[] = { ".device", ".scope" };
        const char *suffix = strrchr(name, '.'), *at = strchr(name, '@');

        if (strlen(name) > UNIT_NAME_MAX)
                return "it is longer than 255 characters";
        if (suffix && is_among(suffix, others, ARRAY_SIZE(others)))
                return "units of that type cannot be started";
        if (!suffix || !is_among(suffix, startable, ARRAY_SIZE(startable)))
                return "it does not end in .service, .socket, .target or the like";
        if (name[strspn(name, VALID)] != '\0')
                return "it has a character that no unit's name may have";
        if (suffix == name || at == name)
                return "there is no name before the '@' or the suffix";
        if (at && at + 1 == suffix)
                return "it has no instance between the '@' and the suffix";
        return NULL;
}

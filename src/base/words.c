/*
 * words: promises that words_join() and words_split() are each other's inverse, and that nothing a specifier
 * brings in is split, quoted or expanded again. It relies on the heap alone. It deliberately is no shell: no
 * variables, no globbing, no operators.
 */
#include "base/words.h"
#include <stdarg.h>
#include <stdio.h>
#include <sys/stat.h>

#define BLANKS " \t\r\n"

/* ---- arrays of strings ---- */

char **strv_free(char **strv)
{
        for (size_t i = 0; strv && strv[i]; i++)
                free(strv[i]);
        free(strv);
        return NULL;
}

size_t strv_length(char *const *strv)
{
        size_t n = 0;

        while (strv && strv[n])
                n++;
        return n;
}

bool strv_contains(char *const *strv, const char *text)
{
        for (size_t i = 0; strv && strv[i]; i++)
                if (streq(strv[i], text))
                        return true;
        return false;
}

int strv_append_take(char ***strv, char *text)
{
        size_t n = strv_length(*strv);
        char **grown = text ? realloc(*strv, (n + 2) * sizeof(*grown)) : NULL;

        if (!grown) {
                free(text);
                return -ENOMEM;
        }
        grown[n] = text;
        grown[n + 1] = NULL;
        *strv = grown;
        return 0;
}

int strv_append(char ***strv, const char *text)
{
        return strv_append_take(strv, strdup(text));
}

int strv_appendf(char ***strv, const char *format, ...)
{
        char *text;
        va_list arguments;

        va_start(arguments, format);
        int r = vasprintf(&text, format, arguments);
        va_end(arguments);
        return r < 0 ? -ENOMEM : strv_append_take(strv, text);
}

/* ---- splitting ---- */

static char escaped(char c)
{
        switch (c) {
        case '"':
        case '\\':
                return c;
        case 'n':
                return '\n';
        case 't':
                return '\t';
        default:
                return '\0';
        }
}

/* Copies the quoted part that begins at *p (the quote itself) to *to; both move on. NULL, or what is wrong. */
static const char *copy_quoted(const char **p, char **to)
{
        char quote = *(*p)++;

        for (; **p != quote; (*p)++) {
                if (**p == '\0')
                        return quote == '"' ? "the double quote is not closed"
                                            : "the single quote is not closed";
                char c = **p;
                if (quote == '"' && c == '\\') {
                        c = escaped(*++*p);
                        if (c == '\0')
                                return "in double quotes a \\ stands only before \", \\, n or t";
                }
                *(*to)++ = c;
        }
        (*p)++;
        return NULL;
}

static int split(const char *text, const char *separators, char ***ret_strv, const char **ret_reason)
{
        _cleanup_free_ char *word = malloc(strlen(text) + 1); /* quotes only make a word shorter */
        _cleanup_strv_free_ char **strv = calloc(1, sizeof(*strv));
        size_t n = 0, n_room = 0;

        if (!word || !strv)
                return -ENOMEM;
        for (const char *p = text + strspn(text, separators); *p != '\0'; p += strspn(p, separators)) {
                char *to = word;

                while (*p != '\0' && !strchr(separators, *p)) {
                        if (*p != '"' && *p != '\'') {
                                *to++ = *p++;
                                continue;
                        }
                        const char *reason = copy_quoted(&p, &to);
                        if (reason) {
                                *ret_reason = reason;
                                return -EINVAL;
                        }
                }
                *to = '\0';
                if (n == n_room) {
                        n_room = MAX(2 * n_room, (size_t)8);
                        char **grown = reallocarray(strv, n_room + 1, sizeof(*grown));
                        if (!grown)
                                return -ENOMEM;
                        strv = grown;
                }
                strv[n] = strdup(word);
                if (!strv[n])
                        return -ENOMEM;
                strv[++n] = NULL;
        }
        *ret_strv = TAKE_PTR(strv);
        return 0;
}

int words_split(const char *text, char ***ret_strv, const char **ret_reason)
{
        return split(text, BLANKS, ret_strv, ret_reason);
}

int list_split(const char *text, char ***ret_strv, const char **ret_reason)
{
        return split(text, BLANKS ",", ret_strv, ret_reason);
}

/* Writes the word as words_split() reads it; returns the end. `to` has room for twice the word and 3 more. */
static char *quote(const char *word, char *to)
{
        if (*word != '\0' && word[strcspn(word, BLANKS "\"'")] == '\0')
                return stpcpy(to, word);
        *to++ = '"';
        for (; *word != '\0'; word++) {
                if (*word == '"' || *word == '\\' || *word == '\n' || *word == '\t')
                        *to++ = '\\';
                *to++ = *word == '\n' ? 'n' : *word == '\t' ? 't' : *word;
        }
        *to++ = '"';
        *to = '\0';
        return to;
}

char *words_join(char *const *strv)
{
        size_t size = 1;

        for (size_t i = 0; strv && strv[i]; i++)
                size += 2 * strlen(strv[i]) + 3;
        char *joined = malloc(size);
        if (!joined)
                return NULL;
        char *to = joined;
        *to = '\0';
        for (size_t i = 0; strv && strv[i]; i++) {
                if (i > 0)
                        *to++ = ' ';
                to = quote(strv[i], to);
        }
        return joined;
}

/* ---- specifiers ---- */

struct text {
        char *s;
        size_t length;
};

static int text_append(struct text *text, const char *s, size_t length)
{
        char *grown = realloc(text->s, text->length + length + 1);

        if (!grown)
                return -ENOMEM;
        memcpy(grown + text->length, s, length);
        text->s = grown;
        text->length += length;
        text->s[text->length] = '\0';
        return 0;
}

/* Sets *ret_reason; returns what the caller passes on. */
_printf_(2, 3) static int refuse(char **ret_reason, const char *format, ...)
{
        char *reason;
        va_list arguments;

        va_start(arguments, format);
        int r = vasprintf(&reason, format, arguments);
        va_end(arguments);
        if (r < 0)
                return -ENOMEM;
        *ret_reason = reason;
        return -EINVAL;
}

/* Without a name there, the path would be that of the folder, which is others' as well. */
static bool begins_component(const struct text *path)
{
        return path->length == 0 || path->s[path->length - 1] == '/';
}

/*
 * Appends what the specifier at `p`, behind the '%', stands for. `end` is behind it, so that the text from the
 * '%' to there names it in a fault.
 */
static int append_specifier(struct text *text, const char *p, const char *end, unsigned flags,
                            specifier_fn resolve, void *userdata, char **ret_reason)
{
        _cleanup_free_ char *name = NULL;
        int shown = (int)(end - p);

        if (*p == '{') {
                name = strndup(p + 1, (size_t)(end - p) - 2);
                if (!name)
                        return -ENOMEM;
        }
        const char *value = resolve(userdata, *p, name);
        if (!value)
                return refuse(ret_reason, "%%%.*s is not known here", shown, p);
        if (flags & SPECIFIER_WORD && text->length == 0 && *value == '\0')
                return refuse(ret_reason, "%%%.*s is empty", shown, p);
        if (flags & SPECIFIER_WORD && text->length == 0 && *value == '-')
                return refuse(ret_reason, "%%%.*s begins with '-'", shown, p);
        if (flags & SPECIFIER_PATH && begins_component(text) && *value == '\0')
                return refuse(ret_reason, "%%%.*s is empty", shown, p);
        if (flags & SPECIFIER_PATH && (strchr(value, '/') || strstr(value, "..")))
                return refuse(ret_reason, "%%%.*s has a '/' or \"..\" in it", shown, p);
        return text_append(text, value, strlen(value));
}

/* Specifiers may come together to what none of them is alone: "%h%h" with "." */
static bool has_dot_component(const char *path)
{
        for (const char *p = path; *p != '\0'; p += strspn(p, "/")) {
                size_t length = strcspn(p, "/");
                if ((length == 1 && *p == '.') || (length == 2 && strncmp(p, "..", 2) == 0))
                        return true;
                p += length;
        }
        return false;
}

int specifier_expand(const char *text, unsigned flags, specifier_fn resolve, void *userdata, char **ret,
                     char **ret_reason)
{
        struct text expanded = { 0 };
        int r = text_append(&expanded, "", 0);

        for (const char *p = text; r == 0 && *p != '\0';) {
                size_t literal = strcspn(p, "%");

                r = text_append(&expanded, p, literal);
                p += literal;
                if (r < 0 || *p == '\0')
                        break;
                p++; /* the '%' */
                if (*p == '\0') {
                        r = refuse(ret_reason, "a single %% at the end; %%%% stands for it");
                } else if (*p == '%') {
                        r = text_append(&expanded, p++, 1);
                } else {
                        const char *end = *p == '{' ? strchr(p, '}') : p;
                        if (!end) {
                                r = refuse(ret_reason, "%%{ is not closed");
                                break;
                        }
                        r = append_specifier(&expanded, p, end + 1, flags, resolve, userdata, ret_reason);
                        p = end + 1;
                }
        }
        if (r == 0 && flags & SPECIFIER_PATH && has_dot_component(expanded.s))
                r = refuse(ret_reason, "the path has a component . or ..");
        if (r < 0) {
                free(expanded.s);
                return r;
        }
        *ret = expanded.s;
        return 0;
}

/* ---- programs ---- */

static int check_program(const char *path)
{
        struct stat st;

        if (stat(path, &st) < 0)
                return errno == EACCES ? -EACCES : -ENOENT;
        return S_ISREG(st.st_mode) && access(path, X_OK) == 0 ? 0 : -EACCES;
}

int program_find(const char *name, char **ret_path)
{
        int result = -ENOENT;

        if (name[0] == '\0' || (name[0] != '/' && strchr(name, '/')))
                return -EINVAL;
        /* For an absolute path the one folder is "". */
        for (const char *folder = name[0] == '/' ? "" : PROGRAM_PATH;; folder++) {
                int length = (int)strcspn(folder, ":");
                char *path;

                if (asprintf(&path, "%.*s%s%s", length, folder, length > 0 ? "/" : "", name) < 0)
                        return -ENOMEM;
                int r = check_program(path);
                if (r == 0) {
                        *ret_path = path;
                        return 0;
                }
                free(path);
                if (r == -EACCES)
                        result = r;
                folder += length;
                if (*folder == '\0')
                        return result;
        }
}

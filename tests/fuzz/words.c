/*
 * Fuzzes base/words. The input is a byte of flags and up to three texts with a NUL between them: a command, and
 * the values of two specifiers. What is split and joined is split the same again; what is expanded is what a
 * plain reader makes of it, and no value breaks out of its word or path.
 */
#include "base/words.h"
#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct values {
        const char *letter; /* of %i, %l, %a, %p, %h and %c */
        const char *name;   /* of %{…} */
};

static const char *resolve(void *userdata, char letter, const char *name)
{
        const struct values *values = userdata;

        assert((letter == '{') == (name != NULL));
        if (letter == '{')
                return name[0] ? values->name : NULL;
        return strchr("ilaphc", letter) ? values->letter : NULL;
}

static void check_split(const char *text)
{
        _cleanup_strv_free_ char **words = NULL, **again = NULL, **list = NULL;
        const char *reason = NULL;
        int r = words_split(text, &words, &reason);

        assert(r == 0 || (r == -EINVAL && reason && !words));
        if (r == 0) {
                _cleanup_free_ char *joined = words_join(words);

                assert(joined && words_split(joined, &again, &reason) == 0);
                assert(strv_length(words) == strv_length(again));
                for (size_t i = 0; words[i]; i++)
                        assert(streq(words[i], again[i]));
        }
        /* Commas between items change nothing about what is wrong in them. */
        assert(list_split(text, &list, &reason) == r);
}

/* The text with its specifiers replaced and nothing refused but what has no meaning; NULL for that. */
static char *expand_plainly(const char *text, struct values *values)
{
        size_t size = 0;
        char *expanded = NULL;
        FILE *stream = open_memstream(&expanded, &size);
        bool is_good = stream;

        for (; is_good && *text; text++) {
                const char *end = text[1] == '{' ? strchr(text, '}') : text + 1;
                const char *value = "%";

                if (*text != '%') {
                        (void)fputc(*text, stream);
                        continue;
                }
                if (!end || *end == '\0') {
                        is_good = false;
                } else if (text[1] != '%') {
                        _cleanup_free_ char *name = strndup(text + 2, (size_t)(end - text - 1));

                        if (text[1] == '{')
                                name[end - text - 2] = '\0';
                        value = resolve(values, text[1], text[1] == '{' ? name : NULL);
                        is_good = value;
                }
                if (is_good) {
                        (void)fputs(value, stream);
                        text = end;
                }
        }
        (void)fclose(stream);
        if (is_good)
                return expanded;
        free(expanded);
        return NULL;
}

static void check_path(const char *path)
{
        while (path) {
                path += *path == '/';
                assert(strcspn(path, "/") != 1 || path[0] != '.');
                assert(strcspn(path, "/") != 2 || !startswith(path, ".."));
                path = strchr(path, '/');
        }
}

static size_t n_slashes(const char *text)
{
        size_t n = 0;

        for (; *text; text++)
                n += *text == '/';
        return n;
}

static void check_expansion(const char *text, unsigned flags, struct values *values)
{
        _cleanup_free_ char *expanded = NULL, *plain = expand_plainly(text, values), *reason = NULL;
        int r = specifier_expand(text, flags, resolve, values, &expanded, &reason);

        assert(r == 0 ? expanded && !reason : r == -EINVAL && reason && !expanded);
        if (flags == 0)
                assert((r == 0) == (plain != NULL));
        if (r < 0)
                return;
        assert(streq(expanded, plain));
        if (flags & SPECIFIER_WORD && text[0] == '%' && text[1] != '%')
                assert(expanded[0] != '\0' && expanded[0] != '-');
        if (flags & SPECIFIER_PATH) {
                check_path(expanded);
                assert(n_slashes(expanded) <= n_slashes(text));
        }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_free_ char *text = malloc(size + 3);
        struct values values;

        if (size < 1)
                return 0;
        memcpy(text, data, size);
        memset(text + size, 0, 3);
        const char *command = text + 1;
        values.letter = command + strlen(command) + 1;
        if (values.letter > text + size)
                values.letter = "";
        values.name = *values.letter ? values.letter + strlen(values.letter) + 1 : "";
        check_split(command);
        check_expansion(command, data[0] & (SPECIFIER_WORD | SPECIFIER_PATH), &values);
        return 0;
}

/*
 * Fuzzes resource/request. The input is what a helper says, cut into lines as lines.h cuts them: each is an answer
 * exactly when a plain reader takes it for one, with the same number and text, and what was said as a value goes into
 * a request and comes back from there.
 */
#include "resource/request.h"
#include <ctype.h>
#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int hex(char c)
{
        static const char digits[] = "0123456789abcdef";
        const char *found = c ? strchr(digits, tolower((unsigned char)c)) : NULL;

        return found ? (int)(found - digits) : -1;
}

/* The number in `text`, up to its end or a blank; false: it is none, or too large. */
static bool read_number(const char *text, uint64_t *ret)
{
        uint64_t number = 0;

        if (*text == '\0' || *text == ' ')
                return false;
        for (; *text && *text != ' '; text++) {
                unsigned digit = (unsigned)(*text - '0');

                if (digit > 9 || number > (UINT64_MAX - digit) / 10)
                        return false;
                number = number * 10 + digit;
        }
        *ret = number;
        return true;
}

/* The text with its escapes decoded, byte for byte; NULL: one of them has no meaning. */
static char *decode(const char *text, bool is_reason)
{
        char *decoded = calloc(1, strlen(text) + 1);
        size_t n = 0;

        assert(decoded);
        for (; *text; text++) {
                int high = *text == '%' ? hex(text[1]) : -1, low = high >= 0 ? hex(text[2]) : -1;
                int byte = low >= 0 ? 16 * high + low : -1;

                if (*text == '%' && byte > 0 && !(is_reason && (byte < ' ' || byte == 0x7f))) {
                        decoded[n++] = (char)byte;
                        text += 2;
                } else if (*text == '%' && !is_reason) {
                        free(decoded);
                        return NULL;
                } else {
                        decoded[n++] = *text;
                }
        }
        return decoded;
}

/* As the manual says it. */
static bool read_plainly(const char *line, struct answer *ret, char **ret_text)
{
        bool is_ok = startswith(line, "OK ");
        const char *number = line + (is_ok ? 3 : 5), *text;

        if ((!is_ok && !startswith(line, "FAIL ")) || !read_number(number, &ret->number))
                return false;
        text = strchr(number, ' ');
        *ret_text = decode(text ? text + 1 : "", !is_ok);
        ret->is_ok = is_ok;
        return *ret_text;
}

static void check_there_and_back(const char *value)
{
        _cleanup_free_ char *variable = NULL, *words = NULL, *line = NULL;
        struct answer answer;

        assert(asprintf(&variable, "TETHERD_VALUE=%s", value) > 0);
        assert(request_words((char *const[]){ variable, NULL }, &words) == 0);
        assert(request_words_are_valid(words) && startswith(words, " value=") && !strchr(words, '\n'));
        assert(asprintf(&line, "OK 1 %s", words + strlen(" value=")) > 0);
        assert(answer_read(line, &answer) && streq(answer.text, value));
}

static void check_line(char *line)
{
        _cleanup_free_ char *plain_text = NULL;
        struct answer plain = { 0 }, answer = { 0 };
        bool is_plainly = read_plainly(line, &plain, &plain_text);

        check_there_and_back(line);
        (void)request_words_are_valid(line);
        assert(answer_read(line, &answer) == is_plainly);
        if (is_plainly)
                assert(answer.number == plain.number && answer.is_ok == plain.is_ok &&
                       streq(answer.text, plain_text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        while (size > 0) {
                const uint8_t *end = memchr(data, '\n', size);
                size_t length = end ? (size_t)(end - data) : size;
                /* A copy of just its length, so that a sanitizer sees a read beyond it. */
                _cleanup_free_ char *line = strndup((const char *)data, length);

                assert(line);
                check_line(line);
                data += MIN(length + 1, size);
                size -= MIN(length + 1, size);
        }
        return 0;
}

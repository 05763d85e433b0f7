/*
 * The least that a helper can do: every request is answered OK, in the order in which they came. What it relies on: a
 * read(2) of a pipe takes all that was written meanwhile, so that at speed many requests share two system calls.
 */
#include "base/util.h"
#include <err.h>
#include <stdio.h>

#define REQUEST_MAX ((size_t)64 * 1024)

static char input[2 * REQUEST_MAX];
static char output[2 * REQUEST_MAX];

/* The answer to the line, to `to`. Returns its length. */
static size_t answer(const char *line, char *to)
{
        const char *number = strchr(line, ' ');

        if (!number)
                errx(EXIT_FAILURE, "this is no request: %s", line);
        return (size_t)sprintf(to, "OK%.*s\n", (int)(1 + strcspn(number + 1, " ")), number);
}

static void write_all(const char *bytes, size_t n_bytes)
{
        while (n_bytes > 0) {
                ssize_t n = write(STDOUT_FILENO, bytes, n_bytes);

                if (n < 0)
                        err(EXIT_FAILURE, "write");
                bytes += n;
                n_bytes -= (size_t)n;
        }
}

int main(void)
{
        size_t n_input = 0;
        ssize_t n;

        while ((n = read(STDIN_FILENO, input + n_input, sizeof(input) - n_input)) > 0) {
                char *line = input, *end;
                size_t n_output = 0;

                n_input += (size_t)n;
                while ((end = memchr(line, '\n', (size_t)(input + n_input - line)))) {
                        *end = '\0';
                        n_output += answer(line, output + n_output);
                        line = end + 1;
                }
                n_input -= (size_t)(line - input);
                memmove(input, line, n_input);
                write_all(output, n_output);
        }
        return n < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

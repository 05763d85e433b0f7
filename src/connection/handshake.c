/*
 * The hello line is checked byte by byte as it comes, so a bad one is refused at its first bad byte and a
 * flood is never stored.
 */
#include "connection/handshake.h"

struct handshake {
        size_t n_max;
        size_t n_bytes;
        char *line; /* n_max bytes, CR, NUL */
};

int handshake_new(struct handshake **ret_handshake, size_t hello_max)
{
        _cleanup_(handshake_freep) struct handshake *h = calloc(1, sizeof(*h));

        if (!h)
                return -ENOMEM;
        h->n_max = hello_max;
        h->line = malloc(hello_max + 2);
        if (!h->line)
                return -ENOMEM;
        *ret_handshake = TAKE_PTR(h);
        return 0;
}

struct handshake *handshake_free(struct handshake *h)
{
        if (!h)
                return NULL;
        free(h->line);
        free(h);
        return NULL;
}

size_t handshake_room(const struct handshake *h)
{
        return h->n_max + 2 - h->n_bytes; /* what is missing, CR and LF */
}

char *handshake_take_identity(struct handshake *h)
{
        return TAKE_PTR(h->line);
}

static bool is_identity_byte(const struct handshake *h, char byte)
{
        if ((byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
            byte == '_')
                return true;
        if (h->n_bytes == 0)
                return false;
        if (byte == '.')
                return h->line[h->n_bytes - 1] != '.'; /* no "..": an identity may become part of a path */
        return byte == ':' || byte == '@' || byte == '-';
}

enum handshake_result handshake_feed(struct handshake *h, const void *bytes, size_t n, size_t *ret_n_used)
{
        const char *text = bytes;

        for (size_t i = 0; i < n; i++) {
                bool after_cr = h->n_bytes > 0 && h->line[h->n_bytes - 1] == '\r';

                *ret_n_used = i + 1;
                if (text[i] == '\n') {
                        size_t length = h->n_bytes - (after_cr ? 1 : 0);

                        h->line[length] = '\0';
                        return length > 0 ? HANDSHAKE_DONE : HANDSHAKE_BAD;
                }
                if (after_cr)
                        return HANDSHAKE_BAD;
                if (text[i] == '\r' ? h->n_bytes == 0
                                    : h->n_bytes >= h->n_max || !is_identity_byte(h, text[i]))
                        return HANDSHAKE_BAD;
                h->line[h->n_bytes++] = text[i];
        }
        *ret_n_used = n;
        return HANDSHAKE_MORE;
}

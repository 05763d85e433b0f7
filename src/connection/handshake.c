/*
 * handshake promises that a bad byte is refused when it comes, so a flood is never stored. The hello line is
 * checked byte by byte here, the PROXY header in proxy.c.
 */
#include "connection/handshake.h"
#include "connection/proxy.h"

struct handshake {
        bool awaits_proxy;
        struct proxy proxy;
        size_t n_max;
        size_t n_bytes;
        char *line; /* n_max bytes, CR, NUL; NULL: no hello line */
        const char *fault;
};

int handshake_new(struct handshake **ret_handshake, bool is_proxied, bool has_hello, size_t hello_max)
{
        _cleanup_(handshake_freep) struct handshake *h = calloc(1, sizeof(*h));

        assert(is_proxied || has_hello);
        if (!h)
                return -ENOMEM;
        h->awaits_proxy = is_proxied;
        proxy_init(&h->proxy);
        if (has_hello) {
                h->n_max = hello_max;
                h->line = malloc(hello_max + 2);
                if (!h->line)
                        return -ENOMEM;
        }
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
        size_t n_hello = h->line ? h->n_max + 2 - h->n_bytes : 0; /* what is missing, CR and LF */

        return n_hello + (h->awaits_proxy ? proxy_room(&h->proxy) : 0);
}

char *handshake_take_identity(struct handshake *h)
{
        return TAKE_PTR(h->line);
}

bool handshake_proxied(const struct handshake *h, struct address *ret_source, struct address *ret_destination)
{
        if (h->proxy.source.family == AF_UNSPEC)
                return false;
        *ret_source = h->proxy.source;
        *ret_destination = h->proxy.destination;
        return true;
}

bool handshake_is_local(const struct handshake *h)
{
        return h->proxy.is_local;
}

const char *handshake_fault(const struct handshake *h)
{
        return h->fault;
}

/* ---- the hello line ---- */

/* Returns what is wrong with the byte, or NULL. */
static const char *check_identity_byte(const struct handshake *h, char byte)
{
        if ((byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || (byte >= '0' && byte <= '9') ||
            byte == '_')
                return NULL;
        if (h->n_bytes == 0)
                return "the hello line does not begin with a letter, a digit or _";
        if (byte == '.' && h->line[h->n_bytes - 1] == '.')
                return "the hello line has \"..\" in it"; /* an identity may become part of a path */
        if (byte == '.' || byte == ':' || byte == '@' || byte == '-')
                return NULL;
        return "the hello line has a character that no identity has";
}

static const char *hello_take(struct handshake *h, char byte)
{
        bool after_cr = h->n_bytes > 0 && h->line[h->n_bytes - 1] == '\r';
        const char *fault = NULL;

        if (h->n_bytes == 0 && (byte == '\r' || byte == '\n'))
                return "the hello line is empty";
        if (byte == '\n') {
                h->line[h->n_bytes - (after_cr ? 1 : 0)] = '\0';
                return NULL;
        }
        if (after_cr)
                return "the hello line has a CR that does not end it";
        if (byte != '\r')
                fault = h->n_bytes >= h->n_max ? "the hello line is too long" : check_identity_byte(h, byte);
        if (!fault)
                h->line[h->n_bytes++] = byte;
        return fault;
}

static enum handshake_result hello_feed(struct handshake *h, const char *text, size_t n, size_t *ret_n_used)
{
        for (size_t i = 0; i < n; i++) {
                *ret_n_used = i + 1;
                h->fault = hello_take(h, text[i]);
                if (h->fault)
                        return HANDSHAKE_BAD;
                if (text[i] == '\n')
                        return HANDSHAKE_DONE;
        }
        *ret_n_used = n;
        return HANDSHAKE_MORE;
}

/* ---- both ---- */

static enum handshake_result header_feed(struct handshake *h, const void *bytes, size_t n, size_t *ret_n_used)
{
        enum proxy_result result = proxy_feed(&h->proxy, bytes, n, ret_n_used);

        if (result == PROXY_MORE)
                return HANDSHAKE_MORE;
        if (result == PROXY_BAD) {
                h->fault = h->proxy.fault;
                return HANDSHAKE_BAD;
        }
        h->awaits_proxy = false;
        if (h->proxy.is_local) {
                free(h->line); /* a health check says no hello */
                h->line = NULL;
        }
        return h->line ? HANDSHAKE_MORE : HANDSHAKE_DONE;
}

enum handshake_result handshake_feed(struct handshake *h, const void *bytes, size_t n, size_t *ret_n_used)
{
        size_t n_header = 0, n_hello;
        enum handshake_result result;

        if (h->awaits_proxy) {
                result = header_feed(h, bytes, n, &n_header);
                *ret_n_used = n_header;
                if (result != HANDSHAKE_MORE || h->awaits_proxy)
                        return result;
        }
        result = hello_feed(h, (const char *)bytes + n_header, n - n_header, &n_hello);
        *ret_n_used = n_header + n_hello;
        return result;
}

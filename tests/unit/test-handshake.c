/*
 * What connection/handshake promises: PROXY header and hello line are judged the same in whatever slices they
 * come, no byte after them is touched, and what is bad is known at its first bad byte.
 */
#include "slices.h"
#include "unit.h"

#include "connection/handshake.h"

#define HELLO_MAX 8

static const char hello_is_empty[] = "the hello line is empty";
static const char hello_is_long[] = "the hello line is too long";
static const char hello_has_cr[] = "the hello line has a CR that does not end it";
static const char hello_begins_bad[] = "the hello line does not begin with a letter, a digit or _";
static const char hello_has_dots[] = "the hello line has \"..\" in it";
static const char hello_has_bad[] = "the hello line has a character that no identity has";

static const struct {
        const char *bytes; /* hello_max is HELLO_MAX */
        enum handshake_result result;
        size_t n_used; /* of them */
        const char *identity;
        const char *fault;
} hellos[] = {
        { "a\n", HANDSHAKE_DONE, 2, "a", NULL },
        { "a\r\n", HANDSHAKE_DONE, 3, "a", NULL },
        { "_\n", HANDSHAKE_DONE, 2, "_", NULL },
        { "9lives\nrest", HANDSHAKE_DONE, 7, "9lives", NULL },
        { "Z.:@-_0\r\n\r\n", HANDSHAKE_DONE, 9, "Z.:@-_0", NULL },
        { "a.b.c.\n", HANDSHAKE_DONE, 7, "a.b.c.", NULL },
        { "12345678\n", HANDSHAKE_DONE, 9, "12345678", NULL },    /* hello_max */
        { "12345678\r\n", HANDSHAKE_DONE, 10, "12345678", NULL }, /* CR and LF do not count */
        { "12345678\n9", HANDSHAKE_DONE, 9, "12345678", NULL },
        { "\n", HANDSHAKE_BAD, 1, NULL, hello_is_empty },
        { "\r\n", HANDSHAKE_BAD, 1, NULL, hello_is_empty },
        { "a\rb\n", HANDSHAKE_BAD, 3, NULL, hello_has_cr },
        { "a\r\r\n", HANDSHAKE_BAD, 3, NULL, hello_has_cr },
        { "12345678\r9\n", HANDSHAKE_BAD, 10, NULL, hello_has_cr },
        { "123456789\n", HANDSHAKE_BAD, 9, NULL, hello_is_long }, /* one too many */
        { "1234567890abcdefgh", HANDSHAKE_BAD, 9, NULL, hello_is_long },
        { ".a\n", HANDSHAKE_BAD, 1, NULL, hello_begins_bad },
        { "-a\n", HANDSHAKE_BAD, 1, NULL, hello_begins_bad },
        { ":a\n", HANDSHAKE_BAD, 1, NULL, hello_begins_bad },
        { "@a\n", HANDSHAKE_BAD, 1, NULL, hello_begins_bad },
        { "a..b\n", HANDSHAKE_BAD, 3, NULL, hello_has_dots },
        { "a b\n", HANDSHAKE_BAD, 2, NULL, hello_has_bad },
        { " a\n", HANDSHAKE_BAD, 1, NULL, hello_begins_bad },
        { "a/b\n", HANDSHAKE_BAD, 2, NULL, hello_has_bad },
        { "a\\n", HANDSHAKE_BAD, 2, NULL, hello_has_bad },
        { "a%i\n", HANDSHAKE_BAD, 2, NULL, hello_has_bad },
        { "a\tb\n", HANDSHAKE_BAD, 2, NULL, hello_has_bad },
        { "a\x7f\n", HANDSHAKE_BAD, 2, NULL, hello_has_bad },
        { "a\x80\n", HANDSHAKE_BAD, 2, NULL, hello_has_bad },
        { "\xc3\xa4\n", HANDSHAKE_BAD, 1, NULL, hello_begins_bad },
        { "GET / HTTP/1.1\r\n", HANDSHAKE_BAD, 4, NULL, hello_has_bad },
        { "", HANDSHAKE_MORE, 0, NULL, NULL },
        { "a", HANDSHAKE_MORE, 1, NULL, NULL },
        { "a\r", HANDSHAKE_MORE, 2, NULL, NULL },
        { "12345678", HANDSHAKE_MORE, 8, NULL, NULL },
        { "12345678\r", HANDSHAKE_MORE, 9, NULL, NULL },
};

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"

/* What stands before the hello line; test-proxy.c has all the others. */
static const struct {
        const char *bytes;
        size_t n_bytes;
        const char *source; /* NULL: none given */
        const char *destination;
} headers[] = {
        { BYTES(""), NULL, NULL }, /* not proxied */
        { BYTES("PROXY TCP4 192.0.2.7 198.51.100.1 51514 7400\r\n"), "192.0.2.7:51514", "198.51.100.1:7400" },
        { BYTES("PROXY UNKNOWN\r\n"), NULL, NULL },
        { BYTES(SIGNATURE "\x21\x11\0\14\300\0\2\7\306\63\144\1\311\72\34\350"), "192.0.2.7:51514",
          "198.51.100.1:7400" },
        { BYTES(SIGNATURE "\x21\0\0\4\4\0\1a"), NULL, NULL },
};

static struct handshake *begin(bool is_proxied, bool has_hello)
{
        struct handshake *h;

        ck_assert_int_eq(handshake_new(&h, is_proxied, has_hello, HELLO_MAX), 0);
        return h;
}

/* Feeds until there is a verdict or nothing left; *ret_n_used of all `n` were the handshake's. */
static enum handshake_result feed(struct handshake *h, const char *bytes, size_t n, unsigned slicing,
                                  size_t *ret_n_used)
{
        enum handshake_result result = HANDSHAKE_MORE;
        size_t n_fed = 0;

        while (result == HANDSHAKE_MORE && n_fed < n) {
                size_t n_slice = slice_size(slicing, n - n_fed), n_used = SIZE_MAX;
                _cleanup_free_ char *slice = slice_copy(bytes + n_fed, n_slice);

                ck_assert_uint_ge(handshake_room(h), 1);
                result = handshake_feed(h, slice, n_slice, &n_used);
                ck_assert_uint_le(n_used, n_slice);
                if (result == HANDSHAKE_MORE)
                        ck_assert_uint_eq(n_used, n_slice);
                n_fed += n_used;
        }
        *ret_n_used = n_fed;
        return result;
}

static void check_addresses(const struct handshake *h, size_t header)
{
        struct address source, destination;
        char text[ADDRESS_TEXT_MAX];

        ck_assert(!handshake_is_local(h));
        ck_assert_int_eq(handshake_proxied(h, &source, &destination), headers[header].source != NULL);
        if (!headers[header].source)
                return;
        ck_assert_str_eq(address_text(&source, text), headers[header].source);
        ck_assert_str_eq(address_text(&destination, text), headers[header].destination);
}

/* Every hello line after every header: the verdict is the line's. */
static void play(size_t header, size_t hello, unsigned slicing)
{
        size_t n_header = headers[header].n_bytes, n_hello = strlen(hellos[hello].bytes), n_used;
        _cleanup_(handshake_freep) struct handshake *h = begin(n_header > 0, true);
        enum handshake_result result;
        char bytes[128];

        memcpy(bytes, headers[header].bytes, n_header);
        memcpy(bytes + n_header, hellos[hello].bytes, n_hello);
        result = feed(h, bytes, n_header + n_hello, slicing, &n_used);
        ck_assert_msg(result == hellos[hello].result, "header %zu hello %zu: %d", header, hello, result);
        ck_assert_msg(n_used == n_header + hellos[hello].n_used, "header %zu hello %zu: %zu bytes", header,
                      hello, n_used);
        if (result == HANDSHAKE_BAD)
                ck_assert_str_eq(handshake_fault(h), hellos[hello].fault);
        if (result == HANDSHAKE_DONE) {
                _cleanup_free_ char *identity = handshake_take_identity(h);

                ck_assert_str_eq(identity, hellos[hello].identity);
                check_addresses(h, header);
        }
}

START_TEST(test_handshake_both)
{
        random_seed();
        for (size_t header = 0; header < ARRAY_SIZE(headers); header++)
                for (size_t hello = 0; hello < ARRAY_SIZE(hellos); hello++)
                        for (unsigned slicing = 0; slicing < N_SLICINGS; slicing++)
                                play(header, hello, slicing);
}
END_TEST

/* Where no hello is wanted the header is all; what looks like a hello is the handler's. */
START_TEST(test_handshake_header_alone)
{
        random_seed();
        for (size_t header = 1; header < ARRAY_SIZE(headers); header++)
                for (unsigned slicing = 0; slicing < N_SLICINGS; slicing++) {
                        _cleanup_(handshake_freep) struct handshake *h = begin(true, false);
                        size_t n_header = headers[header].n_bytes, n_used;
                        char bytes[128];

                        memcpy(bytes, headers[header].bytes, n_header);
                        memcpy(bytes + n_header, "abc\n", 4);
                        ck_assert_int_eq(feed(h, bytes, n_header + 4, slicing, &n_used), HANDSHAKE_DONE);
                        ck_assert_uint_eq(n_used, n_header);
                        ck_assert_ptr_null(handshake_take_identity(h));
                        check_addresses(h, header);
                }
}
END_TEST

/* LOCAL ends it, whether a hello is wanted or not. */
START_TEST(test_handshake_local)
{
        random_seed();
        for (unsigned slicing = 0; slicing < N_SLICINGS; slicing++) {
                _cleanup_(handshake_freep) struct handshake *h = begin(true, slicing % 2);
                struct address source, destination;
                size_t n_used;

                ck_assert_int_eq(feed(h, BYTES(SIGNATURE "\x20\0\0\3abcname\n"), slicing, &n_used),
                                 HANDSHAKE_DONE);
                ck_assert_uint_eq(n_used, 19);
                ck_assert(handshake_is_local(h));
                ck_assert(!handshake_proxied(h, &source, &destination));
                ck_assert_ptr_null(handshake_take_identity(h));
        }
}
END_TEST

static const struct {
        bool is_proxied;
        const char *bytes;
        size_t n_bytes;
        size_t n_used;
        const char *fault;
} mistaken[] = {
        { true, BYTES("name\n"), 1, "there is no PROXY header" },
        { true, BYTES("PROXY\n"), 6, "there is no PROXY header" },
        { true, BYTES("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\nname\n"), 31,
          "the PROXY line does not end with CR LF" },
        { true, BYTES("PROXY UNKNOWN\r\nPROXY UNKNOWN\r\n"), 21, hello_has_bad }, /* only one */
        { true, BYTES(SIGNATURE "\x21\0\0\0" SIGNATURE), 17, hello_is_empty },
        { false, BYTES("PROXY UNKNOWN\r\nname\n"), 6, hello_has_bad },
        { false, BYTES(SIGNATURE "\x20\0\0\0"), 1, hello_is_empty },
};

/* A header is only taken where it is configured, and then it must be there. */
START_TEST(test_handshake_never_guessed)
{
        random_seed();
        for (size_t row = 0; row < ARRAY_SIZE(mistaken); row++)
                for (unsigned slicing = 0; slicing < N_SLICINGS; slicing++) {
                        _cleanup_(handshake_freep) struct handshake *h =
                                begin(mistaken[row].is_proxied, true);
                        size_t n_used;

                        ck_assert_int_eq(
                                feed(h, mistaken[row].bytes, mistaken[row].n_bytes, slicing, &n_used),
                                HANDSHAKE_BAD);
                        ck_assert_uint_eq(n_used, mistaken[row].n_used);
                        ck_assert_str_eq(handshake_fault(h), mistaken[row].fault);
                }
}
END_TEST

START_TEST(test_handshake_cut_short)
{
        static const char bytes[] = SIGNATURE "\x21\x11\0\14\300\0\2\7\306\63\144\1\311\72\34\350name\r\n";

        for (size_t n = 0; n < sizeof(bytes) - 1; n++) {
                _cleanup_(handshake_freep) struct handshake *h = begin(true, true);
                size_t n_used;

                ck_assert_int_eq(feed(h, bytes, n, 2, &n_used), HANDSHAKE_MORE);
                ck_assert_uint_eq(n_used, n);
        }
}
END_TEST

/* What is worth looking at shrinks with what came, and the usual handshake is seen whole at the first look. */
START_TEST(test_handshake_room)
{
        static const char line[] = "12345678\r\n";
        struct handshake *h = begin(false, true);
        size_t n_used;

        ck_assert_uint_eq(handshake_room(h), HELLO_MAX + 2);
        ck_assert_int_eq(handshake_feed(h, line, 0, &n_used), HANDSHAKE_MORE);
        ck_assert_uint_eq(n_used, 0);
        ck_assert_int_eq(handshake_feed(h, line, 9, &n_used), HANDSHAKE_MORE);
        ck_assert_uint_eq(handshake_room(h), 1);
        ck_assert_int_eq(handshake_feed(h, line + 9, 1, &n_used), HANDSHAKE_DONE);
        ck_assert_ptr_null(handshake_free(h)); /* with the identity, which nobody took */
        ck_assert_ptr_null(handshake_free(NULL));

        h = begin(true, true);
        ck_assert_uint_eq(handshake_room(h), 107 + HELLO_MAX + 2);
        ck_assert_int_eq(handshake_feed(h, BYTES("PROXY UNKNOWN\r\n"), &n_used), HANDSHAKE_MORE);
        ck_assert_uint_eq(handshake_room(h), HELLO_MAX + 2);
        ck_assert_ptr_null(handshake_free(h));

        h = begin(true, false);
        ck_assert_int_eq(handshake_feed(h, BYTES(SIGNATURE "\x21\x11\x10\0"), &n_used), HANDSHAKE_MORE);
        ck_assert_uint_eq(handshake_room(h), 4096);
        ck_assert_ptr_null(handshake_free(h));
}
END_TEST

/* Every single byte, at the beginning and later. */
START_TEST(test_handshake_every_byte)
{
        static const char first[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
        static const char later[] = ".:@-\r\n";

        for (int byte = 0; byte < 256; byte++)
                for (int is_later = 0; is_later < 2; is_later++) {
                        _cleanup_(handshake_freep) struct handshake *h = begin(false, true);
                        char bytes[2] = { 'x', (char)byte };
                        bool is_good = byte && (strchr(first, byte) || (is_later && strchr(later, byte)));
                        size_t n_used;

                        if (!is_later)
                                bytes[0] = (char)byte;
                        ck_assert_msg((handshake_feed(h, bytes, 1 + (size_t)is_later, &n_used) !=
                                       HANDSHAKE_BAD) == is_good,
                                      "byte %#x", (unsigned)byte);
                }
}
END_TEST

START_TEST(test_handshake_limits)
{
        for (size_t hello_max = 1; hello_max <= 300; hello_max++)
                for (size_t length = hello_max - 1; length <= hello_max + 1; length++)
                        for (int has_cr = 0; has_cr < 2; has_cr++) {
                                _cleanup_(handshake_freep) struct handshake *h = NULL;
                                char line[512];
                                size_t n_used;
                                bool is_good = length > 0 && length <= hello_max;

                                memset(line, 'a', length);
                                memcpy(line + length, has_cr ? "\r\n" : "\n", 2);
                                ck_assert_int_eq(handshake_new(&h, false, true, hello_max), 0);
                                ck_assert_int_eq(
                                        handshake_feed(h, line, length + 1 + (size_t)has_cr, &n_used),
                                        is_good ? HANDSHAKE_DONE : HANDSHAKE_BAD);
                        }
}
END_TEST

UNIT_MAIN("handshake", test_handshake_both, test_handshake_header_alone, test_handshake_local,
          test_handshake_never_guessed, test_handshake_cut_short, test_handshake_room,
          test_handshake_every_byte, test_handshake_limits)

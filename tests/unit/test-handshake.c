/*
 * What connection/handshake promises: a line is judged the same in whatever slices it comes, no byte after it
 * is touched, and a bad one is known at its first bad byte.
 */
#include "random.h"
#include "unit.h"

#include "connection/handshake.h"

#define HELLO_MAX 8

static const struct {
        const char *bytes; /* hello_max is HELLO_MAX */
        enum handshake_result result;
        size_t n_used; /* of them */
        const char *identity;
} rows[] = {
        { "a\n", HANDSHAKE_DONE, 2, "a" },
        { "a\r\n", HANDSHAKE_DONE, 3, "a" },
        { "_\n", HANDSHAKE_DONE, 2, "_" },
        { "9lives\nrest", HANDSHAKE_DONE, 7, "9lives" },
        { "Z.:@-_0\r\n\r\n", HANDSHAKE_DONE, 9, "Z.:@-_0" },
        { "a.b.c.\n", HANDSHAKE_DONE, 7, "a.b.c." },
        { "12345678\n", HANDSHAKE_DONE, 9, "12345678" },    /* hello_max */
        { "12345678\r\n", HANDSHAKE_DONE, 10, "12345678" }, /* CR and LF do not count */
        { "12345678\n9", HANDSHAKE_DONE, 9, "12345678" },
        { "\n", HANDSHAKE_BAD, 1, NULL },
        { "\r\n", HANDSHAKE_BAD, 1, NULL },
        { "a\rb\n", HANDSHAKE_BAD, 3, NULL },
        { "a\r\r\n", HANDSHAKE_BAD, 3, NULL },
        { "12345678\r9\n", HANDSHAKE_BAD, 10, NULL },
        { "123456789\n", HANDSHAKE_BAD, 9, NULL }, /* one too many */
        { "1234567890abcdefgh", HANDSHAKE_BAD, 9, NULL },
        { ".a\n", HANDSHAKE_BAD, 1, NULL },
        { "-a\n", HANDSHAKE_BAD, 1, NULL },
        { ":a\n", HANDSHAKE_BAD, 1, NULL },
        { "@a\n", HANDSHAKE_BAD, 1, NULL },
        { "a..b\n", HANDSHAKE_BAD, 3, NULL },
        { "a b\n", HANDSHAKE_BAD, 2, NULL },
        { " a\n", HANDSHAKE_BAD, 1, NULL },
        { "a/b\n", HANDSHAKE_BAD, 2, NULL },
        { "a\\n", HANDSHAKE_BAD, 2, NULL },
        { "a%i\n", HANDSHAKE_BAD, 2, NULL },
        { "a\tb\n", HANDSHAKE_BAD, 2, NULL },
        { "a\x7f\n", HANDSHAKE_BAD, 2, NULL },
        { "a\x80\n", HANDSHAKE_BAD, 2, NULL },
        { "\xc3\xa4\n", HANDSHAKE_BAD, 1, NULL },
        { "GET / HTTP/1.1\r\n", HANDSHAKE_BAD, 4, NULL },
        { "", HANDSHAKE_MORE, 0, NULL },
        { "a", HANDSHAKE_MORE, 1, NULL },
        { "a\r", HANDSHAKE_MORE, 2, NULL },
        { "12345678", HANDSHAKE_MORE, 8, NULL },
        { "12345678\r", HANDSHAKE_MORE, 9, NULL },
};

/* Feeds slices of sizes that `next_size` gives, each copied to memory of exactly its size. */
static void feed(size_t row, size_t (*next_size)(size_t n_left))
{
        size_t n_bytes = strlen(rows[row].bytes), n_fed = 0, n_used = 0;
        _cleanup_(handshake_freep) struct handshake *handshake = NULL;
        enum handshake_result result = HANDSHAKE_MORE;

        ck_assert_int_eq(handshake_new(&handshake, HELLO_MAX), 0);
        while (result == HANDSHAKE_MORE && n_fed < n_bytes) {
                size_t n = MIN(next_size(n_bytes - n_fed), n_bytes - n_fed), room = handshake_room(handshake);
                _cleanup_free_ char *slice = malloc(n);

                ck_assert_uint_ge(room, 1);
                ck_assert_uint_le(room, HELLO_MAX + 2);
                memcpy(slice, rows[row].bytes + n_fed, n);
                result = handshake_feed(handshake, slice, n, &n_used);
                ck_assert_uint_le(n_used, n);
                if (result == HANDSHAKE_MORE)
                        ck_assert_uint_eq(n_used, n);
                n_fed += n_used;
        }
        ck_assert_msg(result == rows[row].result, "row %zu: %d", row, result);
        ck_assert_msg(n_fed == rows[row].n_used, "row %zu: %zu bytes", row, n_fed);
        if (result == HANDSHAKE_DONE) {
                _cleanup_free_ char *identity = handshake_take_identity(handshake);

                ck_assert_str_eq(identity, rows[row].identity);
        }
}

static size_t size_one(size_t n_left _unused_)
{
        return 1;
}

static size_t size_two(size_t n_left _unused_)
{
        return 2;
}

static size_t size_all(size_t n_left)
{
        return n_left;
}

static size_t size_random(size_t n_left)
{
        return 1 + random_below(n_left);
}

START_TEST(test_handshake_lines)
{
        random_seed();
        for (size_t row = 0; row < ARRAY_SIZE(rows); row++) {
                feed(row, size_one);
                feed(row, size_two);
                feed(row, size_all);
                for (unsigned i = 0; i < 50; i++)
                        feed(row, size_random);
        }
}
END_TEST

/* Reading what handshake_room() says never takes a byte of what follows from the socket in vain. */
START_TEST(test_handshake_room_is_enough)
{
        static const char line[] = "12345678\r\n";
        struct handshake *handshake;
        size_t n_used;

        ck_assert_int_eq(handshake_new(&handshake, HELLO_MAX), 0);
        ck_assert_uint_eq(handshake_room(handshake), HELLO_MAX + 2);
        ck_assert_int_eq(handshake_feed(handshake, line, 0, &n_used), HANDSHAKE_MORE);
        ck_assert_uint_eq(n_used, 0);
        ck_assert_int_eq(handshake_feed(handshake, line, 9, &n_used), HANDSHAKE_MORE);
        ck_assert_uint_eq(handshake_room(handshake), 1);
        ck_assert_int_eq(handshake_feed(handshake, line + 9, 1, &n_used), HANDSHAKE_DONE);
        ck_assert_ptr_null(handshake_free(handshake)); /* with the identity, which nobody took */
        ck_assert_ptr_null(handshake_free(NULL));
}
END_TEST

/* Every single byte, at the beginning and later. */
START_TEST(test_handshake_every_byte)
{
        static const char first[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_";
        static const char later[] = ".:@-\r\n";

        for (int byte = 0; byte < 256; byte++)
                for (int is_later = 0; is_later < 2; is_later++) {
                        _cleanup_(handshake_freep) struct handshake *handshake = NULL;
                        char bytes[2] = { 'x', (char)byte };
                        bool is_good = byte && (strchr(first, byte) || (is_later && strchr(later, byte)));
                        size_t n_used;

                        ck_assert_int_eq(handshake_new(&handshake, HELLO_MAX), 0);
                        if (!is_later)
                                bytes[0] = (char)byte;
                        ck_assert_msg((handshake_feed(handshake, bytes, 1 + (size_t)is_later, &n_used) !=
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
                                _cleanup_(handshake_freep) struct handshake *handshake = NULL;
                                char line[512];
                                size_t n_used;
                                bool is_good = length > 0 && length <= hello_max;

                                memset(line, 'a', length);
                                memcpy(line + length, has_cr ? "\r\n" : "\n", 2);
                                ck_assert_int_eq(handshake_new(&handshake, hello_max), 0);
                                ck_assert_int_eq(
                                        handshake_feed(handshake, line, length + 1 + (size_t)has_cr, &n_used),
                                        is_good ? HANDSHAKE_DONE : HANDSHAKE_BAD);
                        }
}
END_TEST

UNIT_MAIN("handshake", test_handshake_lines, test_handshake_room_is_enough, test_handshake_every_byte,
          test_handshake_limits)

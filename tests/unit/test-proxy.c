/*
 * What connection/proxy promises: a header is judged the same in whatever slices it comes, no byte after it is
 * touched, a good one that is cut short is waited for, and a checksum that is there guards all of it.
 */
#include "slices.h"
#include "unit.h"

#include "connection/proxy.h"

#define SIGNATURE "\r\n\r\n\0\r\nQUIT\n"

/* 192.0.2.7:51514 to 198.51.100.1:7400; 2001:db8::7 to 2001:db8::1, same ports */
#define V4_BLOCK "\300\0\2\7\306\63\144\1\311\72\34\350"
#define V6_BLOCK                               \
        "\40\1\15\270\0\0\0\0\0\0\0\0\0\0\0\7" \
        "\40\1\15\270\0\0\0\0\0\0\0\0\0\0\0\1\311\72\34\350"
#define MAPPED(ip)   "\0\0\0\0\0\0\0\0\0\0\377\377" ip
#define V4_ADDRESSES "192.0.2.7:51514 198.51.100.1:7400"
#define V6_ADDRESSES "[2001:db8::7]:51514 [2001:db8::1]:7400"

#define TEN(b)    b b b b b b b b b b
#define UNIX_PATH TEN("/../../etc") "/../etc\0"
#define UNIX      UNIX_PATH UNIX_PATH

#define FULL_V6 "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"

/* The checksums in it were computed by another program. */
static const struct {
        const char *bytes;
        size_t n_bytes;
        const char *addresses; /* both as text; "" = none given; or LOCAL */
} good[] = {
        { BYTES("PROXY TCP4 192.0.2.7 198.51.100.1 51514 7400\r\n"), V4_ADDRESSES },
        { BYTES("PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n"), "0.0.0.0:0 255.255.255.255:65535" },
        { BYTES("PROXY TCP6 2001:db8::7 2001:db8::1 51514 7400\r\n"), V6_ADDRESSES },
        { BYTES("PROXY TCP6 2001:0DB8:0:0:0:0:0:7 2001:DB8::1 51514 7400\r\n"), V6_ADDRESSES },
        { BYTES("PROXY TCP6 " FULL_V6 " " FULL_V6 " 65535 65535\r\n"),
          "[" FULL_V6 "]:65535 [" FULL_V6 "]:65535" },
        { BYTES("PROXY TCP6 :: ::1 1 2\r\n"), "[::]:1 [::1]:2" },
        { BYTES("PROXY TCP6 ::ffff:c000:207 ::ffff:198.51.100.1 51514 7400\r\n"), V4_ADDRESSES },
        { BYTES("PROXY UNKNOWN\r\n"), "" },
        { BYTES("PROXY UNKNOWN \r\n"), "" },
        { BYTES("PROXY UNKNOWN 192.0.2.7 198.51.100.1 51514 7400\r\n"), "" },
        { BYTES("PROXY UNKNOWN what ever  it 999999 may be, to the end ~!\r\n"), "" },
        { BYTES("PROXY UNKNOWN " FULL_V6 " " FULL_V6 " 65535 65535\r\n"), "" }, /* PROXY_LINE_MAX */

        { BYTES(SIGNATURE "\x21\x11\0\14" V4_BLOCK), V4_ADDRESSES },
        { BYTES(SIGNATURE "\x21\x12\0\14" V4_BLOCK), V4_ADDRESSES },
        { BYTES(SIGNATURE "\x21\x21\0\44" V6_BLOCK), V6_ADDRESSES },
        { BYTES(SIGNATURE "\x21\x22\0\44" V6_BLOCK), V6_ADDRESSES },
        { BYTES(SIGNATURE "\x21\x21\0\44" MAPPED("\300\0\2\7") MAPPED("\306\63\144\1") "\311\72\34\350"),
          V4_ADDRESSES },
        { BYTES(SIGNATURE "\x21\x31\0\330" UNIX), "unix unix" },
        { BYTES(SIGNATURE "\x21\x32\0\330" UNIX), "unix unix" },
        { BYTES(SIGNATURE "\x21\x31\0\334" UNIX "\4\0\1!"), "unix unix" },
        { BYTES(SIGNATURE "\x21\0\0\0"), "" },
        { BYTES(SIGNATURE "\x21\0\0\3\4\0\0"), "" },
        { BYTES(SIGNATURE "\x21\x11\0\17" V4_BLOCK "\4\0\0"), V4_ADDRESSES },
        { BYTES(SIGNATURE "\x21\x11\0\33" V4_BLOCK "\1\0\2h2\x77\0\1?\xe0\0\0\xff\0\0"), V4_ADDRESSES },
        { BYTES(SIGNATURE "\x21\x11\0\32" V4_BLOCK "\x20\0\13\1\0\0\0\0\x21\0\3abc"), V4_ADDRESSES },
        { BYTES(SIGNATURE "\x21\x11\0\31" V4_BLOCK "\3\0\4\x86\xf2\xb6\xbf\4\0\3\0\0\0"), V4_ADDRESSES },
        { BYTES(SIGNATURE "\x21\0\0\7\3\0\4\x3e\xc9\x89\x4e"), "" },
        { BYTES(SIGNATURE "\x20\0\0\0"), "LOCAL" },
        { BYTES(SIGNATURE "\x20\x11\0\14" V4_BLOCK), "LOCAL" },
        { BYTES(SIGNATURE "\x20\xff\0\3\3\377\377"), "LOCAL" }, /* what follows LOCAL is skipped */
};

static const char bad_protocol[] = "the PROXY line's protocol is not TCP4, TCP6 or UNKNOWN";
static const char bad_count[] = "the PROXY line does not have two addresses and two ports";
static const char bad_source[] = "the PROXY line's source is not an address and port of its protocol";
static const char bad_destination[] =
        "the PROXY line's destination is not an address and port of its protocol";
static const char bad_end[] = "the PROXY line does not end with CR LF";
static const char bad_character[] = "the PROXY line has a character that is not printable ASCII";
static const char no_header[] = "there is no PROXY header";
static const char bad_version[] = "the PROXY header's version is not 2";
static const char bad_command[] = "the PROXY header's command is neither LOCAL nor PROXY";
static const char bad_family[] = "the PROXY header's address family or protocol is not known";
static const char too_long[] = "the PROXY header is too long";
static const char too_short[] = "the PROXY header is too short for its addresses";
static const char cut_tlv[] = "the PROXY header ends within a TLV";
static const char long_tlv[] = "a TLV of the PROXY header is longer than the header";
static const char odd_checksum[] = "the PROXY header's checksum is not one number of 4 bytes";
static const char bad_checksum[] = "the PROXY header's checksum is wrong";

static const struct {
        const char *bytes;
        size_t n_bytes;
        size_t n_used; /* it is refused at the last of these */
        const char *fault;
} bad[] = {
        { BYTES("GET / HTTP/1.1\r\n"), 1, no_header },
        { BYTES("\n"), 1, no_header },
        { BYTES("\0"), 1, no_header },
        { BYTES("proxy TCP4"), 1, no_header },
        { BYTES("PROXy TCP4"), 5, no_header },
        { BYTES("PROXY\r\n"), 6, no_header },
        { BYTES("PROXY\tTCP4"), 6, no_header },
        { BYTES("PROXY \r\n"), 8, bad_protocol },
        { BYTES("PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n"), 33, bad_protocol },
        { BYTES("PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n"), 32, bad_protocol },
        { BYTES("PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n"), 32, bad_protocol },
        { BYTES("PROXY UNKNOWNS\r\n"), 16, bad_protocol },
        { BYTES("PROXY TCP4\r\n"), 12, bad_count },
        { BYTES("PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n"), 30, bad_count },
        { BYTES("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n"), 34, bad_count },
        { BYTES("PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n"), 33, bad_count },
        { BYTES("PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n"), 33, bad_count },
        { BYTES("PROXY TCP4  1.2.3.4 1.2.3.4 1\r\n"), 31, bad_source },
        { BYTES("PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n"), 33, bad_source },
        { BYTES("PROXY TCP4 1.2.3.256 1.2.3.4 1 2\r\n"), 34, bad_source },
        { BYTES("PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n"), 30, bad_source },
        { BYTES("PROXY TCP4 ::1 ::1 1 2\r\n"), 24, bad_source },
        { BYTES("PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n"), 32, bad_source },
        { BYTES("PROXY TCP6 ::1%lo ::1 1 2\r\n"), 27, bad_source },
        { BYTES("PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n"), 33, bad_source },
        { BYTES("PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n"), 33, bad_source },
        { BYTES("PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n"), 36, bad_source },
        { BYTES("PROXY TCP4 1.2.3.4 1.2.3.4  2\r\n"), 31, bad_source },
        { BYTES("PROXY TCP4 1.2.3.4 www.example 1 2\r\n"), 36, bad_destination },
        { BYTES("PROXY TCP6 ::1 ::1:: 1 2\r\n"), 26, bad_destination },
        { BYTES("PROXY TCP4 1.2.3.4 1.2.3.4 1 0x2\r\n"), 34, bad_destination },
        { BYTES("PROXY TCP4 1.2.3.4 1.2.3.4 1 4294967297\r\n"), 41, bad_destination },
        { BYTES("PROXY TCP4 1.2.3.4 1.2.3.4 1 \r\n"), 31, bad_destination },
        { BYTES("PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n"), 31, bad_end },
        { BYTES("PROXY UNKNOWN\n"), 14, bad_end },
        { BYTES("PROXY UNKNOWN\r\r\n"), 15, bad_end },
        { BYTES("PROXY UNKNOWN \rmore\r\n"), 16, bad_end },
        { BYTES("PROXY TCP4 1.2.3.4\0 1.2.3.4 1 2\r\n"), 19, bad_character },
        { BYTES("PROXY UNKNOWN\0\r\n"), 14, bad_character },
        { BYTES("PROXY UNKNOWN\t\r\n"), 14, bad_character },
        { BYTES("PROXY UNKNOWN \x7f\r\n"), 15, bad_character },
        { BYTES("PROXY UNKNOWN \x80\r\n"), 15, bad_character },
        { BYTES("PROXY UNKNOWN " TEN("0123456789")), 107, "the PROXY line is too long" },
        { BYTES("PROXY UNKNOWN " TEN("123456789") "12\r\n"), 107, "the PROXY line is too long" },

        { BYTES("\r\n\r\n\r"), 5, no_header },
        { BYTES("\r\n\r\n\0\r\nQUIT\r"), 12, no_header },
        { BYTES(SIGNATURE "\x11\x11\0\14" V4_BLOCK), 13, bad_version },
        { BYTES(SIGNATURE "\x31\x11\0\14" V4_BLOCK), 13, bad_version },
        { BYTES(SIGNATURE "\x01\x11\0\14" V4_BLOCK), 13, bad_version },
        { BYTES(SIGNATURE "\xa1\x11\0\14" V4_BLOCK), 13, bad_version },
        { BYTES(SIGNATURE "\x22\x11\0\14" V4_BLOCK), 13, bad_command },
        { BYTES(SIGNATURE "\x2f\x11\0\14" V4_BLOCK), 13, bad_command },
        { BYTES(SIGNATURE "\x21\x01\0\0"), 14, bad_family },
        { BYTES(SIGNATURE "\x21\x10\0\14" V4_BLOCK), 14, bad_family },
        { BYTES(SIGNATURE "\x21\x13\0\14" V4_BLOCK), 14, bad_family },
        { BYTES(SIGNATURE "\x21\x41\0\14" V4_BLOCK), 14, bad_family },
        { BYTES(SIGNATURE "\x21\xff\0\14" V4_BLOCK), 14, bad_family },
        { BYTES(SIGNATURE "\x21\x11\0\0"), 16, too_short },
        { BYTES(SIGNATURE "\x21\x11\0\13" V4_BLOCK), 16, too_short },
        { BYTES(SIGNATURE "\x21\x21\0\43" V6_BLOCK), 16, too_short },
        { BYTES(SIGNATURE "\x21\x31\0\327" UNIX), 16, too_short },
        { BYTES(SIGNATURE "\x21\x11\x10\x01" V4_BLOCK), 16, too_long },
        { BYTES(SIGNATURE "\x21\x11\xff\xff" V4_BLOCK), 16, too_long },
        { BYTES(SIGNATURE "\x20\0\x10\x01"), 16, too_long },
        { BYTES(SIGNATURE "\x21\x11\0\15" V4_BLOCK "\4"), 29, cut_tlv },
        { BYTES(SIGNATURE "\x21\x11\0\16" V4_BLOCK "\4\0"), 30, cut_tlv },
        { BYTES(SIGNATURE "\x21\x11\0\22" V4_BLOCK "\4\0\1x\3\0"), 34, cut_tlv },
        { BYTES(SIGNATURE "\x21\x11\0\17" V4_BLOCK "\4\0\1rest"), 31, long_tlv },
        { BYTES(SIGNATURE "\x21\x11\0\20" V4_BLOCK "\4\1\1rest"), 31, long_tlv },
        { BYTES(SIGNATURE "\x21\0\0\4\3\0\4\x3e\xc9\x89\x4e"), 19, long_tlv },
        { BYTES(SIGNATURE "\x21\x11\0\22" V4_BLOCK "\3\0\3abc"), 31, odd_checksum },
        { BYTES(SIGNATURE "\x21\x11\0\17" V4_BLOCK "\3\0\0"), 31, odd_checksum },
        { BYTES(SIGNATURE "\x21\x11\0\24" V4_BLOCK "\3\0\5abcde"), 31, odd_checksum },
        { BYTES(SIGNATURE "\x21\x11\0\32" V4_BLOCK "\3\0\4abcd\3\0\4abcd"), 38, odd_checksum },
        { BYTES(SIGNATURE "\x21\x11\0\23" V4_BLOCK "\3\0\4\0\0\0\0"), 35, bad_checksum },
        { BYTES(SIGNATURE "\x21\0\0\7\3\0\4\377\377\377\377"), 23, bad_checksum },
        { BYTES(SIGNATURE "\x21\0\0\7\3\0\4\x4e\x89\xc9\x3e"), 23, bad_checksum }, /* backwards */
};

/* Feeds until there is a verdict or nothing left; *ret_n_used of all `n` were the header's. */
static enum proxy_result feed(struct proxy *p, const char *bytes, size_t n, unsigned slicing,
                              size_t *ret_n_used)
{
        enum proxy_result result = PROXY_MORE;
        size_t n_fed = 0;

        proxy_init(p);
        while (result == PROXY_MORE && n_fed < n) {
                size_t n_slice = slice_size(slicing, n - n_fed), n_used = SIZE_MAX;
                _cleanup_free_ char *slice = slice_copy(bytes + n_fed, n_slice);

                ck_assert_uint_ge(proxy_room(p), 1);
                result = proxy_feed(p, slice, n_slice, &n_used);
                ck_assert_uint_le(n_used, n_slice);
                if (result == PROXY_MORE)
                        ck_assert_uint_eq(n_used, n_slice);
                n_fed += n_used;
        }
        *ret_n_used = n_fed;
        return result;
}

/* What it gave, as in the column `addresses`. */
static const char *addresses(const struct proxy *p)
{
        static char text[2 * ADDRESS_TEXT_MAX];
        char source[ADDRESS_TEXT_MAX], destination[ADDRESS_TEXT_MAX];

        if (p->source.family == AF_UNSPEC) {
                ck_assert_int_eq(p->destination.family, AF_UNSPEC);
                return p->is_local ? "LOCAL" : "";
        }
        ck_assert(!p->is_local);
        (void)snprintf(text, sizeof(text), "%s %s", address_text(&p->source, source),
                       address_text(&p->destination, destination));
        return text;
}

START_TEST(test_proxy_good)
{
        random_seed();
        for (size_t row = 0; row < ARRAY_SIZE(good); row++)
                for (unsigned slicing = 0; slicing < N_SLICINGS; slicing++) {
                        size_t n = good[row].n_bytes, n_used;
                        char bytes[512];
                        struct proxy p;

                        memcpy(bytes, good[row].bytes, n);
                        memcpy(bytes + n, good[row].bytes, n); /* what follows may look like a header */
                        ck_assert_msg(feed(&p, bytes, 2 * n, slicing, &n_used) == PROXY_DONE, "row %zu: %s",
                                      row, p.fault);
                        ck_assert_msg(n_used == n, "row %zu: %zu bytes", row, n_used);
                        ck_assert_str_eq(addresses(&p), good[row].addresses);
                        ck_assert_ptr_null(p.fault);
                }
}
END_TEST

START_TEST(test_proxy_cut_short)
{
        random_seed();
        for (size_t row = 0; row < ARRAY_SIZE(good); row++)
                for (size_t n = 0; n < good[row].n_bytes; n++) {
                        struct proxy p;
                        size_t n_used;

                        ck_assert_msg(feed(&p, good[row].bytes, n, (unsigned)(n % 4), &n_used) == PROXY_MORE,
                                      "row %zu after %zu bytes", row, n);
                        ck_assert_uint_eq(n_used, n);
                }
}
END_TEST

START_TEST(test_proxy_bad)
{
        random_seed();
        for (size_t row = 0; row < ARRAY_SIZE(bad); row++)
                for (unsigned slicing = 0; slicing < N_SLICINGS; slicing++) {
                        struct proxy p;
                        size_t n_used;

                        ck_assert_msg(feed(&p, bad[row].bytes, bad[row].n_bytes, slicing, &n_used) ==
                                              PROXY_BAD,
                                      "row %zu", row);
                        ck_assert_msg(n_used == bad[row].n_used, "row %zu: %zu bytes", row, n_used);
                        ck_assert_msg(streq(p.fault, bad[row].fault), "row %zu: %s", row, p.fault);
                }
}
END_TEST

/* Nothing but the first bytes of the two signatures begins a header. */
START_TEST(test_proxy_first_byte)
{
        for (unsigned byte = 0; byte < 256; byte++) {
                uint8_t bytes[] = { (uint8_t)byte };
                struct proxy p;
                size_t n_used;

                proxy_init(&p);
                ck_assert_int_eq(proxy_feed(&p, bytes, 1, &n_used),
                                 byte == 'P' || byte == '\r' ? PROXY_MORE : PROXY_BAD);
        }
}
END_TEST

/* One look is enough for a header without TLVs over IP, two for every other one. */
START_TEST(test_proxy_room)
{
        for (size_t row = 0; row < ARRAY_SIZE(good); row++) {
                size_t n_fed = 0, n_looks = 0;
                enum proxy_result result;
                struct proxy p;

                proxy_init(&p);
                do {
                        size_t n = MIN(proxy_room(&p), good[row].n_bytes - n_fed), n_used;

                        result = proxy_feed(&p, good[row].bytes + n_fed, n, &n_used);
                        n_fed += n_used;
                        n_looks++;
                } while (result == PROXY_MORE && n_looks < 3);
                ck_assert_int_eq(result, PROXY_DONE);
                ck_assert_uint_le(n_looks, good[row].n_bytes <= PROXY_LINE_MAX ? 1 : 2);
        }
}
END_TEST

/* ---- checksums, against another way to compute them: the polynomial forwards, the bits reflected ---- */

static uint32_t reflect(uint32_t value, unsigned n_bits)
{
        uint32_t reflected = 0;

        for (unsigned i = 0; i < n_bits; i++)
                reflected |= (value >> i & 1) << (n_bits - 1 - i);
        return reflected;
}

static uint32_t crc32c(const char *bytes, size_t n)
{
        uint32_t crc = UINT32_MAX;

        for (size_t i = 0; i < n; i++) {
                crc ^= reflect((uint8_t)bytes[i], 8) << 24;
                for (unsigned bit = 0; bit < 8; bit++)
                        crc = crc << 1 ^ (crc >> 31 ? UINT32_C(0x1edc6f41) : 0);
        }
        return ~reflect(crc, 32);
}

struct header {
        char bytes[16 + PROXY_BLOCK_MAX];
        size_t n_bytes;
        size_t checksum_at; /* 0: none */
};

static void append(struct header *h, const void *bytes, size_t n)
{
        ck_assert_uint_le(h->n_bytes + n, sizeof(h->bytes));
        memcpy(h->bytes + h->n_bytes, bytes, n);
        h->n_bytes += n;
}

static void append_tlv(struct header *h, uint8_t type, const void *value, size_t n)
{
        uint8_t head[] = { type, (uint8_t)(n >> 8), (uint8_t)n };

        append(h, head, sizeof(head));
        append(h, value, n);
}

static void append_checksum(struct header *h)
{
        append_tlv(h, 3, "\0\0\0\0", 4);
        h->checksum_at = h->n_bytes - 4;
}

static const struct {
        char family;
        const char *block;
        size_t n_block;
        const char *addresses;
} families[] = {
        { 0x00, BYTES(""), "" },
        { 0x11, BYTES(V4_BLOCK), V4_ADDRESSES },
        { 0x21, BYTES(V6_BLOCK), V6_ADDRESSES },
        { 0x31, BYTES(UNIX), "unix unix" },
};

static void begin(struct header *h, size_t family)
{
        char head[] = { 0x21, families[family].family, 0, 0 };

        *h = (struct header){ .n_bytes = 0 };
        append(h, BYTES(SIGNATURE));
        append(h, head, sizeof(head));
        append(h, families[family].block, families[family].n_block);
}

/* Puts in the length and the checksum. */
static void finish(struct header *h)
{
        uint32_t crc;

        h->bytes[14] = (char)((h->n_bytes - 16) >> 8);
        h->bytes[15] = (char)(h->n_bytes - 16);
        if (h->checksum_at == 0)
                return;
        crc = crc32c(h->bytes, h->n_bytes);
        for (unsigned i = 0; i < 4; i++)
                h->bytes[h->checksum_at + i] = (char)(crc >> (24 - 8 * i));
}

/*
 * Any one byte made any other is refused or waited for. What may pass is LOCAL, and a header in which no checksum
 * is found any more (its type is another, the header ends before it, a TLV before it is longer); no addresses but
 * the header's own ever come of it.
 */
START_TEST(test_proxy_corrupted)
{
        ck_assert_uint_eq(crc32c(BYTES("123456789")), 0xe3069283); /* CRC32c's check value */
        for (size_t family = 1; family < ARRAY_SIZE(families); family++) {
                struct header h;
                struct proxy p;
                size_t n_used;

                begin(&h, family);
                append_tlv(&h, 4, "..", 2);
                append_checksum(&h);
                append_tlv(&h, 2, "www.example", 11);
                finish(&h);
                ck_assert_int_eq(feed(&p, h.bytes, h.n_bytes, 2, &n_used), PROXY_DONE);
                ck_assert_str_eq(addresses(&p), families[family].addresses);
                for (size_t at = 0; at < h.n_bytes; at++)
                        for (unsigned flip = 1; flip < 256; flip++) {
                                char kept = h.bytes[at];

                                h.bytes[at] = (char)(kept ^ (char)flip);
                                if (feed(&p, h.bytes, h.n_bytes, 2, &n_used) == PROXY_DONE) {
                                        ck_assert_msg(!p.has_checksum, "byte %zu ^ %#x", at, flip);
                                        ck_assert_str_eq(addresses(&p),
                                                         at == 12 ? "LOCAL" : families[family].addresses);
                                }
                                h.bytes[at] = kept;
                        }
        }
}
END_TEST

static void append_random_tlvs(struct header *h)
{
        size_t n_tlvs = random_below(6), checksum = random_below(8); /* before which of them, if any */

        for (size_t i = 0; i < n_tlvs; i++) {
                size_t n = random_below(2) ? random_below(300) : random_below(4);
                uint8_t type = (uint8_t)random_below(256), value[300];

                if (i == checksum)
                        append_checksum(h);
                for (size_t j = 0; j < n; j++)
                        value[j] = (uint8_t)random_below(256);
                append_tlv(h, type == 3 ? 4 : type, value, n);
        }
}

/* Any TLVs, with and without a checksum among them; with one, a bit that is turned is noticed. */
START_TEST(test_proxy_random)
{
        random_seed();
        for (unsigned round = 0; round < 3000; round++) {
                size_t family = random_below(ARRAY_SIZE(families)), at, n_used;
                struct header h;
                struct proxy p;

                begin(&h, family);
                append_random_tlvs(&h);
                finish(&h);
                ck_assert_int_eq(feed(&p, h.bytes, h.n_bytes, round % N_SLICINGS, &n_used), PROXY_DONE);
                ck_assert_uint_eq(n_used, h.n_bytes);
                ck_assert_str_eq(addresses(&p), families[family].addresses);
                if (h.checksum_at == 0)
                        continue;
                at = 16 + random_below(h.n_bytes - 16);
                h.bytes[at] = (char)(h.bytes[at] ^ 1 << random_below(8));
                if (feed(&p, h.bytes, h.n_bytes, round % N_SLICINGS, &n_used) == PROXY_DONE) {
                        ck_assert_msg(!p.has_checksum, "byte %zu of %zu", at, h.n_bytes); /* hidden by it */
                        ck_assert_str_eq(addresses(&p), families[family].addresses);
                }
        }
}
END_TEST

/* The largest block, as two TLVs and as the most TLVs; one byte more is refused when its length is known. */
START_TEST(test_proxy_limits)
{
        static const char value[PROXY_BLOCK_MAX];
        struct header h;
        struct proxy p;
        size_t n_used;

        begin(&h, 1);
        append_checksum(&h);
        append_tlv(&h, 4, value, sizeof(h.bytes) - h.n_bytes - 3);
        finish(&h);
        ck_assert_int_eq(feed(&p, h.bytes, sizeof(h.bytes), 2, &n_used), PROXY_DONE);
        ck_assert_str_eq(addresses(&p), V4_ADDRESSES);

        begin(&h, 0);
        while (sizeof(h.bytes) - h.n_bytes > 4)
                append_tlv(&h, 4, value, 0);
        append_tlv(&h, 4, value, 1);
        finish(&h);
        ck_assert_int_eq(feed(&p, h.bytes, sizeof(h.bytes), 2, &n_used), PROXY_DONE);
        ck_assert_uint_eq(n_used, sizeof(h.bytes));

        h.bytes[15]++; /* 4097 */
        ck_assert_int_eq(feed(&p, h.bytes, sizeof(h.bytes), 2, &n_used), PROXY_BAD);
        ck_assert_uint_eq(n_used, 16);
        ck_assert_uint_le(sizeof(p), 256); /* what each half-finished one costs */
}
END_TEST

UNIT_MAIN("proxy", test_proxy_good, test_proxy_cut_short, test_proxy_bad, test_proxy_first_byte,
          test_proxy_room, test_proxy_corrupted, test_proxy_random, test_proxy_limits)

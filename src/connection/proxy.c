/*
 * proxy promises the same verdict in whatever slices a header comes, and memory that does not grow with it: a
 * line of version 1 is short enough to keep; of version 2 only the addresses are kept, TLVs are walked and the
 * checksum is computed while the bytes go by.
 *
 * Only the first byte is looked at to tell the versions apart. Whether there is a header at all is never
 * guessed: that is the configuration's to say. What TLVs mean, the checksum apart, is not looked at.
 */
#include "connection/proxy.h"
#include <arpa/inet.h>

#define V1_PREFIX "PROXY "

#define V2_HEAD    ((size_t)16) /* signature, version and command, family and protocol, length */
#define V2_COMMAND 12
#define V2_FAMILY  13
#define V2_LENGTH  14

#define TLV_HEAD      3
#define TLV_CRC32C    0x03
#define CHECKSUM_SIZE 4

static const uint8_t v2_signature[] = { '\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T', '\n' };

static const char no_header[] = "there is no PROXY header";

void proxy_init(struct proxy *p)
{
        *p = (struct proxy){ .crc = UINT32_MAX };
}

/* `ip` and `port` in network byte order. */
static void set_in(struct address *ret, const void *ip, in_port_t port)
{
        union address_socket socket_address = { .in = { .sin_family = AF_INET, .sin_port = port } };

        memcpy(&socket_address.in.sin_addr, ip, sizeof(struct in_addr));
        address_from_socket(ret, &socket_address, sizeof(socket_address.in));
}

static void set_in6(struct address *ret, const void *ip, in_port_t port)
{
        union address_socket socket_address = { .in6 = { .sin6_family = AF_INET6, .sin6_port = port } };

        memcpy(&socket_address.in6.sin6_addr, ip, sizeof(struct in6_addr));
        address_from_socket(ret, &socket_address, sizeof(socket_address.in6));
}

/* ---- version 1: one line ---- */

static bool parse_port(const char *text, in_port_t *ret_port)
{
        unsigned port = 0;

        if (text[0] == '\0' || (text[0] == '0' && text[1] != '\0'))
                return false;
        for (const char *p = text; *p != '\0'; p++) {
                if (*p < '0' || *p > '9')
                        return false;
                port = port * 10 + (unsigned)(*p - '0');
                if (port > UINT16_MAX)
                        return false;
        }
        *ret_port = htons((uint16_t)port);
        return true;
}

static bool parse_endpoint(int family, const char *host, const char *port_text, struct address *ret)
{
        uint8_t ip[sizeof(struct in6_addr)];
        in_port_t port;

        if (inet_pton(family, host, ip) != 1 || !parse_port(port_text, &port))
                return false;
        if (family == AF_INET)
                set_in(ret, ip, port);
        else
                set_in6(ret, ip, port);
        return true;
}

/* The line without its CR and LF, which is cut at its blanks. Returns what is wrong, or NULL, as do all below. */
static const char *v1_parse(struct proxy *p, char *line)
{
        char *words[5] = { NULL }, *rest = line + strlen(V1_PREFIX);
        size_t n_words = 0;

        for (; n_words < ARRAY_SIZE(words) && rest; n_words++)
                words[n_words] = strsep(&rest, " ");
        if (streq(words[0], "UNKNOWN"))
                return NULL;
        if (!streq(words[0], "TCP4") && !streq(words[0], "TCP6"))
                return "the PROXY line's protocol is not TCP4, TCP6 or UNKNOWN";
        if (n_words < ARRAY_SIZE(words) || rest)
                return "the PROXY line does not have two addresses and two ports";

        int family = streq(words[0], "TCP4") ? AF_INET : AF_INET6;
        if (!parse_endpoint(family, words[1], words[3], &p->source))
                return "the PROXY line's source is not an address and port of its protocol";
        if (!parse_endpoint(family, words[2], words[4], &p->destination))
                return "the PROXY line's destination is not an address and port of its protocol";
        return NULL;
}

static const char *v1_take(struct proxy *p, uint8_t byte)
{
        size_t at = p->n_bytes++;
        bool after_cr = at > 0 && p->bytes[at - 1] == '\r';

        p->bytes[at] = byte;
        if (at < strlen(V1_PREFIX))
                return byte == V1_PREFIX[at] ? NULL : no_header;
        if (after_cr != (byte == '\n'))
                return "the PROXY line does not end with CR LF";
        if (after_cr) {
                p->n_total = p->n_bytes;
                p->bytes[at - 1] = '\0';
                return v1_parse(p, (char *)p->bytes);
        }
        if (p->n_bytes == PROXY_LINE_MAX)
                return "the PROXY line is too long";
        if (byte != '\r' && (byte < ' ' || byte > '~'))
                return "the PROXY line has a character that is not printable ASCII";
        return NULL;
}

/* ---- version 2: 16 bytes, addresses, TLVs ---- */

/* CRC32c, bit by bit: headers are short, and a table of 1 KiB would be cold at each. */
static void crc_add(struct proxy *p, uint8_t byte)
{
        p->crc ^= byte;
        for (unsigned i = 0; i < 8; i++)
                p->crc = p->crc & 1 ? p->crc >> 1 ^ UINT32_C(0x82f63b78) : p->crc >> 1;
}

/* The length of both addresses and ports; negative where the document does not list family and protocol. */
static int v2_n_addresses(uint8_t family)
{
        switch (family) {
        case 0x00: /* UNSPEC */
                return 0;
        case 0x11: /* TCP and UDP over IPv4 */
        case 0x12:
                return 2 * 4 + 2 * 2;
        case 0x21: /* over IPv6 */
        case 0x22:
                return 2 * 16 + 2 * 2;
        case 0x31: /* UNIX stream and datagram */
        case 0x32:
                return 2 * 108;
        default:
                return -EINVAL;
        }
}

static in_port_t v2_port(const uint8_t *bytes)
{
        in_port_t port;

        memcpy(&port, bytes, sizeof(port));
        return port;
}

static void v2_set_addresses(struct proxy *p)
{
        const uint8_t *block = p->bytes + V2_HEAD;

        switch (p->bytes[V2_FAMILY] >> 4) {
        case 1:
                set_in(&p->source, block, v2_port(block + 8));
                set_in(&p->destination, block + 4, v2_port(block + 10));
                break;
        case 2:
                set_in6(&p->source, block, v2_port(block + 32));
                set_in6(&p->destination, block + 16, v2_port(block + 34));
                break;
        case 3: /* the paths are the peers' own choice and never used */
                p->source.family = p->destination.family = AF_UNIX;
                break;
        default:
                break;
        }
}

static const char *v2_take_head(struct proxy *p, size_t at, uint8_t byte)
{
        if (at < sizeof(v2_signature))
                return byte == v2_signature[at] ? NULL : no_header;
        switch (at) {
        case V2_COMMAND:
                if (byte >> 4 != 2)
                        return "the PROXY header's version is not 2";
                if ((byte & 0x0f) > 1)
                        return "the PROXY header's command is neither LOCAL nor PROXY";
                p->is_local = (byte & 0x0f) == 0;
                return NULL;
        case V2_FAMILY:
                if (!p->is_local && v2_n_addresses(byte) < 0)
                        return "the PROXY header's address family or protocol is not known";
                return NULL;
        case V2_LENGTH:
                return NULL;
        default:
                p->n_total = V2_HEAD + (size_t)(p->bytes[V2_LENGTH] << 8 | byte);
                if (p->n_total > V2_HEAD + PROXY_BLOCK_MAX)
                        return "the PROXY header is too long";
                if (!p->is_local && p->n_total < V2_HEAD + (size_t)v2_n_addresses(p->bytes[V2_FAMILY]))
                        return "the PROXY header is too short for its addresses";
                return NULL;
        }
}

static bool is_in_checksum(const struct proxy *p)
{
        return p->n_tlv >= TLV_HEAD && p->tlv_type == TLV_CRC32C;
}

static const char *v2_take_tlv(struct proxy *p, uint8_t byte)
{
        bool is_checksum = p->tlv_type == TLV_CRC32C;

        switch (p->n_tlv++) {
        case 0:
                p->tlv_type = byte;
                return NULL;
        case 1:
                p->n_value = (size_t)byte << 8;
                return NULL;
        case 2:
                p->n_value |= byte;
                if (p->n_value > p->n_total - p->n_bytes)
                        return "a TLV of the PROXY header is longer than the header";
                if (is_checksum && (p->n_value != CHECKSUM_SIZE || p->has_checksum))
                        return "the PROXY header's checksum is not one number of 4 bytes";
                p->has_checksum |= is_checksum;
                break;
        default:
                if (is_checksum)
                        p->checksum = p->checksum << 8 | byte;
                p->n_value--;
                break;
        }
        if (p->n_value == 0)
                p->n_tlv = 0;
        return NULL;
}

static const char *v2_finish(struct proxy *p)
{
        if (p->is_local)
                return NULL;
        if (p->n_tlv != 0)
                return "the PROXY header ends within a TLV";
        if (p->has_checksum && p->checksum != ~p->crc)
                return "the PROXY header's checksum is wrong";
        v2_set_addresses(p);
        return NULL;
}

static const char *v2_take(struct proxy *p, uint8_t byte)
{
        size_t at = p->n_bytes++;
        const char *fault = NULL;

        if (at < sizeof(p->bytes))
                p->bytes[at] = byte;
        crc_add(p, is_in_checksum(p) ? 0 : byte);
        if (at < V2_HEAD)
                fault = v2_take_head(p, at, byte);
        else if (!p->is_local && at >= V2_HEAD + (size_t)v2_n_addresses(p->bytes[V2_FAMILY]))
                fault = v2_take_tlv(p, byte);
        return fault || p->n_bytes != p->n_total ? fault : v2_finish(p);
}

/* ---- both ---- */

size_t proxy_room(const struct proxy *p)
{
        /* Until the length is known: a line of version 1, or a header of version 2 without TLVs. */
        return (p->n_total > 0 ? p->n_total : PROXY_LINE_MAX) - p->n_bytes;
}

enum proxy_result proxy_feed(struct proxy *p, const void *bytes, size_t n, size_t *ret_n_used)
{
        const uint8_t *next = bytes;

        for (size_t i = 0; i < n; i++) {
                bool is_v2 = (p->n_bytes > 0 ? p->bytes[0] : next[i]) == v2_signature[0];

                *ret_n_used = i + 1;
                p->fault = is_v2 ? v2_take(p, next[i]) : v1_take(p, next[i]);
                if (p->fault)
                        return PROXY_BAD;
                if (p->n_bytes == p->n_total)
                        return PROXY_DONE;
        }
        *ret_n_used = n;
        return PROXY_MORE;
}

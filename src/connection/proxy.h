/*
 * proxy: the header of the PROXY protocol, versions 1 and 2, as haproxy's doc/proxy-protocol.txt has it. Pure:
 * bytes go in, in any slices, and it is told how many of them belonged to the header. It needs no memory but
 * the struct, however long the header is.
 */
#pragma once

#include "base/address.h"

#define PROXY_LINE_MAX  ((size_t)107)  /* version 1, with CR and LF */
#define PROXY_BLOCK_MAX ((size_t)4096) /* version 2, what follows the first 16 bytes; more is refused */

enum proxy_result { PROXY_MORE, PROXY_DONE, PROXY_BAD };

struct proxy {
        /* The result: after PROXY_DONE, `fault` after PROXY_BAD. */
        struct address source;      /* AF_UNSPEC: the header gave no addresses, the connection's own count */
        struct address destination; /* likewise */
        bool is_local;              /* version 2, LOCAL: the proxy itself connected, a health check */
        const char *fault;          /* a constant sentence for the log */

        uint8_t bytes[PROXY_LINE_MAX]; /* the line; or the first 16 bytes and the addresses of version 2 */
        size_t n_bytes;                /* seen so far */
        size_t n_total;                /* of the whole header; 0 until it is known */

        uint32_t crc; /* of all bytes so far, a checksum's own taken as 0 */
        uint32_t checksum;
        bool has_checksum;

        uint8_t tlv_type;
        size_t n_tlv;   /* bytes of the TLV under way; 0: the next byte begins one */
        size_t n_value; /* what is still to come of its value */
};

void proxy_init(struct proxy *proxy);

/* How many bytes are worth looking at next, at least 1: enough for the usual headers in one go. */
size_t proxy_room(const struct proxy *proxy);

/*
 * Takes the next bytes; *ret_n_used of them (never more than `n`) are the header's, and none is looked at after
 * DONE or BAD. Refused as soon as it can be known:
 *  - version 1: what is not one line of printable ASCII, of at most PROXY_LINE_MAX bytes, ended by CR LF, with
 *    single blanks, canonical addresses of the protocol's family and ports without leading zeros. What follows
 *    UNKNOWN is ignored.
 *  - version 2: another version; a command, family or protocol, or combination of the two, that the document
 *    does not list; a block over PROXY_BLOCK_MAX or too short for its addresses; a TLV that does not fit; a
 *    CRC32c that is wrong, of another length, or there twice. Unknown TLVs are ignored, so is all that follows
 *    LOCAL. Family UNSPEC has no addresses, only TLVs.
 */
enum proxy_result proxy_feed(struct proxy *proxy, const void *bytes, size_t n, size_t *ret_n_used);

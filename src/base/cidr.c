/*
 * cidr: promises that a range means one thing only: bits behind the prefix are refused, not dropped. It relies
 * on inet_pton(3) for the address, so nothing is resolved and 10.1 is no address.
 */
#include "base/cidr.h"
#include "base/span.h"
#include <arpa/inet.h>
#include <stdio.h>

#define MAPPED_BITS 96 /* of the prefix ::ffff:0:0/96 (RFC 4291, 2.5.5.2) */

/* The bits of byte `index` that belong to a prefix of `n_bits`. */
static uint8_t mask_of(unsigned index, unsigned n_bits)
{
        unsigned n = n_bits > 8 * index ? MIN(n_bits - 8 * index, 8U) : 0;

        return (uint8_t)(0xff00U >> n);
}

static int parse_address(const char *text, size_t length, struct address *ret)
{
        union address_socket address = { 0 };
        char host[ADDRESS_TEXT_MAX];

        if (length >= sizeof(host))
                return -EINVAL;
        memcpy(host, text, length);
        host[length] = '\0';
        if (inet_pton(AF_INET, host, &address.in.sin_addr) == 1) {
                address.sa.sa_family = AF_INET;
                address_from_socket(ret, &address, sizeof(address.in));
                return 0;
        }
        if (inet_pton(AF_INET6, host, &address.in6.sin6_addr) == 1) {
                address.sa.sa_family = AF_INET6;
                address_from_socket(ret, &address, sizeof(address.in6));
                return 0;
        }
        return -EINVAL;
}

/* Whether no bit is set behind the prefix; else the reason names what would have been right. */
static bool check_bits(const struct cidr *cidr, unsigned mapped, char reason[static CIDR_REASON_MAX])
{
        struct address network = cidr->network;
        char host[ADDRESS_TEXT_MAX];

        for (unsigned i = 0; i < sizeof(network.ip); i++)
                network.ip[i] &= mask_of(i, cidr->n_bits);
        if (memcmp(network.ip, cidr->network.ip, sizeof(network.ip)) == 0)
                return true;
        (void)snprintf(reason, CIDR_REASON_MAX, "bits are set behind the prefix; did you mean %s%s/%u?",
                       mapped > 0 ? "::ffff:" : "", address_host(&network, host), cidr->n_bits + mapped);
        return false;
}

int cidr_parse(const char *text, struct cidr *ret, char reason[static CIDR_REASON_MAX])
{
        size_t length = strcspn(text, "/");
        struct cidr cidr;

        if (parse_address(text, length, &cidr.network) < 0)
                return -EINVAL;
        /* As it is written: a mapped address has the prefix of an IPv6 one. */
        bool is_ipv6 = memchr(text, ':', length) != NULL;
        unsigned mapped = is_ipv6 && cidr.network.family == AF_INET ? MAPPED_BITS : 0;
        uint64_t max = is_ipv6 ? 128 : 32, n_bits = max;
        if (text[length] == '/' && (count_parse(text + length + 1, max, &n_bits) < 0 || n_bits < mapped)) {
                (void)snprintf(reason, CIDR_REASON_MAX, "the prefix of an %s address is /%u to /%u",
                               mapped > 0 ? "IPv4-mapped"
                               : is_ipv6  ? "IPv6"
                                          : "IPv4",
                               mapped, (unsigned)max);
                return -ERANGE;
        }
        cidr.n_bits = (unsigned)n_bits - mapped;
        if (!check_bits(&cidr, mapped, reason))
                return -ERANGE;
        *ret = cidr;
        return 0;
}

bool cidr_matches(const struct cidr *cidr, const struct address *address)
{
        if (cidr->network.family != address->family)
                return false;
        for (unsigned i = 0; 8 * i < cidr->n_bits; i++)
                if ((cidr->network.ip[i] ^ address->ip[i]) & mask_of(i, cidr->n_bits))
                        return false;
        return true;
}

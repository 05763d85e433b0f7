/*
 * cidr: a range of IP addresses: "10.0.0.0/8", "2001:db8::/32", or one address. What is IPv4-mapped is IPv4, as
 * in address.h: ::ffff:10.0.0.0/104 is 10.0.0.0/8. So ::/0 is all of IPv6 and nothing of IPv4. The scope of an
 * address does not count.
 */
#pragma once

#include "base/address.h"

struct cidr {
        struct address network;
        unsigned n_bits; /* of the prefix */
};

#define CIDR_REASON_MAX 128

/*
 * 0; -EINVAL: what stands before the '/' is no numeric address; -ERANGE: the prefix does not fit it, and
 * `reason` says why ("bits are set behind the prefix; did you mean 10.0.0.0/8?").
 */
int cidr_parse(const char *text, struct cidr *ret, char reason[static CIDR_REASON_MAX]);

bool cidr_matches(const struct cidr *cidr, const struct address *address);

/*
 * rules: a list that names peers: CIDRs or plain addresses for those that come over IP; uid:N, user:NAME, gid:N,
 * group:NAME for those that come over a UNIX socket (their primary and supplementary groups). A peer is judged
 * by the rules of its own kind only: no CIDR names a UNIX peer, no uid a host.
 *
 * Names are looked up once, when the list is read. A look at a peer goes through the whole list.
 */
#pragma once

#include "base/cidr.h"
#include <sys/types.h>

struct peer {
        const struct address *address;
        /* UNIX sockets only; (uid_t)-1 and (gid_t)-1: not known (a source that a PROXY header names) */
        uid_t uid;
        gid_t gid;
        const gid_t *groups; /* supplementary ones: SO_PEERGROUPS, unix(7) */
        size_t n_groups;
};

enum rule_kind { RULE_CIDR, RULE_USER, RULE_GROUP };

struct rule {
        enum rule_kind kind;
        union {
                struct cidr cidr;
                uint32_t id; /* uid or gid */
        };
};

/* Zeroed: empty. */
struct rules {
        struct rule *items;
        size_t n;
};

#define RULE_REASON_MAX CIDR_REASON_MAX

/* Appends one rule. 0, -ENOMEM, or -EINVAL with `reason` ("there is no such user"). */
int rules_add(struct rules *rules, const char *text, char reason[static RULE_REASON_MAX]);
void rules_deinit(struct rules *rules);

bool rules_match(const struct rules *rules, const struct peer *peer);

/* Whether there is a rule of this kind. With RULE_GROUP the caller has to find out a peer's groups. */
bool rules_have(const struct rules *rules, enum rule_kind kind);

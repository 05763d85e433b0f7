/*
 * What base/cidr and base/rules promise: a range means one thing, IPv4-mapped is IPv4, and everything that is no
 * rule is refused with the right sentence.
 */
#include "random.h"
#include "unit.h"

#include "base/rules.h"
#include <arpa/inet.h>

static struct address address_of(const char *ip)
{
        union address_socket s = { 0 };
        struct address address;

        s.sa.sa_family = strchr(ip, ':') ? AF_INET6 : AF_INET;
        if (s.sa.sa_family == AF_INET6)
                ck_assert_int_eq(inet_pton(AF_INET6, ip, &s.in6.sin6_addr), 1);
        else
                ck_assert_int_eq(inet_pton(AF_INET, ip, &s.in.sin_addr), 1);
        address_from_socket(&address, &s, sizeof(s));
        return address;
}

START_TEST(test_cidr)
{
        static const struct {
                const char *text;
                uint16_t family;
                unsigned n_bits;
                const char *inside, *outside; /* blanks between them */
        } rows[] = {
                { "10.0.0.0/8", AF_INET, 8, "10.0.0.0 10.255.255.255 ::ffff:10.1.2.3",
                  "9.255.255.255 11.0.0.0 ::" },
                { "192.0.2.7", AF_INET, 32, "192.0.2.7 ::ffff:192.0.2.7", "192.0.2.6 192.0.2.8 ::192.0.2.7" },
                { "192.0.2.7/32", AF_INET, 32, "192.0.2.7", "192.0.3.7 64.0.2.7" },
                { "192.0.2.6/31", AF_INET, 31, "192.0.2.6 192.0.2.7", "192.0.2.5 192.0.2.8" },
                { "128.0.0.0/1", AF_INET, 1, "128.0.0.0 255.255.255.255", "127.255.255.255 0.0.0.0" },
                { "0.0.0.0/0", AF_INET, 0, "0.0.0.0 255.255.255.255 ::ffff:1.2.3.4", ":: ::1" },
                { "172.16.0.0/12", AF_INET, 12, "172.16.0.1 172.31.255.255", "172.15.0.0 172.32.0.0" },
                { "::ffff:10.0.0.0/104", AF_INET, 8, "10.9.8.7 ::ffff:10.9.8.7", "11.0.0.0 ::10.0.0.0" },
                { "::ffff:a00:1", AF_INET, 32, "10.0.0.1", "10.0.0.2 ::a00:1" },
                { "::ffff:0:0/96", AF_INET, 0, "0.0.0.0 255.255.255.255", "::" },
                { "2001:db8::/32", AF_INET6, 32, "2001:db8:: 2001:db8:ffff::1", "2001:db7:: 2001:db9::" },
                { "2001:DB8:0:1::/64", AF_INET6, 64, "2001:db8:0:1:ffff::", "2001:db8:0:2:: 2001:db8::" },
                { "2001:db8::8000/113", AF_INET6, 113, "2001:db8::8000 2001:db8::ffff", "2001:db8::7fff" },
                { "::1", AF_INET6, 128, "::1", ":: ::2 127.0.0.1" },
                { "::/0", AF_INET6, 0, ":: ffff::", "0.0.0.0 ::ffff:1.2.3.4" },
                { "::ffc0:0:0/90", AF_INET6, 90, "::ffc1:0:0", "::ffff:1.2.3.4 1.2.3.4" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                for (unsigned inside = 0; inside < 2; inside++) {
                        char list[128], reason[CIDR_REASON_MAX] = "";
                        struct cidr cidr;

                        ck_assert_msg(cidr_parse(rows[i].text, &cidr, reason) == 0, "%s: %s", rows[i].text,
                                      reason);
                        ck_assert_uint_eq(cidr.network.family, rows[i].family);
                        ck_assert_uint_eq(cidr.n_bits, rows[i].n_bits);
                        (void)strcpy(list, inside ? rows[i].inside : rows[i].outside);
                        for (char *p = list, *ip = strsep(&p, " "); ip; ip = strsep(&p, " ")) {
                                struct address address = address_of(ip);
                                ck_assert_msg(cidr_matches(&cidr, &address) == inside, "%s: %s", rows[i].text,
                                              ip);
                        }
                }
}
END_TEST

/* Against a loop over single bits. */
START_TEST(test_cidr_bits)
{
        random_seed();
        for (unsigned i = 0; i < 20000; i++) {
                unsigned n_bits = (unsigned)random_below(129), flipped = (unsigned)random_below(128);
                char host[ADDRESS_TEXT_MAX], text[ADDRESS_TEXT_MAX + 4], reason[CIDR_REASON_MAX] = "";
                struct address address = { .family = AF_INET6 };
                struct cidr cidr;

                address.ip[0] = 0x20; /* not mapped */
                for (unsigned bit = 8; bit < n_bits; bit++)
                        if (random_below(2))
                                address.ip[bit / 8] |= (uint8_t)(0x80 >> bit % 8);
                if (n_bits < 3)
                        address.ip[0] = 0;
                (void)snprintf(text, sizeof(text), "%s/%u", address_host(&address, host), n_bits);
                ck_assert_msg(cidr_parse(text, &cidr, reason) == 0, "%s: %s", text, reason);
                ck_assert(cidr_matches(&cidr, &address));
                address.ip[flipped / 8] ^= (uint8_t)(0x80 >> flipped % 8);
                ck_assert_msg(cidr_matches(&cidr, &address) == (flipped >= n_bits), "%s, bit %u", text,
                              flipped);
                (void)snprintf(text, sizeof(text), "%s/%u", address_host(&address, host), n_bits);
                ck_assert_int_eq(cidr_parse(text, &cidr, reason), flipped >= n_bits ? -ERANGE : 0);
        }
}
END_TEST

#define FORM                                                                                               \
        "it must be an address or a CIDR such as 10.0.0.0/8, or for UNIX sockets uid:N, user:NAME, gid:N " \
        "or "                                                                                              \
        "group:NAME"
#define BITS   "bits are set behind the prefix; did you mean "
#define IPV4   "the prefix of an IPv4 address is /0 to /32"
#define IPV6   "the prefix of an IPv6 address is /0 to /128"
#define MAPPED "the prefix of an IPv4-mapped address is /96 to /128"
#define NUMBER "it must be a number, 0 to 4294967294"

static const struct {
        const char *text, *reason;
} bad_rows[] = {
        { "10.0.0.1/8", BITS "10.0.0.0/8?" },
        { "10.0.0.1/0", BITS "0.0.0.0/0?" },
        { "192.0.2.7/31", BITS "192.0.2.6/31?" },
        { "2001:db8::1/64", BITS "2001:db8::/64?" },
        { "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/127",
          BITS "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe/127?" },
        { "::ffff:10.0.0.1/104", BITS "::ffff:10.0.0.0/104?" },
        { "::1/0", BITS "::/0?" },
        { "10.0.0.0/33", IPV4 },
        { "10.0.0.0/", IPV4 },
        { "10.0.0.0/x", IPV4 },
        { "10.0.0.0/8/8", IPV4 },
        { "10.0.0.0/-1", IPV4 },
        { "10.0.0.0/+8", IPV4 },
        { "10.0.0.0/255.0.0.0", IPV4 },
        { "10.0.0.0/99999999999999999999999", IPV4 },
        { "::/129", IPV6 },
        { "::/", IPV6 },
        { "::ffff:10.0.0.0/8", MAPPED },
        { "::ffff:10.0.0.0/129", MAPPED },
        { "", FORM },
        { "/8", FORM },
        { "10", FORM },
        { "10.0/8", FORM },
        { "010.0.0.0/8", FORM },
        { "localhost", FORM },
        { "[::1]", FORM },
        { "127.0.0.1:80", FORM },
        { "fe80::1%lo", FORM },
        { "unix", FORM },
        { "0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000", FORM },
        { "uid", FORM },
        { "usr:root", FORM },
        { "UID:0", FORM },
        { "uid:", NUMBER },
        { "uid:root", NUMBER },
        { "uid:-1", NUMBER },
        { "uid:4294967295", NUMBER },
        { "gid:", NUMBER },
        { "gid:4294967295", NUMBER },
        { "gid:18446744073709551616", NUMBER },
        { "user:", "there is no such user" },
        { "user:no-such-user", "there is no such user" },
        { "user:0", "there is no such user" },
        { "group:", "there is no such group" },
        { "group:no-such-group", "there is no such group" },
};

START_TEST(test_bad_rules)
{
        struct rules rules = { 0 };

        for (size_t i = 0; i < ARRAY_SIZE(bad_rows); i++) {
                char reason[RULE_REASON_MAX] = "";

                ck_assert_msg(rules_add(&rules, bad_rows[i].text, reason) == -EINVAL, "%s", bad_rows[i].text);
                ck_assert_msg(streq(reason, bad_rows[i].reason), "%s: %s", bad_rows[i].text, reason);
                ck_assert_uint_eq(rules.n, 0);
        }
        ck_assert_ptr_null(rules.items);
}
END_TEST

static struct rules rules_of(const char *list)
{
        char text[256], reason[RULE_REASON_MAX] = "";
        struct rules rules = { 0 };

        (void)snprintf(text, sizeof(text), "%s", list);
        for (char *p = text, *item = strsep(&p, " "); item && *item != '\0'; item = strsep(&p, " "))
                ck_assert_msg(rules_add(&rules, item, reason) == 0, "%s: %s", item, reason);
        return rules;
}

START_TEST(test_rules)
{
        static const gid_t groups[] = { 20, 30, 40 };
        static const struct {
                const char *list;
                const char *ip; /* NULL: a UNIX peer */
                uid_t uid;
                gid_t gid;
                size_t n_groups;
                bool is_match;
        } rows[] = {
                { "", "10.0.0.1", 0, 0, 0, false },
                { "", NULL, 0, 0, 3, false },
                { "10.0.0.0/8", "10.0.0.1", 0, 0, 0, true },
                { "10.0.0.0/8 192.0.2.7", "192.0.2.7", 0, 0, 0, true },
                { "10.0.0.0/8 192.0.2.7", "192.0.2.8", 0, 0, 0, false },
                { "10.0.0.0/8 ::/0", "::ffff:11.0.0.1", 0, 0, 0, false },
                { "0.0.0.0/0 ::/0", NULL, 0, 0, 0, false },
                { "uid:0 gid:0 user:root group:root", "0.0.0.0", 0, 0, 0, false },
                { "uid:1 gid:7", NULL, 1, 1, 3, true },
                { "uid:1 gid:7", NULL, 2, 7, 0, true },
                { "uid:1 gid:7", NULL, 2, 1, 3, false },
                { "uid:20", NULL, 1, 20, 3, false },
                { "gid:40", NULL, 1, 1, 3, true },
                { "gid:40", NULL, 1, 1, 2, false },
                { "uid:4294967294 gid:4294967294", NULL, (uid_t)-1, (gid_t)-1, 0, false },
                { "uid:4294967294", NULL, (uid_t)-2, (gid_t)-1, 0, true },
                { "user:root", NULL, 0, 5, 0, true },
                { "user:root", NULL, 5, 0, 0, false },
                { "group:root", NULL, 5, 0, 0, true },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct address address = { .family = AF_UNIX };
                struct rules rules = rules_of(rows[i].list);
                if (rows[i].ip)
                        address = address_of(rows[i].ip);
                const struct peer peer = { .address = &address,
                                           .uid = rows[i].uid,
                                           .gid = rows[i].gid,
                                           .groups = groups,
                                           .n_groups = rows[i].n_groups };
                ck_assert_msg(rules_match(&rules, &peer) == rows[i].is_match, "%zu: %s", i, rows[i].list);
                rules_deinit(&rules);
                ck_assert(rules.n == 0 && !rules.items);
        }
}
END_TEST

START_TEST(test_rules_have)
{
        struct rules rules = rules_of("::1 uid:1");

        ck_assert(rules_have(&rules, RULE_CIDR) && rules_have(&rules, RULE_USER));
        ck_assert(!rules_have(&rules, RULE_GROUP));
        rules_deinit(&rules);
        ck_assert(!rules_have(&rules, RULE_CIDR));
        rules = rules_of("group:root");
        ck_assert(rules_have(&rules, RULE_GROUP) && !rules_have(&rules, RULE_CIDR));
        rules_deinit(&rules);
}
END_TEST

UNIT_MAIN("cidr", test_cidr, test_cidr_bits, test_bad_rules, test_rules, test_rules_have)

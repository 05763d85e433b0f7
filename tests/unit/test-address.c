/*
 * What base/address promises: IPv4-mapped is IPv4, the same text both ways, and a constant sentence for every
 * endpoint that is none.
 */
#include "unit.h"

#include "base/address.h"
#include <arpa/inet.h>
#include <net/if.h>

static socklen_t fill(union address_socket *s, const char *ip, uint16_t port, uint32_t scope)
{
        memset(s, 0, sizeof(*s));
        if (strchr(ip, ':')) {
                s->in6.sin6_family = AF_INET6;
                s->in6.sin6_port = htons(port);
                s->in6.sin6_scope_id = scope;
                ck_assert_int_eq(inet_pton(AF_INET6, ip, &s->in6.sin6_addr), 1);
                return sizeof(s->in6);
        }
        s->in.sin_family = AF_INET;
        s->in.sin_port = htons(port);
        ck_assert_int_eq(inet_pton(AF_INET, ip, &s->in.sin_addr), 1);
        return sizeof(s->in);
}

START_TEST(test_text)
{
        static const struct {
                const char *ip;
                uint16_t port;
                uint32_t scope; /* 1 is lo */
                uint16_t family;
                const char *host, *text;
        } rows[] = {
                { "192.0.2.7", 51514, 0, AF_INET, "192.0.2.7", "192.0.2.7:51514" },
                { "255.255.255.255", 65535, 0, AF_INET, "255.255.255.255", "255.255.255.255:65535" },
                { "2001:db8::1", 7400, 0, AF_INET6, "2001:db8::1", "[2001:db8::1]:7400" },
                { "::ffff:192.0.2.7", 80, 0, AF_INET, "192.0.2.7", "192.0.2.7:80" },
                { "::ffff:0:0", 80, 3, AF_INET, "0.0.0.0", "0.0.0.0:80" },
                { "::", 1, 0, AF_INET6, "::", "[::]:1" },
                { "192.0.2.9", 0, 0, AF_INET, "192.0.2.9", "192.0.2.9:0" },
                { "fe80::1", 80, 1, AF_INET6, "fe80::1%lo", "[fe80::1%lo]:80" },
                { "fe80:1111:2222:3333:4444:5555:6666:7777", 65535, 4294967295, AF_INET6,
                  "fe80:1111:2222:3333:4444:5555:6666:7777%4294967295",
                  "[fe80:1111:2222:3333:4444:5555:6666:7777%4294967295]:65535" },
        };
        char buffer[ADDRESS_TEXT_MAX];

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                union address_socket s;
                struct address address, again;
                address_from_socket(&address, &s, fill(&s, rows[i].ip, rows[i].port, rows[i].scope));
                ck_assert_uint_eq(address.family, rows[i].family);
                ck_assert_uint_eq(address.port, rows[i].port);
                ck_assert_str_eq(address_host(&address, buffer), rows[i].host);
                ck_assert_str_eq(address_text(&address, buffer), rows[i].text);
                address_from_text(&again, buffer);
                ck_assert_str_eq(address_text(&again, buffer), rows[i].text);
                ck_assert_uint_eq(again.scope, address.scope);
        }
}
END_TEST

START_TEST(test_no_ip)
{
        union address_socket s = { .un = { .sun_family = AF_UNIX, .sun_path = "../../etc/x" } };
        struct address address;
        char buffer[ADDRESS_TEXT_MAX];

        address_from_socket(&address, &s, sizeof(s.un));
        ck_assert_str_eq(address_host(&address, buffer), "unix");
        ck_assert_str_eq(address_text(&address, buffer), "unix");
        address_from_socket(&address, &s, sizeof(sa_family_t)); /* an unnamed peer */
        ck_assert_uint_eq(address.family, AF_UNIX);
        address_from_socket(&address, &s, 0);
        ck_assert_uint_eq(address.family, AF_UNSPEC);
        ck_assert_str_eq(address_text(&address, buffer), "");
        (void)fill(&s, "192.0.2.7", 1, 0);
        address_from_socket(&address, &s, sizeof(s.in) - 1);
        ck_assert_uint_eq(address.family, AF_UNSPEC);
        (void)fill(&s, "::1", 1, 0);
        address_from_socket(&address, &s, sizeof(s.in6) - 1);
        ck_assert_uint_eq(address.family, AF_UNSPEC);
        s.sa.sa_family = AF_NETLINK;
        address_from_socket(&address, &s, sizeof(s));
        ck_assert_uint_eq(address.family, AF_UNSPEC);
        ck_assert_str_eq(address_host(&address, buffer), "");
}
END_TEST

START_TEST(test_endpoint)
{
        static const struct {
                const char *text, *shown;
        } rows[] = {
                { "127.0.0.1:7400", "127.0.0.1:7400" },
                { "0.0.0.0:1", "0.0.0.0:1" },
                { "[::1]:65535", "[::1]:65535" },
                { "[fe80::1%lo]:80", "[fe80::1%lo]:80" },
                { "*:7400", "[::]:7400" },
                { "[::ffff:192.0.2.7]:80", "192.0.2.7:80" },
        };
        char buffer[ADDRESS_TEXT_MAX];

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct endpoint endpoint;
                struct address address;
                const char *reason = NULL;
                ck_assert_msg(endpoint_parse(rows[i].text, &endpoint, &reason) == 0, "%s: %s", rows[i].text,
                              reason);
                ck_assert_int_eq(endpoint.kind, ENDPOINT_IP);
                ck_assert_str_eq(endpoint.text, rows[i].text);
                address_from_socket(&address, &endpoint.address, endpoint.length);
                ck_assert_str_eq(address_text(&address, buffer), rows[i].shown);
                endpoint_deinit(&endpoint);
                endpoint_deinit(&endpoint);
        }
}
END_TEST

START_TEST(test_endpoint_unix)
{
        struct endpoint endpoint;
        const char *reason;

        ck_assert_int_eq(endpoint_parse("/run/a.sock", &endpoint, &reason), 0);
        ck_assert_int_eq(endpoint.kind, ENDPOINT_UNIX);
        ck_assert_int_eq(endpoint.address.sa.sa_family, AF_UNIX);
        ck_assert_str_eq(endpoint.address.un.sun_path, "/run/a.sock");
        ck_assert_uint_eq(endpoint.length, offsetof(struct sockaddr_un, sun_path) + sizeof("/run/a.sock"));
        endpoint_deinit(&endpoint);

        ck_assert_int_eq(endpoint_parse("@name", &endpoint, &reason), 0);
        ck_assert_int_eq(endpoint.kind, ENDPOINT_ABSTRACT);
        ck_assert_mem_eq(endpoint.address.un.sun_path, "\0name", 6);
        ck_assert_uint_eq(endpoint.length, offsetof(struct sockaddr_un, sun_path) + 5);
        endpoint_deinit(&endpoint);

        ck_assert_int_eq(endpoint_parse("systemd:web", &endpoint, &reason), 0);
        ck_assert_int_eq(endpoint.kind, ENDPOINT_SYSTEMD);
        ck_assert_str_eq(endpoint.text, "systemd:web");
        endpoint_deinit(&endpoint);
}
END_TEST

#define NAME_107                                                                                      \
        "/123456789/123456789/123456789/123456789/123456789/123456789/123456789/123456789/123456789/" \
        "123456789.123456"
#define FOLDER_97                                                                                     \
        "/123456789/123456789/123456789/123456789/123456789/123456789/123456789/123456789/123456789/" \
        "123456"

START_TEST(test_endpoint_faults)
{
        static const char
                port[] = "the port must be 1 to 65535",
                form[] = "it must be host:port, [v6]:port, *:port, /path.sock, @abstract or systemd:NAME",
                numeric[] = "the host must be a numeric address",
                ipv6[] = "what stands in [] must be an IPv6 address",
                brackets[] = "an IPv6 address stands in [], the port after it",
                systemd[] = "the name after systemd: has a ':' or another character that no name may have";
        static const struct {
                const char *text, *reason;
        } rows[] = {
                { "", form },
                { "7400", form },
                { "localhost", form },
                { "127.0.0.1:", port },
                { "127.0.0.1:0", port },
                { "127.0.0.1:65536", port },
                { "127.0.0.1:99999999999", port },
                { "127.0.0.1:+80", port },
                { "127.0.0.1:http", port },
                { "127.1:80", numeric },
                { "localhost:80", numeric },
                { ":80", numeric },
                { "[:80", numeric },
                { "[]:80", ipv6 },
                { "[::1:80", brackets },
                { "::1:80", brackets },
                { "[127.0.0.1]:80", ipv6 },
                { "[::1]80", port },
                { "[fe80::1%no-such-if]:80", "there is no such network interface" },
                { "[fe80::1%4294967295]:80", "there is no such network interface" },
                { "/", "the name of the UNIX socket is missing" },
                { "@", "the name of the UNIX socket is missing" },
                { NAME_107 "7", "the name of a UNIX socket has at most 107 bytes" },
                { FOLDER_97 "7/s", "the folder of a UNIX socket has at most 97 bytes" },
                { "systemd:", "the name after systemd: is missing" },
                { "systemd:a:b", systemd },
                { "systemd:a\tb", systemd },
                { "systemd:\xc3\xa4", systemd },
                { "systemd:" NAME_107 NAME_107 NAME_107, "the name after systemd: has at most 255 bytes" },
                { NAME_107 ":80", "the name of a UNIX socket has at most 107 bytes" },
                { "x" NAME_107 ":80", "the address is too long" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct endpoint endpoint = { 0 };
                const char *reason = "";
                ck_assert_msg(endpoint_parse(rows[i].text, &endpoint, &reason) == -EINVAL, "%s",
                              rows[i].text);
                ck_assert_msg(streq(reason, rows[i].reason), "%s: %s", rows[i].text, reason);
                ck_assert_ptr_null(endpoint.text);
        }

        struct endpoint endpoint;
        const char *reason;
        ck_assert_int_eq(endpoint_parse(NAME_107, &endpoint, &reason), 0);
        endpoint_deinit(&endpoint);
        ck_assert_int_eq(endpoint_parse(FOLDER_97 "/123456789", &endpoint, &reason), 0);
        endpoint_deinit(&endpoint);
}
END_TEST

UNIT_MAIN("address", test_text, test_no_ip, test_endpoint, test_endpoint_unix, test_endpoint_faults)

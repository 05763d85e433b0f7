/*
 * address: one endpoint of a connection in 24 bytes, and as text. IPv4-mapped IPv6 addresses become IPv4 at
 * once, so that rules, limits and records never see them. A UNIX peer has no address: the name that it may
 * have bound is its own choice and never used; its text is "unix", its port text is empty. In place of an address
 * there is room for who it is.
 */
#pragma once

#include "base/util.h"
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

struct address {
        uint16_t family; /* AF_UNSPEC, AF_INET, AF_INET6 or AF_UNIX */
        uint16_t port;   /* host byte order; 0 for AF_UNIX */
        uint32_t scope;  /* sin6_scope_id, 0 where there is none */
        union {
                uint8_t ip[16]; /* AF_INET uses the first 4 */
                struct {
                        pid_t pid;
                        uid_t uid;
                } peer; /* AF_UNIX, where the kernel was asked; no other function here looks at it */
        };
};

/* What the socket calls take. */
union address_socket {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
        struct sockaddr_storage storage;
};

#define ADDRESS_TEXT_MAX 72 /* [v6%scope]:port and its NUL */

/* Never fails: an unknown family gives AF_UNSPEC. */
void address_from_socket(struct address *ret, const union address_socket *socket_address, socklen_t length);

/* Writes the host alone ("192.0.2.7", "2001:db8::1", "fe80::1%eth0", "unix", "" for AF_UNSPEC); returns `buffer`. */
const char *address_host(const struct address *address, char buffer[static ADDRESS_TEXT_MAX]);

/* Writes host and port ("192.0.2.7:51514", "[2001:db8::1]:7400", "unix"); returns `buffer`. */
const char *address_text(const struct address *address, char buffer[static ADDRESS_TEXT_MAX]);

/* Undoes address_text(); AF_UNSPEC where it cannot be, and for NULL. */
void address_from_text(struct address *ret, const char *text);

/*
 * One value of the key `listen`, parsed: host:port, [v6]:port, *:port (IPv4 and IPv6 wildcard, as [::]),
 * /path.sock, @abstract, systemd:NAME. Hosts are numeric addresses; nothing is resolved.
 */
enum endpoint_kind { ENDPOINT_IP, ENDPOINT_UNIX, ENDPOINT_ABSTRACT, ENDPOINT_SYSTEMD };

struct endpoint {
        enum endpoint_kind kind;
        char *text;                   /* as written; owned */
        union address_socket address; /* not for ENDPOINT_SYSTEMD */
        socklen_t length;
};

/* A path is bound under another name first: its last component, cut where need be, and so many bytes. */
#define ENDPOINT_SUFFIX_MAX 9

/*
 * Parses `text` into *ret, which the caller gives to endpoint_deinit(). Returns 0, -ENOMEM, or -EINVAL with
 * *ret_reason pointing to a constant sentence that says what is wrong ("the port must be 1 to 65535").
 */
int endpoint_parse(const char *text, struct endpoint *ret, const char **ret_reason);
void endpoint_deinit(struct endpoint *endpoint);

/* Whether both are one socket, however they are written: *:7400 is [::]:7400. */
bool endpoint_is_same(const struct endpoint *a, const struct endpoint *b);

/*
 * address: promises the same text for the same endpoint, and IPv4 for what is IPv4. It relies on inet_pton(3),
 * which takes numeric addresses only; it deliberately resolves no name, so nothing here waits for a network.
 */
#include "base/address.h"
#include "base/digits.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>

static void set_ipv6(struct address *ret, const struct in6_addr *ip, uint32_t scope)
{
        if (IN6_IS_ADDR_V4MAPPED(ip)) {
                ret->family = AF_INET;
                memcpy(ret->ip, ip->s6_addr + 12, 4);
                return;
        }
        ret->family = AF_INET6;
        ret->scope = scope;
        memcpy(ret->ip, ip->s6_addr, sizeof(ret->ip));
}

void address_from_socket(struct address *ret, const union address_socket *socket_address, socklen_t length)
{
        struct address address = { .family = AF_UNSPEC };
        sa_family_t family = AF_UNSPEC;

        if (length >= sizeof(family))
                family = socket_address->sa.sa_family;
        if (family == AF_INET && length >= sizeof(socket_address->in)) {
                address.family = AF_INET;
                address.port = ntohs(socket_address->in.sin_port);
                memcpy(address.ip, &socket_address->in.sin_addr, 4);
        } else if (family == AF_INET6 && length >= sizeof(socket_address->in6)) {
                address.port = ntohs(socket_address->in6.sin6_port);
                set_ipv6(&address, &socket_address->in6.sin6_addr, socket_address->in6.sin6_scope_id);
        } else if (family == AF_UNIX) {
                address.family = AF_UNIX;
        }
        *ret = address;
}

/* As inet_ntop(3), which is sprintf(3) inside. */
static char *put_ipv4(char *p, const uint8_t ip[static 4])
{
        for (size_t i = 0; i < 4; i++) {
                if (i > 0)
                        *p++ = '.';
                p = put_digits(p, ip[i], 10);
        }
        *p = '\0';
        return p;
}

const char *address_host(const struct address *address, char buffer[static ADDRESS_TEXT_MAX])
{
        char name[IF_NAMESIZE];

        buffer[0] = '\0';
        switch (address->family) {
        case AF_INET:
                (void)put_ipv4(buffer, address->ip);
                break;
        case AF_INET6:
                (void)inet_ntop(AF_INET6, address->ip, buffer, ADDRESS_TEXT_MAX);
                if (address->scope == 0)
                        break;
                size_t length = strlen(buffer);
                if (if_indextoname(address->scope, name))
                        (void)snprintf(buffer + length, ADDRESS_TEXT_MAX - length, "%%%s", name);
                else
                        (void)snprintf(buffer + length, ADDRESS_TEXT_MAX - length, "%%%u", address->scope);
                break;
        case AF_UNIX:
                (void)snprintf(buffer, ADDRESS_TEXT_MAX, "unix");
                break;
        default:
                break;
        }
        return buffer;
}

const char *address_text(const struct address *address, char buffer[static ADDRESS_TEXT_MAX])
{
        char host[ADDRESS_TEXT_MAX];

        if (address->family == AF_INET) {
                char *p = put_ipv4(buffer, address->ip);

                *p++ = ':';
                *put_digits(p, address->port, 10) = '\0';
                return buffer;
        }
        (void)address_host(address, host);
        if (address->family == AF_INET6)
                (void)snprintf(buffer, ADDRESS_TEXT_MAX, "[%.62s]:%u", host, (unsigned)address->port);
        else
                (void)snprintf(buffer, ADDRESS_TEXT_MAX, "%s", host);
        return buffer;
}

/* ---- endpoints ---- */

/* Each of these fills its result and returns NULL, or returns what is wrong. */
static const char bad_port[] = "the port must be 1 to 65535";
static const char no_interface[] = "there is no such network interface";

/* 0 included: a PROXY header may say so of somebody else. */
static const char *parse_port(const char *text, in_port_t *ret_port)
{
        unsigned port = 0;

        if (*text == '\0')
                return bad_port;

        for (const char *p = text; *p != '\0'; p++) {
                if (*p < '0' || *p > '9')
                        return bad_port;
                port = port * 10 + (unsigned)(*p - '0');
                if (port > UINT16_MAX)
                        return bad_port;
        }
        *ret_port = htons((uint16_t)port);
        return NULL;
}

static void set_in(struct endpoint *endpoint, struct in_addr ip, in_port_t port)
{
        endpoint->address.in =
                (struct sockaddr_in){ .sin_family = AF_INET, .sin_addr = ip, .sin_port = port };
        endpoint->length = sizeof(endpoint->address.in);
}

static void set_in6(struct endpoint *endpoint, struct in6_addr ip, in_port_t port, uint32_t scope)
{
        endpoint->address.in6 = (struct sockaddr_in6){
                .sin6_family = AF_INET6, .sin6_addr = ip, .sin6_port = port, .sin6_scope_id = scope
        };
        endpoint->length = sizeof(endpoint->address.in6);
}

/* A number is how address_host() writes an interface that is gone. 0: neither. */
static uint32_t parse_scope(const char *text)
{
        uint32_t index = if_nametoindex(text);

        return index == 0 && text[strspn(text, "0123456789")] == '\0' ? (uint32_t)strtoul(text, NULL, 10)
                                                                      : index;
}

/* `host` is what stood in the brackets; it is cut at its '%'. */
static const char *parse_ipv6(char *host, in_port_t port, struct endpoint *endpoint)
{
        char *scope = strchr(host, '%');
        uint32_t index = 0;
        struct in6_addr ip;

        if (scope) {
                *scope++ = '\0';
                index = parse_scope(scope);
                if (index == 0)
                        return no_interface;
        }
        if (inet_pton(AF_INET6, host, &ip) != 1)
                return "what stands in [] must be an IPv6 address";
        if (IN6_IS_ADDR_V4MAPPED(&ip)) {
                struct in_addr ipv4;
                memcpy(&ipv4, ip.s6_addr + 12, sizeof(ipv4));
                set_in(endpoint, ipv4, port);
        } else {
                set_in6(endpoint, ip, port, index);
        }
        return NULL;
}

static const char *parse_ip(const char *text, struct endpoint *endpoint)
{
        char host[ADDRESS_TEXT_MAX];
        const char *colon = strrchr(text, ':');
        struct in_addr ip;
        in_port_t port;

        if (!colon)
                return "it must be host:port, [v6]:port, *:port, /path.sock, @abstract or systemd:NAME";
        size_t length = (size_t)(colon - text);
        if (length >= sizeof(host))
                return "the address is too long";
        memcpy(host, text, length);
        host[length] = '\0';

        const char *reason = parse_port(colon + 1, &port);
        if (reason)
                return reason;
        if (streq(host, "*")) {
                set_in6(endpoint, in6addr_any, port, 0);
                return NULL;
        }
        if (host[0] == '[' && length > 1 && host[length - 1] == ']') {
                host[length - 1] = '\0';
                return parse_ipv6(host + 1, port, endpoint);
        }
        if (strchr(host, ':'))
                return "an IPv6 address stands in [], the port after it";
        if (inet_pton(AF_INET, host, &ip) != 1)
                return "the host must be a numeric address";
        set_in(endpoint, ip, port);
        return NULL;
}

/* An abstract name begins with a NUL byte and ends with its length; a path is NUL-terminated. */
static const char *parse_unix(const char *text, struct endpoint *endpoint)
{
        struct sockaddr_un *un = &endpoint->address.un;
        size_t length = strlen(text);

        if (length >= sizeof(un->sun_path))
                return "the name of a UNIX socket has at most 107 bytes";
        if (length == 1)
                return "the name of the UNIX socket is missing";
        if (endpoint->kind == ENDPOINT_UNIX &&
            (size_t)(strrchr(text, '/') - text) + ENDPOINT_SUFFIX_MAX >= sizeof(un->sun_path) - 1)
                return "the folder of a UNIX socket has at most 97 bytes";
        un->sun_family = AF_UNIX;
        memcpy(un->sun_path, text, length + 1);
        endpoint->length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
        if (endpoint->kind == ENDPOINT_ABSTRACT)
                un->sun_path[0] = '\0';
        else
                endpoint->length++;
        return NULL;
}

/* As systemd has it, for FileDescriptorName= (systemd.socket(5)). */
static const char *check_name(const char *name)
{
        if (*name == '\0')
                return "the name after systemd: is missing";
        if (strlen(name) > 255)
                return "the name after systemd: has at most 255 bytes";
        for (; *name != '\0'; name++)
                if (*name < ' ' || *name > '~' || *name == ':')
                        return "the name after systemd: has a ':' or another character that no name may have";
        return NULL;
}

/* What an address that is somebody else's may have. NULL: neither. */
static const char *nobody_listens_at(const union address_socket *address)
{
        char name[IF_NAMESIZE];

        if (address->in.sin_port == 0)
                return bad_port;
        if (address->sa.sa_family == AF_INET6 && address->in6.sin6_scope_id != 0 &&
            !if_indextoname(address->in6.sin6_scope_id, name))
                return no_interface;
        return NULL;
}

int endpoint_parse(const char *text, struct endpoint *ret, const char **ret_reason)
{
        struct endpoint endpoint = { .kind = ENDPOINT_IP };
        const char *reason = NULL;

        if (startswith(text, "systemd:")) {
                endpoint.kind = ENDPOINT_SYSTEMD;
                reason = check_name(text + strlen("systemd:"));
        } else if (text[0] == '/' || text[0] == '@') {
                endpoint.kind = text[0] == '/' ? ENDPOINT_UNIX : ENDPOINT_ABSTRACT;
                reason = parse_unix(text, &endpoint);
        } else {
                reason = parse_ip(text, &endpoint);
                reason = reason ? reason : nobody_listens_at(&endpoint.address);
        }
        if (reason) {
                *ret_reason = reason;
                return -EINVAL;
        }
        endpoint.text = strdup(text);
        if (!endpoint.text)
                return -ENOMEM;
        *ret = endpoint;
        return 0;
}

void endpoint_deinit(struct endpoint *endpoint)
{
        free(endpoint->text);
        endpoint->text = NULL;
}

bool endpoint_is_same(const struct endpoint *a, const struct endpoint *b)
{
        if (a->kind != b->kind)
                return false;
        if (a->kind == ENDPOINT_SYSTEMD)
                return streq(a->text, b->text);
        return a->length == b->length && memcmp(&a->address, &b->address, a->length) == 0;
}

void address_from_text(struct address *ret, const char *text)
{
        struct endpoint endpoint = { .kind = ENDPOINT_IP };

        *ret = (struct address){ .family = AF_UNSPEC };
        if (text && streq(text, "unix"))
                ret->family = AF_UNIX;
        else if (text && !parse_ip(text, &endpoint))
                address_from_socket(ret, &endpoint.address, endpoint.length);
}

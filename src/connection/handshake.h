/*
 * handshake: what must come before a client's resources are loaded: the PROXY header, then the hello line, each
 * where the configuration says so and never guessed. Pure: bytes go in, in any slices, and it is told how many
 * of them belonged to the handshake; the rest is the handler's. Its memory is all taken at the beginning.
 */
#pragma once

#include "base/address.h"

struct handshake;

enum handshake_result { HANDSHAKE_MORE, HANDSHAKE_DONE, HANDSHAKE_BAD };

/* One of the two, or both, must be wanted. `hello_max`: of the identity, in bytes. 0 or -ENOMEM. */
int handshake_new(struct handshake **ret_handshake, bool is_proxied, bool has_hello, size_t hello_max);
struct handshake *handshake_free(struct handshake *handshake);
DEFINE_CLEANUP(struct handshake *, handshake_free);

/*
 * How many bytes are worth looking at next, at least 1. More than the handshake's may come with them: look with
 * MSG_PEEK, and take what handshake_feed() says it used.
 */
size_t handshake_room(const struct handshake *handshake);

/*
 * Takes the next bytes; *ret_n_used of them (never more than `n`) are the handshake's. After a PROXY header with
 * LOCAL it is DONE without a hello line. BAD: the header is not one (proxy.h), or the line is longer than
 * hello_max, or not of the form [A-Za-z0-9_][A-Za-z0-9._:@-]* without "..".
 */
enum handshake_result handshake_feed(struct handshake *handshake, const void *bytes, size_t n,
                                     size_t *ret_n_used);

/* After DONE: the identity, which the caller frees; NULL where there is no hello line. */
char *handshake_take_identity(struct handshake *handshake);

/*
 * After DONE: whether a PROXY header gave addresses, which are then in *ret_source and *ret_destination (IPv4,
 * IPv6 or UNIX). Without a header, or with UNKNOWN, UNSPEC or LOCAL in it, the connection's own count.
 */
bool handshake_proxied(const struct handshake *handshake, struct address *ret_source,
                       struct address *ret_destination);

/* After DONE: LOCAL: the proxy itself looks whether we are there; nothing is to be loaded. */
bool handshake_is_local(const struct handshake *handshake);

/* After BAD: what was wrong, a constant sentence without a full stop ("the hello line is too long"). */
const char *handshake_fault(const struct handshake *handshake);

/*
 * handshake: what a client has to say before its resources are loaded: the hello line. Pure: bytes go in, in
 * any slices, and it is told how many of them belonged to the handshake; the rest is the handler's.
 */
#pragma once

#include "base/util.h"

struct handshake;

enum handshake_result { HANDSHAKE_MORE, HANDSHAKE_DONE, HANDSHAKE_BAD };

/* `hello_max`: of the identity, in bytes. 0 or -ENOMEM. */
int handshake_new(struct handshake **ret_handshake, size_t hello_max);
struct handshake *handshake_free(struct handshake *handshake);
DEFINE_CLEANUP(struct handshake *, handshake_free);

/* How many bytes are worth looking at next: no handshake needs more. At least 1. */
size_t handshake_room(const struct handshake *handshake);

/*
 * Takes the next bytes; *ret_n_used of them (never more than `n`) are the handshake's. BAD: the line is
 * longer than hello_max, or not of the form [A-Za-z0-9_][A-Za-z0-9._:@-]* without "..".
 */
enum handshake_result handshake_feed(struct handshake *handshake, const void *bytes, size_t n,
                                     size_t *ret_n_used);

/* After DONE: the identity; the caller frees it. */
char *handshake_take_identity(struct handshake *handshake);

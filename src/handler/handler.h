/*
 * handler: what becomes of the bytes that a ready connection receives. A handler sees every byte that came
 * before a FIN or RST, in order, once. It answers through the function that it is given, never by including
 * what is above it.
 */
#pragma once

#include "base/util.h"
#include "config/config.h"

struct handler_peer; /* the connection, opaque here */

/* Queues bytes for the peer. 0, or a negative errno: they cannot be sent any more. */
typedef int (*handler_send_fn)(struct handler_peer *peer, const void *bytes, size_t n);

struct handler {
        const char *name;
        /* Whether a peer's FIN is answered at once: everything that it sent is dealt with. */
        bool ends_at_fin;
        /* Bytes came; they are borrowed. 0, or a negative errno that ends the connection. */
        int (*receive)(struct handler_peer *peer, handler_send_fn send, const void *bytes, size_t n);
};

const struct handler *handler_of(enum handler_kind kind);

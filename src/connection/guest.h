/*
 * guest: a connection whose handler is a plugin (tetherd/plugin.h): what only such a one needs, and how it gets its
 * callbacks. None is called from inside a call that a plugin makes: what a call asks for is done when the callback
 * of this moment has returned, for the own connection at once, for others in the next turn.
 */
#pragma once

#include "connection/connection.h"
#include "handler/plugin.h"
#include "journal/events.h"

enum guest_state {
        GUEST_NEW,     /* its handshake callback is yet to come */
        GUEST_ASKED,   /* it is in it */
        GUEST_PENDING, /* it said so, and until then it waits */
        GUEST_TOLD,    /* it said that it is ready */
        GUEST_SERVED,  /* it is: bytes go to it */
        GUEST_BROKEN,  /* the socket is: what came before still goes to it */
        GUEST_DEAF,    /* likewise, but it does not want it any more */
        GUEST_LEAVING, /* the plugin ends it */
        GUEST_ENDED,   /* it is in its close callback */
};

struct tetherd_connection {
        struct connection *connection;
        struct tetherd_listener *hosted; /* counted */
        struct output *output;           /* NULL: nothing queued */
        void *data;
        struct list due;             /* in the list of those that asked for something */
        uint64_t pending_usec;       /* since when */
        uint64_t paused_usec;        /* since when nothing is received; 0: it is */
        const struct address *local; /* in its close callback, where there is no socket to ask */
        int error;                   /* broken by a send: its errno */
        uint8_t state;
};

/* What all of them share; a process has one at most. Idempotent. 0 or a negative errno. */
int guests_open(struct connections *connections);
void guests_close(struct connections *connections);

/* Makes it one, of the plugin at its listener. 0 or -ENOMEM. */
int guest_new(struct connection *connection, struct tetherd_listener *hosted);

/* The plugin is asked whether it may come in; the connection may have ended when it returns: then false. */
bool guest_accept(struct connection *connection);

/* Its declared resources are loaded, the plugin is asked; EVENT_LOADED follows, or its end. */
void guest_handshake(struct connection *connection);

/*
 * Bytes for the plugin; n = 0: its peer's FIN is kept. False: nothing more is to be read now; the connection may have
 * ended.
 */
bool guest_receive(struct connection *connection, const void *bytes, size_t n);

/*
 * Before anything else is done with it: whether the plugin asked for nothing meanwhile; if it did, that is done, and
 * the connection may have ended.
 */
bool guest_is_settled(struct connection *connection);

/* So many queued bytes went out. The connection may have ended when it returns. */
void guest_sent(struct connection *connection, size_t n);

/* The socket is broken. Returns whether guest_hear() is to be called with what came before. */
bool guest_break(struct connection *connection);
bool guest_hear(struct connection *connection, const void *bytes, size_t n); /* false: no more of it */

/* It ends like this; the guest is gone when it returns, if there was one. */
void guest_end(struct connection *connection, const struct event_ending *ending, const struct address *local);

/* The plugin ended it, before whatever is about to end it now. */
static inline bool guest_is_leaving(const struct connection *c)
{
        return c->is_guest && c->guest && c->guest->state == GUEST_LEAVING;
}

static inline bool guest_is_paused(const struct connection *c)
{
        return c->guest->paused_usec != 0;
}

/* discard (RFC 863) and echo (RFC 862). A handler does no I/O: it answers through `send`. */
#include "handler/handler.h"

static int discard_receive(struct handler_peer *peer _unused_, handler_send_fn send _unused_,
                           const void *bytes _unused_, size_t n _unused_)
{
        return 0;
}

static int echo_receive(struct handler_peer *peer, handler_send_fn send, const void *bytes, size_t n)
{
        return send(peer, bytes, n);
}

static const struct handler discard = { .name = "discard", .receive = discard_receive };
/* Reading stands still while something is unsent, so a FIN is read when all before it has been sent back. */
static const struct handler echo = { .name = "echo", .receive = echo_receive, .ends_at_fin = true };

const struct handler *handler_of(enum handler_kind kind)
{
        return kind == HANDLER_ECHO ? &echo : &discard;
}

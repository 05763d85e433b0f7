/*
 * stream: the bytes of a connection. What its socket says is read here, handed to the handshake or the handler,
 * and becomes an event of its life (connection.h).
 */
#pragma once

#include "connection/connection.h"

#define STREAM_READ_MAX ((size_t)32 * 1024) /* one read; so much may be unsent of what a handler answers */

#define EVENTS_ERROR   (EPOLLERR | EPOLLHUP)
#define EVENTS_RECEIVE (EPOLLIN | EPOLLRDHUP | EVENTS_ERROR)
#define EVENTS_SEND    (EPOLLOUT | EVENTS_ERROR)

/* For the connection's source. */
void stream_event(struct source *source);

/*
 * Sends what the kernel takes and keeps the rest; nothing may be kept already. 0, or a negative errno: nothing
 * can be sent any more, the caller calls stream_break().
 */
int stream_send(struct handler_peer *peer, const void *bytes, size_t n);

/* Ends the connection after a stream_send() that failed with `error` (positive). */
void stream_break(struct connection *connection, int error);

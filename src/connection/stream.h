/*
 * stream: the bytes of a connection. What its socket says is read here, handed to the handshake or the handler,
 * and becomes an event of its life (connection.h).
 */
#pragma once

#include "connection/connection.h"

#define STREAM_READ_MAX ((size_t)32 * 1024) /* one read; so much may be unsent of what a handler answers */

#define EVENTS_ERROR   (EPOLLERR | EPOLLHUP)
#define EVENTS_RECEIVE (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EVENTS_ERROR)
#define EVENTS_SEND    (EPOLLOUT | EVENTS_ERROR)

/* What a connection's socket is registered for, once. */
#define EVENTS_REGISTERED (EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP)
/* And from the moment on when a program has it: what comes and goes then would only wake us. */
#define EVENTS_GIVEN (EPOLLRDHUP | EVENTS_ERROR)

/* For the connection's source. */
void stream_event(struct source *source);

/*
 * Sends what the kernel takes and keeps the rest; nothing may be kept already, but of a plugin's. 0, or a negative
 * errno: nothing can be sent any more, the caller calls stream_break().
 */
int stream_send(struct handler_peer *peer, const void *bytes, size_t n);

/*
 * The last words before the socket is closed: sends the line as far as it goes, and takes what the peer has sent
 * already, since closing on unread bytes would be a RST, which may overtake the line.
 */
void stream_say_last(struct connection *connection, const char *line);
/* The same where all words are said. */
void stream_finish(struct connection *connection);

/*
 * The socket is to be given to a program: blocking, and of the events only those that are left to us. What is asked of
 * it here never blocks for that. 0 or a negative errno.
 */
int stream_give(struct connection *connection);

/*
 * A program had the socket, and may have it still, but for `is_ended`: then what it wrote last is to arrive. Before the
 * socket is closed.
 */
void stream_take_back(struct connection *connection, bool is_ended);

/* Its program has ended: where the peer broke the connection before, which may be why, that ends the connection. */
void stream_look_first(struct connection *connection);

/*
 * Bytes that others read or wrote: the kernel's counts are of the whole life (tcp(7), TCP_INFO); what it counts and
 * nobody has read yet is in its queue. UNIX sockets have none: nothing changes. `fd`: its socket.
 */
void stream_recount(struct connection *connection, int fd);

/* Ends the connection after a stream_send() that failed with `error` (positive). */
void stream_break(struct connection *connection, int error);

/*
 * What the socket says. Relied on: recv(2) gives every byte that came before a FIN or RST, then 0 or the errno,
 * and the errno only once; SO_ERROR takes it as well, so it is asked only after a recv that said 0, where a RST
 * hides behind a FIN. A read that gives less than was asked for is the end of what was there (epoll(7), Q9); but on TCP
 * it also stops at an urgent byte, which EPOLLPRI tells and the next read leaves out, and on UNIX sockets behind
 * descriptors that were passed, which are closed since nobody asks for them.
 */
#include "connection/stream.h"
#include "connection/guest.h"
#include "connection/listener.h"
#include <fcntl.h>
#include <linux/sockios.h>
#include <poll.h>
#include <sys/ioctl.h>

#define READ_BUDGET  4   /* reads a turn: nobody's flood keeps the others waiting */
#define DRAIN_BUDGET 256 /* reads of what a dead peer left: more than its receive buffer holds */

static struct connections *shared(const struct connection *c)
{
        return c->config->listener->connections;
}

static bool get_info(int fd, struct tcp_info *ret)
{
        socklen_t length = sizeof(*ret);

        return getsockopt(fd, IPPROTO_TCP, TCP_INFO, ret, &length) == 0;
}

/* What a call said ends the connection. */
static void end_observed(struct connection *c, enum operation operation, int error, int socket_error)
{
        struct observation observation = {
                .operation = operation,
                .error = error,
                .socket_error = socket_error,
                .was_half_closed = c->state == CONNECTION_HALF_CLOSED,
                .has_unsent = connection_output(c),
        };

        if (!c->is_unix && cause_needs_info(error ? error : socket_error))
                observation.has_info = get_info(c->fd, &observation.info);
        connection_end(c, cause_decide(&observation));
}

static int socket_error_of(const struct connection *c)
{
        int error = 0;
        socklen_t length = sizeof(error);

        return getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0 ? errno : error;
}

static void count_received(struct connection *c, size_t n)
{
        c->bytes_received += n;
        c->received_usec = loop_now(shared(c)->loop);
        c->paused = 0;
}

/* Takes what has come, and is not wanted any more, but where a plugin hears it; returns what the last recv said. */
static ssize_t drain(struct connection *c, bool is_heard)
{
        ssize_t n = 1;

        for (int i = 0; i < DRAIN_BUDGET && n > 0; i++) {
                n = recv(c->fd, shared(c)->scratch, STREAM_READ_MAX, MSG_DONTWAIT);
                if (n <= 0)
                        break;
                count_received(c, (size_t)n);
                is_heard = is_heard && guest_hear(c, shared(c)->scratch, (size_t)n);
        }
        return n;
}

/*
 * The connection is broken: what came before it broke is counted, and where no call has said why yet, recv does.
 */
static void end_broken(struct connection *c, enum operation operation, int error)
{
        ssize_t n = drain(c, error && c->is_guest && guest_break(c));

        if (error)
                end_observed(c, operation, error, 0);
        else if (n == 0)
                end_observed(c, OPERATION_RECEIVE, 0, socket_error_of(c));
        else if (n < 0 && !errno_is_spurious(errno))
                end_observed(c, OPERATION_RECEIVE, errno, 0);
        else if (n < 0)
                source_clear(&c->source, EVENTS_ERROR);
}

/* ---- sending ---- */

/* How many bytes went out, or a negative errno, with which some may have gone out as well; all of them are counted. */
static ssize_t send_some(struct connection *c, const uint8_t *bytes, size_t n)
{
        size_t n_sent = 0;

        while (n_sent < n) {
                ssize_t r = send(c->fd, bytes + n_sent, n - n_sent, MSG_NOSIGNAL | MSG_DONTWAIT);

                if (r < 0 && errno == EAGAIN)
                        break;
                if (r < 0 && errno != EINTR)
                        return -errno;
                if (r > 0) {
                        n_sent += (size_t)r;
                        c->bytes_sent += (size_t)r;
                }
        }
        return (ssize_t)n_sent;
}

/* What is sent makes room once it is more than half, so that each byte is moved once. 0 or -ENOMEM. */
static int output_append(struct output **output, const void *bytes, size_t n, uint64_t now_usec)
{
        struct output *o = *output;
        size_t n_bytes = o ? o->n_bytes : 0, n_room = o ? o->n_room : 0;

        if (n_bytes + n > n_room && o && o->n_sent > n_bytes / 2) {
                memmove(o->bytes, o->bytes + o->n_sent, n_bytes - o->n_sent);
                o->n_bytes = n_bytes = n_bytes - o->n_sent;
                o->n_sent = 0;
        }
        if (n_bytes + n > n_room) {
                n_room = MAX(n_bytes + n, 2 * n_bytes);
                o = realloc(o, sizeof(*o) + n_room);
                if (!o)
                        return -ENOMEM;
                if (!*output)
                        *o = (struct output){ .blocked_usec = now_usec };
                o->n_room = n_room;
                *output = o;
        }
        memcpy(o->bytes + o->n_bytes, bytes, n);
        o->n_bytes += n;
        return 0;
}

int stream_send(struct handler_peer *peer, const void *bytes, size_t n)
{
        struct connection *c = (struct connection *)peer;
        struct output **output = connection_output_slot(c);
        bool was_empty = !*output;
        ssize_t n_sent = was_empty ? send_some(c, bytes, n) : 0;
        int r;

        assert(was_empty ||
               c->is_guest); /* nothing is read, so nothing answered, while something is unsent */
        if (n_sent < 0)
                return (int)n_sent;
        if ((size_t)n_sent == n)
                return 0;
        r = output_append(output, (const uint8_t *)bytes + n_sent, n - (size_t)n_sent,
                          loop_now(shared(c)->loop));
        if (r < 0 || !was_empty)
                return r;
        source_clear(&c->source, EPOLLOUT);
        connection_rearm(c);
        return 0;
}

void stream_finish(struct connection *c)
{
        (void)shutdown(c->fd, SHUT_WR);
        (void)drain(c, false);
}

void stream_say_last(struct connection *c, const char *line)
{
        (void)send_some(c, (const uint8_t *)line, strlen(line));
        stream_finish(c);
}

static void flush(struct connection *c)
{
        struct output *output = connection_output(c);
        ssize_t n = send_some(c, output->bytes + output->n_sent, output->n_bytes - output->n_sent);

        if (n < 0) {
                end_broken(c, OPERATION_SEND, (int)-n);
                return;
        }
        if (n > 0) {
                output->n_sent += (size_t)n;
                if (!c->is_guest)
                        connection_was_paused(c, output->blocked_usec);
                output->blocked_usec = loop_now(shared(c)->loop);
        }
        if (output->n_sent == output->n_bytes) {
                free(output);
                *connection_output_slot(c) = NULL;
        } else {
                source_clear(&c->source, c->is_guest ? EPOLLOUT : EVENTS_SEND);
        }
        connection_rearm(c);
        if (n > 0 && c->is_guest)
                guest_sent(c, (size_t)n);
}

/* ---- receiving ---- */

static void keep_fin(struct connection *c)
{
        uint64_t now_usec = loop_now(shared(c)->loop);

        c->fin = MAX(span_pack(now_usec - MIN(c->received_usec, now_usec)), 1U);
}

/* recv said 0. */
static void receive_fin(struct connection *c)
{
        bool is_broken = c->source.pending & EVENTS_ERROR;
        int error = is_broken ? socket_error_of(c) : 0;
        bool is_closed = error || (is_broken && c->is_unix) || c->state == CONNECTION_HALF_CLOSED;

        if (is_closed || c->config->half_close == HALF_CLOSE_CLOSE ||
            handler_of(c->config->handler)->ends_at_fin) {
                end_observed(c, OPERATION_RECEIVE, 0, error);
                return;
        }
        keep_fin(c);
        connection_step(c, EVENT_FIN);
        if (c->is_guest)
                (void)guest_receive(c, shared(c)->scratch, 0);
}

/* Hands over what was read. False: nothing more is to be read now. */
static bool hand_over(struct connection *c, size_t n)
{
        const struct handler *handler = handler_of(c->config->handler);
        int r;

        if (c->is_guest)
                return guest_receive(c, shared(c)->scratch, n);
        r = handler->receive((struct handler_peer *)c, stream_send, shared(c)->scratch, n);
        if (r < 0)
                end_broken(c, OPERATION_SEND, -r);
        return r == 0 && !c->output;
}

/* Whether the end of what was there is known without another call. */
static bool is_drained(const struct connection *c, size_t n)
{
        return n < STREAM_READ_MAX && !c->is_unix &&
               !(c->source.pending & (EPOLLPRI | EPOLLRDHUP | EVENTS_ERROR));
}

static void receive(struct connection *c)
{
        for (int i = 0; i < READ_BUDGET; i++) {
                ssize_t n = recv(c->fd, shared(c)->scratch, STREAM_READ_MAX, 0);

                if (n == 0) {
                        receive_fin(c);
                        return;
                }
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno_is_spurious(errno)) {
                        source_clear(&c->source, EVENTS_RECEIVE);
                        return;
                }
                if (n < 0) {
                        end_observed(c, OPERATION_RECEIVE, errno, 0);
                        return;
                }

                count_received(c, (size_t)n);
                if (!hand_over(c, (size_t)n))
                        return;
                if (is_drained(c, (size_t)n)) {
                        source_clear(&c->source, EPOLLIN);
                        return;
                }
        }
}

/* While loading nothing is read: a FIN behind unread bytes is kept until ready, any other end counts at once. */
static void watch(struct connection *c)
{
        uint8_t byte;

        if (c->source.pending & EPOLLERR) {
                end_broken(c, OPERATION_RECEIVE, 0);
                return;
        }
        if (recv(c->fd, &byte, 1, MSG_PEEK) > 0) {
                source_want(&c->source, shared(c)->loop, EPOLLERR | (c->source.wanted & EPOLLOUT));
                return;
        }
        end_broken(c, OPERATION_RECEIVE, 0);
}

/* ---- a program has the socket: no byte and no FIN is ours ---- */

/* Where the program's call took the errno first, what is left has to do. */
static void end_given(struct connection *c)
{
        int error = socket_error_of(c);
        struct observation observation = {
                .operation = OPERATION_RECEIVE,
                .error = error,
                .was_half_closed = c->fin != 0,
                .is_hung_up = error == 0,
                .user_timeout_msec = c->config->user_timeout == USEC_INFINITY
                                             ? 0
                                             : (uint32_t)(c->config->user_timeout / USEC_PER_MSEC),
                .has_info = !c->is_unix && get_info(c->fd, &observation.info),
        };

        observation.has_unsent = observation.has_info && info_has_unacknowledged(&observation.info);
        if (error == EPIPE && c->fin == 0)
                keep_fin(c); /* it came before the RST */
        if (cause_is_over(&observation))
                connection_end(c, cause_decide(&observation));
}

void stream_look_first(struct connection *c)
{
        struct pollfd poll_fd = { .fd = c->fd };

        if (poll(&poll_fd, 1, 0) > 0)
                end_given(c);
}

static void oversee(struct connection *c)
{
        uint32_t news = c->source.pending;

        source_clear(&c->source, EVENTS_GIVEN);
        if (news & EVENTS_ERROR)
                end_given(c);
        else if (c->fin == 0)
                keep_fin(c);
}

int stream_give(struct connection *c)
{
        int flags = fcntl(c->fd, F_GETFL);

        /* Of the open file, which the program shares with us, not of our descriptor. */
        if (flags < 0 || fcntl(c->fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
                return -errno;
        source_clear(&c->source, EVENTS_GIVEN);
        return source_register(&c->source, shared(c)->loop, EVENTS_GIVEN);
}

void stream_take_back(struct connection *c, bool is_ended)
{
        const struct linger no_linger = { 0 };

        /* The socket's, which the program had: our close would wait for the peer, or throw the last words away. */
        (void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &no_linger, sizeof(no_linger));
        if (is_ended)
                stream_finish(c);
        (void)shutdown(c->fd, SHUT_RDWR);
}

#define STATE_CLOSE_WAIT 8 /* tcpi_state; <netinet/tcp.h> names it, and contradicts <linux/tcp.h> */

/* A FIN counts as a byte received. */
void stream_recount(struct connection *c, int fd)
{
        struct tcp_info info = { 0 };
        int n_unread = 0;

        if (c->is_unix || !get_info(fd, &info) || ioctl(fd, SIOCINQ, &n_unread) < 0)
                return;

        bool has_fin = info.tcpi_state == STATE_CLOSE_WAIT || c->fin != 0 || info_is_finished(&info);
        uint64_t bytes_received = info.tcpi_bytes_received - (uint32_t)n_unread - has_fin;

        if (bytes_received != c->bytes_received)
                c->received_usec = clock_usec(CLOCK_MONOTONIC) - info.tcpi_last_data_recv * USEC_PER_MSEC;
        c->bytes_received = bytes_received;
        c->bytes_sent = info_bytes_sent(&info);
}

/* ---- the handshake: exactly its bytes are taken from the socket, the rest stays for whoever comes next ---- */

static void shake(struct connection *c)
{
        enum handshake_result result = HANDSHAKE_MORE;

        do {
                size_t n_room = MIN(handshake_room(c->handshake), STREAM_READ_MAX), n_used;
                ssize_t n = recv(c->fd, shared(c)->scratch, n_room, MSG_PEEK);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno_is_spurious(errno)) {
                        source_clear(&c->source, EVENTS_RECEIVE);
                        return;
                }
                if (n <= 0) {
                        end_broken(c, OPERATION_RECEIVE, n < 0 ? errno : 0);
                        return;
                }
                result = handshake_feed(c->handshake, shared(c)->scratch, (size_t)n, &n_used);
                (void)recv(c->fd, shared(c)->scratch, n_used, 0); /* they are there: we just saw them */
                count_received(c, n_used);
                if (result == HANDSHAKE_BAD) {
                        connection_end(c, cause_local(CAUSE_PROTOCOL_ERROR, 0));
                        return;
                }
        } while (result == HANDSHAKE_MORE);

        connection_shaken(c);
}

/* What a plugin queued goes out whether or not it receives, and the other way round. */
static void serve_guest(struct connection *c)
{
        enum connection_state state = c->state;

        if (connection_output(c) && c->source.pending & EPOLLOUT)
                flush(c);
        if (c->state != state || !(c->source.pending & c->source.wanted & ~EPOLLOUT))
                return;
        if (state == CONNECTION_LOADING)
                watch(c);
        else
                receive(c);
}

void stream_event(struct source *source)
{
        struct connection *c = container_of(source, struct connection, source);

        if (connection_is_given(c)) {
                oversee(c);
                return;
        }
        if (c->is_guest && !guest_is_settled(c))
                return;
        if (c->is_guest && c->state != CONNECTION_HANDSHAKE) {
                serve_guest(c);
                return;
        }
        switch (c->state) {
        case CONNECTION_HANDSHAKE:
                shake(c);
                break;
        case CONNECTION_LOADING:
                watch(c);
                break;
        case CONNECTION_READY:
        case CONNECTION_HALF_CLOSED:
                if (c->output)
                        flush(c);
                else
                        receive(c);
                break;
        default:
                assert(false); /* the socket is closed */
        }
}

void stream_break(struct connection *c, int error)
{
        end_broken(c, OPERATION_SEND, error);
}

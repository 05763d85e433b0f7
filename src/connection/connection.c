/*
 * One client. What it relies on: epoll tells each edge once and struct source remembers it; recv(2) gives all
 * bytes that came before a FIN or RST, then 0 or the errno, once; a timer may fire too early for a deadline
 * that moved, never too late, so bytes that come only move `received_usec` and cost no timer operation.
 *
 * Not here: what an errno means (cause.c), which state follows (machine.c), how resources are released
 * (lease.c).
 */
#include "connection/connection.h"
#include "connection/listener.h"
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>

#define SCRATCH_SIZE ((size_t)32 * 1024)
#define READ_BUDGET  4 /* reads of SCRATCH_SIZE a turn: nobody's flood keeps the others waiting */

#define EVENTS_ERROR   (EPOLLERR | EPOLLHUP)
#define EVENTS_RECEIVE (EPOLLIN | EPOLLRDHUP | EVENTS_ERROR)
#define EVENTS_SEND    (EPOLLOUT | EVENTS_ERROR)

static void connection_step(struct connection *c, enum connection_event event);
static void connection_event(struct source *source);
static void connection_timer(struct timer *timer);

int connections_init(struct connections *connections, struct loop *loop, struct journal *journal,
                     struct leases *leases)
{
        *connections = (struct connections){
                .loop = loop,
                .journal = journal,
                .leases = leases,
                .n_max = UINT64_MAX,
                .next_id = 1,
                .scratch = malloc(SCRATCH_SIZE),
        };
        slab_init(&connections->slab, sizeof(struct connection));
        for (size_t i = 0; i < N_CONNECTION_STATES; i++)
                list_init(&connections->states[i]);
        return connections->scratch ? 0 : -ENOMEM;
}

void connections_deinit(struct connections *connections)
{
        assert(connections->n_connections == 0);
        slab_deinit(&connections->slab);
        free(connections->scratch);
        connections->scratch = NULL;
}

static struct connections *shared(const struct connection *c)
{
        return c->listener->connections;
}

static struct loop *loop_of(const struct connection *c)
{
        return shared(c)->loop;
}

static uint64_t now(const struct connection *c)
{
        return loop_now(loop_of(c));
}

static bool is_unix(const struct connection *c)
{
        return c->remote.family == AF_UNIX;
}

struct connection *connection_new(struct connections *connections)
{
        return slab_alloc(&connections->slab);
}

void connection_free(struct connections *connections, struct connection *c)
{
        slab_free(&connections->slab, c);
}

/* ---- the state, its deadline, what it is woken for ---- */

struct deadline {
        uint64_t usec;
        enum cause cause;
};

static void deadline_consider(struct deadline *deadline, uint64_t since_usec, uint64_t span_usec,
                              enum cause cause)
{
        uint64_t usec = deadline_after(since_usec, span_usec);

        if (usec < deadline->usec)
                *deadline = (struct deadline){ .usec = usec, .cause = cause };
}

static struct deadline connection_deadline(const struct connection *c)
{
        struct deadline deadline = { .usec = USEC_INFINITY, .cause = CAUSE_NONE };

        deadline_consider(&deadline, c->accepted_usec, c->config->max_age, CAUSE_MAX_AGE);
        switch (c->state) {
        case CONNECTION_HANDSHAKE:
                deadline_consider(&deadline, c->accepted_usec, c->config->handshake_timeout,
                                  CAUSE_HANDSHAKE_TIMEOUT);
                break;
        case CONNECTION_READY:
                if (!c->output)
                        deadline_consider(&deadline, c->received_usec + c->paused_msec * USEC_PER_MSEC,
                                          c->config->idle_timeout, CAUSE_IDLE_TIMEOUT);
                break;
        case CONNECTION_HALF_CLOSED:
                deadline_consider(&deadline, c->fin_usec, c->config->half_close_timeout,
                                  CAUSE_HALF_CLOSE_TIMEOUT);
                break;
        default:
                break;
        }
        /* TCP_USER_TIMEOUT does this for TCP. */
        if (c->output && is_unix(c))
                deadline_consider(&deadline, c->output->blocked_usec, c->config->detect_within,
                                  CAUSE_STALLED);
        return deadline;
}

static uint32_t connection_wanted(const struct connection *c)
{
        switch (c->state) {
        case CONNECTION_HANDSHAKE:
                return EVENTS_RECEIVE;
        case CONNECTION_LOADING:
                return EPOLLRDHUP | EVENTS_ERROR;
        case CONNECTION_READY:
                return c->output ? EVENTS_SEND : EVENTS_RECEIVE;
        case CONNECTION_HALF_CLOSED:
                return c->output ? EVENTS_SEND : EVENTS_ERROR;
        default:
                return 0;
        }
}

/* What the state and `output` ask for changed. */
static void connection_rearm(struct connection *c)
{
        source_want(&c->source, loop_of(c), connection_wanted(c));
        timer_arm(loop_wheel(loop_of(c)), &c->timer, connection_deadline(c).usec);
}

/* The only writer of the state. */
static void connection_enter(struct connection *c, enum connection_state state)
{
        list_unlink(&c->link);
        c->state = (uint8_t)state;
        list_append(&shared(c)->states[state], &c->link);
        if (state >= CONNECTION_RELEASING)
                timer_disarm(&c->timer);
        else
                connection_rearm(c);
}

/* ---- what is told of it ---- */

static void connection_local(const struct connection *c, struct address *ret)
{
        union address_socket address;
        socklen_t length = sizeof(address);

        *ret = (struct address){ .family = AF_UNSPEC };
        if (!is_unix(c) && getsockname(c->source.fd, &address.sa, &length) == 0)
                address_from_socket(ret, &address, length);
        else if (is_unix(c))
                ret->family = AF_UNIX;
}

static struct event_connection connection_facts(const struct connection *c, const struct address *local)
{
        return (struct event_connection){
                .id = c->id,
                .listener = c->config->name,
                .identity = c->identity,
                .remote = &c->remote,
                .local = local,
                .peer_pid = c->peer_pid,
                .peer_uid = c->peer_uid,
        };
}

/* Connected, said nothing, closed during the handshake: a port scan or a health check. */
static bool is_probe(const struct connection *c, const struct ending *ending)
{
        return c->state == CONNECTION_HANDSHAKE && c->bytes_received == 0 &&
               (ending->cause == CAUSE_EOF || ending->cause == CAUSE_RESET);
}

static struct event_ending connection_obituary(const struct connection *c, const struct ending *ending)
{
        bool is_shaken = c->state >= CONNECTION_LOADING, is_ready = c->state >= CONNECTION_READY;
        uint64_t shaken_usec = is_shaken ? c->shaken_usec : now(c);
        uint64_t ready_usec = is_ready ? c->ready_usec : now(c);
        struct event_ending obituary = {
                .cause = cause_name(ending->cause),
                .initiator = cause_initiator(ending->cause),
                .operation = operation_name(ending->operation),
                .state = connection_state_name(c->state),
                .sentence = cause_sentence(ending->cause),
                .error = ending->error,
                .priority = is_probe(c, ending)                             ? LOG_DEBUG
                            : is_shaken && cause_is_ordinary(ending->cause) ? LOG_INFO
                                                                            : LOG_NOTICE,
                .duration_usec = now(c) - c->accepted_usec,
                .handshake_usec = shaken_usec - c->accepted_usec,
                .load_usec = is_shaken ? ready_usec - shaken_usec : 0,
                .last_receive_usec = now(c) - c->received_usec,
                .bytes_received = c->bytes_received,
                .bytes_sent = c->bytes_sent,
        };

        if (!is_unix(c) && event_is_wanted(shared(c)->journal, obituary.priority, true)) {
                struct tcp_info info = { 0 };
                socklen_t length = sizeof(info);

                obituary.has_tcp_info = getsockopt(c->source.fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0;
                obituary.rtt_usec = info.tcpi_rtt;
                obituary.retransmits = info.tcpi_total_retrans;
        }
        return obituary;
}

/* ---- the end ---- */

static void connection_bury(struct grave *grave)
{
        struct connection *c = container_of(grave, struct connection, grave);
        struct connections *connections = shared(c);

        config_unref(c->config->config);
        listener_leave(c->listener);
        free(c->identity);
        connection_free(connections, c);
        connections->n_connections--;
        if (connections->freed)
                connections->freed(connections->userdata);
}

static void connection_close_socket(struct connection *c)
{
        int fd = c->source.fd;

        source_deinit(&c->source, loop_of(c));
        (void)fd_close(fd);
        free(c->output);
        c->output = NULL;
}

static void connection_close(struct connection *c)
{
        connection_enter(c, CONNECTION_CLOSED);
        list_unlink(&c->link);
        loop_bury(loop_of(c), &c->grave, connection_bury);
}

static void connection_settled(struct connection *c, struct event_ending *obituary,
                               const struct address *local)
{
        struct connection_edge edge = machine_step(c->state, EVENT_SETTLED);
        struct event_connection facts = connection_facts(c, local);

        assert(edge.action == ACTION_REPORT);
        obituary->release_usec = now(c) - (c->accepted_usec + obituary->duration_usec);
        event_closed(shared(c)->journal, &facts, obituary);
        connection_close(c);
}

void connection_end(struct connection *c, struct ending ending)
{
        struct connection_edge edge = machine_step(c->state, EVENT_END);
        struct lease *lease = c->state == CONNECTION_HANDSHAKE ? NULL : c->lease;
        struct address local = { .family = AF_UNSPEC };

        if (edge.action == ACTION_NONE)
                return;

        struct event_ending obituary = connection_obituary(c, &ending);

        if (!lease && event_is_wanted(shared(c)->journal, obituary.priority, true))
                connection_local(c, &local);
        connection_close_socket(c);
        if (edge.action == ACTION_REJECT) {
                struct event_connection facts = connection_facts(c, &local);

                if (c->handshake)
                        handshake_free(c->handshake);
                event_rejected(shared(c)->journal, &facts, &obituary);
                connection_close(c);
                return;
        }

        assert(edge.action == ACTION_RELEASE);
        connection_enter(c, edge.next);
        if (!lease) {
                connection_settled(c, &obituary, &local);
                return;
        }
        obituary.resource = lease_failed_resource(lease);
        lease_release(lease, &obituary);
}

/* What a call said ends the connection. */
static void connection_end_observed(struct connection *c, enum operation operation, int error,
                                    int socket_error)
{
        struct observation observation = {
                .operation = operation,
                .error = error,
                .socket_error = socket_error,
                .was_half_closed = c->state == CONNECTION_HALF_CLOSED,
                .has_unsent = c->output,
        };
        socklen_t length = sizeof(observation.info);

        if (!is_unix(c) && cause_needs_info(error ? error : socket_error))
                observation.has_info =
                        getsockopt(c->source.fd, IPPROTO_TCP, TCP_INFO, &observation.info, &length) == 0;
        connection_end(c, cause_decide(&observation));
}

static int socket_error_of(const struct connection *c)
{
        int error = 0;
        socklen_t length = sizeof(error);

        return getsockopt(c->source.fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0 ? errno : error;
}

static void connection_count_received(struct connection *c, size_t n)
{
        c->bytes_received += n;
        c->received_usec = now(c);
        c->paused_msec = 0;
}

/* The connection is broken: what came before it broke is counted, and where no call said why yet, recv does. */
static void connection_end_broken(struct connection *c, enum operation operation, int error)
{
        ssize_t n;

        while ((n = recv(c->source.fd, shared(c)->scratch, SCRATCH_SIZE, 0)) > 0 || (n < 0 && errno == EINTR))
                if (n > 0)
                        connection_count_received(c, (size_t)n);
        if (error) {
                connection_end_observed(c, operation, error, 0);
                return;
        }
        if (n == 0) {
                connection_end_observed(c, OPERATION_RECEIVE, 0, socket_error_of(c));
                return;
        }
        if (!errno_is_spurious(errno)) {
                connection_end_observed(c, OPERATION_RECEIVE, errno, 0);
                return;
        }
        source_clear(&c->source, EVENTS_ERROR);
}

static void connection_timer(struct timer *timer)
{
        struct connection *c = container_of(timer, struct connection, timer);
        struct deadline deadline = connection_deadline(c);
        struct pollfd poll_fd = { .fd = c->source.fd, .events = POLLIN | POLLRDHUP };

        if (deadline.usec > now(c)) {
                timer_arm(loop_wheel(loop_of(c)), &c->timer, deadline.usec);
                return;
        }
        /* Bytes, or an end, that wait to be read were there first, however late this turn is. */
        if (deadline.cause == CAUSE_IDLE_TIMEOUT && poll(&poll_fd, 1, 0) > 0) {
                c->source.pending |= EPOLLIN;
                connection_rearm(c);
                return;
        }
        connection_end(c, cause_local(deadline.cause, 0));
}

/* ---- sending ---- */

static ssize_t send_some(int fd, const uint8_t *bytes, size_t n)
{
        size_t n_sent = 0;

        while (n_sent < n) {
                ssize_t r = send(fd, bytes + n_sent, n - n_sent, MSG_NOSIGNAL);

                if (r >= 0)
                        n_sent += (size_t)r;
                else if (errno == EAGAIN)
                        break;
                else if (errno != EINTR)
                        return -errno;
        }
        return (ssize_t)n_sent;
}

static int connection_send(struct handler_peer *peer, const void *bytes, size_t n)
{
        struct connection *c = (struct connection *)peer;
        ssize_t n_sent = send_some(c->source.fd, bytes, n);

        assert(!c->output); /* nothing is read, so nothing answered, while something is unsent */
        if (n_sent < 0)
                return (int)n_sent;
        c->bytes_sent += (size_t)n_sent;
        if ((size_t)n_sent == n)
                return 0;

        size_t n_left = n - (size_t)n_sent;

        c->output = malloc(sizeof(*c->output) + n_left);
        if (!c->output)
                return -ENOMEM;
        *c->output = (struct output){ .n_bytes = n_left, .blocked_usec = now(c) };
        memcpy(c->output->bytes, (const uint8_t *)bytes + n_sent, n_left);
        source_clear(&c->source, EPOLLOUT);
        connection_rearm(c);
        return 0;
}

static void connection_flush(struct connection *c)
{
        struct output *output = c->output;
        ssize_t n = send_some(c->source.fd, output->bytes + output->n_sent, output->n_bytes - output->n_sent);

        if (n < 0) {
                connection_end_broken(c, OPERATION_SEND, (int)-n);
                return;
        }
        if (n > 0) {
                output->n_sent += (size_t)n;
                c->bytes_sent += (size_t)n;
                c->paused_msec += (uint32_t)((now(c) - output->blocked_usec) / USEC_PER_MSEC);
                output->blocked_usec = now(c);
        }
        if (output->n_sent == output->n_bytes) {
                free(output);
                c->output = NULL;
        } else {
                source_clear(&c->source, EVENTS_SEND);
        }
        connection_rearm(c);
}

/* ---- receiving ---- */

/* recv said 0. */
static void connection_fin(struct connection *c)
{
        bool is_broken = c->source.pending & EVENTS_ERROR;
        int error = is_broken ? socket_error_of(c) : 0;
        bool is_closed = error || (is_broken && is_unix(c)) || c->state == CONNECTION_HALF_CLOSED;

        if (is_closed || c->config->half_close == HALF_CLOSE_CLOSE ||
            handler_of(c->config->handler)->ends_at_fin) {
                connection_end_observed(c, OPERATION_RECEIVE, 0, error);
                return;
        }
        c->fin_usec = now(c);
        connection_step(c, EVENT_FIN);
}

static void connection_receive(struct connection *c)
{
        const struct handler *handler = handler_of(c->config->handler);

        for (int i = 0; i < READ_BUDGET; i++) {
                ssize_t n = recv(c->source.fd, shared(c)->scratch, SCRATCH_SIZE, 0);
                int r;

                if (n == 0) {
                        connection_fin(c);
                        return;
                }
                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno_is_spurious(errno)) {
                        source_clear(&c->source, EVENTS_RECEIVE);
                        return;
                }
                if (n < 0) {
                        connection_end_observed(c, OPERATION_RECEIVE, errno, 0);
                        return;
                }

                connection_count_received(c, (size_t)n);
                r = handler->receive((struct handler_peer *)c, connection_send, shared(c)->scratch,
                                     (size_t)n);
                if (r < 0) {
                        connection_end_broken(c, OPERATION_SEND, -r);
                        return;
                }
                if (c->output)
                        return;
                /* epoll(7): a short read is the end of what was there, unless an end was told with it. */
                if ((size_t)n < SCRATCH_SIZE && !(c->source.pending & (EPOLLRDHUP | EVENTS_ERROR))) {
                        source_clear(&c->source, EPOLLIN);
                        return;
                }
        }
}

/* While loading nothing is read: a FIN behind unread bytes is kept until ready, any other end counts at once. */
static void connection_watch(struct connection *c)
{
        uint8_t byte;

        if (c->source.pending & EPOLLERR) {
                connection_end_broken(c, OPERATION_RECEIVE, 0);
                return;
        }
        if (recv(c->source.fd, &byte, 1, MSG_PEEK) > 0) {
                source_want(&c->source, loop_of(c), EPOLLERR);
                return;
        }
        connection_end_broken(c, OPERATION_RECEIVE, 0);
}

/* ---- the handshake: exactly its bytes are taken from the socket, the rest stays for whoever comes next ---- */

static void connection_shaken(struct connection *c)
{
        handshake_free(c->handshake);
        c->handshake = NULL;
        c->shaken_usec = now(c);
        connection_step(c, EVENT_SHAKEN);
}

static void connection_shake(struct connection *c)
{
        enum handshake_result result;

        do {
                size_t n_room = MIN(handshake_room(c->handshake), SCRATCH_SIZE), n_used;
                ssize_t n = recv(c->source.fd, shared(c)->scratch, n_room, MSG_PEEK);

                if (n < 0 && errno == EINTR)
                        continue;
                if (n < 0 && errno_is_spurious(errno)) {
                        source_clear(&c->source, EVENTS_RECEIVE);
                        return;
                }
                if (n <= 0) {
                        connection_end_broken(c, OPERATION_RECEIVE, n < 0 ? errno : 0);
                        return;
                }
                result = handshake_feed(c->handshake, shared(c)->scratch, (size_t)n, &n_used);
                (void)recv(c->source.fd, shared(c)->scratch, n_used,
                           0); /* they are there: we just saw them */
                connection_count_received(c, n_used);
                if (result == HANDSHAKE_BAD) {
                        connection_end(c, cause_local(CAUSE_PROTOCOL_ERROR, 0));
                        return;
                }
        } while (result == HANDSHAKE_MORE);

        c->identity = handshake_take_identity(c->handshake);
        connection_shaken(c);
}

static void connection_event(struct source *source)
{
        struct connection *c = container_of(source, struct connection, source);

        switch (c->state) {
        case CONNECTION_HANDSHAKE:
                connection_shake(c);
                break;
        case CONNECTION_LOADING:
                connection_watch(c);
                break;
        case CONNECTION_READY:
        case CONNECTION_HALF_CLOSED:
                if (c->output)
                        connection_flush(c);
                else
                        connection_receive(c);
                break;
        default:
                assert(false); /* the socket is closed */
        }
}

/* ---- what is done on the way into a state ---- */

static void connection_begin_handshake(struct connection *c)
{
        if (!c->config->hello) {
                connection_shaken(c);
                return;
        }
        if (handshake_new(&c->handshake, c->config->hello_max) < 0)
                connection_end(c, cause_local(CAUSE_EXHAUSTED, ENOMEM));
}

static void lease_is_loaded(struct lease *lease _unused_, void *userdata)
{
        connection_step(userdata, EVENT_LOADED);
}

static void lease_is_failed(struct lease *lease _unused_, enum lease_failure failure, void *userdata)
{
        connection_end(
                userdata,
                cause_local(failure == LEASE_LOAD_TIMEOUT ? CAUSE_LOAD_TIMEOUT : CAUSE_LOAD_FAILED, 0));
}

static void lease_is_settled(struct lease *lease, void *userdata)
{
        struct connection *c = userdata;

        connection_settled(c, &lease->ending, &lease->subject.local);
        c->lease = lease_free(lease);
}

static void connection_load(struct connection *c)
{
        static const struct lease_callbacks callbacks = {
                .loaded = lease_is_loaded,
                .failed = lease_is_failed,
                .settled = lease_is_settled,
        };
        const struct listener_config *config = c->config;
        struct lease_subject subject = {
                .id = c->id,
                .listener = c->config->name,
                .identity = c->identity,
                .remote = c->remote,
                .peer_pid = c->peer_pid,
                .peer_uid = c->peer_uid,
        };

        if (config->n_resources == 0) {
                connection_step(c, EVENT_LOADED);
                return;
        }
        connection_local(c, &subject.local);
        if (lease_new(&c->lease, shared(c)->leases, config->config, config->resources, config->n_resources,
                      &subject, &callbacks, c) < 0) {
                connection_end(c, cause_local(CAUSE_EXHAUSTED, ENOMEM));
                return;
        }
        lease_load(c->lease);
}

struct greeting_scope {
        const struct connection *c;
        char buffer[ADDRESS_TEXT_MAX];
};

static const char *greeting_specifier(void *userdata, char letter, const char *name)
{
        struct greeting_scope *scope = userdata;
        const struct connection *c = scope->c;

        switch (letter) {
        case 'i':
                (void)snprintf(scope->buffer, sizeof(scope->buffer), "%" PRIx64, c->id);
                return scope->buffer;
        case 'l':
                return c->config->name;
        case 'a':
                return address_host(&c->remote, scope->buffer);
        case 'p':
                if (is_unix(c))
                        return "";
                (void)snprintf(scope->buffer, sizeof(scope->buffer), "%" PRIu16, c->remote.port);
                return scope->buffer;
        case 'h':
                return c->identity ? c->identity : "";
        case '{':
                return c->lease ? lease_value(c->lease, name) : NULL;
        default:
                return NULL;
        }
}

static int connection_send_greeting(struct connection *c)
{
        struct greeting_scope scope = { .c = c };
        _cleanup_free_ char *text = NULL, *line = NULL, *reason = NULL;

        if (c->config->greeting[0] == '\0')
                return 0;
        if (specifier_expand(c->config->greeting, 0, greeting_specifier, &scope, &text, &reason) < 0 ||
            asprintf(&line, "%s\n", text) < 0)
                return -ENOMEM;
        return connection_send((struct handler_peer *)c, line, strlen(line));
}

static void connection_serve(struct connection *c)
{
        int r;

        if (event_is_wanted(shared(c)->journal, LOG_INFO, false)) {
                struct address local;

                connection_local(c, &local);
                struct event_connection facts = connection_facts(c, &local);

                event_ready(shared(c)->journal, &facts, c->shaken_usec - c->accepted_usec,
                            c->ready_usec - c->shaken_usec);
        }
        r = connection_send_greeting(c);
        if (r < 0)
                connection_end_broken(c, OPERATION_SEND, -r);
}

static void connection_step(struct connection *c, enum connection_event event)
{
        struct connection_edge edge = machine_step(c->state, event);

        if (edge.next == CONNECTION_READY)
                c->ready_usec = c->received_usec = now(c);
        connection_enter(c, edge.next);
        switch (edge.action) {
        case ACTION_GREET:
                connection_begin_handshake(c);
                break;
        case ACTION_LOAD:
                connection_load(c);
                break;
        case ACTION_SERVE:
                connection_serve(c);
                break;
        case ACTION_HOLD:
                break;
        default:
                assert(false); /* the ways out are connection_end() and connection_settled() */
        }
}

void connection_open(struct connection *c, struct listener *listener, int fd, const struct address *remote)
{
        struct connections *connections = listener->connections;
        int r;

        c->listener = listener_join(listener);
        c->config = listener->config;
        (void)config_ref(c->config->config);
        c->id = connections->next_id++;
        c->remote = *remote;
        c->accepted_usec = c->received_usec = now(c);
        c->state = CONNECTION_ACCEPT;
        list_init(&c->link);
        timer_init(&c->timer, connection_timer);
        connections->n_connections++;
        connections->n_accepted++;
        if (is_unix(c)) {
                struct ucred peer = { 0 };
                socklen_t length = sizeof(peer);

                (void)getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length);
                c->peer_pid = peer.pid;
                c->peer_uid = peer.uid;
        }

        r = source_init(&c->source, connections->loop, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 0,
                        connection_event);
        if (r < 0) {
                (void)fd_close(fd);
                connection_end(c, cause_local(errno_is_exhaustion(-r) ? CAUSE_EXHAUSTED : CAUSE_ERROR, -r));
                return;
        }
        if (event_is_wanted(connections->journal, LOG_DEBUG, false)) {
                struct address local;

                connection_local(c, &local);
                struct event_connection facts = connection_facts(c, &local);

                event_accepted(connections->journal, &facts);
        }
        connection_step(c, EVENT_ADMITTED);
}

void connections_end_all(struct connections *connections)
{
        for (enum connection_state state = CONNECTION_HANDSHAKE; state < CONNECTION_RELEASING; state++)
                list_for_each (node, &connections->states[state])
                        connection_end(container_of(node, struct connection, link),
                                       cause_local(CAUSE_SHUTDOWN, 0));
}

void connections_abandon_all(struct connections *connections)
{
        for (struct list *node; (node = connections->states[CONNECTION_RELEASING].next) !=
                                &connections->states[CONNECTION_RELEASING];) {
                struct connection *c = container_of(node, struct connection, link);

                c->lease = lease_free(c->lease);
                connection_close(c);
        }
}

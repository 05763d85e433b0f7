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
#include "connection/stream.h"
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>

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
                .scratch = malloc(STREAM_READ_MAX),
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

bool connection_is_unix(const struct connection *c)
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
        if (c->output && connection_is_unix(c))
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
void connection_rearm(struct connection *c)
{
        source_want(&c->source, loop_of(c), connection_wanted(c));
        timer_arm(loop_wheel(loop_of(c)), &c->timer, connection_deadline(c).usec);
}

/* The only writer of the state. A closed connection is in no list: it waits for its burial. */
static void connection_enter(struct connection *c, enum connection_state state)
{
        struct connections *connections = shared(c);

        if (list_is_linked(&c->link)) {
                list_unlink(&c->link);
                connections->n_in_state[c->state]--;
        }
        c->state = (uint8_t)state;
        if (state != CONNECTION_CLOSED) {
                list_append(&connections->states[state], &c->link);
                connections->n_in_state[state]++;
        }
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
        if (!connection_is_unix(c) && getsockname(c->source.fd, &address.sa, &length) == 0)
                address_from_socket(ret, &address, length);
        else if (connection_is_unix(c))
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

        if (!connection_is_unix(c) && event_is_wanted(shared(c)->journal, obituary.priority, true)) {
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

/* ---- what is done on the way into a state ---- */

void connection_shaken(struct connection *c)
{
        if (c->handshake)
                c->identity = handshake_take_identity(c->handshake);
        c->handshake = handshake_free(c->handshake);
        c->shaken_usec = now(c);
        connection_step(c, EVENT_SHAKEN);
}

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
                if (connection_is_unix(c))
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
        return stream_send((struct handler_peer *)c, line, strlen(line));
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
                stream_break(c, -r);
}

void connection_step(struct connection *c, enum connection_event event)
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
        if (connection_is_unix(c)) {
                struct ucred peer = { 0 };
                socklen_t length = sizeof(peer);

                (void)getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length);
                c->peer_pid = peer.pid;
                c->peer_uid = peer.uid;
        }

        r = source_init(&c->source, connections->loop, fd, EPOLLIN | EPOLLOUT | EPOLLRDHUP, 0, stream_event);
        if (r < 0) {
                (void)fd_close(fd);
                connection_end(c, (struct ending){
                                          .cause = errno_is_exhaustion(-r) ? CAUSE_EXHAUSTED : CAUSE_ERROR,
                                          .operation = OPERATION_ACCEPT,
                                          .error = -r,
                                  });
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

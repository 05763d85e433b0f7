/*
 * One client. What it relies on: epoll tells each edge once and struct source remembers it; recv(2) gives all
 * bytes that came before a FIN or RST, then 0 or the errno, once; a timer may fire too early for a deadline
 * that moved, never too late, so bytes that come only move `received_usec` and cost no timer operation.
 *
 * Not here: what an errno means (cause.c), which state follows (machine.c), how resources are released
 * (lease.c).
 */
#include "connection/connection.h"
#include "connection/guest.h"
#include "connection/listener.h"
#include "connection/stream.h"
#include "service/store.h"
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>

#define PEER_GROUPS_MAX 1024 /* of a UNIX peer; with more of them no `group` rule matches */

/* With what the slab adds, 200 bytes of memory for an idle connection are promised. */
_Static_assert(sizeof(struct connection) <= 192,
               "struct connection outgrew what an idle connection may take");

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
        return connections->scratch ? 0 : -ENOMEM;
}

void connections_deinit(struct connections *connections)
{
        assert(connections->n_connections == 0);
        guests_close(connections);
        slab_deinit(&connections->slab);
        free(connections->scratch);
        connections->scratch = NULL;
}

static struct connections *shared(const struct connection *c)
{
        return c->config->listener->connections;
}

static struct loop *loop_of(const struct connection *c)
{
        return shared(c)->loop;
}

static uint64_t now(const struct connection *c)
{
        return loop_now(loop_of(c));
}

bool connections_reserve(struct connections *connections)
{
        return slab_reserve(&connections->slab);
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

struct output *connection_output(const struct connection *c)
{
        return c->is_guest ? c->guest->output : c->output;
}

struct output **connection_output_slot(struct connection *c)
{
        return c->is_guest ? &c->guest->output : &c->output;
}

/* A plugin says when it does not want to receive; the others do not while their answer is unsent. */
static bool wants_to_receive(const struct connection *c)
{
        return c->is_guest ? !guest_is_paused(c) : !c->output;
}

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
        const struct output *output = connection_output(c);

        deadline_consider(&deadline, c->accepted_usec, c->config->max_age, CAUSE_MAX_AGE);
        switch (c->state) {
        case CONNECTION_HANDSHAKE:
                deadline_consider(&deadline, c->accepted_usec, c->config->handshake_timeout,
                                  CAUSE_HANDSHAKE_TIMEOUT);
                break;
        case CONNECTION_LOADING:
                if (c->is_guest && c->guest->state == GUEST_PENDING)
                        deadline_consider(&deadline, c->guest->pending_usec, c->config->handler_timeout,
                                          CAUSE_HANDLER);
                break;
        case CONNECTION_READY:
                if (wants_to_receive(c) && !connection_is_given(c))
                        deadline_consider(&deadline, c->received_usec + span_unpack(c->paused),
                                          c->config->idle_timeout, CAUSE_IDLE_TIMEOUT);
                break;
        case CONNECTION_HALF_CLOSED:
                deadline_consider(&deadline, c->received_usec + span_unpack(c->fin),
                                  c->config->half_close_timeout, CAUSE_HALF_CLOSE_TIMEOUT);
                break;
        default:
                break;
        }
        /* TCP_USER_TIMEOUT does this for TCP. */
        if (output && c->is_unix)
                deadline_consider(&deadline, output->blocked_usec, c->config->detect_within, CAUSE_STALLED);
        return deadline;
}

bool connection_is_given(const struct connection *c)
{
        return c->state >= CONNECTION_LOADING && c->lease && c->lease->program;
}

static uint32_t connection_wanted(const struct connection *c)
{
        uint32_t out = connection_output(c) ? EPOLLOUT : 0;

        if (connection_is_given(c))
                return EVENTS_GIVEN;
        switch (c->state) {
        case CONNECTION_HANDSHAKE:
                return EVENTS_RECEIVE;
        case CONNECTION_LOADING:
                return EPOLLRDHUP | EVENTS_ERROR | out;
        case CONNECTION_READY:
                return (wants_to_receive(c) ? EVENTS_RECEIVE : EVENTS_ERROR) | out;
        case CONNECTION_HALF_CLOSED:
                return EVENTS_ERROR | out;
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

void connection_was_paused(struct connection *c, uint64_t since_usec)
{
        c->paused = span_pack(span_unpack(c->paused) + now(c) - MIN(since_usec, now(c)));
}

/* The only writer of the state. A closed connection is not counted: it waits for its burial. */
static void connection_enter(struct connection *c, enum connection_state state)
{
        struct connections *connections = shared(c);

        if (c->state != CONNECTION_ACCEPT)
                connections->n_in_state[c->state]--;
        c->state = (uint8_t)state;
        if (state != CONNECTION_CLOSED)
                connections->n_in_state[state]++;
        if (state >= CONNECTION_RELEASING)
                timer_disarm(&c->timer);
}

/* ---- what is told of it ---- */

void connection_local(const struct connection *c, struct address *ret)
{
        struct connections *connections = shared(c);
        union address_socket address;
        socklen_t length = sizeof(address);

        *ret = (struct address){ .family = c->is_unix ? AF_UNIX : AF_UNSPEC };
        if (c->is_unix)
                return;
        if (connections->local_id == c->id) { /* a short life asks twice, one after the other */
                *ret = connections->local;
                return;
        }
        if (getsockname(c->fd, &address.sa, &length) < 0)
                return;
        address_from_socket(ret, &address, length);
        connections->local = *ret;
        connections->local_id = c->id;
}

struct event_connection connection_facts(const struct connection *c, const struct address *local)
{
        return (struct event_connection){
                .id = c->id,
                .listener = c->config->name,
                .identity = c->identity,
                .remote = &c->remote,
                .local = local,
                .peer_pid = connection_peer_pid(c),
                .peer_uid = connection_peer_uid(c),
        };
}

/* Connected, said nothing, closed during the handshake: a port scan; or a proxy that looks after us. */
static bool is_probe(const struct connection *c, const struct ending *ending)
{
        if (c->state != CONNECTION_HANDSHAKE || (ending->cause != CAUSE_EOF && ending->cause != CAUSE_RESET))
                return false;
        return c->bytes_received == 0 || (c->handshake && handshake_is_local(c->handshake));
}

static const char *connection_sentence(const struct connection *c, const struct ending *ending)
{
        if (ending->cause == CAUSE_PROTOCOL_ERROR && c->handshake)
                return handshake_fault(c->handshake);
        if (ending->cause == CAUSE_HANDLER && ending->error == ETIMEDOUT)
                return "its handshake was pending for longer than handler_timeout";
        return cause_sentence(ending->cause);
}

static bool is_ordinary(const struct connection *c, const struct ending *ending)
{
        if (ending->cause == CAUSE_PROCESS_EXITED)
                return c->lease->loss_status == 0;
        return cause_is_ordinary(ending->cause);
}

static void connection_obituary(const struct connection *c, const struct ending *ending,
                                struct event_ending *ret)
{
        bool is_shaken = c->state >= CONNECTION_LOADING, is_ready = c->state >= CONNECTION_READY;
        uint64_t duration_usec = now(c) - c->accepted_usec;
        uint64_t handshake_usec = is_shaken ? connection_handshake_usec(c) : duration_usec;

        *ret = (struct event_ending){
                .cause = cause_name(ending->cause),
                .initiator = cause_initiator(ending->cause),
                .operation = operation_name(ending->operation),
                .state = connection_state_name(c->state),
                .sentence = connection_sentence(c, ending),
                .error = ending->error,
                .priority = is_probe(c, ending)                   ? LOG_DEBUG
                            : is_shaken && is_ordinary(c, ending) ? LOG_INFO
                                                                  : LOG_NOTICE,
                .duration_usec = duration_usec,
                .handshake_usec = handshake_usec,
                .load_usec = is_ready ? connection_load_usec(c) : duration_usec - handshake_usec,
                .last_receive_usec = now(c) - MIN(c->received_usec, now(c)),
                .bytes_received = c->bytes_received,
                .bytes_sent = c->bytes_sent,
        };

        if (!c->is_unix && event_is_wanted(shared(c)->journal, ret->priority, true)) {
                struct tcp_info info = { 0 };
                socklen_t length = sizeof(info);

                ret->has_tcp_info = getsockopt(c->fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0;
                ret->rtt_usec = info.tcpi_rtt;
                ret->retransmits = info.tcpi_total_retrans;
        }
}

/* ---- what is said to the peer ---- */

struct template_scope {
        const struct connection *c;
        enum cause cause; /* of a refusal */
        char buffer[ADDRESS_TEXT_MAX];
};

static const char *template_specifier(void *userdata, char letter, const char *name)
{
        struct template_scope *scope = userdata;
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
                if (c->remote.family == AF_UNIX)
                        return "";
                (void)snprintf(scope->buffer, sizeof(scope->buffer), "%" PRIu16, c->remote.port);
                return scope->buffer;
        case 'h':
                return c->identity ? c->identity : "";
        case 'c':
                return scope->cause == CAUSE_NONE ? NULL : cause_name(scope->cause);
        case '{':
                return c->state >= CONNECTION_LOADING && c->lease ? lease_value(c->lease, name) : NULL;
        default:
                return NULL;
        }
}

/* The template as a line. NULL: out of memory. */
static char *connection_line(const struct connection *c, const char *template, enum cause cause)
{
        struct template_scope scope = { .c = c, .cause = cause };
        _cleanup_free_ char *text = NULL, *reason = NULL;
        char *line;

        if (specifier_expand(template, 0, template_specifier, &scope, &text, &reason) < 0 ||
            asprintf(&line, "%s\n", text) < 0)
                return NULL;
        return line;
}

/* ---- the end ---- */

/* Its source counts it no longer. */
static void connection_leave_source(struct connection *c)
{
        const struct peer peer = { .address = &c->remote, .uid = connection_peer_uid(c), .gid = (gid_t)-1 };
        struct sources *sources = &c->config->listener->sources;

        if (c->is_counted)
                sources_leave(sources, sources_find(sources, &peer));
}

static void connection_bury(struct grave *grave)
{
        struct connection *c = container_of(grave, struct connection, grave);
        struct connections *connections = shared(c);

        connection_leave_source(c);
        listener_leave(c->config->listener);
        config_unref(c->config->config);
        free(c->identity);
        connection_free(connections, c);
        connections->n_connections--;
        if (connections->freed)
                connections->freed(connections->userdata);
}

static void connection_close_socket(struct connection *c)
{
        source_deinit(&c->source, loop_of(c));
        c->fd = fd_close(c->fd);
        if (connection_output(c))
                free(TAKE_PTR(*connection_output_slot(c)));
}

static void connection_refuse(struct connection *c, enum cause cause)
{
        _cleanup_free_ char *line = NULL;

        if (c->config->refusal[0] == '\0')
                return;
        line = connection_line(c, c->config->refusal, cause);
        if (line)
                stream_say_last(c, line);
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
        struct address unknown = { .family = AF_UNSPEC }, *local = lease ? &lease->subject.local : &unknown;
        bool is_given = connection_is_given(c);
        struct event_ending obituary;

        if (edge.action == ACTION_NONE)
                return;
        if (guest_is_leaving(c))
                ending = cause_local(CAUSE_HANDLER, 0); /* it was first */

        /* Their bytes count. */
        if (is_given)
                stream_recount(c, c->fd);
        else if (cause_is_refusal(ending.cause))
                connection_refuse(c, ending.cause);
        else if (ending.cause == CAUSE_HANDLER)
                stream_finish(c);

        connection_obituary(c, &ending, &obituary);
        if (local->family == AF_UNSPEC &&
            (c->is_guest || event_is_wanted(shared(c)->journal, obituary.priority, true)))
                connection_local(c, local);
        if (is_given)
                stream_take_back(c, ending.cause == CAUSE_PROCESS_EXITED);
        if (shared(c)->are_stored)
                store_bury(c->fd);
        connection_close_socket(c);
        if (edge.action == ACTION_REJECT) {
                struct event_connection facts = connection_facts(c, local);

                if (c->is_guest)
                        guest_end(c, &obituary, local);
                handshake_free(c->handshake);
                event_rejected(shared(c)->journal, &facts, &obituary);
                connection_close(c);
                return;
        }

        assert(edge.action == ACTION_RELEASE);
        connection_enter(c, edge.next);
        if (c->is_guest)
                guest_end(c, &obituary, local);
        if (!lease) {
                connection_settled(c, &obituary, local);
                return;
        }
        if (cause_is_refusal(ending.cause) || cause_is_loss(ending.cause))
                obituary.resource = lease_failed_resource(lease);
        if (cause_is_loss(ending.cause)) {
                obituary.reason = lease->loss_reason;
                obituary.has_status = lease->loss_status >= 0;
                obituary.exit_status = lease->loss_status;
        }
        lease_release(lease, &obituary);
}

static void connection_timer(struct timer *timer)
{
        struct connection *c = container_of(timer, struct connection, timer);
        struct deadline deadline = connection_deadline(c);
        struct pollfd poll_fd = { .fd = c->fd, .events = POLLIN | POLLRDHUP };

        if (deadline.usec > now(c)) {
                timer_arm(loop_wheel(loop_of(c)), &c->timer, deadline.usec);
                return;
        }
        /* Bytes, or an end, that wait to be read were there first, however late this turn is. */
        if (deadline.cause == CAUSE_HANDSHAKE_TIMEOUT) {
                stream_event(&c->source);
                if (c->state != CONNECTION_HANDSHAKE)
                        return;
        }
        if (deadline.cause == CAUSE_IDLE_TIMEOUT && poll(&poll_fd, 1, 0) > 0) {
                c->source.pending |= EPOLLIN;
                connection_rearm(c);
                return;
        }
        connection_end(c, cause_local(deadline.cause, deadline.cause == CAUSE_HANDLER ? ETIMEDOUT : 0));
}

/* ---- what is done on the way into a state ---- */

static void connection_find_peer(struct connection *c, struct peer *peer,
                                 gid_t groups[static PEER_GROUPS_MAX])
{
        const struct listener_config *config = c->config;
        struct ucred credentials;
        socklen_t length = sizeof(credentials), groups_length = PEER_GROUPS_MAX * sizeof(gid_t);

        if (getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) == 0)
                peer->gid = credentials.gid;
        if ((rules_have(&config->allow, RULE_GROUP) || rules_have(&config->deny, RULE_GROUP)) &&
            getsockopt(c->fd, SOL_SOCKET, SO_PEERGROUPS, groups, &groups_length) == 0) {
                peer->groups = groups;
                peer->n_groups = groups_length / sizeof(gid_t);
        }
}

/* Who it is, is known: from the socket, or from a PROXY header. Ends the connection where it may not come in. */
static bool connection_admit(struct connection *c)
{
        gid_t groups[PEER_GROUPS_MAX];
        struct peer peer = { .address = &c->remote, .uid = connection_peer_uid(c), .gid = (gid_t)-1 };
        struct source_entry *entry = NULL;
        int r;

        if (c->is_unix)
                connection_find_peer(c, &peer, groups);
        r = admission_decide(&c->config->listener->sources, c->config, &peer, now(c), &entry);
        c->is_counted = entry;
        if (r == ADMISSION_GRANTED)
                return true;
        connection_end(c, r < 0                   ? cause_local(CAUSE_EXHAUSTED, -r)
                          : r == ADMISSION_DENIED ? cause_local(CAUSE_DENIED, 0)
                                                  : cause_local(CAUSE_LIMIT, 0));
        return false;
}

/* Only the proxies that the configuration names may say who somebody else is. */
static bool connection_admit_proxy(struct connection *c)
{
        const struct peer proxy = { .address = &c->remote, .uid = (uid_t)-1, .gid = (gid_t)-1 };

        if (rules_match(&c->config->proxy_from, &proxy))
                return true;
        connection_end(c, cause_local(CAUSE_DENIED, 0));
        return false;
}

static void connection_begin_handshake(struct connection *c)
{
        const struct listener_config *config = c->config;

        if (!config->hello && !config->proxy_protocol) {
                connection_shaken(c);
                return;
        }
        if (handshake_new(&c->handshake, config->proxy_protocol, config->hello, config->hello_max) < 0)
                connection_end(c, cause_local(CAUSE_EXHAUSTED, ENOMEM));
}

void connection_shaken(struct connection *c)
{
        struct address destination;

        if (c->handshake && handshake_is_local(c->handshake)) {
                connection_end(c, cause_local(CAUSE_EOF, 0));
                return;
        }
        if (c->handshake)
                c->identity = handshake_take_identity(c->handshake);
        if (c->config->proxy_protocol) {
                (void)handshake_proxied(c->handshake, &c->remote, &destination);
                if (!connection_admit(c))
                        return;
        }
        c->handshake = handshake_free(c->handshake);
        c->shaken = span_pack(now(c) - c->accepted_usec);
        connection_step(c, EVENT_SHAKEN);
}

/* The declared resources are; a plugin has its own to load. */
static void connection_loaded(struct connection *c)
{
        if (c->is_guest)
                guest_handshake(c);
        else
                connection_step(c, EVENT_LOADED);
}

static void lease_is_ready(struct lease *lease _unused_, void *userdata)
{
        connection_loaded(userdata);
}

static void lease_is_failed(struct lease *lease _unused_, enum lease_failure failure, void *userdata)
{
        static const enum cause causes[] = {
                [LEASE_LOAD_FAILED] = CAUSE_LOAD_FAILED,
                [LEASE_LOAD_TIMEOUT] = CAUSE_LOAD_TIMEOUT,
                [LEASE_POOL_EMPTY] = CAUSE_POOL_EMPTY,
        };

        connection_end(userdata, cause_local(causes[failure], 0));
}

static void lease_is_lost(struct lease *lease _unused_, enum lease_loss loss, void *userdata)
{
        if (loss == LEASE_PROCESS_EXITED)
                stream_look_first(userdata);
        connection_end(
                userdata,
                cause_local(loss == LEASE_PROCESS_EXITED ? CAUSE_PROCESS_EXITED : CAUSE_RESOURCE_LOST, 0));
}

static void lease_is_settled(struct lease *lease, void *userdata)
{
        struct connection *c = userdata;

        connection_settled(c, &lease->ending, &lease->subject.local);
        c->lease = lease_free(lease);
}

/* 0 or a negative errno. What the kernel does not take is kept. */
static int connection_greet(struct connection *c)
{
        _cleanup_free_ char *line = NULL;

        if (c->config->greeting[0] == '\0')
                return 0;
        line = connection_line(c, c->config->greeting, CAUSE_NONE);
        return line ? stream_send((struct handler_peer *)c, line, strlen(line)) : -ENOMEM;
}

/* The program is next to write: the greeting has to be out before. */
static int lease_wants_socket(struct lease *lease _unused_, void *userdata)
{
        struct connection *c = userdata;
        int r = connection_greet(c);

        /* One that is broken is given as well: both of us find it so. */
        if (r == -ENOMEM || c->output)
                return r < 0 ? r : -ENOBUFS;
        r = stream_give(c);
        if (r < 0)
                return r;
        connection_rearm(c);
        return c->fd;
}

static const struct lease_callbacks lease_callbacks = {
        .loaded = lease_is_ready,
        .failed = lease_is_failed,
        .lost = lease_is_lost,
        .give_socket = lease_wants_socket,
        .settled = lease_is_settled,
};

static void connection_load(struct connection *c)
{
        const struct listener_config *config = c->config;
        struct lease_subject subject = {
                .id = c->id,
                .listener = c->config->name,
                .identity = c->identity,
                .remote = c->remote,
                .peer_pid = connection_peer_pid(c),
                .peer_uid = connection_peer_uid(c),
        };

        if (config->n_resources == 0) {
                connection_loaded(c);
                return;
        }
        if (lease_new(&c->lease, shared(c)->leases, config->config, config->resources, config->n_resources,
                      &subject, &lease_callbacks, c) < 0) {
                connection_end(c, cause_local(CAUSE_EXHAUSTED, ENOMEM));
                return;
        }
        if (lease_tells_subject(c->lease))
                connection_local(c, &c->lease->subject.local);
        lease_load(c->lease);
}

static void connection_serve(struct connection *c)
{
        int r;

        if (shared(c)->ready)
                shared(c)->ready(c, shared(c)->userdata);
        if (event_is_wanted(shared(c)->journal, LOG_INFO, false)) {
                struct address local;

                connection_local(c, &local);
                struct event_connection facts = connection_facts(c, &local);

                event_ready(shared(c)->journal, &facts, connection_handshake_usec(c),
                            connection_load_usec(c));
        }
        r = connection_is_given(c) ? 0 : connection_greet(c);
        if (r < 0)
                stream_break(c, -r);
}

void connection_step(struct connection *c, enum connection_event event)
{
        struct connection_edge edge = machine_step(c->state, event);

        if (edge.action == ACTION_SERVE) {
                c->received_usec = now(c);
                c->paused = 0;
                c->ready = span_pack(now(c) - c->accepted_usec);
        }
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
        case ACTION_RESUME:
                break;
        default:
                assert(false); /* the ways out are connection_end() and connection_settled() */
        }
        /* Most go from accept to ready at one go: what they want on the way, nobody sees. */
        if (c->state == edge.next)
                connection_rearm(c);
}

/* What is the same for a life that begins and for one that goes on. */
static void connection_init(struct connection *c, struct listener *listener, int fd)
{
        c->config = listener_join(listener)->config;
        (void)config_ref(c->config->config);
        c->fd = fd;
        c->source.fd = -1;
        c->state = CONNECTION_ACCEPT;
        timer_init(&c->timer, connection_timer);
        listener->connections->n_connections++;
}

static struct ending unregistered(int r)
{
        /* epoll_ctl(2): ENOSPC is max_user_watches, which all processes of a user share. */
        return (struct ending){
                .cause = r == -ENOSPC || errno_is_exhaustion(-r) ? CAUSE_EXHAUSTED : CAUSE_ERROR,
                .operation = OPERATION_ACCEPT,
                .error = -r,
        };
}

/* False: it has ended. */
static bool connection_be_guest(struct connection *c)
{
        if (guest_new(c, c->config->listener->hosted) == 0)
                return guest_accept(c);
        connection_end(c, cause_local(CAUSE_EXHAUSTED, ENOMEM));
        return false;
}

void connection_open(struct connection *c, struct listener *listener, int fd, const struct address *remote)
{
        struct connections *connections = listener->connections;
        int r;

        connection_init(c, listener, fd);
        c->id = connections->next_id++;
        c->remote = *remote;
        c->is_unix = remote->family == AF_UNIX;
        c->accepted_usec = c->received_usec = now(c);
        listener->n_accepted++;
        connections->n_accepted++;
        if (c->is_unix) {
                struct ucred peer = { .uid = (uid_t)-1 };
                socklen_t length = sizeof(peer);

                (void)getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length);
                c->remote.peer.pid = peer.pid;
                c->remote.peer.uid = peer.uid;
        }

        if (event_is_wanted(connections->journal, LOG_DEBUG, false)) {
                struct address local;

                connection_local(c, &local);
                struct event_connection facts = connection_facts(c, &local);

                event_accepted(connections->journal, &facts);
        }
        if (c->config->proxy_protocol ? !connection_admit_proxy(c) : !connection_admit(c))
                return;
        if (listener->hosted && !connection_be_guest(c))
                return;
        r = source_init(&c->source, connections->loop, fd, EVENTS_REGISTERED, 0, stream_event);
        if (r < 0)
                connection_end(c, unregistered(r));
        else
                connection_step(c, EVENT_ADMITTED);
}

/* ---- a life that goes on in another process ---- */

bool connection_outlives_us(const struct connection *c)
{
        return c->config->handler != HANDLER_PLUGIN && (!c->lease || lease_outlives_us(c->lease));
}

void connection_pass_on(struct connection *c)
{
        struct connection_edge edge = machine_step(c->state, EVENT_PASSED_ON);

        assert(edge.action == ACTION_LEAVE);
        connection_close_socket(c);
        c->lease = lease_free(c->lease); /* its record stays */
        connection_close(c);
}

void connection_take_up(struct connection *c, struct listener *listener, int fd, struct lease *lease)
{
        struct connections *connections = listener->connections;
        struct peer peer = { .address = &c->remote, .uid = connection_peer_uid(c), .gid = (gid_t)-1 };
        bool was_half_closed = c->fin != 0;
        struct source_entry *entry;
        int r;

        assert(!listener->hosted); /* it was never told of this one */
        connection_init(c, listener, fd);
        if (!c->is_unix)
                tcp_tune(fd, c->config); /* which may have changed in between */
        c->lease = lease;
        if (lease)
                lease_set_callbacks(lease, &lease_callbacks, c);
        sources_join(&listener->sources, c->config, &peer, now(c), &entry);
        c->is_counted = entry;
        r = source_init(&c->source, connections->loop, fd, EVENTS_REGISTERED, 0, stream_event);
        connection_step(c, EVENT_TAKEN_UP);
        if (was_half_closed)
                connection_step(c, EVENT_FIN);
        if (r < 0)
                connection_end(c, unregistered(r));
}

/* ---- all of them ---- */

struct connection *connections_next(const struct connections *connections, const struct connection *c)
{
        struct connection *next = slab_next(&connections->slab, c);

        while (next && next->state == CONNECTION_ACCEPT)
                next = slab_next(&connections->slab, next);
        return next;
}

static void end_before(struct connections *connections, enum connection_state limit)
{
        for (struct connection *c = NULL; (c = connections_next(connections, c));)
                if (c->state < limit)
                        connection_end(c, cause_local(CAUSE_SHUTDOWN, 0));
}

void connections_end_all(struct connections *connections)
{
        /* First those that wait: what the others give back would make some of them ready. */
        end_before(connections, CONNECTION_READY);
        end_before(connections, CONNECTION_RELEASING);
}

void connections_end_early(struct connections *connections)
{
        end_before(connections, CONNECTION_READY);
        for (struct connection *c = NULL; (c = connections_next(connections, c));)
                if (c->state < CONNECTION_RELEASING && !connection_outlives_us(c))
                        connection_end(c, cause_local(CAUSE_SHUTDOWN, 0));
}

void connections_abandon_all(struct connections *connections)
{
        for (struct connection *c = NULL; (c = connections_next(connections, c));)
                if (c->state == CONNECTION_RELEASING) {
                        c->lease = lease_free(c->lease);
                        connection_close(c);
                }
}

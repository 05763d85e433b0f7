/*
 * The calls of plugins, and the callbacks. A call changes nothing but the guest, its queue and its timer: whoever
 * asked for more is in `due`, which is settled at the top of the loop, so an ending never happens inside another's.
 * A plugin's threads may leave errands; an eventfd wakes the loop for them.
 */
#include "connection/guest.h"
#include "connection/listener.h"
#include "connection/stream.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/eventfd.h>

#define LOG_LINE_MAX 2048     /* with its NUL */
#define EVENT_DUE    EPOLLPRI /* of the eventfd, which has none: something is due */

struct errand {
        struct errand *next;
        void (*function)(void *userdata);
        void *userdata;
};

/* Calls of a plugin come without anything of ours, so this is the process's. */
static struct {
        struct connections *connections; /* NULL: closed */
        struct list due;                 /* guests */
        pthread_mutex_t lock;            /* for what follows */
        struct source wakeup;            /* its descriptor is an eventfd, for errands */
        struct errand *errands;
        struct errand **end;
} host = { .lock = PTHREAD_MUTEX_INITIALIZER, .wakeup.fd = -1 };

/* ---- what is due ---- */

static void guest_serve(struct connection *c)
{
        c->guest->state = GUEST_SERVED;
        connection_step(c, EVENT_LOADED);
}

/* Does what the plugin asked for in a callback that has returned. */
static void guest_settle(struct connection *c)
{
        list_unlink(&c->guest->due);
        switch (c->guest->state) {
        case GUEST_TOLD:
                guest_serve(c);
                break;
        case GUEST_BROKEN:
        case GUEST_DEAF:
                stream_break(c, c->guest->error);
                break;
        case GUEST_LEAVING:
                connection_end(c, cause_local(CAUSE_HANDLER, 0));
                break;
        default:
                break;
        }
}

static void host_settle(void)
{
        struct list due = LIST_INIT(due);

        list_splice(&due, &host.due);
        for (struct list *node; (node = due.next) != &due;)
                guest_settle(container_of(node, struct tetherd_connection, due)->connection);
}

static void make_due(struct tetherd_connection *guest)
{
        if (list_is_linked(&guest->due))
                return;
        list_append(&host.due, &guest->due);
        host.wakeup.pending |= EVENT_DUE;
        source_want(&host.wakeup, host.connections->loop, EPOLLIN | EVENT_DUE);
}

bool guest_is_settled(struct connection *c)
{
        if (!list_is_linked(&c->guest->due))
                return true;
        guest_settle(c);
        return false;
}

/* ---- errands ---- */

static struct errand *take_errands(void)
{
        struct errand *errands;

        (void)pthread_mutex_lock(&host.lock);
        errands = TAKE_PTR(host.errands);
        host.end = &host.errands;
        (void)pthread_mutex_unlock(&host.lock);
        return errands;
}

static void host_run_errands(void)
{
        eventfd_t n;

        (void)eventfd_read(host.wakeup.fd, &n); /* before they are taken: who comes later wakes us again */
        for (struct errand *next, *errand = take_errands(); errand; errand = next) {
                next = errand->next;
                errand->function(errand->userdata);
                free(errand);
        }
}

static void host_ready(struct source *source)
{
        bool has_errands = source->pending & EPOLLIN;

        source_clear(source, EPOLLIN | EVENT_DUE);
        if (has_errands)
                host_run_errands();
        host_settle();
}

int guests_open(struct connections *connections)
{
        int fd, r;

        if (host.connections)
                return 0;
        fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (fd < 0)
                return -errno;
        r = source_init(&host.wakeup, connections->loop, fd, EPOLLIN, EPOLLIN | EVENT_DUE, host_ready);
        if (r < 0) {
                (void)fd_close(fd);
                return r;
        }
        list_init(&host.due);
        (void)pthread_mutex_lock(&host.lock);
        host.end = &host.errands;
        host.connections = connections;
        (void)pthread_mutex_unlock(&host.lock);
        return 0;
}

void guests_close(struct connections *connections)
{
        int fd = host.wakeup.fd;

        if (host.connections != connections)
                return;
        (void)pthread_mutex_lock(&host.lock);
        host.connections = NULL;
        (void)pthread_mutex_unlock(&host.lock);
        source_deinit(&host.wakeup, connections->loop);
        (void)fd_close(fd);
        for (struct errand *next, *errand = take_errands(); errand; errand = next) {
                next = errand->next;
                free(errand);
        }
}

/* ---- callbacks ---- */

static const struct tetherd_plugin *table_of(const struct connection *c)
{
        return &c->guest->hosted->plugin->table;
}

/* Whatever is no known answer is an error. */
static void guest_answer(struct connection *c, int answer)
{
        if (answer != TETHERD_OK)
                (void)tetherd_disconnect(c->guest);
        guest_settle(c);
}

int guest_new(struct connection *c, struct tetherd_listener *hosted)
{
        struct tetherd_connection *guest = calloc(1, sizeof(*guest));

        if (!guest)
                return -ENOMEM;
        guest->connection = c;
        guest->hosted = hosted_ref(hosted);
        guest->state = GUEST_NEW;
        list_init(&guest->due);
        c->guest = guest;
        c->is_guest = true;
        return 0;
}

bool guest_accept(struct connection *c)
{
        if (table_of(c)->accept)
                guest_answer(c, table_of(c)->accept(c->guest));
        return c->state == CONNECTION_ACCEPT;
}

void guest_handshake(struct connection *c)
{
        struct tetherd_connection *guest = c->guest;
        int answer = TETHERD_OK;

        if (!guest_is_settled(c))
                return;
        guest->state = GUEST_ASKED;
        if (table_of(c)->handshake)
                answer = table_of(c)->handshake(guest);
        if (answer == TETHERD_PENDING && guest->state == GUEST_ASKED) {
                guest->state = GUEST_PENDING;
                guest->pending_usec = loop_now(host.connections->loop);
                connection_rearm(c);
                return;
        }
        if (answer == TETHERD_OK && guest->state == GUEST_ASKED)
                guest->state = GUEST_TOLD;
        guest_answer(c, answer == TETHERD_PENDING ? TETHERD_OK : answer);
}

bool guest_receive(struct connection *c, const void *bytes, size_t n)
{
        const struct tetherd_connection *guest = c->guest;

        if (table_of(c)->receive)
                guest_answer(c, table_of(c)->receive(c->guest, bytes, n));
        if (c->state != CONNECTION_READY && c->state != CONNECTION_HALF_CLOSED)
                return false;
        return guest->state == GUEST_SERVED && !guest_is_paused(c);
}

void guest_sent(struct connection *c, size_t n)
{
        struct tetherd_connection *guest = c->guest;
        size_t n_queued = guest->output ? guest->output->n_bytes - guest->output->n_sent : 0;

        if (!table_of(c)->send)
                return;
        (void)table_of(c)->send(guest, n, n_queued);
        guest_settle(c);
}

bool guest_break(struct connection *c)
{
        struct tetherd_connection *guest = c->guest;
        bool is_served = guest->state == GUEST_SERVED || guest->state == GUEST_BROKEN;

        list_unlink(&guest->due);
        if (guest->state != GUEST_DEAF)
                guest->state = GUEST_BROKEN;
        return is_served && c->state >= CONNECTION_READY && table_of(c)->receive;
}

bool guest_hear(struct connection *c, const void *bytes, size_t n)
{
        if (table_of(c)->receive(c->guest, bytes, n) != TETHERD_OK)
                c->guest->state = GUEST_DEAF;
        return c->guest->state == GUEST_BROKEN;
}

void guest_end(struct connection *c, const struct event_ending *ending, const struct address *local)
{
        struct tetherd_connection *guest = c->guest;
        const struct tetherd_ending told = {
                .size = sizeof(told),
                .error = ending->error,
                .cause = ending->cause,
                .initiator = ending->initiator,
                .operation = ending->operation,
                .state = ending->state,
                .duration_usec = ending->duration_usec,
                .bytes_received = ending->bytes_received,
                .bytes_sent = ending->bytes_sent,
        };

        if (!guest)
                return;
        list_unlink(&guest->due);
        guest->state = GUEST_ENDED;
        guest->local = local;
        if (table_of(c)->close)
                table_of(c)->close(guest, &told);
        c->guest = NULL;
        (void)hosted_unref(guest->hosted);
        free(guest);
}

/* ---- calls: their contracts are in tetherd/plugin.h ---- */

static bool is_over(const struct tetherd_connection *guest)
{
        return guest->state >= GUEST_BROKEN;
}

int tetherd_send(struct tetherd_connection *guest, const void *bytes, size_t n)
{
        size_t n_queued = guest->output ? guest->output->n_bytes - guest->output->n_sent : 0;
        int r;

        if (is_over(guest) || guest->state == GUEST_NEW)
                return -ENOTCONN;
        if (n > TETHERD_SEND_MAX)
                return -EMSGSIZE;
        if (n_queued > TETHERD_SEND_MAX - n)
                return -EAGAIN;
        r = stream_send((struct handler_peer *)guest->connection, bytes, n);
        if (r < 0) {
                guest->error = -r;
                guest->state = GUEST_BROKEN;
                make_due(guest);
                return r;
        }
        return guest->output ? (int)(guest->output->n_bytes - guest->output->n_sent) : 0;
}

int tetherd_disconnect(struct tetherd_connection *guest)
{
        if (guest->state == GUEST_BROKEN)
                guest->state = GUEST_DEAF;
        if (is_over(guest))
                return 0;
        guest->state = GUEST_LEAVING;
        make_due(guest);
        return 0;
}

int tetherd_ready(struct tetherd_connection *guest)
{
        if (is_over(guest))
                return -ENOTCONN;
        if (guest->state != GUEST_ASKED && guest->state != GUEST_PENDING)
                return -EALREADY;
        guest->state = GUEST_TOLD;
        make_due(guest);
        return 0;
}

static void rearm(struct tetherd_connection *guest)
{
        if (guest->connection->state == CONNECTION_READY)
                connection_rearm(guest->connection);
}

int tetherd_pause(struct tetherd_connection *guest)
{
        if (is_over(guest))
                return -ENOTCONN;
        if (guest->paused_usec == 0)
                guest->paused_usec = loop_now(host.connections->loop);
        rearm(guest);
        return 0;
}

int tetherd_resume(struct tetherd_connection *guest)
{
        struct connection *c = guest->connection;
        uint64_t since_usec = MAX(guest->paused_usec, c->received_usec);

        if (is_over(guest))
                return -ENOTCONN;
        if (guest->paused_usec == 0)
                return 0;
        guest->paused_usec = 0;
        connection_was_paused(c, since_usec);
        rearm(guest);
        return 0;
}

void tetherd_set_data(struct tetherd_connection *guest, void *data)
{
        guest->data = data;
}

void *tetherd_data(const struct tetherd_connection *guest)
{
        return guest->data;
}

uint64_t tetherd_connection_id(const struct tetherd_connection *guest)
{
        return guest->connection->id;
}

static const char *host_and_port(const struct address *address, char text[static ADDRESS_TEXT_MAX],
                                 uint16_t *ret_port)
{
        if (ret_port)
                *ret_port = address->port;
        return address_host(address, text);
}

const char *tetherd_remote(struct tetherd_connection *guest, uint16_t *ret_port)
{
        static char text[ADDRESS_TEXT_MAX];

        return host_and_port(&guest->connection->remote, text, ret_port);
}

static struct address local_of(const struct tetherd_connection *guest)
{
        struct address local;

        if (guest->local)
                return *guest->local;
        connection_local(guest->connection, &local);
        return local;
}

const char *tetherd_local(struct tetherd_connection *guest, uint16_t *ret_port)
{
        static char text[ADDRESS_TEXT_MAX];
        struct address local = local_of(guest);

        return host_and_port(&local, text, ret_port);
}

const char *tetherd_identity(const struct tetherd_connection *guest)
{
        return guest->connection->identity;
}

const char *tetherd_value(const struct tetherd_connection *guest, const char *resource)
{
        const struct connection *c = guest->connection;

        return c->state >= CONNECTION_LOADING && c->lease ? lease_value(c->lease, resource) : NULL;
}

struct tetherd_listener *tetherd_listener(const struct tetherd_connection *guest)
{
        return guest->hosted;
}

void tetherd_log(const struct tetherd_connection *guest, int priority, const char *format, ...)
{
        char line[LOG_LINE_MAX];
        va_list arguments;

        if (!host.connections)
                return;
        priority = MIN(MAX(priority, LOG_ERR), LOG_DEBUG);
        va_start(arguments, format);
        (void)vsnprintf(line, sizeof(line), format, arguments);
        va_end(arguments);
        if (!guest) {
                log_message(host.connections->journal, priority, "%s", line);
                return;
        }

        struct address local = local_of(guest);
        struct event_connection facts = connection_facts(guest->connection, &local);

        event_said(host.connections->journal, &facts, guest->hosted->plugin->table.name, priority, line);
}

int tetherd_run(void (*function)(void *userdata), void *userdata)
{
        struct errand *errand = calloc(1, sizeof(*errand));
        bool is_taken;

        if (!errand)
                return -ENOMEM;
        *errand = (struct errand){ .function = function, .userdata = userdata };
        (void)pthread_mutex_lock(&host.lock);
        is_taken = host.connections;
        if (is_taken) {
                *host.end = errand;
                host.end = &errand->next;
                (void)eventfd_write(host.wakeup.fd, 1); /* fails where it is full, so readable */
        }
        (void)pthread_mutex_unlock(&host.lock);
        if (is_taken)
                return 0;
        free(errand);
        return -ESHUTDOWN;
}

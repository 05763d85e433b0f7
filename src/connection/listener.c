/*
 * Accepting. What it relies on: Linux hands TCP options of a listening socket down to the connections that
 * are established after they were set (tcp(7)), so accepting costs one system call; only those that were
 * queued before a reload changed the options get them one by one, until nobody waits for the first time.
 *
 * A full daemon stops accepting instead of accepting and dropping: what waits in the backlog is served later.
 * It goes on when a connection is gone; where descriptors, memory or processes ran out, also after RETRY_USEC, for
 * they may have been taken by others.
 */
#include "connection/listener.h"
#include "connection/guest.h"
#include "service/unit.h"
#include <inttypes.h>
#include <stdio.h>

/* A socket and turn: a bare accept takes microseconds, one with a directory to make may take a hundred times that. */
#define ACCEPT_BUDGET      64
#define ACCEPT_BUDGET_USEC USEC_PER_MSEC
#define RETRY_USEC         (50 * USEC_PER_MSEC)
#define SAY_PAUSE_USEC     (5 * USEC_PER_SEC)

static void listeners_retry(struct timer *timer);
static void listeners_say_paused(struct timer *timer);

void listeners_init(struct listeners *listeners, struct connections *connections)
{
        *listeners = (struct listeners){ .connections = connections };
        list_init(&listeners->all);
        list_init(&listeners->spare);
        list_init(&listeners->plugins);
        timer_init(&listeners->retry, listeners_retry);
        timer_init(&listeners->say, listeners_say_paused);
}

void listeners_deinit(struct listeners *listeners)
{
        timer_disarm(&listeners->retry);
        timer_disarm(&listeners->say);
        assert(list_is_empty(&listeners->all));
        for (struct list *node; (node = list_take_first(&listeners->spare));)
                listening_socket_free(listeners->connections->loop,
                                      container_of(node, struct listening_socket, link));
        plugins_free(&listeners->plugins);
}

static struct loop *loop_of(const struct listener *listener)
{
        return listener->connections->loop;
}

static void listener_free_if_unused(struct listener *listener)
{
        if (!listener->is_gone || listener->n_connections > 0)
                return;
        assert(list_is_empty(&listener->sockets));
        list_unlink(&listener->link);
        (void)hosted_unref(listener->hosted);
        sources_deinit(&listener->sources);
        config_unref(listener->config->config);
        free(listener);
}

struct listener *listener_join(struct listener *listener)
{
        listener->n_connections++;
        return listener;
}

void listener_leave(struct listener *listener)
{
        assert(listener->n_connections > 0);
        listener->n_connections--;
        listener_free_if_unused(listener);
}

/* ---- pausing ---- */

static void listener_want(struct listener *listener, uint32_t wanted)
{
        list_for_each (node, &listener->sockets)
                source_want(&container_of(node, struct listening_socket, link)->source, loop_of(listener),
                            wanted);
}

/* Now, or where one was said only just, later: a pause that lasts is not kept back. */
static void listener_say_paused(struct listener *listener)
{
        struct listeners *listeners = listener->listeners;
        uint64_t now_usec = loop_now(loop_of(listener));

        if (now_usec < listeners->next_pause_usec) {
                timer_arm(loop_wheel(loop_of(listener)), &listeners->say, listeners->next_pause_usec);
                return;
        }
        listeners->next_pause_usec = now_usec + SAY_PAUSE_USEC;
        listener->is_pause_said = true;
        event_accept_paused(listener->connections->journal, listener->config->name, listener->pause_reason,
                            listener->pause_error);
}

static void listeners_say_paused(struct timer *timer)
{
        struct listeners *listeners = container_of(timer, struct listeners, say);

        list_for_each (node, &listeners->all) {
                struct listener *listener = container_of(node, struct listener, link);

                if (listener->paused_usec > 0 && !listener->is_pause_said)
                        listener_say_paused(listener);
        }
}

static void listener_pause(struct listener *listener, int error, const char *reason)
{
        uint64_t now_usec = loop_now(loop_of(listener));

        listener->is_paused = true;
        listener_want(listener, 0);
        if (error)
                timer_arm(loop_wheel(loop_of(listener)), &listener->listeners->retry, now_usec + RETRY_USEC);
        if (listener->paused_usec == 0)
                listener->paused_usec = now_usec;
        listener->pause_error = error;
        (void)snprintf(listener->pause_reason, sizeof(listener->pause_reason), "%s", reason);
        listener_say_paused(listener);
}

static void listener_end_pause(struct listener *listener)
{
        if (listener->is_pause_said)
                event_accept_resumed(listener->connections->journal, listener->config->name,
                                     loop_now(loop_of(listener)) - listener->paused_usec);
        listener->is_pause_said = false;
        listener->paused_usec = 0;
}

static bool listener_has_room(const struct listener *listener)
{
        const struct connections *connections = listener->connections;

        return connections->n_connections < connections->n_max &&
               listener->n_connections < listener->config->max_connections;
}

void listeners_hold(struct listeners *listeners)
{
        assert(list_is_empty(&listeners->all));
        listeners->is_held = true;
}

void listeners_release(struct listeners *listeners)
{
        listeners->is_held = false;
        listeners_resume(listeners);
}

void listeners_resume(struct listeners *listeners)
{
        if (listeners->is_held)
                return;
        list_for_each (node, &listeners->all) {
                struct listener *listener = container_of(node, struct listener, link);

                if (!listener->is_paused || !listener_has_room(listener))
                        continue;
                listener->is_paused = false;
                listener_want(listener, EPOLLIN);
        }
}

static void listeners_retry(struct timer *timer)
{
        listeners_resume(container_of(timer, struct listeners, retry));
}

/* ---- accepting ---- */

/* Nobody waits, or only who came since they were counted: of those the kernel tells in the next turn. */
static void listening_socket_drained(struct listening_socket *socket)
{
        source_clear(&socket->source, EPOLLIN);
        socket->needs_tuning = false;
        listener_end_pause(socket->listener);
}

/* Whether one more may be accepted; else accepting pauses, although nobody may wait yet. */
static bool listener_can_accept(struct listener *listener)
{
        struct connections *connections = listener->connections;
        char reason[128];
        int starvation;

        if (!listener_has_room(listener)) {
                bool is_full = connections->n_connections >= connections->n_max;

                (void)snprintf(reason, sizeof(reason), "max_connections%s is reached (%" PRIu64 ")",
                               is_full ? " of the daemon" : "",
                               is_full ? connections->n_max : listener->config->max_connections);
                listener_pause(listener, 0, reason);
                return false;
        }
        starvation = starvation_error(&connections->leases->starvation);
        if (starvation && listener->config->n_resources > 0) {
                (void)snprintf(reason, sizeof(reason), "no command can be started: %s", strerror(starvation));
                listener_pause(listener, starvation, reason);
                return false;
        }
        if (!connections_reserve(connections)) {
                listener_pause(listener, ENOMEM, "out of memory");
                return false;
        }
        return true;
}

/* One connection. False: no more in this turn; who was not accepted for a passing reason may still wait. */
static bool listening_socket_accept(struct listening_socket *socket)
{
        struct listener *listener = socket->listener;
        union address_socket address;
        socklen_t length = sizeof(address);
        struct address remote = { .family = AF_UNIX };
        char reason[128];
        int fd = accept4(socket->source.fd, &address.sa, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0) {
                int error = errno;

                if (error == EAGAIN) {
                        listening_socket_drained(socket);
                } else if (!errno_is_accept_transient(error)) {
                        /* Anything else would fail again at once; the listening socket itself is ours and good. */
                        (void)snprintf(reason, sizeof(reason), "accept4: %s", strerror(error));
                        listener_pause(listener, error, reason);
                }
                return false;
        }

        listener_end_pause(listener);
        if (socket->address.family != AF_UNIX) {
                address_from_socket(&remote, &address, length);
                if (socket->needs_tuning)
                        tcp_tune(fd, listener->config);
        }
        connection_open(connection_new(listener->connections), listener, fd, &remote);
        return true;
}

static void listening_socket_ready(struct source *source)
{
        struct listening_socket *socket = container_of(source, struct listening_socket, source);
        unsigned int n_waiting = listening_socket_n_waiting(socket), n_served = 0;
        /* Mostly one comes alone, and nothing has to be timed. */
        bool is_timed = n_waiting > 1;
        uint64_t end_usec = is_timed ? clock_usec(CLOCK_MONOTONIC) + ACCEPT_BUDGET_USEC : 0;

        while (listener_can_accept(socket->listener)) {
                if (n_served == n_waiting) {
                        listening_socket_drained(socket);
                        break;
                }
                if (n_served == ACCEPT_BUDGET || (is_timed && clock_usec(CLOCK_MONOTONIC) > end_usec) ||
                    !listening_socket_accept(socket))
                        break;
                n_served++;
        }
}

int listeners_receive(struct listeners *listeners, struct fds *fds)
{
        for (size_t i = 0; i < fds->n; i++) {
                struct listening_socket *socket = NULL;
                int r = 0;

                if (fds->items[i].fd >= 0)
                        r = listening_socket_receive(listeners->connections->loop, &fds->items[i],
                                                     listening_socket_ready, &socket);
                if (r < 0)
                        return r;
                if (socket)
                        list_append(&listeners->spare, &socket->link);
        }
        return 0;
}

void listeners_say_spare(const struct listeners *listeners)
{
        list_for_each (node, &listeners->spare) {
                const struct listening_socket *socket = container_of(node, struct listening_socket, link);

                log_message(listeners->connections->journal, LOG_WARNING,
                            "no listener has listen = %s: who connects to %s will wait",
                            socket->endpoint.text, socket->text);
        }
}

/* ---- plans ---- */

struct listener_plan {
        struct listeners *listeners;
        struct listener_config *config; /* counted */
        struct listener *listener;      /* the one of this name, or a new one that belongs to the plan */
        bool is_new;
        struct tetherd_listener *hosted; /* that it is to have; counted */
        struct list opened;              /* sockets that did not exist */
        struct listening_socket **kept;
        size_t n_kept;
};

struct listener_plan *listener_plan_free(struct listener_plan *plan)
{
        if (!plan)
                return NULL;
        for (struct list *node; (node = list_take_first(&plan->opened));)
                listening_socket_free(plan->listeners->connections->loop,
                                      container_of(node, struct listening_socket, link));
        if (plan->is_new) {
                sources_deinit(&plan->listener->sources);
                free(plan->listener);
        }
        (void)hosted_unref(plan->hosted);
        config_unref(plan->config->config);
        free(plan->kept);
        free(plan);
        return NULL;
}

/* One that is gone has its connections still, which go on counting if it comes back. */
static struct listener *find(const struct listeners *listeners, const char *name)
{
        list_for_each (node, &listeners->all) {
                struct listener *listener = container_of(node, struct listener, link);

                if (streq(listener->config->name, name))
                        return listener;
        }
        return NULL;
}

struct listener *listener_find(const struct listeners *listeners, const char *name)
{
        struct listener *listener = find(listeners, name);

        return listener && !listener->is_gone ? listener : NULL;
}

static int listener_new(struct listeners *listeners, struct listener **ret_listener)
{
        struct listener *listener = calloc(1, sizeof(*listener));
        int r;

        if (!listener)
                return -ENOMEM;
        r = sources_init(&listener->sources);
        if (r < 0) {
                free(listener);
                return r;
        }
        list_init(&listener->link);
        list_init(&listener->sockets);
        listener->listeners = listeners;
        listener->connections = listeners->connections;
        listener->is_paused = listeners->is_held;
        *ret_listener = listener;
        return 0;
}

static int plan_keep(struct listener_plan *plan, struct listening_socket *socket)
{
        struct listening_socket **kept =
                reallocarray(plan->kept, plan->n_kept + 1, sizeof(struct listening_socket *));

        if (!kept)
                return -ENOMEM;
        plan->kept = kept;
        plan->kept[plan->n_kept++] = socket;
        return 0;
}

/* What the configuration changes although the kernel keeps it of an open socket; NULL: nothing. */
static const char *what_stays(const struct listening_socket *socket, const struct listener_config *config)
{
        const struct listener_config *now = socket->listener ? socket->listener->config : NULL;

        if (socket->endpoint.kind == ENDPOINT_IP &&
            ((socket->address.family == AF_INET6 && socket->is_v6only != config->v6only) ||
             socket->reuses_port != config->reuse_port))
                return "v6only or reuse_port of an open address changed: needs a restart";
        if (now && socket->address.family != AF_UNIX &&
            ((now->receive_buffer > 0 && config->receive_buffer == 0) ||
             (now->send_buffer > 0 && config->send_buffer == 0)))
                return "the kernel is to decide on receive_buffer or send_buffer of an open address again: "
                       "needs a restart";
        return NULL;
}

/* Keeps those of `sockets` that are of this endpoint, of which a name of systemd's may have several. */
static int plan_keep_of(struct listener_plan *plan, const struct list *sockets,
                        const struct endpoint *endpoint, const char **ret_why)
{
        const struct listener_config *config = plan->config;

        list_for_each (node, sockets) {
                struct listening_socket *socket = container_of(node, struct listening_socket, link);
                int r;

                if (!endpoint_is_same(&socket->endpoint, endpoint))
                        continue;
                *ret_why = what_stays(socket, config);
                if (*ret_why)
                        return -EADDRINUSE;
                if (socket->address.family == AF_UNIX && config->proxy_protocol) {
                        *ret_why = "it is a UNIX socket: with proxy_protocol = yes nobody could connect";
                        return -EINVAL;
                }
                r = plan_keep(plan, socket);
                if (r < 0)
                        return r;
        }
        return 0;
}

/*
 * The sockets that are open for this endpoint already: its own, or another listener's that is renamed. Where several
 * listeners share a port, each has one of its own.
 */
static int plan_keep_open(struct listener_plan *plan, const struct endpoint *endpoint, const char **ret_why)
{
        size_t n_kept = plan->n_kept;
        int r = plan_keep_of(plan, &plan->listener->sockets, endpoint, ret_why);

        if (r < 0 || plan->n_kept > n_kept || (endpoint->kind == ENDPOINT_IP && plan->config->reuse_port))
                return r;
        r = plan_keep_of(plan, &plan->listeners->spare, endpoint, ret_why);
        list_for_each (node, &plan->listeners->all)
                if (r == 0)
                        r = plan_keep_of(plan, &container_of(node, struct listener, link)->sockets, endpoint,
                                         ret_why);
        return r;
}

static const char unwanted[] = "the plugin does not want it (its prepare_listen)";

/* An open socket that is new to the plugin: the listener has another one, or had not this socket. */
static int plan_show_kept(struct listener_plan *plan, size_t n_shown, const char **ret_why)
{
        for (size_t i = n_shown; i < plan->n_kept; i++) {
                const struct listening_socket *socket = plan->kept[i];

                if (plan->hosted == plan->listener->hosted && socket->listener == plan->listener)
                        continue;
                if (hosted_prepare_listen(plan->hosted, socket->source.fd) < 0) {
                        *ret_why = unwanted;
                        return -ECANCELED;
                }
        }
        return 0;
}

static bool is_any(const struct address *address)
{
        static const uint8_t any[sizeof(address->ip)];

        return memcmp(address->ip, any, sizeof(any)) == 0;
}

/* Whether it may be ourselves who have the port, as bind(2) compares addresses. */
static bool overlaps_open(const struct listeners *listeners, const struct endpoint *endpoint)
{
        struct address address;

        address_from_socket(&address, &endpoint->address, endpoint->length);
        list_for_each (node, &listeners->all) {
                const struct listener *listener = container_of(node, struct listener, link);

                list_for_each (socket_node, &listener->sockets) {
                        const struct address *open =
                                &container_of(socket_node, struct listening_socket, link)->address;

                        if (endpoint->kind == ENDPOINT_IP && open->port == address.port &&
                            (is_any(open) || is_any(&address) || memcmp(open->ip, address.ip, 16) == 0))
                                return true;
                }
        }
        return false;
}

static int plan_endpoint(struct listener_plan *plan, const struct endpoint *endpoint, const char **ret_why)
{
        size_t n_kept = plan->n_kept;
        struct listening_socket *socket;
        int r = plan_keep_open(plan, endpoint, ret_why);

        if (r == 0)
                r = plan_show_kept(plan, n_kept, ret_why);
        if (r < 0 || plan->n_kept > n_kept)
                return r;
        if (endpoint->kind == ENDPOINT_SYSTEMD) {
                *ret_why = "no listening stream socket of this name was handed over at the start "
                           "(FileDescriptorName= of a socket unit)";
                return -ENOENT;
        }
        r = listening_socket_open(plan->listeners->connections->loop, endpoint, plan->config, plan->hosted,
                                  listening_socket_ready, &socket);
        if (r == -EEXIST)
                *ret_why = "a file that is no socket is in the way";
        else if (r == -EADDRINUSE && overlaps_open(plan->listeners, endpoint))
                *ret_why = "we have it, or an address that it overlaps, open until then: needs a restart";
        else if (r == -ECANCELED)
                *ret_why = unwanted;
        if (r == 0)
                list_append(&plan->opened, &socket->link);
        return r;
}

/* What our unit may lack: a low port (below 1024, or as the machine has it). */
static char *unit_hint(enum endpoint_kind kind, int error)
{
        return kind == ENDPOINT_IP && error == -EACCES ? unit_drop_in_hint("ports.conf") : NULL;
}

/* The plugin that the listener is to have: what it has now, or one at its beginning. */
static int plan_plugin(struct listener_plan *plan, char **ret_reason)
{
        const struct listener_config *config = plan->config;
        const struct tetherd_listener *hosted = plan->listener->hosted;
        const struct plugin *plugin = NULL;
        int r;

        if (config->handler != HANDLER_PLUGIN)
                return 0;
        r = guests_open(plan->listeners->connections);
        if (r == 0)
                r = plugin_load(&plan->listeners->plugins, config->plugin, &plugin, ret_reason);
        if (r < 0)
                return r;
        if (!hosted || hosted->plugin != plugin)
                return hosted_new(&plan->hosted, plugin, config->name);
        plan->hosted = hosted_ref(plan->listener->hosted);
        return 0;
}

static const char *where_of(const struct listener_config *config, const char *key,
                            char buffer[static CONFIG_WHERE_MAX])
{
        char section[CONFIG_NAME_MAX + 16];

        (void)snprintf(section, sizeof(section), "listener:%s", config->name);
        return config_where(config->config, section, key, buffer);
}

int listener_prepare(struct listeners *listeners, struct listener_config *config,
                     struct listener_plan **ret_plan, char **ret_fault)
{
        _cleanup_(listener_plan_freep) struct listener_plan *plan = calloc(1, sizeof(*plan));
        _cleanup_free_ char *reason = NULL;
        char where[CONFIG_WHERE_MAX];
        int r;

        if (!plan)
                return -ENOMEM;
        list_init(&plan->opened);
        plan->listeners = listeners;
        plan->config = config;
        (void)config_ref(config->config);
        plan->listener = find(listeners, config->name);
        if (!plan->listener) {
                r = listener_new(listeners, &plan->listener);
                if (r < 0)
                        return r;
                plan->is_new = true;
        }

        r = plan_plugin(plan, &reason);
        if (r < 0) {
                if (asprintf(ret_fault, "%s: %s", where_of(config, "handler", where),
                             reason ? reason : strerror(-r)) < 0)
                        *ret_fault = NULL;
                return r;
        }
        for (size_t i = 0; i < config->n_endpoints; i++) {
                const char *why = NULL;

                r = plan_endpoint(plan, &config->endpoints[i], &why);
                if (r == 0)
                        continue;
                _cleanup_free_ char *hint = unit_hint(config->endpoints[i].kind, r);
                if (asprintf(ret_fault, "%s: cannot listen at %s: %s%s", where_of(config, "listen", where),
                             config->endpoints[i].text, why ? why : strerror(-r), hint ? hint : "") < 0)
                        *ret_fault = NULL;
                return r;
        }
        *ret_plan = TAKE_PTR(plan);
        return 0;
}

static void socket_close(struct listeners *listeners, struct listening_socket *socket)
{
        struct loop *loop = listeners->connections->loop;

        event_stopped_listening(listeners->connections->journal, socket->listener->config->name,
                                socket->text);
        if (socket->endpoint.kind != ENDPOINT_SYSTEMD) {
                listening_socket_free(loop, socket);
                return;
        }
        source_want(&socket->source, loop, 0);
        socket->listener = NULL;
        list_unlink(&socket->link);
        list_append(&listeners->spare, &socket->link);
}

static void listener_adopt(struct listener *listener, struct listening_socket *socket)
{
        bool is_new = !socket->listener;

        list_unlink(&socket->link);
        list_append(&listener->sockets, &socket->link);
        socket->listener = listener;
        socket->is_kept = true;
        if (!listener->is_paused)
                source_want(&socket->source, loop_of(listener), EPOLLIN);
        if (is_new)
                event_listening(listener->connections->journal, listener->config->name, socket->text);
}

static void listener_apply(struct listener_plan *plan)
{
        struct listener *listener = plan->listener;
        struct list closing = LIST_INIT(closing);

        if (plan->is_new) {
                list_append(&listener->listeners->all, &listener->link);
                plan->is_new = false;
        } else {
                config_unref(listener->config->config);
        }
        if (listener->is_gone) {
                listener->is_gone = false;
                listener->is_paused = listener->listeners->is_held;
        }
        listener->config = plan->config;
        listener->config->listener = listener;
        (void)config_ref(plan->config->config);
        (void)hosted_unref(listener->hosted);
        listener->hosted = TAKE_PTR(plan->hosted);

        for (size_t i = 0; i < plan->n_kept; i++) {
                int r = listening_socket_configure(plan->kept[i], plan->config);

                if (r < 0)
                        log_message(listener->connections->journal, LOG_WARNING,
                                    "cannot change owner or mode of %s: %s", plan->kept[i]->text,
                                    strerror(-r));
                listener_adopt(listener, plan->kept[i]);
        }
        for (struct list *node; (node = list_take_first(&plan->opened));)
                listener_adopt(listener, container_of(node, struct listening_socket, link));
}

static void listener_retire(struct listener *listener)
{
        listener->is_gone = true;
        listener->paused_usec = 0; /* nobody waits for it any more */
        listener->is_pause_said = false;
        listener_free_if_unused(listener);
}

void listeners_commit(struct listeners *listeners, struct listener_plan **plans, size_t n_plans)
{
        /* First the sockets find their places, then those that found none are closed. */
        for (size_t i = 0; i < n_plans; i++)
                listener_apply(plans[i]);
        list_for_each (node, &listeners->all) {
                struct listener *listener = container_of(node, struct listener, link);
                bool is_planned = false;

                list_for_each (socket_node, &listener->sockets) {
                        struct listening_socket *socket =
                                container_of(socket_node, struct listening_socket, link);

                        if (!socket->is_kept)
                                socket_close(listeners, socket);
                        else
                                socket->is_kept = false;
                }
                for (size_t i = 0; i < n_plans; i++)
                        is_planned = is_planned || plans[i]->listener == listener;
                if (!is_planned && !listener->is_gone)
                        listener_retire(listener);
        }
        for (size_t i = 0; i < n_plans; i++)
                plans[i] = listener_plan_free(plans[i]);
        listeners_resume(listeners);
}

void listeners_close(struct listeners *listeners)
{
        listeners_commit(listeners, NULL, 0);
}

/*
 * Accepting. What it relies on: Linux hands TCP options of a listening socket down to the connections that
 * are established after they were set (tcp(7)), so accepting costs one system call; only those that were
 * queued before a reload changed the options get them one by one, until accept4(2) first says EAGAIN.
 *
 * A full daemon stops accepting instead of accepting and dropping: what waits in the backlog is served later.
 * It goes on when a connection is gone; where descriptors or memory ran out, also after RETRY_USEC, for they
 * may have been taken by others.
 */
#include "connection/listener.h"
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

/* A socket and turn: a bare accept takes microseconds, one with a directory to make may take a hundred times that. */
#define ACCEPT_BUDGET      64
#define ACCEPT_BUDGET_USEC USEC_PER_MSEC
#define RETRY_USEC         (50 * USEC_PER_MSEC)
#define SAY_PAUSE_USEC     (5 * USEC_PER_SEC)

static void listeners_retry(struct timer *timer);

void listeners_init(struct listeners *listeners, struct connections *connections)
{
        *listeners = (struct listeners){ .connections = connections };
        list_init(&listeners->all);
        timer_init(&listeners->retry, listeners_retry);
}

void listeners_deinit(struct listeners *listeners)
{
        timer_disarm(&listeners->retry);
        assert(list_is_empty(&listeners->all));
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
        sources_deinit(&listener->sources);
        config_unref(listener->config->config);
        free(listener);
}

struct listener *listener_join(struct listener *listener)
{
        listener->n_connections++;
        listener->n_accepted++;
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

static void listener_pause(struct listener *listener, int error, const char *reason)
{
        struct listeners *listeners = listener->listeners;
        uint64_t now_usec = loop_now(loop_of(listener));

        listener->is_paused = true;
        listener_want(listener, 0);
        if (error)
                timer_arm(loop_wheel(loop_of(listener)), &listeners->retry, now_usec + RETRY_USEC);
        if (now_usec < listeners->next_pause_usec)
                return;
        listeners->next_pause_usec = now_usec + SAY_PAUSE_USEC;
        if (!listener->is_pause_said)
                listener->paused_usec = now_usec;
        listener->is_pause_said = true;
        event_accept_paused(listener->connections->journal, listener->config->name, reason, error);
}

static void listener_say_resumed(struct listener *listener)
{
        if (!listener->is_pause_said)
                return;
        listener->is_pause_said = false;
        event_accept_resumed(listener->connections->journal, listener->config->name,
                             loop_now(loop_of(listener)) - listener->paused_usec);
}

static bool listener_has_room(const struct listener *listener)
{
        const struct connections *connections = listener->connections;

        return connections->n_connections < connections->n_max &&
               listener->n_connections < listener->config->max_connections;
}

void listeners_resume(struct listeners *listeners)
{
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

static void tune(int fd, const struct listener_config *config)
{
        bool keepalive = config->keepalive_idle != USEC_INFINITY;
        int idle = (int)(config->keepalive_idle / USEC_PER_SEC);
        int interval = (int)(config->keepalive_interval / USEC_PER_SEC);
        uint64_t user_usec = config->user_timeout == USEC_INFINITY ? 0 : config->user_timeout;
        int user_msec = (int)((user_usec + USEC_PER_MSEC - 1) / USEC_PER_MSEC);
        const struct {
                int level, name, value;
                bool is_wanted;
        } options[] = {
                { SOL_SOCKET, SO_KEEPALIVE, keepalive, true },
                { IPPROTO_TCP, TCP_KEEPIDLE, idle, keepalive },
                { IPPROTO_TCP, TCP_KEEPINTVL, interval,
                  keepalive && config->keepalive_interval != USEC_INFINITY },
                { IPPROTO_TCP, TCP_KEEPCNT, (int)config->keepalive_count,
                  keepalive && config->keepalive_count > 0 },
                { IPPROTO_TCP, TCP_USER_TIMEOUT, user_msec, true },
                { IPPROTO_TCP, TCP_NODELAY, config->nodelay, true },
                { SOL_SOCKET, SO_RCVBUF, (int)config->receive_buffer, config->receive_buffer > 0 },
                { SOL_SOCKET, SO_SNDBUF, (int)config->send_buffer, config->send_buffer > 0 },
        };

        /* The values were checked by config; what a kernel lacks is no reason to turn a client away. */
        for (size_t i = 0; i < ARRAY_SIZE(options); i++)
                if (options[i].is_wanted)
                        (void)setsockopt(fd, options[i].level, options[i].name, &options[i].value,
                                         sizeof(int));
}

/* One connection. False: no more now. */
static bool listener_accept(struct listener *listener, struct listening_socket *socket)
{
        struct connections *connections = listener->connections;
        union address_socket address;
        socklen_t length = sizeof(address);
        struct address remote = { .family = AF_UNIX };
        struct connection *connection;
        char reason[128];

        if (!listener_has_room(listener)) {
                bool is_full = connections->n_connections >= connections->n_max;

                (void)snprintf(reason, sizeof(reason), "max_connections%s is reached (%" PRIu64 ")",
                               is_full ? " of the daemon" : "",
                               is_full ? connections->n_max : listener->config->max_connections);
                listener_pause(listener, 0, reason);
                return false;
        }
        connection = connection_new(connections);
        if (!connection) {
                listener_pause(listener, ENOMEM, "out of memory");
                return false;
        }

        int fd = accept4(socket->source.fd, &address.sa, &length, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0) {
                int error = errno;

                connection_free(connections, connection);
                if (error == EAGAIN) {
                        source_clear(&socket->source, EPOLLIN);
                        socket->needs_tuning = false;
                        listener_say_resumed(listener);
                } else if (!errno_is_accept_transient(error)) {
                        /* Anything else would fail again at once; the listening socket itself is ours and good. */
                        (void)snprintf(reason, sizeof(reason), "accept4: %s", strerror(error));
                        listener_pause(listener, error, reason);
                        return false;
                }
                return error != EAGAIN;
        }

        listener_say_resumed(listener);
        if (socket->address.family != AF_UNIX) {
                address_from_socket(&remote, &address, length);
                if (socket->needs_tuning)
                        tune(fd, listener->config);
        }
        connection_open(connection, listener, fd, &remote);
        return true;
}

static void listening_socket_ready(struct source *source)
{
        struct listening_socket *socket = container_of(source, struct listening_socket, source);

        uint64_t end_usec = clock_usec(CLOCK_MONOTONIC) + ACCEPT_BUDGET_USEC;

        for (int i = 0; i < ACCEPT_BUDGET; i++)
                if (!listener_accept(socket->listener, socket) || clock_usec(CLOCK_MONOTONIC) > end_usec)
                        return;
}

/* ---- sockets ---- */

static void listening_socket_free(struct listeners *listeners, struct listening_socket *socket)
{
        int fd = socket->source.fd;
        struct stat st;

        source_deinit(&socket->source, listeners->connections->loop);
        (void)fd_close(fd);
        /* Only the very file that we made: another daemon may have put its own there meanwhile. */
        if (socket->inode && lstat(socket->endpoint.text, &st) == 0 && st.st_dev == socket->device &&
            st.st_ino == socket->inode)
                (void)unlink(socket->endpoint.text);
        list_unlink(&socket->link);
        endpoint_deinit(&socket->endpoint);
        free(socket->text);
        free(socket);
}

/* Whether somebody listens at this UNIX path; a file that no process listens at is stale. */
static bool is_live(const struct endpoint *endpoint)
{
        _cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        if (fd < 0)
                return true;
        return connect(fd, &endpoint->address.sa, endpoint->length) == 0 || errno != ECONNREFUSED;
}

/*
 * Binds under a random name, sets owner and mode, and renames: nobody can connect before the permissions are
 * right, and a stale file is replaced in one step. 0 or a negative errno.
 */
static int bind_unix_path(int fd, const struct endpoint *endpoint, const struct listener_config *config,
                          struct stat *ret_st)
{
        union address_socket temporary = { .un.sun_family = AF_UNIX };
        struct stat st;
        int n, r = 0;

        if (lstat(endpoint->text, &st) == 0) {
                if (!S_ISSOCK(st.st_mode))
                        return -EEXIST;
                if (is_live(endpoint))
                        return -EADDRINUSE;
        }
        n = snprintf(temporary.un.sun_path, sizeof(temporary.un.sun_path), "%s.%08" PRIx32, endpoint->text,
                     (uint32_t)clock_usec(CLOCK_MONOTONIC));
        if (n < 0 || (size_t)n >= sizeof(temporary.un.sun_path))
                return -ENAMETOOLONG;
        if (bind(fd, &temporary.sa, sizeof(temporary.un)) < 0)
                return -errno;
        if (chmod(temporary.un.sun_path, config->socket_mode) < 0 ||
            lchown(temporary.un.sun_path, config->socket_user, config->socket_group) < 0 ||
            lstat(temporary.un.sun_path, ret_st) < 0 || rename(temporary.un.sun_path, endpoint->text) < 0)
                r = -errno;
        if (r < 0)
                (void)unlink(temporary.un.sun_path);
        return r;
}

static int open_socket(const struct endpoint *endpoint, const struct listener_config *config,
                       struct listening_socket *ret_socket)
{
        static const int on = 1;
        int only_v6 = config->v6only, family = endpoint->address.sa.sa_family, r = 0;
        _cleanup_close_ int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        union address_socket bound = { 0 };
        socklen_t length = sizeof(bound);
        struct stat st = { 0 };

        if (fd < 0)
                return -errno;
        if (endpoint->kind == ENDPOINT_IP) {
                if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
                    (family == AF_INET6 &&
                     setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only_v6, sizeof(only_v6)) < 0) ||
                    (config->reuse_port && setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof(on)) < 0))
                        return -errno;
                tune(fd, config);
        }
        if (endpoint->kind == ENDPOINT_UNIX)
                r = bind_unix_path(fd, endpoint, config, &st);
        else if (bind(fd, &endpoint->address.sa, endpoint->length) < 0)
                r = -errno;
        if (r < 0)
                return r;
        ret_socket->device = st.st_dev;
        ret_socket->inode = st.st_ino;
        if (listen(fd, config->backlog) < 0 || getsockname(fd, &bound.sa, &length) < 0)
                return -errno;
        address_from_socket(&ret_socket->address, &bound, length);
        return TAKE_FD(fd);
}

static int listening_socket_new(struct listeners *listeners, const struct endpoint *endpoint,
                                const struct listener_config *config, struct listening_socket **ret_socket)
{
        struct listening_socket *socket = calloc(1, sizeof(*socket));
        char text[ADDRESS_TEXT_MAX];
        const char *ignored;
        int fd, r;

        if (!socket)
                return -ENOMEM;
        list_init(&socket->link);
        socket->source.fd = -1;
        socket->is_v6only = config->v6only;
        socket->reuses_port = config->reuse_port;
        r = endpoint_parse(endpoint->text, &socket->endpoint, &ignored);
        fd = r < 0 ? r : open_socket(endpoint, config, socket);
        if (fd >= 0) {
                socket->text = strdup(endpoint->kind == ENDPOINT_IP ? address_text(&socket->address, text)
                                                                    : endpoint->text);
                r = socket->text ? source_init(&socket->source, listeners->connections->loop, fd, EPOLLIN, 0,
                                               listening_socket_ready)
                                 : -ENOMEM;
                if (r < 0)
                        (void)fd_close(fd);
        } else {
                r = fd;
        }
        if (r < 0) {
                listening_socket_free(listeners, socket);
                return r;
        }
        *ret_socket = socket;
        return 0;
}

/* The socket that is open for this endpoint already, whichever listener has it. */
static struct listening_socket *find_socket(struct listeners *listeners, const struct endpoint *endpoint)
{
        list_for_each (node, &listeners->all)
                list_for_each (socket_node, &container_of(node, struct listener, link)->sockets) {
                        struct listening_socket *socket =
                                container_of(socket_node, struct listening_socket, link);

                        if (streq(socket->endpoint.text, endpoint->text))
                                return socket;
                }
        return NULL;
}

/* ---- plans ---- */

struct listener_plan {
        struct listeners *listeners;
        struct listener_config *config; /* counted */
        struct listener *listener;      /* the one of this name, or a new one that belongs to the plan */
        bool is_new;
        struct list opened; /* sockets that did not exist */
        struct listening_socket **kept;
        size_t n_kept;
};

struct listener_plan *listener_plan_free(struct listener_plan *plan)
{
        if (!plan)
                return NULL;
        for (struct list *node; (node = list_take_first(&plan->opened));)
                listening_socket_free(plan->listeners, container_of(node, struct listening_socket, link));
        if (plan->is_new) {
                sources_deinit(&plan->listener->sources);
                free(plan->listener);
        }
        config_unref(plan->config->config);
        free(plan->kept);
        free(plan);
        return NULL;
}

static struct listener *listener_find(struct listeners *listeners, const char *name)
{
        list_for_each (node, &listeners->all) {
                struct listener *listener = container_of(node, struct listener, link);

                if (!listener->is_gone && streq(listener->config->name, name))
                        return listener;
        }
        return NULL;
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
        *ret_listener = listener;
        return 0;
}

static int plan_endpoint(struct listener_plan *plan, const struct endpoint *endpoint, const char **ret_why)
{
        struct listening_socket *socket = find_socket(plan->listeners, endpoint);
        bool is_ip = endpoint->kind == ENDPOINT_IP;
        int r;

        if (socket && (!is_ip || (socket->is_v6only == plan->config->v6only &&
                                  socket->reuses_port == plan->config->reuse_port))) {
                plan->kept[plan->n_kept++] = socket;
                return 0;
        }
        if (socket) {
                *ret_why = "v6only or reuse_port of an open address changed: needs a restart";
                return -EADDRINUSE;
        }
        r = listening_socket_new(plan->listeners, endpoint, plan->config, &socket);
        if (r < 0) {
                *ret_why = r == -EEXIST ? "a file that is no socket is in the way" : strerror(-r);
                return r;
        }
        list_append(&plan->opened, &socket->link);
        return 0;
}

int listener_prepare(struct listeners *listeners, struct listener_config *config,
                     struct listener_plan **ret_plan, char **ret_fault)
{
        _cleanup_(listener_plan_freep) struct listener_plan *plan = calloc(1, sizeof(*plan));
        int r;

        if (!plan)
                return -ENOMEM;
        list_init(&plan->opened);
        plan->listeners = listeners;
        plan->config = config;
        (void)config_ref(config->config);
        plan->kept = calloc(config->n_endpoints, sizeof(*plan->kept));
        if (!plan->kept)
                return -ENOMEM;
        plan->listener = listener_find(listeners, config->name);
        if (!plan->listener) {
                r = listener_new(listeners, &plan->listener);
                if (r < 0)
                        return r;
                plan->is_new = true;
        }

        for (size_t i = 0; i < config->n_endpoints; i++) {
                char section[CONFIG_NAME_MAX + 16], where[CONFIG_WHERE_MAX];
                const char *why = NULL;

                r = plan_endpoint(plan, &config->endpoints[i], &why);
                if (r == 0)
                        continue;
                (void)snprintf(section, sizeof(section), "listener:%s", config->name);
                if (asprintf(ret_fault, "%s: cannot listen at %s: %s",
                             config_where(config->config, section, "listen", where),
                             config->endpoints[i].text, why) < 0)
                        *ret_fault = NULL;
                return r;
        }
        *ret_plan = TAKE_PTR(plan);
        return 0;
}

static void socket_close(struct listeners *listeners, struct listening_socket *socket)
{
        event_stopped_listening(listeners->connections->journal, socket->listener->config->name,
                                socket->text);
        listening_socket_free(listeners, socket);
}

static void listener_adopt(struct listener *listener, struct listening_socket *socket)
{
        list_unlink(&socket->link);
        list_append(&listener->sockets, &socket->link);
        socket->listener = listener;
        if (!listener->is_paused)
                source_want(&socket->source, loop_of(listener), EPOLLIN);
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
        listener->config = plan->config;
        (void)config_ref(plan->config->config);

        for (size_t i = 0; i < plan->n_kept; i++) {
                struct listening_socket *socket = plan->kept[i];

                listener_adopt(listener, socket);
                socket->is_kept = true;
                if (socket->endpoint.kind == ENDPOINT_IP)
                        tune(socket->source.fd, plan->config);
                else if (socket->endpoint.kind == ENDPOINT_UNIX &&
                         (chmod(socket->endpoint.text, plan->config->socket_mode) < 0 ||
                          lchown(socket->endpoint.text, plan->config->socket_user,
                                 plan->config->socket_group) < 0))
                        log_message(listener->connections->journal, LOG_WARNING,
                                    "cannot change owner or mode of %s: %s", socket->endpoint.text,
                                    strerror(errno));
                (void)listen(socket->source.fd,
                             plan->config->backlog); /* on an open one it sets the backlog */
                socket->needs_tuning = true;
        }
        for (struct list *node; (node = list_take_first(&plan->opened));) {
                struct listening_socket *socket = container_of(node, struct listening_socket, link);

                listener_adopt(listener, socket);
                socket->is_kept = true;
                event_listening(listener->connections->journal, listener->config->name, socket->text);
        }
}

static void listener_retire(struct listener *listener)
{
        listener->is_gone = true;
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

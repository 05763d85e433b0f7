/*
 * listening: promises that a client meets only what is complete: options are set before listen(2), and a UNIX
 * socket appears at its path with its owner and mode. It relies on Linux handing TCP options of a listening socket
 * down to the connections that are established afterwards (tcp(7)). Sockets of systemd are neither bound nor given a
 * backlog or a mode here, and their files never removed: that is the socket unit's business.
 */
#include "connection/listening.h"
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>

void tcp_tune(int fd, const struct listener_config *config)
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

/* ---- opening ---- */

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
        const int n_name = (int)(sizeof(temporary.un.sun_path) - 1 - ENDPOINT_SUFFIX_MAX);
        struct stat st;
        int r = 0;

        if (lstat(endpoint->text, &st) == 0) {
                if (!S_ISSOCK(st.st_mode))
                        return -EEXIST;
                if (is_live(endpoint))
                        return -EADDRINUSE;
        }
        (void)snprintf(temporary.un.sun_path, sizeof(temporary.un.sun_path), "%.*s.%08" PRIx32, n_name,
                       endpoint->text, (uint32_t)clock_usec(CLOCK_MONOTONIC));
        if (bind(fd, &temporary.sa, sizeof(temporary.un)) < 0)
                return -errno;
        if (lstat(temporary.un.sun_path, ret_st) < 0 ||
            chmod(temporary.un.sun_path, config->socket_mode) < 0 ||
            lchown(temporary.un.sun_path, config->socket_user, config->socket_group) < 0 ||
            rename(temporary.un.sun_path, endpoint->text) < 0)
                r = -errno;
        if (r < 0)
                (void)unlink(temporary.un.sun_path);
        return r;
}

static int open_socket(const struct endpoint *endpoint, const struct listener_config *config,
                       struct tetherd_listener *hosted, struct listening_socket *ret_socket)
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
                tcp_tune(fd, config);
        }
        if (endpoint->kind == ENDPOINT_UNIX)
                r = bind_unix_path(fd, endpoint, config, &st);
        else if (bind(fd, &endpoint->address.sa, endpoint->length) < 0)
                r = -errno;
        if (r < 0)
                return r;
        ret_socket->device = st.st_dev;
        ret_socket->inode = st.st_ino;
        ret_socket->user = st.st_uid;
        ret_socket->group = st.st_gid;
        r = hosted_prepare_listen(hosted, fd);
        if (r < 0)
                return r;
        if (listen(fd, config->backlog) < 0 || getsockname(fd, &bound.sa, &length) < 0)
                return -errno;
        address_from_socket(&ret_socket->address, &bound, length);
        return TAKE_FD(fd);
}

static int listening_socket_new(const char *endpoint, struct listening_socket **ret_socket)
{
        struct listening_socket *socket = calloc(1, sizeof(*socket));
        const char *ignored;
        int r;

        if (!socket)
                return -ENOMEM;
        list_init(&socket->link);
        socket->source.fd = -1;
        r = endpoint_parse(endpoint, &socket->endpoint, &ignored);
        if (r < 0) {
                free(socket);
                return r;
        }
        *ret_socket = socket;
        return 0;
}

unsigned int listening_socket_n_waiting(const struct listening_socket *socket)
{
        struct tcp_info info = { 0 };
        socklen_t length = offsetof(struct tcp_info, tcpi_lost);

        /* Of a listening socket, these two count its queue and what that takes at most (tcp_get_info() in Linux). */
        if (socket->address.family == AF_UNIX ||
            getsockopt(socket->source.fd, IPPROTO_TCP, TCP_INFO, &info, &length) < 0 ||
            info.tcpi_state != TCP_LISTEN || info.tcpi_sacked == 0)
                return UINT_MAX;
        return info.tcpi_unacked;
}

void listening_socket_free(struct loop *loop, struct listening_socket *socket)
{
        int fd = socket->source.fd;
        struct stat st;

        source_deinit(&socket->source, loop);
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

int listening_socket_open(struct loop *loop, const struct endpoint *endpoint,
                          const struct listener_config *config, struct tetherd_listener *hosted,
                          source_fn ready, struct listening_socket **ret_socket)
{
        struct listening_socket *socket;
        char text[ADDRESS_TEXT_MAX];
        int fd = -1, r = listening_socket_new(endpoint->text, &socket);

        if (r < 0)
                return r;
        socket->is_v6only = config->v6only;
        socket->reuses_port = config->reuse_port;
        r = fd = open_socket(endpoint, config, hosted, socket);
        if (fd >= 0) {
                socket->text = strdup(endpoint->kind == ENDPOINT_IP ? address_text(&socket->address, text)
                                                                    : endpoint->text);
                r = socket->text ? source_init(&socket->source, loop, fd, EPOLLIN, 0, ready) : -ENOMEM;
                if (r < 0)
                        (void)fd_close(fd);
        }
        if (r < 0) {
                listening_socket_free(loop, socket);
                return r;
        }
        *ret_socket = socket;
        return 0;
}

/* ---- systemd's ---- */

/* Where the socket is bound; NULL: out of memory. */
static char *bound_text(const struct address *address, const union address_socket *bound, socklen_t length)
{
        const char *path = bound->un.sun_path;
        size_t n = length - offsetof(struct sockaddr_un, sun_path);
        char text[ADDRESS_TEXT_MAX], *abstract;

        if (address->family != AF_UNIX || n == 0)
                return strdup(address_text(address, text));
        if (path[0] != '\0')
                return strndup(path, n);
        return asprintf(&abstract, "@%.*s", (int)n - 1, path + 1) < 0 ? NULL : abstract;
}

static int receive_socket(struct listening_socket *socket, struct loop *loop, int fd, source_fn ready)
{
        union address_socket bound = { 0 };
        socklen_t length = sizeof(bound);
        int flags = fcntl(fd, F_GETFL);

        /* Without O_NONBLOCK, which it lacks unless the unit says NonBlocking=yes, accept4(2) waits for a client. */
        if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
            getsockname(fd, &bound.sa, &length) < 0)
                return -errno;
        address_from_socket(&socket->address, &bound, length);
        socket->text = bound_text(&socket->address, &bound, length);
        return socket->text ? source_init(&socket->source, loop, fd, EPOLLIN, 0, ready) : -ENOMEM;
}

int listening_socket_receive(struct loop *loop, struct handed_fd *handed, source_fn ready,
                             struct listening_socket **ret_socket)
{
        _cleanup_free_ char *endpoint = NULL;
        struct listening_socket *socket;
        int family, r = sd_is_socket(handed->fd, AF_UNSPEC, SOCK_STREAM, 1);
        socklen_t length = sizeof(family);

        *ret_socket = NULL;
        if (r <= 0)
                return r;
        if (getsockopt(handed->fd, SOL_SOCKET, SO_DOMAIN, &family, &length) < 0)
                return -errno;
        if (family != AF_INET && family != AF_INET6 && family != AF_UNIX)
                return 0;
        if (asprintf(&endpoint, "systemd:%s", handed->name) < 0)
                return -ENOMEM;
        r = listening_socket_new(endpoint, &socket);
        if (r < 0)
                return r;
        r = receive_socket(socket, loop, handed->fd, ready);
        if (r < 0) {
                listening_socket_free(loop, socket);
                return r;
        }
        handed->fd = -1;
        *ret_socket = socket;
        return 0;
}

/* ---- open ones ---- */

int listening_socket_configure(struct listening_socket *socket, const struct listener_config *config)
{
        uid_t user = config->socket_user == (uid_t)-1 ? socket->user : config->socket_user;
        gid_t group = config->socket_group == (gid_t)-1 ? socket->group : config->socket_group;
        int r = 0;

        if (socket->address.family != AF_UNIX)
                tcp_tune(socket->source.fd, config);
        socket->needs_tuning = true;
        if (socket->endpoint.kind == ENDPOINT_SYSTEMD)
                return 0;
        if (socket->endpoint.kind == ENDPOINT_UNIX &&
            (chmod(socket->endpoint.text, config->socket_mode) < 0 ||
             lchown(socket->endpoint.text, user, group) < 0))
                r = -errno;
        (void)listen(socket->source.fd, config->backlog); /* on an open one it sets the backlog */
        return r;
}

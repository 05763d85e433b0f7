/*
 * listening: one listening socket, ours or systemd's. One of ours lives as long as a listener needs it. One that
 * systemd handed over when it started us cannot be had again: it stays open for our whole life.
 */
#pragma once

#include "config/config.h"
#include "handler/plugin.h"
#include "loop/loop.h"
#include "service/fds.h"

struct listener;

struct listening_socket {
        struct source source;
        struct listener
                *listener; /* NULL: none accepts from it: it is a plan's, or a spare one of systemd's */
        struct list link;
        struct endpoint endpoint; /* as in the file */
        struct address address;   /* where it is bound */
        char *text;               /* likewise, for records: with the port that the kernel chose */
        dev_t device;             /* of the socket file, for UNIX paths: only that one is removed */
        ino_t inode;
        uid_t user; /* that it was made with, for those that the configuration does not name */
        gid_t group;
        bool is_v6only;
        bool reuses_port;
        bool is_kept;      /* by the commit under way */
        bool needs_tuning; /* what waits in its queue did not inherit the options that it has now */
};

/*
 * Opens what the endpoint asks for; nothing is accepted until source_want(). `hosted`: the plugin that sees it before
 * it listens, or NULL. 0 or a negative errno, of which -EEXIST means that a file which is no socket is in the way, and
 * -ECANCELED that the plugin does not want it.
 */
int listening_socket_open(struct loop *loop, const struct endpoint *endpoint,
                          const struct listener_config *config, struct tetherd_listener *hosted,
                          source_fn ready, struct listening_socket **ret_socket);

/*
 * Takes a listening stream socket (IPv4, IPv6 or UNIX) that systemd handed over; returns 0 with *ret_socket NULL
 * where it is anything else, and leaves it there. Or a negative errno.
 */
int listening_socket_receive(struct loop *loop, struct handed_fd *handed, source_fn ready,
                             struct listening_socket **ret_socket);

/*
 * How many wait to be accepted, so that accept4(2) need not be called for nobody, who is as dear as somebody: it makes a
 * socket and a file before it looks. UINT_MAX where the kernel does not say, as of UNIX sockets.
 */
unsigned int listening_socket_n_waiting(const struct listening_socket *socket);

/* Closes it, and removes its file where that is ours. */
void listening_socket_free(struct loop *loop, struct listening_socket *socket);

/* The configuration changed: options, backlog, mode and owner, as far as they are ours to set. 0 or a negative errno. */
int listening_socket_configure(struct listening_socket *socket, const struct listener_config *config);

/* Sets the options of a TCP connection, or those that a listening socket hands down to its own. */
void tcp_tune(int fd, const struct listener_config *config);

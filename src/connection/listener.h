/*
 * listener: one [listener:NAME] section: its listening sockets, how many connections it has, and whether it
 * accepts at the moment. It lives on, without sockets, until its last connection is closed.
 *
 * Sockets are opened and closed in two steps, so that a reload is applied whole or not at all: a plan says
 * which sockets the new configuration needs, opens those that do not exist yet, and can be thrown away;
 * listener_commit() cannot fail any more. The start is a reload from nothing.
 */
#pragma once

#include "connection/connection.h"
#include "connection/listening.h"

struct listeners {
        struct connections *connections;
        struct list all;          /* struct listener */
        struct list spare;        /* struct listening_socket: of systemd's, those that no listener uses now */
        struct list plugins;      /* that were loaded */
        struct timer retry;       /* while something is out of memory or descriptors */
        struct timer say;         /* while a listener is paused and could not say so yet */
        bool is_held;             /* nothing is accepted yet: listeners_release() */
        uint64_t next_pause_usec; /* when accept-paused may be said again */
};

struct listener {
        struct list link; /* in listeners->all */
        struct listeners *listeners;
        struct connections *connections;
        struct listener_config *config;  /* that new connections are born with */
        struct tetherd_listener *hosted; /* likewise: the plugin that is its handler; NULL: none is */
        struct list sockets;
        struct sources sources;
        size_t n_connections;
        uint64_t n_accepted;
        bool is_paused;
        bool is_pause_said;
        uint64_t paused_usec; /* since when nobody is accepted; 0: they are */
        int pause_error;      /* why, as event_accept_paused() has it */
        char pause_reason[128];
        bool is_gone; /* its section is not there any more */
};

struct listener_plan;

void listeners_init(struct listeners *listeners, struct connections *connections);
void listeners_deinit(struct listeners *listeners); /* asserts that there is none */

/*
 * Takes the listening sockets that systemd handed over, before the first listener is prepared. What is anything
 * else stays in `fds`. 0, or a negative errno.
 */
int listeners_receive(struct listeners *listeners, struct fds *fds);
/* Warns of those that no listener uses. */
void listeners_say_spare(const struct listeners *listeners);

/*
 * Prepares the listener that `config` asks for. Returns 0; or a negative errno with *ret_fault, a line that
 * says which key is at fault ("FILE:LINE: listen = 127.0.0.1:80: Address already in use"), owned by the caller.
 * Loads a plugin, which stays loaded, and shows it its new sockets.
 */
int listener_prepare(struct listeners *listeners, struct listener_config *config,
                     struct listener_plan **ret_plan, char **ret_fault);
struct listener_plan *listener_plan_free(struct listener_plan *plan); /* undoes it; takes NULL */
DEFINE_CLEANUP(struct listener_plan *, listener_plan_free);

/* Applies all plans and closes every listener that has none. Consumes the plans. */
void listeners_commit(struct listeners *listeners, struct listener_plan **plans, size_t n_plans);

/* Closes every listening socket for good. */
void listeners_close(struct listeners *listeners);

/* Between them listeners are opened and accept nothing, so that what an earlier run left comes first. */
void listeners_hold(struct listeners *listeners);
void listeners_release(struct listeners *listeners);

/* A connection is gone: whoever paused may go on. */
void listeners_resume(struct listeners *listeners);

/* The one that the configuration of this moment has, or NULL. */
struct listener *listener_find(const struct listeners *listeners, const char *name);

struct listener *listener_join(struct listener *listener);
void listener_leave(struct listener *listener);

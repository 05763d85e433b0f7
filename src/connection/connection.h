/*
 * connection: one client, from accept to the last release. It owns the socket, the deadline and the lease,
 * and obeys machine.h: connection_enter() is the only writer of the state, connection_end() the only way out.
 *
 * `struct connections` is what all of a daemon's connections share.
 */
#pragma once

#include "base/address.h"
#include "base/slab.h"
#include "connection/admission.h"
#include "connection/cause.h"
#include "connection/handshake.h"
#include "connection/machine.h"
#include "handler/handler.h"
#include "loop/loop.h"
#include "resource/lease.h"

struct listener;
struct tetherd_connection;

struct connection;

struct connections {
        struct loop *loop;
        struct journal *journal;
        struct leases *leases;
        struct slab slab;                       /* of all that were not freed yet */
        size_t n_in_state[N_CONNECTION_STATES]; /* but accept and closed, where none stays */
        size_t n_connections;                   /* not closed yet, releasing ones included */
        uint64_t n_max;
        uint64_t n_accepted; /* since the start */
        uint64_t next_id;
        struct address local; /* of the connection that was asked for it last */
        uint64_t local_id;
        uint8_t *scratch; /* where all of them receive */
        bool are_stored;  /* they are in a store too (service/store.h), which has to hear of an ending */
        /* One is ready, and nothing was said to it yet. May be NULL, as the next. */
        void (*ready)(struct connection *connection, void *userdata);
        /* One is gone: there is room for another. */
        void (*freed)(void *userdata);
        void *userdata;
};

/*
 * What the kernel did not take yet. Bounded by what one read brings, for nothing is read meanwhile; a plugin's by
 * TETHERD_SEND_MAX.
 */
struct output {
        uint64_t blocked_usec; /* since when the peer has taken nothing */
        size_t n_bytes;
        size_t n_sent;
        size_t n_room; /* for bytes, sent ones included */
        uint8_t bytes[];
};

/* There may be many idle ones: what only some need is allocated, what can be asked of the kernel is not kept. */
struct connection {
        struct source source;
        union {
                struct timer timer; /* the earliest of the state's deadlines */
                struct grave grave; /* once closed */
        };
        struct listener_config *config; /* the one that it was born with, and so its listener; counted */
        union {
                struct handshake *handshake; /* in state handshake; NULL: nothing has to be said */
                struct lease *lease;         /* from loading on; NULL: no resources */
        };
        union {
                struct output *output;            /* NULL: nothing unsent */
                struct tetherd_connection *guest; /* is_guest: a plugin's (guest.h), until it ends */
        };
        char *identity; /* NULL: none */
        uint64_t id;
        uint64_t accepted_usec;
        uint64_t received_usec; /* when the last bytes came */
        uint64_t bytes_received;
        uint64_t bytes_sent;
        struct address remote;
        uint32_t shaken; /* so long after accepted_usec; this and the next three are packed (clock.h) */
        uint32_t ready;  /* likewise */
        uint32_t fin;    /* so long after received_usec came a FIN that is kept; 0: none */
        uint32_t paused; /* since received_usec we did not want to read for so long */
        int fd;
        uint8_t state;   /* enum connection_state */
        bool is_unix;    /* its socket; `remote` may be what a PROXY header says */
        bool is_counted; /* by its source (admission.h) */
        bool is_guest;   /* its handler is a plugin */
};

/* Of UNIX sockets; 0 and (uid_t)-1 where nobody can know, as behind a proxy. */
static inline pid_t connection_peer_pid(const struct connection *c)
{
        return c->is_unix ? c->remote.peer.pid : 0;
}

static inline uid_t connection_peer_uid(const struct connection *c)
{
        return c->is_unix ? c->remote.peer.uid : (uid_t)-1;
}

static inline uint64_t connection_handshake_usec(const struct connection *c)
{
        return span_unpack(c->shaken);
}

static inline uint64_t connection_load_usec(const struct connection *c)
{
        return span_unpack(c->ready) - span_unpack(c->shaken);
}

int connections_init(struct connections *connections, struct loop *loop, struct journal *journal,
                     struct leases *leases);
void connections_deinit(struct connections *connections); /* asserts that none is left */

/* Before one more is accepted: whether there is memory for it, so that connection_new() succeeds. */
bool connections_reserve(struct connections *connections);
struct connection *connection_new(struct connections *connections); /* NULL when out of memory */

/* The kernel handed over `fd`, which is the connection's from here on, also when it is refused at once. */
void connection_open(struct connection *connection, struct listener *listener, int fd,
                     const struct address *remote);

/*
 * Walks all that were opened, in no order: the one behind `connection`, the first with NULL; NULL: no more. Any of them may be
 * ended on the way.
 */
struct connection *connections_next(const struct connections *connections,
                                    const struct connection *connection);

/* Ends the life, once: the first call decides, later ones are ignored. */
void connection_end(struct connection *connection, struct ending ending);

/* For one that was never opened; a closed connection frees itself at the end of the turn. */
void connection_free(struct connections *connections, struct connection *connection);

/* The daemon stops: everything that lives is ended with cause shutdown. */
void connections_end_all(struct connections *connections);
/* The same for what is not ready yet, or does not outlive us. */
void connections_end_early(struct connections *connections);

/* The daemon will not wait any longer: those that still release are dropped, their leases abandoned. */
void connections_abandon_all(struct connections *connections);

/* ---- a life that goes on in another process: snapshot.h ---- */

/* Whether one that is ready can go on there: not where a plugin, or what its lease holds, lives in this process. */
bool connection_outlives_us(const struct connection *connection);

/* For one that is ready, half closed included: out of memory, unended. Its socket must be open elsewhere. */
void connection_pass_on(struct connection *connection);

/*
 * Goes on with a life that was passed on. snapshot_read() has filled `connection`; `fd` and `lease` (NULL: no
 * resources), which is wholly loaded, are the connection's from here on.
 */
void connection_take_up(struct connection *connection, struct listener *listener, int fd,
                        struct lease *lease);

/* ---- for stream.c and guest.c ---- */

/* Whether its socket was given to a program: what comes from the peer is not ours to read, nor is a FIN ours to judge. */
bool connection_is_given(const struct connection *connection);

/* Takes the edge of the state machine; not for endings. The connection may be closed when it returns. */
void connection_step(struct connection *connection, enum connection_event event);

/* The handshake is complete. */
void connection_shaken(struct connection *connection);

/* `output` came or went: what the connection is woken for, and its deadline, change with it. */
void connection_rearm(struct connection *connection);

/* Since then, and until now, we did not want to read. */
void connection_was_paused(struct connection *connection, uint64_t since_usec);

/* What is unsent, NULL: nothing; and where that stands. Not once it has ended. */
struct output *connection_output(const struct connection *connection);
struct output **connection_output_slot(struct connection *connection);

/* Our address, AF_UNSPEC where it is not known; and what events carry. */
void connection_local(const struct connection *connection, struct address *ret);
struct event_connection connection_facts(const struct connection *connection, const struct address *local);

/*
 * machine: the life of a connection, pure. State and event give the next state and what is to be done on the
 * way; connection.c obeys. Why a connection ends is data (cause.h): every ending is the one event END.
 *
 *      accept ──> handshake ──> loading ──> ready ──> (half-closed) ──> releasing ──> closed
 *
 * A restart that ends nobody passes what is ready on: closed here, and from accept to ready in the next process.
 */
#pragma once

#include "base/util.h"

enum connection_state {
        CONNECTION_ACCEPT,
        CONNECTION_HANDSHAKE,
        CONNECTION_LOADING,
        CONNECTION_READY,
        CONNECTION_HALF_CLOSED, /* the peer's FIN came and is kept; records call it ready */
        CONNECTION_RELEASING,
        CONNECTION_CLOSED,
        N_CONNECTION_STATES,
};

enum connection_event {
        EVENT_ADMITTED,  /* registered with the loop */
        EVENT_SHAKEN,    /* PROXY header and hello are complete */
        EVENT_LOADED,    /* every resource is loaded, a plugin's own included */
        EVENT_FIN,       /* the peer's FIN, with half_close = keep */
        EVENT_END,       /* it ends, for whatever cause */
        EVENT_SETTLED,   /* every resource is released, or quarantined */
        EVENT_PASSED_ON, /* another process of ours goes on with it */
        EVENT_TAKEN_UP,  /* it was ready in another process, and is here */
        N_CONNECTION_EVENTS,
};

enum connection_action {
        ACTION_NONE,  /* nothing but the new state: the event came too late to matter */
        ACTION_GREET, /* begin the handshake */
        ACTION_LOAD,
        ACTION_SERVE,   /* hand bytes to the handler */
        ACTION_HOLD,    /* keep the half-closed connection */
        ACTION_REJECT,  /* close the socket, report `rejected` */
        ACTION_RELEASE, /* close the socket, release what was loaded */
        ACTION_REPORT,  /* report `closed` */
        ACTION_LEAVE,   /* drop the memory: the connection lives on elsewhere, with its lease */
        ACTION_RESUME,  /* go on serving */
};

struct connection_edge {
        enum connection_state next;
        enum connection_action action;
};

/* Asserts that the event can happen in this state. */
struct connection_edge machine_step(enum connection_state state, enum connection_event event);

/* Whether it can: for tests, which walk every path. */
bool machine_allows(enum connection_state state, enum connection_event event);

/* As in TETHERD_STATE. */
const char *connection_state_name(enum connection_state state);

/*
 * cause: why a connection ended. Pure: what was observed goes in, what interface.md calls it comes out; no
 * socket, no clock. This is the only place where an errno becomes a cause.
 */
#pragma once

#include "base/util.h"
#include <linux/tcp.h>

enum cause {
        CAUSE_NONE,
        CAUSE_EOF,
        CAUSE_RESET,
        CAUSE_ABORTED,
        CAUSE_KEEPALIVE_TIMEOUT,
        CAUSE_TRANSMIT_TIMEOUT,
        CAUSE_STALLED,
        CAUSE_UNREACHABLE,
        CAUSE_HANDSHAKE_TIMEOUT,
        CAUSE_IDLE_TIMEOUT,
        CAUSE_HALF_CLOSE_TIMEOUT,
        CAUSE_MAX_AGE,
        CAUSE_PROTOCOL_ERROR,
        CAUSE_DENIED,
        CAUSE_LIMIT,
        CAUSE_LOAD_FAILED,
        CAUSE_LOAD_TIMEOUT,
        CAUSE_POOL_EMPTY,
        CAUSE_PROCESS_EXITED,
        CAUSE_RESOURCE_LOST,
        CAUSE_HANDLER,
        CAUSE_SHUTDOWN,
        CAUSE_EXHAUSTED,
        CAUSE_ORPHANED,
        CAUSE_ERROR,
        N_CAUSES,
};

enum operation {
        OPERATION_NONE,
        OPERATION_ACCEPT,
        OPERATION_HANDSHAKE,
        OPERATION_RECEIVE,
        OPERATION_SEND,
        OPERATION_CLOSE,
};

/* What a receive or send said, and what the kernel knew of the connection at that moment. */
struct observation {
        enum operation operation;
        int error;            /* the errno; 0 = receive returned 0 */
        int socket_error;     /* SO_ERROR, asked after a receive that returned 0; else 0 */
        bool was_half_closed; /* the peer's FIN was kept earlier (half_close = keep) */
        bool has_unsent;      /* bytes of ours that the peer did not acknowledge, or that never left us */
        bool is_hung_up;      /* EPOLLHUP, and no errno: somebody with whom we share the socket took it */
        uint32_t user_timeout_msec; /* then: the listener's user_timeout; 0: off */
        bool has_info;              /* `info` is filled: TCP only */
        struct tcp_info info;       /* read after the event; which fields survive a death: tests/kernel */
};

struct ending {
        enum cause cause;
        enum operation operation;
        int error; /* for ERRNO */
};

/* Never CAUSE_NONE. The errnos that are no ending (errno_is_spurious()) must not come here. */
struct ending cause_decide(const struct observation *observation);

/*
 * Whether a socket that we share is done with. Not while only this end is shut, by whom we share it with, nor after both
 * ends were shut in order: then it is the program's to end. On UNIX sockets that is not to be told from a full close, so
 * it goes by what came first: the peer's FIN, or all at once.
 */
bool cause_is_over(const struct observation *observation);

/* Both ends were shut, and the peer has acknowledged ours: an end in order. */
bool info_is_finished(const struct tcp_info *info);
/* Bytes of ours that the peer's host did not acknowledge; also once the connection is dead. */
bool info_has_unacknowledged(const struct tcp_info *info);
/* What was handed over for sending, a FIN not counted. */
uint64_t info_bytes_sent(const struct tcp_info *info);

/* The endings that the daemon decides itself carry the operation that interface.md gives for the cause. */
struct ending cause_local(enum cause cause, int error);

/* Whether TCP_INFO is needed to tell what this errno means; it costs a system call. */
bool cause_needs_info(int error);

/* "reset", "peer", "receive"; and for a sentence: "reset by peer". Constant strings. */
const char *cause_name(enum cause cause);
const char *cause_initiator(enum cause cause);
const char *cause_sentence(enum cause cause);
const char *operation_name(enum operation operation);

/* Whether this refuses the client, which is then told so (`refusal`). */
bool cause_is_refusal(enum cause cause);

/* Whether something that it held ended by itself. */
bool cause_is_loss(enum cause cause);

/* Whether `closed` with this cause is nothing remarkable (info rather than notice). */
bool cause_is_ordinary(enum cause cause);

/* EAGAIN, EINTR and the like: the call is to be tried again, nothing ended. */
bool errno_is_spurious(int error);
/* EMFILE, ENFILE, ENOBUFS, ENOMEM: this host is out of something; pause, then go on. */
bool errno_is_exhaustion(int error);
/* accept4(2): the error belongs to a connection that died in the queue, not to the listener. */
bool errno_is_accept_transient(int error);

/*
 * tetherd/plugin.h: a handler of tetherd's in a shared object. See tetherd-plugin(3).
 *
 * The object exports one `struct tetherd_plugin` of the name `tetherd_plugin`; a listener names the object with
 * `handler = plugin:/path/to.so`. Everything below is called in one thread, the loop that serves all connections,
 * and nothing in it may wait; of the calls, other threads may make tetherd_run() alone. No callback is ever
 * called from inside a call: whatever a call brings about comes later.
 *
 * New members are added at the end of the structs, and new calls: an object that was built with an older header
 * goes on working as long as TETHERD_PLUGIN_ABI is the same.
 */
#ifndef TETHERD_PLUGIN_H
#define TETHERD_PLUGIN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define TETHERD_PUBLIC               __attribute__((visibility("default")))
#define TETHERD_PRINTF_(text, first) __attribute__((format(printf, text, first)))
#else
#define TETHERD_PUBLIC
#define TETHERD_PRINTF_(text, first)
#endif

#define TETHERD_PLUGIN_ABI 1

/* What may wait to be sent on one connection, in bytes. */
#define TETHERD_SEND_MAX 262144

struct tetherd_listener;   /* a [listener:NAME]; from its prepare_listen until its shutdown returns */
struct tetherd_connection; /* from its accept until its close returns */

/* What a callback answers. */
enum tetherd_answer {
        TETHERD_ERROR = -1,
        TETHERD_OK = 0,
        TETHERD_PENDING = 1 /* of handshake alone */
};

/*
 * How a connection ended. `size` is what the running tetherd knows of this struct: a member that a later version
 * added is there where it lies within that. All of it is borrowed for the call.
 */
struct tetherd_ending {
        uint32_t size;
        int error;             /* an errno; 0: there was none */
        const char *cause;     /* "eof", "reset", "handler": as TETHERD_CAUSE, see tetherd(8) */
        const char *initiator; /* "peer", "network", "local" or "none" */
        const char *operation; /* "accept", "handshake", "receive", "send", "close" or "none" */
        const char *state;     /* that it was in: "accept", "handshake", "loading" or "ready" */
        uint64_t duration_usec;
        uint64_t bytes_received;
        uint64_t bytes_sent;
};

struct tetherd_plugin {
        uint32_t abi;     /* TETHERD_PLUGIN_ABI */
        uint32_t size;    /* sizeof(struct tetherd_plugin) */
        const char *name; /* for messages; not NULL, not empty */

        /* Each of these may be NULL. */

        /*
         * The socket `fd` is bound, before listen(2); for each socket of the listener. One of systemd's, and one that
         * was open when a reload named this plugin, listens already. It is borrowed. TETHERD_ERROR: the listener fails.
         */
        int (*prepare_listen)(struct tetherd_listener *listener, int fd);

        /*
         * The kernel handed over a connection, and rules and limits let it in. Nothing is known yet but where it comes
         * from. TETHERD_ERROR: it is refused.
         */
        int (*accept)(struct tetherd_connection *connection);

        /*
         * PROXY header and hello are done and the declared resources are loaded; load your own here. TETHERD_PENDING:
         * it becomes ready when tetherd_ready() is called, and ends where that takes longer than `handler_timeout`.
         * TETHERD_ERROR: it ends.
         */
        int (*handshake)(struct tetherd_connection *connection);

        /*
         * Bytes came; they are borrowed for the call. With half_close = keep, n = 0 says that the peer's FIN came:
         * nothing more will, and the connection lives on. TETHERD_ERROR: it ends.
         */
        int (*receive)(struct tetherd_connection *connection, const void *bytes, size_t n);

        /* `n_sent` bytes that had been queued went out to the kernel, `n_queued` are left. The answer is ignored. */
        int (*send)(struct tetherd_connection *connection, size_t n_sent, size_t n_queued);

        /*
         * It ended: the last callback of a connection, exactly once for each that `accept` was called for, or would have
         * been. The peer's socket is closed; the declared resources are still there: release your own here.
         */
        void (*close)(struct tetherd_connection *connection, const struct tetherd_ending *ending);

        /* The listener is closed for good: its last callback. */
        void (*shutdown)(struct tetherd_listener *listener);
};

/* What the object has to define. */
extern TETHERD_PUBLIC const struct tetherd_plugin tetherd_plugin;

/*
 * ---- calls ----
 *
 * From any callback, on any connection between its accept and its close, that one and others. Those that return an
 * int return a negative errno where they fail: -ENOTCONN, the connection has ended or is about to. Strings belong to
 * tetherd.
 */

/*
 * Sends: what the kernel does not take at once is copied and queued. Not before `handshake` is called. Returns how
 * many bytes are queued now, 0 where all went out; `send` tells when queued ones do. Or, with nothing sent:
 *
 *      -EAGAIN     they do not fit into the queue now (TETHERD_SEND_MAX): wait for `send`
 *      -EMSGSIZE   they never would
 *      -ENOTCONN   not yet, or not any more
 *      another     the connection is broken; `close` follows, after what the peer sent before
 */
TETHERD_PUBLIC int tetherd_send(struct tetherd_connection *connection, const void *bytes, size_t n);

/*
 * Ends the connection, cause `handler`: `close` is its next and last callback, soon after the callback of this moment
 * has returned. What is queued by then is dropped: wait for `send` with n_queued = 0 first where it matters. 0, also
 * where it is about to end already.
 */
TETHERD_PUBLIC int tetherd_disconnect(struct tetherd_connection *connection);

/*
 * The handshake that was, or in this callback will be, answered with TETHERD_PENDING is done. -EALREADY: it is not
 * pending.
 */
TETHERD_PUBLIC int tetherd_ready(struct tetherd_connection *connection);

/*
 * Stops receiving, and goes on with it; idle_timeout stands still meanwhile. A FIN waits behind what is not received;
 * when the connection breaks, or the peer of a UNIX socket closes it, what came before is received at once. 0 or
 * -ENOTCONN.
 */
TETHERD_PUBLIC int tetherd_pause(struct tetherd_connection *connection);
TETHERD_PUBLIC int tetherd_resume(struct tetherd_connection *connection);

/* A pointer of yours, NULL at first; tetherd does nothing with it. Also inside `close`. */
TETHERD_PUBLIC void tetherd_set_data(struct tetherd_connection *connection, void *data);
TETHERD_PUBLIC void *tetherd_data(const struct tetherd_connection *connection);

/* The id that records have in hexadecimal; never used twice. */
TETHERD_PUBLIC uint64_t tetherd_connection_id(const struct tetherd_connection *connection);

/*
 * The peer's address, and ours: "192.0.2.7", "2001:db8::1", "unix"; "" where it is not known. *ret_port: its port,
 * 0 on UNIX sockets; may be NULL. The peer's is what a PROXY header says, once it was read. Valid until the same
 * call is made again.
 */
TETHERD_PUBLIC const char *tetherd_remote(struct tetherd_connection *connection, uint16_t *ret_port);
TETHERD_PUBLIC const char *tetherd_local(struct tetherd_connection *connection, uint16_t *ret_port);

/* What the client called itself in its hello; NULL: nothing, or not yet. */
TETHERD_PUBLIC const char *tetherd_identity(const struct tetherd_connection *connection);

/* The value of a declared resource that is loaded; NULL: it is not. From `handshake` to `close`. */
TETHERD_PUBLIC const char *tetherd_value(const struct tetherd_connection *connection, const char *resource);

/* The listener that accepted it, and the name of one. */
TETHERD_PUBLIC struct tetherd_listener *tetherd_listener(const struct tetherd_connection *connection);
TETHERD_PUBLIC const char *tetherd_listener_name(const struct tetherd_listener *listener);

/*
 * Writes a line to the log, with the fields of the connection where one is given. Priorities are those of syslog(3),
 * from LOG_ERR to LOG_DEBUG. Lines are cut at 2047 bytes.
 */
TETHERD_PRINTF_(3, 4)
TETHERD_PUBLIC void tetherd_log(const struct tetherd_connection *connection, int priority, const char *format,
                                ...);

/*
 * From any thread, at any time once `prepare_listen` was called first: has `function` called in the loop, soon, in the
 * order of the calls. It may make every call, as a callback may. 0 or -ENOMEM. What is left when tetherd stops is not
 * called any more.
 */
TETHERD_PUBLIC int tetherd_run(void (*function)(void *userdata), void *userdata);

#ifdef __cplusplus
}
#endif

#endif

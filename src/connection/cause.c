/*
 * What a dying connection says was measured (tests/kernel pins it): recv returns 0 for a FIN, but also for a
 * FIN with a RST behind it, which hides as EPIPE in SO_ERROR; ETIMEDOUT is one errno for three deaths, which
 * only TCP_INFO tells apart: `tcpi_probes`, `tcpi_retransmits`, `tcpi_notsent_bytes` and `tcpi_snd_wnd`
 * survive the death, `tcpi_unacked` and `tcpi_backoff` do not. Where a program that has the socket took the errno,
 * they have to tell a time that was over from a RST as well; and `tcpi_bytes_acked`, which counts our FIN, unlike
 * `tcpi_bytes_sent`, tells a RST from an end in order.
 */
#include "connection/cause.h"

#define STATE_CLOSE 7  /* tcpi_state; <netinet/tcp.h> names it, and contradicts <linux/tcp.h> */
#define TICK_MSEC   10 /* the kernel's times are in jiffies */

uint64_t info_bytes_sent(const struct tcp_info *info)
{
        return info->tcpi_bytes_sent - info->tcpi_bytes_retrans + info->tcpi_notsent_bytes;
}

bool info_has_unacknowledged(const struct tcp_info *info)
{
        return info->tcpi_bytes_acked < info_bytes_sent(info);
}

bool info_is_finished(const struct tcp_info *info)
{
        return info->tcpi_state == STATE_CLOSE && info->tcpi_bytes_acked > info_bytes_sent(info);
}

/* No errno is left: whether the peer was silent for too long, and so sent no RST. */
static bool has_timed_out(const struct observation *o)
{
        const struct tcp_info *info = &o->info;
        uint32_t heard_msec = MIN(info->tcpi_last_data_recv, info->tcpi_last_ack_recv);

        if (info->tcpi_retransmits > 0)
                return true;
        if (info->tcpi_probes > 0)
                return heard_msec + TICK_MSEC >= o->user_timeout_msec;
        return o->user_timeout_msec > 0 && info->tcpi_notsent_bytes > 0 && info->tcpi_snd_wnd == 0 &&
               info->tcpi_last_data_sent + TICK_MSEC >= o->user_timeout_msec;
}

/* Timed out: an idle peer that is gone, a peer that is gone with our data under way, or one that does not read. */
static enum cause cause_of_timeout(const struct observation *o)
{
        if (!o->has_info)
                return o->has_unsent ? CAUSE_TRANSMIT_TIMEOUT : CAUSE_KEEPALIVE_TIMEOUT;
        /* A shut window alone is not enough: unanswered probes mean that it was cut as well. */
        if (o->info.tcpi_notsent_bytes > 0 && o->info.tcpi_snd_wnd == 0 && o->info.tcpi_probes == 0)
                return CAUSE_STALLED;
        if (o->info.tcpi_retransmits > 0 || o->info.tcpi_notsent_bytes > 0)
                return CAUSE_TRANSMIT_TIMEOUT;
        return CAUSE_KEEPALIVE_TIMEOUT;
}

static enum cause cause_of_errno(const struct observation *o, int error)
{
        switch (error) {
        case ECONNRESET:
        case EPIPE:
                /* The FIN that we kept was a close after all: its end shows when we write, or as a RST. */
                return o->was_half_closed && !o->has_unsent ? CAUSE_EOF : CAUSE_RESET;
        case ECONNABORTED:
                return CAUSE_ABORTED;
        case ETIMEDOUT:
                return cause_of_timeout(o);
        case EHOSTUNREACH:
        case ENETUNREACH:
        case ENETDOWN:
        case EHOSTDOWN:
        case ENONET:
        case EACCES:
        case EPERM:
        case ECONNREFUSED:
                return CAUSE_UNREACHABLE;
        default:
                return errno_is_exhaustion(error) ? CAUSE_EXHAUSTED : CAUSE_ERROR;
        }
}

/* The errno went to somebody else: what is left tells, but for what only an errno can (ENETUNREACH). */
static enum cause cause_of_remains(const struct observation *o)
{
        if (!o->has_info) /* a UNIX socket */
                return CAUSE_EOF;
        return has_timed_out(o) ? cause_of_timeout(o) : cause_of_errno(o, ECONNRESET);
}

bool cause_is_over(const struct observation *o)
{
        if (!o->is_hung_up)
                return true;
        if (!o->has_info) /* a UNIX socket: behind a FIN, the program may have shut its end just as well */
                return !o->was_half_closed;
        return o->info.tcpi_state == STATE_CLOSE && (has_timed_out(o) || !info_is_finished(&o->info));
}

struct ending cause_decide(const struct observation *o)
{
        int error = o->error ? o->error : o->socket_error;
        enum cause cause = error ? cause_of_errno(o, error) : o->is_hung_up ? cause_of_remains(o) : CAUSE_EOF;
        /* A stalled peer is found by what we send, whichever call was the first to be told. */
        enum operation operation = cause == CAUSE_STALLED ? OPERATION_SEND : o->operation;

        assert(!errno_is_spurious(error));
        return (struct ending){ .cause = cause, .operation = operation, .error = error };
}

bool cause_needs_info(int error)
{
        return error == ETIMEDOUT;
}

enum initiator { NOBODY, PEER, NETWORK, LOCAL };
static const char *const initiator_names[] = {
        [NOBODY] = "none", [PEER] = "peer", [NETWORK] = "network", [LOCAL] = "local"
};

static const struct {
        const char *name;
        enum initiator initiator;
        bool is_ordinary;
        enum operation operation; /* of those that the daemon decides itself */
        const char *sentence;
} causes[N_CAUSES] = {
        [CAUSE_NONE] = { "none", NOBODY, false, OPERATION_NONE, "for no reason" },
        [CAUSE_EOF] = { "eof", PEER, true, OPERATION_RECEIVE, "closed by peer" },
        [CAUSE_RESET] = { "reset", PEER, false, OPERATION_RECEIVE, "reset by peer" },
        [CAUSE_ABORTED] = { "aborted", LOCAL, false, OPERATION_RECEIVE, "destroyed on this host" },
        [CAUSE_KEEPALIVE_TIMEOUT] = { "keepalive-timeout", NETWORK, false, OPERATION_RECEIVE,
                                      "peer vanished, keepalive probes went unanswered" },
        [CAUSE_TRANSMIT_TIMEOUT] = { "transmit-timeout", NETWORK, false, OPERATION_SEND,
                                     "peer vanished, sent data went unacknowledged" },
        [CAUSE_STALLED] = { "stalled", PEER, false, OPERATION_SEND, "peer is alive but does not read" },
        [CAUSE_UNREACHABLE] = { "unreachable", NETWORK, false, OPERATION_RECEIVE, "peer unreachable" },
        [CAUSE_HANDSHAKE_TIMEOUT] = { "handshake-timeout", LOCAL, false, OPERATION_HANDSHAKE,
                                      "handshake timed out" },
        [CAUSE_IDLE_TIMEOUT] = { "idle-timeout", LOCAL, false, OPERATION_RECEIVE, "idle for too long" },
        [CAUSE_HALF_CLOSE_TIMEOUT] = { "half-close-timeout", LOCAL, false, OPERATION_RECEIVE,
                                       "half closed for too long" },
        [CAUSE_MAX_AGE] = { "max-age", LOCAL, false, OPERATION_RECEIVE, "reached its maximum age" },
        [CAUSE_PROTOCOL_ERROR] = { "protocol-error", PEER, false, OPERATION_HANDSHAKE, "bad handshake" },
        [CAUSE_DENIED] = { "denied", LOCAL, false, OPERATION_ACCEPT, "denied by a rule" },
        [CAUSE_LIMIT] = { "limit", LOCAL, false, OPERATION_ACCEPT, "over a limit of its source" },
        [CAUSE_LOAD_FAILED] = { "load-failed", LOCAL, false, OPERATION_HANDSHAKE,
                                "a resource could not be loaded" },
        [CAUSE_LOAD_TIMEOUT] = { "load-timeout", LOCAL, false, OPERATION_HANDSHAKE,
                                 "a resource took too long to load" },
        [CAUSE_POOL_EMPTY] = { "pool-empty", LOCAL, false, OPERATION_HANDSHAKE,
                               "no item was free in a pool" },
        [CAUSE_PROCESS_EXITED] = { "process-exited", LOCAL, false, OPERATION_NONE, "its program ended" },
        [CAUSE_RESOURCE_LOST] = { "resource-lost", LOCAL, false, OPERATION_NONE,
                                  "a resource that it depends on ended" },
        [CAUSE_HANDLER] = { "handler", LOCAL, true, OPERATION_CLOSE, "closed by the handler" },
        [CAUSE_SHUTDOWN] = { "shutdown", LOCAL, true, OPERATION_CLOSE, "the daemon stops" },
        [CAUSE_EXHAUSTED] = { "exhausted", LOCAL, false, OPERATION_ACCEPT,
                              "this host ran out of memory or the like" },
        [CAUSE_ORPHANED] = { "orphaned", NOBODY, false, OPERATION_NONE, "left over by an earlier run" },
        [CAUSE_ERROR] = { "error", NOBODY, false, OPERATION_RECEIVE, "failed" },
};

struct ending cause_local(enum cause cause, int error)
{
        return (struct ending){ .cause = cause, .operation = causes[cause].operation, .error = error };
}

const char *cause_name(enum cause cause)
{
        return causes[cause].name;
}

const char *cause_initiator(enum cause cause)
{
        return initiator_names[causes[cause].initiator];
}

const char *cause_sentence(enum cause cause)
{
        return causes[cause].sentence;
}

bool cause_is_refusal(enum cause cause)
{
        return cause == CAUSE_DENIED || cause == CAUSE_LIMIT || cause == CAUSE_LOAD_FAILED ||
               cause == CAUSE_LOAD_TIMEOUT || cause == CAUSE_POOL_EMPTY;
}

bool cause_is_loss(enum cause cause)
{
        return cause == CAUSE_PROCESS_EXITED || cause == CAUSE_RESOURCE_LOST;
}

bool cause_is_ordinary(enum cause cause)
{
        return causes[cause].is_ordinary;
}

const char *operation_name(enum operation operation)
{
        static const char *const names[] = {
                [OPERATION_NONE] = "none",           [OPERATION_ACCEPT] = "accept",
                [OPERATION_HANDSHAKE] = "handshake", [OPERATION_RECEIVE] = "receive",
                [OPERATION_SEND] = "send",           [OPERATION_CLOSE] = "close",
        };

        return names[operation];
}

bool errno_is_spurious(int error)
{
        return error == EAGAIN || error == EINTR;
}

bool errno_is_exhaustion(int error)
{
        return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

bool errno_is_accept_transient(int error)
{
        /* accept(2): "Linux accept() passes already-pending network errors on the new socket". */
        switch (error) {
        case ECONNABORTED:
        case EPROTO:
        case ENOPROTOOPT:
        case ENETDOWN:
        case EHOSTDOWN:
        case ENONET:
        case EHOSTUNREACH:
        case ENETUNREACH:
        case EOPNOTSUPP:
        case EPERM: /* a firewall rule */
        case EINTR:
                return true;
        default:
                return false;
        }
}

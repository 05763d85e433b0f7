/*
 * What connection/cause promises: each row of the measured table (design.md, section 4) and of interface.md's
 * causes, observation in, cause, operation, initiator and errno out.
 */
#include "aborts.h"
#include "unit.h"

#include "connection/cause.h"

#define R OPERATION_RECEIVE
#define S OPERATION_SEND

static const struct {
        const char *what;
        struct observation seen;
        enum cause cause;
        enum operation operation;
        int error;
        const char *initiator;
} rows[] = {
        /* clang-format off */
        { "close, exit, kill -9: FIN", { .operation = R }, CAUSE_EOF, R, 0, "peer" },
        { "UNIX close", { .operation = R }, CAUSE_EOF, R, 0, "peer" },
        { "FIN, then RST before we read", { .operation = R, .socket_error = EPIPE }, CAUSE_RESET, R, EPIPE, "peer" },
        { "the same while something is unsent", { .operation = R, .socket_error = EPIPE, .has_unsent = true },
          CAUSE_RESET, R, EPIPE, "peer" },
        { "RST", { .operation = R, .error = ECONNRESET }, CAUSE_RESET, R, ECONNRESET, "peer" },
        { "RST, seen when we send", { .operation = S, .error = ECONNRESET }, CAUSE_RESET, S, ECONNRESET, "peer" },
        { "FIN, RST, seen when we send", { .operation = S, .error = EPIPE }, CAUSE_RESET, S, EPIPE, "peer" },
        { "RST behind a FIN that was kept", { .operation = R, .error = ECONNRESET, .was_half_closed = true },
          CAUSE_EOF, R, ECONNRESET, "peer" },
        { "full close behind a FIN that was kept", { .operation = R, .socket_error = EPIPE, .was_half_closed = true },
          CAUSE_EOF, R, EPIPE, "peer" },
        { "the same, seen when we send", { .operation = S, .error = EPIPE, .was_half_closed = true },
          CAUSE_EOF, S, EPIPE, "peer" },
        { "the same with something of ours unsent",
          { .operation = S, .error = EPIPE, .was_half_closed = true, .has_unsent = true }, CAUSE_RESET, S, EPIPE, "peer" },
        { "RST behind a kept FIN, something unsent",
          { .operation = R, .error = ECONNRESET, .was_half_closed = true, .has_unsent = true },
          CAUSE_RESET, R, ECONNRESET, "peer" },
        { "UNIX close behind a kept FIN", { .operation = R, .was_half_closed = true }, CAUSE_EOF, R, 0, "peer" },
        { "our own host's ss -K", { .operation = R, .error = ECONNABORTED }, CAUSE_ABORTED, R, ECONNABORTED, "local" },
        { "the same when we send", { .operation = S, .error = ECONNABORTED }, CAUSE_ABORTED, S, ECONNABORTED, "local" },
        { "the same behind a kept FIN", { .operation = R, .socket_error = ECONNABORTED, .was_half_closed = true },
          CAUSE_ABORTED, R, ECONNABORTED, "local" },
        { "idle, then cut",
          { .operation = R, .error = ETIMEDOUT, .has_info = true,
            .info = { .tcpi_probes = 4, .tcpi_snd_wnd = 65536 } },
          CAUSE_KEEPALIVE_TIMEOUT, R, ETIMEDOUT, "network" },
        { "idle, cut, after a FIN that was kept",
          { .operation = R, .socket_error = ETIMEDOUT, .was_half_closed = true, .has_info = true,
            .info = { .tcpi_probes = 4, .tcpi_snd_wnd = 65536 } },
          CAUSE_KEEPALIVE_TIMEOUT, R, ETIMEDOUT, "network" },
        { "idle behind a shut window", /* nothing of ours is unsent */
          { .operation = R, .error = ETIMEDOUT, .has_info = true, .info = { .tcpi_probes = 4 } },
          CAUSE_KEEPALIVE_TIMEOUT, R, ETIMEDOUT, "network" },
        { "our data under way, then cut",
          { .operation = R, .error = ETIMEDOUT, .has_info = true, .has_unsent = true,
            .info = { .tcpi_retransmits = 5, .tcpi_snd_wnd = 65536 } },
          CAUSE_TRANSMIT_TIMEOUT, R, ETIMEDOUT, "network" },
        { "the same when we send",
          { .operation = S, .error = ETIMEDOUT, .has_info = true, .has_unsent = true,
            .info = { .tcpi_retransmits = 5, .tcpi_notsent_bytes = 99, .tcpi_snd_wnd = 65536 } },
          CAUSE_TRANSMIT_TIMEOUT, S, ETIMEDOUT, "network" },
        { "cut with data that never left", /* uto came before the first retransmission */
          { .operation = R, .error = ETIMEDOUT, .has_info = true, .has_unsent = true,
            .info = { .tcpi_notsent_bytes = 99, .tcpi_snd_wnd = 65536 } },
          CAUSE_TRANSMIT_TIMEOUT, R, ETIMEDOUT, "network" },
        { "peer alive, does not read",
          { .operation = R, .error = ETIMEDOUT, .has_info = true, .has_unsent = true,
            .info = { .tcpi_notsent_bytes = 99 } },
          CAUSE_STALLED, S, ETIMEDOUT, "peer" },
        { "the same when we send",
          { .operation = S, .error = ETIMEDOUT, .has_info = true, .has_unsent = true,
            .info = { .tcpi_notsent_bytes = 99 } },
          CAUSE_STALLED, S, ETIMEDOUT, "peer" },
        { "peer did not read, then was cut",
          { .operation = R, .error = ETIMEDOUT, .has_info = true, .has_unsent = true,
            .info = { .tcpi_notsent_bytes = 99, .tcpi_probes = 3 } },
          CAUSE_TRANSMIT_TIMEOUT, R, ETIMEDOUT, "network" },
        { "no TCP_INFO, idle", { .operation = R, .error = ETIMEDOUT }, CAUSE_KEEPALIVE_TIMEOUT, R, ETIMEDOUT, "network" },
        { "no TCP_INFO, data under way", { .operation = R, .error = ETIMEDOUT, .has_unsent = true },
          CAUSE_TRANSMIT_TIMEOUT, R, ETIMEDOUT, "network" },
        { "ICMP host, ARP", { .operation = R, .error = EHOSTUNREACH }, CAUSE_UNREACHABLE, R, EHOSTUNREACH, "network" },
        { "ICMP net", { .operation = S, .error = ENETUNREACH }, CAUSE_UNREACHABLE, S, ENETUNREACH, "network" },
        { "ICMP port", { .operation = R, .error = ECONNREFUSED }, CAUSE_UNREACHABLE, R, ECONNREFUSED, "network" },
        { "IPv6 ICMP admin", { .operation = R, .error = EACCES }, CAUSE_UNREACHABLE, R, EACCES, "network" },
        { "own link", { .operation = S, .error = ENETDOWN }, CAUSE_UNREACHABLE, S, ENETDOWN, "network" },
        { "host down", { .operation = S, .error = EHOSTDOWN }, CAUSE_UNREACHABLE, S, EHOSTDOWN, "network" },
        { "machine not on the net", { .operation = S, .error = ENONET }, CAUSE_UNREACHABLE, S, ENONET, "network" },
        { "firewall", { .operation = S, .error = EPERM }, CAUSE_UNREACHABLE, S, EPERM, "network" },
        { "unreachable behind a kept FIN", { .operation = R, .socket_error = EHOSTUNREACH, .was_half_closed = true },
          CAUSE_UNREACHABLE, R, EHOSTUNREACH, "network" },
        { "out of memory", { .operation = S, .error = ENOMEM }, CAUSE_EXHAUSTED, S, ENOMEM, "local" },
        { "out of buffers", { .operation = R, .error = ENOBUFS }, CAUSE_EXHAUSTED, R, ENOBUFS, "local" },
        { "anything else", { .operation = R, .error = EIO }, CAUSE_ERROR, R, EIO, "none" },
        { "anything else, sending", { .operation = S, .error = EINVAL }, CAUSE_ERROR, S, EINVAL, "none" },
        { "anything else, accepting", { .operation = OPERATION_ACCEPT, .error = ENOSPC },
          CAUSE_ERROR, OPERATION_ACCEPT, ENOSPC, "none" },
        { "recv's own errno comes before SO_ERROR", { .operation = R, .error = ECONNRESET, .socket_error = EPIPE },
          CAUSE_RESET, R, ECONNRESET, "peer" },
        /* clang-format on */
};

START_TEST(test_cause_decide)
{
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct ending ending = cause_decide(&rows[i].seen);

                ck_assert_msg(ending.cause == rows[i].cause, "%s: %s", rows[i].what,
                              cause_name(ending.cause));
                ck_assert_msg(ending.operation == rows[i].operation, "%s: %s", rows[i].what,
                              operation_name(ending.operation));
                ck_assert_msg(ending.error == rows[i].error, "%s: %d", rows[i].what, ending.error);
                ck_assert_msg(streq(cause_initiator(ending.cause), rows[i].initiator), "%s: %s", rows[i].what,
                              cause_initiator(ending.cause));
                if (rows[i].seen.has_info)
                        ck_assert_msg(cause_needs_info(ending.error), "%s", rows[i].what);
        }
}
END_TEST

/* A program has the socket and took the errno: what is left tells, and whether it is over at all. */
START_TEST(test_cause_of_remains)
{
        static const struct {
                const char *what;
                struct observation seen;
                enum cause cause; /* NONE: it is not over */
        } remains[] = {
                /* clang-format off */
                { "UNIX close", { .is_hung_up = true }, CAUSE_EOF },
                { "UNIX close or the program's shutdown, after a FIN", { .is_hung_up = true, .was_half_closed = true }, CAUSE_NONE },
                { "RST", { .info = { .tcpi_state = 7, .tcpi_bytes_acked = 5, .tcpi_bytes_sent = 5 } }, CAUSE_RESET },
                { "RST, something on its way", { .info = { .tcpi_state = 7, .tcpi_bytes_sent = 5 } }, CAUSE_RESET },
                { "RST after a FIN", { .was_half_closed = true, .has_unsent = true, .info = { .tcpi_state = 7, .tcpi_bytes_sent = 5 } },
                  CAUSE_RESET },
                { "full close after a FIN", { .was_half_closed = true, .info = { .tcpi_state = 7 } }, CAUSE_EOF },
                { "RST of one that does not read, before its time is over",
                  { .user_timeout_msec = 3000, .info = { .tcpi_state = 7, .tcpi_notsent_bytes = 9, .tcpi_last_data_sent = 900 } },
                  CAUSE_RESET },
                { "one that does not read",
                  { .user_timeout_msec = 3000, .info = { .tcpi_state = 7, .tcpi_notsent_bytes = 9, .tcpi_last_data_sent = 2996 } },
                  CAUSE_STALLED },
                { "idle, then cut",
                  { .user_timeout_msec = 3000, .info = { .tcpi_state = 7, .tcpi_probes = 2, .tcpi_last_ack_recv = 3000, .tcpi_last_data_recv = 4000 } },
                  CAUSE_KEEPALIVE_TIMEOUT },
                { "the same after the program shut its end down",
                  { .user_timeout_msec = 3000,
                    .info = { .tcpi_state = 7, .tcpi_bytes_acked = 1, .tcpi_probes = 2, .tcpi_last_ack_recv = 3000, .tcpi_last_data_recv = 4000 } },
                  CAUSE_KEEPALIVE_TIMEOUT },
                { "the same without a user timeout", { .info = { .tcpi_state = 7, .tcpi_probes = 2 } }, CAUSE_KEEPALIVE_TIMEOUT },
                { "replaced by a host that answers with RST",
                  { .user_timeout_msec = 3000, .info = { .tcpi_state = 7, .tcpi_probes = 1, .tcpi_last_ack_recv = 1000, .tcpi_last_data_recv = 4000 } },
                  CAUSE_RESET },
                { "data under way, then cut", { .info = { .tcpi_state = 7, .tcpi_bytes_sent = 9, .tcpi_retransmits = 4 } },
                  CAUSE_TRANSMIT_TIMEOUT },
                { "retransmitted, then reset", { .info = { .tcpi_state = 7, .tcpi_bytes_acked = 9, .tcpi_bytes_sent = 12, .tcpi_bytes_retrans = 3 } },
                  CAUSE_RESET },
                { "an end in order", { .info = { .tcpi_state = 7, .tcpi_bytes_acked = 10, .tcpi_bytes_sent = 9 } }, CAUSE_NONE },
                { "the same, with something sent twice",
                  { .info = { .tcpi_state = 7, .tcpi_bytes_acked = 10, .tcpi_bytes_sent = 12, .tcpi_bytes_retrans = 3 } }, CAUSE_NONE },
                { "both shut by the program: the peer has not answered", { .info = { .tcpi_state = 5, .tcpi_bytes_acked = 1 } }, CAUSE_NONE },
                { "the last FIN is under way", { .info = { .tcpi_state = 9 } }, CAUSE_NONE },
                /* clang-format on */
        };

        for (size_t i = 0; i < ARRAY_SIZE(remains); i++) {
                struct observation seen = remains[i].seen;
                struct ending ending;

                seen.operation = R;
                seen.has_info = !seen.is_hung_up;
                seen.is_hung_up = true;
                ck_assert_msg(cause_is_over(&seen) == (remains[i].cause != CAUSE_NONE), "%s",
                              remains[i].what);
                if (!cause_is_over(&seen))
                        continue;
                ending = cause_decide(&seen);
                ck_assert_msg(ending.cause == remains[i].cause, "%s: %s", remains[i].what,
                              cause_name(ending.cause));
                ck_assert_int_eq(ending.error, 0);
                ck_assert_int_eq(ending.operation, ending.cause == CAUSE_STALLED ? S : R);
        }
        ck_assert(cause_is_over(
                &(struct observation){ .operation = R, .error = ECONNRESET, .has_info = true }));
}
END_TEST

/* Whatever the errno: always a cause that cause_decide() may give, and never CAUSE_NONE. */
START_TEST(test_cause_every_errno)
{
        for (int error = 0; error < 200; error++)
                for (int bits = 0; bits < 4; bits++) {
                        struct observation seen = {
                                .operation = R,
                                .error = error,
                                .was_half_closed = bits & 1,
                                .has_unsent = bits & 2,
                        };

                        if (errno_is_spurious(error))
                                continue;

                        enum cause cause = cause_decide(&seen).cause;

                        ck_assert_int_eq(cause == CAUSE_EXHAUSTED, errno_is_exhaustion(error));
                        ck_assert(cause == CAUSE_EXHAUSTED || cause == CAUSE_ERROR || cause == CAUSE_EOF ||
                                  (cause >= CAUSE_RESET && cause <= CAUSE_UNREACHABLE));
                        ck_assert_int_eq(cause_needs_info(error), error == ETIMEDOUT);
                }
}
END_TEST

static void decide_errno(const void *error)
{
        (void)cause_decide(&(struct observation){ .operation = R, .error = *(const int *)error });
}

START_TEST(test_cause_spurious_asserts)
{
        static const int again = EAGAIN, interrupted = EINTR;

        ck_assert(aborts(decide_errno, &again));
        ck_assert(aborts(decide_errno, &interrupted));
}
END_TEST

/* interface.md's table of causes: name, initiator, and the operation of those that the daemon decides. */
START_TEST(test_cause_local)
{
        static const struct {
                enum cause cause;
                const char *name, *operation, *initiator;
                bool is_ordinary;
        } causes[] = {
                { CAUSE_EOF, "eof", "receive", "peer", true },
                { CAUSE_RESET, "reset", "receive", "peer", false },
                { CAUSE_ABORTED, "aborted", "receive", "local", false },
                { CAUSE_KEEPALIVE_TIMEOUT, "keepalive-timeout", "receive", "network", false },
                { CAUSE_TRANSMIT_TIMEOUT, "transmit-timeout", "send", "network", false },
                { CAUSE_STALLED, "stalled", "send", "peer", false },
                { CAUSE_UNREACHABLE, "unreachable", "receive", "network", false },
                { CAUSE_HANDSHAKE_TIMEOUT, "handshake-timeout", "handshake", "local", false },
                { CAUSE_IDLE_TIMEOUT, "idle-timeout", "receive", "local", false },
                { CAUSE_HALF_CLOSE_TIMEOUT, "half-close-timeout", "receive", "local", false },
                { CAUSE_MAX_AGE, "max-age", "receive", "local", false },
                { CAUSE_PROTOCOL_ERROR, "protocol-error", "handshake", "peer", false },
                { CAUSE_DENIED, "denied", "accept", "local", false },
                { CAUSE_LIMIT, "limit", "accept", "local", false },
                { CAUSE_LOAD_FAILED, "load-failed", "handshake", "local", false },
                { CAUSE_LOAD_TIMEOUT, "load-timeout", "handshake", "local", false },
                { CAUSE_POOL_EMPTY, "pool-empty", "handshake", "local", false },
                { CAUSE_PROCESS_EXITED, "process-exited", "none", "local", false },
                { CAUSE_RESOURCE_LOST, "resource-lost", "none", "local", false },
                { CAUSE_HANDLER, "handler", "close", "local", true },
                { CAUSE_SHUTDOWN, "shutdown", "close", "local", true },
                { CAUSE_EXHAUSTED, "exhausted", "accept", "local", false },
                { CAUSE_ORPHANED, "orphaned", "none", "none", false },
                { CAUSE_ERROR, "error", "receive", "none", false },
        };

        ck_assert_uint_eq(ARRAY_SIZE(causes), N_CAUSES - 1);
        for (size_t i = 0; i < ARRAY_SIZE(causes); i++) {
                struct ending ending = cause_local(causes[i].cause, (int)i);

                ck_assert_int_eq(ending.cause, causes[i].cause);
                ck_assert_int_eq(ending.error, (int)i);
                ck_assert_str_eq(cause_name(ending.cause), causes[i].name);
                ck_assert_str_eq(operation_name(ending.operation), causes[i].operation);
                ck_assert_str_eq(cause_initiator(ending.cause), causes[i].initiator);
                ck_assert_int_eq(cause_is_ordinary(ending.cause), causes[i].is_ordinary);
        }
}
END_TEST

START_TEST(test_cause_names)
{
        for (enum cause cause = 0; cause < N_CAUSES; cause++) {
                ck_assert_ptr_nonnull(cause_name(cause));
                ck_assert_ptr_nonnull(cause_sentence(cause));
                ck_assert_uint_gt(strlen(cause_sentence(cause)), 0);
                ck_assert_ptr_nonnull(cause_initiator(cause));
                for (enum cause other = 0; other < cause; other++) {
                        ck_assert_str_ne(cause_name(cause), cause_name(other));
                        ck_assert_str_ne(cause_sentence(cause), cause_sentence(other));
                }
        }
        for (enum operation operation = OPERATION_NONE; operation <= OPERATION_CLOSE; operation++)
                ck_assert_ptr_nonnull(operation_name(operation));
}
END_TEST

static void check_class(bool (*is_of_class)(int error), const int *members, size_t n_members)
{
        for (int error = 0; error < 200; error++) {
                bool is_member = false;

                for (size_t i = 0; i < n_members; i++)
                        is_member = is_member || members[i] == error;
                ck_assert_msg(is_of_class(error) == is_member, "%s", strerror(error));
        }
}

START_TEST(test_cause_errno_classes)
{
        static const int spurious[] = { EAGAIN, EINTR };
        static const int exhaustion[] = { EMFILE, ENFILE, ENOBUFS, ENOMEM };
        static const int transient[] = {
                ECONNABORTED, EPROTO,      ENOPROTOOPT, ENETDOWN, EHOSTDOWN, ENONET,
                EHOSTUNREACH, ENETUNREACH, EOPNOTSUPP,  EPERM,    EINTR,
        };

        check_class(errno_is_spurious, spurious, ARRAY_SIZE(spurious));
        check_class(errno_is_exhaustion, exhaustion, ARRAY_SIZE(exhaustion));
        check_class(errno_is_accept_transient, transient, ARRAY_SIZE(transient));
}
END_TEST

UNIT_MAIN("cause", test_cause_decide, test_cause_of_remains, test_cause_every_errno,
          test_cause_spurious_asserts, test_cause_local, test_cause_names, test_cause_errno_classes)

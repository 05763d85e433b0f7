/*
 * events: promises that an event carries all its fields under the names of interface.md, whoever reports it,
 * and costs a few comparisons where the options do not want it. Decides nothing: causes, priorities and
 * sentences come from those who know. The only state is the limit on rejections.
 */
#include "journal/events.h"
#include "base/clock.h"
#include "base/span.h"
#include "journal/limit.h"
#include "journal/record.h"
#include <inttypes.h>
#include <stdio.h>

const struct event_name event_names[N_EVENTS] = {
        [EVENT_LISTENING] = { "listening", "1f1950fb62a6480894f2f1c1104b8c0b" },
        [EVENT_STOPPED_LISTENING] = { "stopped-listening", "7fd59e1389e34f08b8df3d0b6a47498d" },
        [EVENT_ACCEPTED] = { "accepted", "de80dde5bae547deb3db909bd4cc7c1c" },
        [EVENT_READY] = { "ready", "1ab13e36a3e64242abeaae8f43c80371" },
        [EVENT_CLOSED] = { "closed", "5537425fd5dc48eeb973b976877e63e8" },
        [EVENT_REJECTED] = { "rejected", "af088af589d0470b9d7b87925a8aa276" },
        [EVENT_REJECTED_MORE] = { "rejected-more", "c3c3db09a8ac44aebd7fb511a238c8b4" },
        [EVENT_LOAD_FAILED] = { "load-failed", "04755f49ca5a4a22ac5f566e29ef315a" },
        [EVENT_RELEASE_FAILED] = { "release-failed", "714ca0bd799242bda8ee6c44e46acbff" },
        [EVENT_QUARANTINED] = { "quarantined", "d266496bf6684bb990b3f749c9dd6743" },
        [EVENT_RECOVERED] = { "recovered", "2acaa09608974820aeb974fe18aa3263" },
        [EVENT_ACCEPT_PAUSED] = { "accept-paused", "ddcbf4c5193b4243a077d4965abbe460" },
        [EVENT_ACCEPT_RESUMED] = { "accept-resumed", "1b4fa69f5af54d2dbbdb985ba3c21411" },
        [EVENT_RECORDS_LOST] = { JOURNAL_RECORDS_LOST, JOURNAL_RECORDS_LOST_ID },
        [EVENT_RELOADED] = { "reloaded", "cc98187755a34a9186ea7b7b0474224f" },
        [EVENT_RELOAD_FAILED] = { "reload-failed", "77fccb430432452081f6246ddc865472" },
};

bool event_is_wanted(const struct journal *journal, int priority, bool is_ending)
{
        const struct log_options *options = journal_options(journal);

        if (priority > options->level)
                return false;
        if (priority <= LOG_WARNING)
                return true;
        switch (options->events) {
        case LOG_EVENTS_ALL:
                return true;
        case LOG_EVENTS_CLOSED:
                return is_ending;
        case LOG_EVENTS_PROBLEMS:
                return priority <= LOG_NOTICE;
        case LOG_EVENTS_NONE:
                break;
        }
        return false;
}

/* ---- the fields that events have in common ---- */

static struct record *begin(struct journal *journal, enum event_kind kind, int priority)
{
        bool is_ending = kind == EVENT_CLOSED || kind == EVENT_REJECTED || kind == EVENT_REJECTED_MORE;
        struct record *record;

        if (!event_is_wanted(journal, priority, is_ending))
                return NULL;
        record = journal_begin(journal, priority);
        if (!record)
                return NULL;
        record_add_text(record, "MESSAGE_ID", event_names[kind].message_id);
        record_add_text(record, "TETHERD_EVENT", event_names[kind].event);
        return record;
}

static void add_span(struct record *record, const char *name, uint64_t usec)
{
        if (usec != USEC_INFINITY)
                record_add_u64(record, name, usec);
}

static void add_address(struct record *record, const char *host_name, const char *port_name,
                        const struct address *address)
{
        char host[ADDRESS_TEXT_MAX];

        record_add_text(record, host_name, address_host(address, host));
        if (address->family == AF_INET || address->family == AF_INET6)
                record_add_u64(record, port_name, address->port);
}

static bool has_peer_uid(const struct event_connection *connection)
{
        return connection->remote->family == AF_UNIX && connection->peer_uid != (uid_t)-1;
}

static bool has_peer_pid(const struct event_connection *connection)
{
        return connection->remote->family == AF_UNIX && connection->peer_pid > 0;
}

static void add_connection(struct record *record, const struct event_connection *connection)
{
        record_add_hex(record, "TETHERD_CONNECTION", connection->id);
        record_add_text(record, "TETHERD_LISTENER", connection->listener);
        add_address(record, "TETHERD_REMOTE_ADDRESS", "TETHERD_REMOTE_PORT", connection->remote);
        add_address(record, "TETHERD_LOCAL_ADDRESS", "TETHERD_LOCAL_PORT", connection->local);
        record_add_text(record, "TETHERD_IDENTITY", connection->identity);
        if (has_peer_pid(connection))
                record_add_u64(record, "TETHERD_PEER_PID", (uint64_t)connection->peer_pid);
        if (has_peer_uid(connection))
                record_add_u64(record, "TETHERD_PEER_UID", connection->peer_uid);
}

static void add_ending(struct record *record, const struct event_ending *ending)
{
        record_add_text(record, "TETHERD_CAUSE", ending->cause);
        record_add_text(record, "TETHERD_INITIATOR", ending->initiator);
        record_add_text(record, "TETHERD_OPERATION", ending->operation);
        record_add_errno(record, ending->error);
        record_add_text(record, "TETHERD_STATE", ending->state);
        record_add_text(record, "TETHERD_RESOURCE", ending->resource);
        if (ending->has_status)
                record_add_u64(record, "TETHERD_EXIT_STATUS", (uint64_t)ending->exit_status);
        add_span(record, "TETHERD_DURATION_USEC", ending->duration_usec);
        add_span(record, "TETHERD_HANDSHAKE_USEC", ending->handshake_usec);
        add_span(record, "TETHERD_LOAD_USEC", ending->load_usec);
        add_span(record, "TETHERD_RELEASE_USEC", ending->release_usec);
        add_span(record, "TETHERD_LAST_RECEIVE_USEC", ending->last_receive_usec);
        record_add_u64(record, "TETHERD_BYTES_RECEIVED", ending->bytes_received);
        record_add_u64(record, "TETHERD_BYTES_SENT", ending->bytes_sent);
        if (ending->has_tcp_info) {
                record_add_u64(record, "TETHERD_RTT_USEC", ending->rtt_usec);
                record_add_u64(record, "TETHERD_RETRANSMITS", ending->retransmits);
        }
}

static void add_resource(struct record *record, const struct event_resource *resource)
{
        record_add_text(record, "TETHERD_RESOURCE", resource->name);
        record_add_text(record, "TETHERD_PHASE", resource->phase);
        if (resource->has_status)
                record_add_u64(record, "TETHERD_EXIT_STATUS", (uint64_t)resource->exit_status);
}

/* "connection 6421f0a3b7c01 from 192.0.2.7:51514 on presence", the subject of most sentences */
static void begin_sentence(struct record *record, const struct event_connection *connection)
{
        char address[ADDRESS_TEXT_MAX];

        record_begin_message(record);
        record_say(record, "connection ", NULL);
        record_say_hex(record, connection->id);
        if (*address_text(connection->remote, address))
                record_say(record, " from ", address, NULL);
        if (has_peer_pid(connection) && has_peer_uid(connection))
                record_say_format(record, " (pid %ld, uid %lu)", (long)connection->peer_pid,
                                  (unsigned long)connection->peer_uid);
        else if (has_peer_uid(connection))
                record_say_format(record, " (uid %lu)", (unsigned long)connection->peer_uid);
        record_say(record, " on ", connection->listener, NULL);
}

/* "reset by peer, after 3min 2.1s" */
static void say_outcome(struct record *record, const struct event_ending *ending)
{
        char span[SPAN_TEXT_MAX];

        record_say(record, ending->sentence, NULL);
        if (ending->reason)
                record_say(record, ": ", ending->reason, NULL);
        if (ending->duration_usec != USEC_INFINITY)
                record_say(record, ", after ", span_format_rounded(ending->duration_usec, span), NULL);
}

/* ---- listeners ---- */

static void write_listening(struct journal *journal, enum event_kind kind, const char *verb,
                            const char *listener, const char *address)
{
        struct record *record = begin(journal, kind, LOG_INFO);

        if (!record)
                return;
        record_set_message(record, "listener %s %s on %s", listener, verb, address);
        record_add_text(record, "TETHERD_LISTENER", listener);
        record_add_text(record, "TETHERD_ADDRESS", address);
        journal_commit(journal);
}

void event_listening(struct journal *journal, const char *listener, const char *address)
{
        write_listening(journal, EVENT_LISTENING, "accepts connections", listener, address);
}

void event_stopped_listening(struct journal *journal, const char *listener, const char *address)
{
        write_listening(journal, EVENT_STOPPED_LISTENING, "no longer accepts connections", listener, address);
}

void event_accept_paused(struct journal *journal, const char *listener, const char *reason, int error)
{
        struct record *record = begin(journal, EVENT_ACCEPT_PAUSED, LOG_WARNING);

        if (!record)
                return;
        record_set_message(record, "accepting%s%s is paused: %s", listener ? " on " : "",
                           listener ? listener : "", reason);
        record_add_text(record, "TETHERD_LISTENER", listener);
        record_add_errno(record, error);
        journal_commit(journal);
}

void event_accept_resumed(struct journal *journal, const char *listener, uint64_t paused_usec)
{
        struct record *record = begin(journal, EVENT_ACCEPT_RESUMED, LOG_INFO);
        char span[SPAN_TEXT_MAX];

        if (!record)
                return;
        record_set_message(record, "accepting%s%s goes on after %s", listener ? " on " : "",
                           listener ? listener : "", span_format_rounded(paused_usec, span));
        record_add_text(record, "TETHERD_LISTENER", listener);
        record_add_u64(record, "TETHERD_DURATION_USEC", paused_usec);
        journal_commit(journal);
}

/* ---- connections ---- */

void event_accepted(struct journal *journal, const struct event_connection *connection)
{
        struct record *record = begin(journal, EVENT_ACCEPTED, LOG_DEBUG);

        if (!record)
                return;
        begin_sentence(record, connection);
        record_say(record, " accepted", NULL);
        record_end_message(record);
        add_connection(record, connection);
        journal_commit(journal);
}

void event_ready(struct journal *journal, const struct event_connection *connection, uint64_t handshake_usec,
                 uint64_t load_usec)
{
        struct record *record = begin(journal, EVENT_READY, LOG_INFO);

        if (!record)
                return;
        begin_sentence(record, connection);
        record_say(record, " ready", NULL);
        record_end_message(record);
        add_connection(record, connection);
        add_span(record, "TETHERD_HANDSHAKE_USEC", handshake_usec);
        add_span(record, "TETHERD_LOAD_USEC", load_usec);
        journal_commit(journal);
}

void event_closed(struct journal *journal, const struct event_connection *connection,
                  const struct event_ending *ending)
{
        struct record *record = begin(journal, EVENT_CLOSED, ending->priority);
        char received[SPAN_TEXT_MAX], sent[SPAN_TEXT_MAX];

        if (!record)
                return;
        begin_sentence(record, connection);
        record_say(record, " closed: ", NULL);
        say_outcome(record, ending);
        record_say(record, ", ", size_format_rounded(ending->bytes_received, received), " received, ",
                   size_format_rounded(ending->bytes_sent, sent), " sent", NULL);
        record_end_message(record);
        add_connection(record, connection);
        add_ending(record, ending);
        journal_commit(journal);
}

void event_rejected(struct journal *journal, const struct event_connection *connection,
                    const struct event_ending *ending)
{
        struct record *record;

        if (!event_is_wanted(journal, ending->priority, true))
                return;
        if (ending->priority < LOG_DEBUG) { /* probes are written by who asked for debug records, then all */
                uint64_t now = clock_usec(CLOCK_MONOTONIC);

                (void)events_tick(journal, now);
                if (!limit_allows(journal_limit(journal), connection->listener, ending->cause, now))
                        return;
        }
        record = begin(journal, EVENT_REJECTED, ending->priority);
        if (!record)
                return;
        begin_sentence(record, connection);
        record_say(record, " rejected: ", NULL);
        say_outcome(record, ending);
        record_end_message(record);
        add_connection(record, connection);
        add_ending(record, ending);
        journal_commit(journal);
}

void event_rejected_more(struct journal *journal, const char *listener, const char *cause, uint64_t n_more)
{
        struct record *record = begin(journal, EVENT_REJECTED_MORE, LOG_NOTICE);

        if (!record)
                return;
        record_set_message(record, "%" PRIu64 " more %s on %s rejected within a second: %s", n_more,
                           n_more == 1 ? "connection" : "connections",
                           listener ? listener : "various listeners", cause ? cause : "various causes");
        record_add_text(record, "TETHERD_LISTENER", listener);
        record_add_text(record, "TETHERD_CAUSE", cause);
        record_add_u64(record, "TETHERD_REJECTED", n_more);
        journal_commit(journal);
}

uint64_t events_tick(struct journal *journal, uint64_t now_usec)
{
        struct limit *limit = journal_limit(journal);
        struct limit_entry entry;

        if (limit->n_entries == 0) /* at the end of nearly every turn */
                return USEC_INFINITY;
        while (limit_take_over(limit, now_usec, &entry))
                if (entry.n_more > 0)
                        event_rejected_more(journal, *entry.cause ? entry.listener : NULL,
                                            *entry.cause ? entry.cause : NULL, entry.n_more);
        return limit_next(limit);
}

/* ---- resources ---- */

void event_load_failed(struct journal *journal, const struct event_connection *connection,
                       const struct event_resource *resource)
{
        struct record *record = begin(journal, EVENT_LOAD_FAILED, LOG_WARNING);

        if (!record)
                return;
        begin_sentence(record, connection);
        record_say(record, ": ", resource->name, " could not be loaded: ", resource->reason, NULL);
        record_end_message(record);
        add_connection(record, connection);
        add_resource(record, resource);
        journal_commit(journal);
}

void event_release_failed(struct journal *journal, const struct event_connection *connection,
                          const struct event_resource *resource, unsigned n_left)
{
        struct record *record = begin(journal, EVENT_RELEASE_FAILED, LOG_WARNING);

        if (!record)
                return;
        begin_sentence(record, connection);
        record_say_format(record, ": %s could not be released: %s, %u more %s", resource->name,
                          resource->reason, n_left, n_left == 1 ? "attempt" : "attempts");
        record_end_message(record);
        add_connection(record, connection);
        add_resource(record, resource);
        record_add_u64(record, "TETHERD_ATTEMPTS_LEFT", n_left);
        journal_commit(journal);
}

void event_quarantined(struct journal *journal, const struct event_connection *connection,
                       const struct event_resource *resource)
{
        struct record *record = begin(journal, EVENT_QUARANTINED, LOG_ERR);

        if (!record)
                return;
        begin_sentence(record, connection);
        record_say(record, ": ", resource->name,
                   " is quarantined, it could not be released: ", resource->reason, NULL);
        record_end_message(record);
        add_connection(record, connection);
        add_resource(record, resource);
        journal_commit(journal);
}

void event_recovered(struct journal *journal, const struct event_connection *connection, const char *how)
{
        struct record *record = begin(journal, EVENT_RECOVERED, LOG_NOTICE);

        if (!record)
                return;
        begin_sentence(record, connection);
        record_say(record, ", left by an earlier run, ", how, NULL);
        record_end_message(record);
        add_connection(record, connection);
        journal_commit(journal);
}

void event_output(struct journal *journal, const struct event_connection *connection, const char *resource,
                  const char *phase, const char *line)
{
        struct record *record;

        if (LOG_INFO > journal_options(journal)->level)
                return;
        record = journal_begin(journal, LOG_INFO);
        if (!record)
                return;
        record_set_message(record, "connection %" PRIx64 " %s of %s: %s", connection->id, phase, resource,
                           line);
        add_connection(record, connection);
        record_add_text(record, "TETHERD_RESOURCE", resource);
        record_add_text(record, "TETHERD_PHASE", phase);
        journal_commit(journal);
}

void event_shared_output(struct journal *journal, const char *resource, const char *line)
{
        struct record *record;

        if (LOG_INFO > journal_options(journal)->level)
                return;
        record = journal_begin(journal, LOG_INFO);
        if (!record)
                return;
        record_set_message(record, "resource %s: %s", resource, line);
        record_add_text(record, "TETHERD_RESOURCE", resource);
        journal_commit(journal);
}

void event_said(struct journal *journal, const struct event_connection *connection, const char *plugin,
                int priority, const char *line)
{
        struct record *record;

        if (priority > journal_options(journal)->level)
                return;
        record = journal_begin(journal, priority);
        if (!record)
                return;
        record_set_message(record, "connection %" PRIx64 ", %s: %s", connection->id, plugin, line);
        add_connection(record, connection);
        journal_commit(journal);
}

/* ---- the daemon ---- */

void event_reloaded(struct journal *journal, const char *path)
{
        struct record *record = begin(journal, EVENT_RELOADED, LOG_NOTICE);

        if (!record)
                return;
        record_set_message(record, "%s was read again and is in force", path);
        record_add_text(record, "TETHERD_CONFIG", path);
        journal_commit(journal);
}

void event_reload_failed(struct journal *journal, const char *path, const char *reason)
{
        struct record *record = begin(journal, EVENT_RELOAD_FAILED, LOG_ERR);

        if (!record)
                return;
        record_set_message(record, "%s was read again and refused, nothing changed: %s", path, reason);
        record_add_text(record, "TETHERD_CONFIG", path);
        journal_commit(journal);
}

void log_message(struct journal *journal, int priority, const char *format, ...)
{
        struct record *record;
        va_list arguments;

        if (priority > journal_options(journal)->level)
                return;
        record = journal_begin(journal, priority);
        if (!record)
                return;
        va_start(arguments, format);
        record_set_message_va(record, format, arguments);
        va_end(arguments);
        journal_commit(journal);
}

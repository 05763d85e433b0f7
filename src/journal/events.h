/*
 * events: the vocabulary. One function per lifecycle event of interface.md ("Journal records"), plain values
 * in; each writes one record with MESSAGE, PRIORITY, MESSAGE_ID, TETHERD_EVENT and its fields, so that no
 * field can be forgotten or misspelt by a caller. A record that options filter out costs next to nothing:
 * nothing is formatted. All calls take any journal state and cannot fail; what cannot be written is counted.
 */
#pragma once

#include "base/address.h"
#include "journal/journal.h"
#include <sys/types.h>
#include <syslog.h>

/* What every event of a connection carries. All borrowed for the call. */
struct event_connection {
        uint64_t id;
        const char *listener;
        const char *identity; /* NULL: none */
        const struct address *remote;
        const struct address *local; /* AF_UNSPEC: not known, left out */
        pid_t peer_pid;              /* UNIX sockets; 0: not known, left out */
        uid_t peer_uid;              /* UNIX sockets; (uid_t)-1: likewise */
};

/* How it ended. Times are spans; USEC_INFINITY = does not apply, the field is left out. */
struct event_ending {
        const char *cause;     /* "reset" */
        const char *initiator; /* "peer" */
        const char *operation; /* "receive" */
        const char *state;     /* "ready" */
        const char *sentence;  /* for MESSAGE: "reset by peer" */
        const char *resource;  /* which one failed or was lost; else NULL */
        const char *reason;    /* for MESSAGE, behind the sentence: "exit status 3"; NULL: none */
        bool has_status;       /* of a resource that was lost: as in struct event_resource */
        int exit_status;
        int error;    /* ERRNO; 0 = none */
        int priority; /* of `closed`: info or notice; of `rejected`: notice or debug */
        uint64_t duration_usec;
        uint64_t handshake_usec;
        uint64_t load_usec;
        uint64_t release_usec;
        uint64_t last_receive_usec;
        uint64_t bytes_received;
        uint64_t bytes_sent;
        bool has_tcp_info;
        uint32_t rtt_usec;
        uint32_t retransmits;
};

/* What became of one load or release. */
struct event_resource {
        const char *name;
        const char *phase;  /* "load" or "release" */
        const char *reason; /* for MESSAGE: "exit status 3", "timed out after 30s" */
        bool has_status;
        int exit_status; /* TETHERD_EXIT_STATUS: exit code, or 128 + signal */
};

/* TETHERD_EVENT and MESSAGE_ID of each, which the message catalog explains. */
enum event_kind {
        EVENT_LISTENING,
        EVENT_STOPPED_LISTENING,
        EVENT_ACCEPTED,
        EVENT_READY,
        EVENT_CLOSED,
        EVENT_REJECTED,
        EVENT_REJECTED_MORE,
        EVENT_LOAD_FAILED,
        EVENT_RELEASE_FAILED,
        EVENT_QUARANTINED,
        EVENT_RECOVERED,
        EVENT_ACCEPT_PAUSED,
        EVENT_ACCEPT_RESUMED,
        EVENT_RECORDS_LOST,
        EVENT_RELOADED,
        EVENT_RELOAD_FAILED,
        N_EVENTS,
};

struct event_name {
        const char *event;
        const char *message_id;
};

extern const struct event_name event_names[N_EVENTS];

void event_listening(struct journal *journal, const char *listener, const char *address);
void event_stopped_listening(struct journal *journal, const char *listener, const char *address);
void event_accepted(struct journal *journal, const struct event_connection *connection);
void event_ready(struct journal *journal, const struct event_connection *connection, uint64_t handshake_usec,
                 uint64_t load_usec);
void event_closed(struct journal *journal, const struct event_connection *connection,
                  const struct event_ending *ending);
/* Those of priority notice: at most 10 a second for each listener and cause; events_tick() tells how many more. */
void event_rejected(struct journal *journal, const struct event_connection *connection,
                    const struct event_ending *ending);
/* What events_tick() writes; `listener` and `cause` NULL = various. */
void event_rejected_more(struct journal *journal, const char *listener, const char *cause, uint64_t n_more);
void event_load_failed(struct journal *journal, const struct event_connection *connection,
                       const struct event_resource *resource);
/* `n_left`: attempts that remain. */
void event_release_failed(struct journal *journal, const struct event_connection *connection,
                          const struct event_resource *resource, unsigned n_left);
void event_quarantined(struct journal *journal, const struct event_connection *connection,
                       const struct event_resource *resource);
/* `how`: "released" or "taken up". */
void event_recovered(struct journal *journal, const struct event_connection *connection, const char *how);
/* `reason`: "max_connections reached (19900)", "accept4: Too many open files"; `listener` NULL = all of them. */
void event_accept_paused(struct journal *journal, const char *listener, const char *reason, int error);
void event_accept_resumed(struct journal *journal, const char *listener, uint64_t paused_usec);
void event_reloaded(struct journal *journal, const char *path);
void event_reload_failed(struct journal *journal, const char *path, const char *reason);

/* A line that a resource's command printed (`stream`: "stdout" or "stderr"); priority info. */
void event_output(struct journal *journal, const struct event_connection *connection, const char *resource,
                  const char *phase, const char *line);

/* The same of a program that serves many connections. */
void event_shared_output(struct journal *journal, const char *resource, const char *line);

/* A line that the handler, a plugin of this name, has to say. */
void event_said(struct journal *journal, const struct event_connection *connection, const char *plugin,
                int priority, const char *line);

/* Whether a debug-level event such as `accepted` would be written: saves the caller a getsockname(2). */
bool event_is_wanted(const struct journal *journal, int priority, bool is_ending);

/*
 * Tells of the rejections that the limit swallowed, for each second that is over. Returns when it wants to be
 * called next, USEC_INFINITY = never. Cheap; called at the end of a turn, and with USEC_INFINITY, for what is
 * left, before journal_free().
 */
uint64_t events_tick(struct journal *journal, uint64_t now_usec);

/* Everything that is not a lifecycle event: start-up, faults, summaries. Subject to `log_level` only. */
_printf_(3, 4) void log_message(struct journal *journal, int priority, const char *format, ...);

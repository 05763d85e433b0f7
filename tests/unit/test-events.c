/*
 * events: every field and sentence as interface.md has them, what the options filter, the message catalog, and
 * the same through a real systemd-journald. Runs from the top of the source tree.
 */
#include "base/clock.h"
#include "journal/events.h"
#include "unit.h"
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/wait.h>

/* ---- what goes in ---- */

static const struct address remote_ip4 = { .family = AF_INET, .port = 51514, .ip = { 192, 0, 2, 7 } };
static const struct address local_ip4 = { .family = AF_INET, .port = 7400, .ip = { 198, 51, 100, 1 } };
static const struct address remote_ip6 = { .family = AF_INET6,
                                           .port = 9,
                                           .ip = { 0x20, 1, 0xd, 0xb8, [15] = 1 } };
static const struct address address_unix = { .family = AF_UNIX };
static const struct address address_none = { .family = AF_UNSPEC };

static const struct event_connection over_ip4 = { .id = 0x6421f0a3b7c01,
                                                  .listener = "presence",
                                                  .identity = "alice",
                                                  .remote = &remote_ip4,
                                                  .local = &local_ip4,
                                                  .peer_uid = 7 };
static const struct event_connection over_ip6 = {
        .id = 1, .listener = "presence", .remote = &remote_ip6, .local = &address_none
};
static const struct event_connection over_unix = { .id = 0xab,
                                                   .listener = "local",
                                                   .identity = "",
                                                   .remote = &address_unix,
                                                   .local = &address_unix,
                                                   .peer_pid = 123,
                                                   .peer_uid = 0 };
static const struct event_connection over_unix_no_pid = {
        .id = 2, .listener = "local", .remote = &address_unix, .local = &address_unix, .peer_uid = 65534
};
static const struct event_connection over_unix_unknown = {
        .id = 3, .listener = "local", .remote = &address_unix, .local = &address_none, .peer_uid = (uid_t)-1
};
static const struct event_connection over_nothing = {
        .id = 4, .listener = "presence", .remote = &address_none, .local = &address_none
};

static const struct event_ending by_reset = { .cause = "reset",
                                              .initiator = "peer",
                                              .operation = "receive",
                                              .state = "ready",
                                              .sentence = "reset by peer",
                                              .error = ECONNRESET,
                                              .priority = LOG_NOTICE,
                                              .duration_usec = 182100000,
                                              .handshake_usec = 0,
                                              .load_usec = 3400,
                                              .release_usec = 5500,
                                              .last_receive_usec = 77,
                                              .bytes_received = 120,
                                              .bytes_sent = 0,
                                              .has_tcp_info = true,
                                              .rtt_usec = 33,
                                              .retransmits = 2 };
static const struct event_ending by_load_failure = { .cause = "load-failed",
                                                     .initiator = "local",
                                                     .operation = "handshake",
                                                     .state = "loading",
                                                     .sentence = "session could not be loaded",
                                                     .resource = "session",
                                                     .priority = LOG_INFO,
                                                     .duration_usec = USEC_INFINITY,
                                                     .handshake_usec = USEC_INFINITY,
                                                     .load_usec = USEC_INFINITY,
                                                     .release_usec = USEC_INFINITY,
                                                     .last_receive_usec = USEC_INFINITY };
static const struct event_ending by_handshake_timeout = { .cause = "handshake-timeout",
                                                          .initiator = "peer",
                                                          .operation = "handshake",
                                                          .state = "handshake",
                                                          .sentence = "handshake timed out",
                                                          .priority = LOG_NOTICE,
                                                          .duration_usec = 10200000,
                                                          .handshake_usec = USEC_INFINITY,
                                                          .load_usec = USEC_INFINITY,
                                                          .release_usec = USEC_INFINITY,
                                                          .last_receive_usec = USEC_INFINITY };
static const struct event_ending by_probe = { .cause = "eof",
                                              .initiator = "peer",
                                              .operation = "receive",
                                              .state = "handshake",
                                              .sentence = "closed by peer",
                                              .priority = LOG_DEBUG,
                                              .duration_usec = 5,
                                              .handshake_usec = USEC_INFINITY,
                                              .load_usec = USEC_INFINITY,
                                              .release_usec = USEC_INFINITY,
                                              .last_receive_usec = USEC_INFINITY };

static const struct event_resource exit_3 = { "session", "load", "exit status 3", true, 3 };
static const struct event_resource timed_out = { "session", "release", "timed out after 30s", false, 0 };

/* ---- what comes out ---- */

#define IP4                                                                                               \
        "TETHERD_CONNECTION=6421f0a3b7c01\nTETHERD_LISTENER=presence\nTETHERD_REMOTE_ADDRESS=192.0.2.7\n" \
        "TETHERD_REMOTE_PORT=51514\nTETHERD_LOCAL_ADDRESS=198.51.100.1\nTETHERD_LOCAL_PORT=7400\n"        \
        "TETHERD_IDENTITY=alice\n"
#define FROM_IP4 "connection 6421f0a3b7c01 from 192.0.2.7:51514 on presence"

/* Calls one event; its index is that of its row. */
static void write_event(struct journal *j, size_t i)
{
        switch (i) {
        case 0:
                event_listening(j, "presence", "[::]:7400");
                break;
        case 1:
                event_stopped_listening(j, "presence", "/run/x.sock");
                break;
        case 2:
                event_accepted(j, &over_ip4);
                break;
        case 3:
                event_ready(j, &over_ip4, 1200, 3400);
                break;
        case 4:
                event_ready(j, &over_ip6, USEC_INFINITY, 0);
                break;
        case 5:
                event_accepted(j, &over_unix);
                break;
        case 6:
                event_accepted(j, &over_unix_no_pid);
                break;
        case 7:
                event_accepted(j, &over_unix_unknown);
                break;
        case 8:
                event_accepted(j, &over_nothing);
                break;
        case 9:
                event_closed(j, &over_ip4, &by_reset);
                break;
        case 10:
                event_closed(j, &over_nothing, &by_load_failure);
                break;
        case 11:
                event_rejected(j, &over_ip4, &by_handshake_timeout);
                break;
        case 12:
                event_rejected_more(j, "presence", "denied", 990);
                break;
        case 13:
                event_rejected_more(j, NULL, NULL, 1);
                break;
        case 14:
                event_load_failed(j, &over_ip4, &exit_3);
                break;
        case 15:
                event_release_failed(j, &over_ip4, &timed_out, 2);
                break;
        case 16:
                event_quarantined(j, &over_ip4, &timed_out);
                break;
        case 17:
                event_recovered(j, &over_ip4, "released");
                break;
        case 18:
                event_accept_paused(j, "presence", "max_connections reached (10)", 0);
                break;
        case 19:
                event_accept_paused(j, NULL, "accept4: Too many open files", EMFILE);
                break;
        case 20:
                event_accept_resumed(j, "presence", 1200000);
                break;
        case 21:
                event_accept_resumed(j, NULL, 5000);
                break;
        case 22:
                event_reloaded(j, "/etc/tetherd/tetherd.conf");
                break;
        case 23:
                event_reload_failed(j, "/etc/tetherd/tetherd.conf", "state_directory needs a restart");
                break;
        case 24:
                event_output(j, &over_ip4, "session", "load", "PRIORITY=0");
                break;
        case 25:
                log_message(j, LOG_DEBUG, "%s", "plain");
                break;
        case 26:
                event_shared_output(j, "account", "here I am");
                break;
        case 27:
                event_said(j, &over_ip4, "chat", LOG_WARNING, "100 %s");
                break;
        }
}

/* MESSAGE_ID is looked up by the event. */
static const struct {
        int priority;
        const char *event; /* NULL: not an event */
        const char *message;
        const char *fields;
} rows[] = {
        { LOG_INFO, "listening", "listener presence accepts connections on [::]:7400",
          "TETHERD_LISTENER=presence\nTETHERD_ADDRESS=[::]:7400\n" },
        { LOG_INFO, "stopped-listening", "listener presence no longer accepts connections on /run/x.sock",
          "TETHERD_LISTENER=presence\nTETHERD_ADDRESS=/run/x.sock\n" },
        { LOG_DEBUG, "accepted", FROM_IP4 " accepted", IP4 },
        { LOG_INFO, "ready", FROM_IP4 " ready", IP4 "TETHERD_HANDSHAKE_USEC=1200\nTETHERD_LOAD_USEC=3400\n" },
        { LOG_INFO, "ready", "connection 1 from [2001:db8::1]:9 on presence ready",
          "TETHERD_CONNECTION=1\nTETHERD_LISTENER=presence\nTETHERD_REMOTE_ADDRESS=2001:db8::1\n"
          "TETHERD_REMOTE_PORT=9\nTETHERD_LOAD_USEC=0\n" },
        { LOG_DEBUG, "accepted", "connection ab from unix (pid 123, uid 0) on local accepted",
          "TETHERD_CONNECTION=ab\nTETHERD_LISTENER=local\nTETHERD_REMOTE_ADDRESS=unix\n"
          "TETHERD_LOCAL_ADDRESS=unix\nTETHERD_PEER_PID=123\nTETHERD_PEER_UID=0\n" },
        { LOG_DEBUG, "accepted", "connection 2 from unix (uid 65534) on local accepted",
          "TETHERD_CONNECTION=2\nTETHERD_LISTENER=local\nTETHERD_REMOTE_ADDRESS=unix\n"
          "TETHERD_LOCAL_ADDRESS=unix\nTETHERD_PEER_UID=65534\n" },
        { LOG_DEBUG, "accepted", "connection 3 from unix on local accepted",
          "TETHERD_CONNECTION=3\nTETHERD_LISTENER=local\nTETHERD_REMOTE_ADDRESS=unix\n" },
        { LOG_DEBUG, "accepted", "connection 4 on presence accepted",
          "TETHERD_CONNECTION=4\nTETHERD_LISTENER=presence\n" },
        { LOG_NOTICE, "closed", FROM_IP4 " closed: reset by peer, after 3min 2.1s, 120 B received, 0 B sent",
          IP4 "TETHERD_CAUSE=reset\nTETHERD_INITIATOR=peer\nTETHERD_OPERATION=receive\nERRNO=104\n"
              "TETHERD_STATE=ready\nTETHERD_DURATION_USEC=182100000\nTETHERD_HANDSHAKE_USEC=0\n"
              "TETHERD_LOAD_USEC=3400\nTETHERD_RELEASE_USEC=5500\nTETHERD_LAST_RECEIVE_USEC=77\n"
              "TETHERD_BYTES_RECEIVED=120\nTETHERD_BYTES_SENT=0\nTETHERD_RTT_USEC=33\n"
              "TETHERD_RETRANSMITS=2\n" },
        { LOG_INFO, "closed",
          "connection 4 on presence closed: session could not be loaded, 0 B received, 0 B sent",
          "TETHERD_CONNECTION=4\nTETHERD_LISTENER=presence\nTETHERD_CAUSE=load-failed\n"
          "TETHERD_INITIATOR=local\nTETHERD_OPERATION=handshake\nERRNO=0\nTETHERD_STATE=loading\n"
          "TETHERD_RESOURCE=session\nTETHERD_BYTES_RECEIVED=0\nTETHERD_BYTES_SENT=0\n" },
        { LOG_NOTICE, "rejected", FROM_IP4 " rejected: handshake timed out, after 10.2s",
          IP4 "TETHERD_CAUSE=handshake-timeout\nTETHERD_INITIATOR=peer\nTETHERD_OPERATION=handshake\n"
              "ERRNO=0\nTETHERD_STATE=handshake\nTETHERD_DURATION_USEC=10200000\n"
              "TETHERD_BYTES_RECEIVED=0\nTETHERD_BYTES_SENT=0\n" },
        { LOG_NOTICE, "rejected-more", "990 more connections on presence rejected within a second: denied",
          "TETHERD_LISTENER=presence\nTETHERD_CAUSE=denied\nTETHERD_REJECTED=990\n" },
        { LOG_NOTICE, "rejected-more",
          "1 more connection on various listeners rejected within a second: various causes",
          "TETHERD_REJECTED=1\n" },
        { LOG_WARNING, "load-failed", FROM_IP4 ": session could not be loaded: exit status 3",
          IP4 "TETHERD_RESOURCE=session\nTETHERD_PHASE=load\nTETHERD_EXIT_STATUS=3\n" },
        { LOG_WARNING, "release-failed",
          FROM_IP4 ": session could not be released: timed out after 30s, 2 more attempts",
          IP4 "TETHERD_RESOURCE=session\nTETHERD_PHASE=release\nTETHERD_ATTEMPTS_LEFT=2\n" },
        { LOG_ERR, "quarantined",
          FROM_IP4 ": session is quarantined, it could not be released: timed out after 30s",
          IP4 "TETHERD_RESOURCE=session\nTETHERD_PHASE=release\n" },
        { LOG_NOTICE, "recovered", FROM_IP4 ", left by an earlier run, released", IP4 },
        { LOG_WARNING, "accept-paused", "accepting on presence is paused: max_connections reached (10)",
          "TETHERD_LISTENER=presence\nERRNO=0\n" },
        { LOG_WARNING, "accept-paused", "accepting is paused: accept4: Too many open files", "ERRNO=24\n" },
        { LOG_INFO, "accept-resumed", "accepting on presence goes on after 1.2s",
          "TETHERD_LISTENER=presence\nTETHERD_DURATION_USEC=1200000\n" },
        { LOG_INFO, "accept-resumed", "accepting goes on after 5ms", "TETHERD_DURATION_USEC=5000\n" },
        { LOG_NOTICE, "reloaded", "/etc/tetherd/tetherd.conf was read again and is in force",
          "TETHERD_CONFIG=/etc/tetherd/tetherd.conf\n" },
        { LOG_ERR, "reload-failed",
          "/etc/tetherd/tetherd.conf was read again and refused, nothing changed: "
          "state_directory needs a restart",
          "TETHERD_CONFIG=/etc/tetherd/tetherd.conf\n" },
        { LOG_INFO, NULL, "connection 6421f0a3b7c01 load of session: PRIORITY=0",
          IP4 "TETHERD_RESOURCE=session\nTETHERD_PHASE=load\n" },
        { LOG_DEBUG, NULL, "plain", "" },
        { LOG_INFO, NULL, "resource account: here I am", "TETHERD_RESOURCE=account\n" },
        { LOG_WARNING, NULL, "connection 6421f0a3b7c01, chat: 100 %s", IP4 },
};

/* ---- journald's stand-in: the other end of a path in /tmp ---- */

struct stand_in {
        char path[64];
        int fd;
        struct journal *journal;
};

static void open_stand_in(struct stand_in *s, int level, enum log_events events)
{
        const struct log_options options = { LOG_TARGET_JOURNAL, level, events, 10000 };
        struct sockaddr_un address = { .sun_family = AF_UNIX };

        (void)snprintf(s->path, sizeof(s->path), "/tmp/tetherd-events-%ld", (long)getpid());
        (void)unlink(s->path);
        memcpy(address.sun_path, s->path, strlen(s->path));
        s->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        ck_assert_int_eq(bind(s->fd, (struct sockaddr *)&address, sizeof(address)), 0);
        ck_assert_int_eq(journal_new(&s->journal, &options, NULL, s->path), 0);
}

static void close_stand_in(struct stand_in *s)
{
        journal_free(s->journal);
        (void)fd_close(s->fd);
        (void)unlink(s->path);
}

/* The next record as text, "" where there is none. */
static const char *next_record(struct stand_in *s)
{
        static char record[8192];
        ssize_t n;

        (void)journal_flush(s->journal);
        n = recv(s->fd, record, sizeof(record) - 1, 0);
        record[n < 0 ? 0 : n] = '\0';
        return record;
}

static size_t count_records(struct stand_in *s, const char *text)
{
        size_t n = 0;

        for (const char *record; *(record = next_record(s));)
                n += strstr(record, text) != NULL;
        return n;
}

static const char *message_id_of(const char *event)
{
        for (size_t i = 0; i < N_EVENTS; i++)
                if (streq(event_names[i].event, event))
                        return event_names[i].message_id;
        ck_abort_msg("no event %s", event);
        return NULL;
}

START_TEST(test_every_event)
{
        struct stand_in s;
        char expected[8192];

        open_stand_in(&s, LOG_DEBUG, LOG_EVENTS_ALL);
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                int n = snprintf(expected, sizeof(expected),
                                 "SYSLOG_IDENTIFIER=tetherd\nPRIORITY=%d\nTETHERD_SEQUENCE=%zu\n",
                                 rows[i].priority, i + 1);

                if (rows[i].event)
                        n += snprintf(expected + n, sizeof(expected) - (size_t)n,
                                      "MESSAGE_ID=%s\nTETHERD_EVENT=%s\n", message_id_of(rows[i].event),
                                      rows[i].event);
                (void)snprintf(expected + n, sizeof(expected) - (size_t)n, "MESSAGE=%s\n%s", rows[i].message,
                               rows[i].fields);
                write_event(s.journal, i);
                ck_assert_str_eq(next_record(&s), expected);
        }
        close_stand_in(&s);
}
END_TEST

/* Under every level and choice of events: written or not as the row's priority says, and no number taken if not. */
START_TEST(test_filter)
{
        for (int level = LOG_ERR; level <= LOG_DEBUG; level++) {
                for (int events = LOG_EVENTS_ALL; events <= LOG_EVENTS_NONE; events++) {
                        unsigned long sequence = 0;
                        struct stand_in s;

                        open_stand_in(&s, level, (enum log_events)events);
                        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                                int priority = rows[i].priority;
                                const char *event = rows[i].event;
                                bool is_ending =
                                        event && (streq(event, "closed") || startswith(event, "rejected"));
                                bool is_wanted = !event || priority <= LOG_WARNING ||
                                                 events == LOG_EVENTS_ALL ||
                                                 (events == LOG_EVENTS_CLOSED && is_ending) ||
                                                 (events == LOG_EVENTS_PROBLEMS && priority <= LOG_NOTICE);
                                char number[64];
                                const char *record;

                                if (event)
                                        ck_assert_int_eq(event_is_wanted(s.journal, priority, is_ending),
                                                         is_wanted && priority <= level);
                                write_event(s.journal, i);
                                record = next_record(&s);
                                if (!is_wanted || priority > level) {
                                        ck_assert_str_eq(record, "");
                                        continue;
                                }
                                (void)snprintf(number, sizeof(number), "TETHERD_SEQUENCE=%lu\n", ++sequence);
                                ck_assert_msg(strstr(record, number), "level %d, events %d: no %s in %s",
                                              level, events, number, record);
                        }
                        close_stand_in(&s);
                }
        }
}
END_TEST

START_TEST(test_rejections_are_limited)
{
        struct stand_in s;
        uint64_t now = clock_usec(CLOCK_MONOTONIC), next;

        open_stand_in(&s, LOG_DEBUG, LOG_EVENTS_ALL);
        for (int i = 0; i < 5; i++) /* less than the stand-in's queue, so that nothing is refused for that */
                event_rejected(s.journal, &over_ip4, &by_handshake_timeout);
        ck_assert_uint_eq(count_records(&s, "TETHERD_EVENT=rejected\n"), 5);
        ck_assert_uint_eq(events_tick(s.journal, now), USEC_INFINITY); /* nothing to tell */
        for (int i = 0; i < 25; i++)
                event_rejected(s.journal, &over_ip4, &by_handshake_timeout);
        ck_assert_uint_eq(count_records(&s, "TETHERD_EVENT=rejected\n"), 5);
        event_rejected(s.journal, &over_unix, &by_handshake_timeout); /* another listener */
        ck_assert_uint_eq(count_records(&s, "TETHERD_EVENT=rejected\n"), 1);
        for (int i = 0; i < 30; i++) { /* probes are not limited */
                event_rejected(s.journal, &over_ip4, &by_probe);
                ck_assert_uint_eq(count_records(&s, "TETHERD_EVENT=rejected\n"), 1);
        }
        next = events_tick(s.journal, now);
        ck_assert_uint_ge(next, now + USEC_PER_SEC);
        ck_assert_uint_eq(events_tick(s.journal, next - 1), next);
        ck_assert_str_eq(next_record(&s), "");
        ck_assert_uint_eq(events_tick(s.journal, next), USEC_INFINITY);
        ck_assert_ptr_nonnull(strstr(next_record(&s), "\nTETHERD_REJECTED=20\n"));
        event_rejected(s.journal, &over_ip4, &by_handshake_timeout);
        ck_assert_uint_eq(count_records(&s, "TETHERD_EVENT=rejected\n"), 1);
        close_stand_in(&s);
}
END_TEST

/* A flood with all the time in one second costs one record a second more, and what is left is told at the end. */
START_TEST(test_rest_is_told_at_the_end)
{
        struct stand_in s;

        open_stand_in(&s, LOG_NOTICE, LOG_EVENTS_PROBLEMS);
        for (int i = 0; i < 1000; i++)
                event_rejected(s.journal, &over_ip4, &by_handshake_timeout);
        ck_assert_uint_eq(events_tick(s.journal, USEC_INFINITY), USEC_INFINITY);
        ck_assert_uint_eq(count_records(&s, "\nTETHERD_REJECTED=990\n"), 1);
        close_stand_in(&s);
}
END_TEST

/* ---- message catalog ---- */

START_TEST(test_catalog)
{
        _cleanup_free_ char *text = calloc(1, 1 << 20);
        FILE *file = fopen("systemd/tetherd.catalog", "re");
        size_t n_entries = 0;

        ck_assert_msg(file, "systemd/tetherd.catalog: run me from the top of the source tree");
        ck_assert_uint_gt(fread(text, 1, (1 << 20) - 1, file), 0);
        (void)fclose(file);
        for (size_t i = 0; i < N_EVENTS; i++) {
                char heading[64];

                ck_assert_ptr_nonnull(event_names[i].event);
                ck_assert_uint_eq(strlen(event_names[i].message_id), 32);
                ck_assert_uint_eq(strspn(event_names[i].message_id, "0123456789abcdef"), 32);
                (void)snprintf(heading, sizeof(heading), "\n-- %s\nSubject: ", event_names[i].message_id);

                const char *entry = strstr(text, heading);

                ck_assert_msg(entry, "%s has no entry", event_names[i].event);
                ck_assert_ptr_null(strstr(entry + 1, heading));
        }
        for (char *entry = strstr(text, "\n-- "), *next; entry; entry = next, n_entries++) {
                next = strstr(entry + 1, "\n-- ");
                if (next)
                        *next = '\0';

                const char *body = strstr(entry + 1, "\n\n");

                ck_assert_msg(strstr(entry, "\nDefined-By: tetherd\n"), "%s", entry);
                ck_assert_msg(strstr(entry, "\nSupport: "), "%s", entry);
                ck_assert_msg(body && strlen(body) > 40, "%s: explains nothing", entry);
                for (const char *at = strstr(entry, "@"); at; at = strstr(at + 1, "@")) {
                        size_t size = strspn(at + 1, "ABCDEFGHIJKLMNOPQRSTUVWXYZ_");

                        ck_assert_msg(at[1 + size] == '@', "not a field: %s", at);
                        at += 1 + size;
                }
                if (next)
                        *next = '\n';
        }
        ck_assert_uint_eq(n_entries, N_EVENTS);
}
END_TEST

/* ---- a real journald ---- */

static const char journald[] = "tests/system/journald";

static int run_journald(const char *verb, const char *directory)
{
        char command[256];
        int status;

        (void)snprintf(command, sizeof(command), "exec %s %s %s", journald, verb,
                       directory); /* we are its caller */
        status = system(command);
        return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* In a process of its own, since the namespace cannot be left again; returns its exit status. */
static int write_in_namespace(const char *directory)
{
        char path[128], pid[32] = "";
        int status;
        pid_t child = fork();

        if (child > 0)
                return waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;

        const struct log_options options = { LOG_TARGET_AUTO, LOG_DEBUG, LOG_EVENTS_ALL, 100000 };
        struct journal *journal = NULL;
        _cleanup_free_ char *large = calloc(1, 20 << 20);

        (void)snprintf(path, sizeof(path), "%s/namespace", directory);

        FILE *file = fopen(path, "re");

        if (!file || !fgets(pid, sizeof(pid), file))
                _exit(2);
        (void)fclose(file);
        (void)snprintf(path, sizeof(path), "/proc/%d/ns/mnt", atoi(pid));

        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

        if (setns(fd, CLONE_NEWNS) < 0 || journal_new(&journal, &options, NULL, NULL) < 0 ||
            journal_fd(journal) < 0)
                _exit(3);
        event_closed(journal, &over_ip4, &by_reset);
        memset(large, 'z', (20 << 20) - 1);
        log_message(journal, LOG_INFO, "large %s", large);
        event_output(journal, &over_unix, "session", "load", "two\nlines");
        journal_free(journal);
        _exit(0);
}

/* The records that the arguments of journalctl select, "" where it failed; the caller frees. */
static char *read_records(const char *directory, const char *arguments)
{
        const size_t room = 32 << 20;
        char command[256], *text = calloc(1, room);
        size_t n = 0;
        FILE *pipe;

        (void)snprintf(command, sizeof(command), "%s records %s %s", journald, directory, arguments);
        pipe = popen(command, "re");
        for (size_t k; pipe && (k = fread(text + n, 1, room - 1 - n, pipe)) > 0; n += k)
                ;
        if (!pipe || pclose(pipe) != 0)
                text[0] = '\0';
        return text;
}

static void check_json(const char *json, const char *name, const char *value, size_t size)
{
        char member[256];

        (void)snprintf(member, sizeof(member), "\"%s\":\"%.*s\"", name, (int)size, value);
        ck_assert_msg(strstr(json, member), "no %s in %s", member, json);
}

START_TEST(test_real_journald)
{
        char directory[] = "/tmp/tetherd-events-XXXXXX";
        int r;

        ck_assert_ptr_nonnull(mkdtemp(directory));
        r = run_journald("start", directory);
        if (r == 77) {
                printf("SKIP: test_real_journald: no private journald here\n");
                (void)rmdir(directory);
                return;
        }
        ck_assert_int_eq(r, 0);
        r = write_in_namespace(directory);

        _cleanup_free_ char *closed = read_records(directory, "TETHERD_EVENT=closed");
        _cleanup_free_ char *large = read_records(directory, "TETHERD_SEQUENCE=2");
        _cleanup_free_ char *output = read_records(directory, "TETHERD_SEQUENCE=3");

        ck_assert_int_eq(run_journald("stop", directory), 0);
        ck_assert_int_eq(rmdir(directory), 0); /* nothing is left in it */
        ck_assert_int_eq(r, 0);
        check_json(closed, "SYSLOG_IDENTIFIER", "tetherd", 7);
        check_json(closed, "PRIORITY", "5", 1);
        check_json(closed, "TETHERD_SEQUENCE", "1", 1);
        check_json(closed, "_TRANSPORT", "journal", 7);
        check_json(closed, "MESSAGE_ID", event_names[EVENT_CLOSED].message_id, 32);
        check_json(closed, "MESSAGE", rows[9].message, strlen(rows[9].message));
        for (const char *field = rows[9].fields; *field; field = strchr(field, '\n') + 1) {
                const char *value = strchr(field, '=') + 1;
                char name[64];

                (void)snprintf(name, sizeof(name), "%.*s", (int)(value - field - 1), field);
                check_json(closed, name, value, strcspn(value, "\n"));
        }
        ck_assert_uint_gt(strlen(large), 20 << 20); /* came in a file */
        check_json(output, "MESSAGE", "connection ab load of session: two\\nlines", 41);
}
END_TEST

UNIT_MAIN("events", test_every_event, test_filter, test_rejections_are_limited, test_rest_is_told_at_the_end,
          test_catalog, test_real_journald)

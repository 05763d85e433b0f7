/*
 * journal: where records go. Native protocol of systemd-journald (systemd.io/JOURNAL_NATIVE_PROTOCOL), one
 * datagram a record, staged in a ring and sent with sendmmsg(MSG_DONTWAIT) at the end of a turn, so that
 * nothing that journald does or fails to do can stop the loop. When the ring is full, new records are
 * dropped and counted, debug ones first, and one `records-lost` record tells the count once there is room.
 * Or, on stderr: one line a record.
 *
 * One per process: the daemon owns it, lends it to whoever reports, and has the loop call journal_flush().
 */
#pragma once

#include "base/log.h"
#include "base/util.h"

struct journal;

/*
 * Never blocks and never needs journald to be there: with LOG_TARGET_AUTO and no answer from its socket,
 * stderr is used; with LOG_TARGET_JOURNAL, records wait in the ring. `socket_path` NULL =
 * /run/systemd/journal/socket. `instance`: for TETHERD_INSTANCE, NULL = none. Reads $JOURNAL_STREAM. SIGPIPE
 * must be ignored: stderr may be a pipe. Returns 0 or a negative errno.
 */
int journal_new(struct journal **ret_journal, const struct log_options *options, const char *instance,
                const char *socket_path);
/* Makes one last attempt to send what is left, without blocking for more than a second. Takes NULL. */
struct journal *journal_free(struct journal *journal);
DEFINE_CLEANUP(struct journal *, journal_free);

/*
 * A reload changed the options. Nothing staged is lost when the ring grows or shrinks, or the target changes.
 * Returns 0, or a negative errno (no descriptor for a socket) with nothing changed.
 */
int journal_set_options(struct journal *journal, const struct log_options *options);

/*
 * Sends what is staged, as far as it goes without blocking; called at the end of a turn. Returns 0 when
 * nothing is left; -EAGAIN when journald is slow, or stderr is full: call again when journal_fd() is writable;
 * -ECONNREFUSED when there is no journald: call again after about a second. Where nothing is staged it costs a
 * comparison.
 */
int journal_flush(struct journal *journal);

/*
 * To wait for EPOLLOUT on, also edge-triggered. It is the same descriptor when journald was away and came back;
 * only a change of the target in journal_set_options() closes it: then take it out of the loop first.
 */
int journal_fd(const struct journal *journal);

/* For STATUS, the summary and tests. */
size_t journal_n_staged(const struct journal *journal);
uint64_t journal_n_dropped(const struct journal *journal); /* since the start */

/* ---- for events, which alone writes records ---- */

struct limit;
struct record;

#define JOURNAL_RECORDS_LOST    "records-lost" /* the event that journal writes itself */
#define JOURNAL_RECORDS_LOST_ID "9a92508f084c4b47a864c911186fc6a3"

const struct log_options *journal_options(const struct journal *journal);

/*
 * Begins a record, which takes the next number; the caller has asked journal_options() whether it is wanted.
 * Returns it with the fields that every record has, for the caller to add MESSAGE and what it knows, followed
 * by journal_commit(); or NULL when there is no room for one of this priority: then it is counted.
 */
struct record *journal_begin(struct journal *journal, int priority);
void journal_commit(struct journal *journal);

/* The state of the limit on rejections. */
struct limit *journal_limit(struct journal *journal);

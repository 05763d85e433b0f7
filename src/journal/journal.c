/*
 * journal: promises that no call blocks or fails because of journald, a full pipe or memory: a record that
 * cannot be written waits, and one that cannot wait is counted and told of later.
 *
 * The ring holds datagrams whatever the target is: stderr's line is made of the same bytes at the last moment,
 * so that a reload may change the target and nothing gets lost or is said twice.
 *
 * Deliberately not here: the vocabulary (events), and any thread, timer or retry of its own: the loop calls.
 */
#include "journal/journal.h"
#include "base/clock.h"
#include "journal/limit.h"
#include "journal/record.h"
#include "journal/ring.h"
#include "journal/sink.h"
#include <inttypes.h>
#include <poll.h>
#include <syslog.h>

#define SOCKET_PATH  "/run/systemd/journal/socket"
#define RECORD_BYTES 1024 /* what a record may take on average */
#define N_EAGER      64   /* staged records that are worth a system call in the middle of a turn */
#define LAST_USEC    USEC_PER_SEC

struct journal {
        struct log_options options;
        struct sink sink;
        struct ring ring;
        bool is_stuck;          /* the last flush left something */
        struct record constant; /* the fields that every record has */
        struct record record;   /* being put together */
        int priority;           /* of `record` */
        uint64_t sequence;
        uint64_t n_dropped;
        struct lost {
                uint64_t n; /* dropped and not told of yet */
                uint64_t first, last;
        } lost;
        struct limit limit;
};

static void keep_options(struct journal *journal, const struct log_options *options)
{
        journal->options = *options;
        /* So that no product of it overflows, and a record can be kept at all. */
        journal->options.n_queue = MAX(MIN(options->n_queue, (uint64_t)UINT32_MAX), (uint64_t)1);
}

int journal_new(struct journal **ret_journal, const struct log_options *options, const char *instance,
                const char *socket_path)
{
        struct journal *journal = calloc(1, sizeof(*journal));
        int r;

        if (!journal)
                return -ENOMEM;
        keep_options(journal, options);
        r = sink_init(&journal->sink, options->target, socket_path ? socket_path : SOCKET_PATH);
        record_add_text(&journal->constant, "SYSLOG_IDENTIFIER", "tetherd");
        record_add_text(&journal->constant, "TETHERD_INSTANCE", instance);
        if (r == 0 && journal->constant.is_failed)
                r = -ENOMEM;
        if (r < 0) {
                journal_free(journal);
                return r;
        }
        *ret_journal = journal;
        return 0;
}

int journal_set_options(struct journal *journal, const struct log_options *options)
{
        if (options->target != journal->options.target) {
                int r = sink_set_target(&journal->sink, options->target);

                if (r < 0)
                        return r;
                journal->is_stuck = false;
        }
        keep_options(journal, options);
        return 0;
}

/* ---- staging ---- */

/*
 * The last eighth is not for debug records, and the last sixteenth for warnings and worse alone, so that a
 * flood of small things does not push out the one that matters.
 */
static bool has_room(const struct journal *journal, int priority, size_t size)
{
        uint64_t n = journal->options.n_queue;
        uint64_t n_kept = priority >= LOG_DEBUG ? n / 8 : priority > LOG_WARNING ? n / 16 : 0;
        uint64_t n_most = n - n_kept;

        return journal->ring.n_entries < n_most && journal->ring.n_bytes + size <= n_most * RECORD_BYTES;
}

static void count_lost(struct journal *journal, uint64_t sequence)
{
        struct lost *lost = &journal->lost;

        lost->first = lost->n == 0 ? sequence : MIN(lost->first, sequence);
        lost->last = lost->n == 0 ? sequence : MAX(lost->last, sequence);
        lost->n++;
        journal->n_dropped++;
}

struct record *journal_begin(struct journal *journal, int priority)
{
        struct record *record = &journal->record;

        journal->sequence++;
        if (!has_room(journal, priority, 0)) {
                count_lost(journal, journal->sequence);
                return NULL;
        }
        journal->priority = priority;
        record_reset(record);
        record_add_all(record, &journal->constant);
        record_add_u64(record, "PRIORITY", (uint64_t)priority);
        record_add_u64(record, "TETHERD_SEQUENCE", journal->sequence);
        return record;
}

static void stage(struct journal *journal)
{
        const struct record *record = &journal->record;
        const struct ring_entry entry = {
                .sequence = journal->sequence,
                .size = record->size,
                .message_offset = record->message_offset,
                .message_size = record->message_size,
                .priority = journal->priority,
        };

        if (record->is_failed || !has_room(journal, journal->priority, record->size) ||
            ring_append(&journal->ring, &entry, record->data) < 0)
                count_lost(journal, journal->sequence);
}

void journal_commit(struct journal *journal)
{
        stage(journal);
        /* A turn in which thousands of connections end must not fill a ring that journald would empty. */
        if (journal->ring.n_entries >= N_EAGER && !journal->is_stuck)
                (void)journal_flush(journal);
}

static void drop_first(struct journal *journal)
{
        count_lost(journal, ring_first(&journal->ring)->sequence);
        ring_pop(&journal->ring);
}

/* One record about all that were dropped since the last one of its kind. */
static void tell_lost(struct journal *journal)
{
        static const char reason[] = "the log could not keep up";
        const struct lost lost = journal->lost;
        struct record *record;

        if (lost.n == 0 || !has_room(journal, LOG_WARNING, 0))
                return;
        journal->lost = (struct lost){ 0 };
        if (journal->options.level < LOG_WARNING)
                return;
        record = journal_begin(journal, LOG_WARNING);
        if (lost.n == 1)
                record_set_message(record, "1 log record, number %" PRIu64 ", was dropped: %s", lost.first,
                                   reason);
        else
                record_set_message(record,
                                   "%" PRIu64 " log records between numbers %" PRIu64 " and %" PRIu64
                                   " were dropped: %s",
                                   lost.n, lost.first, lost.last, reason);
        record_add_text(record, "MESSAGE_ID", JOURNAL_RECORDS_LOST_ID);
        record_add_text(record, "TETHERD_EVENT", JOURNAL_RECORDS_LOST);
        record_add_u64(record, "TETHERD_RECORDS_LOST", lost.n);
        record_add_u64(record, "TETHERD_FIRST_SEQUENCE", lost.first);
        record_add_u64(record, "TETHERD_LAST_SEQUENCE", lost.last);
        stage(journal);
        if (journal->lost.n > 0) { /* it found no place itself: it is one more of them */
                journal->lost.n += lost.n;
                journal->lost.first = lost.first;
        }
}

/* ---- sending ---- */

static int deliver(struct journal *journal)
{
        while (journal->ring.n_entries > 0) {
                int r = sink_send(&journal->sink, &journal->ring);

                if (r == -EAGAIN || r == -ECONNREFUSED)
                        return r;
                if (r < 0)
                        drop_first(journal);
                for (; r > 0; r--)
                        ring_pop(&journal->ring);
        }
        return 0;
}

static bool is_half_empty(const struct journal *journal)
{
        uint64_t n = journal->options.n_queue / 2;

        return journal->ring.n_entries <= n && journal->ring.n_bytes <= n * RECORD_BYTES;
}

int journal_flush(struct journal *journal)
{
        int r;

        if (journal->ring.n_entries == 0 && journal->lost.n == 0)
                return 0;
        r = deliver(journal);
        /* Not as soon as there is room for one: near the brim every second record would be about a loss. */
        if (journal->lost.n > 0 && is_half_empty(journal)) {
                tell_lost(journal);
                if (r == 0)
                        r = deliver(journal);
        }
        journal->is_stuck = r < 0;
        return r;
}

/* Waits until the target takes more, at most to the deadline. Returns whether to try again. */
static bool wait_for_target(const struct journal *journal, uint64_t deadline_usec)
{
        struct pollfd pollfd = { .fd = journal_fd(journal), .events = POLLOUT };
        uint64_t now = clock_usec(CLOCK_MONOTONIC);

        return now < deadline_usec &&
               poll(&pollfd, 1, (int)((deadline_usec - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC)) != 0;
}

static void send_the_rest(struct journal *journal)
{
        uint64_t deadline = clock_usec(CLOCK_MONOTONIC) + LAST_USEC;
        unsigned int n_refused = 0;
        int r;

        tell_lost(journal);
        do {
                r = journal_flush(journal);
                /* Nobody is there to wait for; but once, the kernel may only have been short of memory. */
                if (r == -ECONNREFUSED && ++n_refused > 1)
                        return;
        } while (r < 0 && wait_for_target(journal, deadline));
}

struct journal *journal_free(struct journal *journal)
{
        if (!journal)
                return NULL;
        send_the_rest(journal);
        sink_deinit(&journal->sink);
        ring_deinit(&journal->ring);
        record_deinit(&journal->constant);
        record_deinit(&journal->record);
        free(journal);
        return NULL;
}

int journal_fd(const struct journal *journal)
{
        return sink_fd(&journal->sink);
}

size_t journal_n_staged(const struct journal *journal)
{
        return journal->ring.n_entries;
}

uint64_t journal_n_dropped(const struct journal *journal)
{
        return journal->n_dropped;
}

const struct log_options *journal_options(const struct journal *journal)
{
        return &journal->options;
}

struct limit *journal_limit(struct journal *journal)
{
        return &journal->limit;
}

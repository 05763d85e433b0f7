/*
 * record, ring, limit and journal, with a socket as journald's stand-in: it shows the datagrams as they are,
 * and can be slow (nobody reads), away (unlinked) and refuse (shut down).
 */
#include "base/clock.h"
#include "journal/events.h"
#include "journal/limit.h"
#include "journal/record.h"
#include "journal/ring.h"
#include "unit.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <wchar.h>

/* ---- record ---- */

static void check_bytes(const struct record *record, const void *expected, size_t size)
{
        ck_assert(!record->is_failed);
        ck_assert_uint_eq(record->size, size);
        ck_assert_mem_eq(record->data, expected, size);
}

START_TEST(test_record_fields)
{
        struct record record = { 0 }, fields = { 0 };

        record_add_all(&record, &fields);
        record_add_text(&record, "A", NULL);
        record_add_text(&record, "A", "");
        ck_assert_uint_eq(record.size, 0);
        record_add_text(&record, "A", "b=c \x01\xff");
        record_add_u64(&record, "ZERO", 0);
        record_add_u64(&record, "MOST", UINT64_MAX);
        record_add_hex(&record, "ID", 0x6421f0a3b7c01);
        record_add_hex(&record, "ALL", UINT64_MAX);
        record_add_errno(&record, 104);
        record_add_errno(&record, -11);
        static const char lines[] = "A=b=c \x01\xff\nZERO=0\nMOST=18446744073709551615\nID=6421f0a3b7c01\n"
                                    "ALL=ffffffffffffffff\nERRNO=104\nERRNO=11\n";
        check_bytes(&record, lines, sizeof(lines) - 1);

        record_reset(&record);
        record_add_text(&fields, "B", "1\nC=2");
        record_add_all(&record, &fields);
        static const char binary[] = "B\n\x05\0\0\0\0\0\0\0"
                                     "1\nC=2\n";
        check_bytes(&record, binary, sizeof(binary) - 1);
        record_deinit(&record);
        record_deinit(&fields);
}
END_TEST

START_TEST(test_record_message)
{
        struct record record = { 0 };
        char *large = malloc(100000);

        record_add_u64(&record, "A", 1);
        record_set_message(&record, "%s %d", "hello", 5);
        record_add_u64(&record, "B", 2);
        check_bytes(&record, "A=1\nMESSAGE=hello 5\nB=2\n", 24);
        ck_assert_uint_eq(record.message_size, 7);
        ck_assert_mem_eq(record.data + record.message_offset, "hello 5", 7);

        record_reset(&record);
        record_set_message(&record, "a\nMESSAGE=b%s", "\n");
        static const char binary[] = "MESSAGE\n\x0c\0\0\0\0\0\0\0"
                                     "a\nMESSAGE=b\n\n";
        check_bytes(&record, binary, sizeof(binary) - 1);
        ck_assert_uint_eq(record.message_offset, 16);
        ck_assert_uint_eq(record.message_size, 12);

        for (size_t size = 250; size < 99999; size = size * 5 / 4) { /* around every size of the buffer */
                memset(large, 'x', size);
                large[size] = '\0';
                record_reset(&record);
                record_set_message(&record, "%s", large);
                record_add_text(&record, "L", large);
                ck_assert_uint_eq(record.size, 8 + size + 1 + 2 + size + 1);
                ck_assert_mem_eq(record.data, "MESSAGE=xx", 10);
                ck_assert_mem_eq(record.data + 8 + size, "\nL=x", 4);
        }
        free(large);

        record_reset(&record);
        record_set_message(&record, "%lc", (wint_t)0x10ffff); /* cannot be printed in the locale C */
        ck_assert(record.is_failed);

        size_t size = record.size;
        record_add_text(&record, "A", "b");
        record_add_u64(&record, "A", 1);
        record_add_line(&record, 3, "line", 4);
        record_add_all(&record, &(struct record){ .data = (char[]){ "A=b\n" }, .size = 4 });
        record_set_message(&record, "hello");
        record_begin_message(&record);
        record_say(&record, "hello", NULL);
        record_say_hex(&record, 1);
        record_end_message(&record);
        ck_assert_uint_eq(record.size, size);
        record_deinit(&record);
}
END_TEST

START_TEST(test_record_line)
{
        static const struct {
                int priority;
                const char *text, *line;
        } rows[] = {
                { -1, "", "\n" },
                { -1, "plain \\ \"text\"", "plain \\ \"text\"\n" },
                { 3, "bad", "<3>bad\n" },
                { 7, "a\nb\tc\x1b[31m\x7f", "<7>a\\x0ab\\x09c\\x1b[31m\\x7f\n" },
                { -1, "\xc3\xa4 \xc2\xa0 \xc2\x9b \xc2\x80 \xff",
                  "\xc3\xa4 \xc2\xa0 \\xc2\\x9b \\xc2\\x80 \xff\n" },
                { -1, "\xc2", "\xc2\n" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct record record = { 0 };

                record_add_line(&record, rows[i].priority, rows[i].text, strlen(rows[i].text));
                check_bytes(&record, rows[i].line, strlen(rows[i].line));
                record_deinit(&record);
        }
}
END_TEST

/* ---- ring ---- */

/* Against a naive twin: numbers, from which size and contents follow. */
static size_t size_of(uint64_t sequence)
{
        return sequence % 97 == 0 ? 150000 : (size_t)(sequence * 7919 % 3000);
}

static void append_numbered(struct ring *ring, uint64_t sequence)
{
        static char data[150000];
        struct ring_entry entry = { .sequence = sequence, .size = size_of(sequence), .priority = 6 };

        memset(data, (int)(sequence & 0xff), entry.size);
        ck_assert_int_eq(ring_append(ring, &entry, data), 0);
}

static void check_numbered(const struct ring_entry *entry, uint64_t sequence)
{
        ck_assert_uint_eq(entry->sequence, sequence);
        ck_assert_uint_eq(entry->size, size_of(sequence));
        for (size_t i = 0; i < entry->size; i += 61)
                ck_assert_int_eq((unsigned char)entry->data[i], (int)(sequence & 0xff));
}

START_TEST(test_ring_against_twin)
{
        struct ring ring = { 0 };
        uint64_t first = 1, next = 1; /* the twin */
        unsigned seed = (unsigned)time(NULL);

        printf("ring seed: %u\n", seed);
        srandom(seed);
        for (int round = 0; round < 3000; round++) {
                const struct ring_entry *entries[8];
                bool is_growing = round / 300 % 2 == 0;
                size_t n;

                for (long i = random() % (is_growing ? 6 : 3); i > 0; i--)
                        append_numbered(&ring, next++);
                for (long i = random() % (is_growing ? 3 : 8); i > 0 && first < next; i--) {
                        check_numbered(ring_first(&ring), first++);
                        ring_pop(&ring);
                }
                n = ring_peek(&ring, entries, ARRAY_SIZE(entries));
                ck_assert_uint_eq(n, MIN(next - first, (uint64_t)ARRAY_SIZE(entries)));
                for (size_t i = 0; i < n; i++)
                        check_numbered(entries[i], first + i);
                ck_assert_uint_eq(ring.n_entries, next - first);
                /* What is mapped follows what is staged: a chunk's rest is less than the entry that did not fit. */
                ck_assert_uint_le(ring_check(&ring), 65536 + 2 * ring.n_bytes + 65536);
        }
        while (first < next) {
                check_numbered(ring_first(&ring), first++);
                ring_pop(&ring);
        }
        ck_assert_uint_le(ring_check(&ring), 65536);
        ring_deinit(&ring);
        ck_assert_uint_eq(ring_check(&ring), 0);
}
END_TEST

START_TEST(test_ring_large_after_small)
{
        struct ring ring = { 0 };

        append_numbered(&ring, 1);
        ring_pop(&ring);
        append_numbered(&ring, 97); /* does not fit the chunk that is there */
        append_numbered(&ring, 2);
        ring_check(&ring);
        check_numbered(ring_first(&ring), 97);
        ring_pop(&ring);
        check_numbered(ring_first(&ring), 2);
        ring_deinit(&ring);
}
END_TEST

/* ---- limit ---- */

START_TEST(test_limit)
{
        struct limit limit = { 0 };
        struct limit_entry entry;
        uint64_t now = 5 * USEC_PER_SEC;

        ck_assert(!limit_take_over(&limit, USEC_INFINITY, &entry));
        for (int i = 0; i < 25; i++)
                ck_assert_int_eq(limit_allows(&limit, "a", "denied", now + (uint64_t)i),
                                 i < LIMIT_PER_SECOND);
        ck_assert(limit_allows(&limit, "b", "denied", now + 30));
        ck_assert(limit_allows(&limit, "a", "limit", now + 40));
        ck_assert_uint_eq(limit_next(&limit), now + USEC_PER_SEC);
        ck_assert(!limit_take_over(&limit, now + USEC_PER_SEC - 1, &entry));
        ck_assert(limit_take_over(&limit, now + USEC_PER_SEC, &entry));
        ck_assert_str_eq(entry.listener, "a");
        ck_assert_str_eq(entry.cause, "denied");
        ck_assert_uint_eq(entry.n_more, 15);
        ck_assert_uint_eq(limit_next(&limit), USEC_INFINITY); /* the others have nothing to tell */
        ck_assert(!limit_take_over(&limit, now + USEC_PER_SEC, &entry));
        ck_assert(limit_allows(&limit, "a", "denied", now + USEC_PER_SEC));
        for (int i = 0; i < 3; i++) {
                ck_assert(limit_take_over(&limit, USEC_INFINITY, &entry));
                ck_assert_uint_eq(entry.n_more, 0);
        }
        ck_assert(!limit_take_over(&limit, USEC_INFINITY, &entry));
}
END_TEST

START_TEST(test_limit_is_bounded)
{
        struct limit limit = { 0 };
        struct limit_entry entry;
        unsigned n_allowed = 0, n_taken = 0;
        uint64_t n_more = 0;

        for (int i = 0; i < 1000; i++) {
                char name[64];

                (void)snprintf(name, sizeof(name), "a_name_that_is_longer_than_any_listener_may_have_%d", i);
                n_allowed += limit_allows(&limit, name + 45, name, 1);
        }
        ck_assert_uint_eq(n_allowed, LIMIT_PAIRS + LIMIT_PER_SECOND);
        for (; limit_take_over(&limit, USEC_INFINITY, &entry); n_taken++)
                n_more += entry.n_more;
        ck_assert_uint_eq(n_taken, LIMIT_PAIRS + 1);
        ck_assert_uint_eq(n_allowed + n_more, 1000);
        ck_assert_str_eq(entry.cause, ""); /* the shared one came last */
}
END_TEST

/* ---- journald's stand-in ---- */

static char directory[] = "/tmp/tetherd-journal-XXXXXX";
static char path[64];

static int receiver_open(void)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

        memcpy(address.sun_path, path, strlen(path));
        (void)unlink(path);
        ck_assert_int_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        return fd;
}

static int begin(void)
{
        ck_assert_ptr_nonnull(mkdtemp(directory));
        (void)snprintf(path, sizeof(path), "%s/socket", directory);
        return receiver_open();
}

static void end(int receiver)
{
        (void)fd_close(receiver);
        (void)unlink(path);
        (void)rmdir(directory);
        (void)snprintf(directory, sizeof(directory), "/tmp/tetherd-journal-XXXXXX");
}

static struct log_options options(uint64_t n_queue)
{
        return (struct log_options){ LOG_TARGET_JOURNAL, LOG_DEBUG, LOG_EVENTS_ALL, n_queue };
}

static struct journal *open_journal(uint64_t n_queue)
{
        struct log_options o = options(n_queue);
        struct journal *journal = NULL;

        ck_assert_int_eq(journal_new(&journal, &o, NULL, path), 0);
        return journal;
}

/* The next datagram as a string; false: none is there. */
static bool receive(int receiver, char *buffer, size_t size)
{
        ssize_t n = recv(receiver, buffer, size - 1, 0);

        if (n < 0)
                return false;
        buffer[n] = '\0';
        return true;
}

static uint64_t field_u64(const char *record, const char *name)
{
        char key[64];

        (void)snprintf(key, sizeof(key), "\n%s=", name);

        const char *at = strstr(record, key);

        ck_assert_msg(at, "no %s in %s", name, record);
        return strtoull(at + strlen(key), NULL, 10);
}

/* Reads what there is and flushes, until nothing is left; checks that the numbers follow on; returns the last. */
static uint64_t drain(struct journal *journal, int receiver, uint64_t sequence)
{
        char record[4096];
        int r;

        do {
                r = journal_flush(journal);
                while (receive(receiver, record, sizeof(record)))
                        ck_assert_uint_eq(field_u64(record, "TETHERD_SEQUENCE"), ++sequence);
        } while (r == -EAGAIN);
        ck_assert_int_eq(r, 0);
        return sequence;
}

START_TEST(test_journal_wire)
{
        int receiver = begin();
        char record[4096];
        struct log_options o = options(100);
        struct journal *journal;

        ck_assert_int_eq(journal_new(&journal, &o, "blue", path), 0);
        ck_assert_int_eq(journal_flush(journal), 0);
        ck_assert(!receive(receiver, record, sizeof(record)));
        log_message(journal, LOG_WARNING, "it is %d", 7);
        log_message(journal, LOG_ERR, "two\nlines");
        ck_assert_uint_eq(journal_n_staged(journal), 2);
        ck_assert_int_eq(journal_flush(journal), 0);
        ck_assert_uint_eq(journal_n_staged(journal), 0);
        ck_assert(receive(receiver, record, sizeof(record)));
        ck_assert_str_eq(record, "SYSLOG_IDENTIFIER=tetherd\nTETHERD_INSTANCE=blue\nPRIORITY=4\n"
                                 "TETHERD_SEQUENCE=1\nMESSAGE=it is 7\n");
        ck_assert(receive(receiver, record, sizeof(record)));
        ck_assert_ptr_nonnull(strstr(record, "PRIORITY=3\nTETHERD_SEQUENCE=2\nMESSAGE\n\x09"));
        ck_assert(!receive(receiver, record, sizeof(record)));
        journal_free(journal);
        end(receiver);
}
END_TEST

START_TEST(test_journal_slow)
{
        int receiver = begin(), epoll = epoll_create1(EPOLL_CLOEXEC);
        struct journal *journal = open_journal(5000);
        struct epoll_event event = { .events = EPOLLOUT | EPOLLET };
        char record[4096];

        ck_assert_int_eq(epoll_ctl(epoll, EPOLL_CTL_ADD, journal_fd(journal), &event), 0);
        while (epoll_wait(epoll, &event, 1, 0) > 0)
                ;
        for (int i = 0; i < 2000; i++) /* commits flush by themselves until the first EAGAIN */
                log_message(journal, LOG_INFO, "number %d", i);
        ck_assert_int_eq(journal_flush(journal), -EAGAIN);
        ck_assert_uint_gt(journal_n_staged(journal), 1000);
        ck_assert_int_eq(epoll_wait(epoll, &event, 1, 0), 0);
        ck_assert(receive(receiver, record, sizeof(record)));
        while (receive(receiver, record, sizeof(record)))
                ;
        ck_assert_int_eq(epoll_wait(epoll, &event, 1, 0), 1); /* the edge */

        uint64_t sequence = field_u64(record, "TETHERD_SEQUENCE");

        ck_assert_uint_eq(drain(journal, receiver, sequence), 2000);
        ck_assert_uint_eq(journal_n_dropped(journal), 0);
        journal_free(journal);
        (void)fd_close(epoll);
        end(receiver);
}
END_TEST

START_TEST(test_journal_full)
{
        static const struct {
                int priority;
                uint64_t n_most; /* of 32 */
        } rows[] = {
                { LOG_DEBUG, 28 }, { LOG_INFO, 30 }, { LOG_NOTICE, 30 }, { LOG_WARNING, 32 }, { LOG_ERR, 32 }
        };
        int receiver = begin();
        char record[4096] = "";

        (void)fd_close(receiver);
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct journal *journal = open_journal(32);

                ck_assert_int_eq(unlink(path) == 0 || errno == ENOENT, 1);
                for (int k = 0; k < 40; k++)
                        log_message(journal, rows[i].priority, "number %d", k);
                ck_assert_uint_eq(journal_n_staged(journal), rows[i].n_most);
                ck_assert_uint_eq(journal_n_dropped(journal), 40 - rows[i].n_most);
                ck_assert_int_eq(journal_flush(journal), -ECONNREFUSED);
                ck_assert_uint_eq(journal_n_staged(journal),
                                  rows[i].n_most); /* no talk of losses at the brim */

                receiver = receiver_open();

                uint64_t n_received = 0;

                for (int r = -EAGAIN; r == -EAGAIN;) {
                        r = journal_flush(journal);
                        while (receive(receiver, record, sizeof(record)))
                                n_received++;
                }
                ck_assert_uint_eq(n_received, rows[i].n_most + 1);
                ck_assert_ptr_nonnull(strstr(record, "\nPRIORITY=4\n"));
                ck_assert_ptr_nonnull(strstr(record, "\nMESSAGE_ID=" JOURNAL_RECORDS_LOST_ID "\n"));
                ck_assert_ptr_nonnull(strstr(record, "\nTETHERD_EVENT=records-lost\n"));
                ck_assert_uint_eq(field_u64(record, "TETHERD_SEQUENCE"), 41);
                ck_assert_uint_eq(field_u64(record, "TETHERD_RECORDS_LOST"), 40 - rows[i].n_most);
                ck_assert_uint_eq(field_u64(record, "TETHERD_FIRST_SEQUENCE"), rows[i].n_most + 1);
                ck_assert_uint_eq(field_u64(record, "TETHERD_LAST_SEQUENCE"), 40);
                ck_assert_int_eq(journal_flush(journal), 0);
                ck_assert(!receive(receiver, record, sizeof(record))); /* said once */
                journal_free(journal);
                (void)fd_close(receiver);
        }
        end(-1);
}
END_TEST

START_TEST(test_journal_bytes_are_bounded)
{
        int receiver = begin();
        char text[3001];

        memset(text, 'x', 3000);
        text[3000] = '\0';
        end(receiver);

        struct journal *journal = open_journal(64);

        for (int i = 0; i < 64; i++)
                log_message(journal, LOG_ERR, "%s", text);
        ck_assert_uint_eq(journal_n_staged(journal), 64 * 1024 / 3116);
        ck_assert_int_eq(journal_flush(journal), -ECONNREFUSED); /* full by bytes: no talk of losses either */
        ck_assert_uint_eq(journal_n_staged(journal), 64 * 1024 / 3116);
        log_message(journal, LOG_ERR, "one that still fits");
        ck_assert_uint_eq(journal_n_staged(journal), 64 * 1024 / 3116 + 1);
        journal_free(journal);
}
END_TEST

START_TEST(test_journal_losses_add_up)
{
        int receiver = begin();
        struct journal *journal = open_journal(2);
        char text[1901], record[4096] = "";

        memset(text, 'x', 1900);
        text[1900] = '\0';
        log_message(journal, LOG_ERR, "%s", text);
        for (int i = 0; i < 3; i++)
                log_message(journal, LOG_ERR, "one that does not fit");
        ck_assert_uint_eq(journal_n_dropped(journal), 3);
        journal_free(journal); /* at first there is no place to say so, either */
        ck_assert(receive(receiver, record, sizeof(record)));
        ck_assert(receive(receiver, record, sizeof(record)));
        ck_assert_uint_eq(field_u64(record, "TETHERD_RECORDS_LOST"), 4);
        ck_assert_uint_eq(field_u64(record, "TETHERD_FIRST_SEQUENCE"), 2);
        ck_assert_uint_eq(field_u64(record, "TETHERD_LAST_SEQUENCE"), 5);
        end(receiver);
}
END_TEST

START_TEST(test_journal_away)
{
        int receiver = begin();
        char record[4096];

        (void)fd_close(receiver);
        ck_assert_int_eq(unlink(path), 0);

        struct journal *journal = open_journal(100);
        int fd = journal_fd(journal);

        ck_assert_int_ne(fd, STDERR_FILENO);
        for (int i = 0; i < 3;
             i++) { /* not there yet; a crash; a crash and its socket file is gone as well */
                if (i > 0)
                        (void)fd_close(receiver);
                if (i == 2)
                        ck_assert_int_eq(unlink(path), 0);
                log_message(journal, LOG_INFO, "two");
                ck_assert_int_eq(journal_flush(journal), -ECONNREFUSED);
                log_message(journal, LOG_INFO, "three");
                ck_assert_int_eq(journal_flush(journal), -ECONNREFUSED);
                receiver = receiver_open();
                ck_assert_int_eq(journal_flush(journal), 0);
                ck_assert(receive(receiver, record, sizeof(record)) && strstr(record, "MESSAGE=two"));
                ck_assert(receive(receiver, record, sizeof(record)) && strstr(record, "MESSAGE=three"));
                ck_assert(!receive(receiver, record, sizeof(record)));
        }
        ck_assert_int_eq(journal_fd(journal), fd);
        ck_assert_uint_eq(journal_n_dropped(journal), 0);
        journal_free(journal);
        end(receiver);
}
END_TEST

/* The edge comes also for a receiver that was found later, on the descriptor that was registered before. */
START_TEST(test_journal_edge_after_reconnect)
{
        int receiver = begin(), epoll = epoll_create1(EPOLL_CLOEXEC);
        struct journal *journal = open_journal(5000);
        struct epoll_event event = { .events = EPOLLOUT | EPOLLET };
        char record[4096];

        ck_assert_int_eq(epoll_ctl(epoll, EPOLL_CTL_ADD, journal_fd(journal), &event), 0);
        (void)fd_close(receiver);
        receiver = receiver_open();
        for (int i = 0; i < 2000; i++)
                log_message(journal, LOG_INFO, "number %d", i);
        ck_assert_int_eq(journal_flush(journal), -EAGAIN);
        while (epoll_wait(epoll, &event, 1, 0) > 0)
                ;
        while (receive(receiver, record, sizeof(record)))
                ;
        ck_assert_int_eq(epoll_wait(epoll, &event, 1, 0), 1);
        ck_assert_uint_eq(drain(journal, receiver, field_u64(record, "TETHERD_SEQUENCE")), 2000);
        journal_free(journal);
        (void)fd_close(epoll);
        end(receiver);
}
END_TEST

static char *large_text(size_t size)
{
        char *text = malloc(size + 1);

        memset(text, 'y', size);
        text[size] = '\0';
        return text;
}

START_TEST(test_journal_large)
{
        int receiver = begin();
        struct journal *journal = open_journal(65536);
        _cleanup_free_ char *text = large_text(20 << 20);
        union {
                struct cmsghdr header;
                char buffer[CMSG_SPACE(sizeof(int))];
        } control;
        struct msghdr message = { .msg_control = &control, .msg_controllen = sizeof(control) };
        char record[4096];
        struct stat st;
        int fd;

        log_message(journal, LOG_INFO, "before");
        log_message(journal, LOG_INFO, "%s", text);
        log_message(journal, LOG_INFO, "after");
        ck_assert_int_eq(journal_flush(journal), 0);
        ck_assert(receive(receiver, record, sizeof(record)) && strstr(record, "MESSAGE=before\n"));
        ck_assert_int_eq(recvmsg(receiver, &message, MSG_CMSG_CLOEXEC), 0);
        ck_assert_int_eq(control.header.cmsg_type, SCM_RIGHTS);
        memcpy(&fd, CMSG_DATA(&control.header), sizeof(fd));
        ck_assert_int_eq(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL);
        ck_assert_int_eq(fstat(fd, &st), 0);
        ck_assert_int_gt(st.st_size, 20 << 20);
        ck_assert_int_eq(pread(fd, record, 100, 0), 100);
        ck_assert_mem_eq(record, "SYSLOG_IDENTIFIER=tetherd\nPRIORITY=6\nTETHERD_SEQUENCE=2\nMESSAGE=yyy",
                         67);
        (void)fd_close(fd);
        ck_assert(receive(receiver, record, sizeof(record)) && strstr(record, "MESSAGE=after\n"));

        /* Without a descriptor for the file it is dropped, and does not hold up what is behind it. */
        struct rlimit limit;

        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        struct rlimit none = { .rlim_cur = 0, .rlim_max = limit.rlim_max };
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
        log_message(journal, LOG_INFO, "%s", text);
        log_message(journal, LOG_INFO, "behind");
        ck_assert_int_eq(journal_flush(journal), 0);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        ck_assert(receive(receiver, record, sizeof(record)) && strstr(record, "MESSAGE=behind\n"));
        ck_assert(receive(receiver, record, sizeof(record)));
        ck_assert_uint_eq(field_u64(record, "TETHERD_RECORDS_LOST"), 1);
        ck_assert_uint_eq(field_u64(record, "TETHERD_FIRST_SEQUENCE"), 4);
        ck_assert_uint_eq(journal_n_dropped(journal), 1);
        journal_free(journal);
        end(receiver);
}
END_TEST

START_TEST(test_journal_refused)
{
        int receiver = begin();
        struct journal *journal = open_journal(100);

        ck_assert_int_eq(shutdown(receiver, SHUT_RD), 0); /* send(2) says EPIPE, as it would say EPERM */
        for (int i = 0; i < 3; i++)
                log_message(journal, LOG_INFO, "nobody takes it");
        ck_assert_int_eq(journal_flush(journal), 0);
        ck_assert_uint_eq(journal_n_staged(journal), 0);
        ck_assert_uint_eq(journal_n_dropped(journal), 4); /* and the record about the three */
        journal_free(journal);
        end(receiver);
}
END_TEST

START_TEST(test_journal_level_hides_losses)
{
        int receiver = begin();
        struct log_options o = options(1);
        struct journal *journal = NULL;
        char record[4096];

        (void)fd_close(receiver);
        o.level = LOG_ERR;
        ck_assert_int_eq(journal_new(&journal, &o, NULL, path), 0);
        log_message(journal, LOG_WARNING, "filtered: takes no number");
        log_message(journal, LOG_ERR, "one");
        log_message(journal, LOG_ERR, "dropped");
        receiver = receiver_open();
        ck_assert_int_eq(journal_flush(journal), 0);
        ck_assert(receive(receiver, record, sizeof(record)));
        ck_assert_uint_eq(field_u64(record, "TETHERD_SEQUENCE"), 1);
        ck_assert(!receive(receiver, record, sizeof(record)));
        ck_assert_uint_eq(journal_n_dropped(journal), 1);
        journal_free(journal);
        end(receiver);
}
END_TEST

#ifndef __has_feature
#define __has_feature(feature) 0
#endif
#if !defined(__SANITIZE_ADDRESS__) && !__has_feature(address_sanitizer)
START_TEST(test_journal_without_memory)
{
        int receiver = begin();
        struct journal *journal = open_journal(65536);
        _cleanup_free_ char *text = large_text(20 << 20);
        struct rlimit limit, little;
        char record[4096];

        if (getenv("RUNS_UNDER_VALGRIND")) { /* which needs address space itself */
                journal_free(journal);
                end(receiver);
                return;
        }
        log_message(journal, LOG_INFO, "before");
        ck_assert_int_eq(getrlimit(RLIMIT_AS, &limit), 0);
        little = limit;
        little.rlim_cur = 1 << 20; /* no more than there is */
        ck_assert_int_eq(setrlimit(RLIMIT_AS, &little), 0);
        log_message(journal, LOG_INFO, "%s", text);
        ck_assert_uint_eq(journal_n_staged(journal), 1); /* no room to put it together */
        for (int i = 0; i < 2000; i++)
                log_message(journal, LOG_INFO, "number %d", i);
        ck_assert_uint_gt(journal_n_staged(journal), 100);
        ck_assert_uint_lt(journal_n_staged(journal), 1500); /* no room to keep it */
        ck_assert_int_eq(setrlimit(RLIMIT_AS, &limit), 0);

        uint64_t n_received = 0, n_lost = 0, n_told = 0;

        for (int r = -EAGAIN; r == -EAGAIN;) {
                r = journal_flush(journal);
                for (; receive(receiver, record, sizeof(record)); n_received++) {
                        if (strstr(record, "TETHERD_EVENT=records-lost")) {
                                n_lost += field_u64(record, "TETHERD_RECORDS_LOST");
                                n_told++;
                        }
                }
        }
        ck_assert_uint_eq(n_lost, journal_n_dropped(journal));
        ck_assert_uint_eq(n_received + n_lost, 2002 + n_told);
        journal_free(journal);
        end(receiver);
}
END_TEST
#else
START_TEST(test_journal_without_memory)
{
        printf("SKIP: no memory limit under the address sanitizer\n");
}
END_TEST
#endif

START_TEST(test_journal_free)
{
        int receiver = begin();
        struct journal *journal = open_journal(5000);
        uint64_t begin_usec = clock_usec(CLOCK_MONOTONIC), usec;

        ck_assert_ptr_null(journal_free(NULL));
        for (int i = 0; i < 2000; i++)
                log_message(journal, LOG_INFO, "nobody reads");
        journal_free(journal);
        usec = clock_usec(CLOCK_MONOTONIC) - begin_usec;
        ck_assert_uint_ge(usec, USEC_PER_SEC);
        ck_assert_uint_lt(usec, 30 * USEC_PER_SEC);

        /* With nobody there it does not wait: what is refused at once is refused in a second. (A busy machine may.) */
        (void)fd_close(receiver);
        for (int i = 0; i < 10 && usec >= USEC_PER_SEC; i++) {
                journal = open_journal(100);
                log_message(journal, LOG_INFO, "nobody is there");
                begin_usec = clock_usec(CLOCK_MONOTONIC);
                journal_free(journal);
                usec = clock_usec(CLOCK_MONOTONIC) - begin_usec;
        }
        ck_assert_uint_lt(usec, USEC_PER_SEC);
        end(-1);
}
END_TEST

START_TEST(test_journal_bad_arguments)
{
        char long_path[300];
        struct log_options o = options(10);
        struct journal *journal = (struct journal *)&o;

        memset(long_path, '/', sizeof(long_path));
        long_path[sizeof(long_path) - 1] = '\0';
        ck_assert_int_eq(journal_new(&journal, &o, NULL, long_path), -ENAMETOOLONG);
        ck_assert_ptr_eq(journal, (struct journal *)&o);

        struct rlimit limit, none;

        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        none = limit;
        none.rlim_cur = 0;
        o.target = LOG_TARGET_STDERR;
        ck_assert_int_eq(journal_new(&journal, &o, NULL, NULL), 0);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &none), 0);
        o.target = LOG_TARGET_JOURNAL;
        ck_assert_int_eq(journal_set_options(journal, &o), -EMFILE);
        ck_assert_int_eq(journal_options(journal)->target, LOG_TARGET_STDERR);
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        journal_free(journal);
}
END_TEST

/* ---- stderr ---- */

static int saved_stderr = -1;

/* stderr becomes a pipe, whose reading end is returned. */
static int catch_stderr(void)
{
        int fds[2];

        ck_assert_int_eq(pipe2(fds, O_CLOEXEC), 0);
        saved_stderr = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10);
        ck_assert_int_eq(dup2(fds[1], STDERR_FILENO), STDERR_FILENO);
        (void)fd_close(fds[1]);
        ck_assert_int_eq(fcntl(fds[0], F_SETFL, O_NONBLOCK), 0);
        return fds[0];
}

static void restore_stderr(void)
{
        ck_assert_int_eq(dup2(saved_stderr, STDERR_FILENO), STDERR_FILENO);
        saved_stderr = fd_close(saved_stderr);
}

static struct journal *open_stderr(enum log_target target)
{
        struct log_options o = options(5000);
        struct journal *journal = NULL;

        o.target = target;
        ck_assert_int_eq(journal_new(&journal, &o, NULL, "/nonexistent/socket"), 0);
        return journal;
}

static const char *read_text(int fd, char *buffer, size_t size)
{
        ssize_t n = read(fd, buffer, size - 1);

        buffer[n < 0 ? 0 : n] = '\0';
        return buffer;
}

START_TEST(test_stderr)
{
        static const struct {
                enum log_target target;
                bool is_stream; /* $JOURNAL_STREAM names it */
                const char *lines;
        } rows[] = {
                { LOG_TARGET_STDERR, false, "one\nt\\x0awo\n" },
                { LOG_TARGET_AUTO, false, "one\nt\\x0awo\n" }, /* no journald */
                { LOG_TARGET_AUTO, true, "<6>one\n<3>t\\x0awo\n" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                int fd = catch_stderr();
                char text[4096];
                struct stat st;

                ck_assert_int_eq(fstat(STDERR_FILENO, &st), 0);
                (void)snprintf(text, sizeof(text), "%ju:%ju", (uintmax_t)st.st_dev,
                               (uintmax_t)st.st_ino + !rows[i].is_stream);
                ck_assert_int_eq(setenv("JOURNAL_STREAM", text, 1), 0);

                struct journal *journal = open_stderr(rows[i].target);

                ck_assert_int_eq(journal_fd(journal), STDERR_FILENO);
                log_message(journal, LOG_INFO, "one");
                log_message(journal, LOG_ERR, "t\nwo");
                ck_assert_int_eq(journal_flush(journal), 0);
                journal_free(journal);
                restore_stderr();
                ck_assert_int_eq(unsetenv("JOURNAL_STREAM"), 0);
                ck_assert_str_eq(read_text(fd, text, sizeof(text)), rows[i].lines);
                (void)fd_close(fd);
        }
}
END_TEST

START_TEST(test_stderr_full)
{
        int fd = catch_stderr(), r;
        struct journal *journal = open_stderr(LOG_TARGET_STDERR);
        _cleanup_free_ char *large = large_text(5000);
        static char text[1 << 20];
        size_t n_read = 0, n_lines = 0;

        for (int i = 0; i < 100; i++)
                log_message(journal, LOG_INFO, "%s", large);
        ck_assert_int_eq(journal_flush(journal), -EAGAIN);
        ck_assert_uint_gt(journal_n_staged(journal), 50);
        do {
                r = journal_flush(journal);
                for (ssize_t n; (n = read(fd, text + n_read, sizeof(text) - n_read)) > 0; n_read += (size_t)n)
                        ;
        } while (r == -EAGAIN);
        restore_stderr();
        ck_assert_int_eq(r, 0);
        ck_assert_uint_eq(n_read, 100 * 5001);
        for (size_t i = 0; i < n_read; i++)
                n_lines += text[i] == '\n' && i % 5001 == 5000;
        ck_assert_uint_eq(n_lines, 100);
        journal_free(journal);
        (void)fd_close(fd);
}
END_TEST

START_TEST(test_stderr_gone)
{
        struct journal *journal;
        size_t n_staged;

        for (int is_closed = 0; is_closed < 2; is_closed++) { /* a pipe without reader; no stderr at all */
                int fd = catch_stderr();

                journal = open_stderr(LOG_TARGET_STDERR);
                log_message(journal, LOG_INFO, "nobody reads");
                (void)fd_close(fd);
                if (is_closed)
                        (void)close(STDERR_FILENO);

                int r = journal_flush(journal); /* SIGPIPE would end us */

                n_staged = journal_n_staged(journal);
                restore_stderr();
                ck_assert_int_eq(r, 0);
                ck_assert_uint_eq(n_staged, 0);
                ck_assert_uint_ge(journal_n_dropped(journal), 1);
                fd = catch_stderr();
                journal_free(journal);
                restore_stderr();
                (void)fd_close(fd);
        }
}
END_TEST

/* What was staged for one target goes to the other, whole and once. */
START_TEST(test_change_of_options)
{
        int receiver = begin(), fd;
        struct journal *journal = open_journal(100);
        struct log_options o = options(100);
        char text[4096];

        (void)fd_close(receiver);
        for (int i = 0; i < 20; i++)
                log_message(journal, LOG_INFO, "number %d", i);
        o.n_queue = 2; /* shrinks below what is there */
        ck_assert_int_eq(journal_set_options(journal, &o), 0);
        ck_assert_uint_eq(journal_n_staged(journal), 20);
        log_message(journal, LOG_ERR, "no room");
        ck_assert_uint_eq(journal_n_dropped(journal), 1);
        fd = catch_stderr();
        o.target = LOG_TARGET_STDERR;
        ck_assert_int_eq(journal_set_options(journal, &o), 0);
        ck_assert_int_eq(journal_flush(journal), 0);
        restore_stderr();
        read_text(fd, text, sizeof(text));
        ck_assert(startswith(text, "number 0\nnumber 1\n"));
        ck_assert_ptr_nonnull(strstr(text, "\nnumber 19\n1 log record, number 21, was dropped"));
        log_message(journal, LOG_INFO, "for journald");
        receiver = receiver_open();
        o.target = LOG_TARGET_AUTO;
        ck_assert_int_eq(journal_set_options(journal, &o), 0);
        ck_assert_int_ne(journal_fd(journal), STDERR_FILENO);
        ck_assert_int_eq(journal_flush(journal), 0);
        ck_assert(receive(receiver, text, sizeof(text)) && strstr(text, "MESSAGE=for journald\n"));
        journal_free(journal);
        (void)fd_close(fd);
        end(receiver);
}
END_TEST

UNIT_MAIN("journal", test_record_fields, test_record_message, test_record_line, test_ring_against_twin,
          test_ring_large_after_small, test_limit, test_limit_is_bounded, test_journal_wire,
          test_journal_slow, test_journal_full, test_journal_bytes_are_bounded, test_journal_losses_add_up,
          test_journal_away, test_journal_edge_after_reconnect, test_journal_large, test_journal_refused,
          test_journal_level_hides_losses, test_journal_without_memory, test_journal_free,
          test_journal_bad_arguments, test_stderr, test_stderr_full, test_stderr_gone, test_change_of_options)

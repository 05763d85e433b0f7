/*
 * store: what is put in comes back, with its record, in any number, however often it is read; the dead do not; the
 * highest generation counts; and what a manager got in part, or from somebody else, harms nobody.
 */
#include "base/fields.h"
#include "base/words.h"
#include "service/fds.h"
#include "service/notify.h"
#include "service/store.h"
#include "unit.h"
#include <fcntl.h>
#include <inttypes.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#define MANY 4000 /* some of packed messages, and more than one pair's worth of single ones */

/* ---- the manager, as far as a store needs one: it keeps what it is sent, by name ---- */

static int manager_fd = -1;
static struct {
        char name[64];
        int fd;
} kept[512];
static size_t n_kept;

static void begin(void)
{
        struct sockaddr_un address = { .sun_family = AF_UNIX };
        socklen_t length = sizeof(sa_family_t);
        struct rlimit limit;
        char path[sizeof(address.sun_path) + 1];

        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        limit.rlim_cur = limit.rlim_max;
        ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        manager_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        ck_assert_int_eq(bind(manager_fd, (struct sockaddr *)&address, length),
                         0); /* an abstract name of its choice */
        length = sizeof(address);
        ck_assert_int_eq(getsockname(manager_fd, (struct sockaddr *)&address, &length), 0);
        (void)snprintf(path, sizeof(path), "@%s", address.sun_path + 1);
        ck_assert_int_eq(setenv("NOTIFY_SOCKET", path, 1), 0);
        n_kept = 0;
}

static void remove_kept(const char *name)
{
        for (size_t i = 0; i < n_kept; i++)
                if (streq(kept[i].name, name)) {
                        (void)close(kept[i].fd);
                        kept[i--] = kept[--n_kept];
                }
}

/* Reads everything that was sent; returns how many messages. */
static unsigned manage(void)
{
        unsigned n_messages = 0;

        for (;;) {
                char text[256], name[64] = "", *begin_of_name;
                union {
                        struct cmsghdr header;
                        char bytes[CMSG_SPACE(NOTIFY_FDS_MAX * sizeof(int))];
                } control;
                struct iovec room = { .iov_base = text, .iov_len = sizeof(text) - 1 };
                struct msghdr message = { .msg_iov = &room,
                                          .msg_iovlen = 1,
                                          .msg_control = &control,
                                          .msg_controllen = sizeof(control) };
                ssize_t n = recvmsg(manager_fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

                if (n < 0)
                        return n_messages;
                n_messages++;
                text[n] = '\0';
                begin_of_name = strstr(text, "FDNAME=");
                ck_assert_ptr_nonnull(begin_of_name);
                (void)sscanf(begin_of_name, "FDNAME=%63[^\n]", name);
                if (startswith(text, "FDSTOREREMOVE=1"))
                        remove_kept(name);
                for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = NULL) {
                        size_t n_fds = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                        int fds[NOTIFY_FDS_MAX];

                        memcpy(fds, CMSG_DATA(header), n_fds * sizeof(int));
                        for (size_t i = 0; i < n_fds; i++) {
                                (void)snprintf(kept[n_kept].name, sizeof(kept[n_kept].name), "%s", name);
                                kept[n_kept++].fd = fds[i];
                        }
                }
        }
}

/* What a new process would be handed: the newest first. */
static struct fds *hand_back(void)
{
        struct fds *fds = malloc(sizeof(*fds) + n_kept * sizeof(fds->items[0]));

        fds->n = n_kept;
        for (size_t i = 0; i < n_kept; i++)
                fds->items[i] =
                        (struct handed_fd){ .name = strdup(kept[n_kept - 1 - i].name),
                                            .fd = fcntl(kept[n_kept - 1 - i].fd, F_DUPFD_CLOEXEC, 3) };
        return fds;
}

/* ---- connections ---- */

static int connections[MANY], peers[MANY];

static void connect_many(size_t n)
{
        for (size_t i = 0; i < n; i++) {
                int ends[2];

                ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
                connections[i] = ends[0];
                peers[i] = ends[1];
        }
}

static void add(struct store *store, size_t i, size_t n_filling)
{
        char filling[4096];

        memset(filling, 'x', n_filling);
        filling[n_filling] = '\0';
        fields_write_u64(store_record(store), "number", i);
        fields_write(store_record(store), "filling", filling);
        fields_write_end(store_record(store));
        ck_assert_int_eq(store_add(store, connections[i]), 0);
}

/* ---- and what comes back ---- */

static struct {
        size_t n, n_filling;
        unsigned n_times[MANY];
} seen;

static void found(int fd, char *const *fields, void *userdata)
{
        uint64_t number;
        char byte = 'b', got = 0;

        ck_assert_ptr_eq(userdata, &seen);
        ck_assert_int_eq(fields_get_u64(fields, "number", &number), 0);
        ck_assert_uint_lt(number, MANY);
        seen.n++;
        seen.n_times[number]++;
        seen.n_filling += strlen(fields_get(fields, "filling"));
        ck_assert_int_eq(fcntl(fd, F_GETFD), FD_CLOEXEC);
        ck_assert_int_eq(send(fd, &byte, 1, 0), 1); /* it is the one that the record is of */
        ck_assert_int_eq(recv(peers[number], &got, 1, 0), 1);
        (void)close(fd);
}

static uint64_t restore(int expected, size_t n_generations)
{
        _cleanup_(fds_freep) struct fds *fds = hand_back();
        _cleanup_free_ uint64_t *generations = NULL;
        uint64_t highest = 0;
        size_t n = 0;

        memset(&seen, 0, sizeof(seen));
        ck_assert_int_eq(store_restore(fds, found, &seen, &highest, &generations), expected);
        while (generations[n])
                n++;
        ck_assert_uint_eq(n, n_generations);
        return highest;
}

static void expect_each_once(size_t from, size_t to)
{
        for (size_t i = 0; i < MANY; i++)
                ck_assert_msg(seen.n_times[i] == (i >= from && i < to), "number %zu came back %u times", i,
                              seen.n_times[i]);
}

START_TEST(test_store_nothing)
{
        begin();
        ck_assert_uint_eq(restore(0, 0), 0);

        _cleanup_(store_freep) struct store *store = NULL;

        ck_assert_int_eq(store_new(&store, 1), 0);
        ck_assert_int_eq(store_flush(store), 0);
        ck_assert_int_eq(store_hand_over(store), 0);
        ck_assert_uint_eq(manage(), 0);
        ck_assert_uint_eq(store_n_entries(store), 0);
}
END_TEST

START_TEST(test_store_packed)
{
        _cleanup_(store_freep) struct store *store = NULL;

        begin();
        connect_many(MANY);
        ck_assert_int_eq(store_new(&store, 7), 0);
        for (size_t i = 0; i < MANY; i++)
                add(store, i, 200);
        ck_assert_int_eq(store_flush(store), 0);
        ck_assert_int_eq(store_hand_over(store), 0);
        ck_assert_uint_eq(manage(), 1);
        ck_assert_uint_eq(n_kept, 2); /* whatever their number */
        ck_assert_uint_eq(store_n_entries(store), MANY);
        store = store_free(store);
        for (size_t i = 0; i < MANY; i++)
                (void)close(connections[i]);

        /* Reading takes nothing away. */
        for (int i = 0; i < 3; i++) {
                ck_assert_uint_eq(restore(0, 1), 7);
                expect_each_once(0, MANY);
                ck_assert_uint_eq(seen.n_filling, MANY * 200);
        }
        ck_assert_int_eq(store_remove(7), 0);
        ck_assert_uint_eq(manage(), 1);
        ck_assert_uint_eq(n_kept, 0);
        for (size_t i = 0; i < MANY; i++) {
                char byte;

                ck_assert_int_eq(recv(peers[i], &byte, 1, MSG_DONTWAIT), 0); /* nobody has it any more */
        }
}
END_TEST

START_TEST(test_store_appended)
{
        _cleanup_(store_freep) struct store *store = NULL;
        unsigned n_messages = 0;

        begin();
        connect_many(MANY);
        ck_assert_int_eq(store_new(&store, 1), 0);
        for (size_t i = 0; i < MANY; i++) {
                add(store, i, i % 8 ? 900 : 4000); /* inline, and by memfd */
                ck_assert_int_eq(store_flush(store), 0);
                ck_assert_int_eq(store_hand_over(store), 0);
                n_messages += manage();
        }
        ck_assert_uint_ge(n_messages, 2); /* one for each pair, not for each connection */
        ck_assert_uint_eq(n_kept, 2 * n_messages);
        ck_assert_uint_le(n_messages, MANY / 100);
        ck_assert_uint_eq(restore(0, 1), 1);
        expect_each_once(0, MANY);
        ck_assert_uint_eq(seen.n_filling, MANY / 8 * 7 * 900 + MANY / 8 * 4000);
}
END_TEST

START_TEST(test_store_dead_entries)
{
        _cleanup_(store_freep) struct store *store = NULL;

        begin();
        connect_many(10);
        ck_assert_int_eq(store_new(&store, 1), 0);
        for (size_t i = 0; i < 10; i++)
                add(store, i, 10);
        ck_assert_int_eq(store_flush(store), 0);
        for (size_t i = 0; i < 5; i++) {
                char byte;

                store_bury(connections[i]);
                (void)close(connections[i]);
                ck_assert_int_eq(recv(peers[i], &byte, 1, MSG_DONTWAIT),
                                 0); /* the peer hears of it at once */
        }
        ck_assert_int_eq(store_hand_over(store), 0);
        (void)manage();
        ck_assert_uint_eq(restore(0, 1), 1);
        expect_each_once(5, 10);
}
END_TEST

START_TEST(test_store_highest_generation)
{
        _cleanup_(store_freep) struct store *old = NULL, *new = NULL;

        begin();
        connect_many(20);
        ck_assert_int_eq(store_new(&old, 0x9), 0);
        ck_assert_int_eq(store_new(&new, 0x10), 0);
        for (size_t i = 0; i < 10; i++)
                add(old, i, 10);
        for (size_t i = 10; i < 20; i++)
                add(new, i, 10);
        ck_assert_int_eq(store_flush(old), 0);
        ck_assert_int_eq(store_flush(new), 0);
        ck_assert_int_eq(store_hand_over(new), 0);
        ck_assert_int_eq(store_hand_over(old), 0);
        (void)manage();
        ck_assert_uint_eq(restore(0, 2), 0x10);
        expect_each_once(10, 20);
        ck_assert_uint_eq(store_generation(new), 0x10);
}
END_TEST

START_TEST(test_store_kept_in_part)
{
        _cleanup_(store_freep) struct store *store = NULL;

        begin();
        connect_many(MANY);
        ck_assert_int_eq(store_new(&store, 1), 0);
        for (size_t i = 0; i < MANY; i++) {
                add(store, i, 900);
                ck_assert_int_eq(store_flush(store), 0);
        }
        ck_assert_int_eq(store_hand_over(store), 0);
        (void)manage();
        ck_assert_uint_ge(n_kept, 4);
        (void)close(kept[0].fd); /* an end that is not needed any more */
        kept[0] = kept[--n_kept];
        ck_assert_uint_eq(restore(0, 1), 1);
        ck_assert_uint_gt(seen.n, 0);
}
END_TEST

START_TEST(test_store_foreign_descriptors)
{
        static const char *const names[] = { "web", "tetherd-connections-", "tetherd-connections-5x",
                                             "tetherd-connections-5" };

        begin();
        for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
                (void)snprintf(kept[n_kept].name, sizeof(kept[n_kept].name), "%s", names[i]);
                kept[n_kept++].fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
        }

        _cleanup_(fds_freep) struct fds *fds = hand_back();
        _cleanup_free_ uint64_t *generations = NULL;
        uint64_t highest;

        ck_assert_int_eq(store_restore(fds, found, &seen, &highest, &generations), -ENOTSOCK);
        ck_assert_uint_eq(highest, 5);
        ck_assert_int_ge(fds_take(fds, "web"), 0); /* left to whom it belongs */
        ck_assert_int_ge(fds_take(fds, "tetherd-connections-5x"), 0);
        ck_assert_int_eq(fds_take(fds, "tetherd-connections-5"), -1);
}
END_TEST

static void send_raw(const char *text, const int *fds, size_t n_fds)
{
        int ends[2];
        union {
                struct cmsghdr header;
                char bytes[CMSG_SPACE(4 * sizeof(int))];
        } control = { .header = { .cmsg_level = SOL_SOCKET,
                                  .cmsg_type = SCM_RIGHTS,
                                  .cmsg_len = CMSG_LEN(n_fds * sizeof(int)) } };
        struct iovec room = { .iov_base = (char *)(uintptr_t)text, .iov_len = strlen(text) };
        struct msghdr message = { .msg_iov = &room, .msg_iovlen = 1 };

        if (n_fds > 0) {
                memcpy(CMSG_DATA(&control.header), fds, n_fds * sizeof(int));
                message.msg_control = &control;
                message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
        }
        ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
        ck_assert_int_gt(sendmsg(ends[0], &message, 0), 0);
        n_kept = 0;
        for (int i = 0; i < 2; i++) {
                (void)snprintf(kept[n_kept].name, sizeof(kept[n_kept].name), "tetherd-connections-1");
                kept[n_kept++].fd = ends[i];
        }
}

START_TEST(test_store_bad_messages)
{
        static const char *const texts[] = {
                "number=1\n", "number=1\nfilling=\n", ".\n", "number\n.\n", "number=1\\x\n.\n", "memfd",
        };

        begin();
        connect_many(4);
        for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
                send_raw(texts[i], connections, 2);
                (void)restore(-EINVAL, 1);
                ck_assert_uint_eq(seen.n, 0);
        }
        send_raw("number=1\nfilling=\n.\nnumber=2\n", connections + 1, 2); /* the first is whole */
        (void)restore(-EINVAL, 1);
        ck_assert_uint_eq(seen.n, 1);
        send_raw("memfd", NULL, 0);
        (void)restore(-EINVAL, 1);
        send_raw("number=1\nfilling=\n.\n", NULL, 0); /* a record without a descriptor is nobody's */
        (void)restore(0, 1);
        ck_assert_uint_eq(seen.n, 0);
}
END_TEST

START_TEST(test_store_without_manager)
{
        _cleanup_(store_freep) struct store *store = NULL;

        ck_assert_int_eq(unsetenv("NOTIFY_SOCKET"), 0);
        connect_many(1);
        ck_assert_int_eq(store_new(&store, 1), 0);
        add(store, 0, 10);
        ck_assert_int_eq(store_flush(store), 0);
        ck_assert_int_eq(store_hand_over(store), -ENOTCONN);
        ck_assert_int_eq(store_remove(1), -ENOTCONN);
        ck_assert_ptr_null(store_free(NULL));
}
END_TEST

UNIT_MAIN("store", test_store_nothing, test_store_packed, test_store_appended, test_store_dead_entries,
          test_store_highest_generation, test_store_kept_in_part, test_store_foreign_descriptors,
          test_store_bad_messages, test_store_without_manager)

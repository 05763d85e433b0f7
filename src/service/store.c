/*
 * A message is the records of its descriptors, one after the other; where they are long, what travels is the word
 * MEMFD and, as the first descriptor, a memfd(2) with the records in it. So a pair's buffer, which is counted in
 * bytes, holds some hundred messages whatever the records are.
 *
 * Dead entries are told by O_NONBLOCK: it belongs to the open file, which all descriptors of a connection share,
 * those in flight included, and every connection that lives has it.
 */
#include "service/store.h"
#include "base/fields.h"
#include "base/words.h"
#include "service/fds.h"
#include "service/notify.h"
#include <fcntl.h>
#include <inttypes.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define NAME_PREFIX   "tetherd-connections-"
#define MEMFD         "memfd"
#define MESSAGE_FDS   253 /* SCM_MAX_FD */
#define INLINE_MAX    1024
#define SNDBUF        (8 * 1024 * 1024) /* as much as net.core.wmem_max allows */
#define RECORDS_MAX   ((size_t)64 * 1024 * 1024)
#define ENDS_PER_PAIR 2

struct store {
        uint64_t generation;
        size_t n_entries;
        int *ends; /* of all pairs: what is written to the first of two is read from the second */
        size_t n_ends;
        size_t n_handed_over; /* ends that the manager knows */
        FILE *file;           /* the records of what waits to be sent */
        char *records;
        size_t n_bytes;
        int waiting[MESSAGE_FDS]; /* [0] is kept free for a memfd */
        size_t n_waiting;
};

union control {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(MESSAGE_FDS * sizeof(int))];
};

int store_new(struct store **ret_store, uint64_t generation)
{
        struct store *store = calloc(1, sizeof(*store));

        if (!store)
                return -ENOMEM;
        store->generation = generation;
        store->file = open_memstream(&store->records, &store->n_bytes);
        if (!store->file) {
                free(store);
                return -ENOMEM;
        }
        *ret_store = store;
        return 0;
}

struct store *store_free(struct store *store)
{
        if (!store)
                return NULL;
        for (size_t i = 0; i < store->n_ends; i++)
                (void)fd_close(store->ends[i]);
        (void)fclose(store->file);
        free(store->records);
        free(store->ends);
        free(store);
        return NULL;
}

uint64_t store_generation(const struct store *store)
{
        return store->generation;
}

size_t store_n_entries(const struct store *store)
{
        return store->n_entries;
}

/* ---- writing ---- */

FILE *store_record(struct store *store)
{
        return store->file;
}

static int open_pair(struct store *store)
{
        int *ends = reallocarray(store->ends, store->n_ends + ENDS_PER_PAIR, sizeof(*ends)), size = SNDBUF;

        if (!ends)
                return -ENOMEM;
        store->ends = ends;
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends + store->n_ends) < 0)
                return -errno;
        (void)setsockopt(ends[store->n_ends], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
        store->n_ends += ENDS_PER_PAIR;
        return 0;
}

/* Into the last pair, or into a new one where that is full. */
static int send_message(struct store *store, const char *bytes, size_t n_bytes, const int *fds, size_t n_fds)
{
        union control control = { .header = { .cmsg_level = SOL_SOCKET,
                                              .cmsg_type = SCM_RIGHTS,
                                              .cmsg_len = CMSG_LEN(n_fds * sizeof(int)) } };
        struct iovec text = { .iov_base = (char *)(uintptr_t)bytes, .iov_len = n_bytes };
        struct msghdr message = { .msg_iov = &text,
                                  .msg_iovlen = 1,
                                  .msg_control = &control,
                                  .msg_controllen = CMSG_SPACE(n_fds * sizeof(int)) };
        int r;

        memcpy(CMSG_DATA(&control.header), fds, n_fds * sizeof(int));
        if (store->n_ends > 0) {
                if (sendmsg(store->ends[store->n_ends - ENDS_PER_PAIR], &message, MSG_NOSIGNAL) >= 0)
                        return 0;
                if (errno != EAGAIN)
                        return -errno;
        }
        r = open_pair(store);
        if (r < 0)
                return r;
        return sendmsg(store->ends[store->n_ends - ENDS_PER_PAIR], &message, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static int write_memfd(const char *bytes, size_t n_bytes)
{
        _cleanup_close_ int fd = memfd_create("tetherd-records", MFD_CLOEXEC);

        if (fd < 0)
                return -errno;
        while (n_bytes > 0) {
                ssize_t n = write(fd, bytes, n_bytes);

                if (n < 0)
                        return -errno;
                bytes += n;
                n_bytes -= (size_t)n;
        }
        return TAKE_FD(fd);
}

int store_flush(struct store *store)
{
        int r = 0;

        if (store->n_waiting == 0)
                return 0;
        if (fflush(store->file) != 0)
                return -ENOMEM;
        if (store->n_bytes <= INLINE_MAX) {
                r = send_message(store, store->records, store->n_bytes, store->waiting + 1, store->n_waiting);
        } else {
                _cleanup_close_ int fd = write_memfd(store->records, store->n_bytes);

                store->waiting[0] = fd;
                r = fd < 0 ? fd
                           : send_message(store, MEMFD, strlen(MEMFD), store->waiting, store->n_waiting + 1);
        }
        if (r < 0)
                return r;
        store->n_waiting = 0;
        return fseek(store->file, 0, SEEK_SET) < 0 ? -errno : 0;
}

int store_add(struct store *store, int fd)
{
        store->waiting[1 + store->n_waiting++] = fd;
        store->n_entries++;
        return 1 + store->n_waiting == MESSAGE_FDS ? store_flush(store) : 0;
}

void store_bury(int fd)
{
        (void)fcntl(fd, F_SETFL, 0);
        (void)shutdown(fd, SHUT_RDWR);
}

/* ---- the manager's part ---- */

struct store_name {
        char text[64];
};

static struct store_name store_name(uint64_t generation)
{
        struct store_name name;

        (void)snprintf(name.text, sizeof(name.text), NAME_PREFIX "%" PRIx64, generation);
        return name;
}

int store_hand_over(struct store *store)
{
        while (store->n_handed_over < store->n_ends) {
                size_t n = MIN(store->n_ends - store->n_handed_over, (size_t)NOTIFY_FDS_MAX);
                int r = fds_store(store_name(store->generation).text, store->ends + store->n_handed_over, n);

                if (r < 0)
                        return r;
                store->n_handed_over += n;
        }
        return 0;
}

int store_remove(uint64_t generation)
{
        return fds_store_remove(store_name(generation).text);
}

/* ---- reading ---- */

struct reader {
        store_fn found;
        void *userdata;
};

static int read_memfd(int fd, char **ret_records)
{
        _cleanup_free_ char *records = NULL;
        struct stat st;
        ssize_t n;

        if (fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || (size_t)st.st_size > RECORDS_MAX)
                return -EINVAL;
        records = malloc((size_t)st.st_size + 1);
        if (!records)
                return -ENOMEM;
        n = pread(fd, records, (size_t)st.st_size, 0);
        if (n != (ssize_t)st.st_size)
                return n < 0 ? -errno : -EIO;
        records[n] = '\0';
        *ret_records = TAKE_PTR(records);
        return 0;
}

/* Takes the descriptors. */
static int read_records(const struct reader *reader, char *records, int *fds, size_t n_fds)
{
        int r = 0;

        for (size_t i = 0; i < n_fds; i++) {
                _cleanup_strv_free_ char **fields = NULL;
                _cleanup_close_ int fd = fds[i];

                if (r >= 0)
                        r = fields_read(&records, &fields);
                if (r == 0)
                        r = -EINVAL; /* fewer records than descriptors */
                if (r > 0 && fcntl(fd, F_GETFL) & O_NONBLOCK)
                        reader->found(TAKE_FD(fd), fields, reader->userdata);
        }
        return r < 0 ? r : 0;
}

static int read_message(const struct reader *reader, char *text, int *fds, size_t n_fds)
{
        _cleanup_free_ char *records = NULL;
        int r;

        if (!streq(text, MEMFD))
                return read_records(reader, text, fds, n_fds);
        r = n_fds > 0 ? read_memfd(fds[0], &records) : -EINVAL;
        if (n_fds > 0)
                (void)fd_close(fds[0]);
        return r < 0 ? r : read_records(reader, records, fds + 1, n_fds - 1);
}

static int read_end(const struct reader *reader, int end_fd)
{
        int offset = 0, r = 0;

        if (setsockopt(end_fd, SOL_SOCKET, SO_PEEK_OFF, &offset, sizeof(offset)) < 0)
                return -errno;
        while (r == 0) {
                char text[INLINE_MAX + 1];
                union control control;
                struct iovec room = { .iov_base = text, .iov_len = INLINE_MAX };
                struct msghdr message = { .msg_iov = &room,
                                          .msg_iovlen = 1,
                                          .msg_control = &control,
                                          .msg_controllen = sizeof(control) };
                ssize_t n = recvmsg(end_fd, &message, MSG_PEEK | MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
                struct cmsghdr *header = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
                int fds[MESSAGE_FDS];
                size_t n_fds = 0;

                if (n <= 0)
                        return n < 0 && errno != EAGAIN ? -errno : 0;
                text[n] = '\0';
                if (header && header->cmsg_type == SCM_RIGHTS) {
                        n_fds = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
                        memcpy(fds, CMSG_DATA(header), n_fds * sizeof(int));
                }
                r = read_message(reader, text, fds, n_fds);
                if (r == 0 && message.msg_flags & MSG_CTRUNC)
                        r = -EMFILE;
        }
        return r;
}

static bool is_generation(const char *name, uint64_t *ret_generation)
{
        char *end;

        if (!startswith(name, NAME_PREFIX))
                return false;
        *ret_generation = strtoull(name + strlen(NAME_PREFIX), &end, 16);
        return *end == '\0';
}

int store_restore(struct fds *fds, store_fn found, void *userdata, uint64_t *ret_highest, uint64_t **ret_all)
{
        const struct reader reader = { .found = found, .userdata = userdata };
        _cleanup_free_ uint64_t *generations = calloc(fds->n + 1, sizeof(*generations));
        uint64_t highest = 0, generation;
        size_t n_generations = 0;
        int r = 0;

        if (!generations)
                return -ENOMEM;
        for (size_t i = 0; i < fds->n; i++) {
                bool is_known = false;

                if (!is_generation(fds->items[i].name, &generation))
                        continue;
                highest = MAX(highest, generation);
                for (size_t k = 0; k < n_generations; k++)
                        is_known = is_known || generations[k] == generation;
                if (!is_known)
                        generations[n_generations++] = generation;
        }
        for (size_t i = 0; i < fds->n; i++) {
                if (!is_generation(fds->items[i].name, &generation))
                        continue;

                _cleanup_close_ int end_fd = TAKE_FD(fds->items[i].fd);
                int failure = generation == highest ? read_end(&reader, end_fd) : 0;

                if (r == 0)
                        r = failure;
        }
        *ret_highest = highest;
        *ret_all = TAKE_PTR(generations);
        return r;
}

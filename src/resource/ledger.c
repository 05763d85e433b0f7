/*
 * The files of the ledger. Promises that what cannot be understood is neither guessed at nor lost, and stops
 * nobody: it is set aside, with one line in the log. Relies on append writes that are whole or cut short at the
 * end, on rename(2), and on the lock that the daemon has on both directories. Deliberately not here: what to do
 * with a lease that is found; what its text says, which is text.c; and waiting for a disk, which is sync.c.
 */
#include "resource/ledger.h"
#include "loop/child.h"
#include "resource/lease.h"
#include "resource/text.h"
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <systemd/sd-id128.h>

#define UNFINISHED ".new" /* a record that has no name yet; one at a time */
#define RECORD_MAX ((size_t)4 * 1024 * 1024)

/* Records of one directory. */
struct book {
        char *path;
        int directory_fd; /* path/leases */
        int aside_fd;     /* path/set-aside */
};

struct ledger {
        struct loop *loop;
        struct syncer *syncer; /* NULL until it is needed */
        struct book books[2];  /* of the runtime and the state directory, or twice of the same */
        bool is_one;
        char boot[BOOT_TEXT_MAX];
};

enum { RUNTIME, STATE };

static int open_subdirectory(int parent_fd, const char *name)
{
        int fd;

        /* Synced, or a power cut would take the directory together with what was synced in it. */
        if (mkdirat(parent_fd, name, 0700) == 0 ? fsync(parent_fd) < 0 : errno != EEXIST)
                return -errno;
        fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        return fd < 0 ? -errno : fd;
}

static int book_open(struct book *book, const char *path)
{
        _cleanup_close_ int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        if (fd < 0)
                return -errno;
        book->path = strdup(path);
        if (!book->path)
                return -ENOMEM;
        book->directory_fd = open_subdirectory(fd, "leases");
        if (book->directory_fd < 0)
                return book->directory_fd;
        book->aside_fd = open_subdirectory(fd, "set-aside");
        return book->aside_fd < 0 ? book->aside_fd : 0;
}

static int are_same(int fd, int other_fd, bool *ret)
{
        struct stat st, other;

        if (fstat(fd, &st) < 0 || fstat(other_fd, &other) < 0)
                return -errno;
        *ret = st.st_dev == other.st_dev && st.st_ino == other.st_ino;
        return 0;
}

static int find_boot(char ret[static BOOT_TEXT_MAX])
{
        sd_id128_t boot;
        int r = sd_id128_get_boot(&boot);

        if (r >= 0)
                (void)snprintf(ret, BOOT_TEXT_MAX, SD_ID128_UUID_FORMAT_STR, SD_ID128_FORMAT_VAL(boot));
        return r;
}

int ledger_open(struct ledger **ret_ledger, struct loop *loop, const char *runtime_directory,
                const char *state_directory)
{
        _cleanup_(ledger_freep) struct ledger *ledger = calloc(1, sizeof(*ledger));
        int r;

        if (!ledger)
                return -ENOMEM;
        ledger->loop = loop;
        for (size_t i = 0; i < ARRAY_SIZE(ledger->books); i++)
                ledger->books[i].directory_fd = ledger->books[i].aside_fd = -1;
        r = book_open(&ledger->books[RUNTIME], runtime_directory);
        if (r == 0)
                r = book_open(&ledger->books[STATE], state_directory);
        if (r == 0)
                r = are_same(ledger->books[RUNTIME].directory_fd, ledger->books[STATE].directory_fd,
                             &ledger->is_one);
        if (r == 0)
                r = find_boot(ledger->boot);
        if (r < 0)
                return r;
        for (size_t i = 0; i < ARRAY_SIZE(ledger->books); i++)
                child_keep_open(ledger->books[i].directory_fd);
        *ret_ledger = TAKE_PTR(ledger);
        return 0;
}

struct ledger *ledger_free(struct ledger *ledger)
{
        if (!ledger)
                return NULL;
        ledger->syncer = syncer_free(ledger->syncer);
        for (size_t i = 0; i < ARRAY_SIZE(ledger->books); i++) {
                free(ledger->books[i].path);
                (void)fd_close(ledger->books[i].directory_fd);
                (void)fd_close(ledger->books[i].aside_fd);
        }
        free(ledger);
        return NULL;
}

static const struct book *book_of(const struct ledger *ledger, const struct lease *lease)
{
        return &ledger->books[lease->is_persistent ? STATE : RUNTIME];
}

struct record_name {
        char text[32];
};

static struct record_name record_name(const struct lease *lease)
{
        struct record_name name;

        (void)snprintf(name.text, sizeof(name.text), "%" PRIx64, lease->subject.id);
        return name;
}

/* ---- writing ---- */

static int format_claim(const struct ledger *ledger, const struct claim *claim, char **ret_text,
                        size_t *ret_length)
{
        FILE *file = open_memstream(ret_text, ret_length);
        int r;

        if (!file)
                return -ENOMEM;
        if (!claim->lease->has_record)
                text_write_head(file, claim->lease, ledger->boot);
        r = text_write_claim(file, claim);
        return fclose(file) != 0 && r == 0 ? -ENOMEM : r;
}

/* One write: what a crash cuts short does not end with its dot and is as if never written. */
static int append(int fd, const char *text, size_t length)
{
        ssize_t n = write(fd, text, length);
        struct stat st;

        if (n < 0)
                return -errno;
        if (n == (ssize_t)length)
                return 0;
        /* Or the next block would be taken for this one's end. */
        return fstat(fd, &st) < 0 || ftruncate(fd, st.st_size - n) < 0 ? -errno : -ENOSPC;
}

int ledger_save(struct ledger *ledger, const struct claim *claim)
{
        struct lease *lease = claim->lease;
        int directory_fd = book_of(ledger, lease)->directory_fd;
        const struct record_name name = record_name(lease);
        /*
         * A record that is there is not made again: a child of ours that outlived us may come here, and what the next
         * run has erased is not to come back. A new one gets its name when its first block is whole.
         */
        const int flags = lease->has_record ? O_APPEND : O_CREAT | O_TRUNC;
        _cleanup_close_ int fd = openat(directory_fd, lease->has_record ? name.text : UNFINISHED,
                                        O_WRONLY | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
        _cleanup_free_ char *text = NULL;
        size_t length = 0;
        int r;

        if (fd < 0)
                return -errno;
        r = format_claim(ledger, claim, &text, &length);
        if (r == 0)
                r = append(fd, text, length);
        if (r == 0 && !lease->has_record && renameat(directory_fd, UNFINISHED, directory_fd, name.text) < 0)
                r = -errno;
        lease->has_record |= r == 0;
        return r;
}

int ledger_take_back(struct ledger *ledger, struct lease *lease)
{
        _cleanup_close_ int fd = openat(book_of(ledger, lease)->directory_fd, record_name(lease).text,
                                        O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
        struct stat st;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (lease->kept_length == 0)
                lease->kept_length = st.st_size;
        return st.st_size > lease->kept_length && ftruncate(fd, lease->kept_length) < 0 ? -errno : 0;
}

/* `record_fd`: used up. */
static int start_sync(struct ledger *ledger, const struct book *book, int record_fd, struct sync *sync,
                      sync_fn done)
{
        _cleanup_close_ int fd = record_fd;
        int r = ledger->syncer ? 0 : syncer_new(&ledger->syncer, ledger->loop);

        if (r < 0)
                return r;

        /* The file, and its name in the directory. */
        int directory_fd = fcntl(book->directory_fd, F_DUPFD_CLOEXEC, 0);

        if (directory_fd < 0)
                return -errno;
        return sync_start(sync, ledger->syncer, (int[SYNC_FDS]){ TAKE_FD(fd), directory_fd }, done);
}

int ledger_sync(struct ledger *ledger, const struct lease *lease, struct sync *sync, sync_fn done)
{
        const struct book *book = book_of(ledger, lease);
        int fd = openat(book->directory_fd, record_name(lease).text, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

        return fd < 0 ? -errno : start_sync(ledger, book, fd, sync, done);
}

int ledger_erase(struct ledger *ledger, const struct lease *lease)
{
        const struct book *book = book_of(ledger, lease);

        if (unlinkat(book->directory_fd, record_name(lease).text, 0) < 0)
                return errno == ENOENT ? 0 : -errno;
        if (lease->is_persistent)
                (void)start_sync(ledger, book, -1, NULL, NULL);
        return 0;
}

/* ---- reading ---- */

static int read_record(int directory_fd, const char *name, char **ret_text, size_t *ret_length)
{
        _cleanup_close_ int fd = openat(directory_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        _cleanup_free_ char *text = NULL;
        size_t length = 0;
        struct stat st;
        ssize_t n;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode))
                return -ENXIO;
        if ((size_t)st.st_size > RECORD_MAX)
                return -EFBIG;
        text = malloc((size_t)st.st_size + 1);
        if (!text)
                return -ENOMEM;
        while (length < (size_t)st.st_size &&
               (n = read(fd, text + length, (size_t)st.st_size - length)) != 0) {
                if (n < 0)
                        return -errno;
                length += (size_t)n;
        }
        text[length] = '\0';
        *ret_text = TAKE_PTR(text);
        *ret_length = length;
        return 0;
}

static int truncate_record(const struct book *book, const char *name, off_t length)
{
        _cleanup_close_ int fd = openat(book->directory_fd, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);

        return fd < 0 || ftruncate(fd, length) < 0 ? -errno : 0;
}

static int restore_record(const struct ledger *ledger, const struct book *book, const char *name,
                          struct leases *leases, struct lease **ret_lease)
{
        _cleanup_(lease_freep) struct lease *lease = NULL;
        _cleanup_free_ char *text = NULL;
        size_t length = 0, understood = 0;
        int r;

        r = read_record(book->directory_fd, name, &text, &length);
        if (r == 0)
                r = text_read(text, name, ledger->boot, leases, &understood, &lease);
        /* A block that a crash cut short: nothing was done on the strength of it. */
        if (r == 0 && understood < length)
                r = truncate_record(book, name, (off_t)understood);
        if (r < 0)
                return r;
        lease->has_record = true;
        lease->kept_length = (off_t)understood;
        lease->is_persistent = book == &ledger->books[STATE];
        *ret_lease = TAKE_PTR(lease);
        return 0;
}

/* What the file is or says, as opposed to a fault of this moment, which has no text. */
static const char *foreign_text(int error)
{
        switch (error) {
        case -ELOOP:
        case -ENXIO:
                return "it is not a file";
        case -EFBIG:
                return "it is too large";
        case -EPROTO:
                return "another version of tetherd wrote it";
        case -EINVAL:
                return "it is not a whole record";
        default:
                return NULL;
        }
}

static void set_aside(const struct book *book, const char *name, const char *why, struct journal *journal)
{
        int error = renameat(book->directory_fd, name, book->aside_fd, name) < 0 ? errno : 0;

        log_message(journal, LOG_ERR, "ledger record %s/leases/%s cannot be understood: %s; %s%s", book->path,
                    name, why, error ? "it cannot be set aside: " : "set aside in set-aside",
                    error ? strerror(error) : "");
}

/* Fails only where the record is not to blame: it stays for the next start, nothing is lost. */
static int restore_one(const struct ledger *ledger, const struct book *book, const char *name,
                       struct leases *leases, struct journal *journal,
                       void (*found)(struct lease *lease, void *userdata), void *userdata)
{
        struct lease *lease = NULL;
        int r = restore_record(ledger, book, name, leases, &lease);

        if (foreign_text(r)) {
                set_aside(book, name, foreign_text(r), journal);
                return 0;
        }
        if (r == 0)
                found(lease, userdata);
        return r;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
        size_t a_length = strlen((*a)->d_name), b_length = strlen((*b)->d_name);

        /* Hexadecimal numbers without leading zeros: the shorter is the smaller. */
        return a_length != b_length ? (a_length < b_length ? -1 : 1) : strcmp((*a)->d_name, (*b)->d_name);
}

static int is_record(const struct dirent *entry)
{
        return entry->d_name[0] != '.';
}

struct names {
        struct dirent **entries;
        int n, i; /* how many, and how many of them were seen */
};

static int names_read(struct names *names, const struct book *book)
{
        int n = scandirat(book->directory_fd, ".", &names->entries, is_record, by_name);

        if (n < 0)
                return -errno;
        (void)unlinkat(book->directory_fd, UNFINISHED, 0);
        names->n = n;
        return 0;
}

static void names_deinit(struct names *names)
{
        while (names->n > 0)
                free(names->entries[--names->n]);
        free(names->entries);
}

/* Of both, the one whose next name is the smaller; NULL: there is none left. */
static struct names *names_next(struct names names[static 2])
{
        struct names *a = &names[0], *b = &names[1];

        if (a->i == a->n)
                return b->i == b->n ? NULL : b;
        if (b->i == b->n)
                return a;
        return by_name((const struct dirent **)&a->entries[a->i],
                       (const struct dirent **)&b->entries[b->i]) <= 0
                       ? a
                       : b;
}

int ledger_restore(struct ledger *ledger, struct leases *leases, struct journal *journal,
                   void (*found)(struct lease *lease, void *userdata), void *userdata)
{
        struct names names[2] = { 0 }, *next;
        int r = names_read(&names[STATE], &ledger->books[STATE]);

        if (r == 0 && !ledger->is_one)
                r = names_read(&names[RUNTIME], &ledger->books[RUNTIME]);
        while (r == 0 && (next = names_next(names)))
                r = restore_one(ledger, &ledger->books[next - names], next->entries[next->i++]->d_name,
                                leases, journal, found, userdata);
        names_deinit(&names[RUNTIME]);
        names_deinit(&names[STATE]);
        return r;
}

/*
 * Fuzzes resource/ledger, and what the resource types read back: the input is a record that an earlier run left.
 * It becomes a lease or is set aside. A lease is never released here, for that would run what the input says;
 * it is saved again, and what was saved is restored to a lease that is saved the same.
 */
#include "resource/ledger.h"
#include "resource/lease.h"
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NAME "1"

/* ---- what lease needs of others ---- */

struct config *config_ref(struct config *config)
{
        return config;
}

struct config *config_unref(struct config *config _unused_)
{
        return NULL;
}

void event_load_failed(struct journal *journal _unused_, const struct event_connection *connection _unused_,
                       const struct event_resource *resource _unused_)
{
        abort();
}

void event_release_failed(struct journal *journal _unused_,
                          const struct event_connection *connection _unused_,
                          const struct event_resource *resource _unused_, unsigned n_left _unused_)
{
        abort();
}

void event_quarantined(struct journal *journal _unused_, const struct event_connection *connection _unused_,
                       const struct event_resource *resource _unused_)
{
        abort();
}

void event_output(struct journal *journal _unused_, const struct event_connection *connection _unused_,
                  const char *resource _unused_, const char *phase _unused_, const char *line _unused_)
{
        abort();
}

bool event_is_wanted(const struct journal *journal _unused_, int priority _unused_, bool is_ending _unused_)
{
        return false;
}

void event_shared_output(struct journal *journal _unused_, const char *resource _unused_,
                         const char *line _unused_)
{
        abort();
}

void log_message(struct journal *journal _unused_, int priority _unused_, const char *format _unused_, ...)
{
}

/* ---- a scratch directory, with a ledger for the input and two for what is saved ---- */

static struct loop *loop; /* which never turns */
static char scratch[64];
static int scratch_fd;
static struct ledger *ledgers[3];

static int remove_one(const char *path, const struct stat *st _unused_, int flag _unused_,
                      struct FTW *ftw _unused_)
{
        return remove(path);
}

static void end(void)
{
        for (size_t i = 0; i < ARRAY_SIZE(ledgers); i++)
                (void)ledger_free(ledgers[i]);
        loop = loop_free(loop);
        (void)fd_close(scratch_fd);
        (void)nftw(scratch, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void begin(void)
{
        if (loop_new(&loop) < 0)
                abort();
        (void)strcpy(scratch, "/tmp/fuzz-ledger-XXXXXX");
        if (!mkdtemp(scratch) || (scratch_fd = open(scratch, O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
                abort();
        for (size_t i = 0; i < ARRAY_SIZE(ledgers); i++) {
                char path[80];

                (void)snprintf(path, sizeof(path), "%s/%zu", scratch, i);
                if (mkdir(path, 0700) < 0 || ledger_open(&ledgers[i], NULL, path, path) < 0)
                        abort();
        }
        (void)atexit(end);
}

static int open_record(size_t i, int flags)
{
        char path[80];

        (void)snprintf(path, sizeof(path), "%zu/leases/" NAME, i);
        return openat(scratch_fd, path, flags | O_CLOEXEC, 0600);
}

static void write_record(const uint8_t *data, size_t size)
{
        _cleanup_close_ int fd = open_record(0, O_WRONLY | O_CREAT | O_TRUNC);

        if (fd < 0 || (size > 0 && write(fd, data, size) != (ssize_t)size))
                abort();
}

/* NULL: there is none. */
static char *read_record(size_t i, size_t *ret_size)
{
        _cleanup_close_ int fd = open_record(i, O_RDONLY);
        struct stat st;
        char *text;

        if (fd < 0)
                return NULL;
        if (fstat(fd, &st) < 0 || !(text = malloc((size_t)st.st_size + 1)) ||
            read(fd, text, (size_t)st.st_size) != st.st_size)
                abort();
        *ret_size = (size_t)st.st_size;
        return text;
}

static void remove_record(size_t i, const char *subdirectory)
{
        char path[80];

        (void)snprintf(path, sizeof(path), "%zu/%s/" NAME, i, subdirectory);
        (void)unlinkat(scratch_fd, path, 0);
}

/* ---- restoring and saving ---- */

static struct lease *found;

static void keep(struct lease *lease, void *userdata _unused_)
{
        assert(!found);
        found = lease;
}

static void save_all(struct ledger *ledger, struct lease *lease)
{
        lease->has_record = false; /* in this ledger */
        for (size_t i = 0; i < lease->n_claims; i++)
                if (lease->claims[i].name) /* the crash came before the others' first block */
                        assert(ledger_save(ledger, &lease->claims[i]) == 0);
}

/* Restores from ledger `i` and saves to the next. Whether there was a lease. */
static bool pass_on(size_t i)
{
        struct leases leases;

        found = NULL;
        leases_init(&leases, loop, NULL, NULL);
        assert(ledger_restore(ledgers[i], &leases, NULL, keep, NULL) == 0);
        if (found) {
                assert(found->subject.id == 1 && found->is_recovered && leases.n_leases == 1);
                save_all(ledgers[i + 1], found);
                (void)lease_free(found);
        }
        assert(leases.n_leases == 0);
        leases_deinit(&leases);
        return found;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
        _cleanup_free_ char *once = NULL, *twice = NULL;
        size_t n_once = 0, n_twice = 0;

        if (!ledgers[0])
                begin();
        write_record(data, size);
        if (pass_on(0) && (once = read_record(1, &n_once))) {
                assert(pass_on(1) && (twice = read_record(2, &n_twice)));
                if (n_once != n_twice || memcmp(once, twice, n_once) != 0) {
                        (void)fprintf(stderr, "%.*sis saved again as\n%.*s", (int)n_once, once, (int)n_twice,
                                      twice);
                        abort();
                }
        }
        for (size_t i = 0; i < ARRAY_SIZE(ledgers); i++) {
                remove_record(i, "leases");
                remove_record(i, "set-aside");
        }
        return 0;
}

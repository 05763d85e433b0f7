/*
 * What resource/ledger promises: whenever the daemon dies, the next start finds every lease as of its last
 * complete block, releases what may be there, and puts aside what it cannot understand.
 */
#include "fake.h"

#include "resource/ledger.h"
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define RECORD_SIZE 8192
#define ID          UINT64_C(0x6421f0a3b7c01)

static char directory[64];
static const char *book = "leases"; /* where the records of this test are */
static struct loop *loop;
static struct ledger *ledger;
static struct leases leases;
static struct config config;

/* ---- a directory for each test ---- */

static const char *path_of(const char *subdirectory, const char *name)
{
        static char path[512];

        (void)snprintf(path, sizeof(path), "%s/%s/%s", directory, subdirectory, name);
        return path;
}

/* Its state directory is below the one that is its runtime directory. */
static void open_ledger(void)
{
        ck_assert_int_eq(ledger_open(&ledger, loop, directory, path_of("state", "")), 0);
        leases_init(&leases, loop, NULL, ledger);
        fake_log[0] = '\0';
}

static void begin(void)
{
        (void)strcpy(directory, "/tmp/test-ledger-XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(directory));
        ck_assert_int_eq(mkdir(path_of("state", ""), 0700), 0);
        ck_assert_int_eq(loop_new(&loop), 0);
        open_ledger();
        n_messages = 0;
}

static int remove_one(const char *path, const struct stat *st _unused_, int flag _unused_,
                      struct FTW *ftw _unused_)
{
        return remove(path);
}

static void finish(void)
{
        (void)leases_abandon(&leases);
        leases_deinit(&leases);
        ledger = ledger_free(ledger);
        ck_assert_ptr_null(ledger);
        loop = loop_free(loop);
        ck_assert_int_eq(nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS), 0);
        ck_assert_uint_eq(n_fakes, 0);
        ck_assert_uint_eq(n_existing, 0);
}

static size_t read_record(const char *name, char text[static RECORD_SIZE])
{
        FILE *file = fopen(path_of(book, name), "r");
        size_t length;

        text[0] = '\0';
        if (!file)
                return 0;
        length = fread(text, 1, RECORD_SIZE - 1, file);
        ck_assert_uint_lt(length, RECORD_SIZE - 1);
        text[length] = '\0';
        (void)fclose(file);
        return length;
}

static void write_record(const char *name, const char *text, size_t length)
{
        FILE *file = fopen(path_of(book, name), "w");

        ck_assert_ptr_nonnull(file);
        ck_assert_uint_eq(fwrite(text, 1, length, file), length);
        ck_assert_int_eq(fclose(file), 0);
}

static unsigned n_records(const char *subdirectory)
{
        DIR *dir = opendir(path_of(subdirectory, ""));
        unsigned n = 0;

        ck_assert_ptr_nonnull(dir);
        for (struct dirent *entry; (entry = readdir(dir));)
                n += entry->d_name[0] != '.';
        (void)closedir(dir);
        return n;
}

/* ---- leases ---- */

static struct lease *lease; /* the one that lives, or was found last */
static uint64_t found_ids[64];
static size_t n_found;

static void forget_it(struct lease *settled, void *userdata _unused_)
{
        if (fake_hook)
                fake_hook();
        (void)lease_free(settled);
        lease = NULL;
}

static unsigned n_loaded, n_load_failures;

static void is_loaded(struct lease *loaded _unused_, void *userdata _unused_)
{
        n_loaded++;
        if (fake_hook)
                fake_hook();
}

static void release_it(struct lease *failed)
{
        static const struct event_ending ending = { .cause = "orphaned" };

        lease_release(failed, &ending);
}

static void is_failed(struct lease *failed, enum lease_failure failure _unused_, void *userdata _unused_)
{
        n_load_failures++;
        if (fake_hook)
                fake_hook();
        release_it(failed);
}

static const struct lease_callbacks callbacks = { .loaded = is_loaded,
                                                  .failed = is_failed,
                                                  .settled = forget_it };

static void found(struct lease *one, void *userdata)
{
        ck_assert_str_eq(userdata, "mine");
        ck_assert(one->is_recovered);
        found_ids[n_found++] = one->subject.id;
        lease_set_callbacks(one, &callbacks, NULL);
        lease = one;
}

static size_t restore(void)
{
        char mine[] = "mine";

        n_found = 0;
        lease = NULL;
        ck_assert_int_eq(ledger_restore(ledger, &leases, NULL, found, mine), 0);
        return n_found;
}

/* The daemon dies, and starts again. */
static void crash(void)
{
        (void)leases_abandon(&leases);
        lease = NULL;
        leases_deinit(&leases);
        ledger = ledger_free(ledger);
        open_ledger();
}

static struct resource_config resources[3], *list[3];

/* One script a resource; the third one is of a type that is not recorded. */
static void new_lease(uint64_t id, char *const *scripts, size_t n)
{
        char listener[] = "presence", identity[] = "alice@example.org";
        struct lease_subject subject = {
                .id = id,
                .listener = listener,
                .identity = identity,
                .remote = { .family = AF_INET, .port = 51514, .ip = { 192, 0, 2, 7 } },
                .local = { .family = AF_INET6,
                           .port = 7400,
                           .ip = { [0] = 0x20, 0x01, 0x0d, 0xb8, [15] = 1 } },
                .peer_pid = 77,
                .peer_uid = (uid_t)-1,
        };

        for (size_t i = 0; i < n; i++)
                list[i] = fake_resource(&resources[i], (char)('a' + i),
                                        i == 2   ? RESOURCE_NONE
                                        : i == 1 ? RESOURCE_EXEC
                                                 : RESOURCE_DIRECTORY,
                                        scripts[i]);
        ck_assert_int_eq(lease_new(&lease, &leases, &config, list, n, &subject, &callbacks, NULL), 0);
}

static void make_persistent(size_t i)
{
        resources[i].persistent = true;
        lease->claims[i].is_persistent = lease->is_persistent = true;
}

/* The record is that of another boot. */
static void reboot(const char *name)
{
        static char text[RECORD_SIZE];
        size_t length = read_record(name, text);
        char *boot = strstr(text, "boot=");

        if (!boot)
                return;
        boot[strlen("boot=")] = 'x';
        write_record(name, text, length);
}

static void complete_all(void)
{
        while (!list_is_empty(&fake_pending) || !list_is_empty(&fake_syncs))
                if (!fake_disk(0))
                        fake_complete(container_of(fake_pending.next, struct fake, link), 'o');
}

/* Releases what was found, retries included. */
static void release_all(void)
{
        if (!lease)
                return;
        release_it(lease);
        for (unsigned i = 0; lease && i < 20; i++) {
                complete_all();
                if (lease)
                        wheel_run(loop_wheel(loop), wheel_next(loop_wheel(loop)));
        }
        ck_assert_ptr_null(lease);
}

/* ---- round trip ---- */

START_TEST(test_ledger_round_trip)
{
        static char *const scripts[] = { "o/o", "o/o", "o/o" };
        struct lease_subject subject;
        uint64_t born_usec;
        struct stat st;

        begin();
        new_lease(ID, scripts, 3);
        resources[1].release_attempts = 3;
        lease->claims[1].release_timeout_usec = 12345678;
        lease_load(lease);
        ck_assert_int_eq(stat(path_of("leases", "6421f0a3b7c01"), &st), 0);
        ck_assert_uint_eq(st.st_mode & 07777, 0600);
        ck_assert_int_eq(stat(path_of("leases", ""), &st), 0);
        ck_assert_uint_eq(st.st_mode & 07777, 0700);
        ck_assert_int_eq(stat(path_of("set-aside", ""), &st), 0);
        ck_assert_uint_eq(st.st_mode & 07777, 0700);
        subject = lease->subject;
        born_usec = lease->born_usec;
        crash();

        ck_assert_uint_eq(restore(), 1);
        ck_assert_uint_eq(lease->subject.id, ID);
        ck_assert_str_eq(lease->subject.listener, "presence");
        ck_assert_str_eq(lease->subject.identity, "alice@example.org");
        ck_assert_mem_eq(&lease->subject.remote, &subject.remote, sizeof(subject.remote));
        ck_assert_mem_eq(&lease->subject.local, &subject.local, sizeof(subject.local));
        ck_assert_int_eq(lease->subject.peer_pid, 77);
        ck_assert_uint_eq(lease->subject.peer_uid, (uid_t)-1);
        ck_assert_uint_eq(lease->born_usec, born_usec);
        ck_assert_uint_eq(lease->n_claims, 3);
        ck_assert_int_eq(lease->claims[0].state, CLAIM_LOADED);
        ck_assert_int_eq(lease->claims[1].state, CLAIM_LOADED);
        ck_assert_int_eq(lease->claims[2].state, CLAIM_EMPTY);
        ck_assert_str_eq(lease_value(lease, "b"), "b");
        ck_assert_ptr_null(lease_value(lease, "c"));
        ck_assert_ptr_nonnull(lease->claims[1].queue);
        ck_assert_uint_eq(lease->claims[1].release_attempts, 3);
        ck_assert_uint_eq(lease->claims[1].release_timeout_usec, 12345678);

        release_all();
        ck_assert_str_eq(fake_log, "-b -a ");
        ck_assert_uint_eq(n_records("leases"), 0);
        ck_assert_uint_eq(n_records("set-aside"), 0);
        ck_assert_uint_eq(restore(), 0);
        finish();
}
END_TEST

START_TEST(test_ledger_addresses)
{
        static const struct address addresses[] = {
                { .family = AF_UNIX },
                { .family = AF_UNSPEC },
                { .family = AF_INET, .port = 1, .ip = { 255, 255, 255, 255 } },
                { .family = AF_INET6, .port = 65535, .ip = { 0xfd, [15] = 9 } },
        };
        static char *const scripts[] = { "o/o" };

        for (size_t i = 0; i < ARRAY_SIZE(addresses); i++) {
                begin();
                new_lease(1 + i, scripts, 1);
                lease->subject.remote = addresses[i];
                lease_load(lease);
                crash();
                ck_assert_uint_eq(restore(), 1);
                ck_assert_mem_eq(&lease->subject.remote, &addresses[i], sizeof(addresses[i]));
                release_all();
                finish();
        }
}
END_TEST

/* What leaves nothing behind needs no record. */
START_TEST(test_ledger_not_recorded)
{
        static char *const scripts[] = { "s/o", "o/o", "o/o" };

        begin();
        new_lease(ID, scripts, 1);
        resources[0].kind = RESOURCE_NONE;
        lease->claims[0].type = resource_type_of(RESOURCE_NONE);
        lease_load(lease);
        ck_assert_ptr_null(lease);
        ck_assert_uint_eq(n_records("leases"), 0);

        new_lease(ID, scripts, 1);
        ck_assert_int_eq(ledger_erase(ledger, lease), 0); /* there is none */
        lease_load(lease);
        ck_assert_ptr_null(lease);
        ck_assert_uint_eq(n_records("leases"), 0); /* settled: erased */
        finish();
}
END_TEST

START_TEST(test_ledger_keeps_quarantined)
{
        static char *const scripts[] = { "o/o", "o/f" };

        begin();
        new_lease(ID, scripts, 2);
        resources[1].release_attempts = 1;
        lease->claims[1].release_attempts = 1;
        lease_load(lease);
        release_it(lease);
        ck_assert_ptr_null(lease);
        ck_assert_uint_eq(leases.n_quarantined, 1);
        ck_assert_uint_eq(n_records("leases"), 1);
        crash();
        ck_assert_uint_eq(restore(), 1);
        ck_assert_int_eq(lease->claims[0].state, CLAIM_EMPTY);
        ck_assert_int_eq(lease->claims[1].state, CLAIM_LOADED);
        ((struct fake *)lease->claims[1].data)->release = 'o';
        release_all();
        ck_assert_str_eq(fake_log, "-b ");
        ck_assert_uint_eq(n_records("leases"), 0);
        finish();
}
END_TEST

static uint64_t record_size(void)
{
        struct stat st;

        ck_assert_int_eq(stat(path_of("leases", "6421f0a3b7c01"), &st), 0);
        return (uint64_t)st.st_size;
}

static struct fake *fake_of(size_t i)
{
        return lease->claims[i].data;
}

/* Whatever comes due, so often. */
static void let_time_pass(unsigned n)
{
        while (n-- > 0)
                wheel_run(loop_wheel(loop), wheel_next(loop_wheel(loop)));
}

/* However often something is tried in vain, its record grows once; and what counts in it is not lost. */
START_TEST(test_ledger_does_not_grow)
{
        static char *const scripts[] = { "o/o", "D/D" };
        uint64_t size;

        begin();
        new_lease(ID, scripts, 2);
        lease_load(lease);
        size = record_size();
        let_time_pass(100);
        ck_assert_int_eq(lease->claims[1].state, CLAIM_LOAD_QUEUED);
        ck_assert_uint_eq(record_size(), size);
        crash();
        ck_assert_uint_eq(restore(), 1);
        ck_assert_int_eq(lease->claims[0].state, CLAIM_LOADED);
        ck_assert_int_eq(lease->claims[1].state, CLAIM_EMPTY); /* it was not begun */
        release_all();

        new_lease(ID, scripts, 2);
        lease_load(lease);
        let_time_pass(1);
        fake_of(1)->load = 'o';
        let_time_pass(1);
        ck_assert_int_eq(lease->claims[1].state, CLAIM_LOADED);
        release_it(lease);
        size = record_size();
        let_time_pass(100);
        ck_assert_int_eq(lease->claims[1].state, CLAIM_RELEASE_QUEUED);
        ck_assert_uint_eq(record_size(), size);

        /* It fails from now on, and is tried again by a signal, and by the runs that follow. */
        fake_of(1)->release = 'F';
        let_time_pass(3);
        ck_assert_ptr_null(lease);
        ck_assert_uint_eq(leases.n_quarantined, 1);
        leases_retry(&leases);
        let_time_pass(2);
        size = record_size();
        for (unsigned i = 0; i < 5; i++) {
                leases_retry(&leases);
                let_time_pass(2);
                ck_assert_uint_eq(leases.n_quarantined, 1);
                ck_assert_uint_eq(record_size(), size);
                crash();
                ck_assert_uint_eq(restore(), 1);
                ck_assert_int_eq(lease->claims[0].state, CLAIM_EMPTY);
                ck_assert_int_eq(lease->claims[1].state, CLAIM_LOADED);
                release_it(lease);
                let_time_pass(2);
        }

        /* What a type has to know in the next run stays. */
        leases_retry(&leases);
        lease = container_of(leases.all.next, struct lease, link);
        ck_assert_int_eq(claim_save(&lease->claims[1]), 0);
        ck_assert_uint_gt(record_size(), size);
        size = record_size();
        let_time_pass(2);
        ck_assert_uint_ge(record_size(), size);
        finish();
}
END_TEST

START_TEST(test_ledger_order)
{
        static const uint64_t ids[] = { 0xff, 0x9, 0x100, 0x10, 0xfff, 0x1, UINT64_MAX >> 1, 0xa };
        static char *const scripts[] = { "o/o" };

        begin();
        for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
                new_lease(ids[i], scripts, 1);
                lease_load(lease);
        }
        crash();
        ck_assert_uint_eq(restore(), ARRAY_SIZE(ids));
        for (size_t i = 1; i < ARRAY_SIZE(ids); i++)
                ck_assert_uint_lt(found_ids[i - 1], found_ids[i]);
        finish();
}
END_TEST

/* ---- torn tails ---- */

/* The naive reading of a record: the state of each claim in its last complete block. */
static bool naive_states(const char *text, size_t length, char states[static 3][16])
{
        char block_state[16] = "";
        unsigned n_blocks = 0, claim = 0;

        memset(states, 0, 3 * 16);
        for (size_t start = 0, end; start < length; start = end + 1) {
                const char *newline = memchr(text + start, '\n', length - start);

                if (!newline)
                        break;
                end = (size_t)(newline - text);
                (void)sscanf(text + start, "claim=%u", &claim);
                (void)sscanf(text + start, "state=%15[a-z]", block_state);
                if (end == start + 1 && text[start] == '.' && n_blocks++ > 0)
                        (void)strcpy(states[claim], block_state);
        }
        return n_blocks > 0;
}

static void check_states(char states[static 3][16])
{
        for (size_t i = 0; i < lease->n_claims; i++) {
                bool is_held = states[i][0] && !streq(states[i], "empty");

                ck_assert_int_eq(lease->claims[i].state, is_held ? CLAIM_LOADED : CLAIM_EMPTY);
                ck_assert_int_eq(lease->claims[i].name != NULL, states[i][0] != '\0');
        }
}

START_TEST(test_ledger_torn_at_every_byte)
{
        static char *const scripts[] = { "o/l", "o/o", "o/o" };
        static char text[RECORD_SIZE];
        unsigned n_leases_found = 0, n_aside = 0;
        size_t length;

        begin();
        new_lease(ID, scripts, 3);
        lease_load(lease);
        release_it(lease); /* up to the first one, which takes its time */
        length = read_record("6421f0a3b7c01", text);
        ck_assert_ptr_nonnull(strstr(text, "state=loading"));
        ck_assert_ptr_nonnull(strstr(text, "state=loaded"));
        ck_assert_ptr_nonnull(strstr(text, "state=empty"));
        finish();

        for (size_t torn = 0; torn <= length; torn++) {
                char states[3][16];
                bool is_whole = naive_states(text, torn, states);

                begin();
                write_record("6421f0a3b7c01", text, torn);
                ck_assert_uint_eq(restore(), is_whole);
                if (!is_whole) {
                        ck_assert_uint_eq(n_records("leases"), 0);
                        ck_assert_uint_eq(n_records("set-aside"), 1);
                        ck_assert_uint_eq(n_messages, 1);
                        n_aside++;
                        finish();
                        continue;
                }
                n_leases_found++;
                check_states(states);
                /* What is written now is not taken for the end of what was torn. */
                if (lease->claims[0].name) {
                        ck_assert_int_eq(ledger_save(ledger, &lease->claims[0]), 0);
                        crash();
                        ck_assert_uint_eq(restore(), 1);
                        check_states(states);
                }
                release_all();
                ck_assert_uint_eq(n_records("leases"), 0);
                ck_assert_uint_eq(n_records("set-aside"), 0);
                finish();
        }
        ck_assert_uint_gt(n_leases_found, 300);
        ck_assert_uint_gt(n_aside, 50);
}
END_TEST

/* ---- a crash between any two writes ---- */

enum { N_MOMENTS = 64 };

static struct moment {
        char record[RECORD_SIZE];
        size_t length;
        bool may_exist[3], is_under_way[3];
} moments[N_MOMENTS];
static size_t n_moments;

static void remember(void)
{
        struct moment *moment = &moments[n_moments++];

        ck_assert_uint_le(n_moments, N_MOMENTS);
        *moment = (struct moment){ 0 };
        moment->length = read_record("6421f0a3b7c01", moment->record);
        for (size_t i = 0; i < lease->n_claims; i++) {
                const struct fake *fake = lease->claims[i].data;

                moment->may_exist[i] = fake && fake->may_exist && lease->claims[i].type->is_recorded;
                moment->is_under_way[i] = fake && (fake->is_loading || fake->is_releasing);
        }
}

static void check_moment(const struct moment *moment, bool is_rebooted)
{
        bool is_held[3] = { false };

        begin();
        if (moment->length > 0)
                write_record("6421f0a3b7c01", moment->record, moment->length);
        if (is_rebooted)
                reboot("6421f0a3b7c01");
        (void)restore();
        for (size_t i = 0; lease && i < lease->n_claims; i++)
                is_held[i] = lease->claims[i].state == CLAIM_LOADED;
        for (size_t i = 0; i < 3; i++) {
                if (moment->may_exist[i])
                        ck_assert_msg(is_held[i], "claim %zu would be lost", i);
                if (is_held[i])
                        ck_assert_msg(moment->may_exist[i] || moment->is_under_way[i],
                                      "claim %zu is not there", i);
        }
        release_all();
        ck_assert_uint_eq(n_records(book), 0);
        ck_assert_uint_eq(n_records("set-aside"), 0);
        finish();
}

static void complete_life(void)
{
        for (unsigned i = 0; lease && i < 20; i++) {
                complete_all();
                if (lease)
                        wheel_run(loop_wheel(loop), wheel_next(loop_wheel(loop)));
        }
        ck_assert_ptr_null(lease);
}

START_TEST(test_ledger_crash_at_every_moment)
{
        static char *const rows[][3] = {
                { "o/o", "o/o", "o/o" }, { "l/l", "l/l", "l/l" }, { "o/o", "f/o", "o/o" },
                { "o/1", "o/1", "s/o" }, { "o/o", "s/o", "o/o" }, { "o/o", "v/l", "o/o" },
                { "i/o", "o/o", "o/o" }, { "o/1", "i/o", "o/o" }, { "f/1", "o/o", "o/o" },
        };
        size_t n_all = 0;

        for (size_t i = 0; i < ARRAY_SIZE(rows) * 4; i++) {
                bool is_cut = i & 1; /* it ends while the first late one loads, or waits for the disk */
                bool is_persistent = i & 2;

                begin();
                book = is_persistent ? "state/leases" : "leases";
                n_moments = 0;
                fake_hook = remember;
                new_lease(ID, rows[i / 4], 3);
                for (size_t k = 0; is_persistent && k < 2; k++)
                        make_persistent(k);
                remember();
                lease_load(lease);
                if (!is_cut)
                        complete_all();
                if (lease && !lease->is_releasing)
                        release_it(lease);
                complete_life();
                fake_hook = NULL;
                finish();
                for (size_t k = 0; k < n_moments; k++)
                        for (int is_rebooted = 0; is_rebooted <= is_persistent; is_rebooted++)
                                check_moment(&moments[k], is_rebooted);
                n_all += n_moments;
        }
        ck_assert_uint_gt(n_all, 160);
}
END_TEST

/* ---- connections that lived on ---- */

START_TEST(test_ledger_take_up)
{
        /* The last run dies when the lease has done everything that does not end late. */
        static const struct {
                char *scripts[3];
                size_t n;
                bool is_released;
                bool is_loaded;
        } rows[] = {
                { { "o/o", "o/o", "o/o" }, 3, false, true }, /* the third one is not recorded */
                { { "o/o", "o/o" }, 2, false, true },        { { "o/o", "l/o" }, 2, false, false },
                { { "l/o", "o/o" }, 2, false, false }, /* the second one was not begun */
                { { "o/o", "o/l" }, 2, true, false },        { { "o/l", "o/o" }, 2, true, false },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                begin();
                new_lease(ID, rows[i].scripts, rows[i].n);
                lease_load(lease);
                if (rows[i].is_released) {
                        release_it(lease);
                        for (size_t k = 0; k < rows[i].n; k++) /* as exec does it */
                                if (lease->claims[k].state == CLAIM_RELEASING)
                                        ck_assert_int_eq(ledger_save(ledger, &lease->claims[k]), 0);
                }
                crash();
                ck_assert_uint_eq(restore(), 1);
                ck_assert_msg(lease_is_loaded(lease) == rows[i].is_loaded, "row %zu", i);
                if (lease_is_loaded(lease)) {
                        n_fake_take_ups = 0;
                        lease_take_up(lease);
                        ck_assert_uint_eq(n_fake_take_ups, 2); /* each that is recorded */
                        ck_assert(!lease->is_recovered);
                        ck_assert_str_eq(lease_value(lease, "a"), "a");
                        ck_assert(lease_outlives_us(lease) && lease_tells_subject(lease));
                        crash(); /* once more: the record is as good as before */
                        ck_assert_uint_eq(restore(), 1);
                        ck_assert(lease->is_recovered);
                        lease_take_up(lease);
                        release_it(lease);
                        ck_assert_ptr_null(lease);
                        ck_assert_str_eq(fake_log, "-b -a ");
                }
                release_all();
                ck_assert_uint_eq(n_records("leases"), 0);
                finish();
        }
}
END_TEST

/* ---- what outlives a reboot ---- */

START_TEST(test_ledger_persistent_waits_for_the_disk)
{
        static char *const scripts[] = { "o/o", "o/o" };

        begin();
        new_lease(ID, scripts, 2);
        make_persistent(1);
        lease_load(lease);
        ck_assert_str_eq(fake_log, "+a ");
        ck_assert_int_eq(lease->claims[1].state, CLAIM_INTENDED);
        ck_assert_uint_eq(n_records("leases"), 0);
        ck_assert_uint_eq(n_records("state/leases"), 1); /* the whole lease */
        n_loaded = 0;
        ck_assert(fake_disk(0));
        ck_assert_str_eq(fake_log, "+a +b ");
        ck_assert_int_eq(lease->claims[1].state, CLAIM_LOADED);
        ck_assert_uint_eq(n_loaded, 0);
        ck_assert(fake_disk(0));
        ck_assert_uint_eq(n_loaded, 1);
        ck_assert(!fake_disk(0));
        ck_assert_uint_eq(lease->claims[1].timer.deadline_usec, USEC_INFINITY);
        n_fake_erasures = 0;
        release_it(lease);
        ck_assert_ptr_null(lease);
        ck_assert_uint_eq(n_records("state/leases"), 0);
        ck_assert_uint_eq(n_fake_erasures, 1);
        finish();
}
END_TEST

/* However the wait for the disk ends: what was not begun is not released, what was is. */
START_TEST(test_ledger_persistent_ends)
{
        static const struct {
                unsigned n_done; /* by the disk, before it happens */
                const char *log;
        } rows[] = { { 0, "" }, { 1, "+a -a " } };
        enum { CONNECTION_ENDS, DISK_FAILS, TIME_IS_OVER, N_WAYS };
        static char *const scripts[] = { "o/o", "o/o" };

        for (size_t i = 0; i < ARRAY_SIZE(rows) * N_WAYS; i++) {
                unsigned n_done = rows[i / N_WAYS].n_done;

                begin();
                new_lease(ID, scripts, 2);
                make_persistent(0);
                lease_load(lease);
                for (unsigned k = 0; k < n_done; k++)
                        ck_assert(fake_disk(0));
                n_load_failures = n_loaded = 0;
                switch (i % N_WAYS) {
                case CONNECTION_ENDS:
                        release_it(lease);
                        break;
                case DISK_FAILS:
                        ck_assert(fake_disk(-EIO));
                        break;
                default:
                        ck_assert_uint_eq(lease->claims[0].timer.deadline_usec,
                                          loop_now(loop) + 30 * USEC_PER_SEC);
                        wheel_run(loop_wheel(loop), wheel_next(loop_wheel(loop)));
                        ck_assert_ptr_nonnull(strstr(last_reason, "not on disk within load_timeout"));
                }
                ck_assert_msg(streq(fake_log, rows[i / N_WAYS].log), "%zu: %s", i, fake_log);
                ck_assert_uint_eq(n_load_failures, i % N_WAYS != CONNECTION_ENDS);
                ck_assert_uint_eq(n_loaded, 0);
                ck_assert_ptr_null(lease);
                ck_assert(!fake_disk(0));
                ck_assert_uint_eq(n_records("state/leases"), 0);
                finish();
        }
}
END_TEST

/* Its turn in the queue is passed on, also when it is dropped while it waits for the disk. */
START_TEST(test_ledger_persistent_in_a_queue)
{
        static char *const scripts[] = { "o/o", "o/o" };
        struct lease *first;

        begin();
        new_lease(ID, scripts, 2);
        resources[1].max_concurrent = 1;
        lease->claims[1].queue->n_max = 1;
        make_persistent(1);
        lease_load(lease);
        first = lease;
        new_lease(ID + 1, scripts, 2);
        lease->claims[1].queue->n_max = 1;
        make_persistent(1);
        lease_load(lease);
        ck_assert_int_eq(lease->claims[1].state, CLAIM_LOAD_QUEUED);
        release_it(first);
        new_lease(ID + 2, scripts, 1);
        (void)lease_free(lease); /* the test's variables follow the last one */
        ck_assert_uint_eq(leases.n_leases, 1);
        lease = container_of(leases.all.next, struct lease, link);
        ck_assert_int_eq(lease->claims[1].state, CLAIM_INTENDED);
        ck_assert_uint_eq(lease->claims[1].queue->n_under_way, 1);
        complete_all();
        release_all();
        finish();
}
END_TEST

/* Both have their turn and wait for the disk when the first finds that no process can be started. */
START_TEST(test_ledger_persistent_is_starved)
{
        static char *const scripts[] = { "o/o", "d/o" };
        struct lease *first;

        begin();
        for (uint64_t i = 0; i < 2; i++) {
                first = lease;
                new_lease(ID + i, scripts, 2);
                lease->claims[1].queue->n_max = 2;
                make_persistent(1);
                lease_load(lease);
                ck_assert_int_eq(lease->claims[1].state, CLAIM_INTENDED);
        }
        ck_assert(fake_disk(0) && fake_disk(0));
        ck_assert_int_eq(first->claims[1].state, CLAIM_LOAD_QUEUED);
        ck_assert_int_eq(lease->claims[1].state, CLAIM_LOAD_QUEUED);
        ck_assert_int_eq(starvation_error(&leases.starvation), EAGAIN);
        wheel_run(loop_wheel(loop), wheel_next(loop_wheel(loop)));
        ck_assert_int_eq(starvation_error(&leases.starvation), 0);
        n_loaded = 0;
        complete_all();
        ck_assert_uint_eq(n_loaded, 2);
        release_it(first);
        lease = container_of(leases.all.next, struct lease, link); /* the one that is left */
        release_all();
        finish();
}
END_TEST

START_TEST(test_ledger_without_syncing)
{
        static char *const scripts[] = { "o/o" };

        begin();
        fake_syncer_error = -ENOSYS;
        new_lease(ID, scripts, 1);
        make_persistent(0);
        lease_load(lease);
        ck_assert_ptr_null(lease);
        ck_assert_str_eq(fake_log, "");
        ck_assert_str_eq(last_reason, "the ledger cannot be written");
        ck_assert_uint_eq(n_records("state/leases"), 0);
        finish();
        fake_syncer_error = 0;
}
END_TEST

START_TEST(test_ledger_reboot)
{
        static char *const scripts[] = { "o/o", "o/o" };

        for (size_t persistent = 0; persistent < 3; persistent++) { /* a, b, none */
                begin();
                book = persistent < 2 ? "state/leases" : "leases";
                new_lease(ID, scripts, 2);
                if (persistent < 2)
                        make_persistent(persistent);
                lease_load(lease);
                complete_all();
                crash();
                reboot("6421f0a3b7c01");
                ck_assert_uint_eq(restore(), 1);
                ck_assert(lease->is_rebooted && lease->is_recovered);
                ck_assert(!lease_is_loaded(lease));
                ck_assert_uint_eq(lease->born_usec, USEC_INFINITY);
                release_all();
                ck_assert_str_eq(fake_log, persistent == 0 ? "-a " : persistent == 1 ? "-b " : "");
                ck_assert_uint_eq(n_records(book), 0);
                finish();
        }
}
END_TEST

/* A power cut may leave zeros where the end of a file was not synced. */
START_TEST(test_ledger_zeros_at_the_end)
{
        static char *const scripts[] = { "o/o" };
        static char text[RECORD_SIZE];
        size_t length;

        begin();
        book = "state/leases";
        new_lease(ID, scripts, 1);
        make_persistent(0);
        lease_load(lease);
        complete_all();
        crash();
        length = read_record("6421f0a3b7c01", text);
        for (size_t n = 1; n < 5000; n = n * 3 + 1) {
                memset(text + length, 0, n);
                memcpy(text + length + n, "state=empty\n.\n", 14); /* a page that came to the disk */
                write_record("6421f0a3b7c01", text, length + n + 14);
                ck_assert_uint_eq(restore(), 1);
                ck_assert_int_eq(lease->claims[0].state, CLAIM_LOADED);
                ck_assert_uint_eq(read_record("6421f0a3b7c01", text), length);
                crash();
        }
        ck_assert_uint_eq(n_messages, 0);
        ck_assert_uint_eq(restore(), 1);
        release_all();
        finish();
}
END_TEST

START_TEST(test_ledger_two_directories)
{
        static const uint64_t ids[] = { 0xff, 0x9, 0x100, 0x10, 0xfff, 0x1, 0xa };
        static char *const scripts[] = { "o/o" };

        begin();
        for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
                new_lease(ids[i], scripts, 1);
                if (i % 2)
                        make_persistent(0);
                lease_load(lease);
                complete_all();
        }
        ck_assert_uint_eq(n_records("leases"), 4);
        ck_assert_uint_eq(n_records("state/leases"), 3);
        book = "state/leases";
        write_record("b", "what is this?", 13);
        crash();
        ck_assert_uint_eq(restore(), ARRAY_SIZE(ids));
        for (size_t i = 1; i < ARRAY_SIZE(ids); i++)
                ck_assert_uint_lt(found_ids[i - 1], found_ids[i]);
        ck_assert_uint_eq(n_records("state/set-aside"), 1);
        ck_assert_uint_eq(n_messages, 1);
        finish();
}
END_TEST

START_TEST(test_ledger_one_directory)
{
        static char *const scripts[] = { "o/o" };

        begin();
        ledger = ledger_free(ledger);
        ck_assert_int_eq(ledger_open(&ledger, loop, directory, directory), 0);
        leases.ledger = ledger;
        new_lease(1, scripts, 1);
        lease_load(lease);
        new_lease(2, scripts, 1);
        make_persistent(0);
        lease_load(lease);
        complete_all();
        ck_assert_uint_eq(n_records("leases"), 2);
        (void)leases_abandon(&leases);
        ck_assert_uint_eq(restore(), 2); /* each once */
        finish();
}
END_TEST

/* ---- what is not ours ---- */

#define HEAD "tetherd-ledger 1\n"
#define OLD  "boot=another\nn_recorded=0\n"
#define SUBJECT \
        "connection=a\nlistener=x\nidentity=\nremote=unix\nlocal=unix\npeer_pid=0\npeer_uid=0\nborn=1\n" OLD
#define CLAIM                                                                                            \
        "claim=0\nname=a\ntype=fake-directory\nstate=loaded\npersistent=1\nrelease_attempts=3\nrelease_" \
        "timeout=5\n"
#define DATA "release=o\\x0aback\\x5cslash\\x7f\n"

START_TEST(test_ledger_foreign_records)
{
        static const struct {
                const char *text;
                bool is_good;
        } rows[] = {
                { HEAD SUBJECT "n_claims=1\n.\n" CLAIM DATA ".\n", true },
                { HEAD SUBJECT "n_claims=1\n.\n", true },
                { HEAD SUBJECT "n_claims=0\n.\n", true },
                { HEAD SUBJECT "n_claims=1\n.\n" CLAIM DATA ".\n" CLAIM "torn", true },
                { "", false },
                { "\n", false },
                { "garbage", false },
                { HEAD, false },
                { "tetherd-ledger 2\n" SUBJECT "n_claims=1\n.\n", false },
                { "tetherd-ledger 10\n" SUBJECT "n_claims=1\n.\n", false },
                { HEAD SUBJECT ".\n", false }, /* how many claims? */
                { HEAD SUBJECT "n_claims=1000000000\n.\n", false },
                { HEAD SUBJECT "n_claims=-1\n.\n", false },
                { HEAD SUBJECT "n_claims=1x\n.\n", false },
                { HEAD ".\n", false },
                { HEAD "connection=b\nlistener=x\nidentity=\npeer_pid=0\npeer_uid=0\nborn=1\n" OLD
                       "n_claims=0\n.\n",
                  false },
                { HEAD "listener=x\nidentity=\npeer_pid=0\npeer_uid=0\nborn=1\n" OLD "n_claims=0\n.\n",
                  false },
                { HEAD "connection=a\nidentity=\npeer_pid=0\npeer_uid=0\nborn=1\n" OLD "n_claims=0\n.\n",
                  false },
                { HEAD "connection=a\nlistener=x\npeer_pid=0\npeer_uid=0\nborn=1\n" OLD "n_claims=0\n.\n",
                  false },
                { HEAD "connection=a\nlistener=x\nidentity=\npeer_pid=0\npeer_uid=0\nborn=1\nn_recorded=0\n"
                       "n_claims=0\n.\n",
                  false },
                { HEAD "connection=a\nlistener=x\nidentity=\npeer_pid=0\npeer_uid=0\nborn=1\nboot=b\n"
                       "n_claims=0\n.\n",
                  false },
                { HEAD "connection=a\nlistener=x\nidentity=\npeer_pid=0\npeer_uid=0\nborn=1\nboot=b\n"
                       "n_claims=1\nn_recorded=2\n.\n",
                  false },
                { HEAD SUBJECT "n_claims=1\nno equals sign\n.\n", false },
                { HEAD SUBJECT "n_claims=1\n.\n" CLAIM ".\n", false }, /* the type's own part is missing */
                { HEAD SUBJECT "n_claims=0\n.\n" CLAIM DATA ".\n", false }, /* out of range */
                { HEAD SUBJECT "n_claims=1\n.\n.\n", false },               /* an empty block */
                { HEAD SUBJECT "n_claims=1\n.\nclaim=0\nname=a\ntype=unknown\nstate=loaded\npersistent="
                               "1\nrelease_attempts=3\n"
                               "release_timeout=5\n" DATA ".\n",
                  false },
                { HEAD SUBJECT
                  "n_claims=1\n.\nclaim=0\nname=a\ntype=fake-directory\nstate=loaded\npersistent=1\n"
                  "release_attempts=0\nrelease_timeout=5\n" DATA ".\n",
                  false },
                { HEAD SUBJECT
                  "n_claims=1\n.\nclaim=0\nname=a\ntype=fake-directory\nstate=loaded\npersistent=1\n"
                  "release_attempts=99999999999\nrelease_timeout=5\n" DATA ".\n",
                  false },
                { HEAD SUBJECT
                  "n_claims=1\n.\nclaim=0\nname=a\nstate=loaded\npersistent=1\nrelease_attempts=1\n"
                  "release_timeout=5\n" DATA ".\n",
                  false },
                { HEAD SUBJECT "n_claims=1\n.\nname=a\ntype=fake-directory\nstate=loaded\npersistent="
                               "1\nrelease_attempts=1\n"
                               "release_timeout=5\n" DATA ".\n",
                  false },
                { HEAD SUBJECT
                  "n_claims=1\n.\nclaim=0\nname=a\ntype=fake-directory\nstate=loaded\npersistent=1\n"
                  "release_attempts=1\n" DATA ".\n",
                  false },
                { HEAD SUBJECT
                  "n_claims=1\n.\nclaim=0\nname=a\ntype=fake-directory\nstate=loaded\npersistent=2\n"
                  "release_attempts=1\nrelease_timeout=5\n" DATA ".\n",
                  false },
                { HEAD SUBJECT "n_claims=1\n.\nclaim=0\nname=a\ntype=fake-directory\nstate=loaded\n"
                               "release_attempts=1\nrelease_timeout=5\n" DATA ".\n",
                  false },
                { HEAD SUBJECT
                  "n_claims=1\n.\nclaim=0\nname=a\ntype=fake-directory\nstate=lost\npersistent=1\n"
                  "release_attempts=1\nrelease_timeout=5\n" DATA ".\n",
                  false },
                { HEAD SUBJECT "n_claims=1\n.\n" CLAIM "x=\\x\n" DATA ".\n", false }, /* bad escapes */
                { HEAD SUBJECT "n_claims=1\n.\n" CLAIM "x=\\x0\n" DATA ".\n", false },
                { HEAD SUBJECT "n_claims=1\n.\n" CLAIM "x=\\x00\n" DATA ".\n", false },
                { HEAD SUBJECT "n_claims=1\n.\n" CLAIM "x=\\n\n" DATA ".\n", false },
                { HEAD SUBJECT "n_claims=1\n.\n" CLAIM "x=\\xzz\n" DATA ".\n", false },
                { HEAD SUBJECT "n_claims=1\n.\n" CLAIM "x=\\", true }, /* torn in there */
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                begin();
                write_record("a", rows[i].text, strlen(rows[i].text));
                write_record("b0", HEAD, strlen(HEAD)); /* a bad one does not hide the next */
                ck_assert_msg(restore() == rows[i].is_good, "row %zu", i);
                ck_assert_uint_eq(n_messages, 1 + !rows[i].is_good);
                ck_assert_uint_eq(n_records("set-aside"), 1 + !rows[i].is_good);
                release_all();
                ck_assert_uint_eq(n_records("leases"), 0);
                finish();
        }
}
END_TEST

START_TEST(test_ledger_foreign_files)
{
        static const char nul[] = HEAD "connection=a\0listener=x\n.\n";
        static char *const scripts[] = { "o/o" };

        begin();
        new_lease(ID, scripts, 1);
        lease_load(lease);
        crash();
        ck_assert_int_eq(mkdir(path_of("leases", "1"), 0700), 0);
        ck_assert_int_eq(symlink("6421f0a3b7c01", path_of("leases", "2")), 0);
        ck_assert_int_eq(mkfifo(path_of("leases", "3"), 0600), 0); /* which nobody waits for */
        write_record("4", nul, sizeof(nul));
        write_record("5", "", 0);
        ck_assert_int_eq(truncate(path_of("leases", "5"), 5 * 1024 * 1024), 0);
        write_record("README", "hello", 5);
        write_record(".hidden", "hello", 5);

        ck_assert_uint_eq(restore(), 1);
        ck_assert_uint_eq(lease->subject.id, ID);
        ck_assert_uint_eq(n_records("leases"), 1);
        ck_assert_uint_eq(n_records("set-aside"), 6);
        ck_assert_uint_eq(n_messages, 6);
        ck_assert_int_eq(access(path_of("leases", ".hidden"), F_OK), 0);
        release_all();
        finish();
}
END_TEST

/* ---- a disk that does not do its part ---- */

START_TEST(test_ledger_open_errors)
{
        struct ledger *other = NULL;

        begin();
        ck_assert_int_eq(ledger_open(&other, loop, path_of("not", "there"), directory), -ENOENT);
        ck_assert_int_eq(ledger_open(&other, loop, directory, path_of("not", "there")), -ENOENT);
        ck_assert_int_eq(rmdir(path_of("set-aside", "")), 0);
        ck_assert_int_eq(symlink("/tmp", path_of(".", "set-aside")), 0);
        ck_assert_int_eq(ledger_open(&other, loop, directory, directory), -ENOTDIR);
        ck_assert_int_eq(rmdir(path_of("leases", "")), 0);
        ck_assert_int_eq(close(open(path_of(".", "leases"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600)), 0);
        ck_assert_int_eq(ledger_open(&other, loop, directory, directory), -ENOTDIR);
        ck_assert_ptr_null(other);
        ck_assert_ptr_null(ledger_free(NULL));
        finish();
}
END_TEST

/* Without the intent in the ledger nothing is done. */
START_TEST(test_ledger_cannot_be_written)
{
        static char *const scripts[] = { "o/o", "o/o" };

        begin();
        ck_assert_int_eq(rmdir(path_of("leases", "")), 0);
        new_lease(ID, scripts, 2);
        lease_load(lease);
        ck_assert_ptr_null(lease); /* failed and settled */
        ck_assert_str_eq(fake_log, "");
        ck_assert_str_eq(last_reason, "the ledger cannot be written");
        ck_assert_uint_ge(n_messages, 1);
        finish();
}
END_TEST

/* The disk is full in the middle of a block, at every byte of it. */
START_TEST(test_ledger_disk_full)
{
        static char *const scripts[] = { "o/o", "o/o" };
        static char before[RECORD_SIZE], after[RECORD_SIZE];
        struct rlimit limit, less;
        size_t room = 0;
        int r = -1;

        (void)signal(SIGXFSZ, SIG_IGN);
        ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
        less = limit;
        for (; r < 0; room++) {
                size_t length;

                begin();
                new_lease(ID, scripts, 2);
                lease_load(lease);
                length = read_record("6421f0a3b7c01", before);
                less.rlim_cur = length + room;
                ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &less), 0);

                r = ledger_save(ledger, &lease->claims[0]);
                ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
                if (r < 0) {
                        ck_assert_int_eq(r, room == 0 ? -EFBIG : -ENOSPC);
                        ck_assert_uint_eq(read_record("6421f0a3b7c01", after), length);
                        ck_assert_str_eq(after, before);
                }
                crash();
                ck_assert_uint_eq(restore(), 1);
                release_all();
                finish();
        }
        ck_assert_int_eq(r, 0); /* at last there was room for all of it */
        ck_assert_uint_gt(room, 100);
}
END_TEST

UNIT_MAIN("ledger", test_ledger_round_trip, test_ledger_addresses, test_ledger_not_recorded,
          test_ledger_keeps_quarantined, test_ledger_does_not_grow, test_ledger_order,
          test_ledger_torn_at_every_byte, test_ledger_crash_at_every_moment, test_ledger_take_up,
          test_ledger_persistent_waits_for_the_disk, test_ledger_persistent_ends,
          test_ledger_persistent_in_a_queue, test_ledger_persistent_is_starved, test_ledger_without_syncing,
          test_ledger_reboot, test_ledger_zeros_at_the_end, test_ledger_two_directories,
          test_ledger_one_directory, test_ledger_foreign_records, test_ledger_foreign_files,
          test_ledger_open_errors, test_ledger_cannot_be_written, test_ledger_disk_full)

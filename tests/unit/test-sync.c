/*
 * What loop/sync promises: each sync ends with one call, from the loop, however many there are and whatever
 * becomes of those who wait.
 */
#include "unit.h"

#include "loop/sync.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

static struct loop *loop;
static struct syncer *syncer;
static unsigned n_done;
static int last_error;

static void begin(void)
{
        ck_assert_int_eq(loop_new(&loop), 0);
        ck_assert_int_eq(syncer_new(&syncer, loop), 0);
        n_done = 0;
        last_error = 1;
}

static void finish(void)
{
        ck_assert_ptr_null(syncer_free(syncer));
        loop = loop_free(loop);
}

static int open_file(void)
{
        int fd = open("/tmp", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, "x", 1), 1);
        return fd;
}

static int open_folder(void)
{
        int fd = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        ck_assert_int_ge(fd, 0);
        return fd;
}

static void is_done(struct sync *sync, int error)
{
        ck_assert(!sync_is_under_way(sync));
        n_done++;
        last_error = error;
}

static void wait_for(unsigned n)
{
        while (n_done < n)
                ck_assert_int_eq(loop_turn(loop, USEC_PER_SEC), 0);
        ck_assert_uint_eq(n_done, n);
}

START_TEST(test_sync_file_and_directory)
{
        struct sync sync = { 0 };
        int fds[SYNC_FDS] = { open_file(), open_folder() };

        begin();
        ck_assert(!sync_is_under_way(&sync));
        ck_assert_int_eq(sync_start(&sync, syncer, fds, is_done), 0);
        ck_assert(sync_is_under_way(&sync));
        ck_assert_uint_eq(n_done, 0); /* not from inside */
        for (size_t i = 0; i < SYNC_FDS; i++)
                ck_assert_int_eq(fcntl(fds[i], F_GETFD), -1); /* used up */
        wait_for(1);
        ck_assert_int_eq(last_error, 0);
        ck_assert_int_eq(sync_start(&sync, syncer, (int[]){ -1, open_folder() }, is_done), 0);
        wait_for(2);
        ck_assert_int_eq(last_error, 0);
        finish();
}
END_TEST

/* More than the kernel takes at once. */
START_TEST(test_sync_many)
{
        static struct sync syncs[400];

        begin();
        for (size_t i = 0; i < ARRAY_SIZE(syncs); i++)
                ck_assert_int_eq(
                        sync_start(&syncs[i], syncer, (int[]){ open_file(), open_folder() }, is_done), 0);
        wait_for(ARRAY_SIZE(syncs));
        ck_assert_int_eq(last_error, 0);
        finish();
}
END_TEST

static void start_another(struct sync *sync, int error)
{
        is_done(sync, error);
        if (n_done < 10)
                ck_assert_int_eq(sync_start(sync, syncer, (int[]){ open_file(), -1 }, start_another), 0);
}

START_TEST(test_sync_again_from_inside)
{
        struct sync sync = { 0 };

        begin();
        ck_assert_int_eq(sync_start(&sync, syncer, (int[]){ open_file(), -1 }, start_another), 0);
        wait_for(10);
        finish();
}
END_TEST

START_TEST(test_sync_what_cannot_be_synced)
{
        struct sync sync = { 0 };
        int fds[2];

        begin();
        ck_assert_int_eq(pipe(fds), 0);
        ck_assert_int_lt(sync_start(&sync, syncer, fds, is_done), 0);
        ck_assert(!sync_is_under_way(&sync));

        /* One of the two: it goes on, and says so at the end. */
        ck_assert_int_eq(pipe(fds), 0);
        ck_assert_int_eq(sync_start(&sync, syncer, (int[]){ open_file(), fds[0] }, is_done), 0);
        wait_for(1);
        ck_assert_int_lt(last_error, 0);
        (void)close(fds[1]);
        finish();
}
END_TEST

START_TEST(test_sync_nobody_waits)
{
        struct sync sync = { 0 }, other = { 0 };

        begin();
        ck_assert_int_eq(sync_start(NULL, syncer, (int[]){ -1, open_folder() }, NULL), 0);
        ck_assert_int_eq(sync_start(&sync, syncer, (int[]){ open_file(), open_folder() }, is_done), 0);
        sync_deinit(&sync);
        sync_deinit(&sync);
        ck_assert(!sync_is_under_way(&sync));
        ck_assert_int_eq(sync_start(&other, syncer, (int[]){ open_file(), open_folder() }, is_done), 0);
        wait_for(1);

        /* The end of all. */
        ck_assert_int_eq(sync_start(&other, syncer, (int[]){ open_file(), open_folder() }, is_done), 0);
        finish();
        ck_assert(!sync_is_under_way(&other));
        ck_assert_uint_eq(n_done, 1);
        ck_assert_ptr_null(syncer_free(NULL));
}
END_TEST

UNIT_MAIN("sync", test_sync_file_and_directory, test_sync_many, test_sync_again_from_inside,
          test_sync_what_cannot_be_synced, test_sync_nobody_waits)

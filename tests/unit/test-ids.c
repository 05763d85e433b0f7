/*
 * What service/ids promises: no id is given away twice with one state directory, whatever the clock does; a
 * file that is not understood is never guessed at.
 */
#include "unit.h"

#include "base/clock.h"
#include "service/ids.h"
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>

#define RANGE (UINT64_C(1) << 44)

static char directory[64], path[128], path_new[128];

static void begin(void)
{
        (void)strcpy(directory, "/tmp/test-ids-XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(directory));
        (void)snprintf(path, sizeof(path), "%s/next-id", directory);
        (void)snprintf(path_new, sizeof(path_new), "%s/next-id.new", directory);
}

static void end(void)
{
        (void)unlink(path);
        (void)unlink(path_new);
        ck_assert_int_eq(rmdir(directory), 0);
}

static void write_file(const char *text)
{
        FILE *file = fopen(path, "w");

        ck_assert_ptr_nonnull(file);
        ck_assert_int_ge(fputs(text, file), 0);
        ck_assert_int_eq(fclose(file), 0);
}

static void read_file(char text[static 64])
{
        FILE *file = fopen(path, "r");

        ck_assert_ptr_nonnull(file);
        text[fread(text, 1, 63, file)] = '\0';
        (void)fclose(file);
}

START_TEST(test_ids_grow)
{
        uint64_t before_usec = clock_usec(CLOCK_REALTIME), first, last;
        struct stat st;

        begin();
        ck_assert_int_eq(ids_reserve(directory, &first), 0);
        ck_assert_uint_ge(first, before_usec);
        ck_assert_uint_le(first, clock_usec(CLOCK_REALTIME));
        ck_assert_int_eq(stat(path, &st), 0);
        ck_assert_uint_eq(st.st_mode & 07777, 0600);
        ck_assert_int_eq(access(path_new, F_OK), -1);
        for (int i = 0; i < 10; i++) {
                last = first;
                ck_assert_int_eq(ids_reserve(directory, &first), 0);
                ck_assert_uint_ge(first, last + RANGE); /* also where all of the last range was used */
        }
        end();
}
END_TEST

/* The file is ahead of the clock, as after the clock went back. */
START_TEST(test_ids_clock_goes_back)
{
        uint64_t ahead = clock_usec(CLOCK_REALTIME) + 1000 * RANGE, first;
        char text[64];

        begin();
        (void)snprintf(text, sizeof(text), "%" PRIx64 "\n", ahead);
        write_file(text);
        ck_assert_int_eq(ids_reserve(directory, &first), 0);
        ck_assert_uint_eq(first, ahead);
        (void)snprintf(text, sizeof(text), "%" PRIx64 "\n", ahead + RANGE);

        char kept[64];

        read_file(kept);
        ck_assert_str_eq(kept, text);
        end();
}
END_TEST

/* The clock is ahead of the file. */
START_TEST(test_ids_clock_goes_on)
{
        uint64_t first;

        begin();
        write_file("1\n");
        ck_assert_int_eq(ids_reserve(directory, &first), 0);
        ck_assert_uint_gt(first, RANGE);
        end();
}
END_TEST

START_TEST(test_ids_bad_file)
{
        static const char *const texts[] = {
                "",
                "\n",
                "garbage\n",
                "12", /* no end of line: cut off */
                "12x\n",
                "-1\n",
                "ffffffffffffffff\n",
                "7fffffffffffffff\n",
                "123456789012345678901234567890\n",
                "1234567890123456789012345678901234567890\n",
        };
        uint64_t first = 7;

        for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
                char kept[64];

                begin();
                write_file(texts[i]);
                ck_assert_msg(ids_reserve(directory, &first) == -EBADMSG, "text %zu", i);
                read_file(kept);
                ck_assert_str_eq(kept, texts[i]); /* untouched */
                end();
        }
        ck_assert_uint_eq(first, 7);
}
END_TEST

START_TEST(test_ids_errors)
{
        uint64_t first = 7;

        begin();
        ck_assert_int_eq(ids_reserve("/tmp/test-ids-is-not-there", &first), -ENOENT);

        ck_assert_int_eq(symlink("/etc/passwd", path), 0);
        ck_assert_int_eq(ids_reserve(directory, &first), -ELOOP);
        (void)unlink(path);
        ck_assert_int_eq(mkdir(path, 0700), 0);
        ck_assert_int_eq(ids_reserve(directory, &first), -EISDIR);
        (void)rmdir(path);
        ck_assert_int_eq(symlink("/etc/passwd", path_new), 0);
        ck_assert_int_eq(ids_reserve(directory, &first), -ELOOP);
        (void)unlink(path_new);
        ck_assert_int_eq(mkdir(path_new, 0700), 0);
        ck_assert_int_eq(ids_reserve(directory, &first), -EISDIR);
        (void)rmdir(path_new);
        ck_assert_uint_eq(first, 7);
        end();
}
END_TEST

/* A disk without room: nothing is reserved, and the old file stands. */
START_TEST(test_ids_disk_full)
{
        struct rlimit limit, none;
        uint64_t first = 7;
        char kept[64];

        begin();
        write_file("123\n");
        (void)signal(SIGXFSZ, SIG_IGN);
        ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
        none = limit;
        none.rlim_cur = 0;
        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &none), 0);

        int r = ids_reserve(directory, &first);

        ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
        ck_assert_int_eq(r, -EFBIG);
        ck_assert_uint_eq(first, 7);
        read_file(kept);
        ck_assert_str_eq(kept, "123\n");
        ck_assert_int_eq(ids_reserve(directory, &first), 0); /* what was left half written does not matter */
        end();
}
END_TEST

UNIT_MAIN("ids", test_ids_grow, test_ids_clock_goes_back, test_ids_clock_goes_on, test_ids_bad_file,
          test_ids_errors, test_ids_disk_full)

/*
 * What resource/directory and resource/tree promise, with real files: a directory comes complete or not at all,
 * only below parents that nobody else can write to, and exactly that one goes with all that is in it, never
 * what a link or a mount in it leads to.
 */
#include "claims.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/fs.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define NOBODY 65534

static char base[64];      /* a directory of this test's own; we are in there */
static char path[128];     /* the path of its template below base, unless the test says otherwise */
static char deep_name[64]; /* for deep trees */

static const char *in_base(const char *name)
{
        static char text[256];

        (void)snprintf(text, sizeof(text), "%s/%s", base, name);
        return text;
}

static void make_file(const char *name)
{
        int fd = open(name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);

        ck_assert_msg(fd >= 0, "%s: %s", name, strerror(errno));
        (void)close(fd);
}

static void make_directory(const char *name, mode_t mode)
{
        ck_assert_msg(mkdir(name, 0700) == 0, "%s: %s", name, strerror(errno));
        ck_assert_int_eq(chmod(name, mode), 0);
}

static bool exists(const char *name)
{
        struct stat st;

        return lstat(name, &st) == 0;
}

static int remove_one(const char *name, const struct stat *st _unused_, int flag _unused_,
                      struct FTW *ftw _unused_)
{
        return remove(name);
}

/* A claim for the directory `name` below `base`, which is made. */
static struct claim *directory_open(const char *name)
{
        struct claim *claim = claims_open(&resource_type_directory);

        (void)snprintf(base, sizeof(base), "/tmp/test-directory-XXXXXX");
        ck_assert_ptr_nonnull(mkdtemp(base));
        ck_assert_int_eq(chdir(base), 0);
        (void)snprintf(path, sizeof(path), "%s/%s", base, name);
        config.path = path;
        return claim;
}

static void directory_close(void)
{
        claims_close();
        ck_assert_int_eq(chdir("/"), 0);
        ck_assert_int_eq(nftw(base, remove_one, 32, FTW_DEPTH | FTW_PHYS | FTW_MOUNT), 0);
}

/* The same, loaded. */
static struct claim *directory_load(const char *name)
{
        struct claim *claim = directory_open(name);

        claims_prepare(claim);
        ck_assert_msg(claims_run(claim, claim->type->load) == LOADED, "%s", seen.text);
        return claim;
}

static void release(struct claim *claim)
{
        enum said said = claims_run(claim, claim->type->release);

        ck_assert_msg(said == RELEASED, "%s", seen.text);
}

static unsigned n_entries(const char *name)
{
        DIR *folder = opendir(name);
        unsigned n = 0;

        ck_assert_ptr_nonnull(folder);
        while (readdir(folder))
                n++;
        (void)closedir(folder);
        return n - 2; /* . and .. */
}

static int assert_not_temporary(const char *name, const struct stat *st _unused_, int flag _unused_,
                                struct FTW *ftw)
{
        ck_assert_msg(!startswith(name + ftw->base, ".tetherd-"), "%s is left", name);
        return 0;
}

/* ---- loading ---- */

START_TEST(test_load)
{
        static const struct {
                const char *name, *made;
                mode_t mode, mask;
        } rows[] = {
                { "work", "work", 0700, 022 },
                { "work", "work", 02750, 077 },
                { "work", "work", 0777, 077 },
                { "work", "work", 0, 0 },
                { "a/b/%i", "a/b/6421f0a3b7c01", 0700, 077 },
                { "a/b/%i", "a/b/6421f0a3b7c01", 0700, 0 },
                { "a//b///%h//", "a/b/alice", 0700, 022 },
                { "%{first}-%l", "one-presence", 0700, 022 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct claim *claim = directory_open(rows[i].name);
                struct stat st;

                config.mode = rows[i].mode;
                claims_prepare(claim);
                (void)claim_save(claim);
                ck_assert_str_eq(fields_get(seen.saved, "inode"), "0");
                mode_t mask = umask(rows[i].mask);
                ck_assert_int_eq(claims_run(claim, claim->type->load), LOADED);
                ck_assert_int_eq(umask(mask), rows[i].mask);

                ck_assert_int_eq(lstat(rows[i].made, &st), 0);
                ck_assert_int_eq(st.st_mode, S_IFDIR | rows[i].mode);
                ck_assert_int_eq(st.st_uid, geteuid());
                struct stat by_value;
                ck_assert_int_eq(lstat(seen.text, &by_value), 0);
                ck_assert_uint_eq(by_value.st_ino, st.st_ino);
                ck_assert_int_ne(seen.text[strlen(seen.text) - 1], '/');
                if (exists("a")) {
                        ck_assert_int_eq(lstat("a", &st), 0);
                        ck_assert_int_eq(st.st_mode, S_IFDIR | 0755);
                        ck_assert_int_eq(lstat("a/b", &st), 0);
                        ck_assert_int_eq(st.st_mode, S_IFDIR | 0755);
                        ck_assert_uint_eq(n_entries("a/b"), 1);
                }
                ck_assert_uint_eq(n_entries(base), 1);
                ck_assert_uint_eq(seen.n_saves, 2);
                ck_assert_str_ne(fields_get(seen.saved, "inode"), "0");
                release(claim);
                ck_assert(!exists(rows[i].made));
                directory_close();
        }
}
END_TEST

START_TEST(test_owner)
{
        struct claim *claim;
        struct stat st;

        if (geteuid() != 0)
                return;
        claim = directory_open("work");
        config.user = NOBODY;
        config.group = 1;
        config.mode = 02770;
        claims_prepare(claim);
        ck_assert_int_eq(claims_run(claim, claim->type->load), LOADED);
        ck_assert_int_eq(lstat("work", &st), 0);
        ck_assert_int_eq(st.st_uid, NOBODY);
        ck_assert_int_eq(st.st_gid, 1);
        ck_assert_int_eq(st.st_mode, S_IFDIR | 02770);
        release(claim);
        directory_close();
}
END_TEST

START_TEST(test_paths_refused)
{
        static const struct {
                const char *path, *reason;
        } rows[] = {
                { "", " is not the absolute path of a directory" },
                { "relative/%i", "relative/6421f0a3b7c01 is not the absolute path of a directory" },
                { "/", "/ is not the absolute path of a directory" },
                { "//", "// is not the absolute path of a directory" },
                { "/run/%h", "%h has a '/' or \"..\" in it" },
                { "/run/%{second}", "%{second} is not known here" },
                { "/run/../%i", "the path has a component . or .." },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct claim *claim = claims_open(&resource_type_directory);
                char *reason = NULL, **fields = NULL;

                free(lease->subject.identity);
                lease->subject.identity = strdup("../etc");
                config.path = (char *)rows[i].path;
                ck_assert_int_eq(claim->type->prepare(claim, &reason), RESOURCE_E_INVALID);
                ck_assert_str_eq(reason, rows[i].reason);
                ck_assert_ptr_null(claim->data);
                ck_assert_int_eq(claim->type->save(claim, &fields), 0); /* of nothing */
                ck_assert_ptr_null(fields);
                free(reason);
                claims_close();
        }
}
END_TEST

static void existing_directory(void)
{
        make_directory("work", 0755);
}

static void existing_file(void)
{
        make_file("work");
}

static void existing_link(void)
{
        ck_assert_int_eq(symlink("nowhere", "work"), 0);
}

static void file_as_parent(void)
{
        make_file("parent");
}

static void link_as_parent(void)
{
        make_directory("real", 0755);
        ck_assert_int_eq(symlink("real", "parent"), 0);
}

static void open_parent(void)
{
        make_directory("parent", 0777);
}

static void sticky_parent(void)
{
        make_directory("parent", 01777);
}

static void open_grandparent(void)
{
        make_directory("parent", 0777);
        make_directory("parent/child", 0755);
}

static void foreign_group(void)
{
        make_directory("parent", 0770);
        ck_assert_int_eq(chown("parent", 0, 1), 0);
        ck_assert_int_eq(chmod("parent", 0770), 0);
}

static void foreign_owner(void)
{
        make_directory("parent", 0755);
        ck_assert_int_eq(chown("parent", NOBODY, 0), 0);
}

static void full_ledger(void)
{
        seen.save_result = -ENOSPC;
}

static void foreign_user(void)
{
        ck_assert_int_eq(chown(base, NOBODY, NOBODY), 0);
        ck_assert_int_eq(seteuid(NOBODY), 0);
        config.user = 1;
}

static void no_permission(void)
{
        ck_assert_int_eq(seteuid(NOBODY), 0);
        ck_assert_int_eq(chdir("/"), 0);
}

START_TEST(test_loads_that_fail)
{
        static const struct {
                const char *name;
                void (*arrange)(void);
                bool needs_root;
                const char *reason; /* the end of it */
        } rows[] = {
                { "work", existing_directory, false, "/work cannot be made: File exists" },
                { "work", existing_file, false, "/work cannot be made: File exists" },
                { "work", existing_link, false, "/work cannot be made: File exists" },
                { "parent/work", file_as_parent, false,
                  "/parent (symbolic links are not followed): Not a directory" },
                { "parent/work", link_as_parent, false,
                  "/parent (symbolic links are not followed): Not a directory" },
                { "parent/work", open_parent, false,
                  "/parent is writable by others: Operation not permitted" },
                { "parent/work", sticky_parent, false,
                  "/parent is writable by others: Operation not permitted" },
                { "parent/child/work", open_grandparent, false,
                  "/parent is writable by others: Operation not permitted" },
                { "parent/work", foreign_group, true,
                  "/parent is writable by others: Operation not permitted" },
                { "parent/work", foreign_owner, true,
                  "/parent belongs to another user (65534): Operation not permitted" },
                { "work", full_ledger, false, "/work cannot be set up: No space left on device" },
                { "work", foreign_user, true, "/work cannot be set up: Operation not permitted" },
                { "work", no_permission, true, "/work cannot be made: Permission denied" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                if (rows[i].needs_root && geteuid() != 0)
                        continue;
                struct claim *claim = directory_open(rows[i].name);
                bool is_root = geteuid() == 0;

                rows[i].arrange();
                claims_prepare(claim);

                ck_assert_int_eq(claims_run(claim, claim->type->load), LOAD_FAILED);
                if (is_root)
                        ck_assert_int_eq(seteuid(0), 0);
                ck_assert(seen.is_said);
                ck_assert_int_eq(seen.exit_status, -1);
                size_t length = strlen(seen.text), wanted = strlen(rows[i].reason);
                ck_assert_msg(length > wanted && streq(seen.text + length - wanted, rows[i].reason),
                              "row %zu: %s", i, seen.text);

                /* Released after all, as on_load_failure may want: what was there is left alone. */
                bool was_there = exists("work");
                release(claim);
                ck_assert_int_eq(exists("work"), was_there);
                ck_assert_int_eq(nftw(base, assert_not_temporary, 32, FTW_PHYS), 0);
                directory_close();
        }
}
END_TEST

START_TEST(test_names_too_long)
{
        char name[300];

        for (int i = 0; i < 2; i++) {
                struct claim *claim = directory_open("");

                memset(name, 'x', sizeof(name) - 1);
                name[sizeof(name) - 1] = '\0';
                free(lease->subject.identity);
                lease->subject.identity = strdup(name);
                (void)snprintf(path, sizeof(path), i == 0 ? "%s/%%h/a" : "%s/%%h", base);
                claims_prepare(claim);
                ck_assert_int_eq(claims_run(claim, claim->type->load), LOAD_FAILED);
                ck_assert(strstr(seen.text, "File name too long") || strlen(seen.text) > 300);
                ck_assert_uint_eq(n_entries(base), 0);
                directory_close();
        }
}
END_TEST

START_TEST(test_sticky_directory_further_up)
{
        struct claim *claim = directory_open("sticky/ours/work");

        make_directory("sticky", 01777);
        claims_prepare(claim);
        ck_assert_int_eq(claims_run(claim, claim->type->load), LOADED);
        release(claim);
        directory_close();
}
END_TEST

/* ---- releasing ---- */

static void leave_it(void)
{
}

static void fill_it(void)
{
        make_file("work/file");
}

static void remove_it(void)
{
        ck_assert_int_eq(rmdir("work"), 0);
}

static void move_it(void)
{
        ck_assert_int_eq(rename("work", "moved"), 0);
        make_file("moved/ours");
}

static void replace_by_directory(void)
{
        move_it();
        make_directory("work", 0755);
        make_file("work/precious");
}

static void replace_by_empty_directory(void)
{
        move_it();
        make_directory("work", 0755);
}

static void replace_by_file(void)
{
        move_it();
        make_file("work");
}

static void replace_by_link(void)
{
        move_it();
        ck_assert_int_eq(symlink("moved", "work"), 0);
}

START_TEST(test_release)
{
        static const struct {
                void (*arrange)(void);
                const char *left;
                bool is_told;
        } rows[] = {
                { leave_it, NULL, false },
                { fill_it, NULL, false },
                { remove_it, NULL, false },
                { move_it, "moved/ours", false },
                { replace_by_directory, "work/precious", true },
                { replace_by_empty_directory, "work", true },
                { replace_by_file, "work", true },
                { replace_by_link, "moved/ours", true },
        };

        /* In this run, and in the next one. */
        for (size_t i = 0; i < ARRAY_SIZE(rows) * 2; i++) {
                struct claim *claim = directory_load("work");
                size_t row = i / 2;

                rows[row].arrange();
                if (i % 2 == 1)
                        claims_restart(claim);
                release(claim);
                ck_assert_int_eq(exists("work"), rows[row].left && rows[row].is_told);
                if (rows[row].left)
                        ck_assert(exists(rows[row].left));
                ck_assert_uint_eq(strv_length(seen.output), rows[row].is_told);
                if (rows[row].is_told)
                        ck_assert(strstr(seen.output[0], "/work is not the one that was made any more"));
                release(claim); /* what is gone counts as released */
                directory_close();
        }
}
END_TEST

START_TEST(test_parent_is_gone)
{
        struct claim *claim = directory_load("parent/work");

        ck_assert_int_eq(rmdir("parent/work"), 0);
        ck_assert_int_eq(rmdir("parent"), 0);
        release(claim);
        ck_assert_uint_eq(strv_length(seen.output), 0);

        make_file("parent");
        release(claim);
        ck_assert_int_eq(unlink("parent"), 0);
        make_directory("real", 0755);
        make_directory("real/work", 0755);
        ck_assert_int_eq(symlink("real", "parent"), 0);
        release(claim);
        ck_assert(exists("real/work"));
        ck_assert_int_eq(unlink("parent"), 0);

        /* It may be there, but we cannot look. */
        if (geteuid() == 0) {
                make_directory("parent", 0);
                ck_assert_int_eq(seteuid(NOBODY), 0);
                ck_assert_int_eq(claims_run(claim, claim->type->release), RELEASE_FAILED);
                ck_assert(strstr(seen.text, "Permission denied"));
                ck_assert_int_eq(seteuid(0), 0);
        }
        directory_close();
}
END_TEST

START_TEST(test_working_directory_of_somebody)
{
        struct claim *claim = directory_load("work");

        ck_assert_int_eq(chdir("work"), 0);
        make_file("file");
        release(claim);
        ck_assert(!exists(path));
        directory_close();
}
END_TEST

/* ---- trees ---- */

START_TEST(test_links_and_kinds)
{
        struct claim *claim = directory_load("work");

        make_directory("outside", 0755);
        make_file("outside/precious");
        ck_assert_int_eq(symlink(in_base("outside"), "work/link"), 0);
        ck_assert_int_eq(symlink("../outside/precious", "work/link-to-file"), 0);
        ck_assert_int_eq(symlink("..", "work/up"), 0);
        ck_assert_int_eq(symlink("/", "work/root"), 0);
        ck_assert_int_eq(symlink(".", "work/itself"), 0);
        ck_assert_int_eq(link("outside/precious", "work/hard"), 0);
        make_directory("work/a", 0755);
        make_directory("work/a/b", 0755);
        ck_assert_int_eq(symlink("../../../outside", "work/a/b/link"), 0);
        make_file("work/a/b/-rf");
        make_file("work/a/b/new\nline");
        make_file("work/.hidden");
        make_file("work/...");
        ck_assert_int_eq(mkfifo("work/fifo", 0600), 0);
        release(claim);
        ck_assert(!exists("work"));
        ck_assert(exists("outside/precious"));
        directory_close();
}
END_TEST

/* Permission bits that are missing do not matter to who may set them. */
START_TEST(test_without_permissions)
{
        bool is_root = geteuid() == 0;
        struct claim *claim = directory_open("work");

        if (is_root) {
                ck_assert_int_eq(chown(base, NOBODY, NOBODY), 0);
                ck_assert_int_eq(seteuid(NOBODY), 0);
        }
        claims_prepare(claim);
        ck_assert_int_eq(claims_run(claim, claim->type->load), LOADED);
        make_directory("work/none", 0755);
        make_directory("work/none/inner", 0755);
        make_file("work/none/inner/file");
        make_directory("work/read", 0755);
        make_file("work/read/file");
        ck_assert_int_eq(chmod("work/none/inner", 0), 0);
        ck_assert_int_eq(chmod("work/none", 0), 0);
        ck_assert_int_eq(chmod("work/read", 0500), 0);
        ck_assert_int_eq(chmod("work", 0), 0);
        release(claim);
        ck_assert(!exists("work"));
        if (is_root)
                ck_assert_int_eq(seteuid(0), 0);
        directory_close();
}
END_TEST

/* Makes `n` directories, each in the one before, and a file in each; below `name`. */
static void make_deep(const char *name, unsigned n)
{
        ck_assert_int_eq(chdir(name), 0);
        for (unsigned i = 0; i < n; i++) {
                (void)snprintf(deep_name, sizeof(deep_name), "level-%u", i);
                make_file("file");
                make_directory(deep_name, 0755);
                ck_assert_int_eq(chdir(deep_name), 0);
        }
        ck_assert_int_eq(chdir(base), 0);
}

START_TEST(test_deep_tree)
{
        struct claim *claim = directory_load("work");

        make_deep("work", 5000);
        make_directory("work/wide", 0755);
        make_deep("work/wide", 40); /* deeper than what is kept open, then others beside it */
        release(claim);
        ck_assert(!exists("work"));
        directory_close();
}
END_TEST

START_TEST(test_many_files)
{
        struct claim *claim = directory_load("work");
        char name[64];

        for (unsigned i = 0; i < 10000; i++) {
                (void)snprintf(name, sizeof(name), "work/file-%u", i);
                make_file(name);
        }
        for (unsigned i = 0; i < 1000; i++) {
                (void)snprintf(name, sizeof(name), "work/folder-%u", i);
                make_directory(name, 0755);
                (void)snprintf(name, sizeof(name), "work/folder-%u/file", i);
                make_file(name);
        }
        release(claim);
        ck_assert(!exists("work"));
        directory_close();
}
END_TEST

/* With ever more descriptors: what cannot be begun yet waits, until it can. Returns how often it did. */
static unsigned run_short_of_descriptors(struct claim *claim, void (*begin)(struct claim *claim))
{
        struct rlimit limit, scarce;
        unsigned n_deferred = 0;
        enum said said;
        int lowest = dup(0);

        ck_assert_int_eq(close(lowest), 0);
        ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
        do {
                scarce = (struct rlimit){ .rlim_cur = (rlim_t)lowest + n_deferred,
                                          .rlim_max = limit.rlim_max };
                ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &scarce), 0);
                said = claims_run(claim, begin);
                ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
        } while (said == DEFERRED && ++n_deferred < 100);
        return n_deferred;
}

START_TEST(test_out_of_descriptors)
{
        struct claim *claim = directory_open("work");

        claims_prepare(claim);
        ck_assert_uint_gt(run_short_of_descriptors(claim, claim->type->load), 0);
        ck_assert_int_eq(seen.said, LOADED);
        make_deep("work", 2);
        ck_assert_uint_gt(run_short_of_descriptors(claim, claim->type->release), 3);
        ck_assert_int_eq(seen.said, RELEASED);
        ck_assert(!exists("work"));
        directory_close();
}
END_TEST

START_TEST(test_mount_inside)
{
        struct claim *claim = directory_load("work");

        make_directory("outside", 0755);
        make_file("outside/precious");
        make_deep("work", 3);
        if (unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
            mount("outside", "work/level-0/level-1/level-2", NULL, MS_BIND, NULL) == 0) {
                ck_assert_int_eq(claims_run(claim, claim->type->release), RELEASE_FAILED);
                ck_assert_str_eq(seen.text,
                                 "work/0-level-1/level-2 cannot be removed: Device or resource busy");
                ck_assert(exists("outside/precious"));
                ck_assert_int_eq(umount("work/0-level-1/level-2"), 0);

                /* A file that is a mount point, and the directory itself. */
                make_file("work/target");
                ck_assert_int_eq(mount("outside/precious", "work/target", NULL, MS_BIND, NULL), 0);
                ck_assert_int_eq(claims_run(claim, claim->type->release), RELEASE_FAILED);
                ck_assert_str_eq(seen.text, "work/target cannot be removed: Device or resource busy");
                ck_assert_int_eq(umount("work/target"), 0);
        }
        release(claim);
        ck_assert(!exists("work"));
        ck_assert(exists("outside/precious"));
        directory_close();
}
END_TEST

START_TEST(test_mount_on_it)
{
        struct claim *claim = directory_load("work");

        make_directory("outside", 0755);
        make_file("outside/precious");
        if (unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
            mount("outside", "work", NULL, MS_BIND, NULL) == 0) {
                ck_assert_int_eq(claims_run(claim, claim->type->release), RELEASE_FAILED);
                ck_assert_ptr_nonnull(strstr(seen.text, "/work cannot be removed: Device or resource busy"));
                ck_assert(exists("outside/precious"));
                ck_assert_int_eq(umount("work"), 0);
                ck_assert(exists("work"));
        }
        release(claim);
        ck_assert(!exists("work"));
        directory_close();
}
END_TEST

static bool set_immutable(const char *name, bool is_immutable)
{
        int fd = open(name, O_RDONLY | O_CLOEXEC), flags = 0, r;

        ck_assert_int_ge(fd, 0);
        r = ioctl(fd, FS_IOC_GETFLAGS, &flags);
        flags = is_immutable ? flags | FS_IMMUTABLE_FL : flags & ~FS_IMMUTABLE_FL;
        if (r == 0)
                r = ioctl(fd, FS_IOC_SETFLAGS, &flags);
        (void)close(fd);
        return r == 0;
}

START_TEST(test_immutable)
{
        struct claim *claim = directory_load("work");

        make_deep("work", 2);
        if (set_immutable("work/level-0/file", true)) {
                ck_assert_int_eq(claims_run(claim, claim->type->release), RELEASE_FAILED);
                ck_assert_str_eq(seen.text, "work/level-0/file cannot be removed: Operation not permitted");
                ck_assert(set_immutable("work/level-0/file", false));
        }
        if (set_immutable("work", true)) {
                (void)claims_run(claim, claim->type->release);
                ck_assert_int_eq(seen.said, RELEASE_FAILED);
                ck_assert(set_immutable("work", false));
        }
        release(claim); /* tried again */
        ck_assert(!exists("work"));
        directory_close();
}
END_TEST

/* Whatever the depth, the reason names what could not be removed. */
START_TEST(test_failure_deep_down)
{
        struct claim *claim = directory_load("work");

        make_deep("work", 60);
        ck_assert_int_eq(chdir("work"), 0);
        for (unsigned i = 0; i < 60; i++) {
                (void)snprintf(deep_name, sizeof(deep_name), "level-%u", i);
                ck_assert_int_eq(chdir(deep_name), 0);
        }
        make_file("last");
        if (set_immutable("last", true)) {
                ck_assert_int_eq(claims_run(claim, claim->type->release), RELEASE_FAILED);
                ck_assert(strstr(seen.text, "-level-59/last cannot be removed: Operation not permitted"));
                ck_assert_uint_lt(strlen(seen.text), 350);
                ck_assert(set_immutable("last", false));
        }
        ck_assert_int_eq(chdir(base), 0);
        release(claim);
        directory_close();
}
END_TEST

/* Runs `work` again and again in another process until it is ended. */
static pid_t meanwhile(void (*work)(void))
{
        pid_t pid = fork();

        ck_assert_int_ge(pid, 0);
        while (pid == 0)
                work();
        return pid;
}

static void end_meanwhile(pid_t pid)
{
        ck_assert_int_eq(kill(pid, SIGKILL), 0);
        ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
}

/* So many and no more, for nothing bounds the race but the time limit of a release. */
static void add_files(void)
{
        static unsigned n;
        char name[64];

        if (n == 20000)
                (void)pause();
        (void)snprintf(name, sizeof(name), "work/level-0/new-%u", n++ % 5000);
        int fd = open(name, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
        if (fd >= 0)
                (void)close(fd);
}

START_TEST(test_others_fill_it_meanwhile)
{
        struct claim *claim = directory_load("work");

        make_deep("work", 2);
        pid_t pid = meanwhile(add_files);
        for (int attempt = 0; attempt < 5 && exists("work"); attempt++)
                if (claims_run(claim, claim->type->release) == RELEASE_FAILED)
                        ck_assert(strstr(seen.text, "cannot be removed: Directory not empty"));
        end_meanwhile(pid);
        release(claim);
        ck_assert(!exists("work"));
        directory_close();
}
END_TEST

START_TEST(test_stop)
{
        struct claim *claim = directory_load("work");

        make_deep("work", 5000);
        claim->type->release(claim);
        claim->type->stop(claim);
        ck_assert_int_eq(claims_wait(), RELEASE_FAILED);
        ck_assert_str_eq(seen.text, "its removal was killed");
        release(claim);
        directory_close();
}
END_TEST

START_TEST(test_forget_while_it_is_removed)
{
        struct claim *claim = directory_load("work");
        siginfo_t info;

        make_deep("work", 100);
        claim->type->release(claim);
        claim->type->forget(claim);
        while (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) == 0)
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
        ck_assert_uint_eq(seen.n_said, 1); /* of the load */
        directory_close();
}
END_TEST

/* ---- the ledger ---- */

/* The crash came before it was made, before it was recorded, before it was moved, or after. */
/* In ns. */
static unsigned long long birth_of(const char *name)
{
        struct statx stx;

        ck_assert_int_eq(statx(AT_FDCWD, name, AT_SYMLINK_NOFOLLOW, STATX_BTIME, &stx), 0);
        ck_assert(stx.stx_mask & STATX_BTIME);
        return (unsigned long long)stx.stx_btime.tv_sec * 1000000000 + stx.stx_btime.tv_nsec;
}

START_TEST(test_crashes)
{
        for (int moment = 0; moment < 4; moment++) {
                struct claim *claim = directory_open("work");
                struct stat st;

                claims_prepare(claim);
                (void)claim_save(claim);
                const char *temporary = fields_get(seen.saved, "temporary");
                char name[64];
                (void)snprintf(name, sizeof(name), "%s", temporary);
                ck_assert_uint_gt(strlen(name), 20);
                if (moment > 0)
                        make_directory(name, 0700);
                if (moment > 1) {
                        ck_assert_int_eq(lstat(name, &st), 0);
                        seen.saved = strv_free(seen.saved);
                        ck_assert_int_eq(strv_appendf(&seen.saved, "path=%s", path), 0);
                        ck_assert_int_eq(strv_appendf(&seen.saved, "temporary=%s", name), 0);
                        ck_assert_int_eq(
                                strv_appendf(&seen.saved, "device=%llu", (unsigned long long)st.st_dev), 0);
                        ck_assert_int_eq(
                                strv_appendf(&seen.saved, "inode=%llu", (unsigned long long)st.st_ino), 0);
                        ck_assert_int_eq(strv_appendf(&seen.saved, "birth=%llu", birth_of(name)), 0);
                }
                if (moment > 2)
                        ck_assert_int_eq(rename(name, "work"), 0);
                else
                        make_directory("work", 0755); /* another's */
                claims_restart(claim);
                release(claim);
                ck_assert(!exists(name));
                ck_assert_int_eq(exists("work"), moment <= 2);
                directory_close();
        }
}
END_TEST

/* Another one, although it has our inode, which was free again: the time of birth tells. */
START_TEST(test_inode_is_used_again)
{
        struct claim *claim = directory_load("work");
        unsigned long long birth = birth_of("work");
        char **fields = NULL;
        struct stat st;

        ck_assert_int_eq(lstat("work", &st), 0);
        ck_assert_int_eq(rmdir("work"), 0);
        make_directory("work", 0700);
        (void)claim_save(claim);
        for (char **field = seen.saved; *field; field++)
                if (startswith(*field, "inode=")) {
                        ck_assert_int_eq(lstat("work", &st), 0);
                        ck_assert_int_eq(strv_appendf(&fields, "inode=%llu", (unsigned long long)st.st_ino),
                                         0);
                } else {
                        ck_assert_int_eq(strv_append(&fields, *field), 0);
                }
        ck_assert_uint_ne(birth_of("work"), birth);
        strv_free(seen.saved);
        seen.saved = fields;
        claims_restart(claim);
        release(claim);
        ck_assert(exists("work"));
        ck_assert_ptr_nonnull(strstr(seen.output[0], "left alone"));
        directory_close();
}
END_TEST

/* What a reboot changes: the number of the device. Without a time of birth nothing is left to know it by. */
START_TEST(test_another_device_after_a_reboot)
{
        for (int moment = 0; moment < 3; moment++) {
                struct claim *claim = directory_load("work");
                char **fields = NULL;

                (void)claim_save(claim);
                for (char **field = seen.saved; *field; field++)
                        ck_assert_int_eq(strv_append(&fields, startswith(*field, "device=") ? "device=77"
                                                              : startswith(*field, "birth=") && moment == 2
                                                                      ? "birth=0"
                                                                      : *field),
                                         0);
                strv_free(seen.saved);
                seen.saved = fields;
                claim->lease->is_rebooted = moment > 0;
                claims_restart(claim);
                release(claim);
                ck_assert_int_eq(exists("work"), moment != 1);
                directory_close();
        }
}
END_TEST

/* Until the ledger is on disk it is not at its place; when that takes too long, nothing is left of it. */
START_TEST(test_slow_disk)
{
        for (int moment = 0; moment < 3; moment++) {
                struct claim *claim = directory_open("work");

                seen.is_disk_slow = true;
                claims_prepare(claim);
                claim->type->load(claim);
                ck_assert_uint_eq(seen.n_said, 0);
                ck_assert(!exists("work"));
                ck_assert_uint_eq(n_entries("."), 1);
                if (moment == 2)
                        claim->type->stop(claim);
                else
                        secured(claim, moment == 1 ? -EIO : 0);
                ck_assert_uint_eq(seen.n_said, 1);
                ck_assert_int_eq(seen.said, moment == 0 ? LOADED : LOAD_FAILED);
                ck_assert(seen.is_said);
                ck_assert_uint_eq(n_entries("."), moment == 0);
                if (moment == 0)
                        release(claim);
                directory_close();
        }
}
END_TEST

START_TEST(test_saved_again_it_is_the_same)
{
        struct claim *claim = directory_load("work");
        char **fields = NULL;

        (void)claim_save(claim);
        claims_restart(claim);
        ck_assert_int_eq(claim->type->save(claim, &fields), 0);
        char *first = words_join(seen.saved), *again = words_join(fields);
        ck_assert_str_eq(again, first);
        free(first);
        free(again);
        strv_free(fields);
        release(claim);
        directory_close();
}
END_TEST

START_TEST(test_records_that_are_wrong)
{
        static const char *const rows[][6] = {
                { NULL },
                { "temporary=.tetherd-1", "device=1", "inode=1", "birth=1", NULL },
                { "path=", "temporary=.tetherd-1", "device=1", "inode=1", "birth=1", NULL },
                { "path=work", "temporary=.tetherd-1", "device=1", "inode=1", "birth=1", NULL },
                { "path=/", "temporary=.tetherd-1", "device=1", "inode=1", "birth=1", NULL },
                { "path=/work", "device=1", "inode=1", "birth=1", NULL },
                { "path=/work", "temporary=precious", "device=1", "inode=1", "birth=1", NULL },
                { "path=/work", "temporary=.tetherd-/../precious", "device=1", "inode=1", "birth=1", NULL },
                { "path=/work", "temporary=.tetherd-0123456789012345678901234", "device=1", "inode=1",
                  "birth=1", NULL },
                { "path=/work", "temporary=.tetherd-1", "inode=1", "birth=1", NULL },
                { "path=/work", "temporary=.tetherd-1", "device=1", "birth=1", NULL },
                { "path=/work", "temporary=.tetherd-1", "device=1", "inode=1", NULL },
                { "path=/work", "temporary=.tetherd-1", "device=x", "inode=1", "birth=1", NULL },
        };
        struct claim *claim = claims_open(&resource_type_directory);
        char *reason = NULL;

        claim->state = CLAIM_LOADED;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char *const *fields = (char *const *)(const void *)rows[i];

                ck_assert_msg(claim->type->restore(claim, fields, &reason) == RESOURCE_E_INVALID, "row %zu",
                              i);
                ck_assert_ptr_nonnull(reason);
                ck_assert_ptr_null(claim->data);
                free(TAKE_PTR(reason));
        }
        claim->state = CLAIM_EMPTY; /* a load that could not be prepared: nothing is needed */
        ck_assert_int_eq(claim->type->restore(claim, NULL, &reason), 0);
        claims_close();
}
END_TEST

UNIT_MAIN("directory", test_load, test_owner, test_paths_refused, test_loads_that_fail, test_names_too_long,
          test_sticky_directory_further_up, test_release, test_parent_is_gone,
          test_working_directory_of_somebody, test_links_and_kinds, test_without_permissions, test_deep_tree,
          test_many_files, test_out_of_descriptors, test_mount_inside, test_mount_on_it, test_immutable,
          test_failure_deep_down, test_others_fill_it_meanwhile, test_stop, test_forget_while_it_is_removed,
          test_crashes, test_inode_is_used_again, test_another_device_after_a_reboot, test_slow_disk,
          test_saved_again_it_is_the_same, test_records_that_are_wrong)

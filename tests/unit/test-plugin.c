/*
 * What base/object and handler/plugin promise: a file is judged by its ELF header and by who can change it or put
 * another in its place; an object is loaded once, by the header it was built with, or refused with a reason.
 */
#include "unit.h"

#include "handler/plugin.h"
#include <elf.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>

#define NOBODY 65534

/* Calls that objects here are linked to; nobody makes them. */
int tetherd_disconnect(struct tetherd_connection *connection)
{
        ck_assert_ptr_nonnull(connection);
        return 0;
}

static char directory[] = "/tmp/tetherd-test-plugin-XXXXXX";
static char reason[OBJECT_REASON_MAX];

static void begin(void)
{
        ck_assert_ptr_nonnull(mkdtemp(directory));
        ck_assert_int_eq(chmod(directory, 0755), 0);
}

/* A path in the directory, one of four at a time. */
static const char *in(const char *name)
{
        static char paths[4][PATH_MAX];
        static unsigned i;
        char *path = paths[i++ % 4];

        (void)snprintf(path, PATH_MAX, "%s/%s", directory, name);
        return path;
}

static void finish(void)
{
        char command[PATH_MAX];

        (void)snprintf(command, sizeof(command), "rm -r %s", directory);
        ck_assert_int_eq(system(command), 0); /* NOLINT */
}

static void write_file(const char *path, const void *bytes, size_t n)
{
        _cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

        ck_assert_int_ge(fd, 0);
        ck_assert_int_eq(write(fd, bytes, n), (ssize_t)n);
        ck_assert_int_eq(fchmod(fd, 0644), 0);
}

/* One that was built for these tests, copied here. */
static const char *object(const char *name)
{
        static char bytes[1 << 20];
        char program[PATH_MAX], path[2 * PATH_MAX];
        ssize_t n = readlink("/proc/self/exe", program, sizeof(program) - 1);
        const char *copy = in(name);

        ck_assert_int_gt(n, 0);
        program[n] = '\0';
        (void)snprintf(path, sizeof(path), "%s/../plugins/%s", dirname(program), name);

        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

        ck_assert_int_ge(fd, 0);
        n = read(fd, bytes, sizeof(bytes));
        ck_assert_int_gt(n, 0);
        ck_assert_int_lt(n, (ssize_t)sizeof(bytes));
        write_file(copy, bytes, (size_t)n);
        return copy;
}

static int judge(const char *path)
{
        struct object_identity identity;

        reason[0] = '\0';
        return object_judge(path, &identity, reason);
}

/* It is refused, and the reason holds this. */
static void check_refused(const char *path, const char *why)
{
        ck_assert_int_eq(judge(path), -EINVAL);
        ck_assert_msg(strstr(reason, why), "%s: %s, not: %s", path, reason, why);
}

/* ---- the file ---- */

START_TEST(test_object_header)
{
        ElfW(Ehdr) header;
        const char *path;

        begin();
        path = object("variant-good.so");
        ck_assert_int_eq(judge(path), 0);

        _cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);

        ck_assert_int_eq(read(fd, &header, sizeof(header)), sizeof(header));
        write_file(in("cut"), &header, sizeof(header) - 1);
        check_refused(in("cut"), "it is no ELF file");
        write_file(in("empty"), "", 0);
        check_refused(in("empty"), "it is no ELF file");
        write_file(in("script"), "#!/bin/sh\necho this is no object, however long the file may be\n", 64);
        check_refused(in("script"), "it is no ELF file");

        ElfW(Ehdr) other = header;

        other.e_type = ET_EXEC;
        write_file(in("program"), &other, sizeof(other));
        check_refused(in("program"), "it is no shared object");
        other = header;
        other.e_machine = EM_PDP11;
        write_file(in("machine"), &other, sizeof(other));
        check_refused(in("machine"), "it is built for another kind of machine");
        other = header;
        other.e_ident[EI_CLASS] ^= ELFCLASS32 ^ ELFCLASS64;
        write_file(in("class"), &other, sizeof(other));
        check_refused(in("class"), "it is built for another kind of machine");

        check_refused(in("absent"), "absent: No such file or directory");
        ck_assert_int_eq(mkdir(in("folder"), 0755), 0);
        check_refused(in("folder"), "it is no regular file");
        check_refused(in("script/below"), "Not a directory");
        ck_assert_int_eq(mkfifo(in("fifo"), 0600), 0);
        check_refused(in("fifo"), "it is no regular file");
        finish();
}
END_TEST

/* Nobody else may have written it. */
START_TEST(test_object_mode)
{
        static const struct {
                mode_t mode;
                bool is_good;
        } rows[] = { { 0644, true },  { 0755, true },  { 0400, true },  { 04755, true },
                     { 0664, false }, { 0646, false }, { 0666, false }, { 0777, false } };
        const char *path;

        begin();
        path = object("variant-good.so");
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                ck_assert_int_eq(chmod(path, rows[i].mode), 0);
                if (rows[i].is_good)
                        ck_assert_msg(judge(path) == 0, "%04o: %s", rows[i].mode, reason);
                else
                        check_refused(path, "others may write to");
        }
        ck_assert_int_eq(chmod(path, 0644), 0);
        if (geteuid() == 0) {
                ck_assert_int_eq(chown(path, NOBODY, (gid_t)-1), 0);
                check_refused(path, "belongs to uid 65534, which is neither root nor us");
                ck_assert_int_eq(seteuid(NOBODY), 0); /* whose it is */
                ck_assert_int_eq(judge(path), 0);
                ck_assert_int_eq(seteuid(0), 0);
        }
        finish();
}
END_TEST

/* Nobody else may put another one in its place: not there, nor at a link that leads there. */
START_TEST(test_object_way)
{
        char up[PATH_MAX];

        begin();
        ck_assert_int_eq(mkdir(in("a"), 0755), 0);
        ck_assert_int_eq(mkdir(in("a/b"), 0755), 0);
        ck_assert_int_eq(rename(object("variant-good.so"), in("a/b/x.so")), 0);
        ck_assert_int_eq(judge(in("a/b/x.so")), 0);
        ck_assert_int_eq(judge(in("a//b/./../b///x.so")), 0);
        ck_assert_int_eq(chmod(in("a"), 0775), 0);
        check_refused(in("a/b/x.so"), "/a (mode 0775)");
        ck_assert_int_eq(chmod(in("a"), 0757), 0);
        check_refused(in("a/b/x.so"), "/a (mode 0757)");
        ck_assert_int_eq(chmod(in("a"), 01777), 0); /* sticky: what is ours stays there */
        ck_assert_int_eq(judge(in("a/b/x.so")), 0);
        ck_assert_int_eq(chmod(in("a"), 0755), 0);

        ck_assert_int_eq(mkdir(in("links"), 0755), 0);
        ck_assert_int_eq(symlink("../a/b/x.so", in("links/relative.so")), 0);
        ck_assert_int_eq(judge(in("links/relative.so")), 0);
        (void)snprintf(up, sizeof(up), "%s/a", directory);
        ck_assert_int_eq(symlink(up, in("links/folder")), 0);
        ck_assert_int_eq(judge(in("links/folder/b/x.so")), 0);
        ck_assert_int_eq(symlink("folder/b/x.so", in("links/twice.so")), 0);
        ck_assert_int_eq(judge(in("links/twice.so")), 0);
        ck_assert_int_eq(symlink("nowhere", in("links/dangling.so")), 0);
        check_refused(in("links/dangling.so"), "/links/nowhere: No such file or directory");
        ck_assert_int_eq(symlink("loop.so", in("links/loop.so")), 0);
        check_refused(in("links/loop.so"), strerror(ELOOP));

        /* What the end of the way is does not matter where somebody can turn it elsewhere. */
        ck_assert_int_eq(symlink("../../links/twice.so", in("a/b/back.so")), 0);
        ck_assert_int_eq(judge(in("a/b/back.so")), 0);
        ck_assert_int_eq(chmod(in("links"), 0777), 0);
        check_refused(in("a/b/back.so"), "/links (mode 0777)");
        check_refused(in("links/folder/b/x.so"), "/links (mode 0777)");
        ck_assert_int_eq(judge(in("a/b/x.so")), 0);
        finish();
}
END_TEST

START_TEST(test_object_identity)
{
        struct object_identity before, after;
        struct timespec times[2] = { { .tv_sec = 1000 }, { .tv_sec = 1000 } };
        const char *path;

        begin();
        path = object("variant-good.so");
        ck_assert_int_eq(utimensat(AT_FDCWD, path, times, 0), 0);
        ck_assert_int_eq(object_judge(path, &before, reason), 0);
        ck_assert_int_eq(object_judge(path, &after, reason), 0);
        ck_assert(object_is_same(&before, &after));
        times[1].tv_nsec = 1;
        ck_assert_int_eq(utimensat(AT_FDCWD, path, times, 0), 0);
        ck_assert_int_eq(object_judge(path, &after, reason), 0);
        ck_assert(!object_is_same(&before, &after));
        ck_assert_int_eq(rename(object("nothing.so"), path), 0);
        ck_assert_int_eq(object_judge(path, &after, reason), 0);
        ck_assert(!object_is_same(&before, &after));
        finish();
}
END_TEST

/* ---- the object ---- */

START_TEST(test_plugin_load)
{
        struct list plugins = LIST_INIT(plugins);
        const struct plugin *plugin, *again;
        const char *path;
        char *why;

        begin();
        path = object("variant-good.so");
        ck_assert_int_eq(plugin_load(&plugins, path, &plugin, &why), 0);
        ck_assert_str_eq(plugin->path, path);
        ck_assert_str_eq(plugin->table.name, "variant");
        ck_assert(plugin->table.accept && plugin->table.send);
        ck_assert(!plugin->table.close);
        ck_assert_int_eq(plugin_load(&plugins, path, &again, &why), 0);
        ck_assert_ptr_eq(plugin, again);

        /* It is another file now: as an upgrade would put it there. */
        ck_assert_int_eq(rename(object("nothing.so"), path), 0);
        ck_assert_int_eq(plugin_load(&plugins, path, &again, &why), -EBUSY);
        ck_assert_str_eq(why, "the file changed since it was loaded: needs a restart");
        free(why);
        ck_assert_int_eq(unlink(path), 0);
        ck_assert_int_eq(plugin_load(&plugins, path, &again, &why), -ENOEXEC);
        free(why);
        plugins_free(&plugins);
        finish();
}
END_TEST

/* What an older header did not have is NULL, whatever lies there. */
START_TEST(test_plugin_of_an_older_header)
{
        struct list plugins = LIST_INIT(plugins);
        const struct plugin *plugin;
        char *why;

        begin();
        ck_assert_int_eq(plugin_load(&plugins, object("variant-old.so"), &plugin, &why), 0);
        ck_assert(plugin->table.accept);
        ck_assert(!plugin->table.send);
        plugins_free(&plugins);
        finish();
}
END_TEST

START_TEST(test_plugin_refused)
{
        static const struct {
                const char *name, *why;
        } rows[] = {
                { "variant-abi.so", "it is built for ABI 2 of plugins, this tetherd has 1: build it anew" },
                { "variant-small.so", "its struct tetherd_plugin has 15 bytes, at least 16 are needed" },
                { "variant-newer.so", "its struct tetherd_plugin has 73 bytes, this tetherd knows 72: it is "
                                      "built for a newer one" },
                { "variant-nameless.so", "it has no name" },
                { "variant-null.so", "it has no name" },
                { "variant-unresolved.so", "undefined symbol: tetherd_call_of_the_future" },
                { "nothing.so", "it does not export tetherd_plugin" },
        };
        struct list plugins = LIST_INIT(plugins);
        const struct plugin *plugin = NULL;

        begin();
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char *why;

                ck_assert_int_eq(plugin_load(&plugins, object(rows[i].name), &plugin, &why), -ENOEXEC);
                if (sizeof(void *) == 8)
                        ck_assert_msg(strstr(why, rows[i].why), "%s: %s", rows[i].name, why);
                free(why);
        }
        ck_assert(list_is_empty(&plugins));
        ck_assert_ptr_null(plugin);
        finish();
}
END_TEST

UNIT_MAIN("plugin", test_object_header, test_object_mode, test_object_way, test_object_identity,
          test_plugin_load, test_plugin_of_an_older_header, test_plugin_refused)

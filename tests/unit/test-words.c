/*
 * What base/words promises: the grammar of commands and lists, join and split as inverses, specifiers that
 * cannot break out of their word or path, and where programs are found.
 */
#include "unit.h"

#include "base/words.h"
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

static void assert_strv(char *const *strv, const char *expected, const char *what)
{
        char shown[512] = "";

        for (size_t i = 0; strv[i]; i++)
                (void)snprintf(shown + strlen(shown), sizeof(shown) - strlen(shown), "<%s>", strv[i]);
        ck_assert_msg(streq(shown, expected), "%s: %s instead of %s", what, shown, expected);
}

static const struct {
        const char *text, *words, *list; /* NULL: as words */
} splits[] = {
        { "", "", NULL },
        { " \t ", "", NULL },
        { "/bin/true", "</bin/true>", NULL },
        { "  a  b\tc ", "<a><b><c>", NULL },
        { "\"a b\" 'c d'", "<a b><c d>", NULL },
        { "a\"b c\"d'e f'", "<ab cde f>", NULL },
        { "\"\" ''", "<><>", NULL },
        { "\"\\\"\\\\\\n\\t\"", "<\"\\\n\t>", NULL },
        { "'\\n\"'", "<\\n\">", NULL },
        { "a\\b", "<a\\b>", NULL },
        { "\"it's\"", "<it's>", NULL },
        { "%{a}x %i", "<%{a}x><%i>", NULL },
        { "a,b", "<a,b>", "<a><b>" },
        { ", a ,, b, ", "<,><a><,,><b,>", "<a><b>" },
        { "\"a, b\",c", "<a, b,c>", "<a, b><c>" },
};

START_TEST(test_split)
{
        for (size_t i = 0; i < ARRAY_SIZE(splits); i++) {
                _cleanup_strv_free_ char **words = NULL, **list = NULL;
                const char *reason = NULL;
                ck_assert_int_eq(words_split(splits[i].text, &words, &reason), 0);
                ck_assert_int_eq(list_split(splits[i].text, &list, &reason), 0);
                assert_strv(words, splits[i].words, splits[i].text);
                assert_strv(list, splits[i].list ? splits[i].list : splits[i].words, splits[i].text);
        }
}
END_TEST

START_TEST(test_split_faults)
{
        static const struct {
                const char *text, *reason;
        } rows[] = {
                { "\"a", "the double quote is not closed" },
                { "a 'b\"", "the single quote is not closed" },
                { "\"a\\\"", "the double quote is not closed" },
                { "\"\\x\"", "in double quotes a \\ stands only before \", \\, n or t" },
                { "\"\\", "in double quotes a \\ stands only before \", \\, n or t" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char **strv = NULL;
                const char *reason = NULL;
                ck_assert_int_eq(words_split(rows[i].text, &strv, &reason), -EINVAL);
                ck_assert_ptr_null(strv);
                ck_assert_str_eq(reason, rows[i].reason);
        }
}
END_TEST

START_TEST(test_join)
{
        static const char letters[] = "ab \"'\\\n\t\r,%{};";
        unsigned seed = 7;

        for (unsigned round = 0; round < 2000; round++) {
                _cleanup_strv_free_ char **words = NULL, **again = NULL;
                const char *reason;

                for (int n = rand_r(&seed) % 4; n > 0; n--) {
                        char word[8] = "";
                        for (int k = rand_r(&seed) % 8; k > 0; k--)
                                word[k - 1] = letters[(size_t)rand_r(&seed) % (sizeof(letters) - 1)];
                        ck_assert_int_eq(strv_append(&words, word), 0);
                }
                _cleanup_free_ char *joined = words_join(words);
                ck_assert_int_eq(words_split(joined, &again, &reason), 0);
                ck_assert_uint_eq(strv_length(words), strv_length(again));
                for (size_t i = 0; words && words[i]; i++)
                        ck_assert_str_eq(words[i], again[i]);
        }
}
END_TEST

START_TEST(test_strv)
{
        _cleanup_strv_free_ char **strv = NULL;

        ck_assert_uint_eq(strv_length(NULL), 0);
        ck_assert_ptr_null(strv_free(NULL));
        ck_assert_int_eq(strv_appendf(&strv, "%s=%d", "a", 1), 0);
        ck_assert_int_eq(strv_append_take(&strv, strdup("b")), 0);
        ck_assert_int_eq(strv_append_take(&strv, NULL), -ENOMEM);
        assert_strv(strv, "<a=1><b>", "strv");
        ck_assert(strv_contains(strv, "b") && !strv_contains(strv, "a") && !strv_contains(NULL, "a"));
}
END_TEST

/* ---- specifiers ---- */

static const char *resolve(void *userdata, char letter, const char *name)
{
        ck_assert_ptr_eq(userdata, &splits);
        ck_assert((letter == '{') == (name != NULL));
        switch (letter) {
        case 'i':
                return "1f";
        case 'h':
                return "";
        case 'l':
                return "-x";
        case 'a':
                return ".";
        case '{':
                return streq(name, "path") ? "/a b"
                       : streq(name, "up") ? "x..y"
                       : streq(name, "%i") ? "raw%i"
                                           : NULL;
        default:
                return NULL;
        }
}

START_TEST(test_specifiers)
{
        enum { NONE = 0, WORD = SPECIFIER_WORD, PATH = SPECIFIER_PATH };
        static const struct {
                const char *text;
                unsigned flags;
                const char *expanded, *reason;
        } rows[] = {
                { "", WORD, "", NULL },
                { "plain", WORD | PATH, "plain", NULL },
                { "%i", WORD, "1f", NULL },
                { "/run/%i/x-%i", PATH, "/run/1f/x-1f", NULL },
                { "100%%", NONE, "100%", NULL },
                { "%%i", NONE, "%i", NULL },
                { "%{path}", WORD, "/a b", NULL },
                { "%{%i}", NONE, "raw%i", NULL },
                { "%h", NONE, "", NULL },
                { "--id=%h", WORD, "--id=", NULL },
                { "x%l", WORD, "x-x", NULL },
                { "%i%h%l", WORD, "1f-x", NULL },
                { "%h", WORD, NULL, "%h is empty" },
                { "%l", WORD, NULL, "%l begins with '-'" },
                { "%l", NONE, "-x", NULL },
                { "/r/%{path}", PATH, NULL, "%{path} has a '/' or \"..\" in it" },
                { "/r/%{up}", PATH, NULL, "%{up} has a '/' or \"..\" in it" },
                { "%h", PATH, NULL, "%h is empty" },
                { "/r/%h", PATH, NULL, "%h is empty" },
                { "/r/%h/x", PATH, NULL, "%h is empty" },
                { "/r/%h%i", PATH, NULL, "%h is empty" },
                { "/r/a%h", PATH, "/r/a", NULL },
                { "/r/%i%h", PATH, "/r/1f", NULL },
                { "/r/%a%a", PATH, NULL, "the path has a component . or .." },
                { "/r/.%a/x", PATH, NULL, "the path has a component . or .." },
                { "/r/%a", PATH, NULL, "the path has a component . or .." },
                { "./%i", PATH, NULL, "the path has a component . or .." },
                { "/r/%a%i/...", PATH, "/r/.1f/...", NULL },
                { "%q", NONE, NULL, "%q is not known here" },
                { "%{none}", NONE, NULL, "%{none} is not known here" },
                { "%{}", NONE, NULL, "%{} is not known here" },
                { "a %{path", NONE, NULL, "%{ is not closed" },
                { "a %", NONE, NULL, "a single % at the end; %% stands for it" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char *expanded = NULL, *reason = NULL;
                int r = specifier_expand(rows[i].text, rows[i].flags, resolve, (void *)(uintptr_t)&splits,
                                         &expanded, &reason);
                ck_assert_msg(r == (rows[i].expanded ? 0 : -EINVAL), "%s", rows[i].text);
                ck_assert_pstr_eq(expanded, rows[i].expanded);
                ck_assert_pstr_eq(reason, rows[i].reason);
                free(expanded);
                free(reason);
        }
}
END_TEST

START_TEST(test_program_find)
{
        char folder[] = "/tmp/test-words-XXXXXX", path[64], *found = NULL;

        ck_assert_ptr_nonnull(mkdtemp(folder));
        (void)snprintf(path, sizeof(path), "%s/program", folder);
        ck_assert_int_eq(program_find(path, &found), -ENOENT);
        (void)fd_close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
        ck_assert_int_eq(program_find(path, &found), -EACCES);
        ck_assert_int_eq(program_find(folder, &found), -EACCES);
        ck_assert_int_eq(program_find("", &found), -EINVAL);
        ck_assert_int_eq(program_find("bin/sh", &found), -EINVAL);
        ck_assert_int_eq(program_find("./sh", &found), -EINVAL);
        ck_assert_int_eq(program_find("no-such-program-anywhere", &found), -ENOENT);
        ck_assert_ptr_null(found);

        ck_assert_int_eq(chmod(path, 0700), 0);
        ck_assert_int_eq(program_find(path, &found), 0);
        ck_assert_str_eq(found, path);
        free(found);
        (void)setenv("PATH", folder, 1); /* ours does not count */
        ck_assert_int_eq(program_find("program", &found), -ENOENT);
        ck_assert_int_eq(program_find("sh", &found), 0);
        ck_assert_msg(found[0] == '/' && access(found, X_OK) == 0, "%s", found);
        free(found);
        (void)unlink(path);
        (void)rmdir(folder);
}
END_TEST

UNIT_MAIN("words", test_split, test_split_faults, test_join, test_strv, test_specifiers, test_program_find)

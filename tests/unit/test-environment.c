/*
 * What resource/environment promises: every specifier, the exact environment of commands at load and at
 * release, and the fields of a ledger record.
 */
#include "claims.h"

#include <pwd.h>

static void forget(struct claim *claim _unused_)
{
}

static int save(const struct claim *claim _unused_, char ***fields _unused_)
{
        return 0;
}

static const struct resource_type type = { .name = "fake", .forget = forget, .save = save };

static void assert_same(char *const *strv, const char *const *expected)
{
        size_t n = 0;

        for (; expected[n]; n++) {
                ck_assert_msg(strv[n], "%s is missing", expected[n]);
                ck_assert_str_eq(strv[n], expected[n]);
        }
        ck_assert_ptr_null(strv[n]);
}

START_TEST(test_specifiers)
{
        static const struct {
                char letter;
                const char *name, *ip4, *ip6, *unix_socket;
        } rows[] = {
                { 'i', NULL, "6421f0a3b7c01", "6421f0a3b7c01", "6421f0a3b7c01" },
                { 'l', NULL, "presence", "presence", "presence" },
                { 'a', NULL, "192.0.2.7", "2001:db8::7", "unix" },
                { 'p', NULL, "51514", "443", "" },
                { 'h', NULL, "alice", "alice", "alice" },
                { '{', "first", "one", "one", "one" },
                { '{', "second", NULL, NULL, NULL }, /* not loaded */
                { '{', "third", NULL, NULL, NULL },  /* its own */
                { '{', "fourth", NULL, NULL, NULL },
                { '{', "", NULL, NULL, NULL },
                { 'c', NULL, NULL, NULL, NULL },
                { 'q', NULL, NULL, NULL, NULL },
        };
        struct claim *claim = claims_open(&type);
        const struct address remotes[] = {
                lease->subject.remote,
                ip_address("2001:db8::7", 443),
                { .family = AF_UNIX },
        };

        claim->value = strdup("of its own");
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
                for (size_t kind = 0; kind < ARRAY_SIZE(remotes); kind++) {
                        const char *const expected[] = { rows[i].ip4, rows[i].ip6, rows[i].unix_socket };

                        lease->subject.remote = remotes[kind];
                        const char *value = claim_specifier(claim, rows[i].letter, rows[i].name);
                        ck_assert_pstr_eq(value, expected[kind]);
                }
        claims_close();
}
END_TEST

/* A lease of the ledger has claims without a name, those that were never begun. */
START_TEST(test_claims_without_name)
{
        struct claim *claim = claims_open(&type);
        char **environment = NULL, *reason = NULL;

        free(lease->claims[1].name);
        lease->claims[1].name = NULL;
        ck_assert_ptr_null(claim_specifier(claim, '{', "second"));
        ck_assert_int_eq(claim_environment(claim, NULL, "u", "/h", &environment, &reason), 0);
        strv_free(environment);
        claims_close();
}
END_TEST

START_TEST(test_environment)
{
        static const char *const expected[] = {
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LANG=de_DE.UTF-8",
                "HOME=/home/web",
                "USER=web",
                "COLOUR=blue-alice",
                "EMPTY=",
                "TETHERD_CONNECTION=6421f0a3b7c01",
                "TETHERD_LISTENER=presence",
                "TETHERD_RESOURCE=third",
                "TETHERD_REMOTE_ADDRESS=192.0.2.7",
                "TETHERD_REMOTE_PORT=51514",
                "TETHERD_LOCAL_ADDRESS=2001:db8::1",
                "TETHERD_LOCAL_PORT=7400",
                "TETHERD_IDENTITY=alice",
                "TETHERD_VALUE_FIRST=one",
                NULL,
        };
        char *const extra[] = { (char *)"COLOUR=blue-%h", (char *)"EMPTY=", NULL };
        struct claim *claim = claims_open(&type);
        char **environment = NULL, *reason = NULL;

        ck_assert_int_eq(setenv("LANG", "de_DE.UTF-8", 1), 0);
        ck_assert_int_eq(claim_environment(claim, extra, "web", "/home/web", &environment, &reason), 0);
        assert_same(environment, expected);
        strv_free(environment);
        claims_close();
}
END_TEST

START_TEST(test_environment_overridden)
{
        /* The administrator's PATH counts, once; what is ours stays ours. */
        char *const extra[] = { (char *)"PATH=/opt/bin", (char *)"TETHERD_IDENTITY=mallory",
                                (char *)"PATHS=x", NULL };
        struct claim *claim = claims_open(&type);
        char **environment = NULL, *reason = NULL;
        unsigned n_paths = 0;

        ck_assert_int_eq(claim_environment(claim, extra, "u", "/h", &environment, &reason), 0);
        for (char **variable = environment; *variable; variable++)
                n_paths += startswith(*variable, "PATH=");
        ck_assert_uint_eq(n_paths, 1);
        ck_assert_str_eq(fields_get(environment, "PATH"), "/opt/bin");
        ck_assert_str_eq(fields_get(environment, "PATHS"), "x");
        ck_assert_str_eq(fields_get(environment, "TETHERD_IDENTITY"), "alice");
        strv_free(environment);
        claims_close();
}
END_TEST

START_TEST(test_environment_of_the_daemon)
{
        const struct passwd *entry = getpwuid(geteuid());
        struct claim *claim = claims_open(&type);

        ck_assert_ptr_nonnull(entry);
        for (int i = 0; i < 2; i++) {
                char **environment = NULL, *reason = NULL;

                ck_assert_int_eq(i == 0 ? unsetenv("LANG") : setenv("LANG", "", 1), 0);
                ck_assert_int_eq(claim_environment(claim, NULL, NULL, NULL, &environment, &reason), 0);
                ck_assert_str_eq(fields_get(environment, "USER"), entry->pw_name);
                ck_assert_str_eq(fields_get(environment, "HOME"), entry->pw_dir);
                ck_assert_str_eq(fields_get(environment, "LANG"), "C.UTF-8");
                strv_free(environment);
        }
        claims_close();
}
END_TEST

START_TEST(test_environment_on_unix_sockets)
{
        struct claim *claim = claims_open(&type);
        char **environment = NULL, *reason = NULL;

        lease->subject.remote = (struct address){ .family = AF_UNIX };
        lease->subject.local = (struct address){ .family = AF_UNSPEC };
        free(lease->subject.identity);
        lease->subject.identity = strdup("");
        ck_assert_int_eq(claim_environment(claim, NULL, "u", "/h", &environment, &reason), 0);
        ck_assert_str_eq(fields_get(environment, "TETHERD_REMOTE_ADDRESS"), "unix");
        ck_assert_str_eq(fields_get(environment, "TETHERD_REMOTE_PORT"), "");
        ck_assert_str_eq(fields_get(environment, "TETHERD_LOCAL_ADDRESS"), "");
        ck_assert_str_eq(fields_get(environment, "TETHERD_LOCAL_PORT"), "");
        ck_assert_str_eq(fields_get(environment, "TETHERD_IDENTITY"), "");
        strv_free(environment);
        claims_close();
}
END_TEST

START_TEST(test_environment_refused)
{
        char *const extra[] = { (char *)"COLOUR=%{third}", NULL };
        struct claim *claim = claims_open(&type);
        char **environment = NULL, *reason = NULL;

        ck_assert_int_eq(claim_environment(claim, extra, "u", "/h", &environment, &reason),
                         RESOURCE_E_INVALID);
        ck_assert_ptr_null(environment);
        ck_assert_str_eq(reason, "%{third} is not known here");
        free(reason);
        claims_close();
}
END_TEST

START_TEST(test_phases)
{
        static const char *const at_load[] = { "A=b", "TETHERD_PHASE=load", NULL };
        static const char *const at_release[] = {
                "A=b",
                "TETHERD_PHASE=release",
                "TETHERD_VALUE=its value",
                "TETHERD_CAUSE=reset",
                "TETHERD_OPERATION=receive",
                "TETHERD_ERRNO=104",
                "TETHERD_DURATION_USEC=182100000",
                "TETHERD_BYTES_RECEIVED=120",
                "TETHERD_BYTES_SENT=7",
                "TETHERD_RECOVERED=0",
                NULL,
        };
        static const char *const after_a_crash[] = {
                "A=b",
                "TETHERD_PHASE=release",
                "TETHERD_VALUE=",
                "TETHERD_CAUSE=orphaned",
                "TETHERD_OPERATION=",
                "TETHERD_ERRNO=0",
                "TETHERD_DURATION_USEC=",
                "TETHERD_BYTES_RECEIVED=0",
                "TETHERD_BYTES_SENT=0",
                "TETHERD_RECOVERED=1",
                NULL,
        };
        char *const base[] = { (char *)"A=b", NULL };
        struct claim *claim = claims_open(&type);
        char **environment = NULL;

        ck_assert_int_eq(claim_phase_environment(claim, base, "load", &environment), 0);
        assert_same(environment, at_load);
        environment = strv_free(environment);

        claim->value = strdup("its value");
        lease->ending = (struct event_ending){
                .cause = "reset",
                .operation = "receive",
                .error = ECONNRESET,
                .duration_usec = 182100000,
                .bytes_received = 120,
                .bytes_sent = 7,
        };
        ck_assert_int_eq(claim_phase_environment(claim, base, "release", &environment), 0);
        assert_same(environment, at_release);
        environment = strv_free(environment);

        free(TAKE_PTR(claim->value));
        lease->is_recovered = true;
        lease->ending = (struct event_ending){ .cause = "orphaned", .duration_usec = USEC_INFINITY };
        ck_assert_int_eq(claim_phase_environment(claim, base, "release", &environment), 0);
        assert_same(environment, after_a_crash);
        strv_free(environment);
        claims_close();
}
END_TEST

START_TEST(test_fields)
{
        static const struct {
                const char *name;
                int result;
                uint64_t value;
        } rows[] = {
                { "zero", 0, 0 },        { "most", 0, UINT64_MAX }, { "absent", -ENOENT, 0 },
                { "most_", -ENOENT, 0 }, { "empty", -EINVAL, 0 },   { "minus", -EINVAL, 0 },
                { "plus", -EINVAL, 0 },  { "blank", -EINVAL, 0 },   { "letters", -EINVAL, 0 },
                { "more", -EINVAL, 0 },  { "much", -EINVAL, 0 },
        };
        char *const fields[] = {
                (char *)"zero=0",
                (char *)"most=18446744073709551615",
                (char *)"empty=",
                (char *)"minus=-1",
                (char *)"plus=+1",
                (char *)"blank= 1",
                (char *)"letters=1a",
                (char *)"more=1 ",
                (char *)"much=18446744073709551616",
                (char *)"zero=2",
                NULL,
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                uint64_t value = 77;

                ck_assert_int_eq(fields_get_u64(fields, rows[i].name, &value), rows[i].result);
                ck_assert_uint_eq(value, rows[i].result == 0 ? rows[i].value : 77);
        }
        ck_assert_str_eq(fields_get(fields, "zero"), "0");
        ck_assert_ptr_null(fields_get(fields, "zer"));
        ck_assert_ptr_null(fields_get(NULL, "zero"));
}
END_TEST

UNIT_MAIN("environment", test_specifiers, test_claims_without_name, test_environment,
          test_environment_overridden, test_environment_of_the_daemon, test_environment_on_unix_sockets,
          test_environment_refused, test_phases, test_fields)

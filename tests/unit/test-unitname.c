/*
 * What base/unitname promises: systemd-escape(1), byte for byte (the story unit_resource asks that itself), and what
 * is no name of a unit.
 */
#include "unit.h"

#include "base/unitname.h"

START_TEST(test_escape)
{
        static const char *const rows[][2] = {
                { "", "" },
                { "abcXYZ019", "abcXYZ019" },
                { "6421f0a3b7c01", "6421f0a3b7c01" },
                { "a:b_c.d", "a:b_c.d" },
                { "a@b", "a\\x40b" },
                { "a-b", "a\\x2db" },
                { "-", "\\x2d" },
                { ".hidden", "\\x2ehidden" },
                { "a.b.", "a.b." },
                { "..", "\\x2e." },
                { "a b", "a\\x20b" },
                { "a\\b", "a\\x5cb" },
                { "a/b", "a-b" },
                { "/", "-" },
                { "\xc3\xbc", "\\xc3\\xbc" },
                { "\x01\x7f\xff", "\\x01\\x7f\\xff" },
                { "50%~", "50\\x25\\x7e" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char *escaped = unit_name_escape(rows[i][0]);

                ck_assert_str_eq(escaped, rows[i][1]);
                free(escaped);
        }
}
END_TEST

START_TEST(test_names)
{
        static const struct {
                const char *name, *fault;
        } rows[] = {
                { "a.service", NULL },
                { "session@x.service", NULL },
                { "session@a\\x40b.service", NULL },
                { "a-b:c_d.e@f@g.timer", NULL },
                { "a.socket", NULL },
                { "a.target", NULL },
                { "a.mount", NULL },
                { "a.automount", NULL },
                { "a.swap", NULL },
                { "a.path", NULL },
                { "a.slice", NULL },
                { "a.scope", "cannot be started" },
                { "dev-x.device", "cannot be started" },
                { "a", "does not end in" },
                { "a.conf", "does not end in" },
                { "a.Service", "does not end in" },
                { "a.service.d", "does not end in" },
                { "", "does not end in" },
                { "a b.service", "has a character" },
                { "a/b.service", "has a character" },
                { "a%.service", "has a character" },
                { "a\n.service", "has a character" },
                { "\xc3\xbc.service", "has a character" },
                { ".service", "no name before" },
                { "@x.service", "no name before" },
                { "session@.service", "has no instance" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                const char *fault = unit_name_fault(rows[i].name);

                if (rows[i].fault)
                        ck_assert_msg(fault && strstr(fault, rows[i].fault), "%s: %s", rows[i].name,
                                      fault ? fault : "nothing");
                else
                        ck_assert_msg(!fault, "%s: %s", rows[i].name, fault);
        }
}
END_TEST

START_TEST(test_length)
{
        char name[UNIT_NAME_MAX + 2];

        memset(name, 'x', sizeof(name));
        (void)strcpy(name + UNIT_NAME_MAX - strlen(".service"), ".service");
        ck_assert_uint_eq(strlen(name), UNIT_NAME_MAX);
        ck_assert_ptr_null(unit_name_fault(name));
        memset(name, 'x', UNIT_NAME_MAX);
        (void)strcpy(name + UNIT_NAME_MAX + 1 - strlen(".service"), ".service");
        ck_assert_str_eq(unit_name_fault(name), "it is longer than 255 characters");
}
END_TEST

UNIT_MAIN("unitname", test_escape, test_names, test_length)

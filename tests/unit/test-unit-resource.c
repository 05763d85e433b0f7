/*
 * What resource/unit promises, with a bus that the test plays: each answer and signal in each order, names, records,
 * and a bus that is lost in every moment. The real one, with a real systemd, is in the story unit_resource.
 */
#include "claims.h"

#include "random.h"
#include "service/bus.h"

/* ---- the bus ---- */

static struct bus *bus;
static const char *absence;
static bool is_awake;
static int is_there; /* what a slot points to */

void bus_init(struct bus *new_bus, struct loop *its_loop, const struct bus_callbacks *callbacks)
{
        *new_bus = (struct bus){ .loop = its_loop, .callbacks = callbacks };
        list_init(&new_bus->waiting);
        bus = new_bus;
}

void bus_deinit(struct bus *old_bus)
{
        ck_assert(list_is_empty(&old_bus->waiting));
        bus = NULL;
}

void bus_wake(struct bus *waking_bus)
{
        ck_assert_ptr_eq(waking_bus, bus);
        is_awake = true;
}

const char *bus_absence(const struct bus *absent_bus _unused_)
{
        return absence;
}

void bus_call_init(struct bus_call *call)
{
        *call = (struct bus_call){ 0 };
        list_init(&call->link);
}

void bus_ask(struct bus *asked_bus, struct bus_call *call, enum bus_request request, const char *unit,
             const char *mode, bus_answered_fn answered)
{
        ck_assert_ptr_null(call->bus);
        call->bus = asked_bus;
        call->request = request;
        call->unit = unit;
        call->mode = mode;
        call->answered = answered;
        list_append(&asked_bus->waiting, &call->link);
}

void bus_call_cancel(struct bus_call *call)
{
        list_unlink(&call->link);
        call->slot = NULL;
        call->bus = NULL;
}

/* The one thing that is asked, which is `request` of this unit; it is sent. */
static struct bus_call *asked(enum bus_request request, const char *unit)
{
        ck_assert(!list_is_empty(&bus->waiting));
        ck_assert_ptr_eq(bus->waiting.next, bus->waiting.prev);

        struct bus_call *call = container_of(bus->waiting.next, struct bus_call, link);

        ck_assert_int_eq(call->request, request);
        ck_assert_str_eq(call->unit, unit);
        if (request != BUS_LOOK)
                ck_assert_ptr_nonnull(call->mode);
        call->slot = (struct sd_bus_slot *)&is_there;
        return call;
}

static void answer(struct bus_call *call, const struct bus_answer *answer)
{
        bus_call_cancel(call);
        call->answered(call, answer);
}

#define UNIT_NAME "session@one.service"

static void answer_job(enum bus_request request, uint32_t job)
{
        answer(asked(request, UNIT_NAME), &(struct bus_answer){ .job = job });
}

static void answer_error(enum bus_request request, enum bus_outcome outcome)
{
        answer(asked(request, UNIT_NAME), &(struct bus_answer){ .outcome = outcome, .reason = "the reason" });
}

/* `job_type`: "" where there is no job. */
static void answer_look(const char *active_state, const char *job_type)
{
        answer(asked(BUS_LOOK, UNIT_NAME), &(struct bus_answer){ .name = UNIT_NAME,
                                                                 .active_state = active_state,
                                                                 .job = *job_type ? 8 : 0,
                                                                 .job_type = job_type });
}

static void assert_nothing_asked(void)
{
        ck_assert(list_is_empty(&bus->waiting));
}

static void tell_removed(uint32_t job, const char *result)
{
        bus->callbacks->job_removed(bus, job, UNIT_NAME, result);
}

static void tell_state(const char *active_state)
{
        bus->callbacks->unit_changed(bus, UNIT_NAME, active_state);
}

/* ---- a claim ---- */

static struct claim *unit_open(enum on_exit on_exit)
{
        struct claim *claim = claims_open(&resource_type_unit);

        absence = NULL;
        config.kind = RESOURCE_UNIT;
        config.unit = (char *)"session@%{first}.service";
        config.on_exit = on_exit;
        claims_prepare(claim);
        return claim;
}

static void unit_close(void)
{
        for (size_t i = 0; i < lease->n_claims; i++)
                resource_type_unit.forget(&lease->claims[i]);
        resource_type_unit.deinit(&leases);
        claims_close();
}

static struct claim *unit_start(enum on_exit on_exit)
{
        struct claim *claim = unit_open(on_exit);

        resource_type_unit.load(claim);
        ck_assert_uint_eq(seen.n_said, 0);
        ck_assert_str_eq(asked(BUS_START, UNIT_NAME)->mode, "replace");
        return claim;
}

static struct claim *unit_hold(enum on_exit on_exit)
{
        struct claim *claim = unit_start(on_exit);

        answer_job(BUS_START, 7);
        tell_state("activating");
        tell_state("active");
        ck_assert_uint_eq(seen.n_said, 0);
        tell_removed(7, "done");
        ck_assert_int_eq(seen.said, LOADED);
        ck_assert_str_eq(seen.text, UNIT_NAME);
        assert_nothing_asked();
        return claim;
}

static void assert_failed(bool is_said, const char *reason)
{
        ck_assert_uint_eq(seen.n_said, 1);
        ck_assert_int_eq(seen.said, LOAD_FAILED);
        ck_assert_int_eq(seen.is_said, is_said);
        ck_assert_msg(strstr(seen.text, reason), "%s: %s", reason, seen.text);
        assert_nothing_asked();
}

/* ---- names ---- */

START_TEST(test_names)
{
        static const struct {
                const char *template, *value, *name, *fault;
        } rows[] = {
                { "session@%i.service", "", "session@6421f0a3b7c01.service", NULL },
                { "session@%h.service", "", "session@alice.service", NULL },
                { "a-b@%{first}.socket", "a@b-c", "a-b@a\\x40b\\x2dc.socket", NULL },
                { "s@x-%{first}:%{first}.service", ".a b", "s@x-\\x2ea\\x20b:\\x2ea\\x20b.service", NULL },
                { "s-%{first}.slice", "a", "s-a.slice", NULL },
                { "s@%{first}.service", "a/b", NULL, "'/'" },
                { "s@%{first}.service", "/", NULL, "'/'" },
                { "s@%{first}.service", "a..b", NULL, "\"..\"" },
                { "s@%{first}.service", "", NULL, "has no instance" },
                { "s@%{second}.service", "", NULL, "not known" },
                { "%{first}.service", "", NULL, "is empty" },
                { "s@%{first}", "x.scope", NULL, "cannot be started" },
                { "s@%{first}", "x", NULL, "does not end in" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct claim *claim = claims_open(&resource_type_unit);
                char *reason = NULL;

                free(lease->claims[0].value);
                lease->claims[0].value = strdup(rows[i].value);
                config.unit = (char *)rows[i].template;
                int r = resource_type_unit.prepare(claim, &reason);
                if (rows[i].name) {
                        ck_assert_msg(r == 0, "%s: %s", rows[i].template, reason ? reason : "");
                        resource_type_unit.load(claim);
                        (void)asked(BUS_START, rows[i].name);
                } else {
                        ck_assert_int_eq(r, RESOURCE_E_INVALID);
                        ck_assert_msg(reason && strstr(reason, rows[i].fault), "%s: %s", rows[i].fault,
                                      reason);
                        ck_assert_ptr_null(claim->data);
                }
                free(reason);
                unit_close();
        }
}
END_TEST

START_TEST(test_long_names)
{
        for (size_t length = 238; length <= 241; length++) {
                struct claim *claim = claims_open(&resource_type_unit);
                char *value = calloc(1, length + 1), *reason = NULL;

                ck_assert_ptr_nonnull(value);
                memset(value, 'x', length);
                free(lease->claims[0].value);
                lease->claims[0].value = value;
                config.unit = (char *)"session@%{first}.service"; /* 16 characters of its own */
                int r = resource_type_unit.prepare(claim, &reason);
                ck_assert_int_eq(r, length <= 239 ? 0 : RESOURCE_E_INVALID);
                if (r != 0)
                        ck_assert_ptr_nonnull(strstr(reason, "longer than 255"));
                free(reason);
                unit_close();
        }
}
END_TEST

START_TEST(test_modes)
{
        static const char *const modes[] = { "replace", "fail", "ignore-dependencies",
                                             "ignore-requirements" };

        for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
                struct claim *claim = claims_open(&resource_type_unit);

                config.unit = (char *)"session@%{first}.service";
                config.job_mode = (enum job_mode)i;
                claims_prepare(claim);
                resource_type_unit.load(claim);
                ck_assert_str_eq(asked(BUS_START, UNIT_NAME)->mode, modes[i]);
                answer_job(BUS_START, 1);
                tell_removed(1, "done");
                resource_type_unit.release(claim);
                ck_assert_str_eq(asked(BUS_STOP, UNIT_NAME)->mode, "replace");
                unit_close();
        }
}
END_TEST

/* The later one fails, and is not released, or that would stop the first one's. */
START_TEST(test_same_name)
{
        struct claim *claim = unit_hold(ON_EXIT_CLOSE), *other = &lease->claims[1];
        char *reason = NULL;

        ck_assert_int_eq(resource_type_unit.prepare(other, &reason), RESOURCE_E_INVALID);
        ck_assert_str_eq(reason, "connection 6421f0a3b7c01 holds " UNIT_NAME);
        free(TAKE_PTR(reason));

        resource_type_unit.release(claim);
        answer_job(BUS_STOP, 9);
        ck_assert_int_eq(resource_type_unit.prepare(other, &reason), RESOURCE_E_INVALID);
        free(TAKE_PTR(reason));
        tell_removed(9, "done");
        ck_assert_int_eq(seen.said, RELEASED);
        claims_prepare(other); /* it is free as soon as it is stopped */
        unit_close();
}
END_TEST

static bool is_held(void)
{
        struct claim *other = &lease->claims[1];
        char *reason = NULL;
        int r = resource_type_unit.prepare(other, &reason);

        free(reason);
        resource_type_unit.forget(other);
        return r == RESOURCE_E_INVALID;
}

/* A load of which nothing is left holds no name, however long its lease lives on; one that is released does. */
START_TEST(test_name_of_a_failed_load)
{
        for (int is_released = 0; is_released <= 1; is_released++) {
                struct claim *claim = unit_start(ON_EXIT_CLOSE);

                config.on_load_failure = is_released ? LOAD_FAILURE_RELEASE : LOAD_FAILURE_NOTHING;
                ck_assert(is_held());
                answer_error(BUS_START, BUS_REFUSED);
                ck_assert_int_eq(seen.said, LOAD_FAILED);
                ck_assert_int_eq(is_held(), is_released);
                if (is_released) {
                        resource_type_unit.release(claim);
                        answer_error(BUS_STOP, BUS_NO_UNIT);
                        ck_assert_int_eq(seen.said, RELEASED);
                        ck_assert(!is_held());
                }
                unit_close();
        }

        resource_type_unit.drop(unit_open(ON_EXIT_CLOSE)); /* it was not begun */
        ck_assert(!is_held());
        unit_close();
}
END_TEST

/* ---- loading ---- */

START_TEST(test_start)
{
        (void)unit_hold(ON_EXIT_CLOSE);
        unit_close();

        /* Its job's end is told before its number. */
        (void)unit_start(ON_EXIT_KEEP);
        tell_removed(6, "failed"); /* somebody else's */
        tell_removed(7, "done");
        answer_job(BUS_START, 7);
        ck_assert_int_eq(seen.said, LOADED);
        unit_close();

        /* Another job of this unit ends meanwhile. */
        (void)unit_start(ON_EXIT_KEEP);
        answer_job(BUS_START, 7);
        tell_removed(6, "canceled");
        ck_assert_uint_eq(seen.n_said, 0);
        tell_removed(7, "done");
        tell_removed(7, "done");
        ck_assert_uint_eq(seen.n_said, 1);
        unit_close();
}
END_TEST

START_TEST(test_start_refused)
{
        static const struct {
                enum bus_outcome outcome;
                const char *reason;
        } rows[] = {
                { BUS_REFUSED, UNIT_NAME " cannot be started: the reason" },
                { BUS_NO_UNIT, UNIT_NAME " cannot be started: the reason" },
                { BUS_DENIED, "polkit does not let us start " UNIT_NAME
                              " (the reason): see /etc/polkit-1/rules.d/50-tetherd.rules" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                (void)unit_start(ON_EXIT_CLOSE);
                answer_error(BUS_START, rows[i].outcome);
                assert_failed(true, rows[i].reason);
                unit_close();
        }
}
END_TEST

/* It says that it failed if nothing is left; what may come up yet is released. */
START_TEST(test_start_job_fails)
{
        static const struct {
                const char *result, *text, *state, *job_type;
                bool is_said;
        } rows[] = {
                { "failed", " failed", "failed", "", true },
                { "failed", " failed", "inactive", "", true },
                { "failed", " failed", "activating", "", false }, /* Restart= */
                { "failed", " failed", "failed", "start", false },
                { "dependency", "something that it depends on", "inactive", "", true },
                { "timeout", "timed out", "activating", "", false },
                { "canceled", "was canceled", "inactive", "stop", true },
                { "canceled", "was canceled", "deactivating", "stop", false },
                { "canceled", "was canceled", "active", "", false },
                { "skipped", "does not apply", "inactive", "", true },
                { "invalid", "not valid", "inactive", "", true },
                { "assert", "assertion", "inactive", "", true },
                { "unsupported", "not supported", "inactive", "", true },
                { "collected", "went with the unit", "inactive", "", true },
                { "once", "only once", "inactive", "", true },
                { "a-new-word", "did not succeed", "inactive", "", true },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                (void)unit_start(ON_EXIT_CLOSE);
                answer_job(BUS_START, 7);
                tell_removed(7, rows[i].result);
                answer_look(rows[i].state, rows[i].job_type);
                assert_failed(rows[i].is_said, rows[i].text);
                unit_close();
        }
        (void)unit_start(ON_EXIT_CLOSE);
        answer_job(BUS_START, 7);
        tell_removed(7, "failed");
        answer_error(BUS_LOOK, BUS_LOST);
        answer_error(BUS_LOOK, BUS_REFUSED);
        assert_failed(false, "the start job of " UNIT_NAME " failed");
        unit_close();
}
END_TEST

/* Nobody knows whether the start was done. */
START_TEST(test_start_lost)
{
        static const struct {
                const char *state, *job_type;
                int is_said; /* of a load that failed; -1: it is loaded, -2: asked again, -3: its job goes on */
        } rows[] = {
                { "active", "", -1 },          { "reloading", "", -1 },    { "inactive", "", -2 },
                { "failed", "", -2 },          { "inactive", "stop", -2 }, { "inactive", "start", -3 },
                { "activating", "start", -3 }, { "activating", "", 0 },    { "deactivating", "", 0 },
                { "deactivating", "stop", 0 }, { "maintenance", "", 0 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                (void)unit_start(ON_EXIT_KEEP);
                answer_error(BUS_START, BUS_LOST);
                bus->callbacks->came(bus, false);
                answer_look(rows[i].state, rows[i].job_type);
                if (rows[i].is_said == -1) {
                        ck_assert_int_eq(seen.said, LOADED);
                } else if (rows[i].is_said == -2) {
                        (void)asked(BUS_START, UNIT_NAME);
                } else if (rows[i].is_said == -3) {
                        assert_nothing_asked();
                        tell_removed(8, "done");
                        ck_assert_int_eq(seen.said, LOADED);
                } else {
                        assert_failed(rows[i].is_said, rows[i].state);
                }
                unit_close();
        }
}
END_TEST

/* Its job's end was perhaps told while nobody heard. */
START_TEST(test_start_job_lost)
{
        static const struct {
                const char *state, *job_type;
                int is_said; /* as above */
        } rows[] = {
                { "active", "", -1 },      { "inactive", "", -1 },        { "failed", "", 1 },
                { "activating", "", 0 },   { "activating", "start", -3 }, { "deactivating", "stop", 0 },
                { "inactive", "stop", 1 }, { "inactive", "start", -3 },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                (void)unit_start(ON_EXIT_KEEP);
                answer_job(BUS_START, 7);
                bus->callbacks->came(bus, false);
                tell_removed(7, "done"); /* it does not count twice */
                answer_error(BUS_LOOK, BUS_LOST);
                answer_look(rows[i].state, rows[i].job_type);
                if (rows[i].is_said == -3) {
                        assert_nothing_asked();
                        tell_removed(8, "done");
                }
                if (rows[i].is_said < 0)
                        ck_assert_int_eq(seen.said, LOADED);
                else
                        assert_failed(rows[i].is_said, rows[i].state);
                unit_close();
        }
}
END_TEST

START_TEST(test_no_bus)
{
        struct claim *claim = unit_open(ON_EXIT_CLOSE), *waits = &lease->claims[1], *sent = &lease->claims[0];

        absence = "Connection refused";
        resource_type_unit.load(claim);
        assert_failed(true, UNIT_NAME " cannot be started: no systemd on the system bus: Connection refused");
        resource_type_unit.release(claim); /* on_load_failure = release: there is nothing to be stopped */
        ck_assert_int_eq(seen.said, RELEASED);
        assert_nothing_asked();

        /* One that waits for it, and one that was asked for, when it is missed. */
        absence = NULL;
        claims_prepare(waits);
        config.unit = (char *)"sent@%i.service";
        claims_prepare(sent);
        resource_type_unit.load(sent);
        (void)asked(BUS_START, "sent@6421f0a3b7c01.service");
        resource_type_unit.load(waits);
        seen.n_said = 0;
        absence = "Connection refused";
        bus->callbacks->missed(bus);
        ck_assert_uint_eq(seen.n_messages, 1);
        ck_assert_uint_eq(seen.n_said, 1);
        ck_assert_int_eq(seen.said, LOAD_FAILED);
        ck_assert_int_eq(seen.is_said, true);
        (void)asked(BUS_START, "sent@6421f0a3b7c01.service"); /* still, and alone */
        absence = NULL;
        bus->callbacks->came(bus, true);
        ck_assert_uint_eq(seen.n_messages, 2);
        bus->callbacks->came(bus, false);
        ck_assert_uint_eq(seen.n_messages, 2);
        unit_close();
}
END_TEST

/* load_timeout in each state: it fails at once, and is released. */
START_TEST(test_load_stopped)
{
        /* Its start was never sent: there is nothing to be stopped. */
        struct claim *claim = unit_open(ON_EXIT_CLOSE);
        resource_type_unit.load(claim);
        resource_type_unit.stop(claim);
        assert_failed(false, "");
        resource_type_unit.release(claim);
        ck_assert_int_eq(seen.said, RELEASED);
        unit_close();

        /* It was, and is not answered yet: the stop may not come before it. */
        for (int is_answered = 0; is_answered < 2; is_answered++) {
                claim = unit_start(ON_EXIT_CLOSE);
                resource_type_unit.stop(claim);
                ck_assert_int_eq(seen.said, LOAD_FAILED);
                ck_assert(!seen.is_said);
                if (is_answered)
                        answer_job(BUS_START, 7);
                resource_type_unit.release(claim);
                ck_assert_uint_eq(seen.n_said, 1);
                if (!is_answered)
                        answer_error(BUS_START, BUS_LOST);
                answer_job(BUS_STOP, 9);
                tell_removed(7, "canceled");
                tell_removed(9, "done");
                ck_assert_int_eq(seen.said, RELEASED);
                ck_assert_uint_eq(seen.n_said, 2);
                unit_close();
        }

        claim = unit_start(ON_EXIT_CLOSE);
        answer_job(BUS_START, 7);
        resource_type_unit.stop(claim);
        assert_failed(false, "");
        tell_removed(7, "done"); /* late */
        ck_assert_uint_eq(seen.n_said, 1);
        resource_type_unit.release(claim);
        (void)asked(BUS_STOP, UNIT_NAME);
        unit_close();

        claim = unit_start(ON_EXIT_CLOSE);
        answer_job(BUS_START, 7);
        tell_removed(7, "failed");
        (void)asked(BUS_LOOK, UNIT_NAME);
        resource_type_unit.stop(claim);
        assert_failed(false, "");
        unit_close();
}
END_TEST

/* ---- loaded ---- */

START_TEST(test_lost)
{
        static const struct {
                const char *state, *job_type, *reason; /* NULL: it is not lost */
        } rows[] = {
                { "failed", "", UNIT_NAME " failed" },
                { "inactive", "", UNIT_NAME " is not active any more" },
                { "inactive", "stop", UNIT_NAME " is not active any more" },
                { "inactive", "start", NULL }, /* systemctl restart */
                { "activating", "", NULL },    /* Restart= */
                { "active", "", NULL },
                { "deactivating", "stop", NULL },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct claim *claim = unit_hold(ON_EXIT_CLOSE);

                tell_state("deactivating");
                assert_nothing_asked();
                tell_state(i % 2 ? "failed" : "inactive");
                tell_state("inactive"); /* one look is enough */
                answer_look(rows[i].state, rows[i].job_type);
                ck_assert_uint_eq(seen.n_lost, rows[i].reason != NULL);
                if (rows[i].reason)
                        ck_assert_str_eq(seen.lost_text, rows[i].reason);
                assert_nothing_asked();
                resource_type_unit.release(claim);
                answer_job(BUS_STOP, 9);
                tell_state("inactive");
                tell_removed(9, "done");
                ck_assert_int_eq(seen.said, RELEASED);
                unit_close();
        }
}
END_TEST

START_TEST(test_kept)
{
        (void)unit_hold(ON_EXIT_KEEP);
        tell_state("failed");
        bus->callbacks->came(bus, false);
        assert_nothing_asked();
        ck_assert_uint_eq(seen.n_lost, 0);
        unit_close();
}
END_TEST

/* Type=oneshot: it is down when its job is done. And one that was up before: nothing is heard of it. */
START_TEST(test_seen_at_start)
{
        (void)unit_start(ON_EXIT_CLOSE);
        answer_job(BUS_START, 7);
        tell_state("activating");
        tell_state("inactive");
        tell_removed(7, "done");
        ck_assert_int_eq(seen.said, LOADED);
        answer_look("inactive", "");
        ck_assert_uint_eq(seen.n_lost, 1);
        unit_close();

        (void)unit_start(ON_EXIT_CLOSE);
        answer_job(BUS_START, 7);
        tell_removed(7, "done");
        answer_look("active", "");
        ck_assert_uint_eq(seen.n_lost, 0);
        unit_close();

        /* What was heard before its start was asked for is of an earlier life of it. */
        struct claim *claim = unit_open(ON_EXIT_CLOSE);
        tell_state("active");
        resource_type_unit.load(claim);
        answer_job(BUS_START, 7);
        tell_removed(7, "done");
        answer_look("inactive", "");
        ck_assert_uint_eq(seen.n_lost, 1);
        unit_close();
}
END_TEST

START_TEST(test_bus_away_while_loaded)
{
        (void)unit_hold(ON_EXIT_CLOSE);
        bus->callbacks->came(bus, false);
        answer_error(BUS_LOOK, BUS_LOST);
        bus->callbacks->came(bus, false); /* it is asked already */
        answer_look("active", "");
        ck_assert_uint_eq(seen.n_lost, 0);
        bus->callbacks->came(bus, false);
        answer_error(BUS_LOOK, BUS_REFUSED); /* then nothing is known */
        ck_assert_uint_eq(seen.n_lost, 0);
        bus->callbacks->came(bus, false);
        answer_look("failed", "");
        ck_assert_uint_eq(seen.n_lost, 1);
        unit_close();
}
END_TEST

/* systemd names the unit itself in its signals. */
START_TEST(test_alias)
{
        static const char real[] = "real@one.service";
        struct claim *claim = unit_start(ON_EXIT_CLOSE);

        answer_job(BUS_START, 7);
        bus->callbacks->unit_changed(bus, real, "active");
        bus->callbacks->job_removed(bus, 7, real, "done");
        ck_assert_int_eq(seen.said, LOADED);
        answer(asked(BUS_LOOK, UNIT_NAME),
               &(struct bus_answer){ .name = real, .active_state = "active", .job_type = "" });
        bus->callbacks->unit_changed(bus, real, "failed");
        answer(asked(BUS_LOOK, UNIT_NAME),
               &(struct bus_answer){ .name = real, .active_state = "failed", .job_type = "" });
        ck_assert_uint_eq(seen.n_lost, 1);
        resource_type_unit.release(claim);
        answer_job(BUS_STOP, 9);
        bus->callbacks->job_removed(bus, 9, real, "done");
        ck_assert_int_eq(seen.said, RELEASED);
        unit_close();
}
END_TEST

/* ---- releasing ---- */

static struct claim *unit_release(void)
{
        struct claim *claim = unit_hold(ON_EXIT_CLOSE);

        seen.n_said = 0;
        resource_type_unit.release(claim);
        (void)asked(BUS_STOP, UNIT_NAME);
        return claim;
}

static void assert_released(enum said said, const char *reason)
{
        ck_assert_uint_eq(seen.n_said, 1);
        ck_assert_int_eq(seen.said, said);
        ck_assert_msg(strstr(seen.text, reason), "%s: %s", reason, seen.text);
        assert_nothing_asked();
}

START_TEST(test_release)
{
        (void)unit_release();
        tell_state("inactive");
        answer_error(BUS_STOP, BUS_NO_UNIT);
        assert_released(RELEASED, "");
        unit_close();

        (void)unit_release();
        answer_error(BUS_STOP, BUS_LOST);
        answer_job(BUS_STOP, 9);
        bus->callbacks->came(bus, false); /* it is asked again, its end may have been missed */
        tell_removed(9, "done");
        answer_job(BUS_STOP, 10);
        ck_assert_uint_eq(seen.n_said, 0);
        tell_removed(10, "done");
        assert_released(RELEASED, "");
        unit_close();

        (void)unit_release();
        tell_removed(9, "done");
        answer_job(BUS_STOP, 9);
        assert_released(RELEASED, "");
        unit_close();

        /* A look that is under way is of no interest any more. */
        struct claim *claim = unit_hold(ON_EXIT_CLOSE);
        tell_state("failed");
        (void)asked(BUS_LOOK, UNIT_NAME);
        resource_type_unit.release(claim);
        (void)asked(BUS_STOP, UNIT_NAME);
        unit_close();
}
END_TEST

START_TEST(test_release_fails)
{
        static const struct {
                const char *state, *job_type;
                enum said said;
        } rows[] = {
                { "inactive", "", RELEASED },
                { "failed", "", RELEASED },
                { "active", "", RELEASE_FAILED },
                { "deactivating", "", RELEASE_FAILED },
                { "inactive", "start", RELEASE_FAILED },
        };

        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                struct claim *claim = unit_release();

                answer_job(BUS_STOP, 9);
                tell_removed(9, "canceled");
                answer_look(rows[i].state, rows[i].job_type);
                assert_released(rows[i].said,
                                rows[i].said == RELEASED ? "" : "the stop job of " UNIT_NAME " was canceled");
                if (rows[i].said == RELEASE_FAILED) { /* once more */
                        resource_type_unit.release(claim);
                        answer_job(BUS_STOP, 10);
                        tell_removed(10, "done");
                        ck_assert_int_eq(seen.said, RELEASED);
                }
                unit_close();
        }
        (void)unit_release();
        answer_error(BUS_STOP, BUS_DENIED);
        assert_released(RELEASE_FAILED, "polkit does not let us stop " UNIT_NAME " (the reason): see ");
        unit_close();
        (void)unit_release();
        answer_error(BUS_STOP, BUS_REFUSED);
        assert_released(RELEASE_FAILED, UNIT_NAME " cannot be stopped: the reason");
        unit_close();
        (void)unit_release();
        answer_job(BUS_STOP, 9);
        tell_removed(9, "timeout");
        answer_error(BUS_LOOK, BUS_NO_UNIT);
        assert_released(RELEASED, "");
        unit_close();
}
END_TEST

START_TEST(test_release_stopped)
{
        for (int step = 0; step < 3; step++) {
                struct claim *claim = unit_release();

                if (step > 0)
                        answer_job(BUS_STOP, 9);
                if (step > 1)
                        tell_removed(9, "timeout");
                resource_type_unit.stop(claim);
                assert_released(RELEASE_FAILED, "");
                tell_removed(9, "done"); /* late */
                ck_assert_uint_eq(seen.n_said, 1);
                resource_type_unit.release(claim);
                answer_error(BUS_STOP, BUS_NO_UNIT);
                ck_assert_int_eq(seen.said, RELEASED);
                unit_close();
        }
}
END_TEST

/* ---- the next run ---- */

START_TEST(test_restored)
{
        for (int is_taken_up = 0; is_taken_up < 2; is_taken_up++) {
                struct claim *claim = unit_hold(ON_EXIT_CLOSE);

                ck_assert_int_eq(claim_save(claim), 0);
                ck_assert_str_eq(fields_get(seen.saved, "unit"), UNIT_NAME);
                ck_assert_str_eq(fields_get(seen.saved, "on_exit"), "close");
                claims_restart(claim);
                assert_nothing_asked(); /* it is not known yet whether its connection lives on */
                if (is_taken_up) {
                        resource_type_unit.take_up(claim);
                        answer_look("active", "");
                        tell_state("failed");
                        answer_look("failed", "");
                        ck_assert_uint_eq(seen.n_lost, 1);
                }
                resource_type_unit.release(claim);
                answer_job(BUS_STOP, 9);
                tell_removed(9, "done");
                ck_assert_int_eq(seen.said, RELEASED);
                unit_close();
        }

        struct claim *claim = unit_hold(ON_EXIT_KEEP);
        ck_assert_int_eq(claim_save(claim), 0);
        claims_restart(claim);
        resource_type_unit.take_up(claim);
        assert_nothing_asked();
        unit_close();
}
END_TEST

START_TEST(test_bad_records)
{
        static char *const rows[][4] = {
                { (char *)"on_exit=close", NULL },
                { (char *)"unit=" UNIT_NAME, NULL },
                { (char *)"unit=" UNIT_NAME, (char *)"on_exit=", NULL },
                { (char *)"unit=" UNIT_NAME, (char *)"on_exit=never", NULL },
                { (char *)"unit=", (char *)"on_exit=close", NULL },
                { (char *)"unit=../x.service", (char *)"on_exit=close", NULL },
                { (char *)"unit=session@.service", (char *)"on_exit=keep", NULL },
        };
        struct claim *claim = claims_open(&resource_type_unit);

        claim->state = CLAIM_LOADED;
        for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
                char *reason = NULL;

                ck_assert_int_eq(resource_type_unit.restore(claim, rows[i], &reason), RESOURCE_E_INVALID);
                ck_assert_ptr_nonnull(reason);
                ck_assert_ptr_null(claim->data);
                free(reason);
        }
        claim->state = CLAIM_EMPTY; /* nothing to be released: nothing needs to be there */
        ck_assert_int_eq(resource_type_unit.restore(claim, NULL, NULL), 0);
        claims_close();
}
END_TEST

/* ---- all of them ---- */

START_TEST(test_configured)
{
        struct resource_config other = { .kind = RESOURCE_NONE }, *resources[] = { &other, &config };
        struct config all = { .resources = resources, .n_resources = 1 };

        (void)claims_open(&resource_type_unit);
        config.kind = RESOURCE_UNIT;
        resource_type_unit.summarize(&leases);
        ck_assert_uint_eq(seen.n_messages, 0);
        ck_assert_int_eq(resource_type_unit.configure(&leases, &all), 0);
        ck_assert_ptr_null(bus); /* nobody needs it */
        all.n_resources = 2;
        ck_assert_int_eq(resource_type_unit.configure(&leases, &all), 0);
        ck_assert(is_awake);
        ck_assert_int_eq(resource_type_unit.configure(&leases, &all), 0);
        resource_type_unit.summarize(&leases);
        ck_assert_uint_eq(seen.n_messages, 1);
        unit_close();
}
END_TEST

#define N_MANY 10000

/* Each signal finds its own among ten thousand, in any order. */
START_TEST(test_many)
{
        struct claim *claims = calloc(N_MANY, sizeof(*claims));
        static uint32_t order[N_MANY];

        random_seed();
        (void)claims_open(&resource_type_unit);
        config.on_exit = ON_EXIT_KEEP;
        ck_assert_ptr_nonnull(claims);
        for (uint32_t i = 0; i < N_MANY; i++) {
                char name[32];

                (void)snprintf(name, sizeof(name), "session@%u.service", i);
                config.unit = name;
                claims[i] = (struct claim){ .lease = lease,
                                            .type = &resource_type_unit,
                                            .config = &config,
                                            .name = lease->claims[2].name,
                                            .state = CLAIM_LOADING };
                claims_prepare(&claims[i]);
                resource_type_unit.load(&claims[i]);
                answer(container_of(bus->waiting.next, struct bus_call, link),
                       &(struct bus_answer){ .job = i + 1 });
                order[i] = i;
        }
        for (uint32_t i = N_MANY; i-- > 1;) {
                uint32_t other = (uint32_t)random_below(i + 1), kept = order[i];

                order[i] = order[other];
                order[other] = kept;
        }
        for (uint32_t i = 0; i < N_MANY; i++) {
                char name[32];

                (void)snprintf(name, sizeof(name), "session@%u.service", order[i]);
                bus->callbacks->job_removed(bus, order[i] + 1, name, "done");
                ck_assert_uint_eq(seen.n_said, i + 1);
                ck_assert_str_eq(seen.text, name);
        }
        for (uint32_t i = 0; i < N_MANY; i++) {
                resource_type_unit.forget(&claims[order[i]]);
                free(claims[order[i]].value);
        }
        free(claims);
        unit_close();
}
END_TEST

UNIT_MAIN("unit-resource", test_names, test_long_names, test_modes, test_same_name,
          test_name_of_a_failed_load, test_start, test_start_refused, test_start_job_fails, test_start_lost,
          test_start_job_lost, test_no_bus, test_load_stopped, test_lost, test_kept, test_seen_at_start,
          test_bus_away_while_loaded, test_alias, test_release, test_release_fails, test_release_stopped,
          test_restored, test_bad_records, test_configured, test_many)

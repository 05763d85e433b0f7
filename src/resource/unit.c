/*
 * unit: a systemd unit, started and stopped over the bus. Promises that a unit whose start was asked for is stopped
 * unless it is known that nothing of it is left; that its stop is asked for only when its start was answered, for
 * polkit may let the later one pass first; and that two claims never hold the same unit, or the end of one connection
 * would take the other's away: the later one fails to load.
 *
 * Signals tell of jobs and states, and where one may have been missed (the bus was away) or is not the whole story (a
 * unit that failed may be about to be restarted) the unit is looked at. What is relied on in systemd is in bus.c.
 *
 * Deliberately not here: max_concurrent, for systemd has a queue of its own; and SIGKILL, which the unit's TimeoutStopSec=
 * knows better. An active unit that somebody else started is not refused: it is ours from then on.
 */
#include "base/index.h"
#include "base/siphash.h"
#include "base/unitname.h"
#include "resource/lease.h"
#include "service/bus.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#define REASON_MAX  (UNIT_NAME_MAX + 512)
#define RESULT_MAX  32
#define POLKIT_RULE "/etc/polkit-1/rules.d/50-tetherd.rules"

enum unit_state {
        UNIT_IDLE,          /* nothing is expected; perhaps a start is under way whose load is over */
        UNIT_STARTING,      /* its start is asked for */
        UNIT_START_JOB,     /* its job runs */
        UNIT_START_LOOKING, /* how far that came is looked at */
        UNIT_START_FAILED,  /* what its job left is looked at */
        UNIT_HELD,          /* loaded */
        UNIT_STOP_DEFERRED, /* until its start is answered */
        UNIT_STOPPING,      /* as above */
        UNIT_STOP_JOB,
        UNIT_STOP_FAILED,
};

enum unit_seen { SEEN_NOTHING, SEEN_UP, SEEN_DOWN };

/* What all claims of this type share. */
struct units {
        struct leases *leases;
        struct bus bus;
        struct siphash_key key;
        struct index names;
        struct index jobs;
        struct list all;
        size_t n_all;
};

/* What a unit is found by. */
struct unit_name {
        struct index_node node;
        struct unit *unit;
        char *text; /* NULL: not known, or the same as the first */
};

enum { NAME_ASKED_FOR, NAME_OF_ITS_OWN, N_NAMES };

struct unit {
        struct claim *claim;
        struct units *units;
        struct unit_name names[N_NAMES]; /* an alias, and what systemd calls it in its signals */
        const char *mode;
        enum unit_state state;
        enum unit_seen seen;  /* since its start was asked for */
        bool is_watched;      /* its end is its connection's */
        bool is_begun;        /* its start may have been done */
        uint32_t job;         /* the last one that was ours; 0: there was none */
        const char *result;   /* of a job that failed, a sentence */
        uint32_t removed_job; /* that ended before we were told of it */
        char removed_result[RESULT_MAX];
        struct bus_call call;
        struct list link;
        struct index_node job_node;
};

static void unit_answered(struct bus_call *call, const struct bus_answer *answer);

/* ---- all of them ---- */

static uint64_t hash_name(const struct units *units, const char *name)
{
        uint64_t hash = strlen(name);

        for (size_t rest = strlen(name); rest > 0;) {
                uint64_t word = 0;
                size_t n = MIN(rest, sizeof(word));

                memcpy(&word, name, n);
                hash = siphash(&units->key, hash, word);
                name += n;
                rest -= n;
        }
        return hash;
}

static uint64_t hash_job(uint32_t job)
{
        return job; /* systemd counts */
}

static const char *name_of(const struct unit *unit)
{
        return unit->names[NAME_ASKED_FOR].text;
}

static struct unit *units_find(const struct units *units, const char *text)
{
        struct index_node *node = index_find(&units->names, hash_name(units, text));

        for (; node; node = index_find_next(node)) {
                const struct unit_name *name = container_of(node, struct unit_name, node);

                if (streq(name->text, text))
                        return name->unit;
        }
        return NULL;
}

/* Takes `text`. */
static void add_name(struct unit *unit, struct unit_name *name, char *text)
{
        name->text = text;
        index_add(&unit->units->names, &name->node, hash_name(unit->units, text));
}

/* It is nobody's any more. */
static void remove_names(struct unit *unit)
{
        for (size_t i = 0; i < N_NAMES; i++)
                index_remove(&unit->units->names, &unit->names[i].node);
}

static struct unit *units_find_job(const struct units *units, uint32_t job)
{
        struct index_node *node = index_find(&units->jobs, hash_job(job));

        return node ? container_of(node, struct unit, job_node) : NULL;
}

static void set_job(struct unit *unit, uint32_t job)
{
        unit->job = job;
        index_add(&unit->units->jobs, &unit->job_node, hash_job(job));
}

static void forget_job(struct unit *unit)
{
        index_remove(&unit->units->jobs, &unit->job_node);
}

/* ---- what is asked ---- */

static void ask(struct unit *unit, enum unit_state state, enum bus_request request)
{
        forget_job(unit);
        unit->state = state;
        unit->removed_job = 0;
        bus_ask(&unit->units->bus, &unit->call, request, name_of(unit),
                request == BUS_START ? unit->mode : "replace", unit_answered);
}

static void ask_start(struct unit *unit)
{
        unit->seen = SEEN_NOTHING;
        ask(unit, UNIT_STARTING, BUS_START);
}

static void look(struct unit *unit, enum unit_state state)
{
        ask(unit, state, BUS_LOOK);
}

static bool start_is_under_way(const struct unit *unit)
{
        return bus_call_is_sent(&unit->call) && unit->call.request == BUS_START;
}

/* ---- what it came to; each of these is the last thing to be done with the unit ---- */

_printf_(3, 4) static void fail_load(struct unit *unit, bool is_said, const char *format, ...)
{
        char reason[REASON_MAX];
        va_list arguments;

        va_start(arguments, format);
        (void)vsnprintf(reason, sizeof(reason), format, arguments);
        va_end(arguments);
        unit->state = UNIT_IDLE;
        if (is_said && unit->claim->config->on_load_failure == LOAD_FAILURE_NOTHING)
                remove_names(unit); /* others need not wait for the rest of its lease */
        claim_load_failed(unit->claim, is_said, -1, reason);
}

_printf_(2, 3) static void fail_release(struct unit *unit, const char *format, ...)
{
        char reason[REASON_MAX];
        va_list arguments;

        va_start(arguments, format);
        (void)vsnprintf(reason, sizeof(reason), format, arguments);
        va_end(arguments);
        unit->state = UNIT_IDLE;
        claim_release_failed(unit->claim, -1, reason);
}

static void hold(struct unit *unit)
{
        unit->state = UNIT_HELD;
        if (unit->is_watched && unit->seen != SEEN_UP)
                look(unit, UNIT_HELD);
        claim_loaded(unit->claim, name_of(unit));
}

static void finish_release(struct unit *unit)
{
        unit->state = UNIT_IDLE;
        remove_names(unit);
        claim_released(unit->claim);
}

/* ---- jobs ---- */

/* org.freedesktop.systemd1(5): what JobRemoved may say. */
static const char *result_text(const char *result)
{
        static const char *const texts[][2] = {
                { "canceled", "was canceled" },
                { "timeout", "timed out" },
                { "failed", "failed" },
                { "dependency", "failed, for something that it depends on did" },
                { "skipped", "does not apply to its state" },
                { "invalid", "is not valid for it" },
                { "assert", "failed, for an assertion of the unit does not hold" },
                { "unsupported", "is not supported on this machine" },
                { "collected", "went with the unit, which is not needed" },
                { "once", "is refused, for the unit may run only once" },
        };

        for (size_t i = 0; i < ARRAY_SIZE(texts); i++)
                if (streq(result, texts[i][0]))
                        return texts[i][1];
        return "did not succeed";
}

static void start_job_ended(struct unit *unit, const char *result)
{
        forget_job(unit);
        unit->result = result_text(result);
        if (streq(result, "done"))
                hold(unit);
        else
                look(unit, UNIT_START_FAILED);
}

static void stop_job_ended(struct unit *unit, const char *result)
{
        forget_job(unit);
        unit->result = result_text(result);
        if (streq(result, "done"))
                finish_release(unit);
        else
                look(unit, UNIT_STOP_FAILED);
}

static void job_ended(struct unit *unit, const char *result)
{
        if (unit->state == UNIT_START_JOB)
                start_job_ended(unit, result);
        else
                stop_job_ended(unit, result);
}

static void job_queued(struct unit *unit, enum unit_state state, uint32_t job)
{
        unit->state = state;
        if (job == unit->removed_job)
                job_ended(unit, unit->removed_result);
        else
                set_job(unit, job);
}

/* ---- answers ---- */

static bool is_down(const struct bus_answer *look)
{
        return streq(look->active_state, "inactive") || streq(look->active_state, "failed");
}

/* Whether it is down and stays so, as far as systemd knows. */
static bool is_gone(const struct bus_answer *look)
{
        return is_down(look) && (look->job == 0 || streq(look->job_type, "stop"));
}

static void start_answered(struct unit *unit, const struct bus_answer *answer)
{
        unit->is_begun = true;
        switch (answer->outcome) {
        case BUS_ANSWERED:
                job_queued(unit, UNIT_START_JOB, answer->job);
                break;
        case BUS_LOST:
                look(unit, UNIT_START_LOOKING);
                break;
        case BUS_DENIED:
                fail_load(unit, true, "polkit does not let us start %s (%s): see " POLKIT_RULE, name_of(unit),
                          answer->reason);
                break;
        default:
                fail_load(unit, true, "%s cannot be started: %s", name_of(unit), answer->reason);
        }
}

/* The answer, or the end of its job, went with the bus. Without a job it was never known whether the start came. */
static void start_looked_at(struct unit *unit, const struct bus_answer *answer)
{
        bool had_job = unit->job != 0;

        if (answer->outcome != BUS_ANSWERED)
                fail_load(unit, false, "%s cannot be looked at: %s", name_of(unit), answer->reason);
        else if (answer->job != 0 && !streq(answer->job_type, "stop"))
                job_queued(unit, UNIT_START_JOB, answer->job);
        else if (!had_job && is_gone(answer))
                ask_start(unit);
        else if (streq(answer->active_state, "active") || streq(answer->active_state, "reloading") ||
                 (streq(answer->active_state, "inactive") && answer->job == 0))
                hold(unit);
        else
                fail_load(unit, is_gone(answer), "%s is %s after the bus was away", name_of(unit),
                          answer->active_state);
}

static void start_failure_looked_at(struct unit *unit, const struct bus_answer *answer)
{
        bool is_said = answer->outcome == BUS_ANSWERED && is_gone(answer);

        fail_load(unit, is_said, "the start job of %s %s", name_of(unit), unit->result);
}

static void learn_name(struct unit *unit, const char *text)
{
        struct unit_name *own = &unit->names[NAME_OF_ITS_OWN];
        char *copy;

        if (streq(text, name_of(unit)) || own->text || !(copy = strdup(text)))
                return;
        add_name(unit, own, copy);
}

static void held_looked_at(struct unit *unit, const struct bus_answer *answer)
{
        char reason[REASON_MAX];

        if (answer->outcome != BUS_ANSWERED)
                return;
        learn_name(unit, answer->name);
        if (!is_gone(answer))
                return;
        (void)snprintf(reason, sizeof(reason), "%s %s", name_of(unit),
                       streq(answer->active_state, "failed") ? "failed" : "is not active any more");
        claim_lost(unit->claim, LEASE_RESOURCE_LOST, -1, reason);
}

static void stop_answered(struct unit *unit, const struct bus_answer *answer)
{
        switch (answer->outcome) {
        case BUS_ANSWERED:
                job_queued(unit, UNIT_STOP_JOB, answer->job);
                break;
        case BUS_LOST:
                ask(unit, UNIT_STOPPING, BUS_STOP);
                break;
        case BUS_NO_UNIT:
                finish_release(unit);
                break;
        case BUS_DENIED:
                fail_release(unit, "polkit does not let us stop %s (%s): see " POLKIT_RULE, name_of(unit),
                             answer->reason);
                break;
        default:
                fail_release(unit, "%s cannot be stopped: %s", name_of(unit), answer->reason);
        }
}

static void stop_failure_looked_at(struct unit *unit, const struct bus_answer *answer)
{
        if (answer->outcome == BUS_NO_UNIT || (answer->outcome == BUS_ANSWERED && is_gone(answer)))
                finish_release(unit);
        else
                fail_release(unit, "the stop job of %s %s", name_of(unit), unit->result);
}

static void unit_answered(struct bus_call *call, const struct bus_answer *answer)
{
        struct unit *unit = container_of(call, struct unit, call);

        if (answer->outcome == BUS_LOST && call->request == BUS_LOOK) {
                look(unit, unit->state);
                return;
        }
        switch (unit->state) {
        case UNIT_STARTING:
                start_answered(unit, answer);
                break;
        case UNIT_START_LOOKING:
                start_looked_at(unit, answer);
                break;
        case UNIT_START_FAILED:
                start_failure_looked_at(unit, answer);
                break;
        case UNIT_HELD:
                held_looked_at(unit, answer);
                break;
        case UNIT_STOP_DEFERRED: /* whatever came of its start */
                ask(unit, UNIT_STOPPING, BUS_STOP);
                break;
        case UNIT_STOPPING:
                stop_answered(unit, answer);
                break;
        case UNIT_STOP_FAILED:
                stop_failure_looked_at(unit, answer);
                break;
        case UNIT_IDLE: /* a start whose load is over */
                break;
        default:
                assert(false);
        }
}

/* ---- what the bus tells of itself ---- */

static struct units *units_of(struct bus *bus)
{
        return container_of(bus, struct units, bus);
}

static void bus_job_removed(struct bus *bus, uint32_t job, const char *name, const char *result)
{
        struct units *units = units_of(bus);
        struct unit *unit = units_find_job(units, job);

        if (unit) {
                job_ended(unit, result);
                return;
        }
        unit = units_find(units, name);
        if (unit && (unit->state == UNIT_STARTING || unit->state == UNIT_STOPPING)) {
                unit->removed_job = job;
                (void)snprintf(unit->removed_result, sizeof(unit->removed_result), "%s", result);
        }
}

/* One that is down may be on its way up again: only a look at it tells. */
static void bus_unit_changed(struct bus *bus, const char *name, const char *active_state)
{
        struct unit *unit = units_find(units_of(bus), name);

        if (!unit)
                return;
        unit->seen = streq(active_state, "inactive") || streq(active_state, "failed") ? SEEN_DOWN : SEEN_UP;
        if (unit->state == UNIT_HELD && unit->is_watched && unit->seen == SEEN_DOWN && !unit->call.bus)
                look(unit, UNIT_HELD);
}

/* What was going on while nobody heard of it. What is asked already is answered. */
static void catch_up(struct unit *unit)
{
        if (unit->state == UNIT_START_JOB)
                look(unit, UNIT_START_LOOKING);
        else if (unit->state == UNIT_STOP_JOB)
                ask(unit, UNIT_STOPPING, BUS_STOP);
        else if (unit->state == UNIT_HELD && unit->is_watched && !unit->call.bus)
                look(unit, UNIT_HELD);
}

static void bus_came(struct bus *bus, bool was_missed)
{
        struct units *units = units_of(bus);

        if (was_missed)
                log_message(units->leases->journal, LOG_NOTICE, "systemd is on the system bus again");
        list_for_each (node, &units->all)
                catch_up(container_of(node, struct unit, link));
}

static void fail_without_bus(struct unit *unit)
{
        fail_load(unit, true, "%s cannot be started: no systemd on the system bus: %s", name_of(unit),
                  bus_absence(&unit->units->bus));
}

/* What was not asked yet does not wait for it any longer. Failing one may free others. */
static void bus_missed(struct bus *bus)
{
        struct units *units = units_of(bus);
        struct list before = LIST_INIT(before);

        log_message(
                units->leases->journal, LOG_WARNING,
                "there is no systemd on the system bus: %s; until there is, no unit is started, and their "
                "releases wait",
                bus_absence(bus));
        list_splice(&before, &units->all);
        for (struct list *node; (node = list_take_first(&before));) {
                struct unit *unit = container_of(node, struct unit, link);

                list_append(&units->all, node);
                if (unit->state == UNIT_STARTING && !bus_call_is_sent(&unit->call)) {
                        bus_call_cancel(&unit->call);
                        fail_without_bus(unit);
                }
        }
}

static const struct bus_callbacks bus_callbacks = {
        .came = bus_came,
        .missed = bus_missed,
        .job_removed = bus_job_removed,
        .unit_changed = bus_unit_changed,
};

/* ---- coming and going ---- */

/* NULL: out of memory. */
static struct units *units_get(struct leases *leases)
{
        struct units *units = leases->shared[RESOURCE_UNIT];

        if (units)
                return units;
        units = calloc(1, sizeof(*units));
        if (!units)
                return NULL;
        if (getentropy(&units->key, sizeof(units->key)) < 0 || index_init(&units->names) < 0 ||
            index_init(&units->jobs) < 0) {
                free(units->names.chains);
                free(units);
                return NULL;
        }
        units->leases = leases;
        bus_init(&units->bus, leases->loop, &bus_callbacks);
        list_init(&units->all);
        leases->shared[RESOURCE_UNIT] = units;
        return units;
}

static void units_deinit(struct leases *leases)
{
        struct units *units = TAKE_PTR(leases->shared[RESOURCE_UNIT]);

        if (!units)
                return;
        assert(list_is_empty(&units->all));
        bus_deinit(&units->bus);
        index_deinit(&units->names);
        index_deinit(&units->jobs);
        free(units);
}

/* Connects before the first client waits for it. */
static int units_configure(struct leases *leases, const struct config *config)
{
        for (size_t i = 0; i < config->n_resources; i++)
                if (config->resources[i]->kind == RESOURCE_UNIT) {
                        struct units *units = units_get(leases);

                        if (!units)
                                return -ENOMEM;
                        bus_wake(&units->bus);
                        return 0;
                }
        return 0;
}

static void units_summarize(const struct leases *leases)
{
        const struct units *units = leases->shared[RESOURCE_UNIT];
        const char *absence;

        if (!units)
                return;
        absence = bus_absence(&units->bus);
        log_message(leases->journal, LOG_NOTICE,
                    "summary: units: %zu; %zu questions to systemd under way; the system bus %s%s",
                    units->n_all, units->bus.n_sent, absence ? "is missing: " : "is there",
                    absence ? absence : "");
}

/* Takes `name`. NULL: out of memory. */
static struct unit *unit_new(struct claim *claim, char *name, bool is_watched)
{
        struct units *units = units_get(claim->lease->leases);
        struct unit *unit = units ? calloc(1, sizeof(*unit)) : NULL;

        if (!unit) {
                free(name);
                return NULL;
        }
        *unit = (struct unit){ .claim = claim, .units = units, .is_watched = is_watched };
        bus_call_init(&unit->call);
        index_node_init(&unit->job_node);
        for (size_t i = 0; i < N_NAMES; i++) {
                unit->names[i].unit = unit;
                index_node_init(&unit->names[i].node);
        }
        add_name(unit, &unit->names[NAME_ASKED_FOR], name);
        list_init(&unit->link);
        list_append(&units->all, &unit->link);
        units->n_all++;
        return unit;
}

static void unit_forget(struct claim *claim)
{
        struct unit *unit = TAKE_PTR(claim->data);

        if (!unit)
                return;
        bus_call_cancel(&unit->call);
        forget_job(unit);
        remove_names(unit);
        list_unlink(&unit->link);
        unit->units->n_all--;
        for (size_t i = 0; i < N_NAMES; i++)
                free(unit->names[i].text);
        free(unit);
}

/* ---- before it begins ---- */

/* What specifiers stand for, escaped. */
struct escaping {
        struct claim *claim;
        char **values;
        int error;
};

static const char *escaped_specifier(void *userdata, char letter, const char *name)
{
        struct escaping *escaping = userdata;
        const char *value = claim_specifier(escaping->claim, letter, name);

        if (!value)
                return NULL;

        char *escaped = unit_name_escape(value);

        escaping->error = escaped ? strv_append_take(&escaping->values, escaped) : -ENOMEM;
        return escaping->error < 0 ? "" : escaped;
}

/* Values are looked at before they are escaped: what a client sends as a path is refused, and not made to fit. */
static int expand_name(struct claim *claim, char **ret_name, char **ret_reason)
{
        struct escaping escaping = { .claim = claim };
        _cleanup_free_ char *raw = NULL;
        int r = specifier_expand(claim->config->unit, SPECIFIER_PATH, claim_specifier, claim, &raw,
                                 ret_reason);

        if (r == 0)
                r = specifier_expand(claim->config->unit, 0, escaped_specifier, &escaping, ret_name,
                                     ret_reason);
        if (r == 0 && escaping.error < 0) {
                free(TAKE_PTR(*ret_name));
                r = escaping.error;
        }
        strv_free(escaping.values);
        return r;
}

_printf_(2, 3) static int refuse(char **ret_reason, const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        int r = vasprintf(ret_reason, format, arguments);
        va_end(arguments);
        return r < 0 ? -ENOMEM : RESOURCE_E_INVALID;
}

static int unit_prepare(struct claim *claim, char **ret_reason)
{
        static const char *const modes[] = {
                [JOB_MODE_REPLACE] = "replace",
                [JOB_MODE_FAIL] = "fail",
                [JOB_MODE_IGNORE_DEPENDENCIES] = "ignore-dependencies",
                [JOB_MODE_IGNORE_REQUIREMENTS] = "ignore-requirements",
        };
        struct units *units = units_get(claim->lease->leases);
        _cleanup_free_ char *name = NULL;
        int r = units ? expand_name(claim, &name, ret_reason) : -ENOMEM;

        if (r < 0)
                return r == -EINVAL ? RESOURCE_E_INVALID : r;
        if (unit_name_fault(name))
                return refuse(ret_reason, "%.300s is no unit: %s", name, unit_name_fault(name));

        const struct unit *other = units_find(units, name);

        if (other)
                return refuse(ret_reason, "connection %" PRIx64 " holds %s", other->claim->lease->subject.id,
                              name);

        struct unit *unit = unit_new(claim, TAKE_PTR(name), claim->config->on_exit == ON_EXIT_CLOSE);

        if (!unit)
                return -ENOMEM;
        unit->mode = modes[claim->config->job_mode];
        claim->data = unit;
        return 0;
}

/* ---- loading and releasing ---- */

static void unit_load(struct claim *claim)
{
        struct unit *unit = claim->data;

        if (bus_absence(&unit->units->bus))
                fail_without_bus(unit);
        else
                ask_start(unit);
}

static void unit_release(struct claim *claim)
{
        struct unit *unit = claim->data;

        if (!unit->is_begun) {
                finish_release(unit);
                return;
        }
        if (start_is_under_way(unit)) {
                unit->state = UNIT_STOP_DEFERRED;
                return;
        }
        bus_call_cancel(&unit->call);
        ask(unit, UNIT_STOPPING, BUS_STOP);
}

/* Its intent was to be on disk first. */
static void unit_drop(struct claim *claim)
{
        remove_names(claim->data);
}

/* Its job goes on; a release asks for another, which takes its place. */
static void unit_stop(struct claim *claim)
{
        struct unit *unit = claim->data;
        bool is_load = unit->state <= UNIT_START_FAILED;

        unit->state = UNIT_IDLE;
        forget_job(unit);
        if (start_is_under_way(unit))
                unit->is_begun = true;
        else
                bus_call_cancel(&unit->call);
        if (is_load)
                claim_load_failed(claim, false, -1, "");
        else
                claim_release_failed(claim, -1, "");
}

/* It may have ended while nobody watched. */
static void unit_take_up(struct claim *claim)
{
        struct unit *unit = claim->data;

        if (unit->is_watched)
                look(unit, UNIT_HELD);
}

/* ---- the ledger record ---- */

static int unit_save(const struct claim *claim, char ***fields)
{
        const struct unit *unit = claim->data;
        int r;

        if (!unit) /* it could not be prepared: there is nothing to release */
                return 0;
        r = strv_appendf(fields, "unit=%s", name_of(unit));
        if (r == 0)
                r = strv_appendf(fields, "on_exit=%s", unit->is_watched ? "close" : "keep");
        return r;
}

static int unit_restore(struct claim *claim, char *const *fields, char **ret_reason)
{
        const char *name = fields_get(fields, "unit"), *on_exit = fields_get(fields, "on_exit");
        struct unit *unit;
        char *copy;

        if (claim->state == CLAIM_EMPTY)
                return 0;
        if (!name || unit_name_fault(name) || !on_exit ||
            (!streq(on_exit, "close") && !streq(on_exit, "keep")))
                return refuse(ret_reason, "unit or on_exit is missing or wrong");
        copy = strdup(name);
        unit = copy ? unit_new(claim, copy, streq(on_exit, "close")) : NULL;
        if (!unit)
                return -ENOMEM;
        unit->state = UNIT_HELD;
        unit->is_begun = true;
        claim->data = unit;
        return 0;
}

const struct resource_type resource_type_unit = {
        .name = "unit",
        .is_recorded = true,
        .prepare = unit_prepare,
        .load = unit_load,
        .release = unit_release,
        .stop = unit_stop,
        .save = unit_save,
        .restore = unit_restore,
        .take_up = unit_take_up,
        .drop = unit_drop,
        .forget = unit_forget,
        .configure = units_configure,
        .summarize = units_summarize,
        .deinit = units_deinit,
};

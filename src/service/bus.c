/*
 * Relied on, of systemd: a job's path ends in its number, which a daemon-reload and a daemon-reexec leave as it is;
 * JobRemoved comes after the reply that named the job, and PropertiesChanged of its unit before it. Of the bus: who
 * calls has at most 128 replies outstanding (dbus-daemon(1), max_replies_per_connection), so more wait here.
 *
 * Anybody on the bus may send us a signal that looks like one of systemd's: only what comes from its own unique name
 * counts. When somebody else has its name, as after a daemon-reexec, or the bus itself answers in its place, we begin
 * anew with a new connection: one way to come back for whatever may have been missed.
 *
 * sd-bus times replies only once it has said hello, so an attempt to connect has a timer of our own. A reply that does
 * not come within sd-bus's own 25 s is a broken connection.
 *
 * Deliberately not here: what a unit's state means, and a second attempt at anything that was sent.
 */
#include "service/bus.h"
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <systemd/sd-bus.h>

#define SYSTEMD  "org.freedesktop.systemd1"
#define MANAGER  SYSTEMD ".Manager"
#define OBJECT   "/org/freedesktop/systemd1"
#define UNITS    OBJECT "/unit"
#define DBUS     "org.freedesktop.DBus"
#define PRIORITY SD_EVENT_PRIORITY_NORMAL

#define SENT_MAX       64
#define PAUSE_MIN_USEC (100 * USEC_PER_MSEC)
#define PAUSE_MAX_USEC (5 * USEC_PER_SEC)
#define OPENING_USEC   (10 * USEC_PER_SEC)

static void timer_fired(struct timer *timer);
static void patience_is_over(struct timer *timer);

void bus_init(struct bus *bus, struct loop *loop, const struct bus_callbacks *callbacks)
{
        *bus = (struct bus){ .loop = loop, .callbacks = callbacks, .pause_usec = PAUSE_MIN_USEC };
        timer_init(&bus->timer, timer_fired);
        timer_init(&bus->patience, patience_is_over);
        list_init(&bus->waiting);
        list_init(&bus->sent);
}

static void disconnect(struct bus *bus)
{
        if (bus->bus)
                bus->bus = sd_bus_close_unref(bus->bus);
        free(TAKE_PTR(bus->systemd));
}

void bus_deinit(struct bus *bus)
{
        assert(list_is_empty(&bus->waiting) && list_is_empty(&bus->sent));
        timer_disarm(&bus->timer);
        timer_disarm(&bus->patience);
        disconnect(bus);
}

const char *bus_absence(const struct bus *bus)
{
        return bus->is_missed ? bus->reason : NULL;
}

static void arm(struct bus *bus, struct timer *timer, uint64_t span_usec)
{
        timer_arm(loop_wheel(bus->loop), timer, deadline_after(loop_now(bus->loop), span_usec));
}

static void patience_is_over(struct timer *timer)
{
        struct bus *bus = container_of(timer, struct bus, patience);

        bus->is_missed = true;
        bus->callbacks->missed(bus);
}

/* ---- calls ---- */

void bus_call_init(struct bus_call *call)
{
        *call = (struct bus_call){ 0 };
        list_init(&call->link);
}

void bus_call_cancel(struct bus_call *call)
{
        if (!call->bus)
                return;
        call->bus->n_sent -= bus_call_is_sent(call);
        call->slot = sd_bus_slot_unref(call->slot);
        list_unlink(&call->link);
        call->bus = NULL;
}

/* The last thing to be done with the call: the receiver may ask with it again, or free it. */
static void call_answer(struct bus_call *call, const struct bus_answer *answer)
{
        bus_call_cancel(call);
        call->answered(call, answer);
}

/* ---- the connection comes and goes ---- */

_printf_(2, 3) static void say_why(struct bus *bus, const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        (void)vsnprintf(bus->reason, sizeof(bus->reason), format, arguments);
        va_end(arguments);
}

/* Everything begins anew after a pause. What was sent is lost. */
static void lose(struct bus *bus)
{
        static const struct bus_answer lost = { .outcome = BUS_LOST };
        struct list sent = LIST_INIT(sent);

        disconnect(bus);
        if (!bus->is_missed && !timer_is_armed(&bus->patience))
                arm(bus, &bus->patience, BUS_PATIENCE_USEC);
        bus->state = BUS_AWAY;
        arm(bus, &bus->timer, bus->pause_usec);
        bus->pause_usec = MIN(2 * bus->pause_usec, PAUSE_MAX_USEC);

        list_splice(&sent, &bus->sent);
        while (!list_is_empty(&sent))
                call_answer(container_of(sent.next, struct bus_call, link), &lost);
}

/* Tells of it in the next turn: who asks may not be ready for it yet. */
static void lose_soon(struct bus *bus, int error)
{
        say_why(bus, "%s", strerror(-error));
        arm(bus, &bus->timer, 0);
}

static bool is_from(sd_bus_message *message, const char *name)
{
        const char *sender = sd_bus_message_get_sender(message);

        return name && sender && streq(sender, name);
}

/* ---- answers ---- */

static bool has_name(const sd_bus_error *error, const char *const *names)
{
        for (; *names; names++)
                if (streq(error->name, *names))
                        return true;
        return false;
}

/* How the reply that is an error is to be taken. */
static enum bus_outcome judge(const struct bus *bus, sd_bus_message *reply, const sd_bus_error *error)
{
        static const char *const denied[] = { SD_BUS_ERROR_ACCESS_DENIED,
                                              SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED, NULL };
        static const char *const no_polkit[] = { SD_BUS_ERROR_SERVICE_UNKNOWN, SD_BUS_ERROR_NAME_HAS_NO_OWNER,
                                                 NULL }; /* systemd hands on what it was told itself */
        static const char *const no_unit[] = { SYSTEMD ".NoSuchUnit", NULL };

        if (has_name(error, denied))
                return BUS_DENIED;
        if (!is_from(reply, bus->systemd))
                return BUS_LOST;
        if (has_name(error, no_polkit))
                return BUS_DENIED;
        return has_name(error, no_unit) ? BUS_NO_UNIT : BUS_REFUSED;
}

/* 0: there is none, or not one that we understand. */
static uint32_t job_of(const char *path)
{
        const char *slash = strrchr(path, '/');

        return slash ? (uint32_t)strtoul(slash + 1, NULL, 10) : 0;
}

static int read_job(sd_bus_message *reply, struct bus_answer *answer)
{
        const char *path;
        int r = sd_bus_message_read(reply, "o", &path);

        if (r >= 0)
                answer->job = job_of(path);
        return r >= 0 && answer->job == 0 ? -EBADMSG : r;
}

/* The first of one, as ListUnitsByNames lists it. */
static int read_look(sd_bus_message *reply, struct bus_answer *answer)
{
        const char *unused;
        int r = sd_bus_message_enter_container(reply, 'a', "(ssssssouso)");

        if (r > 0)
                r = sd_bus_message_read(reply, "(ssssssouso)", &answer->name, &unused, &unused,
                                        &answer->active_state, &unused, &unused, &unused, &answer->job,
                                        &answer->job_type, &unused);
        return r == 0 ? -EBADMSG : r;
}

static void pump(struct bus *bus);

static int replied(sd_bus_message *reply, void *userdata, sd_bus_error *ret_error _unused_)
{
        struct bus_call *call = userdata;
        struct bus *bus = call->bus;
        struct bus_answer answer = { .reason = "" };
        const sd_bus_error *error = sd_bus_message_get_error(reply);
        int r = 0;

        if (error) {
                answer.outcome = judge(bus, reply, error);
                answer.reason = error->message ? error->message : error->name;
        } else {
                r = call->request == BUS_LOOK ? read_look(reply, &answer) : read_job(reply, &answer);
        }
        if (r < 0 || answer.outcome == BUS_LOST) { /* this one with the others */
                say_why(bus, "%s", r < 0 ? strerror(-r) : answer.reason);
                lose(bus);
                return 0;
        }
        call_answer(call, &answer);
        pump(bus);
        return 0;
}

static int send_call(struct bus *bus, struct bus_call *call)
{
        if (call->request == BUS_LOOK)
                return sd_bus_call_method_async(bus->bus, &call->slot, SYSTEMD, OBJECT, MANAGER,
                                                "ListUnitsByNames", replied, call, "as", 1, call->unit);
        return sd_bus_call_method_async(bus->bus, &call->slot, SYSTEMD, OBJECT, MANAGER,
                                        call->request == BUS_START ? "StartUnit" : "StopUnit", replied, call,
                                        "ss", call->unit, call->mode);
}

/* Sends what waits, as much as may be under way. */
static void pump(struct bus *bus)
{
        while (bus->state == BUS_READY && bus->n_sent < SENT_MAX && !list_is_empty(&bus->waiting)) {
                struct bus_call *call = container_of(bus->waiting.next, struct bus_call, link);
                int r = send_call(bus, call);

                if (r < 0) {
                        lose_soon(bus, r);
                        break;
                }
                bus->n_sent++;
                list_unlink(&call->link);
                list_append(&bus->sent, &call->link);
        }
        loop_event_changed(bus->loop);
}

void bus_ask(struct bus *bus, struct bus_call *call, enum bus_request request, const char *unit,
             const char *mode, bus_answered_fn answered)
{
        assert(!call->bus);
        call->bus = bus;
        call->request = request;
        call->unit = unit;
        call->mode = mode;
        call->answered = answered;
        list_append(&bus->waiting, &call->link);
        bus_wake(bus);
        pump(bus);
}

/* ---- signals ---- */

static int job_removed(sd_bus_message *signal, void *userdata, sd_bus_error *ret_error _unused_)
{
        struct bus *bus = userdata;
        const char *path, *unit, *result;
        uint32_t job;

        if (bus->state == BUS_READY && is_from(signal, bus->systemd) &&
            sd_bus_message_read(signal, "uoss", &job, &path, &unit, &result) >= 0)
                bus->callbacks->job_removed(bus, job, unit, result);
        return 0;
}

/* The properties follow, each a name and a variant. 1: found; 0: it is not among them. */
static int find_active_state(sd_bus_message *signal, const char **ret_state)
{
        const char *interface, *name;
        int r = sd_bus_message_read(signal, "s", &interface);

        if (r >= 0)
                r = sd_bus_message_enter_container(signal, 'a', "{sv}");
        while (r >= 0 && (r = sd_bus_message_enter_container(signal, 'e', "sv")) > 0) {
                r = sd_bus_message_read(signal, "s", &name);
                if (r >= 0 && streq(name, "ActiveState"))
                        return sd_bus_message_read(signal, "v", "s", ret_state) < 0 ? 0 : 1;
                if (r >= 0)
                        r = sd_bus_message_skip(signal, "v");
                if (r >= 0)
                        r = sd_bus_message_exit_container(signal);
        }
        return 0;
}

static int unit_changed(sd_bus_message *signal, void *userdata, sd_bus_error *ret_error _unused_)
{
        struct bus *bus = userdata;
        _cleanup_free_ char *unit = NULL;
        const char *state;

        if (bus->state == BUS_READY && is_from(signal, bus->systemd) &&
            find_active_state(signal, &state) > 0 &&
            sd_bus_path_decode(sd_bus_message_get_path(signal), UNITS, &unit) > 0)
                bus->callbacks->unit_changed(bus, unit, state);
        return 0;
}

/* The bus says that the name is somebody else's, or nobody's. */
static int owner_changed(sd_bus_message *signal, void *userdata, sd_bus_error *ret_error _unused_)
{
        struct bus *bus = userdata;

        if (bus->state != BUS_READY || !is_from(signal, DBUS))
                return 0;
        say_why(bus, "systemd left it");
        lose(bus);
        return 0;
}

static int disconnected(sd_bus_message *signal _unused_, void *userdata, sd_bus_error *ret_error _unused_)
{
        struct bus *bus = userdata;

        say_why(bus, "the connection broke");
        lose(bus);
        return 0;
}

/* ---- opening ---- */

static void become_ready(struct bus *bus)
{
        bool was_missed = bus->is_missed;

        bus->state = BUS_READY;
        bus->pause_usec = PAUSE_MIN_USEC;
        bus->is_missed = false;
        timer_disarm(&bus->timer);
        timer_disarm(&bus->patience);
        bus->callbacks->came(bus, was_missed);
        pump(bus);
}

/* The end of an attempt at the reply. */
static int fail(struct bus *bus, sd_bus_message *reply, int error)
{
        const sd_bus_error *said = sd_bus_message_get_error(reply);

        say_why(bus, "%s", said && said->message ? said->message : strerror(-error));
        lose(bus);
        return 0;
}

static int subscribed(sd_bus_message *reply, void *userdata, sd_bus_error *ret_error _unused_)
{
        struct bus *bus = userdata;

        if (!is_from(reply, bus->systemd)) /* it went in between */
                return fail(bus, reply, -ENOTCONN);
        become_ready(bus); /* also where it says AlreadySubscribed: a name that was somebody else's once */
        return 0;
}

static int got_owner(sd_bus_message *reply, void *userdata, sd_bus_error *ret_error _unused_)
{
        struct bus *bus = userdata;
        const char *owner;
        int r = sd_bus_message_is_method_error(reply, NULL) ? -sd_bus_message_get_errno(reply)
                                                            : sd_bus_message_read(reply, "s", &owner);

        if (r >= 0) {
                bus->systemd = strdup(owner);
                r = bus->systemd ? sd_bus_call_method_async(bus->bus, NULL, SYSTEMD, OBJECT, MANAGER,
                                                            "Subscribe", subscribed, bus, "")
                                 : -ENOMEM;
        }
        return r < 0 ? fail(bus, reply, r) : 0;
}

static int listen_to(struct bus *bus)
{
        static const struct {
                const char *rule;
                sd_bus_message_handler_t heard;
        } rules[] = {
                { "type='signal',sender='" DBUS ".Local',interface='" DBUS ".Local',member='Disconnected'",
                  disconnected },
                { "type='signal',sender='" DBUS "',path='/org/freedesktop/DBus',interface='" DBUS "',"
                  "member='NameOwnerChanged',arg0='" SYSTEMD "'",
                  owner_changed },
                { "type='signal',sender='" SYSTEMD "',path='" OBJECT "',interface='" MANAGER "',"
                  "member='JobRemoved'",
                  job_removed },
                { "type='signal',sender='" SYSTEMD "',path_namespace='" UNITS "',"
                  "interface='org.freedesktop.DBus.Properties',member='PropertiesChanged',"
                  "arg0='" SYSTEMD ".Unit'",
                  unit_changed },
        };
        int r = 0;

        for (size_t i = 0; r >= 0 && i < ARRAY_SIZE(rules); i++)
                r = sd_bus_add_match_async(bus->bus, NULL, rules[i].rule, rules[i].heard, NULL, bus);
        return r;
}

static int connect_bus(struct bus *bus)
{
        int r = sd_bus_open_system(&bus->bus);

        if (r >= 0)
                r = sd_bus_attach_event(bus->bus, loop_event(bus->loop), PRIORITY);
        if (r >= 0)
                r = listen_to(bus);
        if (r >= 0)
                r = sd_bus_call_method_async(bus->bus, NULL, DBUS, "/org/freedesktop/DBus", DBUS,
                                             "GetNameOwner", got_owner, bus, "s", SYSTEMD);
        return r;
}

static void open_bus(struct bus *bus)
{
        int r = connect_bus(bus);

        bus->state = BUS_OPENING;
        arm(bus, &bus->timer, OPENING_USEC);
        if (r < 0)
                lose_soon(bus, r);
        else
                say_why(bus, "it does not answer");
        loop_event_changed(bus->loop);
}

static void timer_fired(struct timer *timer)
{
        struct bus *bus = container_of(timer, struct bus, timer);

        if (bus->state == BUS_AWAY)
                open_bus(bus);
        else
                lose(bus);
}

void bus_wake(struct bus *bus)
{
        if (bus->state != BUS_ASLEEP)
                return;
        arm(bus, &bus->patience, BUS_PATIENCE_USEC);
        open_bus(bus);
}

/*
 * Relied on: a unit's property `Job` leads to a job whose `JobType` reads `restart` also while it is still about
 * its first half, the stopping. The bus is opened for each question: there are two of them in a life, and a
 * connection that is kept would have to be kept alive. sd-bus times replies only once it has said hello, so the
 * patience is a timer of our own.
 */
#include "service/manager.h"
#include "service/unit.h"
#include <stdio.h>
#include <systemd/sd-bus.h>

#define SYSTEMD  "org.freedesktop.systemd1"
#define UNITS    "/org/freedesktop/systemd1/unit"
#define PRIORITY SD_EVENT_PRIORITY_NORMAL

/* Somebody waits for us to stop; nobody waits for the other, and a machine that boots is busy. */
#define JOB_PATIENCE_USEC   (1 * USEC_PER_SEC)
#define STORE_PATIENCE_USEC (30 * USEC_PER_SEC)

static void patience_is_over(struct timer *timer);

void manager_init(struct manager *manager, struct loop *loop)
{
        *manager = (struct manager){ .loop = loop };
        timer_init(&manager->timer, patience_is_over);
}

void manager_deinit(struct manager *manager)
{
        timer_disarm(&manager->timer);
        if (manager->bus)
                manager->bus = sd_bus_close_unref(manager->bus);
        free(TAKE_PTR(manager->unit_path));
}

static void answer(struct manager *manager, int r)
{
        manager_deinit(manager);
        manager->answered(manager, r);
}

static void patience_is_over(struct timer *timer)
{
        struct manager *manager = container_of(timer, struct manager, timer);

        answer(manager, manager->fault);
}

static int get(struct manager *manager, const char *path, const char *interface, const char *property,
               sd_bus_message_handler_t got)
{
        return sd_bus_call_method_async(manager->bus, NULL, SYSTEMD, path, "org.freedesktop.DBus.Properties",
                                        "Get", got, manager, "ss", interface, property);
}

static int failure_of(sd_bus_message *reply)
{
        return sd_bus_message_is_method_error(reply, NULL) ? -sd_bus_message_get_errno(reply) : 0;
}

static int got_store_max(sd_bus_message *reply, void *userdata, sd_bus_error *error _unused_)
{
        struct manager *manager = userdata;
        int r = failure_of(reply);

        if (r == 0)
                r = sd_bus_message_read(reply, "v", "u", &manager->n_store_max);
        answer(manager, MIN(r, 0));
        return 0;
}

static int got_job_type(sd_bus_message *reply, void *userdata, sd_bus_error *error _unused_)
{
        struct manager *manager = userdata;
        const char *type = "";
        int r = failure_of(reply);

        if (r == 0)
                r = sd_bus_message_read(reply, "v", "s", &type);
        if (r >= 0)
                (void)snprintf(manager->job_type, sizeof(manager->job_type), "%s", type);
        answer(manager, MIN(r, 0));
        return 0;
}

static int got_job(sd_bus_message *reply, void *userdata, sd_bus_error *error _unused_)
{
        struct manager *manager = userdata;
        const char *path;
        uint32_t id = 0;
        int r = failure_of(reply);

        if (r == 0)
                r = sd_bus_message_read(reply, "v", "(uo)", &id, &path);
        if (r >= 0 && id != 0)
                r = get(manager, path, SYSTEMD ".Job", "JobType", got_job_type);
        if (r < 0 || id == 0)
                answer(manager, MIN(r, 0));
        return 0;
}

static int open_bus(struct manager *manager)
{
        _cleanup_free_ char *unit = unit_name();
        int r = unit ? 0 : -ENXIO;

        if (r >= 0)
                r = sd_bus_path_encode(UNITS, unit, &manager->unit_path);
        if (r >= 0)
                r = sd_bus_open_system(&manager->bus);
        if (r >= 0)
                r = sd_bus_attach_event(manager->bus, loop_event(manager->loop), PRIORITY);
        return r;
}

static void ask(struct manager *manager, const char *interface, const char *property,
                sd_bus_message_handler_t got, uint64_t patience_usec,
                void (*answered)(struct manager *manager, int r))
{
        int r;

        manager_deinit(manager);
        manager->answered = answered;
        manager->job_type[0] = '\0';
        manager->fault = -ETIMEDOUT;
        r = open_bus(manager);
        if (r >= 0)
                r = get(manager, manager->unit_path, interface, property, got);
        if (r < 0) { /* told in the next turn: the caller may not be ready for it yet */
                manager_deinit(manager);
                manager->fault = r;
                patience_usec = 0;
        }
        loop_event_changed(manager->loop);
        timer_arm(loop_wheel(manager->loop), &manager->timer,
                  deadline_after(loop_now(manager->loop), patience_usec));
}

void manager_ask_job(struct manager *manager, void (*answered)(struct manager *manager, int r))
{
        ask(manager, SYSTEMD ".Unit", "Job", got_job, JOB_PATIENCE_USEC, answered);
}

void manager_ask_store(struct manager *manager, void (*answered)(struct manager *manager, int r))
{
        ask(manager, SYSTEMD ".Service", "FileDescriptorStoreMax", got_store_max, STORE_PATIENCE_USEC,
            answered);
}

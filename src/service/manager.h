/*
 * manager: what systemd says about our own unit, asked over the system bus (org.freedesktop.systemd1(5)). One
 * question at a time; never waits: the answer comes from the loop, within 1 s about the job.
 */
#pragma once

#include "base/clock.h"
#include "loop/loop.h"

struct sd_bus;
struct manager;

struct manager {
        struct loop *loop;
        struct sd_bus *bus; /* while a question is asked */
        char *unit_path;
        struct timer timer;
        int fault; /* what is answered when the timer fires */
        void (*answered)(struct manager *manager, int r);
        char job_type[32];    /* manager_ask_job(): "stop", "restart", …; "" where no job is running */
        uint32_t n_store_max; /* manager_ask_store(): FileDescriptorStoreMax= of our unit */
};

void manager_init(struct manager *manager, struct loop *loop);
/* Takes the question back, if there is one. Idempotent. */
void manager_deinit(struct manager *manager);

/*
 * `answered` is called once, never from in here, with 0 and the answer in `manager`; or with a negative errno:
 * there is no bus, we are no unit, or no answer came in time.
 */
void manager_ask_job(struct manager *manager, void (*answered)(struct manager *manager, int r));
void manager_ask_store(struct manager *manager, void (*answered)(struct manager *manager, int r));

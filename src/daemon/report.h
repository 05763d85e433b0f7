/*
 * report: what the service manager hears of us, and when: that we are ready, reload or stop; a line for `systemctl
 * status`; that we are alive (WatchdogSec=); that a start or stop needs longer, and goes on.
 */
#pragma once

#include "connection/connection.h"

struct report {
        struct loop *loop;
        const struct connections *connections;
        const struct leases *leases;
        struct timer status_timer;
        struct timer state_timer; /* while the manager takes no READY=1 */
        struct timer watchdog_timer;
        struct timer extend_timer; /* while we start or stop */
        bool has_manager;
        bool is_reload_untold; /* RELOADING=1 has to go out first */
        bool is_stopping;      /* STOPPING=1 has to, instead */
        bool is_stuck;         /* the watchdog is not fed any more */
        uint64_t watchdog_usec;
        uint64_t extend_until_usec;
        struct report_shown {
                size_t n_in_state[N_CONNECTION_STATES];
                size_t n_leases;
                size_t n_quarantined;
                uint64_t n_accepted;
        } shown; /* when the line was last sent */
};

void report_init(struct report *report, struct loop *loop, const struct connections *connections,
                 const struct leases *leases);
void report_deinit(struct report *report);

/* The start has begun. It may take as long as it makes progress, to report_ready(). */
void report_starting(struct report *report);

/* The start or reload is over. The manager will hear it, however busy it is, and report_reloading() before it. */
void report_ready(struct report *report);
void report_reloading(struct report *report);

/* We stop, and may take until then as long as we make progress. */
void report_stopping(struct report *report, uint64_t until_usec);

/* The end of a turn: what changed is shown within a second. */
void report_tick(struct report *report);

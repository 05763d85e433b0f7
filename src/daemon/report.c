/*
 * report: promises that the manager is told the truth: it is fed, and asked for more time, by timers of the loop, so
 * only while the loop turns, and only while the queues of releases go on (leases_make_progress()). When either stands
 * still, nothing is sent, and systemd ends and restarts us. What the manager cannot take just now is sent again:
 * it drops nothing that it has taken, but it may be busy for long.
 */
#include "daemon/report.h"
#include "base/span.h"
#include "connection/cause.h"
#include "journal/journal.h"
#include "service/notify.h"
#include <inttypes.h>
#include <stdio.h>

#define STATUS_USEC (1 * USEC_PER_SEC)
#define RETRY_USEC  (100 * USEC_PER_MSEC)
#define EXTEND_USEC (15 * USEC_PER_SEC) /* asked for at once … */
#define AGAIN_USEC  (5 * USEC_PER_SEC)  /* … and so often */

static void arm(struct report *report, struct timer *timer, uint64_t span_usec)
{
        timer_arm(loop_wheel(report->loop), timer, deadline_after(loop_now(report->loop), span_usec));
}

static bool is_busy(int r)
{
        return r == -EAGAIN || errno_is_exhaustion(-r);
}

/* A late release is a fault of ours when it is later than the manager would let us be. */
static bool makes_progress(struct report *report)
{
        uint64_t grace_usec = report->watchdog_usec == USEC_INFINITY ? EXTEND_USEC : report->watchdog_usec;

        if (leases_make_progress(report->leases, loop_now(report->loop), grace_usec)) {
                report->is_stuck = false;
                return true;
        }
        if (!report->is_stuck)
                log_message(report->leases->journal, LOG_ERR,
                            "a queue of commands stands still: the watchdog is not fed any more");
        report->is_stuck = true;
        return false;
}

/* ---- the line ---- */

static void show(struct report *report)
{
        const struct connections *connections = report->connections;
        const size_t *n_in = connections->n_in_state;
        struct waiting waiting = leases_waiting(report->leases, loop_now(report->loop));
        char releases[SPAN_TEXT_MAX + 64] = "no release waits", span[SPAN_TEXT_MAX];

        if (waiting.n > 0) {
                (void)snprintf(releases, sizeof(releases), "%zu releases wait, the first for %s", waiting.n,
                               span_format_rounded(waiting.oldest_usec, span));
                arm(report, &report->status_timer, STATUS_USEC); /* it gets older */
        }
        int r = notify_status("%zu connections (%zu ready, %zu loading, %zu releasing), %" PRIu64
                              " since the start; %s; %zu resources quarantined",
                              connections->n_connections,
                              n_in[CONNECTION_READY] + n_in[CONNECTION_HALF_CLOSED], n_in[CONNECTION_LOADING],
                              n_in[CONNECTION_RELEASING], connections->n_accepted, releases,
                              report->leases->n_quarantined);
        if (is_busy(r))
                arm(report, &report->status_timer, RETRY_USEC);
}

static struct report_shown look(const struct report *report)
{
        struct report_shown shown = {
                .n_leases = report->leases->n_leases,
                .n_quarantined = report->leases->n_quarantined,
                .n_accepted = report->connections->n_accepted,
        };

        memcpy(shown.n_in_state, report->connections->n_in_state, sizeof(shown.n_in_state));
        return shown;
}

static void status_timer(struct timer *timer)
{
        struct report *report = container_of(timer, struct report, status_timer);

        report->shown = look(report);
        show(report);
}

void report_tick(struct report *report)
{
        struct report_shown shown;

        if (!report->has_manager || timer_is_armed(&report->status_timer))
                return;
        shown = look(report);
        if (memcmp(&shown, &report->shown, sizeof(shown)) != 0)
                arm(report, &report->status_timer, STATUS_USEC);
}

/* ---- ready, reloading, stopping ---- */

static void state_timer(struct timer *timer)
{
        struct report *report = container_of(timer, struct report, state_timer);
        int r = 0;

        if (report->is_stopping) {
                r = notify_stopping();
        } else if (report->is_reload_untold) {
                r = notify_reloading();
                report->is_reload_untold = is_busy(r);
        }
        if (!report->is_stopping && !is_busy(r))
                r = notify_ready(NULL);
        if (is_busy(r))
                arm(report, timer, RETRY_USEC);
}

void report_ready(struct report *report)
{
        timer_disarm(&report->extend_timer);
        state_timer(&report->state_timer);
}

void report_reloading(struct report *report)
{
        report->is_reload_untold = is_busy(notify_reloading());
}

/* ---- more time ---- */

static void extend_timer(struct timer *timer)
{
        struct report *report = container_of(timer, struct report, extend_timer);
        uint64_t now_usec = loop_now(report->loop);
        int r = 0;

        if (now_usec >= report->extend_until_usec)
                return;
        if (makes_progress(report))
                r = notify_extend_timeout(MIN(EXTEND_USEC, report->extend_until_usec - now_usec));
        arm(report, timer, is_busy(r) ? RETRY_USEC : AGAIN_USEC);
}

static void extend(struct report *report, uint64_t until_usec)
{
        report->extend_until_usec = until_usec;
        if (report->has_manager)
                extend_timer(&report->extend_timer);
}

void report_stopping(struct report *report, uint64_t until_usec)
{
        report->is_stopping = true;
        state_timer(&report->state_timer);
        extend(report, until_usec);
}

/* ---- the watchdog ---- */

static void watchdog_timer(struct timer *timer)
{
        struct report *report = container_of(timer, struct report, watchdog_timer);
        int r = 0;

        if (makes_progress(report))
                r = notify_watchdog();
        arm(report, timer, is_busy(r) ? RETRY_USEC : report->watchdog_usec / 2);
}

void report_starting(struct report *report)
{
        if (report->watchdog_usec != USEC_INFINITY)
                watchdog_timer(&report->watchdog_timer);
        extend(report, USEC_INFINITY);
}

void report_init(struct report *report, struct loop *loop, const struct connections *connections,
                 const struct leases *leases)
{
        *report = (struct report){
                .loop = loop,
                .connections = connections,
                .leases = leases,
                .has_manager = notify_has_manager(),
                .watchdog_usec = notify_watchdog_usec(),
        };
        timer_init(&report->status_timer, status_timer);
        timer_init(&report->state_timer, state_timer);
        timer_init(&report->watchdog_timer, watchdog_timer);
        timer_init(&report->extend_timer, extend_timer);
}

void report_deinit(struct report *report)
{
        timer_disarm(&report->status_timer);
        timer_disarm(&report->state_timer);
        timer_disarm(&report->watchdog_timer);
        timer_disarm(&report->extend_timer);
}

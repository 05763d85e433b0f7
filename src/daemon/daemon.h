/*
 * daemon: the root object. It wires the parts together, lets the earlier run's leases be released, opens the
 * listeners, serves, drains and tears down in reverse.
 *
 *      recovering ──> serving ──> (asking) ──> draining ──────────────> (loop ends)
 *                                    └──> handing over ──> leaving ──> left ──┘
 *
 * Where connections may outlive us (`preserve`), SIGTERM means one of two things, and the manager is asked which.
 */
#pragma once

#include "config/config.h"
#include "connection/listener.h"
#include "daemon/preserve.h"
#include "daemon/report.h"
#include "journal/pace.h"
#include "resource/ledger.h"
#include "service/manager.h"

/* The exit statuses of interface.md. */
enum { EXIT_OK = 0, EXIT_RUNTIME = 1, EXIT_USAGE = 2, EXIT_CONFIG = 78 };

enum daemon_state {
        DAEMON_RECOVERING,
        DAEMON_SERVING,
        DAEMON_ASKING,       /* SIGTERM came: is it a stop or a restart? */
        DAEMON_HANDING_OVER, /* a restart: what is not ready is waited for, what is ready served until then */
        DAEMON_LEAVING,      /* all is handed over: the manager has to take it before we are gone */
        DAEMON_LEFT,         /* it has: what still runs has to end */
        DAEMON_DRAINING,
};

struct daemon {
        enum daemon_state state;
        const char *config_path;
        const enum log_target *log_target; /* of the command line, or NULL */
        struct config *config;
        struct journal *journal;
        struct loop *loop;
        struct ledger *ledger;
        struct fds *fds; /* what was handed over and nobody took yet; until it has started */
        int runtime_lock_fd;
        int state_lock_fd;
        uint64_t n_descriptors; /* the limit that we have */
        struct leases leases;
        struct connections connections;
        struct listeners listeners;
        struct preserve preserve;
        struct manager manager;
        struct source barrier;     /* while leaving: readable when the manager has taken everything */
        uint64_t leave_until_usec; /* after that, connections end that could not be handed over */
        bool can_preserve;         /* as far as we know */
        size_t n_recovering;       /* leases of an earlier run that are not settled yet */
        uint64_t started_usec;
        struct source journal_source; /* woken while journald is slow */
        struct timer journal_timer;   /* likewise, or gone */
        struct pace pace;             /* of the journal, while it is neither */
        struct timer limit_timer;     /* for the count of rejections that were not written */
        struct timer drain_timer;
        struct report report;
        bool is_reload_due; /* SIGHUP came before it served */
        bool is_check_due;  /* stop_check(), at the end of the turn */
};

/*
 * Runs until it is told to stop; returns the exit status. What goes wrong before it serves is said on
 * stderr, or in the journal. `config` is consumed. `log_target`: overrides the key of the same name.
 */
int daemon_run(const char *config_path, struct config *config, const enum log_target *log_target);

/* ---- for the other files of this folder ---- */

uint64_t daemon_now(const struct daemon *daemon);
void daemon_arm(struct daemon *daemon, struct timer *timer, uint64_t span_usec);

/* A fault of the start goes to where the person who started it looks. */
_printf_(1, 2) void say_fault(const char *format, ...);

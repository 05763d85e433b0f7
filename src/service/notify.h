/*
 * notify: tells the service manager how we are (sd_notify(3)), without ever waiting for it.
 *
 * All calls return 0 when the message went out, or when no manager wants to know ($NOTIFY_SOCKET is not set);
 * -EAGAIN when the manager does not read just now: call again in a while; or another negative errno.
 */
#pragma once

#include "base/util.h"

/* `status` as in notify_status(); "" or NULL: it stays. Also ends notify_reloading(). */
int notify_ready(const char *status);
int notify_reloading(void);
int notify_stopping(void);
/* One line for `systemctl status`; control characters become blanks. */
_printf_(1, 2) int notify_status(const char *format, ...);
int notify_watchdog(void);
/* The start, reload or stop under way may take this much longer, counted from now. */
int notify_extend_timeout(uint64_t usec);

/* Any state, with descriptors; they stay the caller's. */
#define NOTIFY_FDS_MAX ((size_t)253) /* the kernel's SCM_MAX_FD */
int notify_send(const char *state, const int *fds, size_t n_fds);

/* Whether somebody wants to know. */
bool notify_has_manager(void);

/* Within how many microseconds each notify_watchdog() must follow the last one; USEC_INFINITY = no watchdog. */
uint64_t notify_watchdog_usec(void);

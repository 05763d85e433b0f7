/*
 * stop: how the daemon ends, and whether its connections end with it.
 */
#pragma once

#include "daemon/daemon.h"

/* The start: whether connections can be handed over is found out, and said where they cannot. */
void stop_prepare(struct daemon *daemon);

/* A stop or a restart: systemd is asked which. The second one does not wait. */
void stop_by_sigterm(struct daemon *daemon);
/* A stop. */
void stop_by_sigint(struct daemon *daemon);

/* Something is gone or settled that may have been the last to be waited for. */
void stop_check(struct daemon *daemon);

/* For daemon->drain_timer. */
void stop_timer(struct timer *timer);

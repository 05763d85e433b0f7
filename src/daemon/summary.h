/*
 * summary: every listener and queue in the log, at SIGUSR1.
 */
#pragma once

#include "daemon/daemon.h"

void summary_write(const struct daemon *daemon);

/*
 * recover: what an earlier run left: connections that live on (preserve.h), and leases without one.
 */
#pragma once

#include "daemon/daemon.h"

/* Begins; the daemon serves when all is dealt with. 0, or a negative errno, which has been said. */
int recover(struct daemon *daemon);

/*
 * unit: which service unit of systemd we are, and how an administrator lets it do more.
 */
#pragma once

#include "base/util.h"

/* "tetherd@blue.service", owned by the caller; NULL: we are none, or memory ran out. */
char *unit_name(void);

/* What stands between '@' and the suffix, as it is written there, owned by the caller; NULL: we are no instance. */
char *unit_instance(void);

/*
 * "; ", a sentence and the command that gives our unit the shipped drop-in `name`, for the end of a fault, owned by
 * the caller. NULL: we are no unit, the drop-in was not installed, or memory ran out: then there is nothing to say.
 */
char *unit_drop_in_hint(const char *name);

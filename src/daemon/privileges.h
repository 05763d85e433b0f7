/*
 * privileges: whether this process may do what a configuration asks for.
 */
#pragma once

#include "config/config.h"

/*
 * Returns 0; or -EPERM with *ret_fault, a line that says which key asks for too much, and which drop-in of the
 * unit gives it, owned by the caller; or -ENOMEM.
 */
int privileges_check(const struct config *config, char **ret_fault);

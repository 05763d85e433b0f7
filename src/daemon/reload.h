/*
 * reload: from the running configuration to the wanted one, applied whole or refused whole. The start is a
 * reload from nothing.
 */
#pragma once

#include "daemon/daemon.h"

/* SIGHUP, at once or when the daemon serves: loads, applies and says what became of it. */
void reload(struct daemon *daemon);

/*
 * Listeners and limits become those of `config`, which may be the daemon's own. 0; or a negative errno with
 * *ret_fault, a line owned by the caller, and then nothing has changed. -EPERM, -EACCES, -ENOEXEC (a plugin that is
 * none) and -ERANGE (more connections than there can be descriptors) stay so until somebody changes something.
 */
int reload_apply(struct daemon *daemon, struct config *config, char **ret_fault);

/* Those of `config`, as far as the command line does not say otherwise. */
struct log_options reload_log_options(const struct daemon *daemon, const struct config *config);

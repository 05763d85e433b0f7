/*
 * plugin: handlers in shared objects (tetherd/plugin.h). An object is loaded once and stays loaded as long as the
 * process lives: nobody can know what it left behind. What it is told of its connections is connection/guest.h.
 */
#pragma once

#include "base/list.h"
#include "base/object.h"
#include "config/config.h"
#include "include/tetherd/plugin.h"

struct plugin {
        struct list link;
        char *path;
        struct object_identity identity;
        struct tetherd_plugin table; /* what the object's older header does not have is NULL */
};

/*
 * The plugin of this path; loads its object, which runs its constructors, the first time. Returns 0; or a negative
 * errno with *ret_reason, a sentence that the caller frees, NULL where out of memory: -EBUSY, it is loaded and its
 * file changed since: needs a restart; -ENOEXEC, it is none that can be used here.
 */
int plugin_load(struct list *plugins, const char *path, const struct plugin **ret_plugin, char **ret_reason);

/* Forgets them; nobody may use them any more. */
void plugins_free(struct list *plugins);

/*
 * A plugin at one listener. Counted: the listener holds it while it is its handler, and each connection that was born
 * with it. It is told of its shutdown with the last reference, if it was told of anything before.
 */
struct tetherd_listener {
        const struct plugin *plugin;
        unsigned n_refs;
        bool is_prepared;
        char name[CONFIG_NAME_MAX + 1];
};

int hosted_new(struct tetherd_listener **ret_hosted, const struct plugin *plugin, const char *name);
struct tetherd_listener *hosted_ref(struct tetherd_listener *hosted);
struct tetherd_listener *hosted_unref(struct tetherd_listener *hosted); /* takes NULL, returns NULL */

/* A socket is bound. 0, also for NULL; -ECANCELED: the plugin does not want it. */
int hosted_prepare_listen(struct tetherd_listener *hosted, int fd);

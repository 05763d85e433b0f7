/*
 * Relies on dlopen(3) to find that a call which this version lacks is missing (RTLD_NOW), and on the linker to export
 * the calls, and no other symbol of ours (Makefile).
 */
#include "handler/plugin.h"
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>

#define SIZE_MIN offsetof(struct tetherd_plugin, prepare_listen)

_printf_(2, 3) static int refuse(char **ret_reason, const char *format, ...)
{
        va_list arguments;

        va_start(arguments, format);
        if (vasprintf(ret_reason, format, arguments) < 0)
                *ret_reason = NULL;
        va_end(arguments);
        return -ENOEXEC;
}

/* What the object exports, which may be of an older header, and must not be of a newer one. */
static int check_table(const struct tetherd_plugin *table, char **ret_reason)
{
        if (!table)
                return refuse(ret_reason, "it does not export tetherd_plugin");
        if (table->abi != TETHERD_PLUGIN_ABI)
                return refuse(ret_reason,
                              "it is built for ABI %u of plugins, this tetherd has %u: build it anew",
                              table->abi, TETHERD_PLUGIN_ABI);
        if (table->size < SIZE_MIN)
                return refuse(ret_reason, "its struct tetherd_plugin has %u bytes, at least %zu are needed",
                              table->size, SIZE_MIN);
        if (table->size > sizeof(*table))
                return refuse(ret_reason,
                              "its struct tetherd_plugin has %u bytes, this tetherd knows %zu: it is built "
                              "for a newer one",
                              table->size, sizeof(*table));
        if (!table->name || table->name[0] == '\0')
                return refuse(ret_reason, "it has no name");
        return 0;
}

static int open_object(const char *path, struct tetherd_plugin *ret_table, char **ret_reason)
{
        void *object = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        const struct tetherd_plugin *table;
        int r;

        if (!object) {
                const char *why = dlerror();

                return refuse(ret_reason, "it cannot be loaded: %s", why ? why : strerror(ENOMEM));
        }
        table = dlsym(object, "tetherd_plugin");
        r = check_table(table, ret_reason);
        if (r < 0)
                return r; /* what its constructors did cannot be undone: it stays */
        memset(ret_table, 0, sizeof(*ret_table));
        memcpy(ret_table, table, table->size);
        return 0;
}

static struct plugin *plugin_free(struct plugin *plugin)
{
        if (!plugin)
                return NULL;
        list_unlink(&plugin->link);
        free(plugin->path);
        free(plugin);
        return NULL;
}
DEFINE_CLEANUP(struct plugin *, plugin_free);

static struct plugin *plugin_find(struct list *plugins, const char *path)
{
        list_for_each (node, plugins) {
                struct plugin *plugin = container_of(node, struct plugin, link);

                if (streq(plugin->path, path))
                        return plugin;
        }
        return NULL;
}

int plugin_load(struct list *plugins, const char *path, const struct plugin **ret_plugin, char **ret_reason)
{
        _cleanup_(plugin_freep) struct plugin *plugin = NULL;
        struct plugin *known = plugin_find(plugins, path);
        struct object_identity identity;
        char reason[OBJECT_REASON_MAX];
        int r;

        *ret_reason = NULL;
        if (object_judge(path, &identity, reason) < 0)
                return refuse(ret_reason, "%s", reason);
        if (known && !object_is_same(&known->identity, &identity)) {
                (void)refuse(ret_reason, "the file changed since it was loaded: needs a restart");
                return -EBUSY;
        }
        if (known) {
                *ret_plugin = known;
                return 0;
        }
        plugin = calloc(1, sizeof(*plugin));
        if (!plugin)
                return -ENOMEM;
        list_init(&plugin->link);
        plugin->identity = identity;
        plugin->path = strdup(path);
        if (!plugin->path)
                return -ENOMEM;
        r = open_object(path, &plugin->table, ret_reason);
        if (r < 0)
                return r;
        list_append(plugins, &plugin->link);
        *ret_plugin = TAKE_PTR(plugin);
        return 0;
}

void plugins_free(struct list *plugins)
{
        for (struct list *node; (node = list_take_first(plugins));)
                (void)plugin_free(container_of(node, struct plugin, link));
}

/* ---- at a listener ---- */

int hosted_new(struct tetherd_listener **ret_hosted, const struct plugin *plugin, const char *name)
{
        struct tetherd_listener *hosted = calloc(1, sizeof(*hosted));

        if (!hosted)
                return -ENOMEM;
        hosted->plugin = plugin;
        hosted->n_refs = 1;
        (void)snprintf(hosted->name, sizeof(hosted->name), "%s", name);
        *ret_hosted = hosted;
        return 0;
}

struct tetherd_listener *hosted_ref(struct tetherd_listener *hosted)
{
        hosted->n_refs++;
        return hosted;
}

struct tetherd_listener *hosted_unref(struct tetherd_listener *hosted)
{
        if (!hosted || --hosted->n_refs > 0)
                return NULL;
        if (hosted->is_prepared && hosted->plugin->table.shutdown)
                hosted->plugin->table.shutdown(hosted);
        free(hosted);
        return NULL;
}

int hosted_prepare_listen(struct tetherd_listener *hosted, int fd)
{
        if (!hosted)
                return 0;
        hosted->is_prepared = true;
        if (!hosted->plugin->table.prepare_listen)
                return 0;
        return hosted->plugin->table.prepare_listen(hosted, fd) == TETHERD_OK ? 0 : -ECANCELED;
}

const char *tetherd_listener_name(const struct tetherd_listener *hosted)
{
        return hosted->name;
}

/*
 * privileges: promises that a `user` or `group` that we may not become or give to, of a socket's file as well, and a
 * device node that the unit hides, are found before anything is opened, instead of at the first load or when the file
 * has its new mode already. It relies on capget(2), and on PrivateDevices= mounting a read-only /dev, which nobody
 * else does.
 *
 * Deliberately not part of --check-config, which an administrator runs with other privileges than the unit has; and
 * not for ports, since bind(2) tells of those itself, also where the kernel lets everybody have them.
 */
#include "daemon/privileges.h"
#include "service/unit.h"
#include <grp.h>
#include <linux/capability.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>

#define BIT(capability) (UINT64_C(1) << (capability))

static int refuse(const struct config *config, const char *kind, const char *name, const char *key,
                  const char *why, const char *drop_in, char **ret_fault)
{
        char section[CONFIG_NAME_MAX + 16], where[CONFIG_WHERE_MAX];
        _cleanup_free_ char *hint = unit_drop_in_hint(drop_in);

        (void)snprintf(section, sizeof(section), "%s:%s", kind, name);
        if (asprintf(ret_fault, "%s: %s%s", config_where(config, section, key, where), why,
                     hint ? hint : "") < 0)
                return -ENOMEM;
        return -EPERM;
}

/* ---- users and groups ---- */

/* Where the kernel does not answer, it will when the time comes. */
static bool may(uint64_t capabilities)
{
        struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
        struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };

        if (syscall(SYS_capget, &header, data) < 0)
                return true;
        uint64_t effective = (uint64_t)data[1].effective << 32 | data[0].effective;
        return (effective & capabilities) == capabilities;
}

static bool is_another_user(uid_t user)
{
        return user != (uid_t)-1 && user != geteuid();
}

static bool is_another_group(gid_t group)
{
        return group != (gid_t)-1 && group != getegid();
}

/* What giving a file to them and setting its mode afterwards takes. */
static uint64_t needed_to_give(uid_t user, gid_t group)
{
        if (is_another_user(user))
                return BIT(CAP_CHOWN) | BIT(CAP_FOWNER);
        return is_another_group(group) && !group_member(group) ? BIT(CAP_CHOWN) : 0;
}

static int check_owner(const struct config *config, const struct resource_config *resource, char **ret_fault)
{
        bool is_other_user = is_another_user(resource->user);
        bool is_other_group = is_another_group(resource->group);
        bool is_exec = resource->kind == RESOURCE_EXEC || resource->kind == RESOURCE_PROCESS;
        uint64_t needed = 0;

        if (is_exec && is_other_user)
                needed = BIT(CAP_SETUID) | BIT(CAP_SETGID) | BIT(CAP_KILL);
        else if (is_exec && is_other_group)
                needed = BIT(CAP_SETGID);
        else if (!is_exec)
                needed = needed_to_give(resource->user, resource->group) |
                         (is_other_user ? BIT(CAP_DAC_OVERRIDE) : 0); /* to empty it */
        if (may(needed))
                return 0;
        return refuse(config, "resource", resource->name, is_other_user ? "user" : "group",
                      is_exec ? "tetherd may not run commands as others than itself"
                              : "tetherd may not give directories to others than itself",
                      "users.conf", ret_fault);
}

static bool has_socket_file(const struct listener_config *listener)
{
        for (size_t i = 0; i < listener->n_endpoints; i++)
                if (listener->endpoints[i].kind == ENDPOINT_UNIX)
                        return true;
        return false;
}

static int check_socket_owner(const struct config *config, const struct listener_config *listener,
                              char **ret_fault)
{
        if (!listener->enabled || !has_socket_file(listener) ||
            may(needed_to_give(listener->socket_user, listener->socket_group)))
                return 0;
        return refuse(config, "listener", listener->name,
                      is_another_user(listener->socket_user) ? "socket_user" : "socket_group",
                      "tetherd may not give sockets to others than itself", "users.conf", ret_fault);
}

/* ---- device nodes ---- */

/* A literal word that names a node, such as /dev/ttyUSB0 in `stty -F /dev/ttyUSB0`. */
static const char *find_hidden_device(char *const *words)
{
        for (size_t i = 0; words && words[i]; i++)
                if (startswith(words[i], "/dev/") && !strchr(words[i], '%') && access(words[i], F_OK) < 0 &&
                    errno == ENOENT)
                        return words[i];
        return NULL;
}

static int check_devices(const struct config *config, const struct resource_config *resource,
                         char **ret_fault)
{
        const struct {
                const char *key;
                char *const *words;
        } commands[] = { { "load", resource->load },
                         { "release", resource->release },
                         { "command", resource->command } };
        const char *device = NULL, *key = NULL;
        _cleanup_free_ char *why = NULL;
        struct statvfs dev;

        for (size_t i = 0; !device && i < ARRAY_SIZE(commands); i++) {
                key = commands[i].key;
                device = find_hidden_device(commands[i].words);
        }
        /* Without PrivateDevices= it may be plugged in later. */
        if (!device || statvfs("/dev", &dev) < 0 || !(dev.f_flag & ST_RDONLY))
                return 0;
        if (asprintf(&why, "%s is hidden from tetherd", device) < 0)
                return -ENOMEM;
        return refuse(config, "resource", resource->name, key, why, "devices.conf", ret_fault);
}

int privileges_check(const struct config *config, char **ret_fault)
{
        for (size_t i = 0; i < config->n_resources; i++) {
                int r = check_owner(config, config->resources[i], ret_fault);

                if (r == 0)
                        r = check_devices(config, config->resources[i], ret_fault);
                if (r < 0)
                        return r;
        }
        for (size_t i = 0; i < config->n_listeners; i++) {
                int r = check_socket_owner(config, config->listeners[i], ret_fault);

                if (r < 0)
                        return r;
        }
        return 0;
}

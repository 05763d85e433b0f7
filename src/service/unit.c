/*
 * unit: promises to name a unit only where we are its main process: whoever is started by hand within somebody
 * else's unit is told nothing about that one. It relies on $SYSTEMD_EXEC_PID (systemd.exec(5)), on systemd naming a
 * unit's cgroup after it (cgroups(7)), and on the binary being installed as PREFIX/sbin/tetherd, with what
 * belongs to it in PREFIX/share.
 *
 * Deliberately not sd_pid_get_unit(3): it looks at process 1, which ProtectProc=invisible hides.
 */
#include "service/unit.h"
#include <limits.h>
#include <stdio.h>

#define SUFFIX ".service"

static bool ends_with_suffix(const char *text)
{
        size_t length = strlen(text);

        return length > strlen(SUFFIX) && streq(text + length - strlen(SUFFIX), SUFFIX);
}

/* The last component of the path that names a service; what is below it is the service's own. NULL: none. */
static const char *find_service(char *path)
{
        const char *found = NULL;

        for (char *rest = path, *name; (name = strsep(&rest, "/"));)
                if (ends_with_suffix(name))
                        found = name[0] == '_' ? name + 1
                                               : name; /* escaped, as a name of the kernel's own would be */
        return found;
}

char *unit_name(void)
{
        char line[PATH_MAX], *name = NULL;

        const char *pid = getenv("SYSTEMD_EXEC_PID");
        if (!pid || strtoull(pid, NULL, 10) != (unsigned long long)getpid())
                return NULL;
        FILE *file = fopen("/proc/self/cgroup", "re"); /* lines of number:controllers:path */
        if (!file)
                return NULL;
        while (!name && fgets(line, sizeof(line), file)) {
                line[strcspn(line, "\n")] = '\0';
                const char *found = find_service(line);

                name = found ? strdup(found) : NULL;
        }
        (void)fclose(file);
        return name;
}

char *unit_instance(void)
{
        _cleanup_free_ char *name = unit_name();
        const char *instance = name ? strchr(name, '@') : NULL;

        return instance ? strndup(instance + 1, strlen(instance + 1) - strlen(SUFFIX)) : NULL;
}

/* PREFIX/share/tetherd/drop-ins/NAME, where that exists. */
static bool find_drop_in(const char *name, char path[static PATH_MAX])
{
        char binary[PATH_MAX];
        ssize_t length = readlink("/proc/self/exe", binary, sizeof(binary) - 1);
        int n;

        if (length < 0)
                return false;
        binary[length] = '\0';
        for (int i = 0; i < 2; i++) {
                char *slash = strrchr(binary, '/');

                if (!slash)
                        return false;
                *slash = '\0';
        }
        n = snprintf(path, PATH_MAX, "%s/share/tetherd/drop-ins/%s", binary, name);
        return n > 0 && n < PATH_MAX && access(path, R_OK) == 0;
}

char *unit_drop_in_hint(const char *name)
{
        _cleanup_free_ char *unit = unit_name();
        char path[PATH_MAX], *hint;

        if (!unit || !find_drop_in(name, path))
                return NULL;
        const char *quote = strchr(unit, '\\') ? "'" : ""; /* as in tetherd@a\x2db.service */
        if (asprintf(&hint,
                     "; %s may with a drop-in: install -D -m 644 -t %s/etc/systemd/system/%s.d%s %s && "
                     "systemctl daemon-reload",
                     unit, quote, unit, quote, path) < 0)
                return NULL;
        return hint;
}

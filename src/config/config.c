/*
 * config: promises a config that is complete and consistent, or every fault that can be found. It relies on
 * ini.c for what is written where and on the table of keys for what it means. It deliberately opens nothing
 * that the configuration names, and knows nothing of the daemon that runs.
 */
#include "config/config.h"
#include "config/section.h"
#include "config/suggest.h"
#include <dirent.h>
#include <pwd.h>

/* ---- files ---- */

static int is_drop_in(const struct dirent *entry)
{
        const char *suffix = strrchr(entry->d_name, '.');

        return entry->d_name[0] != '.' && suffix && streq(suffix, ".conf");
}

static int compare_names(const struct dirent **a, const struct dirent **b)
{
        return strcmp((*a)->d_name, (*b)->d_name);
}

static void read_drop_ins(struct ini *ini, const char *path)
{
        _cleanup_free_ char *folder = NULL;
        struct dirent **found;

        if (asprintf(&folder, "%s.d", path) < 0) {
                folder = NULL;
                ini->error = -ENOMEM;
                return;
        }
        int n = scandir(folder, &found, is_drop_in, compare_names);
        if (n < 0) {
                if (errno != ENOENT)
                        ini_fault_of_file(ini, folder, "cannot be read: %s", strerror(errno));
                return;
        }
        for (int i = 0; i < n; i++) {
                char *file;
                if (asprintf(&file, "%s/%s", folder, found[i]->d_name) < 0) {
                        ini->error = -ENOMEM;
                } else {
                        ini_read(ini, file);
                        free(file);
                }
                free(found[i]);
        }
        free(found);
}

/* ---- entries ---- */

static void fault_unknown_key(struct ini *ini, const struct section *section, const struct ini_entry *entry)
{
        struct suggestion suggestion = { .misspelt = entry->key };
        char hint[SUGGESTION_TEXT_MAX];

        for (size_t i = 0; i < n_keys; i++)
                if (keys[i].section == section->kind &&
                    (section->kinds == 0 || key_belongs(&keys[i], section->kinds)))
                        suggestion_offer(&suggestion, keys[i].name);
        ini_fault_at(ini, entry, "unknown key '%s' in [%s]%s", entry->key, section->text,
                     suggestion_text(&suggestion, "'", "'", hint));
}

static void apply_entry(struct ini *ini, struct section *section, const struct ini_entry *entry)
{
        const struct key *key = key_find(section->kind, entry->key, section->kinds);

        if (!key) {
                fault_unknown_key(ini, section, entry);
                return;
        }
        const struct ini_entry *earlier = section->given[key - keys];
        if (earlier && earlier->file == entry->file) {
                ini_fault_at(ini, entry, "%s is given twice in [%s], first in line %u", key->name,
                             section->text, earlier->line);
                return;
        }
        section->given[key - keys] = entry;
        if (key_belongs(key, section->kinds))
                value_set(key, section, entry, ini);
        else if (section->kinds != 0)
                ini_fault_at(ini, entry, "%s does not belong to a resource of type %s", key->name,
                             section_given(section, "type")->value);
}

static bool is_type(const struct ini_entry *entry)
{
        return entry->key && startswith(entry->section, "resource:") && streq(entry->key, "type");
}

/* The sections, and of what type the resources are: what else may stand in them depends on it. */
static void open_sections(struct config *config)
{
        struct ini *ini = &config->origins->ini;

        (void)section_open(config, "daemon", NULL);
        for (size_t i = 0; i < ini->n_entries && ini->error == 0; i++) {
                const struct ini_entry *entry = &ini->entries[i];
                struct section *section = NULL;

                if (!entry->key)
                        section = section_open(config, entry->section, entry);
                else if (is_type(entry))
                        section = section_find(config, entry->section);
                if (section && section->kind == SECTION_DAEMON && !section->header)
                        section->header = entry;
                if (section && entry->key)
                        apply_entry(ini, section, entry);
        }
}

/* The type as a bit, 0 where it is missing, or unknown, which is a fault already. */
static unsigned kinds_of(struct config *config, const struct section *section)
{
        const struct ini_entry *entry = section_given(section, "type");

        if (!entry) {
                section_fault(config, section, "type", "[%s] has no type", section->text);
                return 0;
        }
        const struct key_word *word = key_find_word(key_find(SECTION_RESOURCE, "type", 0), entry->value);
        return word ? 1U << word->value : 0;
}

static void set_defaults(struct config *config, struct section *section)
{
        if (section->kind == SECTION_RESOURCE)
                section->kinds = kinds_of(config, section);
        for (size_t i = 0; i < n_keys; i++)
                if (keys[i].section == section->kind && !section->given[i] &&
                    (section->kind != SECTION_RESOURCE || section->kinds != 0) &&
                    key_belongs(&keys[i], section->kinds))
                        value_set(&keys[i], section, NULL, &config->origins->ini);
}

static void apply_entries(struct config *config)
{
        struct ini *ini = &config->origins->ini;
        struct section *section = NULL;

        for (size_t i = 0; i < ini->n_entries && ini->error == 0; i++) {
                const struct ini_entry *entry = &ini->entries[i];

                if (!entry->key)
                        section = section_find(config, entry->section); /* NULL: the header is a fault */
                else if (entry->section[0] == '\0')
                        ini_fault_at(ini, entry, "%s stands before the first [section]", entry->key);
                else if (section && !is_type(entry))
                        apply_entry(ini, section, entry);
        }
}

/* ---- values that follow from others ---- */

static uint64_t at_least(uint64_t usec, uint64_t minimum)
{
        return MAX(usec, minimum);
}

/* See `detect_within` in tetherd.conf(5); 0 is `auto`. */
static void resolve_keepalive(struct listener_config *l)
{
        uint64_t within = l->detect_within;
        bool is_off = within == USEC_INFINITY;

        if (l->keepalive_idle == 0)
                l->keepalive_idle =
                        is_off ? USEC_INFINITY : at_least(within / 4 / USEC_PER_SEC, 1) * USEC_PER_SEC;
        if (l->keepalive_interval == 0)
                l->keepalive_interval =
                        is_off ? USEC_INFINITY : at_least(within / 12 / USEC_PER_SEC, 1) * USEC_PER_SEC;
        if (l->user_timeout == 0)
                l->user_timeout = is_off ? USEC_INFINITY : within / 2;
        if (l->keepalive_count == 0 && !is_off) {
                uint64_t rest = within > l->keepalive_idle ? within - l->keepalive_idle : 0;
                l->keepalive_count = (unsigned)MIN(at_least(rest / l->keepalive_interval, 1), 127U);
        }
}

static int resolve_user(const struct section *section)
{
        struct resource_config *resource = section->object;
        const struct ini_entry *entry = section_given(section, "user");

        if (resource->user == (uid_t)-1)
                return 0;
        const struct passwd *user = getpwnam(entry->value);
        if (!user)
                user = getpwuid(resource->user);
        if (!user)
                return 0; /* deleted a moment ago; the command will say so */
        if (!section_given(section, "group"))
                resource->group = user->pw_gid;
        resource->user_name = strdup(user->pw_name);
        resource->home = strdup(user->pw_dir);
        return resource->user_name && resource->home ? 0 : -ENOMEM;
}

static void resolve_values(struct config *config)
{
        struct config_origins *origins = config->origins;

        for (size_t i = 0; i < config->n_listeners; i++) {
                config->listeners[i]->config = config;
                resolve_keepalive(config->listeners[i]);
        }
        for (size_t i = 0; i < origins->n_sections; i++)
                if (origins->sections[i]->kind == SECTION_RESOURCE && origins->sections[i]->kinds != 0 &&
                    resolve_user(origins->sections[i]) < 0)
                        origins->ini.error = -ENOMEM;
}

/* ---- life ---- */

static struct config *config_new(void)
{
        struct config *config = calloc(1, sizeof(*config));

        if (!config)
                return NULL;
        config->n_refs = 1;
        config->origins = calloc(1, sizeof(*config->origins));
        return config->origins ? config : config_unref(config);
}

int config_load(const char *path, struct config **ret_config, char ***ret_faults)
{
        _cleanup_(config_unrefp) struct config *config = config_new();

        if (!config)
                return -ENOMEM;
        struct ini *ini = &config->origins->ini;
        ini_read(ini, path);
        read_drop_ins(ini, path);
        open_sections(config);
        for (size_t i = 0; i < config->origins->n_sections; i++)
                set_defaults(config, config->origins->sections[i]);
        apply_entries(config);
        if (ini->error == 0) {
                resolve_values(config);
                check_config(config);
        }
        if (ini->error < 0)
                return ini->error;
        if (ini->n_faults > 0) {
                int r = ini_faults(ini, ret_faults);
                return r < 0 ? r : CONFIG_E_INVALID;
        }
        *ret_config = TAKE_PTR(config);
        return 0;
}

struct config *config_ref(struct config *config)
{
        config->n_refs++;
        return config;
}

struct config *config_unref(struct config *config)
{
        if (!config || --config->n_refs > 0)
                return NULL;
        for (size_t i = 0; config->origins && i < config->origins->n_sections; i++)
                (void)section_free(config->origins->sections[i]);
        for (size_t i = 0; i < config->n_listeners; i++) {
                free(config->listeners[i]->resources);
                free(config->listeners[i]);
        }
        for (size_t i = 0; i < config->n_resources; i++) {
                free(config->resources[i]->user_name);
                free(config->resources[i]->home);
                free(config->resources[i]);
        }
        if (config->origins) {
                free(config->origins->sections);
                ini_deinit(&config->origins->ini);
        }
        free(config->origins);
        free(config->listeners);
        free(config->resources);
        free(config);
        return NULL;
}

/* ---- questions ---- */

struct listener_config *config_find_listener(const struct config *config, const char *name)
{
        for (size_t i = 0; i < config->n_listeners; i++)
                if (streq(config->listeners[i]->name, name))
                        return config->listeners[i];
        return NULL;
}

struct resource_config *config_find_resource(const struct config *config, const char *name)
{
        for (size_t i = 0; i < config->n_resources; i++)
                if (streq(config->resources[i]->name, name))
                        return config->resources[i];
        return NULL;
}

const char *config_needs_restart(const struct config *running, const struct config *wanted)
{
        const struct section *before = section_find(running, "daemon"),
                             *after = section_find(wanted, "daemon");
        char x[SPAN_TEXT_MAX], y[SPAN_TEXT_MAX];

        for (size_t i = 0; i < n_keys; i++)
                if (keys[i].section == SECTION_DAEMON && keys[i].effect == EFFECT_RESTART &&
                    !streq(value_text(&keys[i], before, x), value_text(&keys[i], after, y)))
                        return keys[i].name;
        return NULL;
}

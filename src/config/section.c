/*
 * section: promises one struct section, and one struct behind it, for each section text, however often and in
 * however many files it stands. It relies on the entries of struct ini staying where they are, so all files
 * are read before the first section is opened.
 */
#include "config/section.h"
#include "config/suggest.h"
#include <stdarg.h>
#include <stdio.h>

static const char *const section_names[] = {
        [SECTION_DAEMON] = "daemon",
        [SECTION_LISTENER] = "listener",
        [SECTION_RESOURCE] = "resource",
};

struct section *section_find(const struct config *config, const char *text)
{
        for (size_t i = 0; i < config->origins->n_sections; i++)
                if (streq(config->origins->sections[i]->text, text))
                        return config->origins->sections[i];
        return NULL;
}

/* ---- names ---- */

static bool is_name(const char *name)
{
        static const char letters[] = "abcdefghijklmnopqrstuvwxyz0123456789_";
        size_t length = strspn(name, letters);

        return name[0] >= 'a' && name[0] <= 'z' && name[length] == '\0' && length <= CONFIG_NAME_MAX;
}

static void fault_unknown(struct ini *ini, const struct ini_entry *header, const char *text, size_t length)
{
        char kind[CONFIG_NAME_MAX + 1], after[CONFIG_NAME_MAX + 32], hint[SUGGESTION_TEXT_MAX];
        struct suggestion suggestion = { .misspelt = kind };

        (void)snprintf(kind, sizeof(kind), "%.*s", (int)length, text);
        for (size_t i = 0; i < ARRAY_SIZE(section_names); i++)
                suggestion_offer(&suggestion, section_names[i]);
        (void)snprintf(after, sizeof(after), "%s]", text + length);
        ini_fault_at(ini, header, "unknown section [%s]%s", text,
                     suggestion_text(&suggestion, "[", after, hint));
}

/* Returns whether there can be such a section, with what it is and where its name begins; else adds a fault. */
static bool parse_header(struct ini *ini, const char *text, const struct ini_entry *header,
                         enum section_kind *ret_kind, const char **ret_name)
{
        size_t length = strcspn(text, ":");

        for (size_t i = 0; i < ARRAY_SIZE(section_names); i++) {
                const char *kind = section_names[i], *name = text + length;
                if (strlen(kind) != length || strncmp(kind, text, length) != 0)
                        continue;
                if (i == SECTION_DAEMON && *name == ':') {
                        ini_fault_at(ini, header, "[daemon] takes no name");
                        return false;
                }
                if (i != SECTION_DAEMON && *name == '\0') {
                        ini_fault_at(ini, header, "a %s needs a name: [%s:NAME]", kind, kind);
                        return false;
                }
                if (i != SECTION_DAEMON && !is_name(++name)) {
                        ini_fault_at(ini, header,
                                     "'%s' cannot be the name of a %s: it must be a-z, then a-z, 0-9 or _, "
                                     "at most %d in all",
                                     name, kind, CONFIG_NAME_MAX);
                        return false;
                }
                *ret_kind = (enum section_kind)i;
                *ret_name = name;
                return true;
        }
        fault_unknown(ini, header, text, length);
        return false;
}

/* ---- objects ---- */

/* Appends to one of the config's arrays of pointers. Takes `object`, which may be NULL. */
static void *append(void *array, size_t *n, void *object)
{
        void ***list = array;
        void **grown = object ? reallocarray(*list, *n + 1, sizeof(*grown)) : NULL;

        if (!grown) {
                free(object);
                return NULL;
        }
        grown[(*n)++] = object;
        *list = grown;
        return object;
}

static void *object_new(struct config *config, enum section_kind kind, const char *name)
{
        struct listener_config *listener;
        struct resource_config *resource;

        switch (kind) {
        case SECTION_LISTENER:
                listener = append(&config->listeners, &config->n_listeners, calloc(1, sizeof(*listener)));
                if (listener)
                        (void)strcpy(listener->name, name);
                return listener;
        case SECTION_RESOURCE:
                resource = append(&config->resources, &config->n_resources, calloc(1, sizeof(*resource)));
                if (resource) {
                        (void)strcpy(resource->name, name);
                        resource->user = (uid_t)-1;
                        resource->group = (gid_t)-1;
                }
                return resource;
        default:
                return &config->daemon;
        }
}

struct section *section_free(struct section *section)
{
        if (!section)
                return NULL;
        for (size_t i = 0; section->object && i < n_keys; i++)
                if (keys[i].section == section->kind)
                        value_free(&keys[i], section->object);
        free(section->given);
        free(section->text);
        free(section);
        return NULL;
}

struct section *section_open(struct config *config, const char *text, const struct ini_entry *header)
{
        struct config_origins *origins = config->origins;
        struct section *section = section_find(config, text);
        enum section_kind kind;
        const char *name;

        if (section)
                return section;
        if (!parse_header(&origins->ini, text, header, &kind, &name))
                return NULL;
        section = calloc(1, sizeof(*section));
        if (section) {
                section->kind = kind;
                section->header = header;
                section->text = strdup(text);
                section->given = calloc(n_keys, sizeof(const struct ini_entry *));
        }
        if (section && section->text && section->given)
                section->object = object_new(config, kind, name);
        struct section **grown =
                section && section->object
                        ? reallocarray(origins->sections, origins->n_sections + 1, sizeof(struct section *))
                        : NULL;
        if (!grown) {
                origins->ini.error = -ENOMEM;
                return section_free(section);
        }
        section->name = section->text + (name - text);
        origins->sections = grown;
        origins->sections[origins->n_sections++] = section;
        return section;
}

/* ---- what is given ---- */

const struct ini_entry *section_given(const struct section *section, const char *name)
{
        const struct key *key = key_find(section->kind, name, section->kinds);
        const struct ini_entry *entry = section->given[key - keys];

        return entry && entry->value[0] != '\0' ? entry : NULL;
}

void section_fault(struct config *config, const struct section *section, const char *key, const char *format,
                   ...)
{
        _cleanup_free_ char *message = NULL;
        const struct ini_entry *entry = section_given(section, key);
        va_list arguments;

        va_start(arguments, format);
        int r = vasprintf(&message, format, arguments);
        va_end(arguments);
        if (r < 0) {
                message = NULL;
                config->origins->ini.error = -ENOMEM;
                return;
        }
        if (!entry)
                entry = section->header;
        if (entry)
                ini_fault_at(&config->origins->ini, entry, "%s", message);
        else
                ini_fault(&config->origins->ini, 0, 0, "%s", message);
}

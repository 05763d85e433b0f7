/*
 * check: promises that what only shows when several keys are seen together is found before anything is opened:
 * names that lead nowhere, values that are not there yet, addresses wanted twice, programs that do not exist.
 * It looks at the file system (stat(2), access(2), the head of a plugin's file), changes nothing and runs nothing.
 */
#include "base/object.h"
#include "base/unitname.h"
#include "config/section.h"
#include "config/suggest.h"
#include <stdio.h>
#include <sys/stat.h>

/* ---- resources by name ---- */

static void fault_no_resource(struct config *config, const struct section *section, const char *key,
                              const char *name)
{
        struct suggestion suggestion = { .misspelt = name };
        char hint[SUGGESTION_TEXT_MAX];

        for (size_t i = 0; i < config->n_resources; i++)
                suggestion_offer(&suggestion, config->resources[i]->name);
        section_fault(config, section, key, "%s: there is no resource '%s'%s", key, name,
                      suggestion_text(&suggestion, "'", "'", hint));
}

static bool lists(const struct listener_config *listener, const char *name, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (streq(listener->resources[i]->name, name))
                        return true;
        return false;
}

static void find_resources(struct config *config, const struct section *section)
{
        struct listener_config *listener = section->object;
        const struct ini_entry *entry = section_given(section, "resources");
        _cleanup_strv_free_ char **names = NULL;
        const char *reason;

        if (!entry)
                return;
        int r = list_split(entry->value, &names, &reason);
        if (r == -EINVAL) {
                section_fault(config, section, "resources", "resources = %s: %s", entry->value, reason);
                return;
        }
        if (r == 0)
                listener->resources = calloc(strv_length(names) + 1, sizeof(*listener->resources));
        if (!listener->resources) {
                config->origins->ini.error = -ENOMEM;
                return;
        }
        for (size_t i = 0; names[i]; i++) {
                struct resource_config *resource = config_find_resource(config, names[i]);
                if (!resource)
                        fault_no_resource(config, section, "resources", names[i]);
                else if (lists(listener, names[i], listener->n_resources))
                        section_fault(config, section, "resources", "resources: '%s' is listed twice",
                                      names[i]);
                else
                        listener->resources[listener->n_resources++] = resource;
        }
}

/* ---- specifiers ---- */

/* What a template asks for. */
struct needs {
        unsigned flags; /* of the key */
        char **names;   /* %{name}; a strv */
        bool is_per_connection;
        bool is_any; /* it asks for something */
        int error;
};

static const char *note_need(void *userdata, char letter, const char *name)
{
        struct needs *needs = userdata;
        bool has_cause = needs->flags & KEY_CAUSE;

        needs->is_any = true;
        if (has_cause && (letter == 'c' || letter == '{'))
                return letter == 'c' ? "x" : NULL;
        if (letter == '{' && *name != '\0' && !strv_contains(needs->names, name) &&
            strv_append(&needs->names, name) < 0)
                needs->error = -ENOMEM;
        needs->is_per_connection |= letter != 'l' && letter != 'a';
        if (letter == '{')
                return *name != '\0' ? "x" : NULL;
        return strchr("ilaph", letter) ? "x" : NULL;
}

/* 0, -ENOMEM, or -EINVAL with the reason, owned by the caller. */
static int find_needs(const char *template, unsigned flags, struct needs *needs, char **ret_reason)
{
        _cleanup_free_ char *expanded = NULL;
        int r = specifier_expand(template, flags, note_need, needs, &expanded, ret_reason);

        return needs->error < 0 ? needs->error : r;
}

/* Whether it comes to the name of a unit that can be started, whatever the specifiers stand for. */
static void check_unit(struct config *config, const struct section *section, const struct key *key,
                       const char *template)
{
        struct needs needs = { .flags = key->flags };
        _cleanup_free_ char *name = NULL, *reason = NULL;
        int r = specifier_expand(template, 0, note_need, &needs, &name, &reason);

        strv_free(needs.names);
        if (r == -ENOMEM || needs.error < 0)
                config->origins->ini.error = -ENOMEM;
        else if (r == 0 && unit_name_fault(name))
                section_fault(config, section, key->name, "%s = %s: %s", key->name, template,
                              unit_name_fault(name));
}

/* Whether the names that the templates of one key need exist; and for a path or unit, that it is one's own. */
static void check_templates(struct config *config, const struct section *section, const struct key *key)
{
        size_t n;
        char *const *templates = value_templates(key, section, &n);
        struct needs needs = { .flags = key->flags };

        for (size_t i = 0; i < n; i++) {
                _cleanup_free_ char *reason = NULL;
                bool is_own = key->type == KEY_PATH || key->type == KEY_UNIT;
                bool is_shared = section->kind == SECTION_RESOURCE && section->kinds & KIND_HELPER;
                int r = find_needs(templates[i], key->type == KEY_PATH ? SPECIFIER_PATH : 0, &needs, &reason);
                if (r == -EINVAL)
                        section_fault(config, section, key->name, "%s: %s", key->name, reason);
                else if (r < 0)
                        config->origins->ini.error = r;
                else if (is_own && *templates[i] != '\0' && !needs.is_per_connection)
                        section_fault(
                                config, section, key->name,
                                "%s = %s: it must differ between connections, by %%i, %%h, %%p or %%{name}",
                                key->name, templates[i]);
                else if (key->type == KEY_UNIT && *templates[i] != '\0')
                        check_unit(config, section, key, templates[i]);
                else if (is_shared && needs.is_any)
                        section_fault(config, section, key->name,
                                      "%s: '%s': a helper is started once, for all connections: of the "
                                      "specifiers, only %%%% has a meaning",
                                      key->name, templates[i]);
                needs.is_any = false;
        }
        for (size_t i = 0; needs.names && needs.names[i]; i++)
                if (!config_find_resource(config, needs.names[i]))
                        fault_no_resource(config, section, key->name, needs.names[i]);
        strv_free(needs.names);
}

/*
 * Whether everything that the key of `section` needs is among the first `n` resources of the listener, which
 * loads them before. Names that do not exist at all are a fault already.
 */
static void check_order(struct config *config, const struct section *section, const struct key *key,
                        const struct listener_config *listener, size_t n)
{
        size_t n_templates;
        char *const *templates = value_templates(key, section, &n_templates);
        struct needs needs = { .flags = key->flags };

        for (size_t i = 0; i < n_templates; i++) {
                _cleanup_free_ char *reason = NULL;
                if (find_needs(templates[i], 0, &needs, &reason) == -ENOMEM)
                        config->origins->ini.error = -ENOMEM;
        }
        for (size_t i = 0; needs.names && needs.names[i]; i++) {
                if (!config_find_resource(config, needs.names[i]) || lists(listener, needs.names[i], n))
                        continue;
                if (section->kind == SECTION_LISTENER)
                        section_fault(config, section, key->name, "%s: %%{%s} is not among the listener's %s",
                                      key->name, needs.names[i],
                                      lists(listener, needs.names[i], listener->n_resources)
                                              ? "resources before the one that gets the connection"
                                              : "resources");
                else
                        section_fault(config, section, key->name,
                                      "%s: [listener:%s] does not load '%s' before '%s'", key->name,
                                      listener->name, needs.names[i], section->name);
        }
        strv_free(needs.names);
}

/* ---- listeners ---- */

static bool gets_socket(const struct resource_config *resource)
{
        return resource->kind == RESOURCE_PROCESS && resource->socket == PROCESS_SOCKET_STDIO;
}

/* How many resources are loaded before the greeting is sent: a program that gets the connection has to find it sent. */
static size_t n_before_greeting(const struct listener_config *listener)
{
        size_t n = 0;

        while (n < listener->n_resources && !gets_socket(listener->resources[n]))
                n++;
        return n;
}

/* Whoever gets the connection has it alone. */
static void check_program(struct config *config, const struct section *section)
{
        const struct listener_config *listener = section->object;
        size_t first = n_before_greeting(listener);

        for (size_t i = first + 1; i < listener->n_resources; i++)
                if (gets_socket(listener->resources[i]))
                        section_fault(config, section, "resources",
                                      "resources: '%s' and '%s' both get the connection (socket = stdio)",
                                      listener->resources[first]->name, listener->resources[i]->name);
        if (first < listener->n_resources && listener->handler != HANDLER_DISCARD)
                section_fault(config, section, "handler",
                              "handler: the connection is given to the program of '%s' (socket = stdio)",
                              listener->resources[first]->name);
}

static const struct section *section_of(const struct config *config, const void *object)
{
        size_t i = 0;

        while (config->origins->sections[i]->object != object)
                i++;
        return config->origins->sections[i];
}

static void check_listener_order(struct config *config, const struct section *section)
{
        const struct listener_config *listener = section->object;

        for (size_t k = 0; k < n_keys; k++)
                if (keys[k].section == SECTION_LISTENER)
                        check_order(config, section, &keys[k], listener,
                                    streq(keys[k].name, "greeting") ? n_before_greeting(listener)
                                                                    : listener->n_resources);
        for (size_t i = 0; i < listener->n_resources; i++) {
                const struct section *resource = section_of(config, listener->resources[i]);
                for (size_t k = 0; resource->kinds != 0 && k < n_keys; k++)
                        if (keys[k].section == SECTION_RESOURCE && key_belongs(&keys[k], resource->kinds))
                                check_order(config, resource, &keys[k], listener, i);
        }
}

/* Whether the endpoint is among the first `n` of the listener. */
static bool listens(const struct listener_config *listener, const struct endpoint *endpoint, size_t n)
{
        for (size_t i = 0; i < n; i++)
                if (endpoint_is_same(&listener->endpoints[i], endpoint))
                        return true;
        return false;
}

/* Against those before it, so that each pair is said once, at the later one. */
static void check_endpoint(struct config *config, const struct section *section, size_t index)
{
        const struct listener_config *listener = section->object;
        const struct endpoint *endpoint = &listener->endpoints[index];
        bool is_ip = endpoint->kind == ENDPOINT_IP;

        if (listens(listener, endpoint, index)) {
                section_fault(config, section, "listen", "listen: %s is listed twice", endpoint->text);
                return;
        }
        for (size_t i = 0; config->listeners[i] != listener; i++) {
                const struct listener_config *other = config->listeners[i];
                if (!other->enabled || (is_ip && listener->reuse_port && other->reuse_port) ||
                    !listens(other, endpoint, other->n_endpoints))
                        continue;
                section_fault(config, section, "listen", "listen: %s is already taken by [listener:%s]%s",
                              endpoint->text, other->name, is_ip ? ", and not both have reuse_port" : "");
                return;
        }
}

static bool listens_on(const struct listener_config *listener, bool is_ip)
{
        for (size_t i = 0; i < listener->n_endpoints; i++)
                if (listener->endpoints[i].kind == ENDPOINT_SYSTEMD ||
                    (listener->endpoints[i].kind == ENDPOINT_IP) == is_ip)
                        return true;
        return false;
}

/* What a socket unit says in place of a key: the sockets of systemd are open already. */
static void check_systemd(struct config *config, const struct section *section)
{
        static const char *const keys_of_unit[][2] = {
                { "v6only", "BindIPv6Only=" },    { "backlog", "Backlog=" },
                { "reuse_port", "ReusePort=" },   { "socket_mode", "SocketMode=" },
                { "socket_user", "SocketUser=" }, { "socket_group", "SocketGroup=" },
        };
        const struct listener_config *listener = section->object;
        char text[SPAN_TEXT_MAX];

        for (size_t i = 0; i < listener->n_endpoints; i++)
                if (listener->endpoints[i].kind != ENDPOINT_SYSTEMD)
                        return;
        for (size_t i = 0; listener->n_endpoints > 0 && i < ARRAY_SIZE(keys_of_unit); i++) {
                const struct key *key = key_find(SECTION_LISTENER, keys_of_unit[i][0], 0);

                /* A default that is written down is what --print-config prints. */
                if (section_given(section, key->name) &&
                    !streq(value_text(key, section, text), key->standard))
                        section_fault(config, section, key->name,
                                      "%s has no effect on sockets of systemd: set %s in the socket unit",
                                      key->name, keys_of_unit[i][1]);
        }
}

/* Rules of a kind that no peer of this listener can have. */
static void check_rules(struct config *config, const struct section *section, const char *key,
                        const struct rules *rules)
{
        const struct listener_config *listener = section->object;

        if (listener->n_endpoints == 0)
                return;
        if (rules_have(rules, RULE_CIDR) && !listens_on(listener, true))
                section_fault(config, section, key,
                              "%s: it names addresses, but [%s] listens on UNIX sockets only", key,
                              section->text);
        if ((rules_have(rules, RULE_USER) || rules_have(rules, RULE_GROUP)) && !listens_on(listener, false))
                section_fault(config, section, key,
                              "%s: it names users or groups, but [%s] listens on no UNIX socket", key,
                              section->text);
}

static void check_admission(struct config *config, const struct section *section)
{
        const struct listener_config *listener = section->object;

        check_rules(config, section, "allow", &listener->allow);
        check_rules(config, section, "deny", &listener->deny);
        if (!listener->proxy_protocol) {
                if (section_given(section, "proxy_from"))
                        section_fault(config, section, "proxy_from",
                                      "proxy_from has no effect without proxy_protocol = yes");
                return;
        }
        if (!section_given(section, "proxy_from"))
                section_fault(config, section, "proxy_protocol",
                              "proxy_protocol = yes needs proxy_from, the addresses of the proxies");
        for (size_t i = 0; i < listener->n_endpoints; i++)
                if (listener->endpoints[i].kind == ENDPOINT_UNIX ||
                    listener->endpoints[i].kind == ENDPOINT_ABSTRACT)
                        section_fault(config, section, "listen",
                                      "listen: nobody could connect to %s: with proxy_protocol = yes only "
                                      "the addresses of proxy_from may",
                                      listener->endpoints[i].text);
}

static void check_handler(struct config *config, const struct section *section)
{
        const struct listener_config *listener = section->object;
        struct object_identity identity;
        char reason[OBJECT_REASON_MAX];

        if (listener->handler != HANDLER_PLUGIN)
                return;
        if (object_judge(listener->plugin, &identity, reason) < 0)
                section_fault(config, section, "handler", "handler = plugin:%s: %s", listener->plugin,
                              reason);
}

static void check_listeners(struct config *config)
{
        for (size_t i = 0; i < config->n_listeners; i++) {
                const struct listener_config *listener = config->listeners[i];
                const struct section *section = section_of(config, listener);

                if (!section_given(section, "listen"))
                        section_fault(config, section, "listen", "[%s] has no listen", section->text);
                for (size_t k = 0; listener->enabled && k < listener->n_endpoints; k++)
                        check_endpoint(config, section, k);
                check_systemd(config, section);
                check_admission(config, section);
                check_handler(config, section);
                find_resources(config, section);
                check_program(config, section);
                check_listener_order(config, section);
        }
}

/* ---- resources ---- */

static void check_command(struct config *config, const struct section *section, const char *key,
                          char *const *words)
{
        _cleanup_free_ char *path = NULL;

        if (!words[0])
                return;
        int r = program_find(words[0], &path);
        if (r == -ENOMEM)
                config->origins->ini.error = r;
        else if (r == -EACCES)
                section_fault(config, section, key, "%s: %s cannot be executed", key, words[0]);
        else if (r < 0)
                section_fault(config, section, key, "%s: there is no program %s%s", key, words[0],
                              words[0][0] == '/' ? "" : " in " PROGRAM_PATH);
}

static void check_working_directory(struct config *config, const struct section *section, const char *path)
{
        struct stat st;

        if (stat(path, &st) < 0)
                section_fault(config, section, "working_directory", "working_directory = %s: %s", path,
                              strerror(errno));
        else if (!S_ISDIR(st.st_mode))
                section_fault(config, section, "working_directory", "working_directory = %s: %s", path,
                              strerror(ENOTDIR));
}

static void check_given(struct config *config, const struct section *section, unsigned kinds, const char *key)
{
        if (section->kinds & kinds && !section_given(section, key))
                section_fault(config, section, key, "[%s] has no %s", section->text, key);
}

static void check_resource(struct config *config, const struct section *section)
{
        const struct resource_config *resource = section->object;

        check_given(config, section, KIND_DIRECTORY, "path");
        check_given(config, section, KIND_POOL, "items");
        check_given(config, section, KIND_UNIT, "unit");
        check_given(config, section, KIND_PROCESS | KIND_HELPER, "command");
        if (section->kinds & (KIND_PROCESS | KIND_HELPER))
                check_command(config, section, "command", resource->command);
        if (section->kinds & KIND_PROCESS)
                check_working_directory(config, section, resource->working_directory);
        if (gets_socket(resource) && resource->on_exit == ON_EXIT_KEEP)
                section_fault(
                        config, section, "on_exit",
                        "on_exit = keep: with socket = stdio nobody would be left to serve the connection");
        if (section->kinds & KIND_EXEC) {
                if (!section_given(section, "load") && !section_given(section, "release"))
                        section_fault(config, section, "load", "[%s] has neither load nor release",
                                      section->text);
                check_command(config, section, "load", resource->load);
                check_command(config, section, "release", resource->release);
                check_working_directory(config, section, resource->working_directory);
        }
}

/* ---- all ---- */

void check_config(struct config *config)
{
        struct config_origins *origins = config->origins;

        for (size_t i = 0; i < origins->n_sections; i++) {
                const struct section *section = origins->sections[i];

                if (section->kind == SECTION_RESOURCE && section->kinds == 0)
                        continue;
                if (section->kind == SECTION_RESOURCE)
                        check_resource(config, section);
                for (size_t k = 0; k < n_keys; k++)
                        if (keys[k].section == section->kind && key_belongs(&keys[k], section->kinds))
                                check_templates(config, section, &keys[k]);
        }
        check_listeners(config);
}

/* ---- what is no fault ---- */

static bool shares_its_port(const struct listener_config *listener)
{
        return listener->enabled && listener->reuse_port;
}

/* What a specifier stands for, as far as it is empty for all that connect to the listener. */
static const char *note_empty(void *userdata, char letter, const char *name)
{
        const struct listener_config *listener = userdata;
        bool is_empty = letter == 'h' ? !listener->hello : letter == 'p' && !listens_on(listener, true);

        (void)name;
        return is_empty ? "" : "x";
}

/* That the key of a resource cannot be used for any connection of the listener. */
static int warn_of_empty(const struct config *config, struct listener_config *listener,
                         const struct section *resource, const struct key *key, char ***warnings)
{
        size_t n;
        char *const *templates = value_templates(key, resource, &n);
        unsigned flags = key->type == KEY_COMMAND ? SPECIFIER_WORD : SPECIFIER_PATH;
        char where[CONFIG_WHERE_MAX];
        int r = 0;

        for (size_t i = 0; r == 0 && i < n; i++) {
                _cleanup_free_ char *expanded = NULL, *reason = NULL;
                const char *why = NULL;

                r = specifier_expand(templates[i], flags, note_empty, listener, &expanded, &reason);
                if (r == 0 && key->type == KEY_UNIT)
                        why = unit_name_fault(expanded);
                else if (r == -EINVAL)
                        why = reason;
                if (why)
                        r = strv_appendf(warnings, "%s: warning: it fails for everybody on [listener:%s]: %s",
                                         config_where(config, resource->text, key->name, where),
                                         listener->name, why);
        }
        return r;
}

static int warn_of_loads(const struct config *config, struct listener_config *listener, char ***warnings)
{
        int r = 0;

        for (size_t i = 0; listener->enabled && i < listener->n_resources; i++) {
                const struct section *resource = section_of(config, listener->resources[i]);

                for (size_t k = 0; r == 0 && k < n_keys; k++)
                        if (keys[k].section == SECTION_RESOURCE && key_belongs(&keys[k], resource->kinds) &&
                            (keys[k].type == KEY_PATH || keys[k].type == KEY_UNIT ||
                             keys[k].type == KEY_COMMAND))
                                r = warn_of_empty(config, listener, resource, &keys[k], warnings);
        }
        return r;
}

int config_warnings(const struct config *config, char ***ret_warnings)
{
        _cleanup_strv_free_ char **warnings = NULL;
        char where[CONFIG_WHERE_MAX];
        int r = 0;

        for (size_t i = 0; i < config->n_listeners; i++) {
                struct listener_config *listener = config->listeners[i];
                const struct section *section = section_of(config, listener);

                for (size_t k = 0; r == 0 && shares_its_port(listener) && k < listener->n_resources; k++)
                        if (listener->resources[k]->kind == RESOURCE_POOL)
                                r = strv_appendf(&warnings,
                                                 "%s: warning: daemons that share the port do not share the "
                                                 "pool '%s'",
                                                 config_where(config, section->text, "reuse_port", where),
                                                 listener->resources[k]->name);
                if (r == 0)
                        r = warn_of_loads(config, listener, &warnings);
        }
        *ret_warnings = r == 0 ? TAKE_PTR(warnings) : NULL;
        return r;
}

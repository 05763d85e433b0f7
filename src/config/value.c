/*
 * value: promises that one key's text is understood wholly or is a fault, and that value_text() writes what
 * value_set() reads back to the same. It relies on the table for types and defaults and on number.c for what is
 * one number. It deliberately looks at one key alone; check.c sees the others.
 */
#include "config/number.h"
#include "config/section.h"
#include <ctype.h>
#include <inttypes.h>

#define ITEM_MAX  4096 /* bytes: the value of a resource */
#define ITEMS_MAX 1000000

static void *field(const struct key *key, void *object)
{
        return (char *)object + key->offset;
}

/* ---- numbers ---- */

static void store(const struct key *key, void *object, uint64_t value)
{
        void *to = field(key, object);

        if (key->size == sizeof(uint8_t))
                *(uint8_t *)to = (uint8_t)value;
        else if (key->size == sizeof(uint32_t))
                *(uint32_t *)to = (uint32_t)value;
        else
                *(uint64_t *)to = value;
}

static uint64_t fetch(const struct key *key, void *object)
{
        const void *from = field(key, object);

        if (key->size == sizeof(uint8_t))
                return *(const uint8_t *)from;
        if (key->size == sizeof(uint32_t))
                return *(const uint32_t *)from;
        return *(const uint64_t *)from;
}

/* ---- faults ---- */

static void fault(struct ini *ini, const struct ini_entry *entry, const char *reason)
{
        ini_fault_at(ini, entry, "%s = %s: %s", entry->key, entry->value, reason);
}

static void set_scalar(const struct key *key, void *object, const char *text, const struct ini_entry *entry,
                       struct ini *ini)
{
        char wanted[NUMBER_WANTED_MAX];
        uint64_t value;

        int r = number_parse(key, text, &value);
        if (r < 0)
                fault(ini, entry, number_wanted(key, wanted));
        else
                store(key, object, value);
}

/* ---- texts ---- */

static const char *check_command(char *const *words)
{
        if (words[0] && words[0][0] != '/' && strchr(words[0], '/'))
                return "the program must be an absolute path, or a name without '/'";
        return words[0] && strchr(words[0], '%') ? "the program must be named without specifiers" : NULL;
}

static const char *check_environment(char *const *items)
{
        for (size_t i = 0; items[i]; i++) {
                const char *p = items[i];
                if (!isalpha((unsigned char)*p) && *p != '_')
                        return "it must be a list of NAME=value";
                while (isalnum((unsigned char)*p) || *p == '_')
                        p++;
                if (*p != '=')
                        return "it must be a list of NAME=value";
                if (startswith(items[i], "TETHERD_"))
                        return "names that begin with TETHERD_ are tetherd's own";
        }
        return NULL;
}

/* Commands and environments: an array of strings in the struct. */
static void set_strings(const struct key *key, void *object, const char *text, const struct ini_entry *entry,
                        struct ini *ini)
{
        _cleanup_strv_free_ char **strings = NULL;
        char ***to = field(key, object);
        const char *reason = NULL;

        int r = key->type == KEY_COMMAND ? words_split(text, &strings, &reason)
                                         : list_split(text, &strings, &reason);
        if (r == -ENOMEM) {
                ini->error = r;
                return;
        }
        if (r == 0)
                reason = key->type == KEY_COMMAND ? check_command(strings) : check_environment(strings);
        if (reason) {
                fault(ini, entry, reason);
                return;
        }
        strv_free(*to);
        *to = TAKE_PTR(strings);
}

static void set_string(const struct key *key, void *object, const char *text, const struct ini_entry *entry,
                       struct ini *ini)
{
        char **to = field(key, object);

        if (entry && key->type != KEY_TEMPLATE && key->type != KEY_UNIT && *text != '/' && *text != '\0') {
                fault(ini, entry, "it must be an absolute path");
                return;
        }
        char *copy = strdup(text);
        if (!copy) {
                ini->error = -ENOMEM;
                return;
        }
        free(*to);
        *to = copy;
}

/* A list as set by hand, which an empty value is not: with separators only it would say nothing and count as given. */
static int split_list(const char *text, const struct ini_entry *entry, char ***ret_items,
                      const char **ret_reason)
{
        int r = list_split(text, ret_items, ret_reason);

        if (r < 0 || !entry || **ret_items)
                return r;
        *ret_reason = "the list is empty";
        return -EINVAL;
}

static void free_endpoints(struct listener_config *listener)
{
        for (size_t i = 0; i < listener->n_endpoints; i++)
                endpoint_deinit(&listener->endpoints[i]);
        free(listener->endpoints);
        listener->endpoints = NULL;
        listener->n_endpoints = 0;
}

static void add_endpoint(struct listener_config *listener, const char *text, const struct ini_entry *entry,
                         struct ini *ini)
{
        struct endpoint endpoint;
        const char *reason;

        int r = endpoint_parse(text, &endpoint, &reason);
        if (r == -EINVAL) {
                ini_fault_at(ini, entry, "listen = %s: %s", text, reason);
                return;
        }
        struct endpoint *grown =
                r == 0 ? reallocarray(listener->endpoints, listener->n_endpoints + 1, sizeof(*grown)) : NULL;
        if (!grown) {
                ini->error = -ENOMEM;
                if (r == 0)
                        endpoint_deinit(&endpoint);
                return;
        }
        listener->endpoints = grown;
        listener->endpoints[listener->n_endpoints++] = endpoint;
}

static void set_endpoints(struct listener_config *listener, const char *text, const struct ini_entry *entry,
                          struct ini *ini)
{
        _cleanup_strv_free_ char **items = NULL;
        const char *reason;

        free_endpoints(listener);
        int r = split_list(text, entry, &items, &reason);
        if (r == -EINVAL)
                fault(ini, entry, reason);
        else if (r < 0)
                ini->error = r;
        for (size_t i = 0; r == 0 && items[i]; i++)
                add_endpoint(listener, items[i], entry, ini);
}

/* ---- items ---- */

/* A strv that grows fast: a range is written out. */
struct items {
        char **texts;
        size_t n, n_allocated;
};

static void items_deinit(struct items *items)
{
        strv_free(items->texts);
}

/* Takes `text`; NULL: out of memory. */
static int add_item_take(struct items *items, char *text, const char **ret_reason)
{
        if (text && items->n == ITEMS_MAX) {
                free(text);
                *ret_reason = "there are too many items";
                return -EINVAL;
        }
        if (text && items->n + 1 >= items->n_allocated) {
                size_t n_wanted = MAX((size_t)16, 2 * items->n_allocated);
                char **grown = reallocarray(items->texts, n_wanted, sizeof(*grown));

                if (grown) {
                        items->texts = grown;
                        items->n_allocated = n_wanted;
                }
        }
        if (!text || items->n + 1 >= items->n_allocated) {
                free(text);
                return -ENOMEM;
        }
        items->texts[items->n++] = text;
        items->texts[items->n] = NULL;
        return 0;
}

/* It becomes the value of a resource. */
static const char *check_item(const char *text)
{
        if (*text == '\0')
                return "an item is empty";
        if (strlen(text) > ITEM_MAX)
                return "an item is too long";
        for (; *text; text++)
                if ((unsigned char)*text < ' ' || *text == 0x7f)
                        return "an item has a control character";
        return NULL;
}

static int add_item(struct items *items, const char *text, const char **ret_reason)
{
        const char *reason = check_item(text);

        if (reason) {
                *ret_reason = reason;
                return -EINVAL;
        }
        return add_item_take(items, strdup(text), ret_reason);
}

/* "10000-10099", and "01-16" with its zeros; anything else is one item. */
static int add_items(struct items *items, const char *text, const char **ret_reason)
{
        size_t n_first = strspn(text, "0123456789");
        const char *last_text = text + n_first + 1;
        size_t n_last = text[n_first] == '-' ? strspn(last_text, "0123456789") : 0;

        if (n_first == 0 || n_last == 0 || last_text[n_last] != '\0' || n_first > 18 || n_last > 18)
                return add_item(items, text, ret_reason);

        uint64_t first = strtoull(text, NULL, 10), last = strtoull(last_text, NULL, 10);
        int width = text[0] == '0' ? (int)n_first : 1, r = 0;

        if (last < first || last - first >= ITEMS_MAX) {
                *ret_reason = last < first ? "the range ends before it begins" : "the range is too long";
                return -EINVAL;
        }
        for (uint64_t i = first; r == 0 && i <= last; i++) {
                char *item;

                if (asprintf(&item, "%0*" PRIu64, width, i) < 0)
                        item = NULL;
                r = add_item_take(items, item, ret_reason);
        }
        return r;
}

static int compare_items(const void *a, const void *b)
{
        return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The item that is there twice; NULL where there is none, or no memory to find it. */
static const char *find_twice(char *const *items, struct ini *ini)
{
        size_t n = strv_length(items);
        _cleanup_free_ char **sorted = calloc(n + 1, sizeof(*sorted));

        if (!sorted) {
                ini->error = -ENOMEM;
                return NULL;
        }
        for (size_t i = 0; i < n; i++)
                sorted[i] = items[i];
        qsort(sorted, n, sizeof(*sorted), compare_items);
        for (size_t i = 1; i < n; i++)
                if (streq(sorted[i - 1], sorted[i]))
                        return sorted[i];
        return NULL;
}

static void set_items(const struct key *key, void *object, const char *text, const struct ini_entry *entry,
                      struct ini *ini)
{
        _cleanup_(items_deinit) struct items items = { 0 };
        _cleanup_strv_free_ char **words = NULL;
        char ***to = field(key, object);
        const char *reason = NULL, *twice;
        int r = list_split(text, &words, &reason);

        for (size_t i = 0; r == 0 && words[i]; i++)
                r = add_items(&items, words[i], &reason);
        if (r == 0 && entry && items.n == 0) {
                reason = "there is no item";
                r = -EINVAL;
        }
        if (r == -EINVAL) {
                fault(ini, entry, reason);
                return;
        }
        if (r < 0) {
                ini->error = r;
                return;
        }
        twice = items.n > 0 ? find_twice(items.texts, ini) : NULL;
        if (twice)
                ini_fault_at(ini, entry, "%s: '%s' is there twice", key->name, twice);
        strv_free(*to);
        *to = TAKE_PTR(items.texts);
}

/* ---- rules ---- */

static void add_rule(const struct key *key, struct rules *rules, const char *text,
                     const struct ini_entry *entry, struct ini *ini)
{
        char reason[RULE_REASON_MAX];

        int r = rules_add(rules, text, reason);
        if (r == -EINVAL)
                ini_fault_at(ini, entry, "%s = %s: %s", key->name, text, reason);
        else if (r < 0)
                ini->error = r;
        else if (key->flags & KEY_CIDRS && rules->items[rules->n - 1].kind != RULE_CIDR)
                ini_fault_at(ini, entry, "%s = %s: it must be an address or a CIDR", key->name, text);
}

static void set_rules(const struct key *key, void *object, const char *text, const struct ini_entry *entry,
                      struct ini *ini)
{
        _cleanup_strv_free_ char **items = NULL;
        struct rules *rules = field(key, object);
        const char *reason;

        rules_deinit(rules);
        int r = split_list(text, entry, &items, &reason);
        if (r == -EINVAL)
                fault(ini, entry, reason);
        else if (r < 0)
                ini->error = r;
        for (size_t i = 0; r == 0 && items[i]; i++)
                add_rule(key, rules, items[i], entry, ini);
}

/* ---- the handler ---- */

static void set_handler(const struct key *key, struct listener_config *listener, const char *text,
                        const struct ini_entry *entry, struct ini *ini)
{
        const struct key_word *word = key_find_word(key, text);
        const char *path = word && word->value == HANDLER_PLUGIN ? text + strlen(word->name) : NULL;
        char wanted[NUMBER_WANTED_MAX], *copy = NULL;

        if (!word || (path && *path != '/')) {
                fault(ini, entry, word ? "the plugin must be an absolute path" : number_wanted(key, wanted));
                return;
        }
        if (path && !(copy = strdup(path))) {
                ini->error = -ENOMEM;
                return;
        }
        free(listener->plugin);
        listener->plugin = copy;
        listener->handler = (enum handler_kind)word->value;
}

/* ---- any ---- */

/* systemd sets several directories as one list with colons; the first is ours. */
static const char *standard_of(const struct key *key, char **ret_owned, struct ini *ini)
{
        const char *value = key->variable ? getenv(key->variable) : NULL;

        if (!value || *value != '/')
                return key->standard;
        *ret_owned = strndup(value, strcspn(value, ":"));
        if (*ret_owned)
                return *ret_owned;
        ini->error = -ENOMEM;
        return key->standard;
}

void value_set(const struct key *key, const struct section *section, const struct ini_entry *entry,
               struct ini *ini)
{
        _cleanup_free_ char *owned = NULL;

        if (entry && entry->value[0] == '\0')
                entry = NULL;
        const char *text = entry ? entry->value : standard_of(key, &owned, ini);
        switch (key->type) {
        case KEY_FOLDER:
        case KEY_TEMPLATE:
        case KEY_PATH:
        case KEY_UNIT:
                set_string(key, section->object, text, entry, ini);
                break;
        case KEY_COMMAND:
        case KEY_ENVIRONMENT:
                set_strings(key, section->object, text, entry, ini);
                break;
        case KEY_ITEMS:
                set_items(key, section->object, text, entry, ini);
                break;
        case KEY_ENDPOINTS:
                set_endpoints(section->object, text, entry, ini);
                break;
        case KEY_RULES:
                set_rules(key, section->object, text, entry, ini);
                break;
        case KEY_HANDLER:
                set_handler(key, section->object, text, entry, ini);
                break;
        case KEY_NAMES: /* check.c: they may be in a file that is yet to come */
                break;
        default:
                set_scalar(key, section->object, text, entry, ini);
                break;
        }
}

void value_free(const struct key *key, void *object)
{
        if (key->type == KEY_FOLDER || key->type == KEY_TEMPLATE || key->type == KEY_PATH ||
            key->type == KEY_UNIT)
                free(*(char **)field(key, object));
        else if (key->type == KEY_COMMAND || key->type == KEY_ENVIRONMENT || key->type == KEY_ITEMS)
                strv_free(*(char ***)field(key, object));
        else if (key->type == KEY_ENDPOINTS)
                free_endpoints(object);
        else if (key->type == KEY_RULES)
                rules_deinit(field(key, object));
        else if (key->type == KEY_HANDLER)
                free(((struct listener_config *)object)->plugin);
}

const char *value_text(const struct key *key, const struct section *section,
                       char buffer[static SPAN_TEXT_MAX])
{
        const struct ini_entry *entry = section->given[key - keys];

        if (key->type == KEY_FOLDER)
                return *(char **)field(key, section->object);
        if (key->type < KEY_FOLDER && key->type != KEY_USER && key->type != KEY_GROUP)
                return number_format(key, fetch(key, section->object), buffer);
        return entry && entry->value[0] != '\0' ? entry->value : key->standard;
}

char *const *value_templates(const struct key *key, const struct section *section, size_t *ret_n)
{
        char *const *strings = NULL;
        size_t n = 0;

        if (key->type == KEY_TEMPLATE || key->type == KEY_PATH || key->type == KEY_UNIT) {
                strings = field(key, section->object);
                n = 1;
        } else if (key->type == KEY_COMMAND || key->type == KEY_ENVIRONMENT) {
                strings = *(char ***)field(key, section->object);
                n = strv_length(strings);
        }
        *ret_n = n;
        return strings;
}

/*
 * What resources see of their connection: specifiers and the environment of commands, as interface.md lists
 * them, and no more. Relies on the daemon being single-threaded.
 * Deliberately not here: what a specifier may not bring into a word or path; that is base/words.
 */
#include "resource/lease.h"
#include <ctype.h>
#include <inttypes.h>
#include <limits.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>

/* ---- what is known of the connection ---- */

static const char *port_text(const struct address *address, char buffer[static ADDRESS_TEXT_MAX])
{
        bool has_port = address->family == AF_INET || address->family == AF_INET6;

        buffer[0] = '\0';
        if (has_port)
                (void)snprintf(buffer, ADDRESS_TEXT_MAX, "%u", address->port);
        return buffer;
}

const char *claim_specifier(void *userdata, char letter, const char *name)
{
        static char
                buffer[ADDRESS_TEXT_MAX]; /* good until the next call, which is all that expanding needs */
        const struct claim *claim = userdata;
        const struct lease *lease = claim->lease;
        const struct lease_subject *subject = &lease->subject;

        switch (letter) {
        case 'i':
                (void)snprintf(buffer, sizeof(buffer), "%" PRIx64, subject->id);
                return buffer;
        case 'l':
                return subject->listener;
        case 'a':
                return address_host(&subject->remote, buffer);
        case 'p':
                return port_text(&subject->remote, buffer);
        case 'h':
                return subject->identity;
        case '{':
                for (const struct claim *earlier = lease->claims; earlier < claim; earlier++)
                        if (earlier->name && streq(earlier->name, name))
                                return earlier->value;
                return NULL;
        default:
                return NULL;
        }
}

/* ---- the environment ---- */

/* Takes `variable`, "NAME=value", also when it fails; it replaces one of that name. */
static int set_variable(char ***environment, char *variable)
{
        if (!variable)
                return -ENOMEM;

        size_t length = strcspn(variable, "=") + 1;

        for (char **old = *environment; old && *old; old++)
                if (strncmp(*old, variable, length) == 0) {
                        free(*old);
                        *old = variable;
                        return 0;
                }
        return strv_append_take(environment, variable);
}

/* Does nothing when *r says that an earlier one failed. */
_printf_(3, 4) static void set(char ***environment, int *r, const char *format, ...)
{
        char *variable;
        va_list arguments;

        if (*r < 0)
                return;
        va_start(arguments, format);
        *r = vasprintf(&variable, format, arguments) < 0 ? -ENOMEM : set_variable(environment, variable);
        va_end(arguments);
}

/* Asked once: the name service may be slow, and every connection needs it. */
static void own_user(const char **ret_user, const char **ret_home)
{
        static char user[256], home[PATH_MAX];

        if (user[0] == '\0') {
                const struct passwd *entry = getpwuid(geteuid());

                (void)snprintf(home, sizeof(home), "%s", entry ? entry->pw_dir : "/");
                if (entry)
                        (void)snprintf(user, sizeof(user), "%s", entry->pw_name);
                else
                        (void)snprintf(user, sizeof(user), "%u", geteuid());
        }
        *ret_user = user;
        *ret_home = home;
}

static void set_general(char ***environment, int *r, const char *user, const char *home)
{
        const char *language = getenv("LANG");

        if (!user)
                own_user(&user, &home);
        set(environment, r, "PATH=%s", PROGRAM_PATH);
        set(environment, r, "LANG=%s", language && *language ? language : "C.UTF-8");
        set(environment, r, "HOME=%s", home);
        set(environment, r, "USER=%s", user);
}

static void set_subject(char ***environment, int *r, const struct claim *claim)
{
        const struct lease_subject *subject = &claim->lease->subject;
        char text[ADDRESS_TEXT_MAX];

        set(environment, r, "TETHERD_CONNECTION=%" PRIx64, subject->id);
        set(environment, r, "TETHERD_LISTENER=%s", subject->listener);
        set(environment, r, "TETHERD_RESOURCE=%s", claim->name);
        set(environment, r, "TETHERD_REMOTE_ADDRESS=%s", address_host(&subject->remote, text));
        set(environment, r, "TETHERD_REMOTE_PORT=%s", port_text(&subject->remote, text));
        set(environment, r, "TETHERD_LOCAL_ADDRESS=%s", address_host(&subject->local, text));
        set(environment, r, "TETHERD_LOCAL_PORT=%s", port_text(&subject->local, text));
        set(environment, r, "TETHERD_IDENTITY=%s", subject->identity);
}

static void set_earlier_values(char ***environment, int *r, const struct claim *claim)
{
        for (const struct claim *earlier = claim->lease->claims; earlier < claim; earlier++) {
                char name[CONFIG_NAME_MAX + 1];
                size_t length = 0;

                if (!earlier->value)
                        continue;
                for (; earlier->name[length] && length < CONFIG_NAME_MAX; length++)
                        name[length] = (char)toupper((unsigned char)earlier->name[length]);
                name[length] = '\0';
                set(environment, r, "TETHERD_VALUE_%s=%s", name, earlier->value);
        }
}

/* Nothing is known of a connection where there are many. */
static const char *no_specifier(void *userdata _unused_, char letter _unused_, const char *name _unused_)
{
        return NULL;
}

int program_words(char *const *templates, char ***ret_words, char **ret_reason)
{
        _cleanup_strv_free_ char **words = NULL;
        int r = 0;

        for (size_t i = 0; r == 0 && templates && templates[i]; i++) {
                char *word;

                if (i == 0) /* the program, as it stands */
                        word = strdup(templates[i]);
                else
                        r = specifier_expand(templates[i], 0, no_specifier, NULL, &word, ret_reason);
                if (r == 0)
                        r = strv_append_take(&words, word);
        }
        if (r == 0)
                *ret_words = TAKE_PTR(words);
        return r == -EINVAL ? RESOURCE_E_INVALID : r;
}

int program_environment(const char *resource, char *const *extra, char ***ret_environment, char **ret_reason)
{
        _cleanup_strv_free_ char **environment = NULL;
        int r = 0;

        set_general(&environment, &r, NULL, NULL);
        for (; r == 0 && extra && *extra; extra++) {
                char *variable;

                r = specifier_expand(*extra, 0, no_specifier, NULL, &variable, ret_reason);
                if (r == 0)
                        r = set_variable(&environment, variable);
        }
        set(&environment, &r, "TETHERD_RESOURCE=%s", resource);
        if (r == 0)
                *ret_environment = TAKE_PTR(environment);
        return r == -EINVAL ? RESOURCE_E_INVALID : r;
}

int claim_environment(struct claim *claim, char *const *extra, const char *user, const char *home,
                      char ***ret_environment, char **ret_reason)
{
        _cleanup_strv_free_ char **environment = NULL;
        int r = 0;

        set_general(&environment, &r, user, home);
        for (; r == 0 && extra && *extra; extra++) {
                char *variable;

                r = specifier_expand(*extra, 0, claim_specifier, claim, &variable, ret_reason);
                if (r == 0)
                        r = set_variable(&environment, variable);
        }
        if (r == -EINVAL)
                return RESOURCE_E_INVALID;
        set_subject(&environment, &r, claim);
        set_earlier_values(&environment, &r, claim);
        if (r == 0)
                *ret_environment = TAKE_PTR(environment);
        return r;
}

static const char *or_empty(const char *text)
{
        return text ? text : "";
}

static void set_ending(char ***environment, int *r, const struct claim *claim)
{
        const struct event_ending *ending = &claim->lease->ending;

        set(environment, r, "TETHERD_VALUE=%s", or_empty(claim->value));
        set(environment, r, "TETHERD_CAUSE=%s", or_empty(ending->cause));
        set(environment, r, "TETHERD_OPERATION=%s", or_empty(ending->operation));
        set(environment, r, "TETHERD_ERRNO=%d", ending->error);
        if (ending->duration_usec == USEC_INFINITY)
                set(environment, r, "TETHERD_DURATION_USEC=");
        else
                set(environment, r, "TETHERD_DURATION_USEC=%" PRIu64, ending->duration_usec);
        set(environment, r, "TETHERD_BYTES_RECEIVED=%" PRIu64, ending->bytes_received);
        set(environment, r, "TETHERD_BYTES_SENT=%" PRIu64, ending->bytes_sent);
        set(environment, r, "TETHERD_RECOVERED=%d", claim->lease->is_recovered);
}

int claim_phase_environment(const struct claim *claim, char *const *base, const char *phase,
                            char ***ret_environment)
{
        _cleanup_strv_free_ char **environment = NULL;
        int r = 0;

        for (; r == 0 && base && *base; base++)
                r = strv_append(&environment, *base);
        set(&environment, &r, "TETHERD_PHASE=%s", phase);
        if (streq(phase, "release"))
                set_ending(&environment, &r, claim);
        if (r == 0)
                *ret_environment = TAKE_PTR(environment);
        return r;
}

/*
 * rules: promises that every rule is understood wholly or refused with a reason. It relies on the user database
 * (getpwnam(3), getgrnam(3)) for names; a number need not be in it, for containers have users of their own.
 */
#include "base/rules.h"
#include "base/span.h"
#include <grp.h>
#include <pwd.h>

/* Each of these finds what the text stands for and returns NULL, or returns what is wrong. */
static const char *parse_number(const char *text, uint32_t *ret)
{
        uint64_t id;

        if (count_parse(text, UINT32_MAX - 1, &id) < 0)
                return "it must be a number, 0 to 4294967294";
        *ret = (uint32_t)id;
        return NULL;
}

static const char *parse_user(const char *text, uint32_t *ret)
{
        const struct passwd *user = getpwnam(text);

        if (!user)
                return "there is no such user";
        *ret = user->pw_uid;
        return NULL;
}

static const char *parse_group(const char *text, uint32_t *ret)
{
        const struct group *group = getgrnam(text);

        if (!group)
                return "there is no such group";
        *ret = group->gr_gid;
        return NULL;
}

static const struct form {
        const char *prefix;
        enum rule_kind kind;
        const char *(*parse)(const char *text, uint32_t *ret);
} forms[] = {
        { "uid:", RULE_USER, parse_number },
        { "user:", RULE_USER, parse_user },
        { "gid:", RULE_GROUP, parse_number },
        { "group:", RULE_GROUP, parse_group },
};

/* What is wrong may be in `reason`, or a constant. */
static const char *parse_rule(const char *text, struct rule *ret, char reason[static RULE_REASON_MAX])
{
        for (size_t i = 0; i < ARRAY_SIZE(forms); i++)
                if (startswith(text, forms[i].prefix)) {
                        ret->kind = forms[i].kind;
                        return forms[i].parse(text + strlen(forms[i].prefix), &ret->id);
                }
        ret->kind = RULE_CIDR;
        int r = cidr_parse(text, &ret->cidr, reason);
        if (r == -EINVAL)
                return "it must be an address or a CIDR such as 10.0.0.0/8, or for UNIX sockets uid:N, "
                       "user:NAME, gid:N or group:NAME";
        return r < 0 ? reason : NULL;
}

int rules_add(struct rules *rules, const char *text, char reason[static RULE_REASON_MAX])
{
        struct rule rule;
        const char *wrong = parse_rule(text, &rule, reason);

        if (wrong) {
                if (wrong != reason)
                        (void)strcpy(reason, wrong);
                return -EINVAL;
        }
        struct rule *grown = reallocarray(rules->items, rules->n + 1, sizeof(*grown));
        if (!grown)
                return -ENOMEM;
        rules->items = grown;
        rules->items[rules->n++] = rule;
        return 0;
}

void rules_deinit(struct rules *rules)
{
        free(rules->items);
        *rules = (struct rules){ 0 };
}

static bool has_group(const struct peer *peer, gid_t gid)
{
        for (size_t i = 0; i < peer->n_groups; i++)
                if (peer->groups[i] == gid)
                        return true;
        return peer->gid == gid;
}

static bool rule_matches(const struct rule *rule, const struct peer *peer)
{
        bool is_unix = peer->address->family == AF_UNIX;

        switch (rule->kind) {
        case RULE_USER:
                return is_unix && peer->uid == rule->id;
        case RULE_GROUP:
                return is_unix && has_group(peer, rule->id);
        default:
                return cidr_matches(&rule->cidr, peer->address);
        }
}

bool rules_match(const struct rules *rules, const struct peer *peer)
{
        for (size_t i = 0; i < rules->n; i++)
                if (rule_matches(&rules->items[i], peer))
                        return true;
        return false;
}

bool rules_have(const struct rules *rules, enum rule_kind kind)
{
        for (size_t i = 0; i < rules->n; i++)
                if (rules->items[i].kind == kind)
                        return true;
        return false;
}

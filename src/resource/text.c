/*
 * Promises that what is written is restored the same, and that a text which is not understood, to its last
 * complete block, gives no lease: half of what it says would be a guess. Deliberately not here: what to do with a
 * lease that is found, or with such a text.
 */
#include "resource/text.h"
#include "base/fields.h"
#include "resource/lease.h"
#include <inttypes.h>

#define MAGIC      "tetherd-ledger "
#define HEAD       MAGIC "1\n"
#define CLAIMS_MAX 1024

/* ---- writing ---- */

void text_write_head(FILE *file, const struct lease *lease, const char *boot)
{
        char text[ADDRESS_TEXT_MAX];

        (void)fputs(HEAD, file);
        (void)fprintf(file, "connection=%" PRIx64 "\n", lease->subject.id);
        fields_write(file, "boot", boot);
        fields_write(file, "listener", lease->subject.listener);
        fields_write(file, "identity", lease->subject.identity);
        fields_write(file, "remote", address_text(&lease->subject.remote, text));
        fields_write(file, "local", address_text(&lease->subject.local, text));
        fields_write_u64(file, "peer_pid", (uint64_t)lease->subject.peer_pid);
        fields_write_u64(file, "peer_uid", lease->subject.peer_uid);
        fields_write_u64(file, "born", lease->born_usec);
        fields_write_u64(file, "n_claims", lease->n_claims);
        fields_write_u64(file, "n_recorded", lease->n_recorded);
        fields_write_end(file);
}

static const char *state_text(enum claim_state state)
{
        switch (state) {
        case CLAIM_EMPTY:
        case CLAIM_LOAD_QUEUED:
        case CLAIM_WAITING:
                return "empty";
        case CLAIM_INTENDED:
        case CLAIM_LOADING:
        case CLAIM_LOAD_STOPPING:
                return "loading";
        case CLAIM_RELEASING:
        case CLAIM_RELEASE_STOPPING:
                return "releasing";
        default:
                return "loaded";
        }
}

int text_write_claim(FILE *file, const struct claim *claim)
{
        _cleanup_strv_free_ char **fields = NULL;
        const char *state = state_text(claim->state);

        fields_write_u64(file, "claim", (uint64_t)(claim - claim->lease->claims));
        fields_write(file, "name", claim->name);
        fields_write(file, "type", claim->type->name);
        fields_write(file, "state", state);
        fields_write_u64(file, "persistent", claim->is_persistent);
        if (!streq(state, "empty")) {
                int r = claim->type->save(claim, &fields);

                if (r < 0)
                        return r;
                fields_write_u64(file, "release_attempts", claim->release_attempts);
                fields_write_u64(file, "release_timeout", claim->release_timeout_usec);
                if (claim->value)
                        fields_write(file, "value", claim->value);
                for (char **field = fields; field && *field; field++)
                        fields_write_text(file, *field);
        }
        fields_write_end(file);
        return 0;
}

/* ---- reading ---- */

static bool is_state(const char *text)
{
        return streq(text, "empty") || streq(text, "loading") || streq(text, "loaded") ||
               streq(text, "releasing");
}

/* What is needed to release a claim that may hold something. */
static int restore_held(struct claim *claim, char **fields)
{
        const char *value = fields_get(fields, "value");
        _cleanup_free_ char *reason = NULL;
        uint64_t attempts, timeout;
        int r;

        if (fields_get_u64(fields, "release_attempts", &attempts) < 0 || attempts == 0 ||
            attempts > UINT32_MAX || fields_get_u64(fields, "release_timeout", &timeout) < 0)
                return -EINVAL;
        claim->release_attempts = (unsigned)attempts;
        claim->release_timeout_usec = timeout;
        claim->state = CLAIM_LOADED;
        if (value && !(claim->value = strdup(value)))
                return -ENOMEM;
        r = claim->type->restore(claim, fields, &reason);
        return r > 0 ? -EINVAL : r;
}

static int restore_claim(struct lease *lease, char **fields)
{
        const char *name = fields_get(fields, "name"), *type_name = fields_get(fields, "type");
        const char *state = fields_get(fields, "state");
        const struct resource_type *type = type_name ? resource_type_find(type_name) : NULL;
        uint64_t i, is_persistent;
        struct claim *claim;
        int r;

        if (!name || !type || !state || !is_state(state) || fields_get_u64(fields, "claim", &i) < 0 ||
            i >= lease->n_claims || fields_get_u64(fields, "persistent", &is_persistent) < 0 ||
            is_persistent > 1)
                return -EINVAL;
        claim = &lease->claims[i];

        /* The last block of a claim counts. */
        claim->type->forget(claim);
        free(TAKE_PTR(claim->name));
        free(TAKE_PTR(claim->value));
        claim->state = CLAIM_EMPTY;
        r = lease_claim_init(lease, i, type, name);
        claim->is_persistent = is_persistent;
        claim->was_under_way = !streq(state, "loaded");
        if (r < 0 || streq(state, "empty"))
                return r;
        /* What went with the machine; but what is exclusive stays so for what outlived it. */
        if (lease->is_rebooted && !is_persistent && !type->is_exclusive)
                return 0;
        return restore_held(claim, fields);
}

static int restore_head(char **fields, const char *name, const char *boot, struct leases *leases,
                        struct lease **ret_lease)
{
        struct lease_subject subject = { 0 };
        uint64_t n_claims, n_recorded, born_usec, pid, uid;
        const char *id = fields_get(fields, "connection"), *listener = fields_get(fields, "listener");
        const char *identity = fields_get(fields, "identity"), *own_boot = fields_get(fields, "boot");
        struct lease *lease;
        char *end;
        int r;

        if (!id || !own_boot || !listener || !identity || !streq(id, name) ||
            fields_get_u64(fields, "n_claims", &n_claims) < 0 || n_claims > CLAIMS_MAX ||
            fields_get_u64(fields, "n_recorded", &n_recorded) < 0 || n_recorded > n_claims ||
            fields_get_u64(fields, "born", &born_usec) < 0 || fields_get_u64(fields, "peer_pid", &pid) < 0 ||
            fields_get_u64(fields, "peer_uid", &uid) < 0)
                return -EINVAL;
        errno = 0;
        subject.id = strtoull(id, &end, 16);
        if (errno != 0 || *end != '\0')
                return -EINVAL;
        subject.listener = (char *)listener; /* copied, not kept */
        subject.identity = (char *)identity;
        subject.peer_pid = (pid_t)pid;
        subject.peer_uid = (uid_t)uid;
        address_from_text(&subject.remote, fields_get(fields, "remote"));
        address_from_text(&subject.local, fields_get(fields, "local"));
        r = lease_new_empty(&lease, leases, n_claims, &subject);
        if (r < 0)
                return r;
        lease->is_recovered = true;
        lease->is_rebooted = !streq(own_boot, boot);
        lease->born_usec = lease->is_rebooted ? USEC_INFINITY : born_usec; /* that clock began anew */
        lease->n_recorded = n_recorded;
        *ret_lease = lease;
        return 0;
}

int text_read(char *text, const char *name, const char *boot, struct leases *leases, size_t *ret_length,
              struct lease **ret_lease)
{
        _cleanup_(lease_freep) struct lease *lease = NULL;
        char *rest = text + strlen(HEAD);
        int r;

        if (!startswith(text, HEAD))
                return startswith(text, MAGIC) ? -EPROTO : -EINVAL;
        do {
                _cleanup_strv_free_ char **fields = NULL;

                r = fields_read(&rest, &fields);
                if (r > 0)
                        r = lease ? restore_claim(lease, fields)
                                  : restore_head(fields, name, boot, leases, &lease);
                else if (r == 0)
                        break;
        } while (r >= 0);
        if (r < 0)
                return r;
        if (!lease)
                return -EINVAL;
        *ret_length = (size_t)(rest - text);
        *ret_lease = TAKE_PTR(lease);
        return 0;
}

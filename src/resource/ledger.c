/*
 * A record reads like this:
 *
 *      tetherd-ledger 1
 *      connection=6421f0a3b7c01
 *      listener=presence
 *      remote=192.0.2.7:51514
 *      n_claims=1
 *      .
 *      claim=0
 *      name=workdir
 *      type=directory
 *      state=loading            loading, loaded or empty
 *      …                        what the type needs to release it
 *      .
 *
 * Control characters and backslashes in values are written \xNN. Deliberately not here: what to do with a
 * lease that is found; and fsync(2), for the runtime directory does not outlive the machine.
 */
#include "resource/ledger.h"
#include "resource/lease.h"
#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

#define HEAD       "tetherd-ledger 1\n"
#define RECORD_MAX ((size_t)4 * 1024 * 1024)
#define CLAIMS_MAX 1024

struct ledger {
        int directory_fd; /* RUNTIME_DIRECTORY/leases */
        int aside_fd;     /* RUNTIME_DIRECTORY/set-aside */
};

static int open_subdirectory(int parent_fd, const char *name)
{
        int fd;

        if (mkdirat(parent_fd, name, 0700) < 0 && errno != EEXIST)
                return -errno;
        fd = openat(parent_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
        return fd < 0 ? -errno : fd;
}

int ledger_open(struct ledger **ret_ledger, const char *runtime_directory)
{
        _cleanup_close_ int fd = open(runtime_directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _cleanup_(ledger_freep) struct ledger *ledger = calloc(1, sizeof(*ledger));

        if (!ledger)
                return -ENOMEM;
        ledger->directory_fd = ledger->aside_fd = -1;
        if (fd < 0)
                return -errno;
        ledger->directory_fd = open_subdirectory(fd, "leases");
        if (ledger->directory_fd < 0)
                return ledger->directory_fd;
        ledger->aside_fd = open_subdirectory(fd, "set-aside");
        if (ledger->aside_fd < 0)
                return ledger->aside_fd;
        *ret_ledger = TAKE_PTR(ledger);
        return 0;
}

struct ledger *ledger_free(struct ledger *ledger)
{
        if (!ledger)
                return NULL;
        (void)fd_close(ledger->directory_fd);
        (void)fd_close(ledger->aside_fd);
        free(ledger);
        return NULL;
}

struct record_name {
        char text[32];
};

static struct record_name record_name(const struct lease *lease)
{
        struct record_name name;

        (void)snprintf(name.text, sizeof(name.text), "%" PRIx64, lease->subject.id);
        return name;
}

/* ---- writing ---- */

static void write_escaped(FILE *file, const char *text)
{
        for (const unsigned char *c = (const unsigned char *)text; *c; c++)
                if (*c < ' ' || *c == '\\' || *c == 0x7f)
                        (void)fprintf(file, "\\x%02x", *c);
                else
                        (void)fputc(*c, file);
        (void)fputc('\n', file);
}

static void write_field(FILE *file, const char *name, const char *value)
{
        (void)fprintf(file, "%s=", name);
        write_escaped(file, value);
}

static void write_head(FILE *file, const struct lease *lease)
{
        char text[ADDRESS_TEXT_MAX];

        (void)fputs(HEAD, file);
        (void)fprintf(file, "connection=%" PRIx64 "\n", lease->subject.id);
        write_field(file, "listener", lease->subject.listener);
        write_field(file, "identity", lease->subject.identity);
        write_field(file, "remote", address_text(&lease->subject.remote, text));
        write_field(file, "local", address_text(&lease->subject.local, text));
        (void)fprintf(file, "peer_pid=%d\npeer_uid=%u\n", lease->subject.peer_pid, lease->subject.peer_uid);
        (void)fprintf(file, "born=%" PRIu64 "\nn_claims=%zu\n.\n", lease->born_usec, lease->n_claims);
}

static const char *state_text(enum claim_state state)
{
        switch (state) {
        case CLAIM_EMPTY:
        case CLAIM_LOAD_QUEUED:
                return "empty";
        case CLAIM_LOADING:
        case CLAIM_LOAD_STOPPING:
                return "loading";
        default:
                return "loaded";
        }
}

static int write_claim(FILE *file, const struct claim *claim)
{
        _cleanup_strv_free_ char **fields = NULL;
        const char *state = state_text(claim->state);

        (void)fprintf(file, "claim=%td\n", claim - claim->lease->claims);
        write_field(file, "name", claim->name);
        write_field(file, "type", claim->type->name);
        write_field(file, "state", state);
        if (!streq(state, "empty")) {
                int r = claim->type->save(claim, &fields);

                if (r < 0)
                        return r;
                (void)fprintf(file, "release_attempts=%u\nrelease_timeout=%" PRIu64 "\n",
                              claim->release_attempts, claim->release_timeout_usec);
                if (claim->value)
                        write_field(file, "value", claim->value);
                for (char **field = fields; field && *field; field++)
                        write_escaped(file, *field);
        }
        (void)fputs(".\n", file);
        return 0;
}

int ledger_save(struct ledger *ledger, const struct claim *claim)
{
        const struct lease *lease = claim->lease;
        _cleanup_free_ char *text = NULL;
        _cleanup_close_ int fd = openat(ledger->directory_fd, record_name(lease).text,
                                        O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        size_t length = 0;
        struct stat st;
        FILE *file;
        int r;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        file = open_memstream(&text, &length);
        if (!file)
                return -ENOMEM;
        if (st.st_size == 0)
                write_head(file, lease);
        r = write_claim(file, claim);
        if (fclose(file) != 0 && r == 0)
                r = -ENOMEM;
        if (r < 0)
                return r;

        /* One write a block: what a crash cuts short does not end with its dot and is as if never written. */
        ssize_t n = write(fd, text, length);

        if (n == (ssize_t)length)
                return 0;
        r = n < 0 ? -errno : -ENOSPC;
        return ftruncate(fd, st.st_size) < 0 ? -errno
                                             : r; /* or the next block would be taken for this one's end */
}

int ledger_erase(struct ledger *ledger, const struct lease *lease)
{
        return unlinkat(ledger->directory_fd, record_name(lease).text, 0) < 0 && errno != ENOENT ? -errno : 0;
}

/* ---- reading ---- */

static int read_record(int directory_fd, const char *name, char **ret_text)
{
        _cleanup_close_ int fd = openat(directory_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
        _cleanup_free_ char *text = NULL;
        size_t length = 0;
        struct stat st;
        ssize_t n;

        if (fd < 0 || fstat(fd, &st) < 0)
                return -errno;
        if (!S_ISREG(st.st_mode) || (size_t)st.st_size > RECORD_MAX)
                return -EINVAL;
        text = malloc((size_t)st.st_size + 1);
        if (!text)
                return -ENOMEM;
        while (length < (size_t)st.st_size &&
               (n = read(fd, text + length, (size_t)st.st_size - length)) != 0) {
                if (n < 0)
                        return -errno;
                length += (size_t)n;
        }
        text[length] = '\0';
        if (strlen(text) != length)
                return -EINVAL;
        *ret_text = TAKE_PTR(text);
        return 0;
}

/* Undoes write_escaped(), in place. */
static int unescape(char *text)
{
        char *to = text;

        for (const char *from = text; *from; to++) {
                unsigned byte;

                if (*from != '\\') {
                        *to = *from++;
                        continue;
                }
                if (from[1] != 'x' || sscanf(from + 2, "%2x", &byte) != 1 || byte == 0 || !from[3])
                        return -EINVAL;
                *to = (char)byte;
                from += 4;
        }
        *to = '\0';
        return 0;
}

/*
 * Takes the next complete block off *text as fields. 1: there was one; 0: there is no more (what is left is
 * torn or empty); or -EINVAL, -ENOMEM.
 */
static int next_block(char **text, char ***ret_fields)
{
        _cleanup_strv_free_ char **fields = NULL;
        char *rest = *text, *end;

        for (; (end = strchr(rest, '\n')); rest = end + 1) {
                *end = '\0';
                if (streq(rest, ".")) {
                        *text = end + 1;
                        *ret_fields = TAKE_PTR(fields);
                        return *ret_fields ? 1 : -EINVAL;
                }
                if (!strchr(rest, '=') || unescape(rest) < 0)
                        return -EINVAL;
                if (strv_append(&fields, rest) < 0)
                        return -ENOMEM;
        }
        return 0;
}

static void address_parse(const char *text, struct address *ret)
{
        struct endpoint endpoint;
        const char *reason;

        *ret = (struct address){ .family = AF_UNSPEC };
        if (text && streq(text, "unix"))
                ret->family = AF_UNIX;
        else if (text && endpoint_parse(text, &endpoint, &reason) == 0) {
                address_from_socket(ret, &endpoint.address, endpoint.length);
                endpoint_deinit(&endpoint);
        }
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
        struct claim *claim;
        uint64_t i;
        int r;

        if (!name || !type || !state || fields_get_u64(fields, "claim", &i) < 0 || i >= lease->n_claims)
                return -EINVAL;
        claim = &lease->claims[i];

        /* The last block of a claim counts. */
        if (claim->type)
                claim->type->forget(claim);
        free(TAKE_PTR(claim->name));
        free(TAKE_PTR(claim->value));
        claim->type = NULL;
        claim->state = CLAIM_EMPTY;
        r = lease_claim_init(lease, i, type, name);
        return r < 0 || streq(state, "empty") ? r : restore_held(claim, fields);
}

static int restore_head(char **fields, const char *name, struct leases *leases, struct lease **ret_lease)
{
        struct lease_subject subject = { 0 };
        uint64_t n_claims, born_usec, pid, uid;
        const char *id = fields_get(fields, "connection"), *listener = fields_get(fields, "listener");
        const char *identity = fields_get(fields, "identity");
        char *end;
        int r;

        if (!id || !listener || !identity || !streq(id, name) ||
            fields_get_u64(fields, "n_claims", &n_claims) < 0 || n_claims > CLAIMS_MAX ||
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
        address_parse(fields_get(fields, "remote"), &subject.remote);
        address_parse(fields_get(fields, "local"), &subject.local);
        r = lease_new_empty(ret_lease, leases, n_claims, &subject);
        if (r == 0) {
                (*ret_lease)->born_usec = born_usec;
                (*ret_lease)->is_recovered = true;
        }
        return r;
}

static int truncate_record(struct ledger *ledger, const char *name, off_t length)
{
        _cleanup_close_ int fd = openat(ledger->directory_fd, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);

        return fd < 0 || ftruncate(fd, length) < 0 ? -errno : 0;
}

static int restore_record(struct ledger *ledger, const char *name, struct leases *leases,
                          struct lease **ret_lease)
{
        _cleanup_(lease_freep) struct lease *lease = NULL;
        _cleanup_free_ char *text = NULL;
        size_t length;
        char *rest;
        int r;

        r = read_record(ledger->directory_fd, name, &text);
        if (r < 0)
                return r;
        if (!startswith(text, HEAD))
                return -EINVAL;
        length = strlen(text);
        rest = text + strlen(HEAD);
        do {
                _cleanup_strv_free_ char **fields = NULL;

                r = next_block(&rest, &fields);
                if (r > 0)
                        r = lease ? restore_claim(lease, fields) : restore_head(fields, name, leases, &lease);
                else if (r == 0)
                        break;
        } while (r >= 0);
        if (r < 0)
                return r;
        if (!lease)
                return -EINVAL;
        if ((size_t)(rest - text) < length) {
                /* A block that the crash cut short: nothing was done on the strength of it. */
                r = truncate_record(ledger, name, rest - text);
                if (r < 0)
                        return r;
        }
        *ret_lease = TAKE_PTR(lease);
        return 0;
}

/* What is in the file, or what the file is, as opposed to a fault of this moment. */
static bool is_foreign(int error)
{
        return error == -EINVAL || error == -ELOOP || error == -ENXIO;
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
        size_t a_length = strlen((*a)->d_name), b_length = strlen((*b)->d_name);

        /* Hexadecimal numbers without leading zeros: the shorter is the smaller. */
        return a_length != b_length ? (a_length < b_length ? -1 : 1) : strcmp((*a)->d_name, (*b)->d_name);
}

static int is_record(const struct dirent *entry)
{
        return entry->d_name[0] != '.';
}

/* Fails only where the record is not to blame: it stays for the next start, nothing is lost. */
static int restore_one(struct ledger *ledger, const char *name, struct leases *leases,
                       struct journal *journal, void (*found)(struct lease *lease, void *userdata),
                       void *userdata)
{
        struct lease *lease = NULL;
        int r = restore_record(ledger, name, leases, &lease);

        if (is_foreign(r)) {
                log_message(journal, LOG_ERR, "ledger record leases/%s cannot be understood (%s): set aside",
                            name, strerror(-r));
                (void)renameat(ledger->directory_fd, name, ledger->aside_fd, name);
                return 0;
        }
        if (r == 0)
                found(lease, userdata);
        return r;
}

int ledger_restore(struct ledger *ledger, struct leases *leases, struct journal *journal,
                   void (*found)(struct lease *lease, void *userdata), void *userdata)
{
        struct dirent **entries;
        int n = scandirat(ledger->directory_fd, ".", &entries, is_record, by_name), r = 0;

        if (n < 0)
                return -errno;
        for (int i = 0; i < n; i++) {
                if (r == 0)
                        r = restore_one(ledger, entries[i]->d_name, leases, journal, found, userdata);
                free(entries[i]);
        }
        free(entries);
        return r;
}

/*
 * Unsent bytes are in it as hexadecimal digits: they are whatever the peer sent. A field that an older version did
 * not write is 0.
 */
#include "connection/snapshot.h"
#include "base/fields.h"
#include "connection/stream.h"
#include <inttypes.h>

void snapshot_write(const struct connection *c, bool is_last, FILE *file)
{
        char text[ADDRESS_TEXT_MAX];
        const struct output *output = is_last ? c->output : NULL;

        (void)fprintf(file, "connection=%" PRIx64 "\n", c->id);
        fields_write(file, "listener", c->config->name);
        if (c->identity)
                fields_write(file, "identity", c->identity);
        fields_write(file, "remote", address_text(&c->remote, text));
        fields_write_u64(file, "peer_pid", (uint64_t)connection_peer_pid(c));
        fields_write_u64(file, "peer_uid", connection_peer_uid(c));
        fields_write_u64(file, "has_lease", c->lease && lease_is_recorded(c->lease));
        fields_write_u64(file, "is_last", is_last);
        fields_write_u64(file, "accepted", c->accepted_usec);
        fields_write_u64(file, "shaken", c->accepted_usec + span_unpack(c->shaken));
        fields_write_u64(file, "ready", c->accepted_usec + span_unpack(c->ready));
        fields_write_u64(file, "fin", c->fin ? c->received_usec + span_unpack(c->fin) : 0);
        fields_write_u64(file, "received", c->received_usec);
        fields_write_u64(file, "bytes_received", c->bytes_received);
        fields_write_u64(file, "bytes_sent", c->bytes_sent);
        fields_write_u64(file, "paused", span_unpack(c->paused) / USEC_PER_MSEC);
        if (output) {
                fields_write_u64(file, "blocked", output->blocked_usec);
                (void)fputs("unsent=", file);
                for (size_t i = output->n_sent; i < output->n_bytes; i++)
                        (void)fprintf(file, "%02x", output->bytes[i]);
                (void)fputc('\n', file);
        }
        fields_write_end(file);
}

int snapshot_identify(char *const *fields, struct snapshot *ret)
{
        const char *id = fields_get(fields, "connection");
        uint64_t has_lease, is_last;
        char *end;

        ret->listener = fields_get(fields, "listener");
        if (!id || !ret->listener || fields_get_u64(fields, "has_lease", &has_lease) < 0)
                return -EINVAL;
        ret->id = strtoull(id, &end, 16);
        ret->has_lease = has_lease != 0;
        ret->is_last = fields_get_u64(fields, "is_last", &is_last) == 0 && is_last != 0;
        return *end == '\0' && ret->id != 0 ? 0 : -EINVAL;
}

static uint64_t number(char *const *fields, const char *name)
{
        uint64_t value = 0;

        (void)fields_get_u64(fields, name, &value);
        return value;
}

static int hex_digit(char c)
{
        return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int read_unsent(struct connection *c, char *const *fields)
{
        const char *text = fields_get(fields, "unsent");
        size_t n = text ? strlen(text) / 2 : 0;

        if (n == 0)
                return 0;
        c->output = malloc(sizeof(*c->output) + n);
        if (!c->output)
                return -ENOMEM;
        *c->output = (struct output){ .n_bytes = n, .n_room = n, .blocked_usec = number(fields, "blocked") };
        for (size_t i = 0; i < n; i++) {
                int high = hex_digit(text[2 * i]), low = hex_digit(text[2 * i + 1]);

                if (high < 0 || low < 0)
                        return -EINVAL;
                c->output->bytes[i] = (uint8_t)(high << 4 | low);
        }
        return 0;
}

int snapshot_read(struct connection *c, char *const *fields, int fd)
{
        const char *identity = fields_get(fields, "identity");
        struct snapshot snapshot;
        int domain = AF_UNSPEC, r = snapshot_identify(fields, &snapshot);
        socklen_t length = sizeof(domain);
        uint64_t fin_usec = number(fields, "fin");

        if (r < 0)
                return r;
        (void)getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length);
        c->id = snapshot.id;
        c->is_unix = domain == AF_UNIX;
        address_from_text(&c->remote, fields_get(fields, "remote"));
        if (c->is_unix) {
                c->remote.peer.pid = (pid_t)number(fields, "peer_pid");
                c->remote.peer.uid = (uid_t)number(fields, "peer_uid");
        }
        c->accepted_usec = number(fields, "accepted");
        c->shaken = span_pack(number(fields, "shaken") - c->accepted_usec);
        c->ready = span_pack(number(fields, "ready") - c->accepted_usec);
        c->received_usec = number(fields, "received");
        c->bytes_received = number(fields, "bytes_received");
        c->bytes_sent = number(fields, "bytes_sent");
        c->paused = span_pack(number(fields, "paused") * USEC_PER_MSEC);
        if (!number(fields, "is_last")) {
                c->fin = fin_usec > 0; /* as far as counting is concerned */
                stream_recount(c, fd);
                /* Where the kernel does not say when the last bytes came, idle_timeout begins anew. */
                if (c->is_unix && fin_usec == 0)
                        c->received_usec = clock_usec(CLOCK_MONOTONIC);
                if (c->received_usec != number(fields, "received"))
                        c->paused = 0;
        }
        if (fin_usec > 0)
                c->fin = MAX(span_pack(fin_usec > c->received_usec ? fin_usec - c->received_usec : 0), 1U);
        r = read_unsent(c, fields);
        if (r == 0 && identity && !(c->identity = strdup(identity)))
                r = -ENOMEM;
        return r;
}

void snapshot_drop(struct connections *connections, struct connection *c)
{
        free(c->output);
        free(c->identity);
        connection_free(connections, c);
}

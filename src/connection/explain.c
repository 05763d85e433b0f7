/*
 * The bounds are the kernel's: keepalive probes go out after `idle` and then every `interval`; with a user timeout
 * the first one that finds it exceeded ends the connection, without one the count of probes does
 * (tcp_keepalive_timer()). Data under way ends it one retransmission timeout (RTO) of the path, for which a second
 * is allowed here, after the user timeout; without one, tcp_retries2 does, after about 15 minutes. A peer that
 * half-closed and then closes tells nothing: its kernel answers probes until its tcp_fin_timeout is over, and then
 * with RST. Both are the peer's and the path's business; the table says what is taken for them. Where an interval or
 * count is left to the kernel (tcp_tune()), it is taken to have its own defaults.
 */
#include "connection/explain.h"
#include "base/span.h"
#include "connection/cause.h"

#define RETRANSMISSION_USEC (1 * USEC_PER_SEC)
#define RETRIES_USEC        (924600 * USEC_PER_MSEC) /* tcp_retries2 = 15, ip-sysctl(5) */
#define FIN_TIMEOUT_USEC    (60 * USEC_PER_SEC)      /* tcp_fin_timeout, likewise */
#define INTERVAL_USEC       (75 * USEC_PER_SEC)      /* tcp_keepalive_intvl, likewise */
#define N_PROBES            9                        /* tcp_keepalive_probes, likewise */

static uint64_t idle_bound(const struct listener_config *c)
{
        uint64_t idle = c->keepalive_idle;
        uint64_t interval = c->keepalive_interval == USEC_INFINITY ? INTERVAL_USEC : c->keepalive_interval;
        uint64_t n_probes = c->keepalive_count == 0 ? N_PROBES : c->keepalive_count;

        if (idle == USEC_INFINITY)
                return USEC_INFINITY;
        if (c->user_timeout == USEC_INFINITY)
                return idle + interval * n_probes;
        if (idle + interval >= c->user_timeout)
                return idle + interval;
        return idle + (c->user_timeout - idle + interval - 1) / interval * interval;
}

struct detection detection_of(const struct listener_config *c)
{
        uint64_t sending_usec =
                c->user_timeout == USEC_INFINITY ? RETRIES_USEC : c->user_timeout + RETRANSMISSION_USEC;
        uint64_t idle_usec = idle_bound(c);

        return (struct detection){
                .idle_usec = idle_usec,
                .sending_usec = sending_usec,
                .late_usec = deadline_after(idle_usec == USEC_INFINITY ? 0 : idle_usec, sending_usec),
        };
}

static void row(FILE *file, const char *way, const char *notice, uint64_t usec, enum cause cause)
{
        char span[SPAN_TEXT_MAX];
        const char *worst = usec == 0 ? "at once" : usec == USEC_INFINITY ? "never" : span_format(usec, span);

        (void)fprintf(file, "  %-48s  %-38s  %-16s  %s\n", way, notice, worst, cause_name(cause));
}

static bool keeps_half_closed(const struct listener_config *c)
{
        return c->half_close == HALF_CLOSE_KEEP && c->handler != HANDLER_ECHO;
}

/* Whose program has the connection; NULL: nobody's. */
static const struct resource_config *program_of(const struct listener_config *c)
{
        for (size_t i = 0; i < c->n_resources; i++)
                if (c->resources[i]->kind == RESOURCE_PROCESS &&
                    c->resources[i]->socket == PROCESS_SOCKET_STDIO)
                        return c->resources[i];
        return NULL;
}

static void print_fin(FILE *file, const struct listener_config *c, uint64_t idle_usec)
{
        uint64_t close_usec = deadline_after(FIN_TIMEOUT_USEC, idle_usec);

        if (program_of(c)) {
                row(file, "half-closes (FIN)", "the program, if it reads", USEC_INFINITY,
                    CAUSE_PROCESS_EXITED);
                row(file, "closes or exits (FIN, not to be told from it)",
                    "its tcp_fin_timeout of 60 s, keepalive", close_usec, CAUSE_EOF);
                return;
        }
        if (!keeps_half_closed(c)) {
                row(file, "closes, half-closes or exits (FIN)", "FIN", 0, CAUSE_EOF);
                return;
        }
        row(file, "half-closes (FIN)", "half_close_timeout", c->half_close_timeout, CAUSE_HALF_CLOSE_TIMEOUT);
        if (close_usec < c->half_close_timeout)
                row(file, "closes or exits (FIN, not to be told from it)",
                    "its tcp_fin_timeout of 60 s, keepalive", close_usec, CAUSE_EOF);
        else
                row(file, "closes or exits (FIN, not to be told from it)", "half_close_timeout",
                    c->half_close_timeout, CAUSE_HALF_CLOSE_TIMEOUT);
}

static void print_tcp(FILE *file, const struct listener_config *c)
{
        struct detection d = detection_of(c);
        bool has_timeout = c->user_timeout != USEC_INFINITY;
        const char *sending = has_timeout ? "user_timeout, and an RTO of up to 1 s" : "tcp_retries2";

        print_fin(file, c, d.idle_usec);
        row(file, "resets, or is killed with our bytes unread", "RST", 0, CAUSE_RESET);
        row(file, "vanishes while idle (power, cable, NAT)", "keepalive", d.idle_usec,
            CAUSE_KEEPALIVE_TIMEOUT);
        row(file, "vanishes with our data under way", sending, d.sending_usec, CAUSE_TRANSMIT_TIMEOUT);
        row(file, "vanishes, and we send just before it is noticed", "the same, begun anew", d.late_usec,
            CAUSE_TRANSMIT_TIMEOUT);
        row(file, "is unreachable with our data under way (ICMP)", sending, d.sending_usec,
            CAUSE_UNREACHABLE);
        row(file, "is replaced by a host that answers with RST", "keepalive", c->keepalive_idle, CAUSE_RESET);
        /* Without a user timeout it is never given up: it answers our probes of its window. */
        row(file, "is alive but does not read what we send", has_timeout ? sending : "user_timeout",
            has_timeout ? d.sending_usec : USEC_INFINITY, CAUSE_STALLED);
        row(file, "is destroyed on this host (ss -K)", "ECONNABORTED", 0, CAUSE_ABORTED);
}

static void print_unix(FILE *file, const struct listener_config *c)
{
        if (program_of(c)) {
                row(file, "half-closes (UNIX)", "the program, if it reads", USEC_INFINITY,
                    CAUSE_PROCESS_EXITED);
                row(file, "closes or exits (UNIX)", "the kernel", 0, CAUSE_EOF);
        } else if (keeps_half_closed(c)) {
                row(file, "half-closes (UNIX)", "half_close_timeout", c->half_close_timeout,
                    CAUSE_HALF_CLOSE_TIMEOUT);
                row(file, "closes or exits (UNIX)", "the kernel", 0, CAUSE_EOF);
        } else {
                row(file, "closes, half-closes or exits (UNIX)", "the kernel", 0, CAUSE_EOF);
        }
        row(file, "closes with our bytes unread (UNIX)", "the kernel", 0, CAUSE_RESET);
        if (!program_of(c))
                row(file, "is alive but does not read what we send (UNIX)", "detect_within", c->detect_within,
                    CAUSE_STALLED);
}

static void print_listener(FILE *file, const struct listener_config *c)
{
        bool has_ip = false, has_unix = false;

        for (size_t i = 0; i < c->n_endpoints; i++) {
                bool is_either = c->endpoints[i].kind == ENDPOINT_SYSTEMD; /* its unit says what it is */

                has_ip = has_ip || is_either || c->endpoints[i].kind == ENDPOINT_IP;
                has_unix = has_unix || is_either || c->endpoints[i].kind != ENDPOINT_IP;
        }

        (void)fprintf(file, "[listener:%s]\n", c->name);
        (void)fprintf(file, "  %-48s  %-38s  %-16s  %s\n", "A peer that ...", "is noticed by",
                      "at worst after", "cause");
        if (has_ip)
                print_tcp(file, c);
        if (has_unix)
                print_unix(file, c);
        if (c->hello || c->proxy_protocol)
                row(file, "does not finish its handshake", "handshake_timeout", c->handshake_timeout,
                    CAUSE_HANDSHAKE_TIMEOUT);
        if (!program_of(c))
                row(file, "is there and says nothing", "idle_timeout", c->idle_timeout, CAUSE_IDLE_TIMEOUT);
        row(file, "stays whatever it does", "max_age", c->max_age, CAUSE_MAX_AGE);
}

int explain_print(const struct config *config, FILE *file)
{
        bool is_first = true;

        for (size_t i = 0; i < config->n_listeners; i++) {
                if (!config->listeners[i]->enabled)
                        continue;
                if (!is_first)
                        (void)fputc('\n', file);
                print_listener(file, config->listeners[i]);
                is_first = false;
        }
        return fflush(file) != 0 || ferror(file) ? -EIO : 0;
}

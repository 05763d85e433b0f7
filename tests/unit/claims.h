/*
 * claims: resource types driven without the lease: one lease with a few claims, the callbacks that lease.c
 * would provide, and what they were told. One at a time, in static variables: Check runs each test alone.
 */
#pragma once

#include "unit.h"

#include "resource/lease.h"
#include <arpa/inet.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>

enum said { NOTHING, LOADED, LOAD_FAILED, RELEASED, RELEASE_FAILED, DEFERRED, WAITING, LOST };

static struct loop *loop;
static struct leases leases;
static struct lease *lease;
static const struct resource_type *lease_type;
static struct resource_config config;

static struct {
        enum said said;
        unsigned n_said;
        bool is_said; /* of a load that failed */
        int exit_status;
        char text[8192]; /* the value, or the reason */
        char **output;
        char **log;
        unsigned n_saves;
        int save_result;
        bool is_disk_slow;
        char **saved; /* the fields of the last save */
        unsigned n_lost;
        enum lease_loss loss;
        char lost_text[1024];
        unsigned n_messages;
} seen;

static void hear(enum said said, bool is_said, int exit_status, const char *text)
{
        seen.said = said;
        seen.n_said++;
        seen.is_said = is_said;
        seen.exit_status = exit_status;
        (void)snprintf(seen.text, sizeof(seen.text), "%s", text);
}

void claim_loaded(struct claim *claim, const char *value)
{
        hear(LOADED, true, 0, value);
        if (strlen(value) <= CLAIM_VALUE_MAX) {
                free(claim->value);
                claim->value = strdup(value);
        }
}

void claim_load_failed(struct claim *claim _unused_, bool is_said, int exit_status, const char *reason)
{
        hear(LOAD_FAILED, is_said, exit_status, reason);
}

void claim_defer(struct claim *claim _unused_, int error)
{
        hear(DEFERRED, false, 0, strerror(error));
}

/* What the type table brings along besides; nothing here is refused. */
void claim_load_refused(struct claim *claim _unused_, const char *reason _unused_)
{
        abort();
}

bool event_is_wanted(const struct journal *journal _unused_, int priority _unused_, bool is_ending _unused_)
{
        return true;
}

void claim_released(struct claim *claim _unused_)
{
        hear(RELEASED, true, 0, "");
}

void claim_release_failed(struct claim *claim _unused_, int exit_status, const char *reason)
{
        hear(RELEASE_FAILED, true, exit_status, reason);
}

/* Of the process that the connection was given to, where `is_said`. */
void claim_lost(struct claim *claim _unused_, enum lease_loss loss, int exit_status, const char *reason)
{
        seen.n_lost++;
        seen.loss = loss;
        (void)snprintf(seen.lost_text, sizeof(seen.lost_text), "%s", reason);
        hear(LOST, loss == LEASE_PROCESS_EXITED, exit_status, reason);
}

static int given_socket_fd = -ENOTCONN;
static unsigned n_sockets_taken;

int claim_take_socket(struct claim *claim _unused_)
{
        n_sockets_taken++;
        return given_socket_fd;
}

int claim_save(struct claim *claim);

/* What waits for the disk; seen.is_disk_slow: until the test calls it. */
static void (*secured)(struct claim *claim, int error);

void claim_secure(struct claim *claim, void (*then)(struct claim *claim, int error))
{
        int r = claim_save(claim);

        if (r == 0 && seen.is_disk_slow)
                secured = then;
        else
                then(claim, r);
}

int claim_save(struct claim *claim)
{
        seen.n_saves++;
        seen.saved = strv_free(seen.saved);
        ck_assert_int_eq(claim->type->save(claim, &seen.saved), 0);
        return seen.save_result;
}

int claim_note(struct claim *claim)
{
        return claim_save(claim);
}

int claim_note_anew(struct claim *claim)
{
        return claim_save(claim);
}

void claim_output(struct claim *claim _unused_, const char *line)
{
        ck_assert_int_eq(strv_append(&seen.output, line), 0);
}

/* One that waits is told so as any end is; the test calls claim_proceed(), or what waits for it does. */
void claim_wait(struct claim *claim, uint64_t span_usec _unused_, enum lease_failure failure _unused_,
                const char *reason)
{
        claim->state = CLAIM_WAITING;
        hear(WAITING, true, 0, reason);
}

void claim_proceed(struct claim *claim)
{
        ck_assert_int_eq(claim->state, CLAIM_WAITING);
        claim->state = CLAIM_LOADING;
        claim->type->load(claim);
}

void log_message(struct journal *journal _unused_, int priority, const char *format, ...)
{
        char text[1024];
        va_list arguments;

        va_start(arguments, format);
        (void)vsnprintf(text, sizeof(text), format, arguments);
        va_end(arguments);
        seen.n_messages++;
        ck_assert_int_eq(strv_appendf(&seen.log, "<%d> %s", priority, text), 0);
}

void event_shared_output(struct journal *journal _unused_, const char *resource, const char *line)
{
        ck_assert_int_eq(strv_appendf(&seen.output, "%s: %s", resource, line), 0);
}

static struct address ip_address(const char *ip, uint16_t port)
{
        struct address address = { .family = strchr(ip, ':') ? AF_INET6 : AF_INET, .port = port };

        ck_assert_int_eq(inet_pton(address.family, ip, address.ip), 1);
        return address;
}

/* Three claims: "first" has the value "one", "second" none; the third is the one that is tested. */
static struct claim *claims_open(const struct resource_type *type)
{
        static const char *const names[] = { "first", "second", "third" };
        sigset_t mask;

        ck_assert_int_eq(sigemptyset(&mask), 0);
        ck_assert_int_eq(sigaddset(&mask, SIGCHLD), 0);
        ck_assert_int_eq(sigprocmask(SIG_BLOCK, &mask, NULL), 0);
        ck_assert_int_eq(loop_new(&loop), 0);
        seen.said = NOTHING;
        seen.n_said = seen.n_saves = seen.n_lost = seen.n_messages = 0;
        seen.save_result = 0;
        leases = (struct leases){ .loop = loop };
        lease_type = type;
        lease = calloc(1, sizeof(*lease) + ARRAY_SIZE(names) * sizeof(lease->claims[0]));
        ck_assert_ptr_nonnull(lease);
        lease->leases = &leases;
        lease->n_claims = ARRAY_SIZE(names);
        lease->subject = (struct lease_subject){
                .id = 0x6421f0a3b7c01,
                .listener = strdup("presence"),
                .identity = strdup("alice"),
                .remote = ip_address("192.0.2.7", 51514),
                .local = ip_address("2001:db8::1", 7400),
        };
        for (size_t i = 0; i < ARRAY_SIZE(names); i++)
                lease->claims[i] = (struct claim){
                        .lease = lease,
                        .type = type,
                        .config = &config,
                        .name = strdup(names[i]),
                        .state = CLAIM_LOADING,
                };
        lease->claims[0].value = strdup("one");
        config = (struct resource_config){
                .user = (uid_t)-1, .group = (gid_t)-1, .mode = 0700, .working_directory = (char *)"/"
        };
        return &lease->claims[2];
}

static inline void claims_close(void)
{
        for (size_t i = 0; i < lease->n_claims; i++) {
                if (lease->claims[i].type)
                        lease->claims[i].type->forget(&lease->claims[i]);
                free(lease->claims[i].name);
                free(lease->claims[i].value);
        }
        free(lease->subject.listener);
        free(lease->subject.identity);
        free(lease);
        for (enum resource_kind kind = 0; kind < N_RESOURCE_KINDS; kind++)
                if (leases.shared[kind])
                        lease_type->deinit(&leases);
        seen.output = strv_free(seen.output);
        seen.log = strv_free(seen.log);
        seen.saved = strv_free(seen.saved);
        loop = loop_free(loop);
}

/* Turns until the claim was told of one more end. */
static inline enum said claims_wait(void)
{
        unsigned n_before = seen.n_said;

        while (seen.n_said == n_before)
                ck_assert_int_eq(loop_turn(loop, USEC_INFINITY), 0);
        ck_assert_uint_eq(seen.n_said, n_before + 1);
        return seen.said;
}

static inline void claims_prepare(struct claim *claim)
{
        char *reason = NULL;
        int r = claim->type->prepare(claim, &reason);

        ck_assert_msg(r == 0, "%d %s", r, reason ? reason : "");
}

/* Loads or releases; what ends at once counts as well. */
static inline enum said claims_run(struct claim *claim, void (*begin)(struct claim *claim))
{
        unsigned n_before = seen.n_said;

        begin(claim);
        return seen.n_said > n_before ? seen.said : claims_wait();
}

/* What the next run of the daemon makes of the record: the same lease, the claim as it was saved last. */
static inline void claims_restart(struct claim *claim)
{
        char *reason = NULL;
        int r;

        claim->type->forget(claim);
        ck_assert_ptr_null(claim->data);
        claim->config = NULL;
        claim->state = CLAIM_LOADED;
        r = claim->type->restore(claim, seen.saved, &reason);
        ck_assert_msg(r == 0, "%d %s", r, reason ? reason : "");
}

/*
 * The difference of two configurations is found by listener.c, a listener at a time; here is all or nothing: until
 * everything that can fail has succeeded, nothing has changed.
 */
#include "daemon/reload.h"
#include "daemon/privileges.h"
#include <inttypes.h>
#include <stdio.h>

#define DESCRIPTORS_RESERVED    64 /* for everything that is neither a connection nor a command */
#define DESCRIPTORS_PER_COMMAND 6  /* two pipes, a pidfd, /dev/null */
#define DESCRIPTORS_PER_PROCESS \
        2              /* a pidfd and stderr's pipe, as long as its connection; stdout's, if it has one */
#define ALWAYS_SHARE 3 /* of the descriptors: a connection may be in two stores besides */

static void cancel(struct listener_plan **plans, size_t n_plans)
{
        for (size_t i = 0; i < n_plans; i++)
                (void)listener_plan_free(plans[i]);
        free(plans);
}

/* A plan for every enabled listener, with its sockets open; or a negative errno with *ret_fault. */
static int prepare(struct listeners *listeners, struct config *config, struct listener_plan ***ret_plans,
                   size_t *ret_n_plans, char **ret_fault)
{
        struct listener_plan **plans = calloc(config->n_listeners + 1, sizeof(*plans));
        size_t n_plans = 0;

        if (!plans)
                return -ENOMEM;
        for (size_t i = 0; i < config->n_listeners; i++) {
                int r;

                if (!config->listeners[i]->enabled)
                        continue;
                r = listener_prepare(listeners, config->listeners[i], &plans[n_plans], ret_fault);
                if (r < 0) {
                        cancel(plans, n_plans);
                        return r;
                }
                n_plans++;
        }
        *ret_plans = plans;
        *ret_n_plans = n_plans;
        return 0;
}

struct log_options reload_log_options(const struct daemon *daemon, const struct config *config)
{
        struct log_options options = config->daemon.log;

        if (daemon->log_target)
                options.target = *daemon->log_target;
        return options;
}

static void set_log(struct daemon *daemon, const struct config *config)
{
        struct log_options options = reload_log_options(daemon, config);
        int r;

        source_deinit(&daemon->journal_source, daemon->loop); /* its descriptor may be closed in there */
        timer_disarm(&daemon->journal_timer);                 /* and another target is not slow */
        r = journal_set_options(daemon->journal, &options);
        if (r < 0)
                log_message(daemon->journal, LOG_WARNING, "the log's options stay as they were: %s",
                            strerror(-r));
}

/* What a loaded resource keeps open. */
static uint64_t descriptors_of(const struct resource_config *resource)
{
        if (resource->kind != RESOURCE_PROCESS)
                return 0;
        return resource->socket == PROCESS_SOCKET_STDIO ? DESCRIPTORS_PER_PROCESS - 1
                                                        : DESCRIPTORS_PER_PROCESS;
}

/* How many connections fit where processes of some of them need descriptors, too. */
static uint64_t share_with_processes(const struct config *config, uint64_t n_descriptors)
{
        uint64_t n_each = 0, n_most = 0; /* descriptors of such a connection, how many of them there may be */

        for (size_t i = 0; i < config->n_listeners; i++) {
                const struct listener_config *listener = config->listeners[i];
                uint64_t n = 0;

                for (size_t k = 0; k < listener->n_resources; k++)
                        n += descriptors_of(listener->resources[k]);
                if (!listener->enabled || n == 0)
                        continue;
                n_each = MAX(n_each, n);
                n_most += MIN(listener->max_connections, n_descriptors);
        }
        return n_most * (1 + n_each) < n_descriptors ? n_descriptors - n_most * n_each
                                                     : n_descriptors / (1 + n_each);
}

/* How many connections the descriptor limit allows; it is a fault if the configuration asks for more. */
static int max_connections(const struct daemon *daemon, const struct config *config, uint64_t *ret_max,
                           char **ret_fault)
{
        uint64_t reserved = DESCRIPTORS_RESERVED, wanted = config->daemon.max_connections, most;
        char where[CONFIG_WHERE_MAX];

        for (size_t i = 0; i < config->n_resources; i++)
                if (resource_type_of(config->resources[i]->kind)->is_queued)
                        reserved += (uint64_t)config->resources[i]->max_concurrent * DESCRIPTORS_PER_COMMAND;
                else if (config->resources[i]->kind == RESOURCE_HELPER)
                        reserved += DESCRIPTORS_PER_COMMAND;
        most = daemon->n_descriptors - MIN(reserved, daemon->n_descriptors / 2);
        most = share_with_processes(config, most);
        if (config->daemon.preserve == PRESERVE_ALWAYS)
                most = MIN(most, daemon->n_descriptors / ALWAYS_SHARE);
        if (wanted <= most) {
                *ret_max = wanted == 0 ? most : wanted;
                return 0;
        }
        if (asprintf(ret_fault, "%s: does not fit: the descriptor limit of %" PRIu64 " allows %" PRIu64,
                     config_where(config, "daemon", "max_connections", where), daemon->n_descriptors,
                     most) < 0)
                return -ENOMEM;
        return -ERANGE;
}

static void say_warnings(const struct daemon *daemon, const struct config *config)
{
        _cleanup_strv_free_ char **warnings = NULL;

        (void)config_warnings(config, &warnings);
        for (char **warning = warnings; warning && *warning; warning++)
                log_message(daemon->journal, LOG_WARNING, "%s", *warning);
}

/* Listeners and limits, whole or not at all. */
int reload_apply(struct daemon *daemon, struct config *config, char **ret_fault)
{
        struct listener_plan **plans = NULL;
        size_t n_plans = 0;
        uint64_t n_max;
        int r;

        r = max_connections(daemon, config, &n_max, ret_fault);
        if (r == 0)
                r = privileges_check(config, ret_fault);
        if (r == 0)
                r = prepare(&daemon->listeners, config, &plans, &n_plans, ret_fault);
        if (r < 0)
                return r;
        r = leases_configure(&daemon->leases, config);
        if (r < 0) {
                cancel(plans, n_plans);
                return r;
        }

        /* From here on nothing can fail. */
        daemon->connections.n_max = n_max;
        listeners_commit(&daemon->listeners, plans, n_plans);
        free(plans);
        say_warnings(daemon, config);
        return 0;
}

static int load_and_apply(struct daemon *daemon, char **ret_fault)
{
        _cleanup_(config_unrefp) struct config *config = NULL;
        _cleanup_strv_free_ char **faults = NULL;
        const char *key;
        int r;

        r = config_load(daemon->config_path, &config, &faults);
        if (r == CONFIG_E_INVALID) {
                for (char **fault = faults; *fault; fault++)
                        log_message(daemon->journal, LOG_ERR, "%s", *fault);
                if (asprintf(ret_fault, "%s", faults[0]) < 0)
                        return -ENOMEM;
                return -EINVAL;
        }
        if (r < 0)
                return r;
        key = config_needs_restart(daemon->config, config);
        if (key) {
                char where[CONFIG_WHERE_MAX];

                if (asprintf(ret_fault, "%s: needs a restart", config_where(config, "daemon", key, where)) <
                    0)
                        return -ENOMEM;
                return -EINVAL;
        }
        r = reload_apply(daemon, config, ret_fault);
        if (r < 0)
                return r;
        config_unref(daemon->config);
        daemon->config = TAKE_PTR(config);
        set_log(daemon, daemon->config);
        return 0;
}

void reload(struct daemon *daemon)
{
        _cleanup_free_ char *fault = NULL;
        int r;

        if (daemon->state != DAEMON_SERVING) {
                daemon->is_reload_due = true; /* once it serves */
                return;
        }
        report_reloading(&daemon->report);
        r = load_and_apply(daemon, &fault);
        if (r < 0)
                event_reload_failed(daemon->journal, daemon->config_path, fault ? fault : strerror(-r));
        else
                event_reloaded(daemon->journal, daemon->config_path);
        leases_retry(&daemon->leases);
        report_ready(&daemon->report);
}

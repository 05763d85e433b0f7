/*
 * helper: one long-lived program that all connections ask, over its stdin and stdout (program.h, request.h). A load that
 * it had not answered when it died may have left something, and is released by its successor; a release is asked again,
 * and is not the worse for it. A program that a reload replaces goes on for those who were loaded by it, and a record
 * can be released by the program that loaded it.
 *
 * Deliberately not here: timeouts and attempts, which are the lease's.
 */
#include "resource/program.h"
#include "resource/saved.h"

/* What a release says more than its load: the value, and how the connection ended. */
#define MORE_MAX (3 * CLAIM_VALUE_MAX + 512)

/* ---- claims ---- */

/* NULL when out of memory. */
static struct helpers *helpers_get(struct leases *leases)
{
        struct helpers *helpers = leases->shared[RESOURCE_HELPER];

        if (helpers)
                return helpers;
        helpers = calloc(1, sizeof(*helpers));
        if (!helpers)
                return NULL;
        helpers->leases = leases;
        list_init(&helpers->programs);
        leases->shared[RESOURCE_HELPER] = helpers;
        return helpers;
}

/* Takes `words`, also when it fails. */
static int helper_new(struct claim *claim, struct program *program, char *words)
{
        struct helper *helper = calloc(1, sizeof(*helper));

        if (!helper) {
                free(words);
                program_review(program);
                return -ENOMEM;
        }
        helper->claim = claim;
        helper->program = program;
        helper->words = words;
        list_init(&helper->link);
        program->n_claims++;
        claim->data = helper;
        return 0;
}

/* Also for the release, which is longer. */
static bool words_fit(const char *words)
{
        return request_length(strlen(words) + MORE_MAX) <= REQUEST_MAX;
}

static int helper_prepare(struct claim *claim, char **ret_reason)
{
        struct helpers *helpers = helpers_get(claim->lease->leases);
        _cleanup_strv_free_ char **variables = NULL;
        _cleanup_free_ char *words = NULL;
        struct program *program;
        int r = helpers ? claim_environment(claim, NULL, NULL, NULL, &variables, ret_reason) : -ENOMEM;

        if (r == 0)
                r = request_words(variables, &words);
        if (r == 0 && !words_fit(words)) {
                *ret_reason = strdup("its requests would be longer than 64 KiB");
                r = *ret_reason ? RESOURCE_E_INVALID : -ENOMEM;
        }
        if (r == 0)
                r = program_of(&program, helpers, claim->config, ret_reason);
        if (r != 0)
                return r;
        program->release_timeout_usec = claim->config->release_timeout;
        r = helper_new(claim, program, TAKE_PTR(words));
        if (r == 0)
                ((struct helper *)claim->data)->process = program->process;
        return r;
}

static void helper_load(struct claim *claim)
{
        static const char is_down[] = "its helper was not running for longer than queue_timeout";
        static const char is_full[] = "its helper did not read the request within load_timeout";
        struct helper *helper = claim->data;
        struct program *program = helper->program;
        uint64_t queue_timeout = claim->config->queue_timeout;

        helper->is_loading = true;
        if (program_has_room(program)) {
                program_ask_load(helper);
                return;
        }
        list_append(&program->loads, &helper->link);
        if (program->state == PROGRAM_RUNNING)
                claim_wait(claim, MIN(claim->config->load_timeout, queue_timeout), LEASE_LOAD_TIMEOUT,
                           is_full);
        else
                claim_wait(claim, queue_timeout, LEASE_LOAD_TIMEOUT, is_down);
        program_review(program);
}

static void helper_drop(struct claim *claim)
{
        struct helper *helper = claim->data;

        list_unlink(&helper->link);
}

static void helper_release(struct claim *claim)
{
        struct helper *helper = claim->data;

        /* What was noted of the last attempt may have been cut off: whoever is asked now is noted anew. */
        if (!helper->is_loading)
                helper->process = (struct process_identity){ 0 };
        helper->is_loading = false;
        if (program_has_room(helper->program)) {
                program_ask_release(helper);
                return;
        }
        list_append(&helper->program->releases, &helper->link);
        program_review(helper->program);
}

static void helper_stop(struct claim *claim)
{
        struct helper *helper = claim->data;

        program_withdraw(helper); /* an answer is late now */
        if (helper->is_loading)
                claim_load_failed(claim, false, -1, NULL);
        else
                claim_release_failed(claim, -1, NULL);
}

static void helper_forget(struct claim *claim)
{
        struct helper *helper = claim->data;

        if (!helper)
                return;
        program_withdraw(helper);
        helper->program->n_claims--;
        program_review(helper->program);
        free(helper->words);
        free(helper);
        claim->data = NULL;
}

/* ---- the ledger record ---- */

static int helper_save(const struct claim *claim, char ***fields)
{
        const struct helper *helper = claim->data;
        int r;

        if (!helper) /* it could not be prepared: there is nothing to release */
                return 0;
        r = saved_words(fields, "arg", helper->program->command);
        if (r == 0)
                r = saved_words(fields, "env", helper->program->environment);
        if (r == 0)
                r = strv_appendf(fields, "request=%s", helper->words);
        return r == 0 ? saved_process(fields, &helper->process) : r;
}

static int helper_restore(struct claim *claim, char *const *fields, char **ret_reason)
{
        _cleanup_strv_free_ char **command = NULL, **environment = NULL;
        const char *words = fields_get(fields, "request");
        struct process_identity process = { 0 };
        struct helpers *helpers;
        struct program *program;
        char *copy;
        int r;

        if (claim->state == CLAIM_EMPTY)
                return 0;
        helpers = helpers_get(claim->lease->leases);
        r = helpers ? saved_words_read(fields, "arg", &command) : -ENOMEM;
        if (r == 0)
                r = saved_words_read(fields, "env", &environment);
        if (r < 0)
                return r;
        if (!command || !environment || !words || !request_words_are_valid(words) || !words_fit(words) ||
            saved_process_read(fields, &process) < 0) {
                *ret_reason = strdup("arg, env, request or the process is missing or wrong");
                return *ret_reason ? RESOURCE_E_INVALID : -ENOMEM;
        }
        r = program_get(&program, helpers, claim->name, TAKE_PTR(command), TAKE_PTR(environment));
        if (r < 0)
                return r;
        program->release_timeout_usec = claim->release_timeout_usec;
        copy = strdup(words);
        r = copy ? program_add_orphan(program, &process) : -ENOMEM;
        if (r == 0)
                r = helper_new(claim, program, TAKE_PTR(copy));
        else
                program_review(program);
        free(copy);
        if (r == 0)
                ((struct helper *)claim->data)->process = process;
        return r;
}

/* ---- all of them ---- */

/* Whether a listener that is open has it: nobody else would ask. */
static bool is_used(const struct config *config, const struct resource_config *resource)
{
        for (size_t i = 0; i < config->n_listeners; i++) {
                const struct listener_config *listener = config->listeners[i];

                for (size_t k = 0; listener->enabled && k < listener->n_resources; k++)
                        if (listener->resources[k] == resource)
                                return true;
        }
        return false;
}

static void helpers_review(struct helpers *helpers)
{
        list_for_each (node, &helpers->programs)
                program_review(container_of(node, struct program, link));
}

/* The program of each resource; NULL: it is no helper, or no listener uses it. */
static int helpers_list(struct helpers *helpers, const struct config *config, struct program **ret_programs)
{
        for (size_t i = 0; i < config->n_resources; i++) {
                const struct resource_config *resource = config->resources[i];
                _cleanup_free_ char *reason = NULL;
                int r;

                if (resource->kind != RESOURCE_HELPER || !is_used(config, resource))
                        continue;
                r = program_of(&ret_programs[i], helpers, resource, &reason);
                if (r != 0)
                        return r < 0 ? r : -EINVAL; /* check.c has seen to that */
        }
        return 0;
}

static int helpers_configure(struct leases *leases, const struct config *config)
{
        struct helpers *helpers = helpers_get(leases);
        _cleanup_free_ struct program **programs = calloc(config->n_resources + 1, sizeof(struct program *));
        int r = helpers && programs ? helpers_list(helpers, config, programs) : -ENOMEM;

        if (r == 0) {
                list_for_each (node, &helpers->programs)
                        container_of(node, struct program, link)->is_wanted = false;
                for (size_t i = 0; i < config->n_resources; i++)
                        if (programs[i])
                                program_want(programs[i], config->resources[i]);
        }
        if (helpers)
                helpers_review(helpers);
        return r;
}

static bool helpers_end(struct leases *leases)
{
        struct helpers *helpers = leases->shared[RESOURCE_HELPER];
        bool is_ended = true;

        if (!helpers)
                return true;
        helpers->is_ending = true;
        list_for_each (node, &helpers->programs) {
                struct program *program = container_of(node, struct program, link);

                program_end(program);
                program_review(program);
                is_ended &= program->state == PROGRAM_DOWN;
        }
        return is_ended;
}

static size_t n_linked(const struct list *list)
{
        size_t n = 0;

        list_for_each (node, list)
                n++;
        return n;
}

static void helpers_summarize(const struct leases *leases)
{
        static const char *const states[] = {
                [PROGRAM_DOWN] = "is not running",
                [PROGRAM_RUNNING] = "runs",
                [PROGRAM_ENDING] = "is ending",
                [PROGRAM_BROKEN] = "is being ended",
        };
        const struct helpers *helpers = leases->shared[RESOURCE_HELPER];

        if (!helpers)
                return;
        list_for_each (node, &helpers->programs) {
                const struct program *program = container_of(node, struct program, link);

                log_message(
                        leases->journal, LOG_NOTICE,
                        "summary: helper %s: pid %d %s%s, %zu connections, %zu requests are not answered, "
                        "%zu releases and %zu loads wait",
                        program->name, (int)program->child.pid, states[program->state],
                        program->is_wanted ? "" : " for older connections", program->n_claims,
                        program->requests.n, n_linked(&program->releases), n_linked(&program->loads));
        }
}

static void helpers_deinit(struct leases *leases)
{
        struct helpers *helpers = leases->shared[RESOURCE_HELPER];

        if (!helpers)
                return;
        for (struct list *node; (node = helpers->programs.next) != &helpers->programs;)
                program_free(container_of(node, struct program, link));
        free(helpers);
        leases->shared[RESOURCE_HELPER] = NULL;
}

const struct resource_type resource_type_helper = {
        .name = "helper",
        .is_recorded = true,
        .prepare = helper_prepare,
        .load = helper_load,
        .release = helper_release,
        .stop = helper_stop,
        .save = helper_save,
        .restore = helper_restore,
        .drop = helper_drop,
        .forget = helper_forget,
        .configure = helpers_configure,
        .end = helpers_end,
        .summarize = helpers_summarize,
        .deinit = helpers_deinit,
};

/* The difference of two configurations is found by listener.c, a listener at a time; here is all or nothing. */
#include "daemon/reload.h"

void reload_cancel(struct listener_plan **plans, size_t n_plans)
{
        for (size_t i = 0; i < n_plans; i++)
                (void)listener_plan_free(plans[i]);
        free(plans);
}

int reload_prepare(struct listeners *listeners, struct config *config, struct listener_plan ***ret_plans,
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
                        reload_cancel(plans, n_plans);
                        return r;
                }
                n_plans++;
        }
        *ret_plans = plans;
        *ret_n_plans = n_plans;
        return 0;
}

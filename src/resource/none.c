/*
 * none: a resource that is nothing, for tests and measurements: what a lease costs by itself. A crash leaves
 * nothing of it behind, so it is not recorded.
 */
#include "resource/lease.h"

static int none_prepare(struct claim *claim _unused_, char **ret_reason _unused_)
{
        return 0;
}

static void none_load(struct claim *claim)
{
        claim_loaded(claim, claim->name);
}

static void none_release(struct claim *claim)
{
        claim_released(claim);
}

static void none_nothing(struct claim *claim _unused_)
{
}

static int none_save(const struct claim *claim _unused_, char ***fields _unused_)
{
        return 0;
}

static int none_restore(struct claim *claim _unused_, char *const *fields _unused_,
                        char **ret_reason _unused_)
{
        return 0;
}

const struct resource_type resource_type_none = {
        .name = "none",
        .is_silent = true,
        .prepare = none_prepare,
        .load = none_load,
        .release = none_release,
        .stop = none_nothing,
        .save = none_save,
        .restore = none_restore,
        .forget = none_nothing,
};

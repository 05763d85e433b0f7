/*
 * The table of types, in the order of enum resource_kind. It is the only place that knows all of them.
 */
#include "resource/resource.h"

static const struct resource_type *const types[N_RESOURCE_KINDS] = {
        [RESOURCE_NONE] = &resource_type_none,       [RESOURCE_DIRECTORY] = &resource_type_directory,
        [RESOURCE_EXEC] = &resource_type_exec,       [RESOURCE_POOL] = &resource_type_pool,
        [RESOURCE_PROCESS] = &resource_type_process, [RESOURCE_UNIT] = &resource_type_unit,
        [RESOURCE_HELPER] = &resource_type_helper,
};

const struct resource_type *resource_type_of(enum resource_kind kind)
{
        assert((size_t)kind < ARRAY_SIZE(types));
        return types[kind];
}

const struct resource_type *resource_type_find(const char *name)
{
        for (size_t i = 0; i < ARRAY_SIZE(types); i++)
                if (types[i] && streq(types[i]->name, name))
                        return types[i];
        return NULL;
}

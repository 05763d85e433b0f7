/*
 * Objects for test-plugin, one for each VARIANT: the good one, one of an older header, and those that are refused.
 */
#include <tetherd/plugin.h>

enum variant { good, old, abi, small, newer, nameless, null, unresolved };

int tetherd_call_of_the_future(void);

static int accept_it(struct tetherd_connection *connection)
{
        return tetherd_disconnect(connection);
}

static int send_it(struct tetherd_connection *connection, size_t n_sent, size_t n_queued)
{
        (void)connection;
        (void)n_sent;
        (void)n_queued;
        return VARIANT == unresolved ? tetherd_call_of_the_future() : TETHERD_OK;
}

const struct tetherd_plugin tetherd_plugin = {
        .abi = VARIANT == abi ? TETHERD_PLUGIN_ABI + 1 : TETHERD_PLUGIN_ABI,
        .size = VARIANT == old     ? offsetof(struct tetherd_plugin, send)
                : VARIANT == small ? offsetof(struct tetherd_plugin, prepare_listen) - 1
                : VARIANT == newer ? sizeof(struct tetherd_plugin) + 1
                                   : sizeof(struct tetherd_plugin),
        .name = VARIANT == nameless ? ""
                : VARIANT == null   ? NULL
                                    : "variant",
        .accept = accept_it,
        .send = send_it,
};

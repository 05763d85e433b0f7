/* An echo that reads no more than its peer does: for tests/faults and tests/bench, beside the daemon's own. */
#include <tetherd/plugin.h>

static int on_receive(struct tetherd_connection *c, const void *bytes, size_t n)
{
        int r = tetherd_send(c, bytes, n);

        if (r > 0)
                return tetherd_pause(c);
        return r < 0 ? TETHERD_ERROR : TETHERD_OK;
}

static int on_send(struct tetherd_connection *c, size_t n_sent, size_t n_queued)
{
        (void)n_sent;
        return n_queued == 0 ? tetherd_resume(c) : TETHERD_OK;
}

const struct tetherd_plugin tetherd_plugin = {
        .abi = TETHERD_PLUGIN_ABI,
        .size = sizeof(struct tetherd_plugin),
        .name = "echo",
        .receive = on_receive,
        .send = on_send,
};

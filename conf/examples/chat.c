/*
 * chat: a plugin of tetherd's (tetherd-plugin(3)): what a client says, a line at a time, goes to all others.
 *
 *      cc -shared -fPIC $(pkg-config --cflags tetherd-plugin) -o chat.so chat.c
 *
 *      [listener:chat]
 *      listen = 127.0.0.1:7400
 *      hello = yes
 *      handler = plugin:/usr/local/lib/tetherd/chat.so
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tetherd/plugin.h>

#define LINE_MAX 512

struct member {
        struct member *next;
        struct tetherd_connection *connection;
        size_t n; /* bytes of a line that is not complete */
        char line[LINE_MAX];
};

static struct member *members; /* of all listeners */

static const char *name_of(const struct member *member)
{
        const char *identity = tetherd_identity(member->connection);

        return identity ? identity : "somebody";
}

/* To all but its sender. Who does not read what is said has to go: it would keep more and more of it waiting here. */
static void say(const struct member *sender, const char *text)
{
        char line[LINE_MAX + 256];
        int n = snprintf(line, sizeof(line), "%s %s\n", name_of(sender), text);

        for (struct member *member = members; member; member = member->next)
                if (member != sender && tetherd_send(member->connection, line, (size_t)n) < 0)
                        tetherd_disconnect(member->connection);
}

/* What this plugin holds for a connection is made here ... */
static int on_handshake(struct tetherd_connection *connection)
{
        struct member *member = calloc(1, sizeof(*member));

        if (!member)
                return TETHERD_ERROR;
        member->connection = connection;
        member->next = members;
        members = member;
        tetherd_set_data(connection, member);
        say(member, "is here");
        return TETHERD_OK;
}

static int on_receive(struct tetherd_connection *connection, const void *bytes, size_t n)
{
        struct member *member = tetherd_data(connection);
        const char *text = bytes;

        for (size_t i = 0; i < n; i++) {
                if (text[i] == '\n') {
                        char said[LINE_MAX + 8];

                        (void)snprintf(said, sizeof(said), "says: %.*s", (int)member->n, member->line);
                        say(member, said);
                        member->n = 0;
                } else if (member->n == LINE_MAX) {
                        tetherd_log(connection, 5, "a line is too long");
                        return TETHERD_ERROR;
                } else {
                        member->line[member->n++] = text[i];
                }
        }
        return TETHERD_OK;
}

/* ... and released here, once, however the connection ends: also where it was never made. */
static void on_close(struct tetherd_connection *connection, const struct tetherd_ending *ending)
{
        struct member *member = tetherd_data(connection), **m = &members;

        if (!member)
                return;
        while (*m != member)
                m = &(*m)->next;
        *m = member->next;
        say(member, strcmp(ending->initiator, "peer") == 0 ? "left" : "was lost");
        free(member);
}

const struct tetherd_plugin tetherd_plugin = {
        .abi = TETHERD_PLUGIN_ABI,
        .size = sizeof(struct tetherd_plugin),
        .name = "chat",
        .handshake = on_handshake,
        .receive = on_receive,
        .close = on_close,
};

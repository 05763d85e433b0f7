/*
 * For tests/system/plugin.py: writes a line for each callback into the file `calls` beside this object, and does what
 * names and clients tell it. Listeners: a `refuses_listen` and a `refuses_accept` are refused. Clients, by the identity
 * that they give: `refuse`, `leave`, `pending` and `thread` (pending, until a thread of ours has it made ready); by a
 * word that they send: `echo`, `error`, `leave`, `pause` (until somebody sends `resume`), `last` (an answer, and then
 * leave), `others` (the others leave), `ready` (those that are pending are).
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tetherd/plugin.h>

struct member {
        struct member *next;
        struct tetherd_connection *connection; /* NULL: it is closed, the thread still has it */
        pthread_t thread;
        int has_thread;
};

static struct member *members;
static FILE *calls;

__attribute__((constructor)) static void begin(void)
{
        Dl_info info;
        char path[4096];

        if (dladdr(&tetherd_plugin, &info) == 0)
                abort();
        (void)snprintf(path, sizeof(path), "%.*s/calls", (int)(strrchr(info.dli_fname, '/') - info.dli_fname),
                       info.dli_fname);
        calls = fopen(path, "ae");
        if (!calls)
                abort();
        (void)setvbuf(calls, NULL, _IOLBF, 0);
        (void)fprintf(calls, "constructor\n");
}

static const char *identity_of(const struct tetherd_connection *c)
{
        const char *identity = tetherd_identity(c);

        return identity ? identity : "";
}

static void note(const char *what, const struct tetherd_connection *c)
{
        (void)fprintf(calls, "%s %llx %s\n", what, (unsigned long long)tetherd_connection_id(c),
                      tetherd_listener_name(tetherd_listener(c)));
}

static int on_prepare_listen(struct tetherd_listener *listener, int fd)
{
        const char *name = tetherd_listener_name(listener);

        (void)fprintf(calls, "prepare %s %s\n", name, fd >= 0 ? "bound" : "none");
        return strcmp(name, "refuses_listen") == 0 ? TETHERD_ERROR : TETHERD_OK;
}

static int on_accept(struct tetherd_connection *c)
{
        note("accept", c);
        return strcmp(tetherd_listener_name(tetherd_listener(c)), "refuses_accept") == 0 ? TETHERD_ERROR
                                                                                         : TETHERD_OK;
}

/* In the loop again. */
static void thread_is_done(void *userdata)
{
        struct member *member = userdata;

        (void)pthread_join(member->thread, NULL);
        member->has_thread = 0;
        if (member->connection)
                (void)tetherd_ready(member->connection);
        else
                free(member);
}

static void *work(void *userdata)
{
        if (tetherd_run(thread_is_done, userdata) < 0)
                abort();
        return NULL;
}

static int on_handshake(struct tetherd_connection *c)
{
        const char *identity = identity_of(c), *value = tetherd_value(c, "workdir");
        struct member *member = calloc(1, sizeof(*member));

        note("handshake", c);
        if (value)
                (void)fprintf(calls, "value %s\n", value);
        if (!member)
                return TETHERD_ERROR;
        member->connection = c;
        member->next = members;
        members = member;
        tetherd_set_data(c, member);
        tetherd_log(c, 6, "handshake of %s", identity);
        if (strcmp(identity, "refuse") == 0)
                return TETHERD_ERROR;
        if (strcmp(identity, "leave") == 0)
                return tetherd_disconnect(c);
        if (strcmp(identity, "thread") == 0) {
                member->has_thread = pthread_create(&member->thread, NULL, work, member) == 0;
                return TETHERD_PENDING;
        }
        return strcmp(identity, "pending") == 0 ? TETHERD_PENDING : TETHERD_OK;
}

static int on_receive(struct tetherd_connection *c, const void *bytes, size_t n)
{
        char word[32];

        (void)snprintf(word, sizeof(word), "%.*s", (int)(n < 31 ? n : 31), (const char *)bytes);
        (void)fprintf(calls, "receive %llx %zu %s\n", (unsigned long long)tetherd_connection_id(c), n, word);
        if (strncmp(word, "echo", 4) == 0 && tetherd_send(c, bytes, n) < 0)
                return TETHERD_ERROR;
        if (strcmp(word, "error") == 0)
                return TETHERD_ERROR;
        if (strcmp(word, "leave") == 0)
                return tetherd_disconnect(c);
        if (strcmp(word, "pause") == 0)
                return tetherd_pause(c);
        if (strncmp(word, "last", 4) == 0)
                return tetherd_send(c, "last words", 10) < 0 ? TETHERD_ERROR : tetherd_disconnect(c);
        for (struct member *member = members; member; member = member->next) {
                if (strcmp(word, "resume") == 0)
                        (void)tetherd_resume(member->connection);
                else if (strcmp(word, "others") == 0 && member->connection != c)
                        (void)tetherd_disconnect(member->connection);
                else if (strcmp(word, "ready") == 0)
                        (void)tetherd_ready(member->connection);
        }
        return TETHERD_OK;
}

static int on_send(struct tetherd_connection *c, size_t n_sent, size_t n_queued)
{
        (void)fprintf(calls, "send %llx %zu %zu\n", (unsigned long long)tetherd_connection_id(c), n_sent,
                      n_queued);
        return TETHERD_OK;
}

static void forget(struct member *member)
{
        for (struct member **m = &members; *m; m = &(*m)->next)
                if (*m == member) {
                        *m = member->next;
                        break;
                }
        member->connection = NULL;
        if (!member->has_thread)
                free(member);
}

static void on_close(struct tetherd_connection *c, const struct tetherd_ending *ending)
{
        uint16_t remote_port, local_port;
        const char *remote = tetherd_remote(c, &remote_port), *local = tetherd_local(c, &local_port);

        (void)fprintf(calls, "close %llx %s %s %s %d %s %llu %llu %llu %s %u %s %u\n",
                      (unsigned long long)tetherd_connection_id(c), ending->cause, ending->initiator,
                      ending->operation, ending->error, ending->state,
                      (unsigned long long)ending->duration_usec, (unsigned long long)ending->bytes_received,
                      (unsigned long long)ending->bytes_sent, remote, remote_port, local, local_port);
        if (tetherd_data(c))
                forget(tetherd_data(c));
}

static void on_shutdown(struct tetherd_listener *listener)
{
        (void)fprintf(calls, "shutdown %s\n", tetherd_listener_name(listener));
}

const struct tetherd_plugin tetherd_plugin = {
        .abi = TETHERD_PLUGIN_ABI,
        .size = sizeof(struct tetherd_plugin),
        .name = "recorder",
        .prepare_listen = on_prepare_listen,
        .accept = on_accept,
        .handshake = on_handshake,
        .receive = on_receive,
        .send = on_send,
        .close = on_close,
        .shutdown = on_shutdown,
};

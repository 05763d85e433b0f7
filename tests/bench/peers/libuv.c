/* What floor.c does, with libuv's streams. `libuv PORT` */
#include <err.h>
#include <stdlib.h>
#include <uv.h>

#define BACKLOG 4096

static void give_buffer(uv_handle_t *handle, size_t suggested, uv_buf_t *buffer)
{
        static char memory[65536];

        (void)handle;
        (void)suggested;
        *buffer = uv_buf_init(memory, sizeof(memory));
}

static void closed(uv_handle_t *handle)
{
        free(handle);
}

static void received(uv_stream_t *stream, ssize_t n_bytes, const uv_buf_t *buffer)
{
        (void)buffer;
        if (n_bytes < 0)
                uv_close((uv_handle_t *)stream, closed);
}

static void connected(uv_stream_t *listener, int status)
{
        uv_tcp_t *client = malloc(sizeof(*client));

        if (status < 0 || !client)
                errx(EXIT_FAILURE, "accepting");
        if (uv_tcp_init(listener->loop, client) < 0 || uv_accept(listener, (uv_stream_t *)client) < 0 ||
            uv_read_start((uv_stream_t *)client, give_buffer, received) < 0)
                errx(EXIT_FAILURE, "reading");
}

int main(int argc, char **argv)
{
        struct sockaddr_in address;
        uv_tcp_t listener;

        if (argc != 2)
                errx(EXIT_FAILURE, "usage: libuv PORT");
        if (uv_ip4_addr("127.0.0.1", atoi(argv[1]), &address) < 0 ||
            uv_tcp_init(uv_default_loop(), &listener) < 0 ||
            uv_tcp_bind(&listener, (const struct sockaddr *)&address, 0) < 0 ||
            uv_listen((uv_stream_t *)&listener, BACKLOG, connected) < 0)
                errx(EXIT_FAILURE, "listening on 127.0.0.1:%s", argv[1]);
        return uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}

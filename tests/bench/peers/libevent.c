/* What floor.c does, with libevent: edge-triggered events and a listener of its own. `libevent PORT` */
#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define BACKLOG 4096

static void read_to_end(evutil_socket_t fd, short what, void *argument)
{
        static char buffer[65536];
        struct event *event = *(struct event **)argument;
        ssize_t n_bytes;

        (void)what;
        do
                n_bytes = recv(fd, buffer, sizeof(buffer), 0);
        while (n_bytes > 0);
        if (n_bytes < 0 && errno == EAGAIN)
                return;
        event_free(event);
        free(argument);
        (void)close(fd);
}

static void accepted(struct evconnlistener *listener, evutil_socket_t fd, struct sockaddr *address,
                     int length, void *argument)
{
        struct event **event = malloc(sizeof(struct event *));

        (void)address;
        (void)length;
        (void)argument;
        if (!event)
                err(EXIT_FAILURE, "malloc");
        *event = event_new(evconnlistener_get_base(listener), fd, EV_READ | EV_ET | EV_PERSIST, read_to_end,
                           event);
        if (!*event || event_add(*event, NULL) < 0)
                err(EXIT_FAILURE, "event_add");
}

int main(int argc, char **argv)
{
        struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        struct event_base *base = event_base_new();

        if (argc != 2 || !base)
                errx(EXIT_FAILURE, "usage: libevent PORT");
        address.sin_port = htons((uint16_t)strtoul(argv[1], NULL, 10));
        if (!evconnlistener_new_bind(base, accepted, NULL,
                                     LEV_OPT_REUSEABLE | LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC,
                                     BACKLOG, (const struct sockaddr *)&address, sizeof(address)))
                err(EXIT_FAILURE, "listening on 127.0.0.1:%s", argv[1]);
        return event_base_dispatch(base) < 0;
}

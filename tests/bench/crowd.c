/*
 * The crowd: clients that stay.
 *
 *     crowd PORT CLIENTS SOURCE
 *
 * connects one after the other to 127.0.0.1, from 250 addresses that begin at 127.1.0.1 and SOURCE, and reads from
 * each server the line that it greets with. Then it prints "open" and obeys the lines of its stdin: `reset LINE` sends
 * RST to all that were greeted so, `leave` ends the rest with FIN. It answers each with the number of clients.
 */
#include "base/util.h"
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>

#define N_SOURCES    250
#define GREETING_MAX 16

struct client {
        int fd;
        char greeting[GREETING_MAX];
};

static void connect_one(struct client *client, in_port_t port, unsigned source)
{
        struct sockaddr_in own = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f010001 + source) };
        struct sockaddr_in server = { .sin_family = AF_INET,
                                      .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
                                      .sin_port = port };
        size_t n = 0;

        client->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (client->fd < 0 ||
            setsockopt(client->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){ 1 }, sizeof(int)) < 0 ||
            bind(client->fd, (const struct sockaddr *)&own, sizeof(own)) < 0 ||
            connect(client->fd, (const struct sockaddr *)&server, sizeof(server)) < 0)
                err(EXIT_FAILURE, "connecting");
        while (n == 0 || client->greeting[n - 1] != '\n') {
                ssize_t r = recv(client->fd, client->greeting + n, sizeof(client->greeting) - n, 0);

                if (r <= 0)
                        errx(EXIT_FAILURE, "a client was not greeted");
                n += (size_t)r;
        }
        client->greeting[n - 1] = '\0';
}

static unsigned end_those(struct client *clients, unsigned n_clients, const char *greeting)
{
        struct linger linger = { .l_onoff = 1, .l_linger = 0 };
        unsigned n_ended = 0;

        for (struct client *client = clients; client < clients + n_clients; client++) {
                if (client->fd < 0 || (greeting && !streq(client->greeting, greeting)))
                        continue;
                if (greeting && setsockopt(client->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) < 0)
                        err(EXIT_FAILURE, "SO_LINGER");
                client->fd = fd_close(client->fd);
                n_ended++;
        }
        return n_ended;
}

int main(int argc, char **argv)
{
        struct rlimit limit;
        char line[64];

        if (argc != 4)
                errx(EXIT_FAILURE, "usage: crowd PORT CLIENTS SOURCE");
        if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
                err(EXIT_FAILURE, "getrlimit");
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
                err(EXIT_FAILURE, "setrlimit");

        unsigned n_clients = (unsigned)strtoul(argv[2], NULL, 10);
        unsigned source = (unsigned)strtoul(argv[3], NULL, 10);
        struct client *clients = calloc(n_clients, sizeof(*clients));
        if (!clients)
                err(EXIT_FAILURE, "calloc");
        for (unsigned i = 0; i < n_clients; i++)
                connect_one(&clients[i], htons((in_port_t)strtoul(argv[1], NULL, 10)),
                            source + i % N_SOURCES);
        (void)puts("open");
        (void)fflush(stdout);
        while (fgets(line, sizeof(line), stdin)) {
                line[strcspn(line, "\n")] = '\0';
                (void)printf("%u\n", end_those(clients, n_clients,
                                               strncmp(line, "reset ", 6) == 0 ? line + 6 : NULL));
                (void)fflush(stdout);
        }
        free(clients);
        return EXIT_SUCCESS;
}

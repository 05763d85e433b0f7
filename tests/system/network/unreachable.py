"""unreachable: a network that says so, an address that somebody else has, an interface that is down."""

import time
from errno import EACCES, ECONNREFUSED, EHOSTUNREACH, ENETUNREACH

from harness import main, need_root, scene
from harness.network import IDLE, REPLACED, RST, SENDING, UNREACHABLE, USER_TIMEOUT, Network, expect_told, say_something


def refused_with_data_under_way(reason, error4, error6):
    with Network() as network, network.daemon(handler="echo") as daemon:
        clients = network.connect_ready(daemon)
        with daemon.frozen():
            say_something(clients)
            network.refuse(reason)
            since = time.monotonic()
        for client, error in zip(clients, (error4, error6)):
            expect_told(daemon, client, "unreachable", UNREACHABLE, since, USER_TIMEOUT, error=error, PRIORITY=5)


@scene()
def host_unreachable():
    refused_with_data_under_way("host-unreachable", EHOSTUNREACH, EHOSTUNREACH)


@scene()
def net_unreachable():
    refused_with_data_under_way("no-route", ENETUNREACH, ENETUNREACH)


@scene()
def port_unreachable():
    refused_with_data_under_way("port-unreachable", ECONNREFUSED, ECONNREFUSED)


@scene()
def admin_prohibited():
    refused_with_data_under_way("admin-prohibited", EHOSTUNREACH, EACCES)


@scene()
def idle_connection_never_learns_of_it():
    with Network() as network, network.daemon() as daemon:
        clients = network.connect_ready(daemon)
        since = say_something(clients)
        network.refuse("host-unreachable")
        for client in clients:
            expect_told(daemon, client, "keepalive-timeout", IDLE, since, USER_TIMEOUT)


# With no way out on this host, IPv6 remembers ENETUNREACH of what it could not send; IPv4 says nothing but ETIMEDOUT.


@scene()
def own_interface_down_while_idle():
    with Network() as network, network.daemon() as daemon:
        over4, over6 = network.connect_ready(daemon)
        since = say_something((over4, over6))
        network.server.do("ip link set cable down")
        expect_told(daemon, over4, "keepalive-timeout", IDLE, since, USER_TIMEOUT)
        expect_told(daemon, over6, "unreachable", UNREACHABLE, since, USER_TIMEOUT, error=ENETUNREACH)


@scene()
def own_interface_down_with_data_under_way():
    with Network() as network, network.daemon(handler="echo") as daemon:
        over4, over6 = network.connect_ready(daemon)
        with daemon.frozen():
            say_something((over4, over6))
            network.server.do("ip link set cable down")
            since = time.monotonic()
        expect_told(daemon, over4, "transmit-timeout", SENDING, since, USER_TIMEOUT)
        expect_told(daemon, over6, "unreachable", UNREACHABLE, since, USER_TIMEOUT, error=ENETUNREACH)


@scene()
def replaced_while_idle():
    with Network() as network, network.daemon() as daemon:
        clients = network.connect_ready(daemon)
        since = time.monotonic()
        network.replace_client()
        for client in clients:
            expect_told(daemon, client, "reset", REPLACED, since, PRIORITY=5)


@scene()
def replaced_with_data_under_way():
    with Network() as network, network.daemon(handler="echo") as daemon:
        clients = network.connect_ready(daemon)
        with daemon.frozen():
            say_something(clients)
            network.replace_client()
            since = time.monotonic()
        for client in clients:
            expect_told(daemon, client, "reset", RST, since, TETHERD_BYTES_SENT=4)


@scene()
def forgotten_by_a_peer_that_rebooted():
    with Network() as network, network.daemon() as daemon:
        clients = network.connect_ready(daemon)
        since = network.cut()
        for client in clients:
            client.reset()
        network.heal()
        for client in clients:
            expect_told(daemon, client, "reset", REPLACED, since)


if __name__ == "__main__":
    main(need_root)

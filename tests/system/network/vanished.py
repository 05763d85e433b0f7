"""vanished: a peer that is gone without a word: idle, with our data under way, in the handshake, while it loads."""

import time

from harness import GATE, Failure, eventually, expect, hold, main, need_root, open_gate, scene, wait_at_gate
from harness.network import (DETECT_WITHIN, HANDSHAKE, IDLE, LATE, SENDING, USER_TIMEOUT, Network, ended_at,
                             expect_told, say_something)


def idle_clients_vanish(keys, not_before, cut=Network.cut):
    with Network() as network, network.daemon(keys) as daemon:
        clients = network.connect_ready(daemon)
        since = say_something(clients)
        cut(network)
        for client in clients:
            expect_told(daemon, client, "keepalive-timeout", IDLE, since, not_before, operation="receive", PRIORITY=5,
                        TETHERD_BYTES_RECEIVED=4)


@scene()
def power_off_while_idle():
    idle_clients_vanish("detect_within = 6s", USER_TIMEOUT)


@scene()
def power_off_while_idle_at_twice_the_time():
    idle_clients_vanish("detect_within = 12s", 6)


@scene()
def power_off_while_idle_without_user_timeout():
    idle_clients_vanish("keepalive_idle = 2s\nkeepalive_interval = 1s\nkeepalive_count = 3\nuser_timeout = infinity", 5)


@scene()
def cable_pulled_at_the_peer():
    idle_clients_vanish("detect_within = 6s", USER_TIMEOUT, lambda network: network.client.do("ip link set cable down"))


@scene()
def power_off_with_data_under_way():
    with Network() as network, network.daemon(handler="echo") as daemon:
        clients = network.connect_ready(daemon)
        with daemon.frozen():
            since = say_something(clients)
            network.cut()
        for client in clients:
            record = expect_told(daemon, client, "transmit-timeout", SENDING, since, USER_TIMEOUT, PRIORITY=5,
                                 TETHERD_BYTES_RECEIVED=4, TETHERD_BYTES_SENT=4)
            expect(int(record["TETHERD_RETRANSMITS"]) > 0, f"TETHERD_RETRANSMITS: {record}")


@scene()
def sent_just_before_the_idle_detection():
    # The answer leaves when keepalive would have noticed within 0.4 s, and the user timeout begins anew.
    for _ in range(3):
        with Network() as network, network.daemon(handler="echo") as daemon:
            clients = network.connect_ready(daemon)
            with daemon.frozen():
                since = say_something(clients)
                network.cut()
                time.sleep(max(0, since + USER_TIMEOUT - 0.4 - time.monotonic()))
            sent = time.monotonic()
            if sent > since + USER_TIMEOUT - 0.1:
                continue  # a busy machine: it was too late for this story
            for client in clients:
                record = expect_told(daemon, client, "transmit-timeout", LATE, since, sent - since + USER_TIMEOUT)
                seconds = ended_at(record) - since
                expect(seconds <= DETECT_WITHIN + 2, f"noticed after {seconds:.2f} s, not within {DETECT_WITHIN} + 2 s")
            return
    raise Failure("this machine was too busy, three times, to send within 0.3 s of the moment")


@scene()
def power_off_in_the_handshake():
    with Network() as network, network.daemon("hello = yes\nhandshake_timeout = 2s\ndetect_within = 6s") as daemon:
        since = time.monotonic()
        clients = network.connect(daemon)
        say_something(clients)
        network.cut()
        for client in clients:
            expect_told(daemon, client, "handshake-timeout", HANDSHAKE, since, not_before=2, event="rejected",
                        state="handshake", PRIORITY=5)


@scene()
def power_off_in_a_long_handshake():
    with Network() as network, network.daemon("hello = yes\nhandshake_timeout = 30s\ndetect_within = 6s") as daemon:
        clients = network.connect(daemon)
        since = say_something(clients)
        network.cut()
        for client in clients:
            expect_told(daemon, client, "keepalive-timeout", IDLE, since, USER_TIMEOUT, event="rejected",
                        state="handshake", PRIORITY=5)


@scene()
def power_off_while_loading():
    mark = GATE + 'echo "$TETHERD_PHASE $TETHERD_RESOURCE $1" >> <effects>'
    with Network() as network, network.daemon(scripts={"mark": mark}) as daemon:
        hold(daemon)
        clients = network.connect(daemon)
        for client in clients:
            wait_at_gate(client)
        since = say_something(clients)
        network.cut()
        eventually(lambda: daemon.descriptors()["socket"] == daemon.idle_descriptors["socket"],
                   "the clients' sockets are closed")
        for client in clients:
            open_gate(client)
            open_gate(client, "release")
        for client in clients:
            expect_told(daemon, client, "keepalive-timeout", IDLE, since, USER_TIMEOUT, state="loading")


@scene()
def power_off_after_a_half_close():
    with Network() as network, network.daemon("detect_within = 6s\nhalf_close = keep") as daemon:
        clients = network.connect_ready(daemon)
        say_something(clients)
        since = time.monotonic()
        for client in clients:
            client.half_close().wait_acknowledged()
        network.cut()
        for client in clients:
            expect_told(daemon, client, "keepalive-timeout", IDLE, since, USER_TIMEOUT)


if __name__ == "__main__":
    main(need_root)

"""alive: peers that are there: behind a link that heals, slow to speak, or not reading."""

import contextlib
import time

from harness import expect, main, need_root, scene
from harness.network import DETECT_WITHIN, FIN, SENDING, UNREAD, USER_TIMEOUT, Network, expect_told, say_something


def close_all(daemon, clients, **fields):
    """None of them has ended; each does when it closes."""
    for client in clients:
        expect(not daemon.endings(client.id), f"ended too early: {daemon.endings(client.id)}")
        since = time.monotonic()
        client.close()
        expect_told(daemon, client, "eof", FIN, since, **fields)


def observe(daemon, seconds):
    time.sleep(seconds)
    daemon.poll_records()


# Twice the shortest time: a cut that costs a probe or two and is over well before the last one, on a busy machine too.
HEALING = f"detect_within = {2 * DETECT_WITHIN}s"


@scene()
def link_heals_while_idle():
    with Network() as network, network.daemon(HEALING) as daemon:
        clients = network.connect_ready(daemon)
        say_something(clients)
        network.cut()
        observe(daemon, USER_TIMEOUT + 0.5)  # the first of three probes was lost
        network.heal()
        observe(daemon, DETECT_WITHIN)
        close_all(daemon, clients)


@scene()
def link_heals_with_data_under_way():
    with Network() as network, network.daemon(HEALING, "echo") as daemon:
        clients = network.connect_ready(daemon)
        with daemon.frozen():
            say_something(clients)
            network.cut()
        observe(daemon, USER_TIMEOUT - 1)
        network.heal()
        for client in clients:
            client.receive(4)
        observe(daemon, DETECT_WITHIN)
        for client in clients:
            client.echo()
        close_all(daemon, clients)


@scene()
def one_byte_a_second():
    n_bytes = DETECT_WITHIN + 2
    keys = f"detect_within = {DETECT_WITHIN}s\nidle_timeout = 3s"
    with Network() as network, network.daemon(keys, "echo") as daemon:
        clients = network.connect_ready(daemon)
        for _ in range(n_bytes):
            for client in clients:
                client.echo(b"x")
            observe(daemon, 1)
        close_all(daemon, clients, TETHERD_BYTES_RECEIVED=n_bytes, TETHERD_BYTES_SENT=n_bytes)


def fill(client):
    """Sends and never reads, until nothing moves any more. Returns when the last bytes were taken, and for how long
    they were at the latest: the daemon may have been stuck since the beginning."""
    began = last = time.monotonic()
    client.socket.settimeout(0.3)
    with contextlib.suppress(TimeoutError):
        while True:
            client.socket.send(b"x" * 65536)
            last = time.monotonic()
    return last, last - began


@scene()
def peer_that_never_reads():
    with Network() as network, network.daemon(handler="echo") as daemon:
        clients = network.connect_ready(daemon, receive_buffer=8192)
        for client, (since, seconds) in [(client, fill(client)) for client in clients]:
            expect_told(daemon, client, "stalled", UNREAD, since, USER_TIMEOUT - seconds, operation="send", PRIORITY=5)


@scene()
def peer_that_does_not_read_and_is_cut_off():
    # The probes of its window go unanswered: it did not only stop reading.
    with Network() as network, network.daemon(handler="echo") as daemon:
        clients = network.connect_ready(daemon, receive_buffer=8192)
        filled = [(client, fill(client)) for client in clients]
        network.cut()
        for client, (since, seconds) in filled:
            expect_told(daemon, client, "transmit-timeout", SENDING, since, USER_TIMEOUT - seconds)


if __name__ == "__main__":
    main(need_root)

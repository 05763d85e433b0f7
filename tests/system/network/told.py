"""told: endings that a segment tells at once, or that this host decides: closed, reset, killed, destroyed."""

import time
from errno import ECONNRESET, EPIPE

from harness import eventually, expect_equal, main, need_root, scene
from harness.network import DESTROYED, FIN, KEPT_CLOSE, KEPT_FIN, RST, Network, expect_ended, expect_told, explain


@scene()
def close_with_nothing_sent():
    with Network() as network, network.daemon() as daemon:
        for client in network.connect_ready(daemon):
            since = time.monotonic()
            client.close()
            expect_told(daemon, client, "eof", FIN, since, TETHERD_BYTES_RECEIVED=0, TETHERD_BYTES_SENT=0, PRIORITY=6)


@scene()
def close_after_data():
    with Network() as network, network.daemon(handler="echo") as daemon:
        for client in network.connect_ready(daemon):
            client.echo(b"x" * 1000)
            since = time.monotonic()
            client.close()
            expect_told(daemon, client, "eof", FIN, since, TETHERD_BYTES_RECEIVED=1000, TETHERD_BYTES_SENT=1000)


@scene()
def half_close_is_a_close():
    with Network() as network, network.daemon() as daemon:
        for client in network.connect_ready(daemon):
            since = time.monotonic()
            client.send(b"last words").half_close()
            expect_told(daemon, client, "eof", FIN, since, TETHERD_BYTES_RECEIVED=10)
            expect_equal(client.receive_rest(), b"", "what comes back")


@scene()
def half_close_kept_by_echo():
    with Network() as network, network.daemon("detect_within = 6s\nhalf_close = keep", "echo") as daemon:
        for client in network.connect_ready(daemon):
            since = time.monotonic()
            client.send(b"last words").half_close()
            expect_equal(client.receive_rest(), b"last words", "what comes back")
            expect_told(daemon, client, "eof", FIN, since)


@scene()
def half_close_kept_then_full_close():
    # The client's host answers keepalive probes until its tcp_fin_timeout is over, and then with RST.
    fin_timeout = 2
    with Network() as network, network.daemon("detect_within = 6s\nhalf_close = keep") as daemon:
        network.client.set(ipv4__tcp_fin_timeout=fin_timeout)
        clients = network.connect_ready(daemon)
        for client in clients:
            client.half_close()
        since = time.monotonic()
        for client in clients:
            client.close()
        limit = explain(daemon)[KEPT_CLOSE]
        expect_equal(limit.cause, "eof", f"--explain's cause for {KEPT_CLOSE!r}")
        for client in clients:  # --explain takes the timeout for the usual 60 s
            expect_ended(daemon, client, "eof", since, fin_timeout, limit.seconds - 60 + fin_timeout,
                         error=(EPIPE, ECONNRESET))


@scene()
def half_close_kept_then_silence():
    keys = "detect_within = 6s\nhalf_close = keep\nhalf_close_timeout = 8s"  # longer than any other bound
    with Network() as network, network.daemon(keys) as daemon:
        clients = network.connect_ready(daemon)
        since = time.monotonic()
        for client in clients:
            client.half_close()
        for client in clients:
            expect_told(daemon, client, "half-close-timeout", KEPT_FIN, since, not_before=8)


@scene()
def reset():
    with Network() as network, network.daemon() as daemon:
        for client in network.connect_ready(daemon):
            client.send(b"x" * 10)
            since = time.monotonic()
            client.reset()
            expect_told(daemon, client, "reset", RST, since, operation="receive", PRIORITY=5, TETHERD_BYTES_RECEIVED=10)


@scene()
def reset_by_a_close_with_our_bytes_unread():
    with Network() as network, network.daemon(handler="echo") as daemon:
        for client in network.connect_ready(daemon):
            client.send(b"x" * 100).wait_readable(100)
            since = time.monotonic()
            client.close()
            expect_told(daemon, client, "reset", RST, since, TETHERD_BYTES_RECEIVED=100, TETHERD_BYTES_SENT=100)


@scene()
def killed_client():
    with Network() as network, network.daemon(handler="echo") as daemon:
        for client in network.connect_ready(daemon):
            client.echo()
            since = time.monotonic()
            client.kill()
            expect_told(daemon, client, "eof", FIN, since)


@scene()
def killed_client_with_our_bytes_unread():
    with Network() as network, network.daemon(handler="echo") as daemon:
        for client in network.connect_ready(daemon):
            client.send(b"x" * 100).wait_readable(100)
            since = time.monotonic()
            client.kill()
            expect_told(daemon, client, "reset", RST, since)


def reset_before_accept(network, daemon):
    """Clients that are gone when the daemon hears of them, and when it did."""
    with daemon.frozen():
        clients = network.connect(daemon)
        for client in clients:
            client.reset()
            eventually(lambda port=client.port: str(port) not in network.server.do("ss -Htn"),
                       "the reset came to the server")
        return clients, time.monotonic()


@scene()
def reset_before_accept_and_handshake():
    with Network() as network, network.daemon("detect_within = 6s\nhello = yes") as daemon:
        clients, since = reset_before_accept(network, daemon)
        for client in clients:
            expect_told(daemon, client, "reset", RST, since, event="rejected", state="handshake", PRIORITY=7)


@scene()
def reset_before_accept_is_loaded_and_released():
    with Network() as network, network.daemon() as daemon:
        clients, since = reset_before_accept(network, daemon)
        for client in clients:
            # On a busy machine the load may be over in the same turn of the loop that hears of the reset.
            expect_told(daemon, client, "reset", RST, since, state=("loading", "ready"), PRIORITY=5)


@scene()
def destroyed_on_this_host():
    with Network() as network, network.daemon() as daemon:
        for client in network.connect_ready(daemon):
            since = time.monotonic()
            network.server.do(f"ss -K dport = {client.port}")
            expect_told(daemon, client, "aborted", DESTROYED, since, PRIORITY=5)


@scene()
def destroyed_on_the_peers_host():
    with Network() as network, network.daemon() as daemon:
        for client in network.connect_ready(daemon):
            since = time.monotonic()
            network.client.do(f"ss -K sport = {client.port}")
            expect_told(daemon, client, "reset", RST, since)


if __name__ == "__main__":
    main(need_root)

"""life: every way for a client to leave, and the one record that tells it."""

import os
import select
import socket
from errno import ECONNRESET, EPIPE

from harness import MARK, Daemon, expect, expect_equal, main, scene

ALL = ("tcp4", "tcp6", "unix")
TCP = ("tcp4", "tcp6")
TCP_LINGER2 = 8


def one_listener(keys):
    return f"""
[listener:life]
listen = <tcp4>, <tcp6>, <unix>
resources = mark
{keys}
{MARK}"""


DISCARD = one_listener("handler = discard")
ECHO = one_listener("handler = echo")


@scene(over=ALL)
def close_with_nothing_sent(kind):
    with Daemon(DISCARD) as daemon:
        client = daemon.connect_ready(kind).close()
        record = daemon.wait_ended(client, "eof", PRIORITY=6, TETHERD_BYTES_RECEIVED=0, TETHERD_BYTES_SENT=0)
        expect_equal(record["TETHERD_LISTENER"], "life", "TETHERD_LISTENER")
        expect(record["MESSAGE"].startswith(f"connection {client.id} from "), record["MESSAGE"])
        host = {"tcp4": "127.0.0.1", "tcp6": "::1", "unix": "unix"}[kind]
        expect_equal(record["TETHERD_REMOTE_ADDRESS"], host, "TETHERD_REMOTE_ADDRESS")
        if kind == "unix":
            expect_equal(record["TETHERD_PEER_PID"], str(os.getpid()), "TETHERD_PEER_PID")
            expect_equal(record["TETHERD_PEER_UID"], str(os.geteuid()), "TETHERD_PEER_UID")
        else:
            expect_equal(record["TETHERD_LOCAL_ADDRESS"], daemon.addresses[kind][1][0], "TETHERD_LOCAL_ADDRESS")
            expect_equal(record["TETHERD_LOCAL_PORT"], str(daemon.addresses[kind][1][1]), "TETHERD_LOCAL_PORT")
            expect("TETHERD_RTT_USEC" in record, f"TETHERD_RTT_USEC is missing: {record}")
        for name in ("DURATION", "HANDSHAKE", "LOAD", "RELEASE"):
            expect(int(record[f"TETHERD_{name}_USEC"]) >= 0, f"{name}: {record}")
        expect_equal(daemon.effects(), [("load", "mark", client.id), ("release", "mark", client.id)], "effects")


@scene(over=ALL)
def close_after_data(kind):
    with Daemon(DISCARD) as daemon:
        client = daemon.connect_ready(kind).send(b"x" * 1000).close()
        daemon.wait_ended(client, "eof", TETHERD_BYTES_RECEIVED=1000)


@scene(over=ALL)
def many_one_after_the_other(kind):
    with Daemon(DISCARD) as daemon:
        clients = [daemon.connect_ready(kind).send(b"x" * i).close() for i in range(10)]
        for i, client in enumerate(clients):
            daemon.wait_ended(client, "eof", TETHERD_BYTES_RECEIVED=i)
        ids = [int(client.id, 16) for client in clients]
        expect(ids == sorted(set(ids)), f"ids do not increase: {ids}")


@scene(over=TCP)
def reset(kind):
    with Daemon(DISCARD) as daemon:
        client = daemon.connect_ready(kind).reset()
        daemon.wait_ended(client, "reset", operation="receive", PRIORITY=5)


@scene(over=TCP)
def reset_after_data_loses_no_data(kind):
    with Daemon(DISCARD) as daemon:
        client = daemon.connect_ready(kind)
        with daemon.frozen():
            client.send(b"x" * 1000).reset()
        daemon.wait_ended(client, "reset", TETHERD_BYTES_RECEIVED=1000)


@scene(over=ALL)
def close_with_our_bytes_unread(kind):
    with Daemon(ECHO) as daemon:
        client = daemon.connect_ready(kind).send(b"x" * 100)
        client.wait_readable(100)
        client.close()
        daemon.wait_ended(client, "reset", TETHERD_BYTES_RECEIVED=100, TETHERD_BYTES_SENT=100)


@scene(over=ALL)
def killed_client(kind):
    with Daemon(ECHO) as daemon:
        client = daemon.connect_ready(kind).echo()
        client.kill()
        daemon.wait_ended(client, "eof")


@scene(over=ALL)
def killed_client_with_our_bytes_unread(kind):
    with Daemon(ECHO) as daemon:
        client = daemon.connect_ready(kind).send(b"x" * 100)
        client.wait_readable(100)
        client.kill()
        daemon.wait_ended(client, "reset")


@scene(over=ALL)
def half_close_is_a_close(kind):
    with Daemon(DISCARD) as daemon:
        client = daemon.connect_ready(kind).send(b"last words").half_close()
        expect_equal(client.receive_rest(), b"", "what comes back")
        daemon.wait_ended(client, "eof", TETHERD_BYTES_RECEIVED=10)


@scene(over=ALL)
def half_close_kept_by_echo(kind):
    data = os.urandom(300_000)
    with Daemon(one_listener("handler = echo\nhalf_close = keep")) as daemon:
        client = daemon.connect_ready(kind)
        client.socket.settimeout(20)
        pid = os.fork()  # sends while we read
        if pid == 0:
            client.send(data).half_close()
            os._exit(0)
        back = client.receive_rest()
        os.waitpid(pid, 0)
        expect(back == data, f"{len(back)} of {len(data)} bytes came back, or others")
        daemon.wait_ended(client, "eof", TETHERD_BYTES_RECEIVED=len(data), TETHERD_BYTES_SENT=len(data))


@scene(over=ALL)
def half_close_kept_until_its_timeout(kind):
    with Daemon(one_listener("handler = discard\nhalf_close = keep\nhalf_close_timeout = 700ms")) as daemon:
        client = daemon.connect_ready(kind).send(b"x").half_close()
        expect_equal(client.receive_rest(), b"", "what comes back")
        record = daemon.wait_ended(client, "half-close-timeout")
        expect(int(record["TETHERD_DURATION_USEC"]) >= 700_000, f"it came too early: {record['MESSAGE']}")


@scene()
def half_close_kept_then_full_close_on_unix():
    with Daemon(one_listener("handler = discard\nhalf_close = keep")) as daemon:
        client = daemon.connect_ready("unix").half_close()
        client.close()
        daemon.wait_ended(client, "eof")


@scene(over=TCP)
def half_close_kept_then_full_close(kind):
    # The kernel tells nobody of the full close: a keepalive probe finds it when the peer's FIN-WAIT-2 is over,
    # which this peer has set to one second. It may meet a RST; with nothing of ours unsent that is eof, too.
    with Daemon(one_listener("handler = discard\nhalf_close = keep\ndetect_within = 6s")) as daemon:
        client = daemon.connect_ready(kind)
        client.socket.setsockopt(socket.IPPROTO_TCP, TCP_LINGER2, 1)
        client.half_close().close()
        daemon.wait_ended(client, "eof", timeout=20, error=(0, EPIPE, ECONNRESET))


@scene(over=TCP)
def half_close_kept_then_reset(kind):
    barrier = "[listener:barrier]\nlisten = <abstract>\nhandler = echo\n"
    with Daemon(one_listener("handler = discard\nhalf_close = keep") + barrier) as daemon:
        client = daemon.connect_ready(kind).half_close()
        daemon.barrier("abstract")  # the FIN was seen alone
        client.reset()
        daemon.wait_ended(client, "eof", error=(0, EPIPE, ECONNRESET))


@scene(over=TCP)
def fin_then_reset(kind):
    with Daemon(DISCARD) as daemon:
        client = daemon.connect_ready(kind)
        with daemon.frozen():
            client.half_close().reset()
        daemon.wait_ended(client, "reset", error=EPIPE)


@scene(over=ALL)
def data_and_fin_at_once(kind):
    with Daemon(DISCARD) as daemon:
        client = daemon.connect_ready(kind)
        with daemon.frozen():
            client.send(b"x" * 5000).close()
        daemon.wait_ended(client, "eof", TETHERD_BYTES_RECEIVED=5000)


# Whether loading has begun when the daemon learns of it is its own choice.
EARLY = {"event": ("closed", "rejected"), "state": ("accept", "handshake", "loading", "ready")}


@scene(over=TCP)
def reset_before_accept(kind):
    with Daemon(DISCARD) as daemon:
        with daemon.frozen():
            client = daemon.connect(kind).reset()
        daemon.wait_ended(client, "reset", **EARLY)


@scene(over=ALL)
def close_before_accept(kind):
    with Daemon(DISCARD) as daemon:
        with daemon.frozen():
            client = daemon.connect(kind).close()
        daemon.wait_ended(client, "eof", **EARLY)


@scene(over=TCP)
def silence_is_no_end(kind):
    # Keepalive goes on all the time, and a live peer answers it.
    with Daemon(one_listener("handler = echo\ndetect_within = 6s")) as daemon:
        client = daemon.connect_ready(kind)
        readable, _, _ = select.select([client.socket], [], [], 8)
        expect(not readable, "a silent peer was ended")
        client.echo().close()
        daemon.wait_ended(client, "eof")


if __name__ == "__main__":
    main()

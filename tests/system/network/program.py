"""program: a peer that is gone without a word, while a program has the connection: nobody of ours reads or writes, the
program may take the errno, and yet the cause is told and the program ends."""

import socket
import time
from errno import ETIMEDOUT
from pathlib import Path

from harness import eventually, expect, main, need_root, scene
from harness.daemon import Daemon
from harness.network import DETECT_WITHIN, IDLE, KINDS, PORT, SENDING, UNREAD, USER_TIMEOUT, Network, expect_ended, explain

CONFIG = f"""
[listener:network]
listen = 10.99.2.2:{PORT}, [fd99:2::2]:{PORT}
detect_within = {DETECT_WITHIN}s
resources = mark, program
[resource:mark]
type = exec
load = <mark> %i
release = <mark> %i
[resource:program]
type = process
socket = stdio
release_timeout = 1s
command = """
# Neither reads nor writes, and ignores SIGTERM.
DEAF = {"program": "trap '' TERM; echo $$ > <dir>/pid.$TETHERD_CONNECTION; while :; do sleep 1000; done"}
READS = {"program": "echo $$ > <dir>/pid.$TETHERD_CONNECTION; exec cat"}
WRITES = {"program": "echo $$ > <dir>/pid.$TETHERD_CONNECTION; while echo tick; do sleep 0.1; done"}
FLOODS = {"program": "echo $$ > <dir>/pid.$TETHERD_CONNECTION; exec cat /dev/zero"}


def daemon_in(network, scripts):
    daemon = Daemon(CONFIG + "<program>\n", enter=network.server.enter, scripts=scripts)
    daemon.addresses.update(tcp4=(socket.AF_INET, ("10.99.2.2", PORT)), tcp6=(socket.AF_INET6, ("fd99:2::2", PORT)))
    return daemon


def pid_of(daemon, client):
    path = daemon.directory / f"pid.{client.id}"
    return int(eventually(lambda: path.exists() and path.read_text(), f"the program of {client.kind} runs"))


def expect_all_ended(daemon, clients, cause, way, since, not_before, **fields):
    pids = [pid_of(daemon, client) for client in clients]
    for client, pid in zip(clients, pids):
        expect_ended(daemon, client, cause, since, not_before, explain(daemon)[way].seconds, **fields)
        expect(not Path(f"/proc/{pid}").exists(), f"the program of {client.kind} is left")


def begin(network, daemon):
    clients = network.connect_ready(daemon)
    expect(len(clients) == len(KINDS), "one of each kind")
    for client in clients:
        pid_of(daemon, client)
    return clients


@scene()
def power_off_while_nobody_reads():
    with Network() as network, daemon_in(network, DEAF) as daemon:
        clients = begin(network, daemon)
        since = time.monotonic()
        for client in clients:
            client.send(b"here").wait_acknowledged()
        network.cut()
        expect_all_ended(daemon, clients, "keepalive-timeout", IDLE, since, USER_TIMEOUT, error=ETIMEDOUT,
                         operation="receive", TETHERD_BYTES_RECEIVED=0)


@scene()
def power_off_while_it_reads():
    with Network() as network, daemon_in(network, READS) as daemon:
        clients = begin(network, daemon)
        since = time.monotonic()
        for client in clients:
            client.echo(b"here")
        network.cut()
        expect_all_ended(daemon, clients, "keepalive-timeout", IDLE, since, USER_TIMEOUT, error=(0, ETIMEDOUT),
                         TETHERD_BYTES_RECEIVED=4, TETHERD_BYTES_SENT=4)


@scene()
def power_off_while_it_writes():
    with Network() as network, daemon_in(network, WRITES) as daemon:
        clients = begin(network, daemon)
        for client in clients:
            client.receive(10)
        since = time.monotonic()
        network.cut()
        # The next tick is a tenth of a second later.
        expect_all_ended(daemon, clients, "transmit-timeout", SENDING, since + 0.2, USER_TIMEOUT - 0.2,
                         error=(0, ETIMEDOUT))


@scene()
def a_peer_that_does_not_read():
    with Network() as network, daemon_in(network, FLOODS) as daemon:
        since = time.monotonic()
        clients = begin(network, daemon)
        filled = time.monotonic()
        pids = [pid_of(daemon, client) for client in clients]
        for client, pid in zip(clients, pids):
            expect_ended(daemon, client, "stalled", since, USER_TIMEOUT,
                         filled - since + 1 + explain(daemon)[UNREAD].seconds, error=(0, ETIMEDOUT), operation="send")
            expect(not Path(f"/proc/{pid}").exists(), f"the program of {client.kind} is left")


@scene()
def the_client_dies_with_our_bytes_unread():
    with Network() as network, daemon_in(network, FLOODS) as daemon:
        clients = begin(network, daemon)
        for client in clients:
            client.wait_readable(1000)
        since = time.monotonic()
        for client in clients:
            client.close()
        for client in clients:
            record = eventually(lambda: daemon.poll_records() and daemon.endings(client.id), "it is closed")[0]
            expect(record["TETHERD_CAUSE"] in ("reset", "process-exited"), f"{record}")
        expect(time.monotonic() - since < USER_TIMEOUT, "it was not noticed at once")


if __name__ == "__main__":
    main(need_root)

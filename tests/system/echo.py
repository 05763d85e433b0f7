"""echo: bytes come back intact, and a peer that does not read, or floods, is nobody else's trouble."""

import contextlib
import hashlib
import os
import select
import socket
import threading
import time

from harness import MARK, SLOW, Daemon, expect, expect_equal, main, scene

ALL = ("tcp4", "tcp6", "unix")
MIB = 1024 * 1024


def echo_listener(keys=""):
    return f"""
[listener:echo]
listen = <tcp4>, <tcp6>, <unix>
handler = echo
resources = mark
{keys}
{MARK}"""


def send_in_background(client, data, then_half_close=False):
    def send():
        try:
            client.send(data)
            if then_half_close:
                client.half_close()
        except OSError:
            pass  # the reader finds out
    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def send_without_reading(client, stop_after=1.0, bound=256 * MIB):
    """Sends until nothing more goes out for a while; returns how much the other side and the kernel took."""
    client.socket.setblocking(False)
    chunk, total = os.urandom(65536), 0
    while True:
        _, writable, _ = select.select([], [client.socket], [], stop_after * SLOW)
        if not writable:
            return total
        try:
            total += client.socket.send(chunk)
        except BlockingIOError:
            pass
        expect(total < bound, f"the daemon took {total} bytes from a peer that reads nothing")


def slowest_echo(client, rounds):
    slowest = 0.0
    for i in range(rounds):
        began = time.monotonic()
        client.echo(b"round %d" % i)
        slowest = max(slowest, time.monotonic() - began)
    return slowest


@scene(over=ALL)
def ten_megabytes_come_back_intact(kind):
    data = os.urandom(10 * MIB)
    with Daemon(echo_listener("half_close = keep")) as daemon:
        client = daemon.connect_ready(kind)
        sender = send_in_background(client, data, then_half_close=True)
        back = client.receive_rest()
        sender.join()
        expect_equal(len(back), len(data), "bytes that came back")
        expect_equal(hashlib.sha256(back).hexdigest(), hashlib.sha256(data).hexdigest(), "their sha256")
        daemon.wait_ended(client, "eof", timeout=20, TETHERD_BYTES_RECEIVED=len(data), TETHERD_BYTES_SENT=len(data))


@scene(over=ALL)
def a_peer_that_reads_late_loses_nothing(kind):
    data = os.urandom(8 * MIB)
    with Daemon(echo_listener("half_close = keep")) as daemon:
        client = daemon.connect_ready(kind, receive_buffer=8192)
        sender = send_in_background(client, data, then_half_close=True)
        daemon.connect(kind).echo().close()
        back = client.receive_rest()
        sender.join()
        expect(back == data, f"{len(back)} of {len(data)} bytes came back, or others")
        daemon.wait_ended(client, "eof", timeout=20)


@scene(over=ALL)
def peers_that_never_read_cost_bounded_memory(kind):
    n_greedy = 10
    with Daemon(echo_listener()) as daemon:
        other = daemon.connect_ready(kind)
        other.echo()
        before = daemon.resident_bytes()
        greedy = [daemon.connect(kind) for _ in range(n_greedy)]
        took = [send_without_reading(client, 0.3) for client in greedy]
        grown = daemon.resident_bytes() - before
        expect(grown < n_greedy * MIB + 4 * MIB,
               f"resident memory grew by {grown} bytes for {n_greedy} peers, which had sent {sum(took)}")
        slowest = slowest_echo(other, 200)
        expect(slowest < 1 * SLOW, f"an echo took {slowest:.3f} s meanwhile")
        switches = daemon.cpu_ticks()
        select.select([], [], [], 1)
        expect(daemon.cpu_ticks() - switches <= 5, "the daemon is busy although nobody reads or sends")


@scene(over=ALL)
def a_peer_that_never_reads_is_stalled(kind):
    with Daemon(echo_listener("detect_within = 6s")) as daemon:
        other = daemon.connect_ready(kind)
        client = daemon.connect_ready(kind, receive_buffer=8192)
        send_without_reading(client, 0.3)
        daemon.wait_ended(client, "stalled", timeout=30, PRIORITY=5, error=0 if kind == "unix" else None)
        other.echo()


@scene(over=ALL)
def a_slow_reader_is_not_stalled(kind):
    # Its buffers are full all the time, but its window opens again and again within user_timeout (3 s).
    with Daemon(echo_listener("detect_within = 6s")) as daemon:
        client = daemon.connect_ready(kind)
        send_without_reading(client, 0.3)
        deadline = time.monotonic() + 9
        while time.monotonic() < deadline:
            with contextlib.suppress(BlockingIOError):
                expect(client.socket.recv(512 * 1024), "the daemon ended a peer that reads")
            with contextlib.suppress(BlockingIOError):
                client.socket.send(b"x" * 512 * 1024)
            select.select([], [], [], 0.5)
        daemon.poll_records()
        expect(not daemon.endings(client.id), f"ended: {daemon.endings(client.id)}")


@scene(over=ALL)
def an_urgent_byte_in_the_middle(kind):
    # It is no part of the stream; what is behind it is.
    with Daemon(echo_listener()) as daemon:
        client = daemon.connect_ready(kind)
        for _ in range(3):
            with daemon.frozen():
                client.send(b"before")
                client.socket.send(b"!", socket.MSG_OOB)
                client.send(b"behind")
            expect_equal(client.receive(12), b"beforebehind", "what came back")
        client.echo().close()
        daemon.wait_ended(client, "eof", TETHERD_BYTES_RECEIVED=3 * 12 + 14)


def flood(client, stop):
    chunk = b"\0" * 262144
    client.socket.setblocking(False)
    while not stop.is_set():
        readable, writable, _ = select.select([client.socket], [client.socket], [], 0.2)
        try:
            if readable and not client.socket.recv(262144):
                return
            if writable:
                client.socket.send(chunk)
        except BlockingIOError:
            pass


@scene(over=("discard tcp4", "discard unix", "echo tcp4", "echo unix"))
def a_flood_starves_nobody(flooded):
    handler, kind = flooded.split()
    listener = "unix" if kind == "unix" else "tcp4"
    config = f"""
[listener:flooded]
listen = <{listener}>
handler = {handler}
[listener:calm]
listen = <tcp6>
handler = echo
resources = mark
{MARK}"""
    with Daemon(config) as daemon:
        stop = threading.Event()
        flooding = [daemon.connect(kind) for _ in range(2)]
        threads = [threading.Thread(target=flood, args=(client, stop), daemon=True) for client in flooding]
        for thread in threads:
            thread.start()
        try:
            slowest = slowest_echo(daemon.connect_ready("tcp6"), 100)
            for _ in range(10):
                daemon.connect("tcp6").echo().close()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        expect(slowest < 1 * SLOW, f"an echo took {slowest:.3f} s during the flood")
        for client in flooding:
            client.close()


if __name__ == "__main__":
    main()

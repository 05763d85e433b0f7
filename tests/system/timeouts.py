"""timeouts: our own clocks: silence and age. What the network says of a peer is in network/."""

import contextlib
import select
import time

from harness import MARK, SLOW, Daemon, expect, main, scene


def listener(keys, handler="echo", listen="<tcp4>, <tcp6>, <unix>"):
    return f"[listener:time]\nlisten = {listen}\nhandler = {handler}\nresources = mark\n{keys}\n{MARK}"


def expect_duration(record, at_least, at_most):
    seconds = int(record["TETHERD_DURATION_USEC"]) / 1e6
    expect(at_least <= seconds <= at_most * SLOW, f"it lasted {seconds:.2f} s, not {at_least} to {at_most} s")


@scene(over=("tcp4", "unix"))
def idle_timeout(kind):
    with Daemon(listener("idle_timeout = 2s")) as daemon:
        client = daemon.connect_ready(kind)
        for _ in range(6):  # more than 2 s in all: each byte counts anew
            client.echo()
            select.select([client.socket], [], [], 0.4)
        client.receive_rest()
        expect_duration(daemon.wait_ended(client, "idle-timeout", PRIORITY=5), 3.9, 12)


@scene()
def idle_timeout_with_nothing_sent():
    with Daemon(listener("idle_timeout = 500ms")) as daemon:
        client = daemon.connect_ready()
        expect_duration(daemon.wait_ended(client, "idle-timeout"), 0.5, 6)


@scene(over=("tcp4", "unix"))
def idle_timeout_stands_still_while_reading_is_paused(kind):
    with Daemon(listener("idle_timeout = 1s\ndetect_within = infinity")) as daemon:
        client = daemon.connect_ready(kind)
        client.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                select.select([], [client.socket], [], 0.2)
                client.socket.send(b"x" * 65536)
        select.select([], [], [], 3)
        daemon.poll_records()
        expect(not daemon.endings(client.id), f"ended while it could not speak: {daemon.endings(client.id)}")


@scene(over=("tcp4", "unix"))
def max_age(kind):
    with Daemon(listener("max_age = 1s\nidle_timeout = 10s")) as daemon:
        client = daemon.connect_ready(kind)
        with contextlib.suppress(OSError):
            while True:
                client.send(b"x")
                if select.select([client.socket], [], [], 0.5)[0] and not client.socket.recv(10):
                    break
                time.sleep(0.05)  # a chatting client, not a synchronisation
        expect_duration(daemon.wait_ended(client, "max-age"), 1, 6)


if __name__ == "__main__":
    main()

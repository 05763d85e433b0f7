"""manager: what the service manager hears, and that it hears all of it in order, however slow it is. That systemd does
what is expected of it then, is played in tests/service."""

import contextlib
import re
import signal
import socket

from harness import GATE, Daemon, eventually, expect, expect_equal, hold, let_go, main, open_gate, scene, \
    wait_at_gate

CONFIG = """
[listener:a]
listen = <tcp4>
handler = echo
resources = gated
greeting = {greeting}
[resource:gated]
type = exec
load = <mark> %i
release = <gated> %i
max_concurrent = 1
"""
SCRIPTS = {"gated": GATE + 'echo "$TETHERD_PHASE gated $1" >> <effects>',
           "mark": 'echo "$TETHERD_PHASE gated $1" >> <effects>'}
MARGIN = 10_000_000  # for what comes after drain_timeout: killing what still runs, and leaving


def config(greeting="hi"):
    return CONFIG.format(greeting=greeting)


def number(message, name):
    found = re.search(rf"^{name}=(\d+)$", message, re.M)
    expect(found, f"no {name} in {message!r}")
    return int(found[1])


def wait_status(daemon, pattern):
    def probe():
        status = daemon.wait_notified("STATUS=")
        return re.search(pattern, status)
    return eventually(probe, f"a status line with {pattern!r}")


@scene()
def status_shows_the_queue_of_releases():
    with Daemon(config(), scripts=SCRIPTS) as daemon:
        clients = [daemon.connect_ready() for _ in range(4)]
        wait_status(daemon, r"STATUS=4 connections \(4 ready, 0 loading, 0 releasing\), 4 since the start; no release "
                            r"waits; 0 resources quarantined$")
        hold(daemon)
        for client in clients:
            client.close()
        wait_status(daemon, r"STATUS=4 connections \(0 ready, 0 loading, 4 releasing\).*; 3 releases wait, the first "
                            r"for \d")
        first = wait_status(daemon, r"the first for ([\d.]+)s")
        second = wait_status(daemon, r"the first for ([\d.]+)s")
        expect(float(second[1]) > float(first[1]), f"it does not get older: {first[0]!r}, {second[0]!r}")
        gates = lambda: list(daemon.directory.glob("gate.release.*"))
        eventually(gates, "the first release is under way")
        expect_equal(len(gates()), 1, "releases under way")
        let_go(daemon)
        for client in clients:
            if (daemon.directory / f"gate.release.{client.id}").exists():
                open_gate(client, "release")
        wait_status(daemon, r"STATUS=0 connections .*; no release waits")


@scene()
def watchdog_is_fed():
    class Watched(Daemon):
        def environment(self):
            return {**super().environment(), "WATCHDOG_USEC": "1000000"}
    with Watched(config(), scripts=SCRIPTS) as daemon:
        client = daemon.connect_ready()
        hold(daemon)
        client.close()
        wait_at_gate(client, "release")
        for _ in range(3):  # a release that takes its time is no reason not to
            daemon.wait_notified("WATCHDOG=1")
        open_gate(client, "release")
        let_go(daemon)


@scene()
def stop_asks_for_time_while_it_goes_on():
    with Daemon(config(), {"drain_timeout": "7s"}, SCRIPTS) as daemon:
        client = daemon.connect_ready()
        hold(daemon)
        daemon.drop_notifications()
        daemon.kill(signal.SIGTERM)
        daemon.wait_notified("STOPPING=1")
        asked = [number(daemon.wait_notified("EXTEND_TIMEOUT_USEC="), "EXTEND_TIMEOUT_USEC") for _ in range(2)]
        expect(asked[0] <= 15_000_000 and asked[1] <= 2_000_000 + MARGIN,
               f"it asks for more than drain_timeout allows: {asked}")
        let_go(daemon)
        open_gate(client, "release")
        daemon.wait_exit(0)


@scene()
def start_asks_for_time_while_it_releases_what_was_left():
    with Daemon(config(), scripts=SCRIPTS) as daemon:
        client = daemon.connect_ready()
        daemon.crash()
        daemon.orphans.add(client.id)
        hold(daemon)
        daemon.spawn()
        asked = daemon.wait_notified("EXTEND_TIMEOUT_USEC=")
        expect(number(asked, "EXTEND_TIMEOUT_USEC") > 5_000_000, asked)
        daemon.wait_notified("EXTEND_TIMEOUT_USEC=")
        gate = daemon.directory / f"gate.release.{client.id}"
        eventually(gate.exists, "the release is under way")
        let_go(daemon)
        gate.write_text("\n")
        daemon.wait_notified("READY=1")
        daemon.wait_record("recovered")
        daemon.drop_notifications()


def fill(daemon):
    """The manager's queue, so that it takes no more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                sender.sendto(b"X_FILL=1", str(daemon.directory / "notify"))


@scene(over=("both", "the second"))
def reload_is_told_in_order_to_a_slow_manager(lost):
    """Of RELOADING=1 and READY=1, its queue first takes neither, or the first only."""
    with Daemon(config("one"), scripts=SCRIPTS) as daemon:
        daemon.drop_notifications()
        fill(daemon)
        if lost == "the second":
            daemon.notify.recv(65536)
        daemon.configure(config("two"))
        daemon.kill(signal.SIGHUP)
        daemon.wait_record("reloaded")  # the reload itself waits for nobody
        expect_equal(daemon.connect().receive_line(), "two\n", "the greeting of a new connection")
        told = []
        while "READY=1" not in told:
            told.append(daemon.notify.recv(65536).decode().split("\n")[0])
        told = [message for message in told if message in ("RELOADING=1", "READY=1")]
        expect_equal(told, ["RELOADING=1", "READY=1"], "what it is told")


@scene()
def what_a_busy_manager_did_not_take_is_told_again():
    with Daemon(config(), scripts=SCRIPTS) as daemon:
        with daemon.failing("sendmsg", "EAGAIN") as trace:
            client = daemon.connect_ready()
            eventually(lambda: "STATUS=1 connections" in trace.read_text(), "it tells its status")
            daemon.drop_notifications()
        wait_status(daemon, r"STATUS=1 connections \(1 ready")
        hold(daemon)
        client.close()
        wait_at_gate(client, "release")
        with daemon.failing("sendmsg", "EAGAIN") as trace:
            daemon.kill(signal.SIGTERM)
            eventually(lambda: "STOPPING=1" in trace.read_text(), "it tells that it stops")
            daemon.drop_notifications()
        daemon.wait_notified("STOPPING=1")
        open_gate(client, "release")
        daemon.wait_exit(0)


if __name__ == "__main__":
    main()

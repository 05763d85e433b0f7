"""timeouts: silence, age, and networks that are cut, each with its own cause and in time."""

import contextlib
import ctypes
import os
import select
import socket
import subprocess
import time
from errno import EHOSTUNREACH

from harness import (MARK, SLOW, Daemon, die_with_parent, eventually, expect, main, need_program, need_root, scene)

TCP = ("tcp4", "tcp6")


def listener(keys, handler="echo", listen="<tcp4>, <tcp6>, <unix>"):
    return f"[listener:time]\nlisten = {listen}\nhandler = {handler}\nresources = mark\n{keys}\n{MARK}"


def expect_duration(record, at_least, at_most):
    seconds = int(record["TETHERD_DURATION_USEC"]) / 1e6
    expect(at_least <= seconds <= at_most * SLOW, f"it lasted {seconds:.2f} s, not {at_least} to {at_most} s")


# ---- our own clocks ----


@scene(over=("tcp4", "unix"))
def idle_timeout(kind):
    with Daemon(listener("idle_timeout = 700ms")) as daemon:
        client = daemon.connect_ready(kind)
        for _ in range(6):  # more than 700 ms in all: each byte counts anew
            client.echo()
            select.select([client.socket], [], [], 0.2)
        client.receive_rest()
        expect_duration(daemon.wait_ended(client, "idle-timeout", PRIORITY=5), 1.7, 5)


@scene()
def idle_timeout_with_nothing_sent():
    with Daemon(listener("idle_timeout = 500ms")) as daemon:
        client = daemon.connect_ready()
        expect_duration(daemon.wait_ended(client, "idle-timeout"), 0.5, 3)


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
        expect_duration(daemon.wait_ended(client, "max-age"), 1, 3)


# ---- two hosts ----


class Host:
    """A network namespace with one end of a cable."""

    def __init__(self):
        self.process = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], preexec_fn=die_with_parent)
        own = os.readlink("/proc/self/ns/net")
        path = f"/proc/{self.process.pid}/ns/net"
        eventually(lambda: os.readlink(path) != own and self.comm() == "sleep", "the namespace is there")
        self.enter = ["nsenter", "-t", str(self.process.pid), "-n", "--"]

    def comm(self):
        with open(f"/proc/{self.process.pid}/comm") as file:
            return file.read().strip()

    def do(self, command, text=None):
        done = subprocess.run([*self.enter, *command.split()], input=text, text=True, capture_output=True)
        expect(done.returncode == 0, f"{command}: {done.stderr}")
        return done.stdout

    @contextlib.contextmanager
    def inside(self):
        """Sockets made in this block are this host's."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/self/ns/net") as own, open(f"/proc/{self.process.pid}/ns/net") as other:
            expect(libc.setns(other.fileno(), 0) == 0, os.strerror(ctypes.get_errno()))
            try:
                yield
            finally:
                libc.setns(own.fileno(), 0)

    def cut(self, hook="input", verdict="drop"):
        """From now on, TCP is dropped where it arrives (or leaves), or refused with an ICMP message. ARP goes on."""
        self.do("nft -f -", f"""
            table inet cut {{
                chain cut {{
                    type filter hook {hook} priority 0; policy accept;
                    meta l4proto tcp {verdict}
                }}
            }}""")

    def mend(self):
        self.do("nft delete table inet cut")


class Network:
    """Two hosts and a cable; the daemon lives on the first."""

    def __init__(self):
        need_root()
        for name in ("unshare", "nsenter", "ip", "nft"):
            need_program(name)
        self.here, self.there = Host(), Host()
        subprocess.run(["ip", "link", "add", "cable", "netns", str(self.here.process.pid), "type", "veth", "peer",
                        "name", "cable", "netns", str(self.there.process.pid)], check=True)
        for number, host in ((1, self.here), (2, self.there)):
            host.do(f"ip address add 10.99.0.{number}/24 dev cable")
            host.do(f"ip address add fd99::{number}/64 dev cable nodad")
            host.do("ip link set cable up")
            host.do("ip link set lo up")
            host.do("sysctl -q net.ipv4.icmp_ratelimit=0")
        self.addresses = {"tcp4": (socket.AF_INET, ("10.99.0.1", 7400)), "tcp6": (socket.AF_INET6, ("fd99::1", 7400))}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for host in (self.here, self.there):
            host.process.kill()
            host.process.wait()

    def daemon(self, keys="detect_within = 6s"):
        daemon = Daemon(listener(keys, listen="10.99.0.1:7400, [fd99::1]:7400"), enter=self.here.enter)
        daemon.addresses.update(self.addresses)
        return daemon

    def connect(self, daemon, kind, **options):
        with self.there.inside():
            client = daemon.connect(kind, **options)
        daemon.wait_ready(client)
        return client


def send_unanswered(network, daemon, client, verdict):
    """The daemon has bytes to echo, and the network is cut before they go out."""
    with daemon.frozen():
        client.send(b"echo this")
        network.there.cut(verdict=verdict)


@scene(over=TCP)
def idle_peer_is_cut_off(kind):
    with Network() as network, network.daemon() as daemon:
        client = network.connect(daemon, kind)
        began = time.monotonic()
        network.there.cut()
        daemon.wait_ended(client, "keepalive-timeout", PRIORITY=5)
        expect(time.monotonic() - began <= 7 * SLOW, f"noticed after {time.monotonic() - began:.1f} s, not within 6 s")


@scene(over=TCP)
def idle_peer_loses_its_cable(kind):
    with Network() as network, network.daemon() as daemon:
        client = network.connect(daemon, kind)
        client.echo()
        network.there.do("ip link set cable down")
        daemon.wait_ended(client, "keepalive-timeout", PRIORITY=5)


@scene(over=TCP)
def peer_is_cut_off_with_data_under_way(kind):
    with Network() as network, network.daemon() as daemon:
        client = network.connect(daemon, kind)
        client.echo()
        began = time.monotonic()
        send_unanswered(network, daemon, client, "drop")
        record = daemon.wait_ended(client, "transmit-timeout", PRIORITY=5)
        expect(time.monotonic() - began <= 7 * SLOW, f"noticed after {time.monotonic() - began:.1f} s, not within 6 s")
        expect(int(record["TETHERD_RETRANSMITS"]) > 0, f"TETHERD_RETRANSMITS: {record}")


@scene(over=TCP)
def peer_is_unreachable_with_data_under_way(kind):
    with Network() as network, network.daemon() as daemon:
        client = network.connect(daemon, kind)
        client.echo()
        send_unanswered(network, daemon, client, "reject with icmpx type host-unreachable")
        daemon.wait_ended(client, "unreachable", error=EHOSTUNREACH, PRIORITY=5)


@scene(over=TCP)
def peer_forgot_the_connection(kind):
    # As after a reboot: the next keepalive probe is answered with RST.
    with Network() as network, network.daemon() as daemon:
        client = network.connect(daemon, kind)
        client.echo()
        network.there.cut("output")
        client.reset()
        network.there.mend()
        daemon.wait_ended(client, "reset")


@scene(over=TCP)
def short_cut_is_survived(kind):
    with Network() as network, network.daemon("detect_within = 20s") as daemon:
        client = network.connect(daemon, kind)
        client.echo()
        send_unanswered(network, daemon, client, "drop")
        select.select([], [], [], 2)
        network.there.mend()
        client.receive(len(b"echo this"))
        client.echo().close()
        daemon.wait_ended(client, "eof")


@scene(over=TCP)
def destroyed_on_this_host(kind):
    need_program("ss")
    with Network() as network, network.daemon() as daemon:
        client = network.connect(daemon, kind)
        client.echo()
        network.here.do(f"ss -K dport = {client.port}")
        daemon.wait_ended(client, "aborted", PRIORITY=5)


@scene(over=TCP)
def destroyed_on_the_peers_host(kind):
    need_program("ss")
    with Network() as network, network.daemon() as daemon:
        client = network.connect(daemon, kind)
        client.echo()
        network.there.do(f"ss -K sport = {client.port}")
        daemon.wait_ended(client, "reset")


@scene(over=TCP)
def peer_that_does_not_read_is_cut_off(kind):
    with Network() as network, network.daemon() as daemon:
        client = network.connect(daemon, kind, receive_buffer=8192)
        client.socket.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            for _ in range(100):
                client.send(b"x" * 65536)
        # Well before user_timeout (3 s) is over. What it reports is that the probes of the window went unanswered.
        network.there.cut()
        daemon.wait_ended(client, "transmit-timeout", timeout=20)


if __name__ == "__main__":
    main()

"""Four machines, each a network namespace: a client, the server where the daemon lives, a stranger, and the router
between them.

          client ──── router ──── server
                        │
                     stranger

Each speaks IPv4 and IPv6, and nothing is learnt: routes and neighbours are static, so that what a story does to a
link or to the router is all that happens. A machine is gone when its process is, with the story at the latest.
"""

import contextlib
import ctypes
import os
import re
import shutil
import socket
import subprocess
import time
from collections import namedtuple
from pathlib import Path

from harness.basics import SLOW, Failure, die_with_parent, eventually, expect, expect_equal
from harness.daemon import MARK, Daemon

KINDS = ("tcp4", "tcp6")
DETECT_WITHIN = 6  # seconds: the shortest that a configuration can ask for
USER_TIMEOUT = DETECT_WITHIN / 2  # so says interface.md
TOLERANCE = 2  # on top of what --explain promises
TICK = 0.05  # the kernel's timers count in jiffies

# The ways to die, as --explain words them.
FIN = "closes, half-closes or exits (FIN)"
KEPT_FIN = "half-closes (FIN)"
KEPT_CLOSE = "closes or exits (FIN, not to be told from it)"
RST = "resets, or is killed with our bytes unread"
IDLE = "vanishes while idle (power, cable, NAT)"
SENDING = "vanishes with our data under way"
LATE = "vanishes, and we send just before it is noticed"
UNREACHABLE = "is unreachable with our data under way (ICMP)"
REPLACED = "is replaced by a host that answers with RST"
UNREAD = "is alive but does not read what we send"
DESTROYED = "is destroyed on this host (ss -K)"
HANDSHAKE = "does not finish its handshake"

LINKS = {"client": 1, "server": 2, "stranger": 3}  # each in a network of its own
PORT = 7400


@contextlib.contextmanager
def inside_network(pid):
    """Sockets made in this block are of the network namespace of that process, and so is /proc/sys/net."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/self/ns/net") as own, open(f"/proc/{pid}/ns/net") as other:
        expect(libc.setns(other.fileno(), 0) == 0, os.strerror(ctypes.get_errno()))
        try:
            yield
        finally:
            libc.setns(own.fileno(), 0)


class Host:
    """A network namespace, held by a process."""

    def __init__(self):
        self.process = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], preexec_fn=die_with_parent,
                                        stderr=subprocess.PIPE)
        self.enter = ["nsenter", "-t", str(self.process.pid), "-n", "--"]
        eventually(self.is_there, "a network namespace is made")

    def is_there(self):
        if self.process.poll() is not None:
            raise Failure(f"no network namespace: {self.process.stderr.read().decode().strip()}")
        return Path(f"/proc/{self.process.pid}/comm").read_text() == "sleep\n"

    def do(self, command, text=None):
        done = subprocess.run([*self.enter, *command.split()], input=text, text=True, capture_output=True)
        expect(done.returncode == 0, f"{command}: {done.stderr}")
        return done.stdout

    def inside(self):
        return inside_network(self.process.pid)

    def set(self, **values):
        """Keys of /proc/sys/net, with __ for the slash."""
        with self.inside():
            for name, value in values.items():
                Path("/proc/sys/net", name.replace("__", "/")).write_text(str(value))

    def close(self):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()


class Network:
    """The four machines. Each host's cable is `cable`; the router's ends are called as the hosts are."""

    def __init__(self):
        for name in ("unshare", "nsenter", "ip", "nft", "ss"):
            expect(shutil.which(name), f"{name} is not installed")
        self.hosts = {}
        try:
            for name in ("router", *LINKS):
                self.hosts[name] = Host()
            for name, number in LINKS.items():
                self.lay_cable(name, number)
            self.router.set(ipv4__ip_forward=1, ipv4__icmp_ratelimit=0, ipv6__conf__all__forwarding=1,
                            ipv6__icmp__ratelimit=0)
        except BaseException:
            self.close()
            raise

    router = property(lambda self: self.hosts["router"])
    client = property(lambda self: self.hosts["client"])
    server = property(lambda self: self.hosts["server"])
    stranger = property(lambda self: self.hosts["stranger"])

    def lay_cable(self, name, number):
        host, router = self.hosts[name], self.router
        macs = f"02:99:00:00:0{number}:02", f"02:99:00:00:0{number}:01"
        ends = [["name", end, "netns", str(owner.process.pid), "address", mac]
                for end, owner, mac in (("cable", host, macs[0]), (name, router, macs[1]))]
        subprocess.run(["ip", "link", "add", *ends[0], "type", "veth", "peer", *ends[1]], check=True)
        host.do("ip -batch -", f"""
            link set lo up
            address add 10.99.{number}.2/24 dev cable
            address add fd99:{number}::2/64 dev cable nodad
            link set cable up
            neighbour replace 10.99.{number}.1 lladdr {macs[1]} dev cable nud permanent
            neighbour replace fd99:{number}::1 lladdr {macs[1]} dev cable nud permanent
            route add default via 10.99.{number}.1 dev cable
            route add default via fd99:{number}::1 dev cable
        """)
        router.do("ip -batch -", f"""
            address add 10.99.{number}.1/24 dev {name}
            address add fd99:{number}::1/64 dev {name} nodad
            link set {name} up
            neighbour replace 10.99.{number}.2 lladdr {macs[0]} dev {name} nud permanent
            neighbour replace fd99:{number}::2 lladdr {macs[0]} dev {name} nud permanent
        """)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        for host in self.hosts.values():
            host.close()

    # -- what happens to it --

    def filter(self, *rules):
        chain = "\n".join(rules)
        self.router.do("nft -f -", f"table inet cut {{\n chain cut {{\n type filter hook forward priority 0;\n"
                                   f"{chain}\n }}\n }}\n")

    def cut(self):
        """The router forwards nothing any more. Returns when that was."""
        self.filter("drop")
        return time.monotonic()

    def refuse(self, reason):
        """Nothing comes from the client any more, and what is for it is answered with this ICMP message."""
        self.filter('iifname "client" drop', f'oifname "client" reject with icmpx type {reason}')

    def heal(self):
        self.router.do("nft delete table inet cut")

    def replace_client(self):
        """The client's addresses are the stranger's, from now on."""
        self.stranger.do("ip -batch -", """
            address add 10.99.1.2/32 dev cable
            address add fd99:1::2/128 dev cable nodad
        """)
        self.router.do("ip -batch -", """
            route replace 10.99.1.2/32 via 10.99.3.2
            route replace fd99:1::2/128 via fd99:3::2
        """)

    # -- who lives on it --

    def daemon(self, keys=f"detect_within = {DETECT_WITHIN}s", handler="discard", **options):
        config = (f"[listener:network]\nlisten = 10.99.2.2:{PORT}, [fd99:2::2]:{PORT}\nhandler = {handler}\n"
                  f"resources = mark\n{keys}\n{MARK}")
        daemon = Daemon(config, enter=self.server.enter, **options)
        daemon.addresses.update(tcp4=(socket.AF_INET, ("10.99.2.2", PORT)),
                                tcp6=(socket.AF_INET6, ("fd99:2::2", PORT)))
        return daemon

    def connect(self, daemon, **options):
        """A client over IPv4 and one over IPv6."""
        with self.client.inside():
            return [daemon.connect(kind, **options) for kind in KINDS]

    def connect_ready(self, daemon, **options):
        clients = self.connect(daemon, **options)
        for client in clients:
            daemon.wait_ready(client)
        return clients


def say_something(clients):
    """A sign of life, acknowledged: what `discard` does not answer, and `echo` does, frozen or not. Returns when."""
    since = time.monotonic()
    for client in clients:
        client.send(b"here").wait_acknowledged()
    return since


# ---- limits ----

Limit = namedtuple("Limit", "seconds cause")


def explain(daemon):
    """{way for a peer to die: Limit}, as the binary itself tells of the daemon's only listener."""
    table = subprocess.run(daemon.command("--explain"), capture_output=True, check=True, text=True).stdout
    limits = {}
    for line in table.splitlines()[2:]:
        way, _, worst, cause = re.split(" {2,}", line.strip())
        units = {"ms": 0.001, "s": 1, "min": 60, "h": 3600}
        parts = re.findall(r"([\d.]+)(ms|s|min|h)", worst)
        expect(parts or worst in ("at once", "never"), f"--explain says {worst!r} of {way!r}")
        seconds = float("inf") if worst == "never" else sum(float(n) * units[unit] for n, unit in parts)
        limits[way] = Limit(seconds, cause)
    return limits


def ended_at(record):
    """When this connection's ending began, on time.monotonic()'s clock."""
    return (int(record["__MONOTONIC_TIMESTAMP"]) - int(record["TETHERD_RELEASE_USEC"])) / 1e6


def expect_ended(daemon, client, cause, since, not_before, at_most, **fields):
    """This client ended so, with its one load and one release, `not_before` to `at_most` seconds after `since`."""
    record = daemon.wait_ended(client, cause, timeout=at_most + 10, **fields)
    seconds, at_most = ended_at(record) - since, at_most + TOLERANCE * SLOW
    expect(not_before - TICK <= seconds <= at_most,
           f"{client.kind}: noticed after {seconds:.2f} s, not {not_before:g} to {at_most:g} s")
    wanted = [] if record["TETHERD_EVENT"] == "rejected" else ["load", "release"]
    expect_equal([phase for phase, _, owner in daemon.effects() if owner == client.id], wanted, "loads and releases")
    return record


def expect_told(daemon, client, cause, way, since, not_before=0, **fields):
    """Likewise, with the cause and at the latest at the time that --explain gives for this way to die."""
    limit = explain(daemon)[way]
    expect_equal(limit.cause, cause, f"--explain's cause for {way!r}")
    return expect_ended(daemon, client, cause, since, not_before, limit.seconds, **fields)

"""restart: what a restart costs, and what outliving a crash costs: in a machine that systemd booted, see tests/service.

`make bench-restart` prints two tables; README.md here says how to read them. Nothing is asserted but that nobody was
ended and that every life was really lived.
"""

import contextlib
import resource
import shlex
import socket
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "service"))
from harness import eventually, expect, expect_equal  # noqa: E402
from harness.network import inside_network  # noqa: E402
from machine import BUILD, Service, machine, main, scene  # noqa: E402

PORT = 7400
N_RESTARTS = 9
N_LIVE = (0, 1000, 10000)
CONFIG = """
log_events = none
[listener:presence]
listen = {listen}
handler = echo
{keys}
[resource:workdir]
type = directory
path = /run/tetherd/connections/%i
"""
OFTEN = """
[Unit]
StartLimitBurst=1000
"""
COUNT_STORED = """
[Service]
ExecStartPre=/bin/sh -c 'systemctl show --property=NFileDescriptorStore --value tetherd >/var/lib/tetherd/stored || :'
"""


def shown(samples, unit=1000):
    return f"{unit * statistics.median(samples):.1f} ({unit * min(samples):.1f} to {unit * max(samples):.1f})"


def tell(lines):
    """A table, whose first line is its head."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines = [lines[0], ["-" * width for width in widths], *lines[1:]]
    for line in lines:
        print("   | " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |", flush=True)


# ---- restarts ----

class NewClients(threading.Thread):
    """One new client after the other; each tries every millisecond until it has an echo."""

    def __init__(self):
        super().__init__(daemon=True)
        self.is_over = threading.Event()
        self.waited = []  # seconds, each

    def is_served(self):
        with socket.socket() as client, contextlib.suppress(OSError):
            client.settimeout(30)
            client.connect(("127.0.0.1", PORT))
            client.send(b"?")
            return client.recv(1) == b"?"
        return False

    def run(self):
        with inside_network(machine().pid):
            while not self.is_over.is_set():
                began = time.monotonic()
                while not self.is_served():
                    time.sleep(0.001)
                self.waited.append(time.monotonic() - began)

    def __enter__(self):
        self.start()
        eventually(lambda: self.waited, "a new client is served")
        return self

    def __exit__(self, *_):
        self.is_over.set()
        self.join()

    def longest(self, act):
        """The one that waited for the longest while `act` was done."""
        n_before = len(self.waited)
        act()
        n_after = len(self.waited)
        eventually(lambda: len(self.waited) > n_after, "who came meanwhile is served")
        return max(self.waited[n_before:])


class Restarted(Service):
    def __init__(self, is_activated, keys=""):
        self.is_activated = is_activated
        super().__init__(CONFIG.format(listen="systemd:presence" if is_activated else f"127.0.0.1:{PORT}", keys=keys))

    def __enter__(self):
        super().__enter__()
        self.drop_in(OFTEN)
        if self.is_activated:
            self.machine.run("systemctl start tetherd.socket")
        return self.start()

    def __exit__(self, *what):
        self.forget_clients()
        self.machine.run("systemctl stop tetherd.socket")
        super().__exit__(*what)

    def moments(self):
        """When the unit's state last changed, in seconds."""
        names = ("ActiveExit", "InactiveEnter", "InactiveExit", "ActiveEnter")
        said = machine().run("systemctl show tetherd " + " ".join(f"-p {name}TimestampMonotonic" for name in names))
        values = dict(line.split("=") for line in said.splitlines())
        return [int(values[f"{name}TimestampMonotonic"]) / 1e6 for name in names]


def measure_restarts(is_activated, n_live, keys=""):
    with Restarted(is_activated, keys) as tetherd:
        clients = []
        for _ in range(n_live):
            clients.append(tetherd.connect(PORT).send(b"?"))
        for client in clients:
            client.receive(1)
        gaps, leaving, coming = [], [], []
        with NewClients() as new_clients:
            for _ in range(N_RESTARTS):
                gaps.append(new_clients.longest(lambda: machine().run("systemctl restart tetherd")))
                active_exit, inactive_enter, inactive_exit, active_enter = tetherd.moments()
                leaving.append(inactive_enter - active_exit)
                coming.append(active_enter - inactive_exit)
        tetherd.drop_in(COUNT_STORED, "stored.conf")
        machine().run("systemctl restart tetherd")
        for client in clients:
            client.echo()
        stored = machine().read("/var/lib/tetherd/stored").strip()
    return [f"{n_live}{', each with a directory' if keys else ''}", "systemd" if is_activated else "tetherd", shown(gaps),
            shown(leaving), shown(coming), stored]


@scene()
def restarts():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    lines = [["connections", "port is held by", "a new client waits, ms", "until it has left, ms", "until it is ready, ms",
              "descriptors stored"]]
    for n_live in N_LIVE:
        for is_activated in (False, True):
            lines.append(measure_restarts(is_activated, n_live))
    lines.append(measure_restarts(False, 1000, "resources = workdir"))
    tell(lines)


# ---- outliving a crash ----

N_ROUNDS, N_LIVES, N_HELD = 5, 10000, 5000
PORTS = {"no": 7401, "always": 7402}


class Instance(Service):
    def __init__(self, mode):
        config = f"preserve = {mode}\nlog_events = none\n[listener:a]\nlisten = 127.0.0.1:{PORTS[mode]}\n"
        super().__init__(config, f"tetherd@{mode}.service", f"/etc/tetherd/{mode}.conf")


def cpu_usec(pid):
    """Exact while the process sleeps."""
    return int(machine().read(f"/proc/{pid}/schedstat").split()[0]) / 1000


def come_to_rest(pids):
    def is_quiet():
        before = [cpu_usec(pid) for pid in pids]
        time.sleep(0.1)
        return [cpu_usec(pid) for pid in pids] == before
    eventually(is_quiet, "tetherd and PID 1 come to rest", 30)


def start_load(*options):
    words = ["nsenter", "-t", str(machine().pid), "-n", "--", BUILD / "tests/bench/load", *map(str, options)]
    return subprocess.Popen(list(map(str, words)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def end_load(load):
    load.communicate()
    expect_equal(load.returncode, 0, f"exit status of {shlex.join(load.args)}")


def usec_each(pid, n, act, end=lambda: None):
    """CPU of tetherd and of PID 1 for each of the `n` connections of act()."""
    come_to_rest((pid, 1))
    before = cpu_usec(pid), cpu_usec(1)
    act()
    come_to_rest((pid, 1))
    after = cpu_usec(pid), cpu_usec(1)
    end()
    return [(b - a) / n for a, b in zip(before, after)]


def come_and_go(mode):
    end_load(start_load("-n", N_LIVES, "-e", "fin", PORTS[mode]))


def measure_lives(mode, pid):
    return usec_each(pid, N_LIVES, lambda: come_and_go(mode))


def measure_held(mode, pid):
    loads = []
    def come():
        loads.append(start_load("-n", N_HELD, "-e", "hold", "-r", 5000, PORTS[mode]))
        expect_equal(loads[0].stdout.readline(), "open\n", "what the load says")
    try:
        return usec_each(pid, N_HELD, come, lambda: end_load(loads[0]))
    finally:
        for load in loads:
            load.kill()
            load.wait()


@scene()
def preserve_always():
    expect((BUILD / "tests/bench/load").exists(), "tests/bench/load is not built")
    with contextlib.ExitStack() as stack:
        pids = {mode: stack.enter_context(Instance(mode)).start().pid for mode in PORTS}
        lines = [["CPU for each connection, µs", "preserve = no", "preserve = always", "of PID 1, with no",
                  "of PID 1, with always"]]
        for what, measure in ((f"{N_LIVES} that come and go", measure_lives), (f"{N_HELD} that come and stay", measure_held)):
            samples = {mode: [] for mode in PORTS}
            for mode in PORTS:
                come_and_go(mode)  # a warm-up
            for i in range(N_ROUNDS):
                for mode in sorted(PORTS, reverse=i % 2):
                    samples[mode].append(measure(mode, pids[mode]))
            cells = [shown([sample[whose] for sample in samples[mode]], 1) for whose in (0, 1) for mode in ("no", "always")]
            lines.append([what, *cells])
        tell(lines)


if __name__ == "__main__":
    main()

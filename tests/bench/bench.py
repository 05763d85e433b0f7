"""bench: what tetherd costs beside a bare epoll loop, in one run; README.md here says how to read the table.

    bench.py [--rounds N] BUILD_DIRECTORY [TETHERD]

Without TETHERD only the floor is measured, twice. Nothing is asserted but that every life was really lived: a
client that failed, or a server that keeps a descriptor, makes the run void (exit 1).
"""

import argparse
import contextlib
import datetime
import os
import platform
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "system"))
from harness.basics import Failure, die_with_parent, eventually  # noqa: E402
from harness.daemon import free_port  # noqa: E402

CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPU, LOAD_CPU = CPUS[0], CPUS[-1]
SOFT_LIMIT, HARD_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)

WARM_UP = 2000
KINDS = [  # name, lives in a round, options of load
    ("flat out, FIN", 15000, ["-e", "fin"]),
    ("flat out, RST", 15000, ["-e", "reset"]),
    ("4,000 a second, FIN", 3000, ["-e", "fin", "-r", "4000"]),
    ("4,000 a second, RST", 3000, ["-e", "reset", "-r", "4000"]),
]
N_HELD = min(15000, HARD_LIMIT - 200)
HOLD_RATE = 10000  # below what makes an accept queue overflow
IDLE_SEC = 3
N_TRACED = 2000

CONFIG = """\
[daemon]
runtime_directory = {directory}/run
state_directory = {directory}/state
log_target = stderr
log_level = err
log_events = none
[listener:bench]
listen = 127.0.0.1:{port}
handler = discard
"""


def placed_on(cpu):
    def place():
        die_with_parent()
        os.sched_setaffinity(0, {cpu})
        resource.setrlimit(resource.RLIMIT_NOFILE, (HARD_LIMIT, HARD_LIMIT))
    return place


class Server:
    """One server under test, from start to `with`'s end, on a port of its own."""

    placed = staticmethod(lambda: placed_on(SERVER_CPU))

    def __init__(self, name, command_for_port):
        self.name = name
        self.port = free_port()
        self.command = command_for_port(self.port)

    def __enter__(self):
        self.process = subprocess.Popen(self.command, preexec_fn=self.placed())
        try:
            eventually(self.is_listening, f"{self.name} listens on port {self.port}")
            self.n_idle_descriptors = self.n_descriptors()
            self.settle()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_error):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def is_listening(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.name} exited with {self.process.returncode}")
        return re.search(rf" 0100007F:{self.port:04X} 00000000:0000 0A ", Path("/proc/net/tcp").read_text())

    def proc(self, name):
        return Path(f"/proc/{self.process.pid}/{name}").read_text()

    def n_descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu_usec(self):
        """Exact to the nanosecond while the process sleeps, where /proc/PID/stat counts ticks of 10 ms."""
        return int(self.proc("schedstat").split()[0]) / 1000

    def memory(self):
        """Bytes by kind."""
        return {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+): +(\d+) kB", self.proc("smaps_rollup"), re.M)}

    def n_switches(self):
        return sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", self.proc("status"))))

    def settle(self, n_connections=0):
        """Waits until the server holds so many connections and has nothing left to do."""
        wanted = self.n_idle_descriptors + n_connections
        eventually(lambda: self.n_descriptors() == wanted,
                   lambda: f"{self.name} holds {wanted} descriptors, not {self.n_descriptors()}", 20)
        eventually(self.is_quiet, f"{self.name} comes to rest", 20)

    def is_quiet(self):
        before = self.cpu_usec()
        time.sleep(0.02)
        return self.cpu_usec() == before


def start_load(server, build, n_lives, options):
    command = [build / "load", "-n", str(n_lives), *options, str(server.port)]
    return subprocess.Popen(command, preexec_fn=placed_on(LOAD_CPU), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                            text=True)


def end_load(server, load):
    load.communicate()
    if load.returncode != 0:
        raise Failure(f"the load on {server.name} failed")
    server.settle()


# ---- what is measured; each returns rows of the table: [label, cell by server name] ----


def measure_cpu(servers, build, n_rounds):
    def usec_per_life(server, n_lives, options):
        before = server.cpu_usec()
        end_load(server, start_load(server, build, n_lives, options))
        return (server.cpu_usec() - before) / n_lives

    def cell(server, samples):
        text = f"{statistics.median(samples[server.name]):.2f} ({min(samples[server.name]):.2f} to " \
               f"{max(samples[server.name]):.2f})"
        if server is not servers[0]:
            ratios = [a / b for a, b in zip(samples[server.name], samples[servers[0].name])]
            text += f", ratio {statistics.median(ratios):.2f}"
        return text

    for server in servers:
        usec_per_life(server, WARM_UP, [])
    for kind, n_lives, options in KINDS:
        samples = {server.name: [] for server in servers}
        for i in range(n_rounds):
            turn = i % len(servers)
            for server in servers[turn:] + servers[:turn]:
                samples[server.name].append(usec_per_life(server, n_lives, options))
        yield f"CPU per life, µs: {kind}", {server.name: cell(server, samples) for server in servers}


def measure_idle(server, build):
    idle = server.memory()
    load = start_load(server, build, N_HELD, ["-e", "hold", "-r", str(HOLD_RATE)])
    try:
        if load.stdout.readline() != "open\n":
            raise Failure(f"{server.name}: {N_HELD} connections could not be opened")
        server.settle(N_HELD)
        full = server.memory()
        n_switches, cpu_usec = server.n_switches(), server.cpu_usec()
        time.sleep(IDLE_SEC)
        n_switches, cpu_usec = server.n_switches() - n_switches, server.cpu_usec() - cpu_usec
        end_load(server, load)
        after = server.memory()
    finally:
        load.kill()
        load.wait()

    def grown(memory, name):
        return f"{(memory[name] - idle[name]) / N_HELD:.1f}"

    for name in ("Private_Dirty", "Pss", "Rss"):
        yield f"memory per connection, B: {name}, {N_HELD:,} open", {server.name: grown(full, name)}
    yield "the same, Private_Dirty, after they closed", {server.name: grown(after, name="Private_Dirty")}
    yield f"wakeups in {IDLE_SEC} s, {N_HELD:,} open", {server.name: str(n_switches)}
    yield f"CPU in {IDLE_SEC} s, µs, {N_HELD:,} open", {server.name: f"{cpu_usec:.0f}"}


class NotTraced(Exception):
    """System calls cannot be counted here; the text says why."""


def measure_calls(server, build, directory):
    if not shutil.which("strace"):
        raise NotTraced("strace is not installed")
    summary = Path(directory) / "strace"
    with subprocess.Popen(["strace", "-c", "-f", "-q", "-o", summary, "-p", str(server.process.pid)],
                          preexec_fn=die_with_parent) as strace:
        def is_attached():
            if strace.poll() is not None:
                raise NotTraced("strace may not trace")
            return "TracerPid:\t0\n" not in server.proc("status")
        try:
            eventually(is_attached, "strace attaches")
            end_load(server, start_load(server, build, N_TRACED, []))
        finally:
            strace.send_signal(signal.SIGINT)
    calls = Counter()
    for line in summary.read_text().splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[3].isdigit():
            calls[fields[-1]] = int(fields[3]) / N_TRACED
    yield "system calls per life", {server.name: f"{calls.pop('total'):.2f}"}
    for name, n_calls in calls.most_common():
        if n_calls >= 0.005:
            yield f"of these {name}", {server.name: f"{n_calls:.2f}"}


def measure_callback(build):
    output = subprocess.run([build / "callback"], check=True, text=True, stdout=subprocess.PIPE,
                            preexec_fn=placed_on(SERVER_CPU)).stdout
    return dict(line.split() for line in output.splitlines())


# ---- the table ----


class Table:
    """Lines in the order in which they were first seen, one column a server."""

    def __init__(self):
        self.lines = {}

    def add(self, rows):
        for label, cells in rows:
            self.lines.setdefault(label, {}).update(cells)

    def show(self):
        names = list(dict.fromkeys(name for cells in self.lines.values() for name in cells))
        grid = [["", *names]] + [[label, *(cells.get(name, "") for name in names)]
                                 for label, cells in self.lines.items()]
        widths = [max(map(len, column)) for column in zip(*grid)]
        grid.insert(1, ["-" * width for width in widths])
        for line in grid:
            print("|", " | ".join(cell.ljust(width) for cell, width in zip(line, widths)), "|")


def describe_machine(n_rounds, how=f"server on CPU {SERVER_CPU}, load on CPU {LOAD_CPU}", peer="the floor"):
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    print(f"{datetime.date.today()}, {model[1] if model else platform.machine()}, {os.cpu_count()} CPUs, "
          f"Linux {platform.release()}; {how}; medians (least to most) of {n_rounds} interleaved rounds, ratios to "
          f"{peer} in the same round")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("build", type=Path, help="holds floor and load")
    parser.add_argument("tetherd", nargs="?", type=Path)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    def floor(port):
        return [arguments.build / "floor", str(port)]

    with contextlib.ExitStack() as stack:
        directory = tempfile.mkdtemp(prefix="tetherd-bench-")
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        for name in ("run", "state"):
            os.mkdir(f"{directory}/{name}", mode=0o700)

        def tetherd(port):
            path = Path(directory) / "tetherd.conf"
            path.write_text(CONFIG.format(directory=directory, port=port))
            return [arguments.tetherd, "-c", path]

        peers = {"floor": floor}
        if arguments.tetherd:
            peers["tetherd"] = tetherd
        table, untraced = Table(), set()
        with contextlib.ExitStack() as running:
            servers = [running.enter_context(Server(name, command))
                       for name, command in {"floor": floor, "floor again": floor, **peers}.items()]
            table.add(measure_cpu(servers, arguments.build, arguments.rounds))
        for name, command in peers.items():
            with Server(name, command) as server:
                table.add(measure_idle(server, arguments.build))
        for name, command in peers.items():
            with Server(name, command) as server:
                try:
                    table.add(measure_calls(server, arguments.build, directory))
                except NotTraced as reason:
                    untraced.add(str(reason))
        describe_machine(arguments.rounds)
        table.show()
        if arguments.tetherd:
            nsec = measure_callback(arguments.build)
            print(f"A plugin's callback: {nsec['callback']} ns; a bare call: {nsec['bare']} ns; a call from a plugin "
                  f"(tetherd_data): {nsec['call']} ns.")
        for reason in untraced:
            print(f"System calls were not counted: {reason}.")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"bench: {failure}")

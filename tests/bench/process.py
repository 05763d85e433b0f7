"""process: children a second of a process with socket = stdio, beside the servers that people use for it today, in one
run; README.md here says how to read the table.

    process.py [--rounds N] [--lives N] BUILD_DIRECTORY TETHERD

Nothing is asserted but that every life was really lived, as in bench.py.
"""

import argparse
import contextlib
import os
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import HARD_LIMIT, N_HELD, Failure, Server, Table, describe_machine, die_with_parent, free_port

WINDOW = 64  # lives under way at once

TETHERD = """\
[daemon]
runtime_directory = {directory}/run
state_directory = {directory}/state
log_target = stderr
log_level = err
log_events = none
[listener:bench]
listen = 127.0.0.1:{port}
resources = program
max_connections = 1000
[listener:idle]
listen = 127.0.0.1:{idle_port}
[resource:program]
type = process
command = {child}
socket = stdio
"""
XINETD = """\
defaults
{{
    instances = UNLIMITED
    per_source = UNLIMITED
    cps = 1000000 1
}}
service bench
{{
    type = UNLISTED
    socket_type = stream
    protocol = tcp
    flags = IPv4
    wait = no
    user = root
    bind = 127.0.0.1
    port = {port}
    server = {child}
}}
"""


def anywhere():
    """The same of all: every CPU, as many descriptors as there may be."""
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_NOFILE, (HARD_LIMIT, HARD_LIMIT))


class Contestant(Server):
    placed = staticmethod(lambda: anywhere)

    def children_cpu_usec(self):
        """Of children that are gone, what they did before they ran their program included."""
        fields = self.proc("stat").rsplit(")", 1)[1].split()
        return sum(map(int, fields[13:15])) * 1_000_000 / os.sysconf("SC_CLK_TCK")


def load(build, port, *options):
    return subprocess.Popen([build / "load", *options, str(port)], preexec_fn=anywhere, stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)


def children_per_second(server, build, n_lives):
    began = time.monotonic()
    clients = load(build, server.port, "-n", str(n_lives), "-w", str(WINDOW), "-e", "fin")
    clients.communicate()
    if clients.returncode != 0:
        raise Failure(f"the load on {server.name} failed")
    return n_lives / (time.monotonic() - began)


def measure(servers, build, n_rounds, n_lives):
    rates, cpu = ({server.name: [] for server in servers} for _ in range(2))
    for server in servers:
        children_per_second(server, build, WINDOW)
    for i in range(n_rounds):
        turn = i % len(servers)
        for server in servers[turn:] + servers[:turn]:
            before = server.cpu_usec()
            rates[server.name].append(children_per_second(server, build, n_lives))
            cpu[server.name].append((server.cpu_usec() - before) / n_lives)
    yield "children a second", {name: f"{statistics.median(some):.0f} ({min(some):.0f} to {max(some):.0f})"
                                for name, some in rates.items()}
    yield "CPU of the server itself per child, µs", {name: f"{statistics.median(some):.0f}"
                                                     for name, some in cpu.items()}
    for peer in servers:
        if not peer.name.startswith("tetherd"):
            yield f"children a second, ratio to {peer.name}", {
                server.name: f"{statistics.median(a / b for a, b in zip(rates[server.name], rates[peer.name])):.2f}"
                for server in servers if server.name.startswith("tetherd")}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--lives", type=int, default=1500)
    parser.add_argument("build", type=Path, help="holds load and child")
    parser.add_argument("tetherd", type=Path)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))

    with contextlib.ExitStack() as stack:
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # as /run, where the ledger is by default
        directory, child = Path(tempfile.mkdtemp(prefix="tetherd-bench-", dir=memory)), arguments.build.resolve() / "child"
        stack.callback(shutil.rmtree, directory, ignore_errors=True)

        def configured(name, text, **names):
            own = directory / name
            own.mkdir()
            for folder in ("run", "state"):
                (own / folder).mkdir(mode=0o700)
            (own / "conf").write_text(text.format(directory=own, child=child, **names))
            return own / "conf"

        def tetherd(name, idle_port):
            return lambda port: [arguments.tetherd, "-c", configured(name, TETHERD, port=port, idle_port=idle_port)]

        idle_port, peers, missing = free_port(), {}, []
        peers["tetherd"] = tetherd("tetherd", free_port())
        full = f"tetherd, {N_HELD:,} idle"
        peers[full] = tetherd("full", idle_port)
        if shutil.which("tcpserver"):
            peers["tcpserver"] = lambda port: ["tcpserver", "-q", "-H", "-R", "-l", "0", "-c", "1000", "127.0.0.1",
                                               str(port), str(child)]
        if shutil.which("xinetd"):
            peers["xinetd"] = lambda port: ["xinetd", "-dontfork", "-f", configured("xinetd", XINETD, port=port)]
        missing = [name for name in ("tcpserver", "xinetd") if name not in peers]
        servers = [stack.enter_context(Contestant(name, command)) for name, command in peers.items()]
        held = load(arguments.build, idle_port, "-n", str(N_HELD), "-e", "hold", "-r", "10000")
        stack.callback(held.communicate)
        if held.stdout.readline() != "open\n":
            raise Failure(f"{N_HELD} connections could not be opened")
        table = Table()
        table.add(measure(servers, arguments.build, arguments.rounds, arguments.lives))
        describe_machine(arguments.rounds, f"{arguments.lives} lives a round, {WINDOW} at a time, on every CPU", "each")
        table.show()
        for name in missing:
            print(f"{name} is not installed.")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"bench: {failure}")

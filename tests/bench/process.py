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
import time
from pathlib import Path

from bench import N_HELD
from server import HARD_LIMIT, Failure, Server, describe_machine, die_with_parent, free_port, say, show_table

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
    placed = staticmethod(anywhere)

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

    child = arguments.build.resolve() / "child"
    idle_port = free_port()

    def tetherd(port_of_idle):
        def command(directory, port):
            config = directory / "tetherd.conf"
            config.write_text(TETHERD.format(directory=directory, child=child, port=port, idle_port=port_of_idle))
            return [arguments.tetherd, "-c", config]
        return command

    def xinetd(directory, port):
        config = directory / "xinetd.conf"
        config.write_text(XINETD.format(child=child, port=port))
        return ["xinetd", "-dontfork", "-f", config]

    peers = {"tetherd": tetherd(free_port()), f"tetherd, {N_HELD:,} idle": tetherd(idle_port)}
    if shutil.which("tcpserver"):
        peers["tcpserver"] = lambda _directory, port: ["tcpserver", "-q", "-H", "-R", "-l", "0", "-c", "1000", "127.0.0.1",
                                                       port, child]
    if shutil.which("xinetd"):
        peers["xinetd"] = xinetd
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Contestant(name, command)) for name, command in peers.items()]
        held = load(arguments.build, idle_port, "-n", str(N_HELD), "-e", "hold", "-r", "10000")
        stack.callback(held.communicate)
        if held.stdout.readline() != "open\n":
            raise Failure(f"{N_HELD} connections could not be opened")
        rows = dict(measure(servers, arguments.build, arguments.rounds, arguments.lives))
    say(f"{describe_machine('every CPU for all')}; {arguments.rounds} rounds of {arguments.lives} lives, {WINDOW} at a time")
    show_table("Children", ["", *peers], [[label, *(cells.get(name, "") for name in peers)] for label, cells in rows.items()])
    for name in ("tcpserver", "xinetd"):
        if name not in peers:
            say(f"{name} is not installed.")


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"bench: {failure}")

"""bench: what tetherd costs beside a bare epoll loop and its peers, in one run; README.md says how to read it.

    bench.py [--rounds N] [--only PART]… BUILD_DIRECTORY TETHERD

Nothing is asserted but that every life was really lived: a client that failed, or a server that keeps a descriptor,
makes the run void (exit 1).
"""

import argparse
import contextlib
import os
import re
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from server import (HARD_LIMIT, SAID, SERVER_CPU, Load, Server, describe_machine, free_port, held, peers, place_journald, placed_on, private_journald,
                    program, say, show_table, tetherd, usec_per_life)
from harness.basics import Failure, Skip, die_with_parent, eventually

WARM_UP = 2000
KINDS = [  # name, lives in a round, options of load, as many rounds for one
    ("flat out, FIN", 10000, ["-e", "fin"], 1),
    ("flat out, RST", 10000, ["-e", "reset"], 1),
    ("4,000/s, FIN", 500, ["-e", "fin", "-r", "4000"], 6),  # what disturbs a sleeping server lasts for seconds
    ("4,000/s, RST", 500, ["-e", "reset", "-r", "4000"], 6),
]
N_HELD = min(18000, HARD_LIMIT - 300)
N_FEW = 1000
IDLE_SEC = 30
N_TRACED = 2000
EVERY_TIMEOUT = "handshake_timeout = 1h\nidle_timeout = 1h\nmax_age = 1d\n"
WITH_RECORDS = "log_target = journal\nlog_level = info\nlog_events = all"


def median(samples):
    return statistics.median(samples)


def quarter(samples, which):
    return statistics.quantiles(samples, n=4)[which - 1]


def ratio(samples, floor):
    """Of each round's pair, so that a drift of the machine's speed falls out."""
    return median(a / b for a, b in zip(samples, floor))


def rotated(items, i):
    turn = i % len(items)
    return items[turn:] + items[:turn]


def measure_lives(build, servers, n_rounds, n_lives, options, n_more=0):
    """Samples by server name."""
    samples = {server.name: [] for server in servers}
    for i in range(n_rounds):
        for server in rotated(servers, i):
            samples[server.name].append(usec_per_life(build, server, n_lives, options, n_more))
    return samples


def started(stack, servers):
    servers = [stack.enter_context(server) for server in servers]
    return servers


def bench_lives(build, binary, n_rounds):
    found, missing = peers(build)
    floor = program(build / "floor")
    commands = {"floor": floor, "floor again": floor, "floor, asks first": program(build / "floor", "asks"),
                "tetherd": tetherd(binary), **found}
    rows = [[name] for name in commands]
    with contextlib.ExitStack() as stack:
        servers = started(stack, [Server(name, command) for name, command in commands.items()])
        for server in servers:
            usec_per_life(build, server, WARM_UP, [])
        for _, n_lives, options, n_times in KINDS:
            samples = measure_lives(build, servers, n_times * n_rounds, n_lives, options)
            for row in rows:
                mine = samples[row[0]]
                row.append(f"{median(mine):.1f} ({quarter(mine, 1):.1f} to {quarter(mine, 3):.1f}), "
                           f"{ratio(mine, samples['floor']):.2f}")
    show_table("CPU of the server per life, µs: median (quartiles) of interleaved rounds, and the median ratio to the "
               "floor in the same round", ["", *(f"{name}, {n_times * n_rounds} rounds of {n_lives:,}"
                                                for name, n_lives, _, n_times in KINDS)], rows)
    if missing:
        say(f"\nNot here: {', '.join(missing)} (`sh tests/install-packages bench` has them).")


def bench_idle(build, binary, _n_rounds):
    rows = []
    for name, command in {"floor": program(build / "floor"),
                          "tetherd, every timeout set": tetherd(binary, listener=EVERY_TIMEOUT)}.items():
        with Server(name, command) as server:
            idle = server.memory()
            with held(build, server, N_HELD) as load:
                load.wait_open()
                full = server.memory()
                n_switches, cpu_usec = server.n_switches(), server.cpu_usec()
                time.sleep(IDLE_SEC)
                n_switches, cpu_usec = server.n_switches() - n_switches, server.cpu_usec() - cpu_usec
                load.end()
            after = server.memory()
        taken = full["Private_Dirty"] - idle["Private_Dirty"]
        left = after["Private_Dirty"] - idle["Private_Dirty"]
        rows.append([name, f"{taken / N_HELD:.1f}", f"{(full['Rss'] - idle['Rss']) / N_HELD:.1f}",
                     f"{100 * left / taken:.1f} %" if taken else "-", n_switches, f"{cpu_usec:.0f}"])
    show_table(f"{N_HELD:,} idle connections",
               ["", "B per connection, Private_Dirty", "Rss", "of it left after all closed", f"wakeups in {IDLE_SEC} s",
                f"CPU in {IDLE_SEC} s, µs"], rows)


def bench_calls(build, binary, _n_rounds):
    counts = {}
    for name, command in {"floor": program(build / "floor"), "tetherd": tetherd(binary)}.items():
        with Server(name, command) as server:
            counts[name] = count_calls(server, build)
    names = list(dict.fromkeys(call for calls in counts.values() for call in calls))
    show_table(f"System calls per life, of {N_TRACED:,} flat out, FIN", ["", *names],
               [[name, *(f"{calls.get(call, 0):.2f}" for call in names)] for name, calls in counts.items()])


def count_calls(server, build):
    if not shutil.which("strace"):
        raise Skip("strace is not installed")
    summary = server.directory / "strace"
    with subprocess.Popen(["strace", "-c", "-f", "-q", "-o", summary, "-p", str(server.process.pid)],
                          preexec_fn=die_with_parent) as strace:
        def is_attached():
            if strace.poll() is not None:
                raise Skip("strace may not trace")
            return "TracerPid:\t0\n" not in server.proc("status")
        try:
            eventually(is_attached, "strace attaches")
            with Load(build, server, N_TRACED) as load:
                load.end()
        finally:
            strace.send_signal(signal.SIGINT)
    calls = Counter()
    for line in summary.read_text().splitlines():
        fields = line.split()
        if len(fields) >= 5 and fields[3].isdigit():
            calls[fields[-1]] = int(fields[3]) / N_TRACED
    return {name: n for name, n in calls.most_common() if n >= 0.005}


def bench_records(build, binary, n_rounds):
    rows = []
    with private_journald() as journald, contextlib.ExitStack() as stack:
        servers = started(stack, [
            Server("floor, no records", program(build / "journal", "none"), journald.enter),
            Server("floor, sd_journal_send", program(build / "journal"), journald.enter),
            Server("tetherd, no records", tetherd(binary), journald.enter),
            Server("tetherd, records", tetherd(binary, daemon=WITH_RECORDS), journald.enter)])
        for server in servers:
            usec_per_life(build, server, WARM_UP, ["-r", "2000"])
        for rate in ("2000", "4000"):
            samples = measure_lives(build, servers, 8 * n_rounds, 400, ["-r", rate])
            none, sent, own_none, own = (samples[server.name] for server in servers)
            theirs = [a - b for a, b in zip(sent, none)]
            ours = [a - b for a, b in zip(own, own_none)]
            rows.append([f"{int(rate):,}/s, FIN", *(f"{median(samples[server.name]):.1f}" for server in servers),
                         f"{median(theirs):.1f}", f"{median(ours):.1f}", f"{median(ours) / median(theirs):.2f}"])
    show_table(f"CPU of the server per life, µs, with two records to a real journald; {8 * n_rounds} rounds of 400", [
        "", *(server.name for server in servers), "sd_journal_send adds", "tetherd adds", "ratio"], rows)


def bench_latency(build, binary, n_rounds):
    samples = {}
    with contextlib.ExitStack() as stack:
        servers = started(stack, [Server("floor", program(build / "floor")),
                                  Server("floor again", program(build / "floor")),
                                  Server("tetherd", tetherd(binary, listener=EVERY_TIMEOUT))])
        loads = []
        for server in servers:
            loads.append(stack.enter_context(held(build, server, N_HELD)))
            loads[-1].wait_open()
            samples[server.name] = []
        for i in range(3 * n_rounds):
            for server in rotated(servers, i):
                with Load(build, server, 1000, "-r", "1000", "-l", "-s", "1000") as load:
                    delays = load.end(N_HELD)[0].split()
                samples[server.name].append([int(delay) / 1000 for delay in delays])
        for load in loads:
            load.end()
    def column(name, which):
        mine, floor = ([pair[which] for pair in samples[key]] for key in (name, "floor"))
        return f"{median(mine):.0f}, {ratio(mine, floor):.2f}"
    show_table(f"From a client's FIN to the server's with {N_HELD:,} idle connections, 1,000 ends a second: µs, and the "
               "ratio to the floor", ["", "p50", "p99"], [[name, column(name, 0), column(name, 1)] for name in samples])


class Manager:
    """Hears what the daemon tells its service manager."""

    def __init__(self, directory):
        self.path = Path(directory) / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(self.path))

    def values(self, name):
        """Those of `name` that came since; the others are forgotten."""
        values = []
        with contextlib.suppress(BlockingIOError):
            while True:
                values += re.findall(rf"^{name}=(.*)$", self.socket.recv(4096).decode(), re.M)
        return values


def usec_per_ending(build, server, n_clients):
    with held(build, server, n_clients) as load:
        load.wait_open()
        before = server.cpu_usec()
        load.end()
    return (server.cpu_usec() - before) / n_clients


def bench_storm(build, binary, n_rounds):
    """And growth: the same with few, and whole lives beside few and many."""
    sizes = (N_FEW, N_HELD)
    with contextlib.ExitStack() as stack:
        servers = started(stack, [Server("floor", program(build / "floor")),
                                  Server("tetherd", tetherd(binary, listener=EVERY_TIMEOUT))])
        endings = {(server.name, n): [] for server in servers for n in sizes}
        lives = {(server.name, n): [] for server in servers for n in sizes}
        for server in servers:
            usec_per_ending(build, server, N_HELD)
        for i in range(n_rounds):
            for server in rotated(servers, i):
                for n in rotated(sizes, i):
                    # So many endings at once, whatever the size of the storm.
                    endings[server.name, n].append(median(usec_per_ending(build, server, n)
                                                          for _ in range(5 if n == N_FEW else 1)))
                    with held(build, server, n) as load:
                        load.wait_open()
                        lives[server.name, n].append(usec_per_life(build, server, 5000, ["-s", "1000"], n))
                        load.end()
    rows = []
    for what, samples in (("an ending of many at once", endings), ("a life beside them", lives)):
        for server in servers:
            few, many = (samples[server.name, n] for n in sizes)
            rows.append([f"{server.name}: {what}", f"{median(few):.1f}", f"{median(many):.1f}",
                         f"{ratio(many, few):.2f}", f"{ratio(many, samples['floor', N_HELD]):.2f}"])
    show_table("CPU of the server, µs", ["", f"{N_FEW:,} open", f"{N_HELD:,} open", "many to few",
                                         "many, to the floor"], rows)


WATCHDOG_USEC = 100_000  # it is told twice as often, and so the server comes to rest in between
N_TICKS = 60


def usec_per_tick(server, manager):
    manager.values("WATCHDOG")
    before, n_ticks = server.cpu_usec(), 0
    while n_ticks < N_TICKS:
        select.select([manager.socket], [], [], 5)
        n_ticks += len(manager.values("WATCHDOG"))
    server.rest()
    return (server.cpu_usec() - before) / (n_ticks + len(manager.values("WATCHDOG")))


def bench_ticks(build, binary, n_rounds):
    """Growth: a deadline that passes, the one of the daemon's watchdog, beside few and many that do not."""
    sizes = (N_FEW, N_HELD)
    ticks = {n: [] for n in sizes}
    with tempfile.TemporaryDirectory(prefix="tetherd-bench-") as directory:
        manager = Manager(directory)
        with Server("tetherd", tetherd(binary, listener=EVERY_TIMEOUT),
                    ["env", f"NOTIFY_SOCKET={manager.path}", f"WATCHDOG_USEC={WATCHDOG_USEC}"]) as server:
            for i in range(n_rounds):
                for n in rotated(sizes, i):
                    with held(build, server, n) as load:
                        load.wait_open()
                        ticks[n].append(usec_per_tick(server, manager))
                        load.end()
    few, many = ticks.values()
    show_table("CPU of the server, µs", ["", f"{N_FEW:,} open", f"{N_HELD:,} open", "many to few"],
               [["tetherd: a tick", f"{median(few):.1f}", f"{median(many):.1f}", f"{ratio(many, few):.2f}"]])


MAX_CONCURRENT = 16
HOLDING = """resources = held
[listener:other]
listen = 127.0.0.1:{port}
greeting = here
[resource:held]
type = exec
release = true
max_concurrent = {most}
"""


def serve_one(port):
    """A new client; how long until it was greeted, in ms."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), 20) as client:
        if client.recv(16) != b"here\n":
            raise Failure("a new client was not greeted")
    return (time.monotonic() - began) * 1000


def runs(pid):
    """And is not only to be reaped."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    return False


def bench_releases(build, binary, _n_rounds):
    """A storm of endings that each have a command to run: it is queued, and nobody waits for it."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="tetherd-bench-") as directory:
        manager = Manager(directory)
        with Server("tetherd", tetherd(binary, listener=HOLDING.format(port=port, most=MAX_CONCURRENT)),
                    ["env", f"NOTIFY_SOCKET={manager.path}"]) as server:
            children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
            records = server.directory / "run/leases"
            with held(build, server, N_HELD, "-a", "reset") as load:
                load.wait_open()
                if (n_records := len(os.listdir(records))) != N_HELD:
                    raise Failure(f"{n_records} leases are in the ledger, not {N_HELD}")
                manager.values("STATUS")
                quiet = [serve_one(port) for _ in range(500)]
                began, cpu_usec = time.monotonic(), server.cpu_usec()
                load.process.stdin.close()
                times, at_once, told = [], [], []
                while any(os.scandir(records)):
                    times.append(serve_one(port))
                    at_once.append(sum(map(runs, children.read_text().split())))
                    told += manager.values("STATUS")
                took, cpu_usec = time.monotonic() - began, server.cpu_usec() - cpu_usec
                load.process.wait()
            server.settle()
            if os.listdir(records):
                raise Failure("leases are left in the ledger")
    waits = [line for line in told if "releases wait" in line]
    say(f"\n{N_HELD:,} reset at once, each with a command to run at its release (`max_concurrent = {MAX_CONCURRENT}`)\n")
    say(f"- all released after {took:.1f} s, {N_HELD / took:.0f} a second, {cpu_usec / N_HELD:.0f} µs of the server's CPU each")
    say(f"- commands under way, of {len(at_once):,} looks: at most {max(at_once)}")
    say(f"- {len(times):,} new clients meanwhile, greeted within {median(times):.1f} ms (median), {max(times):.1f} ms (worst); "
        f"before: {median(quiet):.1f} and {max(quiet):.1f} ms")
    say(f"- STATUS said, once a second: {'; '.join(re.search(r'[0-9]+ releases wait[^;]*', line)[0] for line in waits)}")


STOPPED_SEC = 30
STOPPED_RATE = 2000


@contextlib.contextmanager
def standing_still(journald):
    journald.kill(signal.SIGSTOP)
    try:
        yield
    finally:
        journald.kill(signal.SIGCONT)


@contextlib.contextmanager
def gone(journald):
    journald.call("kill")
    try:
        yield
    finally:
        journald.call("start")
        place_journald(journald)


def bench_stopped(build, binary, _n_rounds):
    """journald stands still, or is gone: nobody waits for it, and what was dropped is counted."""
    for what, without in (("stopped", standing_still), ("gone", gone)):
        with private_journald() as journald, Server(
                "tetherd", tetherd(binary, daemon=WITH_RECORDS), journald.enter) as server:
            rows = [row_without_journald(build, server, f"journald {how}", context)
                    for how, context in (("answers", contextlib.nullcontext()), (f"is {what}", without(journald)),
                                         ("answers again", contextlib.nullcontext()))]
            journald.sync()
            records, _ = journald.read(server.process.pid, None)
        lost = [record for record in records if record.get("TETHERD_EVENT") == "records-lost"]
        numbers = {int(record["TETHERD_SEQUENCE"]) for record in records if "TETHERD_SEQUENCE" in record}
        n_missing = len(set(range(1, max(numbers) + 1)) - numbers)
        show_table(f"journald {what} for {STOPPED_SEC} s at {STOPPED_RATE:,} lives a second",
                   ["", "lives", "p50, µs", "p99, µs", "memory grew by, MiB"], rows)
        say(f"\n{len(lost)} records-lost record(s) tell of {sum(int(r['TETHERD_RECORDS_LOST']) for r in lost):,} "
            f"records; {n_missing:,} numbers are missing in the journal. log_queue = 16384 (at most 16 MiB).")


def row_without_journald(build, server, what, context):
    before, n_lives = server.memory()["Private_Dirty"], STOPPED_RATE * STOPPED_SEC
    with context, Load(build, server, n_lives, "-r", str(STOPPED_RATE), "-l") as load:
        delays = [f"{int(delay) / 1000:.0f}" for delay in load.end()[0].split()]
    return [what, f"{n_lives:,}", *delays, f"{(server.memory()['Private_Dirty'] - before) / (1 << 20):.1f}"]


def bench_callback(build, _binary, _n_rounds):
    output = subprocess.run([build / "callback"], check=True, text=True, stdout=subprocess.PIPE,
                            preexec_fn=placed_on(SERVER_CPU)).stdout
    show_table("A plugin's callback", ["", "ns"], [line.split() for line in output.splitlines()])


PARTS = {"lives": bench_lives, "idle": bench_idle, "calls": bench_calls, "records": bench_records,
         "latency": bench_latency, "storm": bench_storm, "ticks": bench_ticks, "releases": bench_releases, "stopped": bench_stopped, "callback": bench_callback}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", choices=PARTS)
    parser.add_argument("--write", type=Path, help="where the tables go as well")
    parser.add_argument("build", type=Path, help="holds floor, load and the peers")
    parser.add_argument("tetherd", type=Path)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    say(f"{describe_machine()}; {arguments.rounds} rounds")
    for name in arguments.only or PARTS:
        try:
            PARTS[name](arguments.build.absolute(), arguments.tetherd.absolute(), arguments.rounds)
        except Skip as reason:
            say(f"\n{name} was not measured: {reason}.")
    if arguments.write:
        arguments.write.write_text("\n".join([*SAID, ""]))


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"bench: {failure}")

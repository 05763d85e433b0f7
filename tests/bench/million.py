"""million: as many idle connections to one port as are asked for, over as many instances as the descriptor limit needs.

    million.py [--connections N] BUILD_DIRECTORY TETHERD

Prints the memory of a connection, then resets all of one instance's at once, and fails unless each of them is released
and recorded while new clients are served. Kernel memory is about 8 KB a connection with both ends on one machine. Then
it drives the parts with so many simulated connections in one process (simulate.c).
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from server import HARD_LIMIT, WITHOUT_RECORDS, Server, describe_machine, private_journald, say, show_table, tetherd
from harness.basics import Failure, die_with_parent, eventually, expect, expect_equal
from harness.daemon import free_port

SPREAD = 900  # the kernel shares out by a hash: some instance gets more than the mean
SERVED_WITHIN_MSEC = 50
CLIENTS_EACH = 15000  # of one process
RECORDS = "log_target = journal\nlog_level = info\nlog_events = closed\nlog_queue = 40000"
# Detection is on; at its usual 60 s a million keepalives would be sent every 15 s, by the same two CPUs.
KEYS = "reuse_port = yes\ngreeting = {number}\ndetect_within = 2h\nhandshake_timeout = 10s\nidle_timeout = 1d\n" \
       "max_age = 7d\nbacklog = 4096\n"


def meminfo(name):
    return int(re.search(rf"^{name}: +(\d+) kB", Path("/proc/meminfo").read_text(), re.M)[1]) * 1024


class Instance(Server):
    def __init__(self, number, port, tetherd_path, enter):
        daemon = RECORDS if number == 0 else WITHOUT_RECORDS
        super().__init__(f"instance {number}", tetherd(tetherd_path, daemon, KEYS.format(number=number)), enter, port)

    def n_connections(self):
        return self.n_descriptors() - self.n_idle_descriptors


class Crowd:
    def __init__(self, build, port, n_clients, number):
        self.n_clients = n_clients
        self.process = subprocess.Popen([build / "crowd", str(port), str(n_clients), str(number * 250)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        preexec_fn=die_with_parent)

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self):
        line = self.process.stdout.readline()
        expect(line, "a crowd has failed")
        return line.strip()


def serve_one(port):
    """A new client; how long until it was greeted, in ms, and by whom."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        number = client.recv(16)
        took = time.monotonic() - began
    return took * 1000, number.strip().decode()


def serve_while(port, is_over):
    """Serves new clients until it is over: [(ms, instance)]."""
    served = []
    while not is_over():
        served.append(serve_one(port))
    return served


def percentile(values, part):
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def reset_one(instances, crowds, journald, port):
    first = instances[0]
    n_before = first.n_connections()
    quiet = serve_while(port, lambda until=time.monotonic() + 2: time.monotonic() > until)
    eventually(lambda: first.n_connections() == n_before, "those who were served are gone")
    cpu_usec = first.cpu_usec()
    began = time.monotonic()
    for crowd in crowds:
        crowd.say("reset 0")
    served = serve_while(port, lambda: first.n_connections() < 50)
    took = time.monotonic() - began
    n_reset = sum(int(crowd.answer()) for crowd in crowds)
    served += serve_while(port, lambda until=time.monotonic() + 1: time.monotonic() > until)
    first.settle()
    expect_equal(n_reset, n_before, "connections of the first instance")
    journald.sync()
    records, _ = journald.read(first.process.pid, None)
    resets = {record["TETHERD_CONNECTION"] for record in records if record.get("TETHERD_CAUSE") == "reset"}
    expect_equal(len(resets), n_reset, "of them recorded as reset")
    times = [msec for msec, _ in served]
    own = [msec for msec, number in served if number == "0"]
    say(f"- all {n_reset:,} of one instance reset at once: every one released, and recorded, after {took:.2f} s and "
        f"{(first.cpu_usec() - cpu_usec) / n_reset:.1f} µs of CPU each")
    say(f"- new clients meanwhile: {len(served)}, served within {percentile(times, .5):.1f} ms (median), "
        f"{max(times):.1f} ms (worst), {max(own, default=0):.1f} ms (worst of {len(own)} by that instance); before: "
        f"{percentile([msec for msec, _ in quiet], .5):.1f} and {max(msec for msec, _ in quiet):.1f} ms")
    expect(own and max(own) < SERVED_WITHIN_MSEC, f"a new client of that instance waited {max(own, default=0):.1f} ms")


N_ROUNDS = 5
N_OPERATIONS = 1_000_000
N_WITH_SOCKETS = 20_000
N_COUNTED = 100_000  # valgrind is slow


def simulated(build, n, limit, has_sockets):
    n_operations = N_WITH_SOCKETS if has_sockets else N_OPERATIONS
    output = subprocess.run([build / "simulate", str(n), str(n_operations), str(limit), *["sockets"] * has_sockets],
                            capture_output=True, text=True, check=True).stdout
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in output.splitlines()}


def rows_simulated(build, n_few, n_many, limit, has_sockets):
    """Of interleaved rounds: name, median with few, with many, and the median of the rounds' ratios."""
    rounds = [(simulated(build, n_few, limit, has_sockets), simulated(build, n_many, limit, has_sockets))
              for _ in range(N_ROUNDS)]
    median = statistics.median
    return [[name, f"{median(few[name] for few, _ in rounds):.0f}", f"{median(many[name] for _, many in rounds):.0f}",
             f"{median(many[name] / few[name] for few, many in rounds):.2f}"] for name in rounds[0][0]]


def n_instructions(build, n, limit, what):
    output = subprocess.run(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", f"--toggle-collect={what}",
                             build / "simulate", str(n), str(N_COUNTED), str(limit)], capture_output=True, text=True,
                            check=True).stderr
    return int(re.search(r"Collected : (\d+)", output)[1]) / (2 * N_COUNTED)  # near and far


def simulate(build, n_few, n_many):
    whole, bare = [], []
    for limit, what in ((0, "nobody is counted"), (2, "a limit per source")):
        for rows, has_sockets in ((whole, True), (bare, False)):
            rows += [[f"ns: {name}, {what}", *rest]
                     for name, *rest in rows_simulated(build, n_few, n_many, limit, has_sockets)]
        for part in ("lives", "news") if shutil.which("valgrind") else ():
            few, many = n_instructions(build, n_few, limit, part), n_instructions(build, n_many, limit, part)
            bare.append([f"instructions: {part}, {what}", f"{few:.0f}", f"{many:.0f}", f"{many / few:.2f}"])
    heads = ["", f"{n_few:,}", f"{n_many:,}", "ratio"]
    show_table("What an operation costs, with its system calls, beside simulated connections in one process", heads, whole)
    show_table("What our part of it costs, without them", heads, bare)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--connections", type=int, default=1_000_000)
    parser.add_argument("build", type=Path)
    parser.add_argument("tetherd", type=Path)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    n = arguments.connections
    build, binary = arguments.build.absolute(), arguments.tetherd.absolute()
    n_instances = -(-n // (HARD_LIMIT - 200 - SPREAD))
    n_crowds = -(-n // min(CLIENTS_EACH, HARD_LIMIT - 100))
    needed = n * 9000
    if meminfo("MemAvailable") < needed:
        raise Failure(f"{needed >> 30} GiB of memory are needed, {meminfo('MemAvailable') >> 30} are available")
    port = free_port()

    with private_journald() as journald, contextlib.ExitStack() as stack:
        instances = [stack.enter_context(Instance(number, port, binary, journald.enter if number == 0 else ()))
                     for number in range(n_instances)]
        for instance in instances:  # all of both CPUs
            os.sched_setaffinity(instance.process.pid, os.sched_getaffinity(0))
        user = sum(instance.memory()["Private_Dirty"] for instance in instances)
        slab, available = meminfo("Slab"), meminfo("MemAvailable")
        began = time.monotonic()
        crowds = []
        for number in range(n_crowds):
            n_clients = n // n_crowds + (number < n % n_crowds)
            crowds.append(Crowd(build, port, n_clients, number))
            stack.callback(crowds[-1].process.kill)
        for crowd in crowds:
            expect_equal(crowd.answer(), "open", "a crowd's word")
        took = time.monotonic() - began
        held = [instance.n_connections() for instance in instances]
        expect_equal(sum(held), n, "connections held")
        say(describe_machine())
        say(f"- {n:,} connections to one port, held by {n_instances} instances ({min(held):,} to {max(held):,} each), "
            f"opened in {took:.0f} s")
        grown = sum(instance.memory()["Private_Dirty"] for instance in instances) - user
        say(f"- memory of a connection: {grown / n:.0f} B of tetherd's, {(meminfo('Slab') - slab) / n:.0f} B of the "
            f"kernel's for both ends (the machine has {(available - meminfo('MemAvailable')) / n:.0f} B less)")
        cpu, switches = [sum(f(i) for i in instances) for f in (Server.cpu_usec, Server.n_switches)]
        time.sleep(10)
        cpu, switches = [sum(f(i) for i in instances) - before
                         for f, before in ((Server.cpu_usec, cpu), (Server.n_switches, switches))]
        say(f"- in 10 s of silence all instances together: {switches} wakeups, {cpu:.0f} µs of CPU")
        reset_one(instances, crowds, journald, port)
        for crowd in crowds:
            crowd.say("leave")
        n_left = sum(int(crowd.answer()) for crowd in crowds)
        expect_equal(n_left + held[0], n, "connections in all")
        for instance in instances:
            instance.settle()
        say(f"- the other {n_left:,} left, and nothing is held any more")
    simulate(build, n // 100, n)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"million: {failure}")

"""resources: how many loads a second a helper does beside exec, in one run; README.md here says how to read the table.

    resources.py [--rounds N] BUILD_DIRECTORY TETHERD

Nothing is asserted but that every client was greeted, and so had its resource loaded.
"""

import argparse
import contextlib
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "system"))
from harness.basics import Failure, die_with_parent, eventually  # noqa: E402
from harness.daemon import free_port  # noqa: E402

HARD_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
KINDS = {  # what the resource says, loads in a round
    "exec": ("type = exec\nload = true\nrelease = true\n", 1600),
    "helper": ("type = helper\ncommand = {build}/helper\n", 32000),
    "none": ("type = none\n", 32000),
}
N_HELD = [1, 8]  # by each connection
CONFIG = """\
[daemon]
runtime_directory = {directory}/run
state_directory = {directory}/state
log_target = stderr
log_level = err
log_events = none
[listener:bench]
listen = 127.0.0.1:{port}
resources = {names}
greeting = ready
"""


def prepare():
    die_with_parent()
    resource.setrlimit(resource.RLIMIT_NOFILE, (HARD_LIMIT, HARD_LIMIT))


@contextlib.contextmanager
def server(kind, n_held, build, tetherd):
    """A daemon whose connections hold so many such resources. Yields its port."""
    # In memory, as /run is, which the ledger of a resource that is not persistent is for.
    with tempfile.TemporaryDirectory(prefix="tetherd-bench-", dir="/dev/shm") as directory:
        for name in ("run", "state"):
            os.mkdir(f"{directory}/{name}", mode=0o700)
        port, path, names = free_port(), Path(directory) / "tetherd.conf", [f"held{i}" for i in range(n_held)]
        path.write_text(CONFIG.format(directory=directory, port=port, names=" ".join(names)) +
                        "".join(f"[resource:{name}]\n{KINDS[kind][0].format(build=build)}" for name in names))
        process = subprocess.Popen([tetherd, "-c", path], preexec_fn=prepare)
        try:
            eventually(lambda: f":{port:04X} 00000000:0000 0A " in Path("/proc/net/tcp").read_text(),
                       f"the daemon with {kind} listens")
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def loads_a_second(kind, n_held, port, build):
    n_lives = KINDS[kind][1] // n_held
    begin = time.monotonic()
    if subprocess.run([build / "load", "-n", str(n_lives), "-e", "greeted", str(port)], preexec_fn=prepare,
                      stdout=subprocess.DEVNULL).returncode != 0:
        raise Failure(f"the load on {kind} failed")
    return n_lives * n_held / (time.monotonic() - begin)


def measure(n_held, arguments):
    samples = {kind: [] for kind in KINDS}
    with contextlib.ExitStack() as running:
        ports = {kind: running.enter_context(server(kind, n_held, arguments.build, arguments.tetherd))
                 for kind in KINDS}
        for _ in range(arguments.rounds):
            for kind, port in ports.items():
                samples[kind].append(loads_a_second(kind, n_held, port, arguments.build))
    for kind, found in samples.items():
        ratios = [a / b for a, b in zip(found, samples["exec"])]
        print(f"{n_held} held by each, {kind:6} {statistics.median(found):8.0f} ({min(found):.0f} to "
              f"{max(found):.0f}), ratio {statistics.median(ratios):.1f}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("build", type=lambda text: Path(text).resolve(), help="holds load and helper")
    parser.add_argument("tetherd", type=lambda text: Path(text).resolve())
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"loads and releases a second, medians (least to most) of {arguments.rounds} interleaved rounds; "
          f"ratios to exec in the same round")
    for n_held in N_HELD:
        measure(n_held, arguments)


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"bench: {failure}")

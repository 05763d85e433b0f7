"""The servers under test, the load, and the machine: what bench.py and million.py share."""

import contextlib
import datetime
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "system"))
from harness.basics import Failure, die_with_parent, eventually  # noqa: E402
from harness.daemon import free_port  # noqa: E402
from harness.journald import Journald  # noqa: E402

CPUS = sorted(os.sched_getaffinity(0))
SERVER_CPU, LOAD_CPU = CPUS[0], CPUS[-1]
SOFT_LIMIT, HARD_LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)

CONFIG = """\
[daemon]
runtime_directory = {directory}/run
state_directory = {directory}/state
{daemon}
[listener:bench]
listen = 127.0.0.1:{port}
handler = discard
{listener}
"""
WITHOUT_RECORDS = "log_target = stderr\nlog_level = err\nlog_events = none"

# Both do the same work without a backend: they wait for bytes to decide upon, and close at the client's end.
HAPROXY = """\
global
    nbthread 1
    maxconn {most}
defaults
    mode tcp
    timeout client 1h
    maxconn {most}
frontend bench
    bind 127.0.0.1:{port} backlog 4096
    tcp-request inspect-delay 1h
    tcp-request content reject if WAIT_END
"""
NGINX = """\
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr crit;
events {{ worker_connections {most}; multi_accept on; }}
stream {{
    access_log off;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        ssl_preread on;
        preread_timeout 1h;
        return "";
    }}
}}
"""


def placed_on(cpu):
    def place():
        die_with_parent()
        os.sched_setaffinity(0, {cpu})
        resource.setrlimit(resource.RLIMIT_NOFILE, (HARD_LIMIT, HARD_LIMIT))
    return place


class Server:
    """One server under test, from start to `with`'s end, on a port and in a directory of its own.

    `command` makes the command line of the directory and the port; `enter` goes before it.
    """

    placed = staticmethod(placed_on(SERVER_CPU))

    def __init__(self, name, command, enter=(), port=None):
        self.name = name
        self.port = port or free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="tetherd-bench-"))
        for part in ("run", "state"):
            (self.directory / part).mkdir(mode=0o700)
        self.command = [*enter, *map(str, command(self.directory, self.port))]

    def __enter__(self):
        self.process = subprocess.Popen(self.command, preexec_fn=self.placed, stdin=subprocess.DEVNULL)
        try:
            eventually(self.is_listening, f"{self.name} listens on port {self.port}")
            self.rest()
            self.n_idle_descriptors = self.n_descriptors()
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
        shutil.rmtree(self.directory, ignore_errors=True)

    def is_listening(self):
        if self.process.poll() is not None:
            raise Failure(f"{self.name} exited with {self.process.returncode}")
        return re.search(rf" 0100007F:{self.port:04X} 00000000:0000 0A ", Path("/proc/net/tcp").read_text())

    def proc(self, name):
        return Path(f"/proc/{self.process.pid}/{name}").read_text()

    def n_descriptors(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def cpu_usec(self):
        """Of all threads. Exact to the nanosecond while they sleep, where /proc/PID/stat counts ticks of 10 ms."""
        total = 0
        for task in os.listdir(f"/proc/{self.process.pid}/task"):
            total += int(self.proc(f"task/{task}/schedstat").split()[0])
        return total / 1000

    def memory(self):
        """Bytes by kind."""
        return {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+): +(\d+) kB", self.proc("smaps_rollup"), re.M)}

    def n_switches(self):
        return sum(map(int, re.findall(r"ctxt_switches:\s+(\d+)", self.proc("status"))))

    def rest(self):
        eventually(self.is_quiet, f"{self.name} comes to rest", 20)

    def settle(self, n_connections=0):
        """Waits until the server holds so many connections and has nothing left to do."""
        wanted = self.n_idle_descriptors + n_connections
        eventually(lambda: self.n_descriptors() == wanted,
                   lambda: f"{self.name} holds {wanted} descriptors, not {self.n_descriptors()}", 20)
        self.rest()

    def is_quiet(self):
        before = self.cpu_usec()
        time.sleep(0.02)
        return self.cpu_usec() == before


class Load:
    """A run of `load` against a server."""

    def __init__(self, build, server, n_lives, *options):
        self.server, self.n_lives = server, n_lives
        command = [build / "load", "-n", str(n_lives), *options, str(server.port)]
        self.process = subprocess.Popen(command, preexec_fn=placed_on(LOAD_CPU), stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.process.kill()
        self.process.wait()

    def wait_open(self, n_more=0):
        """With `-e hold`: all are open, beside `n_more` that others opened."""
        if self.process.stdout.readline() != "open\n":
            raise Failure(f"{self.server.name}: {self.n_lives} connections could not be opened")
        self.server.settle(n_more + self.n_lives)

    def end(self, n_more=0):
        """Waits for the end, which it begins where the clients are held. Returns what the load said before it."""
        said, _ = self.process.communicate()
        if self.process.returncode != 0:
            raise Failure(f"the load on {self.server.name} failed")
        self.server.settle(n_more)
        return said.splitlines()[:-1]


def held(build, server, n_clients, *options):
    return Load(build, server, n_clients, "-e", "hold", "-r", "10000", *options)  # slower than an accept queue fills


def usec_per_life(build, server, n_lives, options, n_more=0):
    before = server.cpu_usec()
    with Load(build, server, n_lives, *options) as load:
        load.end(n_more)
    return (server.cpu_usec() - before) / n_lives


# ---- the commands ----


def program(path, *arguments):
    return lambda _directory, port: [path, port, *arguments]


def tetherd(path, daemon=WITHOUT_RECORDS, listener=""):
    def command(directory, port):
        config = directory / "tetherd.conf"
        config.write_text(CONFIG.format(directory=directory, port=port, daemon=daemon, listener=listener))
        return [path, "-c", config]
    return command


def haproxy(directory, port):
    config = directory / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, most=HARD_LIMIT // 2 - 100))
    return ["haproxy", "-q", "-db", "-f", config]


def nginx(directory, port):
    config = directory / "nginx.conf"
    config.write_text(NGINX.format(directory=directory, port=port, most=HARD_LIMIT - 100))
    return ["nginx", "-p", directory, "-e", "stderr", "-c", config]


def peers(build):
    """By name, those that are here; and the names of those that are not."""
    found = {name: program(build / "peers" / name) for name in ("libevent", "libuv", "tokio", "go")
             if (build / "peers" / name).exists()}
    if shutil.which("haproxy"):
        found["haproxy"] = haproxy
    if shutil.which("nginx") and Path("/usr/lib/nginx/modules/ngx_stream_module.so").exists():
        found["nginx stream"] = nginx
    return found, [name for name in ("libevent", "libuv", "tokio", "go", "haproxy", "nginx stream") if name not in found]


def place_journald(journald):
    os.sched_setaffinity(int((journald.directory / "pid").read_text()), {LOAD_CPU})


@contextlib.contextmanager
def private_journald():
    """Beside the load, so that the server has a CPU of its own."""
    # In a network of its own only for the length of its queue, which is 10 where systemd did not boot the machine.
    journald = Journald(["unshare", "--net", "sh", "-c", 'echo 512 >/proc/sys/net/unix/max_dgram_qlen; exec "$@"', "sh"])
    try:
        place_journald(journald)
        yield journald
    finally:
        journald.stop()


# ---- what is printed ----


def describe_machine(how=f"server on CPU {SERVER_CPU}, load on CPU {LOAD_CPU}"):
    model = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return f"{datetime.date.today()}, {model[1] if model else platform.machine()}, {os.cpu_count()} CPUs, " \
           f"Linux {'.'.join(platform.release().split('.')[:2])}; {how}"


SAID = []


def say(text):
    SAID.append(text)
    print(text, flush=True)


def show_table(title, head, rows):
    grid = [[str(cell) for cell in line] for line in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*grid)]
    grid.insert(1, ["-" * width for width in widths])
    say(f"\n{title}\n")
    for line in grid:
        say(f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths))} |")

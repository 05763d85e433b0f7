"""The daemon: its configuration, its runs, its clients."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness.basics import (BINARY, DIRECTORY, SLOW, WRAPPER, Failure, Skip, die_with_parent, eventually, expect,
                            expect_equal, tell)
from harness.books import Books
from harness.client import Client
from harness.journald import journald
from harness.kernel import Kernel
from harness.records import Records

# The resource that most scenes use: it writes "load mark ID" and "release mark ID" to the effects file.
MARK = """
[resource:mark]
type = exec
load = <mark> %i
release = <mark> %i
"""


PORTS_HELD = {}  # each with a socket that marks it for the other stories


def free_port():
    """A port below the ephemeral range that is free on every local address, and that no other story will take until
    let_port_go(), or the end of this one, though nobody listens there yet."""
    while True:
        port = random.randint(20000, 32000)
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
            holder.bind(f"\0tetherd-port-{port}")
            probe.bind(("::", port))
            PORTS_HELD[port] = holder
            return port
        holder.close()


def let_port_go(port):
    holder = PORTS_HELD.pop(port, None)
    if holder:
        holder.close()


class Daemon(Records, Kernel, Books):
    """A configuration and the runs of the binary on it.

    In `config` (without its [daemon] section) and `scripts`, <name> stands for: dir, mark, effects, tcp4,
    tcp6, unix, abstract (values for `listen`), port, and each script. `daemon` adds keys to [daemon].
    """

    def __init__(self, config, daemon=None, scripts=None, enter=(), directories=None):
        self.directory = Path(tempfile.mkdtemp(prefix="tetherd-story-", dir=DIRECTORY))
        self.directory.chmod(0o755)
        self.runtime, self.state = directories or (self.directory / "run", self.directory / "state")
        self.effects_path = self.directory / "effects"
        self.effects_path.touch()
        self.effects_path.chmod(0o666)
        self.config_path = self.directory / "tetherd.conf"
        self.stderr_path = self.directory / "stderr"
        self.enter = list(enter)
        self.pass_fds = ()
        self.process = None
        self.n_runs = 0
        self.records = []  # of the run of this moment
        self.clients = []
        self.has_failed = False
        self.may_lose_records = False  # where journald was made to lose some
        self.orphans = set()  # connections whose commands a SIGKILL of the daemon may have interrupted
        for path in (self.runtime, self.state):
            path.mkdir(mode=0o700, exist_ok=True)
        port, port6 = free_port(), free_port()
        self.addresses = {
            "tcp4": (socket.AF_INET, ("127.%d.%d.%d" % tuple(random.randint(1, 254) for _ in range(3)), port)),
            "tcp6": (socket.AF_INET6, ("::1", port6)),
            "unix": (socket.AF_UNIX, str(self.directory / "socket")),
            "abstract": (socket.AF_UNIX, "\0tetherd-story-%016x" % random.getrandbits(64)),
        }
        self.names = {
            "dir": self.directory,
            "effects": self.effects_path,
            "port": port,
            "port6": port6,
            "tcp4": "%s:%d" % self.addresses["tcp4"][1],
            "tcp6": "[%s]:%d" % self.addresses["tcp6"][1],
            "unix": self.addresses["unix"][1],
            "abstract": "@" + self.addresses["abstract"][1][1:],
        }
        scripts = {"mark": 'echo "$TETHERD_PHASE $TETHERD_RESOURCE $1" >> <effects>', **(scripts or {})}
        for name in scripts:
            self.names[name] = self.directory / name
        for name, text in scripts.items():
            self.names[name].write_text("#!/bin/sh\n" + self.expand(text) + "\n")
            self.names[name].chmod(0o755)
        self.daemon_keys = {"runtime_directory": self.runtime, "state_directory": self.state,
                            "log_target": "journal", "log_level": "debug", **(daemon or {})}
        self.is_on_stderr = self.daemon_keys["log_target"] == "stderr"
        self.configure(config)
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(self.directory / "notify"))
        os.chmod(self.directory / "notify", 0o777)
        self.notified = []

    def expand(self, text):
        return re.sub(r"<(\w+)>", lambda found: str(self.names[found[1]]), text)

    def configure(self, config, **daemon_keys):
        """Writes the file; a running daemon sees it at its next SIGHUP."""
        keys = {**self.daemon_keys, **daemon_keys}
        text = "[daemon]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
        whole = self.config_path.with_suffix(".new")  # a SIGHUP of before may be read just now
        whole.write_text(text + self.expand(config))
        whole.rename(self.config_path)

    # -- runs --

    def command(self, *arguments):
        return [*WRAPPER, BINARY, "-c", str(self.config_path), *arguments]

    def environment(self):
        environment = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(self.directory / "notify")}
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS"):
            if name in os.environ:
                environment[name] = os.environ[name]
        return environment

    def spawn(self, *arguments):
        """Starts the binary without waiting for it."""
        enter = [] if self.is_on_stderr else journald().enter
        self.born = time.time_ns() // 1000  # as records tell when they came
        with open(self.stderr_path, "ab") as stderr:
            self.process = subprocess.Popen([*enter, *self.enter, *self.command(*arguments)], cwd="/",
                                            env=self.environment(), stdin=subprocess.DEVNULL, stdout=stderr,
                                            stderr=stderr, preexec_fn=die_with_parent, pass_fds=self.pass_fds)
        self.n_runs += 1
        self.records, self.cursor, self.notified, self.clients = [], None, [], []
        return self

    def start(self):
        self.spawn()
        self.wait_notified("READY=1", 20)
        self.note_idle()
        return self

    def note_idle(self):
        """What the daemon holds now is what it may hold when nobody is connected."""
        seen = []
        def is_steady():  # the socket of the last notification may still be open
            if self.status_field("State").startswith("S"):
                seen.append(self.descriptors())
            return len(seen) >= 3 and seen[-1] == seen[-2] == seen[-3]
        eventually(is_steady, "the daemon has started")
        self.idle_descriptors = seen[-1]
        self.idle_files = self.files()
        self.n_idle_children = len(self.children())  # helpers

    @property
    def pid(self):
        return self.process.pid

    def kill(self, number):
        os.kill(self.pid, number)

    def wait_exit(self, status, timeout=30):
        try:
            found = self.process.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            raise Failure(f"the daemon still runs after {timeout * SLOW:g} s") from None
        if not self.is_on_stderr:
            journald().sync()
            self.poll_records()
        expect_equal(found, status, "exit status")

    def stop(self, number=signal.SIGTERM, status=0, timeout=30):
        self.kill(number)
        self.wait_exit(status, timeout)

    def crash(self):
        """SIGKILL. What the clients hold is forgotten."""
        self.stop(signal.SIGKILL, -signal.SIGKILL)
        self.forget_clients()

    def reload(self):
        """SIGHUP. Returns when the daemon has read the file and is done with it, for better or worse."""
        self.drop_notifications()  # a full queue would take no more of them
        self.kill(signal.SIGHUP)
        told = self.wait_notified("RELOADING=1")
        expect(re.search(r"^MONOTONIC_USEC=\d+$", told, re.M), f"RELOADING=1 without MONOTONIC_USEC: {told!r}")
        self.wait_notified("READY=1")

    @contextlib.contextmanager
    def frozen(self):
        """The daemon does not run inside this block, so that several events meet it at once."""
        self.kill(signal.SIGSTOP)
        eventually(lambda: self.status_field("State").startswith("T"), "the daemon is stopped")
        try:
            yield
        finally:
            self.kill(signal.SIGCONT)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def __exit__(self, kind, error, _traceback):
        try:
            if kind is None:
                try:
                    if self.process.poll() is None:
                        self.check_books()
                        self.stop()
                    self.check_left()
                except BaseException:
                    self.has_failed = True
                    raise
            else:
                self.has_failed = kind is not Skip
        finally:
            if self.has_failed:
                self.describe()
            if self.process and self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            for pid in self.processes():
                os.kill(pid, signal.SIGKILL)
            self.forget_clients()
            self.close()

    def close(self):
        self.notify.close()
        for name in ("port", "port6"):
            let_port_go(self.names[name])
        shutil.rmtree(self.directory, ignore_errors=True)

    def describe(self):
        """For the reader of a failure."""
        with contextlib.suppress(Exception):
            self.poll_records()
        tell(f"--- {self.config_path}\n{self.config_path.read_text()}")
        tell(f"--- last records of pid {self.process and self.process.pid}")
        for record in self.records[-25:]:
            tell("<%s> %s: %s" % (record.get("PRIORITY"), record.get("TETHERD_EVENT", "-"), record.get("MESSAGE")))
        tell("--- effects: " + " | ".join(self.effects_path.read_text().splitlines()[-25:]))
        if self.stderr():
            tell("--- stderr\n" + "\n".join(self.stderr().splitlines()[-60:]))

    # -- clients --

    def connect(self, kind="tcp4", source=None, timeout=20, address=None, receive_buffer=None):
        family, default = self.addresses[kind]
        sock = socket.socket(family)
        sock.settimeout(timeout * SLOW)
        if receive_buffer:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        if source:
            sock.bind((source, 0))
        address = address or default
        sock.connect(address)
        client = Client(self, kind, sock, None if family == socket.AF_UNIX else address[1])
        self.clients.append(client)
        return client

    def connect_ready(self, kind="tcp4", **options):
        client = self.connect(kind, **options)
        self.wait_ready(client)
        return client

    def barrier(self, kind="tcp4"):
        """When this returns, the daemon has seen everything that clients did before. Needs an echo listener."""
        self.connect(kind).echo(b"barrier").close()

"""The stories that are played with a call that fails, and what must hold after each."""

import contextlib
import os
import re
import select
import shutil
import socket
import time
from collections import Counter
from pathlib import Path
from signal import SIGTERM

import harness.records
from harness import BINARY, Daemon, Failure, eventually, expect

LISTENER = """
[listener:{name}]
listen = <{kind}>
handler = {handler}
hello = yes
greeting = hello %h, %{{mark}}
refusal = BUSY %c
max_connections_per_source = 100
resources = seat, workdir, asked, mark, program
"""
# Its own handler over TCP, a plugin over the UNIX socket.
CONFIG = LISTENER.format(name="life", kind="tcp4", handler="echo") + LISTENER.format(
    name="plugged", kind="unix", handler="plugin:<dir>/echo.so") + """
[resource:seat]
type = pool
items = 1-100
when_empty = wait

[resource:workdir]
type = directory
path = <dir>/connections/%i
user = nobody
persistent = yes

[resource:asked]
type = helper
command = <asked>

[resource:mark]
type = exec
load = <mark> %i %{workdir}
release = <mark> %i %{workdir}
user = nobody

[resource:program]
type = process
command = tail -f <effects>
"""
# Its file has to be removed with the directory, which is then not done in the loop.
MARK = 'echo "$TETHERD_PHASE mark $1" >> <effects>; [ $TETHERD_PHASE = release ] || { : > "$2/file"; echo value; }'
ASKED = 'while read -r verb number rest; do echo "OK $number"; done'
PATIENCE = 20  # seconds: a release that failed is tried again after 1 s, 2 s; a journal that was full after 1 s
SPIN_SECONDS = 0.02


class Broken(Exception):
    """What a client is told by a daemon that has a fault: it was closed, refused, or not even let in."""


class Patient(Daemon):
    """A daemon one of whose calls fails."""

    def __init__(self, faults):
        super().__init__(CONFIG, daemon={"drain_timeout": "5s"}, scripts={"mark": MARK, "asked": ASKED})
        self.faults = faults
        shutil.copyfile(Path(BINARY).parent.parent / "plugins/echo.so", self.directory / "echo.so")
        (self.directory / "echo.so").chmod(0o644)

    def environment(self):
        return {**super().environment(), "FAULTS": str(self.faults.path), "MALLOC_PERTURB_": "165",
                "ASAN_OPTIONS": "exitcode=99:detect_leaks=1:abort_on_error=0:handle_sigill=1:malloc_context_size=4"}

    def is_alive(self):
        return self.process.poll() is None

    def note_idle(self):
        for text in ("^helper asked: started", "^preserve: "):  # the last that a start does
            self.wait_record(MESSAGE=re.compile(text))
        super().note_idle()

    # -- clients --

    def talk(self, kind):
        """A client from its first byte to an echo, or Broken."""
        try:
            client = self.connect(kind, timeout=PATIENCE)
            client.send(b"me\nping")
            line = client.receive_line()
            expect(line == "hello me, value\n" or line.startswith("BUSY "), f"a strange greeting: {line!r}")
            if line.startswith("BUSY"):
                raise Broken(line)
            expect(client.receive(4) == b"ping", "the echo is not what was sent")
            return client
        except socket.timeout:
            raise Failure(f"a client on {kind} hangs") from None
        except OSError as error:
            raise Broken(str(error)) from None
        except Failure as failure:
            if "closed after" in str(failure):
                raise Broken(str(failure)) from None
            raise

    def try_talk(self, kind):
        """The same where a failure is the daemon's good right: once a run."""
        had_fired = self.faults.has_fired
        try:
            return self.talk(kind)
        except Broken as broken:
            if had_fired or not self.faults.has_fired:
                eventually(lambda: not self.is_alive(), f"a daemon that tells a client after the fault or before it "
                                                        f"`{broken}` stops", PATIENCE)
            return None

    def is_served(self, client):
        """Still: a call that failed behind its echo may have ended it."""
        return not (self.faults.has_fired and select.select([client.socket], [], [], 0)[0])

    def wait_quiet(self, *clients):
        """Only these clients are left, and what they hold."""
        n_clients = len(clients)
        def is_quiet():
            nonlocal n_clients
            if not self.is_alive():
                return True
            n_clients = sum(map(self.is_served, clients))
            held = Counter({"socket": n_clients, "pipe": 2 * n_clients, "anon_inode": n_clients})  # the last two: a program's
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                return (self.descriptors() == self.idle_descriptors + held
                        and len(self.children()) == n_clients + 1  # a program each, and the helper
                        and len(self.ledger_files()) == n_clients + self.n_unerased()
                        and len(self.directories()) == n_clients)
            return True
        eventually(is_quiet, lambda: f"with {n_clients} clients left: descriptors {self.descriptors()}, idle "
                                     f"{self.idle_descriptors}; children {self.children()}; ledger "
                                     f"{self.ledger_files()}; directories {self.directories()}", PATIENCE)

    def n_unerased(self):
        """Ledger records of which it said that it could not remove them: the next start does it."""
        self.poll_records()
        return len(self.find(MESSAGE=re.compile("its ledger record cannot be removed")))

    def directories(self):
        return list((self.directory / "connections").glob("*"))

    # -- what must hold --

    def cpu_seconds(self):
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9

    def check_no_spin(self):
        """A daemon with nothing to do does nothing. A second look, longer, is for whoever was just at work."""
        for seconds in (SPIN_SECONDS, 10 * SPIN_SECONDS):
            if not self.is_alive():
                return
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                before = self.cpu_seconds()
                time.sleep(seconds)
                used = self.cpu_seconds() - before
                if used < seconds / 4:
                    return
        raise Failure(f"it spins: {used * 1000:.0f} ms of CPU in {seconds * 1000:.0f} ms without anything to do")

    def wait_end(self, timeout=PATIENCE + 5):
        """Returns the exit status; the records are complete then."""
        try:
            self.process.wait(timeout)
        except Exception:
            raise Failure(f"it still runs {timeout} s after SIGTERM") from None
        harness.records.journald().sync()
        self.poll_records()
        return self.process.returncode

    def check_end(self, status):
        """How the run ended: in order, or with a line that says why not."""
        problems = re.findall(r"^.*(?:Sanitizer|runtime error:|Assertion).*$", self.stderr(), re.M)
        expect(not problems, f"{problems[:2]}")
        expect(status in (0, 1, 78), f"exit status {status}")
        said = [line for line in self.stderr().splitlines() if line]
        logged = [record["MESSAGE"] for record in self.records if int(record["PRIORITY"]) <= 3]
        if status == 0:
            expect(not said, f"it ended well, and said {said}")
        else:
            expect(len(said) + len(logged) == 1,
                   f"exit status {status} with other than one line of why: stderr {said}, errors logged {logged}")

    def check_records(self):
        """One ending for each connection, or a counted loss."""
        ended = Counter(record["TETHERD_CONNECTION"] for record in self.find("closed") + self.find("rejected")
                        if "TETHERD_CONNECTION" in record)
        twice = [name for name, n in ended.items() if n > 1]
        expect(not twice, f"ended twice: {twice}")
        n_lost = sum(int(record["TETHERD_RECORDS_LOST"]) for record in self.find("records-lost"))
        if self.process.returncode == 0:
            unended = self.unended()
            expect(len(unended) <= n_lost, f"accepted, and no ending was told: {unended}; records lost: {n_lost}")
            numbers = [int(record["TETHERD_SEQUENCE"]) for record in self.records]
            n_missing = max(numbers, default=0) - len(set(numbers))
            expect(n_missing == n_lost, f"{n_missing} numbers are missing, {n_lost} records were told lost")

    def check_left(self, failures=()):
        """After the last run. `failures`: the records of releases that failed: those were done again."""
        loads, releases, again = Counter(), Counter(), Counter(failures)
        for phase, _, connection in self.effects():
            {"load": loads, "release": releases}[phase][connection] += 1
        for connection in loads | releases:
            n = releases[connection]
            expect(loads[connection] <= 1, f"{connection} was loaded {loads[connection]} times")
            expect(loads[connection] <= n, f"{connection} was loaded, and never released")
            expect(n <= 1 + again[connection], f"{connection} was released {n} times, {again[connection]} failed")
        expect(not self.ledger_files(), f"ledger records are left: {self.ledger_files()}")
        expect(not self.directories(), f"directories are left: {self.directories()}")
        # One that cannot be removed is stale, and is replaced by the next start.
        is_stale = self.faults.call in ("lstat", "unlink")
        expect(is_stale or not Path(self.names["unix"]).exists(), "the socket file is left")
        eventually(lambda: not self.processes(), lambda: f"processes are left: {self.processes()}", PATIENCE)

    def failed_releases(self):
        return [record["TETHERD_CONNECTION"] for record in self.find("release-failed")]

    def heal(self):
        """The next start, where nothing fails: it releases what the last one left."""
        failures = self.failed_releases()
        self.faults.arm(False)
        self.stderr_path.unlink()
        self.start()
        self.kill(SIGTERM)
        self.check_end(self.wait_end())
        expect(self.process.returncode == 0, f"the next start ended with {self.process.returncode}")
        self.check_records()
        # The last run may have been at the release of what this one released.
        return failures + [record["TETHERD_CONNECTION"] for record in self.find("recovered")]

    def wait_ready_or_end(self):
        """For a start that may as well end. Returns whether it is ready."""
        deadline = time.monotonic() + PATIENCE
        with contextlib.closing(open(os.pidfd_open(self.pid), "rb", buffering=0)) as end:
            while time.monotonic() < deadline:
                told, _, _ = select.select([self.notify, end], [], [], PATIENCE)
                if self.notify in told:
                    if "READY=1" in self.notify.recv(65536).decode():
                        return True
                elif told:
                    return False
        raise Failure(f"it is neither ready nor ended after {PATIENCE} s")

    def conclude(self):
        """The run is over: checks it, and where it left something, that the next one finds it."""
        status = self.wait_end()
        self.check_end(status)
        self.check_records()
        self.idle_files = {path for path in self.files() if "/leases/" not in path and "/set-aside/" not in path}
        failures = self.failed_releases()
        if status != 0 or self.n_unerased():
            failures = self.heal()
        self.check_left(failures)

    def dispose(self):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        self.forget_clients()
        self.close()


@contextlib.contextmanager
def played(faults):
    daemon = Patient(faults)
    try:
        yield daemon
    except Exception as error:
        daemon.describe()
        raise Failure(f"{error or repr(error)}\n  {faults.describe(BINARY)}") from error
    finally:
        daemon.dispose()


def life(faults, target, _crash):
    """It is ready; then one of its calls fails, up to its end."""
    with played(faults) as daemon:
        faults.aim(None)
        daemon.start()
        faults.aim(target, is_armed=True)
        client = daemon.try_talk("tcp4")
        if client:
            client.reset()
        daemon.wait_quiet()
        last = daemon.try_talk("unix")
        if faults.has_fired and daemon.is_alive():
            fresh = daemon.try_talk("tcp4")
            if fresh:
                fresh.close()
        daemon.wait_quiet(*filter(None, [last]))
        daemon.check_no_spin()
        if daemon.is_alive():
            daemon.kill(SIGTERM)
        daemon.conclude()
        return faults.has_fired


class Crash:
    """What a run that was killed left: the lease of one connection."""

    def __init__(self, faults):
        daemon = Patient(faults)
        faults.aim(None)
        daemon.start()
        daemon.talk("tcp4")
        self.directory = daemon.directory
        record = next(path for path in daemon.ledger_files() if "/leases/" in path)
        self.connection, self.record = Path(record).name, Path(record).read_text()
        daemon.crash()
        daemon.dispose()

    def leave_in(self, daemon):
        directory = daemon.directory / "connections" / self.connection
        directory.mkdir(parents=True)
        shutil.chown(directory, "nobody")
        (directory / "file").touch()
        record = self.record.replace(str(self.directory), str(daemon.directory))
        record = re.sub(r"^birth=.*$", "birth=0", record, flags=re.M)  # of a file system that does not say
        leases = daemon.runtime / "leases"
        leases.mkdir(mode=0o700)
        (leases / self.connection).write_text(re.sub(r"^inode=[1-9]\d*$", f"inode={directory.stat().st_ino}", record,
                                                     flags=re.M))
        daemon.effects_path.write_text(f"load mark {self.connection}\n")


def start(faults, target, crash):
    """From the first call on, with the lease of an earlier run to be released."""
    with played(faults) as daemon:
        crash.leave_in(daemon)
        faults.aim(target, is_armed=True)
        daemon.spawn()
        is_ready = daemon.wait_ready_or_end()
        faults.arm(False)
        if is_ready:
            daemon.try_talk("tcp4")
            daemon.forget_clients()
            daemon.check_no_spin()
        if daemon.is_alive():
            daemon.kill(SIGTERM)
        daemon.conclude()
        return faults.has_fired

"""machine: a whole Debian with a booted systemd, in a container, for the stories in this folder.

        from machine import Service, machine, main, scene

        @scene()
        def it_starts():
            with Service(CONFIG) as tetherd:            # writes tetherd.conf; afterwards stops and undoes everything
                tetherd.start()                         # or machine().run("systemctl start tetherd")
                client = tetherd.connect(7400)          # harness.Client, or a path for a UNIX socket
                tetherd.wait_ready(client)
                client.close()
                tetherd.wait_ended(client, "eof")
        main()

A story is one boot, which its scenes share; tetherd is installed with `make install` before the first of them.
`run` beside this file has made the namespaces, which take every process and mount with them, and the image: what a
machine writes is in memory above it, and gone with it.
"""

import atexit
import functools
import itertools
import json
import os
import shlex
import signal
import socket
import subprocess
from pathlib import Path

from harness import Client, Failure, die_with_parent, eventually, expect, expect_equal, main, scene, tell
from harness.network import inside_network
from harness.records import Records

__all__ = ["CONFIG_FILE", "Machine", "Service", "machine", "main", "scene"]

TOP = Path(__file__).resolve().parent.parent.parent
BUILD = Path(os.environ["TETHERD"]).parent
CONFIG_FILE = "/etc/tetherd/tetherd.conf"
RULES = "/etc/polkit-1/rules.d/50-tetherd.rules"
NUMBERS = itertools.count(1)
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8",
               "HOME": "/root", "SYSTEMD_PAGER": ""}


class Machine:
    def __init__(self):
        """Lays an empty layer over the image. What is in `root` is seen by the machine once it boots."""
        self.work = Path(os.environ["SERVICE_WORK"], f"machine-{os.getpid()}-{next(NUMBERS)}")
        self.work.mkdir()
        self.nspawn, self.pid = None, None  # and the machine's init
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", self.work], check=True)
        for name in ("upper", "internal", "root"):
            (self.work / name).mkdir()
        options = f"lowerdir={os.environ['SERVICE_ROOT']},upperdir={self.work}/upper,workdir={self.work}/internal"
        subprocess.run(["mount", "-t", "overlay", "-o", options, "overlay", self.work / "root"], check=True)

    def boot(self):
        """Returns when everything that starts at boot is started."""
        def enter_cgroup():
            die_with_parent()
            for folder in os.environ["SERVICE_CGROUPS"].split(":"):
                own = Path(folder, self.work.name)
                own.mkdir(exist_ok=True)  # it may boot again
                (own / "cgroup.procs").write_text(str(os.getpid()))
        command = ["systemd-nspawn", "--quiet", f"--directory={self.work}/root", f"--machine={self.work.name}",
                   f"--bind-ro={TOP}:{TOP}:norbind", f"--bind-ro={BUILD}:{BUILD}:norbind", "--register=no",
                   "--keep-unit", "--boot", "--private-network", "--console=pipe"]
        with open(self.work / "console", "wb") as console:
            self.nspawn = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=console, stderr=console,
                                           preexec_fn=enter_cgroup)
        self.pid = eventually(self.find_init, "the machine has an init", 60)
        eventually(lambda: self.is_up(), lambda: f"the machine is up; its console says\n{self.console()}", 60)
        return self

    def console(self):
        return (self.work / "console").read_text(errors="replace")

    def find_init(self):
        expect(self.nspawn.poll() is None, f"systemd-nspawn ended: {self.console()}")
        children = Path(f"/proc/{self.nspawn.pid}/task/{self.nspawn.pid}/children").read_text().split()
        for pid in children:
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue  # a helper of systemd-nspawn's that has ended meanwhile
            if "Name:\tsystemd\n" in status and status.partition("NSpid:")[2].split("\n")[0].split()[-1] == "1":
                return int(pid)
        return None

    def is_up(self):
        expect(self.nspawn.poll() is None, f"systemd-nspawn ended: {self.console()}")
        return self.try_run("systemctl is-system-running").stdout.strip() in ("running", "degraded")

    def close(self):
        """Pulls the plug: when this returns, no process of it is left."""
        if self.nspawn and self.nspawn.poll() is None:
            os.kill(self.pid or self.nspawn.pid, signal.SIGKILL)  # systemd-nspawn itself does not take its init along
            self.nspawn.wait()
            self.pid = None

    # -- in it --

    def try_run(self, line, text=None, timeout=120):
        """A line for its shell, as root; what came of it: returncode, stdout, stderr."""
        command = ["nsenter", "-t", str(self.pid), "-a", "--", "/bin/sh", "-c", line]
        return subprocess.run(command, input=text, text=True, capture_output=True, timeout=timeout, cwd="/",
                              env=ENVIRONMENT, errors="replace", stdin=None if text else subprocess.DEVNULL)

    def run(self, line, text=None, timeout=120):
        """The same for one that has to succeed: its stdout."""
        done = self.try_run(line, text, timeout)
        expect(done.returncode == 0, f"`{line}` exited with {done.returncode}: {(done.stdout + done.stderr).strip()}")
        return done.stdout

    def path(self, path):
        """Where this path of the machine is, for us: to read and write it from outside."""
        return Path(f"/proc/{self.pid}/root", path.lstrip("/"))

    def write(self, path, text, mode=0o644):
        """A file with this text, root's own; its folder is made."""
        file = self.path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)
        if path == RULES:  # which polkitd(8) reads by itself, but not within a time that one could wait for
            self.run("systemctl reset-failed polkit; systemctl restart polkit")

    def read(self, path):
        return self.path(path).read_text(errors="replace")

    def make(self, target):
        """`make install` and such, as a person would on a machine where it was built; nothing is built here."""
        build = shlex.quote(str(BUILD))
        return self.run(f"make -C {shlex.quote(str(TOP))} B={build} -o {build}/tetherd {target}")

    def socket(self, to, uid=0, timeout=20, source=None):
        """A socket connected from within it: to a port of 127.0.0.1, from there or from the address `source`; to a
        (family, address); or to the path of a UNIX socket, which sees `uid` as the client's user."""
        family, address = to if isinstance(to, tuple) else (socket.AF_INET, ("127.0.0.1", to))
        with inside_network(self.pid):
            client = socket.socket(socket.AF_UNIX if isinstance(to, str) else family)
            client.settimeout(timeout)
            if not isinstance(to, str):
                if source:
                    client.bind((source, 0))
                client.connect(address)
                return client
        own = os.open("/", os.O_PATH)
        try:
            os.chdir(self.path(to).parent)  # a path of ours would be too long for a socket's, and not all ours
            os.seteuid(uid)
            client.connect(Path(to).name)
        finally:
            os.seteuid(0)
            os.fchdir(own)
            os.close(own)
        return client

    def journal(self, *matches, options=()):
        """Records of its journal, as journalctl(1) finds them."""
        words = shlex.join(["journalctl", "--quiet", "--all", "--output=json", *options, *matches])
        return [json.loads(line) for line in self.run(f"journalctl --sync; {words}").splitlines()]


@functools.cache
def machine():
    """The one of this story, booted, with tetherd installed."""
    one = Machine()
    atexit.register(one.close)
    one.boot()
    one.make("install")
    return one


class Undead:
    """For Records: systemd may start it again, so it is never over."""

    @staticmethod
    def poll():
        return None


class Service(Records):
    """tetherd with one configuration, as a unit of the machine. Within `with`, it is not started by itself; when
    that is left, it is stopped, what was written is undone, and nothing may be left of it."""

    process = Undead()

    def __init__(self, config, unit="tetherd.service", path=CONFIG_FILE):
        self.machine = machine()
        self.config, self.unit, self.path = config, unit, path
        self.drop_ins = Path("/etc/systemd/system", f"{unit}.d")
        self.written = []  # files, and what was in them; None: they were not there
        self.records, self.clients, self.n_runs = [], [], 0
        self.may_leave_leases = False

    def __enter__(self):
        self.cursor = self.machine.run("journalctl --quiet -n 1 --show-cursor | sed -n 's/^-- cursor: //p'").strip()
        self.configure(self.config)
        return self

    def write(self, path, text, mode=0o644):
        """A file of the machine, for the time of the scene."""
        self.undo(path)
        self.machine.write(path, text, mode)

    def undo(self, path):
        """Whatever becomes of this file from now on, it is as it was afterwards."""
        if path not in [known for known, _ in self.written]:
            file = self.machine.path(path)
            self.written.append((path, file.read_text() if file.exists() else None))

    def configure(self, config):
        """Writes the configuration; tetherd sees it at its next start or reload."""
        self.write(self.path, "[daemon]\nlog_level = debug\n" + config)

    def drop_in(self, text, name="scene.conf"):
        """A drop-in of the unit, for the time of the scene."""
        self.write(f"{self.drop_ins}/{name}", text)
        self.machine.run("systemctl daemon-reload")

    def start(self):
        self.machine.run(f"systemctl start {self.unit}")
        return self

    def fail_to_start(self):
        """Its start has to fail: the messages of tetherd."""
        self.machine.run(f"systemctl reset-failed {self.unit} || :")
        done = self.machine.try_run(f"systemctl start {self.unit}")
        expect(done.returncode != 0, f"{self.unit} started")
        return "\n".join(record["MESSAGE"] for record in self.poll_records() if record.get("SYSLOG_IDENTIFIER") == "tetherd")

    def show(self, name):
        """A property of the unit."""
        return self.machine.run(f"systemctl show --property={name} --value {self.unit}").strip()

    @property
    def pid(self):
        """As the machine sees it."""
        return int(self.show("MainPID"))

    # -- for Records --

    def sync(self):
        self.machine.run("journalctl --sync")

    def poll_records(self):
        """What its unit wrote, and systemd about it, since the scene began."""
        options = [f"--after-cursor={self.cursor}"] if self.cursor else []
        new = self.machine.journal(f"_SYSTEMD_UNIT={self.unit}", "+", f"UNIT={self.unit}", "+",
                                   "SYSLOG_IDENTIFIER=tetherd", options=options)
        if new:
            self.cursor = new[-1]["__CURSOR"]
        self.records += [record for record in new if self.is_own(record)]
        return self.records

    def is_own(self, record):
        """The last words of a process that is gone come to journald without its unit, which it looks up."""
        unit = record.get("_SYSTEMD_UNIT")
        instance = self.unit.removesuffix(".service").partition("@")[2]
        return (self.unit in (unit, record.get("UNIT"))
                or unit is None and record.get("TETHERD_INSTANCE", "") == instance)

    def connect(self, to, **options):
        """A client, see Machine.socket()."""
        kind = "unix" if isinstance(to, str) else "tcp4"
        port = to[1][1] if isinstance(to, tuple) else to
        client = Client(self, kind, self.machine.socket(to, **options), None if kind == "unix" else port)
        self.clients.append(client)
        return client

    def __exit__(self, kind, error, traceback):
        try:
            if error:
                self.describe()
            self.forget_clients()
            stopped = self.machine.try_run(f"systemctl stop {self.unit}")
            self.machine.run(f"systemctl reset-failed {self.unit} || :")
            if not error:
                expect_equal(stopped.returncode, 0, f"exit status of systemctl stop {self.unit}")
                self.check_left()
        finally:
            for path, text in reversed(self.written):
                if text is None:
                    self.machine.path(path).unlink(missing_ok=True)
                else:
                    self.machine.write(path, text)
            if any(str(path).startswith("/etc/systemd/") for path, _ in self.written):
                self.machine.run("systemctl daemon-reload")

    def check_left(self):
        """No process, no lease."""
        name = self.unit.removesuffix(".service").replace("@", "-")
        leases = [] if self.may_leave_leases else [
            path for folder in ("run", "var/lib") for path in self.machine.path(f"/{folder}/{name}").glob("leases/*")]
        expect(not leases, f"leases are left: {leases}")
        expect_equal(self.show("ActiveState"), "inactive", f"state of {self.unit} after the scene")
        processes = self.machine.try_run("pgrep -x tetherd -a").stdout if name == "tetherd" else ""
        expect(not processes.strip(), f"processes are left: {processes}")

    def describe(self):
        """For the reader of a failure."""
        tell(f"--- {self.path}\n{self.machine.read(self.path)}")
        tell(self.machine.try_run(f"systemctl status --no-pager --lines=0 {self.unit}").stdout)
        try:
            self.poll_records()
        except Failure as failure:
            tell(str(failure))
        for record in self.records[-40:]:
            tell("<%s> %s %s: %s" % (record.get("PRIORITY"), record.get("SYSLOG_IDENTIFIER", "-"),
                                     record.get("TETHERD_EVENT", "-"), record.get("MESSAGE")))

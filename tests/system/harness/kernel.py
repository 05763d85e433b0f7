"""What the kernel says of the daemon: descriptors, children, memory, work, files."""

import contextlib
import os
import re
import subprocess
from collections import Counter
from pathlib import Path

from harness.basics import expect, need_program


class Kernel:
    """The part of Daemon that looks at it from outside."""

    def status_field(self, name):
        text = Path(f"/proc/{self.pid}/status").read_text()
        return re.search(rf"^{name}:\s*(.*)$", text, re.M)[1]

    def context_switches(self):
        return int(self.status_field("voluntary_ctxt_switches")) + int(self.status_field("nonvoluntary_ctxt_switches"))

    def cpu_ticks(self):
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    @contextlib.contextmanager
    def traced(self, *options):
        """In this block strace(1) sees every system call of the daemon. Yields its output."""
        need_program("strace")
        trace = self.directory / "trace"
        strace = subprocess.Popen(["strace", *options, "-o", trace, "-p", str(self.pid)], stderr=subprocess.PIPE,
                                  text=True)
        try:
            said = strace.stderr.readline()  # it stands still from then on, until it is seen to
            expect("attached" in said, f"strace says {said!r}")
            yield trace
        finally:
            strace.terminate()
            strace.communicate()

    def failing(self, call, error, when=""):
        """In this block the kernel refuses the daemon this system call, as strace(1) words it. Yields strace's output."""
        return self.traced("-e", f"trace={call}", "-e", f"inject={call}:error={error}{when}")

    def resident_bytes(self):
        return int(self.status_field("VmRSS").split()[0]) * 1024

    def descriptors(self):
        """What /proc/PID/fd holds, by kind. Anonymous inodes but pidfds are left out: sd-event makes its own lazily."""
        kinds = Counter()
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                kind = os.readlink(f"/proc/{self.pid}/fd/{fd}")
                if not kind.startswith("anon_inode") or "pidfd" in kind:
                    kinds[re.sub(r":\[.*", "", kind)] += 1
        return kinds

    def children(self):
        return Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()

    def processes(self):
        """Every process with this scene's directory in its command line: the daemon, and commands whoever's child."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):  # it may end meanwhile
                if str(self.directory).encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(int(pid))
        return found

    def files(self):
        """Every path below the two directories but sockets' own."""
        return {str(path) for root in (self.runtime, self.state) for path in root.rglob("*")}

    def ledger_files(self):
        return sorted(self.files() - self.idle_files)

    def effects(self, *resources):
        """What the resources' commands wrote: [(phase, resource, id)]; of `resources` only, where given."""
        lines = [tuple(line.split(" ", 2)) for line in self.effects_path.read_text().splitlines()]
        return [line for line in lines if not resources or line[1] in resources]

"""A real journald, apart from the machine's."""

import functools
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from harness.basics import HERE, Failure, Skip


class Journald:
    """A private systemd-journald (the script `journald` beside this file), one for all scenes of a story."""

    def __init__(self, before=()):
        """`before` goes before the command that starts it."""
        self.before = before
        self.directory = Path(tempfile.mkdtemp(prefix="tetherd-journald-"))
        self.enter = [str(HERE / "journald"), "run", str(self.directory)]
        started = self.call("start")
        if started.returncode:
            self.stop()
            raise (Skip if started.returncode == 77 else Failure)(started.stderr.decode().strip())
        self.records = f"/proc/{(self.directory / 'namespace').read_text().strip()}/root/run/log/journal"

    def call(self, verb, *arguments):
        return subprocess.run([*self.before, HERE / "journald", verb, self.directory, *arguments], stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, cwd="/")

    def kill(self, number):
        os.kill(int((self.directory / "pid").read_text()), number)

    def read(self, pid, cursor):
        """The records of process `pid` after `cursor`, and the new cursor."""
        command = ["journalctl", "--quiet", "--all", "--output=json", f"--directory={self.records}", f"_PID={pid}"]
        if cursor:
            command.append(f"--after-cursor={cursor}")
        output = subprocess.run(command, capture_output=True, check=True).stdout
        records = [json.loads(line) for line in output.splitlines()]
        return records, records[-1]["__CURSOR"] if records else cursor

    def sync(self):
        """When this returns, everything that was sent before can be read."""
        subprocess.run([*self.enter, "journalctl", "--quiet", "--sync"], check=True, cwd="/")

    def stop(self):
        self.call("stop")
        shutil.rmtree(self.directory, ignore_errors=True)


@functools.cache
def journald():
    return Journald()

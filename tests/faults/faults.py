"""Who makes the calls of the daemon fail (faults.c), and who reads its journal in this process."""

import contextlib
import mmap
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path

# As in faults.c.
LAYOUT = struct.Struct("=IIQIIi28s12Q")
PLACES = struct.Struct("=16384Q")
CUT_SHORT = -1


class Faults:
    """The memory that is shared with the daemon."""

    def __init__(self, path):
        self.path = Path(path)
        self.path.write_bytes(bytes(LAYOUT.size + PLACES.size))
        with open(self.path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), 0)

    def fields(self):
        return LAYOUT.unpack_from(self.memory)

    def aim(self, target, is_armed=False):
        """`target`: the call that is to fail, PLACE:NTH as calls() has it; None: none."""
        place, _, nth = (target or "0:0").partition(":")
        LAYOUT.pack_into(self.memory, 0, is_armed, 0, int(place, 16), int(nth), 0, 0, b"", *[0] * 12)

    def arm(self, is_armed=True):
        self.memory[0:4] = struct.pack("=I", is_armed)

    @property
    def has_fired(self):
        return self.call != ""

    @property
    def call(self):
        return self.fields()[6].rstrip(bytes(1)).decode()

    def calls(self):
        """Those that were counted, each by its callers and which of theirs it was."""
        seen = Counter()
        names = []
        for place in PLACES.unpack_from(self.memory, LAYOUT.size)[:self.fields()[1]]:
            seen[place] += 1
            names.append(f"{place:016x}:{seen[place]}")
        return names

    def describe(self, binary):
        """The call that failed and who made it."""
        _, _, _, nth, _, error, _, *frames = self.fields()
        if not self.has_fired:
            return "no call was made to fail"
        how = "was cut short" if error == CUT_SHORT else f"said {os.strerror(error)}"
        addresses = [hex(frame - 1) for frame in frames if frame]
        lines = []
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            output = subprocess.run(["addr2line", "-f", "-s", "-e", binary, *addresses], capture_output=True,
                                    text=True, check=True).stdout.splitlines()
            lines = [f"{function} ({where})" for function, where in zip(output[::2], output[1::2])
                     if "?" not in where and function not in ("find_callers", "fails")
                     and not function.startswith("__wrap_")]
        return f"{self.call} {how}, the {nth}. time, in {' < '.join(lines[:8])}"


SO_PASSCRED, SCM_CREDENTIALS = 16, 2
SOCKET_PATH = "/run/systemd/journal/socket"


class Journal:
    """A socket where journald's would be; with the methods of harness.journald.Journald that a Daemon uses."""

    enter = ()

    def __init__(self):
        os.makedirs(os.path.dirname(SOCKET_PATH))
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, SO_PASSCRED, 1)
        self.socket.bind(SOCKET_PATH)
        self.records = {}  # by pid
        self.lock = threading.Lock()
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            select.select([self.socket], [], [])
            with self.lock:
                data, ancillary, _, _ = self.socket.recvmsg(1 << 18, socket.CMSG_SPACE(12) + socket.CMSG_SPACE(4))
                control = {kind: value for _, kind, value in ancillary}
                if socket.SCM_RIGHTS in control:  # too large for a datagram
                    with os.fdopen(struct.unpack("i", control[socket.SCM_RIGHTS])[0], "rb") as file:
                        file.seek(0)
                        data = file.read()
                pid = struct.unpack("3i", control[SCM_CREDENTIALS])[0]
                self.records.setdefault(pid, []).append(parse(data))

    def sync(self):
        while select.select([self.socket], [], [], 0)[0]:
            time.sleep(0.0005)
        with self.lock:
            pass

    def read(self, pid, cursor):
        with self.lock:
            records = self.records.get(pid, [])[cursor or 0:]
        return records, (cursor or 0) + len(records)

    def forget(self):
        with self.lock:
            self.records.clear()


def parse(data):
    """One record of journald's native protocol."""
    record = {}
    while data:
        line, _, data = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = struct.unpack("<Q", data[:8])[0]
            value, data = data[8:8 + size], data[9 + size:]
        record[name.decode()] = value.decode(errors="replace")
    return record

"""What every part needs: the environment, what a failure is, waiting with a deadline."""

import ctypes
import os
import shlex
import shutil
import signal
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
BINARY = os.path.abspath(os.environ.get("TETHERD", HERE.parent.parent / "build/tetherd"))
WRAPPER = shlex.split(os.environ.get("WRAPPER", ""))
SLOW = float(os.environ.get("TETHERD_SLOW", "1"))
IS_ROOT = os.geteuid() == 0
# Not /run, which the daemon sees empty (journald), nor /tmp, where everybody may write: `directory` refuses that.
DIRECTORY = "/var/lib" if IS_ROOT else None


class Failure(Exception):
    """The daemon did not do what the story expects."""


class Skip(Exception):
    """The scene cannot be played here; the text says why."""


def expect(condition, message):
    if not condition:
        raise Failure(message)


def expect_equal(actual, wanted, what):
    expect(actual == wanted, f"{what}: expected {wanted!r}, found {actual!r}")


TOLD = []


def tell(text):
    """A line or more for the reader of this scene, should it fail."""
    TOLD.extend(text.splitlines())


def is_sanitized():
    """Whether the binary is: its memory and its time are then the sanitizer's, which keeps what was freed."""
    return b"__asan_init" in Path(BINARY).read_bytes()


def need_root():
    if not IS_ROOT:
        raise Skip("needs root")


def need_program(name):
    if not shutil.which(name):
        raise Skip(f"needs {name}")


def eventually(probe, what, timeout=20):
    """Calls probe() until it gives something true, and returns that."""
    deadline = time.monotonic() + timeout * SLOW
    pause = 0.002
    while True:
        result = probe()
        if result:
            return result
        if time.monotonic() > deadline:
            raise Failure(f"not within {timeout * SLOW:g} s: {what() if callable(what) else what}")
        time.sleep(pause)
        pause = min(pause * 2, 0.1)


def die_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

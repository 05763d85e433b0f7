"""harness: the real tetherd on real sockets with a real journald, for the stories in this folder.

A story is a file; a scene is one function in it. Each scene starts a Daemon in a directory of its own, plays
clients, and expects records. When it leaves its `with`, the books must balance: every accepted connection has
exactly one ending, every load one release, and no descriptor, child, directory or ledger record is left.

Nothing here sleeps to synchronise: it waits for a record, a notification, a byte, or polls a state of the
process with a deadline.

Environment: TETHERD the binary; WRAPPER a command put before it (valgrind); TETHERD_SLOW a factor for every
deadline (sanitizers, slow machines).
"""

from harness.basics import (BINARY, SLOW, WRAPPER, Failure, Skip, die_with_parent, eventually, expect, expect_equal,
                            is_sanitized, need_program, need_root, tell)
from harness.client import Client
from harness.daemon import MARK, Daemon
from harness.gates import GATE, hold, let_go, open_gate, wait_at_gate
from harness.journald import journald
from harness.story import main, scene

__all__ = ["BINARY", "GATE", "MARK", "SLOW", "WRAPPER", "Client", "Daemon", "Failure", "Skip", "die_with_parent",
           "eventually", "expect", "expect_equal", "hold", "is_sanitized", "journald", "let_go", "main", "need_program",
           "need_root", "open_gate", "scene", "tell", "wait_at_gate"]

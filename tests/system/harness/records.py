"""What the daemon says: records, notifications, stderr."""

import errno
import re
import select
import time
from collections import defaultdict

from harness.basics import SLOW, Failure, eventually, expect
from harness.journald import journald

# What each cause goes with: operations, errnos, initiators (interface.md, "Causes").
CAUSES = {
    "eof": (("receive",), (0,), ("peer",)),
    "reset": (("receive", "send"), (errno.ECONNRESET,), ("peer",)),
    "aborted": (("receive", "send"), (errno.ECONNABORTED,), ("local",)),
    "keepalive-timeout": (("receive", "send"), (errno.ETIMEDOUT,), ("network",)),
    "transmit-timeout": (("receive", "send"), (errno.ETIMEDOUT,), ("network",)),
    "stalled": (("send",), (errno.ETIMEDOUT,), ("peer",)),
    "unreachable": (("receive", "send"), (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ECONNREFUSED,
                                          errno.EACCES), ("network",)),
    "handshake-timeout": (("handshake",), (0,), ("local",)),
    "idle-timeout": (("receive",), (0,), ("local",)),
    "half-close-timeout": (("receive",), (0,), ("local",)),
    "max-age": (("receive",), (0,), ("local",)),
    "protocol-error": (("handshake",), (0,), ("peer",)),
    "denied": (("accept",), (0,), ("local",)),
    "limit": (("accept",), (0,), ("local",)),
    "load-failed": (("handshake",), (0,), ("local",)),
    "load-timeout": (("handshake",), (0,), ("local",)),
    "pool-empty": (("handshake",), (0,), ("local",)),
    "process-exited": (("none",), (0,), ("local",)),
    "handler": (("close",), (0,), ("local",)),
    "shutdown": (("close",), (0,), ("local",)),
    "resource-lost": (("none",), (0,), ("local",)),
}


class Records:
    """The part of Daemon that listens."""

    def stderr(self):
        return self.stderr_path.read_text(errors="replace") if self.stderr_path.exists() else ""

    def wait_notified(self, line, timeout=20):
        """Waits for a notification that has a line beginning so; returns it. Each is found once."""
        deadline = time.monotonic() + timeout * SLOW
        while True:
            for i, message in enumerate(self.notified):
                if any(part.startswith(line) for part in message.split("\n")):
                    del self.notified[: i + 1]
                    return message
            ready, _, _ = select.select([self.notify], [], [], 0.2)
            if ready:
                self.notified.append(self.notify.recv(65536).decode())
            elif self.process.poll() is not None:
                raise Failure(f"the daemon exited with {self.process.returncode} before it said {line}")
            elif time.monotonic() > deadline:
                raise Failure(f"no notification {line} within {timeout * SLOW:g} s")

    def drop_notifications(self):
        """Forgets what was told so far."""
        self.notified.clear()
        while select.select([self.notify], [], [], 0)[0]:
            self.notify.recv(65536)

    def sync(self):
        """When this returns, everything that was said before can be read."""
        journald().sync()

    def poll_records(self):
        new, self.cursor = journald().read(self.pid, self.cursor)
        # The kernel gives numbers again: an earlier daemon of this story may have had this one's.
        self.records += [record for record in new if int(record.get("__REALTIME_TIMESTAMP", self.born)) >= self.born]
        return self.records

    def name_clients(self):
        """Gives each client of this run its id: by its two ends, then by order."""
        def probe():
            self.poll_records()
            taken = {client._id for client in self.clients}
            accepted = [record for record in self.find("accepted") if record["TETHERD_CONNECTION"] not in taken]
            waiting = defaultdict(list)
            for record in accepted:
                ends = (record["TETHERD_REMOTE_ADDRESS"], record.get("TETHERD_REMOTE_PORT"), record.get("TETHERD_LOCAL_PORT"))
                waiting[ends].append(record["TETHERD_CONNECTION"])
            unnamed = [client for client in self.clients if client._id is None]
            for client in unnamed:
                ids = waiting[client.ends]
                client._id = ids.pop(0) if ids else None
            return all(client._id for client in unnamed)
        eventually(probe, "every client has an `accepted` record")

    def forget_clients(self):
        for client in self.clients:
            client.socket.close()

    def find(self, event=None, **fields):
        """Records of this run with these fields; event = TETHERD_EVENT. A field's value may be a pattern."""
        def matches(record):
            if event and record.get("TETHERD_EVENT") != event:
                return False
            for name, wanted in fields.items():
                value = record.get(name)
                if isinstance(wanted, re.Pattern):
                    if value is None or not wanted.search(value):
                        return False
                elif value != str(wanted):
                    return False
            return True
        return [record for record in self.records if matches(record)]

    def wait_record(self, event=None, timeout=20, count=1, **fields):
        """Waits until `count` such records are there; returns the last of them."""
        def probe():
            has_exited = self.process.poll() is not None
            if len(self.find(event, **fields)) < count:
                if has_exited:
                    self.sync()
                self.poll_records()
            found = self.find(event, **fields)
            if len(found) < count and has_exited:
                raise Failure(f"the daemon exited with {self.process.returncode} before it wrote {wanted}")
            return found[count - 1] if len(found) >= count else None
        wanted = ", ".join([event or "record", *(f"{name}={value}" for name, value in fields.items())])
        return eventually(probe, lambda: f"{wanted} ({len(self.find(event, **fields))} of {count} seen)", timeout)

    def wait_ready(self, client, timeout=20):
        def probe():
            self.poll_records()
            return self.find("ready", TETHERD_CONNECTION=client.id) or self.endings(client.id)
        record = eventually(probe, f"{client.kind} client {client.id} is ready", timeout)[-1]
        expect(record["TETHERD_EVENT"] == "ready", f"it was never ready: {record['MESSAGE']}")
        return record

    def wait_ended(self, client, cause, event="closed", state="ready", timeout=20, operation=None, error=None,
                   **fields):
        """Waits for the one record that tells how this client ended, and checks what it says."""
        operations, errors, initiators = CAUSES[cause]
        def probe():
            self.poll_records()
            return self.endings(client.id)
        record = eventually(probe, f"{event}, cause {cause} of {client.kind} client {client.id}", timeout)[0]
        said = {name: record.get(name) for name in ("TETHERD_EVENT", "TETHERD_CAUSE", "TETHERD_OPERATION", "ERRNO",
                                                    "TETHERD_INITIATOR", "TETHERD_STATE", "MESSAGE")}
        def check(name, allowed):
            expect(record.get(name) in [str(value) for value in allowed],
                   f"{name} is {record.get(name)!r}, expected {' or '.join(map(str, allowed))}; the record says {said}")
        check("TETHERD_EVENT", event if isinstance(event, tuple) else (event,))
        check("TETHERD_CAUSE", (cause,))
        check("TETHERD_STATE", state if isinstance(state, tuple) else (state,))
        check("TETHERD_OPERATION", (operation,) if operation else operations)
        check("ERRNO", errors if error is None else error if isinstance(error, tuple) else (error,))
        check("TETHERD_INITIATOR", initiators)
        for name, value in fields.items():
            check(name, value if isinstance(value, tuple) else (value,))
        return record

    def n_rejected(self, **fields):
        """How many of these were rejected, told one by one or as a mere count."""
        counts = self.find("rejected-more", **fields)
        return len(self.find("rejected", **fields)) + sum(int(record["TETHERD_REJECTED"]) for record in counts)

    def wait_rejected(self, n, timeout=20, **fields):
        def probe():
            self.poll_records()
            return self.n_rejected(**fields) >= n
        eventually(probe, lambda: f"{n} were rejected, {fields}: {self.n_rejected(**fields)}", timeout)
        expect(self.n_rejected(**fields) == n, f"{self.n_rejected(**fields)} were rejected, {fields}, not {n}")

    def endings(self, connection_id):
        return [record for record in self.records if record.get("TETHERD_EVENT") in ("closed", "rejected")
                and record.get("TETHERD_CONNECTION") == connection_id]

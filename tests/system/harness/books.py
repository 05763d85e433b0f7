"""The oracle at the end of every scene."""

import re
from collections import Counter

from harness.basics import eventually, expect


class Books:
    """The part of Daemon that checks that everything is accounted for."""

    def check_books(self):
        """Nobody is connected any more: everything is accounted for, and nothing is held."""
        self.forget_clients()
        def unended():
            self.poll_records()
            return self.unended()
        eventually(lambda: self.may_lose_records or self.is_on_stderr or not unended(),
                   lambda: f"these connections ended: {unended()}", 20)
        eventually(lambda: self.descriptors() == self.idle_descriptors,
                   lambda: f"descriptors fell back to those of an idle daemon, {self.idle_descriptors}: "
                           f"{self.descriptors()}")
        eventually(lambda: len(self.children()) == self.n_idle_children,
                   lambda: f"no child process is left but {self.n_idle_children} helpers: {self.children()}")
        eventually(lambda: not self.ledger_files(), lambda: f"no ledger record is left: {self.ledger_files()}")

    def unended(self):
        """Connections without an ending, but for as many as were told as a mere count ("… more rejected")."""
        endings = self.find("closed") + self.find("rejected")
        ended = {record.get("TETHERD_CONNECTION") for record in endings}
        missing = [record["TETHERD_CONNECTION"] for record in self.find("accepted")
                   if record["TETHERD_CONNECTION"] not in ended]
        counted = sum(int(record["TETHERD_REJECTED"]) for record in self.records if "TETHERD_REJECTED" in record)
        return missing[counted:]

    def check_left(self):
        """The daemon is gone: one ending each, one release for each load, no file, records without a gap."""
        if not self.is_on_stderr:
            self.check_records()
        self.check_effects()
        eventually(lambda: not self.processes(), lambda: f"no process is left: {self.processes()}")
        left = list((self.directory / "connections").glob("*"))
        expect(not left, f"directories are left: {left}")
        expect(not self.ledger_files(), f"ledger records are left: {self.ledger_files()}")
        problems = re.findall(r"^.*(?:AddressSanitizer|LeakSanitizer|runtime error:|Assertion).*$", self.stderr(), re.M)
        expect(not problems, f"{problems}")

    def check_effects(self):
        loads, releases = Counter(), Counter()
        for phase, resource, connection in self.effects():
            {"load": loads, "release": releases}.get(phase, Counter())[resource, connection] += 1
        for key in self.interrupted(loads, releases):
            del loads[key], releases[key]
        expect(max(loads.values(), default=0) <= 1, f"loaded twice: {[k for k, n in loads.items() if n > 1]}")
        expect(loads == releases, f"loads and releases do not balance: loaded only {loads - releases}, "
                                  f"released only {releases - loads}")

    def interrupted(self, loads, releases):
        """What a SIGKILL may have interrupted, and how that may look: a load that did not come to telling of itself, a
        release that ran again."""
        return [(resource, connection) for resource, connection in loads | releases if connection in self.orphans
                and loads[resource, connection] <= 1 <= releases[resource, connection] <= 2]

    def check_records(self):
        self.poll_records()
        endings = Counter(record["TETHERD_CONNECTION"] for record in self.find("closed") + self.find("rejected")
                          if "TETHERD_CONNECTION" in record)
        expect(max(endings.values(), default=0) <= 1, f"ended twice: {[i for i, n in endings.items() if n > 1]}")
        if self.process.returncode == 0 and not self.may_lose_records:
            expect(not self.unended(), f"accepted, but no ending was told: {self.unended()}")
        numbers = [int(record["TETHERD_SEQUENCE"]) for record in self.records if "TETHERD_SEQUENCE" in record]
        gaps = [(a, b) for a, b in zip(numbers, numbers[1:]) if b != a + 1]
        expect(not gaps or self.may_lose_records, f"TETHERD_SEQUENCE has gaps: {gaps[:5]}")
        for record in self.records:
            expect("TETHERD_EVENT" not in record or re.fullmatch("[0-9a-f]{32}", record.get("MESSAGE_ID", "")),
                   f"no MESSAGE_ID: {record}")

"""recipes: every command among the examples of tetherd(8), as man(1) prints it, over a journal of which we know what
is in it. A recipe that this story does not know is a failure."""

import re
import subprocess
from pathlib import Path

from machine import TOP, Service, machine, main, scene

from harness import eventually, expect, expect_equal

PAGE = TOP / "man/tetherd.8"
ID_IN_PAGE = "6421f0a3b7c01"
CONFIG = """
[listener:presence]
listen = 127.0.0.1:7400
resources = session
deny = 127.0.0.2
detect_within = 6s

[listener:tight]
listen = 127.0.0.1:7401
max_connections_per_source = 1

[listener:fragile]
listen = 127.0.0.1:7402
resources = fragile

[listener:seated]
listen = 127.0.0.1:7403
resources = ports

[resource:ports]
type = pool
items = port-1, port-2, port-3

[resource:session]
type = exec
load = /bin/sh -c 'echo value; echo "set up for $TETHERD_CONNECTION"'

[resource:fragile]
type = exec
release = /bin/sh -c 'test -e /run/tetherd/mended'
release_attempts = 1
"""
N_DENIED = 25


def printed_recipes():
    """The commands below EXAMPLES, each as one text, with the paragraph that explains it."""
    page = subprocess.run(["mandoc", "-T", "ascii", "-O", "width=200", PAGE], capture_output=True, text=True,
                          check=True).stdout
    page = subprocess.run(["col", "-bx"], input=page, capture_output=True, text=True, check=True).stdout
    section = page.partition("\nEXAMPLES\n")[2].partition("\nSEE ALSO\n")[0]
    recipes, introduction = [], ""
    for line in section.splitlines():
        text = line.strip()
        if re.match(r"[$#] ", text):
            recipes.append([introduction, text[2:]])
        elif re.match(r" {8}", line) and text:
            recipes[-1][1] += "\n" + text
        elif text:
            introduction = text
    return recipes


class History:
    """Plays what the recipes are to find."""

    def __init__(self, tetherd):
        self.tetherd = tetherd
        tetherd.start()
        self.polite = self.client(7400)
        self.polite.close()
        tetherd.wait_ended(self.polite, "eof")
        self.rude = self.client(7400)
        self.rude.reset()
        tetherd.wait_ended(self.rude, "reset")
        self.fragile = self.client(7402)
        self.fragile.close()
        tetherd.wait_record("quarantined", TETHERD_CONNECTION=self.fragile.id)
        self.seated = [self.client(7403) for _ in range(3)]
        self.refuse()
        self.vanish()

    def client(self, port):
        client = self.tetherd.connect(port)
        self.tetherd.wait_ready(client)
        return client

    def refuse(self):
        """One over its limit, and more that are denied than are written down."""
        self.first = self.client(7401)
        self.second = self.tetherd.connect(7401)
        self.tetherd.wait_ended(self.second, "limit", event="rejected", state="accept")
        for _ in range(N_DENIED):
            machine().socket(7400, source="127.0.0.2").close()
        self.tetherd.wait_rejected(N_DENIED, TETHERD_CAUSE="denied")
        expect(self.tetherd.find("rejected-more"), f"some of {N_DENIED} refusals are only counted")

    def vanish(self):
        """A client whose host is gone: nothing comes from it any more."""
        self.lost = self.client(7400)
        rules = f"""
            add table inet cut
            add chain inet cut in {{ type filter hook input priority 0; }}
            add rule inet cut in tcp sport {self.lost.port} drop
        """
        subprocess.run(["nsenter", "-t", str(machine().pid), "-n", "nft", "-f", "-"], input=rules, text=True,
                       check=True)
        self.tetherd.wait_ended(self.lost, "keepalive-timeout", timeout=20)

    # -- what each recipe has to print; the keys are words of its introduction in the page --

    def endings(self):
        return [self.polite, self.rude, self.lost]

    def explain(self, said):
        expect("[listener:presence]" in said and "vanishes while idle" in said, f"a table is printed: {said}")

    def last_endings(self, said):
        expect_equal(re.findall(r"connection (\w+) from .* on presence closed", said), [one.id for one in self.endings()],
                     "the endings")

    def one_life(self, said):
        for words in ("accepted", f"set up for {self.polite.id}", "on presence ready", "closed by peer"):
            expect(words in said, f"'{words}' is in this life: {said}")
        expect(self.rude.id not in said, f"another connection is in it: {said}")

    def one_life_explained(self, said):
        for words in (f"Subject: Connection {self.polite.id} ended: eof", "Defined-By: tetherd",
                      'The cause is "eof", noticed in state "ready"', f"journalctl TETHERD_CONNECTION={self.polite.id}"):
            expect(words in said, f"'{words}' is explained: {said}")
        expect(not re.search(r"@TETHERD\w*@", said), f"every field of the catalog is filled in: {said}")

    def one_ending_with_all_fields(self, said):
        for words in ("TETHERD_CAUSE=eof", "TETHERD_INITIATOR=peer", "TETHERD_DURATION_USEC=", "_SYSTEMD_UNIT=tetherd"):
            expect(words in said, f"{words} is among the fields: {said}")

    def not_orderly(self, said):
        expect_equal(said.splitlines(), [f"{self.rude.id}\t127.0.0.1\treset", f"{self.lost.id}\t127.0.0.1\t"
                                         "keepalive-timeout"], "the endings that were not orderly")

    def counts(self, said):
        n = {cause: int(count) for count, cause in (line.split() for line in said.splitlines())}
        denied = self.tetherd.find("rejected", TETHERD_CAUSE="denied")
        expect_equal(n, {"denied": len(denied), "limit": 1, "eof": 2, "reset": 1, "keepalive-timeout": 1}, "counts")

    def lost_to_the_network(self, said):
        address, cause, seconds = said.strip().split("\t")
        expect_equal((address, cause), ("127.0.0.1", "keepalive-timeout"), "who was lost, and how")
        expect(0 < float(seconds) < 20, f"nothing had come for {seconds} s")

    def turned_away(self, said):
        denied = self.tetherd.find("rejected", TETHERD_CAUSE="denied")
        expect_equal([line.split() for line in said.splitlines()],
                     [[str(len(denied)), "presence", "denied", "127.0.0.2"], ["1", "tight", "limit", "127.0.0.1"]],
                     "who was turned away")

    def only_counted(self, said):
        more = sum(int(record["TETHERD_REJECTED"]) for record in self.tetherd.find("rejected-more"))
        expect_equal(said.strip(), str(more), "how many were only counted")

    def quarantined(self, said):
        expect("fragile" in said and self.fragile.id in said, f"the resource is named: {said}")
        machine().path("/run/tetherd/mended").touch()

    def tried_again(self, said):
        expect_equal(said, "", "what systemctl reload says")
        record = machine().path(f"/run/tetherd/leases/{self.fragile.id}")
        eventually(lambda: not record.exists(), "it is released")
        machine().path("/run/tetherd/mended").unlink()

    def pools_asked_for(self, said):
        expect_equal(said, "", "what systemctl kill says")
        self.tetherd.wait_record(MESSAGE=re.compile("^summary: pool ports: .* held by"))

    def holder(self, said):
        expect(f"port-3 held by {self.seated[2].id}" in said, f"the holder is named: {said}")

    def holders_before(self, said):
        expect_equal(re.findall(r"connection (\w+) load of ports: took", said), [self.seated[2].id], "who took port-3")

    def summary_asked_for(self, said):
        expect_equal(said, "", "what systemctl kill says")
        self.tetherd.wait_record(MESSAGE=re.compile("^summary: listener tight"))

    def summary(self, said):
        expect("summary: listener presence: 0 connections" in said and "summary: listener tight: 1 conn" in said,
               f"the summary: {said}")

    def no_gap(self, said):
        expect_equal(said, "", "gaps in the numbers of records")


# In the order of the page.
WANTED = [History.explain, History.last_endings, History.one_life, History.one_life_explained,
          History.one_ending_with_all_fields, History.not_orderly, History.counts, History.lost_to_the_network,
          History.turned_away, History.only_counted, History.quarantined, History.tried_again,
          History.pools_asked_for, History.holder, History.holders_before, History.summary_asked_for, History.summary,
          History.no_gap]


@scene()
def each_recipe_of_the_page_does_what_it_says():
    recipes = printed_recipes()
    expect_equal(len(recipes), len(WANTED), f"recipes in {Path(PAGE).name}, of which this story knows")
    with Service(CONFIG) as tetherd:
        history = History(tetherd)
        for (introduction, recipe), check in zip(recipes, WANTED):
            said = machine().run(recipe.replace(ID_IN_PAGE, history.polite.id))
            try:
                check(history, said)
            except Exception as failure:
                failure.args = (f"'{introduction}'\n{recipe}\n{failure}",)
                raise


if __name__ == "__main__":
    main()

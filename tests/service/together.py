"""together: connections that hold one of everything, an item, a directory, a process, a unit, what a command and a helper
did, with a plugin as the handler. Each step of load and of release fails once, clients die at each step, and what was
loaded is released in reverse order, once."""

import shutil
import socket
import struct

from machine import BUILD, RULES, Service, main, scene

from harness import eventually, expect, expect_equal

PLACE = "/var/lib/tetherd/together"  # the user's own, whom the sandbox lets write there
EFFECTS = f"{PLACE}/calls"  # the plugin writes there, and so does everybody else: one order for all
PLUGIN = f"{PLACE}/recorder.so"

CONFIG = f"""
[listener:all]
listen = 127.0.0.1:7400
handler = plugin:{PLUGIN}
hello = yes
greeting = %{{seat}} %{{session}} %{{mark}} %{{asked}}
refusal = BUSY %c
resources = seat, workdir, program, session, mark, asked

[resource:seat]
type = pool
items = the-seat

[resource:workdir]
type = directory
path = {PLACE}/connections/%i

[resource:program]
type = process
command = {PLACE}/program

[resource:session]
type = unit
unit = together@%i.service

[resource:mark]
type = exec
load = {PLACE}/mark %{{workdir}}
release = {PLACE}/mark %{{workdir}}

[resource:asked]
type = helper
command = {PLACE}/asked
"""

# `stand NAME` and `fail NAME PHASE` are how a scene holds a step, and makes it fail once.
STEPS = f"""
stand() {{ echo "stand $1" >>{EFFECTS}; while [ -e {PLACE}/hold-$1 ]; do sleep 0.02; done; }}
fail() {{ rm {PLACE}/fail-$1-$2 2>/dev/null; }}
"""
SCRIPTS = {
    "program": f"""
        id=$TETHERD_CONNECTION
        trap 'echo "release program $id" >>{EFFECTS}; exit 0' TERM
        echo "load program $id" >>{EFFECTS}
        while :; do sleep 1000 & wait $!; done""",
    # A process is loaded once it runs; what it writes by itself may come later, so the next one waits for it.
    "session": """
        until grep -qx "load program $1" %(effects)s; do sleep 0.02; done
        stand session
        fail session load && exit 1
        echo "load session $1" >>%(effects)s""",
    "mark": """
        [ $TETHERD_PHASE = release ] || stand mark
        fail mark $TETHERD_PHASE && exit 3
        echo "$TETHERD_PHASE mark $TETHERD_CONNECTION" >>%(effects)s
        [ $TETHERD_PHASE = release ] || : >"$1/file"
        echo marked""",
    "asked": """
        while read -r verb number id rest; do
                case $verb in LOAD) phase=load; stand asked;; *) phase=release;; esac
                if fail asked $phase; then echo "FAIL $number"; continue; fi
                echo "$phase asked $id" >>%(effects)s
                echo "OK $number answered"
        done""",
}
UNIT = f"""[Unit]
CollectMode=inactive-or-failed
[Service]
ExecStartPre=/bin/sh {PLACE}/session %i
ExecStart=/bin/sleep infinity
ExecStop=/bin/sh -c 'echo release session %i >>{EFFECTS}'
"""
STEPS_IN_ORDER = ["program", "session", "mark", "asked"]  # those that write; then the plugin's handshake and close


class Together(Service):
    """tetherd holds one of everything for each connection."""

    def __init__(self):
        super().__init__(CONFIG)

    def __enter__(self):
        super().__enter__()
        one = self.machine
        one.run("install -d -o tetherd -g tetherd -m 700 /var/lib/tetherd")
        one.run(f"install -d -o tetherd -g tetherd {PLACE}")
        shutil.copyfile(BUILD / "tests/plugins/recorder.so", one.path(PLUGIN))
        one.run(f"chmod 644 {PLUGIN}")
        for name, text in SCRIPTS.items():
            one.write(f"{PLACE}/{name}", "#!/bin/sh\n" + STEPS + text.replace("%(effects)s", EFFECTS) + "\n", 0o755)
        self.write("/run/systemd/system/together@.service", UNIT)
        rules = one.read(RULES)
        expect('        // "session@.service",\n' in rules, f"the shipped rule has a place for units: {rules}")
        self.write(RULES, rules.replace('        // "session@.service",\n', '        "together@.service",\n'))
        one.run("systemctl daemon-reload")
        return self.start()

    def __exit__(self, *error):
        super().__exit__(*error)
        self.machine.run(f"rm -r {PLACE}; systemctl daemon-reload")

    # -- steps --

    def effects(self):
        path = self.machine.path(EFFECTS)
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def hold(self, name):
        self.machine.path(f"{PLACE}/hold-{name}").touch()

    def let_go(self, name):
        self.machine.path(f"{PLACE}/hold-{name}").unlink()

    def fail_once(self, name, phase):
        self.machine.run(f"install -o tetherd -m 666 /dev/null {PLACE}/fail-{name}-{phase}")

    def wait_step(self, name, n_before):
        eventually(lambda: self.effects().count(["stand", name]) > n_before, lambda: f"{name} loads: {self.effects()}")

    def n_stands(self, name):
        return self.effects().count(["stand", name])

    # -- clients --

    def come(self, identity="me"):
        return self.connect(7400).send(f"{identity}\n".encode())

    def come_ready(self, identity="me"):
        client = self.come(identity)
        self.wait_ready(client)
        expect_equal(client.receive_line(), f"the-seat together@{client.id}.service marked answered\n", "the greeting")
        return client

    # -- the oracle --

    def life(self, client):
        """What was done for this connection, in order: "load program", …, "handshake", "close", "release asked", …"""
        life = []
        for words in self.effects():
            if words[0] in ("load", "release") and words[2:] == [client.id]:
                life.append(f"{words[0]} {words[1]}")
            elif words[0] in ("accept", "handshake", "close") and words[1:2] == [client.id]:
                life.append(words[0])
        return life

    def expect_life(self, client, loaded, is_asked=None):
        """So much was loaded, and released in reverse order, the plugin's own between the two."""
        is_asked = loaded == STEPS_IN_ORDER if is_asked is None else is_asked
        expected = ["accept", *(f"load {name}" for name in loaded), *(["handshake"] if is_asked else []), "close",
                    *(f"release {name}" for name in reversed(loaded))]
        # A load under way runs to its end after the plugin heard of the ending.
        seen = self.life(client)
        if not is_asked:
            expect_equal(seen.count("close"), 1, f"closes in {seen}")
            seen, expected = [[step for step in steps if step != "close"] for steps in (seen, expected)]
        expect_equal(seen, expected, f"the life of {client.id}")
        expect(not list(self.machine.path(f"{PLACE}/connections").glob("*")), "a directory is left")
        eventually(lambda: not self.machine.run("systemctl list-units --all --plain --no-legend 'together@*'").strip(),
                   "no unit is left")
        eventually(lambda: not self.machine.try_run(f"pgrep -f '{PLACE}/[p]rogram'").stdout.strip(), "no process is left")

    def expect_free(self):
        """The seat is: another life goes as it should."""
        client = self.come_ready()
        client.close()
        self.wait_ended(client, "eof")
        self.expect_life(client, STEPS_IN_ORDER)


@scene()
def one_of_everything():
    with Together() as tetherd:
        tetherd.expect_free()
        client = tetherd.come_ready()
        second = tetherd.come()  # the seat is taken
        expect_equal(second.receive_rest(), b"BUSY pool-empty\n", "what the second is told")
        tetherd.wait_ended(second, "pool-empty", state="loading")
        client.send(b"leave")
        tetherd.wait_ended(client, "handler")
        tetherd.expect_life(client, STEPS_IN_ORDER)
        expect_equal(tetherd.life(second), ["accept", "close"], "the life of the second")


@scene(over=("workdir", "program", "session", "mark", "asked", "plugin"))
def a_load_fails(step):
    with Together() as tetherd:
        if step == "workdir":
            tetherd.machine.run(f"install -m 644 /dev/null {PLACE}/connections")
        elif step == "program":
            tetherd.machine.run(f"chmod 644 {PLACE}/program")
        elif step != "plugin":
            tetherd.fail_once(step, "load")
        client = tetherd.come("refuse" if step == "plugin" else "me")
        if step == "plugin":
            tetherd.wait_ended(client, "handler", state="loading")
        else:
            record = tetherd.wait_ended(client, "load-failed", state="loading")
            expect_equal(record["TETHERD_RESOURCE"], step, "the resource that failed")
        if step == "workdir":
            tetherd.machine.run(f"rm {PLACE}/connections")
        tetherd.machine.run(f"chmod 755 {PLACE}/program")
        n_loaded = STEPS_IN_ORDER.index(step) if step in STEPS_IN_ORDER else 0 if step == "workdir" else len(STEPS_IN_ORDER)
        tetherd.expect_life(client, STEPS_IN_ORDER[:n_loaded])
        tetherd.expect_free()


@scene(over=("workdir", "session", "mark", "asked"))  # the other two have nobody who could refuse
def a_release_fails_at_first(step):
    with Together() as tetherd:
        client = tetherd.come_ready()
        obstacle, rules = f"{PLACE}/connections/{client.id}/of-root", tetherd.machine.read(RULES)
        if step == "workdir":
            tetherd.machine.run(f"install -D -m 600 /dev/null {obstacle}/file")
        elif step == "session":
            tetherd.machine.write(RULES, rules.replace('"together@.service",', ""))
        else:
            tetherd.fail_once(step, "release")
        client.close()
        tetherd.wait_record("release-failed", TETHERD_CONNECTION=client.id, TETHERD_RESOURCE=step)
        tetherd.machine.run(f"rm -rf {obstacle}")
        tetherd.machine.write(RULES, rules)
        tetherd.wait_ended(client, "eof")
        tetherd.expect_life(client, STEPS_IN_ORDER)
        tetherd.expect_free()


def reset(client):
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@scene(over=("handshake", "session", "mark", "asked", "pending", "ready"))
def the_client_dies(step):
    """A load under way runs to its end and is released; nothing after it begins."""
    with Together() as tetherd:
        if step == "handshake":
            client = tetherd.connect(7400).send(b"m")
            tetherd.wait_record("accepted", TETHERD_CONNECTION=client.id)
            reset(client)
            tetherd.wait_ended(client, "reset", event="rejected", state="handshake")
            expect_equal(tetherd.life(client), ["accept", "close"], "its life")
        elif step == "ready":
            client = tetherd.come_ready()
            reset(client)
            tetherd.wait_ended(client, "reset")
            tetherd.expect_life(client, STEPS_IN_ORDER)
        elif step == "pending":
            client = tetherd.come("pending")
            eventually(lambda: "handshake" in tetherd.life(client), "its handshake is pending")
            reset(client)
            tetherd.wait_ended(client, "reset", state="loading")
            tetherd.expect_life(client, STEPS_IN_ORDER)
        else:
            n_before = tetherd.n_stands(step)
            tetherd.hold(step)
            client = tetherd.come()
            tetherd.wait_step(step, n_before)
            reset(client)
            eventually(lambda: "close" in tetherd.life(client), "the plugin hears of its end")
            tetherd.let_go(step)
            tetherd.wait_ended(client, "reset", state="loading")
            tetherd.expect_life(client, STEPS_IN_ORDER[:STEPS_IN_ORDER.index(step) + 1], is_asked=False)
        tetherd.expect_free()


@scene(over=("program", "session"))
def what_it_holds_ends_by_itself(step):
    with Together() as tetherd:
        client = tetherd.come_ready()
        if step == "program":
            tetherd.machine.run(f"pkill -KILL -f '{PLACE}/[p]rogram'")
        else:
            tetherd.machine.run(f"systemctl kill --signal=KILL together@{client.id}.service")
        record = tetherd.wait_ended(client, "resource-lost")
        expect_equal(record["TETHERD_RESOURCE"], step, "the resource that was lost")
        life = tetherd.life(client)
        gone = [] if step == "program" else ["release session"]  # which no ExecStop= told of
        expect_equal([*life, *(["release program"] if step == "program" else [])],
                     [step for step in ["accept", *(f"load {name}" for name in STEPS_IN_ORDER), "handshake", "close",
                                        *(f"release {name}" for name in reversed(STEPS_IN_ORDER))] if step not in gone],
                     "its life")
        tetherd.expect_free()


@scene(over=("stop", "crash"))
def the_daemon_ends(how):
    with Together() as tetherd:
        client = tetherd.come_ready()
        if how == "stop":
            tetherd.machine.run(f"systemctl stop {tetherd.unit}")
            tetherd.wait_ended(client, "shutdown")
            tetherd.expect_life(client, STEPS_IN_ORDER)
        else:
            tetherd.machine.run(f"kill -KILL {tetherd.pid}")
            tetherd.wait_record("closed", TETHERD_CONNECTION=client.id, TETHERD_CAUSE="orphaned", timeout=60)
            # Its death took the program along, and the plugin, which was told nothing.
            expect_equal([step for step in tetherd.life(client) if step != "release program"],
                         ["accept", *(f"load {name}" for name in STEPS_IN_ORDER), "handshake",
                          *(f"release {name}" for name in reversed(STEPS_IN_ORDER[1:]))], "its life")
        if how == "stop":
            tetherd.start()
        tetherd.expect_free()


if __name__ == "__main__":
    main()

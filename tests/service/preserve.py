"""Guarantees 7: what a restart, and with `preserve = always` a crash, does not end."""

import contextlib
import random
import re
import resource
import select
import shutil
import threading
import time
from collections import Counter

from harness import Failure, eventually, expect, expect_equal
from machine import BUILD, Service, machine, main, scene

# Each way in: a port, a UNIX socket, a port with nothing to hold, one with two seats, and (WITH_PROGRAM) one with a program.
HOME, SOCKET, BARE, SEATED, GIVEN = 7400, "/run/tetherd/socket", 7401, 7402, 7403
EFFECTS = "/var/lib/tetherd/effects"
PLUGIN = "/usr/local/lib/echo.so"
CONFIG = """
preserve = %s
log_events = %s

[listener:home]
listen = 127.0.0.1:7400, /run/tetherd/socket
handler = echo
hello = yes
greeting = welcome %%h
resources = nothing, mark, workdir
max_connections_per_source = 3

[listener:bare]
listen = 127.0.0.1:7401
handler = echo
half_close = keep
send_buffer = 4096

[listener:seated]
listen = 127.0.0.1:7402
handler = echo
resources = seat
greeting = %%{seat}
refusal = BUSY %%c

[resource:seat]
type = pool
items = seat-1, seat-2

[resource:nothing]
type = none

[resource:mark]
type = exec
load = /usr/local/bin/mark
release = /usr/local/bin/mark

[resource:workdir]
type = directory
path = /run/tetherd/connections/%%i
"""
WITH_PROGRAM = """
[listener:given]
listen = 127.0.0.1:7403
resources = program

[resource:program]
type = process
command = cat
socket = stdio
"""
MARK = f"""#!/bin/sh
echo $TETHERD_PHASE $TETHERD_CONNECTION ${{TETHERD_CAUSE:--}} ${{TETHERD_RECOVERED:--}} >>{EFFECTS}
while [ -e /run/tetherd/slow ]; do sleep 0.05; done
"""
# The pause between two processes is as long as this file is there.
PAUSE = "/run/pause"
PAUSED = f"""
[Service]
# What is freed reads as nothing.
Environment=MALLOC_PERTURB_=90
ExecStartPre=/bin/sh -c 'systemctl show --property=NFileDescriptorStore tetherd >/var/lib/tetherd/stored || :'
ExecStartPre=/bin/sh -c 'while [ -e {PAUSE} ]; do sleep 0.05; done'
"""
MANY, MANY_HOLDING, MANY_ALWAYS = 10000, 1000, 5000
AT_ONCE = 500


class Preserving(Service):
    def __init__(self, mode="restart", log_events="all", more=""):
        super().__init__(CONFIG % (mode, log_events) + more)

    def __enter__(self):
        super().__enter__()
        self.write("/usr/local/bin/mark", MARK, 0o755)
        self.drop_in(PAUSED)
        self.write(EFFECTS, "", 0o666)
        return self.start()

    def restart(self, meanwhile=lambda: None):
        """What `meanwhile` does is done while nobody runs."""
        before = self.pid
        machine().write(PAUSE, "")
        machine().run("systemctl --no-block restart tetherd")
        eventually(lambda: self.pid == 0 and self.show("SubState") == "start-pre", "the first process is gone", 30)
        meanwhile()
        machine().path(PAUSE).unlink()
        self.wait_other(before)

    def crash(self, meanwhile=lambda: None):
        before = self.pid
        machine().write(PAUSE, "")
        machine().run(f"kill -9 {before}")
        eventually(lambda: self.show("SubState") == "start-pre", "systemd starts it again", 30)
        meanwhile()
        machine().path(PAUSE).unlink()
        self.wait_other(before)

    def wait_other(self, before):
        eventually(lambda: self.pid not in (0, before) and self.show("ActiveState") == "active",
                   "another process runs", 60)

    def come(self, place, name="me"):
        client = self.connect(place)
        if place != BARE:
            client.send(f"{name}\n".encode())
            expect_equal(client.receive_line(), f"welcome {name}\n", "the greeting")
        return client.echo()

    def leave(self, client):
        client.half_close()
        expect_equal(client.receive_rest(), b"", "what comes last")

    def effects(self):
        return [line.split() for line in machine().read(EFFECTS).splitlines()]

    def expect_balanced(self, **causes):
        """Each that was loaded is released once; `causes`: how often for which."""
        phases = Counter((phase, name) for phase, name, *_ in self.effects())
        expect(set(phases.values()) <= {1}, f"done twice: {[key for key, n in phases.items() if n > 1]}")
        names = {phase: {name for key, name in phases if key == phase} for phase in ("load", "release")}
        expect_equal(names["load"], names["release"], "loaded, and released")
        found = Counter(cause for phase, _, cause, _ in self.effects() if phase == "release")
        expect_equal(dict(found), {name.replace("_", "-"): n for name, n in causes.items()}, "causes of the releases")

    def n_stored(self):
        """Descriptors that systemd kept while nobody ran."""
        return int(machine().read("/var/lib/tetherd/stored").split("=")[1])

    def expect_nobody_ended(self):
        self.poll_records()
        expect_equal([record["MESSAGE"] for record in self.find("closed")], [], "endings")


def raise_limit():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def come_many(tetherd, place, n):
    """So many, each with an echo; more at once may not fit in the backlog of a busy machine."""
    clients = []
    for begun in range(0, n, AT_ONCE):
        some = [tetherd.connect(place).send(b"me\n") for _ in range(begun, min(begun + AT_ONCE, n))]
        for client in some:
            client.receive(len(b"me\n") if place == BARE else len(b"welcome me\n"))
        clients += some
    return clients


# ---- a restart ----

@scene()
def a_restart_that_nobody_sees():
    with Preserving() as tetherd:
        clients = [tetherd.come(place) for place in (HOME, SOCKET, BARE)]
        names = [client.id for client in clients]
        tetherd.restart(lambda: clients[0].send(b"sent while nobody ran"))
        expect_equal(clients[0].receive(21), b"sent while nobody ran", "the echo")
        for client in clients:
            client.echo(b"and afterwards")
        tetherd.expect_nobody_ended()
        expect_equal([phase for phase, *_ in tetherd.effects()], ["load", "load"], "what the commands did")
        recovered = tetherd.find("recovered")
        expect_equal(sorted(record["TETHERD_CONNECTION"] for record in recovered), sorted(names[:2]), "taken up")
        fresh = tetherd.come(BARE)
        expect(fresh.id not in names, "an id is used twice")
        for client in clients[:2]:
            tetherd.leave(client)
            record = tetherd.wait_ended(client, "eof", TETHERD_IDENTITY="me")
            expect(int(record["TETHERD_DURATION_USEC"]) > int(record["TETHERD_LAST_RECEIVE_USEC"]), "its age went on")
            expect(int(record["TETHERD_HANDSHAKE_USEC"]) > 0 and int(record["TETHERD_LOAD_USEC"]) > 0,
                   "the times of its beginning are known")
        record = tetherd.find("closed", TETHERD_CONNECTION=names[0])[0]
        expect_equal(int(record["TETHERD_BYTES_RECEIVED"]), len(b"me\nare you there?sent while nobody ranand afterwards"),
                     "bytes received")
        expect_equal(int(record["TETHERD_BYTES_SENT"]), len(b"welcome me\nare you there?sent while nobody ranand afterwards"),
                     "bytes sent")
        tetherd.expect_balanced(eof=2)
        expect(not [effect for effect in tetherd.effects() if effect[0] == "release" and effect[3] == "1"],
               "TETHERD_RECOVERED is for crashes")


@scene()
def no_byte_is_lost_or_doubled():
    """A client that reads late: bytes are in its buffer, in the kernel's, in tetherd's, and in the kernel's again."""
    with Preserving() as tetherd:
        client = tetherd.connect(BARE)
        client.socket.setblocking(False)
        sent, received = bytearray(), bytearray()
        def send_all():
            while select.select([], [client.socket], [], 0.3)[1]:
                block = bytes((len(sent) + i) * 7 % 251 for i in range(5000))
                sent.extend(block[:client.socket.send(block)])
        def receive_some(n):
            while len(received) < n:
                if select.select([client.socket], [], [], 10)[0]:
                    received.extend(client.socket.recv(n - len(received)))
        for _ in range(3):
            send_all()
            receive_some(len(received) + 30000)
            tetherd.restart()
        receive_some(len(sent))
        expect(received == sent, "what came back is not what was sent")
        client.socket.settimeout(10)
        tetherd.leave(client)
        tetherd.wait_ended(client, "eof", TETHERD_BYTES_RECEIVED=len(sent), TETHERD_BYTES_SENT=len(sent))


@scene()
def who_dies_meanwhile_is_noticed():
    with Preserving() as tetherd:
        closing, resetting, living = (tetherd.come(HOME) for _ in range(3))
        names = [client.id for client in (closing, resetting)]
        tetherd.restart(lambda: (closing.half_close(), resetting.reset()))
        tetherd.wait_ended(closing, "eof")
        tetherd.wait_ended(resetting, "reset")
        living.echo()
        expect(all(name in str(tetherd.effects()) for name in names), "both are in the effects")
        tetherd.leave(living)
        tetherd.wait_ended(living, "eof")
        tetherd.expect_balanced(eof=2, reset=1)


@scene()
def limits_count_those_who_stayed():
    with Preserving() as tetherd:
        clients = [tetherd.come(HOME) for _ in range(3)]
        tetherd.restart()
        tetherd.connect(HOME)
        tetherd.wait_record("rejected", TETHERD_CAUSE="limit")
        tetherd.leave(clients[0])
        tetherd.wait_ended(clients[0], "eof")
        tetherd.come(HOME)


@scene()
def what_is_not_ready_is_waited_for_and_ends():
    with Preserving() as tetherd:
        ready = tetherd.come(HOME)
        machine().write("/run/tetherd/slow", "")
        loading = tetherd.connect(HOME).send(b"late\n")
        eventually(lambda: len(tetherd.effects()) == 2, "it is loading")
        shaking = tetherd.connect(HOME).send(b"never ends")
        tetherd.wait_record("accepted", count=3)
        machine().run("systemctl --no-block restart tetherd")
        expect_equal(shaking.receive_rest(), b"", "what a client in its handshake is told")
        ready.echo()  # served while others are waited for
        machine().path("/run/tetherd/slow").unlink()
        expect_equal(loading.receive_rest(), b"", "what a client that was loading is told")
        tetherd.wait_ended(loading, "shutdown", state="loading")
        ready.echo()
        tetherd.wait_record("recovered", TETHERD_CONNECTION=ready.id)
        tetherd.leave(ready)
        tetherd.wait_ended(ready, "eof")
        tetherd.expect_balanced(shutdown=1, eof=1)


@scene()
def a_release_that_outlasts_the_time():
    """At drain_timeout nobody waits for it any more; the next process does it again."""
    with Preserving() as tetherd:
        tetherd.configure(tetherd.config.replace("preserve =", "drain_timeout = 1s\npreserve ="))
        tetherd.restart()
        stays, leaves = tetherd.come(HOME), tetherd.come(HOME)
        machine().write("/run/tetherd/slow", "")
        tetherd.leave(leaves)
        eventually(lambda: ["release", leaves.id, "eof"] in [words[:3] for words in tetherd.effects()], "its release is at work")
        tetherd.restart(lambda: machine().path("/run/tetherd/slow").unlink())
        stays.echo()
        tetherd.wait_record("closed", TETHERD_CONNECTION=leaves.id, TETHERD_CAUSE="orphaned")
        tetherd.leave(stays)
        tetherd.wait_ended(stays, "eof")


@scene()
def a_stop_ends_and_releases():
    with Preserving() as tetherd:
        clients = [tetherd.come(place) for place in (HOME, SOCKET, BARE)]
        machine().run("systemctl stop tetherd")
        for client in clients:
            expect_equal(client.receive_rest(), b"", "what a client is told")
            tetherd.wait_ended(client, "shutdown")
        tetherd.expect_balanced(shutdown=2)
        tetherd.start()
        tetherd.come(HOME)


@scene()
def a_listener_that_is_gone():
    with Preserving() as tetherd:
        clients = [tetherd.come(place) for place in (HOME, BARE)]
        names = [client.id for client in clients]
        machine().write("/etc/tetherd/tetherd.conf", "[daemon]\nlog_level = debug\n[listener:other]\nlisten = 127.0.0.1:7402\n")
        tetherd.restart()
        for client, name in zip(clients, names):
            expect_equal(client.receive_rest(), b"", "what a client is told")
            record = tetherd.wait_ended(client, "shutdown")
            expect_equal(record["TETHERD_CONNECTION"], name, "its id")
        tetherd.expect_balanced(shutdown=1)
        recovered = [words[3] for words in tetherd.effects() if words[0] == "release"]
        expect(recovered != ["1"], "a command is told of a crash, which there was not")


CROWDED = """
[listener:crowded]
listen = 127.0.0.1:7404
handler = echo
resources = place

[listener:crowded_too]
listen = 127.0.0.1:7405
handler = echo
resources = place

[resource:place]
type = pool
items = 1-100
"""


@scene()
def others_of_whom_the_listener_is_gone():
    """What they held was given back at once, between those who stay."""
    with Preserving(more=CROWDED) as tetherd:
        clients = [tetherd.connect(7404 + i % 2).echo() for i in range(100)]
        tetherd.configure(tetherd.config.replace("[listener:crowded_too]", "[listener:crowded_too]\nenabled = no"))
        tetherd.restart()
        for client in clients[::2]:
            client.echo()
        for client in clients[1::2]:
            expect_equal(client.receive_rest(), b"", "what a client is told")
            tetherd.wait_ended(client, "shutdown")


@scene()
def a_listener_that_got_a_plugin():
    """Which was never told of who is connected, and whose own connections live in its process."""
    with Preserving() as tetherd:
        clients = [tetherd.come(place) for place in (HOME, BARE)]
        shutil.copyfile(BUILD / "tests/plugins/echo.so", machine().path(PLUGIN))
        machine().path(PLUGIN).chmod(0o644)
        tetherd.configure(tetherd.config.replace("handler = echo", f"handler = plugin:{PLUGIN}"))
        tetherd.restart()
        for client in clients:
            expect_equal(client.receive_rest(), b"", "what a client is told")
            tetherd.wait_ended(client, "shutdown")
        clients = [tetherd.come(place) for place in (HOME, BARE)]
        for client in clients:
            client.echo()
        machine().run("systemctl restart tetherd")
        for client in clients:
            expect_equal(client.receive_rest(), b"", "what a client of the plugin is told")
        tetherd.expect_balanced(shutdown=2)


@scene()
def three_restarts_in_a_row():
    with Preserving() as tetherd:
        clients = [tetherd.come(place) for place in (HOME, SOCKET, BARE)]
        for _ in range(3):
            tetherd.restart()
            for client in clients:
                client.echo()
        for client in clients[:2]:
            tetherd.leave(client)
        for client in clients[:2]:
            tetherd.wait_ended(client, "eof")
        tetherd.expect_balanced(eof=2)


@scene()
def ten_thousand():
    with Preserving(log_events="closed") as tetherd:
        raise_limit()
        tetherd.configure(tetherd.config.replace("max_connections_per_source = 3", "max_connections_per_source = 2000"))
        tetherd.restart()
        clients = come_many(tetherd, HOME, MANY_HOLDING) + come_many(tetherd, BARE, MANY - MANY_HOLDING)
        for client in clients[::7]:
            client.send(b"meanwhile")
        began = time.monotonic()
        tetherd.restart()
        print(f"   {MANY} connections, {MANY_HOLDING} of them holding something: away for {time.monotonic() - began:.2f} s, "
              f"{tetherd.n_stored()} descriptors stored", flush=True)
        expect(tetherd.n_stored() <= 8, f"{tetherd.n_stored()} descriptors were in the store")
        handed = tetherd.wait_record(MESSAGE=re.compile("handed to the next process"), count=2)
        gone = tetherd.wait_record(MESSAGE="tetherd.service: Deactivated successfully.", count=2)
        seconds = (int(gone["__MONOTONIC_TIMESTAMP"]) - int(handed["__MONOTONIC_TIMESTAMP"])) / 1e6
        expect(seconds < 1, f"{seconds:.2f} s went by until systemd had them and the process was gone")
        for client in clients[::7]:
            expect_equal(client.receive(9), b"meanwhile", "the echo")
        tetherd.expect_nobody_ended()
        expect_equal(Counter(phase for phase, *_ in tetherd.effects()), {"load": MANY_HOLDING}, "what was done")
        for client in clients:
            client.close()
        tetherd.clients.clear()
        eventually(lambda: Counter(phase for phase, *_ in tetherd.effects())["release"] == MANY_HOLDING,
                   "each is released", 60)
        tetherd.expect_balanced(eof=MANY_HOLDING)


# ---- where it cannot be ----

def expect_no_store(tetherd, why):
    tetherd.wait_record(MESSAGE=why)
    client = tetherd.come(HOME)
    machine().run("systemctl restart tetherd")
    expect_equal(client.receive_rest(), b"", "what a client is told")
    tetherd.wait_ended(client, "shutdown")
    tetherd.expect_balanced(shutdown=1)


@scene()
def a_unit_without_a_store():
    with Preserving() as tetherd:
        machine().run("systemctl stop tetherd")
        tetherd.drop_in(PAUSED + "FileDescriptorStoreMax=0\n")
        tetherd.start()
        expect_no_store(tetherd, re.compile("FileDescriptorStoreMax= is 0.*connections end at a restart as at a stop"))


@scene()
def a_machine_without_a_bus():
    """Nobody can be asked what would be kept, nor whether a stop is one."""
    with Preserving() as tetherd:
        machine().run("systemctl stop tetherd dbus.socket dbus")
        try:
            tetherd.start()
            expect_no_store(tetherd, re.compile("systemd does not say over the bus.*connections end at a restart as at a stop"))
        finally:
            machine().run("systemctl start dbus.socket")


@scene()
def a_crash_without_always():
    with Preserving() as tetherd:
        clients = [tetherd.come(place) for place in (HOME, SOCKET, BARE)]
        tetherd.crash()
        for client in clients:
            expect_equal(client.receive_rest(), b"", "what a client is told")
        for client in clients[:2]:
            record = tetherd.wait_record("closed", TETHERD_CONNECTION=client.id)
            expect_equal(record["TETHERD_CAUSE"], "orphaned", "cause")
        tetherd.expect_balanced(orphaned=2)


# ---- a crash ----

@scene()
def a_crash_that_nobody_sees():
    with Preserving("always") as tetherd:
        clients = [tetherd.come(place) for place in (HOME, SOCKET, BARE)]
        names = [client.id for client in clients]
        gone = [tetherd.come(place) for place in (HOME, SOCKET, BARE)]
        for client in gone[:2]:
            tetherd.leave(client)
        gone[2].reset()
        for client, cause in zip(gone, ("eof", "eof", "reset")):
            tetherd.wait_ended(client, cause)
        for round_ in range(2):
            tetherd.crash(lambda: clients[0].send(b"sent while nobody ran"))
            expect_equal(clients[0].receive(21), b"sent while nobody ran", "the echo")
            for client in clients:
                client.echo(b"and afterwards")
        expect_equal(len(tetherd.find("closed")), 3, "endings")
        for client in clients[:2]:
            tetherd.leave(client)
            record = tetherd.wait_ended(client, "eof")
            n_echoed = (21 if client is clients[0] else 0) * 2 + len(b"are you there?") + 2 * len(b"and afterwards")
            if client is clients[0]:  # on UNIX sockets the kernel does not count
                expect_equal(int(record["TETHERD_BYTES_RECEIVED"]), len(b"me\n") + n_echoed, "bytes received")
                expect_equal(int(record["TETHERD_BYTES_SENT"]), len(b"welcome me\n") + n_echoed, "bytes sent")
        expect_equal(names, [client.id for client in clients], "ids")
        tetherd.expect_balanced(eof=4)


@scene()
def who_was_busy_is_not_idle_after_a_crash():
    """Longer than idle_timeout it was there; of a UNIX socket nobody says when it last spoke."""
    with Preserving("always", more="[listener:brisk]\nlisten = /run/tetherd/brisk, 127.0.0.1:7406\nhandler = echo\n"
                                   "idle_timeout = 3s\n") as tetherd:
        clients = [tetherd.connect(place) for place in ("/run/tetherd/brisk", 7406)]
        began = time.monotonic()
        while time.monotonic() < began + 4:
            for client in clients:
                client.echo()
            select.select([], [], [], 0.1)
        tetherd.crash()
        for client in clients:
            client.echo()
        tetherd.expect_nobody_ended()


@scene(over=("restart", "crash"))
def an_item_stays_with_its_connection(how):
    with Preserving("always") as tetherd:
        clients = [tetherd.connect(SEATED) for _ in range(2)]
        for n, client in enumerate(clients, 1):
            expect_equal(client.receive_line(), f"seat-{n}\n", "item")
            client.echo()
        for n in (1, 2):
            getattr(tetherd, how)()
            for client in clients:
                client.echo()
            expect_equal(tetherd.connect(SEATED).receive_rest(), b"BUSY pool-empty\n", "what a third is told")
            leaving = clients.pop(0)
            tetherd.leave(leaving)
            tetherd.wait_ended(leaving, "eof")
            clients.append(tetherd.connect(SEATED))
            expect_equal(clients[-1].receive_line(), f"seat-{n}\n", "the item that was given back")
            clients[-1].echo()


@scene(over=("restart", "crash"))
def a_program_that_was_given_the_connection_ends_with_it(how):
    with Preserving("always", more=WITH_PROGRAM) as tetherd:
        staying = tetherd.come(HOME)
        given = tetherd.connect(GIVEN).echo()  # by cat
        getattr(tetherd, how)()
        expect_equal(given.receive_rest(), b"", "what comes last")
        cause = {"restart": "shutdown", "crash": "orphaned"}[how]
        tetherd.wait_record("closed", TETHERD_CONNECTION=given.id, TETHERD_CAUSE=cause)
        tetherd.connect(GIVEN).echo()
        staying.echo()
        expect_equal(machine().run("pgrep -xc cat").strip(), "1", "programs that run")


@scene()
def who_dies_while_it_is_crashed():
    with Preserving("always") as tetherd:
        closing, resetting, living = (tetherd.come(HOME) for _ in range(3))
        tetherd.crash(lambda: (closing.half_close(), resetting.reset()))
        tetherd.wait_ended(closing, "eof")
        tetherd.wait_ended(resetting, "reset")
        tetherd.leave(living.echo())
        tetherd.wait_ended(living, "eof")
        tetherd.expect_balanced(eof=2, reset=1)


@scene()
def always_over_a_restart_and_a_stop():
    with Preserving("always") as tetherd:
        clients = [tetherd.come(place) for place in (HOME, SOCKET, BARE)]
        tetherd.restart()
        for client in clients:
            client.echo()
        tetherd.crash()
        for client in clients:
            client.echo()
        machine().run("systemctl stop tetherd")
        for client in clients:
            expect_equal(client.receive_rest(), b"", "what a client is told")
            tetherd.wait_ended(client, "shutdown")
        tetherd.expect_balanced(shutdown=2)


@scene()
def the_log_forgets_the_dead():
    """Many come and go beside a few who stay: what systemd keeps does not grow."""
    with Preserving("always", "problems") as tetherd:
        raise_limit()
        staying = [tetherd.come(BARE) for _ in range(3)]
        most = 0
        for _ in range(8):
            for client in come_many(tetherd, BARE, 500):
                client.close()
            most = max(most, int(tetherd.show("NFileDescriptorStore")))
        expect(most <= 32, f"systemd keeps up to {most} descriptors")
        tetherd.crash()
        for client in staying:
            client.echo()
        eventually(lambda: int(tetherd.show("NFileDescriptorStore")) <= 2, "one generation is left")


@scene()
def five_thousand_over_a_crash():
    with Preserving("always", "closed") as tetherd:
        raise_limit()
        clients = come_many(tetherd, BARE, MANY_ALWAYS)
        began = time.monotonic()
        tetherd.crash()
        print(f"   {MANY_ALWAYS} connections: back after {time.monotonic() - began:.2f} s, {tetherd.n_stored()} descriptors stored",
              flush=True)
        for client in clients:
            client.echo(b"still there")
        tetherd.expect_nobody_ended()
        for client in clients:
            client.close()
        tetherd.clients.clear()
        tetherd.wait_record("closed", timeout=60, count=MANY_ALWAYS)


def come_and_go(tetherd, is_over, staying, served):
    """One that meets nobody, or is not let in to the end, is none of ours. Of the others some stay."""
    while not is_over.is_set():
        with contextlib.suppress(OSError, Failure):
            client = tetherd.connect(BARE).echo()
            served.append(client)
            if len(served) % 4 == 0 and len(staying) < MANY_ALWAYS + 1000:
                staying.append(client)
            else:
                client.close()


@scene()
def at_any_moment():
    """Killed and restarted beside 5,000 clients, while others come and go: whoever was answered once is answered to the
    end. Every second time the next process is killed as well, while it takes up what is there, or soon afterwards."""
    with Preserving("always", "closed") as tetherd:
        tetherd.drop_in("[Unit]\nStartLimitBurst=1000\n[Service]\nRestartSec=100ms\n")
        raise_limit()
        is_over, staying, served = threading.Event(), come_many(tetherd, BARE, MANY_ALWAYS), []
        crowd = threading.Thread(target=come_and_go, args=(tetherd, is_over, staying, served))
        crowd.start()
        try:
            for i in range(8):
                n, before = len(served), tetherd.pid
                eventually(lambda: len(served) > n + random.randint(1, 600), "clients come", 30)
                machine().run(f"kill -9 {before}" if i % 4 else "systemctl restart tetherd")
                if i % 2:
                    young = eventually(lambda: (pid := tetherd.pid) not in (0, before) and pid, "the next one starts")
                    time.sleep(random.random() * 0.2)  # any moment
                    machine().run(f"kill -9 {young}")
                    before = young
                tetherd.wait_other(before)
        finally:
            is_over.set()
            crowd.join()
        for client in staying:
            client.echo(b"still there")
        print(f"   {len(staying)} clients lived through twelve processes, {len(served)} came meanwhile", flush=True)


if __name__ == "__main__":
    main()

"""soak: clients that die in random ways, on every kind of listener, with resources that fail and dawdle, while the
daemon is reloaded, restarted and killed. In the end the books are balanced, nothing is left, and memory is flat.

Memory: the last run of the daemon warms up, until each part of it has held what it may hold at one time, and goes on.
Both times all clients leave and the same configuration is read before its own pages are counted: some 1300 KiB. What
differs then is where malloc put things, and a highest number of connections, queued commands or records that came late:
30 to 230 KiB were seen. GROWTH is little more: 20 bytes for each connection of ten minutes, 200 for each of one. What
grows by more goes on for as long again: what came late does not come again, and what leaks does.

Environment: SOAK_SECONDS (600, at least 30), SEED of the dice. The commands' own failures are drawn by the commands, so
that a seed plays the same clients and the same events again, not the same second.
"""

import contextlib
import os
import random
import re
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter
from pathlib import Path

os.environ.setdefault("TETHERD_SLOW", "3")  # how fast it is, others ask; here a deadline only says that something hangs
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "system"))

from harness import Daemon, expect, is_sanitized, journald, main, scene  # noqa: E402

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
RESTARTS_UNTIL = 0.4  # of the time; then one run has to show that its memory is flat
WARM_UP = 0.4  # of that run
N_CLIENTS = 60
N_SILENT = 80
N_STEPS_A_SECOND = 800
GROWTH = 256 * 1024  # bytes
N_TRIES = 3
TIMED_OUT = re.compile("timed out")  # on a busy machine even before the command told of itself
HELLOS = (b"alice\n", b"bob@example.org\r\n", b"a" * 64 + b"\n", b"-bad\n", b"x" * 300, b"..\n", b"half", b"\n")

# Some loads say that they failed and did nothing; some hang after they did something, until load_timeout. Some
# releases fail once. Some programs end before their connection, and some will not end with it.
SCRIPTS = {"fickle": """
read -r dice < /proc/sys/kernel/random/uuid
tell() { echo "$TETHERD_PHASE $TETHERD_RESOURCE $TETHERD_CONNECTION" >> <effects>; }
case $TETHERD_PHASE.$dice in
load.0*) exit 1 ;;
load.1*) sleep 0.1; tell ;;
load.20*) tell; exec sleep 1000 ;;
load.*) tell ;;
release.0*) [ -e <dir>/failed.$TETHERD_CONNECTION.$TETHERD_RESOURCE ] || { : > <dir>/failed.$TETHERD_CONNECTION.$TETHERD_RESOURCE; exit 1; } ;;
release.1*) sleep 0.1 ;;
esac
[ $TETHERD_PHASE = load ] || { rm -f <dir>/failed.$TETHERD_CONNECTION.$TETHERD_RESOURCE; tell; }
exit 0
""", "lively": """
read -r dice < /proc/sys/kernel/random/uuid
case $dice in
0*) exit 1 ;;
1*) exec sleep 0.2 ;;
2*) trap "" TERM; exec sleep 1000 ;;
esac
exec sleep 1000
""", "asked": """
while read -r verb number id rest; do
    read -r dice < /proc/sys/kernel/random/uuid
    failed=<dir>/failed.$id.asked
    case $verb.$dice in
    LOAD.0*) echo "FAIL $number"; continue ;;
    LOAD.*) phase=load ;;
    RELEASE.0*) [ -e $failed ] || { : > $failed; echo "FAIL $number"; continue; } ;;
    esac
    [ $verb = LOAD ] || { rm -f $failed; phase=release; }
    echo "$phase asked $id" >> <effects>
    echo "OK $number"
done
"""}

BAD = ("[listener:bare]\nlisten = <tcp4>\nhandlr = echo\n", "no section = 1\n", "[listener:bare]\nlisten = nowhere\n",
       "[listener:bare]\nlisten = <tcp4>\nresources = missing\n", "[listener:bare]\nlisten = 192.0.2.77:1\n")


def config(dice, is_tight=True):
    """Any of these is good; what changes among them is what a reload may change."""
    idle = dice.choice(("1s", "2s", "infinity"))
    fickle = ("type = exec\nload = <fickle>\nrelease = <fickle>\nload_timeout = 3s\n"
              f"max_concurrent = {dice.choice((2, 8))}\n")
    return f"""
[listener:bare]
listen = <tcp4>
handler = {dice.choice(("echo", "discard"))}
idle_timeout = {idle}
max_age = {dice.choice(("3s", "20s"))}
detect_within = 6s
half_close = {dice.choice(("close", "keep"))}
half_close_timeout = 1s
[listener:named]
listen = <tcp6>
handler = discard
hello = yes
hello_max = 64
handshake_timeout = 1s
greeting = welcome %h %{{workdir}}
refusal = no %c
resources = workdir, outer, inner
max_connections_per_source = {20 if is_tight and dice.random() < 0.5 else "infinity"}
idle_timeout = {idle}
[listener:local]
listen = <unix>
handler = echo
resources = outer, workdir, asked
idle_timeout = {idle}
max_connections = {10 if is_tight and dice.random() < 0.5 else "infinity"}
""" + (not is_tight or dice.random() < 0.7) * """
[listener:extra]
listen = <abstract>
handler = echo
idle_timeout = 2s
resources = seat, program, asked
""" + f"""
[resource:workdir]
type = directory
path = <dir>/connections/%i
[resource:outer]
{fickle}
[resource:inner]
{fickle}
[resource:seat]
type = pool
items = {dice.choice(("1-9", "5-60"))}
when_empty = {dice.choice(("reject", "wait"))}
wait_timeout = 1s
[resource:program]
type = process
command = <lively>
release_timeout = 500ms
on_exit = {dice.choice(("close", "keep"))}
[resource:asked]
type = helper
command = <asked>
"""


class Clients:
    """Sockets that nobody waits for: what cannot be done now is not done."""

    def __init__(self, daemon, dice):
        self.daemon, self.dice = daemon, dice
        self.sockets, self.silent = [], []
        self.deaths = Counter()

    def come(self, kind, hello=None):
        family, address = self.daemon.addresses[kind]
        sock = socket.socket(family)
        sock.settimeout(1)
        try:
            sock.connect(address)
        except OSError:  # no daemon, no such listener at this time, or a full backlog
            sock.close()
            return
        sock.setblocking(False)
        self.sockets.append(sock)
        if kind == "tcp6" and hello:
            sock.send(hello)

    def hello(self):
        """Mostly a good one; sometimes none."""
        if self.dice.random() < 0.05:
            return None
        return self.dice.choice(HELLOS[:3] if self.dice.random() < 0.7 else HELLOS)

    def fall_silent(self, sock):
        """It says no more, nor does it read: the daemon has to end it, unless it stays for too long."""
        if self.dice.random() < 0.5:
            with contextlib.suppress(OSError):
                sock.send(bytes(5_000_000))
        self.sockets.remove(sock)
        self.silent.append(sock)
        if len(self.silent) > N_SILENT:
            self.deaths["silence"] += 1
            self.silent.pop(0).close()

    def end(self, sock, way):
        self.deaths[way] += 1
        self.sockets.remove(sock)
        if way == "reset" and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if way == "killed process":
            pid = os.fork()
            if pid == 0:
                signal.pause()
            sock.close()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        sock.close()

    def act(self, sock):
        deed = self.dice.random()
        try:
            if deed < 0.35:
                sock.send(bytes(self.dice.choice((1, 100, 5000, 200_000))))
            elif deed < 0.65:
                if not sock.recv(1 << 20):
                    self.end(sock, "ended by the daemon")
            elif deed < 0.70:
                sock.shutdown(socket.SHUT_WR)
            elif deed < 0.85:
                self.end(sock, "close")
            elif deed < 0.95:
                self.end(sock, "reset")
            elif deed < 0.96:
                self.end(sock, "killed process")
        except BlockingIOError:
            pass
        except OSError:
            self.end(sock, "ended by the daemon")

    def step(self):
        if len(self.sockets) < N_CLIENTS and self.dice.random() < 0.3:
            self.come(self.dice.choice(("tcp4", "tcp6", "unix", "abstract")), self.hello())
            if self.sockets and self.dice.random() < 0.1:
                self.fall_silent(self.sockets[-1])
        elif self.sockets:
            self.act(self.dice.choice(self.sockets))

    def leave(self):
        for sock in list(self.sockets):
            self.end(sock, "close")
        while self.silent:
            self.silent.pop().close()


def wait_for_helper(daemon):
    """It is part of what an idle daemon holds."""
    daemon.wait_record(MESSAGE=re.compile("^helper asked: started"))
    daemon.note_idle()


class Soak:
    def __init__(self, daemon, dice):
        self.daemon, self.dice = daemon, dice
        self.clients = Clients(daemon, dice)
        self.idle_files = daemon.idle_files
        self.first_config = daemon.config_path.read_text()
        self.events, self.causes = Counter(), Counter()

    def play(self, seconds, events):
        """Clients for so long, and in between the events, shuffled like cards: one every few seconds."""
        end, cards = time.monotonic() + seconds, []
        next_event = time.monotonic() + self.dice.uniform(1, 4)
        while time.monotonic() < end:
            expect(self.daemon.process.poll() is None, f"the daemon exited with {self.daemon.process.returncode}")
            self.clients.step()
            select.select([], [], [], 1 / N_STEPS_A_SECOND)
            if time.monotonic() >= next_event:
                cards = cards or self.dice.sample(events, len(events))
                event = cards.pop()
                self.events[event.__name__] += 1
                event()
                self.daemon.poll_records()
                next_event = time.monotonic() + self.dice.uniform(1, 4)

    def rush(self):
        """As many as can be, all at one moment: what grows with their number grows now."""
        n_accepted = len(self.daemon.find("accepted"))
        with self.daemon.frozen():
            for _ in range(N_CLIENTS + N_SILENT):
                self.clients.come("tcp6", HELLOS[0])
        self.daemon.wait_record("accepted", count=n_accepted + N_CLIENTS + N_SILENT)
        self.settle()

    def settle(self):
        """Everybody leaves, and all of it is as it was when the daemon was idle. Returns the bytes of its own memory."""
        self.clients.leave()
        self.restore_config()
        self.daemon.reload()
        self.daemon.check_books()
        return int(self.daemon.status_field("RssAnon").split()[0]) * 1024

    def restore_config(self):
        self.daemon.config_path.write_text(self.first_config)

    # -- events --

    def good_reload(self):
        n_reloaded = len(self.daemon.find("reloaded"))
        self.daemon.configure(config(self.dice))
        self.daemon.reload()
        self.daemon.wait_record("reloaded", count=n_reloaded + 1)

    def bad_reload(self):
        n_failed = len(self.daemon.find("reload-failed"))
        good = self.daemon.config_path.read_text()
        self.daemon.configure(self.dice.choice(BAD))
        self.daemon.reload()
        self.daemon.config_path.write_text(good)
        self.daemon.wait_record("reload-failed", count=n_failed + 1)

    def summary(self):
        self.daemon.kill(signal.SIGUSR1)

    def restart(self):
        self.daemon.stop(timeout=60)
        self.daemon.check_records()
        self.start()

    def crash(self):
        self.daemon.stop(signal.SIGKILL, -signal.SIGKILL)
        self.start()
        journald().sync()
        self.daemon.poll_records()
        self.daemon.orphans |= {record["TETHERD_CONNECTION"] for record in self.daemon.find("recovered")}

    def start(self):
        self.note_run()
        self.daemon.start()
        wait_for_helper(self.daemon)
        self.daemon.idle_files = self.idle_files  # a record that recovery left is not idle

    def note_run(self):
        """What is to be kept of its records."""
        self.daemon.orphans |= {record["TETHERD_CONNECTION"] for record in self.daemon.find("load-failed",
                                                                                           MESSAGE=TIMED_OUT)}
        self.causes.update(record["TETHERD_CAUSE"] for record in self.daemon.records
                           if record.get("TETHERD_EVENT") in ("closed", "rejected"))


@scene()
def soak():
    seed = int(os.environ.get("SEED", random.getrandbits(32)))
    print(f"   SOAK_SECONDS={SECONDS:g} SEED={seed}", flush=True)
    dice = random.Random(seed)
    with Daemon(config(dice, is_tight=False), {"drain_timeout": "60s"}, SCRIPTS) as daemon:
        wait_for_helper(daemon)
        soak = Soak(daemon, dice)
        gentle = [soak.good_reload, soak.bad_reload, soak.summary]
        soak.play(SECONDS * RESTARTS_UNTIL, [*gentle, soak.restart, soak.crash])
        soak.restore_config()
        soak.restart()
        soak.rush()
        left = SECONDS * (1 - RESTARTS_UNTIL)
        soak.play(left * WARM_UP, gentle)
        memory = [(soak.settle(), len(daemon.find("accepted")))]
        for _ in range(N_TRIES):
            soak.play(left * (1 - WARM_UP), gentle)
            memory.append((soak.settle(), len(daemon.find("accepted"))))
            (warm, n_warm), (end, n_end) = memory[-2:]
            if end <= warm + GROWTH:
                break
        n = n_end - n_warm
        soak.note_run()
        print(f"   events {dict(soak.events)}\n   deaths {dict(soak.clients.deaths)}\n   causes {dict(soak.causes)}\n"
              f"   {len(daemon.effects())} loads and releases by commands\n"
              f"   memory: {warm >> 10} KiB after warm-up, {end >> 10} KiB {n} connections later", flush=True)
        expect(not daemon.find("quarantined"), "a resource was quarantined, though no release fails twice")
        expect(end <= warm + GROWTH or is_sanitized(), f"memory grew from {warm} to {end} bytes in {n} connections")


if __name__ == "__main__":
    main()

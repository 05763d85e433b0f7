"""soak: clients that die in random ways, on every kind of listener, with resources that fail and dawdle, while the
daemon is reloaded, restarted and killed. In the end the books are balanced, nothing is left, and memory is flat.

Environment: SOAK_SECONDS (600), SEED of the dice. The commands' own failures are drawn by the commands, so that a seed
plays the same clients and the same events again, not the same second.
"""

import os
import random
import select
import signal
import socket
import struct
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "system"))

from harness import SLOW, Daemon, expect, journald, main, scene  # noqa: E402

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
RESTARTS_UNTIL = 0.6  # of the time; then one run has to show that its memory is flat
WARM_UP = 0.3  # of that run
N_CLIENTS = 60
N_STEPS_A_SECOND = 400
GROWTH = 1024 * 1024  # bytes; a leak of 100 bytes a connection would be more within ten minutes
HELLOS = (b"alice\n", b"bob@example.org\r\n", b"a" * 64 + b"\n", b"-bad\n", b"x" * 300, b"..\n", b"half", b"\n")

# Some loads say that they failed and did nothing; some hang after they did something, until load_timeout. Some
# releases fail once.
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
"""}

BAD = ("[listener:bare]\nlisten = <tcp4>\nhandlr = echo\n", "no section = 1\n", "[listener:bare]\nlisten = nowhere\n",
       "[listener:bare]\nlisten = <tcp4>\nresources = missing\n", "[listener:bare]\nlisten = 192.0.2.77:1\n")


def config(dice):
    """Any of these is good; what changes among them is what a reload may change."""
    idle = dice.choice(("1s", "2s", "infinity"))
    timeout = 3 * SLOW
    fickle = ("type = exec\nload = <fickle>\nrelease = <fickle>\n"
              f"load_timeout = {timeout:g}s\nmax_concurrent = {dice.choice((2, 8))}\n")
    return f"""
[listener:bare]
listen = <tcp4>
handler = {dice.choice(("echo", "discard"))}
idle_timeout = {idle}
max_age = 20s
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
max_connections_per_source = {dice.choice(("20", "infinity"))}
idle_timeout = {idle}
[listener:local]
listen = <unix>
handler = echo
resources = outer, workdir
idle_timeout = {idle}
max_connections = {dice.choice(("10", "infinity"))}
""" + (dice.random() < 0.7) * "[listener:extra]\nlisten = <abstract>\nhandler = echo\nidle_timeout = 2s\n" + f"""
[resource:workdir]
type = directory
path = <dir>/connections/%i
[resource:outer]
{fickle}
[resource:inner]
{fickle}
"""


class Clients:
    """Sockets that nobody waits for: what cannot be done now is not done."""

    def __init__(self, daemon, dice):
        self.daemon, self.dice = daemon, dice
        self.sockets = []
        self.deaths = Counter()

    def come(self):
        kind = self.dice.choice(("tcp4", "tcp6", "unix", "abstract"))
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
        if kind == "tcp6" and self.dice.random() < 0.95:
            sock.send(self.dice.choice(HELLOS[:3] if self.dice.random() < 0.7 else HELLOS))

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
            self.come()
        elif self.sockets:
            self.act(self.dice.choice(self.sockets))

    def leave(self):
        for sock in list(self.sockets):
            self.end(sock, "close")


class Soak:
    def __init__(self, daemon, dice):
        self.daemon, self.dice = daemon, dice
        self.clients = Clients(daemon, dice)
        self.idle_files = daemon.idle_files
        self.first_config = daemon.config_path.read_text()
        self.events, self.causes = Counter(), Counter()

    def play(self, seconds, events):
        """Clients for so long, and in between one of `events` every few seconds."""
        end = time.monotonic() + seconds
        next_event = time.monotonic() + self.dice.uniform(1, 4)
        while time.monotonic() < end:
            expect(self.daemon.process.poll() is None, f"the daemon exited with {self.daemon.process.returncode}")
            self.clients.step()
            select.select([], [], [], 1 / N_STEPS_A_SECOND)
            if time.monotonic() >= next_event:
                event = self.dice.choice(events)
                self.events[event.__name__] += 1
                event()
                self.daemon.poll_records()
                next_event = time.monotonic() + self.dice.uniform(1, 4)

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
        self.count_causes()
        self.daemon.start()
        self.daemon.idle_files = self.idle_files  # a record that recovery left is not idle

    def count_causes(self):
        self.causes.update(record["TETHERD_CAUSE"] for record in self.daemon.records
                           if record.get("TETHERD_EVENT") in ("closed", "rejected"))


@scene()
def soak():
    seed = int(os.environ.get("SEED", random.getrandbits(32)))
    print(f"   SOAK_SECONDS={SECONDS:g} SEED={seed}", flush=True)
    dice = random.Random(seed)
    with Daemon(config(dice), {"drain_timeout": "60s"}, SCRIPTS) as daemon:
        soak = Soak(daemon, dice)
        gentle = [soak.good_reload, soak.bad_reload, soak.summary]
        soak.play(SECONDS * RESTARTS_UNTIL, [*gentle, soak.restart, soak.crash])
        soak.restore_config()
        soak.restart()
        left = SECONDS * (1 - RESTARTS_UNTIL)
        soak.play(left * WARM_UP, gentle)
        warm = daemon.resident_bytes()
        soak.play(left * (1 - WARM_UP), gentle)
        end = daemon.resident_bytes()
        soak.clients.leave()
        soak.restore_config()  # with as many listening sockets as when it was idle
        daemon.reload()
        daemon.check_books()
        soak.count_causes()
        print(f"   events {dict(soak.events)}\n   deaths {dict(soak.clients.deaths)}\n   causes {dict(soak.causes)}\n"
              f"   {len(daemon.effects())} loads and releases by commands, {len(daemon.orphans)} leases recovered\n"
              f"   memory: {warm >> 10} KiB after warm-up, {end >> 10} KiB at the end, "
              f"{daemon.resident_bytes() >> 10} KiB when all had left", flush=True)
        expect(not daemon.find("quarantined"), "a resource was quarantined, though no release fails twice")
        expect(end <= warm + GROWTH or "ASAN_OPTIONS" in os.environ, f"memory grew from {warm} to {end} bytes")


if __name__ == "__main__":
    main()

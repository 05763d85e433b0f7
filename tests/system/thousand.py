"""thousand: clients that end in a randomly chosen way leave the right records and nothing else behind."""

import os
import random
import signal
from collections import Counter

from harness import Daemon, eventually, expect, expect_equal, main, scene

N_CLIENTS = 1000
N_AT_ONCE = 50

# As conf/demo.conf: a directory and a command, on loopback.
CONFIG = """
[listener:demo]
listen = <tcp4>, <unix>
handler = echo
hello = yes
greeting = welcome %h
resources = workdir, session
[resource:workdir]
type = directory
path = <dir>/connections/%i
[resource:session]
type = exec
load = <session> %h %{workdir}
release = <session> %h %{workdir}
"""
SESSION = {"session": '[ -d "$2" ] && echo "$TETHERD_PHASE $TETHERD_RESOURCE $1" >> <effects>'}


def close(client):
    client.close()


def close_after_data(client):
    client.send(b"some last words").close()


def reset(client):
    client.reset()


def half_close(client):
    client.half_close().receive_rest()
    client.close()


def killed_process(client):
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    client.close()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


# Each way, and the causes that it may have. Data may be echoed before the close: then it is unread there.
WAYS = ((close, {"eof"}), (close_after_data, {"eof", "reset"}), (reset, {"reset"}), (killed_process, {"eof"}),
        (half_close, {"eof"}))


def play(daemon, dice, is_greeted):
    """Plays all clients; returns the causes allowed for each identity."""
    allowed = {}
    waiting = []

    def end_all():
        dice.shuffle(waiting)
        for client in waiting:
            way, causes = dice.choice([entry for entry in WAYS if client.kind == "tcp4" or entry[0] is not reset])
            if is_greeted:
                client.receive_line()
            try:
                way(client)
            except OSError:
                pass  # it was ended at the same moment
            allowed[client.identity] = causes
        daemon.clients.clear()
        waiting.clear()

    for i in range(N_CLIENTS):
        client = daemon.connect(dice.choice(("tcp4", "tcp4", "unix")))
        client.identity = f"c{i:04}"
        client.send(client.identity.encode() + b"\n")
        waiting.append(client)
        # Who was not greeted ends at once, or while some more are connecting.
        if len(waiting) >= (N_AT_ONCE if is_greeted else dice.choice((1, 1, 1, 5))):
            end_all()
    end_all()
    return allowed


def endings_of(daemon, n_wanted):
    def probe():
        daemon.poll_records()
        return len(daemon.find("closed")) + len(daemon.find("rejected")) >= n_wanted
    eventually(probe, lambda: f"{len(daemon.find('closed'))} closed and {len(daemon.find('rejected'))} rejected "
                              f"of {n_wanted}", 60)
    return daemon.find("closed"), daemon.find("rejected")


def new_dice():
    seed = int(os.environ.get("SEED", random.getrandbits(32)))
    print(f"SEED={seed} plays the same dice again", flush=True)
    return random.Random(seed)


@scene()
def a_thousand_clients():
    dice = new_dice()
    with Daemon(CONFIG, scripts=SESSION) as daemon:
        allowed = play(daemon, dice, is_greeted=True)
        closed, rejected = endings_of(daemon, N_CLIENTS)
        expect_equal((len(closed), len(rejected)), (N_CLIENTS, 0), "closed and rejected records")
        expect_equal(sorted(record["TETHERD_IDENTITY"] for record in closed), sorted(allowed), "identities")
        for record in closed:
            expect(record["TETHERD_CAUSE"] in allowed[record["TETHERD_IDENTITY"]],
                   f"{record['TETHERD_IDENTITY']} ended as {record['TETHERD_CAUSE']}, "
                   f"allowed: {allowed[record['TETHERD_IDENTITY']]}: {record['MESSAGE']}")
            expect_equal(record["TETHERD_STATE"], "ready", "TETHERD_STATE")
        phases = Counter(phase for phase, _, _ in daemon.effects())
        expect_equal(phases, {"load": N_CLIENTS, "release": N_CLIENTS}, "runs of the command")


@scene()
def a_thousand_clients_that_die_while_their_resources_load():
    dice = new_dice()
    with Daemon(CONFIG, scripts=SESSION) as daemon:
        allowed = play(daemon, dice, is_greeted=False)
        closed, rejected = endings_of(daemon, N_CLIENTS)
        expect_equal(len(closed) + len(rejected), N_CLIENTS, "closed and rejected records")
        for record in closed:
            # Who dies after it was greeted has left the greeting unread, which is a reset.
            causes = allowed[record["TETHERD_IDENTITY"]] | {"reset"}
            expect(record["TETHERD_CAUSE"] in causes,
                   f"{record['TETHERD_IDENTITY']} ended as {record['TETHERD_CAUSE']}, allowed: {causes}")
        for record in rejected:
            expect_equal(record["TETHERD_CAUSE"], "reset", "cause of a rejection, whose hello had been sent")
        states = Counter(record["TETHERD_STATE"] for record in closed)
        expect(states["loading"] > N_CLIENTS / 20, f"too few died while loading to prove anything: {states}")


if __name__ == "__main__":
    main()

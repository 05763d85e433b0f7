"""calls: how many system calls a whole life takes where no record is written, and which; and what records add."""

import re
import signal
import subprocess
from collections import Counter

from harness import Daemon, eventually, expect, expect_equal, main, need_program, scene

N_LIVES = 200
QUIET = {"log_level": "err", "log_events": "none"}
CONFIG = """
[listener:calls]
listen = <tcp4>
resources = nothing
[resource:nothing]
type = none
"""
# Once a life, whatever ends it; epoll_wait is shared by those of a turn, as is the question how many wait (TCP_INFO).
OWN = {"accept4": 1, "getsockopt": 1, "epoll_ctl": 2, "recvfrom": 1, "close": 1}


def count(daemon, play):
    """The daemon's calls while it is played, by name."""
    trace = daemon.directory / "trace"
    with subprocess.Popen(["strace", "-f", "-qq", "-p", str(daemon.pid), "-o", trace],
                          stderr=subprocess.DEVNULL) as strace:
        eventually(lambda: daemon.status_field("TracerPid") != "0", "strace has attached")
        try:
            play()
        finally:
            strace.send_signal(signal.SIGINT)
    lines = trace.read_text().splitlines()
    return Counter(match[1] for match in (re.search(r"^\d+ +(\w+)\(", line) for line in lines) if match)


def play_lives(daemon, how):
    idle = daemon.descriptors()
    clients = [daemon.connect() for _ in range(N_LIVES)]
    for client in clients:
        if how == "reset":
            client.reset()
        else:
            client.half_close().receive_rest()
            client.close()
    daemon.clients.clear()
    eventually(lambda: daemon.descriptors() == idle, "every connection has ended")


@scene(over=("fin", "reset"))
def a_whole_life(how):
    need_program("strace")
    with Daemon(CONFIG, QUIET) as daemon:
        play_lives(daemon, how)  # what is done once only
        calls = count(daemon, lambda: play_lives(daemon, how))
        calls.pop("epoll_wait")
        # Memory comes and goes in chunks of hundreds of connections.
        expect(sum(calls.pop(name, 0) for name in ("mmap", "munmap", "brk")) <= 8, f"memory is not kept: {calls}")
        # A STATUS, which is told once a second at most: a socket, the message, and the socket's close.
        n_told = calls.pop("sendmsg", 0)
        expect(calls.pop("socket", 0) == n_told <= N_LIVES / 10, f"calls that no life needs: {calls}, {n_told} sendmsg")
        calls["close"] -= n_told
        expect_equal(set(calls) - set(OWN), set(), "calls that no life needs")
        for name, n_calls in calls.items():
            expect(n_calls <= OWN[name] * N_LIVES, f"{n_calls} {name} in {N_LIVES} lives: {calls}")


@scene()
def both_records_of_a_short_life_go_together():
    need_program("strace")
    with Daemon(CONFIG, {"log_level": "info"}) as daemon:
        daemon.kill(signal.SIGSTOP)
        eventually(lambda: daemon.status_field("State").startswith("T"), "the daemon stands still")
        client = daemon.connect().half_close()  # it has left before it is accepted

        def live():
            daemon.kill(signal.SIGCONT)
            client.receive_rest()
            daemon.wait_record("ready")
            daemon.wait_record("closed")

        calls = count(daemon, live)
        expect_equal(calls["sendmmsg"], 1, f"two records: {calls}")


if __name__ == "__main__":
    main()

"""limits: at max_connections, and out of descriptors, accepting pauses and goes on by itself."""

import errno
import os
import re
import resource
import select
import signal
import time

from harness import MARK, Daemon, expect, expect_equal, main, scene


def config(keys=""):
    return f"""
[listener:tight]
listen = <tcp4>, <unix>
handler = echo
resources = mark
{keys}
[listener:other]
listen = <tcp6>
handler = echo
{MARK}"""


def is_answered(client, within=0.4):
    readable, _, _ = select.select([client.socket], [], [], within)
    return bool(readable)


def expect_waiting_then_served(daemon, leaver, kind, paused_listener):
    """One more client than fits: it waits, nobody is disturbed, and it is served when `leaver` goes."""
    waiting = daemon.connect(kind).send(b"let me in")
    expect(not is_answered(waiting), "more connections than the limit allows")
    fields = {"TETHERD_LISTENER": paused_listener} if paused_listener else {}
    daemon.wait_record("accept-paused", PRIORITY=4, **fields)
    leaver.close()
    expect_equal(waiting.receive(9), b"let me in", "echo")  # how soon: admission.py
    daemon.wait_record("accept-resumed", PRIORITY=6, **fields)
    return waiting


@scene(over=("tcp4", "unix"))
def max_connections_of_a_listener(kind):
    with Daemon(config("max_connections = 3")) as daemon:
        clients = [daemon.connect_ready(kind).echo() for _ in range(3)]
        daemon.connect("tcp6").echo()  # the other listener does not notice
        waiting = expect_waiting_then_served(daemon, clients[0], kind, "tight")
        daemon.connect("tcp6").echo()
        for client in [*clients[1:], waiting]:
            client.echo()


@scene(over=("tcp4", "unix"))
def a_full_listener_says_so_before_anybody_waits(kind):
    with Daemon(config("max_connections = 2")) as daemon:
        clients = [daemon.connect_ready(kind).echo() for _ in range(2)]
        daemon.wait_record("accept-paused", PRIORITY=4, TETHERD_LISTENER="tight")
        clients[0].close()
        daemon.wait_record("accept-resumed", PRIORITY=6, TETHERD_LISTENER="tight")


@scene()
def max_connections_of_the_daemon():
    with Daemon(config(), {"max_connections": "4"}) as daemon:
        clients = [daemon.connect_ready(kind).echo() for kind in ("tcp4", "tcp6", "unix", "tcp4")]
        began = time.monotonic()
        for leaver, kind in ((clients[0], "tcp4"), (clients[1], "tcp6"), (clients[2], "unix")):
            waiting = daemon.connect(kind).send(b"let me in")
            expect(not is_answered(waiting, 0.2), "more connections than the limit allows")
            leaver.close()
            expect_equal(waiting.receive(9), b"let me in", "echo")
        paused = daemon.wait_record("accept-paused", PRIORITY=4)
        expect("max_connections" in paused["MESSAGE"], paused["MESSAGE"])
        n, seconds = len(daemon.find("accept-paused")), time.monotonic() - began
        expect(n <= 1 + seconds / 5, f"it was said {n} times in {seconds:.1f} s, not at most once in 5 s")
        clients[3].echo()


@scene(over=("ENOSPC", "ENOMEM"))
def no_more_watches(what):
    # fs.epoll.max_user_watches is shared by all processes of a user.
    with Daemon(config()) as daemon:
        other = daemon.connect_ready().echo()
        with daemon.failing("epoll_ctl", what, ":when=1"):
            expect_equal(daemon.connect().receive_rest(), b"", "what the client gets")
            daemon.wait_record("rejected", TETHERD_CAUSE="exhausted", TETHERD_OPERATION="accept",
                               TETHERD_STATE="accept", ERRNO=getattr(errno, what), PRIORITY=5)
        daemon.connect().echo()
        other.echo()


@scene()
def a_pause_that_lasts_is_said_in_the_end():
    # What is said at most once in 5 s is not the last word where the listener goes on, and pauses again.
    with Daemon(config("max_connections = 1")) as daemon:
        client = daemon.connect_ready().echo()
        waiting = expect_waiting_then_served(daemon, client, "tcp4", "tight")
        began = time.monotonic()
        last = daemon.connect().send(b"me, too")
        daemon.wait_record("accept-paused", count=2, TETHERD_LISTENER="tight")
        expect(not is_answered(last, 0), "more connections than the limit allows")
        waiting.close()
        expect_equal(last.receive(7), b"me, too", "echo")
        record = daemon.wait_record("accept-resumed", count=2, TETHERD_LISTENER="tight")
        took = int(record["TETHERD_DURATION_USEC"]) / 1e6
        expect(0 < took <= time.monotonic() - began + 1, f"the pause lasted {took} s, says {record['MESSAGE']}")


@scene()
def a_lease_counts_until_it_is_released():
    scripts = {"slow": "read -r _ < <dir>/slow-gate\necho \"release mark $1\" >> <effects>"}
    text = config("max_connections = 1").replace("release = <mark>", "release = <slow>")
    with Daemon(text, scripts=scripts) as daemon:
        os.mkfifo(daemon.directory / "slow-gate")
        first = daemon.connect_ready()
        first.half_close().receive_rest()
        waiting = daemon.connect().send(b"let me in")
        expect(not is_answered(waiting), "the lease of the first is not released yet")
        (daemon.directory / "slow-gate").write_text("\n")
        expect_equal(waiting.receive(9), b"let me in", "echo")
        waiting.half_close().receive_rest()
        (daemon.directory / "slow-gate").write_text("\n")
        daemon.wait_ended(waiting, "eof")


@scene()
def many_in_a_small_room():
    with Daemon(config("max_connections = 5")) as daemon:
        clients = [daemon.connect().send(b"%03d" % i) for i in range(60)]
        for i, client in enumerate(clients):
            expect_equal(client.receive(3), b"%03d" % i, "echo")
            client.close()


@scene()
def out_of_descriptors():
    with Daemon(config()) as daemon:
        first = daemon.connect_ready().echo()
        n_open = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        old = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (n_open + 8, old[1]))
        clients = [daemon.connect("tcp6").send(b"hello") for _ in range(30)]
        daemon.wait_record("accept-paused", PRIORITY=4)
        first.echo()  # undisturbed
        ticks = daemon.cpu_ticks()
        expect(not is_answered(clients[-1], 1), "more descriptors than the limit allows")
        expect(daemon.cpu_ticks() - ticks <= 10, "it is busy while it is out of descriptors")
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, old)
        for client in clients:
            expect_equal(client.receive(5), b"hello", "echo")
        daemon.wait_record("accept-resumed", PRIORITY=6)
        first.echo()


@scene()
def out_of_descriptors_then_some_leave():
    with Daemon(config()) as daemon:
        n_open = len(os.listdir(f"/proc/{daemon.pid}/fd"))
        old = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (n_open + 6, old[1]))
        clients = [daemon.connect("tcp6").send(b"hello") for _ in range(40)]
        for client in clients:
            expect_equal(client.receive(5), b"hello", "echo")
            client.close()
        daemon.wait_record("accept-paused", PRIORITY=4)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, old)


RECORDED = {"exec": "type = exec\nload = <mark> %i\nrelease = <mark> %i\n", "pool": "type = pool\nitems = 1-100\n",
            "directory": "type = directory\npath = <dir>/connections/%i\n",
            "process": "type = process\ncommand = sleep 1000\n"}
KINDS = [*RECORDED, "exec, persistent", "directory, persistent"]


def leave_free(pid, n):
    """The process may have so many more descriptors. Returns the limit that it had."""
    taken = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    limit = 0
    while n > 0 or limit in taken:
        n -= limit not in taken
        limit += 1
    old = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, old[1]))
    return old


@scene(over=[f"{kind}, {n} left" for kind in KINDS for n in (1, 2, 3)])
def no_descriptor_for_what_is_recorded(what):
    """Whoever gets the last one needs more of them to load: that is waited for, not failed."""
    kind, *more, left = what.split(", ")
    text = RECORDED[kind] + ("persistent = yes\n" if more else "")
    with Daemon(f"[listener:a]\nlisten = <tcp4>\nhandler = echo\nresources = r\n[resource:r]\n{text}") as daemon:
        old = leave_free(daemon.pid, int(left.split()[0]))
        clients = [daemon.connect().send(b"hello") for _ in range(12)]
        daemon.wait_record("accept-paused", PRIORITY=4, MESSAGE=re.compile("Too many open files"))
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, old)
        for client in clients:
            expect_equal(client.receive(5), b"hello", "echo")
        daemon.wait_record("accept-resumed")


@scene(over=[str(n) for n in (0, 1, 4, 7)])
def no_descriptor_for_a_helper(n_left):
    """It comes back as soon as there are some, and its back-off is not for that."""
    answer = 'while read -r verb number rest; do echo "OK $number"; done'
    text = ("[listener:a]\nlisten = <tcp4>\nhandler = echo\nresources = r\n"
            "[resource:r]\ntype = helper\ncommand = <answer>\n")
    with Daemon(text, scripts={"answer": answer}) as daemon:
        first = daemon.connect_ready().echo()
        helper = re.compile("^helper r: started, pid ([0-9]+)")
        pid = int(helper.match(daemon.wait_record(MESSAGE=helper)["MESSAGE"])[1])
        old = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (3, old[1]))
        os.kill(pid, signal.SIGKILL)
        daemon.wait_record(MESSAGE=re.compile("^helper r: pid [0-9]+ ended"))
        leave_free(daemon.pid, int(n_left))
        clients = [daemon.connect().send(b"hello") for _ in range(3)]
        short = re.compile("^helper r: .*/answer cannot be started: Too many open files; tried again every 50ms")
        daemon.wait_record(PRIORITY=4, MESSAGE=short)
        clients.append(daemon.connect().send(b"hello"))
        daemon.wait_record("accept-paused", PRIORITY=4, MESSAGE=re.compile("Too many open files"))
        first.echo()
        ticks = daemon.cpu_ticks()
        expect(not is_answered(clients[-1], 1.5), "its helper has no descriptors")
        expect(daemon.cpu_ticks() - ticks <= 10, "it is busy while it is out of descriptors")
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, old)
        for client in clients:
            expect_equal(client.receive(5), b"hello", "echo")
        daemon.wait_record("accept-resumed")
        expect_equal(len(daemon.find(MESSAGE=re.compile("cannot be started"))), 1, "how often it is told")
        first.echo()


if __name__ == "__main__":
    main()

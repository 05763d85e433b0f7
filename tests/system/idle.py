"""idle: ten thousand connections that say nothing cost nothing."""

import resource
import select

from harness import SLOW, Daemon, Skip, expect, expect_equal, main, scene

N_WANTED = 10_000
CONFIG = """
[listener:quiet]
listen = <tcp4>, <unix>
handler = echo
backlog = 4096
"""


def raise_descriptor_limit(n_wanted):
    """Raises the soft limit; returns how many of these clients the limit allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    n_clients = min(n_wanted, hard - 200)
    if n_clients < 1000:
        raise Skip(f"the descriptor limit is {hard}")
    return n_clients


def expect_no_work(daemon, what):
    """Two seconds without a context switch. What was under way may end first: three tries."""
    for _ in range(3):
        switches, ticks = daemon.context_switches(), daemon.cpu_ticks()
        select.select([], [], [], 2)
        switches, ticks = daemon.context_switches() - switches, daemon.cpu_ticks() - ticks
        if switches == 0 and ticks == 0:
            return
    expect_equal((switches, ticks), (0, 0), f"context switches and CPU ticks of {what} in 2 s")


@scene(over=("tcp4", "unix"))
def ten_thousand_idle_connections(kind):
    n_clients = raise_descriptor_limit(N_WANTED)
    with Daemon(CONFIG, {"log_level": "notice"}) as daemon:
        before = daemon.resident_bytes()
        clients = []
        for i in range(n_clients):
            source = f"127.0.0.{1 + i % 250}" if kind == "tcp4" else None
            clients.append(daemon.connect(kind, source=source).send(b"x"))
        for client in clients:
            client.receive(1)
        grown = daemon.resident_bytes() - before
        expect(grown < n_clients * 2048 * SLOW, f"{grown // n_clients} bytes of memory a connection")
        expect_no_work(daemon, f"{n_clients} idle connections")
        clients[0].echo()
        clients[-1].echo()


@scene()
def nobody_at_all():
    with Daemon(CONFIG) as daemon:
        expect_no_work(daemon, "an idle daemon")


@scene()
def idle_with_timers():
    # Deadlines that lie far ahead wake nobody up.
    keys = "idle_timeout = 1h\nmax_age = 1d\nhandshake_timeout = 10min\n"
    with Daemon(CONFIG + keys, {"log_level": "notice"}) as daemon:
        for _ in range(100):
            daemon.connect().echo()
        expect_no_work(daemon, "100 connections with timeouts")


if __name__ == "__main__":
    main()

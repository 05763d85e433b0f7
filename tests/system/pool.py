"""pool: an item is one connection's only; who waits gets one in order, whatever comes in between."""

import re
import signal
import subprocess

from harness import SLOW, Daemon, eventually, expect, expect_equal, main, scene

ALL = ("tcp4", "tcp6", "unix")
LOG = 'echo "$TETHERD_PHASE $TETHERD_RESOURCE $TETHERD_CONNECTION" >> <effects>'
BREAKABLE = {"breakable": '[ $TETHERD_PHASE = load ] || [ ! -e <dir>/broken ] || exit 3\n' + LOG}


def listener(resources="ports", name="shop", listen="<tcp4>, <tcp6>, <unix>", keys=""):
    return f"""
[listener:{name}]
listen = {listen}
handler = echo
resources = {resources}
greeting = %{{ports}}
refusal = BUSY %c
{keys}
"""


def pool(items, when_empty="wait", keys=""):
    return f"""
[resource:ports]
type = pool
items = {items}
when_empty = {when_empty}
{keys}
"""


USER = """
[resource:user]
type = exec
load = <breakable>
release = <breakable>
release_attempts = 1
"""


def item_of(client):
    return client.receive_line().strip()


def come(daemon, kind="tcp4"):
    """Who gets an item at once: it, and the item."""
    client = daemon.connect(kind)
    return client, item_of(client)


def wait_waiting(daemon, n):
    """So many wait: what came before this is seen by the daemon."""
    def probe():
        return f" {n} loads wait;" in summary(daemon)[0]
    eventually(probe, f"{n} wait")


def come_and_wait(daemon, kinds):
    """Who has to wait, in this order."""
    clients = []
    n_before = int(re.search(r"(\d+) loads wait", summary(daemon)[0])[1])
    for n, kind in enumerate(kinds, n_before + 1):
        clients.append(daemon.connect(kind))
        wait_waiting(daemon, n)
    return clients


def summary(daemon):
    """What SIGUSR1 says of the pool."""
    def last_lines():
        return [record["MESSAGE"] for record in daemon.poll_records()
                if record["MESSAGE"].startswith("summary: ")]
    n_before = sum("quarantined; journal" in line for line in last_lines())
    daemon.kill(signal.SIGUSR1)
    def probe():
        lines = last_lines()
        return sum("quarantined; journal" in line for line in lines) > n_before and lines
    lines = eventually(probe, "a summary")
    begin = max(i for i, line in enumerate(lines) if " connections (" in line)
    return [line for line in lines[begin:] if line.startswith("summary: pool ")]


def holders(daemon):
    return dict(re.findall(r"(\S+) held by ([0-9a-f]+)", " ".join(summary(daemon))))


def expect_silent(client):
    """It was told nothing, also by now that the daemon has answered somebody else."""
    client.socket.setblocking(False)
    try:
        data = client.socket.recv(100)
        raise AssertionError(f"it was told {data!r}")
    except BlockingIOError:
        client.socket.settimeout(20 * SLOW)


# ---- items ----


@scene(over=ALL)
def refused_when_it_is_empty(kind):
    with Daemon(listener() + pool("port-1, port-2", "reject")) as daemon:
        first, item = come(daemon, kind)
        expect_equal((item, come(daemon, kind)[1]), ("port-1", "port-2"), "items")
        third = daemon.connect(kind)
        expect_equal(third.receive_rest(), b"BUSY pool-empty\n", "what the third is told")
        record = daemon.wait_ended(third, "pool-empty", state="loading", TETHERD_RESOURCE="ports")
        expect_equal(record["PRIORITY"], "5", "PRIORITY")
        daemon.wait_record("load-failed", TETHERD_RESOURCE="ports", TETHERD_CONNECTION=third.id, PRIORITY=4,
                           MESSAGE=re.compile("no item is free"))
        first.close()
        daemon.wait_ended(first, "eof")
        expect_equal(come(daemon, kind)[1], "port-1", "the item that is free again")


@scene(over=ALL)
def commands_and_later_resources_have_it(kind):
    show = {"show": 'echo "$TETHERD_PHASE $1 $TETHERD_VALUE_PORTS" >> <dir>/seen'}
    behind = "[resource:show]\ntype = exec\nload = <show> %{ports}\nrelease = <show> x%{ports}\n"
    with Daemon(listener("ports, show") + pool("0010-0012") + behind, scripts=show) as daemon:
        client, item = come(daemon, kind)
        expect_equal(item, "0010", "item")
        client.close()
        daemon.wait_ended(client, "eof")
        expect_equal((daemon.directory / "seen").read_text().splitlines(), ["load 0010 0010", "release x0010 0010"],
                     "what the command saw")


@scene()
def listeners_share_it():
    other = listener(name="other", listen="<abstract>")
    with Daemon(listener() + other + pool("1-2", "reject")) as daemon:
        expect_equal((come(daemon)[1], come(daemon, "abstract")[1]), ("1", "2"), "items")
        for kind in ("tcp4", "abstract"):
            expect_equal(daemon.connect(kind).receive_rest(), b"BUSY pool-empty\n", "what the next is told")


# ---- who waits ----


@scene()
def who_waits_is_served_in_order():
    with Daemon(listener() + pool("a")) as daemon:
        holder, _ = come(daemon)
        for client in come_and_wait(daemon, ALL * 2):
            expect_silent(client)
            holder.close()
            expect_equal(item_of(client), "a", "item")
            client.echo()
            holder = client


@scene(over=ALL)
def nobody_waits_for_longer_than_wait_timeout(kind):
    with Daemon(listener() + pool("a", keys="wait_timeout = 300ms")) as daemon:
        holder, _ = come(daemon)
        client = daemon.connect(kind)
        expect_equal(client.receive_rest(), b"BUSY pool-empty\n", "what it is told")
        record = daemon.wait_ended(client, "pool-empty", state="loading", TETHERD_RESOURCE="ports")
        expect(int(record["TETHERD_LOAD_USEC"]) >= 300000, f"it did not wait for 300 ms: {record['TETHERD_LOAD_USEC']}")
        holder.echo()


@scene(over=("close", "kill", "reset"))
def who_dies_leaves_the_queue(how):
    with Daemon(listener("ports, user") + pool("a") + USER, scripts=BREAKABLE) as daemon:
        holder, _ = come(daemon)
        dying, patient = come_and_wait(daemon, ("tcp4", "tcp4"))
        getattr(dying, how)()
        daemon.wait_ended(dying, "reset" if how == "reset" else "eof", state="loading")
        wait_waiting(daemon, 1)
        holder.close()
        expect_equal(item_of(patient), "a", "item")
        expect(not [effect for effect in daemon.effects() if effect[2] == dying.id], "something was loaded for it")


@scene()
def a_release_does_not_wait_for_those_who_wait():
    # All that wait have loaded what stands before the pool, one at a time, and hold no place in its queue.
    before = "[resource:user]\ntype = exec\nload = <mark> %i\nrelease = <mark> %i\nmax_concurrent = 1\n"
    with Daemon(listener("user, ports") + pool("a") + before) as daemon:
        holder, _ = come(daemon)
        waiting = come_and_wait(daemon, ["tcp4"] * 20)
        holder.close()
        daemon.wait_ended(holder, "eof")
        for client in waiting[1:]:
            client.close()
            daemon.wait_ended(client, "eof", state="loading")
        expect_equal(item_of(waiting[0]), "a", "item")


@scene()
def a_stop_ends_those_who_wait():
    with Daemon(listener() + pool("a")) as daemon:
        holder, _ = come(daemon)
        client, = come_and_wait(daemon, ("tcp4",))
        daemon.stop()
        daemon.wait_ended(holder, "shutdown")
        daemon.wait_ended(client, "shutdown", state="loading")


@scene()
def hundreds_for_hundreds():
    n = 300
    with Daemon(listener() + pool(f"1-{n}"), {"log_level": "info"}) as daemon:
        holding = [come(daemon) for _ in range(n)]
        expect_equal([item for _, item in holding], [str(i) for i in range(1, n + 1)], "items")
        waiting = [daemon.connect() for _ in range(n)]
        wait_waiting(daemon, n)
        for client, _ in holding:
            client.close()
        expect_equal(sorted(int(item_of(client)) for client in waiting), list(range(1, n + 1)), "items")
        expect_equal(len(holders(daemon)), n, "holders in the summary")


# ---- reloads ----


@scene()
def a_reload_adds_items():
    with Daemon(listener() + pool("a")) as daemon:
        come(daemon)
        first, second = come_and_wait(daemon, ("tcp4", "unix"))
        daemon.configure(listener() + pool("a, b"))
        daemon.reload()
        expect_equal(item_of(first), "b", "item")
        wait_waiting(daemon, 1)
        expect_silent(second)


@scene()
def a_reload_removes_items():
    with Daemon(listener() + pool("a, b")) as daemon:
        (one, _), (two, _) = come(daemon), come(daemon)
        daemon.configure(listener() + pool("c", "reject"))
        daemon.reload()
        one.echo()
        expect_equal(summary(daemon)[0], "summary: pool ports: 2 of 3 items taken, 0 loads wait; 2 items leave when "
                                         "they are given back", "the summary")
        three, item = come(daemon)
        expect_equal(item, "c", "item")
        one.close()
        daemon.wait_ended(one, "eof")
        expect_equal(daemon.connect().receive_rest(), b"BUSY pool-empty\n", "what the next is told")
        daemon.configure(listener() + pool("b"))  # it was never given back
        daemon.reload()
        three.close()
        daemon.wait_ended(three, "eof")
        waiting, = come_and_wait(daemon, ("tcp4",))
        two.close()
        expect_equal(item_of(waiting), "b", "item")


@scene()
def a_pool_that_a_reload_removes():
    with Daemon(listener() + pool("a", keys="wait_timeout = 1s")) as daemon:
        holder, _ = come(daemon)
        client, = come_and_wait(daemon, ("tcp4",))
        daemon.configure(listener("nothing").replace("%{ports}", "%i") + "[resource:nothing]\ntype = none\n")
        daemon.reload()
        holder.echo().close()
        daemon.wait_ended(holder, "eof")
        daemon.wait_ended(client, "pool-empty", state="loading")
        daemon.reload()
        expect_equal(summary(daemon), [], "what the summary says of pools")


# ---- quarantine, crashes ----


@scene()
def a_quarantine_keeps_the_item():
    config = listener("ports, user") + pool("a, b", "reject") + USER
    with Daemon(config, scripts=BREAKABLE) as daemon:
        client, item = come(daemon)
        (daemon.directory / "broken").touch()
        client.close()
        daemon.wait_record("quarantined", TETHERD_CONNECTION=client.id, TETHERD_RESOURCE="user")
        daemon.wait_ended(client, "eof")
        expect(f"{item} held by {client.id} (quarantined)" in summary(daemon)[1], f"{summary(daemon)}")
        other, item = come(daemon)
        expect_equal(item, "b", "item")
        expect_equal(daemon.connect().receive_rest(), b"BUSY pool-empty\n", "what the next is told")
        (daemon.directory / "broken").unlink()
        daemon.reload()
        daemon.wait_record("reloaded")
        eventually(lambda: ("release", "user", client.id) in daemon.effects(), "it is released")
        eventually(lambda: "a" not in holders(daemon), "the item is given back")
        expect_equal(come(daemon)[1], "a", "item")
        other.echo()


@scene()
def a_crash_gives_back_what_is_released_alone():
    # One is quarantined when the daemon dies, one is ready, one waits.
    config = listener("ports, user") + pool("a, b", keys="persistent = yes") + USER
    with Daemon(config, scripts=BREAKABLE) as daemon:
        idle_files = daemon.idle_files
        client, _ = come(daemon)
        (daemon.directory / "broken").touch()
        client.close()
        daemon.wait_record("quarantined", TETHERD_CONNECTION=client.id)
        ready, item = come(daemon)
        expect_equal(item, "b", "item")
        waiting, = come_and_wait(daemon, ("tcp4",))
        ids = client.id, ready.id, waiting.id
        daemon.crash()

        daemon.start()  # both cannot be released
        daemon.wait_record("quarantined", count=2)
        expect_equal(holders(daemon), {"a": ids[0], "b": ids[1]}, "holders")
        closed = [record["TETHERD_CONNECTION"] for record in daemon.find("closed")]
        expect_equal((closed[0], sorted(closed[1:])), (ids[2], sorted(ids[:2])), "what is told as closed")
        next_one, = come_and_wait(daemon, ("tcp4",))
        expect_silent(next_one)
        (daemon.directory / "broken").unlink()
        daemon.reload()
        expect(item_of(next_one) in ("a", "b"), "it gets what is given back first")
        daemon.idle_files = idle_files


@scene()
def after_a_crash_an_item_need_not_be_in_the_configuration():
    with Daemon(listener() + pool("a, b")) as daemon:
        idle_files = daemon.idle_files
        come(daemon)
        daemon.crash()
        daemon.configure(listener() + pool("b"))
        daemon.start()
        daemon.idle_files = idle_files
        daemon.wait_record("recovered")
        expect_equal(come(daemon)[1], "b", "item")
        expect_equal(list(holders(daemon)), ["b"], "items that are taken")
    with Daemon(listener() + pool("a")) as daemon:  # nor need the pool
        idle_files = daemon.idle_files
        come(daemon)
        daemon.crash()
        daemon.configure("[listener:shop]\nlisten = <tcp4>\n")
        daemon.start()
        daemon.idle_files = idle_files
        daemon.wait_record("recovered")


# ---- who holds it ----


@scene()
def who_holds_it():
    with Daemon(listener() + pool("port-1, port-2, port-3")) as daemon:
        clients = [come(daemon, kind)[0] for kind in ALL[:2]]
        expect_equal(holders(daemon), {f"port-{n}": client.id for n, client in enumerate(clients, 1)}, "holders")
        expect_equal(summary(daemon)[0], "summary: pool ports: 2 of 3 items taken, 0 loads wait; 0 items leave when "
                                         "they are given back", "the summary")
        for n, client in enumerate(clients, 1):
            daemon.wait_record(TETHERD_RESOURCE="ports", TETHERD_PHASE="load", TETHERD_CONNECTION=client.id,
                               MESSAGE=f"connection {client.id} load of ports: took port-{n}", PRIORITY=6)
    with Daemon(listener() + pool("port-1"), {"log_events": "closed"}) as daemon:
        come(daemon)
        expect(summary(daemon), "no summary")
        expect(not daemon.find(TETHERD_RESOURCE="ports"), "it is told, although only endings are to be")


def check_config(daemon):
    return subprocess.run(daemon.command("--check-config"), env=daemon.environment(), capture_output=True, text=True,
                          timeout=20 * SLOW)


@scene()
def daemons_that_share_a_port_do_not_share_a_pool():
    warning = re.compile(r"tetherd\.conf:\d+: reuse_port = yes: warning: .* the pool 'ports'")
    config = listener(listen="<tcp4>", keys="reuse_port = yes") + pool("a")
    with Daemon(config) as daemon:
        daemon.wait_record(MESSAGE=warning, PRIORITY=4)
        done = check_config(daemon)
        expect(done.returncode == 0 and warning.search(done.stdout) and done.stdout.count("\n") == 1,
               f"--check-config: {done}")
        daemon.reload()
        daemon.wait_record(MESSAGE=warning, PRIORITY=4, count=2)
        daemon.configure(config.replace("reuse_port = yes", "reuse_port = no"))
        done = check_config(daemon)
        expect_equal((done.returncode, done.stdout), (0, ""), "--check-config")


if __name__ == "__main__":
    main()

"""admission: rules and limits of sources, what the refused are told, what is written of them, and going on again."""

import errno
import os
import resource
import select
import socket
import statistics
import time

from harness import (GATE, MARK, SLOW, Client, Daemon, eventually, expect, expect_equal, hold, let_go, main,
                     need_root, open_gate, scene, wait_at_gate)
from harness.network import Host

NOBODY = 65534
GROUP = 54321  # nobody's primary group on any machine
WITHIN = 0.1  # interface.md: accepting goes on within 100 ms of there being room


def listener(keys="", listen="<tcp4>", resource=MARK):
    return f"""
[listener:door]
listen = {listen}
handler = echo
resources = mark
refusal = NO %c for %a
{keys}
{resource}"""


def expect_served(client):
    client.echo()
    return client


def expect_refused(client, cause):
    host = "unix" if client.kind == "unix" else client.address
    line = f"NO {cause} for {host}\n"
    expect_equal(client.receive_rest().decode(), line, f"the refusal for {host}")
    return client.daemon.wait_ended(client, cause, event="rejected", state="accept", PRIORITY=5,
                                    TETHERD_REMOTE_ADDRESS=host, TETHERD_BYTES_SENT=len(line))


def expect_admitted(daemon, admitted, **options):
    client = daemon.connect(**options)
    if admitted:
        expect_served(client).close()
    else:
        expect_refused(client, "denied")


def connect_from(daemon, family, port, *sources):
    """One client each, to the loopback address of the family."""
    daemon.addresses["other"] = (family, ("127.0.0.1" if family == socket.AF_INET else "::1", port))
    return [daemon.connect("other", source=source) for source in sources]


# ---- rules ----

@scene()
def rules_for_ipv4():
    with Daemon(listener("allow = 127.0.1.0/24, 127.0.2.7\ndeny = 127.0.1.64/26 127.0.1.9")) as daemon:
        for source, admitted in (("127.0.1.1", True), ("127.0.1.9", False), ("127.0.1.63", True), ("127.0.1.64", False),
                                 ("127.0.1.127", False), ("127.0.1.128", True), ("127.0.2.7", True),
                                 ("127.0.2.6", False), ("127.0.0.1", False)):
            expect_admitted(daemon, admitted, source=source)


@scene()
def rules_for_ipv6():
    need_root()
    host = Host()
    try:
        addresses = {"fd01::1": True, "fd01::9": False, "fd01:0:0:1::1": False, "fd02::7": True, "fd02::8": False,
                     "::1": False}
        host.do("ip -batch -", "link set lo up\n" + "".join(
            f"address add {address}/128 dev lo\n" for address in addresses if address != "::1"))
        config = listener("allow = fd01::/64, fd02::7\ndeny = fd01::8/125", "[::]:7400")
        with Daemon(config, enter=host.enter) as daemon, host.inside():
            for address, admitted in addresses.items():
                client, = connect_from(daemon, socket.AF_INET6, 7400, address)
                if admitted:
                    expect_served(client)
                else:
                    expect_refused(client, "denied")
    finally:
        host.close()


@scene()
def mapped_addresses_are_ipv4():
    with Daemon(listener("allow = 127.0.1.0/24, ::1\ndeny = 127.0.1.9\nmax_connections_per_source = 1",
                         "[::]:<port>")) as daemon:
        port = daemon.names["port"]
        # Each has a place of its own: they are not one source of ::ffff:0:0/64.
        for client in connect_from(daemon, socket.AF_INET, port, "127.0.1.1", "127.0.1.2", "127.0.1.3"):
            expect_served(client)
        for client in connect_from(daemon, socket.AF_INET, port, "127.0.1.9", "127.0.0.1"):
            expect_refused(client, "denied")
        expect_refused(*connect_from(daemon, socket.AF_INET, port, "127.0.1.2"), "limit")
        expect_served(*connect_from(daemon, socket.AF_INET6, port, "::1"))


@scene(over=("0.0.0.0/0", "::/0"))
def everyone_of_a_family(everyone):
    with Daemon(listener(f"deny = {everyone}", "[::]:<port>")) as daemon:
        for family, source in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            client, = connect_from(daemon, family, daemon.names["port"], source)
            if (":" in everyone) == (":" in source):
                expect_refused(client, "denied")
            else:
                expect_served(client)


def connect_as(daemon, uid, gid, groups=()):
    """A UNIX client whose credentials are these, as the kernel noted them when it connected."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(daemon.addresses["unix"][1])
            socket.send_fds(theirs, [b"."], [sock.fileno()])
        finally:
            os._exit(0)
    theirs.close()
    _, fds, _, _ = socket.recv_fds(ours, 1, 1)
    ours.close()
    os.waitpid(pid, 0)
    expect(fds, "the client could not connect")
    client = Client(daemon, "unix", socket.socket(fileno=fds[0]))
    client.socket.settimeout(20 * SLOW)
    daemon.clients.append(client)
    return client


ROOT, SOMEBODY = (0, 0), (NOBODY, NOBODY)
MEMBER = (NOBODY, NOBODY, [*range(GROUP + 1, GROUP + 60), GROUP])  # a supplementary group, after many others
PRIMARY = (NOBODY, GROUP)

# rules: who is admitted, who is not
UNIX_RULES = {
    "allow = uid:0": ([ROOT], [SOMEBODY, MEMBER]),
    "allow = user:nobody": ([SOMEBODY, MEMBER, PRIMARY], [ROOT]),
    f"allow = gid:{GROUP}": ([MEMBER, PRIMARY], [ROOT, SOMEBODY]),
    "allow = group:nogroup": ([SOMEBODY, MEMBER], [ROOT, PRIMARY]),
    f"allow = user:root, gid:{GROUP}": ([ROOT, MEMBER], [SOMEBODY]),
    "deny = user:nobody": ([ROOT], [SOMEBODY, MEMBER, PRIMARY]),
    f"deny = gid:{GROUP}": ([ROOT, SOMEBODY], [MEMBER, PRIMARY]),
    f"allow = uid:{NOBODY}\ndeny = gid:{GROUP}": ([SOMEBODY], [ROOT, MEMBER, PRIMARY]),
}


@scene()
def rules_for_unix_sockets():
    need_root()
    for rules, (admitted, denied) in UNIX_RULES.items():  # each has a daemon: one tells of ten refusals in a second
        with Daemon(listener("socket_mode = 0666\n" + rules, "<unix>")) as daemon:
            for who in admitted:
                client = expect_served(connect_as(daemon, *who)).close()
                daemon.wait_ended(client, "eof", TETHERD_PEER_UID=who[0])
            for who in denied:
                client = connect_as(daemon, *who)
                record = expect_refused(client, "denied")
                expect_equal(record["TETHERD_PEER_UID"], str(who[0]), "TETHERD_PEER_UID")


@scene()
def rules_of_one_kind_let_nobody_in_over_the_other():
    with Daemon(listener("allow = 127.0.0.1", "<tcp4>, <unix>")) as daemon:
        expect_admitted(daemon, True)
        expect_admitted(daemon, False, kind="unix")
        daemon.configure(listener(f"allow = uid:{os.getuid()}", "<tcp4>, <unix>"))
        daemon.reload()
        expect_admitted(daemon, False)
        expect_admitted(daemon, True, kind="unix")
        daemon.configure(listener("deny = 127.0.0.1", "<tcp4>, <unix>"))
        daemon.reload()
        expect_admitted(daemon, False)
        expect_admitted(daemon, True, kind="unix")


# ---- limits of a source ----

@scene()
def max_connections_per_source():
    with Daemon(listener("max_connections_per_source = 3")) as daemon:
        clients = [expect_served(daemon.connect(source="127.0.3.1")) for _ in range(3)]
        for _ in range(3):
            expect_refused(daemon.connect(source="127.0.3.1"), "limit")
        expect_served(daemon.connect(source="127.0.3.2"))
        leaver = clients.pop().close()
        daemon.wait_ended(leaver, "eof")
        clients.append(expect_served(daemon.connect(source="127.0.3.1")))
        expect_refused(daemon.connect(source="127.0.3.1"), "limit")
        for client in clients:
            client.echo()  # undisturbed


@scene()
def max_connections_per_uid():
    need_root()
    with Daemon(listener("socket_mode = 0666\nmax_connections_per_source = 2", "<unix>, <abstract>")) as daemon:
        expect_served(connect_as(daemon, *SOMEBODY))
        expect_served(connect_as(daemon, *MEMBER))
        expect_refused(connect_as(daemon, *PRIMARY), "limit")
        # Over another socket of the same listener it is still the same source; root is another one.
        expect_served(daemon.connect("unix"))
        expect_served(daemon.connect("abstract"))
        expect_refused(daemon.connect("unix"), "limit")


@scene()
def max_connections_per_ipv6_network():
    need_root()
    host = Host()
    try:
        host.do("ip -batch -", "link set lo up\n" + "".join(
            f"address add {address}/128 dev lo\n" for address in ("fd03::1", "fd03::ffff:0:0:2", "fd03:0:0:1::1")))
        config = listener("max_connections_per_source = 2", "[::]:7400")
        with Daemon(config, enter=host.enter) as daemon, host.inside():
            first, second = connect_from(daemon, socket.AF_INET6, 7400, "fd03::1", "fd03::ffff:0:0:2")
            expect_served(first)
            expect_served(second)
            for client in connect_from(daemon, socket.AF_INET6, 7400, "fd03::1", "fd03::ffff:0:0:2"):
                expect_refused(client, "limit")
            for client in connect_from(daemon, socket.AF_INET6, 7400, "fd03:0:0:1::1", "fd03:0:0:1::1"):
                expect_served(client)
    finally:
        host.close()


@scene()
def a_lease_counts_for_its_source_until_it_is_released():
    gated = {"mark": GATE + 'echo "$TETHERD_PHASE $TETHERD_RESOURCE $1" >> <effects>'}
    with Daemon(listener("max_connections_per_source = 1"), scripts=gated) as daemon:
        first = daemon.connect_ready()
        hold(daemon)
        first.half_close().receive_rest()
        wait_at_gate(first, "release")
        expect_refused(daemon.connect(), "limit")
        expect(not daemon.endings(first.id), "the first has ended already")
        let_go(daemon)
        open_gate(first, "release")
        daemon.wait_ended(first, "eof")
        expect_served(daemon.connect())


@scene()
def accept_rate_per_source():
    rate = 5
    with Daemon(listener(f"accept_rate_per_source = {rate}", "<tcp4>, <unix>", "[resource:mark]\ntype = none\n")) as daemon:
        with daemon.frozen():  # all at one moment, by the daemon's clock
            crowds = [[daemon.connect(kind, source=source) for _ in range(3 * rate)]
                      for kind, source in (("tcp4", "127.0.4.1"), ("tcp4", "127.0.4.2"), ("unix", None))]
        for crowd in crowds:
            for client in crowd[:rate]:
                expect_served(client)
            for client in crowd[rate:]:
                expect(client.receive_rest().startswith(b"NO limit"), "a burst is as many as the rate says")
        # Somebody who never stops trying gets what the rate allows, and no more.
        daemon.poll_records()
        n_before, began = len(daemon.find("ready", TETHERD_REMOTE_ADDRESS="127.0.4.1")), time.monotonic()
        while time.monotonic() - began < 2:
            daemon.connect(source="127.0.4.1").half_close().receive_rest()
            daemon.clients.pop().close()
        seconds = time.monotonic() - began
        eventually(lambda: daemon.poll_records() and len(daemon.unended()) == 3 * rate, "all but those above ended")
        n = len(daemon.find("ready", TETHERD_REMOTE_ADDRESS="127.0.4.1")) - n_before
        expect(rate * (seconds - 1) <= n <= rate + rate * seconds, f"{n} in {seconds:.2f} s, at a rate of {rate}")


# ---- what is told ----

@scene()
def what_the_refused_are_told():
    scripts = {"fail": "exit 1", "hang": "exec sleep 1000"}
    failing = "[resource:{0}]\ntype = exec\nload = <{0}>\nrelease = /bin/true\nload_timeout = 200ms\n"
    config = "".join(f"[listener:{name}]\nlisten = <{kind}>\nresources = {name}\nrefusal = sorry, %c: %l %a 100%%\n"
                     for name, kind in (("fail", "tcp4"), ("hang", "unix")))
    with Daemon(config + failing.format("fail") + failing.format("hang"), scripts=scripts) as daemon:
        for kind, cause, host in (("tcp4", "load-failed", "127.0.0.1"), ("unix", "load-timeout", "unix")):
            client = daemon.connect(kind).send(b"some bytes that nobody will read")
            name = "fail" if kind == "tcp4" else "hang"
            line = f"sorry, {cause}: {name} {host} 100%\n".encode()
            expect_equal(client.receive_rest(), line, "refusal")
            daemon.wait_ended(client, cause, state="loading", TETHERD_BYTES_SENT=len(line))


@scene()
def without_a_line_the_refused_are_told_nothing():
    with Daemon(listener("deny = 127.0.0.1").replace("refusal", "# refusal")) as daemon:
        client = daemon.connect()
        expect_equal(client.receive_rest(), b"", "answer")
        daemon.wait_ended(client, "denied", event="rejected", state="accept", TETHERD_BYTES_SENT=0)


@scene()
def at_most_ten_a_second_are_written():
    # Each pair of cause and listener has a limit of its own; every rejection is told in the end.
    n_each = 150
    keys = "deny = 127.0.5.9\nmax_connections_per_source = 1\n"
    config = listener(keys) + f"[listener:side]\nlisten = <tcp6>\ndeny = ::1\n{keys.replace('deny', '# deny')}"
    with Daemon(config) as daemon:
        expect_served(daemon.connect(source="127.0.5.1"))
        began = time.monotonic()
        for _ in range(n_each):
            for kind, source in (("tcp4", "127.0.5.9"), ("tcp4", "127.0.5.1"), ("tcp6", None)):
                daemon.connect(kind, source=source).receive_rest()
                daemon.clients.pop().close()
        for name, cause in (("door", "denied"), ("door", "limit"), ("side", "denied")):
            daemon.wait_rejected(n_each, TETHERD_LISTENER=name, TETHERD_CAUSE=cause)
            n_told = len(daemon.find("rejected", TETHERD_LISTENER=name, TETHERD_CAUSE=cause))
            seconds = time.monotonic() - began
            expect(10 <= n_told <= 10 * (seconds + 1), f"{n_told} of {cause} on {name} told in {seconds:.1f} s")
        for record in daemon.find("rejected-more"):
            expect_equal(record["PRIORITY"], "5", "PRIORITY")
            expect(record["TETHERD_REJECTED"] in record["MESSAGE"], record["MESSAGE"])


# ---- pausing, and going on ----

def is_answered(client, within):
    return bool(select.select([client.socket], [], [], within)[0])


def expect_soon(seconds, what):
    """The lower quartile: a busy machine only adds to it, and a wait that is too long by design shows in it."""
    print(f"   {what}: {1000 * statistics.median(seconds):.1f} ms (median), {1000 * max(seconds):.1f} ms (most)", flush=True)
    quartile = sorted(seconds)[len(seconds) // 4]
    expect(quartile <= WITHIN * SLOW, f"{what} took {quartile:.3f} s, lower quartile of {seconds}")


@scene(over=("listener", "daemon"))
def goes_on_within_100_ms_of_room(whose):
    limit = {"max_connections": "3"}
    keys = "max_connections = 3" if whose == "listener" else ""
    with Daemon(listener(keys, "<tcp4>, <unix>", "[resource:mark]\ntype = none\n"), limit if whose == "daemon" else {}) as daemon:
        clients = [expect_served(daemon.connect()) for _ in range(3)]
        took = []
        for i in range(30):
            waiting = daemon.connect("unix" if i % 2 else "tcp4").send(b"!")
            if i == 0:
                expect(not is_answered(waiting, 0.3), "more connections than the limit allows")
                record = daemon.wait_record("accept-paused", PRIORITY=4, TETHERD_LISTENER="door")
                expect("max_connections" in record["MESSAGE"], record["MESSAGE"])
            began = time.monotonic()
            clients.pop(0).close()
            expect_equal(waiting.receive(1), b"!", "echo")
            took.append(time.monotonic() - began)
            clients.append(waiting)
        expect_soon(took, "going on after somebody left")
        daemon.wait_record("accept-resumed", PRIORITY=6, TETHERD_LISTENER="door")
        expect(len(daemon.find("accept-paused")) <= 1 + sum(took) / 5, "it is said at most once in 5 s")


def lowest_free_descriptor(daemon):
    taken = {int(name) for name in os.listdir(f"/proc/{daemon.pid}/fd")}
    return min(set(range(len(taken) + 1)) - taken)


@scene()
def goes_on_within_100_ms_of_a_descriptor():
    with Daemon(listener("", "<tcp4>, <unix>")) as daemon:
        first = daemon.connect_ready()
        old = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        took = []
        for i in range(10):
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (lowest_free_descriptor(daemon), old[1]))
            waiting = daemon.connect("unix" if i % 2 else "tcp4").send(b"!")
            expect(not is_answered(waiting, 0.15), "more descriptors than the limit allows")
            first.echo()
            began = time.monotonic()
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, old)
            expect_equal(waiting.receive(1), b"!", "echo")
            took.append(time.monotonic() - began)
        expect_soon(took, "going on after descriptors came back")
        daemon.wait_record("accept-paused", PRIORITY=4, ERRNO=errno.EMFILE)
        daemon.wait_record("accept-resumed", PRIORITY=6)


@scene(over=("ENFILE", "ENOBUFS", "ENOMEM", "EMFILE"))
def the_kernel_has_no(what):
    with Daemon(listener("", "<tcp4>, <unix>")) as daemon:
        first = daemon.connect_ready()
        with daemon.failing("accept4", what) as trace:
            waiting = [daemon.connect(kind).send(b"!") for kind in ("tcp4", "unix", "tcp4")]
            daemon.wait_record("accept-paused", PRIORITY=4, ERRNO=getattr(errno, what))
            first.echo()
            expect(not is_answered(waiting[0], 1), "it was accepted")
            n_calls = trace.read_text().count("accept4")
            expect(2 <= n_calls <= 60, f"{n_calls} calls of accept4 in a second")
            first.echo()
        began = time.monotonic()
        for client in waiting:
            expect_equal(client.receive(1), b"!", "echo")
        expect(time.monotonic() - began <= 1 * SLOW, "going on took too long")
        daemon.wait_record("accept-resumed", PRIORITY=6)


@scene(over=("clone", "pipe2"))
def no_command_can_be_started(call):
    """Nothing fails for want of processes or descriptors: it waits, releases as well, and nobody else is let in."""
    error = {"clone": "EAGAIN", "pipe2": "ENFILE"}[call]
    with Daemon(listener()) as daemon:
        first, second = daemon.connect_ready(), daemon.connect_ready()
        with daemon.failing(call, error) as trace:
            loading = daemon.connect().send(b"!")
            daemon.wait_record("accepted", TETHERD_CONNECTION=loading.id)
            eventually(lambda: call in trace.read_text(), "a command was tried")
            waiting = daemon.connect().send(b"!")
            daemon.wait_record("accept-paused", PRIORITY=4, ERRNO=getattr(errno, error))
            first.close()
            second.echo()
            eventually(lambda: trace.read_text().count(call) > 5, "it is tried again")
        for client in (loading, waiting):
            expect_equal(client.receive(1), b"!", "echo")
        daemon.wait_record("accept-resumed", PRIORITY=6)
        daemon.wait_ended(first, "eof")
        expect(not daemon.find("load-failed") and not daemon.find("release-failed"), "a command failed")


# ---- reload ----

@scene(over=("listener", "daemon"))
def a_reload_changes_max_connections(whose):
    def configure(limit):
        if whose == "listener":
            daemon.configure(listener(f"max_connections = {limit}"))
        else:
            daemon.configure(listener(), max_connections=limit)
        daemon.reload()

    with Daemon(listener()) as daemon:
        clients = [expect_served(daemon.connect()) for _ in range(4)]
        configure(2)  # fewer than there are: nobody is disturbed
        waiting = [daemon.connect().send(b"!") for _ in range(2)]
        expect(not is_answered(waiting[0], 0.3), "more connections than the limit allows")
        for client in clients:
            client.echo()
        clients.pop().close()  # 3 are left
        expect(not is_answered(waiting[0], 0.3), "more connections than the limit allows")
        configure(4)
        expect_equal(waiting[0].receive(1), b"!", "echo")
        expect(not is_answered(waiting[1], 0.3), "more connections than the limit allows")
        configure("infinity" if whose == "listener" else "auto")
        expect_equal(waiting[1].receive(1), b"!", "echo")
        for client in clients + waiting:
            client.echo()


@scene()
def a_reload_changes_the_limits_of_sources():
    with Daemon(listener("max_connections_per_source = 2")) as daemon:
        clients = [expect_served(daemon.connect()) for _ in range(2)]
        expect_refused(daemon.connect(), "limit")
        daemon.configure(listener("max_connections_per_source = 3"))
        daemon.reload()
        clients.append(expect_served(daemon.connect()))
        expect_refused(daemon.connect(), "limit")
        daemon.configure(listener("max_connections_per_source = 1\naccept_rate_per_source = 1"))
        daemon.reload()
        expect_refused(daemon.connect(), "limit")
        for client in clients:
            client.echo()
        daemon.configure(listener())
        daemon.reload()
        clients += [expect_served(daemon.connect()) for _ in range(3)]
        for client in clients:
            client.echo()


@scene()
def a_reload_changes_rules_for_those_who_come():
    with Daemon(listener("allow = 127.0.0.0/8")) as daemon:
        stays = expect_served(daemon.connect(source="127.0.6.1"))
        daemon.configure(listener("allow = 127.0.0.0/8\ndeny = 127.0.6.0/24\nrefusal = gone"))
        daemon.reload()
        daemon.wait_record("reload-failed")  # `refusal` is given twice: nothing changes
        expect_served(daemon.connect(source="127.0.6.1"))
        daemon.configure(listener("allow = 127.0.0.0/8\ndeny = 127.0.6.0/24"))
        daemon.reload()
        expect_refused(daemon.connect(source="127.0.6.1"), "denied")
        expect_served(daemon.connect(source="127.0.7.1"))
        stays.echo()


if __name__ == "__main__":
    main()

"""reload: SIGHUP applies a good file whole and a bad one not at all, and disturbs nobody who is connected."""

import concurrent.futures
import os
import re
import signal
import socket
import struct
import threading

from harness import MARK, SLOW, Daemon, eventually, expect, expect_equal, main, need_program, need_root, scene, tell

HEAD = """
[listener:stays]
listen = <tcp4>
handler = echo
resources = mark
greeting = {greeting}
"""
OTHER = """
[listener:other]
listen = <{kind}>
handler = echo
resources = mark
"""


def first(greeting="one"):
    return HEAD.format(greeting=greeting) + OTHER.format(kind="tcp6") + MARK


def greeting_of(client):
    return client.receive_line().strip()


def expect_refused(daemon, kind):
    try:
        daemon.connect(kind).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return
    raise AssertionError(f"{kind} is still open")


@scene()
def bad_file_changes_nothing():
    with Daemon(first()) as daemon:
        old = daemon.connect_ready()
        daemon.configure(HEAD.format(greeting="two") + "idle_timout = 3s\nmax_age = never\n" + MARK)
        daemon.reload()
        record = daemon.wait_record("reload-failed", PRIORITY=3)
        expect("tetherd.conf" in record["MESSAGE"], record["MESSAGE"])
        eventually(lambda: all(daemon.poll_records() and any(
            re.search(rf"tetherd\.conf:\d+: .*{fault}", line["MESSAGE"]) for line in daemon.records)
            for fault in ("idle_timout", "never")), "each fault is in the journal with file and line")
        expect_equal(greeting_of(old), "one", "greeting")
        old.echo()
        expect_equal(greeting_of(daemon.connect()), "one", "greeting of a new connection")
        daemon.connect("tcp6").echo()
        expect_equal(daemon.find("reloaded"), [], "reloaded records")


@scene()
def vanished_file_changes_nothing():
    with Daemon(first()) as daemon:
        daemon.config_path.rename(daemon.config_path.with_suffix(".away"))
        daemon.reload()
        daemon.wait_record("reload-failed", PRIORITY=3)
        daemon.connect("tcp6").echo()
        daemon.config_path.with_suffix(".away").rename(daemon.config_path)


@scene()
def listeners_open_and_close():
    with Daemon(first()) as daemon:
        old, other = daemon.connect_ready(), daemon.connect_ready("tcp6")
        expect_equal(greeting_of(old), "one", "greeting")
        daemon.configure(HEAD.format(greeting="two") + OTHER.format(kind="unix").replace("other", "fresh") + MARK)
        daemon.reload()
        daemon.wait_record("reloaded", PRIORITY=5)
        daemon.wait_record("listening", PRIORITY=6, TETHERD_LISTENER="fresh")
        daemon.wait_record("stopped-listening", PRIORITY=6, TETHERD_LISTENER="other")
        expect_refused(daemon, "tcp6")
        daemon.connect("unix").echo().close()
        for client in (old, other):
            client.echo()  # unaware of all this
        expect_equal(greeting_of(daemon.connect()), "two", "greeting of a new connection")
        other.close()
        record = daemon.wait_ended(other, "eof")
        expect_equal(record["TETHERD_LISTENER"], "other", "TETHERD_LISTENER")
        daemon.configure(first())
        daemon.reload()
        daemon.wait_record("reloaded", count=2)
        expect_refused(daemon, "unix")
        daemon.connect("tcp6").echo().close()


@scene()
def removed_unix_socket_leaves_no_file():
    with Daemon(HEAD.format(greeting="one") + OTHER.format(kind="unix") + MARK) as daemon:
        daemon.connect("unix").echo().close()
        daemon.configure(HEAD.format(greeting="one") + MARK)
        daemon.reload()
        daemon.wait_record("stopped-listening", TETHERD_LISTENER="other")
        expect_refused(daemon, "unix")
        expect(not (daemon.directory / "socket").exists(), "the socket file is left")
        daemon.idle_descriptors["socket"] -= 1


@scene()
def disabled_listener():
    with Daemon(first()) as daemon:
        daemon.configure(HEAD.format(greeting="one") + OTHER.format(kind="tcp6") + "enabled = no\n" + MARK)
        daemon.reload()
        daemon.wait_record("stopped-listening", TETHERD_LISTENER="other")
        expect_refused(daemon, "tcp6")
        daemon.configure(first())
        daemon.reload()
        daemon.wait_record("reloaded", count=2)
        daemon.connect("tcp6").echo().close()


@scene()
def connections_keep_what_they_were_born_with():
    two = {"two": 'echo "$TETHERD_PHASE $TETHERD_RESOURCE $TETHERD_CONNECTION" >> <effects>; echo two >> <dir>/used'}
    with Daemon(first().replace("handler = echo", "handler = echo\nidle_timeout = 1h"), scripts=two) as daemon:
        old = daemon.connect_ready()
        expect_equal(greeting_of(old), "one", "greeting")
        daemon.configure(HEAD.format(greeting="two") + "idle_timeout = 600ms\n" + OTHER.format(kind="tcp6") +
                         MARK.replace("release = <mark>", "release = <two>"))
        daemon.reload()
        daemon.wait_record("reloaded")
        new = daemon.connect_ready()
        daemon.wait_ended(new, "idle-timeout")
        expect_equal((daemon.directory / "used").read_text(), "two\n", "releases by the new command")
        expect(not daemon.endings(old.id), "the old connection got the new idle_timeout")
        old.close()
        daemon.wait_ended(old, "eof")
        expect_equal((daemon.directory / "used").read_text(), "two\n", "releases by the new command")


@scene(over=("runtime_directory", "state_directory", "preserve"))
def change_that_needs_a_restart(key):
    with Daemon(first()) as daemon:
        value = "no" if key == "preserve" else str(daemon.directory / "elsewhere")
        (daemon.directory / "elsewhere").mkdir()
        daemon.configure(first("two"), **{key: value})
        daemon.reload()
        record = daemon.wait_record("reload-failed", PRIORITY=3)
        messages = [line["MESSAGE"] for line in daemon.poll_records() if "needs a restart" in line["MESSAGE"]]
        expect(any(key in message for message in messages), f"not refused for {key}: {record['MESSAGE']}")
        expect_equal(greeting_of(daemon.connect()), "one", "greeting of a new connection")


@scene()
def new_listener_that_cannot_open_changes_nothing():
    with Daemon(first()) as daemon:
        elsewhere = OTHER.format(kind="tcp6").replace("<tcp6>", "192.0.2.77:<port>")
        daemon.configure(HEAD.format(greeting="two") + elsewhere + MARK)
        daemon.reload()
        daemon.wait_record("reload-failed", PRIORITY=3)
        expect_equal(greeting_of(daemon.connect()), "one", "greeting of a new connection")
        daemon.connect("tcp6").echo().close()


@scene()
def more_connections_than_descriptors_change_nothing():
    with Daemon(first()) as daemon:
        daemon.configure(first("two"), max_connections=100_000_000)
        daemon.reload()
        record = daemon.wait_record("reload-failed", PRIORITY=3)
        expect("max_connections = 100000000: does not fit" in record["MESSAGE"], record["MESSAGE"])
        expect_equal(greeting_of(daemon.connect()), "one", "greeting of a new connection")


@scene()
def several_at_once():
    with Daemon(first()) as daemon:
        client = daemon.connect_ready()
        with daemon.frozen():
            for i in range(5):
                daemon.configure(first(f"round-{i}"))
                daemon.kill(signal.SIGHUP)
        daemon.wait_record("reloaded")
        expect_equal(greeting_of(daemon.connect()), "round-4", "greeting of a new connection")
        client.receive_line()
        client.echo()


@scene()
def thirty_reloads_leave_nothing():
    with Daemon(first()) as daemon:
        for i in range(30):
            client = daemon.connect()
            daemon.configure(first(f"round-{i}"))
            daemon.reload()
            expect(greeting_of(client), "no greeting")
            client.close()
        daemon.wait_record("reloaded", count=30)


@scene()
def two_listeners_of_one_port_keep_their_sockets():
    shared = OTHER.format(kind="tcp4") + "reuse_port = yes\n"
    with Daemon(shared + shared.replace("other", "another") + MARK) as daemon:
        daemon.wait_record("listening", count=2)
        daemon.reload()
        daemon.wait_record("reloaded")
        expect_equal(daemon.find("stopped-listening"), [], "listeners that closed a socket")
        daemon.configure(shared + MARK)
        daemon.reload()
        daemon.wait_record("stopped-listening", TETHERD_LISTENER="another")
        daemon.connect().echo().close()
        daemon.idle_descriptors["socket"] -= 1


# ---- what an open socket keeps ----


def at(address, keys="", greeting="one"):
    """A listener there, and another by which a reload is seen to have changed nothing."""
    return HEAD.format(greeting=greeting).replace("<tcp4>", "<unix>") + f"""
[listener:there]
listen = {address}
handler = echo
resources = mark
{keys}
""" + MARK


def expect_needs_a_restart(daemon, config, *says):
    """A reload to this is refused, and changes nothing."""
    daemon.configure(config)
    daemon.reload()
    record = daemon.wait_record("reload-failed", PRIORITY=3)
    for text in (*says, "needs a restart"):
        expect(text in record["MESSAGE"], f"no {text!r}: {record['MESSAGE']}")
    expect_equal(greeting_of(daemon.connect("unix")), "one", "greeting of a new connection")
    expect_equal(daemon.find("stopped-listening"), [], "listeners that closed a socket")


@scene(over=("* is [::]", "mapped is IPv4"))
def other_words_for_the_same_address(which):
    before, after = {"* is [::]": ("*", "[::]"), "mapped is IPv4": ("127.0.0.1", "[::ffff:127.0.0.1]")}[which]
    with Daemon(at(f"{before}:<port>")) as daemon:
        daemon.addresses["there"] = (socket.AF_INET, ("127.0.0.1", daemon.names["port"]))
        for now in (after, before):
            connected = daemon.connect_ready("there")
            daemon.configure(at(f"{now}:<port>"))
            with daemon.frozen():
                daemon.kill(signal.SIGHUP)
                queued = daemon.connect("there")
            connected.echo()
            queued.echo()
        daemon.wait_record("reloaded", count=2)
        expect_equal(daemon.find("reload-failed"), [], "reloads that failed")
        expect_equal(daemon.find("stopped-listening"), [], "listeners that closed a socket")
        expect_equal(len(daemon.find("listening")), 2, "sockets that were opened")


@scene()
def an_address_that_overlaps_an_open_one_needs_a_restart():
    with Daemon(at("127.0.0.1:<port>")) as daemon:
        daemon.addresses["there"] = (socket.AF_INET, ("127.0.0.1", daemon.names["port"]))
        expect_needs_a_restart(daemon, at("0.0.0.0:<port>", greeting="two"), "cannot listen at 0.0.0.0:", "overlaps")
        daemon.connect("there").echo()


@scene(over=("receive_buffer", "send_buffer"))
def a_buffer_that_was_set_needs_a_restart(key):
    with Daemon(at("<tcp4>", f"{key} = 64K")) as daemon:
        expect_needs_a_restart(daemon, at("<tcp4>", greeting="two"), key)
        daemon.connect().echo()
        daemon.configure(at("<tcp4>", f"{key} = 32K", "three"))  # another is no such change
        daemon.reload()
        daemon.wait_record("reloaded")
        expect_equal(greeting_of(daemon.connect("unix")), "three", "greeting of a new connection")


@scene()
def an_owner_that_is_not_named_any_more_is_taken_back():
    need_root()
    bare = at("<unix>").replace("[listener:stays]\nlisten = <unix>", "[listener:stays]\nlisten = <tcp4>")
    owned = bare.replace("listen = <unix>", "listen = <unix>\nsocket_user = nobody\nsocket_group = nogroup")
    with Daemon(bare) as daemon:
        def owner():
            status = os.stat(daemon.addresses["unix"][1])
            return status.st_uid, status.st_gid
        made = owner()
        for config, wanted in ((owned, (65534, 65534)), (bare, made)):
            daemon.configure(config)
            daemon.reload()
            expect_equal(owner(), wanted, "owner of the socket's file")
        daemon.connect("unix").echo()


@scene()
def an_owner_that_it_may_not_give_to_changes_nothing():
    need_root()
    need_program("setpriv")
    bare = at("<unix>").replace("[listener:stays]\nlisten = <unix>", "[listener:stays]\nlisten = <tcp4>")
    with Daemon(bare, enter=["setpriv", "--bounding-set=-chown,-fowner"]) as daemon:
        before = os.stat(daemon.addresses["unix"][1])
        for key in ("socket_user = nobody", "socket_group = nogroup"):
            daemon.configure(bare.replace("listen = <unix>", f"listen = <unix>\nsocket_mode = 0666\n{key}"))
            daemon.reload()
            daemon.wait_record("reload-failed", PRIORITY=3, MESSAGE=re.compile(
                rf"tetherd\.conf:\d+: {key}: tetherd may not give sockets to others than itself"))
            after = os.stat(daemon.addresses["unix"][1])
            expect_equal((after.st_mode, after.st_uid, after.st_gid), (before.st_mode, before.st_uid, before.st_gid),
                         "mode and owner of the socket's file")


# ---- a listener that comes back ----


def away_and_back(daemon, config):
    """The listener `other` is disabled by one reload, and enabled by the next."""
    n = len(daemon.find("reloaded"))
    daemon.configure(config.replace("[listener:other]", "[listener:other]\nenabled = no"))
    daemon.reload()
    daemon.wait_record("stopped-listening", TETHERD_LISTENER="other")
    daemon.configure(config)
    daemon.reload()
    daemon.wait_record("reloaded", count=n + 2)


@scene()
def who_comes_back_still_counts_its_sources():
    config = HEAD.format(greeting="one") + OTHER.format(kind="tcp6") + "max_connections_per_source = 1\n" + MARK
    with Daemon(config) as daemon:
        old = daemon.connect_ready("tcp6")
        away_and_back(daemon, config)
        second = daemon.connect("tcp6")
        daemon.wait_ended(second, "limit", event="rejected", state="accept")
        old.echo().close()
        daemon.wait_ended(old, "eof")
        daemon.connect("tcp6").echo()


@scene()
def who_comes_back_still_counts_its_connections():
    config = HEAD.format(greeting="one") + OTHER.format(kind="tcp6") + "max_connections = 1\n" + MARK
    with Daemon(config, {"log_level": "info"}) as daemon:
        old = daemon.connect("tcp6").echo()
        daemon.wait_record("accept-paused", TETHERD_LISTENER="other")
        away_and_back(daemon, config)
        waiting = daemon.connect("tcp6").send(b"let me in")
        daemon.wait_record("accept-paused", TETHERD_LISTENER="other", count=2)
        old.echo().close()
        expect_equal(waiting.receive(9), b"let me in", "echo")
        record = daemon.wait_record("accept-resumed", TETHERD_LISTENER="other")
        expect_equal(len(daemon.find("accept-resumed")), 1, "times that it went on")
        expect(int(record["TETHERD_DURATION_USEC"]) < 60e6 * SLOW, f"since it came back: {record['MESSAGE']}")


# ---- under load ----

N_RELOADS = 1000
N_THREADS = 4


def come_and_go(daemon, kinds, is_over):
    """Clients one after the other, until it is over; returns how many. Each is served from the greeting to the end."""
    n = 0
    while not is_over.is_set():
        family, address = daemon.addresses[kinds[n % len(kinds)]]
        with socket.socket(family) as client:
            client.settimeout(20 * SLOW)
            client.connect(address)
            greeting = client.recv(64)
            expect(greeting.startswith(b"round-"), f"client {n} was greeted with {greeting!r}")
            for _ in range(3):
                client.sendall(b"ping")
                expect_equal(client.recv(4), b"ping", f"the echo to client {n}")
            if n % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST
        n += 1
    return n


@scene()
def a_thousand_under_load():
    def listener(greeting, keys=""):
        return HEAD.format(greeting=greeting).replace("<tcp4>", "<tcp4>, <unix>") + keys + MARK
    bad = ("no_such_key = 1\n", "[listener:bad]\nlisten = 192.0.2.77:1\n", "max_age = never\n",
           "[listener:bad]\nlisten = <abstract>\nresources = nothing\n")
    other = OTHER.format(kind="tcp6")
    with Daemon(listener("round-first"), {"log_level": "info"}) as daemon:
        old = [daemon.connect(kind) for kind in ("tcp4", "unix") * 5]
        for client in old:
            expect_equal(greeting_of(client), "round-first", "greeting")
        is_over = threading.Event()
        with concurrent.futures.ThreadPoolExecutor(N_THREADS) as pool:
            crowd = [pool.submit(come_and_go, daemon, ("tcp4", "unix"), is_over) for _ in range(N_THREADS)]
            try:
                for i in range(N_RELOADS):
                    is_bad = i % 2 == 1
                    text = listener(f"round-{i}", bad[i // 2 % len(bad)] if is_bad else "")
                    daemon.configure(text + (other if i % 4 == 0 else ""))
                    if i % 3 == 0:  # the others may meet in one
                        daemon.reload()
                    else:
                        daemon.kill(signal.SIGHUP)
            finally:
                is_over.set()
            n_served = sum(future.result() for future in crowd)
        expect(n_served > 100, f"only {n_served} clients came and went meanwhile")
        daemon.configure(listener("round-last"))
        daemon.reload()
        for client in old:
            client.echo()
        expect_equal(greeting_of(daemon.connect()), "round-last", "greeting of a new connection")
        daemon.poll_records()
        for event in ("reloaded", "reload-failed"):
            expect(len(daemon.find(event)) >= N_RELOADS // 6, f"only {len(daemon.find(event))} times {event}")
        daemon.forget_clients()
        eventually(lambda: len(daemon.effects("mark")) == 2 * (n_served + len(old) + 1), "every client was released")
        tell(f"{n_served} clients came and went")


if __name__ == "__main__":
    main()

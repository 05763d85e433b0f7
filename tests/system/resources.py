"""resources: loaded in order, released in reverse, once each, whatever fails in between."""

import re
import signal
from errno import ECONNRESET

from harness import (GATE, MARK, Daemon, eventually, expect, expect_equal, hold, let_go, main, need_root, open_gate,
                     scene, wait_at_gate)

ALL = ("tcp4", "tcp6", "unix")
LOG = 'echo "$TETHERD_PHASE $TETHERD_RESOURCE $TETHERD_CONNECTION" >> <effects>'


def listener(resources, keys="", handler="discard"):
    return f"""
[listener:shop]
listen = <tcp4>, <tcp6>, <unix>
handler = {handler}
resources = {resources}
{keys}
"""


def resource(name, load="<mark> %i", release="<mark> %i", keys=""):
    return f"""
[resource:{name}]
type = exec
load = {load}
release = {release}
{keys}
"""


# Echoes tell the story how far the daemon has come (Daemon.barrier()); no resources of its own.
BARRIER = """
[listener:barrier]
listen = <abstract>
handler = echo
"""

GATED = {"gated": GATE + LOG}


# ---- what they get ----


@scene(over=ALL)
def order_of_loads_and_releases(kind):
    workdir = "[resource:workdir]\ntype = directory\npath = <dir>/connections/%i\nmode = 0750\n"
    look = {"look": LOG + '\n[ -d "$2" ] || { echo "no directory $2" >> <effects>; exit 1; }'}
    config = (listener("first, workdir, last") + resource("first") + workdir +
              resource("last", "<look> %i %{workdir}", "<look> %i %{workdir}"))
    with Daemon(config, scripts=look) as daemon:
        client = daemon.connect_ready(kind)
        path = daemon.directory / "connections" / client.id
        expect_equal(oct(path.stat().st_mode & 0o7777), "0o750", f"mode of {path}")
        expect_equal(oct(path.parent.stat().st_mode & 0o7777), "0o755", f"mode of {path.parent}")
        client.close()
        daemon.wait_ended(client, "eof")
        expect(not path.exists(), f"{path} is left")
        expect_equal(daemon.effects(), [(phase, name, client.id) for phase, name in (
            ("load", "first"), ("load", "last"), ("release", "last"), ("release", "first"))], "effects")


@scene()
def values_and_specifiers():
    # Blanks in a value stay in their word; a per cent sign is one; quotes group.
    show = {"show": 'for word; do echo "[$word]"; done > <dir>/words.$TETHERD_PHASE'}
    config = (listener("token, show", "hello = yes") +
              resource("token", '/bin/sh -c "printf \'two words\\\\nsecond line\\\\n\'"', "/bin/true") +
              resource("show", "<show> %i %l %a %p %h %{token} x%{token}y 100%% 'a b' \"c d\"", "<show> %{token}"))
    with Daemon(config, scripts=show) as daemon:
        client = daemon.connect().send(b"alice\n")
        daemon.wait_ready(client)
        wanted = [client.id, "shop", "127.0.0.1", str(client.port), "alice", "two words", "xtwo wordsy", "100%",
                  "a b", "c d"]
        expect_equal((daemon.directory / "words.load").read_text().splitlines(), [f"[{word}]" for word in wanted],
                     "words of load")
        client.close()
        daemon.wait_ended(client, "eof")
        expect_equal((daemon.directory / "words.release").read_text(), "[two words]\n", "words of release")


ALWAYS = """PATH LANG HOME USER COLOUR TETHERD_CONNECTION TETHERD_LISTENER TETHERD_RESOURCE TETHERD_PHASE
    TETHERD_REMOTE_ADDRESS TETHERD_REMOTE_PORT TETHERD_LOCAL_ADDRESS TETHERD_LOCAL_PORT TETHERD_IDENTITY
    TETHERD_VALUE_TOKEN""".split()
AT_RELEASE = """TETHERD_VALUE TETHERD_CAUSE TETHERD_OPERATION TETHERD_ERRNO TETHERD_DURATION_USEC
    TETHERD_BYTES_RECEIVED TETHERD_BYTES_SENT""".split()
KEEP_ENVIRONMENT = {"keep": "cat /proc/$$/environ > <dir>/environ.$TETHERD_PHASE\necho the-value"}


def environment_of(daemon, phase):
    text = (daemon.directory / f"environ.{phase}").read_text()
    return dict(item.split("=", 1) for item in text.split("\0") if item)


@scene()
def complete_environment():
    config = (listener("token, seen, later", "hello = yes") + resource("token", "/bin/echo t-%i", "/bin/true") +
              resource("seen", "<keep>", "<keep>", "environment = COLOUR=blue-%h") +
              resource("later", "/bin/echo later", "/bin/true"))
    with Daemon(config, scripts=KEEP_ENVIRONMENT) as daemon:
        client = daemon.connect().send(b"alice\n12345")
        daemon.wait_ready(client)
        daemon_host, daemon_port = daemon.addresses["tcp4"][1]
        client.reset()
        daemon.wait_ended(client, "reset")
        load, release = environment_of(daemon, "load"), environment_of(daemon, "release")
        expect_equal(sorted(load), sorted(ALWAYS), "names at load")
        expect_equal(sorted(set(release) - {"TETHERD_RECOVERED"}), sorted(ALWAYS + AT_RELEASE), "names at release")
        expect(release.get("TETHERD_RECOVERED", "0") in ("", "0"), f"TETHERD_RECOVERED: {release}")
        for environment, phase in ((load, "load"), (release, "release")):
            for name, value in {
                "TETHERD_CONNECTION": client.id, "TETHERD_LISTENER": "shop", "TETHERD_RESOURCE": "seen",
                "TETHERD_PHASE": phase, "TETHERD_REMOTE_ADDRESS": "127.0.0.1",
                "TETHERD_REMOTE_PORT": str(client.port), "TETHERD_LOCAL_ADDRESS": daemon_host,
                "TETHERD_LOCAL_PORT": str(daemon_port), "TETHERD_IDENTITY": "alice",
                "TETHERD_VALUE_TOKEN": f"t-{client.id}", "COLOUR": "blue-alice",
            }.items():
                expect_equal(environment[name], value, f"{name} at {phase}")
        for name, value in {"TETHERD_VALUE": "the-value", "TETHERD_CAUSE": "reset", "TETHERD_OPERATION": "receive",
                            "TETHERD_ERRNO": str(ECONNRESET), "TETHERD_BYTES_SENT": "0"}.items():
            expect_equal(release[name], value, f"{name} at release")
        expect(int(release["TETHERD_BYTES_RECEIVED"]) >= 5, f"bytes received: {release}")
        expect(int(release["TETHERD_DURATION_USEC"]) > 0, f"duration: {release}")


@scene()
def environment_on_unix_sockets():
    config = (listener("seen") + resource("seen", "<keep>", "<keep>"))
    with Daemon(config, scripts=KEEP_ENVIRONMENT) as daemon:
        client = daemon.connect_ready("unix").close()
        daemon.wait_ended(client, "eof")
        environment = environment_of(daemon, "load")
        expect_equal(environment["TETHERD_REMOTE_ADDRESS"], "unix", "TETHERD_REMOTE_ADDRESS")
        expect_equal(environment.get("TETHERD_REMOTE_PORT", ""), "", "TETHERD_REMOTE_PORT")


@scene()
def what_commands_inherit():
    # No descriptor of ours, default signals, stdin from /dev/null, a process group of its own, the soft limit.
    # The shell blocks signals while it starts something: the last one has what it was given.
    look = {"look": """
        readlink /proc/$$/fd/* > <dir>/descriptors
        ulimit -Sn > <dir>/limit
        pwd > <dir>/where
        cut -d' ' -f1,5 /proc/$$/stat > <dir>/group
        exec grep -E '^Sig(Blk|Ign)' /proc/self/status > <dir>/signals"""}
    with Daemon(listener("look") + resource("look", "<look>", "/bin/true"), scripts=look) as daemon:
        client = daemon.connect_ready()
        read = lambda name: (daemon.directory / name).read_text().split()
        descriptors = [name for name in read("descriptors") if not name.endswith("/look")]
        expect_equal(descriptors[0], "/dev/null", "stdin")
        expect(len(descriptors) <= 4 and not any("socket" in name or "eventpoll" in name for name in descriptors),
               f"descriptors of a command: {descriptors}")
        signals = dict(zip(read("signals")[::2], read("signals")[1::2]))
        expect_equal({int(mask, 16) for mask in signals.values()}, {0}, f"signals {signals}")
        expect_equal(read("where"), ["/"], "working directory")
        pid, group = read("group")
        expect_equal(group, pid, "process group")
        client.close()


@scene()
def another_user_and_its_home():
    need_root()
    show = {"show": "cd <dir>/out; id -u > uid; id -g > gid; echo $USER:$HOME > home; echo $OLDPWD > pwd"}
    config = (listener("theirs, session") +
              "[resource:theirs]\ntype = directory\npath = <dir>/connections/%i\nuser = nobody\n" +
              resource("session", "<show>", "/bin/true", "user = nobody\nworking_directory = /usr"))
    with Daemon(config, scripts=show) as daemon:
        (daemon.directory / "out").mkdir()
        (daemon.directory / "out").chmod(0o777)
        client = daemon.connect_ready()
        owner = (daemon.directory / "connections" / client.id).stat()
        expect_equal(owner.st_uid, 65534, "owner of the directory")
        said = {path.name: path.read_text().strip() for path in (daemon.directory / "out").iterdir()}
        wanted = {"uid": "65534", "gid": "65534", "home": "nobody:/nonexistent", "pwd": "/usr"}
        expect_equal(said, wanted, "the command")
        client.close()


@scene()
def what_commands_print():
    show = {"show": "echo value-line; echo more-out; echo to-stderr >&2; printf unfinished >&2"}
    with Daemon(listener("show") + resource("show", "<show>", "<show>"), scripts=show) as daemon:
        client = daemon.connect_ready()
        for text in ("more-out", "to-stderr", "unfinished"):
            daemon.wait_record(MESSAGE=re.compile(text), TETHERD_CONNECTION=client.id)
        client.close()


@scene()
def a_command_prints_without_end():
    show = {"show": "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo done >&2"}
    with Daemon(listener("mark, show") + MARK + resource("show", "/bin/true", "<show>"), scripts=show) as daemon:
        before = daemon.resident_bytes()
        client = daemon.connect_ready().close()
        daemon.wait_ended(client, "eof", timeout=30)
        expect(daemon.resident_bytes() - before < 2_000_000, "memory grew with what a command printed")


# ---- loads that fail ----


def expect_failed_load(daemon, client, cause, name, effects, **fields):
    record = daemon.wait_ended(client, cause, state="loading", TETHERD_RESOURCE=name, PRIORITY=5)
    expect(not daemon.find("ready", TETHERD_CONNECTION=client.id), "it was called ready")
    daemon.wait_record("load-failed", TETHERD_CONNECTION=client.id, TETHERD_RESOURCE=name, PRIORITY=4, **fields)
    expect_equal(client.receive_rest(), b"", "what the client gets")
    expect_equal([line[:2] for line in daemon.effects()], effects, "effects")
    return record


@scene(over=ALL)
def second_load_fails(kind):
    scripts = {"fail": "exit 3"}
    config = listener("one, two, three") + resource("one") + resource("two", "<fail>") + resource("three")
    with Daemon(config, scripts=scripts) as daemon:
        expect_failed_load(daemon, daemon.connect(kind), "load-failed", "two", [("load", "one"), ("release", "one")],
                           TETHERD_EXIT_STATUS=3)


@scene()
def failed_load_that_is_released():
    scripts = {"fail": LOG + "; exit 3"}
    config = (listener("one, two") + resource("one") + resource("two", "<fail>", keys="on_load_failure = release"))
    with Daemon(config, scripts=scripts) as daemon:
        expect_failed_load(daemon, daemon.connect(), "load-failed", "two",
                           [("load", "one"), ("load", "two"), ("release", "two"), ("release", "one")])


@scene()
def load_timeout():
    # It may have left something: it is released.
    scripts = {"hang": LOG + "; sleep 1000"}
    config = listener("one, two") + resource("one") + resource("two", "<hang>", keys="load_timeout = 2s")
    with Daemon(config, scripts=scripts) as daemon:
        expect_failed_load(daemon, daemon.connect(), "load-timeout", "two",
                           [("load", "one"), ("load", "two"), ("release", "two"), ("release", "one")])


@scene()
def load_timeout_of_a_stubborn_command():
    scripts = {"hang": "trap '' TERM; " + LOG + "; sleep 1000 & wait; while :; do sleep 1; done"}
    config = listener("one") + resource("one", "<hang>", keys="load_timeout = 2s")
    with Daemon(config, scripts=scripts) as daemon:
        expect_failed_load(daemon, daemon.connect(), "load-timeout", "one", [("load", "one"), ("release", "one")])


@scene()
def load_killed_by_a_signal():
    scripts = {"die": LOG + "; kill -9 $$"}
    config = listener("one, two") + resource("one") + resource("two", "<die>")
    with Daemon(config, scripts=scripts) as daemon:
        expect_failed_load(daemon, daemon.connect(), "load-failed", "two",
                           [("load", "one"), ("load", "two"), ("release", "two"), ("release", "one")],
                           TETHERD_EXIT_STATUS=128 + signal.SIGKILL)


@scene()
def load_whose_end_cannot_be_watched():
    # It ran, so it may have left something: it is killed, and released.
    scripts = {"hang": "exec sleep 1000", "undo": ": > <dir>/undone.$TETHERD_CONNECTION"}
    with Daemon(listener("one") + resource("one", "<hang>", "<undo>"), scripts=scripts) as daemon:
        with daemon.failing("epoll_ctl", "ENOSPC", ":when=4"):
            client = daemon.connect()
            expect_failed_load(daemon, client, "load-failed", "one", [], MESSAGE=re.compile("cannot be watched"))
        expect((daemon.directory / f"undone.{client.id}").exists(), "it was not released")


BAD_VALUES = {"control": "printf 'a\\tb\\n'", "long": "head -c 5000 /dev/zero | tr '\\0' x"}


@scene(over=sorted(BAD_VALUES))
def value_that_cannot_be(which):
    # The load did its work, so it is released.
    config = listener("one, two") + resource("one") + resource("two", "<bad>")
    bad = LOG + "\n[ $TETHERD_PHASE = release ] || " + BAD_VALUES[which]
    with Daemon(config, scripts={"bad": bad}) as daemon:
        expect_failed_load(daemon, daemon.connect(), "load-failed", "two",
                           [("load", "one"), ("load", "two"), ("release", "two"), ("release", "one")])


# What a specifier may not bring into a word or path: the load fails before it does anything.
REFUSED = {
    "empty word": ("/bin/true", "<mark> %i %{token}", ""),
    "option": ("/bin/echo -rf", "<mark> %i %{token}", ""),
    "slash in a path": ("/bin/echo ../../etc", None, "<dir>/connections/%i%{token}"),
    "dots in a path": ("/bin/echo ..", None, "<dir>/connections/%i%{token}"),
}


@scene(over=sorted(REFUSED))
def specifier_that_is_refused(which):
    token, load, path = REFUSED[which]
    second = f"[resource:second]\ntype = directory\npath = {path}\n" if path else resource("second", load)
    with Daemon(listener("token, second") + resource("token", token, "/bin/true") + second) as daemon:
        client = daemon.connect()
        daemon.wait_ended(client, "load-failed", state="loading", TETHERD_RESOURCE="second")
        expect(not daemon.effects(), f"it ran: {daemon.effects()}")


@scene()
def program_that_vanished():
    scripts = {"gone": "exit 0"}
    with Daemon(listener("one, two") + resource("one") + resource("two", "<gone>"), scripts=scripts) as daemon:
        (daemon.directory / "gone").unlink()
        expect_failed_load(daemon, daemon.connect(), "load-failed", "two", [("load", "one"), ("release", "one")])


# ---- directories ----


@scene()
def directory_with_contents_and_links():
    config = listener("workdir") + "[resource:workdir]\ntype = directory\npath = <dir>/connections/%i\n"
    with Daemon(config) as daemon:
        outside = daemon.directory / "outside"
        outside.mkdir()
        (outside / "precious").write_text("keep me")
        client = daemon.connect_ready()
        path = daemon.directory / "connections" / client.id
        (path / "a/b/c").mkdir(parents=True)
        (path / "a/b/c/file").write_text("x")
        (path / "a/locked").mkdir(mode=0o500)
        (path / "link").symlink_to(outside)
        (path / "a/link").symlink_to(outside / "precious")
        client.close()
        daemon.wait_ended(client, "eof")
        expect(not path.exists(), f"{path} is left")
        expect_equal((outside / "precious").read_text(), "keep me", "what a link pointed to")


@scene()
def directory_that_exists_is_a_failed_load():
    config = (listener("workdir, mark", "hello = yes") + MARK +
              "[resource:workdir]\ntype = directory\npath = <dir>/connections/%h\n")
    with Daemon(config) as daemon:
        first = daemon.connect().send(b"alice\n")
        daemon.wait_ready(first)
        path = daemon.directory / "connections/alice"
        (path / "file").write_text("x")
        second = daemon.connect().send(b"alice\n")
        daemon.wait_ended(second, "load-failed", state="loading", TETHERD_RESOURCE="workdir")
        expect_equal((path / "file").read_text(), "x", "the first one's file")
        expect_equal(len(list(path.parent.iterdir())), 1, "directories beside it")
        first.close()
        daemon.wait_ended(first, "eof")
        third = daemon.connect().send(b"alice\n")
        daemon.wait_ready(third)
        third.close()


@scene()
def directory_of_nobody_is_a_failed_load():
    config = (listener("who, workdir", "hello = yes") + resource("who", "<who> %h", "/bin/true") +
              "[resource:workdir]\ntype = directory\npath = <dir>/people/%{who}\n")
    with Daemon(config, scripts={"who": '[ "$1" = nobody ] || echo "$1"'}) as daemon:
        nobody = daemon.connect().send(b"nobody\n")  # first, when the folder that all of them share is not there yet
        daemon.wait_ended(nobody, "load-failed", state="loading", TETHERD_RESOURCE="workdir")
        alice = daemon.connect().send(b"alice\n")
        daemon.wait_ready(alice)
        nobody = daemon.connect().send(b"nobody\n")
        daemon.wait_ended(nobody, "load-failed", state="loading", TETHERD_RESOURCE="workdir")
        expect((daemon.directory / "people/alice").is_dir(), "the directory of another connection is gone")


@scene()
def directory_replaced_by_another_is_left_alone():
    config = listener("workdir") + "[resource:workdir]\ntype = directory\npath = <dir>/connections/%i\n"
    with Daemon(config) as daemon:
        client = daemon.connect_ready()
        path = daemon.directory / "connections" / client.id
        path.rename(path.with_name("moved"))
        path.mkdir()
        (path / "file").write_text("another's")
        client.close()
        daemon.wait_ended(client, "eof", timeout=30)
        expect_equal((path / "file").read_text(), "another's", "a directory that is not ours")
        (path / "file").unlink()
        path.rmdir()
        (path.with_name("moved")).rmdir()


@scene()
def directory_below_one_that_others_may_write():
    need_root()
    config = listener("workdir") + "[resource:workdir]\ntype = directory\npath = <dir>/connections/%i\n"
    with Daemon(config) as daemon:
        (daemon.directory / "connections").mkdir()
        (daemon.directory / "connections").chmod(0o777)
        client = daemon.connect()
        daemon.wait_ended(client, "load-failed", state="loading", TETHERD_RESOURCE="workdir")


@scene()
def directory_already_gone_counts_as_released():
    config = listener("workdir, mark") + MARK + "[resource:workdir]\ntype = directory\npath = <dir>/connections/%i\n"
    with Daemon(config) as daemon:
        client = daemon.connect_ready()
        (daemon.directory / "connections" / client.id).rmdir()
        client.close()
        daemon.wait_ended(client, "eof")
        expect(not daemon.find("release-failed"), "it was called a failure")


# ---- peers that die while their resources load ----

GATED_CONFIG = listener("one", handler="echo") + resource("one", "<gated>", "<mark> %i") + BARRIER


def expect_load_then_release(daemon, client):
    expect_equal(daemon.effects(), [("load", "one", client.id), ("release", "one", client.id)], "effects")


@scene(over=ALL)
def fin_while_loading(kind):
    with Daemon(GATED_CONFIG, scripts=GATED) as daemon:
        hold(daemon)
        client = daemon.connect(kind)
        wait_at_gate(client)
        client.half_close()
        expect_equal(client.receive_rest(), b"", "what the client gets")  # the end was noticed, the load goes on
        expect_equal(daemon.effects(), [], "effects before the load is done")
        open_gate(client)
        daemon.wait_ended(client, "eof", state="loading")
        expect_load_then_release(daemon, client)


@scene(over=("tcp4", "tcp6"))
def reset_while_loading(kind):
    with Daemon(GATED_CONFIG, scripts=GATED) as daemon:
        hold(daemon)
        client = daemon.connect(kind)
        wait_at_gate(client)
        client.reset()
        eventually(lambda: daemon.descriptors()["socket"] == daemon.idle_descriptors["socket"], "the socket is closed")
        open_gate(client)
        daemon.wait_ended(client, "reset", state="loading")
        expect_load_then_release(daemon, client)


@scene(over=("tcp4", "tcp6"))
def reset_behind_data_while_loading(kind):
    with Daemon(GATED_CONFIG, scripts=GATED) as daemon:
        hold(daemon)
        client = daemon.connect(kind)
        wait_at_gate(client)
        client.send(b"some bytes").reset()
        eventually(lambda: daemon.descriptors()["socket"] == daemon.idle_descriptors["socket"], "the socket is closed")
        open_gate(client)
        daemon.wait_ended(client, "reset", state="loading")
        expect_load_then_release(daemon, client)


@scene(over=ALL)
def fin_behind_bytes_is_kept_until_ready(kind):
    with Daemon(GATED_CONFIG, scripts=GATED) as daemon:
        hold(daemon)
        client = daemon.connect(kind)
        wait_at_gate(client)
        client.send(b"data").half_close()
        daemon.barrier("abstract")
        daemon.poll_records()
        expect(not daemon.endings(client.id), "it ended although bytes lay before the FIN")
        open_gate(client)
        daemon.wait_ended(client, "eof", TETHERD_BYTES_RECEIVED=4)
        expect(daemon.find("ready", TETHERD_CONNECTION=client.id), "it was never ready")
        expect_load_then_release(daemon, client)


@scene(over=ALL)
def peer_dies_while_the_second_loads(kind):
    config = listener("one, two") + resource("one") + resource("two", "<gated>", "<mark> %i")
    with Daemon(config, scripts=GATED) as daemon:
        hold(daemon)
        client = daemon.connect(kind)
        wait_at_gate(client)
        client.half_close().receive_rest()
        open_gate(client)
        daemon.wait_ended(client, "eof", state="loading")
        expect_equal([line[:2] for line in daemon.effects()],
                     [("load", "one"), ("load", "two"), ("release", "two"), ("release", "one")], "effects")


@scene()
def peer_dies_and_then_the_load_fails():
    # The first cause is the one reported.
    with Daemon(GATED_CONFIG, scripts={"gated": GATE + "exit 1"}) as daemon:
        hold(daemon)
        client = daemon.connect()
        wait_at_gate(client)
        client.half_close().receive_rest()
        open_gate(client)
        daemon.wait_ended(client, "eof", state="loading")
        expect_equal(daemon.effects(), [], "effects")


# ---- the queue ----


QUEUE_CONFIG = (listener("one", handler="echo") +
                resource("one", "<gated>", "<mark> %i", "max_concurrent = 1\nqueue_timeout = 20s") + BARRIER)


@scene(over=("tcp4", "unix"))
def releases_go_before_loads(kind):
    with Daemon(QUEUE_CONFIG, scripts=GATED) as daemon:
        old = daemon.connect_ready(kind)
        hold(daemon)
        loading = daemon.connect(kind)
        wait_at_gate(loading)
        let_go(daemon)
        waiting = daemon.connect(kind)
        daemon.barrier("abstract")
        old.half_close().receive_rest()
        open_gate(loading)
        daemon.wait_ready(waiting)
        expect_equal(daemon.effects(), [("load", "one", old.id), ("load", "one", loading.id),
                                        ("release", "one", old.id), ("load", "one", waiting.id)], "effects")
        for client in (loading, waiting):
            client.close()
            daemon.wait_ended(client, "eof")


@scene(over=ALL)
def queued_load_is_dropped_when_its_peer_dies(kind):
    with Daemon(QUEUE_CONFIG, scripts=GATED) as daemon:
        hold(daemon)
        loading = daemon.connect(kind)
        wait_at_gate(loading)
        waiting = daemon.connect(kind)
        daemon.barrier("abstract")
        waiting.close()
        daemon.wait_ended(waiting, "eof", state="loading")  # although the queue does not move
        open_gate(loading)
        daemon.wait_ready(loading)
        loading.close()
        daemon.wait_ended(loading, "eof")
        expect_load_then_release(daemon, loading)


@scene()
def queue_timeout():
    with Daemon(QUEUE_CONFIG.replace("queue_timeout = 20s", "queue_timeout = 400ms"), scripts=GATED) as daemon:
        hold(daemon)
        loading = daemon.connect()
        wait_at_gate(loading)
        waiting = daemon.connect()
        daemon.wait_ended(waiting, "load-timeout", state="loading", TETHERD_RESOURCE="one")
        open_gate(loading)
        daemon.wait_ready(loading)
        loading.close()
        daemon.wait_ended(loading, "eof")
        expect_load_then_release(daemon, loading)


@scene()
def max_concurrent_is_kept():
    count = {"count": f"""
        mkdir <dir>/now/$TETHERD_CONNECTION
        ls <dir>/now | wc -l >> <dir>/most
        sleep 0.05
        rmdir <dir>/now/$TETHERD_CONNECTION
        {LOG}"""}
    config = listener("one") + resource("one", "<count>", "<count>", "max_concurrent = 3")
    with Daemon(config, scripts=count) as daemon:
        (daemon.directory / "now").mkdir()
        clients = [daemon.connect() for _ in range(20)]
        for client in clients:
            daemon.wait_ready(client, 30)
            client.close()
        for client in clients:
            daemon.wait_ended(client, "eof", timeout=30)
        most = max(int(line) for line in (daemon.directory / "most").read_text().split())
        expect(2 <= most <= 3, f"{most} commands ran at once, max_concurrent is 3")


# ---- releases that fail ----


@scene(over=("exit status", "signal", "timeout"))
def release_fails_then_succeeds(how):
    fail = {"exit status": "exit 7", "signal": "kill -9 $$", "timeout": "sleep 1000"}[how]
    scripts = {"down": f"[ -e <dir>/tried ] || {{ touch <dir>/tried; {fail}; }}\n{LOG}"}
    config = listener("one, two") + resource("one") + resource("two", "<mark> %i", "<down>", "release_timeout = 2s")
    with Daemon(config, scripts=scripts) as daemon:
        client = daemon.connect_ready().close()
        daemon.wait_ended(client, "eof")
        record = daemon.wait_record("release-failed", TETHERD_CONNECTION=client.id, PRIORITY=4, TETHERD_RESOURCE="two")
        if how == "exit status":
            expect_equal(record.get("TETHERD_EXIT_STATUS"), "7", "TETHERD_EXIT_STATUS")
        expect_equal(len(daemon.find("release-failed")), 1, "failed releases")
        expect_equal([line[:2] for line in daemon.effects()],
                     [("load", "one"), ("load", "two"), ("release", "two"), ("release", "one")], "effects")


QUARANTINE = listener("one, two", handler="echo") + resource("one") + resource("two", "<mark> %i", "<down>",
                                                                             "release_attempts = 2")
BREAKABLE = {"down": f"[ ! -e <dir>/broken ] || exit 7\n{LOG}"}


@scene()
def quarantine_ends_with_sighup():
    with Daemon(QUARANTINE, scripts=BREAKABLE) as daemon:
        (daemon.directory / "broken").touch()
        client = daemon.connect_ready().close()
        daemon.wait_record("quarantined", 20, TETHERD_CONNECTION=client.id, TETHERD_RESOURCE="two", PRIORITY=3)
        daemon.wait_ended(client, "eof")
        expect_equal(len(daemon.find("release-failed")), 2, "failed releases")
        expect(daemon.ledger_files(), "the ledger forgot what is in quarantine")
        daemon.connect_ready().echo().close()  # the others go on
        (daemon.directory / "broken").unlink()
        daemon.kill(signal.SIGHUP)
        eventually(lambda: ("release", "two", client.id) in daemon.effects(), "released after SIGHUP")


@scene()
def quarantine_is_left_for_the_next_start():
    with Daemon(QUARANTINE, scripts=BREAKABLE) as daemon:
        (daemon.directory / "broken").touch()
        client = daemon.connect_ready().close()
        daemon.wait_record("quarantined", 20, TETHERD_CONNECTION=client.id)
        idle_files = daemon.idle_files
        daemon.stop(status=1)
        (daemon.directory / "broken").unlink()
        daemon.start()
        daemon.idle_files = idle_files
        daemon.wait_record("recovered", TETHERD_CONNECTION=client.id, PRIORITY=5)
        expect(("release", "two", client.id) in daemon.effects(), f"not released: {daemon.effects()}")


@scene()
def quarantine_that_stays_is_not_recovered():
    with Daemon(QUARANTINE.replace("release_attempts = 2", "release_attempts = 1"), scripts=BREAKABLE) as daemon:
        broken = daemon.directory / "broken"
        broken.touch()
        client = daemon.connect_ready().close()
        daemon.wait_record("quarantined", TETHERD_CONNECTION=client.id)
        idle_files = daemon.idle_files
        daemon.stop(status=1)
        daemon.start()
        daemon.idle_files = idle_files
        daemon.wait_record("quarantined", TETHERD_CONNECTION=client.id)
        daemon.wait_record("closed", TETHERD_CONNECTION=client.id, TETHERD_CAUSE="orphaned")
        expect(not daemon.find("recovered"), "what is quarantined is said to be released")
        broken.unlink()
        daemon.kill(signal.SIGHUP)
        eventually(lambda: ("release", "two", client.id) in daemon.effects(), "released after SIGHUP")


@scene()
def quarantine_that_is_tried_again_is_waited_for_at_a_stop():
    scripts = {"down": "[ ! -e <dir>/broken ] || exit 7\n" + GATE + LOG}
    with Daemon(QUARANTINE.replace("release_attempts = 2", "release_attempts = 1"), scripts=scripts) as daemon:
        broken = daemon.directory / "broken"
        broken.touch()
        client = daemon.connect_ready().close()
        daemon.wait_record("quarantined", TETHERD_CONNECTION=client.id)
        daemon.wait_ended(client, "eof")
        broken.unlink()
        hold(daemon)
        daemon.kill(signal.SIGHUP)
        wait_at_gate(client, "release")
        daemon.kill(signal.SIGTERM)
        daemon.wait_notified("STOPPING=1")
        open_gate(client, "release")
        daemon.wait_exit(0)
        expect(("release", "two", client.id) in daemon.effects(), f"not released: {daemon.effects()}")


@scene()
def none_is_a_resource():
    config = listener("nothing, show", "greeting = %{nothing}") + "[resource:nothing]\ntype = none\n" + resource("show")
    with Daemon(config) as daemon:
        client = daemon.connect()
        expect_equal(client.receive_line(), "nothing\n", "greeting")
        client.close()
        daemon.wait_ended(client, "eof")


if __name__ == "__main__":
    main()

"""plugin: a handler in a shared object: every ending told once and in order, reloads, what is refused; and whether one
can be built with nothing but what is installed."""

import fcntl
import os
import re
import shlex
import shutil
import socket
import struct
import subprocess
import tempfile
import termios
from errno import ECONNRESET, ETIMEDOUT
from pathlib import Path

from harness import (BINARY, GATE, MARK, SLOW, Daemon, eventually, expect, expect_equal, hold, main, need_program,
                     open_gate, scene, wait_at_gate)

TOP = Path(__file__).resolve().parents[2]
RECORDER = Path(BINARY).parent / "tests/plugins/recorder.so"
ALL = ("tcp4", "tcp6", "unix")

# `mark` is declared, so loaded before what the plugin has of its own.
SERVED = """
[listener:served]
listen = <tcp4>, <tcp6>, <unix>
handler = plugin:<dir>/recorder.so
resources = workdir, mark
{keys}
[resource:workdir]
type = directory
path = <dir>/connections/%i
""" + MARK
HELLO = SERVED.format(keys="hello = yes\nhandler_timeout = {timeout}")


class Recorded(Daemon):
    """A daemon with the recorder in its directory."""

    def __init__(self, config, **options):
        super().__init__(config, **options)
        self.put_plugin()

    def put_plugin(self):
        """As an upgrade would: a new file in the place of the old one."""
        new = self.directory / "recorder.so.new"
        shutil.copyfile(RECORDER, new)
        new.chmod(0o644)
        new.rename(self.directory / "recorder.so")

    def calls(self, client=None):
        """What the plugin was called for: words of each line; of one client, without its id."""
        path = self.directory / "calls"
        lines = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        if client is None:
            return lines
        return [[line[0], *line[2:]] for line in lines if len(line) > 1 and line[1] == client.id]

    def callbacks(self, client):
        return [line[0] for line in self.calls(client)]

    def wait_called(self, client, name, count=1):
        eventually(lambda: self.callbacks(client).count(name) >= count, lambda: f"{name}: {self.calls(client)}")

    def connect_as(self, identity, kind="tcp4"):
        return self.connect(kind).send(f"{identity}\n".encode())

    def check_close(self, client, record):
        """What `close` was told is what the record says."""
        closes = [line for line in self.calls(client) if line[0] == "close"]
        expect_equal(len(closes), 1, f"calls of close for {client.id}")
        said = dict(zip(("TETHERD_CAUSE", "TETHERD_INITIATOR", "TETHERD_OPERATION", "ERRNO", "TETHERD_STATE",
                         "TETHERD_DURATION_USEC", "TETHERD_BYTES_RECEIVED", "TETHERD_BYTES_SENT",
                         "TETHERD_REMOTE_ADDRESS", "TETHERD_REMOTE_PORT", "TETHERD_LOCAL_ADDRESS",
                         "TETHERD_LOCAL_PORT"), closes[0][1:]))
        for name, value in said.items():
            if name in record:
                expect_equal(record[name], value, f"{name}, by the record and by the plugin")
        expect_equal(self.callbacks(client)[-1], "close", "the last callback")

    def expect_ended(self, client, cause, **options):
        record = self.wait_ended(client, cause, **options)
        self.check_close(client, record)
        return record

    def expect_balance(self):
        """The daemon has stopped: accept and close of each, prepare first, shutdown last."""
        calls = self.calls()
        accepted = sorted(line[1] for line in calls if line[0] == "accept")
        expect_equal(sorted(line[1] for line in calls if line[0] == "close"), accepted, "closed ones")
        expect(calls[0] == ["constructor"] and calls[1][0] == "prepare", f"it begins with {calls[:2]}")
        expect_equal(calls[-1][0], "shutdown", "the last call of all")


def unread(client):
    """How much of what it sent the daemon has not read (UNIX sockets)."""
    return struct.unpack("i", fcntl.ioctl(client.socket, termios.TIOCOUTQ, b"\0" * 4))[0]


def by_handler(daemon, client, **options):
    return daemon.expect_ended(client, "handler", **options)


# ---- endings ----


@scene(over=ALL)
def every_ending_of_the_peer(kind):
    with Recorded(SERVED.format(keys="")) as daemon:
        ways = [("eof", 0, lambda client: client.close()), ("eof", 0, lambda client: client.half_close()),
                ("eof", 0, lambda client: client.kill())]
        if kind != "unix":
            ways.append(("reset", ECONNRESET, lambda client: client.reset()))
        for cause, error, end in ways:
            client = daemon.connect_ready(kind).send(b"echo")
            expect_equal(client.receive(4), b"echo", "the answer")
            client.send(b"goodbye")
            end(client)
            record = daemon.expect_ended(client, cause, error=error)
            expect_equal(record["TETHERD_BYTES_RECEIVED"], "11", "bytes before the end")
            received = sum(int(line[1]) for line in daemon.calls(client) if line[0] == "receive")
            expect_equal(received, 11, "bytes that the plugin got")
            expect_equal(daemon.callbacks(client)[:2], ["accept", "handshake"], "the first callbacks")
        daemon.check_books()
        daemon.stop()
        daemon.expect_balance()


@scene(over=("discard", "plugin"))
def descriptors_in_the_middle(handler):
    # Nobody asked for them: they are closed at once, and what is behind them is read.
    config = SERVED.format(keys="")
    with Recorded(config if handler == "plugin" else config.replace("plugin:<dir>/recorder.so", "discard")) as daemon:
        client = daemon.connect_ready("unix")
        reading_fd, writing_fd = os.pipe()
        with daemon.frozen():
            client.send(b"before")
            socket.send_fds(client.socket, [b"with"], [writing_fd])
            client.send(b"behind")
        os.close(writing_fd)
        expect_equal(os.read(reading_fd, 1), b"", "read from a pipe that nobody has any more")
        os.close(reading_fd)
        eventually(lambda: unread(client) == 0, "every byte is read")
        client.close()
        daemon.wait_ended(client, "eof", TETHERD_BYTES_RECEIVED=16)


@scene()
def what_is_its_own_lies_inside_of_what_is_declared():
    look = {"look": 'echo "$TETHERD_PHASE $TETHERD_RESOURCE $1" >> <effects>; '
                    'echo "$TETHERD_PHASE" >> <dir>/calls; echo one'}
    config = SERVED.format(keys="").replace("workdir, mark", "workdir, look")
    config += "[resource:look]\ntype = exec\nload = <look> %i\nrelease = <look> %i\n"
    with Recorded(config, scripts=look) as daemon:
        client = daemon.connect_ready()
        workdir = daemon.directory / "connections" / client.id
        expect(["value", str(workdir)] in daemon.calls(), "the plugin sees the value of a resource")
        client.close()
        daemon.wait_ended(client, "eof")
        order = [line[0] for line in daemon.calls() if line[0] in ("load", "handshake", "close", "release")]
        expect_equal(order, ["load", "handshake", "close", "release"], "order")


@scene()
def refused_at_accept():
    config = SERVED.format(keys="").replace("listener:served", "listener:refuses_accept")
    with Recorded(config) as daemon:
        client = daemon.connect()
        expect_equal(client.receive_rest(), b"", "what it was sent")
        by_handler(daemon, client, event="rejected", state="accept", operation="close")
        expect_equal(daemon.callbacks(client), ["accept", "close"], "callbacks")
        expect_equal(daemon.effects(), [], "loads")


@scene(over=("refuse", "leave"))
def refused_at_handshake(identity):
    with Recorded(HELLO.format(timeout="30s")) as daemon:
        client = daemon.connect_as(identity)
        by_handler(daemon, client, state="loading")
        expect_equal(daemon.callbacks(client), ["accept", "handshake", "close"], "callbacks")


@scene()
def ended_before_the_handshake_is_done():
    with Recorded(HELLO.format(timeout="30s")) as daemon:
        client = daemon.connect().send(b"ali")
        daemon.wait_called(client, "accept")
        client.close()
        daemon.expect_ended(client, "eof", event="rejected", state="handshake")
        wrong = daemon.connect_as("-wrong")
        daemon.expect_ended(wrong, "protocol-error", event="rejected", state="handshake")
        for each in (client, wrong):
            expect_equal(daemon.callbacks(each), ["accept", "close"], "callbacks")


@scene()
def denied_ones_are_not_told():
    with Recorded(SERVED.format(keys="deny = 127.0.0.0/8")) as daemon:
        client = daemon.connect()
        daemon.wait_ended(client, "denied", event="rejected", state="accept")
        expect_equal(daemon.callbacks(client), [], "callbacks")


@scene()
def dies_while_a_resource_loads():
    config = SERVED.format(keys="").replace("load = <mark>", "load = <gated>")
    with Recorded(config, scripts={"gated": GATE + 'echo "load mark $1" >> <effects>'}) as daemon:
        hold(daemon)
        client = daemon.connect()
        wait_at_gate(client)
        client.reset()
        daemon.wait_called(client, "close")  # at once: what is declared is another matter
        open_gate(client)
        daemon.expect_ended(client, "reset", state="loading")
        expect_equal(daemon.callbacks(client), ["accept", "close"], "callbacks")


@scene()
def load_fails():
    config = SERVED.format(keys="").replace("load = <mark>", "load = <fails>")
    with Recorded(config, scripts={"fails": "exit 1"}) as daemon:
        client = daemon.connect()
        daemon.expect_ended(client, "load-failed", state="loading")
        expect_equal(daemon.callbacks(client), ["accept", "close"], "callbacks")


@scene(over=("error", "leave"))
def ended_in_receive(word):
    with Recorded(SERVED.format(keys="")) as daemon:
        client = daemon.connect_ready().send(word.encode())
        expect_equal(client.receive_rest(), b"", "what it was sent")
        by_handler(daemon, client)


@scene()
def last_words_arrive():
    with Recorded(SERVED.format(keys="")) as daemon:
        for _ in range(20):
            client = daemon.connect_ready().send(b"last")
            client.send(b"this is not read any more")
            expect_equal(client.receive_rest(), b"last words", "what it was sent")
            by_handler(daemon, client)


@scene()
def one_ends_the_others():
    with Recorded(SERVED.format(keys="")) as daemon:
        clients = [daemon.connect_ready(kind) for kind in ALL for _ in range(5)]
        clients[0].send(b"others")
        for client in clients[1:]:
            expect_equal(client.receive_rest(), b"", "what it was sent")
            by_handler(daemon, client)
        clients[0].send(b"echo")
        expect_equal(clients[0].receive(4), b"echo", "the answer")


@scene()
def timeouts_end_it():
    for key, cause in (("idle_timeout", "idle-timeout"), ("max_age", "max-age")):
        with Recorded(SERVED.format(keys=f"{key} = 300ms")) as daemon:
            daemon.expect_ended(daemon.connect_ready(), cause)


@scene()
def everything_at_the_stop():
    with Recorded(HELLO.format(timeout="30s")) as daemon:
        ready, pending, shaking = daemon.connect_as("a"), daemon.connect_as("pending"), daemon.connect().send(b"a")
        daemon.wait_ready(ready)
        daemon.wait_called(pending, "handshake")
        daemon.wait_called(shaking, "accept")
        for client in (ready, pending, shaking):
            expect(client.id, "it has an id")
        daemon.stop()
        daemon.expect_ended(ready, "shutdown")
        daemon.expect_ended(pending, "shutdown", state="loading")
        daemon.expect_ended(shaking, "shutdown", event="rejected", state="handshake")
        daemon.expect_balance()


# ---- pending handshakes, pausing ----


@scene(over=ALL)
def pending(kind):
    with Recorded(HELLO.format(timeout="30s")) as daemon:
        waiting = daemon.connect_as("pending", kind).send(b"echo")
        daemon.wait_called(waiting, "handshake")
        daemon.connect_as("a", kind).send(b"ready")
        expect_equal(waiting.receive(4), b"echo", "what came meanwhile is answered")
        daemon.wait_ready(waiting)
        threaded = daemon.connect_as("thread", kind)
        daemon.wait_ready(threaded)
        threaded.close()
        daemon.expect_ended(threaded, "eof")

        gone = daemon.connect_as("pending", kind)
        daemon.wait_called(gone, "handshake")
        gone.close()
        daemon.expect_ended(gone, "eof", state="loading")


@scene()
def pending_for_too_long():
    with Recorded(HELLO.format(timeout="200ms")) as daemon:
        client = daemon.connect_as("pending").send(b"unread")
        record = by_handler(daemon, client, state="loading", error=ETIMEDOUT)
        expect("its handshake was pending for longer than handler_timeout" in record["MESSAGE"], record["MESSAGE"])


@scene()
def paused():
    with Recorded(SERVED.format(keys="idle_timeout = 1s")) as daemon:
        client = daemon.connect().send(b"pause")
        daemon.wait_called(client, "receive")
        client.send(b"later").wait_acknowledged()
        daemon.expect_ended(daemon.connect_ready(), "idle-timeout")  # so much time went by
        expect_equal(daemon.callbacks(client), ["accept", "handshake", "receive"], "callbacks of the paused one")
        daemon.connect().send(b"resume")
        daemon.wait_called(client, "receive", 2)
        expect_equal(daemon.calls(client)[-1], ["receive", "5", "later"], "what came meanwhile")

        reset = daemon.connect().send(b"pause")
        daemon.wait_called(reset, "receive")
        reset.send(b"before the end").wait_acknowledged().reset()
        record = daemon.expect_ended(reset, "reset")
        expect_equal(record["TETHERD_BYTES_RECEIVED"], "19", "bytes")
        expect_equal(daemon.calls(reset)[-2][:2], ["receive", "14"], "what came before the reset")


@scene()
def half_closed():
    with Recorded(SERVED.format(keys="half_close = keep")) as daemon:
        client = daemon.connect_ready().send(b"echo").half_close()
        expect_equal(client.receive(4), b"echo", "the answer")
        eventually(lambda: ["receive", "0"] in daemon.calls(client), "the plugin hears of the FIN")
        other = daemon.connect_ready().send(b"others")
        expect_equal(client.receive_rest(), b"", "what else it was sent")
        by_handler(daemon, client)
        other.send(b"leave")
        by_handler(daemon, other)


# ---- reload ----


@scene()
def listener_goes_while_connected():
    other = "[listener:other]\nlisten = <abstract>\nhandler = echo\n"
    with Recorded(SERVED.format(keys="") + other) as daemon:
        client = daemon.connect_ready()
        daemon.configure(other)
        daemon.reload()
        daemon.wait_record("reloaded")
        expect(["shutdown", "served"] not in daemon.calls(), "shutdown came before the last close")
        client.send(b"echo")
        expect_equal(client.receive(4), b"echo", "the answer")
        client.close()
        daemon.expect_ended(client, "eof")
        eventually(lambda: daemon.calls()[-1] == ["shutdown", "served"], lambda: f"{daemon.calls()[-3:]}")
        daemon.idle_descriptors["socket"] -= 3


@scene()
def listener_comes_back_while_connected():
    other = "[listener:other]\nlisten = <abstract>\nhandler = echo\n"
    with Recorded(SERVED.format(keys="") + other) as daemon:
        client = daemon.connect_ready()
        for keys in ("enabled = no", ""):
            daemon.configure(SERVED.format(keys=keys) + other)
            daemon.reload()
        daemon.wait_record("reloaded", count=2)
        expect_equal(len([line for line in daemon.calls() if line == ["prepare", "served", "bound"]]), 6,
                     "sockets that it was shown: three at the start, and three when it came back")
        client.send(b"echo")
        expect_equal(client.receive(4), b"echo", "the answer")
        client.close()
        daemon.expect_ended(client, "eof")
        daemon.expect_ended(daemon.connect_ready().close(), "eof")
        expect(["shutdown", "served"] not in daemon.calls(), "shutdown came while it listens")
        daemon.stop()
        daemon.expect_balance()


@scene()
def changed_file_needs_a_restart():
    with Recorded(SERVED.format(keys="greeting = one")) as daemon:
        client = daemon.connect_ready()
        expect_equal(client.receive_line(), "one\n", "greeting")
        daemon.reload()
        daemon.wait_record("reloaded")
        daemon.put_plugin()
        daemon.configure(SERVED.format(keys="greeting = two"))
        daemon.reload()
        record = daemon.wait_record("reload-failed", PRIORITY=3)
        expect(re.search(r"tetherd\.conf:\d+: handler = plugin:.*: the file changed since it was loaded: needs a restart",
                         record["MESSAGE"]), record["MESSAGE"])
        expect_equal(daemon.connect_ready().receive_line(), "one\n", "greeting of a new connection")
        client.close()
        daemon.expect_ended(client, "eof")


@scene()
def another_handler_for_new_connections():
    echo = SERVED.format(keys="").replace("plugin:<dir>/recorder.so", "echo")
    with Recorded(echo) as daemon:
        old = daemon.connect_ready().echo()
        expect_equal(daemon.calls(), [], "calls of a plugin that nobody names")
        daemon.configure(SERVED.format(keys=""))
        daemon.reload()
        daemon.wait_record("reloaded")
        expect_equal([line for line in daemon.calls() if line[0] != "constructor"],
                     3 * [["prepare", "served", "bound"]], "sockets that were open are shown to it")
        new = daemon.connect_ready()
        old.echo()
        expect_equal(daemon.callbacks(old), [], "callbacks of a connection that was born with echo")
        daemon.configure(echo)
        daemon.reload()
        daemon.wait_record("reloaded", count=2)
        daemon.connect_ready().echo()
        new.send(b"echo")
        expect_equal(new.receive(4), b"echo", "the answer of the plugin")
        new.close()
        daemon.expect_ended(new, "eof")
        eventually(lambda: daemon.calls()[-1] == ["shutdown", "served"], "shutdown after the last close")
        daemon.idle_descriptors[str(daemon.directory / "calls")] += 1  # it stays loaded


# ---- the start ----


def start_fails(daemon, status, pattern):
    daemon.spawn()
    try:
        daemon.wait_exit(status)
    finally:
        daemon.idle_files = daemon.files()
    expect(re.search(pattern, daemon.stderr()), f"{pattern!r} is not in: {daemon.stderr()}")


class Failing(Recorded):
    """One that is not to start."""

    def __enter__(self):
        return self


@scene()
def prepare_listen_refuses():
    config = SERVED.format(keys="").replace("listener:served", "listener:refuses_listen")
    config = config.replace("<tcp4>, <tcp6>, <unix>", "<unix>")
    with Failing(config) as daemon:
        start_fails(daemon, 1, r"cannot listen at .*: the plugin does not want it \(its prepare_listen\)")
        expect_equal(daemon.calls(), [["constructor"], ["prepare", "refuses_listen", "bound"],
                                      ["shutdown", "refuses_listen"]], "calls")
        expect(not (daemon.directory / "socket").exists(), "no socket is left")


@scene()
def no_plugin():
    with Failing(SERVED.format(keys="")) as daemon:
        path = daemon.directory / "recorder.so"
        path.unlink()
        start_fails(daemon, 78, r"tetherd\.conf:\d+: handler = plugin:.*: No such file or directory")
        path.write_text("#!/bin/sh\n" + 80 * "#")
        start_fails(daemon, 78, r"it is no ELF file")
        daemon.put_plugin()
        path.chmod(0o666)
        start_fails(daemon, 78, r"others may write to .*recorder\.so \(mode 0666\)")
        path.chmod(0o644)
        daemon.directory.chmod(0o777)
        start_fails(daemon, 78, r"others may write to .* \(mode 0777\)")
        daemon.directory.chmod(0o755)
        shutil.copyfile(library(), path)
        start_fails(daemon, 78, r"tetherd\.conf:\d+: handler = plugin:.*: it does not export tetherd_plugin")
        expect_equal(daemon.calls(), [], "calls")


def library():
    """Some shared object that is no plugin."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return re.search(r"/\S*/libc\.so\.6", maps.read())[0]


@scene()
def checking_runs_nothing():
    with Failing(SERVED.format(keys="")) as daemon:
        for option in ("--check-config", "--print-config", "--explain"):
            said = subprocess.run(daemon.command(option), capture_output=True, text=True, timeout=20 * SLOW)
            expect_equal(said.returncode, 0, f"exit status of {option}: {said.stdout}{said.stderr}")
            if option == "--print-config":
                expect(f"\nhandler = plugin:{daemon.directory}/recorder.so\n" in said.stdout, said.stdout)
        expect_equal(daemon.calls(), [], "calls: its constructor ran")
        (daemon.directory / "recorder.so").chmod(0o664)
        said = subprocess.run(daemon.command("--check-config"), capture_output=True, text=True, timeout=20 * SLOW)
        expect_equal(said.returncode, 78, "exit status")
        expect("others may write to" in said.stdout, said.stdout)
        daemon.idle_files = daemon.files()
        daemon.process = subprocess.Popen(["true"])
        daemon.process.wait()
        daemon.is_on_stderr = True


# ---- what is installed ----


class Installed:
    """An installation below a directory of its own, for those who build plugins."""

    def __enter__(self):
        for program in ("make", "cc", "pkg-config"):
            need_program(program)
        self.root = Path(tempfile.mkdtemp(prefix="tetherd-story-"))
        run(["make", "-s", "-o", BINARY, f"B={Path(BINARY).parent}", f"DESTDIR={self.root}", "install"], cwd=TOP)
        return self

    def __exit__(self, *_error):
        shutil.rmtree(self.root)

    def flags(self):
        environment = {"PATH": os.environ["PATH"], "PKG_CONFIG_SYSROOT_DIR": str(self.root),
                       "PKG_CONFIG_LIBDIR": str(self.root / "usr/share/pkgconfig"),
                       "PKG_CONFIG_SYSTEM_INCLUDE_PATH": "/nowhere"}
        run(["pkg-config", "--exists", "tetherd-plugin >= 0.1"], env=environment)
        return shlex.split(run(["pkg-config", "--cflags", "tetherd-plugin"], env=environment))

    def build(self, source, target, *options, compiler="cc"):
        run([compiler, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2", "-shared", "-fPIC", *options, *self.flags(),
             "-o", str(target), str(source)])
        target.chmod(0o644)


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300 * SLOW, **options)
    expect(done.returncode == 0, f"{shlex.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout


def listing(page):
    """The first display of its EXAMPLES, as mandoc shows it."""
    block = re.search(r"^\.Sh EXAMPLES\n.*?^\.Bd -literal.*?\n(.*?)^\.Ed", page, re.M | re.S)[1]
    return block.replace("\\&", "").replace("\\e", "\\").replace("\\(dq", '"').replace("\\-", "-")


@scene()
def manual_listing_counts():
    config = "[listener:count]\nlisten = <tcp4>\nhandler = plugin:<dir>/count.so\n"
    with Installed() as installed, Failing(config) as daemon:
        source = daemon.directory / "count.c"
        source.write_text(listing((installed.root / "usr/share/man/man3/tetherd-plugin.3").read_text()))
        for standard in ("-std=c99", "-std=gnu11", "-std=gnu17"):
            installed.build(source, daemon.directory / "count.so", standard)
        daemon.start()
        client = daemon.connect_ready().send(b"one\ntwo\nth")
        expect_equal(client.receive(4), b"1\n2\n", "the answer")
        client.send(b"ree\n")
        expect_equal(client.receive(2), b"3\n", "the answer")
        client.close()
        daemon.wait_ended(client, "eof")
        daemon.wait_record(MESSAGE=re.compile(rf"connection {client.id}, count: 3 lines, then eof by the peer"))


@scene()
def example_chats():
    config = "[listener:chat]\nlisten = <tcp4>\nhello = yes\nsend_buffer = 16K\nhandler = plugin:<dir>/chat.so\n"
    with Installed() as installed, Failing(config) as daemon:
        installed.build(installed.root / "usr/share/tetherd/examples/chat.c", daemon.directory / "chat.so")
        daemon.start()
        alice = daemon.connect().send(b"alice\n")
        daemon.wait_ready(alice)
        bob = daemon.connect().send(b"bob\n")
        expect_equal(alice.receive_line(), "bob is here\n", "what alice reads")
        bob.send(b"hello\nand ")
        expect_equal(alice.receive_line(), "bob says: hello\n", "what alice reads")
        alice.send(b"hi\n")
        expect_equal(bob.receive_line(), "alice says: hi\n", "what bob reads")
        bob.send(b"more\n")
        expect_equal(alice.receive_line(), "bob says: and more\n", "what alice reads")
        carol = daemon.connect(receive_buffer=4096).send(b"carol\n")
        expect_equal(alice.receive_line(), "carol is here\n", "what alice reads")
        line = ""
        while line != "carol was lost\n":  # she does not read what is said
            bob.send(400 * b"x" + b"\n")
            line = alice.receive_line()
        daemon.wait_ended(carol, "handler")
        expect_equal(alice.receive_line(), f"bob says: {400 * 'x'}\n", "what alice reads")
        alice.close()
        daemon.wait_ended(alice, "eof")
        expect_equal([bob.receive_line() for _ in range(3)], ["carol is here\n", "carol was lost\n", "alice left\n"],
                     "what bob reads")
        bob.send(600 * b"x")
        daemon.wait_ended(bob, "handler")


@scene()
def header_is_for_cxx_too():
    need_program("g++")
    text = """
#include <tetherd/plugin.h>
static int on_receive(struct tetherd_connection *c, const void *bytes, size_t n)
{
        return tetherd_send(c, bytes, n) < 0 ? TETHERD_ERROR : TETHERD_OK;
}
const struct tetherd_plugin tetherd_plugin = {
        TETHERD_PLUGIN_ABI, sizeof(tetherd_plugin), "cxx", nullptr, nullptr, nullptr, on_receive,
        nullptr, nullptr, nullptr,
};
"""
    config = "[listener:cxx]\nlisten = <tcp4>\nhandler = plugin:<dir>/cxx.so\n"
    with Installed() as installed, Failing(config) as daemon:
        source = daemon.directory / "cxx.cc"
        source.write_text(text)
        for standard in ("-std=c++11", "-std=c++20"):
            installed.build(source, daemon.directory / "cxx.so", standard, "-fvisibility=hidden", compiler="g++")
        daemon.start()
        daemon.connect_ready().echo().close()


if __name__ == "__main__":
    main()

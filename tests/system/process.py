"""process: programs that live as long as their connection, and those that are given it: real ones of inetd's kind, and
what becomes of the program, its group and its last words in every ending."""

import os
import re
import signal
import subprocess
from errno import EAGAIN, ECONNRESET
from pathlib import Path

from harness import (MARK, SLOW, Daemon, eventually, expect, expect_equal, main, need_program, need_root, scene, tell)
from harness.headers import v1, v2

ALL = ("tcp4", "tcp6", "unix")
OTHER = "[listener:other]\nlisten = <unix>\nhandler = echo\n"
STUBBORN = "trap '' TERM HUP; echo begun >&2; while :; do sleep 1000; done"


def config(command, keys="", of_resource="socket = stdio", resources="program", more=""):
    return f"""
[listener:shop]
listen = <tcp4>, <tcp6>, <unix>
resources = {resources}
{keys}
[resource:program]
type = process
command = {command}
{of_resource}
{more}
"""


def the_child(daemon):
    return int(eventually(daemon.children, "the program runs")[0])


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def wait_gone(*pids):
    for pid in pids:
        eventually(lambda: is_gone(pid), f"process {pid} ended")


def wait_file(path):
    """Its text, once there is one."""
    return eventually(lambda: path.exists() and path.read_text(), f"{path} is written")


def expect_exit(daemon, client, status=0, **fields):
    return daemon.wait_ended(client, "process-exited", TETHERD_EXIT_STATUS=status, TETHERD_RESOURCE="program",
                             PRIORITY=5 if status else 6, **fields)


def expect_refused(client):
    """Nobody is there who would take a byte. A RST comes with the next at the latest."""
    def is_refused():
        try:
            client.send(b"x")
        except (BrokenPipeError, ConnectionResetError):
            return True
        return False
    eventually(is_refused, "what the client sends is refused")


def run(*command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
    expect(done.returncode == 0, f"{command}: {done.stdout}{done.stderr}")
    return done.stdout


# ---- real programs ----


@scene(over=ALL)
def cat(kind):
    with Daemon(config("cat")) as daemon:
        client = daemon.connect(kind)
        data = os.urandom(60000)
        client.send(data).half_close()  # request and FIN at once
        expect(client.receive_rest() == data, "not all of it came back")
        counts = {} if kind == "unix" else {"TETHERD_BYTES_RECEIVED": 60000, "TETHERD_BYTES_SENT": 60000}
        expect_exit(daemon, client, **counts)


@scene(over=ALL)
def bc(kind):
    need_program("bc")
    with Daemon(config("bc -q")) as daemon:
        client = daemon.connect(kind).send(b"6*7\n")
        expect_equal(client.receive_line(), "42\n", "the answer")
        client.send(b"2^64\nquit\n")
        expect_equal(client.receive_rest(), b"18446744073709551616\n", "the rest")
        expect_exit(daemon, client)


@scene()
def git_daemon():
    need_program("git")
    with Daemon(config("git daemon --inetd --export-all --base-path=<dir>/repositories")) as daemon:
        home = daemon.directory / "home"
        home.mkdir()
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "GIT_CONFIG_NOSYSTEM": "1"}
        source, copy = daemon.directory / "repositories/source", daemon.directory / "copy"
        run("git", "init", "-q", str(source), env=environment)
        (source / "file").write_bytes(os.urandom(300_000))
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        run("git", "-C", str(source), "add", "file", env=environment)
        run("git", *identity, "-C", str(source), "commit", "-qm", "one", env=environment)
        host, port = daemon.addresses["tcp4"][1]
        run("git", "clone", "-q", f"git://{host}:{port}/source", str(copy), env=environment)
        expect((copy / "file").read_bytes() == (source / "file").read_bytes(), "what was cloned differs")
        record = daemon.wait_record("closed", TETHERD_CAUSE="process-exited", TETHERD_EXIT_STATUS=0)
        expect(int(record["TETHERD_BYTES_SENT"]) > 300_000, f"bytes sent: {record}")


@scene()
def rsync_daemon():
    need_program("rsync")
    with Daemon(config("rsync --daemon --config=<dir>/rsyncd.conf")) as daemon:
        source, copy = daemon.directory / "source", daemon.directory / "copy"
        source.mkdir()
        for number in range(20):
            (source / f"file{number}").write_bytes(os.urandom(20_000))
        owner = f"uid = {os.getuid()}\ngid = {os.getgid()}\n" if os.getuid() == 0 else ""
        (daemon.directory / "rsyncd.conf").write_text(
            f"use chroot = no\nlog file = {daemon.directory}/rsync.log\n{owner}[files]\npath = {source}\n")
        host, port = daemon.addresses["tcp4"][1]
        run("rsync", "-a", f"rsync://{host}:{port}/files/", str(copy))
        expect_equal(sorted(path.name for path in copy.iterdir()), sorted(path.name for path in source.iterdir()),
                     "what was copied")
        expect(all((copy / path.name).read_bytes() == path.read_bytes() for path in source.iterdir()),
               "what was copied differs")
        daemon.wait_record("closed", TETHERD_CAUSE="process-exited", TETHERD_EXIT_STATUS=0)


# ---- what it is given ----

SHOW = 'printf "%s %s\\n" "$TETHERD_REMOTE_ADDRESS" "$TETHERD_IDENTITY"; exec cat'


@scene(over=("v1", "v2"))
def header_and_hello_before_its_bytes(version):
    header = v1("192.0.2.7") if version == "v1" else v2("192.0.2.7")
    keys = "proxy_protocol = yes\nproxy_from = 127.0.0.1\nhello = yes\ngreeting = welcome %h"
    text = config("<show>", keys).replace(", <tcp6>, <unix>", "")
    with Daemon(text, scripts={"show": SHOW}) as daemon:
        for pieces in ([header + b"alice\nrequest"], [header, b"alice\n", b"request"], [header + b"ali", b"ce\nrequest"]):
            client = daemon.connect()
            for piece in pieces:
                client.send(piece).wait_acknowledged()
            client.half_close()
            expect_equal(client.receive_rest(), b"welcome alice\n192.0.2.7 alice\nrequest", "what the client gets")
            record = daemon.wait_record("closed", TETHERD_CAUSE="process-exited", TETHERD_IDENTITY="alice",
                                        count=len(daemon.clients))
            expect_equal(int(record["TETHERD_BYTES_RECEIVED"]), len(b"".join(pieces)), "bytes received")
            client._id = record["TETHERD_CONNECTION"]  # its address is the header's


@scene(over=ALL)
def fin_without_a_request(kind):
    with Daemon(config("/bin/echo the answer")) as daemon:
        client = daemon.connect(kind).half_close()
        expect_equal(client.receive_rest(), b"the answer\n", "what the client gets")
        expect_exit(daemon, client)


@scene()
def greeting_before_its_bytes():
    token = "[resource:token]\ntype = exec\nload = /bin/echo t-%i\n"
    with Daemon(config("<show>", "greeting = %{token} for %i", resources="token, program", more=token),
                scripts={"show": "echo first"}) as daemon:
        client = daemon.connect()
        expect_equal(client.receive_rest().decode(), f"t-{client.id} for {client.id}\nfirst\n", "what the client gets")
        expect_exit(daemon, client)


@scene()
def no_descriptor_of_others():
    with Daemon(config("cat")) as daemon:
        clients = [daemon.connect(kind).echo() for kind in ALL * 3]
        sockets = set()
        pids = [int(pid) for pid in daemon.children()]
        expect_equal(len(pids), len(clients), "programs")
        for pid in pids:
            links = {name: os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
            expect_equal(sorted(links), ["0", "1", "2"], f"descriptors {links}")
            expect(links["0"] == links["1"] and links["0"].startswith("socket:"), f"descriptors {links}")
            expect(links["2"].startswith("pipe:"), f"descriptors {links}")
            sockets.add(links["0"])
            flags = int(re.search(r"flags:\s*(\d+)", Path(f"/proc/{pid}/fdinfo/0").read_text())[1], 8)
            expect(not flags & os.O_NONBLOCK, f"flags of stdin: {flags:o}")
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            expect_equal(int(fields[2]), pid, "process group")
            masks = dict(re.findall(r"^(Sig\w+):\s*(\w+)", Path(f"/proc/{pid}/status").read_text(), re.M))
            expect_equal((int(masks["SigBlk"], 16), int(masks["SigIgn"], 16)), (0, 0), "signals blocked, ignored")
        expect_equal(len(sockets), len(clients), "different sockets")
        for client in clients:
            client.half_close()
            expect_exit(daemon, client)
        expect(not daemon.children(), "zombies are left")


@scene()
def its_environment():
    show = {"show": "tr '\\0' '\\n' </proc/$$/environ"}
    with Daemon(config("<show>", "hello = yes", "socket = stdio\nenvironment = COLOUR=blue-%h\nworking_directory = /usr"),
                scripts=show) as daemon:
        client = daemon.connect().send(b"alice\n")
        found = dict(line.split("=", 1) for line in client.receive_rest().decode().splitlines())
        host, port = daemon.addresses["tcp4"][1]
        for name, value in {
            "TETHERD_CONNECTION": client.id, "TETHERD_LISTENER": "shop", "TETHERD_RESOURCE": "program",
            "TETHERD_PHASE": "load", "TETHERD_REMOTE_ADDRESS": "127.0.0.1", "TETHERD_REMOTE_PORT": str(client.port),
            "TETHERD_LOCAL_ADDRESS": host, "TETHERD_LOCAL_PORT": str(port), "TETHERD_IDENTITY": "alice",
            "COLOUR": "blue-alice",
        }.items():
            expect_equal(found.pop(name, None), value, name)
        expect_equal(sorted(found), ["HOME", "LANG", "PATH", "USER"], "the others")
        expect_exit(daemon, client)


@scene()
def as_another_user():
    need_root()
    show = {"show": "id -u; id -g; echo $USER:$HOME; exec sleep 1000"}
    with Daemon(config("<show>", of_resource="socket = stdio\nuser = nobody"), scripts=show) as daemon:
        client = daemon.connect()
        expect_equal([client.receive_line() for _ in range(3)], ["65534\n", "65534\n", "nobody:/nonexistent\n"],
                     "who it is")
        pid = the_child(daemon)
        daemon.crash()  # it changed its user, and yet the kernel ends it with us
        wait_gone(pid)
        daemon.start()
        daemon.wait_record("recovered")


@scene()
def what_it_prints_beside():
    with Daemon(config("<say>"), scripts={"say": "echo to-stderr >&2; cat"}) as daemon:
        client = daemon.connect_ready()
        daemon.wait_record(MESSAGE=re.compile("to-stderr"), TETHERD_CONNECTION=client.id, TETHERD_RESOURCE="program")
        client.half_close()
        expect_equal(client.receive_rest(), b"", "what the client gets")
        expect_exit(daemon, client)


@scene()
def many_at_once():
    with Daemon(config("cat")) as daemon:
        clients = [daemon.connect() for _ in range(100)]
        for number, client in enumerate(clients):
            client.send(b"%d" % number)
        for number, client in enumerate(clients):
            expect_equal(client.half_close().receive_rest(), b"%d" % number, "what the client gets")
        for client in clients:
            expect_exit(daemon, client)


# ---- how it ends ----


@scene(over=ALL)
def it_exits_with_a_status(kind):
    with Daemon(config("<fail>"), scripts={"fail": "echo sorry; exit 3"}) as daemon:
        client = daemon.connect(kind)
        expect_equal(client.receive_rest(), b"sorry\n", "what the client gets")
        record = expect_exit(daemon, client, 3)
        expect("exit status 3" in record["MESSAGE"], record["MESSAGE"])


@scene()
def whoever_started_us_ignores_children():
    """Then the kernel would reap ours, and their ends would never be seen (waitid(2))."""
    ignoring = ["sh", "-c", "trap '' CHLD; exec \"$@\"", "sh"]
    with Daemon(config("sh -c 'exit 3'"), enter=ignoring) as daemon:
        expect_exit(daemon, daemon.connect(), status=3)


@scene()
def it_is_killed_by_a_signal():
    with Daemon(config("<die>"), scripts={"die": "kill -KILL $$"}) as daemon:
        client = daemon.connect()
        record = expect_exit(daemon, client, 128 + signal.SIGKILL, state=("ready", "loading"))
        expect("SIGKILL" in record["MESSAGE"], record["MESSAGE"])


@scene(over=ALL)
def it_ends_with_bytes_unread(kind):
    # Closing on unread bytes is a RST, which would overtake what it wrote.
    with Daemon(config("<answer>"), scripts={"answer": "head -c 1 >/dev/null; head -c 200000 /dev/zero"}) as daemon:
        client = daemon.connect(kind)
        client.send(b"x" * 5000)
        n_bytes = 0
        while more := client.socket.recv(65536):  # a reset would raise
            n_bytes += len(more)
        expect_equal(n_bytes, 200000, "bytes of the answer")
        expect_exit(daemon, client)


LINGER = """exec python3 -c 'import os, signal, socket, struct
s = socket.socket(fileno=0)
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, {seconds}))
s.setblocking(False)
n = 0
try:
    while True: n += s.send(bytes(65536))
except BlockingIOError: pass
s.close(); os.close(1)
open("<dir>/new", "w").write(str(n)); os.rename("<dir>/new", "<dir>/sent")
{then}'"""


@scene(over=("exits", "lives on"))
def it_sets_so_linger(how):
    # An option of the socket, and so of our close(2), which is the last and must not wait until the client has read.
    is_exit = how == "exits"
    script = LINGER.format(seconds=1000, then="os._exit(0)" if is_exit else "signal.pause()")
    text = config("<stuff>", "" if is_exit else f"max_age = {3 * SLOW:g}s", more=OTHER).replace(", <unix>", "", 1)
    with Daemon(text, scripts={"stuff": script}) as daemon:
        client, other = daemon.connect(receive_buffer=8192), daemon.connect("unix").echo()
        n_sent = int(wait_file(daemon.directory / "sent"))
        daemon.wait_ended(client, "process-exited" if is_exit else "max-age")
        other.echo()
        expect_equal(len(client.receive_rest()), n_sent, "bytes that it wrote")


@scene()
def it_asks_for_a_reset():
    # SO_LINGER of 0 s: our close(2) would throw away what it wrote.
    with Daemon(config("<stuff>"), scripts={"stuff": LINGER.format(seconds=0, then="os._exit(0)")}) as daemon:
        client = daemon.connect(receive_buffer=8192)
        n_sent = int(wait_file(daemon.directory / "sent"))
        expect_exit(daemon, client)
        expect_equal(len(client.receive_rest()), n_sent, "bytes that it wrote")


@scene()
def it_leaves_somebody_in_its_group():
    # Both have its stdout, the connection: it ends all the same.
    script = {"spawn": "sleep 1000 & echo $!; exit 0"}
    with Daemon(config("<spawn>"), scripts=script) as daemon:
        client = daemon.connect()
        grandchild = int(client.receive_line())
        expect_equal(client.receive_rest(), b"", "the rest")
        expect_exit(daemon, client)
        wait_gone(grandchild)


@scene(over=ALL)
def it_leaves_somebody_elsewhere(kind):
    # Out of our reach, with the connection in hand: it is closed all the same, behind the last words.
    script = {"spawn": "setsid sh -c 'echo $$ > <dir>/new; mv <dir>/new <dir>/stranger; exec sleep 1000' 2>/dev/null &\n"
                       "while ! [ -e <dir>/stranger ]; do sleep 0.01; done; head -c 200000 /dev/zero"}
    with Daemon(config("<spawn>"), scripts=script) as daemon:
        client = daemon.connect(kind, receive_buffer=8192)
        stranger = int(wait_file(daemon.directory / "stranger"))
        try:
            n_bytes = 0
            while more := client.socket.recv(4096):  # a reset would raise
                n_bytes += len(more)
            expect_equal(n_bytes, 200000, "bytes of the answer")
            expect_exit(daemon, client)
            expect_refused(client)
        finally:
            os.kill(stranger, signal.SIGKILL)
            wait_gone(stranger)


@scene(over=ALL)
def the_client_resets_or_closes(kind):
    # On UNIX sockets a close is told; on TCP it is a FIN, which is the program's business.
    with Daemon(config("<sleep>"), scripts={"sleep": "echo $$; exec sleep 1000"}) as daemon:
        client = daemon.connect_ready(kind)
        pid = int(client.receive_line())
        if kind == "unix":
            client.close()
            daemon.wait_ended(client, "eof", error=0)
        else:
            client.send(b"hello").wait_acknowledged().reset()
            daemon.wait_ended(client, "reset", error=ECONNRESET, TETHERD_BYTES_RECEIVED=0)
        wait_gone(pid)


@scene()
def the_client_resets_one_that_reads():
    # Whoever asks first gets the errno. The end of the program comes after that of its peer, however late we are.
    with Daemon(config("cat")) as daemon:
        for is_late in (False, True):
            client = daemon.connect_ready().echo()
            pid = the_child(daemon)
            if is_late:
                with daemon.frozen():
                    client.reset()
                    wait_gone(pid)
            else:
                client.reset()
            record = daemon.wait_ended(client, "reset", error=(0, ECONNRESET), TETHERD_BYTES_RECEIVED=14)
            expect(not is_late or record["ERRNO"] == "0", f"ERRNO: {record}")
            wait_gone(pid)


@scene()
def the_client_is_killed():
    with Daemon(config("cat")) as daemon:
        client = daemon.connect_ready().echo()
        pid = the_child(daemon)
        client.kill()
        expect_exit(daemon, client)
        wait_gone(pid)


@scene()
def the_client_is_killed_while_it_is_told_much():
    with Daemon(config("yes")) as daemon:
        client = daemon.connect_ready()
        client.receive(1000)
        pid = the_child(daemon)
        client.kill()
        record = eventually(lambda: daemon.poll_records() and daemon.endings(client.id), "it is closed")[0]
        # SIGPIPE may be quicker than the news of the RST.
        expect(record["TETHERD_CAUSE"] in ("reset", "process-exited"), f"{record}")
        wait_gone(pid)


@scene()
def it_shuts_the_connection_in_order():
    # Both ends are shut, but the program has not done: it is not disturbed.
    script = {"linger": "exec python3 -c 'import os, socket, sys; s = socket.socket(fileno=0); s.recv(9)\n"
                        "s.sendall(b\"bye\"); s.shutdown(1); s.recv(9); open(\"<dir>/shut\", \"w\").write(\"x\")\n"
                        "f = open(\"<dir>/go\"); f.read(); s.detach()'"}
    with Daemon(config("<linger>"), scripts=script) as daemon:
        os.mkfifo(daemon.directory / "go")
        client = daemon.connect_ready().send(b"hi")
        expect_equal(client.receive_rest(), b"bye", "what the client gets")
        client.close()
        wait_file(daemon.directory / "shut")
        switches = daemon.context_switches()
        expect(not daemon.endings(client.id), "it was ended")
        expect(daemon.context_switches() - switches < 20, "the loop does not come to rest")
        (daemon.directory / "go").write_text("x")
        expect_exit(daemon, client, TETHERD_BYTES_RECEIVED=2, TETHERD_BYTES_SENT=3)


@scene(over=ALL)
def the_client_half_closes_and_it_shuts_the_rest(kind):
    # Both ends are shut here as well, and yet it has something to do.
    script = {"linger": "exec python3 -c 'import os, socket; s = socket.socket(fileno=0); s.recv(9); s.recv(9)\n"
                        "f = open(\"<dir>/go\"); f.read(); s.sendall(b\"bye\"); s.shutdown(1)\n"
                        "f = open(\"<dir>/go\"); f.read(); s.detach()'"}
    other = "[listener:other]\nlisten = <abstract>\nhandler = echo\n"
    with Daemon(config("<linger>", more=other), scripts=script) as daemon:
        os.mkfifo(daemon.directory / "go")
        client = daemon.connect_ready(kind).send(b"hi").half_close()
        daemon.barrier("abstract")
        (daemon.directory / "go").write_text("x")
        expect_equal(client.receive_rest(), b"bye", "what the client gets")
        daemon.barrier("abstract")
        client.close()
        daemon.barrier("abstract")
        daemon.poll_records()
        expect(not daemon.endings(client.id), f"it was ended: {daemon.endings(client.id)}")
        (daemon.directory / "go").write_text("x")
        expect_exit(daemon, client)


@scene()
def it_ignores_sigterm():
    with Daemon(config("<stubborn>", of_resource="socket = stdio\nrelease_timeout = 400ms"),
                scripts={"stubborn": STUBBORN}) as daemon:
        client = daemon.connect_ready()
        pid = the_child(daemon)
        daemon.wait_record(MESSAGE=re.compile("begun"))
        client.reset()
        record = daemon.wait_ended(client, "reset")
        expect(int(record["TETHERD_RELEASE_USEC"]) >= 400_000, f"{record}")
        expect(not daemon.find("release-failed"), "its release is called a failure")
        wait_gone(pid)


@scene()
def it_ends_in_its_own_way():
    polite = {"polite": "trap 'echo farewell >&2; exit 0' TERM; echo begun >&2; while :; do sleep 0.05; done"}
    with Daemon(config("<polite>"), scripts=polite) as daemon:
        client = daemon.connect_ready()
        daemon.wait_record(MESSAGE=re.compile("begun"))
        client.reset()
        daemon.wait_ended(client, "reset")
        daemon.wait_record(MESSAGE=re.compile("farewell"), TETHERD_CONNECTION=client.id)


@scene()
def max_age():
    with Daemon(config("cat", "max_age = 500ms\nidle_timeout = 1ms")) as daemon:
        client = daemon.connect_ready().echo()
        pid = the_child(daemon)
        expect_equal(client.receive_rest(), b"", "the rest")
        daemon.wait_ended(client, "max-age")
        wait_gone(pid)


@scene()
def the_daemon_stops():
    with Daemon(config("cat")) as daemon:
        clients = [daemon.connect_ready(kind).echo() for kind in ALL]
        pids = [int(pid) for pid in daemon.children()]
        daemon.stop()
        for client in clients:
            expect_equal(client.receive_rest(), b"", "the rest")
            daemon.wait_ended(client, "shutdown")
        wait_gone(*pids)


@scene()
def the_daemon_stops_before_it_ends():
    # drain_timeout is over before release_timeout: its lease is left, the program is not.
    with Daemon(config("<stubborn>"), daemon={"drain_timeout": "300ms"}, scripts={"stubborn": STUBBORN}) as daemon:
        daemon.connect_ready()
        pid = the_child(daemon)
        daemon.wait_record(MESSAGE=re.compile("begun"))
        daemon.stop(status=1)
        wait_gone(pid)
        daemon.start()
        daemon.wait_record("recovered")


# ---- together with others ----

LATER = "[resource:later]\ntype = exec\nload = <later>\nrelease = <mark> %i\n"


@scene()
def a_later_load_fails():
    # What the program says and what we say would be mixed: we say nothing.
    with Daemon(config("/bin/sh -c 'echo mine; exec sleep 1000'", "refusal = BUSY %c", resources="program, later",
                       more=LATER), scripts={"later": "exit 1"}) as daemon:
        client = daemon.connect()
        expect(client.receive_rest() in (b"", b"mine\n"), "something else came")
        daemon.wait_ended(client, "load-failed", state="loading", TETHERD_RESOURCE="later")


@scene()
def it_ends_while_a_later_one_loads():
    with Daemon(config("<brief>", resources="program, later", more=LATER),
                scripts={"brief": "exit 0", "later": "while ! [ -e <dir>/go ]; do sleep 0.01; done\n"
                                                     'echo "load later $TETHERD_CONNECTION" >> <effects>',
                         "mark": 'echo "$TETHERD_PHASE $TETHERD_RESOURCE $1" >> <effects>'}) as daemon:
        client = daemon.connect()
        expect_equal(client.receive_rest(), b"", "what the client gets")
        expect(not daemon.endings(client.id), "it did not wait for the load under way")
        (daemon.directory / "go").touch()
        expect_exit(daemon, client, state="loading")


@scene()
def it_cannot_be_started():
    with Daemon(config("<gone>", "greeting = hello\nrefusal = BUSY %c"), scripts={"gone": "exit 0"}) as daemon:
        (daemon.directory / "gone").unlink()
        client = daemon.connect()
        expect_equal(client.receive_rest(), b"hello\nBUSY load-failed\n", "what the client gets")
        daemon.wait_ended(client, "load-failed", state="loading", TETHERD_RESOURCE="program")
        daemon.wait_record("load-failed", MESSAGE=re.compile("cannot be started: No such file"))


@scene(over=("stdio", "none"))
def no_process_can_be_started(socket):
    # Nobody is refused: who was accepted waits, accepting pauses, and both go on by themselves.
    command, keys = ("cat", "") if socket == "stdio" else ("sleep 1000", "handler = echo")
    with Daemon(config(command, f"greeting = hello\n{keys}", f"socket = {socket}")) as daemon:
        with daemon.failing("clone", "EAGAIN"):
            clients = [daemon.connect().send(b"mine\n")]
            leaving = daemon.connect()
            daemon.wait_record("accept-paused", ERRNO=EAGAIN)
            leaving.close()
            clients.append(daemon.connect().send(b"mine\n"))
        for client in clients:
            expect_equal(client.receive_line(), "hello\n", "the greeting")
            expect_equal(client.receive_line(), "mine\n", "what comes back")
            client.half_close().receive_rest()
        daemon.wait_record("accept-resumed")
        expect(not daemon.find("load-failed"), "a load failed")


@scene()
def its_end_cannot_be_watched():
    with Daemon(config("cat")) as daemon:
        with daemon.failing("epoll_ctl", "ENOSPC", ":when=4"):
            client = daemon.connect()
            expect_equal(client.receive_rest(), b"", "what the client gets")
            daemon.wait_ended(client, "load-failed", state="loading")
        daemon.connect_ready().echo().close()


@scene()
def beside_the_connection():
    # socket = none: the handler serves, the value is the pid, stdout is the journal's.
    script = {"beside": "echo said; exec sleep 1000"}
    with Daemon(config("<beside>", "handler = echo\ngreeting = pid %{program}", "", "program, mark", MARK),
                scripts=script) as daemon:
        client = daemon.connect_ready()
        pid = int(client.receive_line().split()[1])
        expect_equal(pid, the_child(daemon), "the value")
        links = [os.readlink(f"/proc/{pid}/fd/{name}") for name in ("0", "1", "2")]
        expect_equal(links[0], "/dev/null", "stdin")
        expect(links[1].startswith("pipe:") and links[2].startswith("pipe:"), f"descriptors {links}")
        daemon.wait_record(MESSAGE=re.compile("said"), TETHERD_CONNECTION=client.id)
        client.echo().close()
        daemon.wait_ended(client, "eof")
        wait_gone(pid)


@scene(over=("close", "keep"))
def what_it_depends_on_ends(on_exit):
    script = {"beside": "read -r _ <<end\nend\nwhile ! [ -e <dir>/go ]; do sleep 0.01; done; exit 3"}
    with Daemon(config("<beside>", "handler = echo", f"on_exit = {on_exit}"), scripts=script) as daemon:
        client = daemon.connect_ready().echo()
        (daemon.directory / "go").touch()
        if on_exit == "close":
            expect_equal(client.receive_rest(), b"", "the rest")
            daemon.wait_ended(client, "resource-lost", TETHERD_EXIT_STATUS=3, TETHERD_RESOURCE="program", PRIORITY=5)
        else:
            daemon.wait_record(MESSAGE=re.compile("program ended .exit status 3., the connection goes on"))
            eventually(lambda: not daemon.children(), "it is reaped")
            client.echo().close()
            daemon.wait_ended(client, "eof")


# ---- crashes ----


@scene(over=("with a grandchild", "alone", "another user's"))
def sigkill_of_the_daemon(which):
    script = {"spawn": "sleep 1000 </dev/null >/dev/null 2>&1 & echo $!; exec sleep 1000"
              if which == "with a grandchild" else "echo 0; exec sleep 1000"}
    keys = "socket = stdio"
    if which == "another user's":
        need_root()
        keys += "\nuser = nobody"
    with Daemon(config("<spawn>", of_resource=keys), scripts=script) as daemon:
        client = daemon.connect_ready()
        grandchild = int(client.receive_line())
        pid = the_child(daemon)
        daemon.crash()
        wait_gone(pid)  # the kernel ends it with us
        expect(not grandchild or not is_gone(grandchild), "the grandchild is gone already: nothing is shown")
        daemon.start()
        record = daemon.wait_record("closed", TETHERD_CAUSE="orphaned")
        expect_equal(record["TETHERD_CONNECTION"], client.id, "what is recovered")
        if grandchild:
            wait_gone(grandchild)


@scene()
def a_stranger_with_its_number():
    # Only the start time tells; and of a group without a leader, what its members were started with.
    with Daemon(config("sleep 1000")) as daemon:
        daemon.connect_ready()
        pid = the_child(daemon)
        ledger = [path for path in daemon.ledger_files() if Path(path).is_file()]
        daemon.crash()
        wait_gone(pid)
        stranger = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        try:
            for path in map(Path, ledger):
                path.write_text(re.sub(r"(?m)^pid=\d+$", f"pid={stranger.pid}", path.read_text()))
                tell(path.read_text())
            daemon.start()
            daemon.wait_record("closed", TETHERD_CAUSE="orphaned")
            expect(stranger.poll() is None, "a stranger was ended")
        finally:
            stranger.kill()
            stranger.wait()


if __name__ == "__main__":
    main()

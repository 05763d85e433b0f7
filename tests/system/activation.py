"""activation: sockets that the service manager opened (`listen = systemd:NAME`) serve as our own do, and stay its own:
they are there before us and after us, and whoever connects meanwhile is served."""

import os
import re
import socket
import subprocess

from harness import MARK, Daemon, eventually, expect, expect_equal, main, need_program, scene

WEB = """
[listener:web]
listen = systemd:web
handler = echo
resources = mark
"""
# As systemd does it: descriptors from 3 on, blocking, and variables that name the very process.
HAND_OVER = ["bash", "-c", 'n=$1 i=0; shift; while ((i < n)); do eval "exec $((3 + i))<&$((100 + i)) $((100 + i))<&-"; '
             '((i += 1)); done; LISTEN_PID=$$ exec "$@"', "bash"]


class Activated(Daemon):
    """A daemon that is handed `sockets`, a list of (name, kind or socket); kinds are opened. They outlive its runs."""

    def __init__(self, config, sockets, **options):
        super().__init__(config + MARK, **options)
        self.handed = [(name, self.open(kind) if isinstance(kind, str) else kind) for name, kind in sockets]

    def open(self, kind):
        family, address = self.addresses[kind]
        sock = socket.socket(family)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(64)
        return sock

    def environment(self):
        told = {"LISTEN_FDS": str(len(self.handed)), "LISTEN_FDNAMES": ":".join(name for name, _ in self.handed)}
        return {**super().environment(), **(told if self.handed else {})}

    def spawn(self, *arguments):
        self.enter = [*HAND_OVER, str(len(self.handed))]
        self.pass_fds = [100 + i for i in range(len(self.handed))]
        for number, (_, sock) in zip(self.pass_fds, self.handed):
            os.dup2(sock.fileno(), number)
        try:
            return super().spawn(*arguments)
        finally:
            for number in self.pass_fds:
                os.close(number)

    def __exit__(self, *what):
        try:
            super().__exit__(*what)
        finally:
            for _, sock in self.handed:
                sock.close()


class Unstarted:
    """Mixed in before a Daemon that the scene starts itself, and that has ended when the scene ends."""

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.idle_files = self.files()
        super().__exit__(*what)


class Failing(Unstarted, Activated):
    pass


def fails_to_start(config, sockets, *parts):
    """It ends at once, with one line that has all these parts."""
    with Failing(config, sockets) as daemon:
        daemon.spawn().wait_exit(1)
        lines = daemon.stderr().splitlines()
        expect(len(lines) == 1, f"more or less than one line of why: {lines}")
        for part in parts:
            expect(part in lines[0], f"{part!r} is not in: {lines[0]}")


@scene(over=("tcp4", "tcp6", "unix", "abstract"))
def serves_and_leaves_the_socket(kind):
    with Activated(WEB, [("web", kind)]) as daemon:
        record = daemon.wait_record("listening", TETHERD_LISTENER="web")
        expect_equal(record["TETHERD_ADDRESS"], daemon.names[kind], "TETHERD_ADDRESS")
        client = daemon.connect_ready(kind).echo().close()
        record = daemon.wait_ended(client, "eof")
        if kind.startswith("tcp"):
            expect_equal((record["TETHERD_LOCAL_ADDRESS"], int(record["TETHERD_LOCAL_PORT"])),
                         daemon.addresses[kind][1], "the local address")
        daemon.connect(kind).echo()
        daemon.stop()
        daemon.wait_record("stopped-listening", TETHERD_LISTENER="web")
        expect(kind != "unix" or os.path.exists(daemon.names["unix"]), "the socket's file is gone")
        daemon.connect(kind)  # waits for the next run, and in vain


@scene(over=("tcp4", "unix"))
def who_connects_while_it_is_away_is_served(kind):
    with Activated(WEB, [("web", kind)]) as daemon:
        for _ in range(2):
            idle = daemon.idle_descriptors
            daemon.connect_ready(kind)
            daemon.stop()
            early = [daemon.connect(kind).send(b"early") for _ in range(10)]
            daemon.start()
            daemon.idle_descriptors, daemon.clients = idle, early
            for client in early:
                expect_equal(client.receive(5), b"early", "the echo")


@scene()
def queued_clients_get_the_options_of_the_listener():
    need_program("ss")
    daemon = Activated(WEB + "detect_within = 40s\n", [("web", "tcp4")])
    early = daemon.connect()
    with daemon:
        daemon.idle_descriptors["socket"] -= 1
        late = daemon.connect_ready().echo()
        daemon.clients.append(early.echo())
        for client in (early, late):
            seen = subprocess.run(["ss", "-Htino", "dst", f"{client.address}:{client.port}"], capture_output=True,
                                  text=True)
            expect("timer:(keepalive," in seen.stdout, f"the connection has no keepalive: {seen.stdout!r}")


@scene()
def several_of_one_name_and_several_names():
    config = WEB + WEB.replace("web", "admin").replace("listen =", "listen = <abstract>,")
    with Activated(config, [("web", "tcp4"), ("admin", "unix"), ("web", "tcp6")]) as daemon:
        daemon.wait_record("listening", count=4)
        for kind, name in (("tcp4", "web"), ("tcp6", "web"), ("unix", "admin"), ("abstract", "admin")):
            client = daemon.connect_ready(kind).echo().close()
            expect_equal(daemon.wait_ended(client, "eof")["TETHERD_LISTENER"], name, "TETHERD_LISTENER")


@scene()
def commands_get_none_of_it():
    scripts = {"mark": 'echo "$TETHERD_PHASE mark $1" >> <effects>; ls -l /proc/$$/fd > <dir>/fds; env > <dir>/env'}
    with Activated(WEB, [("web", "tcp4"), ("web", "unix")], scripts=scripts) as daemon:
        client = daemon.connect_ready().echo().close()
        daemon.wait_ended(client, "eof")
        held = (daemon.directory / "fds").read_text()
        expect("socket:" not in held, f"a command has a socket: {held}")
        expect("LISTEN_" not in (daemon.directory / "env").read_text(), "a command has the variables LISTEN_*")


# ---- a reload ----

@scene(over=("tcp4", "unix"))
def reload_drops_it_and_takes_it_up_again(kind):
    other = WEB.replace("web", "other").replace("systemd:other", "<abstract>")
    with Activated(WEB + other, [("web", kind)]) as daemon:
        old = daemon.connect_ready(kind)
        for count, renamed in ((1, "web"), (2, "fresh")):
            daemon.configure(other + MARK)
            daemon.reload()
            daemon.wait_record("stopped-listening", count=count)
            client = daemon.connect(kind).send(b"patient")
            daemon.connect("abstract").echo().close()  # it has had its chance to accept the other
            expect(len(daemon.find("accepted", TETHERD_LISTENER="web")) == count, "a dropped listener accepts")
            daemon.configure(WEB.replace(":web]", f":{renamed}]") + other + MARK)
            daemon.reload()
            daemon.wait_record("listening", TETHERD_LISTENER=renamed)
            expect_equal(client.receive(7), b"patient", "the echo")
            client.close()
        old.echo()


@scene()
def reload_moves_it_to_another_name():
    with Activated(WEB, [("web", "tcp4")]) as daemon:
        old = daemon.connect_ready()
        daemon.configure(WEB.replace(":web]", ":fresh]") + MARK)
        daemon.reload()
        client = daemon.connect_ready().echo().close()
        expect_equal(daemon.wait_ended(client, "eof")["TETHERD_LISTENER"], "fresh", "TETHERD_LISTENER")
        old.echo().close()
        expect_equal(daemon.wait_ended(old, "eof")["TETHERD_LISTENER"], "web", "TETHERD_LISTENER")


@scene()
def reload_that_names_what_is_not_there_changes_nothing():
    with Activated(WEB, [("web", "tcp4")]) as daemon:
        daemon.configure(WEB + WEB.replace("web", "admin") + MARK)
        daemon.reload()
        record = daemon.wait_record("reload-failed", PRIORITY=3)
        expect("systemd:admin" in record["MESSAGE"] and "FileDescriptorName=" in record["MESSAGE"], record["MESSAGE"])
        daemon.connect().echo().close()


@scene()
def one_that_was_disabled_at_the_start():
    with Activated(WEB + "enabled = no\n", [("web", "tcp4")]) as daemon:
        warning = eventually(lambda: [line for line in daemon.poll_records() if line["PRIORITY"] == "4"],
                             "a warning of a socket that nobody uses")[0]["MESSAGE"]
        expect("systemd:web" in warning and daemon.names["tcp4"] in warning, warning)
        client = daemon.connect().send(b"patient")
        daemon.configure(WEB + MARK)
        daemon.reload()
        expect_equal(client.receive(7), b"patient", "the echo")


# ---- what cannot be ----

@scene()
def started_by_hand():
    fails_to_start(WEB, [], "tetherd.conf:", "systemd:web", "FileDescriptorName=")


@scene()
def nonsense_in_the_environment():
    with Failing(WEB, [("web:web", "tcp4")]) as daemon:
        daemon.spawn().wait_exit(1)
        expect("LISTEN_FDS" in daemon.stderr(), daemon.stderr())


@scene()
def no_socket_of_that_name():
    fails_to_start(WEB, [("wbe", "tcp4")], "tetherd.conf:", "systemd:web", "FileDescriptorName=")


@scene()
def not_a_listening_stream_socket():
    for sock in (socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(), socket.socketpair()[0]):
        fails_to_start(WEB, [("web", sock)], "systemd:web", "listening stream socket")


@scene()
def unix_socket_behind_a_proxy():
    fails_to_start(WEB + "proxy_protocol = yes\nproxy_from = 127.0.0.1\n", [("web", "unix")], "systemd:web",
                   "proxy_protocol")


@scene()
def descriptors_that_nobody_takes_are_closed():
    peer, stray = socket.socketpair()
    with Activated(WEB, [("stray", stray), ("web", "tcp4")]) as daemon:
        stray.close()
        daemon.handed = daemon.handed[1:]
        expect_equal(peer.recv(1), b"", "what the peer of a stray connection reads")
        daemon.wait_record(MESSAGE=re.compile("stray"), PRIORITY=4)
        daemon.connect().echo().close()
    peer.close()


# ---- systemd's own tool ----

class SocketActivated(Unstarted, Daemon):
    """Started by systemd-socket-activate when the first client connects."""

    def __init__(self, config, kinds):
        super().__init__(config + MARK)
        self.enter = ["systemd-socket-activate", "--fdname=" + ":".join(name for name, _ in kinds),
                      *(f"--setenv={name}={value}" for name, value in self.environment().items()),
                      *(f"--listen={self.names[kind]}" for _, kind in kinds)]


@scene()
def first_client_starts_it():
    need_program("systemd-socket-activate")
    config = WEB + WEB.replace("web", "admin")
    with SocketActivated(config, [("web", "tcp4"), ("admin", "unix")]).spawn() as daemon:
        eventually(lambda: daemon.stderr().count("Listening on") == 2, "systemd-socket-activate listens at both")
        client = daemon.connect("tcp4")
        daemon.wait_notified("READY=1", 20)
        daemon.connect("unix").echo()
        client.echo()
        daemon.forget_clients()
        daemon.stop()


if __name__ == "__main__":
    main()

"""listeners: every kind of address, socket files and their owners, options that accepted sockets inherit."""

import os
import re
import socket
import stat
import subprocess

from harness import MARK, Daemon, expect, expect_equal, main, need_program, need_root, scene


def listener(listen, keys="", handler="echo"):
    return f"[listener:a]\nlisten = {listen}\nhandler = {handler}\nresources = mark\n{keys}\n{MARK}"


def connect_to(daemon, family, address):
    """A client of an address that is not one of the daemon's usual four."""
    daemon.addresses["other"] = (family, address)
    return daemon.connect("other")


@scene(over=("tcp4", "tcp6", "unix", "abstract"))
def one_address(kind):
    with Daemon(listener(f"<{kind}>")) as daemon:
        record = daemon.wait_record("listening", PRIORITY=6, TETHERD_LISTENER="a")
        expect(daemon.names[kind] in record["MESSAGE"], record["MESSAGE"])
        client = daemon.connect(kind).echo().close()
        daemon.wait_ended(client, "eof")


@scene()
def several_addresses_and_listeners():
    config = listener("<tcp4>, <tcp6> <unix>") + "[listener:b]\nlisten = <abstract>\nhandler = discard\n"
    with Daemon(config) as daemon:
        for kind, name in (("tcp4", "a"), ("tcp6", "a"), ("unix", "a"), ("abstract", "b")):
            client = daemon.connect_ready(kind).close()
            record = daemon.wait_ended(client, "eof")
            expect_equal(record["TETHERD_LISTENER"], name, "TETHERD_LISTENER")
        daemon.wait_record("listening", count=4)


@scene(over=("[::]", "*"))
def dual_stack(host):
    with Daemon(listener(host + ":<port>")) as daemon:
        port = daemon.names["port"]
        client = connect_to(daemon, socket.AF_INET, ("127.0.0.1", port)).echo().close()
        record = daemon.wait_ended(client, "eof")
        expect_equal(record["TETHERD_REMOTE_ADDRESS"], "127.0.0.1", "an IPv4-mapped address")
        expect_equal(record["TETHERD_LOCAL_ADDRESS"], "127.0.0.1", "an IPv4-mapped local address")
        expect("ffff" not in record["MESSAGE"], record["MESSAGE"])
        client = connect_to(daemon, socket.AF_INET6, ("::1", port)).echo().close()
        expect_equal(daemon.wait_ended(client, "eof")["TETHERD_REMOTE_ADDRESS"], "::1", "an IPv6 address")


@scene()
def v6only():
    with Daemon(listener("[::]:<port>", "v6only = yes")) as daemon:
        port = daemon.names["port"]
        connect_to(daemon, socket.AF_INET6, ("::1", port)).echo()
        try:
            connect_to(daemon, socket.AF_INET, ("127.0.0.1", port))
            raise AssertionError("IPv4 came through")
        except ConnectionRefusedError:
            pass


@scene()
def stale_socket_file_is_replaced():
    config = listener("<unix>")
    with Daemon(config) as daemon:
        daemon.connect("unix").echo()
        daemon.crash()
        expect((daemon.directory / "socket").exists(), "SIGKILL leaves the file")
        daemon.start()
        daemon.connect("unix").echo().close()
    with Daemon(config) as daemon:
        path = daemon.directory / "socket"
        daemon.stop()
        expect(not path.exists(), "the socket file is left after a clean stop")


@scene()
def live_socket_is_not_replaced():
    with Daemon(listener("<unix>")) as daemon:
        second = Daemon(listener(str(daemon.directory / "socket")), {"log_target": "stderr"})
        second.note_idle = lambda: None
        second.spawn()
        second.wait_exit(1)
        text = second.stderr()
        second.idle_files = second.files()
        second.__exit__(None, None, None)
        expect(re.search(r"listen.*socket.*in use", text), f"it said {text!r}")
        daemon.connect("unix").echo().close()


@scene(over=("file", "directory", "link"))
def what_is_no_socket_is_not_removed(what):
    daemon = Daemon(listener("<unix>"), {"log_target": "stderr"})
    path = daemon.directory / "socket"
    if what == "file":
        path.write_text("precious")
    elif what == "directory":
        path.mkdir()
    else:
        (daemon.directory / "precious").write_text("precious")
        path.symlink_to(daemon.directory / "precious")
    daemon.spawn()
    daemon.wait_exit(1)
    expect("listen" in daemon.stderr() and str(path) in daemon.stderr(), f"it said {daemon.stderr()!r}")
    expect(path.is_dir() if what == "directory" else path.read_text() == "precious", f"{path} was touched")
    daemon.idle_files = daemon.files()
    daemon.__exit__(None, None, None)


@scene()
def socket_mode_and_owner():
    need_root()
    with Daemon(listener("<unix>", "socket_mode = 0640\nsocket_user = nobody\nsocket_group = nogroup")) as daemon:
        status = os.stat(daemon.addresses["unix"][1])
        expect_equal(oct(stat.S_IMODE(status.st_mode)), "0o640", "mode")
        expect_equal((status.st_uid, status.st_gid), (65534, 65534), "owner")
    with Daemon(listener("<unix>")) as daemon:
        expect_equal(oct(stat.S_IMODE(os.stat(daemon.addresses["unix"][1]).st_mode)), "0o600", "mode by default")


@scene()
def longest_path():
    with Daemon("[listener:other]\nlisten = <tcp4>\n" + MARK) as daemon:
        folder = str(daemon.directory / ("x" * 97))[:97]
        path = folder + "/123456789"
        expect_equal(len(path), 107, "bytes that sun_path has for a name")
        os.mkdir(folder)
        daemon.configure(listener(path))
        daemon.reload()
        daemon.wait_record("listening", TETHERD_LISTENER="a")
        expect_equal(os.listdir(folder), ["123456789"], "files")
        connect_to(daemon, socket.AF_UNIX, path).echo().close()
        daemon.configure("[listener:other]\nlisten = <tcp4>\n" + MARK)
        daemon.reload()
        daemon.wait_record("stopped-listening", TETHERD_LISTENER="a")
        expect_equal(os.listdir(folder), [], "files")


@scene()
def accepting_sets_no_option():
    with Daemon(listener("<tcp4>, <tcp6>", "detect_within = 60s\nreceive_buffer = 64K\nsend_buffer = 64K")) as daemon:
        with daemon.traced("-f", "-e", "trace=setsockopt,accept4,accept") as trace:
            clients = [daemon.connect(kind).echo() for kind in ("tcp4", "tcp6") for _ in range(5)]
        calls = trace.read_text()
        expect_equal(len(re.findall(r"accept4?\(.*= \d+$", calls, re.M)), 10, "accepted connections")
        expect("setsockopt" not in calls, "accepting cost setsockopt:\n" + calls)
        expect(all("SOCK_CLOEXEC" in call for call in re.findall(r"accept4?\(.*= \d+$", calls, re.M)), calls)
        for client in clients:
            client.close()


def kernel_side(client):
    """What ss tells of the daemon's end: both addresses count, for another connection may have the same port."""
    address = f"[{client.address}]" if ":" in client.address else client.address
    return subprocess.run(["ss", "-Htino", "dst", f"{address}:{client.port}"], capture_output=True, text=True).stdout


@scene(over=("tcp4", "tcp6"))
def accepted_sockets_inherit_keepalive(kind):
    need_program("ss")
    with Daemon(listener("<tcp4>, <tcp6>", "detect_within = 40s")) as daemon:
        client = daemon.connect_ready(kind)
        shown = kernel_side(client)
        # ss writes 9.9 s as "9.900ms"
        expect(re.search(r"timer:\(keepalive,(10sec|\dsec|\d\.\d+ms|\d+ms)", shown),
               f"no keepalive timer of at most 10 s, a quarter of detect_within: {shown!r}")
        client.close()


@scene()
def connections_before_the_daemon_is_awake_inherit_too():
    need_program("ss")
    with Daemon(listener("<tcp4>", "detect_within = 40s")) as daemon:
        with daemon.frozen():
            client = daemon.connect()
        daemon.wait_ready(client)
        shown = kernel_side(client)
        expect("timer:(keepalive" in shown, f"no keepalive timer: {shown!r}")
        client.close()


@scene()
def detect_within_infinity_is_off():
    need_program("ss")
    with Daemon(listener("<tcp4>", "detect_within = infinity")) as daemon:
        client = daemon.connect_ready()
        shown = kernel_side(client)
        expect(str(client.port) in shown and "keepalive" not in shown, f"keepalive runs: {shown!r}")
        client.close()


if __name__ == "__main__":
    main()

"""handshake: the hello line in any slices, what it may hold, silence, probes, and the greeting."""

import select
import socket

from harness import MARK, SLOW, Daemon, expect, expect_equal, main, scene

ALL = ("tcp4", "tcp6", "unix")


def hello_listener(keys=""):
    return f"""
[listener:hello]
listen = <tcp4>, <tcp6>, <unix>
handler = echo
resources = mark
hello = yes
{keys}
{MARK}"""


@scene(over=ALL)
def hello_in_one_byte_slices(kind):
    with Daemon(hello_listener("greeting = hello %h, you are %i on %l from %a, 100%%")) as daemon:
        client = daemon.connect(kind)
        for byte in b"alice@example.org\n":
            client.send(bytes([byte]))
        host = {"tcp4": "127.0.0.1", "tcp6": "::1", "unix": "unix"}[kind]
        expect_equal(client.receive_line(),
                     f"hello alice@example.org, you are {client.id} on hello from {host}, 100%\n", "greeting")
        record = daemon.wait_ready(client)
        expect_equal(record["TETHERD_IDENTITY"], "alice@example.org", "TETHERD_IDENTITY")
        client.close()
        daemon.wait_ended(client, "eof", TETHERD_IDENTITY="alice@example.org")


@scene()
def greeting_with_values_and_port():
    with Daemon("""
[listener:greet]
listen = <tcp4>
handler = discard
resources = token
greeting = token %{token} for port %p
[resource:token]
type = exec
load = /bin/echo t-%i
release = /bin/true
""") as daemon:
        client = daemon.connect()
        expect_equal(client.receive_line(), f"token t-{client.id} for port {client.port}\n", "greeting")
        client.close()
        daemon.wait_ended(client, "eof")


@scene(over=ALL)
def hello_with_crlf(kind):
    with Daemon(hello_listener("greeting = %h!")) as daemon:
        client = daemon.connect(kind).send(b"bob\r\n")
        expect_equal(client.receive_line(), "bob!\n", "greeting")
        client.close()
        daemon.wait_ended(client, "eof", TETHERD_IDENTITY="bob")


@scene(over=ALL)
def bytes_after_the_hello_reach_echo(kind):
    with Daemon(hello_listener("greeting = hi")) as daemon:
        client = daemon.connect(kind).send(b"carol\nwhat follows\n\r\n\0.")
        expect_equal(client.receive(3), b"hi\n", "greeting")
        expect_equal(client.receive(17), b"what follows\n\r\n\0.", "echo")
        client.close()
        daemon.wait_ended(client, "eof", TETHERD_BYTES_SENT=20)


@scene(over=ALL)
def what_else_comes_with_the_hello(kind):
    # An urgent byte is no part of it, nor are descriptors: a read stops at either.
    with Daemon(hello_listener("greeting = %h")) as daemon:
        client = daemon.connect(kind)
        daemon.wait_record("accepted", TETHERD_CONNECTION=client.id)
        before = daemon.descriptors()
        with daemon.frozen():
            client.send(b"ca")
            if kind == "unix":
                socket.send_fds(client.socket, [b"r"], [0, 1, 2])
            client.send(b"o" if kind == "unix" else b"ro")
            client.socket.send(b"!", socket.MSG_OOB)
            client.send(b"l\nwhat follows")
        expect_equal(client.receive(18), b"carol\nwhat follows", "greeting and echo")
        expect_equal(daemon.descriptors(), before, "descriptors")


@scene(over=ALL)
def fin_behind_the_hello_waits_for_ready(kind):
    with Daemon(hello_listener("half_close = keep")) as daemon:
        client = daemon.connect(kind).send(b"dave\nlast words").half_close()
        expect_equal(client.receive_rest(), b"last words", "echo")
        daemon.wait_ended(client, "eof", TETHERD_IDENTITY="dave")
        expect(daemon.find("ready", TETHERD_CONNECTION=client.id), "it was never ready")


@scene(over=ALL)
def good_hellos(kind):
    with Daemon(hello_listener("hello_max = 16\ngreeting = <%h>")) as daemon:
        for identity in ("a", "_", "0", "A.b:c@d-e_f", "a.", "a.b.c", "sixteen-letters_"):
            client = daemon.connect(kind).send(identity.encode() + b"\n")
            expect_equal(client.receive_line(), f"<{identity}>\n", "greeting")
            client.close()
            daemon.wait_ended(client, "eof", TETHERD_IDENTITY=identity)


BAD_HELLOS = (b"\n", b"\r\n", b"-rf\n", b".hidden\n", b"a b\n", b"a..b\n", b"a/b\n", b"a\0b\n", b"\xc3\xa9\n")


@scene(over=ALL)
def bad_hellos(kind):
    with Daemon(hello_listener()) as daemon:
        for hello in BAD_HELLOS:
            client = daemon.connect(kind).send(hello)
            expect_equal(client.receive_rest(), b"", f"answer to {hello}")
            record = daemon.wait_ended(client, "protocol-error", event="rejected", state="handshake", PRIORITY=5)
            expect("\0" not in record["MESSAGE"] and "\n" not in record["MESSAGE"], record["MESSAGE"])
        expect(not daemon.effects(), f"something was loaded: {daemon.effects()}")


@scene(over=ALL)
def too_long_a_hello(kind):
    with Daemon(hello_listener("hello_max = 16")) as daemon:
        for hello in (b"seventeen-letters\n", b"seventeen-letters", b"x" * 100_000):
            client = daemon.connect(kind)
            try:
                client.send(hello)
            except OSError:
                pass  # refused while we still sent
            expect_equal(client.receive_rest(), b"", "answer")
            daemon.wait_ended(client, "protocol-error", event="rejected", state="handshake")


@scene(over=ALL)
def silence_in_the_handshake(kind):
    with Daemon(hello_listener("handshake_timeout = 400ms")) as daemon:
        silent, half = daemon.connect(kind), daemon.connect(kind).send(b"eve")
        for client in (silent, half):
            expect_equal(client.receive_rest(), b"", "answer")
            record = daemon.wait_ended(client, "handshake-timeout", event="rejected", state="handshake", PRIORITY=5)
            expect(int(record["TETHERD_DURATION_USEC"]) >= 400_000, f"too early: {record['MESSAGE']}")
        expect(not daemon.effects(), f"something was loaded: {daemon.effects()}")


@scene(over=ALL)
def in_time_but_the_daemon_is_late(kind):
    # What was there when the time was over counts, and no more than that.
    with Daemon(hello_listener(f"greeting = %h\nhandshake_timeout = {2 * SLOW:g}s")) as daemon:
        hello, fin, half = (daemon.connect(kind) for _ in range(3))
        for client in (hello, fin, half):
            daemon.wait_record("accepted", TETHERD_CONNECTION=client.id)
        with daemon.frozen():
            hello.send(b"carol\n")
            fin.half_close()
            half.send(b"da").socket.send(b"!", socket.MSG_OOB)
            select.select([], [], [], 2.5 * SLOW)
            half.send(b"v")
        expect_equal(hello.receive_line(), "carol\n", "greeting")
        hello.close()
        daemon.wait_ended(hello, "eof", TETHERD_IDENTITY="carol")
        daemon.wait_ended(fin, "eof", event="rejected", state="handshake", PRIORITY=7)
        daemon.wait_ended(half, "handshake-timeout", event="rejected", state="handshake", TETHERD_BYTES_RECEIVED=3)


@scene()
def a_slow_hello_does_not_move_the_deadline():
    with Daemon(hello_listener("handshake_timeout = 1s")) as daemon:
        client = daemon.connect()
        try:
            for _ in range(100):
                client.send(b"x")
                client.socket.settimeout(0.05)
                try:
                    if not client.socket.recv(1):
                        break
                except TimeoutError:
                    pass
        except OSError:
            pass
        record = daemon.wait_ended(client, "handshake-timeout", event="rejected", state="handshake")
        expect(int(record["TETHERD_DURATION_USEC"]) < 4_000_000, f"too late: {record['MESSAGE']}")


@scene(over=ALL)
def a_probe_is_debug(kind):
    with Daemon(hello_listener()) as daemon:
        client = daemon.connect(kind).close()
        daemon.wait_ended(client, "eof", event="rejected", state="handshake", PRIORITY=7)
        client = daemon.connect(kind).send(b"mall").close()
        daemon.wait_ended(client, "eof", event="rejected", state="handshake", PRIORITY=5)
        expect(not daemon.effects(), f"something was loaded: {daemon.effects()}")


@scene()
def reset_in_the_handshake():
    with Daemon(hello_listener()) as daemon:
        client = daemon.connect().send(b"mall").reset()
        daemon.wait_ended(client, "reset", event="rejected", state="handshake")


@scene()
def many_rejections_are_counted():
    # At most ten a second are told one by one; every one is told in the end.
    with Daemon(hello_listener()) as daemon:
        with daemon.frozen():  # all within a second, by the daemon's clock
            clients = [daemon.connect().send(b"-\n") for _ in range(50)]
        for client in clients:
            client.receive_rest()
        daemon.wait_rejected(50, TETHERD_CAUSE="protocol-error")
        single = daemon.find("rejected", TETHERD_CAUSE="protocol-error")
        expect(10 <= len(single) <= 30, f"{len(single)} of 50 rejections were told one by one")


if __name__ == "__main__":
    main()

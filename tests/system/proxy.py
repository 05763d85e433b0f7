"""proxy: PROXY headers of both versions end to end: who is believed, what is told, and what follows a header."""

import contextlib
import select

from harness import GATE, MARK, SLOW, Daemon, expect, expect_equal, hold, let_go, main, open_gate, scene, wait_at_gate
from harness.headers import LOCAL, TLV_ALPN, TLV_NOOP, WRONG, raw_v2, tlv, v1, v2, with_checksum

TCP = ("tcp4", "tcp6")
OWN = None  # the header gives no source: the socket's own counts
TLVS = tlv(TLV_ALPN, b"h2") + tlv(TLV_NOOP, bytes(200))

# What a proxy sends, and the source that it names.
HEADERS = {
    "v1 TCP4": (v1("192.0.2.7"), ("192.0.2.7", "51514")),
    "v1 TCP6": (v1("2001:db8::7"), ("2001:db8::7", "51514")),
    "v1 TCP6, mapped": (v1("::ffff:192.0.2.7"), ("192.0.2.7", "51514")),
    "v1 UNKNOWN": (b"PROXY UNKNOWN\r\n", OWN),
    "v2 IPv4": (v2("192.0.2.7"), ("192.0.2.7", "51514")),
    "v2 IPv6": (v2("2001:db8::7"), ("2001:db8::7", "51514")),
    "v2 IPv6, mapped": (v2("::ffff:192.0.2.7"), ("192.0.2.7", "51514")),
    "v2 UNIX": (v2("unix"), ("unix", "")),
    "v2 UNSPEC": (v2(), OWN),
    "v2 with TLVs": (v2("192.0.2.7", tlvs=TLVS), ("192.0.2.7", "51514")),
    "v2 with a checksum": (with_checksum("2001:db8::7", TLVS), ("2001:db8::7", "51514")),
}

# The resource tells what it was given: %-specifiers as words, then the environment.
SCRIPTS = {"seen": 'echo "$TETHERD_PHASE mark $1" >> <effects>\n'
                   'echo "$TETHERD_PHASE $1 $2 $3 $4 env $TETHERD_REMOTE_ADDRESS $TETHERD_REMOTE_PORT'
                   ' $TETHERD_IDENTITY" >> <dir>/told'}


def listener(keys="", resource=MARK):
    return f"""
[listener:behind]
listen = <tcp4>, <tcp6>
handler = echo
resources = mark
proxy_protocol = yes
proxy_from = 127.0.0.1, ::1
greeting = hi %h@%a port %p
refusal = NO %c %a
{keys}
{resource}"""


SEEN = MARK.replace("<mark> %i", "<seen> %i %a port=%p id=%h")


def source_of(client, source):
    return (client.address, str(client.port)) if source is OWN else source


def expect_nothing_loaded(daemon):
    expect(not daemon.effects(), f"something was loaded: {daemon.effects()}")


def expect_refused(daemon, client, cause, answer, state="handshake", **fields):
    expect_equal(client.receive_rest().decode(), answer, "the refusal")
    return daemon.wait_ended(client, cause, event="rejected", state=state, PRIORITY=5,
                             TETHERD_BYTES_SENT=len(answer), **fields)


@scene(over=TCP)
def the_source_is_told_everywhere(kind):
    with Daemon(listener("hello = yes", SEEN), scripts=SCRIPTS) as daemon:
        for name, (header, source) in HEADERS.items():
            client = daemon.connect(kind).send(header + b"alice\n")
            host, port = source_of(client, source)
            expect_equal(client.receive_line(), f"hi alice@{host} port {port}\n", f"the greeting after {name}")
            client.echo().close()
            record = daemon.wait_ended(client, "eof", TETHERD_REMOTE_ADDRESS=host, TETHERD_IDENTITY="alice",
                                       TETHERD_BYTES_RECEIVED=len(header) + 6 + 14)
            expect_equal(record.get("TETHERD_REMOTE_PORT", ""), port, f"TETHERD_REMOTE_PORT after {name}")
            expect_equal(record["TETHERD_LOCAL_ADDRESS"], daemon.addresses[kind][1][0], "TETHERD_LOCAL_ADDRESS")
            expect_equal(record["TETHERD_LOCAL_PORT"], str(daemon.addresses[kind][1][1]), "TETHERD_LOCAL_PORT")
            expect("TETHERD_PEER_UID" not in record, f"a uid that nobody knows: {record}")
            ready, = daemon.find("ready", TETHERD_CONNECTION=client.id)
            expect_equal((ready["TETHERD_REMOTE_ADDRESS"], ready.get("TETHERD_REMOTE_PORT", "")), (host, port),
                         f"the source in `ready` after {name}")
            accepted, = daemon.find("accepted", TETHERD_CONNECTION=client.id)
            expect_equal(accepted["TETHERD_REMOTE_ADDRESS"], client.address, "who connected, in `accepted`")
            told = f"{client.id} {host} port={port} id=alice env {host} {port} alice"
            expect_equal((daemon.directory / "told").read_text().splitlines()[-2:], [f"load {told}", f"release {told}"],
                         f"what the commands were given after {name}")


@scene(over=TCP)
def one_byte_at_a_time(kind):
    with Daemon(listener("hello = yes")) as daemon:
        for header, source in HEADERS.values():
            client = daemon.connect(kind)
            for byte in header + b"bob\r\n":
                client.send(bytes([byte]))
            host, port = source_of(client, source)
            expect_equal(client.receive_line(), f"hi bob@{host} port {port}\n", "greeting")
            client.echo().close()


@scene(over=("with hello", "without hello"))
def what_follows_reaches_echo_untouched(variant):
    hello = variant == "with hello"
    follows = b"\r\nPROXY TCP4 192.0.2.8 192.0.2.9 1 2\r\n" + v2("192.0.2.8") + bytes(range(256)) * 100
    with Daemon(listener("hello = yes" if hello else "").replace("greeting", "# greeting")) as daemon:
        for header, source in HEADERS.values():
            client = daemon.connect().send(header + (b"carol\n" if hello else b"") + follows)
            expect_equal(client.receive(len(follows)), follows, "echo")
            client.half_close()
            expect_equal(client.receive_rest(), b"", "what came after the echo")
            host, port = source_of(client, source)
            daemon.wait_ended(client, "eof", TETHERD_REMOTE_ADDRESS=host, TETHERD_BYTES_SENT=len(follows))


@scene()
def last_words_behind_the_header():
    with Daemon(listener("half_close = keep")) as daemon:
        client = daemon.connect().send(v2("192.0.2.7") + b"last words").half_close()
        expect_equal(client.receive_rest(), b"hi @192.0.2.7 port 51514\nlast words", "answer")
        daemon.wait_ended(client, "eof", TETHERD_REMOTE_ADDRESS="192.0.2.7")


@scene(over=TCP)
def local_is_a_probe(kind):
    with Daemon(listener("hello = yes\nmax_connections_per_source = 1\ndeny = ::/0, 0.0.0.0/0")) as daemon:
        for header in (v2(command=LOCAL), v2("192.0.2.7", command=LOCAL), v2("192.0.2.7", tlvs=TLVS, command=LOCAL),
                       raw_v2(LOCAL, 0xFF, b"\3\xff\xff")):
            client = daemon.connect(kind).send(header)
            expect_equal(client.receive_rest(), b"", "the answer to a health check")
            daemon.wait_ended(client, "eof", event="rejected", state="handshake", PRIORITY=7,
                              TETHERD_REMOTE_ADDRESS=client.address)
        expect_nothing_loaded(daemon)


@scene()
def every_wrong_header():
    with Daemon(listener("hello = yes")) as daemon:
        for name, header in WRONG.items():
            client = daemon.connect()
            try:
                client.send(header)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it was refused before its end
            expect_equal(client.receive_rest(), b"", f"the answer to {name}")
            client.close()
        daemon.wait_rejected(len(WRONG), TETHERD_CAUSE="protocol-error")
        for record in daemon.find("rejected"):
            expect_equal(record["TETHERD_REMOTE_ADDRESS"], "127.0.0.1", "the socket's own source")
            expect("PROXY" in record["MESSAGE"], record["MESSAGE"])
        expect_nothing_loaded(daemon)


@scene()
def a_checksum_guards_all_of_the_header():
    with Daemon(listener()) as daemon:
        good = with_checksum("192.0.2.7", TLVS)
        client = daemon.connect().send(good)
        expect_equal(client.receive_line(), "hi @192.0.2.7 port 51514\n", "greeting")
        for at in (19, 25, len(good) - 1):  # a source, a port, and the last byte of the last TLV
            client = daemon.connect().send(good[:at] + bytes([good[at] ^ 1]) + good[at + 1:])
            record = expect_refused(daemon, client, "protocol-error", "")
            expect("checksum is wrong" in record["MESSAGE"], record["MESSAGE"])


@scene()
def never_guessed():
    config = listener() + "[listener:plain]\nlisten = <unix>\nhandler = echo\nproxy_protocol = no\n"
    with Daemon(config) as daemon:
        client = daemon.connect("unix").echo(v1("192.0.2.7")).echo(v2("192.0.2.7")).close()
        daemon.wait_ended(client, "eof", TETHERD_REMOTE_ADDRESS="unix")
        expect_refused(daemon, daemon.connect().send(b"hello, it is me\n"), "protocol-error", "")
        expect_nothing_loaded(daemon)


@scene()
def from_elsewhere_is_denied_at_accept():
    with Daemon(listener()) as daemon:
        for said in (b"", v1("127.0.0.1"), v2("192.0.2.7"), v2(command=LOCAL)):
            with daemon.frozen():  # what it said is there when it is accepted, and does not matter
                client = daemon.connect(source="127.0.0.2").send(said)
            expect_refused(daemon, client, "denied", "NO denied 127.0.0.2\n", "accept",
                           TETHERD_REMOTE_ADDRESS="127.0.0.2")
        daemon.connect(source="127.0.0.1").send(v1("192.0.2.7")).receive_line()


@scene()
def rules_judge_the_headers_source():
    keys = "hello = yes\nallow = 192.0.2.0/24, 2001:db8:1::/48\ndeny = 192.0.2.66, 127.0.0.1"
    with Daemon(listener(keys)) as daemon:
        for source in ("192.0.2.7", "::ffff:192.0.2.7", "2001:db8:1::7"):
            for header in (v1(source), v2(source)):
                daemon.connect().send(header + b"dave\n").receive_line()
        expect_equal(len(daemon.effects()), 6, "leases")
        refused = [(host, header(host)) for host in ("192.0.2.66", "198.51.100.7", "2001:db8:2::7") for header in (v1, v2)]
        refused += [("unix", v2("unix")), ("127.0.0.1", v2()), ("127.0.0.1", b"PROXY UNKNOWN\r\n")]
        for host, header in refused:
            client = daemon.connect().send(header + b"eve\n")
            expect_refused(daemon, client, "denied", f"NO denied {host}\n", TETHERD_REMOTE_ADDRESS=host,
                           TETHERD_IDENTITY="eve")
        expect_equal(len(daemon.effects()), 6, "leases")


@scene()
def limits_count_the_headers_source():
    with Daemon(listener("max_connections_per_source = 2")) as daemon:
        def attempt(source, port):
            return daemon.connect().send(v2(source, port))
        def come_in(source, port=1):
            client = attempt(source, port)
            expect_equal(client.receive_line(), f"hi @{source} port {port}\n", "greeting")
            return client
        first = [come_in("192.0.2.7", port) for port in (1, 2)]
        expect_refused(daemon, attempt("192.0.2.7", 3), "limit", "NO limit 192.0.2.7\n",
                       TETHERD_REMOTE_ADDRESS="192.0.2.7")
        come_in("192.0.2.8")
        # An IPv6 source is its /64.
        come_in("2001:db8:0:1::1")
        come_in("2001:db8:0:1:ffff::2")
        expect_refused(daemon, attempt("2001:db8:0:1::3", 1), "limit", "NO limit 2001:db8:0:1::3\n")
        come_in("2001:db8:0:2::3")
        first[0].close()
        daemon.wait_ended(first[0], "eof")
        come_in("192.0.2.7", 4)


@scene()
def who_is_refused_keeps_the_name_that_it_gave():
    with Daemon(listener("hello = yes\ndeny = 198.51.100.0/24\nmax_connections_per_source = 1")) as daemon:
        daemon.connect().send(v2("192.0.2.7") + b"first\n").receive_line()
        for source, cause in (("192.0.2.7", "limit"), ("198.51.100.7", "denied")):
            client = daemon.connect().send(v2(source) + b"eve:2\n")
            expect_refused(daemon, client, cause, f"NO {cause} {source}\n", TETHERD_REMOTE_ADDRESS=source,
                           TETHERD_IDENTITY="eve:2")
        # One that ended before the header was whole is the proxy, and nobody by name.
        client = daemon.connect().send(b"eve:2\n")
        record = expect_refused(daemon, client, "protocol-error", "", TETHERD_REMOTE_ADDRESS=client.address)
        expect("TETHERD_IDENTITY" not in record, f"a name that was never given: {record}")


@scene()
def unix_sources_are_one_source_of_a_user_that_nobody_knows():
    # No rule names them, so where everybody else is denied they come in; with each other they share one source's limit.
    with Daemon(listener("deny = 0.0.0.0/0, ::/0\nmax_connections_per_source = 2")) as daemon:
        clients = [daemon.connect(source=proxy).send(v2("unix")) for proxy in ("127.0.0.1", None)]
        for client in clients:
            expect_equal(client.receive_line(), "hi @unix port \n", "greeting")
            record = daemon.wait_ready(client)
            expect_equal(record["TETHERD_REMOTE_ADDRESS"], "unix", "TETHERD_REMOTE_ADDRESS")
            told = {"TETHERD_PEER_UID", "TETHERD_PEER_PID", "TETHERD_REMOTE_PORT"} & record.keys()
            expect(not told, f"{told} of a peer that nobody knows: {record}")
        expect_refused(daemon, daemon.connect().send(v2("unix")), "limit", "NO limit unix\n",
                       TETHERD_REMOTE_ADDRESS="unix")
        expect_refused(daemon, daemon.connect().send(v2("192.0.2.7")), "denied", "NO denied 192.0.2.7\n")
        clients[0].close()
        daemon.wait_ended(clients[0], "eof", TETHERD_REMOTE_ADDRESS="unix")
        expect_equal(daemon.connect().send(v2("unix")).receive_line(), "hi @unix port \n", "greeting")


@scene()
def a_rate_counts_the_headers_source():
    with Daemon(listener("accept_rate_per_source = 2")) as daemon:
        with daemon.frozen():  # all at the same moment, by the daemon's clock
            clients = [daemon.connect().send(v1(source)) for source in ("192.0.2.7", "192.0.2.8") for _ in range(5)]
        answers = [client.receive_line().split(" port")[0].strip() for client in clients]
        expect_equal(sorted(answers), sorted(["hi @192.0.2.7", "hi @192.0.2.8"] * 2 +
                                             ["NO limit 192.0.2.7", "NO limit 192.0.2.8"] * 3), "answers")


@scene()
def a_header_that_never_comes_counts_for_nobody():
    with Daemon(listener("max_connections_per_source = 1\naccept_rate_per_source = 1")) as daemon:
        silent = [daemon.connect() for _ in range(5)]
        begun = [daemon.connect().send(v2("192.0.2.7")[:-1]) for _ in range(5)]
        expect_equal(daemon.connect().send(v2("192.0.2.7")).receive_line(), "hi @192.0.2.7 port 51514\n", "greeting")
        for client in silent + begun:
            client.close()
        for client in silent:
            daemon.wait_ended(client, "eof", event="rejected", state="handshake", PRIORITY=7)
        for client in begun:
            daemon.wait_ended(client, "eof", event="rejected", state="handshake", PRIORITY=5)


def expect_timed_out(daemon, client):
    record = daemon.wait_ended(client, "handshake-timeout", event="rejected", state="handshake", PRIORITY=5)
    seconds = int(record["TETHERD_DURATION_USEC"]) / 1e6
    expect(1 <= seconds <= 1 + 5 * SLOW, f"a handshake_timeout of 1 s came after {seconds:.2f} s")


@scene()
def one_timeout_over_header_and_hello():
    with Daemon(listener("hello = yes\nhandshake_timeout = 1s")) as daemon:
        silent = daemon.connect()
        half_header = daemon.connect().send(v2("192.0.2.7", tlvs=TLVS)[:40])
        no_hello = daemon.connect().send(v1("192.0.2.7"))
        half_hello = daemon.connect().send(v2("192.0.2.7") + b"mall")
        slow = daemon.connect()
        for byte in v1("192.0.2.7") + b"mallory-who-takes-her-time\n":
            if select.select([slow.socket], [], [], 0.05 * SLOW)[0]:
                break  # it was ended: the bytes did not move the deadline
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):  # so it was, at this very moment
                slow.send(bytes([byte]))
        for client in (silent, half_header, no_hello, half_hello, slow):
            expect_timed_out(daemon, client)
            expect_equal(client.receive_rest(), b"", "answer")
        in_time = daemon.connect().send(v1("192.0.2.7")).send(b"frank\n")
        expect_equal(in_time.receive_line(), "hi frank@192.0.2.7 port 51514\n", "greeting")
        expect_equal(len(daemon.effects()), 1, "leases")


@scene()
def the_peer_dies_in_the_header():
    with Daemon(listener()) as daemon:
        header = with_checksum("192.0.2.7", TLVS)
        for n in (1, 12, 16, 30, len(header) - 1):
            client = daemon.connect().send(header[:n]).close()
            daemon.wait_ended(client, "eof", event="rejected", state="handshake", TETHERD_BYTES_RECEIVED=n)
            client = daemon.connect().send(header[:n]).reset()
            daemon.wait_ended(client, "reset", event="rejected", state="handshake", TETHERD_BYTES_RECEIVED=n)
        expect_nothing_loaded(daemon)


@scene()
def a_refused_load_says_so_to_the_headers_source():
    resource = "[resource:mark]\ntype = exec\nload = /bin/false\nrelease = /bin/true\n"
    with Daemon(listener("hello = yes", resource)) as daemon:
        client = daemon.connect().send(v2("192.0.2.7") + b"grace\n")
        expect_equal(client.receive_rest(), b"NO load-failed 192.0.2.7\n", "refusal")
        daemon.wait_ended(client, "load-failed", state="loading", TETHERD_REMOTE_ADDRESS="192.0.2.7",
                          TETHERD_IDENTITY="grace")


@scene()
def a_reload_changes_whom_is_believed_from_then_on():
    gated = {"mark": GATE + 'echo "$TETHERD_PHASE $TETHERD_RESOURCE $1" >> <effects>'}
    with Daemon(listener(), scripts=gated) as daemon:
        hold(daemon)
        loading = daemon.connect().send(v2("192.0.2.7"))
        wait_at_gate(loading)
        let_go(daemon)
        silent = daemon.connect()
        silent.id
        daemon.configure(listener().replace("proxy_from = 127.0.0.1, ::1", "proxy_from = 127.0.0.2"))
        daemon.reload()
        expect_refused(daemon, daemon.connect().send(v1("192.0.2.7")), "denied", "NO denied 127.0.0.1\n", "accept")
        daemon.connect(source="127.0.0.2").send(v1("192.0.2.7")).receive_line()
        open_gate(loading)
        for client in (loading, silent.send(v2("192.0.2.7"))):
            expect(client.receive_line().startswith("hi @192.0.2.7"), "one that was there keeps what it was born with")


@scene()
def a_source_without_a_port_is_known_after_a_crash():
    with Daemon(listener()) as daemon:
        client = daemon.connect().send(b"PROXY TCP4 192.0.2.9 192.0.2.1 0 80\r\n")
        client.receive_line()
        idle_files = daemon.idle_files
        name = daemon.wait_record("ready")["TETHERD_CONNECTION"]
        daemon.crash()
        daemon.start()
        daemon.idle_files = idle_files
        daemon.wait_record("recovered", TETHERD_CONNECTION=name, TETHERD_REMOTE_ADDRESS="192.0.2.9",
                           TETHERD_REMOTE_PORT="0")


if __name__ == "__main__":
    main()

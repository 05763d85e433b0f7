"""attack: what one peer, or ten thousand, can do without making anybody else wait, memory grow or anything leak.

Each attack comes from processes of its own. Beside it well-behaved clients live: from their FIN to ours is the
detection latency, whose median may be ten times that of a quiet daemon, or FLOOR where that is less. Who was woken also
waits for a processor, several milliseconds where several want it, which is the scheduler's business: of a flood the best
of N_TRIES counts. A flood competes with them for the accept queue, which the kernel keeps; so of those who come during a
flood only that they are served is asked, and that their end is noticed in time.
"""

import itertools
import os
import resource
import select
import signal
import socket
import statistics
import struct
import tempfile
import time
from pathlib import Path

from harness import SLOW, Daemon, Skip, die_with_parent, eventually, expect, expect_equal, is_sanitized, main, scene
from harness.headers import WRONG, v1, v2

N_HALF = 10_000
N_LIVES = 200
SECONDS = 3
FLOOR = 0.002 * SLOW
N_TRIES = 5
HELLO_MAX = 128
LOG_QUEUE = 1024
KIB, MIB = 1024, 1024 * 1024

CONFIG = f"""
[listener:front]
listen = <tcp4>
handler = echo
resources = nothing
proxy_protocol = yes
proxy_from = 127.0.0.0/8
hello = yes
hello_max = {HELLO_MAX}
handshake_timeout = 15s

[listener:plain]
listen = <tcp6>
handler = echo
resources = workdir

[listener:sink]
listen = <unix>
handler = discard
resources = nothing

[resource:nothing]
type = none
[resource:workdir]
type = directory
path = {{directory}}/%i
"""


def daemon_with(directory="<dir>/connections", directories=None, **keys):
    """It writes nothing of who leaves in order, of which there are more than a busy journald may want to read."""
    return Daemon(CONFIG.replace("{directory}", str(directory)), {"log_level": "notice", "log_queue": LOG_QUEUE, **keys},
                  directories=directories)


# ---- attackers: generators; each step is one more attempt ----

def connect(address, i=0, timeout=20):
    """From one of 62,500 addresses, where there are as many."""
    family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
    sock = socket.socket(family)
    sock.settimeout(timeout * SLOW)
    if family == socket.AF_INET:
        sock.setsockopt(socket.SOL_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        sock.bind((f"127.200.{i // 250 % 250 + 1}.{i % 250 + 1}", 0))
    sock.connect(address)
    return sock


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def await_end(sock):
    try:
        while sock.recv(65536):
            pass
    except ConnectionResetError:
        pass
    sock.close()


def half_finished_handshakes(address):
    begun = (b"", b"P", v1("192.0.2.7")[:-1], v2("192.0.2.7", tlvs=bytes(300))[:200], v1("192.0.2.7") + b"x" * HELLO_MAX)
    held = []
    for i in itertools.count():
        held.append(connect(address, i))
        held[-1].sendall(begun[i % len(begun)])
        yield


def connect_and_reset(address):
    for i in itertools.count():
        reset(connect(address, i))
        yield


def flood_of_bytes(address, path):
    """100 peers send as much as is taken. A third reads its echo, a third does not, a third has none."""
    poll = select.epoll()
    peers = {}
    for i in range(100):
        if i % 3 == 0:
            peer = socket.socket(socket.AF_UNIX)
            peer.connect(path)
        else:
            peer = connect(address, i)
            peer.sendall(v1("192.0.2.7") + b"flood\n")
        peer.setblocking(False)
        poll.register(peer, select.EPOLLOUT | (select.EPOLLIN if i % 3 == 1 else 0))
        peers[peer.fileno()] = peer
    block, room = bytes(65536), bytearray(1 << 20)
    for _ in itertools.count():
        for fd, events in poll.poll(0.1):
            try:
                if events & select.EPOLLIN:
                    peers[fd].recv_into(room)
                if events & select.EPOLLOUT:
                    peers[fd].send(block)
            except BlockingIOError:
                pass
        yield


def wrong_headers(address):
    for i, header in enumerate(itertools.cycle(WRONG.values())):
        sock = connect(address, i)
        try:
            sock.sendall(header)
        except (BrokenPipeError, ConnectionResetError):
            pass
        await_end(sock)
        yield


def endless_hello(address):
    """A GB of hello, in one line. How much of it was taken before it was refused?"""
    block = b"x" * 65536
    for i in itertools.count():
        sock = connect(address, i)
        sock.sendall(v1("192.0.2.7"))
        n_sent = 0
        try:
            while n_sent < 1 << 30:
                n_sent += sock.send(block)
        except (BrokenPipeError, ConnectionResetError):
            pass
        expect(n_sent < 16 * MIB, f"{n_sent} bytes of one hello line were taken")
        sock.close()
        yield


class Attack:
    """A process that takes the steps of an attack: `n_steps`, which it then holds on to, or until it is ended."""

    def __init__(self, steps, address, n_steps=None):
        self.socket, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            self.socket.close()
            try:
                die_with_parent()
                for fd in map(int, os.listdir("/proc/self/fd")):
                    if fd > 2 and fd != theirs.fileno():
                        try:
                            os.close(fd)  # the parent's clients are none of ours
                        except OSError:
                            pass
                limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
                resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
                self.play(steps(address), n_steps, theirs)
            except BaseException as error:
                theirs.send(f"failed: {error!r}".encode())
            finally:
                os._exit(0)
        theirs.close()
        self.socket.settimeout(60 * SLOW)
        self.n_steps = None
        self.said = b""

    def play(self, steps, n_steps, parent):
        n = 0
        for n, _ in enumerate(steps, 1):
            if n == (n_steps or 1):
                parent.send(b"under way\n")
                if n_steps:
                    parent.recv(1)
                    break
            if select.select([parent], [], [], 0)[0]:
                break
        parent.send(b"%d\n" % n)

    def hear(self):
        while b"\n" not in self.said:
            more = self.socket.recv(1000)
            expect(more, f"the attacker broke off: {self.said.decode()}")
            self.said += more
        line, self.said = self.said.split(b"\n", 1)
        return line.decode()

    def __enter__(self):
        expect_equal(self.hear(), "under way", "the attacker")
        return self

    def end(self):
        """Returns how many steps it took. What it held is closed."""
        self.socket.send(b".")
        self.n_steps = int(self.hear())
        return self.n_steps

    def __exit__(self, kind, _error, _traceback):
        if kind is None and self.n_steps is None:
            self.end()
        elif kind:
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.socket.close()


# ---- the well-behaved client, and what it sees ----

def come(daemon, kind):
    client = daemon.connect(kind)
    if kind == "tcp4":
        client.send(v1("192.0.2.1") + b"good\n")
    return client.echo()


def leave(daemon, client):
    """Returns the seconds from its FIN to ours."""
    client.echo()
    began = time.monotonic()
    client.half_close()
    expect_equal(client.receive_rest(), b"", "what came before our FIN")
    seconds = time.monotonic() - began
    daemon.clients.remove(client.close())
    return seconds


def lives(daemon, kind, for_seconds=0.0):
    """So many lives, for so long at least."""
    began, latencies = time.monotonic(), []
    while len(latencies) < N_LIVES or time.monotonic() - began < for_seconds:
        latencies.append(leave(daemon, come(daemon, kind)))
    return latencies


def ends(daemon, kind, residents):
    """The ends of those who were there before the attack, spread over it, and of some who come meanwhile."""
    began, latencies, waits = time.monotonic(), [], []
    for i, client in enumerate(residents):
        select.select([], [], [], max(0, began + SECONDS * i / len(residents) - time.monotonic()))
        latencies.append(leave(daemon, client))
        if i % 20 == 0:
            began_to_come = time.monotonic()
            client = come(daemon, kind)
            waits.append(time.monotonic() - began_to_come)
            latencies.append(leave(daemon, client))
    print(f"   served after {1000 * statistics.median(waits):.1f} ms (median of {len(waits)}), {1000 * max(waits):.1f} ms "
          f"at most", flush=True)
    return latencies


def shown(latencies):
    return f"{1000 * statistics.median(latencies):.2f} ms (median of {len(latencies)}), {1000 * max(latencies):.1f} ms at most"


def allowed_median(quiet):
    return max(10 * statistics.median(quiet), FLOOR)


def expect_served_in_time(quiet, attacked, what):
    allowed = allowed_median(quiet)
    print(f"   detection: quiet {shown(quiet)}; {what}: {shown(attacked)}; allowed {1000 * allowed:.1f} ms", flush=True)
    expect(statistics.median(attacked) <= allowed,
           f"{what}: {shown(attacked)}; quiet: {shown(quiet)}; allowed is a median of {1000 * allowed:.1f} ms")


def peak_bytes(daemon):
    return int(daemon.status_field("VmHWM").split()[0]) * KIB


def expect_within_memory(daemon, idle_bytes, n_connections, n_answered=0):
    """The bound that the configuration implies: for each connection its state, its handshake and its identity, for
    each that is answered one block of the handler, the queue of records, and what is shared."""
    bound = (idle_bytes + n_connections * (KIB + HELLO_MAX) + n_answered * 33 * KIB + LOG_QUEUE * 2 * KIB + 2 * MIB)
    peak = peak_bytes(daemon)
    print(f"   memory: idle {idle_bytes / MIB:.1f} MiB, peak {peak / MIB:.1f} MiB, bound {bound / MIB:.1f} MiB", flush=True)
    expect(peak <= bound, f"{peak} bytes were resident at the peak; the configuration implies {bound}")


def address_of(daemon, kind="tcp4"):
    return daemon.addresses[kind][1]


def n_descriptors(daemon):
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def play(daemon, steps, what, kind="tcp4", n_attackers=1, n_connections=N_HALF, n_answered=1):
    """A flood for SECONDS. Returns how many steps the attackers took."""
    quiet = lives(daemon, kind)
    residents = [come(daemon, kind) for _ in range(N_LIVES)]
    idle_bytes = daemon.resident_bytes()
    attacks = [Attack(steps, address_of(daemon, kind)) for _ in range(n_attackers)]
    n_steps = 0
    ticks, began = daemon.cpu_ticks(), time.monotonic()
    for attack in attacks:
        attack.__enter__()
    try:
        attacked = ends(daemon, kind, residents)
        for _ in range(N_TRIES - 1):
            if statistics.median(attacked) <= allowed_median(quiet):
                break
            residents = [come(daemon, kind) for _ in range(N_LIVES)]
            attacked = min(attacked, ends(daemon, kind, residents), key=statistics.median)
        load = (daemon.cpu_ticks() - ticks) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)
        n_steps = sum(attack.end() for attack in attacks)
    finally:
        for attack in attacks:
            attack.__exit__(None if attack.n_steps is not None else Exception, None, None)
    print(f"   {n_steps} times in {time.monotonic() - began:.1f} s, with {100 * load:.0f} % of a processor for the daemon",
          flush=True)
    expect_served_in_time(quiet, attacked, what)
    leave(daemon, come(daemon, kind))  # whoever waited to be accepted did so before this one
    expect_within_memory(daemon, idle_bytes, n_connections, n_answered)
    return n_steps


# ---- scenes ----

@scene()
def ten_thousand_half_finished_handshakes():
    with daemon_with() as daemon:
        quiet = lives(daemon, "tcp4")
        idle_bytes, n_idle = daemon.resident_bytes(), n_descriptors(daemon)
        began = time.monotonic()
        with Attack(half_finished_handshakes, address_of(daemon), N_HALF) as attack:
            print(f"   {N_HALF} connected in {time.monotonic() - began:.1f} s", flush=True)
            eventually(lambda: n_descriptors(daemon) >= n_idle + N_HALF, "all of them are held at a time")
            expect_served_in_time(quiet, lives(daemon, "tcp4"), f"beside {N_HALF} half-finished handshakes")
            ticks = daemon.cpu_ticks()
            expect(not select.select([attack.socket], [], [], 1)[0], "the attacker said something")
            expect(daemon.cpu_ticks() - ticks <= 5, "holding them keeps the daemon busy")
            expect_within_memory(daemon, idle_bytes, N_HALF)
            # They time out within as short a time as they came in.
            eventually(lambda: n_descriptors(daemon) < n_idle + N_HALF, "the first of them time out", 30)
            expect_served_in_time(quiet, lives(daemon, "tcp4", 1), "while they time out")
            daemon.wait_rejected(N_HALF, 30, TETHERD_CAUSE="handshake-timeout")
        expect_within_memory(daemon, idle_bytes, N_HALF)


@scene()
def ten_thousand_that_leave_at_once():
    with daemon_with() as daemon:
        quiet = lives(daemon, "tcp4")
        idle_bytes, n_idle = daemon.resident_bytes(), n_descriptors(daemon)
        with Attack(half_finished_handshakes, address_of(daemon), N_HALF) as attack:
            eventually(lambda: n_descriptors(daemon) >= n_idle + N_HALF, "all of them are held at a time")
            attack.end()
            expect_served_in_time(quiet, lives(daemon, "tcp4", 1), "while they leave")
        # Who said nothing is a probe; each of the other four kinds said something.
        eventually(lambda: n_descriptors(daemon) == n_idle, "they are gone")
        daemon.wait_rejected(N_HALF - N_HALF // 5, TETHERD_CAUSE="eof")
        expect_within_memory(daemon, idle_bytes, N_HALF)
        # Once more, in the memory that they have left.
        peak = peak_bytes(daemon)
        with Attack(half_finished_handshakes, address_of(daemon), N_HALF):
            eventually(lambda: n_descriptors(daemon) >= n_idle + N_HALF, "all of them are held at a time")
        expect(peak_bytes(daemon) <= peak + MIB,
               f"the second time took more memory: {peak_bytes(daemon)} after {peak} bytes")


@scene()
def connect_and_reset_in_the_handshake():
    with daemon_with() as daemon:
        play(daemon, connect_and_reset, "beside a flood of resets")


@scene()
def connect_and_reset_with_a_directory_for_each():
    # In memory, as below /run: a disk that others write to makes each directory take as long as it likes.
    with tempfile.TemporaryDirectory(prefix="tetherd-story-", dir="/dev/shm") as memory:
        run, state, workdirs = (Path(memory, name) for name in ("run", "state", "connections"))
        with daemon_with(workdirs, (run, state)) as daemon:
            daemon.may_lose_records = True  # two for each, and LOG_QUEUE is short
            play(daemon, connect_and_reset, "beside a flood of resets", "tcp6")
        expect_equal(list(workdirs.iterdir()), [], "directories that are left")


@scene()
def a_flood_of_bytes_from_100_peers():
    with daemon_with(log_level="info", log_events="closed") as daemon:
        def steps(address):
            return flood_of_bytes(address, daemon.addresses["unix"][1])
        play(daemon, steps, "beside a flood of bytes", n_connections=N_LIVES + 101, n_answered=N_LIVES + 101)
        def flooders():
            daemon.poll_records()
            return daemon.find("closed", TETHERD_IDENTITY="flood") + daemon.find("closed", TETHERD_LISTENER="sink")
        eventually(lambda: len(flooders()) == 100, "each of the 100 has one ending")
        n_bytes = sum(int(record["TETHERD_BYTES_RECEIVED"]) for record in flooders())
        print(f"   {n_bytes / MIB:.0f} MiB were received", flush=True)


@scene()
def proxy_headers_of_every_wrong_kind():
    with daemon_with() as daemon:
        n = play(daemon, wrong_headers, "beside wrong PROXY headers")
        daemon.wait_rejected(n, 30, TETHERD_CAUSE="protocol-error")


@scene()
def hello_lines_of_a_gigabyte():
    with daemon_with() as daemon:
        n = play(daemon, endless_hello, "beside endless hello lines", n_attackers=2)
        daemon.wait_rejected(n, 30, TETHERD_CAUSE="protocol-error")
        for record in daemon.find("rejected"):
            n_received = int(record["TETHERD_BYTES_RECEIVED"])
            expect(n_received <= len(v1("192.0.2.7")) + HELLO_MAX + 2, f"{n_received} bytes were taken")


@scene()
def a_crowd_before_a_full_daemon():
    with daemon_with(max_connections=100, log_level="info") as daemon:
        clients = [daemon.connect("tcp6").echo() for _ in range(100)]
        with Attack(half_finished_handshakes, address_of(daemon), 1000):
            daemon.wait_record("accept-paused", PRIORITY=4)
            ticks, switches = daemon.cpu_ticks(), daemon.context_switches()
            expect(not select.select([clients[0].socket], [], [], 2)[0], "a client was ended")
            expect(daemon.cpu_ticks() - ticks <= 2, "a full daemon is busy with those who wait")
            expect(daemon.context_switches() - switches <= 20, "a full daemon is woken for those who wait")
            for client in clients:
                client.echo()
            n_full = n_descriptors(daemon)
            for client in clients[:50]:
                client.half_close().receive_rest()
            eventually(lambda: n_descriptors(daemon) == n_full, "50 of those who wait have taken the places")
            for client in clients[50:]:
                client.echo()
        daemon.wait_record("accept-resumed", PRIORITY=6)
        leave(daemon, come(daemon, "tcp4"))


@scene()
def a_flood_before_a_daemon_without_descriptors():
    with daemon_with(log_level="info") as daemon:
        clients = [daemon.connect("tcp6").echo() for _ in range(10)]
        old = resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (n_descriptors(daemon) + 4, old[1]))
        with Attack(half_finished_handshakes, address_of(daemon), 1000):
            daemon.wait_record("accept-paused", PRIORITY=4)
            ticks = daemon.cpu_ticks()
            expect(not select.select([clients[0].socket], [], [], 2)[0], "a client was ended")
            expect(daemon.cpu_ticks() - ticks <= 10, "a daemon without descriptors is busy with those who wait")
            for client in clients:
                client.echo()
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, old)
            daemon.wait_record("accept-resumed", PRIORITY=6)
            leave(daemon, come(daemon, "tcp4"))
        expect(Path(f"/proc/{daemon.pid}").exists(), "the daemon is there")


def need_plain_build():
    if is_sanitized():
        raise Skip("this build is sanitized: its memory and its time are the sanitizer's")


if __name__ == "__main__":
    main(need_plain_build)

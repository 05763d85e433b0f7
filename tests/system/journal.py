"""journal: journald may be slow, gone or full, and nobody waits for it; what is lost is counted."""

import contextlib
import fcntl
import os
import re
import signal
import time

from harness import MARK, SLOW, Daemon, eventually, expect, expect_equal, journald, main, scene

CONFIG = f"""
[listener:talk]
listen = <tcp4>, <unix>
handler = echo
resources = mark
hello = yes
[resource:none]
type = none
{MARK}"""
QUICK = CONFIG.replace("resources = mark", "resources = none")
N_LIVES = 200


def live(daemon, i):
    """One whole life, which must not wait for journald."""
    began = time.monotonic()
    client = daemon.connect().send(b"life-%d\n" % i)
    client.echo().half_close().receive_rest()
    client.close()
    took = time.monotonic() - began
    expect(took < 10 * SLOW, f"life {i} took {took:.2f} s while journald did not answer")


def expect_all_told(daemon):
    for i in range(N_LIVES):
        daemon.wait_record("closed", 20, TETHERD_IDENTITY=f"life-{i}", TETHERD_CAUSE="eof")


def expect_quiet(daemon):
    ticks = daemon.cpu_ticks()
    time.sleep(1)  # not to wait for anything: to measure that nothing is done
    expect(daemon.cpu_ticks() - ticks <= 5, "it is busy although journald takes nothing")


@scene()
def journald_stands_still():
    with Daemon(QUICK) as daemon:
        journald().kill(signal.SIGSTOP)
        try:
            for i in range(N_LIVES):
                live(daemon, i)
            expect_quiet(daemon)
        finally:
            journald().kill(signal.SIGCONT)
        expect_all_told(daemon)
        expect_equal(daemon.find("records-lost"), [], "lost records, with room for 16384")


@scene()
def journald_stands_still_for_too_long():
    with Daemon(QUICK, {"log_queue": "100"}) as daemon:
        daemon.may_lose_records = True
        journald().kill(signal.SIGSTOP)
        try:
            for i in range(N_LIVES):
                live(daemon, i)
        finally:
            journald().kill(signal.SIGCONT)
        eventually(lambda: daemon.poll_records() and daemon.find("records-lost"), "it is told that records were lost")
        live(daemon, N_LIVES)
        daemon.wait_record("closed", TETHERD_IDENTITY=f"life-{N_LIVES}")
        numbers = {int(record["TETHERD_SEQUENCE"]) for record in daemon.records if "TETHERD_SEQUENCE" in record}
        missing = set(range(1, max(numbers) + 1)) - numbers
        lost = daemon.find("records-lost")
        expect_equal(sum(int(record["TETHERD_RECORDS_LOST"]) for record in lost), len(missing), "records lost")
        expect_equal(min(int(record["TETHERD_FIRST_SEQUENCE"]) for record in lost), min(missing), "first of them")
        expect_equal(max(int(record["TETHERD_LAST_SEQUENCE"]) for record in lost), max(missing), "last of them")
        expect(all(record["PRIORITY"] == "4" for record in lost), f"{lost}")
        kept = [record for record in daemon.records if record.get("TETHERD_EVENT") in ("accepted", "closed")]
        events = [record["TETHERD_EVENT"] for record in kept]
        expect(events.count("closed") >= events.count("accepted"), "debug records were kept, others were dropped")


@scene()
def journald_dies_and_comes_back():
    with Daemon(QUICK) as daemon:
        daemon.may_lose_records = True  # those that lay in its socket
        live(daemon, 0)
        daemon.wait_record("closed", TETHERD_IDENTITY="life-0")
        journald().call("kill")
        for i in range(1, 50):
            live(daemon, i)
        expect_equal(journald().call("start").returncode, 0, "journald starts again")
        daemon.wait_record("closed", 20, TETHERD_IDENTITY="life-49")
        live(daemon, 50)
        daemon.wait_record("closed", TETHERD_IDENTITY="life-50")


@scene()
def journald_dies_when_it_was_slow():
    with Daemon(QUICK) as daemon:
        daemon.may_lose_records = True  # those that lay in its socket
        journald().kill(signal.SIGSTOP)
        for i in range(N_LIVES):
            live(daemon, i)
        journald().call("kill")
        try:
            live(daemon, N_LIVES)
            expect_quiet(daemon)
        finally:
            expect_equal(journald().call("start").returncode, 0, "journald starts again")
        daemon.wait_record("closed", 20, TETHERD_IDENTITY=f"life-{N_LIVES}")


@scene()
def fields_and_message_ids():
    with Daemon(CONFIG) as daemon:
        client = daemon.connect().send(b"alice\n")
        daemon.wait_ready(client)
        client.close()
        daemon.wait_ended(client, "eof")
        daemon.connect().send(b"-\n").receive_rest()
        daemon.wait_record("rejected")
        daemon.kill(signal.SIGHUP)
        daemon.wait_record("reloaded")
        ids = {}
        for record in daemon.records:
            expect_equal(record["SYSLOG_IDENTIFIER"], "tetherd", "SYSLOG_IDENTIFIER")
            expect(record["MESSAGE"] and record["PRIORITY"] in "01234567", f"{record}")
            if "TETHERD_EVENT" in record:
                expect("TETHERD_SEQUENCE" in record, f"no TETHERD_SEQUENCE: {record}")
                ids.setdefault(record["TETHERD_EVENT"], set()).add(record["MESSAGE_ID"])
        expect_equal({event: len(messages) for event, messages in ids.items()}, dict.fromkeys(ids, 1),
                     "MESSAGE_IDs an event")
        expect_equal(len(set.union(*ids.values())), len(ids), "MESSAGE_IDs in all")
        expect(ids.keys() >= {"listening", "accepted", "ready", "closed", "rejected", "reloaded"}, f"events: {ids}")
        of_client = daemon.find(TETHERD_CONNECTION=client.id)
        expect_equal([record["TETHERD_EVENT"] for record in of_client], ["accepted", "ready", "closed"], "its events")
        for record in of_client:
            for name in ("TETHERD_LISTENER", "TETHERD_REMOTE_ADDRESS", "TETHERD_REMOTE_PORT"):
                expect(name in record, f"no {name}: {record}")
        for name in ("TETHERD_DURATION_USEC", "TETHERD_HANDSHAKE_USEC", "TETHERD_LOAD_USEC", "TETHERD_RELEASE_USEC",
                     "TETHERD_BYTES_RECEIVED", "TETHERD_BYTES_SENT", "TETHERD_RTT_USEC", "TETHERD_RETRANSMITS",
                     "TETHERD_INITIATOR", "ERRNO", "TETHERD_LOCAL_ADDRESS", "TETHERD_LOCAL_PORT"):
            expect(name in of_client[-1], f"no {name}: {of_client[-1]}")


@scene()
def summary_on_sigusr1():
    with Daemon(CONFIG) as daemon:
        client = daemon.connect().send(b"alice\n").echo()
        daemon.kill(signal.SIGUSR1)
        daemon.wait_record(MESSAGE=re.compile(r"talk"), PRIORITY=re.compile("[56]"))
        client.echo()


LEVELS = {
    ("info", "all"): ["ready", "closed"],
    ("debug", "closed"): ["closed"],
    ("notice", "all"): ["closed"],
    ("debug", "problems"): ["closed"],
    ("debug", "none"): [],
}


@scene(over=sorted("/".join(pair) for pair in LEVELS))
def levels_and_kinds_of_events(which):
    level, events = which.split("/")
    with Daemon(QUICK, {"log_level": level, "log_events": events}) as daemon:
        client = daemon.connect().send(b"alice\n").echo().reset()  # a `closed` of priority notice
        daemon.connect().send(b"bob\n").echo().half_close().receive_rest()
        daemon.stop()
        seen = [record["TETHERD_EVENT"] for record in daemon.records if record.get("TETHERD_IDENTITY") == "alice"]
        expect_equal(seen, LEVELS[level, events], f"events of a life that ends with a reset {client.port}")


# ---- stderr ----


@scene(over=("plain", "journal stream"))
def lines_on_stderr(how):
    with_prefix = how != "plain"
    daemon = Daemon(QUICK, {"log_target": "stderr"})
    environment = daemon.environment()
    if with_prefix:
        daemon.stderr_path.touch()
        status = os.stat(daemon.stderr_path)
        environment["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino}"
    daemon.environment = lambda: environment
    daemon.start()
    try:
        client = daemon.connect().send(b"alice\n").echo()
        client.half_close().receive_rest()
        port = client.port
        pattern = (rf"connection [0-9a-f]+ from 127\.0\.0\.1:{port}.* on talk closed: \S.*, after \S+, "
                   rf"\d+ B received, \d+ B sent$")
        line = eventually(lambda: re.search(rf"^(.*){pattern}", daemon.stderr(), re.M), "a line for `closed`")
        expect_equal(bool(re.match(r"<6>", line[1])), with_prefix, f"the priority prefix of {line[0]!r}")
        daemon.stop()
        daemon.idle_files = daemon.files()
    finally:
        daemon.__exit__(None, None, None)


def make_pipe(path):
    os.mkfifo(path)
    pipe = os.open(path, os.O_RDWR)
    fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 8192)
    return [pipe]


def make_terminal(path):
    master, terminal = os.openpty()
    path.symlink_to(os.ttyname(terminal))
    return [master, terminal]


@scene(over=("pipe", "terminal"))
def a_full_stderr_keeps_nobody_waiting(what):
    """And is written to as soon as somebody reads: with a second before each attempt this would take half a minute."""
    daemon = Daemon(QUICK, {"log_target": "stderr"})
    ends = {"pipe": make_pipe, "terminal": make_terminal}[what](daemon.stderr_path)
    text, n_lives = bytearray(), 2 * N_LIVES
    os.set_blocking(ends[0], False)

    def read():
        with contextlib.suppress(BlockingIOError):
            text.extend(os.read(ends[0], 8192))
        return text.decode()

    daemon.stderr = read
    try:
        with daemon:
            for i in range(n_lives):
                live(daemon, i)
            expect_quiet(daemon)
            eventually(lambda: read().count(" on talk closed: ") == n_lives, "a line for each `closed`", 20)
    finally:
        for end in ends:
            os.close(end)


@scene()
def log_target_of_the_command_line_wins():
    with Daemon(QUICK) as daemon:
        daemon.stop()
        expect_equal(daemon.stderr(), "", "stderr with log_target = journal")
        daemon.spawn("--log-target=stderr")
        daemon.wait_notified("READY=1")
        daemon.stop()
        expect("accepts connections" in daemon.stderr(), f"stderr with --log-target=stderr: {daemon.stderr()!r}")
        expect_equal(daemon.poll_records(), [], "records in the journal with --log-target=stderr")


if __name__ == "__main__":
    main()

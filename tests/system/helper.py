"""helper: one program for all connections, asked over its stdin and stdout, in good health and in every bad one."""

import os
import re
import signal
import subprocess
import textwrap
import time
from pathlib import Path

from harness import (SLOW, Daemon, Failure, eventually, expect, expect_equal, is_sanitized, main, need_program,
                     scene)

TOP = Path(__file__).resolve().parent.parent.parent

# What every program of this story begins with; then comes what the scene says.
PROGRAM = '''
import os, signal, sys, time
from pathlib import Path
from urllib.parse import unquote

HERE = Path(sys.argv[1])


def tell(line):
    os.write(1, (line + "\\n").encode())


def hold(name):
    """Until the story makes the file."""
    while not (HERE / name).exists():
        time.sleep(0.01)


def note(line):
    with open(HERE / "asked", "a") as asked:
        asked.write(line)


class Request:
    def __init__(self, line):
        note(line)
        self.verb, self.number, self.connection, *words = line.rstrip("\\n").split(" ")
        self.about = {name: unquote(value) for name, value in (word.split("=", 1) for word in words)}

    def ok(self, value=""):
        with open(HERE / "effects", "a") as effects:
            effects.write(f"{self.verb.lower()} {self.about['resource']} {self.connection}\\n")
        tell(f"OK {self.number} {value}".rstrip(" "))


def requests():
    for line in iter(sys.stdin.readline, ""):
        yield Request(line)


'''
ANSWER_ALL = "for request in requests():\n    request.ok('at-' + request.connection)\n"

LISTENERS = """
[listener:shop]
listen = <tcp4>, <unix>
resources = {resources}
greeting = %{{asked}}
{listener_keys}

[listener:barrier]
listen = <abstract>
handler = echo

[resource:asked]
type = helper
command = <helper>
{keys}
"""


def shop(program, keys="", resources="asked", more="", listener_keys="", **options):
    """A daemon whose connections hold `asked`, which this program serves."""
    text = LISTENERS.format(resources=resources, keys=keys, listener_keys=listener_keys) + more
    daemon = Daemon(text, scripts={"helper": "exec python3 <dir>/program.py <dir>", **options.pop("scripts", {})},
                    **options)
    write_program(daemon, program)
    return daemon


def write_program(daemon, program):
    (daemon.directory / "program.py").write_text(PROGRAM + textwrap.dedent(program))


def started(daemon, count=1):
    """Waits for the start of the program; its pid."""
    record = daemon.wait_record(MESSAGE=re.compile("^helper asked: started"), count=count)
    if count == 1:  # from then on it is part of what an idle daemon holds
        daemon.note_idle()
    return int(record["MESSAGE"].rsplit(" ", 1)[1])


def asked(daemon):
    path = daemon.directory / "asked"
    return path.read_text().splitlines() if path.exists() else []


def n_asked(daemon, verb):
    return sum(line.startswith(verb + " ") for line in asked(daemon))


def wait_asked(daemon, verb, n=1):
    eventually(lambda: n_asked(daemon, verb) >= n, lambda: f"{verb} is asked {n} times: {n_asked(daemon, verb)}")


def go_on(daemon, name="go"):
    (daemon.directory / name).touch()


def served(daemon, hello=b""):
    """A client that is ready, and has read its greeting: one that closes without that resets."""
    client = daemon.connect().send(hello)
    client.receive_line()
    return client


# ---- in good health ----


@scene(over=("tcp4", "unix"))
def what_it_is_asked_and_answers(kind):
    program = """
        print("here I am", file=sys.stderr, flush=True)
        for request in requests():
            request.ok("a%20value%25" if request.verb == "LOAD" else "")
    """
    show = {"show": 'echo "$TETHERD_VALUE_ASKED" > <dir>/shown'}
    more = """
[resource:before]
type = exec
load = /bin/echo "100%% of it"
[resource:behind]
type = exec
load = <show>
"""
    with shop(program, resources="before, asked, behind", more=more, scripts=show,
              listener_keys="hello = yes") as daemon:
        started(daemon)
        daemon.wait_record(MESSAGE="resource asked: here I am", TETHERD_RESOURCE="asked")
        client = daemon.connect(kind).send(b"alice\n12345")
        expect_equal(client.receive_line(), "a value%\n", "greeting")
        client.close()
        daemon.wait_ended(client, "eof")
        expect_equal((daemon.directory / "shown").read_text(), "a value%\n", "value for those behind it")
        load, release = [line.split(" ") for line in asked(daemon)]
        expect_equal(load[:3], ["LOAD", "1", client.id], "load")
        expect_equal(release[:3], ["RELEASE", "2", client.id], "release")
        about, at_release = (dict(word.split("=", 1) for word in line[3:]) for line in (load, release))
        wanted = {"connection": client.id, "listener": "shop", "resource": "asked", "phase": "load",
                  "remote_address": client.address, "remote_port": "" if client.port is None else str(client.port),
                  "identity": "alice", "value_before": "100%25%20of%20it"}
        local = {"local_address", "local_port"}
        expect_equal({name: about.get(name) for name in wanted}, wanted, "words of the load")
        expect_equal(set(about), wanted.keys() | local, "names of the load")
        expect_equal({**at_release, **{"phase": "load"}} | about, {**at_release, "phase": "load"},
                     "words that both have")
        expect_equal(set(at_release) - set(about), {"value", "cause", "operation", "errno", "duration_usec",
                                                    "bytes_received", "bytes_sent", "recovered"}, "more at release")
        expect_equal((at_release["value"], at_release["cause"], at_release["recovered"]),
                     ("a%20value%25", "eof", "0"), "value, cause, recovered")


@scene()
def answers_out_of_order():
    program = """
        waiting = []
        for request in requests():
            if request.verb == "RELEASE":
                request.ok()
                continue
            waiting.append(request)
            if len(waiting) == 5:
                for one in reversed(waiting):
                    one.ok("for-" + one.connection)
    """
    with shop(program) as daemon:
        started(daemon)
        clients = [daemon.connect() for _ in range(5)]
        for client in clients:
            expect_equal(client.receive_line(), f"for-{client.id}\n", "greeting")
            client.close()


N_AT_ONCE = 2000


@scene()
def two_thousand_at_once():
    # None is answered before all are asked: so many are under way.
    program = f"""
        import random
        waiting = []
        for request in requests():
            waiting.append(request)
            if len(waiting) < {N_AT_ONCE}:
                continue
            random.shuffle(waiting)
            for one in waiting:
                one.ok("for-" + one.connection)
            waiting.clear()
    """
    with shop(program) as daemon:
        started(daemon)
        sources = [f"127.9.{i}.1" for i in range(8)]
        clients = [daemon.connect(source=sources[i % 8], timeout=60) for i in range(N_AT_ONCE)]
        for client in clients:
            expect_equal(client.receive_line()[:4], "for-", "greeting")
        for client in clients:
            client.close()
        daemon.wait_record("closed", count=N_AT_ONCE, timeout=60)
        expect_equal((n_asked(daemon, "LOAD"), n_asked(daemon, "RELEASE")), (N_AT_ONCE, N_AT_ONCE), "requests")


@scene()
def failures_that_it_says():
    program = """
        n_releases = 0
        for request in requests():
            if request.verb == "LOAD" and request.about["identity"] == "bad":
                tell(f"FAIL {request.number} no such user, 100% sure")
            elif request.verb == "RELEASE" and n_releases < 1:
                n_releases += 1
                tell(f"FAIL {request.number}")
            else:
                request.ok()
    """
    with shop(program, listener_keys="hello = yes\nrefusal = NO %c") as daemon:
        started(daemon)
        client = daemon.connect().send(b"bad\n")
        expect_equal(client.receive_rest(), b"NO load-failed\n", "refusal")
        record = daemon.wait_record("load-failed", TETHERD_RESOURCE="asked")
        expect("no such user, 100% sure" in record["MESSAGE"], f"the reason is told: {record['MESSAGE']}")
        daemon.wait_ended(client, "load-failed", state="loading")
        expect_equal(n_asked(daemon, "RELEASE"), 0, "releases of what left nothing")
        client = served(daemon, b"good\n")
        client.close()
        daemon.wait_record("release-failed", TETHERD_RESOURCE="asked")
        daemon.wait_ended(client, "eof")
        expect_equal(n_asked(daemon, "RELEASE"), 2, "releases")


@scene()
def a_load_that_says_it_failed_is_released_where_asked_for():
    program = """
        for request in requests():
            if request.verb == "LOAD":
                tell(f"FAIL {request.number}")
            else:
                tell(f"OK {request.number}")
    """
    with shop(program, keys="on_load_failure = release") as daemon:
        started(daemon)
        client = daemon.connect()
        daemon.wait_ended(client, "load-failed", state="loading")
        expect_equal((n_asked(daemon, "LOAD"), n_asked(daemon, "RELEASE")), (1, 1), "requests")


@scene()
def quarantined_and_tried_again():
    program = """
        for request in requests():
            if request.verb == "RELEASE" and not (HERE / "mended").exists():
                tell(f"FAIL {request.number} not now")
            else:
                request.ok()
    """
    with shop(program, keys="release_attempts = 1") as daemon:
        started(daemon)
        client = served(daemon)
        client.close()
        daemon.wait_record("quarantined", TETHERD_RESOURCE="asked")
        go_on(daemon, "mended")
        daemon.reload()
        eventually(lambda: not daemon.ledger_files(), "it is released")


# ---- slow, dead, mad ----


@scene()
def a_load_that_takes_too_long():
    # What it may have left is released; the answer that comes then is nobody's.
    program = """
        for request in requests():
            if request.verb == "LOAD":
                late = request
                with open(HERE / "effects", "a") as effects:
                    effects.write(f"load asked {request.connection}\\n")
            else:
                tell(f"OK {late.number} late")
                request.ok()
    """
    with shop(program, keys="load_timeout = 300ms") as daemon:
        started(daemon)
        client = daemon.connect()
        daemon.wait_ended(client, "load-timeout", state="loading")
        daemon.wait_record(MESSAGE=re.compile("request 1 waits no more, its answer is ignored: OK 1 late"))
        expect_equal(n_asked(daemon, "RELEASE"), 1, "releases")


@scene()
def a_release_that_takes_too_long():
    program = """
        first = None
        for request in requests():
            if request.verb == "RELEASE" and not first:
                first = request
            else:
                request.ok()
    """
    with shop(program, keys="release_timeout = 1500ms") as daemon:
        started(daemon)
        client = served(daemon)
        client.close()
        record = daemon.wait_record("release-failed", TETHERD_RESOURCE="asked")
        expect("timed out after 1s 500ms" in record["MESSAGE"], f"it is told: {record['MESSAGE']}")
        daemon.wait_ended(client, "eof")


@scene()
def it_dies_while_it_loads():
    # The one that waits fails and is released; the one that was loaded lives on, and is released by the next program.
    program = """
        for request in requests():
            if request.verb == "LOAD" and request.about["identity"] == "bad":
                with open(HERE / "effects", "a") as effects:
                    effects.write(f"load asked {request.connection}\\n")
                os._exit(3)
            request.ok()
    """
    with shop(program, listener_keys="hello = yes") as daemon:
        started(daemon)
        good = served(daemon, b"good\n")
        bad = daemon.connect().send(b"bad\n")
        record = daemon.wait_record("load-failed", TETHERD_RESOURCE="asked")
        expect("its helper ended before it answered: exit status 3" in record["MESSAGE"], f"{record['MESSAGE']}")
        expect_equal(record["TETHERD_EXIT_STATUS"], "3", "TETHERD_EXIT_STATUS")
        started(daemon, count=2)
        daemon.wait_ended(bad, "load-failed", state="loading")
        expect(not daemon.endings(good.id), "the other one lives on")
        good.close()
        daemon.wait_ended(good, "eof")
        expect_equal(n_asked(daemon, "RELEASE"), 2, "releases")


@scene()
def it_dies_while_it_releases():
    program = """
        for request in requests():
            if request.verb == "RELEASE" and not (HERE / "died").exists():
                (HERE / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            request.ok()
    """
    with shop(program, keys="release_attempts = 1") as daemon:
        started(daemon)
        clients = [served(daemon) for _ in range(3)]
        for client in clients:
            client.close()
        for client in clients:
            daemon.wait_ended(client, "eof")
        started(daemon, count=2)
        expect(not daemon.find("release-failed"), "none of them has failed")
        numbers = [line.split(" ")[1] for line in asked(daemon)]
        expect_equal(len(set(numbers)), len(numbers), "numbers of requests")


@scene()
def who_is_asked_is_on_record():
    """So that the next run of the daemon, if this one dies, ends it before it asks another."""
    program = """
        for request in requests():
            if request.verb == "RELEASE" and not (HERE / "failed").exists():
                (HERE / "failed").touch()
                tell("FAIL " + request.number)
                continue
            if request.verb == "RELEASE":
                hold("go")
            request.ok()
    """
    with shop(program) as daemon:
        first = started(daemon)
        client = served(daemon)
        os.kill(first, signal.SIGKILL)
        second = started(daemon, count=2)
        client.close()
        eventually(lambda: n_asked(daemon, "RELEASE") == 2, "it is asked again")
        record = "".join(Path(path).read_text() for path in daemon.ledger_files())
        expect_equal(re.findall(r"^pid=(.*)$", record, re.M)[-1], str(second), "who is on record")
        (daemon.directory / "go").touch()
        daemon.wait_ended(client, "eof")


@scene()
def its_record_does_not_grow_when_it_dies_again_and_again():
    program = """
        for request in requests():
            if request.verb == "RELEASE" and not (HERE / "well").exists():
                os.kill(os.getpid(), signal.SIGKILL)
            request.ok()
    """
    with shop(program, keys="release_timeout = infinity") as daemon:
        started(daemon)
        client = served(daemon).close()
        sizes = []
        for n_deaths in range(1, 6):
            eventually(lambda n=n_deaths: n_asked(daemon, "RELEASE") == n, "it is asked again")
            sizes.append(sum(Path(path).stat().st_size for path in daemon.ledger_files()))
            daemon.reload()  # so that nobody waits for the next one
        (daemon.directory / "well").touch()
        daemon.wait_ended(client, "eof", timeout=30)
        expect_equal(sizes[2:], sizes[1:2] * 3, "bytes of the record, once it was asked twice")


@scene()
def lines_that_are_no_answers():
    program = """
        for request in requests():
            if request.about["identity"] == "one":
                tell("Warning: something, somewhere")
            if request.about["identity"] == "bad" and request.verb == "LOAD":
                with open(HERE / "effects", "a") as effects:
                    effects.write(f"load asked {request.connection}\\n")
                os.write(1, b"\\0\\xff" * 40000 + b"\\nOK\\n")
                time.sleep(1000)
            request.ok()
    """
    with shop(program, listener_keys="hello = yes") as daemon:
        started(daemon)
        one = served(daemon, b"one\n")
        daemon.wait_record(MESSAGE=re.compile("this is no answer, and ignored: Warning: something, somewhere"))
        bad = daemon.connect().send(b"bad\n")
        daemon.wait_record("load-failed", TETHERD_CONNECTION=bad.id)
        daemon.wait_record(MESSAGE=re.compile("said three lines that are no answers"))
        started(daemon, count=2)
        daemon.wait_ended(bad, "load-failed", state="loading")
        one.close()
        daemon.wait_ended(one, "eof")


@scene()
def it_prints_without_end():
    # Nobody else waits for it; what it says is not kept.
    program = """
        flood = b"OK 999999 x\\n" * 5000
        os.set_blocking(0, False)
        hold("go")  # from then on the daemon does not sleep, by which we know that it has started
        while True:
            os.write(1, flood)
            try:
                lines = os.read(0, 65536).decode().splitlines(True)
            except BlockingIOError:
                continue
            if not lines:
                break
            for line in lines:
                Request(line).ok()
    """
    with shop(program) as daemon:
        started(daemon)
        go_on(daemon)
        before = daemon.resident_bytes()
        for _ in range(50):
            daemon.barrier("abstract")
        client = served(daemon)
        client.close()
        daemon.wait_ended(client, "eof")
        expect(is_sanitized() or daemon.resident_bytes() - before < 3_000_000, "memory grew with what it printed")
        found = [record for record in daemon.poll_records() if "was never made" in record["MESSAGE"]]
        expect(found, "it is told that answers are ignored")
    expect(any("messages of this kind were not written" in record["MESSAGE"] for record in daemon.records),
           "that more were not written is told")


N_STOPPED = 1500


@scene()
def it_does_not_read():
    # Requests wait as connections, not as bytes; others are served; who leaves while he waits was never asked for.
    with shop(ANSWER_ALL) as daemon:
        pid = started(daemon)
        before = daemon.resident_bytes()
        os.kill(pid, signal.SIGSTOP)
        clients = [daemon.connect(source=f"127.9.{i % 8}.1", timeout=60) for i in range(N_STOPPED)]
        daemon.wait_record("accepted", count=N_STOPPED, timeout=60)
        daemon.barrier("abstract")
        expect(is_sanitized() or daemon.resident_bytes() - before < N_STOPPED * 8000,
               "memory grew with what it did not read")
        leaving = clients[-200:]
        for client in leaving:
            client.reset()
        for client in leaving:
            daemon.wait_ended(client, "reset", state="loading")
        daemon.barrier("abstract")
        os.kill(pid, signal.SIGCONT)
        for client in clients[:-200]:
            expect_equal(client.receive_line()[:3], "at-", "greeting")
            client.close()
        daemon.wait_record("closed", count=N_STOPPED, timeout=60)
        expect_equal((n_asked(daemon, "LOAD"), n_asked(daemon, "RELEASE")), (N_STOPPED - 200, N_STOPPED - 200),
                     "requests")


@scene()
def it_never_reads_again():
    # Neither those that it was asked nor those that wait for room wait for ever.
    program = """
        for request in requests():
            tell(f"OK {request.number}")
    """
    with shop(program, keys="load_timeout = 1s") as daemon:
        pid = started(daemon)
        os.kill(pid, signal.SIGSTOP)
        clients = [daemon.connect(source=f"127.9.{i % 8}.1", timeout=60) for i in range(N_STOPPED)]
        for client in clients:
            client.receive_rest()
        record = daemon.wait_record("load-failed", MESSAGE=re.compile("did not read the request within load_timeout"))
        expect(record, "those that wait for room are told so")
        os.kill(pid, signal.SIGKILL)
        started(daemon, count=2)
        daemon.wait_record("closed", count=N_STOPPED, timeout=60)
        expect_equal(n_asked(daemon, "LOAD"), 0, "loads that it read")


@scene()
def while_it_is_down():
    with shop(ANSWER_ALL) as daemon:
        pid = started(daemon)
        script, elsewhere = daemon.directory / "helper", daemon.directory / "elsewhere"
        script.rename(elsewhere)
        os.kill(pid, signal.SIGKILL)
        daemon.wait_record(MESSAGE=re.compile(re.escape(f"{script} cannot be started: No such file or directory; "
                                                        "tried again after 2s")))
        patient, leaving = daemon.connect(), daemon.connect()
        daemon.wait_record("accepted", count=2)
        leaving.close()
        daemon.wait_ended(leaving, "eof", state="loading")
        elsewhere.rename(script)
        expect_equal(patient.receive_line(), f"at-{patient.id}\n", "greeting")
        patient.close()
        daemon.wait_ended(patient, "eof")
        daemon.note_idle()
        expect_equal([line.split(" ")[2] for line in asked(daemon)], [patient.id] * 2, "who was asked for")


@scene()
def down_for_too_long():
    with shop(ANSWER_ALL, keys="queue_timeout = 200ms") as daemon:
        pid = started(daemon)
        (daemon.directory / "helper").rename(daemon.directory / "elsewhere")
        os.kill(pid, signal.SIGKILL)
        daemon.wait_record(MESSAGE=re.compile("helper asked: pid .* ended: killed by SIGKILL"))
        client = daemon.connect()
        daemon.wait_ended(client, "load-timeout", state="loading")
        daemon.wait_record("load-failed", MESSAGE=re.compile("was not running for longer than queue_timeout"))
        expect_equal(asked(daemon), [], "requests")
        daemon.wait_record(MESSAGE=re.compile("cannot be started: No such file or directory"))
        daemon.note_idle()


@scene()
def it_ends_at_its_start():
    # Who waited was asked of a program that ended: it has failed, and is released when one comes that lives.
    program = """
        if not (HERE / "go").exists():
            sys.exit(7)
        for request in requests():
            tell(f"OK {request.number}")
    """
    with shop(program) as daemon:
        client = daemon.connect()
        daemon.wait_record("load-failed", MESSAGE=re.compile("its helper ended before it answered: exit status 7"))
        go_on(daemon)
        daemon.wait_ended(client, "load-failed", state="loading")
        daemon.note_idle()
        expect_equal((n_asked(daemon, "LOAD"), n_asked(daemon, "RELEASE")), (0, 1), "requests")


# ---- its end ----


@scene()
def it_ends_with_the_daemon():
    program = ANSWER_ALL + """
time.sleep(0.2)
print("that was all", file=sys.stderr, flush=True)
sys.exit(5)
"""
    with shop(program) as daemon:
        started(daemon)
        client = served(daemon)
        daemon.stop()
        expect_equal(daemon.endings(client.id)[0]["TETHERD_CAUSE"], "shutdown", "cause")
        for text in ("^resource asked: that was all", "^helper asked: pid .* ended: exit status 5"):
            expect(daemon.find(MESSAGE=re.compile(text)), f"'{text}' is told")


@scene()
def it_does_not_end():
    program = """
        signal.signal(signal.SIGTERM, lambda *_: print("not yet", file=sys.stderr, flush=True))
        for request in requests():
            request.ok()
        while True:
            signal.pause()
    """
    with shop(program, keys="release_timeout = 3s") as daemon:
        started(daemon)
        client = served(daemon)
        daemon.stop()
        expect(daemon.endings(client.id), "its connection was ended")
        for text in ("it gets SIGTERM", "not yet", "it gets SIGKILL", "ended: killed by SIGKILL"):
            expect(daemon.find(MESSAGE=re.compile(text)), f"'{text}' is told")


@scene()
def a_load_under_way_at_the_stop():
    program = """
        for request in requests():
            if request.verb == "LOAD":
                hold("go")
            request.ok()
    """
    with shop(program) as daemon:
        started(daemon)
        client = daemon.connect()
        wait_asked(daemon, "LOAD")
        daemon.kill(signal.SIGTERM)
        daemon.wait_notified("STOPPING=1")
        go_on(daemon)
        daemon.wait_exit(0)
        expect_equal(daemon.endings(client.id)[0]["TETHERD_CAUSE"], "shutdown", "cause")
        expect_equal(n_asked(daemon, "RELEASE"), 1, "releases")


@scene()
def drain_timeout_ends_it():
    program = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + ANSWER_ALL + "time.sleep(1000)\n"
    with shop(program, daemon={"drain_timeout": "1s"}) as daemon:
        started(daemon)
        begin = time.monotonic()
        daemon.stop()
        expect(time.monotonic() - begin < 10 * SLOW, "it does not wait for release_timeout")


@scene()
def another_program_after_a_reload():
    with shop(ANSWER_ALL) as daemon:
        old = started(daemon)
        first = served(daemon)
        text = LISTENERS.format(resources="asked", keys="environment = COLOUR=blue", listener_keys="")
        write_program(daemon, "import os\nnote('new ' + os.environ['COLOUR'] + '\\n')\n" + ANSWER_ALL)
        daemon.configure(text)
        daemon.reload()
        new = started(daemon, count=2)
        expect(old != new and str(old) in daemon.children(), "both run")
        second = served(daemon)
        first.close()
        daemon.wait_ended(first, "eof")
        daemon.wait_record(MESSAGE=f"helper asked: pid {old} ended: exit status 0")
        second.close()
        daemon.wait_ended(second, "eof")
        lines = [line.split(" ")[:3] for line in asked(daemon)]
        # Each program counts for itself: the first of the new one is number 1 again.
        expect_equal(lines, [["LOAD", "1", first.id], ["new", "blue"], ["LOAD", "1", second.id],
                             ["RELEASE", "2", first.id], ["RELEASE", "2", second.id]], "requests")
        daemon.configure("[listener:barrier]\nlisten = <abstract>\nhandler = echo\n")
        daemon.reload()
        daemon.wait_record(MESSAGE=f"helper asked: pid {new} ended: exit status 0")
        daemon.note_idle()


@scene()
def after_a_crash():
    # The old program, which does not heed the end of its stdin, is ended before another is asked; the new one is that
    # of the record, not of the configuration.
    program = """
        note(f"start {os.getpid()}\\n")
        for request in requests():
            request.ok("at-" + request.connection)
        (HERE / "eof").touch()
        time.sleep(1000)
    """
    with shop(program) as daemon:
        old = started(daemon)
        client = served(daemon)
        expect(client.id, "it has an id in this run")
        daemon.crash()
        eventually((daemon.directory / "eof").exists, "it has read the end of its stdin")
        expect(Path(f"/proc/{old}").exists(), "the program outlives the daemon")
        look = f"""
        stat = Path("/proc/{old}/stat")
        note(f"alive {{stat.exists() and stat.read_text().split()[2] != 'Z'}}\\n")
        """
        write_program(daemon, textwrap.dedent(look) + textwrap.dedent(program))
        daemon.configure("[listener:barrier]\nlisten = <abstract>\nhandler = echo\n")
        daemon.start()
        record = daemon.wait_record("closed", TETHERD_CONNECTION=client.id, TETHERD_CAUSE="orphaned")
        daemon.wait_record("recovered", TETHERD_CONNECTION=client.id)
        expect(record, "it is released")
        lines = asked(daemon)
        expect_equal([line.split(" ")[0] for line in lines], ["start", "LOAD", "alive", "start", "RELEASE"], "lines")
        expect_equal(lines[2], "alive False", "the old program when the new one starts")
        about = dict(word.split("=", 1) for word in lines[4].split(" ")[3:])
        expect_equal((about["recovered"], about["cause"], about["value"], about["remote_port"]),
                     ("1", "orphaned", f"at-{client.id}", str(client.port)), "words of the release")
        pid = int(lines[3].split(" ")[1])
        os.kill(pid, signal.SIGTERM)  # nobody needs it, but it does not end by itself
        eventually(lambda: not daemon.children(), "the program ends")
        daemon.note_idle()


@scene()
def a_crash_while_it_loads():
    program = """
        for request in requests():
            if request.verb == "LOAD":
                with open(HERE / "effects", "a") as effects:
                    effects.write(f"load asked {request.connection}\\n")
                time.sleep(1000)
            request.ok()
    """
    with shop(program) as daemon:
        old = started(daemon)
        client = daemon.connect()
        wait_asked(daemon, "LOAD")
        identity = client.id
        daemon.crash()
        daemon.orphans.add(identity)
        daemon.start()
        daemon.wait_record("recovered", TETHERD_CONNECTION=identity)
        expect(not Path(f"/proc/{old}").exists() or old not in daemon.processes(), "the old program was ended")
        expect_equal(n_asked(daemon, "RELEASE"), 1, "releases")
        daemon.note_idle()


# ---- what the summary says, and the manual ----


@scene()
def the_summary():
    program = """
        for request in requests():
            if request.verb == "LOAD":
                hold("go")
            request.ok()
    """
    with shop(program) as daemon:
        pid = started(daemon)
        client = daemon.connect()
        wait_asked(daemon, "LOAD")
        daemon.kill(signal.SIGUSR1)
        daemon.wait_record(MESSAGE=f"summary: helper asked: pid {pid} runs, 1 connections, 1 requests are not "
                                   "answered, 0 releases and 0 loads wait")
        go_on(daemon)
        daemon.wait_ready(client)
        client.receive_line()
        client.close()


def printed_program(name):
    """The listing below the sentence that names the file, as man(1) prints it."""
    page = subprocess.run(["mandoc", "-T", "ascii", "-O", "width=200", TOP / "man/tetherd.conf.5"],
                          capture_output=True, text=True, check=True).stdout
    page = subprocess.run(["col", "-bx"], input=page, capture_output=True, text=True, check=True).stdout
    listing = page.partition(f"/usr/lib/tetherd/examples/{name}:\n\n")[2]
    lines = []
    for line in listing.splitlines():
        if line and not line.startswith(" " * 11):
            break
        lines.append(line)
    if not listing:
        raise Failure(f"tetherd.conf(5) does not print {name}")
    return textwrap.dedent("\n".join(lines)).strip() + "\n"


@scene(over=("helper.py", "helper.sh"))
def the_examples_of_the_manual(name):
    need_program("mandoc")
    text = printed_program(name)
    installed = (TOP / "conf/examples" / name).read_text()
    expect_equal(text, re.sub("\n\n\n+", "\n\n", installed), f"{name} as printed and as installed")
    daemon = Daemon(LISTENERS.replace("<helper>", f"<dir>/{name} <dir>/a%%20place").format(
        resources="asked", keys="", listener_keys="hello = yes"))
    (daemon.directory / name).write_text(text)
    (daemon.directory / name).chmod(0o755)
    with daemon:
        started(daemon)
        client = daemon.connect().send(b"alice\n")
        place = daemon.directory / "a%20place" / client.id
        expect_equal(client.receive_line(), f"{place}\n", "greeting")
        expect_equal(place.read_text(), "alice from 127.0.0.1\n", "the file")
        client.close()
        daemon.wait_ended(client, "eof")
        expect(not place.exists(), "the file is gone")
        daemon.wait_record(MESSAGE=f"resource asked: {client.id} ended: eof")
        (daemon.directory / "a%20place").chmod(0)
        (daemon.directory / "a%20place").rename(daemon.directory / "elsewhere")
        client = daemon.connect().send(b"bob\n")
        daemon.wait_ended(client, "load-failed", state="loading")


if __name__ == "__main__":
    main()

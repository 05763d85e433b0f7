"""crash: SIGKILL between any two things that the daemon does to the world, and what the next start makes of it."""

import contextlib
import os
import re
import signal
import subprocess
from pathlib import Path

from harness import SLOW, Daemon, Failure, Skip, eventually, expect, expect_equal, is_sanitized, main, need_program, scene

# What changes something outside the daemon, or stands between two such things. The kernel kills the daemon as it
# enters the call, which is then not made.
CALLS = ("openat", "write", "renameat", "fchmod", "mkdirat", "renameat2", "unlinkat", "io_submit", "clone")
MORE_AT_START = ("fsync", "fcntl", "bind", "listen")
LOG = 'echo "$TETHERD_PHASE $TETHERD_RESOURCE $TETHERD_CONNECTION" >> <effects>'
SCRIPTS = {"fill": LOG + '\n[ $TETHERD_PHASE = release ] || : > "$2/file"', "log": LOG}


def config(first="no", others="no"):
    """Two directories, one with something in it when it is released, around two commands."""
    return f"""
[listener:shop]
listen = <tcp4>
resources = seat, workdir, one, empty, two, program

[resource:seat]
type = pool
items = the-only-one
persistent = {first}

[resource:workdir]
type = directory
path = <dir>/connections/%i
persistent = {first}

[resource:one]
type = exec
load = <fill> %i %{{workdir}}
release = <log>
persistent = {others}

[resource:empty]
type = directory
path = <dir>/connections/%i-empty
persistent = {others}

[resource:two]
type = exec
load = <log>
release = <log>
persistent = {others}

[resource:program]
type = process
command = tail -f <effects>
persistent = {others}
"""


# Which of them outlive a reboot, and so wait for the disk.
KINDS = {"none persistent": ("no", "no"), "some persistent": ("yes", "no")}


def killed_at(daemon, call, n):
    """In this block the daemon dies when it makes this system call for the n-th time."""
    return daemon.traced("-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={n}")


def is_dead(daemon):
    return daemon.process.poll() is not None


def play_life(daemon):
    """A connection from its beginning to its end, or to that of the daemon. Whether the daemon lived."""
    def has_one_more(event):
        n_before = len(daemon.find(event))
        return lambda: is_dead(daemon) or (daemon.poll_records() and len(daemon.find(event)) > n_before)
    daemon.poll_records()
    is_ready, is_closed = has_one_more("ready"), has_one_more("closed")
    with contextlib.suppress(OSError):
        client = daemon.connect()
        eventually(is_ready, "it is ready")
        client.close()
    eventually(is_closed, "it is closed")
    return not is_dead(daemon)


def check_recovery(daemon, idle_files, n_before):
    """After the start that follows a crash: everything that was loaded is released, once as far as we know, in order,
    before anybody was accepted, and nothing is left."""
    serves = daemon.wait_record(MESSAGE=re.compile("^tetherd .* serves "))
    recovered, closed = daemon.find("recovered"), daemon.find("closed")
    ids = [record["TETHERD_CONNECTION"] for record in recovered]
    expect(len(ids) <= 1, f"there was one lease, these are recovered: {ids}")
    expect_equal([record["TETHERD_CONNECTION"] for record in closed], ids, "connections that are told as closed")
    expect_equal([record["TETHERD_CAUSE"] for record in closed], ["orphaned"] * len(ids), "cause")
    sequence = lambda record: int(record["TETHERD_SEQUENCE"])
    expect(all(sequence(record) < sequence(serves) for record in closed), "somebody could come before it was released")

    effects = daemon.effects()[n_before:]
    connections = {connection for _, _, connection in effects}
    expect(len(connections) <= 1, f"effects of several connections: {effects}")
    for name in ("one", "two"):
        n_loads, n_releases = (sum(line[:2] == (phase, name) for line in effects) for phase in ("load", "release"))
        # A load that the crash cut off may not have come to telling of itself; a release may have run again.
        expect(n_loads <= 1 and n_releases <= 2 and n_releases >= n_loads, f"loads and releases of {name}: {effects}")
        expect(n_loads == n_releases or ids, f"{name} was released in part, and nothing recovered: {effects}")
    releases = [name for phase, name, _ in effects if phase == "release"]
    expect("two" not in releases[releases.index("one"):] if "one" in releases else True, f"out of order: {effects}")
    daemon.orphans |= connections

    left = [path.name for path in (daemon.directory / "connections").glob("*")]
    expect(not left, f"directories are left: {left}")
    expect_equal(sorted(daemon.files() - idle_files), [], "files that are left")
    eventually(lambda: daemon.processes() == [daemon.pid], lambda: f"processes are left: {daemon.processes()}")


def tell_points(points):
    print(f"    {sum(points.values())} crash points: " + ", ".join(f"{n} {call}" for call, n in points.items() if n))


@scene(over=sorted(KINDS))
def at_every_call_of_a_life(kind):
    need_program("strace")
    points = {}
    with Daemon(config(*KINDS[kind]), scripts=SCRIPTS) as daemon:
        idle_files = daemon.idle_files
        for call in CALLS:
            for n in range(1, 500):
                n_before = len(daemon.effects())
                with killed_at(daemon, call, n):
                    has_lived = play_life(daemon)
                if has_lived:
                    break
                daemon.wait_exit(-signal.SIGKILL)
                daemon.forget_clients()
                daemon.start()
                try:
                    check_recovery(daemon, idle_files, n_before)
                except Failure as failure:
                    raise Failure(f"killed at {call} {n}: {failure}") from None
                points[call] = n
        daemon.idle_files = idle_files
    tell_points(points)
    expect(points["openat"] > 20 and points["write"] > 10 and points["unlinkat"] >= 2,
           f"so few crash points, is the daemon killed where it should be? {points}")


@scene()
def at_every_call_of_the_recovery():
    need_program("strace")
    points = {}
    with Daemon(config("yes"), scripts=SCRIPTS) as daemon:
        idle_files = daemon.idle_files
        for call in CALLS + MORE_AT_START:
            for n in range(1, 500):
                n_before = len(daemon.effects())
                daemon.connect_ready()
                daemon.crash()
                # It stays our child (-D), and starts to run when it is traced.
                daemon.enter = ["strace", "-D", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e",
                                f"inject={call}:signal=KILL:when={n}"]
                daemon.spawn()
                daemon.enter = []
                with contextlib.suppress(Failure):
                    daemon.wait_notified("READY=1")
                if not is_dead(daemon):
                    daemon.crash()
                    daemon.start()
                    break
                daemon.start()
                try:
                    check_recovery(daemon, idle_files, n_before)
                except Failure as failure:
                    raise Failure(f"killed at {call} {n}: {failure}") from None
                points[call] = n
        daemon.idle_files = idle_files
    tell_points(points)


# ---- nothing of a stranger is touched ----


def record_paths(daemon):
    return [path for root in (daemon.runtime, daemon.state) for path in (root / "leases").glob("[0-9a-f]*")]


def only_record(daemon):
    """The ledger record of the one lease there is: its path, and its text."""
    paths = record_paths(daemon)
    expect(len(paths) == 1, f"there should be one ledger record: {paths}")
    return paths[0], paths[0].read_text()


def wait_recorded_pid(daemon):
    """Waits until the one lease's record is there and names the process of its command; returns its pid."""
    def probe():
        return [pid for path in record_paths(daemon) for pid in re.findall(r"^pid=(.*)$", path.read_text(), re.M)]
    return int(eventually(probe, "the command is on record")[-1])


def last_field(text, name):
    return re.findall(rf"^{name}=(.*)$", text, re.M)[-1]


def restart(daemon, idle_files):
    daemon.start()
    daemon.idle_files = idle_files
    return daemon.wait_record("closed", TETHERD_CAUSE="orphaned")


@contextlib.contextmanager
def reaped(process):
    try:
        yield process
    finally:
        process.kill()
        process.wait()


LOADING = config().replace("load = <fill> %i %{workdir}", "load = /bin/sleep 1000")


@scene()
def a_reused_pid_is_not_touched():
    with Daemon(LOADING, scripts=SCRIPTS) as daemon:
        idle_files = daemon.idle_files
        client = daemon.connect()
        pid = wait_recorded_pid(daemon)
        daemon.orphans.add(client.id)
        daemon.crash()
        os.kill(pid, signal.SIGKILL)
        # The kernel gives a number again when it likes: the record is given the number that a stranger has.
        with reaped(subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True)) as stranger:
            path, text = only_record(daemon)
            path.write_text(re.sub(f"^pid={pid}$", f"pid={stranger.pid}", text, flags=re.M))
            restart(daemon, idle_files)
            expect(stranger.poll() is None, "a process that has the number of our command was ended")


@scene()
def a_slow_start_takes_no_time_from_the_first_releases():
    if is_sanitized():
        raise Skip("the leak sanitizer does not work under strace")
    need_program("strace")
    text = """
[listener:shop]
listen = <tcp4>
resources = one
[resource:one]
type = exec
load = <log>
release = <pausing>
release_timeout = 3s
"""
    with Daemon(text, scripts={**SCRIPTS, "pausing": "sleep 0.2\n" + SCRIPTS["log"]}) as daemon:
        client = daemon.connect()
        daemon.wait_record("ready", TETHERD_CONNECTION=client.id)
        idle_files = daemon.idle_files
        daemon.crash()
        # The disk of the next start is slow: two seconds for each time that something has to be on it.
        daemon.enter = ["strace", "-D", "-o", "/dev/null", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=2s"]
        daemon.start()
        daemon.idle_files = idle_files
        daemon.wait_record("closed", TETHERD_CONNECTION=client.id, TETHERD_CAUSE="orphaned")
        expect(not daemon.find("release-failed"), "a release was ended before its time was over")


@scene(over=("beside it", "with its inode, perhaps"))
def a_replaced_directory_is_not_touched(how):
    with Daemon(config(), scripts=SCRIPTS) as daemon:
        idle_files = daemon.idle_files
        client = daemon.connect_ready()
        path = daemon.directory / "connections" / client.id
        daemon.crash()
        if how == "beside it":
            path.rename(path.with_name("moved"))
        else:
            (path / "file").unlink()
            path.rmdir()
        path.mkdir()
        (path / "precious").write_text("keep me")
        restart(daemon, idle_files)
        expect_equal((path / "precious").read_text(), "keep me", "what is in the directory of another")
        daemon.wait_record(MESSAGE=re.compile("left alone"), TETHERD_CONNECTION=client.id)
        (path / "precious").unlink()
        path.rmdir()
        if how == "beside it":
            (path.with_name("moved") / "file").unlink()
            path.with_name("moved").rmdir()


@scene()
def a_command_that_was_not_on_record_does_not_run():
    # The child stands still before it writes down its number. Meanwhile the daemon dies, and the next one starts.
    need_program("strace")
    text = config().replace("listen = <tcp4>", "listen = <tcp4>\nreuse_port = yes")  # the child has the socket, too
    with Daemon(text, scripts=SCRIPTS) as daemon:
        idle_files = daemon.idle_files
        with daemon.traced("-f", "-e", "trace=setpgid", "-e", "inject=setpgid:delay_enter=3000000"):
            daemon.connect()
            child = eventually(daemon.children, "the command has a process")[0]
            daemon.crash()
            connection = restart(daemon, idle_files)["TETHERD_CONNECTION"]
            status = Path(f"/proc/{child}/status")
            expect(status.exists(), "the child was not held up for long enough to show anything")
            eventually(lambda: not status.exists(), "the child ends")
        expect_equal(daemon.effects(), [("release", "one", connection)], "effects")
        expect_equal(sorted(daemon.files() - idle_files), [], "files that are left")
        daemon.orphans.add(connection)


@scene(over=("runtime", "state"))
def a_second_daemon_on_a_directory_refuses(which):
    with Daemon(config("yes"), scripts=SCRIPTS) as daemon:
        client = daemon.connect_ready()
        taken = {"runtime": daemon.runtime, "state": daemon.state}[which]
        other = daemon.directory / "other"
        other.mkdir()
        text = daemon.config_path.read_text()
        for path in (daemon.runtime, daemon.state):
            text = text.replace(f"_directory = {path}\n", f"_directory = {taken if path == taken else other}\n")
        other_config = other / "tetherd.conf"
        other_config.write_text(text)
        before = {path: os.stat(path).st_mtime_ns for path in daemon.files()}
        done = subprocess.run([*daemon.command()[:-1], str(other_config)], env=daemon.environment(), timeout=20 * SLOW,
                              capture_output=True, text=True, cwd="/")
        expect(done.returncode == 1 and f"locked by another tetherd, pid {daemon.pid}" in done.stderr,
               f"exit status {done.returncode}, stderr: {done.stderr}")
        expect_equal({path: os.stat(path).st_mtime_ns for path in daemon.files()}, before, "files of the first one")
        client.close()
        daemon.wait_ended(client, "eof")


# ---- another boot ----


def reboot(daemon):
    """What the ledger says is of an earlier boot. What runs is still there, to see that nobody touches it."""
    path, text = only_record(daemon)
    path.write_text(re.sub("^boot=.*$", "boot=00000000-0000-4000-8000-000000000000", text, flags=re.M))


@scene()
def only_what_is_persistent_outlives_a_reboot():
    with Daemon(config("yes"), scripts=SCRIPTS) as daemon:
        idle_files = daemon.idle_files
        client = daemon.connect_ready()
        path, text = only_record(daemon)
        expect_equal(path, daemon.state / "leases" / client.id, "where the record is")
        expect_equal(re.findall("^persistent=(.*)$", text, re.M)[0], "1", "the first claim")
        # Its file system comes with another number, and a directory in /run would not have come at all.
        path.write_text(re.sub("^device=.*$", "device=4711", text, flags=re.M))
        reboot(daemon)
        daemon.crash()
        record = restart(daemon, idle_files)
        expect("TETHERD_DURATION_USEC" not in record, f"who knows how long it lasted? {record}")
        expect_equal(daemon.effects(), [("load", "one", client.id), ("load", "two", client.id)], "effects")
        expect_equal([path.name for path in (daemon.directory / "connections").iterdir()], [f"{client.id}-empty"],
                     "directories")
        (daemon.directory / "connections" / f"{client.id}-empty").rmdir()
        daemon.effects_path.write_text("")


@scene()
def no_process_is_ended_after_a_reboot():
    with Daemon(LOADING.replace("persistent = no", "persistent = yes"), scripts=SCRIPTS) as daemon:
        idle_files = daemon.idle_files
        client = daemon.connect()
        pid = wait_recorded_pid(daemon)
        daemon.orphans.add(client.id)
        daemon.crash()
        try:
            reboot(daemon)
            restart(daemon, idle_files)
            expect(Path(f"/proc/{pid}/cmdline").read_bytes(), "a process was ended because of a number of another boot")
            expect_equal(daemon.effects(), [("release", "one", client.id)], "effects")
        finally:
            os.kill(pid, signal.SIGKILL)


# ---- records that are not ours, or not whole ----


def make_foreign(directory):
    """One of each kind; by name, what the log says of it."""
    def write(name, content):
        (directory / name).write_bytes(content)
    write("f1", b"")
    write("f2", b"\0garbage\xff\n")
    write("f3", b"tetherd-ledger 2\nconnection=f3\n.\n")
    write("f4", b"tetherd-ledger 1\nconnection=f4\nlistener=sho")
    write("README", b"what is this directory?\n")
    with open(directory / "f5", "wb") as file:
        file.truncate(5 << 20)
    (directory / "f6").mkdir()
    (directory / "f7").symlink_to("/etc/passwd")
    os.mkfifo(directory / "f8")
    whole = "it is not a whole record"
    return {"f1": whole, "f2": whole, "f3": "another version of tetherd wrote it", "f4": whole, "README": whole,
            "f5": "it is too large", "f6": "it is not a file", "f7": "it is not a file", "f8": "it is not a file"}


@scene(over=("run", "state"))
def foreign_records_are_set_aside(where):
    with Daemon(config("yes" if where == "state" else "no"), scripts=SCRIPTS) as daemon:
        idle_files = daemon.idle_files
        client = daemon.connect_ready()
        directory = only_record(daemon)[0].parent
        expect_equal(directory.parent.name, where, "directory of the record")
        daemon.crash()
        foreign = make_foreign(directory)
        restart(daemon, idle_files)
        for name, why in foreign.items():
            lines = [record for record in daemon.records if f"/leases/{name} " in record["MESSAGE"]]
            expect(len(lines) == 1 and why in lines[0]["MESSAGE"] and lines[0]["PRIORITY"] == "3",
                   f"what the log says of {name}: {[line['MESSAGE'] for line in lines]}, expected {why!r}")
        aside = directory.parent / "set-aside"
        expect_equal(sorted(path.name for path in aside.iterdir()), sorted(foreign), "what is set aside")
        expect_equal(sorted(path.name for path in directory.iterdir()), [], "what is left")
        expect_equal(daemon.effects()[-1], ("release", "one", client.id), "the last effect")
        daemon.idle_files |= {str(aside / name) for name in foreign}


if __name__ == "__main__":
    main()

"""config: what the command line and the configuration file say about themselves, and about every fault."""

import os
import re
import socket
import subprocess

from harness import BINARY, MARK, SLOW, WRAPPER, Daemon, expect, expect_equal, main, scene

GOOD = f"""
[listener:a]
listen = <tcp4>, <unix>
handler = echo
resources = workdir, mark
[resource:workdir]
type = directory
path = <dir>/connections/%i
{MARK}"""


class Result:
    def __init__(self, arguments, stdout=subprocess.PIPE, before=(), **environment):
        done = subprocess.run([*before, *WRAPPER, BINARY, *arguments], stdout=stdout, stderr=subprocess.PIPE, text=True,
                              timeout=20 * SLOW, stdin=subprocess.DEVNULL, env={**os.environ, **environment})
        self.status, self.stdout, self.stderr = done.returncode, done.stdout or "", done.stderr
        self.text = self.stdout + self.stderr


class Files(Daemon):
    """A directory with a configuration, for a binary that is only asked."""

    def __init__(self, config, **options):
        super().__init__(config, {"log_target": "stderr"}, **options)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        self.idle_files = self.files()
        if not self.process:
            self.process = subprocess.Popen(["true"])
            self.process.wait()
        super().__exit__(kind, error, traceback)

    def ask(self, *arguments, **options):
        return Result(["-c", str(self.config_path), *arguments], **options)


# ---- the command line ----


@scene()
def version_and_help():
    version = Result(["--version"])
    expect_equal(version.status, 0, "exit status of --version")
    expect(re.match(r"tetherd \d+\.\d+", version.stdout), f"--version says {version.stdout!r}")
    usage = Result(["--help"])
    expect_equal(usage.status, 0, "exit status of --help")
    for option in ("-c", "--check-config", "--print-config", "--log-target", "--version"):
        expect(option in usage.stdout, f"--help does not name {option}")


@scene(over=("--no-such-option", "-c", "stray", "--log-target=nowhere", "--check-config --print-config stray"))
def usage_errors(arguments):
    result = Result(arguments.split())
    expect_equal(result.status, 2, "exit status")
    expect(result.stderr.strip() and not result.stdout, f"said {result.text!r}")


@scene(over=("--print-config", "--explain", "--check-config", "--check-config of faults", "--version", "--help"))
def nowhere_to_write(which):
    # Something that --check-config has to say in either case: a warning, or a fault.
    config = GOOD + "[listener:b]\nlisten = <tcp6>\nreuse_port = yes\nresources = pool\n"
    config += "[resource:pool]\ntype = pool\nitems = " + ("1-2" if "faults" not in which else "2-1")
    with Files(config) as files, open("/dev/full", "w") as full:
        for result, why in ((files.ask(which.split()[0], stdout=full), "No space left on device"),
                            (files.ask(which.split()[0], before=["sh", "-c", '"$@" >&-', "sh"]), "Bad file descriptor")):
            expect_equal((result.status, result.stderr), (1, f"tetherd: cannot write: {why}\n"), "status and stderr")


@scene()
def missing_file():
    result = Result(["-c", "/nonexistent/tetherd.conf", "--check-config"])
    expect_equal(result.status, 78, "exit status")
    expect("/nonexistent/tetherd.conf" in result.text and "No such file" in result.text, result.text)
    expect_equal(Result(["-c", "/nonexistent/tetherd.conf"]).status, 78, "exit status of the daemon")


@scene()
def check_of_a_good_file():
    with Files(GOOD) as files:
        result = files.ask("--check-config")
        expect_equal((result.status, result.stderr), (0, ""), "a good file")
        expect(not os.path.exists(files.addresses["unix"][1]), "--check-config opened a socket")


# ---- faults: (the rest of the file, the text at which the fault lies, what the message must say) ----

LISTENER = "[listener:a]\nlisten = <tcp4>\n"
EXEC = "[resource:r]\ntype = exec\nload = /bin/true\nrelease = /bin/true\n"
PROCESS = "[resource:r]\ntype = process\ncommand = /bin/cat\nsocket = stdio\n"
FAULTS = {
    "unknown key": (LISTENER + "idle_timout = 3s\n", "idle_timout", r"idle_timout.*idle_timeout"),
    "unknown section": ("[listner:a]\nlisten = <tcp4>\n", "[listner:a]", r"listner.*listener"),
    "unknown daemon key": (LISTENER + "[daemon]\nmax_connection = 3\n", "max_connection", r"max_connections"),
    "key of another section": (LISTENER + "drain_timeout = 3s\n", "drain_timeout", r"drain_timeout"),
    "bad time": (LISTENER + "idle_timeout = soon\n", "idle_timeout", r"soon"),
    "bad number": (LISTENER + "backlog = many\n", "backlog", r"many"),
    "bad size": (LISTENER + "receive_buffer = 64X\n", "receive_buffer", r"64X"),
    "bad boolean": (LISTENER + "nodelay = perhaps\n", "nodelay", r"perhaps"),
    "bad choice": (LISTENER + "handler = ecco\n", "handler", r"ecco"),
    "detect_within too short": (LISTENER + "detect_within = 5s\n", "detect_within", r"6s"),
    "detect_within too long": (LISTENER + "detect_within = 19h\n", "detect_within", r"18h"),
    "key twice": (LISTENER + "backlog = 3\nnodelay = no\nbacklog = 4\n", "backlog = 4", r"backlog"),
    "key before any section": (None, "orphan", r""),
    "no equals sign": (LISTENER + "what is this\n", "what is this", r""),
    "comment in a value": (LISTENER + "greeting = hi ; there\n", "greeting", r";"),
    "bad listener name": ("[listener:Bad]\nlisten = <tcp4>\n", "[listener:Bad]", r"Bad"),
    "listener name too long": ("[listener:" + "a" * 33 + "]\nlisten = <tcp4>\n", "[listener:a", r"32|long"),
    "line too long": (LISTENER + "greeting = " + "x" * 9000 + "\n", "greeting", r"long"),
    "key name too long": (LISTENER + "k" * 60 + " = 1\n", "k" * 60, r""),
    "unknown resource": (LISTENER + "resources = nothere\n", "resources", r"nothere"),
    "resource twice": (LISTENER + "resources = r, r\n" + EXEC, "resources", r"\br\b"),
    "no listen": ("[listener:a]\nhandler = echo\n", "[listener:a]", r"listen"),
    "bad address": ("[listener:a]\nlisten = 300.1.1.1:80\n", "listen =", r"300\.1\.1\.1"),
    "bad port": ("[listener:a]\nlisten = 127.0.0.1:70000\n", "listen =", r"port"),
    "relative socket path": ("[listener:a]\nlisten = run/socket\n", "listen =", r"run/socket"),
    "socket path too long": ("[listener:a]\nlisten = /" + "x" * 120 + "\n", "listen =", r""),
    "key of a socket unit": ("[listener:a]\nlisten = systemd:web\nbacklog = 5\n", "backlog", r"Backlog="),
    "no name of a socket": ("[listener:a]\nlisten = systemd:\n", "listen =", r"name"),
    "unknown type": (LISTENER + "[resource:r]\ntype = exek\n", "type = exek", r"exec"),
    "no type": (LISTENER + "[resource:r]\nload = /bin/true\n", "[resource:r]", r"type"),
    "neither load nor release": (LISTENER + "[resource:r]\ntype = exec\n", "[resource:r]", r"load.*release"),
    "no path": (LISTENER + "[resource:r]\ntype = directory\n", "[resource:r]", r"path"),
    "path without specifier": (LISTENER + "[resource:r]\ntype = directory\npath = /run/x\n", "path =", r"%i|specifier"),
    "relative path": (LISTENER + "[resource:r]\ntype = directory\npath = x/%i\n", "path =", r"absolute|/"),
    "key of another type": (LISTENER + EXEC + "path = /run/x/%i\n", "path =", r"path"),
    "unknown specifier": (LISTENER + EXEC + "environment = A=%q\n", "environment", r"%q"),
    "missing program": (LISTENER + EXEC.replace("load = /bin/true", "load = /no/such/program"), "load =",
                        r"/no/such/program"),
    "program not executable": (LISTENER + EXEC.replace("load = /bin/true", "load = /etc/passwd"), "load =",
                               r"/etc/passwd"),
    "open quote": (LISTENER + EXEC.replace("load = /bin/true", 'load = /bin/echo "x'), "load =", r"quote"),
    "missing user": (LISTENER + EXEC + "user = nosuchuser\n", "user =", r"nosuchuser"),
    "missing group": (LISTENER + EXEC + "group = nosuchgroup\n", "group =", r"nosuchgroup"),
    "bad mode": (LISTENER + "[resource:r]\ntype = directory\npath = /run/x/%i\nmode = 0999\n", "mode =", r"0999"),
    "value of a later resource": ("[listener:a]\nlisten = <tcp4>\nresources = r, s\n" +
                                  EXEC.replace("load = /bin/true", "load = /bin/echo %{s}") +
                                  EXEC.replace(":r]", ":s]"),
                                  "load = /bin/echo", r"%\{s\}|\bs\b"),
    "no command": (LISTENER + "[resource:r]\ntype = process\n", "[resource:r]", r"command"),
    "missing program of a process": (LISTENER + PROCESS.replace("/bin/cat", "/no/such/program"), "command =", "/no/such"),
    "stdio that may end": (LISTENER + PROCESS + "on_exit = keep\n", "on_exit", r"stdio"),
    "two with stdio": (LISTENER + "resources = r, s\n" + PROCESS + PROCESS.replace(":r]", ":s]"), "resources",
                       r"'r' and 's'"),
    "handler beside stdio": (LISTENER + "resources = r\nhandler = echo\n" + PROCESS, "handler", r"'r'"),
    "greeting of the program": (LISTENER + "resources = r\ngreeting = %{r}\n" + PROCESS, "greeting",
                                r"before the one that gets"),
    "greeting of a later resource": (LISTENER + "resources = s, r, t\ngreeting = %{s} %{t}\n" + PROCESS +
                                     EXEC.replace(":r]", ":s]") + EXEC.replace(":r]", ":t]"), "greeting", r"%\{t\}"),
    "bad max_concurrent": (LISTENER + EXEC + "max_concurrent = 0\n", "max_concurrent", r"max_concurrent|0"),
}


@scene(over=sorted(FAULTS))
def fault(which):
    rest, where, says = FAULTS[which]
    with Files(rest or "") as files:
        if rest is None:
            files.config_path.write_text("orphan = 1\n" + files.config_path.read_text() + files.expand(LISTENER))
        lines = files.config_path.read_text().splitlines()
        number = 1 + max(i for i, line in enumerate(lines) if where in line)
        result = files.ask("--check-config")
        expect_equal(result.status, 78, f"exit status; it said {result.text!r}")
        found = [line for line in result.text.splitlines() if line.startswith(f"{files.config_path}:{number}: ")]
        expect(found, f"no message for line {number}: {result.text!r}")
        expect(any(re.search(says, line.split(": ", 1)[1]) for line in found), f"{says!r} is not in {found}")
        expect_equal(len(result.text.splitlines()), len(found), f"messages in all: {result.text!r}")
        expect_equal(files.ask().status, 78, "exit status of the daemon")


@scene(over=("runtime_directory", "state_directory"))
def relative_directory(key):
    with Files(LISTENER) as files:
        files.configure(LISTENER, **{key: "run/x"})
        result = files.ask("--check-config")
        expect_equal(result.status, 78, "exit status")
        expect(re.match(rf"{files.config_path}:\d+: .*{key}.*run/x|.*{key}.*absolute", result.text), result.text)


@scene()
def all_faults_are_shown_in_order():
    bad = "idle_timout = 3s\nmax_age = never\nresources = gone\n"
    with Files(LISTENER + bad + EXEC + "user = nosuchuser\n") as files:
        result = files.ask("--check-config")
        expect_equal(result.status, 78, "exit status")
        numbers = [int(re.match(rf"{re.escape(str(files.config_path))}:(\d+): ", line)[1])
                   for line in result.text.splitlines()]
        expect_equal(len(numbers), 4, f"messages: {result.text}")
        expect(numbers == sorted(numbers), f"lines are not in order: {numbers}")


@scene()
def faults_in_a_drop_in_name_its_file():
    with Files(GOOD) as files:
        dropins = files.directory / "tetherd.conf.d"
        dropins.mkdir()
        (dropins / "10-first.conf").write_text("[listener:a]\nhandler = ecco\n")
        (dropins / "ignored.txt").write_text("garbage\n")
        result = files.ask("--check-config")
        expect_equal(result.status, 78, "exit status")
        expect(result.text.startswith(f"{dropins / '10-first.conf'}:2: "), result.text)
        (dropins / "20-second.conf").write_text("[listener:a]\nhandler = discard\n")
        (dropins / "10-first.conf").write_text("[listener:a]\nhandler = echo\nmax_age = 1h\n")
        (dropins / "30-reset.conf").write_text("[listener:a]\nmax_age =\n")
        printed = files.ask("--print-config")
        expect(re.search(r"^handler = discard$", printed.stdout, re.M), f"a later file replaces: {printed.text}")
        expect(re.search(r"^max_age = infinity$", printed.stdout, re.M), f"an empty value resets: {printed.text}")


@scene()
def continuation_lines_and_units():
    with Files(GOOD + "environment = A=1\n    B=2\n") as files:
        printed = files.ask("--print-config")
        expect(re.search(r"^environment = .*A=1 .*B=2", printed.stdout, re.M), printed.text)


@scene()
def print_config_is_a_fixpoint():
    more = ('[listener:c]\nlisten = systemd:web\n[listener:b]\nlisten = <tcp6>\ngreeting = hi %i 100%%\nidle_timeout = 90s\nreceive_buffer = 64K\n'
            '[resource:odd]\ntype = exec\nload = /bin/echo "two words" \'q"q\' back\\\\slash\nrelease = /bin/true\n')
    with Files(GOOD + more) as files:
        first = files.ask("--print-config")
        expect_equal((first.status, first.stderr), (0, ""), "--print-config")
        files.config_path.write_text(first.stdout)
        second = files.ask("--print-config")
        expect_equal((second.status, second.stderr), (0, ""), "--print-config of what it printed")
        expect_equal(second.stdout, first.stdout, "what it prints of its own output")
        expect_equal(files.ask("--check-config").text, "", "--check-config of what it printed")
        for line in ("idle_timeout = 1min 30s", "receive_buffer = (64K|65536)", "half_close = close", "backlog = 4096"):
            expect(re.search(f"^{line}$", first.stdout, re.M), f"no line {line!r} in {first.stdout}")


@scene()
def print_config_of_a_bad_file():
    with Files(LISTENER + "max_age = never\n") as files:
        result = files.ask("--print-config")
        expect_equal(result.status, 78, "exit status")
        expect("never" in result.text, result.text)


@scene()
def faults_where_stderr_is_a_journal_stream():
    with Files(LISTENER + "max_age = never\nidle_timout = 3s\n") as files:
        stream = '"$@" 2> "$0"'
        faults = files.ask().stderr
        expect_equal(len(faults.splitlines()), 2, f"faults: {faults}")
        journal = files.directory / "stderr"
        journal.touch()
        status = journal.stat()
        files.ask(before=["sh", "-c", stream, str(journal)], JOURNAL_STREAM=f"{status.st_dev}:{status.st_ino}")
        expect_equal(journal.read_text(), "".join(f"<3>{line}\n" for line in faults.splitlines()), "stderr")
        expect_equal(files.ask(JOURNAL_STREAM="1:2").stderr, faults, "stderr that is none")


# ---- what only shows at start: one clear line that names the key ----


def expect_refused(daemon, status, *texts):
    daemon.spawn()
    daemon.wait_exit(status)
    lines = [line for line in daemon.stderr().splitlines() if all(text in line for text in texts)]
    expect(lines, f"no line with all of {texts} in {daemon.stderr()!r}")
    expect(len(daemon.stderr().splitlines()) <= 3, f"more than one clear line: {daemon.stderr()!r}")


@scene(over=("tcp4", "tcp6"))
def port_in_use(kind):
    with Files(f"[listener:a]\nlisten = <{kind}>\n") as files:
        family, address = files.addresses[kind]
        with socket.socket(family) as taken:
            taken.bind(address)
            taken.listen()
            expect_refused(files, 1, "listen", files.names[kind], "in use")


@scene()
def abstract_name_in_use():
    with Files("[listener:a]\nlisten = <abstract>\n") as files:
        with socket.socket(socket.AF_UNIX) as taken:
            taken.bind(files.addresses["abstract"][1])
            taken.listen()
            expect_refused(files, 1, "listen", files.names["abstract"], "in use")


@scene()
def address_of_another_host():
    with Files("[listener:a]\nlisten = 192.0.2.77:<port>\n") as files:
        expect_refused(files, 1, "listen", "192.0.2.77")


@scene(over=("runtime_directory", "state_directory"))
def missing_directory(key):
    with Files("[listener:a]\nlisten = <tcp4>\n") as files:
        files.daemon_keys[key] = "/nonexistent/tetherd"
        files.configure("[listener:a]\nlisten = <tcp4>\n")
        expect_refused(files, 1, key, "/nonexistent/tetherd", "No such file")


@scene()
def missing_directory_of_a_socket():
    with Files("[listener:a]\nlisten = <dir>/missing/socket\n") as files:
        expect_refused(files, 1, "listen", "missing/socket")


@scene()
def more_connections_than_descriptors():
    with Files("[listener:a]\nlisten = <tcp4>\n") as files:
        files.configure("[listener:a]\nlisten = <tcp4>\n", max_connections=100_000_000)
        expect_refused(files, 78, f"{files.config_path}:", "max_connections", "100000000", "descriptor limit")


@scene(over=("runtime_directory", "state_directory"))
def directories_of_another_daemon(shared):
    config = "[listener:a]\nlisten = <tcp4>\nhandler = echo\nresources = mark\n" + MARK
    with Daemon(config) as holder, Files("[listener:a]\nlisten = <tcp4>\n") as second:
        client = holder.connect_ready()
        files = holder.files()
        second.daemon_keys[shared] = holder.daemon_keys[shared]
        second.configure("[listener:a]\nlisten = <tcp4>\n")
        expect_refused(second, 1, shared, str(holder.pid))
        expect_equal(holder.files(), files, "files of the first")
        client.echo().close()


if __name__ == "__main__":
    main()

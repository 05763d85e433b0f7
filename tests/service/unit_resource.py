"""unit_resource: connections that hold units of systemd, asked for as the shipped unit's user with the shipped polkit
rule: many at once, every way to fail and to be lost, and a bus, a systemd and a tetherd that go and come again."""

import re
import shlex
from contextlib import contextmanager

from machine import CONFIG_FILE, RULES, Machine, Service, machine, main, scene

from harness import eventually, expect, expect_equal

UNITS = "/run/systemd/system"
N_MANY = 500

TEMPLATES = {
    "session": "ExecStart=/bin/sleep infinity",
    "broken": "ExecStart=/bin/false\nType=oneshot",
    "dependent": "ExecStart=/bin/sleep infinity\n[Unit]\nRequires=broken@%i.service\nAfter=broken@%i.service",
    "brief": "ExecStart=/bin/sleep 0.1",
    "slow": "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'until [ -e /run/go-on ]; do sleep 0.05; done'",
    "once": "Type=oneshot\nExecStart=/bin/true",
    "again": "Restart=always\nRestartSec=100ms\nExecStart=/bin/sleep infinity",
    "stubborn": "TimeoutStopSec=1s\nExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 0.1; done'",
    "unlisted": "ExecStart=/bin/sleep infinity",
    "counted": "ExecStart=/bin/sleep infinity\nExecStartPre=/bin/sh -c 'echo start %i >>/run/history'\n"
               "ExecStopPost=/bin/sh -c 'echo stop %i >>/run/history'",
}
UNLISTED = "unlisted"

CONFIG = """
[listener:a]
listen = 127.0.0.1:7400
handler = echo
hello = {hello}
greeting = %{{held}}
resources = {resources}

[resource:held]
type = unit
unit = {unit}
{keys}
"""


def write_units(one, folder=UNITS):
    """The templates, and the list in the polkit rule, as an administrator would edit it."""
    for name, text in TEMPLATES.items():
        one.write(f"{folder}/{name}@.service", f"[Unit]\nCollectMode=inactive-or-failed\n[Service]\n{text}\n")
    names = [*TEMPLATES, "missing"]
    listed = "".join(f'        "{name}@.service",\n' for name in names if name != UNLISTED)
    rules = one.read(RULES)
    expect('        // "session@.service",\n' in rules, f"the shipped rule has a place for units: {rules}")
    one.write(RULES, rules.replace('        // "session@.service",\n', listed))
    one.run("systemctl daemon-reload")


def units(pattern="*"):
    """{name: ActiveState} of the loaded units of these templates."""
    lines = machine().run("systemctl list-units --all --plain --no-legend --full --type=service "
                          + shlex.quote(f"{pattern}@*.service")).splitlines()
    return {line.split()[0]: line.split()[2] for line in lines if line.split("@")[0] in TEMPLATES}


def state(unit):
    return machine().run(f"systemctl show --property=ActiveState --value {shlex.quote(unit)}").strip()


@contextmanager
def held(unit, keys="", hello=False, resources="held"):
    """tetherd runs, each connection with such a unit; afterwards none is left."""
    if not machine().path(f"{UNITS}/session@.service").exists():
        write_units(machine())
    config = CONFIG.format(unit=unit, keys=keys, hello="yes" if hello else "no", resources=resources)
    with Service(config) as tetherd:
        tetherd.start()
        try:
            yield tetherd
        finally:
            machine().path("/run/go-on").touch()
        machine().run(f"systemctl stop {tetherd.unit}")
        machine().path("/run/go-on").unlink()
        eventually(lambda: not [name for name, value in units().items() if value not in ("inactive", "failed")],
                   lambda: f"no unit is left: {units()}", 60)


def ready(tetherd):
    client = tetherd.connect(7400)
    tetherd.wait_ready(client, timeout=30)
    return client


@scene()
def it_is_started_and_stopped_with_its_connection():
    with held("session@%i.service") as tetherd:
        client = ready(tetherd)
        unit = f"session@{client.id}.service"
        expect_equal(client.receive_line(), unit + "\n", "the greeting, its value")
        expect_equal(state(unit), "active", unit)
        client.close()
        tetherd.wait_ended(client, "eof")
        expect_equal(state(unit), "inactive", unit)


@scene()
def five_hundred_at_once():
    with held("session@%i.service") as tetherd:
        clients = [tetherd.connect(7400) for _ in range(N_MANY)]
        tetherd.wait_record("ready", count=N_MANY, timeout=120)
        expect_equal(sorted(units("session").items()),
                     sorted((f"session@{client.id}.service", "active") for client in clients), "the units")
        for client in clients:
            expect_equal(client.receive_line(), f"session@{client.id}.service\n", "its greeting")
            client.close()
        tetherd.wait_record("closed", count=N_MANY, timeout=120, TETHERD_CAUSE="eof")
        expect_equal(units("session"), {}, "units that are left")


def fails(tetherd, said, cause="load-failed", timeout=30):
    """The next connection's load fails for this reason, and nothing was released for it."""
    client = tetherd.connect(7400)
    tetherd.wait_ended(client, cause, state="loading", timeout=timeout)
    reason = tetherd.wait_record("load-failed", TETHERD_CONNECTION=client.id)["MESSAGE"]
    expect(re.search(said, reason), f"the reason is {said}: {reason}")
    return client


@scene()
def one_that_does_not_start_is_a_load_that_says_so():
    for unit, said in (("broken", "the start job of broken@.* failed"),
                       ("dependent", "the start job of dependent@.* failed, for something that it depends on did"),
                       ("missing", "missing@.* cannot be started: Unit missing@.*not found")):
        with held(f"{unit}@%i.service") as tetherd:
            client = fails(tetherd, said)
            expect(state(f"{unit}@{client.id}.service") in ("inactive", "failed"), f"{unit} runs")


@scene()
def what_polkit_denies_is_a_load_that_names_it():
    with held("unlisted@%i.service") as tetherd:
        client = fails(tetherd, f"polkit does not let us start unlisted@.*: see {RULES}")
        expect_equal(state(f"unlisted@{client.id}.service"), "inactive", "the unit")


@scene()
def what_polkit_does_not_let_us_stop_any_more_is_quarantined_and_tried_again():
    with held("session@%i.service", "release_attempts = 1") as tetherd:
        client = ready(tetherd)
        tetherd.write(RULES, machine().read(RULES).replace('"session@.service",', ""))
        client.reset()
        record = tetherd.wait_record("release-failed", TETHERD_CONNECTION=client.id)
        expect(f"polkit does not let us stop session@{client.id}.service" in record["MESSAGE"], record["MESSAGE"])
        tetherd.wait_record("quarantined", TETHERD_CONNECTION=client.id)
        machine().write(RULES, machine().read(RULES).replace("var units = [", 'var units = ["session@.service",'))
        machine().run("systemctl reload tetherd")
        eventually(lambda: state(f"session@{client.id}.service") == "inactive", "it is stopped")
        eventually(lambda: not list(machine().path("/run/tetherd/leases").iterdir()), "its record is erased")


def lost(tetherd, client, said):
    record = tetherd.wait_ended(client, "resource-lost", state=("ready", "loading"))
    expect(re.search(said, record["MESSAGE"]), f"the message says {said}: {record['MESSAGE']}")
    expect_equal(record["TETHERD_RESOURCE"], "held", "the resource")


@scene()
def one_that_ends_takes_its_connection_along():
    with held("session@%i.service") as tetherd:
        stopped, killed, kept = (ready(tetherd) for _ in range(3))
        machine().run(f"systemctl stop session@{stopped.id}.service")
        lost(tetherd, stopped, f"session@{stopped.id}.service is not active any more")
        machine().run(f"systemctl kill --signal=KILL session@{killed.id}.service")
        lost(tetherd, killed, f"session@{killed.id}.service (failed|is not active any more)")
        kept.receive_line()
        kept.echo()
    for unit in ("brief", "once"):
        with held(f"{unit}@%i.service") as tetherd:
            lost(tetherd, tetherd.connect(7400), f"{unit}@.* is not active any more")


@scene()
def one_that_is_started_again_is_not_lost():
    with held("again@%i.service") as tetherd:
        client = ready(tetherd)
        unit = f"again@{client.id}.service"
        client.receive_line()
        def main_pid():
            return int(machine().run(f"systemctl show --property=MainPID --value {unit}"))
        for command in (f"systemctl restart {unit}", f"systemctl kill --signal=KILL {unit}"):
            before = main_pid()
            machine().run(command)
            eventually(lambda: main_pid() not in (0, before) and state(unit) == "active", f"{command}: it runs again")
            client.echo()
        client.close()
        tetherd.wait_ended(client, "eof")
        expect_equal(state(unit), "inactive", unit)


@scene()
def on_exit_keep():
    with held("session@%i.service", "on_exit = keep") as tetherd:
        client = ready(tetherd)
        client.receive_line()
        machine().run(f"systemctl stop session@{client.id}.service")
        client.echo()
        client.close()
        tetherd.wait_ended(client, "eof")
    with held("once@%i.service", "on_exit = keep") as tetherd:
        client = ready(tetherd)
        client.receive_line()
        client.echo()


@scene()
def instances_are_escaped_as_systemd_does_it():
    names = ["a@b", "a-b", "a.b", "a:b", "_x", "a_b", "A-@-Z", "0", "x--y"]
    with held("counted@%h.service", hello=True) as tetherd:
        for name in names:
            client = tetherd.connect(7400)
            client.send(f"{name}\n".encode())
            tetherd.wait_ready(client)
            unit = machine().run(f"systemd-escape --template=counted@.service -- {name}")
            expect_equal(client.receive_line(), unit, f"the unit of {name}")
            expect_equal(state(unit.strip()), "active", unit)
            client.close()
            tetherd.wait_ended(client, "eof")
        twice = []
        for _ in range(2):
            twice.append(tetherd.connect(7400))
            twice[-1].send(b"same\n")
            tetherd.wait_ready(twice[0])
        tetherd.wait_ended(twice[1], "load-failed", state="loading")
        reason = tetherd.wait_record("load-failed", TETHERD_CONNECTION=twice[1].id)["MESSAGE"]
        expect(f"connection {twice[0].id} holds counted@same.service" in reason, reason)
        twice[0].receive_line()
        twice[0].echo()


@scene()
def values_that_are_no_part_of_a_name():
    value = "\n[resource:value]\ntype = exec\nload = /bin/cat /run/value\n"
    with held("session@%{value}.service", value, resources="value, held") as tetherd:
        for text in ("two words", "\u00fc\u20ac", ".hidden", "50%", "a\\b"):
            machine().write("/run/value", text + "\n")
            client = ready(tetherd)
            unit = machine().run(f"systemd-escape --template=session@.service -- {shlex.quote(text)}")
            expect_equal(client.receive_line(), unit, f"the unit of {text}")
            client.close()
            tetherd.wait_ended(client, "eof")
        for text, said in (("a/b", "has a '/' or"), ("a..b", "has a '/' or"), ("", "no instance"),
                           ("x" * 240, "longer than 255")):
            machine().write("/run/value", text + "\n")
            fails(tetherd, said)
        machine().write("/run/value", "x" * (255 - len("session@.service")) + "\n")
        ready(tetherd)


@scene()
def a_start_that_takes_too_long_is_stopped():
    with held("slow@%i.service", "load_timeout = 500ms") as tetherd:
        client = fails(tetherd, "timed out after 500ms", cause="load-timeout")
        expect_equal(state(f"slow@{client.id}.service"), "inactive", "the unit")


@scene()
def a_client_that_leaves_while_it_starts():
    with held("slow@%i.service") as tetherd:
        client = tetherd.connect(7400)
        unit = f"slow@{client.id}.service"
        eventually(lambda: state(unit) == "activating", f"{unit} is being started")
        client.close()
        machine().path("/run/go-on").touch()
        tetherd.wait_ended(client, "eof", state="loading")
        expect_equal(state(unit), "inactive", unit)


@scene()
def one_that_ignores_sigterm():
    with held("stubborn@%i.service") as tetherd:
        client = ready(tetherd)
        client.receive_line()
        client.close()
        tetherd.wait_ended(client, "eof")
        expect(state(f"stubborn@{client.id}.service") in ("inactive", "failed"), "it is gone")
        expect(not tetherd.find("release-failed"), "its release failed")
    with held("stubborn@%i.service", "release_timeout = 200ms") as tetherd:
        client = ready(tetherd)
        client.receive_line()
        client.close()
        tetherd.wait_record("release-failed", TETHERD_CONNECTION=client.id, MESSAGE=re.compile("timed out after 200ms"))
        tetherd.wait_ended(client, "eof")


OTHERS = """
[listener:slow]
listen = 127.0.0.1:7401
resources = slow

[resource:slow]
type = unit
unit = slow@%i.service

[listener:stubborn]
listen = 127.0.0.1:7402
resources = stubborn

[resource:stubborn]
type = unit
unit = stubborn@%i.service
"""


def while_all_is_under_way(trouble, is_away=False):
    """A unit that is held, one that ends, one that starts and one that stops: whatever systemd or the bus goes through,
    nothing of it is lost, and neither is what comes later. With `is_away`, `trouble` is a pair of commands, and all of
    them get on between the two."""
    def get_on():
        machine().run(f"systemctl stop session@{dies.id}.service")
        machine().path("/run/go-on").touch()
    with held("session@%i.service", OTHERS) as tetherd:
        kept, dies = ready(tetherd), ready(tetherd)
        stops = tetherd.connect(7402)
        tetherd.wait_ready(stops)
        starts = tetherd.connect(7401)
        eventually(lambda: state(f"slow@{starts.id}.service") == "activating", "one is being started")
        stops.close()
        eventually(lambda: state(f"stubborn@{stops.id}.service") == "deactivating", "one is being stopped")
        if is_away:
            machine().run(trouble[0])
            get_on()
            eventually(lambda: state(f"slow@{starts.id}.service") == "active", "one is started")
            eventually(lambda: state(f"stubborn@{stops.id}.service") == "inactive", "one is stopped")
            machine().run(trouble[1])
        else:
            machine().run(trouble)
            get_on()
        tetherd.wait_ready(starts, timeout=60)
        tetherd.wait_ended(stops, "eof", timeout=60)
        tetherd.wait_ended(dies, "resource-lost", timeout=60)
        kept.receive_line()
        kept.echo()
        expect_equal([record["MESSAGE"] for name in ("load-failed", "release-failed") for record in tetherd.find(name)],
                     [], "what failed")
        later = ready(tetherd)
        later.receive_line()
        later.close()
        tetherd.wait_ended(later, "eof", timeout=60)


@scene()
def the_bus_is_restarted():
    while_all_is_under_way("systemctl restart dbus.service")


@scene()
def the_bus_is_killed():
    while_all_is_under_way("systemctl kill --signal=KILL dbus.service")


@scene()
def the_bus_is_away_while_all_gets_on():
    while_all_is_under_way(("systemctl stop dbus.socket dbus.service", "systemctl start dbus.socket"), is_away=True)


@scene()
def systemd_executes_itself_again():
    while_all_is_under_way("systemctl daemon-reexec")


@scene()
def systemd_reloads():
    while_all_is_under_way("systemctl daemon-reload")


@scene()
def many_starts_and_stops_while_the_bus_is_restarted():
    with held("session@%i.service") as tetherd:
        clients = [tetherd.connect(7400) for _ in range(100)]
        tetherd.wait_record("ready", count=10)
        machine().run("systemctl restart dbus.service")
        tetherd.wait_record("ready", count=100, timeout=120)
        for client in clients:
            client.receive_line()
            client.close()
        tetherd.wait_record("closed", count=10)
        machine().run("systemctl daemon-reexec")
        tetherd.wait_record("closed", count=100, timeout=120, TETHERD_CAUSE="eof")
        expect(not tetherd.find("release-failed"), "a release failed")


@scene()
def without_a_bus_loads_fail_and_releases_wait():
    with held("session@%i.service") as tetherd:
        client = ready(tetherd)
        client.receive_line()
        machine().run("systemctl stop dbus.socket dbus.service")
        client.close()
        tetherd.wait_record(MESSAGE=re.compile("^there is no systemd on the system bus"), timeout=20)
        fails(tetherd, "session@.* cannot be started: no systemd on the system bus: ")
        expect_equal(state(f"session@{client.id}.service"), "active", "the unit whose release waits")
        machine().run("systemctl start dbus.socket")
        tetherd.wait_record(MESSAGE="systemd is on the system bus again", timeout=30)
        tetherd.wait_ended(client, "eof", timeout=30)
        ready(tetherd)


def history(name):
    return [line.split() for line in machine().read("/run/history").splitlines() if line.endswith(name)]


@scene()
def after_sigkill_each_is_stopped_once():
    with held("counted@%i.service", "[daemon]\npreserve = no") as tetherd:
        clients = [ready(tetherd) for _ in range(5)]
        machine().run("systemctl kill --signal=KILL --kill-whom=main tetherd")
        for client in clients:
            tetherd.wait_record("closed", TETHERD_CONNECTION=client.id, TETHERD_CAUSE="orphaned", timeout=30)
            expect_equal(history(client.id), [["start", client.id], ["stop", client.id]], "what became of it")
        again = ready(tetherd)
        expect_equal(state(f"counted@{again.id}.service"), "active", "the next one")


@scene()
def after_sigkill_while_it_starts():
    with held("slow@%i.service", "[daemon]\npreserve = no") as tetherd:
        client = tetherd.connect(7400)
        unit = f"slow@{client.id}.service"
        eventually(lambda: state(unit) == "activating", f"{unit} is being started")
        machine().run("systemctl kill --signal=KILL --kill-whom=main tetherd")
        tetherd.wait_record("closed", TETHERD_CONNECTION=client.id, TETHERD_CAUSE="orphaned", timeout=30)
        expect_equal(state(unit), "inactive", unit)


@scene()
def a_restart_keeps_them_and_watches_them_again():
    with held("counted@%i.service") as tetherd:
        kept, dies, dead = (ready(tetherd) for _ in range(3))
        tetherd.drop_in(f"[Service]\nExecStartPre=+/bin/systemctl stop counted@{dead.id}.service\n")
        machine().run("systemctl restart tetherd")
        tetherd.wait_ended(dead, "resource-lost", timeout=30)
        kept.receive_line()
        kept.echo()
        machine().run(f"systemctl stop counted@{dies.id}.service")
        tetherd.wait_ended(dies, "resource-lost", timeout=30)
        kept.close()
        tetherd.wait_ended(kept, "eof")
        expect_equal(history(kept.id), [["start", kept.id], ["stop", kept.id]], "what became of it")


@scene()
def a_stop_releases_them():
    with held("counted@%i.service") as tetherd:
        clients = [ready(tetherd) for _ in range(5)]
        machine().run("systemctl stop tetherd")
        for client in clients:
            tetherd.wait_ended(client, "shutdown")
            expect_equal(history(client.id), [["start", client.id], ["stop", client.id]], "what became of it")


@scene()
def the_machine_goes_down_and_comes_up_again():
    one = Machine()
    leases = one.work / "root/var/lib/tetherd/leases"
    def hold():
        """A client whose unit is active, and its record, which outlives the machine."""
        client = one.socket(7400)
        unit = client.recv(100).decode().strip()
        expect_equal(one.run(f"systemctl is-active {unit}"), "active\n", unit)
        expect_equal(len(list(leases.iterdir())), 1, "records")
        return client
    try:
        one.boot()
        one.make("install")
        write_units(one, "/etc/systemd/system")
        one.write(CONFIG_FILE, CONFIG.format(unit="session@%i.service", keys="persistent = yes", hello="no",
                                             resources="held"))
        one.run("systemctl enable --now tetherd")
        with hold():
            one.try_run("systemctl poweroff")
            one.nspawn.wait(60)
        expect_equal(list(leases.iterdir()), [], "records after it went down in order")
        one.boot()
        with hold():
            one.close()
        expect_equal(len(list(leases.iterdir())), 1, "records after a power cut")
        one.boot()
        expect_equal(list(leases.iterdir()), [], "records when it is up again")
        expect_equal(one.run("systemctl is-active tetherd"), "active\n", "tetherd")
        hold().close()
    finally:
        one.close()


@scene()
def signals_of_others_do_not_count():
    with held("slow@%i.service") as tetherd:
        client = tetherd.connect(7400)
        unit = f"slow@{client.id}.service"
        def job():
            return machine().run(f"systemctl show --property=Job --value {unit}").strip()
        eventually(job, f"{unit} has a job")
        names = machine().run("busctl list --no-legend --unique --no-pager").splitlines()
        own = next(line.split()[0] for line in names if line.split()[1] == str(tetherd.pid))
        machine().run(f"setpriv --reuid=65534 --regid=65534 --clear-groups dbus-send --system --type=signal --dest={own} "
                      "/org/freedesktop/systemd1 org.freedesktop.systemd1.Manager.JobRemoved "
                      f"uint32:{job()} objpath:/org/freedesktop/systemd1/job/{job()} string:{unit} string:done")
        other = tetherd.connect(7400)
        eventually(lambda: state(f"slow@{other.id}.service") == "activating", "a later one is being started")
        tetherd.poll_records()
        expect(not tetherd.find("ready"), "it is taken for started")
        machine().path("/run/go-on").touch()
        tetherd.wait_ready(client)


@scene()
def a_summary_tells_of_them():
    with held("session@%i.service") as tetherd:
        ready(tetherd)
        machine().run("systemctl kill --signal=USR1 --kill-whom=main tetherd")
        tetherd.wait_record(MESSAGE="summary: units: 1; 0 questions to systemd under way; the system bus is there")


if __name__ == "__main__":
    main()

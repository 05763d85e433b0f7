"""shutdown: SIGTERM, SIGINT, the second SIGTERM, drain_timeout, SIGKILL; and what the next start makes of it."""

import re
import select
import signal
from pathlib import Path

from harness import (GATE, MARK, Daemon, eventually, expect, expect_equal, hold, let_go, main, open_gate, scene,
                     wait_at_gate)

LOG = 'echo "$TETHERD_PHASE $TETHERD_RESOURCE $TETHERD_CONNECTION" >> <effects>'
# Notes what a release is told of the end.
TELL = LOG + '\necho "$TETHERD_CONNECTION $TETHERD_CAUSE $TETHERD_OPERATION ${TETHERD_RECOVERED:-0}" >> <dir>/told'


def config(load="<mark> %i", release="<mark> %i", keys=""):
    return f"""
[listener:door]
listen = <tcp4>, <unix>
handler = echo
resources = one, two
greeting = hi
[listener:shy]
listen = <tcp6>
handler = echo
hello = yes
resources = one, two
{keys}
[resource:one]
type = exec
load = <mark> %i
release = <tell>
[resource:two]
type = exec
load = {load}
release = {release}
"""


SCRIPTS = {"tell": TELL, "gated": GATE + TELL}


def told(daemon):
    lines = (daemon.directory / "told").read_text().splitlines()
    return {line.split()[0]: line.split()[1:] for line in lines}


def expect_reverse_order(daemon, client):
    phases = [line[:2] for line in daemon.effects() if line[2] == client.id]
    expect_equal(phases, [("load", "one"), ("load", "two"), ("release", "two"), ("release", "one")],
                 f"effects of {client.id}")


@scene(over=("SIGTERM", "SIGINT"))
def connections_in_every_state(signal_name):
    with Daemon(config("<gated>", "<gated>"), scripts=SCRIPTS) as daemon:
        ready = [daemon.connect_ready(kind) for kind in ("tcp4", "unix")]
        releasing = daemon.connect_ready()
        shaking = daemon.connect("tcp6").send(b"al")
        hold(daemon)
        releasing.half_close().receive_rest()
        wait_at_gate(releasing, "release")
        loading = daemon.connect()
        wait_at_gate(loading)
        let_go(daemon)
        everyone = [*ready, releasing, shaking, loading]
        ids = [client.id for client in everyone]  # asked for now: they have records
        daemon.kill(getattr(signal, signal_name))
        daemon.wait_notified("STOPPING=1")
        for client in [*ready, shaking]:
            client.receive_rest()
        try:
            daemon.connect()
            raise AssertionError("still accepting")
        except ConnectionRefusedError:
            pass
        daemon.poll_records()
        expect(not daemon.endings(loading.id), "a load under way was not waited for")
        open_gate(loading)
        open_gate(releasing, "release")
        daemon.wait_exit(0)
        for client in ready:
            daemon.wait_ended(client, "shutdown", PRIORITY=6)
            expect_reverse_order(daemon, client)
            expect_equal(told(daemon)[client.id], ["shutdown", "close", "0"], "told to release")
        daemon.wait_ended(loading, "shutdown", state="loading")
        expect_reverse_order(daemon, loading)
        daemon.wait_ended(releasing, "eof")
        expect_reverse_order(daemon, releasing)
        daemon.wait_ended(shaking, "shutdown", event="rejected", state="handshake")
        expect_equal(len(set(ids)), len(ids), "ids")


@scene()
def connections_not_yet_accepted():
    with Daemon(config(), scripts=SCRIPTS) as daemon:
        with daemon.frozen():
            clients = [daemon.connect() for _ in range(5)]
            daemon.kill(signal.SIGTERM)
        daemon.wait_exit(0)
        for client in clients:
            client.receive_rest()  # an end, not a hang
        daemon.forget_clients()


@scene()
def nobody_connected():
    with Daemon(config(), scripts=SCRIPTS) as daemon:
        daemon.stop(signal.SIGTERM, 0)


@scene()
def loaded_lease_with_a_second_sigterm():
    with Daemon(config(release="<gated>"), scripts=SCRIPTS) as daemon:
        idle_files = daemon.idle_files
        client = daemon.connect_ready()
        hold(daemon)
        daemon.kill(signal.SIGTERM)
        wait_at_gate(client, "release")
        daemon.kill(signal.SIGTERM)
        daemon.wait_exit(1)
        expect(daemon.ledger_files(), "the ledger forgot the lease that was left")
        let_go(daemon)
        (daemon.directory / f"gate.release.{client.id}").unlink()
        restart_and_expect_recovered(daemon, client, idle_files)


@scene()
def load_under_way_with_a_second_sigterm():
    with Daemon(config("<gated>", "<gated>"), scripts=SCRIPTS) as daemon:
        idle_files = daemon.idle_files
        hold(daemon)
        client = daemon.connect()
        wait_at_gate(client)
        daemon.kill(signal.SIGTERM)
        daemon.wait_notified("STOPPING=1")
        daemon.kill(signal.SIGTERM)
        daemon.wait_exit(1)
        let_go(daemon)
        daemon.start()
        daemon.idle_files = idle_files
        daemon.wait_record("recovered", TETHERD_CONNECTION=client.id)
        # The load did not get so far as to say "load two", but it may have left something.
        expect_equal([line[:2] for line in daemon.effects()],
                     [("load", "one"), ("release", "two"), ("release", "one")], "effects")
        daemon.effects_path.write_text("")


def restart_and_expect_recovered(daemon, client, idle_files):
    daemon.start()
    daemon.idle_files = idle_files
    daemon.wait_record("recovered", TETHERD_CONNECTION=client.id, PRIORITY=5)
    expect_reverse_order(daemon, client)
    expect_equal(told(daemon)[client.id], ["orphaned", "none", "1"], "told to release")


@scene()
def drain_timeout():
    scripts = {**SCRIPTS, "hang": "[ ! -e <dir>/hold ] || sleep 1000\n" + TELL}
    with Daemon(config(release="<hang>"), {"drain_timeout": "1s"}, scripts) as daemon:
        idle_files = daemon.idle_files
        clients = [daemon.connect_ready() for _ in range(3)]
        hold(daemon)
        daemon.stop(status=1)
        count = [record for record in daemon.records if re.search(r"\b3\b.*\bleases?\b", record["MESSAGE"])]
        expect_equal(len(count), 1, "lines that say how many leases were left")
        let_go(daemon)
        daemon.start()
        daemon.idle_files = idle_files
        for client in clients:
            daemon.wait_record("recovered", TETHERD_CONNECTION=client.id)
            expect_reverse_order(daemon, client)
            expect_equal(told(daemon)[client.id], ["orphaned", "none", "1"], "told to release")


@scene()
def sigkill_and_restart():
    workdir = "[resource:workdir]\ntype = directory\npath = <dir>/connections/%i\n"
    text = config(release="<tell>").replace("resources = one, two", "resources = one, workdir, two") + workdir
    with Daemon(text, scripts=SCRIPTS) as daemon:
        idle_files = daemon.idle_files
        clients = [daemon.connect_ready(kind) for kind in ("tcp4", "unix", "tcp4")]
        ids = [client.id for client in clients]
        expect_equal(len(list((daemon.directory / "connections").iterdir())), 3, "directories")
        daemon.crash()
        daemon.start()
        daemon.idle_files = idle_files
        for client in clients:
            daemon.wait_record("recovered", TETHERD_CONNECTION=client.id, PRIORITY=5)
            expect_reverse_order(daemon, client)
            expect_equal(told(daemon)[client.id], ["orphaned", "none", "1"], "told to release")
        expect_equal(list((daemon.directory / "connections").iterdir()), [], "directories")
        again = daemon.connect_ready()
        expect(int(again.id, 16) > max(int(i, 16) for i in ids), f"id {again.id} does not go on after {ids}")
        again.close()


@scene()
def nobody_is_accepted_before_recovery_is_done():
    with Daemon(config(release="<gated>"), scripts=SCRIPTS) as daemon:
        idle_files = daemon.idle_files
        client = daemon.connect_ready()
        identity = client.id
        daemon.crash()
        hold(daemon)
        daemon.spawn()
        wait_at_gate(client, "release")
        early = daemon.connect()  # the kernel may take it, but the daemon must not
        expect(not select.select([early.socket], [], [], 0.5)[0], f"served while {identity} is not released")
        let_go(daemon)
        open_gate(client, "release")
        daemon.wait_notified("READY=1")
        expect_reverse_order(daemon, client)
        expect_equal(early.receive_line(), "hi\n", "greeting of who came early")
        early.close()
        daemon.wait_ended(early, "eof")
        daemon.note_idle()
        daemon.idle_files = idle_files


@scene()
def command_of_the_dead_daemon_is_ended_first():
    scripts = {**SCRIPTS, "slow": "echo $$ > <dir>/pid\n[ ! -e <dir>/hold ] || sleep 1000", "down": (
        # a zombie does not run any more: who reaps it is not the daemon's business
        '! grep -q "^State:.[^ZX]" /proc/$(cat <dir>/pid)/status || touch <dir>/wrong')}
    with Daemon(config("<slow>", "<down>"), scripts=scripts) as daemon:
        idle_files = daemon.idle_files
        hold(daemon)
        client = daemon.connect()
        pid = eventually(lambda: (daemon.directory / "pid").exists() and (daemon.directory / "pid").read_text(),
                         "the load runs")
        client.id
        daemon.crash()
        let_go(daemon)
        daemon.start()
        daemon.idle_files = idle_files
        daemon.wait_record("recovered", TETHERD_CONNECTION=client.id)
        expect(not (daemon.directory / "wrong").exists(), f"process {pid} ran on while its load was released")


@scene()
def release_that_was_under_way_at_the_crash_runs_again():
    with Daemon(config(release="<gated>"), scripts=SCRIPTS) as daemon:
        idle_files = daemon.idle_files
        client = daemon.connect_ready()
        hold(daemon)
        client.half_close().receive_rest()
        wait_at_gate(client, "release")
        daemon.crash()
        let_go(daemon)
        (daemon.directory / f"gate.release.{client.id}").unlink()
        daemon.start()
        daemon.idle_files = idle_files
        daemon.wait_record("recovered", TETHERD_CONNECTION=client.id)
        expect_reverse_order(daemon, client)


@scene()
def a_lease_is_released_as_it_was_configured_when_it_was_loaded():
    scripts = {**SCRIPTS, "other": 'echo "wrong command" >> <dir>/wrong'}
    with Daemon(config(release="<tell> old"), scripts=scripts) as daemon:
        idle_files = daemon.idle_files
        client = daemon.connect_ready()
        client.id
        daemon.crash()
        daemon.configure(f"[listener:new]\nlisten = <tcp4>\nhandler = echo\nresources = mark\n{MARK}")
        daemon.start()
        daemon.idle_files = idle_files
        daemon.wait_record("recovered", TETHERD_CONNECTION=client.id)
        expect_reverse_order(daemon, client)


@scene()
def ledger_records_that_cannot_be_read():
    with Daemon(config(), scripts=SCRIPTS) as daemon:
        idle_files = daemon.idle_files
        client = daemon.connect_ready()
        client.id
        files = [Path(path) for path in daemon.ledger_files() if Path(path).is_file()]
        daemon.crash()
        expect(files, "no ledger record")
        garbage = files[0].with_name("ffffffffff")
        for path, content in ((garbage, b"\0garbage\xff\n"), (files[0].with_name("fffffffffe"), b"")):
            path.write_bytes(content)
        daemon.start()
        daemon.wait_record("recovered", TETHERD_CONNECTION=client.id)
        expect_reverse_order(daemon, client)
        daemon.stop()
        for path in (garbage, garbage.with_name("fffffffffe")):
            path.unlink(missing_ok=True)
        daemon.idle_files = idle_files | daemon.files()


@scene()
def stopping_is_told_to_the_service_manager():
    with Daemon(config(), scripts=SCRIPTS) as daemon:
        daemon.connect_ready()
        daemon.kill(signal.SIGTERM)
        daemon.wait_notified("STOPPING=1")
        daemon.wait_exit(0)


if __name__ == "__main__":
    main()

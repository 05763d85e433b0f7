"""unit: tetherd.service as it is shipped: what runs, as whom, what a reload, a bad file and a crash come to."""

import os
import platform
import re
import socket

from machine import CONFIG_FILE, TOP, Service, machine, main, scene

from harness import Skip, eventually, expect, expect_equal
from harness.network import inside_network

ECHO = """
[listener:echo]
listen = 127.0.0.1:7400
handler = echo
"""
HELD = """
[listener:held]
listen = 127.0.0.1:7400
handler = echo
resources = workdir, session
greeting = %{session} in %{workdir}

[resource:workdir]
type = directory
path = /run/tetherd/connections/%i

[resource:session]
type = exec
load = /usr/lib/tetherd/examples/session-up %i %{workdir}
release = /usr/lib/tetherd/examples/session-down %i
"""
WORST_SCORE = 1.5
NOBODY = 65534


def kernel():
    return tuple(map(int, re.findall(r"\d+", platform.release())[:2]))


def with_shipped_config():
    return Service((TOP / "conf/tetherd.conf").read_text())


@scene()
def it_is_no_more_exposed_than_promised():
    score = machine().run("systemd-analyze security --no-pager tetherd.service; :").rsplit("tetherd.service: ", 1)[1]
    expect(float(score.split()[0]) <= WORST_SCORE, f"systemd-analyze security says {score.strip()}, not {WORST_SCORE}")
    said = machine().try_run("systemd-analyze verify --man=no tetherd.service tetherd@a.service tetherd.socket")
    expect_equal(said.stderr + said.stdout, "", "what systemd-analyze verify says of the units")


@scene()
def the_unit_says_what_the_manual_says():
    promised = {"User": "tetherd", "Group": "tetherd", "Type": "notify", "KillMode": "mixed", "OOMPolicy": "continue",
                "Restart": "on-failure", "RestartPreventExitStatus": "2 78", "RuntimeDirectoryPreserve": "yes",
                "LogRateLimitIntervalUSec": "0"}
    for unit in ("tetherd", "tetherd@a"):
        said = machine().run(f"systemctl show {unit}.service")
        properties = dict(line.split("=", 1) for line in said.splitlines())
        expect_equal({name: properties[name] for name in promised}, promised, f"of {unit}.service")
        expect(int(properties["LimitNOFILE"]) >= 1_000_000 + 1000, "descriptors for 1,000,000 connections")
        expect_equal(properties["RuntimeDirectory"], unit.replace("@", "-"), "RuntimeDirectory")
        expect_equal(properties["StateDirectory"], unit.replace("@", "-"), "StateDirectory")
    printed = machine().run("tetherd --print-config -c /dev/null")
    expect("drain_timeout = 30s" in printed and properties["TimeoutStopUSec"] == "45s", "it may drain before it is killed")


@scene()
def a_port_that_is_still_taken_is_waited_for():
    with Service(ECHO) as tetherd:
        with inside_network(machine().pid), socket.create_server(("127.0.0.1", 7400)):
            machine().run("systemctl --no-block start tetherd")
            eventually(lambda: int(tetherd.show("NRestarts")) >= 3, "it tries again")
        eventually(lambda: tetherd.show("ActiveState") == "active", "it has the port")
        tetherd.connect(7400).echo()


@scene()
def it_starts_with_the_shipped_configuration():
    with with_shipped_config() as tetherd:
        tetherd.start()
        client = tetherd.connect(7400)
        tetherd.wait_ready(client)
        eventually(lambda: "(1 ready" in tetherd.show("StatusText"), lambda: f"STATUS shows the connection: "
                   f"{tetherd.show('StatusText')}")
        client.close()
        tetherd.wait_ended(client, "eof")


@scene()
def it_runs_as_its_own_user_without_a_capability():
    with Service(ECHO) as tetherd:
        tetherd.start()
        status = machine().read(f"/proc/{tetherd.pid}/status")
        uid = machine().run("id -u tetherd").strip()
        expect_equal(re.findall(r"^[UG]id:\s+(\d+)\s+(\d+)", status, re.M), [(uid, uid)] * 2, "its user and group")
        capabilities = dict(re.findall(r"^Cap(\w+):\s*(\w+)$", status, re.M))
        expect_equal({kind: int(bits, 16) for kind, bits in capabilities.items()},
                     dict.fromkeys(("Inh", "Prm", "Eff", "Bnd", "Amb"), 0), "its capabilities")
        expect("NoNewPrivs:\t1" in status, "it may gain privileges")
        for folder, mode in (("/run/tetherd", "755"), ("/var/lib/tetherd", "755")):
            expect_equal(machine().run(f"stat -c '%U %a' {folder}").split(), ["tetherd", mode], folder)


@scene()
def its_time_slice_is_short_and_that_of_its_commands_is_not():
    told = "grep ^se.slice /proc/self/sched"
    usual = machine().try_run(told).stdout.split()
    if not usual or kernel() < (6, 12):
        raise Skip("this kernel knows one slice for all")
    config = ECHO + f"greeting = %{{told}}\nresources = told\n[resource:told]\ntype = exec\nload = {told}\n"
    with Service(config) as tetherd:
        tetherd.start()
        own = machine().run(told.replace("self", str(tetherd.show("MainPID"))))
        expect_equal(own.split()[-1], "100000", "ns of the daemon")
        expect_equal(tetherd.connect(7400).receive_line().split(), usual, "of a command")


@scene()
def directories_and_commands():
    with Service(HELD) as tetherd:
        tetherd.start()
        client = tetherd.connect(7400)
        folder = f"/run/tetherd/connections/{client.id}"
        expect_equal(client.receive_line(), f"session-{client.id} in {folder}\n", "the greeting")
        expect(f"connection {client.id} on held" in machine().read(f"{folder}/session"), "session-up wrote its file")
        client.close()
        tetherd.wait_ended(client, "eof")
        expect(not machine().path(folder).exists(), f"{folder} is still there")
        tetherd.wait_record(TETHERD_RESOURCE="session", TETHERD_PHASE="release",
                            MESSAGE=re.compile(f"session of {client.id} torn down: eof after"))


@scene()
def clients_of_a_unix_socket_are_told_apart_by_their_user():
    with Service("""
[listener:local]
listen = /run/tetherd/local.sock
socket_mode = 0666
handler = echo
refusal = NO %c
allow = uid:0, user:nobody
deny = uid:1000
""") as tetherd:
        tetherd.start()
        for uid in (0, NOBODY):
            client = tetherd.connect("/run/tetherd/local.sock", uid=uid)
            client.echo()
            expect_equal(tetherd.wait_ready(client)["TETHERD_PEER_UID"], str(uid), "TETHERD_PEER_UID")
            client.close()
            tetherd.wait_ended(client, "eof")
        for uid in (1000, 1001):
            client = tetherd.connect("/run/tetherd/local.sock", uid=uid)
            expect_equal(client.receive_rest(), b"NO denied\n", f"what uid {uid} is told")
            tetherd.wait_ended(client, "denied", event="rejected", state="accept", TETHERD_PEER_UID=uid)


@scene()
def a_reload_applies_a_good_file_and_refuses_a_bad_one():
    with Service(ECHO) as tetherd:
        tetherd.start()
        pid = tetherd.pid
        client = tetherd.connect(7400).echo()
        tetherd.configure(ECHO.replace("7400", "7400, 127.0.0.1:7401"))
        machine().run("systemctl reload tetherd")
        tetherd.wait_record("reloaded")
        tetherd.connect(7401).echo()
        tetherd.configure(ECHO + "no_such_key = 1\n")
        machine().run("systemctl reload tetherd")
        tetherd.wait_record("reload-failed", MESSAGE=re.compile("no_such_key"))
        client.echo()
        tetherd.connect(7401).echo()
        expect_equal((tetherd.pid, tetherd.show("ActiveState")), (pid, "active"), "pid and state after the reloads")


@scene()
def a_bad_configuration_is_not_tried_again():
    with Service("[listener:a]\n") as tetherd:
        said = tetherd.fail_to_start()
        expect(f"{CONFIG_FILE}:3: [listener:a] has no listen" in said, f"what it says of the file: {said}")
        expect_equal([tetherd.show(name) for name in ("ExecMainStatus", "NRestarts", "ActiveState")],
                     ["78", "0", "failed"], "exit status, restarts and state")


@scene()
def after_sigkill_it_is_started_again_and_releases_what_was_left():
    with Service(HELD + "[daemon]\npreserve = no\n") as tetherd:
        tetherd.start()
        clients = [tetherd.connect(7400) for _ in range(5)]
        for client in clients:
            tetherd.wait_ready(client)
        expect_equal(len(os.listdir(machine().path("/run/tetherd/connections"))), 5, "directories of five clients")
        machine().run("systemctl kill --signal=KILL --kill-whom=main tetherd")
        for client in clients:
            tetherd.wait_record("closed", TETHERD_CONNECTION=client.id, TETHERD_CAUSE="orphaned", timeout=20)
        expect_equal(os.listdir(machine().path("/run/tetherd/connections")), [], "directories that are left")
        eventually(lambda: tetherd.show("ActiveState") == "active", "it runs again")
        expect_equal(tetherd.show("NRestarts"), "1", "restarts")
        again = tetherd.connect(7400)
        tetherd.wait_ready(again)
        expect(int(again.id, 16) > max(int(client.id, 16) for client in clients), "ids go on increasing")


if __name__ == "__main__":
    main()

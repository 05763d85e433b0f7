"""instances: tetherd@a and tetherd@b beside tetherd: each with its own file, directories and name in the records."""

import contextlib
import json

from machine import Service, machine, main, scene

from harness import expect_equal

UNITS = {"tetherd": 7400, "tetherd@a": 7401, "tetherd@front-door": 7402}


def instance_of(unit):
    return unit.partition("@")[2] or None


def folder_of(unit):
    return unit.replace("@", "-")


@contextlib.contextmanager
def running():
    with contextlib.ExitStack() as stack:
        services = {}
        for unit, port in UNITS.items():
            config = f"""
[listener:echo]
listen = 127.0.0.1:{port}, /run/{folder_of(unit)}/socket
resources = workdir
greeting = %{{workdir}}
[resource:workdir]
type = directory
path = /run/{folder_of(unit)}/connections/%i
"""
            path = f"/etc/tetherd/{instance_of(unit) or 'tetherd'}.conf"
            services[unit] = stack.enter_context(Service(config, f"{unit}.service", path)).start()
        yield services


@scene()
def each_has_directories_and_records_of_its_own():
    with running() as services:
        clients = {unit: tetherd.connect(UNITS[unit]) for unit, tetherd in services.items()}
        for unit, client in clients.items():
            folder = f"/run/{folder_of(unit)}"
            expect_equal(client.receive_line(), f"{folder}/connections/{client.id}\n", f"the greeting of {unit}")
            for path in (folder, f"/var/lib/{folder_of(unit)}"):
                expect_equal(machine().run(f"stat -c %U {path}").strip(), "tetherd", f"owner of {path}")
            client.close()
            record = services[unit].wait_ended(client, "eof")
            expect_equal(record.get("TETHERD_INSTANCE"), instance_of(unit), f"TETHERD_INSTANCE of {unit}")
            expect_equal(record["_SYSTEMD_UNIT"], f"{unit}.service", "the unit that the journal knows")
        said = machine().run("journalctl -q -o json TETHERD_INSTANCE=front-door TETHERD_EVENT=closed")
        expect_equal([json.loads(line)["TETHERD_CONNECTION"] for line in said.splitlines()],
                     [clients["tetherd@front-door"].id], "endings that its name alone finds")


@scene()
def one_that_stops_takes_nothing_of_the_others():
    with running() as services:
        kept = services["tetherd@a"].connect("/run/tetherd-a/socket")
        folder = kept.receive_line().strip()
        machine().run("systemctl stop tetherd tetherd@front-door")
        expect_equal(machine().path(folder).is_dir(), True, f"{folder} is there")
        kept.send(b"still here\n")
        services["tetherd@a"].connect(7401).receive_line()
        kept.close()
        services["tetherd@a"].wait_ended(kept, "eof", TETHERD_BYTES_RECEIVED=11)


@scene()
def a_second_daemon_on_the_same_directories_is_refused():
    with Service("[listener:a]\nlisten = 127.0.0.1:7400\n") as tetherd:
        tetherd.start()
        pid = tetherd.pid
        done = machine().try_run("RUNTIME_DIRECTORY=/run/tetherd STATE_DIRECTORY=/var/lib/tetherd tetherd")
        expect_equal(done.returncode, 1, "exit status of the second daemon")
        expect_equal(f"is locked by another tetherd, pid {pid}" in done.stderr, True, f"what it says: {done.stderr}")
        tetherd.connect(7400)


if __name__ == "__main__":
    main()

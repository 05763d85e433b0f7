"""activation: the socket units open the sockets, the first client starts tetherd, and none is lost while it restarts."""

import socket

from machine import Service, machine, main, scene

from harness import eventually, expect, expect_equal

LOCAL = "/run/tetherd-local.sock"
CONFIG = """
preserve = no
[listener:presence]
listen = systemd:presence
handler = echo
[listener:local]
listen = systemd:local
handler = echo
"""
# The shipped unit opens port 7400 of both families; this is one that an administrator adds.
LOCAL_UNIT = f"""
[Socket]
ListenStream={LOCAL}
SocketMode=0666
FileDescriptorName=local
Service=tetherd.service
"""
UNITS = "tetherd.socket tetherd-local.socket"
TCP6 = (socket.AF_INET6, ("::1", 7400))


class Activated(Service):
    def __init__(self, config=CONFIG):
        super().__init__(config)

    def __enter__(self):
        super().__enter__()
        self.write("/etc/systemd/system/tetherd-local.socket", LOCAL_UNIT)
        self.machine.run(f"systemctl daemon-reload; systemctl start {UNITS}")
        return self

    def __exit__(self, *what):
        self.forget_clients()  # one that still waits would start it again
        self.machine.try_run(f"systemctl stop {UNITS} tetherd")
        super().__exit__(*what)


@scene()
def first_client_starts_it():
    for first in (7400, TCP6, LOCAL):
        with Activated() as tetherd:
            expect_equal(tetherd.show("ActiveState"), "inactive", "state before the first client")
            tetherd.connect(first).echo()
            expect_equal(tetherd.show("ActiveState"), "active", "state after it")
            for other in (7400, TCP6, LOCAL):
                tetherd.connect(other).echo()
            expect_equal(sorted(record["TETHERD_ADDRESS"] for record in tetherd.poll_records()
                                if record.get("TETHERD_EVENT") == "listening"),
                         [LOCAL, "127.0.0.1:7400", "[::1]:7400"], "the addresses of its listeners")


@scene()
def who_connects_during_a_restart_is_served():
    with Activated() as tetherd:
        tetherd.start()
        tetherd.drop_in("[Service]\nExecStartPre=/bin/sh -c 'while [ -e /run/pause ]; do sleep 0.05; done'\n")
        for _ in range(3):
            machine().write("/run/pause", "")
            machine().run("systemctl restart --no-block tetherd")
            eventually(lambda: tetherd.show("SubState") == "start-pre", "the first process is gone", 30)
            early = [tetherd.connect(to).send(b"early") for to in (7400, TCP6, LOCAL) for _ in range(20)]
            machine().path("/run/pause").unlink()
            for client in early:
                expect_equal(client.receive(5), b"early", "the echo")
        expect(machine().path(LOCAL).exists(), "the socket's file is gone")


@scene()
def clients_of_a_stop_start_it_again():
    with Activated() as tetherd:
        tetherd.connect(7400).echo()
        before = tetherd.pid
        machine().run("systemctl stop tetherd")
        tetherd.connect(LOCAL).echo()
        expect(tetherd.pid not in (0, before), "it was not started again")


@scene()
def without_the_socket_unit_it_says_so():
    with Service(CONFIG) as tetherd:
        said = tetherd.fail_to_start()
        expect("systemd:presence" in said and "FileDescriptorName=" in said, f"what it says: {said}")


if __name__ == "__main__":
    main()

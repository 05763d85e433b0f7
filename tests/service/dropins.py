"""dropins: what the bare unit cannot do is told at the start, with the command that gives the drop-in; with it, it
works, and the commands of resources get nothing of it."""

import re

from machine import RULES, Service, machine, main, scene

from harness import eventually, expect, expect_equal

FOLDER = "/etc/systemd/system/tetherd.service.d"


def listener(resources="", port=7400):
    return f"""
[listener:a]
listen = 127.0.0.1:{port}
handler = echo
resources = {resources}
greeting = here I am
"""


CONFIG = listener()
COMMANDS = """
[resource:who]
type = exec
load = /bin/sh -c 'id -un; grep ^Cap /proc/self/status'
user = games
"""
SLOW_COMMAND = """
[resource:who]
type = exec
load = /bin/sh -c 'echo $$; exec sleep infinity'
user = games
load_timeout = 1s
"""
DIRECTORY = """
[resource:given]
type = directory
path = /run/tetherd/connections/%i
user = games
mode = 0750
"""


def refused_until(tetherd, drop_in, key, config):
    """Its start is refused for this key, and so is a reload; the command that the fault names makes it start."""
    tetherd.configure(CONFIG)
    tetherd.start()
    tetherd.configure(config)
    machine().run("systemctl reload tetherd")
    tetherd.wait_record("reload-failed", MESSAGE=re.compile(re.escape(drop_in)))
    tetherd.connect(7400).receive_line()
    machine().run("systemctl stop tetherd")
    tetherd.records.clear()

    said = tetherd.fail_to_start()
    expect_equal([tetherd.show(name) for name in ("ExecMainStatus", "NRestarts")], ["78", "0"],
                 "exit status and restarts")
    found = re.search(rf"^/etc/tetherd/tetherd.conf:\d+: ({key} = [^\n]*?): [^\n]*; tetherd.service may with a drop-in: "
                      rf"(install [^\n]*{drop_in} && systemctl daemon-reload)$", said, re.M)
    expect(found, f"no fault names {key} and {drop_in}: {said}")
    tetherd.undo(f"{FOLDER}/{drop_in}")
    machine().run(found[2])
    tetherd.start()


@scene()
def ports_below_1024():
    # The kernel of a container lets everybody have them; a machine's does not.
    machine().run("sysctl -q net.ipv4.ip_unprivileged_port_start=1024")
    with Service(CONFIG) as tetherd:
        refused_until(tetherd, "ports.conf", "listen", listener(port=80))
        tetherd.connect(80).receive_line()


@scene()
def commands_as_another_user():
    with Service(CONFIG) as tetherd:
        refused_until(tetherd, "users.conf", "user", listener("who") + COMMANDS)
        client = tetherd.connect(7400)
        client.receive_line()
        said = "\n".join(record["MESSAGE"] for record in tetherd.poll_records() if record.get("TETHERD_PHASE") == "load")
        expect_equal(re.findall(r"Cap(?:Prm|Eff|Amb):\t0*([1-9a-f]\w*)", said), [], "capabilities of the command")
        expect(len(re.findall(r"CapEff:\t0+$", said, re.M)) == 1, f"the command did not tell its capabilities: {said}")


@scene()
def who_the_command_is():
    with Service(listener("who").replace("here I am", "%{who}") + COMMANDS) as tetherd:
        tetherd.drop_in(machine().read("/usr/share/tetherd/drop-ins/users.conf"))
        tetherd.start()
        expect_equal(tetherd.connect(7400).receive_line(), "games\n", "the user that the command is")


@scene()
def commands_of_its_own_get_no_capability_of_the_drop_in():
    with Service(listener("who") + COMMANDS.replace("user = games\n", "")) as tetherd:
        tetherd.drop_in(machine().read("/usr/share/tetherd/drop-ins/users.conf"))
        tetherd.drop_in("[Service]\nCapabilityBoundingSet=CAP_NET_ADMIN\nAmbientCapabilities=CAP_NET_ADMIN\n", "z.conf")
        tetherd.start()
        tetherd.connect(7400).receive_line()
        tetherd.wait_record(TETHERD_PHASE="load", MESSAGE=re.compile("CapEff:\t0+1000$"))  # CAP_NET_ADMIN is bit 12


@scene()
def a_command_of_another_user_is_ended_when_its_time_is_over():
    with Service(listener("who") + SLOW_COMMAND) as tetherd:
        tetherd.drop_in(machine().read("/usr/share/tetherd/drop-ins/users.conf"))
        tetherd.start()
        client = tetherd.connect(7400)
        tetherd.wait_ended(client, "load-timeout", state="loading")
        expect_equal(machine().try_run("pgrep -u games").stdout, "", "processes of the command's user")


@scene()
def directories_of_another_user():
    with Service(CONFIG) as tetherd:
        refused_until(tetherd, "users.conf", "user", listener("given") + DIRECTORY)
        client = tetherd.connect(7400)
        client.receive_line()
        folder = f"/run/tetherd/connections/{client.id}"
        expect_equal(machine().run(f"stat -c '%U %G %a' {folder}").strip(), "games games 750", "owner and mode")
        machine().run(f"setpriv --reuid games --regid games --clear-groups sh -c "
                      f"'mkdir -m 700 {folder}/closed && touch {folder}/closed/file'")
        client.close()
        tetherd.wait_ended(client, "eof")
        expect(not machine().path(folder).exists(), f"{folder} is still there")


@scene()
def a_socket_of_another_user():
    with Service(CONFIG) as tetherd:
        config = listener().replace("127.0.0.1:7400", "/run/tetherd/games.sock") + "socket_user = games\n"
        refused_until(tetherd, "users.conf", "socket_user", config)
        expect_equal(machine().run("stat -c '%U %a' /run/tetherd/games.sock").strip(), "games 600", "owner and mode")
        tetherd.connect("/run/tetherd/games.sock", uid=5).receive_line()


@scene()
def device_nodes():
    machine().run("mkfifo -m 666 /dev/ttyTEST")
    with Service(CONFIG) as tetherd:
        config = listener("line") + "[resource:line]\ntype = exec\nload = /usr/bin/test -p /dev/ttyTEST\n"
        refused_until(tetherd, "devices.conf", "load", config)
        tetherd.connect(7400).receive_line()
        # It was plugged out: now this is no fault at the start, but of the load.
        machine().run("rm /dev/ttyTEST; systemctl restart tetherd")
        client = tetherd.connect(7400)
        tetherd.wait_ended(client, "load-failed", state="loading")


@scene()
def units_by_the_polkit_rule():
    """The rule itself: what tetherd may ask systemd for, as its user would ask."""
    def start(unit):
        return machine().try_run(f"setpriv --reuid tetherd --regid tetherd --clear-groups systemctl --no-ask-password "
                                 f"start {unit}").returncode
    with Service(CONFIG) as tetherd:
        tetherd.write("/etc/systemd/system/session@.service", "[Service]\nType=oneshot\nExecStart=/bin/true\n")
        machine().run("systemctl daemon-reload")
        expect(start("session@a.service") != 0, "it may start a unit that is not listed")
        tetherd.undo(RULES)
        rules = machine().read(RULES).replace('// "session@.service"', '"session@.service"')
        machine().path(RULES).write_text(rules)  # and polkitd(8) reads it
        eventually(lambda: start("session@a.service") == 0, "it may start a unit that is listed")
        expect(start("emergency.service") != 0, "it may start another unit")


if __name__ == "__main__":
    main()

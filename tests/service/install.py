"""install: from `make install` to `make uninstall` on a machine that never saw tetherd, as README.md tells it."""

import os
import re
import shlex
import textwrap

from machine import CONFIG_FILE, RULES, TOP, Machine, machine, main, scene

from harness import eventually, expect, expect_equal

INSTALLED = f"""
/usr/sbin/tetherd
/usr/lib/systemd/system/tetherd.service /usr/lib/systemd/system/tetherd@.service /usr/lib/systemd/system/tetherd.socket
/usr/share/tetherd/drop-ins/ports.conf /usr/share/tetherd/drop-ins/users.conf /usr/share/tetherd/drop-ins/devices.conf
/usr/lib/sysusers.d/tetherd.conf /usr/lib/tmpfiles.d/tetherd.conf
/usr/lib/systemd/catalog/tetherd.catalog /usr/share/bash-completion/completions/tetherd
/usr/share/man/man8/tetherd.8 /usr/share/man/man5/tetherd.conf.5 /usr/share/man/man3/tetherd-plugin.3
/usr/lib/tetherd/examples/session-up /usr/lib/tetherd/examples/session-down
/usr/lib/tetherd/examples/helper.py /usr/lib/tetherd/examples/helper.sh
/usr/include/tetherd/plugin.h /usr/share/pkgconfig/tetherd-plugin.pc /usr/share/tetherd/examples/chat.c
{CONFIG_FILE} {RULES}
""".split()
# What systemd-sysusers, journald and a boot write by themselves.
NOT_OURS = re.compile(r"/etc/(passwd|group|shadow|gshadow)-$|/etc/\.pwd\.lock$|/var/(log|tmp|cache)/|/var/lib/systemd/")


def files(one):
    """Everything that is on the disk of this machine."""
    found = one.run("find /etc /usr /var /opt /srv /root /home -xdev -print").splitlines()
    return {path for path in found if not NOT_OURS.search(path)}


def run_as_told(one, pattern):
    """Runs the command that README.md has in a block, when it matches."""
    blocks = re.findall(r"^ {4}(?:\$ )?(.*)$", (TOP / "README.md").read_text(), re.M)
    found = [line for line in blocks if re.search(pattern, line)]
    expect(found, f"README.md has no command like {pattern}")
    return one.run(found[0].replace("make ", f"make -C {TOP} "))


def hold_something(one):
    """README.md's resources, in a file of their own; the listener that it shows is the shipped one."""
    text = (TOP / "README.md").read_text()
    config = re.search(r"^ {4}\[listener:presence\]\n(?:(?: {4}.*)?\n)+", text, re.M)[0]
    one.write(f"{CONFIG_FILE}.d/readme.conf", textwrap.dedent(config))
    one.run("tetherd --check-config && systemctl reload tetherd")
    eventually(lambda: one.journal("TETHERD_EVENT=reloaded"), "the reload is recorded")
    client = one.socket(7400)
    folder = one.path("/run/tetherd/connections")
    session = eventually(lambda: list(folder.glob("*/session")), "the client has a directory and a session in it")[0]
    client.close()
    eventually(lambda: not session.parent.exists(), "they went with the client")
    life = f"TETHERD_CONNECTION={session.parent.name}"
    eventually(lambda: one.journal(life, "TETHERD_EVENT=closed"), "its ending is recorded")
    said = one.run(f"journalctl -q -o cat {life}")
    expect(" torn down: eof after" in said and "closed by peer" in said, f"the journal tells the client's life: {said}")
    one.run(f"rm -r {CONFIG_FILE}.d")


@scene()
def from_install_to_the_first_ending_and_back():
    one = Machine().boot()
    try:
        before = files(one)
        one.make("install")
        units = "tetherd.service tetherd@.service tetherd.socket"
        expect_equal(one.run(f"systemctl is-enabled {units}; :").split(), ["disabled"] * 3, "whether units are enabled")
        one.run("systemctl enable --now tetherd")
        client = one.socket(7400)
        client.sendall(b"hello\n")
        eventually(lambda: one.journal("TETHERD_EVENT=ready"), "its connection is ready")
        client.close()
        ended = eventually(lambda: one.journal("TETHERD_EVENT=closed"), "its ending is recorded")[0]
        expect_equal((ended["TETHERD_CAUSE"], ended["TETHERD_BYTES_RECEIVED"]), ("eof", "6"), "cause and bytes")
        expect("closed by peer" in one.run("journalctl -t tetherd TETHERD_EVENT=closed"), "README's journalctl shows it")

        hold_something(one)

        run_as_told(one, r"^systemctl disable --now tetherd$")
        run_as_told(one, r"^systemctl clean .*tetherd$")
        one.make("uninstall")
        left = sorted(files(one) - before)
        expect_equal(left, [], "what is left")
        expect_equal(sorted(before - files(one)), [], "what is missing")
        expect(not one.path("/run/tetherd").exists(), "/run/tetherd is left")
        expect("tetherd" not in one.run("systemctl list-unit-files; journalctl --list-catalog 2>&1"),
               "systemd still knows it")
    finally:
        one.close()


@scene()
def a_configuration_that_was_edited_is_kept():
    one = machine()
    shipped = {path: one.read(path) for path in (CONFIG_FILE, RULES)}
    try:
        for path, text in shipped.items():
            one.write(path, text + "\n")
        one.make("install")
        one.make("uninstall")
        for path, text in shipped.items():
            expect_equal(one.read(path), text + "\n", f"{path} after install and uninstall")
    finally:
        for path, text in shipped.items():
            one.write(path, text)
        one.make("install")


@scene()
def all_of_it_is_in_place_and_nothing_else():
    one = machine()
    image = "/root/image"
    def below(folder):
        return set(one.run(f"find {folder} -type f -printf '/%P\\n'").split())
    one.make(f"DESTDIR={image} install")
    expect_equal(sorted(below(image)), sorted(INSTALLED), "files of an image")
    for path in INSTALLED:
        expect_equal(one.run(f"cmp {path} {image}{path} && stat -c %U:%a {path}"),
                     one.run(f"stat -c %U:%a {image}{path}"), f"{path} of this machine, and of the image")
    expect_equal(one.run(f"{image}/usr/sbin/tetherd --check-config -c {image}{CONFIG_FILE}"), "", "the shipped file")
    one.make(f"DESTDIR={image} uninstall")
    expect_equal(below(image), set(), "files that are left in the image")
    one.make(f"DESTDIR={image} PREFIX=/opt/t install")
    moved = {path if path.startswith("/etc/") or "/catalog/" in path else path.replace("/usr/", "/opt/t/", 1)
             for path in INSTALLED}
    expect_equal(below(image), moved, "files of an image with a PREFIX")
    for unit in ("tetherd", "tetherd@"):
        expect("\nExecStart=/opt/t/sbin/tetherd" in one.read(f"{image}/opt/t/lib/systemd/system/{unit}.service"),
               f"what {unit}.service starts")
    one.make(f"DESTDIR={image} PREFIX=/opt/t uninstall")
    expect_equal(below(image), set(), "files that are left in the image")
    one.run(f"rm -r {image}")


@scene()
def an_upgrade_restarts_nothing_by_itself():
    def running():
        return one.run("stat -L -c %i /proc/$(systemctl show -P MainPID tetherd)/exe")
    one = machine()
    one.run("systemctl start tetherd")
    client = one.socket(7400)
    eventually(lambda: one.journal("TETHERD_EVENT=ready"), "its connection is ready")
    pid, old = one.run("systemctl show -P MainPID tetherd"), running()
    one.make("install")
    expect_equal(one.run("systemctl show -P MainPID tetherd"), pid, "pid after the second install")
    client.sendall(b"still here")
    # The next restart is the upgrade, and ends nobody.
    one.run("systemctl restart tetherd")
    expect(running() == one.run("stat -c %i /usr/sbin/tetherd") != old, "the new binary runs")
    client.sendall(b", and here")
    client.close()
    ended = eventually(lambda: one.journal("TETHERD_EVENT=closed"), "its ending is recorded")
    expect_equal([(record["TETHERD_CAUSE"], record["TETHERD_BYTES_RECEIVED"]) for record in ended], [("eof", "20")],
                 "causes and bytes")
    one.run("systemctl stop tetherd")


@scene()
def completion():
    def complete(line, *words):
        """What is offered at the end of the line, which bash splits into these words."""
        script = f"""
            . /usr/share/bash-completion/bash_completion
            _completion_loader tetherd
            COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_CWORD={len(words) - 1}
            COMP_WORDS=({shlex.join(words)})
            _tetherd 2>/dev/null
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        return set(machine().run(f"cd /etc/tetherd && bash -c {shlex.quote(script)}").split())
    options = set(re.findall(r"--[a-z-]+", machine().run("tetherd --help")))
    expect_equal({option.rstrip("=") for option in complete("tetherd --", "tetherd", "--")}, options,
                 "options, beside those of --help")
    expect_equal(complete("tetherd --log-target=j", "tetherd", "--log-target", "=", "j"), {"journal"},
                 "values of --log-target")
    expect_equal(complete("tetherd -c tether", "tetherd", "-c", "tether"), {"tetherd.conf"}, "files for -c")


@scene()
def the_manual_is_where_man_looks():
    for page in ("man8/tetherd.8", "man5/tetherd.conf.5"):
        installed = machine().path(f"/usr/share/man/{page}")
        expect_equal(installed.read_text(), (TOP / "man" / os.path.basename(page)).read_text(), page)


if __name__ == "__main__":
    main()

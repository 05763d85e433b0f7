"""install: from `make install` to `make uninstall` on a machine that never saw tetherd, as README.md tells it."""

import os
import re
import shlex
import textwrap

from machine import CONFIG_FILE, TOP, Machine, machine, main, scene

from harness import eventually, expect, expect_equal

RULES_FILE = "/etc/polkit-1/rules.d/50-tetherd.rules"
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
    shipped = {path: one.read(path) for path in (CONFIG_FILE, RULES_FILE)}
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
def an_upgrade_restarts_nothing_by_itself():
    one = machine()
    one.run("systemctl start tetherd")
    client = one.socket(7400)
    pid = one.run("systemctl show -P MainPID tetherd")
    one.make("install")
    expect_equal(one.run("systemctl show -P MainPID tetherd"), pid, "pid after the second install")
    client.sendall(b"still here")
    client.close()
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

"""helpers: the installed example of a helper, in the sandbox of the unit; what it holds outlives a restart and, with
`preserve = always`, a crash, and is released by the next process's helper."""

import re

from machine import Service, machine, main, scene

from harness import eventually, expect_equal

CONFIG = """
preserve = %s

[listener:home]
listen = 127.0.0.1:7400
handler = echo
greeting = %%{entry}
resources = entry

[resource:entry]
type = helper
command = /usr/lib/tetherd/examples/helper.sh /run/tetherd/entries
"""


def entries():
    return sorted(path.name for path in machine().path("/run/tetherd/entries").glob("*"))


def helpers():
    return machine().try_run("pgrep -f [e]xamples/helper.sh").stdout.split()


@scene(over=("a restart", "a crash"))
def what_it_holds_outlives(what):
    with Service(CONFIG % ("restart" if what == "a restart" else "always")) as tetherd:
        tetherd.start()
        staying, leaving = (tetherd.connect(7400) for _ in range(2))
        for client in (staying, leaving):
            expect_equal(client.receive_line(), f"/run/tetherd/entries/{client.id}\n", "greeting")
        names = [staying.id, leaving.id]
        expect_equal(entries(), sorted(names), "entries")
        before, old = tetherd.pid, helpers()
        expect_equal(len(old), 1, "helpers")
        machine().run("systemctl restart tetherd" if what == "a restart" else f"kill -9 {before}")
        eventually(lambda: tetherd.pid not in (0, before) and tetherd.show("ActiveState") == "active",
                   "another process runs", 60)
        for client in (staying, leaving):
            client.echo(b"and afterwards")
        expect_equal(entries(), sorted(names), "entries")
        eventually(lambda: len(helpers()) == 1 and helpers() != old, "the old helper is gone, and a new one runs")
        leaving.half_close()
        tetherd.wait_ended(leaving, "eof")
        expect_equal(entries(), [staying.id], "entries")
        tetherd.wait_record(MESSAGE=f"resource entry: {leaving.id} ended: eof", TETHERD_RESOURCE="entry")
        if what == "a restart":
            tetherd.wait_record(MESSAGE=re.compile(f"^helper entry: pid {old[0]} ended: exit status 0"))
    expect_equal((entries(), helpers()), ([], []), "what is left")


if __name__ == "__main__":
    main()

"""Gates: a resource's command that waits for the story."""

import errno
import os

from harness.basics import eventually

# In a script: while <dir>/hold exists, each command waits until the story opens its gate.
GATE = """
gate=<dir>/gate.$TETHERD_PHASE.$TETHERD_CONNECTION
if [ -e <dir>/hold ]; then
        mkfifo $gate
        read -r _ < $gate
        rm $gate
fi
"""


def hold(daemon):
    (daemon.directory / "hold").touch()


def let_go(daemon):
    """Commands that start from now on do not wait."""
    (daemon.directory / "hold").unlink(missing_ok=True)


def gate_path(client, phase):
    return client.daemon.directory / f"gate.{phase}.{client.id}"


def wait_at_gate(client, phase="load"):
    """Waits until this client's command stands at its gate, and leaves it there."""
    eventually(gate_path(client, phase).exists, f"the {phase} command of {client.id} is under way")


def open_gate(client, phase="load"):
    def probe():
        try:
            return os.open(gate_path(client, phase), os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno not in (errno.ENXIO, errno.ENOENT):
                raise
            return None
    fd = eventually(probe, f"the {phase} command of {client.id} waits at its gate")
    os.write(fd, b"\n")
    os.close(fd)

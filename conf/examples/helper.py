#!/usr/bin/python3
"""An example of a helper: helper.py DIRECTORY keeps a file there for each connection."""
import sys
from pathlib import Path
from urllib.parse import quote, unquote

directory = Path(sys.argv[1])
directory.mkdir(parents=True, exist_ok=True)


def load(connection, about):
    path = directory / connection
    path.write_text(f"{about['identity'] or 'nobody'} from {about['remote_address']}\n")
    return str(path)


def release(connection, about):
    # It may be asked twice, or for a load that did not finish: what is gone is no fault.
    (directory / connection).unlink(missing_ok=True)
    print(f"{connection} ended: {about['cause']}", file=sys.stderr)  # to the journal
    return ""


for line in sys.stdin.buffer:  # to its end, when tetherd has no use for us any more
    verb, number, connection, *words = line.decode(errors="surrogateescape").rstrip("\n").split(" ")
    about = {name: unquote(value) for name, value in (word.split("=", 1) for word in words)}
    try:
        value = load(connection, about) if verb == "LOAD" else release(connection, about)
        print(f"OK {number} {quote(value)}", flush=True)
    except OSError as error:
        print(f"FAIL {number} {error}", flush=True)

"""Stories and their scenes."""

import functools
import sys
import time
import traceback

from harness.basics import TOLD, Failure, Skip, tell
from harness.journald import journald

SCENES = []


def scene(over=None):
    """Makes a function a scene; `over` plays it once for each kind of socket."""
    def register(function):
        name = function.__name__.replace("_", " ")
        if over:
            SCENES.extend((f"{name}, {kind}", functools.partial(function, kind)) for kind in over)
        else:
            SCENES.append((name, function))
        return function
    return register


def main(need=None):
    """Plays the scenes of this story, those whose name holds one of the arguments where there are any; none where
    need() says that it cannot be played."""
    wanted = sys.argv[1:]
    is_failed = False
    try:
        if need:
            need()
    except Skip as skip:
        print(f"skip every scene: {skip}")
        return
    for name, play in SCENES:
        if wanted and not any(word in name for word in wanted):
            continue
        began = time.monotonic()
        verdict, detail = "ok", ""
        TOLD.clear()
        try:
            play()
        except Skip as skip:
            verdict, detail = "skip", str(skip)
        except Exception as error:
            verdict, detail, is_failed = "FAIL", str(error) or repr(error), True
            line = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == sys.argv[0]]
            if not isinstance(error, Failure):
                tell(traceback.format_exc())
            if line:
                detail = f"line {line[-1].lineno}: {detail}"
        print(f"{verdict} {name} ({time.monotonic() - began:.1f} s){': ' if detail else ''}{detail}", flush=True)
        if verdict == "FAIL":
            print("".join(f"    {line}\n" for line in TOLD), end="", flush=True)
    if journald.cache_info().currsize:
        journald().stop()
    sys.exit(1 if is_failed else 0)

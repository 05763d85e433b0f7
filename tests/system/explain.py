"""explain: what --explain says of a configuration: each way to die, how it is noticed, after how long at worst."""

import re
import subprocess

from harness import BINARY, SLOW, WRAPPER, expect_equal, main, scene

HEAD = ("A peer that ...", "is noticed by", "at worst after", "cause")
RTO = "user_timeout, and an RTO of up to 1 s"

# With every key's default: detect_within is a minute.
FIN = [("closes, half-closes or exits (FIN)", "FIN", "at once", "eof")]
TCP = [
    ("resets, or is killed with our bytes unread", "RST", "at once", "reset"),
    ("vanishes while idle (power, cable, NAT)", "keepalive", "30s", "keepalive-timeout"),
    ("vanishes with our data under way", RTO, "31s", "transmit-timeout"),
    ("vanishes, and we send just before it is noticed", "the same, begun anew", "1min 1s", "transmit-timeout"),
    ("is unreachable with our data under way (ICMP)", RTO, "31s", "unreachable"),
    ("is replaced by a host that answers with RST", "keepalive", "15s", "reset"),
    ("is alive but does not read what we send", RTO, "31s", "stalled"),
    ("is destroyed on this host (ss -K)", "ECONNABORTED", "at once", "aborted"),
]
UNIX = [
    ("closes, half-closes or exits (UNIX)", "the kernel", "at once", "eof"),
    ("closes with our bytes unread (UNIX)", "the kernel", "at once", "reset"),
    ("is alive but does not read what we send (UNIX)", "detect_within", "1min", "stalled"),
]
ANY = [
    ("is there and says nothing", "idle_timeout", "never", "idle-timeout"),
    ("stays whatever it does", "max_age", "never", "max-age"),
]


def explain(keys, listen="127.0.0.1:7400"):
    """The rows of a listener's table."""
    config = f"[listener:a]\nlisten = {listen}\n{keys}\n"
    done = subprocess.run([*WRAPPER, BINARY, "--explain", "-c", "/dev/stdin"], input=config, capture_output=True,
                          text=True, timeout=20 * SLOW)
    expect_equal((done.returncode, done.stderr), (0, ""), "exit status and stderr")
    title, *rows = done.stdout.splitlines()
    head, *rows = [tuple(re.split(" {2,}", row.strip())) for row in rows]
    expect_equal((title, head), ("[listener:a]", HEAD), "title and head")
    return rows


def expect_rows(keys, *wanted):
    """These are among the rows, each way once."""
    rows = explain(keys)
    ways = [row[0] for row in rows]
    expect_equal(sorted(ways), sorted(set(ways)), "the ways to die")
    expect_equal([row for row in rows if row[0] in [way for way, *_ in wanted]], list(wanted), f"rows with {keys!r}")


@scene()
def with_a_program():
    program = "resources = p\n[resource:p]\ntype = process\ncommand = /bin/cat\nsocket = stdio"
    wanted = [("half-closes (FIN)", "the program, if it reads", "never", "process-exited"),
              ("closes or exits (FIN, not to be told from it)", "its tcp_fin_timeout of 60 s, keepalive", "1min 30s", "eof"),
              *TCP, ("half-closes (UNIX)", "the program, if it reads", "never", "process-exited"),
              ("closes or exits (UNIX)", "the kernel", "at once", "eof"), UNIX[1], ANY[1]]
    expect_equal(explain(program, "[::]:7400, /run/tetherd.socket"), wanted, "rows")


@scene()
def every_way_to_die():
    expect_equal(explain(""), FIN + TCP + ANY, "over TCP")
    expect_equal(explain("", "@tetherd"), UNIX + ANY, "over UNIX sockets")
    expect_equal(explain("", "[::]:7400, /run/tetherd.socket"), FIN + TCP + UNIX + ANY, "over both")


@scene()
def a_half_close_that_is_kept():
    kept, closed = "half-closes (FIN)", "closes or exits (FIN, not to be told from it)"
    expect_rows("half_close = keep", (kept, "half_close_timeout", "never", "half-close-timeout"),
                (closed, "its tcp_fin_timeout of 60 s, keepalive", "1min 30s", "eof"))
    expect_rows("half_close = keep\nhalf_close_timeout = 10s",
                (kept, "half_close_timeout", "10s", "half-close-timeout"),
                (closed, "half_close_timeout", "10s", "half-close-timeout"))
    expect_rows("half_close = keep\ndetect_within = infinity",
                (kept, "half_close_timeout", "never", "half-close-timeout"),
                (closed, "half_close_timeout", "never", "half-close-timeout"))
    expect_rows("half_close = keep\nhandler = echo", *FIN)
    expect_equal(explain("half_close = keep\nhalf_close_timeout = 10s", "@tetherd")[:2],
                 [("half-closes (UNIX)", "half_close_timeout", "10s", "half-close-timeout"),
                  ("closes or exits (UNIX)", "the kernel", "at once", "eof")], "over UNIX sockets")


@scene()
def without_a_user_timeout():
    expect_rows("user_timeout = infinity",
                ("vanishes while idle (power, cable, NAT)", "keepalive", "1min", "keepalive-timeout"),
                ("vanishes with our data under way", "tcp_retries2", "15min 24s 600ms", "transmit-timeout"),
                ("is alive but does not read what we send", "user_timeout", "never", "stalled"))


@scene()
def what_is_left_to_the_kernel():
    def idle(keys, after):
        expect_rows(keys, ("vanishes while idle (power, cable, NAT)", "keepalive", after, "keepalive-timeout"))
    idle("keepalive_interval = infinity", "1min 30s")
    idle("keepalive_interval = infinity\nuser_timeout = 2min", "2min 45s")
    idle("keepalive_interval = infinity\nuser_timeout = infinity\nkeepalive_count = 3", "4min")
    idle("detect_within = infinity\nkeepalive_idle = 9s", "11min 24s")
    idle("detect_within = infinity\nkeepalive_idle = 9s\nkeepalive_interval = 1s", "18s")
    idle("detect_within = infinity\nkeepalive_interval = 1s", "never")
    idle("keepalive_idle = infinity", "never")


@scene()
def the_other_timeouts():
    expect_rows("hello = yes\nhandshake_timeout = 3s\nidle_timeout = 1h\nmax_age = 1d",
                ("does not finish its handshake", "handshake_timeout", "3s", "handshake-timeout"),
                ("is there and says nothing", "idle_timeout", "1h", "idle-timeout"),
                ("stays whatever it does", "max_age", "1d", "max-age"))


if __name__ == "__main__":
    main()

"""watchdog: systemd ends a tetherd that stands still, and gives one that goes on the time that it needs."""

import time

from machine import Service, machine, main, scene

from harness import eventually, expect, expect_equal

CONFIG = """
preserve = no
drain_timeout = {drain}
[listener:held]
listen = 127.0.0.1:7400
handler = echo
resources = slow
[resource:slow]
type = exec
load = /bin/true
release = /bin/sleep {seconds}
release_timeout = 2min
"""


def config(seconds=0, drain="30s"):
    return CONFIG.format(seconds=seconds, drain=drain)


def ready_client(tetherd):
    client = tetherd.connect(7400)
    tetherd.wait_ready(client)
    return client


@scene()
def a_loop_that_stands_still_is_ended_and_started_again():
    with Service(config()) as tetherd:
        tetherd.drop_in("[Service]\nWatchdogSec=2s\nLimitCORE=0\n")
        tetherd.start()
        client = ready_client(tetherd)
        before = tetherd.pid
        quiet = time.monotonic() + 5  # the watchdog bites nobody who is well
        eventually(lambda: time.monotonic() > quiet, "the time passes")
        expect_equal(tetherd.pid, before, "the process after two times WatchdogSec")
        machine().run(f"kill -STOP {before}")
        tetherd.wait_record(None, MESSAGE="tetherd.service: Watchdog timeout (limit 2s)!", timeout=20)
        tetherd.wait_record("closed", TETHERD_CONNECTION=client.id, TETHERD_CAUSE="orphaned", timeout=20)
        eventually(lambda: tetherd.pid not in (0, before), "it runs again")
        ready_client(tetherd).echo()


@scene()
def a_stop_that_goes_on_gets_the_time_it_needs():
    with Service(config(seconds=8, drain="1min")) as tetherd:
        tetherd.drop_in("[Service]\nTimeoutStopSec=3s\n")
        tetherd.start()
        ready_client(tetherd)
        machine().run("systemctl stop tetherd")
        expect_equal([tetherd.show(name) for name in ("Result", "ExecMainStatus")], ["success", "0"],
                     "the service's result and exit status")
        record = tetherd.wait_record("closed", TETHERD_CAUSE="shutdown")
        expect(int(record["TETHERD_RELEASE_USEC"]) > 7_000_000, f"the release was cut short: {record}")


@scene()
def but_no_longer_than_drain_timeout():
    with Service(config(seconds=60, drain="5s")) as tetherd:
        tetherd.drop_in("[Service]\nTimeoutStopSec=3s\n")
        tetherd.start()
        ready_client(tetherd)
        machine().run("systemctl stop tetherd")
        expect_equal([tetherd.show(name) for name in ("Result", "ExecMainStatus")], ["exit-code", "1"],
                     "the service's result and exit status")
        tetherd.wait_record(None, MESSAGE="1 leases were not released, they are left for the next start")
        machine().run("systemctl reset-failed tetherd; rm -r /run/tetherd/leases")


@scene()
def a_start_that_releases_what_was_left_gets_the_time_it_needs():
    with Service(config(seconds=8)) as tetherd:
        tetherd.drop_in("[Service]\nTimeoutStartSec=3s\nRestart=no\n")
        tetherd.start()
        client = ready_client(tetherd)
        machine().run("systemctl kill --signal=KILL --kill-whom=main tetherd")
        eventually(lambda: tetherd.show("ActiveState") == "failed", "it is dead")
        began = time.monotonic()
        tetherd.start()
        expect(time.monotonic() - began > 7, "it was ready before the release was over")
        tetherd.wait_record("closed", TETHERD_CONNECTION=client.id, TETHERD_CAUSE="orphaned")


if __name__ == "__main__":
    main()

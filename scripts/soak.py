"""Called by scripts/soak with the path of the program, the store and a number of minutes."""

import os
import random
import shutil
import signal
import sys
import tempfile
import time

from crash_log import Fault
from crash_rounds import PUBLISHERS, SIZES, Publishers, Run

MIB = 1024 * 1024


def takes(process, folder):
    """Resident memory, threads and open files of the server, and the bytes of the store's files, log and ahead of it."""
    with open(f"/proc/{process}/status") as lines:
        status = dict(line.split(":", 1) for line in lines)
    files = {name: os.path.getsize(os.path.join(folder, name)) for name in os.listdir(folder)}
    size = lambda end: sum(bytes for name, bytes in files.items() if name.endswith(end))
    return (int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), len(os.listdir(f"/proc/{process}/fd")),
            (size(".db") + size(".read-models")) / MIB, size("-wal") / MIB)


def soak(run, folder, minutes, rate):
    sent = sum(SIZES) / len(SIZES)
    publishers = Publishers(run.server, run.ledger, run.random.random(), PUBLISHERS * sent / rate)
    print(f"{'minute':>6} {'messages':>9} {'delivered':>9} {'RSS MiB':>8} {'threads':>7} {'files':>5} {'store MiB':>9} {'WAL MiB':>8}")
    for minute in range(1, minutes + 1):
        time.sleep(60)
        run.log.follow()
        rss, threads, files, store, ahead = takes(run.server.process.pid, folder)
        print(f"{minute:>6} {len(run.ledger.acknowledged):>9} {len(run.log.succeeded):>9} {rss:>8.0f} {threads:>7} {files:>5} {store:>9.0f} {ahead:>8.1f}", flush=True)
        if publishers.faults:
            break
    publishers.stop()
    run.publish_again()
    run.compare()
    run.settle()
    run.end()
    print(f"soak: {len(run.ledger.acknowledged)} acknowledged, {len(run.log.messages)} stored, {len(run.ledger.owed)} of the first tenant delivered: nothing lost")


def main():
    program, store, minutes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rate = int(os.environ.get("SOAK_RATE") or 200)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder, run, whole = tempfile.mkdtemp(prefix="tidings-soak-"), None, False
    try:
        run = Run(program, store, random.SystemRandom().randrange(1 << 32), folder)
        soak(run, folder, minutes, rate)
        whole = True
    except Fault as fault:
        print(f"FAULT: {fault}", flush=True)
    finally:
        for process in filter(None, [run and run.server.process, run and run.endpoint.process]):
            if process.poll() is None:
                process.kill()
                process.wait()
        if whole:
            shutil.rmtree(folder)
        else:
            print(f"what the programs left is in {folder}", file=sys.stderr)
    sys.exit(not whole)


main()

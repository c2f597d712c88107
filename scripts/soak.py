"""Called by scripts/soak with the path of the program, the store and a number of minutes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from crash_log import Fault
from crash_rounds import PUBLISHERS, SIZES, Publishers, Run

MIB = 1024 * 1024
COLUMNS = ["minute", "messages", "delivered", "RSS MiB", "threads", "files", "events", "bodies", "log MiB", "models MiB", "WAL MiB"]
# The log is followed so often: well before the oldest of it goes.
FOLLOW_S = 10


def takes(process):
    """Resident memory in MiB, threads and open files of the server."""
    with open(f"/proc/{process}/status") as lines:
        status = dict(line.split(":", 1) for line in lines)
    return int(status["VmRSS"].split()[0]) / 1024, int(status["Threads"]), len(os.listdir(f"/proc/{process}/fd"))


def holds(run, folder):
    """Events and bodies that will go with their bucket, and MiB of the log, of the read models, and of what is ahead of both."""
    (events, bodies), = run.log.store.rows(
        "SELECT (SELECT COUNT(*) FROM bucketed_event) AS events, (SELECT COUNT(*) FROM content) AS bodies")
    files = {name: os.path.getsize(os.path.join(folder, name)) / MIB for name in os.listdir(folder)}
    size = lambda end: sum(mib for name, mib in files.items() if name.endswith(end))
    log = size(".db")
    if run.store != "sqlite":
        (bytes,), = run.log.store.rows("SELECT pg_database_size(current_database()) AS bytes")
        log = bytes / MIB
    return events, bodies, log, size(".read-models"), size("-wal")


def row(values):
    return " ".join(f"{value:>{max(len(name), 8)}}" for name, value in zip(COLUMNS, values))


def soak(run, folder, minutes, rate):
    sent = sum(SIZES) / len(SIZES)
    publishers = Publishers(run.server, run.ledger, run.random.random(), PUBLISHERS * sent / rate)
    print(row(COLUMNS))
    for minute in range(1, minutes + 1):
        for _ in range(60 // FOLLOW_S):
            time.sleep(FOLLOW_S)
            run.log.follow()
        counts = [minute, len(run.ledger.acknowledged), len(run.log.succeeded)]
        print(row(counts + [round(value) for value in (*takes(run.server.process.pid), *holds(run, folder))]), flush=True)
        if publishers.faults:
            break
    publishers.stop()
    run.publish_again()
    run.compare()
    run.settle()
    verify(run, folder)
    run.server.stop()
    print(f"soak: {len(run.ledger.acknowledged)} acknowledged, {len(run.log.messages)} stored, {len(run.ledger.owed)} of the first tenant delivered: nothing lost")


def verify(run, folder):
    """The program's own opinion of its log and its read models."""
    command = [run.server.arguments[0], "verify", "--config", "tidings.toml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    print(done.stdout.strip())
    if done.returncode:
        raise Fault(f"verify ended with {done.returncode}: {done.stderr.strip()}")


def main():
    program, store, minutes = sys.argv[1], sys.argv[2], int(sys.argv[3])
    rate, kept = int(os.environ.get("SOAK_RATE") or 200), os.environ.get("SOAK_KEEP_MINUTES")
    settings = f"[retention]\nbucket_minutes = 1\nevents_minutes = {int(kept)}\ncheck_every_ms = 5000\n" if kept else ""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder, run, whole = tempfile.mkdtemp(prefix="tidings-soak-"), None, False
    try:
        run = Run(program, store, random.SystemRandom().randrange(1 << 32), folder, settings)
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

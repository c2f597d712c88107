"""Called by scripts/disk-full with the path of the program, the small disk that PostgreSQL is on, and how often to fill it."""

import collections
import glob
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time

from crash_log import Fault
from crash_rounds import PUBLISH, NoAnswer, Publishers, Run, until

WEBHOOKS = "{ webhooks(first: 1) { nodes { id } } }"
# The load goes on for so long before the disk is full.
LOAD_S = 2


class Database:
    """The PostgreSQL on the small disk, which is the only one there."""

    def __init__(self, disk):
        self.disk, self.ballast = disk, os.path.join(disk, "ballast")
        (self.data,) = glob.glob(os.path.join(disk, "tidings-postgres.*", "data"))
        with open(os.path.join(self.data, "postmaster.pid")) as file:
            program = os.readlink(f"/proc/{file.readline().strip()}/exe")
        self.control = os.path.join(os.path.dirname(program), "pg_ctl")

    def fill(self):
        with open(self.ballast, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass

    def make_room(self):
        os.remove(self.ballast)

    def runs(self):
        return self.do("status", check=False) == 0

    def restart(self):
        self.do("restart", "--mode", "immediate", "--wait", "--silent", "--log", os.path.join(os.path.dirname(self.data), "server.log"))

    def do(self, what, *arguments, check=True):
        as_server = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--reset-env", "--"]
        command = [*as_server, self.control, what, "--pgdata", self.data, *arguments]
        return subprocess.run(command, check=check, stdout=subprocess.DEVNULL).returncode


def write_ahead(run):
    """Makes the write-ahead log longer by a MiB, and nothing else; whether that went well."""
    try:
        run.log.store.rows("SELECT pg_logical_emit_message(true, 'full', repeat('x', 1048576))::text AS place")
    except OSError:
        return False
    return True


def code(error):
    """What a caller without an answer was told."""
    answer = error.args[0]
    errors = answer.get("errors") if isinstance(answer, dict) else None
    return errors[0]["extensions"]["code"] if errors else "no answer"


def ask(run):
    """One more message, as every publisher would: the code of its refusal, or None."""
    connection = run.server.connect()
    keys = run.ledger.take(1)
    message = {"type": "user.created", "data": {"text": random.randbytes(10_000).hex()}, "idempotencyKey": keys[0]}
    try:
        run.ledger.settle(keys, run.server.ask(connection, PUBLISH, {"input": {"messages": [message]}})["results"])
    except NoAnswer as error:
        return code(error)
    finally:
        connection.close()


def fill(run, database, end):
    publishers = Publishers(run.server, run.ledger, run.random.random())
    time.sleep(run.random.uniform(0, LOAD_S))
    database.fill()
    until("a refusal", lambda: not any(thread.is_alive() for thread in publishers.threads))
    publishers.stop()
    if end:
        until("the database to end", lambda: not write_ahead(run))
    asked = time.monotonic()
    codes = collections.Counter(ask(run) for _ in range(5 if end else 50))
    asked = time.monotonic() - asked
    connection = run.server.connect()
    if not run.server.ask(connection, WEBHOOKS, {})["nodes"]:
        raise Fault("reads are not served")
    connection.close()
    ran = database.runs()
    database.make_room()
    if not ran:
        database.restart()
    print(f"{len(run.ledger.acknowledged)} acknowledged; while it was full PostgreSQL {'ran' if ran else 'did not run'}, "
          f"callers were told {dict(codes)} within {asked:.1f} s", flush=True)
    run.publish_again()
    run.compare()
    run.settle()


def main():
    program, disk, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    folder, run, whole = tempfile.mkdtemp(prefix="tidings-full-"), None, False
    try:
        database = Database(disk)
        run = Run(program, "postgres", random.SystemRandom().randrange(1 << 32), folder)
        for number in range(rounds):
            fill(run, database, end=number % 2 == 1)
            run.subscribe()
        run.end()
        print(f"disk full {rounds} times: {len(run.ledger.acknowledged)} acknowledged, {len(run.log.messages)} stored: nothing lost")
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

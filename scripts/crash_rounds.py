"""Called by scripts/crash-rounds with the path of the program, the store and the number of rounds. Needs only Python's
standard library, and `psql` for PostgreSQL.

A round: publishers in several threads, a kill at a random moment, a start (now and then killed too), and every message that
got no answer is published again under its idempotency key. Then the log is read: it must hold exactly the messages that
were acknowledged, each once, its numbers and versions without a hole. Every few rounds all deliveries are awaited and the webhook is replaced by a new one, and
now and then the whole log is read again and checked for damage.
"""

import glob
import http.client
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

from crash_log import Fault, Log, Postgres, Sqlite

PUBLISHERS = 6
# Messages of a request.
SIZES = [1, 1, 1, 4, 16]
# Each in a shard of its own, where there are several; the webhook is the first one's.
TENANTS = 4
# The kill comes so many seconds after the load began, at the most.
LOAD_S = 0.4
# Of so many starts one is killed before it is ready.
KILLED_STARTS = 8
ROUNDS_OF_A_WEBHOOK = 25
ROUNDS_BETWEEN_WHOLE_CHECKS = 100
PATIENCE_S = 120

CREATE_TENANT = "mutation($input: CreateTenantInput!) { createTenant(input: $input) { tenant { id } userErrors { code message } } }"
CREATE = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { id } secret userErrors { code message } } }"
DELETE = "mutation($id: ID!) { deleteWebhook(input: { webhookId: $id }) { deletedWebhookId userErrors { code message } } }"
PUBLISH = "mutation($input: PublishMessagesInput!) { publishMessages(input: $input) { results { message { id } duplicate retry userErrors { code message } } } }"


class NoAnswer(Exception):
    """Whether it happened is not known."""


class Server:
    """The program, as a process that is killed and started again on the same store."""

    def __init__(self, program, folder, errors):
        self.arguments = [os.path.abspath(program), "serve", "--config", "tidings.toml"]
        # Beside a log that is no file, key and read models are kept there.
        self.folder, self.errors = folder, errors
        self.process = self.address = self.key = None

    def start(self):
        self.spawn()
        for line in self.process.stdout:
            if line.startswith("bootstrap key (shown once): "):
                self.key = line.split(": ")[1].strip()
            if line.startswith("serving on http://"):
                self.address = line.removeprefix("serving on http://").strip()
                return
        raise Fault(f"the server did not start: exit code {self.process.wait()}")

    def spawn(self):
        self.process = subprocess.Popen(self.arguments, cwd=self.folder, stdout=subprocess.PIPE, stderr=self.errors, text=True)

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self):
        self.process.terminate()
        if self.process.wait() != 0:
            raise Fault(f"a clean stop ended with {self.process.returncode}")

    def connect(self):
        return http.client.HTTPConnection(self.address, timeout=30)

    def ask(self, connection, query, variables):
        body = json.dumps({"query": query, "variables": variables})
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        try:
            connection.request("POST", "/graphql", body, headers)
            answer = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NoAnswer(error) from error
        if answer.get("errors") or not answer.get("data"):
            raise NoAnswer(answer)
        return next(iter(answer["data"].values()))


class Ledger:
    """What was asked for and what was acknowledged."""

    def __init__(self):
        self.lock = threading.Lock()
        self.count = 0
        # The first is the one whose messages are delivered; `None` is the tenant of the key.
        self.tenants = [None]
        self.unanswered = set()
        self.acknowledged = {}
        # Messages that the webhook of now is owed.
        self.owed = set()

    def take(self, count):
        with self.lock:
            keys = [f"crash-{number}" for number in range(self.count, self.count + count)]
            self.count += count
            self.unanswered.update(keys)
        return keys

    def settle(self, keys, results):
        with self.lock:
            for key, result in zip(keys, results):
                if result["userErrors"]:
                    raise Fault(f"{key} was refused: {result['userErrors']}")
                if result["retry"]:
                    continue
                message = result["message"]["id"]
                if self.acknowledged.setdefault(key, message) != message:
                    raise Fault(f"{key} was acknowledged as {self.acknowledged[key]} and as {message}")
                self.unanswered.discard(key)
                if self.tenant(key) is None:
                    self.owed.add(message)

    def tenant(self, key):
        return self.tenants[int(key.split("-")[1]) % len(self.tenants)]


class Publishers:
    """`pause_s` is what each waits after a request."""

    def __init__(self, server, ledger, seed, pause_s=0):
        self.ended, self.faults, self.pause_s = threading.Event(), [], pause_s
        work = lambda number: self.publish(server, ledger, random.Random(f"{seed}-{number}"))
        self.threads = [threading.Thread(target=work, args=[number]) for number in range(PUBLISHERS)]
        for thread in self.threads:
            thread.start()

    def publish(self, server, ledger, random):
        connection = server.connect()
        while not self.ended.is_set():
            keys = ledger.take(random.choice(SIZES))
            try:
                ledger.settle(keys, publish(server, connection, ledger, keys))
            except NoAnswer:
                break
            except Exception as fault:
                self.faults.append(fault)
                break
            self.ended.wait(self.pause_s)
        connection.close()

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()
        if self.faults:
            raise self.faults[0]


def publish(server, connection, ledger, keys):
    messages = [{"type": "user.created", "data": {"key": key, "text": "ü€😀 </script>"}, "idempotencyKey": key, "tenantId": ledger.tenant(key)}
                for key in keys]
    return server.ask(connection, PUBLISH, {"input": {"messages": messages}})["results"]


def until(what, condition):
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise Fault(f"in vain waited for {what}")
        time.sleep(0.02)


class Endpoint:
    """`tidings listen`: TLS, and a line for every delivery whose signature it has verified."""

    def __init__(self, program, folder, errors):
        self.secrets, self.log = os.path.join(folder, "secrets.json"), os.path.join(folder, "received.jsonl")
        self.tls = os.path.join(folder, "tls")
        self.trust({})
        self.process = subprocess.Popen(
            [program, "listen", "--tls-dir", self.tls, "--secrets", self.secrets, "--log", self.log],
            stdout=subprocess.PIPE, stderr=errors, text=True)
        for line in self.process.stdout:
            if line.startswith("listening on "):
                self.url = line.removeprefix("listening on ").strip()
                break
        threading.Thread(target=lambda: [None for _ in self.process.stdout], daemon=True).start()

    def trust(self, secrets):
        with open(self.secrets + ".new", "w") as file:
            json.dump(secrets, file)
        os.replace(self.secrets + ".new", self.secrets)

    def take(self):
        """The ids of verified deliveries since the last time; a body must be the same whenever its id comes."""
        bodies = {}
        with open(self.log) as lines:
            for entry in map(json.loads, lines):
                if entry["verified"] and entry["answer"] == 200:
                    if bodies.setdefault(entry["message_id"], entry["body_sha256"]) != entry["body_sha256"]:
                        raise Fault(f"{entry['message_id']} was sent with two bodies")
        os.truncate(self.log, 0)
        return set(bodies)


class Run:
    """`settings` is added to the configuration of the server."""

    def __init__(self, program, store, seed, folder, settings=""):
        self.store, self.random = store, random.Random(seed)
        path = lambda name: os.path.join(folder, name)
        self.errors = open(path("stderr.log"), "w")
        self.endpoint = Endpoint(program, folder, self.errors)
        url = f"sqlite://{path('log.db')}" if store == "sqlite" else os.environ["POSTGRES_TEST_URL"]
        with open(path("tidings.toml"), "w") as config:
            config.write(f'[database]\nurl = "{url}"\n[server]\nlisten = "127.0.0.1:0"\n[egress]\nallow_cidrs = ["127.0.0.0/8"]\n'
                         # Subscriptions leave memory between kills too, and take their wake-ups out of the log.
                         f'extra_ca = ["{self.endpoint.tls}/ca.pem"]\n[actors]\nidle_after_ms = 300\n[telemetry]\nfilter = "warn,ractor=off"\n' + settings)
        self.server = Server(program, folder, self.errors)
        self.server.start()
        self.ledger = Ledger()
        self.log = Log(Sqlite(path("log.db")) if store == "sqlite" else Postgres(url))
        self.kills = self.killed_starts = self.repeated = 0
        self.webhook, self.webhooks = None, 0
        for number in range(1, TENANTS):
            tenant = self.ask(CREATE_TENANT, {"input": {"name": f"crash {number}", "slug": f"crash-{number}"}})["tenant"]
            self.ledger.tenants.append(tenant["id"])
        self.subscribe()

    def ask(self, query, variables):
        connection = self.server.connect()
        try:
            return self.server.ask(connection, query, variables)
        finally:
            connection.close()

    def subscribe(self):
        old, self.webhooks = self.webhook, self.webhooks + 1
        where = f"/hook-{self.webhooks}"
        created = self.ask(CREATE, {"input": {"url": self.endpoint.url + where, "eventFilters": ["**"], "enabled": True}})
        self.webhook = created["webhook"]["id"]
        self.endpoint.trust({where: {"profile": "standard-v1", "secret": created["secret"]}})
        self.ledger.owed.clear()
        if old:
            self.ask(DELETE, {"id": old})

    def round(self):
        publishers = Publishers(self.server, self.ledger, self.random.random())
        time.sleep(self.random.uniform(0, LOAD_S))
        if self.store == "postgres-database":
            self.restart_database()
            publishers.stop()
        else:
            self.server.kill()
            publishers.stop()
            self.start()
        self.kills += 1
        self.publish_again()
        self.compare()

    def start(self):
        while self.random.randrange(KILLED_STARTS) == 0:
            self.server.spawn()
            time.sleep(self.random.uniform(0, 0.1))
            self.server.kill()
            self.killed_starts += 1
        self.server.start()

    def restart_database(self):
        """Kills every process of PostgreSQL at once, and starts it on the same files."""
        (data,), = self.log.store.rows("SELECT current_setting('data_directory') AS data")
        with open(os.path.join(data, "postmaster.pid")) as file:
            program = os.readlink(f"/proc/{file.readline().strip()}/exe")
        control = [os.path.join(os.path.dirname(program), "pg_ctl"), "restart", "--pgdata", data, "--mode", "immediate", "--wait", "--silent", "--log", os.path.join(os.path.dirname(data), "server.log")]
        if os.getuid() == 0:
            control = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--reset-env", "--", *control]
        subprocess.run(control, check=True)

    def publish_again(self):
        """Whoever got no answer asks again, under the same key."""
        connection, deadline = self.server.connect(), time.monotonic() + PATIENCE_S
        while self.ledger.unanswered:
            keys = sorted(self.ledger.unanswered)[:100]
            try:
                results = publish(self.server, connection, self.ledger, keys)
            except NoAnswer as error:
                if self.server.process.poll() is not None or time.monotonic() > deadline:
                    raise Fault(f"the server does not answer: {error}") from error
                time.sleep(0.05)
                continue
            self.repeated += sum(result["duplicate"] is True for result in results)
            self.ledger.settle(keys, results)
        connection.close()

    def compare(self):
        self.log.follow()
        acknowledged, stored = self.ledger.acknowledged, self.log.messages
        if acknowledged != stored:
            lost = [key for key in acknowledged if stored.get(key) != acknowledged[key]]
            unknown = [key for key in stored if key not in acknowledged]
            raise Fault(f"{len(lost)} acknowledged messages are not stored {lost[:3]}, {len(unknown)} stored ones were never acknowledged {unknown[:3]}")

    def settle(self):
        """Waits for all deliveries, and looks at what the endpoint got."""
        stream = "deliveries-" + self.webhook.split("_")[1]

        def open_deliveries():
            self.log.follow()
            ended = (self.log.scheduled.get((stream, message)) in self.log.succeeded for message in self.ledger.owed)
            return sum(not one for one in ended)

        until("all deliveries", lambda: open_deliveries() == 0)
        lost = self.ledger.owed - self.endpoint.take()
        if lost:
            raise Fault(f"{len(lost)} messages are recorded as delivered and never came, as {min(lost)}")

    def end(self):
        self.server.stop()
        if self.store == "sqlite":
            self.log.check_whole()
        self.endpoint.process.terminate()
        self.endpoint.process.wait()


def main():
    program, store, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
    seed = int(os.environ.get("CRASH_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"crash rounds on {store}: {rounds} rounds, seed {seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = tempfile.mkdtemp(prefix="tidings-crash-")
    began, run, whole = time.monotonic(), None, False
    try:
        run = Run(program, store, seed, folder)
        for number in range(1, rounds + 1):
            run.round()
            if number % ROUNDS_OF_A_WEBHOOK == 0 or number == rounds:
                run.settle()
                if number % ROUNDS_BETWEEN_WHOLE_CHECKS == 0 or number == rounds:
                    run.log.check_whole()
                print(f"round {number}: {len(run.log.messages)} messages, {run.log.events} events, "
                      f"{(time.monotonic() - began) / number:.2f} s a round", flush=True)
                if number < rounds:
                    run.subscribe()
        run.end()
        whole = True
    except Fault as fault:
        print(f"FAULT after {run.kills if run else 0} kills: {fault}", flush=True)
    finally:
        for process in filter(None, [run and run.server.process, run and run.endpoint.process]):
            if process.poll() is None:
                process.kill()
                process.wait()
        if whole:
            shutil.rmtree(folder)
        else:
            print(f"what the programs left is in {folder}", file=sys.stderr)
    kinds = "restarts of the database" if store == "postgres-database" else "kills under load"
    if run:
        print(f"crash rounds on {store}: {run.kills} {kinds}, {run.killed_starts} kills while starting, "
              f"{len(run.ledger.acknowledged)} acknowledged, {len(run.log.messages)} stored, {run.repeated} settled by repetition, "
              f"{run.log.events} events without a hole, seed {seed}, {time.monotonic() - began:.0f} s: "
              f"{'nothing lost' if whole else 'FAILED'}", flush=True)
    sys.exit(not whole)


if __name__ == "__main__":
    main()

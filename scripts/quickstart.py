"""Called by scripts/quickstart with the path of the program. Needs only Python's standard library."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

PATIENCE_S = 60

# One tenant and one webhook for each profile: its public id, its path, what it listens to.
PROFILES = [
    ("axie-v1", "ent_abc123", "/axie"),
    ("axissynapse-v1", "ws_a8", "/axissynapse"),
    ("standard-v1", "demo", "/standard"),
]
OCCURRED_AT = {"axie-v1": "2025-11-23T10:30:15Z", "axissynapse-v1": "2026-06-02T14:32:11.483Z", "standard-v1": "2026-06-02T14:32:11.483Z"}

CREATE_TENANT = "mutation($input: CreateTenantInput!) { createTenant(input: $input) { tenant { id } userErrors { code message } } }"
CREATE_KEY = "mutation($input: CreateApiKeyInput!) { createApiKey(input: $input) { token userErrors { code message } } }"
CREATE_WEBHOOK = "mutation($input: CreateWebhookInput!) { createWebhook(input: $input) { webhook { id enabled } secret userErrors { code message } } }"
TEST = "mutation($id: ID!) { testWebhookDelivery(input: { webhookId: $id }) { result { verified statusCode latencyMs } userErrors { code message } } }"
ENABLE = "mutation($id: ID!) { enableWebhook(input: { webhookId: $id }) { webhook { enabled } userErrors { code message } } }"
PUBLISH = "mutation($input: PublishMessageInput!) { publishMessage(input: $input) { message { id } duplicate userErrors { code message } } }"
CATALOGUE = "{ eventTypes(first: 100) { nodes { name category example } } }"
DELIVERIES = "query($after: String) { deliveries(first: 100, after: $after) { nodes { id status attemptCount message { id type } attempts { nodes { number outcome statusCode latencyMs } } } pageInfo { hasNextPage endCursor } } }"
AUDIT = "{ auditLog(first: 100) { nodes { at code targetId actor { kind } } } }"


class Program:
    """A started program whose output is read up to the line that says it is ready."""

    def __init__(self, arguments, log):
        # In a session of its own: Ctrl-C is for this script, which then ends its programs in order.
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
        self.lines = []

    def wait_for(self, prefix):
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if self.lines[-1].startswith(prefix):
                return self.lines[-1][len(prefix):].strip()
        raise SystemExit(f"{self.process.args[1]} ended before it was ready; it said: {self.lines}")

    def read_on(self):
        """From now on nobody waits for a line; a full pipe must not stop the program."""
        threading.Thread(target=lambda: [None for _ in self.process.stdout], daemon=True).start()

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


class Api:
    def __init__(self, url, key):
        self.url, self.key = url + "/graphql", key

    def __call__(self, query, field, **variables):
        body = json.dumps({"query": query, "variables": variables}).encode()
        headers = {"content-type": "application/json", "authorization": f"Bearer {self.key}"}
        with urllib.request.urlopen(urllib.request.Request(self.url, body, headers)) as answer:
            answer = json.load(answer)
        if answer.get("errors"):
            raise SystemExit(f"the API answered: {answer['errors']}")
        payload = answer["data"][field]
        if isinstance(payload, dict) and payload.get("userErrors"):
            raise SystemExit(f"{field} was refused: {payload['userErrors']}")
        return payload

    def deliveries(self):
        after, found = None, []
        while True:
            page = self(DELIVERIES, "deliveries", after=after)
            found += page["nodes"]
            if not page["pageInfo"]["hasNextPage"]:
                return found
            after = page["pageInfo"]["endCursor"]


def main():
    program, once = sys.argv[1], "--once" in sys.argv[2:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    folder = tempfile.mkdtemp(prefix="tidings-quickstart-")
    path = lambda name: os.path.join(folder, name)
    errors = open(path("stderr.log"), "w")
    running, kept = [], True
    try:
        account(program, once, path, errors, running)
        kept = False
    except KeyboardInterrupt:
        kept = False
        sys.exit(130)
    finally:
        for started in reversed(running):
            started.stop()
        if kept:
            print(f"what the programs left is in {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder)


def account(program, once, path, errors, running):
    receiver = Program([program, "listen", "--port", "0", "--tls-dir", path("tls"), "--secrets", path("secrets.json"),
                        "--log", path("received.jsonl"), "--fail", "/axie=503:1"], errors)
    running.append(receiver)
    endpoint = receiver.wait_for("listening on ")
    receiver.read_on()
    with open(path("tidings.toml"), "w") as config:
        config.write(f'[database]\nurl = "sqlite://{path("tidings.db")}"\n[server]\nlisten = "127.0.0.1:0"\n'
                     f'[egress]\nallow_cidrs = ["127.0.0.0/8"]\nextra_ca = ["{path("tls/ca.pem")}"]\n')
    serve = lambda: Program([program, "serve", "--config", path("tidings.toml")], errors)
    server = serve()
    running.append(server)
    key = server.wait_for("bootstrap key (shown once): ")
    url = server.wait_for("serving on ")
    print(f"server    {url}   store {path('tidings.db')}\nreceiver  {endpoint}   behind a private CA made just now\n")

    operator = Api(url, key)
    catalogue = operator(CATALOGUE, "eventTypes")["nodes"]
    samples = [entry for entry in catalogue if entry["name"] != "webhook.test" and entry["example"] is not None]
    axie = [entry for entry in samples if entry["name"].split(".")[0] in ("user", "role", "enterprise", "settings")]
    synapse = [entry for entry in samples if entry not in axie]
    plan = {"axie-v1": axie, "axissynapse-v1": synapse, "standard-v1": samples}
    keys, secrets, webhooks = {}, {}, {}
    for profile, slug, where in PROFILES:
        tenant = operator(CREATE_TENANT, "createTenant", input={"name": slug, "slug": slug, "profile": profile})["tenant"]["id"]
        scopes = ["WEBHOOKS_READ", "WEBHOOKS_WRITE", "SECRETS_ROTATE", "DELIVERIES_READ", "DELIVERIES_REDELIVER",
                  "MESSAGES_PUBLISH", "AUDIT_READ", "KEYS_ADMIN"]
        keys[profile] = operator(CREATE_KEY, "createApiKey", input={"name": "quickstart", "scopes": scopes, "tenantId": tenant})["token"]
        api = Api(url, keys[profile])
        filters = sorted(entry["name"] for entry in axie) if profile == "axie-v1" else ["**"]
        created = api(CREATE_WEBHOOK, "createWebhook", input={"url": endpoint + where, "eventFilters": filters})
        webhook = webhooks[profile] = created["webhook"]["id"]
        secrets[where] = {"profile": profile, "secret": created["secret"]}
        with open(path("secrets.json.new"), "w") as file:
            json.dump(secrets, file)
        os.replace(path("secrets.json.new"), path("secrets.json"))
        if profile != "axie-v1":  # its endpoint is to fail first on a real delivery
            tested = api(TEST, "testWebhookDelivery", id=webhook)["result"]
            print(f"{profile:<16} webhook {webhook}   test delivery: {tested['statusCode']} in {tested['latencyMs']:.0f} ms")
        else:
            print(f"{profile:<16} webhook {webhook}   its endpoint will answer 503 to the first delivery")
        if not created["webhook"]["enabled"]:
            api(ENABLE, "enableWebhook", id=webhook)

    todo = [(profile, entry) for profile, _, _ in PROFILES for entry in plan[profile]]
    published = {}

    def publish(number):
        profile, entry = todo[number]
        message = {"type": entry["name"], "data": entry["example"], "occurredAt": OCCURRED_AT[profile], "idempotencyKey": f"quickstart-{number}"}
        answer = Api(url, keys[profile])(PUBLISH, "publishMessage", input=message)
        published[(profile, answer["message"]["id"])] = entry["name"]
        return answer["duplicate"]

    middle = len(todo) // 2
    for number in range(middle):
        publish(number)
    server.kill()
    print(f"\nkill -9 after {middle} of {len(todo)} messages, while the refused delivery waits for its retry; starting again on the same store")
    server = serve()
    running.append(server)
    url = server.wait_for("serving on ")
    assert publish(middle - 1), "publishing again under the same idempotency key made a second message"
    for number in range(middle, len(todo)):
        publish(number)

    found = settle(url, keys)
    tested = Api(url, keys["axie-v1"])(TEST, "testWebhookDelivery", id=webhooks["axie-v1"])["result"]
    print(f"axie-v1          webhook {webhooks['axie-v1']}   test delivery: {tested['statusCode']} in {tested['latencyMs']:.0f} ms")
    received = [json.loads(line) for line in open(path("received.jsonl"))]
    report(url, keys, found, received)
    deliveries = [delivery for profile in found for delivery in found[profile]]
    verified = {(entry["path"], entry["message_id"]) for entry in received if entry["verified"] and entry["answer"] == 200}
    where = {profile: path for profile, _, path in PROFILES}
    lost = [message for (profile, message) in published if (where[profile], message) not in verified]
    proven = sum((where[profile], message) in verified for (profile, message) in published)
    retried = sum(delivery["attemptCount"] > 1 for delivery in deliveries)
    if not once:
        print(f"\nplayground  {url}/playground\nkey         {keys['standard-v1']}   of the tenant 'demo'")
        print(f"receiver    {endpoint}/standard   knows this webhook's secret\nstop with Ctrl-C, which also removes the store", flush=True)
        try:
            server.process.wait()
        except KeyboardInterrupt:
            print("\nstopping")
            return
        raise SystemExit("the server ended by itself")
    print(f"quickstart: {len(published)} messages, {len(deliveries)} deliveries, {proven} verified, {retried} retried, {len(lost)} lost")
    if lost or proven != len(deliveries):
        raise SystemExit(1)


def settle(url, keys):
    """Waits until every delivery has ended."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = {profile: Api(url, keys[profile]).deliveries() for profile in keys}
        if all(delivery["status"] != "PENDING" for profile in found for delivery in found[profile]) and all(found.values()):
            return found
        if time.monotonic() > deadline:
            raise SystemExit("deliveries were still pending when patience ended")
        time.sleep(0.1)


def report(url, keys, found, received):
    print("\nwhat was delivered")
    for profile, _, _ in PROFILES:
        print(f"  {profile}")
        for delivery in reversed(found[profile]):
            attempts = ", ".join(f"{attempt['statusCode'] or attempt['outcome']} in {attempt['latencyMs']:.0f} ms" for attempt in delivery["attempts"]["nodes"])
            mark = "  <- retried" if delivery["attemptCount"] > 1 else ""
            print(f"    {delivery['message']['type']:<42} {delivery['status']:<10} {attempts}{mark}")
    print("\nwhat the audit log says (deliveries leave no rows there)")
    for profile, slug, _ in PROFILES:
        for row in reversed(Api(url, keys[profile])(AUDIT, "auditLog")["nodes"]):
            print(f"  {slug:<12} {row['at']}  {row['code']:<28} {row['targetId']}")
    twice = len(received) - len({(entry["path"], entry["message_id"]) for entry in received})
    print(f"\nthe receiver logged {len(received)} requests, tests among them; {twice} came again under the same id: the retry, and what was under way at the kill")


main()

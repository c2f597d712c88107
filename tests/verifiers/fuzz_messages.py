"""Random requests by schema/openapi.json, fitting and unfitting, made by schemathesis with all of its checks, on a real
server: status codes, media types and bodies must be those of the document, and nothing else may be accepted or refused.

    TOKEN=tdk_… fuzz_messages.py http://127.0.0.1:8080 ten_… user.created user.deleted …

The tenant and the event types are what the server knows: the document cannot say it. Nor can it say which headers go with
which body, so the document is tried in parts.

tests/it/contract.rs runs it.
"""

import copy
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SEED = 5
CASES = 60
PATH = "/v1/messages"

url, tenant, *event_types = sys.argv[1:]
document = json.loads((Path(__file__).parent / "../../schema/openapi.json").read_text())
for name in ("Message", "CloudEvent"):
    document["components"]["schemas"][name]["properties"]["type"]["enum"] = event_types
for parameter in document["paths"][PATH]["post"]["parameters"]:
    if parameter["name"] in ("tenantId", "ce-type"):
        parameter["schema"]["enum"] = [tenant] if parameter["name"] == "tenantId" else event_types


MESSAGE, EVENT = ({"schema": {"$ref": f"#/components/schemas/{name}"}} for name in ("Message", "CloudEvent"))


def part(bodies, headers=lambda name: False):
    """Publishing with those of its bodies and headers alone."""
    chosen = copy.deepcopy(document)
    post = chosen["paths"][PATH]["post"]
    post["parameters"] = [found for found in post["parameters"] if found["in"] == "query" or headers(found["name"])]
    post["requestBody"]["content"] = bodies
    chosen["paths"] = {PATH: chosen["paths"][PATH]}
    return chosen


def with_key():
    """A key in the header; another one in the message would contradict it."""
    chosen = part({"application/json": MESSAGE}, lambda name: name == "Idempotency-Key")
    del chosen["components"]["schemas"]["Message"]["properties"]["idempotencyKey"]
    for found in chosen["paths"][PATH]["post"]["parameters"]:
        found["required"] = found["in"] == "header"
    return chosen


def in_binary_mode():
    """A CloudEvent whose attributes are headers, all but its time required, and whose body is its data."""
    chosen = part({"application/json": {"schema": {"type": "object"}}}, lambda name: name.startswith("ce-"))
    for found in chosen["paths"][PATH]["post"]["parameters"]:
        found["required"] = found["in"] == "header" and found["name"] != "ce-time"
    return chosen


def around():
    """All but publishing."""
    chosen = copy.deepcopy(document)
    del chosen["paths"][PATH]
    return chosen


# A wrong message among several is refused alone, within an answer that is none of a refusal.
fitting, both = "positive", "all"
several = copy.deepcopy(document["paths"][PATH]["post"]["requestBody"]["content"])
one_or_several = {"schema": {"oneOf": [MESSAGE["schema"], {"type": "array", "maxItems": 100}]}}
parts = {
    "one message": (both, part({"application/json": one_or_several, "application/cloudevents+json": EVENT})),
    # Without the key, what does not fit here may fit above: an array does.
    "one message with a key": (fitting, with_key()),
    "a CloudEvent in binary mode": (both, in_binary_mode()),
    "several messages": (fitting, part(several)),
    "everything else": (both, around()),
}
wrong = 0
with tempfile.TemporaryDirectory() as folder:
    for name, (mode, chosen) in parts.items():
        print(f"== {name}", flush=True)
        Path(folder, "openapi.json").write_text(json.dumps(chosen))
        arguments = ["run", "openapi.json", "--url", url, "--header", f"Authorization: Bearer {os.environ['TOKEN']}"]
        arguments += ["--checks", "all", "--seed", str(SEED), "--max-examples", str(CASES), "--generation-database", "none"]
        arguments += ["--mode", mode, "--continue-on-failure", "--no-color"]
        program = Path(sys.executable).parent / "schemathesis"
        wrong += subprocess.run([program, *arguments], cwd=folder).returncode != 0
sys.exit(f"{wrong} of {len(parts)} parts went wrong" if wrong else 0)

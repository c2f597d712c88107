"""Webhook libraries of others judge deliveries that Tidings signed.

Reads a delivery per line: { profile, secret, raw, headers, body }; `raw` says that the secret is the key itself rather
than base64. Writes a line for every verifier, if there is a signature for it: { index, verifier, accepted }. Only a refusal
counts as one: whatever else goes wrong ends the process.
"""

import json
import sys

import standardwebhooks
import svix.webhooks

VERIFIERS = {
    "pypi standardwebhooks": standardwebhooks.Webhook,
    "pypi svix": svix.webhooks.Webhook,
}
REFUSALS = (standardwebhooks.WebhookVerificationError, svix.webhooks.WebhookVerificationError)


def accepts(webhook, delivery):
    secret = delivery["secret"]
    try:
        webhook(secret.encode() if delivery["raw"] else secret).verify(delivery["body"].encode(), delivery["headers"])
        return True
    except REFUSALS:
        return False


for index, line in enumerate(sys.stdin.buffer):
    delivery = json.loads(line)
    if not delivery["headers"].get("webhook-signature", "").startswith("v1,"):
        continue
    for verifier, webhook in VERIFIERS.items():
        print(json.dumps({"index": index, "verifier": verifier, "accepted": accepts(webhook, delivery)}))

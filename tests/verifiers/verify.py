"""Webhook libraries of others judge deliveries that Tidings signed.

Reads a delivery per line: { profile, secret, raw, headers, body }; `raw` says that the secret is the key itself rather
than base64. Writes a line for every verifier of the profile: { index, verifier, accepted }. Only a refusal counts as
one: whatever else goes wrong ends the process.
"""

import base64
import json
import sys
import time

import standardwebhooks
import stripe
import svix.webhooks
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TOLERANCE_S = 300
REFUSALS = (
    standardwebhooks.WebhookVerificationError,
    svix.webhooks.WebhookVerificationError,
    stripe.SignatureVerificationError,
)


def accepts(verify):
    try:
        verify()
        return True
    except REFUSALS:
        return False


def standard(webhook):
    def verify(delivery):
        key = delivery["secret"].encode() if delivery["raw"] else delivery["secret"]
        return accepts(lambda: webhook(key).verify(delivery["body"].encode(), delivery["headers"]))

    return verify


def stripe_reads(header):
    def verify(delivery):
        value, body, secret = delivery["headers"][header], delivery["body"], delivery["secret"]
        return accepts(lambda: stripe.WebhookSignature.verify_header(body, value, secret, TOLERANCE_S))

    return verify


def ed25519(delivery):
    """No library verifies the asymmetric signatures of Standard Webhooks: its specification over PyCA's Ed25519."""
    headers = delivery["headers"]
    key = Ed25519PublicKey.from_public_bytes(base64.b64decode(delivery["secret"].removeprefix("whpk_")))
    timestamp = headers["webhook-timestamp"]
    signed = f"{headers['webhook-id']}.{timestamp}.{delivery['body']}".encode()

    def fits(part):
        version, signature = part.split(",")
        try:
            key.verify(base64.b64decode(signature), signed)
        except InvalidSignature:
            return False
        return version == "v1a"

    recent = abs(time.time() - int(timestamp)) <= TOLERANCE_S
    return recent and any(fits(part) for part in headers["webhook-signature"].split(" "))


EVERYWHERE = {
    "pypi standardwebhooks": standard(standardwebhooks.Webhook),
    "pypi svix": standard(svix.webhooks.Webhook),
}
VERIFIERS = {
    "axie-v1": EVERYWHERE,
    "axissynapse-v1": {**EVERYWHERE, "pypi stripe": stripe_reads("x-axissynapse-signature")},
    "standard-v1": EVERYWHERE,
    "stripe-style-v1": {"pypi stripe": stripe_reads("stripe-signature")},
    "ed25519-style-v1": {"pypi cryptography": ed25519},
    "github-style-v1": {},
}

for index, line in enumerate(sys.stdin.buffer):
    delivery = json.loads(line)
    for verifier, verify in VERIFIERS[delivery["profile"]].items():
        print(json.dumps({"index": index, "verifier": verifier, "accepted": verify(delivery)}))

// Webhook libraries of others, and the two documents' own samples, judge deliveries that Tidings signed.
//
// Reads a delivery per line: { profile, secret, raw, headers, body }; `raw` says that the secret is the key itself rather
// than base64. Writes a line for every verifier that applies: { index, verifier, accepted }. Only a refusal counts as
// one: whatever else goes wrong ends the process.

import { createPublicKey, verify as verifySignature } from "node:crypto";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

import * as octokit from "@octokit/webhooks-methods";
import * as standardwebhooks from "standardwebhooks";
import Stripe from "stripe";
import * as svix from "svix";

const sample = (name) => readFileSync(new URL(`samples/${name}`, import.meta.url), "utf8");

// The samples stand in their files as in the documents. They export nothing, so each is run with a line behind it.
const axie = new Function("require", `${sample("axie-verify.cjs")}\nreturn verifyWebhook;`)(createRequire(import.meta.url));
const axissynapse = (await import(
  `data:text/javascript,${encodeURIComponent(`${sample("axissynapse-verify.mjs")}\nexport { verify };`)}`
)).verify;

// The Axie document's whole server, with as much of Express as it uses.
const axieServer = (() => {
  const environment = {};
  let handler;
  const express = () => ({ use() {}, post: (_path, answer) => { handler = answer; }, listen() {} });
  express.json = () => {};
  const require = createRequire(import.meta.url);
  const ignore = () => {};
  new Function("require", "process", "addUserToCRM", "updateUserInCRM", sample("axie-server.cjs"))(
    (name) => (name === "express" ? express : require(name)), { env: environment }, ignore, ignore,
  );
  return (request, secret) => {
    environment.WEBHOOK_SECRET = secret;
    let answered;
    const response = { status(status) { answered = status; return this; }, send() {}, json() {} };
    handler(request, response);
    if (answered !== 200 && answered !== 401) throw new Error(`the sample answered ${answered}`);
    return answered === 200;
  };
})();

// Whether `verify` returns, or throws the error by which its library refuses.
const returns = (verify, Refusal) => {
  try {
    verify();
    return true;
  } catch (error) {
    if (error instanceof Refusal) return false;
    throw error;
  }
};

const standard = (library) => ({ secret, raw, headers, bytes }) =>
  returns(() => new library.Webhook(secret, raw ? { format: "raw" } : {}).verify(bytes, headers), library.WebhookVerificationError);

const stripeWebhooks = new Stripe("unused").webhooks;
const stripe = ({ secret, body }, header) =>
  returns(() => stripeWebhooks.constructEvent(body, header, secret), Stripe.errors.StripeSignatureVerificationError);

// No library verifies the asymmetric signatures of Standard Webhooks, so this is its specification over Node's Ed25519.
const DER_OF_ED25519 = Buffer.from("302a300506032b6570032100", "hex");
const asymmetric = ({ headers, body, secret }) => {
  const key = Buffer.concat([DER_OF_ED25519, Buffer.from(secret.replace(/^whpk_/, ""), "base64")]);
  const publicKey = createPublicKey({ key, format: "der", type: "spki" });
  const timestamp = headers["webhook-timestamp"];
  const signed = Buffer.from(`${headers["webhook-id"]}.${timestamp}.${body}`);
  const fits = (part) => {
    const [version, signature] = part.split(",");
    return version === "v1a" && verifySignature(null, signed, publicKey, Buffer.from(signature, "base64"));
  };
  return Math.abs(Date.now() / 1000 - Number(timestamp)) <= 300 && headers["webhook-signature"].split(" ").some(fits);
};

const everywhere = {
  "npm standardwebhooks": standard(standardwebhooks),
  "npm svix": standard(svix),
};

const verifiers = {
  "standard-v1": everywhere,
  "axie-v1": {
    ...everywhere,
    "axie sample": ({ headers, body, secret }) => axie({ headers, body: JSON.parse(body) }, secret),
    "axie server sample": ({ headers, body, secret }) => axieServer({ headers, body: JSON.parse(body) }, secret),
    "npm @octokit/webhooks-methods": ({ headers, body, secret }) =>
      octokit.verify(secret, body, headers["x-webhook-signature"]),
  },
  "axissynapse-v1": {
    ...everywhere,
    "axissynapse sample": ({ headers, bytes, secret }) => axissynapse({ headers, rawBody: bytes }, secret),
    "npm stripe": (delivery) => stripe(delivery, delivery.headers["x-axissynapse-signature"]),
    // That it refuses the header above says something only if it accepts its own.
    "npm stripe on its own header": (delivery) =>
      stripe(delivery, stripeWebhooks.generateTestHeaderString({ payload: delivery.body, secret: delivery.secret })),
  },
  "stripe-style-v1": {
    "npm stripe": (delivery) => stripe(delivery, delivery.headers["stripe-signature"]),
  },
  "ed25519-style-v1": {
    "node Ed25519": asymmetric,
  },
  "github-style-v1": {
    "npm @octokit/webhooks-methods": ({ headers, body, secret }) =>
      octokit.verify(secret, body, headers["x-hub-signature-256"]),
  },
};

// Not `readline`, which also ends lines at U+2028.
const lines = readFileSync(0, "utf8").split("\n").filter((line) => line !== "");
for (const [index, line] of lines.entries()) {
  const delivery = JSON.parse(line);
  delivery.bytes = Buffer.from(delivery.body);
  for (const [verifier, accepts] of Object.entries(verifiers[delivery.profile])) {
    console.log(JSON.stringify({ index, verifier, accepted: await accepts(delivery) }));
  }
}

// What stands for something else in the variables of docs/operations, and what is put in its place. The rules are in
// docs/operations/README.md; tests/it/operations.rs follows the same ones.

const ID = /\b(wh|evt|dlv|job|key|ten|era)_[0-9A-Za-z]{20,}\b/g;
const KINDS = { wh: 'a webhook', evt: 'a message', dlv: 'a delivery', job: 'a job', key: 'an API key', ten: 'a tenant', era: 'an erasure' };
const HOUR_MS = 3_600_000;

const SEEN = 'tidings.seen';

/** The id of each kind that an answer has shown last. Survives a reload, as the tabs do that the ids are for. */
const seen = new Map(JSON.parse(sessionStorage.getItem(SEEN) ?? '[]'));

/** Takes note of the ids of an answer: the first of each kind. */
export function notice(text) {
  const first = new Map();
  for (const [id, kind] of text.matchAll(ID)) if (!first.has(kind)) first.set(kind, id);
  // Whoever lists the keys sees their own, which the example that withdraws a key must not be given.
  if (!text.includes('"token"')) first.delete('key');
  // What a test sends has an id too, but was never published.
  if (text.includes('"testWebhookDelivery"')) first.delete('evt');
  for (const [kind, id] of first) seen.set(kind, id);
  sessionStorage.setItem(SEEN, JSON.stringify([...seen]));
}

/** Knows no id any more: the next answers may be those of another tenant. */
export function forget() {
  seen.clear();
  sessionStorage.removeItem(SEEN);
}

/** The variables with everything in place that is known. */
export function fill(value) {
  if (Array.isArray(value)) return value.map(fill);
  if (value && typeof value === 'object') return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, fill(v)]));
  if (value === '…') return crypto.getRandomValues(new Uint32Array(2)).reduce((text, n) => text + n.toString(16), '');
  if (value === 'now+1h') return new Date(Date.now() + HOUR_MS).toISOString();
  if (value === 'now-1h') return new Date(Date.now() - HOUR_MS).toISOString();
  return idFor(value) ?? value;
}

function idFor(value) {
  const kind = typeof value === 'string' && value.endsWith('_…') && value.slice(0, -2);
  return kind ? seen.get(kind) : undefined;
}

/** Why the variables cannot be sent; nothing if they can. */
export function unfilled(variables) {
  const left = /"((\w+)_…)"/.exec(JSON.stringify(variables ?? {}));
  return left && `'${left[1]}' in the variables stands for the id of ${KINDS[left[2]] ?? 'something'}: run an operation that shows one, or paste it`;
}

// The clients that others write against us, graphql-ws and graphql-sse, on a real server.
//
//   TOKEN=tdk_… node live.mjs http://127.0.0.1:8080/graphql webhook-id
//
// Prints one JSON object for each client: what it saw. tests/it/live.rs says what it must have seen.
import { createClient as createSocketClient } from 'graphql-ws';
import { createClient as createEventsClient } from 'graphql-sse';
import WebSocket from 'ws';

const [url, webhookId] = process.argv.slice(2);
const authorization = `Bearer ${process.env.TOKEN}`;
const live = `subscription($filter: DeliveryFilter, $after: String) {
  deliveryUpdates(filter: $filter, after: $after) { cursor delivery { id status } } }`;
const publish = 'mutation { publishMessage(input: { type: "user.created", data: {} }) { message { id } } }';
const makeKey = `mutation { createApiKey(input: { name: "brief", scopes: [DELIVERIES_READ] }) {
  token apiKey { id } userErrors { message } } }`;
const revoke = 'mutation($id: ID!) { revokeApiKey(input: { apiKeyId: $id }) { userErrors { message } } }';

async function once(client, query, variables) {
  for await (const answer of client.iterate({ query, variables })) return answer;
  throw new Error('no answer');
}

// Deliveries until so many have succeeded, and the cursor of the first item.
async function watch(client, count, after, begin = () => {}) {
  const succeeded = new Set();
  let cursor;
  for await (const answer of client.iterate({ query: live, variables: { filter: { webhookId }, after } })) {
    if (answer.errors) throw new Error(JSON.stringify(answer.errors));
    const item = answer.data.deliveryUpdates;
    cursor ??= item.cursor;
    if (item.delivery.status === 'SUCCEEDED') succeeded.add(item.delivery.id);
    if (succeeded.size === count) break;
  }
  return { cursor, succeeded: [...succeeded] };
}

// Publishes until the first item has come: a client does not say when it listens.
async function firstItem(client) {
  const items = client.iterate({ query: live, variables: { filter: { webhookId } } });
  const next = items.next();
  let item;
  next.then((answer) => (item = answer.value));
  while (item === undefined) {
    await once(client, publish);
    await Promise.race([next, new Promise((resolve) => setTimeout(resolve, 50))]);
  }
  await items.return();
  if (item.errors) throw new Error(JSON.stringify(item.errors));
  return item.data.deliveryUpdates.cursor;
}

async function errorOf(client, query, variables) {
  try {
    const answer = await once(client, query, variables);
    return answer.errors?.[0]?.extensions?.code ?? 'none';
  } catch (error) {
    const first = Array.isArray(error) ? error[0] : error;
    return first?.extensions?.code ?? String(first);
  }
}

async function tried(name, client) {
  const seen = { client: name };
  seen.viewer = (await once(client, '{ viewer { name } }')).data.viewer.name;
  const cursor = await firstItem(client);
  for (let n = 0; n < 3; n += 1) await once(client, publish);
  seen.succeeded = (await watch(client, 3, cursor)).succeeded.length;
  seen.badCursor = await errorOf(client, live, { after: 'x' });
  seen.unknownField = await errorOf(client, 'subscription { nothing }');
  return seen;
}

const socketUrl = url.replace('http', 'ws');
const sockets = createSocketClient({
  url: socketUrl,
  webSocketImpl: WebSocket,
  connectionParams: { authorization },
  retryAttempts: 0,
});
const seenBySocket = await tried('graphql-ws', sockets);
const made = (await once(sockets, makeKey)).data.createApiKey;
let revoked;
seenBySocket.closedOnRevocation = await new Promise((resolve) => {
  createSocketClient({
    url: socketUrl,
    webSocketImpl: WebSocket,
    connectionParams: { authorization: `Bearer ${made.token}` },
    lazy: false,
    retryAttempts: 0,
    onNonLazyError: () => {},
    on: {
      connected: () => (revoked = once(sockets, revoke, { id: made.apiKey.id })),
      closed: (event) => resolve(event.code),
    },
  });
});
await revoked;
await sockets.dispose();
console.log(JSON.stringify(seenBySocket));

const events = createEventsClient({ url, headers: { authorization }, retryAttempts: 0 });
const seenByEvents = await tried('graphql-sse', events);
events.dispose();
console.log(JSON.stringify(seenByEvents));

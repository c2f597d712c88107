// How the page talks to the server.

import { createClient } from 'graphql-sse';
import { getOperationAST, parse } from 'graphql';

import { fill, forget, notice, unfilled } from './placeholders.js';

const GRAPHQL = '../graphql';
const KEY = 'tidings.key';

/** The key of this tab: it survives a reload, and goes with the tab. */
export const keptKey = () => sessionStorage.getItem(KEY) ?? '';
export const keepKey = (key) => sessionStorage.setItem(KEY, key);
/** With everything that was asked and answered with it: the next key may be that of another tenant. */
export const forgetAll = () => {
  sessionStorage.clear();
  forget();
};

const headersFor = (key) => ({ authorization: `Bearer ${key}` });

/** Who the key stands for. Throws an error for people: a `Refusal` if the server does not know the key. */
export async function whoIs(key) {
  // Nothing else may stand in a header, so it is no key.
  if (!/^[\x21-\x7e]+$/.test(key)) throw new Refusal();
  const answer = await post(key, { query: 'query Viewer { viewer { name tenant { name } } }' }).then(JSON.parse).catch(() => {
    throw new Error('The server does not answer. Is it running?');
  });
  const { data, errors } = answer;
  if (errors?.[0]?.extensions?.code === 'UNAUTHENTICATED') throw new Refusal();
  if (!data?.viewer) throw new Error(errors?.[0]?.message ?? 'The server does not say whose key this is.');
  return data.viewer;
}

/** The server does not take this key. */
export class Refusal extends Error {
  constructor() {
    super('The server does not know this key: it is incomplete, has expired or was withdrawn, or is that of another server.');
  }
}

async function post(key, body) {
  const response = await fetch(GRAPHQL, {
    method: 'POST',
    credentials: 'omit',
    headers: {
      ...headersFor(key),
      accept: 'application/graphql-response+json, application/json;q=0.9',
      'content-type': 'application/json',
    },
    body: JSON.stringify(body),
  });
  return response.text();
}

/** For subscriptions, which come as server-sent events. */
export const liveFor = (key) => createClient({ url: new URL(GRAPHQL, location.href).href, headers: headersFor(key) });

/** What GraphiQL runs operations with. */
export function fetcherFor(key, live) {
  return ({ query, variables, operationName }) => {
    const filled = fill(variables);
    const missing = unfilled(filled);
    if (missing) return { errors: [{ message: missing }] };
    const operation = operationOf(query, operationName);
    const request = { query, variables: filled, operationName: operation?.name?.value };
    if (operation?.operation === 'subscription') return events(live, request);
    return post(key, request).then((text) => {
      notice(text);
      return JSON.parse(text);
    });
  };
}

/** The operation to run. GraphiQL learns its name a moment late, and may still have that of the tab before. */
function operationOf(query, name) {
  try {
    const document = parse(query);
    return getOperationAST(document, name) ?? getOperationAST(document);
  } catch {
    return undefined; // What is wrong, the server says.
  }
}

async function* events(live, request) {
  for await (const result of live.iterate(request)) {
    notice(JSON.stringify(result));
    yield result;
  }
}

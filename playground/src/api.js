// How the page talks to the server.

import { createClient } from 'graphql-sse';
import { getOperationAST, parse } from 'graphql';

import { fill, notice, unfilled } from './placeholders.js';

const GRAPHQL = '../graphql';
const KEY = 'tidings.key';

/** The key of this tab: it survives a reload, and goes with the tab. */
export const keptKey = () => sessionStorage.getItem(KEY) ?? '';
export const keepKey = (key) => sessionStorage.setItem(KEY, key);
export const forgetKey = () => sessionStorage.removeItem(KEY);

const headersFor = (key) => ({ authorization: `Bearer ${key}` });

/** Who the key stands for. Throws an error for people if the server refuses it. */
export async function whoIs(key) {
  const answer = await post(key, { query: 'query Viewer { viewer { name tenant { name } } }' });
  const { data, errors } = JSON.parse(answer);
  if (!data?.viewer) throw new Error(errors?.[0]?.message ?? 'the server does not know this key');
  return data.viewer;
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

// How a client in TypeScript uses our operations: what it may write, and what the compiler must not let it.
import type { ResultOf } from '@graphql-typed-document-node/core';
import {
  CreateWebhookDocument,
  DeliveriesDocument,
  StartBackfillDocument,
  type TypedDocumentString,
} from './gql/graphql';

declare function ask<Result, Variables>(
  operation: TypedDocumentString<Result, Variables>,
  variables: Variables,
): Promise<Result>;

export async function secretOfNewWebhook(url: string): Promise<string> {
  const { createWebhook } = await ask(CreateWebhookDocument, { input: { url, eventFilters: ['user.*'] } });
  const [refusal] = createWebhook?.userErrors ?? [];
  if (refusal?.code === 'WEBHOOK_INVALID_URL') throw new Error(refusal.path.join('.'));
  return createWebhook?.secret ?? '';
}

export const states = (page: ResultOf<typeof DeliveriesDocument>): string[] =>
  page.deliveries?.nodes.map(({ status, createdAt }) => `${createdAt} ${status}`) ?? [];

export const since = (webhookId: string, time: string) =>
  ask(StartBackfillDocument, { input: { webhookId, from: { time }, ratePerSecond: 50 } });

// @ts-expect-error A webhook has a URL.
ask(CreateWebhookDocument, { input: { eventFilters: ['**'] } });
// @ts-expect-error A time is a text.
since('wh_1', 5);
// @ts-expect-error One way of saying from where, not two.
ask(StartBackfillDocument, { input: { webhookId: 'wh_1', from: { time: '', position: '' }, ratePerSecond: 50 } });

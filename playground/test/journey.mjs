// The way of somebody new, in a real browser: node journey.mjs ADDRESS KEY ENDPOINT. tests/it/playground.rs runs it.

import assert from 'node:assert/strict';

import { browse, Visitor } from './browser.mjs';

const [address, key, endpoint] = process.argv.slice(2);

await browse(address, { expected: [/^console: .*401 \(Unauthorized\)/, /^console: .*ERR_FAILED/] }, async (page) => {
  const visitor = new Visitor(page, address);
  await isAskedForAKey(page, visitor);
  // The whole line, as the server printed it.
  await visitor.enter(`bootstrap key (shown once): ${key}`);
  await visitor.arrive();
  await makesAWebhook(visitor);
  await sendsAMessage(visitor);
  await isTold(visitor);
  await watches(page, visitor);
  await readsTheSchema(page);
  await opensAnExampleAgain(page, visitor);
  await comesBack(page, visitor);
  await leaves(page, visitor);
});

async function isAskedForAKey(page, visitor) {
  await visitor.open();
  await page.getByText('An API key is needed').waitFor();
  await visitor.enter('tdk_wrong');
  await page.getByRole('alert').filter({ hasText: 'does not know this key' }).waitFor();
}

async function makesAWebhook(visitor) {
  const { viewer } = (await visitor.run()).data;
  assert.equal(viewer.name, 'bootstrap');
  const input = { url: endpoint, eventFilters: ['user.*'], enabled: false };
  await visitor.example('Begin', 'Create a webhook', { input });
  const { createWebhook } = (await visitor.run()).data;
  assert.deepEqual(createWebhook.userErrors, []);
  assert.equal(createWebhook.webhook.url, endpoint);
  await visitor.example('Begin', 'Send a test');
  assert.equal((await visitor.run()).data.testWebhookDelivery.result.verified, true);
  await visitor.example('Begin', 'Enable a webhook');
  assert.equal((await visitor.run()).data.enableWebhook.webhook.id, createWebhook.webhook.id);
}

async function sendsAMessage(visitor) {
  await visitor.example('Begin', 'Publish a message');
  const { publishMessage } = (await visitor.run()).data;
  assert.equal(publishMessage.duplicate, false);
  await visitor.example('Messages', 'See a message');
  let { message } = (await visitor.run()).data;
  while (message === null) ({ message } = (await visitor.run()).data);
  assert.equal(message.id, publishMessage.message.id);
}

/** Beside the examples, while they are tried. */
async function watches(page, visitor) {
  const live = page.locator('details', { has: page.locator('summary', { hasText: 'Deliveries, live' }) });
  await live.locator('summary').click();
  await live.getByText('Listening').waitFor();
  const arrived = live.getByText(/succeeded · user.created · 200/).first();
  // Nobody knows when the server has begun to listen, and only what comes later is told.
  do {
    await visitor.example('Begin', 'Publish a message');
    await visitor.run();
  } while (!(await appears(arrived)));
  await arrived.click();
  assert.equal((await visitor.run()).data.delivery.status, 'SUCCEEDED');
  await visitor.example('Begin', 'Watch deliveries live');
  await visitor.execute();
  await page.getByRole('button', { name: 'Stop query' }).click();
}

async function appears(element) {
  return element.waitFor({ timeout: 2000 }).then(() => true, () => false);
}

/** What stands for an id that no answer has shown is not sent. */
async function isTold(visitor) {
  await visitor.example('Jobs', 'End a job');
  await visitor.execute();
  await visitor.shows('stands for the id of a job');
}

async function readsTheSchema(page) {
  await page.getByRole('button', { name: /Show Documentation Explorer/ }).click();
  await page.getByRole('link', { name: 'Mutation', exact: true }).first().click();
  await page.getByRole('link', { name: 'createWebhook', exact: true }).waitFor();
}

/** An example has one tab, as long as nobody has changed it; what somebody wrote is kept. */
async function opensAnExampleAgain(page, visitor) {
  await page.getByRole('button', { name: /Show Examples/ }).click();
  const tabs = page.locator('.graphiql-tab');
  await visitor.example('Begin', 'See how deliveries went');
  await visitor.example('Begin', 'Publish a message');
  const opened = await tabs.count();
  await visitor.example('Begin', 'See how deliveries went');
  assert.equal(await tabs.count(), opened);
  await page.keyboard.press('ControlOrMeta+Enter');
  await visitor.shows('deliveryStats');
  await visitor.write({ window: 'LAST_7D' });
  // GraphiQL takes note of it a moment later.
  await page.waitForFunction(() => sessionStorage.getItem('graphiql:tabState')?.includes('LAST_7D'));
  await visitor.example('Begin', 'Publish a message');
  await visitor.example('Begin', 'See how deliveries went');
  await page.locator('.graphiql-tab').nth(opened).waitFor();
}

/** Everything is as it was, also when the server was away for a while. */
async function comesBack(page, visitor) {
  await page.route('**/graphql', (route) => route.abort());
  await page.reload();
  await page.getByRole('alert').filter({ hasText: 'does not answer' }).waitFor();
  await page.unroute('**/graphql');
  await page.getByRole('button', { name: 'Open' }).click();
  await visitor.arrive();
  assert.equal(await page.evaluate(() => localStorage.length), 0);
  await visitor.example('Begin', 'Send a test');
  assert.equal((await visitor.run()).data.testWebhookDelivery.result.verified, true);
  // A test is no message.
  await visitor.example('Messages', 'See a message');
  assert.notEqual((await visitor.run()).data.message, null);
}

/** Nothing is left for whoever comes next. */
async function leaves(page, visitor) {
  await page.getByRole('button', { name: 'Other key' }).click();
  await visitor.page.getByLabel('API key', { exact: true }).waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.length), 0);
}

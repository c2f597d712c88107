// A browser on the playground, which takes note of all that must not happen.

import { chromium } from 'playwright-core';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';

/**
 * Opens a page and runs `visit` with it; fails if the page asked elsewhere, complained, or broke its policy, but for
 * what is expected, which must come.
 */
export async function browse(address, { expected = [] }, visit) {
  const browser = await chromium.launch({
    executablePath: CHROMIUM,
    args: ['--no-sandbox', '--disable-background-networking', '--disable-component-update'],
  });
  try {
    const page = await browser.newPage({ viewport: { width: 1400, height: 900 } });
    const faults = [];
    page.on('request', (request) => {
      const { origin, protocol } = new URL(request.url());
      if (origin !== new URL(address).origin && !['data:', 'blob:'].includes(protocol)) faults.push(`asked ${request.url()}`);
    });
    page.on('console', (message) => {
      if (message.type() === 'error') faults.push(`console: ${message.text()}`);
    });
    page.on('pageerror', (error) => faults.push(`error: ${error.message}`));
    await page.exposeFunction('policyBroken', (what) => faults.push(`policy: ${what}`));
    await page.addInitScript(() => {
      document.addEventListener('securitypolicyviolation', (event) => {
        window.policyBroken(`${event.effectiveDirective} ${event.blockedURI}`);
      });
    });
    try {
      await visit(page);
    } catch (error) {
      const shown = await page.locator('body').innerText();
      throw new Error([error.message, ...faults, 'the page:', shown].join('\n'), { cause: error });
    }
    const unexpected = faults.filter((fault) => !expected.some((pattern) => pattern.test(fault)));
    if (unexpected.length > 0) throw new Error(unexpected.join('\n'));
    for (const pattern of expected) {
      if (!faults.some((fault) => pattern.test(fault))) throw new Error(`never came: ${pattern}`);
    }
  } finally {
    await browser.close();
  }
}

/** What a person does on the page. */
export class Visitor {
  constructor(page, address) {
    this.page = page;
    this.address = address;
  }

  async open() {
    await this.page.goto(new URL('/', this.address).href);
    await this.page.getByLabel('API key', { exact: true }).waitFor();
  }

  async enter(key) {
    await this.page.getByLabel('API key', { exact: true }).fill(key);
    await this.page.getByRole('button', { name: 'Open' }).click();
  }

  /** Waits until GraphiQL is there and knows the schema. */
  async arrive() {
    await this.page.locator('.graphiql-query-editor .view-lines').first().waitFor();
    await this.page.getByRole('region', { name: 'Examples' }).waitFor();
  }

  /** Opens an example in a tab of its own; with other variables if they are given. */
  async example(group, title, variables) {
    const examples = this.page.getByRole('region', { name: 'Examples' });
    const members = examples.locator('details', { has: this.page.locator('summary', { hasText: new RegExp(`^${group}$`) }) });
    if ((await members.getAttribute('open')) === null) await members.locator('summary').click();
    await members.getByRole('button', { name: title, exact: true }).click();
    await this.page.locator('.graphiql-query-editor .view-lines', { hasText: title }).waitFor();
    if (variables) await this.write(variables);
  }

  /** Writes the variables anew. */
  async write(variables) {
    const editor = this.page.locator('.graphiql-editor-tool .monaco-editor').first();
    await editor.click();
    await this.page.keyboard.press('ControlOrMeta+A');
    await this.page.keyboard.insertText(JSON.stringify(variables));
    // The editor has closed quotes and brackets by itself, behind the cursor.
    await this.page.keyboard.press('ControlOrMeta+Shift+End');
    await this.page.keyboard.press('Delete');
  }

  /** Runs the operation of the open tab; its answer, which the page must show as well. */
  async run() {
    // GraphiQL asks for the schema at a time of its own.
    const answered = this.page.waitForResponse(
      (response) => new URL(response.url()).pathname === '/graphql' && !response.request().postData()?.includes('IntrospectionQuery'),
    );
    await this.execute();
    const answer = await (await answered).json();
    await this.shows(answer.errors ? 'errors' : 'data');
    return answer;
  }

  async execute() {
    await this.page.getByRole('button', { name: 'Execute query' }).click();
  }

  /** Waits until the answer shows that text. */
  async shows(text) {
    await this.page.locator('.result-window .view-lines', { hasText: text }).waitFor();
  }
}

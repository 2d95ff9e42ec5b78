import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { type Browser, type BrowserContext, type BrowserContextOptions, type Page, chromium } from 'playwright-core';
import { afterAll, beforeAll } from 'vitest';
import { type Options, type Server, post, startServer } from './server';

export const PASSWORD = 'correct horse';
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** A server and a browser for the tests of one file. */
export class World {
  server!: Server;
  browser!: Browser;
  /** What pages threw, and what their Content-Security-Policy forbade. */
  readonly faults: string[] = [];
  private readonly contexts: BrowserContext[] = [];

  async open(options: Options = {}): Promise<void> {
    this.server = await startServer(options);
    this.browser = await chromium.launch({
      executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
      // Root has no sandbox, and containers little shared memory.
      args: ['--no-sandbox', '--disable-dev-shm-usage'],
    });
    mkdirSync('e2e/shots', { recursive: true });
  }

  async close(): Promise<void> {
    for (const context of this.contexts) await context.close();
    await this.browser?.close();
    await this.server?.end();
  }

  /** A browser of its own, as another person has. */
  async context(options: BrowserContextOptions = {}): Promise<BrowserContext> {
    const context = await this.browser.newContext({ viewport: { width: 1280, height: 800 }, locale: 'en-GB', ...options });
    this.contexts.push(context);
    return context;
  }

  async tab(context: BrowserContext): Promise<Page> {
    const page = await context.newPage();
    page.setDefaultTimeout(10_000);
    page.on('pageerror', (error) => this.faults.push(String(error)));
    page.on('console', (message) => {
      if (/Content.Security.Policy|TrustedHTML/.test(message.text())) this.faults.push(message.text());
    });
    return page;
  }

  async visitor(width = 1280, height = 800): Promise<Page> {
    return this.tab(await this.context({ viewport: { width, height } }));
  }

  /** Signs up over HTTP, and gives the token. */
  async account(name: string): Promise<string> {
    const email = `${Buffer.from(name).toString('hex')}@example.org`;
    return (await post<{ token: string }>(this.server, '/user/signup', { username: name, email, password: PASSWORD })).token;
  }

  async token(name: string): Promise<string> {
    return (await post<{ token: string }>(this.server, '/user/signin', { username: name, password: PASSWORD })).token;
  }

  async room(owner: string, name: string, title = name): Promise<void> {
    await post(this.server, '/user/createroom', { name, title }, owner);
  }

  async join(token: string, room: string): Promise<void> {
    await post(this.server, `/rooms/${encodeURIComponent(room)}/join`, {}, token);
  }

  async say(token: string, room: string, text: string): Promise<number> {
    return (await post<{ offset: number }>(this.server, `/rooms/${encodeURIComponent(room)}/messages`, { text }, token)).offset;
  }

  async reply(name: string, room: string, text: string, to: number): Promise<void> {
    await post(this.server, `/rooms/${room}/messages`, { text, reply_to: to }, await this.token(name));
  }

  /** Opens the page, or a room, and signs in. */
  async signIn(page: Page, name: string, room?: string): Promise<void> {
    await page.goto(this.server.page + (room === undefined ? '' : `/#/${encodeURIComponent(room)}`));
    await this.signInAgain(page, name);
  }

  /** Signs in on the page that asks for it. */
  async signInAgain(page: Page, name: string): Promise<void> {
    await page.getByLabel('Username or email').fill(name);
    await page.getByLabel('Password').fill(PASSWORD);
    await page.keyboard.press('Enter');
    // On a phone the room hides the list.
    await page.locator('.main').waitFor();
  }

  /** Signs somebody up who is in a room already, and shows it. */
  async signedIn(name: string, room?: string, page?: Page): Promise<Page> {
    const shown = page ?? (await this.visitor());
    await this.signIn(shown, name, room);
    return shown;
  }
}

/** Declares the world of a file's tests. */
export function world(options: Options = {}): World {
  const made = new World();
  beforeAll(() => made.open(options));
  afterAll(() => made.close());
  return made;
}

export const composer = (page: Page) => page.locator('#composer');
/** Messages with this in their text. */
export const said = (page: Page, text: string | RegExp) => page.locator('.row .text', { hasText: text });
export const send = async (page: Page, text: string) => {
  await composer(page).fill(text);
  await composer(page).press('Enter');
};
export const shot = (page: Page, name: string) => page.screenshot({ path: `e2e/shots/${name}.png` });
/** Everything sent is stored and has come back. */
export const settled = (page: Page) => page.locator('.row.pending, .row.failed, .row.stored').first().waitFor({ state: 'detached', timeout: 25_000 });

/** What an accessibility checker finds wrong, in short. */
export async function flaws(page: Page): Promise<string[]> {
  await page.evaluate(AXE);
  return page.evaluate(async () => {
    const { axe } = window as unknown as { axe: { run(): Promise<{ violations: { id: string; nodes: { html: string }[] }[] }> } };
    const { violations } = await axe.run();
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 200)).join(' | ')}`);
  });
}

/** By how many pixels the page is wider than its window. */
export const overflow = (page: Page) =>
  page.evaluate(() => Math.max(0, document.documentElement.scrollWidth - document.documentElement.clientWidth));

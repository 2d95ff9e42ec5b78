/** What the browser tests share: a server, a browser, and ways to find things on the page. */
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import {
  type Browser,
  type BrowserContext,
  type BrowserContextOptions,
  type Frame,
  type FrameLocator,
  type Page,
  chromium,
  firefox,
} from 'playwright-core';
import { afterAll, beforeAll } from 'vitest';
import { type Options, type Server, post, startServer } from './server';

export const PASSWORD = 'correct horse';
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

export type BrowserName = 'chromium' | 'firefox';

const launch: Record<BrowserName, (args?: string[]) => Promise<Browser>> = {
  chromium: (args = []) =>
    chromium.launch({
      executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
      // Chromium's sandbox does not work as root, and containers have little shared memory.
      args: ['--no-sandbox', '--disable-dev-shm-usage', ...args],
    }),
  /** An ordinary Firefox, over WebDriver BiDi. Playwright's other protocol needs a Firefox of its own. */
  firefox: async () => {
    // Root's Firefox does not start in a home that belongs to someone else, as it does in the containers of some CIs.
    const home = mkdtempSync(join(tmpdir(), 'uproar-firefox-'));
    const browser = await firefox.launch({
      channel: 'moz-firefox',
      executablePath: process.env['FIREFOX'] ?? '/usr/bin/firefox-esr',
      env: { ...process.env, HOME: home },
    });
    browser.once('disconnected', () => rmSync(home, { recursive: true, force: true }));
    dropUnknownCommand(browser);
    return browser;
  },
};

/** What Playwright keeps to itself. */
interface Internals {
  _connection: { toImpl(browser: Browser): { _browserSession: Session } };
}

interface Session {
  send(method: string, params: unknown): Promise<unknown>;
}

/**
 * Playwright sends this command for every context, even if nothing is to be emulated, and Firefox 153 doesn't know it.
 * So the tests in Firefox see the colours and the motion that the browser itself prefers.
 */
function dropUnknownCommand(browser: Browser): void {
  const { _connection } = browser as unknown as Internals;
  const session = _connection.toImpl(browser)._browserSession;
  const send = session.send.bind(session);
  session.send = async (method, params) =>
    method === 'emulation.setMediaFeaturesOverride' ? {} : send(method, params);
}

/** A server and a browser for the tests of one file. */
export class World {
  server!: Server;
  browser!: Browser;
  /** Uncaught errors of the pages, and violations of their Content-Security-Policy. */
  readonly pageErrors: string[] = [];
  private readonly contexts: BrowserContext[] = [];

  async open(options: Options = {}, browser: BrowserName = 'chromium'): Promise<void> {
    this.server = await startServer(options);
    this.browser = await launch[browser]();
    mkdirSync('e2e/shots', { recursive: true });
  }

  async close(): Promise<void> {
    for (const context of this.contexts) await context.close();
    await this.browser?.close();
    await this.server?.end();
  }

  /** A browser profile of its own, as a different person would have. */
  async context(options: BrowserContextOptions = {}): Promise<BrowserContext> {
    const viewport = { width: 1280, height: 800 };
    const context = await this.browser.newContext({ viewport, locale: 'en-GB', ...options });
    this.contexts.push(context);
    return context;
  }

  async newTab(context: BrowserContext): Promise<Page> {
    const page = await context.newPage();
    page.setDefaultTimeout(10_000);
    page.on('pageerror', (error) => this.pageErrors.push(String(error)));
    page.on('console', (message) => {
      if (/Content.Security.Policy|TrustedHTML/.test(message.text())) this.pageErrors.push(message.text());
    });
    return page;
  }

  /** A tab in a browser profile of its own. */
  async newVisitor(width = 1280, height = 800): Promise<Page> {
    return this.newTab(await this.context({ viewport: { width, height } }));
  }

  /** Signs up over HTTP and returns the token. */
  async account(name: string): Promise<string> {
    const email = `${Buffer.from(name).toString('hex')}@example.org`;
    const account = { username: name, email, password: PASSWORD };
    return (await post<{ token: string }>(this.server, '/user/signup', account)).token;
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

  async leave(token: string, room: string): Promise<void> {
    await post(this.server, `/rooms/${encodeURIComponent(room)}/leave`, {}, token);
  }

  async remove(token: string, room: string, member: string): Promise<void> {
    const path = `/rooms/${encodeURIComponent(room)}/members/${encodeURIComponent(member)}`;
    const headers = { Authorization: `Bearer ${token}` };
    const response = await fetch(this.server.url + path, { method: 'DELETE', headers });
    if (!response.ok) throw new Error(`${path}: ${await response.text()}`);
  }

  async say(token: string, room: string, text: string): Promise<number> {
    const path = `/rooms/${encodeURIComponent(room)}/messages`;
    return (await post<{ offset: number }>(this.server, path, { text }, token)).offset;
  }

  async reply(name: string, room: string, text: string, to: number): Promise<void> {
    await post(this.server, `/rooms/${room}/messages`, { text, reply_to: to }, await this.token(name));
  }

  /** Opens the page, or a room on it, and signs in. */
  async signIn(page: Page, name: string, room?: string): Promise<void> {
    await page.goto(this.server.page + (room === undefined ? '' : `/#/${encodeURIComponent(room)}`));
    await this.signInAgain(page, name);
  }

  /** Signs in on a page that shows the form. */
  async signInAgain(page: Page, name: string): Promise<void> {
    await page.getByLabel('Username or email').fill(name);
    await page.getByLabel('Password').fill(PASSWORD);
    await page.keyboard.press('Enter');
    // Not the list of rooms, which an open room hides on a phone.
    await page.locator('.main').waitFor();
  }

  /** Signs in on a given page or a new one, and returns it. */
  async signedIn(name: string, room?: string, page?: Page): Promise<Page> {
    const opened = page ?? (await this.newVisitor());
    await this.signIn(opened, name, room);
    return opened;
  }
}

/** Creates the world for the tests of a file, opened before them and closed after them. */
export function createWorld(options: Options = {}, browser: BrowserName = 'chromium'): World {
  const world = new World();
  beforeAll(() => world.open(options, browser));
  afterAll(() => world.close());
  return world;
}

/** A Chromium in which `host` leads to another host. */
export const launchWith = (host: string, other: string) =>
  launch.chromium([`--host-resolver-rules=MAP ${host} ${other}`]);

/** A page, or what is in a frame on it. */
type View = Page | FrameLocator;

export const composer = (page: View) => page.locator('#composer');
/** The texts of messages that contain `text`. */
export const messageText = (page: View, text: string | RegExp) => page.locator('.row .text', { hasText: text });
export const send = async (page: View, text: string) => {
  await composer(page).fill(text);
  await composer(page).press('Enter');
};
export const screenshot = (page: Page, name: string) => page.screenshot({ path: `e2e/shots/${name}.png` });
/** Waits until everything sent is stored and has come back as a publication. */
export const allStored = (page: Page) =>
  page.locator('.row.pending, .row.failed, .row.stored').first().waitFor({ state: 'detached', timeout: 25_000 });

interface Violation {
  id: string;
  nodes: { html: string; target: string[] }[];
}

/**
 * The violations that axe finds, one line each. It does not know that arrow keys lead to the other messages, and that
 * Tab then reaches their code. If Tab stopped at every block of code, the list would no longer be a single stop. If the
 * blocks wrapped their lines until then, messages would move.
 */
export async function accessibilityFlaws(page: Page | Frame): Promise<string[]> {
  await page.evaluate(AXE);
  return page.evaluate(async () => {
    const { axe } = window as unknown as { axe: { run(): Promise<{ violations: Violation[] }> } };
    const { violations } = await axe.run();
    for (const violation of violations) {
      if (violation.id !== 'scrollable-region-focusable') continue;
      violation.nodes = violation.nodes.filter(
        ({ target }) => !document.querySelector(target[0]!)!.matches('[role=article][tabindex="-1"] pre'),
      );
    }
    const found = violations.filter(({ nodes }) => nodes.length > 0);
    return found.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 200)).join(' | ')}`);
  });
}

/** How many pixels the page is wider than its window. */
export const overflow = (page: Page) =>
  page.evaluate(() => Math.max(0, document.documentElement.scrollWidth - document.documentElement.clientWidth));

import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { type Browser, type BrowserContext, type Page, chromium } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type Server, post, startServer } from './server';

const PASSWORD = 'correct horse';
const AXE = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
let server: Server;
let browser: Browser;
const contexts: BrowserContext[] = [];

beforeAll(async () => {
  server = await startServer();
  browser = await chromium.launch({
    executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
    args: ['--no-sandbox'],
  });
  mkdirSync('e2e/shots', { recursive: true });
});

afterAll(async () => {
  for (const context of contexts) await context.close();
  await browser?.close();
  await server?.end();
});

async function visitor(width = 1280, height = 800): Promise<Page> {
  const context = await browser.newContext({ viewport: { width, height }, locale: 'en-GB' });
  contexts.push(context);
  const page = await context.newPage();
  page.setDefaultTimeout(8000);
  page.on('pageerror', (error) => console.error('page:', error));
  return page;
}

async function signUp(page: Page, name: string): Promise<void> {
  await page.goto(server.page);
  await page.getByRole('button', { name: 'Create an account' }).click();
  await page.getByLabel('Username').fill(name);
  await page.getByLabel('E-mail address').fill(`${name}@example.org`);
  await page.getByLabel('Password').fill(PASSWORD);
  await page.keyboard.press('Enter');
  await page.getByRole('navigation', { name: 'Rooms' }).waitFor();
}

async function token(name: string): Promise<string> {
  return (await post<{ token: string }>(server, '/user/signin', { username: name, password: PASSWORD })).token;
}

const composer = (page: Page) => page.locator('#composer');
const text = (page: Page, text: string) => page.locator('.row .text', { hasText: text });
const send = async (page: Page, text: string) => {
  await composer(page).fill(text);
  await composer(page).press('Enter');
};
const shot = (page: Page, name: string) => page.screenshot({ path: `e2e/shots/${name}.png` });

/** What an accessibility checker finds wrong, in short. */
async function flaws(page: Page): Promise<string[]> {
  await page.evaluate(AXE);
  return page.evaluate(async () => {
    const { axe } = window as unknown as { axe: { run(): Promise<{ violations: { id: string; nodes: { html: string }[] }[] }> } };
    const { violations } = await axe.run();
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html.slice(0, 200)).join(' | ')}`);
  });
}

describe('the web client', () => {
  let ann: Page;
  let bob: Page;

  it('signs up, and says what is wrong with a field at the field', async () => {
    ann = await visitor();
    await ann.goto(server.page);
    await shot(ann, 'sign-in');
    expect(await flaws(ann)).toEqual([]);
    await ann.getByRole('button', { name: 'Create an account' }).click();
    await ann.getByLabel('Username').fill('@ann');
    await ann.getByLabel('E-mail address').fill('ann@example.org');
    await ann.getByLabel('Password').fill(PASSWORD);
    await ann.getByRole('button', { name: 'Create account' }).click();
    await ann.locator('.field:has(input[name=username]) .error').waitFor();
    await signUp(ann, 'ann');
    bob = await visitor();
    await signUp(bob, 'bob');
  });

  it('creates a room, finds and joins it', async () => {
    await ann.getByRole('button', { name: 'Find or create a room' }).click();
    await ann.getByLabel('Name', { exact: true }).fill('lobby');
    await ann.getByLabel(/Title/).fill('The lobby');
    await ann.getByRole('button', { name: 'Create “lobby”' }).click();
    await ann.getByText('Nothing has been said').waitFor();
    await shot(ann, 'empty');
    await bob.getByRole('button', { name: 'Find or create a room' }).click();
    await bob.getByRole('button', { name: 'Join' }).click();
    await composer(bob).waitFor();
  });

  it('two people chat', async () => {
    await send(ann, 'Hello, <b>Bob</b>\nhttps://example.org/x');
    await text(bob, 'Hello, <b>Bob</b>').waitFor();
    expect(await bob.locator('.row .text b').count()).toBe(0);
    expect(await bob.locator('.row .text a').getAttribute('href')).toBe('https://example.org/x');
    await composer(bob).pressSequentially('Hi @ann');
    await ann.getByText('bob is typing').waitFor();
    await composer(bob).press('Enter');
    await ann.locator('.mention.me').waitFor();
    await ann.getByRole('button', { name: '2 here' }).waitFor();
  });

  it('Shift and Enter break the line', async () => {
    await composer(bob).pressSequentially('one');
    await composer(bob).press('Shift+Enter');
    await composer(bob).pressSequentially('two');
    await composer(bob).press('Enter');
    await text(ann, 'one\ntwo').waitFor();
  });

  it('edits, reacts, replies, deletes', async () => {
    await text(ann, 'Hello, <b>Bob</b>').hover();
    await ann.getByRole('button', { name: 'Edit' }).click();
    await ann.getByLabel('The text of the message').fill('Hello, Robert');
    await ann.keyboard.press('Enter');
    await text(bob, 'Hello, Robert').waitFor();
    await text(bob, 'Hello, Robert').hover();
    await bob.getByRole('button', { name: 'React' }).click();
    await bob.getByRole('button', { name: '🎉' }).click();
    await ann.getByRole('button', { name: '🎉, 1' }).click();
    await bob.getByRole('button', { name: '🎉, 2' }).waitFor();
    await text(bob, 'Hello, Robert').hover();
    await bob.getByRole('button', { name: 'Reply' }).click();
    await send(bob, 'Robert it is');
    await ann.locator('.quote', { hasText: 'Hello, Robert' }).waitFor();
    await send(bob, 'A slip');
    await text(bob, 'A slip').hover();
    await bob.getByRole('button', { name: 'Delete' }).last().click();
    await bob.locator('.actions').getByRole('button', { name: 'Delete' }).click();
    await text(ann, 'This message was deleted.').waitFor();
    expect(await text(ann, 'A slip').count()).toBe(0);
    await shot(ann, 'room-light');
    expect(await flaws(ann)).toEqual([]);
    await ann.emulateMedia({ colorScheme: 'dark' });
    await shot(ann, 'room-dark');
    expect(await flaws(ann)).toEqual([]);
    await ann.emulateMedia({ colorScheme: 'light' });
  });

  it('loses nothing and doubles nothing over a restart of the server', async () => {
    await server.stop('SIGKILL');
    await ann.getByText('The connection is lost').waitFor();
    await send(ann, 'Written while away');
    await send(bob, 'Me too');
    await text(ann, 'Written while away').waitFor();
    await server.start();
    await text(bob, 'Written while away').waitFor({ timeout: 20_000 });
    await text(ann, 'Me too').waitFor({ timeout: 20_000 });
    await ann.locator('.row.pending, .row.failed').waitFor({ state: 'detached', timeout: 20_000 });
    expect(await text(ann, 'Written while away').count()).toBe(1);
    expect(await text(bob, 'Written while away').count()).toBe(1);
  });

  it('shows what is unread in another room, and reads it', async () => {
    const room = await post<{ room: { name: string } }>(server, '/user/createroom', { name: 'Quiet', title: 'Quiet room' }, await token('bob'));
    await post(server, `/rooms/${room.room.name}/join`, {}, await token('ann'));
    await ann.getByRole('link', { name: 'Quiet room' }).waitFor();
    for (const text of ['psst', '@ann are you there?']) {
      await post(server, '/rooms/quiet/messages', { text }, await token('bob'));
    }
    await ann.getByRole('link', { name: 'Quiet room @2 unread' }).click();
    await text(ann, 'psst').waitFor();
    await ann.locator('.fresh').waitFor();
    await ann.getByRole('link', { name: 'Quiet room', exact: true }).waitFor();
  });

  it('scrolls through a long history, and back', async () => {
    const bearer = await token('bob');
    await post(server, '/user/createroom', { name: 'long', title: 'A long history' }, bearer);
    const count = 2500;
    for (let i = 1; i <= count; i += 50) {
      await Promise.all(
        Array.from({ length: 50 }, (_, j) =>
          post(server, '/rooms/long/messages', { text: `Message ${i + j}.${' And so on.'.repeat((i * j) % 13)}` }, bearer),
        ),
      );
    }
    await bob.getByRole('link', { name: /A long history/ }).click();
    const scroller = bob.locator('.scroller');
    await bob.locator('.row').first().waitFor();
    let jumps = 0;
    for (let i = 0; i < 400; i++) {
      const top = await scroller.evaluate((element) => {
        element.scrollTop -= 900;
        return new Promise<number>((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(element.scrollTop))));
      });
      if (top === 0) {
        jumps++;
        if (await bob.locator('.row[aria-posinset="1"] .day').count() && jumps > 3) break;
        await bob.waitForTimeout(100);
      }
      expect(await bob.locator('.row').count()).toBeLessThan(150);
    }
    const first = await bob.locator('.row .text').first().textContent();
    expect(first).toMatch(/^Message \d+\./);
    await shot(bob, 'oldest');
    await bob.getByRole('button', { name: /Newest/ }).click();
    await bob.waitForTimeout(500);
    await send(bob, 'The end');
    await text(bob, 'The end').waitFor();
  }, 120_000);

  it('has people, settings and themes', async () => {
    await ann.getByRole('link', { name: 'The lobby' }).click();
    await ann.getByRole('button', { name: /here$/ }).click();
    await ann.getByRole('complementary', { name: 'People' }).getByText('bob').first().waitFor();
    await ann.getByRole('button', { name: 'Settings' }).click();
    await ann.getByLabel('Dark').check();
    await shot(ann, 'settings');
    expect(await flaws(ann)).toEqual([]);
    await ann.keyboard.press('Escape');
    await ann.reload();
    expect(await ann.evaluate(() => document.documentElement.dataset['theme'])).toBe('dark');
  });

  it('fits a phone, and works by keyboard', async () => {
    const phone = await visitor(320, 640);
    await phone.goto(server.page);
    await phone.getByLabel('Username or e-mail address').fill('ann');
    await phone.keyboard.press('Tab');
    await phone.keyboard.type(PASSWORD);
    await phone.keyboard.press('Enter');
    await phone.getByRole('link', { name: 'The lobby' }).waitFor();
    await shot(phone, 'phone-rooms');
    await phone.getByRole('link', { name: 'The lobby' }).focus();
    await phone.keyboard.press('Enter');
    await composer(phone).waitFor();
    await text(phone, 'Hello, Robert').waitFor();
    await shot(phone, 'phone-room');
    expect(await phone.evaluate(() => document.documentElement.scrollWidth)).toBeLessThanOrEqual(320);
    await phone.keyboard.press('Shift+Tab');
    await phone.locator('.row').last().focus();
    await phone.keyboard.press('ArrowUp');
    expect(await phone.evaluate(() => document.activeElement?.getAttribute('role'))).toBe('article');
  });
});

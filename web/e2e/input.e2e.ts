import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  PASSWORD,
  accessibilityFlaws,
  allStored,
  composer,
  createWorld,
  messageText,
  overflow,
  send,
} from './browser';
import { post } from './server';

const world = createWorld();
const strict = createWorld({ limits: { text_limit_bytes: 1000 } });

describe('invalid input', () => {
  let ann: Page;
  let bob: Page;

  beforeAll(async () => {
    const token = await world.account('ann');
    await world.room(token, 'lobby', 'The lobby');
    await world.join(await world.account('bob'), 'lobby');
    ann = await world.signedIn('ann', 'lobby');
    bob = await world.signedIn('bob', 'lobby');
    await composer(bob).waitFor();
  });

  it('is reported at the field when signing up and in', async () => {
    const page = await world.newVisitor();
    await page.goto(world.server.page);
    const sign = async (fields: Record<string, string>) => {
      for (const [label, value] of Object.entries(fields)) await page.getByLabel(label).fill(value);
      await page.keyboard.press('Enter');
    };
    const wrongAt = (name: string) => page.locator(`.field:has(input[name=${name}]) .error`);
    await sign({ 'Username or email': 'ann', Password: 'wrong password' });
    await page.locator('.error', { hasText: 'password' }).waitFor();
    await page.getByRole('button', { name: 'Create an account' }).click();
    await sign({ Username: 'ANN', Email: 'other@example.org', Password: PASSWORD });
    await wrongAt('username').waitFor();
    const taken = await wrongAt('username').textContent();
    await page.locator('input[name=username]:focus').waitFor();
    await sign({ Username: '' });
    await wrongAt('username').filter({ hasNotText: taken! }).waitFor();
    await sign({ Username: 'carol', Email: 'no address' });
    await wrongAt('email').waitFor();
    await sign({ Email: 'carol@example.org', Password: 'short' });
    await wrongAt('password').waitFor();
    // The valid field keeps its value.
    expect(await page.getByLabel('Username').inputValue()).toBe('carol');
  });

  it('is reported in the dialog when creating a room', async () => {
    await ann.getByRole('button', { name: 'Find or create a room' }).click();
    await ann.getByLabel('Room name').fill('Lobby');
    await ann.getByRole('button', { name: 'Create “Lobby”' }).click();
    const error = ann.locator('dialog .error');
    const taken = await error.textContent();
    await ann.getByLabel('Room name').fill('a/b\u0007c?');
    await ann.getByRole('button', { name: /^Create “/ }).click();
    await error.filter({ hasNotText: taken! }).waitFor();
    expect(await ann.getByLabel('Room name').inputValue()).toContain('a/b');
    await ann.getByLabel('Room name').fill('tags');
    await ann.getByLabel('Display name').fill('<img src=x onerror="window.hacked=1">');
    await ann.getByRole('button', { name: 'Create “tags”' }).click();
    await ann.getByRole('button', { name: 'Skip' }).click();
    await ann.getByRole('heading', { name: '<img src=x onerror="window.hacked=1">' }).waitFor();
    await ann.getByRole('link', { name: 'The lobby' }).click();
  });

  it('is not sent if it is blank', async () => {
    for (const nothing of ['', '   ', '\n\n \t', '\u2800', '\u0301', '\u200e\u2800']) {
      await composer(ann).fill(nothing);
      expect(await ann.getByRole('button', { name: 'Send', exact: true }).isDisabled()).toBe(true);
      await composer(ann).press('Enter');
    }
    expect(await ann.locator('.row:not(.changes)').count()).toBe(0);
    await composer(ann).fill('');
  });

  it('stays in the composer if it is too long', async () => {
    const emoji = '😀'.repeat(10_000);
    await composer(ann).fill(emoji);
    await ann.getByText('5,904 characters too long').waitFor();
    expect(await ann.getByRole('button', { name: 'Send', exact: true }).isDisabled()).toBe(true);
    await composer(ann).press('Enter');
    await ann.reload();
    await composer(ann).waitFor();
    expect(await composer(ann).inputValue()).toBe(emoji);
    const most = '😀'.repeat(4096);
    await send(ann, most);
    await messageText(bob, '😀').waitFor();
    await bob.getByRole('button', { name: 'Show more' }).click();
    expect(await messageText(bob, '😀').textContent()).toBe(most);
    await bob.getByRole('button', { name: 'Show less' }).click();
    await allStored(ann);
  });

  it('is offered as several messages if it is too long, or if many lines are pasted', async () => {
    const token = await strict.account('kim');
    await strict.room(token, 'stories');
    const context = await strict.context({ permissions: ['clipboard-read', 'clipboard-write'] });
    const page = await strict.newTab(context);
    await strict.signIn(page, 'kim', 'stories');
    await composer(page).waitFor();
    const paste = async (text: string) => {
      await composer(page).focus();
      await page.evaluate((text) => navigator.clipboard.writeText(text), text);
      await page.keyboard.press('Control+v');
    };
    const button = (name: string | RegExp) => page.locator('.offer').getByRole('button', { name });
    const lines = Array.from({ length: 250 }, (_, i) => `${i}`);
    const text = ['```js', ...lines, '```'].join('\n');
    await paste(text);
    await page.getByRole('status').getByText('This is 252 lines long.').waitFor();
    for (const width of [320, 1280]) {
      await page.setViewportSize({ width, height: 700 });
      expect(await accessibilityFlaws(page), `${width}`).toEqual([]);
      expect(await overflow(page)).toBe(0);
    }
    // The browser undoes it.
    await composer(page).focus();
    await page.keyboard.press('Control+z');
    expect(await composer(page).inputValue()).toBe('');
    expect(await page.locator('.offer').count()).toBe(0);
    await paste(text);
    await button('Keep it here').click();
    expect(await composer(page).inputValue()).toBe(text);
    expect(await page.locator('.offer').count()).toBe(0);
    await composer(page).fill('');
    await paste(text);
    // With the keyboard alone.
    await button(/^Send as \d messages$/).focus();
    await page.keyboard.press('Enter');
    expect(await composer(page).inputValue()).toBe('');
    await page.locator('#composer:focus').waitFor();
    await allStored(page);
    await expect.poll(() => page.locator('.row pre').count()).toBe(3);
    const { messages } = (await (await fetch(`${strict.server.url}/user/getchats?room=stories`, {
      headers: { Authorization: `Bearer ${token}` },
    })).json()) as { messages: { text: string }[] };
    for (const { text } of messages) expect(text).toMatch(/^```js\n[\d\n]+\n```$/);
    expect(messages.flatMap(({ text }) => text.split('\n').slice(1, -1))).toEqual(lines);
    // Too much for that stays where it is.
    const most = 'x'.repeat(30_000);
    await composer(page).fill(most);
    await page.getByText('This is too long even for 20 messages.').waitFor();
    expect(await button(/^Send/).count()).toBe(0);
    await composer(page).press('Enter');
    expect(await composer(page).inputValue()).toBe(most);
    await composer(page).fill('');
    await page.close();
  });

  it('is shown as plain text if it contains control characters, tags or script addresses', async () => {
    const texts = [
      'bell \u0007, escape \u001b[31m, zero \u0000, back \u0008',
      'turned \u202egnirts\u202c, joined \u200d, marked \ufeff',
      '<script>window.hacked = 1</script><img src=x onerror="window.hacked=1">&amp;<b>',
      'javascript:alert(1) data:text/html,<script>window.hacked=1</script>',
      'a'.repeat(3000),
    ];
    for (const text of texts) {
      await send(ann, text);
      await allStored(ann);
    }
    // U+0000 cannot be stored. Everything else is unchanged.
    texts[0] = texts[0]!.replace('\u0000', '');
    await send(ann, 'the last of them');
    await messageText(bob, 'the last of them').waitFor();
    await bob.locator('.row', { hasText: 'a'.repeat(100) }).getByRole('button', { name: 'Show more' }).click();
    const shown = await bob.locator('.row .text').allTextContents();
    expect(shown.slice(-6)).toEqual([...texts, 'the last of them']);
    await bob.getByRole('button', { name: 'Show less' }).click();
    expect(await bob.locator('.row .text :not(a, span)').count()).toBe(0);
    expect(await bob.locator('.row .text a').count()).toBe(0);
    for (const page of [ann, bob]) expect(await page.evaluate(() => 'hacked' in window)).toBe(false);
  });

  it('stays in the editor if an edit is rejected', async () => {
    await messageText(ann, 'the last of them').hover();
    await ann.getByRole('button', { name: 'Edit' }).click();
    const editor = ann.getByLabel('Edit message');
    await editor.fill('x'.repeat(17_000));
    await ann.locator('.editor .error', { hasText: '616 characters too long' }).waitFor();
    await editor.press('Enter');
    expect((await editor.inputValue()).length).toBe(17_000);
    await editor.press('Escape');
    await messageText(ann, 'the last of them').waitFor();
  });

  it('can’t be saved in the editor if it is blank', async () => {
    await messageText(ann, 'the last of them').hover();
    await ann.getByRole('button', { name: 'Edit' }).click();
    const editor = ann.getByLabel('Edit message');
    const save = ann.getByRole('button', { name: 'Save' });
    expect(await save.isEnabled()).toBe(true);
    await editor.fill(' \u2800');
    expect(await save.isDisabled()).toBe(true);
    await editor.press('Escape');
  });

  it('does not matter if it is a space around a name', async () => {
    await world.account('carl');
    await ann.getByRole('button', { name: /online$/ }).click();
    await ann.getByLabel('Add by username').fill(' carl ');
    await ann.getByRole('button', { name: 'Add', exact: true }).click();
    await ann.getByText('carl is now a member.').waitFor();
    await ann.getByRole('button', { name: 'Close' }).click();
  });

  it('leads to the room all the same if the name in the address is spelled differently', async () => {
    const page = await world.signedIn('ann');
    for (const name of ['LOBBY', 'lobby%20', '%20Lobby']) {
      await page.goto(`${world.server.page}/#/${name}`);
      await page.getByRole('heading', { name: 'The lobby' }).waitFor();
      await page.goto(`${world.server.page}/#/`);
    }
    await page.goto(`${world.server.page}/#/LOBBY`);
    await page.waitForURL(/#\/lobby$/);
    await page.close();
  });

  it('is measured by the server’s limit, and can be retried or discarded if the server rejects a message', async () => {
    const token = await strict.account('ann');
    await strict.room(token, 'lobby');
    const page = await strict.signedIn('ann', 'lobby');
    await composer(page).fill('x'.repeat(1001));
    await page.getByText('Your message is 1 character too long.').waitFor();
    await composer(page).fill('');
    // The limit was higher when this was written.
    await page.evaluate(() => {
      const item = { id: 'x', room: 'lobby', text: 'x'.repeat(2000), time: 1, status: 'pending' };
      localStorage.setItem(`uproar.outbox.${localStorage.getItem('uproar.owner')}.x`, JSON.stringify(item));
    });
    await page.reload();
    await composer(page).waitFor();
    await send(page, 'a short one');
    await page.getByText('Not sent. This message is too long.').waitFor();
    await messageText(page, 'a short one').waitFor();
    await page.reload();
    await page.getByText('Not sent. This message is too long.').waitFor();
    await page.getByRole('button', { name: 'Retry' }).click();
    await page.getByText('Not sent. This message is too long.').waitFor();
    await page.getByRole('button', { name: 'Discard' }).click();
    await allStored(page);
    await page.reload();
    await messageText(page, 'a short one').waitFor();
    expect(await page.locator('.row').count()).toBe(1);
  });

  it('is kept in memory if the browser’s storage is full or blocked', async () => {
    const full = await world.newVisitor();
    await world.signIn(full, 'bob', 'lobby');
    await composer(full).waitFor();
    await full.evaluate(() => {
      for (let size = 1 << 20, i = 0; size >= 1; i++) {
        try {
          localStorage.setItem(`fill${i}`, 'x'.repeat(size));
        } catch {
          size >>= 1;
        }
      }
    });
    await composer(full).fill('Half a sentence');
    await post(world.server, '/user/signout', {}, await world.token('bob'));
    await full.getByText('Nothing you wrote is lost').waitFor();
    await world.signInAgain(full, 'bob');
    await composer(full).waitFor();
    expect(await composer(full).inputValue()).toBe('Half a sentence');

    for (const kind of ['null', 'blocked'] as const) {
      const page = await world.newVisitor();
      await page.addInitScript((kind) => {
        const get = () => {
          if (kind === 'null') return null;
          throw new DOMException('no', 'SecurityError');
        };
        Object.defineProperty(window, 'localStorage', { get });
      }, kind);
      await world.signIn(page, 'bob', 'lobby');
      await send(page, `Said with ${kind}`);
      await messageText(ann, `Said with ${kind}`).waitFor();
    }
  });

  it('causes no errors and no violations of the Content-Security-Policy', () => {
    expect([...world.pageErrors, ...strict.pageErrors]).toEqual([]);
  });
});

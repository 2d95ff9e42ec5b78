import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { PASSWORD, composer, said, send, settled, world } from './browser';
import { post } from './server';

// Shorter texts than the page knows of, to see what it does when the server refuses one.
const the = world();
const strict = world({ limits: { text_limit_bytes: 1000 } });

describe('what is wrong', () => {
  let ann: Page;
  let bob: Page;

  beforeAll(async () => {
    const token = await the.account('ann');
    await the.room(token, 'lobby', 'The lobby');
    await the.join(await the.account('bob'), 'lobby');
    ann = await the.signedIn('ann', 'lobby');
    bob = await the.signedIn('bob', 'lobby');
    await composer(bob).waitFor();
  });

  it('is said at the field when signing up and in', async () => {
    const page = await the.visitor();
    await page.goto(the.server.page);
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
    // What was right is still there.
    expect(await page.getByLabel('Username').inputValue()).toBe('carol');
  });

  it('is said at the room', async () => {
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
    await ann.getByRole('heading', { name: '<img src=x onerror="window.hacked=1">' }).waitFor();
    await ann.getByRole('link', { name: 'The lobby' }).click();
  });

  it('nothing and only spaces are not sent', async () => {
    for (const nothing of ['', '   ', '\n\n \t']) {
      await composer(ann).fill(nothing);
      expect(await ann.getByRole('button', { name: 'Send' }).isDisabled()).toBe(true);
      await composer(ann).press('Enter');
    }
    expect(await ann.locator('.row').count()).toBe(0);
    await composer(ann).fill('');
  });

  it('a text that is too long stays where it is', async () => {
    const emoji = '😀'.repeat(10_000);
    await composer(ann).fill(emoji);
    await ann.getByText('23616 bytes too long').waitFor();
    expect(await ann.getByRole('button', { name: 'Send' }).isDisabled()).toBe(true);
    await composer(ann).press('Enter');
    await ann.reload();
    await composer(ann).waitFor();
    expect(await composer(ann).inputValue()).toBe(emoji);
    const most = '😀'.repeat(4096);
    await send(ann, most);
    await said(bob, '😀').waitFor();
    expect(await said(bob, '😀').textContent()).toBe(most);
    await settled(ann);
  });

  it('control characters, tags and addresses are text', async () => {
    const texts = [
      'bell \u0007, escape \u001b[31m, zero \u0000, back \u0008',
      'turned \u202egnirts\u202c, joined \u200d, marked \ufeff',
      '<script>window.hacked = 1</script><img src=x onerror="window.hacked=1">&amp;<b>',
      'javascript:alert(1) data:text/html,<script>window.hacked=1</script>',
      'a'.repeat(3000),
    ];
    for (const text of texts) {
      await send(ann, text);
      await settled(ann);
    }
    // No database has U+0000. All else is as it was written.
    texts[0] = texts[0]!.replace('\u0000', '');
    await send(ann, 'the last of them');
    await said(bob, 'the last of them').waitFor();
    const shown = await bob.locator('.row .text').allTextContents();
    expect(shown.slice(-6)).toEqual([...texts, 'the last of them']);
    expect(await bob.locator('.row .text :not(a, span)').count()).toBe(0);
    expect(await bob.locator('.row .text a').count()).toBe(0);
    for (const page of [ann, bob]) expect(await page.evaluate(() => 'hacked' in window)).toBe(false);
  });

  it('an edit that is refused keeps what was typed', async () => {
    await said(ann, 'the last of them').hover();
    await ann.getByRole('button', { name: 'Edit' }).click();
    const editor = ann.getByLabel('Edit message');
    await editor.fill('x'.repeat(17_000));
    await editor.press('Enter');
    await ann.locator('.editor .error', { hasText: '17000' }).waitFor();
    expect((await editor.inputValue()).length).toBe(17_000);
    await editor.press('Escape');
    await said(ann, 'the last of them').waitFor();
  });

  it('a message that the server refuses is marked, and can be retried or discarded', async () => {
    const token = await strict.account('ann');
    await strict.room(token, 'lobby');
    const page = await strict.signedIn('ann', 'lobby');
    await send(page, 'x'.repeat(2000));
    await send(page, 'a short one');
    await page.getByText(/^Not sent\. .*2000.*1000/).waitFor();
    await said(page, 'a short one').waitFor();
    await page.reload();
    await page.getByText(/^Not sent\. .*2000.*1000/).waitFor();
    await page.getByRole('button', { name: 'Retry' }).click();
    await page.getByText(/^Not sent\. .*2000.*1000/).waitFor();
    await page.getByRole('button', { name: 'Discard' }).click();
    await settled(page);
    await page.reload();
    await said(page, 'a short one').waitFor();
    expect(await page.locator('.row').count()).toBe(1);
  });

  it('a browser that keeps nothing, or no more, loses nothing while the page is open', async () => {
    const full = await the.visitor();
    await the.signIn(full, 'bob', 'lobby');
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
    await post(the.server, '/user/signout', {}, await the.token('bob'));
    await full.getByText('Nothing you wrote is lost').waitFor();
    await the.signInAgain(full, 'bob');
    await composer(full).waitFor();
    expect(await composer(full).inputValue()).toBe('Half a sentence');

    for (const kind of ['null', 'forbidden'] as const) {
      const page = await the.visitor();
      await page.addInitScript((kind) => {
        const get = () => {
          if (kind === 'null') return null;
          throw new DOMException('no', 'SecurityError');
        };
        Object.defineProperty(window, 'localStorage', { get });
      }, kind);
      await the.signIn(page, 'bob', 'lobby');
      await send(page, `Said with ${kind}`);
      await said(ann, `Said with ${kind}`).waitFor();
    }
  });

  it('throws no errors, and keeps to its Content-Security-Policy', () => {
    expect([...the.faults, ...strict.faults]).toEqual([]);
  });
});

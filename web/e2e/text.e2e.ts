import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { accessibilityFlaws, allStored, composer, createWorld, messageText, send } from './browser';

const world = createWorld();

describe('the text of messages', () => {
  let bob: string;

  /** A page on which a user with this name has a room open that Bob is in, too. */
  async function roomOf(name: string, room: string): Promise<Page> {
    await world.room(await world.account(name), room);
    await world.join(bob, room);
    return world.signedIn(name, room);
  }

  beforeAll(async () => {
    bob = await world.account('bob');
  });

  it('mentions users by every name that the server accepts', async () => {
    for (const [i, name] of ['सुनीता', 'Jürgen Müller', 'O\'Brien', 'ann🚀'].entries()) {
      const page = await roomOf(name, `names-${i}`);
      await world.say(bob, `names-${i}`, `hello @${name} are you there`);
      expect(await page.locator('.mention.me').textContent()).toBe(`@${name}`);
      await page.close();
    }
  });

  it('completes a mention by keyboard and by pointer', async () => {
    const page = await roomOf('maya', 'completion');
    for (const name of ['Karl Gustav', 'karla']) await world.join(await world.account(name), 'completion');
    await composer(page).pressSequentially('hi @kar');
    await page.getByRole('option', { name: 'karla' }).waitFor();
    await page.keyboard.press('ArrowDown');
    expect(await accessibilityFlaws(page)).toEqual([]);
    await page.keyboard.press('Enter');
    expect(await composer(page).inputValue()).toBe('hi @Karl Gustav ');
    await page.keyboard.type('and @');
    await page.getByRole('option', { name: 'karla' }).click();
    expect(await composer(page).inputValue()).toBe('hi @Karl Gustav and @karla ');
    // Enter sends, unless a name has been chosen with an arrow key.
    await page.keyboard.type('@kar');
    await page.getByRole('option', { name: 'karla' }).waitFor();
    await page.keyboard.press('Enter');
    await allStored(page);
    const mentions = messageText(page, 'and').locator('.mention');
    expect((await mentions.allTextContents()).slice(0, 2)).toEqual(['@Karl Gustav', '@karla']);
    expect(await page.getByRole('option').count()).toBe(0);
  });

  it('links addresses up to where the sentence goes on', async () => {
    const page = await roomOf('linda', 'links');
    const links: Record<string, string> = {
      '请看https://example.com/a。谢谢': 'https://example.com/a',
      'https://example.com/b، شكرا': 'https://example.com/b',
      'https://例え.jp/テスト': 'https://例え.jp/テスト',
      'see www.example.org.': 'www.example.org',
      'write to me@example.org, please': 'me@example.org',
    };
    for (const text of Object.keys(links)) await world.say(bob, 'links', text);
    for (const [text, link] of Object.entries(links)) {
      expect(await messageText(page, text).locator('a').textContent()).toBe(link);
    }
    const hrefs = await page.locator('.row a').evaluateAll((all) => all.map((a) => (a as HTMLAnchorElement).href));
    expect(hrefs.slice(3)).toEqual(['https://www.example.org/', 'mailto:me@example.org']);
  });

  it('is drawn within its row, however many marks are stacked on a letter', async () => {
    const page = await roomOf('zoe', 'marks');
    const letter = `Z${'\u0300\u0301\u0302\u0303\u0321\u0328'.repeat(16)}`;
    for (const text of ['above', letter.repeat(3), 'below']) await world.say(bob, 'marks', text);
    await messageText(page, 'below').waitFor();
    await page.mouse.move(0, 0);
    const shots = () =>
      Promise.all([0, 2].map(async (i) => (await page.locator('.row:not(.changes)').nth(i).screenshot()).toString('base64')));
    const drawn = await shots();
    await page.locator('.row .text').nth(1).evaluate((element) => (element.style.visibility = 'hidden'));
    expect(await shots()).toEqual(drawn);
  });

  it('is drawn within its line in an empty room, however many marks the title has', async () => {
    await world.room(await world.account('mark'), 'empty');
    const page = await world.signedIn('mark', 'empty');
    await page.getByText('Say hello!').waitFor();
    const { x, y, width, height } = (await page.locator('.messages').boundingBox())!;
    const above = async () => (await page.screenshot({ clip: { x, y, width, height: height / 3 } })).toString('base64');
    const drawn = await above();
    // Not every font stacks marks, so a shadow stands for them.
    await page.locator('.empty').evaluate((element) => (element.style.textShadow = '0 -200px black'));
    expect(await above()).toBe(drawn);
  });

  it('stands under the right day after midnight', async () => {
    const midnight = new Date().setHours(24, 0, 0, 0);
    await world.room(await world.account('nina'), 'days');
    await world.say(await world.token('nina'), 'days', 'before midnight');
    const page = await world.newVisitor();
    await page.clock.install({ time: Date.now() });
    await world.signedIn('nina', 'days', page);
    await page.locator('.day', { hasText: 'Today' }).waitFor();
    await page.clock.fastForward(midnight + 60_000 - Date.now());
    await page.clock.runFor(60_000);
    await page.locator('.day', { hasText: 'Yesterday' }).waitFor();
    expect(await page.locator('.day', { hasText: 'Today' }).count()).toBe(0);
  });

  it('is counted in characters, not bytes, when it is too long', async () => {
    const page = await roomOf('lola', 'long');
    await composer(page).fill(`${'a'.repeat(16_384)}👩‍🚀é`);
    await page.getByText('Your message is 2 characters too long.').waitFor();
    await composer(page).fill('short');
    await send(page, 'short');
    await allStored(page);
    await page.keyboard.press('ArrowUp');
    await page.getByLabel('Edit message').fill('é'.repeat(8193));
    await page.locator('.editor').getByText('Your message is 1 character too long.').waitFor();
    expect(await page.getByRole('button', { name: 'Save' }).isDisabled()).toBe(true);
  });

  it('throws no errors', () => {
    expect(world.pageErrors).toEqual([]);
  });
});

import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { composer, said, send, shot, world } from './browser';
import { post } from './server';

const the = world();
const COUNT = 2500;

interface Step {
  top: number;
  /** Offsets of the messages in the document, in its order. */
  offsets: number[];
  /** How far what was at the top of the view moved on the screen. */
  moved: number | undefined;
}

/** Scrolls, and looks what is there two frames later. */
function scroll(page: Page, by: number): Promise<Step> {
  return page.evaluate(async (by) => {
    const scroller = document.querySelector('.scroller')!;
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    const from = scroller.getBoundingClientRect().top;
    const rows = () => [...document.querySelectorAll<HTMLElement>('.row')];
    // One that stays in the view.
    const edge = by < 0 ? from : from + Math.abs(by);
    const anchor = rows().find((row) => row.getBoundingClientRect().top >= edge);
    const key = anchor?.dataset['key'];
    const before = anchor?.getBoundingClientRect().top ?? 0;
    const top = scroller.scrollTop;
    scroller.scrollTop += by;
    const scrolled = scroller.scrollTop - top;
    await frame();
    await frame();
    const again = rows().find((row) => row.dataset['key'] === key);
    return {
      top: scroller.scrollTop,
      offsets: rows().map((row) => Number(row.dataset['key']!.slice(1))),
      moved: again && Math.abs(again.getBoundingClientRect().top - before + scrolled),
    };
  }, by);
}

describe('a long history', () => {
  let ann: Page;
  let last: number;

  beforeAll(async () => {
    const token = await the.account('bob');
    await the.room(token, 'long', 'A long history');
    for (let i = 1; i <= COUNT; i += 50) {
      await Promise.all(
        Array.from({ length: 50 }, (_, j) => the.say(token, 'long', `Message ${i + j}.${' And so on.'.repeat((i * j) % 13)}`)),
      );
    }
    last = await the.say(token, 'long', 'The newest');
    // Whoever joins now has nothing unread.
    await the.join(await the.account('ann'), 'long');
    ann = await the.signedIn('ann', 'long');
  }, 60_000);

  it('opens at the end', async () => {
    await said(ann, 'The newest').waitFor();
    const { offsets } = await scroll(ann, 0);
    expect(offsets.at(-1)).toBe(last);
    expect(offsets.length).toBeLessThan(120);
  });

  it('is read back to its beginning without holes and without jumps, with few rows in the document', async () => {
    const seen = new Set<number>();
    const moves: number[] = [];
    for (let steps = 0; steps < 1000; steps++) {
      const { offsets, moved, top } = await scroll(ann, -400);
      // Without holes: nothing but messages is in this room.
      expect(offsets).toEqual(offsets.map((_, i) => offsets[0]! + i));
      expect(offsets.length).toBeLessThan(150);
      for (const offset of offsets) seen.add(offset);
      if (moved !== undefined) moves.push(moved);
      if (top === 0 && offsets[0] === 1) break;
      if (top === 0) await ann.waitForTimeout(30);
    }
    expect(seen.size).toBe(COUNT + 1);
    expect(moves.length).toBeGreaterThan(100);
    expect(Math.max(...moves)).toBeLessThan(2);
    await shot(ann, 'oldest');
  }, 120_000);

  it('goes forward again, over what was dropped meanwhile', async () => {
    const moves: number[] = [];
    let first = 0;
    for (let steps = 0; steps < 120; steps++) {
      const { offsets, moved } = await scroll(ann, 400);
      expect(offsets).toEqual(offsets.map((_, i) => offsets[0]! + i));
      first = offsets[0]!;
      if (moved !== undefined) moves.push(moved);
    }
    expect(first).toBeGreaterThan(800);
    expect(Math.max(...moves)).toBeLessThan(2);
  }, 60_000);

  it('stays where it is while others write', async () => {
    const before = await ann.locator('.scroller').evaluate((element) => element.scrollTop);
    const top = await ann.locator('.row').first().evaluate((element) => element.getBoundingClientRect().top);
    await the.say(await the.token('bob'), 'long', 'Somebody writes');
    await ann.waitForTimeout(300);
    expect(await ann.locator('.scroller').evaluate((element) => element.scrollTop)).toBe(before);
    expect(await ann.locator('.row').first().evaluate((element) => element.getBoundingClientRect().top)).toBe(top);
  });

  it('jumps to the newest, and goes on from there', async () => {
    await ann.getByRole('button', { name: /↓/ }).click();
    await said(ann, 'Somebody writes').waitFor();
    await send(ann, 'The end');
    await said(ann, 'The end').waitFor();
    expect((await scroll(ann, 0)).moved ?? 0).toBeLessThan(2);
    await composer(ann).fill('');
  });

  it('goes to what is being sent, also when something else is on its way', async () => {
    await ann.route(/before=/, async (route) => {
      await new Promise((done) => setTimeout(done, 1000));
      await route.continue();
    });
    await the.reply('ann', 'long', 'Long ago', 1);
    await said(ann, 'Long ago').waitFor();
    await ann.locator('.quote').last().click();
    await send(ann, 'Meanwhile');
    await said(ann, 'Meanwhile').waitFor();
    await ann.waitForTimeout(1500);
    await said(ann, 'Meanwhile').waitFor();
    await ann.unroute(/before=/);
  });

  it('leads to what is quoted, and back', async () => {
    await scroll(ann, -100_000);
    await ann.waitForTimeout(300);
    // By its key: which one is the thirtieth changes while more comes in.
    const key = await ann.locator('.row').nth(30).getAttribute('data-key');
    const row = ann.locator(`.row[data-key="${key}"]`);
    const words = (await row.locator('.text').textContent())!;
    await row.hover();
    await ann.getByRole('button', { name: 'Reply' }).click();
    await send(ann, 'A late answer');
    await said(ann, 'A late answer').waitFor();
    await ann.locator('.row', { hasText: 'A late answer' }).locator('.quote').click();
    await ann.locator('.row.flashed', { hasText: words }).waitFor();
    await ann.getByRole('button', { name: /↓/ }).click();
    await said(ann, 'A late answer').waitFor();
  });

  it('is paged through by keyboard', async () => {
    const top = () => ann.locator('.scroller').evaluate((element) => element.scrollHeight - element.scrollTop);
    await ann.locator('.row').last().focus();
    let last = await top();
    for (let pages = 0; pages < 10; pages++) {
      await ann.keyboard.press('PageUp');
      await expect.poll(top, { timeout: 10_000 }).toBeGreaterThan(last + 300);
      // Until it has come to rest.
      await ann.waitForTimeout(300);
      last = await top();
    }
    await ann.keyboard.press('End');
    await said(ann, 'A late answer').waitFor();
  });

  it('an edit that is not finished outlives scrolling, and the end of the session', async () => {
    await said(ann, 'A late answer').hover();
    await ann.getByRole('button', { name: 'Edit' }).click();
    const editor = ann.getByLabel('Edit message');
    await editor.fill('An answer that took half an hour');
    for (const by of [-3000, 1e7, 1e7]) {
      await scroll(ann, by);
      await ann.waitForTimeout(200);
    }
    expect(await editor.inputValue()).toBe('An answer that took half an hour');
    await post(the.server, '/user/signout', {}, await the.token('ann'));
    await ann.getByText('Nothing you wrote is lost').waitFor();
    await the.signIn(ann, 'ann', 'long');
    expect(await editor.inputValue()).toBe('An answer that took half an hour');
    await editor.press('Enter');
    await said(ann, 'An answer that took half an hour').waitFor();
    await ann.reload();
    await said(ann, 'An answer that took half an hour').waitFor();
    expect(await editor.count()).toBe(0);
  });

  it('the arrow up finds the last of one’s own, wherever it is', async () => {
    const bob = await the.token('bob');
    for (let i = 0; i < 60; i++) await the.say(bob, 'long', `Later ${i}`);
    await said(ann, 'Later 59').waitFor();
    await composer(ann).focus();
    await ann.keyboard.press('ArrowUp');
    const editor = ann.getByLabel('Edit message');
    expect(await editor.inputValue()).toBe('An answer that took half an hour');
    await editor.press('Escape');
  });

  it('a page that could not be read is read when one tries again', async () => {
    await ann.locator('.to-newest').click();
    await ann.route(/getchats/, (route) => route.abort());
    await ann.evaluate(() => (document.querySelector('.scroller')!.scrollTop = 0));
    await ann.getByText('Can’t reach the server').waitFor();
    await ann.unroute(/getchats/);
    await ann.getByRole('button', { name: 'Try again' }).click();
    await ann.locator('.messages > .error').waitFor({ state: 'detached' });
    await scroll(ann, -200);
    expect((await scroll(ann, -200)).top).toBeGreaterThan(100);
  });

  it('with much unread begins where one left it, and reads what one has seen', async () => {
    const carol = await the.account('carol');
    await the.room(carol, 'much');
    const token = await the.token('ann');
    await the.join(token, 'much');
    await the.say(carol, 'much', 'The first');
    for (let i = 0; i < 300; i += 50) await Promise.all(Array.from({ length: 50 }, (_, j) => the.say(carol, 'much', `Number ${i + j}`)));
    await ann.getByRole('link', { name: /^much/ }).click();
    await said(ann, 'The first').waitFor();
    await ann.locator('.new-divider').waitFor();
    await ann.getByRole('link', { name: 'much 301 unread' }).waitFor();
    for (let steps = 0; steps < 100; steps++) {
      await scroll(ann, 400);
      if (await ann.getByRole('link', { name: 'much', exact: true }).count()) break;
    }
    await said(ann, /^Number 29\d$/).first().waitFor();
    expect(await ann.getByRole('link', { name: 'much', exact: true }).count()).toBe(1);
  });
});

import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { composer, createWorld, messageText, screenshot, send } from './browser';
import { post } from './server';

const world = createWorld();
const COUNT = 2500;

interface Step {
  top: number;
  /** The offsets of the messages in the document, in document order. */
  offsets: number[];
  /** How far the row at the edge of the view is from where scrolling should have put it, in pixels. */
  moved: number | undefined;
}

/** Scrolls, and returns what the document contains two frames later. */
function scroll(page: Page, by: number): Promise<Step> {
  return page.evaluate(async (by) => {
    const scroller = document.querySelector('.scroller')!;
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    const from = scroller.getBoundingClientRect().top;
    const rows = () => [...document.querySelectorAll<HTMLElement>('.row')];
    // A row that stays in view.
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
    const token = await world.account('bob');
    await world.room(token, 'long', 'A long history');
    for (let i = 1; i <= COUNT; i += 50) {
      await Promise.all(
        Array.from({ length: 50 }, (_, j) => {
          const text = `Message ${i + j}.${' And so on.'.repeat((i * j) % 13)}`;
          return world.say(token, 'long', text);
        }),
      );
    }
    // A user who joins now has no unread messages. The last line says that she joined.
    last = 1 + (await world.say(token, 'long', 'The newest'));
    await world.join(await world.account('ann'), 'long');
    ann = await world.signedIn('ann', 'long');
  }, 60_000);

  it('opens at the end', async () => {
    await messageText(ann, 'The newest').waitFor();
    const { offsets } = await scroll(ann, 0);
    expect(offsets.at(-1)).toBe(last);
    expect(offsets.length).toBeLessThan(120);
  });

  it('scrolls back to the beginning without gaps or jumps, with few rows in the document', async () => {
    const seen = new Set<number>();
    const moves: number[] = [];
    for (let steps = 0; steps < 1000; steps++) {
      const { offsets, moved, top } = await scroll(ann, -400);
      // Offsets are consecutive because this room contains only messages, and the join at its end.
      expect(offsets).toEqual(offsets.map((_, i) => offsets[0]! + i));
      expect(offsets.length).toBeLessThan(150);
      for (const offset of offsets) seen.add(offset);
      if (moved !== undefined) moves.push(moved);
      if (top === 0 && offsets[0] === 1) break;
      if (top === 0) await ann.waitForTimeout(30);
    }
    expect(seen.size).toBe(COUNT + 2);
    expect(moves.length).toBeGreaterThan(100);
    expect(Math.max(...moves)).toBeLessThan(2);
    await screenshot(ann, 'oldest');
  }, 120_000);

  it('scrolls forward again, loading what was dropped', async () => {
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

  it('keeps its place while others write', async () => {
    const before = await ann.locator('.scroller').evaluate((element) => element.scrollTop);
    const top = await ann.locator('.row').first().evaluate((element) => element.getBoundingClientRect().top);
    await world.say(await world.token('bob'), 'long', 'Someone writes');
    await ann.waitForTimeout(300);
    expect(await ann.locator('.scroller').evaluate((element) => element.scrollTop)).toBe(before);
    expect(await ann.locator('.row').first().evaluate((element) => element.getBoundingClientRect().top)).toBe(top);
  });

  it('jumps to the newest message and continues from there', async () => {
    await ann.locator('.to-newest').click();
    await messageText(ann, 'Someone writes').waitFor();
    await send(ann, 'The end');
    await messageText(ann, 'The end').waitFor();
    // The view rests at the end, also when the pointer is above the newest message.
    expect((await scroll(ann, 0)).moved ?? 0).toBeLessThan(1);
    const left = () => ann.locator('.scroller').evaluate((it) => it.scrollHeight - it.clientHeight - it.scrollTop);
    expect(await left()).toBeLessThan(2);
    await composer(ann).fill('');
  });

  it('shows a message being sent even while another page is loading', async () => {
    await ann.route(/before=/, async (route) => {
      await new Promise((done) => setTimeout(done, 1000));
      await route.continue();
    });
    await world.reply('ann', 'long', 'Long ago', 1);
    await messageText(ann, 'Long ago').waitFor();
    await ann.locator('.quote').last().click();
    await send(ann, 'In the meantime');
    await messageText(ann, 'In the meantime').waitFor();
    await ann.waitForTimeout(1500);
    await messageText(ann, 'In the meantime').waitFor();
    await ann.unroute(/before=/);
  });

  it('jumps to a quoted message and back', async () => {
    await scroll(ann, -100_000);
    await ann.waitForTimeout(300);
    // By its key, because the thirtieth row changes while more messages arrive.
    const key = await ann.locator('.row').nth(30).getAttribute('data-key');
    const row = ann.locator(`.row[data-key="${key}"]`);
    const words = (await row.locator('.text').textContent())!;
    await row.hover();
    await ann.getByRole('button', { name: 'Reply' }).click();
    await send(ann, 'A late answer');
    await messageText(ann, 'A late answer').waitFor();
    await ann.locator('.row', { hasText: 'A late answer' }).locator('.quote').click();
    await ann.locator('.row.flashed', { hasText: words }).waitFor();
    await ann.locator('.to-newest').click();
    await messageText(ann, 'A late answer').waitFor();
  });

  it('pages through the history with the keyboard', async () => {
    const top = () => ann.locator('.scroller').evaluate((element) => element.scrollHeight - element.scrollTop);
    await ann.locator('.row').last().focus();
    let last = await top();
    for (let pages = 0; pages < 10; pages++) {
      await ann.keyboard.press('PageUp');
      await expect.poll(top, { timeout: 10_000 }).toBeGreaterThan(last + 300);
      // Let scrolling come to rest.
      await ann.waitForTimeout(300);
      last = await top();
    }
    await ann.keyboard.press('End');
    await messageText(ann, 'A late answer').waitFor();
  });

  it('keeps an unfinished edit while scrolling, and after the session ends', async () => {
    await messageText(ann, 'A late answer').hover();
    await ann.getByRole('button', { name: 'Edit' }).click();
    const editor = ann.getByLabel('Edit message');
    await editor.fill('An answer that took half an hour');
    for (const by of [-3000, 1e7, 1e7]) {
      await scroll(ann, by);
      await ann.waitForTimeout(200);
    }
    expect(await editor.inputValue()).toBe('An answer that took half an hour');
    await post(world.server, '/user/signout', {}, await world.token('ann'));
    await ann.getByText('Nothing you wrote is lost').waitFor();
    await world.signIn(ann, 'ann', 'long');
    expect(await editor.inputValue()).toBe('An answer that took half an hour');
    await editor.press('Enter');
    await messageText(ann, 'An answer that took half an hour').waitFor();
    await ann.reload();
    await messageText(ann, 'An answer that took half an hour').waitFor();
    expect(await editor.count()).toBe(0);
  });

  it('edits the user’s last message with the up arrow, wherever it is', async () => {
    const bob = await world.token('bob');
    for (let i = 0; i < 60; i++) await world.say(bob, 'long', `Later ${i}`);
    await messageText(ann, 'Later 59').waitFor();
    await composer(ann).focus();
    await ann.keyboard.press('ArrowUp');
    const editor = ann.getByLabel('Edit message');
    expect(await editor.inputValue()).toBe('An answer that took half an hour');
    await editor.press('Escape');
  });

  it('loads a failed page with “Try again”', async () => {
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

  it('opens a room at the first of many unread messages, and marks it as read at the end', async () => {
    const carol = await world.account('carol');
    await world.room(carol, 'much');
    const token = await world.token('ann');
    await world.join(token, 'much');
    await world.say(carol, 'much', 'The first');
    for (let i = 0; i < 300; i += 50) {
      await Promise.all(Array.from({ length: 50 }, (_, j) => world.say(carol, 'much', `Number ${i + j}`)));
    }
    await ann.getByRole('link', { name: /^much/ }).click();
    await messageText(ann, 'The first').waitFor();
    await ann.locator('.new-divider').waitFor();
    await ann.getByRole('link', { name: 'much 301 unread' }).waitFor();
    for (let steps = 0; steps < 100; steps++) {
      await scroll(ann, 400);
      if (await ann.getByRole('link', { name: 'much', exact: true }).count()) break;
    }
    await messageText(ann, /^Number 29\d$/).first().waitFor();
    expect(await ann.getByRole('link', { name: 'much', exact: true }).count()).toBe(1);
  });
});

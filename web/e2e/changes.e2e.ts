import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { accessibilityFlaws, createWorld, messageText, overflow, send } from './browser';

const world = createWorld();

/** What stands in the list, from top to bottom: messages, and lines about joins and departures. */
const lines = (page: Page) => page.locator('.row .text, .row.changes > p > span').allTextContents();
const line = (page: Page, text: string) => page.locator('.row.changes > p > span', { hasText: text });

describe('joins and departures', () => {
  let ann: string;
  let bob: string;
  let page: Page;

  beforeAll(async () => {
    ann = await world.account('ann');
    bob = await world.account('bob');
    await world.account('carol');
    await world.room(ann, 'lobby');
    await world.say(ann, 'lobby', 'Nobody is here yet');
    page = await world.signedIn('ann', 'lobby');
    await messageText(page, 'Nobody is here yet').waitFor();
  }, 60_000);

  it('stand between the messages as they happen, and after a reload', async () => {
    await world.join(bob, 'lobby');
    await line(page, 'bob joined').waitFor();
    await world.say(bob, 'lobby', 'Hello');
    await messageText(page, 'Hello').waitFor();
    await page.getByRole('button', { name: /online$/ }).click();
    await page.getByLabel('Add by username').fill('carol');
    await page.getByRole('button', { name: 'Add', exact: true }).click();
    await line(page, 'ann added carol').waitFor();
    await send(page, 'Welcome, Carol');
    await world.remove(ann, 'lobby', 'carol');
    await line(page, 'ann removed carol').waitFor();
    await send(page, 'Sorry');
    await world.leave(bob, 'lobby');
    await line(page, 'bob left').waitFor();
    const all = [
      'Nobody is here yet', 'bob joined', 'Hello', 'ann added carol', 'Welcome, Carol', 'ann removed carol', 'Sorry',
      'bob left',
    ];
    expect(await lines(page)).toEqual(all);
    expect(await line(page, 'bob joined').locator('..').getAttribute('title')).toMatch(/\d/);
    expect(await accessibilityFlaws(page)).toEqual([]);
    await page.reload();
    await line(page, 'bob left').waitFor();
    expect(await lines(page)).toEqual(all);
  });

  it('are no messages: nothing is unread because of them', async () => {
    await world.room(ann, 'other');
    await page.goto(`${world.server.page}/#/other`);
    await page.getByRole('heading', { name: 'other', level: 1 }).waitFor();
    await world.join(bob, 'lobby');
    await world.say(bob, 'lobby', 'I am back');
    await page.getByRole('link', { name: /lobby 1 unread/ }).waitFor();
    await page.goto(`${world.server.page}/#/lobby`);
    await messageText(page, 'I am back').waitFor();
    // The line stands before the first new message, not before the joins.
    expect(await page.locator('.row', { has: page.locator('.new-divider') }).locator('.text').textContent()).toBe(
      'I am back',
    );
    await page.getByRole('link', { name: /^lobby$/ }).waitFor();
  });

  it('are one line if many follow each other, and each on request, by keyboard too', async () => {
    await world.room(ann, 'party');
    await world.say(ann, 'party', 'The door is open');
    const guests = Array.from({ length: 30 }, (_, i) => `guest${String(i + 1).padStart(2, '0')}`);
    let last = '';
    for (const guest of guests) await world.join((last = await world.account(guest)), 'party');
    await world.leave(last, 'party');
    await page.goto(`${world.server.page}/#/party`);
    const text = 'guest01, guest02 and 27 others joined · guest30 joined and left';
    await line(page, text).waitFor();
    expect(await lines(page)).toEqual(['The door is open', text]);
    expect(await page.locator('.row.changes').getAttribute('aria-label')).toBe(text);

    await page.locator('.row .text').first().click();
    await page.locator('.row:not(.changes)').focus();
    await page.keyboard.press('ArrowDown');
    await page.locator('.row.changes:focus').waitFor();
    await page.keyboard.press('Tab');
    await page.keyboard.press('Enter');
    const items = page.locator('.row.changes li');
    await expect.poll(() => items.count()).toBe(31);
    expect(await items.last().textContent()).toMatch(/guest30 left$/);
    const button = page.locator('.row.changes').getByRole('button');
    expect(await button.getAttribute('aria-expanded')).toBe('true');
    expect(await button.evaluate((element) => element === document.activeElement)).toBe(true);
    expect(await accessibilityFlaws(page)).toEqual([]);
    await page.keyboard.press('Enter');
    await expect.poll(() => items.count()).toBe(0);
    // One more extends the same line.
    await world.join(bob, 'party');
    await line(page, 'guest01, guest02 and 28 others joined').waitFor();
    expect(await page.locator('.row.changes').count()).toBe(1);
    await page.setViewportSize({ width: 320, height: 640 });
    expect(await overflow(page)).toBe(0);
    await page.setViewportSize({ width: 1280, height: 800 });
  });

  it('are there in older pages too, without moving what is read', async () => {
    await world.room(ann, 'long');
    for (let i = 1; i <= 130; i++) {
      if (i === 10) await world.join(bob, 'long');
      if (i === 20) await world.leave(bob, 'long');
      await world.say(ann, 'long', `Message ${i}`);
    }
    await page.goto(`${world.server.page}/#/long`);
    await messageText(page, 'Message 130').waitFor();
    const scroller = page.locator('.scroller');
    await expect
      .poll(async () => {
        await scroller.evaluate((element) => element.scrollBy(0, -600));
        return line(page, 'bob joined').count();
      })
      .toBe(1);
    const all = await lines(page);
    const at = all.indexOf('bob joined');
    expect([all[at - 1], all[at + 1]]).toEqual(['Message 9', 'Message 10']);
  });
});

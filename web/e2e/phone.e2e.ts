/** The page under a finger, on a phone of 360 by 740 pixels. */
import { type CDPSession, type Locator, type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { accessibilityFlaws, allStored, composer, createWorld, messageText, screenshot, send } from './browser';

const world = createWorld();
const SIZE = { width: 360, height: 740 };
const sessions = new Map<Page, CDPSession>();

async function newPhone(): Promise<Page> {
  const context = await world.context({
    hasTouch: true,
    isMobile: true,
    viewport: SIZE,
    permissions: ['clipboard-read', 'clipboard-write'],
  });
  const page = await world.newTab(context);
  sessions.set(page, await context.newCDPSession(page));
  return page;
}

interface Point {
  x: number;
  y: number;
}

/** Puts a finger down, moves it, and lifts it after a while. */
async function drag(page: Page, from: Point, to: Point = from, forMs = 100): Promise<void> {
  const touch = (type: 'touchStart' | 'touchMove' | 'touchEnd', ...touchPoints: Point[]) =>
    sessions.get(page)!.send('Input.dispatchTouchEvent', { type, touchPoints });
  await touch('touchStart', from);
  for (let step = 1; step <= 5 && to !== from; step++) {
    await touch('touchMove', { x: from.x + ((to.x - from.x) * step) / 5, y: from.y + ((to.y - from.y) * step) / 5 });
  }
  await page.waitForTimeout(forMs);
  await touch('touchEnd');
}

async function middleOf(what: Locator): Promise<Point> {
  const { x, y, height } = (await what.boundingBox())!;
  return { x: x + 30, y: y + height / 2 };
}

const hold = async (page: Page, what: Locator) => drag(page, await middleOf(what), undefined, 700);
const sheet = (page: Page) => page.getByRole('dialog', { name: 'Message actions' });
const list = (page: Page) => page.getByRole('navigation', { name: 'Rooms' });
const inSheet = (page: Page, name: string) => sheet(page).getByRole('button', { name, exact: true });

describe('a phone', () => {
  let phone: Page;
  let ada: string;

  beforeAll(async () => {
    const token = await world.account('mira');
    ada = await world.account('ada');
    for (const name of ['kitchen', 'garden', 'attic']) {
      await world.room(token, name, `The ${name}`);
      await world.join(ada, name);
    }
    for (let i = 0; i < 15; i++) await world.say(token, 'kitchen', `Message ${i}`);
    await world.say(ada, 'kitchen', 'From Ada, see https://example.org/');
    await world.say(token, 'kitchen', 'The last one');
    phone = await newPhone();
    await world.signIn(phone, 'mira', 'kitchen');
    await messageText(phone, 'The last one').waitFor();
  }, 60_000);

  it('leads back to the list of rooms, also from a room that a link has opened', async () => {
    await phone.goBack();
    await list(phone).waitFor();
    expect(await phone.evaluate(() => location.hash)).toBe('#/');
    await phone.goForward();
    await composer(phone).waitFor();
    // The way back on the page is the same: it adds nothing to the history.
    const entries = await phone.evaluate(() => history.length);
    await phone.getByRole('link', { name: 'All rooms' }).tap();
    await list(phone).waitFor();
    expect(await phone.evaluate(() => history.length)).toBe(entries);
    await phone.goForward();
    await composer(phone).waitFor();
    // However many rooms and messages were opened from that room.
    await phone.evaluate(() => (location.hash = '#/garden'));
    await phone.getByRole('heading', { name: 'The garden' }).waitFor();
    await phone.evaluate(() => (location.hash = '#/KITCHEN'));
    await phone.getByRole('heading', { name: 'The kitchen' }).waitFor();
    await phone.reload();
    await phone.getByRole('link', { name: 'All rooms' }).tap();
    await list(phone).waitFor();
    // Nothing of the page lies before the list.
    await phone.goBack();
    expect(await phone.evaluate(() => location.href)).toBe('about:blank');
    await phone.goForward();
    await list(phone).getByRole('link', { name: 'The kitchen' }).tap();
    await messageText(phone, 'The last one').waitFor();
  });

  it('goes back when a finger swipes from the edge', async () => {
    await drag(phone, { x: 150, y: 300 }, { x: 300, y: 300 });
    await drag(phone, { x: 5, y: 300 }, { x: 100, y: 500 });
    await drag(phone, { x: 5, y: 300 }, { x: 40, y: 300 });
    await phone.waitForTimeout(300);
    expect(await composer(phone).isVisible()).toBe(true);
    await drag(phone, { x: 5, y: 300 }, { x: 200, y: 310 });
    await list(phone).waitFor();
    await list(phone).getByRole('link', { name: 'The kitchen' }).tap();
    await messageText(phone, 'The last one').waitFor();
  });

  it('counts the other rooms with unread messages on the way back', async () => {
    expect(await phone.locator('.back .count').count()).toBe(0);
    await world.say(ada, 'garden', 'One');
    await world.say(ada, 'garden', 'Two');
    await phone.getByRole('link', { name: 'All rooms, 1 with unread messages' }).waitFor();
    await world.say(ada, 'attic', 'Three');
    await phone.getByRole('link', { name: 'All rooms, 2 with unread messages' }).waitFor();
    expect(await phone.locator('.back .count').textContent()).toBe('2');
    expect(await accessibilityFlaws(phone)).toEqual([]);
    await screenshot(phone, 'phone-back');
    await phone.locator('.back').tap();
    for (const name of ['The garden', 'The attic']) {
      await list(phone).getByRole('link', { name }).tap();
      await messageText(phone, /One|Three/).waitFor();
      await phone.locator('.back').tap();
      await list(phone).getByRole('link', { name, exact: true }).waitFor();
    }
    await list(phone).getByRole('link', { name: 'The kitchen' }).tap();
    await phone.getByRole('link', { name: 'All rooms', exact: true }).waitFor();
    await messageText(phone, 'The last one').waitFor();
  });

  it('opens a sheet with the actions when a finger rests on a message', async () => {
    await hold(phone, messageText(phone, 'The last one'));
    await sheet(phone).waitFor();
    const names = await sheet(phone).getByRole('button').evaluateAll((all) =>
      all.map((button) => button.getAttribute('aria-label') ?? button.textContent),
    );
    expect(names).toEqual(['React', 'Reply', 'Copy text', 'Copy link', 'Mark as unread', 'Edit', 'Delete', 'Close']);
    const { y, height } = (await sheet(phone).boundingBox())!;
    expect(Math.round(y + height)).toBe(SIZE.height);
    for (const colorScheme of ['light', 'dark'] as const) {
      await phone.emulateMedia({ colorScheme });
      expect(await accessibilityFlaws(phone), colorScheme).toEqual([]);
      await screenshot(phone, `phone-sheet-${colorScheme}`);
    }
    await phone.emulateMedia({ colorScheme: 'light' });
    expect(await phone.evaluate(() => getSelection()!.toString())).toBe('');
    // Outside of it.
    await phone.touchscreen.tap(180, 60);
    await sheet(phone).waitFor({ state: 'detached' });

    await hold(phone, messageText(phone, 'From Ada'));
    await sheet(phone).waitFor();
    expect(await inSheet(phone, 'Edit').count()).toBe(0);
    await inSheet(phone, 'Close').tap();
    await sheet(phone).waitFor({ state: 'detached' });
  });

  it('does everything in the sheet', async () => {
    const target = messageText(phone, 'The last one');
    await hold(phone, target);
    await inSheet(phone, 'React').tap();
    await inSheet(phone, '🎉').tap();
    await phone.getByRole('button', { name: '🎉, 1' }).waitFor();
    await sheet(phone).waitFor({ state: 'detached' });

    await hold(phone, target);
    await inSheet(phone, 'Copy text').tap();
    await sheet(phone).getByText('Text copied').waitFor();
    expect(await phone.evaluate(() => navigator.clipboard.readText())).toBe('The last one');
    await inSheet(phone, 'Close').tap();

    await hold(phone, target);
    await inSheet(phone, 'Reply').tap();
    await phone.locator('.replying', { hasText: 'The last one' }).waitFor();
    await phone.locator('#composer:focus').waitFor();
    await send(phone, 'An answer');
    await allStored(phone);

    await hold(phone, target);
    await inSheet(phone, 'Edit').tap();
    await phone.locator('.editor textarea:focus').waitFor();
    expect(await sheet(phone).count()).toBe(0);
    await phone.keyboard.type(', edited');
    await phone.getByRole('button', { name: 'Save' }).tap();
    await messageText(phone, 'The last one, edited').waitFor();

    await hold(phone, messageText(phone, 'An answer'));
    await inSheet(phone, 'Delete').tap();
    await sheet(phone).getByText('Delete this message?').waitFor();
    await inSheet(phone, 'Delete').tap();
    await messageText(phone, 'This message was deleted.').waitFor();
    await sheet(phone).waitFor({ state: 'detached' });
  });

  it('opens no sheet when a finger moves, taps, or holds a link', async () => {
    const at = await middleOf(messageText(phone, 'Message 12'));
    await drag(phone, at, { x: at.x, y: at.y + 40 }, 700);
    await hold(phone, phone.locator('.row .text a'));
    await messageText(phone, 'Message 13').tap();
    await phone.locator('.actions').waitFor();
    expect(await sheet(phone).count()).toBe(0);
    await composer(phone).focus();
  });

  it('keeps the message box and the newest message above the keyboard', async () => {
    const isAbove = async (y: number) => {
      const box = (await composer(phone).boundingBox())!;
      const last = (await phone.locator('.row').last().boundingBox())!;
      return box.y + box.height <= y && last.y + last.height <= box.y && box.y > y - 120;
    };
    await phone.locator('.scroller').evaluate((scroller) => scroller.scrollTo(0, scroller.scrollHeight));
    // A browser that makes the page smaller.
    const viewport = await phone.locator('meta[name=viewport]').getAttribute('content');
    expect(viewport).toMatch('interactive-widget=resizes-content');
    await phone.setViewportSize({ width: SIZE.width, height: 420 });
    await expect.poll(() => isAbove(420)).toBe(true);
    await phone.setViewportSize(SIZE);
    await expect.poll(() => isAbove(SIZE.height)).toBe(true);
    // A browser that covers a part of the page.
    const cover = (height: number) =>
      phone.evaluate((height) => {
        Object.defineProperty(visualViewport, 'height', { value: height, configurable: true });
        visualViewport!.dispatchEvent(new Event('resize'));
      }, height);
    await cover(420);
    await expect.poll(() => isAbove(420)).toBe(true);
    await cover(SIZE.height);
    await expect.poll(() => isAbove(SIZE.height)).toBe(true);
  });

  it('has targets of 44 pixels for every finger', async () => {
    /** What is smaller. Links in a text are as high as its lines. */
    const small = () =>
      phone.locator('button, a:not(.row .text a, .skip), input, textarea, select, .check').evaluateAll((all) =>
        all.flatMap((element) => {
          const { width, height } = element.getBoundingClientRect();
          const isShown = width > 1 && height > 1 && (element as HTMLElement).offsetParent !== null;
          // The label around it is what is pressed.
          const isLabelled = element.matches('input[type=checkbox], input[type=radio]') && element.closest('.check');
          if (!isShown || isLabelled || (height >= 43.9 && width >= 43.9)) return [];
          const name = element.getAttribute('aria-label') ?? element.textContent;
          return [`${name} ${element.className} ${width}×${height}`];
        }),
      );
    expect.soft(await small(), 'the room').toEqual([]);
    await messageText(phone, 'Message 13').tap();
    await phone.locator('.actions').waitFor();
    expect.soft(await small(), 'the actions').toEqual([]);
    const before = (await messageText(phone, 'Message 13').boundingBox())!;
    await phone.locator('.actions').getByRole('button', { name: 'React' }).tap();
    await phone.locator('.actions').getByRole('button', { name: '👍' }).waitFor();
    expect.soft(await small(), 'the emoji').toEqual([]);
    const emoji = (await phone.locator('.actions').boundingBox())!;
    expect(emoji.y + emoji.height).toBeLessThanOrEqual(before.y + 1);
    await hold(phone, messageText(phone, 'Message 13'));
    await inSheet(phone, 'React').tap();
    await inSheet(phone, '👍').waitFor();
    expect.soft(await small(), 'the sheet').toEqual([]);
    await inSheet(phone, '👍').tap();
    await phone.getByRole('button', { name: '👍, 1' }).waitFor();
    expect.soft(await small(), 'reactions').toEqual([]);
    await hold(phone, messageText(phone, 'Message 13'));
    await inSheet(phone, 'Edit').tap();
    await phone.locator('.editor textarea').waitFor();
    expect.soft(await small(), 'the editor').toEqual([]);
    await phone.getByRole('button', { name: 'Cancel' }).tap();
    for (const panel of [/online$/, 'Room details']) {
      await phone.getByRole('button', { name: panel }).tap();
      await phone.getByRole('button', { name: 'Close' }).waitFor();
      expect.soft(await small(), `${panel}`).toEqual([]);
      await phone.getByRole('button', { name: 'Close' }).tap();
    }
    await phone.getByRole('link', { name: 'All rooms' }).tap();
    await list(phone).waitFor();
    expect.soft(await small(), 'the rooms').toEqual([]);
    for (const dialog of ['Settings', 'Find or create a room']) {
      await phone.getByRole('button', { name: dialog }).tap();
      await phone.getByRole('button', { name: 'Close' }).waitFor();
      expect.soft(await small(), dialog).toEqual([]);
      await phone.getByRole('button', { name: 'Close' }).tap();
    }
    const visitor = phone;
    phone = await newPhone();
    await phone.goto(world.server.page);
    await phone.getByRole('button', { name: 'Create an account' }).waitFor();
    expect.soft(await small(), 'the form').toEqual([]);
    phone = visitor;
  });

  it('throws no errors', () => {
    expect(world.pageErrors).toEqual([]);
  });
});

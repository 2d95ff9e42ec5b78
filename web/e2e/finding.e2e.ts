import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  accessibilityFlaws,
  allStored,
  composer,
  createWorld,
  messageText,
  overflow,
  screenshot,
  send,
} from './browser';
import { post, remove } from './server';

const world = createWorld();

/** What has the focus: its id, or else its name or text. */
const focused = (page: Page) =>
  page.evaluate(() => {
    const { activeElement } = document;
    return activeElement?.id || (activeElement?.getAttribute('aria-label') ?? activeElement?.textContent ?? '');
  });

/** Looks for accessibility violations in both themes, and for anything too wide in several widths. */
async function checkLook(page: Page, name: string): Promise<void> {
  for (const width of [320, 1280]) {
    await page.setViewportSize({ width, height: 800 });
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
      expect(await accessibilityFlaws(page), `${name} ${width} ${colorScheme}`).toEqual([]);
      expect(await overflow(page), `${name} ${width}`).toBe(0);
      await screenshot(page, `finding-${name}-${width}-${colorScheme}`);
    }
    const dialog = page.locator('dialog');
    if ((await dialog.count()) > 0) {
      expect(await dialog.evaluate((element) => element.scrollWidth - element.clientWidth), name).toBe(0);
    }
  }
  await page.emulateMedia({ colorScheme: 'light', reducedMotion: 'no-preference' });
}

describe('the quick switcher', () => {
  let page: Page;
  const room = () => page.getByRole('combobox', { name: 'Room' });
  const options = () => page.getByRole('option').evaluateAll((all) => all.map(({ textContent }) => textContent));
  const heading = (title: string) => page.getByRole('heading', { name: title, level: 1 }).waitFor();
  const open = async () => {
    await page.keyboard.press('Control+k');
    await room().and(page.locator(':focus')).waitFor();
  };

  beforeAll(async () => {
    const ann = await world.account('ann');
    const bob = await world.account('bob');
    for (let i = 0; i < 30; i++) await world.room(ann, `room-${i}`, `Room ${i}`);
    await world.room(ann, 'cafe', 'Café Zürich');
    await world.room(ann, 'garden', 'The garden');
    await world.join(bob, 'garden');
    page = await world.signedIn('ann', 'room-1');
    await heading('Room 1');
  }, 60_000);

  it('opens a room by a few letters, without accents and upper case', async () => {
    await composer(page).fill('unfinished');
    await open();
    await checkLook(page, 'switcher');
    await page.keyboard.type('zurich');
    expect(await options()).toEqual(['Café Zürichcafe']);
    expect(await room().getAttribute('aria-activedescendant')).toBe(
      await page.getByRole('option', { selected: true }).getAttribute('id'),
    );
    await page.keyboard.press('Enter');
    await heading('Café Zürich');
    expect(await page.locator('dialog').count()).toBe(0);
    await expect.poll(() => focused(page), { timeout: 10_000 }).toBe('composer');
    // The room with something unfinished says so.
    await page.getByRole('link', { name: 'Room 1 Draft' }).waitFor();
    await page.keyboard.type('Written right away');
    expect(await composer(page).inputValue()).toBe('Written right away');
    await composer(page).fill('');
  });

  it('chooses with the arrow keys, and returns the focus on Escape', async () => {
    await page.getByRole('button', { name: 'Settings' }).focus();
    await open();
    await page.keyboard.type('room 2');
    const found = await options();
    expect(found.slice(0, 2)).toEqual(['Room 2room-2', 'Room 29room-29']);
    const selected = () => page.getByRole('option', { selected: true }).textContent();
    await page.keyboard.press('ArrowDown');
    expect(await selected()).toBe(found[1]);
    await page.keyboard.press('ArrowUp');
    await page.keyboard.press('ArrowUp');
    expect(await selected()).toBe(found.at(-1));
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Escape');
    await page.locator('dialog').waitFor({ state: 'detached' });
    expect(await focused(page)).toBe('Settings');
    await open();
    await page.keyboard.press('Control+k');
    await page.locator('dialog').waitFor({ state: 'detached' });
    expect(await focused(page)).toBe('Settings');
    // The caret returns as well.
    await composer(page).focus();
    await open();
    await page.keyboard.press('Escape');
    await page.locator('dialog').waitFor({ state: 'detached' });
    await page.keyboard.type('Back');
    expect(await composer(page).inputValue()).toBe('Back');
    await composer(page).fill('');
    await open();
    await page.keyboard.type('room 2');
    await page.getByRole('option', { name: 'Room 20' }).click();
    await heading('Room 20');
  });

  it('offers unread rooms first, then those that were open', async () => {
    await world.say(await world.token('bob'), 'garden', 'Look, @ann');
    await page.getByRole('link', { name: /^The garden .*unread$/ }).waitFor();
    await open();
    expect((await options()).slice(0, 3)).toEqual(['The gardengarden@1 unread', 'Café Zürichcafe', 'Room 1room-1']);
    await page.keyboard.press('Enter');
    await messageText(page, 'Look, @ann').waitFor();
  });

  it('says when there is no such room, and leads to all others', async () => {
    await open();
    await page.keyboard.type('nowhere');
    await page.getByText('None of your rooms matches.').waitFor();
    expect(await room().getAttribute('aria-expanded')).toBe('false');
    await checkLook(page, 'switcher-none');
    await page.keyboard.press('Enter');
    await page.getByRole('dialog').getByRole('button', { name: 'Find or create a room' }).click();
    await page.locator('input[name=query]:focus').waitFor();
    // Another dialog is in the way.
    await page.keyboard.press('Control+k');
    expect(await page.locator('dialog').count()).toBe(1);
    await page.keyboard.press('Escape');
    await page.locator('dialog').waitFor({ state: 'detached' });
  });

  it('lists the shortcuts under a question mark, but types it into fields', async () => {
    await composer(page).focus();
    await page.keyboard.type('Why?');
    expect(await composer(page).inputValue()).toBe('Why?');
    await composer(page).fill('');
    await page.locator('.row').last().focus();
    await page.keyboard.press('?');
    await page.getByRole('dialog', { name: 'Keyboard shortcuts' }).waitFor();
    await page.getByText('Ctrl+K').waitFor();
    await checkLook(page, 'shortcuts');
    await page.keyboard.press('Escape');
    await page.locator('dialog').waitFor({ state: 'detached' });
    expect(await composer(page).inputValue()).toBe('');
    await page.keyboard.type('So');
    expect(await composer(page).inputValue()).toBe('So');
    await composer(page).fill('');
    await page.getByRole('button', { name: 'Settings' }).click();
    await page.getByRole('button', { name: 'Show the keyboard shortcuts' }).click();
    await page.getByRole('dialog', { name: 'Keyboard shortcuts' }).waitFor();
    await page.keyboard.press('Escape');
    await page.locator('dialog').waitFor({ state: 'detached' });
    expect(await focused(page)).toBe('Settings');
  });

  it('throws no errors', () => {
    expect(world.pageErrors).toEqual([]);
  });
});

describe('a link to a message', () => {
  let page: Page;
  /** The offsets of “Message 0”, “Message 1” and so on. */
  const offsets: number[] = [];
  const link = (room: string, offset: number) => `${world.server.page}/#/${room}/${offset}`;
  const copied = () => page.evaluate(() => navigator.clipboard.readText());
  const notice = (text: string | RegExp) => page.locator('.messages > .notice', { hasText: text });
  /** The row with this text, once the page has led there. It stands out for a while only, but keeps the focus. */
  const reached = (text: string) => page.locator('.row:focus', { hasText: text });
  /** The numbers of the messages in the document. */
  const numbers = () =>
    page.locator('.row .text').evaluateAll((all) =>
      all.flatMap(({ textContent }) => /^Message (\d+)$/.exec(textContent!)?.slice(1).map(Number) ?? []),
    );
  const isInView = (text: string) =>
    page.locator('.row', { hasText: text }).evaluate((row) => {
      const { top, bottom } = row.getBoundingClientRect();
      const view = document.querySelector('.scroller')!.getBoundingClientRect();
      return top >= view.top && bottom <= view.bottom;
    });

  beforeAll(async () => {
    const cleo = await world.account('cleo');
    const dan = await world.account('dan');
    await world.room(cleo, 'long', 'A long story');
    await world.room(cleo, 'other');
    await world.join(dan, 'long');
    for (let i = 0; i < 500; i++) offsets.push(await world.say(dan, 'long', `Message ${i}`));
    const context = await world.context({ permissions: ['clipboard-read', 'clipboard-write'] });
    page = await world.newTab(context);
    await world.signIn(page, 'cleo', 'long');
    // All of them are unread.
    await page.locator('.to-newest').click();
    await messageText(page, 'Message 499').waitFor();
  }, 60_000);

  it('is copied among the actions of a message', async () => {
    await messageText(page, 'Message 490').hover();
    await page.getByRole('button', { name: 'Copy link' }).click();
    await page.getByRole('status').getByText('Link copied').waitFor();
    // It says which room of this name it is.
    const word = /\/[\da-f]{16}$/;
    expect((await copied()).replace(word, '')).toBe(link('long', offsets[490]!));
    expect(await copied()).toMatch(word);
    // The button returns.
    await page.getByRole('button', { name: 'Copy link' }).waitFor();
    // As on a server without TLS.
    await page.evaluate(() => Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true }));
    await messageText(page, 'Message 485').hover();
    await page.getByRole('button', { name: 'Copy link' }).focus();
    await page.keyboard.press('Enter');
    await page.getByRole('status').getByText('Link copied').waitFor();
    await page.evaluate(() => delete (navigator as { clipboard?: unknown }).clipboard);
    expect((await copied()).replace(word, '')).toBe(link('long', offsets[485]!));
  });

  it('shows the message among its neighbours, also in a new tab', async () => {
    await page.goto('about:blank');
    await page.goto(link('long', offsets[200]!));
    await page.locator('.row.flashed', { hasText: 'Message 200' }).waitFor();
    await expect.poll(() => isInView('Message 200'), { timeout: 10_000 }).toBe(true);
    await expect.poll(() => focused(page), { timeout: 10_000 }).toMatch(/^dan, /);
    await checkLook(page, 'message');
    await expect.poll(async () => (await numbers()).includes(203), { timeout: 10_000 }).toBe(true);
    const shown = await numbers();
    expect(shown).toEqual(shown.map((_, i) => shown[0]! + i));
    // A message that arrives now is behind a gap.
    await world.say(await world.token('dan'), 'long', 'Message 500');
    await page.waitForTimeout(300);
    const after = await numbers();
    expect(after).toEqual(after.map((_, i) => after[0]! + i));
    expect(after.at(-1)).toBeLessThan(499);
    await page.locator('.to-newest').click();
    await messageText(page, 'Message 500').waitFor();
    expect(page.url()).toBe(`${world.server.page}/#/long`);
    await page.reload();
    await messageText(page, 'Message 500').waitFor();
  });

  it('opens in the same tab, and leads back to the message when it is pressed again', async () => {
    await send(page, `See ${link('long', offsets[30]!)}`);
    const here = page.locator('.row a', { hasText: `/${offsets[30]}` });
    await here.click();
    await reached('Message 30').waitFor();
    await page.getByRole('link', { name: 'other' }).click();
    await page.getByRole('heading', { name: 'other', level: 1 }).waitFor();
    await send(page, `Look: ${link('long', offsets[40]!)}`);
    await page.locator('.row a', { hasText: `/${offsets[40]}` }).click();
    await reached('Message 40').waitFor();
    // Within the part that is loaded.
    await page.evaluate((to) => (location.hash = to), `#/long/${offsets[60]}`);
    await reached('Message 60').waitFor();
    expect(page.context().pages()).toHaveLength(1);
    await page.goBack();
    await reached('Message 40').waitFor();
    await send(page, `Here: ${link('long', offsets[20]!)}`);
    await allStored(page);
    await page.waitForURL(/#\/long$/);
    // The page has noticed by then.
    await page.waitForTimeout(300);
    await page.evaluate((to) => history.replaceState(null, '', to), `#/long/${offsets[20]}`);
    await page.locator('.row a', { hasText: `/${offsets[20]}` }).click();
    await reached('Message 20').waitFor();
    expect(await isInView('Message 20')).toBe(true);
  });

  it('says so if the message was deleted, or does not exist', async () => {
    await page.locator('.to-newest').click();
    await send(page, 'A secret');
    await messageText(page, 'A secret').hover();
    await page.getByRole('button', { name: 'Copy link' }).click();
    const secret = await copied();
    await page.getByRole('button', { name: 'Delete' }).click();
    await page.locator('.actions').getByRole('button', { name: 'Delete' }).click();
    await messageText(page, 'This message was deleted.').waitFor();
    await page.goto('about:blank');
    await page.goto(secret);
    await notice('was deleted').waitFor();
    await reached('This message was deleted.').waitFor();
    await checkLook(page, 'message-deleted');
    await page.getByRole('button', { name: 'Dismiss' }).click();
    expect(await notice(/./).count()).toBe(0);
    // The newest messages are shown instead.
    for (const offset of [offsets.at(-1)! + 5000, 1e12]) {
      await page.goto('about:blank');
      await page.goto(link('long', offset));
      await notice('There is no message at this link.').waitFor();
      await messageText(page, 'Message 500').waitFor();
    }
  });

  it('does not lead to the message of another room that took the name', async () => {
    const token = await world.token('cleo');
    const write = async () => {
      await world.room(token, 'again');
      for (let i = 0; i < 3; i++) await world.say(token, 'again', `Number ${i}`);
      await page.goto('about:blank');
      await page.goto(`${world.server.page}/#/again`);
      await messageText(page, 'Number 1').hover();
      await page.getByRole('button', { name: 'Copy link' }).click();
      await page.getByRole('status').getByText('Link copied').waitFor();
      return copied();
    };
    const old = await write();
    await remove(world.server, '/rooms/again', token);
    const current = await write();
    expect(current).not.toBe(old);
    // In a room that is open, and in a new tab.
    for (const before of [`${world.server.page}/#/again`, 'about:blank']) {
      await page.goto(before);
      await page.goto(old);
      await notice('This message was in an earlier room with the same name.').waitFor();
      await messageText(page, 'Number 2').waitFor();
      expect(await page.locator('.row.flashed').count()).toBe(0);
    }
    await page.goto(current);
    await reached('Number 1').waitFor();
    expect(await notice(/./).count()).toBe(0);
  });

  it('is followed after the page could not load it', async () => {
    await page.goto('about:blank');
    await page.route(/getchats/, (route) => route.abort());
    await page.goto(link('long', offsets[100]!));
    await page.getByText('Can’t reach the server').waitFor();
    await page.unroute(/getchats/);
    await page.getByRole('button', { name: 'Try again' }).click();
    await reached('Message 100').waitFor();
  });

  it('is followed after signing in, and after joining the room', async () => {
    await world.account('eve');
    const eve = await world.newVisitor();
    await eve.goto(link('long', offsets[300]!));
    await world.signInAgain(eve, 'eve');
    await eve.getByRole('heading', { name: 'You’re not a member of long' }).waitFor();
    await eve.getByRole('button', { name: 'Join room' }).click();
    await eve.locator('.row:focus', { hasText: 'Message 300' }).waitFor();
  });

  it('reveals nothing of a private room', async () => {
    const dan = await world.token('dan');
    await post(world.server, '/user/createroom', { name: 'secret', private: true }, dan);
    const offset = await world.say(dan, 'secret', 'Not for everyone');
    await page.goto(link('secret', offset));
    await page.getByRole('heading', { name: 'You’re not a member of secret' }).waitFor();
    await page.getByText('There is no such room, or only its members can see it.').waitFor();
    await post(world.server, '/rooms/secret/members', { username: 'cleo' }, dan);
    await reached('Not for everyone').waitFor();
  });

  it('does not show a message being sent as if it followed those around', async () => {
    await page.goto(link('long', offsets[200]!));
    await reached('Message 200').waitFor();
    await world.server.stop();
    try {
      await page.getByText('Connection lost').waitFor();
      await send(page, 'Into the void');
      await page.locator('.row.pending', { hasText: 'Into the void' }).waitFor();
      await page.locator('.row.pending').getByText('Later messages aren’t shown here').waitFor();
    } finally {
      await world.server.start();
    }
    await messageText(page, 'Message 500').waitFor({ timeout: 30_000 });
    await page.locator('.row:not(.pending)', { hasText: 'Into the void' }).waitFor();
    expect(await page.getByText('Later messages aren’t shown here').count()).toBe(0);
  }, 60_000);

  it('throws no errors', () => {
    expect(world.pageErrors).toEqual([]);
  });
});

describe('a date', () => {
  const DAY_MS = 24 * 60 * 60_000;
  /** The messages after this one are a year younger. */
  const BEFORE_GAP = 120;
  const COUNT = 400;
  let page: Page;
  let requests = 0;
  /** The number of a message, which is four a day. */
  const timeOf = (number: number, now: number) =>
    now - (COUNT - number) * (DAY_MS / 4) - (number <= BEFORE_GAP ? 365 * DAY_MS : 0);
  const now = Date.now();
  const pad = (number: number) => String(number).padStart(2, '0');
  const dateOf = (time: number) => {
    const date = new Date(time);
    return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
  };
  /** The first message that is not older than the day of this time. */
  const firstOn = (time: number) => {
    const day = new Date(time).setHours(0, 0, 0, 0);
    for (let number = 1; ; number++) if (timeOf(number, now) >= day) return number;
  };
  const jump = async (date: string) => {
    await page.getByRole('button', { name: 'Jump to a date' }).click();
    await page.getByLabel('Date', { exact: true }).fill(date);
    await page.keyboard.press('Enter');
  };
  const reached = (number: number) =>
    page.locator('.row:focus').filter({ has: page.getByText(`Entry ${number}`, { exact: true }) });

  beforeAll(async () => {
    const fay = await world.account('fay');
    await world.room(fay, 'diary');
    await world.room(fay, 'blank');
    const numbers = new Map<number, number>();
    for (let number = 1; number <= COUNT; number++) {
      numbers.set(await world.say(fay, 'diary', `Entry ${number}`), number);
    }
    page = await world.newVisitor();
    // As if the server had been running for more than a year.
    await page.route(/getchats\?.*room=diary/, async (route) => {
      requests++;
      const response = await route.fetch();
      const answer = (await response.json()) as { messages: { offset: number; time: number }[] };
      for (const message of answer.messages) message.time = timeOf(numbers.get(message.offset)!, now);
      await route.fulfill({ response, json: answer });
    });
    await world.signIn(page, 'fay', 'diary');
    await messageText(page, `Entry ${COUNT}`).waitFor();
  }, 60_000);

  it('leads to the first message of the day', async () => {
    await page.getByRole('button', { name: 'Jump to a date' }).hover();
    await screenshot(page, 'finding-date-button');
    await page.getByRole('button', { name: 'Jump to a date' }).click();
    await page.locator('input[name=date]:focus').waitFor();
    await checkLook(page, 'date');
    await page.keyboard.press('Escape');
    await page.locator('dialog').waitFor({ state: 'detached' });
    const time = timeOf(200, now);
    const first = firstOn(time);
    requests = 0;
    await jump(dateOf(time));
    await reached(first).waitFor();
    expect(requests).toBeLessThan(12);
    // The day begins with it.
    await reached(first).locator('.day').waitFor();
    await messageText(page, `Entry ${first - 1}`).waitFor();
    await messageText(page, `Entry ${first + 1}`).waitFor();
    await expect.poll(() => focused(page), { timeout: 10_000 }).toMatch(/^fay, /);
    expect(await page.locator('.messages > .notice').count()).toBe(0);
    await page.locator('.to-newest').click();
    await messageText(page, `Entry ${COUNT}`).waitFor();
  });

  it('without messages leads to what came next, or says that there is nothing', async () => {
    await jump(dateOf(timeOf(BEFORE_GAP, now) + 100 * DAY_MS));
    await page.getByText(/^There are no messages from .*\. These came next\./).waitFor();
    await reached(BEFORE_GAP + 1).waitFor();
    await jump('1999-12-31');
    await page.getByText('There are no messages from 31 December 1999. These came next.').waitFor();
    await reached(1).waitFor();
    await jump(dateOf(now + 2 * DAY_MS));
    await page.getByRole('alert').getByText(/^There are no messages from .* or later\.$/).waitFor();
    await page.getByLabel('Date', { exact: true }).fill('');
    await page.keyboard.press('Enter');
    await page.getByText('Enter a date').waitFor();
    await page.keyboard.press('Escape');
    await page.goto(`${world.server.page}/#/blank`);
    await page.getByText('No messages in blank yet').waitFor();
    await jump('1999-12-31');
    await page.getByText('There are no messages from 31 December 1999 or later.').waitFor();
    await page.keyboard.press('Escape');
  });
});

describe('a room marked as unread', () => {
  let page: Page;
  const room = (unread?: number) =>
    page.getByRole('link', { name: unread === undefined ? 'The notes' : `The notes ${unread} unread`, exact: true });
  const mark = async (text: string) => {
    await messageText(page, text).hover();
    await page.getByRole('button', { name: 'Mark as unread' }).click();
    await page.getByText('Marked as unread in this browser').waitFor();
  };
  const dividedRow = () => page.locator('.row', { has: page.locator('.new-divider') });

  beforeAll(async () => {
    const gil = await world.account('gil');
    const hal = await world.account('hal');
    await world.room(gil, 'notes', 'The notes');
    await world.room(gil, 'elsewhere');
    await world.join(hal, 'notes');
    page = await world.signedIn('gil', 'notes');
    for (let i = 0; i < 12; i++) await world.say(hal, 'notes', `Note ${i}`);
    await world.say(gil, 'notes', 'My own');
    await messageText(page, 'My own').waitFor();
    await room().waitFor();
  });

  it('stays unread until it is opened again', async () => {
    await mark('Note 5');
    await room(7).waitFor();
    expect(await dividedRow().textContent()).toContain('Note 5');
    await checkLook(page, 'unread');
    // The newest messages are on screen all the time.
    await world.say(await world.token('hal'), 'notes', 'Note 12');
    await room(8).waitFor();
    await page.getByRole('link', { name: 'elsewhere' }).click();
    await page.getByRole('heading', { name: 'elsewhere', level: 1 }).waitFor();
    const tab = await world.newTab(page.context());
    await tab.goto(`${world.server.page}/#/elsewhere`);
    await tab.getByRole('link', { name: 'The notes 8 unread', exact: true }).waitFor();
    await page.reload();
    await room(8).waitFor();
    // In another browser, it is not marked: only what the server has not seen read is unread.
    const other = await world.signedIn('gil', 'elsewhere');
    await other.getByRole('link', { name: 'The notes 1 unread', exact: true }).waitFor();
    await other.close();
    await page.bringToFront();
    await room(8).click();
    await messageText(page, 'Note 12').waitFor();
    expect(await dividedRow().textContent()).toContain('Note 5');
    await room().waitFor();
    await tab.getByRole('link', { name: 'The notes', exact: true }).waitFor();
    await tab.close();
  });

  it('can begin with a message of the user’s own', async () => {
    await mark('My own');
    expect(await dividedRow().textContent()).toContain('My own');
    await room(1).waitFor();
    await page.getByRole('link', { name: 'elsewhere' }).click();
    await room(1).click();
    await messageText(page, 'Note 12').waitFor();
    await room().waitFor();
    expect(await page.evaluate(() => Object.keys(localStorage).filter((key) => /unread/.test(key)))).toEqual([]);
  });

  it('throws no errors', () => {
    expect(world.pageErrors).toEqual([]);
  });
});

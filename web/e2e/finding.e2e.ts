import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  accessibilityFlaws,
  composer,
  createWorld,
  messageText,
  overflow,
  screenshot,
  send,
} from './browser';
import { post } from './server';

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
  const notice = (text: string | RegExp) => page.locator('.messages > .notice', { hasText: text });
  const flashed = (text: string) => page.locator('.row.flashed', { hasText: text });
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
    expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(link('long', offsets[490]!));
    // The button returns.
    await page.getByRole('button', { name: 'Copy link' }).waitFor();
    // As on a server without TLS.
    await page.evaluate(() => Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true }));
    await messageText(page, 'Message 485').hover();
    await page.getByRole('button', { name: 'Copy link' }).focus();
    await page.keyboard.press('Enter');
    await page.getByRole('status').getByText('Link copied').waitFor();
    await page.evaluate(() => delete (navigator as { clipboard?: unknown }).clipboard);
    expect(await page.evaluate(() => navigator.clipboard.readText())).toBe(link('long', offsets[485]!));
  });

  it('shows the message among its neighbours, also in a new tab', async () => {
    await page.goto('about:blank');
    await page.goto(link('long', offsets[200]!));
    await flashed('Message 200').waitFor();
    expect(await isInView('Message 200')).toBe(true);
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
    await flashed('Message 30').waitFor();
    await page.getByRole('link', { name: 'other' }).click();
    await page.getByRole('heading', { name: 'other', level: 1 }).waitFor();
    await send(page, `Look: ${link('long', offsets[40]!)}`);
    await page.locator('.row a', { hasText: `/${offsets[40]}` }).click();
    await flashed('Message 40').waitFor();
    // Within the part that is loaded.
    await page.evaluate((to) => (location.hash = to), `#/long/${offsets[60]}`);
    await flashed('Message 60').waitFor();
    expect(page.context().pages()).toHaveLength(1);
    await page.goBack();
    await flashed('Message 40').waitFor();
    await send(page, `Here: ${link('long', offsets[20]!)}`);
    await page.evaluate((to) => history.replaceState(null, '', to), `#/long/${offsets[20]}`);
    await page.locator('.row a', { hasText: `/${offsets[20]}` }).click();
    await flashed('Message 20').waitFor();
    expect(await isInView('Message 20')).toBe(true);
  });

  it('says so if the message was deleted, or does not exist', async () => {
    await page.locator('.to-newest').click();
    await send(page, 'A secret');
    await messageText(page, 'A secret').hover();
    await page.getByRole('button', { name: 'Copy link' }).click();
    const secret = await page.evaluate(() => navigator.clipboard.readText());
    await page.getByRole('button', { name: 'Delete' }).click();
    await page.locator('.actions').getByRole('button', { name: 'Delete' }).click();
    await messageText(page, 'This message was deleted.').waitFor();
    await page.goto('about:blank');
    await page.goto(secret);
    await notice('was deleted').waitFor();
    await flashed('This message was deleted.').waitFor();
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

  it('is followed after the page could not load it', async () => {
    await page.goto('about:blank');
    await page.route(/getchats/, (route) => route.abort());
    await page.goto(link('long', offsets[100]!));
    await page.getByText('Can’t reach the server').waitFor();
    await page.unroute(/getchats/);
    await page.getByRole('button', { name: 'Try again' }).click();
    await flashed('Message 100').waitFor();
  });

  it('is followed after signing in, and after joining the room', async () => {
    await world.account('eve');
    const eve = await world.newVisitor();
    await eve.goto(link('long', offsets[300]!));
    await world.signInAgain(eve, 'eve');
    await eve.getByRole('heading', { name: 'You’re not a member of long' }).waitFor();
    await eve.getByRole('button', { name: 'Join room' }).click();
    await eve.locator('.row.flashed', { hasText: 'Message 300' }).waitFor();
  });

  it('reveals nothing of a private room', async () => {
    const dan = await world.token('dan');
    await post(world.server, '/user/createroom', { name: 'secret', private: true }, dan);
    const offset = await world.say(dan, 'secret', 'Not for everyone');
    await page.goto(link('secret', offset));
    await page.getByRole('heading', { name: 'You’re not a member of secret' }).waitFor();
    await page.getByText('There is no such room, or only its members can see it.').waitFor();
    await post(world.server, '/rooms/secret/members', { username: 'cleo' }, dan);
    await flashed('Not for everyone').waitFor();
  });

  it('does not show a message being sent as if it followed those around', async () => {
    await page.goto(link('long', offsets[200]!));
    await flashed('Message 200').waitFor();
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

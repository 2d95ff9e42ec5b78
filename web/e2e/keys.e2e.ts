import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { allStored, composer, createWorld, messageText, send } from './browser';

const world = createWorld();
const ROOMS = 60;

describe('the keyboard', () => {
  let page: Page;
  const focused = () =>
    page.evaluate(() => {
      const { activeElement } = document;
      return activeElement?.id || (activeElement?.getAttribute('aria-label') ?? activeElement?.textContent ?? '');
    });

  beforeAll(async () => {
    const token = await world.account('ann');
    const bob = await world.account('bob');
    for (let i = 0; i < ROOMS; i++) await world.room(token, `room-${i}`, `Room ${i}`);
    for (const name of ['garden', 'garage']) await world.room(bob, name);
    await world.join(bob, 'room-7');
    for (let i = 0; i < 20; i++) await world.say(bob, 'room-7', `See https://example.org/${i}`);
    page = await world.signedIn('ann', 'room-7');
    await messageText(page, 'example.org/19').waitFor();
  }, 60_000);

  it('reaches the composer with few presses of Tab, however many rooms and links there are', async () => {
    await page.evaluate(() => (document.activeElement as HTMLElement).blur());
    const stops: string[] = [];
    while ((await focused()) !== 'composer' && stops.length < 100) {
      await page.keyboard.press('Tab');
      stops.push(await focused());
    }
    expect(stops.length, stops.join(', ')).toBeLessThan(16);
    // The arrow keys lead to the other rooms.
    await page.getByRole('link', { name: 'Room 7', exact: true }).focus();
    await page.keyboard.press('ArrowDown');
    // The list begins with the room that has the latest message; the others have none.
    expect(await focused()).toBe('Room 59');
    await page.keyboard.press('End');
    expect(await focused()).toBe('Room 0');
    await page.keyboard.press('Home');
    expect(await focused()).toBe('Room 7');
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'Room 59' }).waitFor();
    await page.getByRole('link', { name: 'Room 7', exact: true }).click();
    await messageText(page, 'example.org/19').waitFor();
  });

  it('stops once in the list of members, and once in the list of messages that were not sent', async () => {
    const token = await world.token('ann');
    await world.room(token, 'crowd');
    for (let i = 0; i < 30; i++) await world.join(await world.account(`member ${i}`), 'crowd');
    await page.goto(`${world.server.page}/#/crowd`);
    await page.getByRole('button', { name: /online$/ }).click();
    await page.getByRole('button', { name: 'member 29' }).waitFor();
    const tabsTo = async (what: RegExp) => {
      for (let presses = 1; presses < 100; presses++) {
        await page.keyboard.press('Tab');
        if (what.test(await focused())) return presses;
      }
      throw new Error(`Tab does not lead to ${what}`);
    };
    await page.getByRole('button', { name: 'Close' }).focus();
    // One for all members, then the field to add one.
    const field = page.getByLabel('Add by username').and(page.locator(':focus'));
    let tabs = 0;
    for (; (await field.count()) === 0 && tabs < 10; tabs++) await page.keyboard.press('Tab');
    expect(tabs).toBeLessThan(4);
    await page.getByRole('button', { name: 'member 0' }).focus();
    await page.keyboard.press('End');
    await page.keyboard.press('ArrowUp');
    expect(await focused()).toMatch(/^member \d+$/);
    // The focus stays in the list when the pressed button goes.
    const pressed = await focused();
    await page.keyboard.press('Enter');
    await page.getByRole('button', { name: 'Remove from room' }).press('Enter');
    await page.getByRole('button', { name: 'Remove', exact: true }).press('Enter');
    await page.getByRole('button', { name: pressed }).waitFor({ state: 'detached' });
    await expect.poll(focused).toMatch(/^member \d+$/);
    await page.keyboard.press('Escape');
    await page.evaluate(() => {
      const owner = localStorage.getItem('uproar.owner');
      for (let i = 0; i < 20; i++) {
        const item = { id: `x${i}`, room: 'crowd', text: `Unsent ${i}`, time: i + 1, status: 'failed', error: 'No.' };
        localStorage.setItem(`uproar.outbox.${owner}.x${i}`, JSON.stringify(item));
      }
    });
    await page.reload();
    await messageText(page, 'Unsent 19').waitFor();
    await page.getByRole('button', { name: 'Room details' }).focus();
    expect(await tabsTo(/^composer$/)).toBeLessThan(5);
    await page.evaluate(() => {
      for (const key of Object.keys(localStorage)) if (key.startsWith('uproar.outbox.')) localStorage.removeItem(key);
    });
    await page.goto(`${world.server.page}/#/room-7`);
    await page.reload();
    await messageText(page, 'example.org/19').waitFor();
  });

  it('writes into the composer wherever the focus is', async () => {
    const places = ['.row >> nth=-1', '.scroller', '.rooms li a >> nth=1', '.room-head .members'];
    for (const place of places) {
      await composer(page).fill('');
      await page.locator(place).focus();
      await page.keyboard.type('hello');
      expect(await composer(page).inputValue(), place).toBe('hello');
    }
    await composer(page).fill('');
    await page.evaluate(() => (document.activeElement as HTMLElement).blur());
    await page.keyboard.type('é');
    await page.evaluate(() => (document.activeElement as HTMLElement).blur());
    await page.evaluate(() => {
      const clipboardData = new DataTransfer();
      clipboardData.setData('text/plain', ' pasted');
      document.body.dispatchEvent(new ClipboardEvent('paste', { clipboardData, bubbles: true, cancelable: true }));
    });
    expect(await composer(page).inputValue()).toBe('é pasted');
    // A key that does something else is left alone.
    await page.locator('.row').last().focus();
    await page.keyboard.press(' ');
    await page.keyboard.press('Control+a');
    expect(await composer(page).inputValue()).toBe('é pasted');
    await page.getByLabel('Filter your rooms').pressSequentially('Room 3');
    expect(await page.getByLabel('Filter your rooms').inputValue()).toBe('Room 3');
    await page.getByLabel('Filter your rooms').fill('');
    await composer(page).fill('');
  });

  it('does nothing with single keys if the user does not want that', async () => {
    await page.getByRole('button', { name: 'Settings' }).click();
    await page.getByLabel('Single keys').uncheck();
    // The list of shortcuts says so, and has the others only.
    await page.getByRole('button', { name: 'Show the keyboard shortcuts' }).click();
    await page.getByText('You’ve switched off single keys.').waitFor();
    expect(await page.locator('dt', { hasText: 'Any letter' }).count()).toBe(0);
    await page.locator('dt', { hasText: 'Ctrl+K' }).waitFor();
    await page.getByRole('button', { name: 'Close' }).click();
    await page.reload();
    await messageText(page, 'example.org/19').waitFor();
    await page.locator('.row').last().focus();
    await page.keyboard.type('hi?');
    expect(await composer(page).inputValue()).toBe('');
    expect(await page.locator('dialog').count()).toBe(0);
    await page.keyboard.press('Control+k');
    await page.getByRole('combobox', { name: 'Room' }).waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('button', { name: 'Settings' }).click();
    await page.getByLabel('Single keys').check();
    await page.getByRole('button', { name: 'Close' }).click();
    await page.locator('.row').last().focus();
    await page.keyboard.type('hi');
    expect(await composer(page).inputValue()).toBe('hi');
    await composer(page).fill('');
  });

  it('opens what was searched for with Enter', async () => {
    const search = async (text: string) => {
      await page.getByRole('button', { name: 'Find or create a room' }).click();
      await page.locator('input[name=query]:focus').waitFor();
      await page.keyboard.type(text);
      await page.keyboard.press('Enter');
    };
    await search('Garden');
    await page.getByRole('heading', { name: 'garden' }).waitFor();
    await search('room 12');
    await page.getByRole('heading', { name: 'Room 12' }).waitFor();
    // Several match: the first one can be chosen.
    await search('gar');
    await page.locator('.found button:focus').waitFor();
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'garden' }).waitFor();
    // None matches: it can be created.
    await search('attic');
    await page.getByRole('button', { name: 'Create “attic”' }).and(page.locator(':focus')).waitFor();
    await page.keyboard.press('Enter');
    await page.getByLabel('Add by username').and(page.locator(':focus')).waitFor();
    await page.keyboard.press('Escape');
    await page.getByRole('heading', { name: 'attic' }).waitFor();
    // A name is missing: the page says so.
    await page.getByRole('button', { name: 'Find or create a room' }).click();
    await page.locator('input[name=query]:focus').waitFor();
    await page.getByLabel('Display name').fill('Without a name');
    await page.keyboard.press('Enter');
    await page.getByText('Type a name first.').waitFor();
    await page.keyboard.press('Escape');
    await page.getByLabel('Filter your rooms').fill('room 31');
    await page.keyboard.press('Enter');
    await page.getByRole('heading', { name: 'Room 31' }).waitFor();
    await page.getByLabel('Filter your rooms').fill('');
  });

  it('throws no errors', () => {
    expect(world.pageErrors).toEqual([]);
  });
});

describe('a finger', () => {
  let phone: Page;

  beforeAll(async () => {
    const token = await world.account('mira');
    await world.room(token, 'phone', 'On the phone');
    const offset = await world.say(token, 'phone', 'The first');
    await world.reply('mira', 'phone', 'A reply', offset);
    for (let i = 0; i < 30; i++) await world.say(token, 'phone', `Message ${i}`);
    const context = await world.context({ hasTouch: true, isMobile: true, viewport: { width: 320, height: 640 } });
    phone = await world.newTab(context);
    await world.signIn(phone, 'mira', 'phone');
    await messageText(phone, 'Message 29').waitFor();
  });

  it('does not move the messages when it selects one', async () => {
    for (const text of ['Message 29', 'Message 24', 'Message 20']) {
      const before = await messageText(phone, text).boundingBox();
      await messageText(phone, text).tap();
      await phone.locator('.actions').waitFor();
      expect(await messageText(phone, text).boundingBox()).toEqual(before);
      // The message itself stays in sight.
      const actions = (await phone.locator('.actions').boundingBox())!;
      expect(actions.y + actions.height).toBeLessThanOrEqual(before!.y + 1);
    }
  });

  it('finds everything large enough', async () => {
    const small = () =>
      phone.locator('button, a:not(.row .text a, .skip), .check').evaluateAll((all) =>
        all.flatMap((element) => {
          const { width, height } = element.getBoundingClientRect();
          const isShown = width > 1 && height > 1 && (element as HTMLElement).offsetParent !== null;
          return isShown && (height < 44 || width < 24) ? [`${element.textContent} ${width}×${height}`] : [];
        }),
      );
    await messageText(phone, 'Message 29').tap();
    await phone.getByRole('button', { name: 'React' }).tap();
    expect(await small()).toEqual([]);
    await phone.getByRole('button', { name: '🎉' }).tap();
    await phone.getByRole('button', { name: '🎉, 1' }).waitFor();
    for (const name of [/online$/, 'Room details']) {
      await phone.locator('.room-head').getByRole('button', { name }).tap();
      expect(await small()).toEqual([]);
      await phone.getByRole('button', { name: 'Close' }).tap();
    }
    await phone.getByRole('link', { name: 'All rooms' }).tap();
    for (const dialog of ['Settings', 'Find or create a room']) {
      await phone.getByRole('button', { name: dialog }).tap();
      await phone.getByRole('button', { name: 'Close' }).waitFor();
      expect(await small()).toEqual([]);
      await phone.getByRole('button', { name: 'Close' }).tap();
    }
    await phone.getByRole('link', { name: 'On the phone' }).tap();
  });
});

describe('the actions of a message', () => {
  it('move nothing when they appear at the last one', async () => {
    const token = await world.account('nora');
    await world.room(token, 'brief');
    for (let i = 0; i < 30; i++) await world.say(token, 'brief', `Message ${i}`);
    const page = await world.signedIn('nora', 'brief');
    await messageText(page, 'Message 29').waitFor();
    await page.locator('.actions').waitFor({ state: 'detached' });
    const place = async () => ({
      height: await page.locator('.scroller').evaluate(({ scrollHeight }) => scrollHeight),
      row: await page.locator('.row').last().boundingBox(),
    });
    const before = await place();
    await page.locator('.row').last().hover();
    await page.locator('.actions').waitFor();
    expect(await place()).toEqual(before);
  });

  it('stay in view while a part of the message is', async () => {
    const page = await world.signedIn('mira', 'phone');
    await send(page, Array.from({ length: 120 }, (_, i) => `Line ${i}`).join('\n'));
    await allStored(page);
    await page.getByRole('button', { name: 'Show more' }).click();
    const inView = async () => {
      const actions = (await page.locator('.actions').boundingBox())!;
      const list = (await page.locator('.scroller').boundingBox())!;
      return actions.y >= list.y && actions.y + actions.height <= list.y + list.height;
    };
    await messageText(page, 'Line 119').hover();
    expect(await inView()).toBe(true);
    await page.mouse.wheel(0, -600);
    await page.waitForTimeout(200);
    await page.mouse.move(700, 300);
    await page.locator('.actions').waitFor();
    expect(await inView()).toBe(true);
    await page.getByRole('button', { name: 'Reply' }).click();
    await page.locator('.replying').waitFor();
    // Its editor is in view as well.
    await page.mouse.move(700, 300);
    await page.getByRole('button', { name: 'Edit' }).click();
    await page.getByRole('button', { name: 'Save' }).waitFor();
    const list = (await page.locator('.scroller').boundingBox())!;
    await expect.poll(async () => {
      const save = (await page.getByRole('button', { name: 'Save' }).boundingBox())!;
      return save.y >= list.y && save.y + save.height <= list.y + list.height;
    }).toBe(true);
    const editor = (await page.locator('.editor textarea').boundingBox())!;
    expect(editor.y).toBeGreaterThanOrEqual(list.y - 1);
  });
});

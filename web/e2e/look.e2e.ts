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
import { ARABIC, WIDE, createDemoRoom } from './demo-room';

const world = createWorld();
const limited = createWorld({ limits: { subscription_limit: 8, join_leave_limit: 3 } });

const ROOMS = 200;

describe('the appearance', () => {
  let mira: Page;

  beforeAll(async () => {
    await createDemoRoom(world, [WIDE]);
    mira = await world.signedIn('Mira', 'kitchen');
    await messageText(mira, 'See you on Saturday').waitFor();
  }, 60_000);

  it('fits every width in both themes, without accessibility violations', async () => {
    await messageText(mira, 'I’ll be there at nine').hover();
    await mira.getByRole('button', { name: 'React' }).click();
    await mira.getByRole('button', { name: '🎉' }).click();
    await mira.getByRole('button', { name: '🎉, 1' }).waitFor();
    await mira.mouse.move(0, 0);
    await composer(mira).focus();
    await mira.locator('.actions').waitFor({ state: 'detached' });
    for (const [width, height] of [[320, 640], [768, 1024], [1440, 900]] as const) {
      await mira.setViewportSize({ width, height });
      for (const colorScheme of ['light', 'dark'] as const) {
        await mira.emulateMedia({ colorScheme });
        await mira.waitForTimeout(100);
        expect(await overflow(mira), `${width}`).toBe(0);
        // No message is wider than the room.
        const wide = await mira.locator('.row').evaluateAll((rows) =>
          rows.filter((row) => row.scrollWidth > row.clientWidth + 1).map((row) => row.textContent),
        );
        expect(wide, `${width}`).toEqual([]);
        await screenshot(mira, `room-${width}-${colorScheme}`);
        expect(await accessibilityFlaws(mira), `${width} ${colorScheme}`).toEqual([]);
      }
    }
    await mira.emulateMedia({ colorScheme: 'light' });
    await mira.setViewportSize({ width: 320, height: 640 });
    await mira.getByRole('link', { name: 'All rooms' }).click();
    for (const dialog of ['Settings', 'Find or create a room']) {
      await mira.getByRole('button', { name: dialog }).click();
      const width = await mira.locator('dialog').evaluate((element) => element.scrollWidth - element.clientWidth);
      expect(width, dialog).toBe(0);
      await screenshot(mira, `320-${dialog.slice(0, 4)}`);
      expect(await accessibilityFlaws(mira), dialog).toEqual([]);
      await mira.keyboard.press('Escape');
    }
    await mira.getByRole('link', { name: 'The kitchen' }).click();
    await mira.setViewportSize({ width: 1280, height: 800 });
  }, 60_000);

  it('supports right-to-left texts, and a page from right to left', async () => {
    await mira.setViewportSize({ width: 1280, height: 800 });
    const direction = (text: string) =>
      messageText(mira, text).evaluate((element) => getComputedStyle(element).direction);
    expect(await direction('שבת')).toBe('rtl');
    expect(await direction(ARABIC)).toBe('rtl');
    expect(await direction('Sorted, then')).toBe('ltr');
    await composer(mira).fill(ARABIC);
    expect(await composer(mira).evaluate((element) => getComputedStyle(element).direction)).toBe('rtl');
    await composer(mira).fill('');
    // As in a browser that translates the page.
    await mira.evaluate(() => (document.documentElement.dir = 'rtl'));
    const left = (selector: string) =>
      mira.locator(selector).first().evaluate((element) => element.getBoundingClientRect().left);
    expect(await left('.rooms')).toBeGreaterThan(await left('.messages'));
    for (const width of [320, 1280]) {
      await mira.setViewportSize({ width, height: 800 });
      expect(await overflow(mira)).toBe(0);
    }
    await screenshot(mira, 'rtl');
    await mira.evaluate(() => document.documentElement.removeAttribute('dir'));
  });

  it('respects the preference for reduced motion', async () => {
    await mira.emulateMedia({ reducedMotion: 'reduce' });
    const moving = await mira.evaluate(() =>
      [...document.querySelectorAll('*')].filter((element) => {
        const style = getComputedStyle(element);
        return style.animationName !== 'none' || parseFloat(style.transitionDuration) > 0;
      }).length,
    );
    expect(moving).toBe(0);
    await mira.locator('.quote').first().click();
    await mira.locator('.row.flashed').waitFor();
    const flashed = mira.locator('.row.flashed');
    expect(await flashed.evaluate((element) => getComputedStyle(element).transitionDuration)).toBe('0s');
    await mira.emulateMedia({ reducedMotion: 'no-preference' });
  });

  it('can be changed, and keeps the changes over a reload', async () => {
    await mira.getByRole('button', { name: 'Settings' }).click();
    await mira.getByLabel('Text size').fill('19');
    await mira.getByLabel('Dark').check();
    await mira.getByLabel('Accent colour').fill('#66cc99');
    await mira.getByLabel('Light').check();
    await mira.getByLabel('Background').fill('#fffbe6');
    await mira.getByLabel('Dark').check();
    await mira.keyboard.press('Escape');
    await mira.reload();
    await messageText(mira, 'See you on Saturday').waitFor();
    // The button to send has the accent only when it can be pressed.
    await composer(mira).fill('x');
    const looks = () =>
      mira.evaluate(() => {
        const { fontSize, backgroundColor } = getComputedStyle(document.body);
        const accent = getComputedStyle(document.querySelector('.composer .primary')!).backgroundColor;
        return { fontSize, accent, isDark: backgroundColor === 'rgb(23, 22, 20)' };
      });
    expect(await looks()).toEqual({ fontSize: '19px', accent: 'rgb(102, 204, 153)', isDark: true });
    await mira.getByRole('button', { name: 'Settings' }).click();
    await mira.getByRole('button', { name: 'Reset' }).click();
    await mira.getByLabel('System').check();
    await mira.keyboard.press('Escape');
    expect(await looks()).toMatchObject({ fontSize: '15px', isDark: false });
    await composer(mira).fill('');
  });

  it('scales with the text size, and cuts nothing', async () => {
    await mira.setViewportSize({ width: 320, height: 640 });
    await mira.getByRole('link', { name: 'All rooms' }).click();
    await mira.getByRole('button', { name: 'Settings' }).click();
    await mira.getByLabel('Text size').fill('22');
    await mira.keyboard.press('Escape');
    await mira.getByRole('link', { name: 'The kitchen' }).click();
    await messageText(mira, 'See you on Saturday').waitFor();
    const small = await mira.locator('h1, .name').evaluateAll((all) =>
      all.map((element) => parseFloat(getComputedStyle(element).fontSize)).filter((size) => size < 22),
    );
    expect(small).toEqual([]);
    // The composer shows its whole text, also when only the text size changes.
    const hidden = () => composer(mira).evaluate((element) => element.scrollHeight - element.clientHeight);
    await composer(mira).fill('Several\nlines, one of which is wrapped');
    for (const size of ['22', '12', '22']) {
      await mira.evaluate((size) => document.documentElement.style.setProperty('--size', `${size}px`), size);
      expect(await hidden(), size).toBeLessThanOrEqual(0);
    }
    expect(await overflow(mira)).toBe(0);
    await screenshot(mira, 'large-text');
    await composer(mira).fill('');
    await mira.getByRole('link', { name: 'All rooms' }).click();
    await mira.getByRole('button', { name: 'Settings' }).click();
    await mira.getByRole('button', { name: 'Reset' }).click();
    await mira.keyboard.press('Escape');
    await mira.setViewportSize({ width: 1280, height: 800 });
    await mira.getByRole('link', { name: 'The kitchen' }).click();
  });

  it('can be read in every colour that the user chooses', async () => {
    await mira.getByRole('link', { name: 'The kitchen' }).click();
    await messageText(mira, 'See you on Saturday').waitFor();
    await mira.getByRole('button', { name: /online$/ }).click();
    await mira.locator('.panel li.here').first().waitFor();
    const choices = [
      { '--accent': '#ffff66' },
      { '--accent': '#102a6b', '--paper': '#000000', '--ink': '#222222' },
      { '--paper': '#777777', '--ink': '#808080', '--accent': '#7f7f7f' },
    ];
    for (const light of choices) {
      await mira.evaluate((light) => {
        localStorage.setItem('uproar.theme', JSON.stringify({ mode: 'light', light }));
      }, light);
      await mira.reload();
      await messageText(mira, 'See you on Saturday').waitFor();
      await composer(mira).fill('x');
      const flaws = await accessibilityFlaws(mira);
      // Grey on grey cannot reach the contrast of 4.5 that axe asks for everywhere.
      if (light !== choices[2]) expect(flaws, JSON.stringify(light)).toEqual([]);
      const [ink, paper] = await mira.evaluate(() => {
        const { color, backgroundColor } = getComputedStyle(document.body);
        return [color, backgroundColor];
      });
      expect(ink).not.toBe(paper);
    }
    await composer(mira).fill('');
    await mira.evaluate(() => localStorage.removeItem('uproar.theme'));
    await mira.reload();
    await messageText(mira, 'See you on Saturday').waitFor();
    // Red means something else.
    await mira.getByRole('button', { name: /online$/ }).click();
    const dot = mira.locator('.panel li.here .avatar').first();
    const colour = await dot.evaluate((element) => getComputedStyle(element, '::after').backgroundColor);
    const [red, green] = colour.match(/\d+/g)!.map(Number);
    expect(green).toBeGreaterThan(red!);
    await mira.keyboard.press('Escape');
  });

  it('works with the keyboard alone', async () => {
    const focus = () =>
      mira.evaluate(() => {
        const { activeElement } = document;
        return activeElement?.getAttribute('aria-label') ?? activeElement?.textContent ?? '';
      });
    const tabTo = async (what: RegExp, key = 'Tab') => {
      for (let i = 0; i < 60; i++) {
        if (what.test(await focus())) return;
        await mira.keyboard.press(key);
      }
      throw new Error(`60 presses of ${key} do not lead to ${what}`);
    };
    await mira.reload();
    await messageText(mira, 'See you on Saturday').waitFor();
    await composer(mira).blur();
    await mira.evaluate(() => document.body.focus());
    await tabTo(/^Skip to message box/);
    await mira.keyboard.press('Enter');
    expect(await focus()).toBe('Message The kitchen');
    await mira.keyboard.type('By keyboard');
    await mira.keyboard.press('Enter');
    await messageText(mira, 'By keyboard').waitFor();
    await allStored(mira);
    // Edit the last message.
    await mira.keyboard.press('ArrowUp');
    await mira.getByLabel('Edit message').waitFor();
    await mira.keyboard.type(' alone');
    await mira.keyboard.press('Enter');
    await messageText(mira, 'By keyboard alone').waitFor();
    // To the messages, two up, and to the actions of that message.
    await tabTo(/^Mira, \d/, 'Shift+Tab');
    await mira.keyboard.press('ArrowUp');
    await mira.keyboard.press('ArrowUp');
    expect(await focus()).toMatch(/^Ada, \d/);
    await tabTo(/^React$/);
    await mira.keyboard.press('Enter');
    await tabTo(/^👀$/);
    await mira.keyboard.press('Enter');
    await mira.getByRole('button', { name: '👀, 1' }).waitFor();
    // Create another room.
    await tabTo(/^Find or create a room/, 'Shift+Tab');
    await mira.keyboard.press('Enter');
    await mira.locator('input[name=query]:focus').waitFor();
    await mira.keyboard.type('pantry');
    await tabTo(/^Create “pantry”/);
    await mira.keyboard.press('Enter');
    await mira.getByLabel('Add by username').and(mira.locator(':focus')).waitFor();
    await tabTo(/^Skip/);
    await mira.keyboard.press('Enter');
    await mira.getByRole('heading', { name: 'pantry' }).waitFor();
    // Tab leads to one room of the list; the arrow keys lead to the others.
    await tabTo(/^pantry/, 'Shift+Tab');
    await mira.keyboard.press('End');
    expect(await focus()).toMatch(/^The kitchen/);
    await mira.keyboard.press('Enter');
    await messageText(mira, 'By keyboard alone').waitFor();
  });

  it('never loses the focus', async () => {
    const focused = () => mira.evaluate(() => document.activeElement!.tagName + document.activeElement!.className);
    await send(mira, 'A slip');
    await messageText(mira, 'A slip').waitFor();
    await allStored(mira);
    const row = mira.locator('.row').last();
    await row.focus();
    await row.getByRole('button', { name: 'Delete' }).press('Enter');
    expect(await focused()).toMatch(/^DIVrow/);
    await row.getByRole('button', { name: 'Delete' }).press('Enter');
    await messageText(mira, 'This message was deleted.').waitFor();
    expect(await focused()).toMatch(/^DIVrow/);

    await world.room(await world.token('Ada'), 'attic');
    await world.join(await world.token('Mira'), 'attic');
    await mira.getByRole('link', { name: 'attic' }).click();
    await mira.getByRole('heading', { name: 'attic' }).waitFor();
    for (const name of [/online$/, 'Room details']) {
      await mira.getByRole('button', { name }).press('Enter');
      await mira.locator('.panel button:focus').waitFor();
      await mira.keyboard.press('Escape');
      await mira.locator('.room-head').getByRole('button', { name }).and(mira.locator(':focus')).waitFor();
    }
    await mira.keyboard.press('Enter');
    await mira.locator('.panel button:focus').waitFor();
    await mira.getByRole('button', { name: 'Leave room' }).press('Enter');
    await mira.getByRole('button', { name: 'Leave', exact: true }).press('Enter');
    await mira.getByText('Choose a room').waitFor();
    expect(await focused()).toBe('MAINroom nothing');
  });

  it('closes a dialog by a click outside, but not by selecting text', async () => {
    await mira.getByRole('button', { name: 'Find or create a room' }).click();
    const field = (await mira.getByLabel('Display name').boundingBox())!;
    await mira.mouse.move(field.x + 60, field.y + 10);
    await mira.mouse.down();
    await mira.mouse.move(5, field.y + 10, { steps: 5 });
    await mira.mouse.up();
    expect(await mira.locator('dialog').count()).toBe(1);
    await mira.mouse.click(5, field.y + 10);
    await mira.locator('dialog').waitFor({ state: 'detached' });
  });

  it('keeps a reply while another room is open, and over a reload', async () => {
    await mira.getByRole('link', { name: 'The kitchen' }).click();
    await messageText(mira, 'See you on Saturday').hover();
    await mira.getByRole('button', { name: 'Reply' }).click();
    await composer(mira).fill('At nine');
    await mira.getByRole('link', { name: 'pantry' }).click();
    await mira.getByText('No messages in pantry').waitFor();
    await mira.getByRole('link', { name: 'The kitchen' }).click();
    await mira.locator('.replying', { hasText: 'See you on Saturday' }).waitFor();
    await mira.reload();
    await mira.locator('.replying', { hasText: 'See you on Saturday' }).waitFor();
    await composer(mira).press('Enter');
    await mira.locator('.row', { hasText: 'At nine' }).locator('.quote', { hasText: 'See you on Saturday' }).waitFor();
    expect(await mira.locator('.replying').count()).toBe(0);
  });

  it('selects a message by touch without pressing its buttons', async () => {
    const context = await world.context({ hasTouch: true, isMobile: true, viewport: { width: 380, height: 700 } });
    const phone = await world.newTab(context);
    await world.signIn(phone, 'Mira', 'kitchen');
    await messageText(phone, 'At nine').last().waitFor();
    const pressed = await phone.evaluateHandle(() => {
      const pressed: string[] = [];
      const note = ({ target }: Event) =>
        pressed.push((target as Element).closest('button')?.textContent ?? 'no button');
      addEventListener('click', note, true);
      return pressed;
    });
    const cdp = await context.newCDPSession(phone);
    for (let i = 2; i <= 6; i++) {
      const box = (await phone.locator('.row .text:not(.gone)').nth(-i).boundingBox())!;
      const at = { x: box.x + 40, y: box.y + box.height / 2 };
      await cdp.send('Input.dispatchTouchEvent', { type: 'touchStart', touchPoints: [at] });
      await phone.waitForTimeout(80);
      await cdp.send('Input.dispatchTouchEvent', { type: 'touchEnd', touchPoints: [] });
      await phone.waitForTimeout(400);
      expect(await phone.locator('.actions').count()).toBe(1);
    }
    const all = await pressed.jsonValue();
    expect(all.length).toBe(5);
    expect(new Set(all)).toEqual(new Set(['no button']));
    await phone.getByRole('button', { name: 'Reply' }).tap();
    await phone.locator('.replying').waitFor();
    await context.close();
  });

  it('announces other people’s messages to screen readers, but not the user’s own', async () => {
    await mira.bringToFront();
    await world.say(await world.token('jonas'), 'kitchen', 'Butter!');
    await mira.locator('[aria-live=polite]', { hasText: 'jonas: Butter!' }).waitFor({ state: 'attached' });
    await send(mira, 'No.');
    await allStored(mira);
    expect(await mira.locator('[aria-live=polite]').allTextContents()).toContain('jonas: Butter!');
  });

  it('notifies the user of a mention while the page is not focused', async () => {
    const context = await world.context({ permissions: ['notifications'] });
    const page = await world.newTab(context);
    await page.addInitScript(() => {
      const shown: string[] = [];
      Object.assign(window, { shown });
      class Fake {
        static permission = 'granted';
        onclick: (() => void) | null = null;
        constructor(title: string, options: { body: string }) {
          shown.push(`${title}: ${options.body}`);
        }
        close(): void {}
      }
      Object.defineProperty(window, 'Notification', { value: Fake });
    });
    await world.signIn(page, 'Ada');
    await page.getByRole('link', { name: /The kitchen/ }).waitFor();
    await world.say(await world.token('jonas'), 'kitchen', 'Without a name');
    await world.say(await world.token('jonas'), 'kitchen', '@ada, the butter is gone');
    await page.waitForFunction(() => (window as unknown as { shown: string[] }).shown.length > 0);
    const notifications = await page.evaluate(() => (window as unknown as { shown: string[] }).shown);
    expect(notifications).toEqual(['jonas in The kitchen: @ada, the butter is gone']);
    await page.locator('.count.mentioned').waitFor();
    await page.close();
  });
});

describe('two hundred rooms', () => {
  let page: Page;
  let token: string;
  let bob: string;
  const name = (i: number) => `room-${String(i).padStart(3, '0')}`;

  beforeAll(async () => {
    token = await world.account('ann');
    bob = await world.account('bob');
    for (let i = 0; i < ROOMS; i += 20) {
      await Promise.all(Array.from({ length: 20 }, async (_, j) => {
        await world.room(bob, name(i + j), `Room ${i + j}`);
        await world.join(token, name(i + j));
      }));
    }
    page = await world.signedIn('ann');
    await page.getByRole('link', { name: 'Room 199' }).waitFor();
  }, 60_000);

  it('can be filtered, and show unread counts, subscribed or not', async () => {
    // Not all rooms are subscribed. The counts of the others are polled.
    for (let i = 0; i < ROOMS; i += 1) await world.say(bob, name(i), 'psst');
    await expect.poll(() => page.locator('.rooms .count').count(), { timeout: 30_000 }).toBe(ROOMS);
    expect(await page.title()).toBe(`(${ROOMS}) Uproar`);
    // Words on buttons stay whole, however narrow it is.
    const broken = () =>
      page.locator('button').evaluateAll((all) =>
        all.flatMap((button) => {
          const range = document.createRange();
          range.selectNodeContents(button);
          const lines = new Set([...range.getClientRects()].map(({ top }) => Math.round(top))).size;
          return lines > 1 && !button.textContent!.includes(' ') ? [button.textContent] : [];
        }),
      );
    for (const width of [320, 720, 1280]) {
      await page.setViewportSize({ width, height: 800 });
      expect(await broken(), `${width}`).toEqual([]);
    }
    await page.setViewportSize({ width: 320, height: 640 });
    await page.getByRole('button', { name: 'Find or create a room' }).click();
    await page.locator('.found li').first().waitFor();
    expect(await broken()).toEqual([]);
    await page.keyboard.press('Escape');
    await page.setViewportSize({ width: 1280, height: 800 });
    await page.getByLabel('Filter your rooms').fill('om 19');
    expect(await page.locator('.rooms li').count()).toBe(11);
    await page.getByRole('link', { name: 'Room 199' }).click();
    await messageText(page, 'psst').waitFor();
    await page.getByRole('link', { name: 'Room 199', exact: true }).waitFor();
    await send(page, 'Found');
    await allStored(page);
    await page.getByLabel('Filter your rooms').fill('');
    await page.getByRole('button', { name: 'Unread' }).click();
    // The open room stays in the list.
    expect(await page.locator('.rooms li').count()).toBe(ROOMS);
    await page.getByRole('link', { name: 'Room 198 1 unread' }).click();
    await page.getByRole('link', { name: 'Room 198', exact: true }).waitFor();
    await expect.poll(() => page.locator('.rooms li').count(), { timeout: 10_000 }).toBe(ROOMS - 1);
    await page.getByRole('button', { name: 'Unread' }).click();
    await page.getByRole('link', { name: 'Room 199' }).click();
    await messageText(page, 'Found').waitFor();
    expect(await overflow(page)).toBe(0);
    await screenshot(page, 'many-rooms');
    expect(await accessibilityFlaws(page)).toEqual([]);
  }, 60_000);

  it('receive live messages when opened, however many were opened before', async () => {
    for (let i = 0; i < ROOMS; i += 9) {
      await page.getByRole('link', { name: new RegExp(`^Room ${i}( |$)`) }).click();
      await messageText(page, 'psst').waitFor();
    }
    await world.say(bob, name(198), 'to the last');
    await messageText(page, 'to the last').waitFor();
  }, 60_000);
});

describe('a low limit of subscriptions', () => {
  it('still lists all rooms and receives messages in the open one', async () => {
    const [ann, bob] = [await limited.account('ann'), await limited.account('bob')];
    for (let i = 0; i < 15; i++) {
      await limited.room(bob, `r${i}`, `Room ${i}`);
      await limited.join(ann, `r${i}`);
    }
    const page = await limited.signedIn('ann', 'r14');
    await page.getByText('No messages in').waitFor();
    await limited.say(bob, 'r14', 'Hello');
    await messageText(page, 'Hello').waitFor();
    for (let i = 0; i < 14; i++) {
      await page.getByRole('link', { name: new RegExp(`^Room ${i}$`) }).click();
      await page.getByText(`No messages in Room ${i} yet`).waitFor();
      await limited.say(bob, `r${i}`, `Hello ${i}`);
      await messageText(page, `Hello ${i}`).waitFor();
    }
    expect(await page.locator('.rooms li').count()).toBe(15);
    expect(await page.locator('.error').count()).toBe(0);
  }, 60_000);
});

describe('a low limit of joins and leaves', () => {
  it('shows the number of connections, and the people again once they are few', async () => {
    const ann = await limited.account('host');
    await limited.room(ann, 'party');
    const page = await limited.signedIn('host', 'party');
    const head = page.locator('.room-head .members');
    const guests: Page[] = [];
    for (let i = 1; i <= 3; i++) {
      await limited.join(await limited.account(`guest${i}`), 'party');
      guests.push(await limited.signedIn(`guest${i}`, 'party'));
    }
    await expect.poll(() => head.textContent(), { timeout: 10_000 }).toBe('4 connections');
    for (const guest of guests) await guest.close();
    await limited.join(await limited.account('late'), 'party');
    const late = await limited.signedIn('late', 'party');
    await composer(late).waitFor();
    await expect.poll(() => head.textContent(), { timeout: 10_000 }).toBe('2 online');
    await head.click();
    expect(await page.locator('.panel li.here bdi').allTextContents()).toEqual(['host', 'late']);
  }, 60_000);
});

describe('the pages of these tests', () => {
  it('throw no errors and follow their Content-Security-Policy', () => {
    expect([...world.pageErrors, ...limited.pageErrors]).toEqual([]);
  });
});

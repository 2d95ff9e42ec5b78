import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { composer, flaws, overflow, said, send, settled, shot, world } from './browser';
import { ARABIC, WIDE, createDemoRoom } from './demo-room';

const the = world();
const few = world({ limits: { subscription_limit: 8, join_leave_limit: 3 } });

const ROOMS = 200;

describe('the looks', () => {
  let mira: Page;

  beforeAll(async () => {
    await createDemoRoom(the, [WIDE]);
    mira = await the.signedIn('Mira', 'kitchen');
    await said(mira, 'See you on Saturday').waitFor();
  }, 60_000);

  it('fit every width in both themes, and satisfy axe', async () => {
    await said(mira, 'I will be there at nine').hover();
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
        const wide = await mira.locator('.row').evaluateAll((rows) => rows.filter((row) => row.scrollWidth > row.clientWidth + 1).map((row) => row.textContent));
        expect(wide, `${width}`).toEqual([]);
        await shot(mira, `room-${width}-${colorScheme}`);
        expect(await flaws(mira), `${width} ${colorScheme}`).toEqual([]);
      }
    }
    await mira.emulateMedia({ colorScheme: 'light' });
    await mira.setViewportSize({ width: 320, height: 640 });
    await mira.getByRole('link', { name: 'All rooms' }).click();
    for (const dialog of ['Settings', 'Find or create a room']) {
      await mira.getByRole('button', { name: dialog }).click();
      expect(await mira.locator('dialog').evaluate((element) => element.scrollWidth - element.clientWidth), dialog).toBe(0);
      await shot(mira, `320-${dialog.slice(0, 4)}`);
      expect(await flaws(mira), dialog).toEqual([]);
      await mira.keyboard.press('Escape');
    }
    await mira.getByRole('link', { name: 'The kitchen' }).click();
    await mira.setViewportSize({ width: 1280, height: 800 });
  }, 60_000);

  it('right to left: a text runs from the right, and so does a whole page', async () => {
    await mira.setViewportSize({ width: 1280, height: 800 });
    const direction = (text: string) => said(mira, text).evaluate((element) => getComputedStyle(element).direction);
    expect(await direction('שבת')).toBe('rtl');
    expect(await direction(ARABIC)).toBe('rtl');
    expect(await direction('It is settled')).toBe('ltr');
    await composer(mira).fill(ARABIC);
    expect(await composer(mira).evaluate((element) => getComputedStyle(element).direction)).toBe('rtl');
    await composer(mira).fill('');
    // As a browser that translates the page does.
    await mira.evaluate(() => (document.documentElement.dir = 'rtl'));
    const left = (selector: string) => mira.locator(selector).first().evaluate((element) => element.getBoundingClientRect().left);
    expect(await left('.rooms')).toBeGreaterThan(await left('.messages'));
    for (const width of [320, 1280]) {
      await mira.setViewportSize({ width, height: 800 });
      expect(await overflow(mira)).toBe(0);
    }
    await shot(mira, 'rtl');
    await mira.evaluate(() => document.documentElement.removeAttribute('dir'));
  });

  it('nothing moves for whoever wants that', async () => {
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
    expect(await mira.locator('.row.flashed').evaluate((element) => getComputedStyle(element).transitionDuration)).toBe('0s');
    await mira.emulateMedia({ reducedMotion: 'no-preference' });
  });

  it('can be changed, and stay so', async () => {
    await mira.getByRole('button', { name: 'Settings' }).click();
    await mira.getByLabel('Text size').fill('19');
    await mira.getByLabel('Dark').check();
    await mira.getByLabel('Accent colour').fill('#66cc99');
    await mira.getByLabel('Light').check();
    await mira.getByLabel('Background').fill('#fffbe6');
    await mira.getByLabel('Dark').check();
    await mira.keyboard.press('Escape');
    await mira.reload();
    await said(mira, 'See you on Saturday').waitFor();
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
  });

  it('the keyboard alone is enough', async () => {
    const focus = () => mira.evaluate(() => document.activeElement?.getAttribute('aria-label') ?? document.activeElement?.textContent ?? '');
    const tabTo = async (what: RegExp, key = 'Tab') => {
      for (let i = 0; i < 60; i++) {
        if (what.test(await focus())) return;
        await mira.keyboard.press(key);
      }
      throw new Error(`${key} does not lead to ${what}`);
    };
    await mira.reload();
    await said(mira, 'See you on Saturday').waitFor();
    await composer(mira).blur();
    await mira.evaluate(() => document.body.focus());
    await tabTo(/^Skip to message box/);
    await mira.keyboard.press('Enter');
    expect(await focus()).toBe('Message The kitchen');
    await mira.keyboard.type('By keyboard');
    await mira.keyboard.press('Enter');
    await said(mira, 'By keyboard').waitFor();
    await settled(mira);
    // Edits the last one.
    await mira.keyboard.press('ArrowUp');
    await mira.getByLabel('Edit message').waitFor();
    await mira.keyboard.type(' alone');
    await mira.keyboard.press('Enter');
    await said(mira, 'By keyboard alone').waitFor();
    // To the messages, two up, and to what can be done with one.
    await tabTo(/^Mira, \d/, 'Shift+Tab');
    await mira.keyboard.press('ArrowUp');
    await mira.keyboard.press('ArrowUp');
    expect(await focus()).toMatch(/^Ada, \d/);
    await tabTo(/^React$/);
    await mira.keyboard.press('Enter');
    await tabTo(/^👀$/);
    await mira.keyboard.press('Enter');
    await mira.getByRole('button', { name: '👀, 1' }).waitFor();
    // Another room.
    await tabTo(/^Find or create a room/, 'Shift+Tab');
    await mira.keyboard.press('Enter');
    await mira.locator('input[name=query]:focus').waitFor();
    await mira.keyboard.type('pantry');
    await tabTo(/^Create “pantry”/);
    await mira.keyboard.press('Enter');
    await mira.getByRole('heading', { name: 'pantry' }).waitFor();
    await tabTo(/^The kitchen/, 'Shift+Tab');
    await mira.keyboard.press('Enter');
    await said(mira, 'By keyboard alone').waitFor();
  });

  it('the focus is never lost', async () => {
    const focused = () => mira.evaluate(() => document.activeElement!.tagName + document.activeElement!.className);
    await send(mira, 'A slip');
    await said(mira, 'A slip').waitFor();
    await settled(mira);
    const row = mira.locator('.row').last();
    await row.focus();
    await row.getByRole('button', { name: 'Delete' }).press('Enter');
    expect(await focused()).toMatch(/^DIVrow/);
    await row.getByRole('button', { name: 'Delete' }).press('Enter');
    await said(mira, 'This message was deleted.').waitFor();
    expect(await focused()).toMatch(/^DIVrow/);

    await the.room(await the.token('Ada'), 'attic');
    await the.join(await the.token('Mira'), 'attic');
    await mira.getByRole('link', { name: 'attic' }).click();
    await mira.getByRole('heading', { name: 'attic' }).waitFor();
    await mira.getByRole('button', { name: /online$/ }).press('Enter');
    await mira.locator('.people button:focus').waitFor();
    await mira.keyboard.press('Escape');
    await mira.locator('.room-head button:focus').waitFor();
    await mira.keyboard.press('Enter');
    await mira.getByRole('button', { name: 'Leave room' }).press('Enter');
    await mira.getByRole('button', { name: 'Leave', exact: true }).press('Enter');
    await mira.getByText('Choose a room').waitFor();
    expect(await focused()).toBe('MAINroom nothing');
  });

  it('a dialog stays while a text in it is selected, and closes by a press beside it', async () => {
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

  it('an answer stays one over a look at another room', async () => {
    await mira.getByRole('link', { name: 'The kitchen' }).click();
    await said(mira, 'See you on Saturday').hover();
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

  it('a finger that chooses a message presses nothing else', async () => {
    const context = await the.context({ hasTouch: true, isMobile: true, viewport: { width: 380, height: 700 } });
    const phone = await the.tab(context);
    await the.signIn(phone, 'Mira', 'kitchen');
    await said(phone, 'At nine').last().waitFor();
    const pressed = await phone.evaluateHandle(() => {
      const pressed: string[] = [];
      addEventListener('click', ({ target }) => pressed.push((target as Element).closest('button')?.textContent ?? 'no button'), true);
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

  it('a screen reader hears what is said, and is not told what one writes oneself', async () => {
    await mira.bringToFront();
    await the.say(await the.token('jonas'), 'kitchen', 'Butter!');
    await mira.locator('[aria-live=polite]', { hasText: 'jonas: Butter!' }).waitFor({ state: 'attached' });
    await send(mira, 'No.');
    await settled(mira);
    expect(await mira.locator('[aria-live=polite]').allTextContents()).toContain('jonas: Butter!');
  });

  it('a mention is notified when the page is not looked at', async () => {
    const context = await the.context({ permissions: ['notifications'] });
    const page = await the.tab(context);
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
    await the.signIn(page, 'Ada');
    await page.getByRole('link', { name: /The kitchen/ }).waitFor();
    await the.say(await the.token('jonas'), 'kitchen', 'Without a name');
    await the.say(await the.token('jonas'), 'kitchen', '@ada, the butter is gone');
    await page.waitForFunction(() => (window as unknown as { shown: string[] }).shown.length > 0);
    expect(await page.evaluate(() => (window as unknown as { shown: string[] }).shown)).toEqual(['jonas in The kitchen: @ada, the butter is gone']);
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
    token = await the.account('ann');
    bob = await the.account('bob');
    for (let i = 0; i < ROOMS; i += 20) {
      await Promise.all(Array.from({ length: 20 }, async (_, j) => {
        await the.room(bob, name(i + j), `Room ${i + j}`);
        await the.join(token, name(i + j));
      }));
    }
    page = await the.signedIn('ann');
    await page.getByRole('link', { name: 'Room 199' }).waitFor();
  }, 60_000);

  it('are found by a part of the name, and count what is unread, received or not', async () => {
    // Fewer are subscribed; the rest is asked for from time to time.
    for (let i = 0; i < ROOMS; i += 1) await the.say(bob, name(i), 'psst');
    await expect.poll(() => page.locator('.rooms .count').count(), { timeout: 30_000 }).toBe(ROOMS);
    expect(await page.title()).toBe(`(${ROOMS}) Uproar`);
    await page.getByLabel('Filter your rooms').fill('om 19');
    expect(await page.locator('.rooms li').count()).toBe(11);
    await page.getByRole('link', { name: 'Room 199' }).click();
    await said(page, 'psst').waitFor();
    await page.getByRole('link', { name: 'Room 199', exact: true }).waitFor();
    await send(page, 'Found');
    await settled(page);
    await page.getByLabel('Filter your rooms').fill('');
    await page.getByRole('button', { name: 'Unread' }).click();
    // The open one stays.
    expect(await page.locator('.rooms li').count()).toBe(ROOMS);
    await page.getByRole('link', { name: 'Room 198 1 unread' }).click();
    await page.getByRole('link', { name: 'Room 198', exact: true }).waitFor();
    await expect.poll(() => page.locator('.rooms li').count(), { timeout: 10_000 }).toBe(ROOMS - 1);
    await page.getByRole('button', { name: 'Unread' }).click();
    await page.getByRole('link', { name: 'Room 199' }).click();
    await said(page, 'Found').waitFor();
    expect(await overflow(page)).toBe(0);
    await shot(page, 'many-rooms');
    expect(await flaws(page)).toEqual([]);
  }, 60_000);

  it('live messages come to each that is opened, however many were opened before', async () => {
    for (let i = 0; i < ROOMS; i += 9) {
      await page.getByRole('link', { name: new RegExp(`^Room ${i}( |$)`) }).click();
      await said(page, 'psst').waitFor();
    }
    await the.say(bob, name(198), 'to the last');
    await said(page, 'to the last').waitFor();
  }, 60_000);
});

describe('an operator who allows few subscriptions', () => {
  it('still has all rooms listed, the open one received, and the rest counted', async () => {
    const [ann, bob] = [await few.account('ann'), await few.account('bob')];
    for (let i = 0; i < 15; i++) {
      await few.room(bob, `r${i}`, `Room ${i}`);
      await few.join(ann, `r${i}`);
    }
    const page = await few.signedIn('ann', 'r14');
    await page.getByText('No messages in').waitFor();
    await few.say(bob, 'r14', 'Hello');
    await said(page, 'Hello').waitFor();
    for (let i = 0; i < 14; i++) {
      await page.getByRole('link', { name: new RegExp(`^Room ${i}$`) }).click();
      await page.getByText(`No messages in Room ${i} yet`).waitFor();
      await few.say(bob, `r${i}`, `Hello ${i}`);
      await said(page, `Hello ${i}`).waitFor();
    }
    expect(await page.locator('.rooms li').count()).toBe(15);
    expect(await page.locator('.error').count()).toBe(0);
  }, 60_000);
});

describe('an operator who names few who come and go', () => {
  it('says how many are connected, and who is here when they are few again', async () => {
    const ann = await few.account('host');
    await few.room(ann, 'party');
    const page = await few.signedIn('host', 'party');
    const head = page.locator('.room-head button');
    const guests: Page[] = [];
    for (let i = 1; i <= 3; i++) {
      await few.join(await few.account(`guest${i}`), 'party');
      guests.push(await few.signedIn(`guest${i}`, 'party'));
    }
    await expect.poll(() => head.textContent(), { timeout: 10_000 }).toBe('4 connections');
    for (const guest of guests) await guest.close();
    await few.join(await few.account('late'), 'party');
    const late = await few.signedIn('late', 'party');
    await composer(late).waitFor();
    await expect.poll(() => head.textContent(), { timeout: 10_000 }).toBe('2 online');
    await head.click();
    expect(await page.locator('.people li.here').allTextContents()).toEqual(['host', 'late']);
  }, 60_000);
});

describe('all pages of these tests', () => {
  it('throw no errors, and keep to their Content-Security-Policy', () => {
    expect([...the.faults, ...few.faults]).toEqual([]);
  });
});

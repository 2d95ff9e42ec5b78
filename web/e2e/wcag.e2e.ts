/** What axe does not check of WCAG 2.2, as somebody finds it who has only a keyboard, or large or spaced text. */
import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { accessibilityFlaws, composer, createWorld, messageText, overflow, screenshot } from './browser';

const world = createWorld();

/** What is wrong with the element that has the focus. */
const focusFlaws = (page: Page) =>
  page.evaluate(() => {
    const element = document.activeElement as HTMLElement;
    const name = element.getAttribute('aria-label') ?? element.textContent!.trim().slice(0, 40);
    const what = `${element.tagName} ${element.className} “${name}”`;
    const flaws: string[] = [];
    const label = (element as HTMLInputElement).labels?.[0]?.textContent;
    if (!label && !name) flaws.push(`${what} has no name`);
    const { left, top, right, bottom } = element.getBoundingClientRect();
    const [width, height] = [innerWidth, innerHeight];
    const isIn = (node: Element | null) => node !== null && (element.contains(node) || node.contains(element));
    // 2.4.11: at least a part of it is seen.
    const points = [0.1, 0.5, 0.9].flatMap((x) => [0.1, 0.5, 0.9].map((y) => [x, y] as const));
    const seen = points.some(([x, y]) => {
      const [atX, atY] = [left + (right - left) * x, top + (bottom - top) * y];
      return atX >= 0 && atY >= 0 && atX < width && atY < height && isIn(document.elementFromPoint(atX, atY));
    });
    if (!seen) {
      const over = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
      flaws.push(`${what} at ${left}, ${top} is hidden by ${over?.outerHTML.slice(0, 100)}`);
    }
    // 2.4.7: and so is that it has the focus.
    let marked: Element | null = element;
    const isMarked = (one: Element) => {
      const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(one);
      const hasOutline = outlineStyle !== 'none' && outlineWidth !== '0px';
      return hasOutline || (boxShadow !== 'none' && one.matches(':focus-within'));
    };
    while (marked && !isMarked(marked) && marked !== element.closest('.input-row, .row, main')) {
      marked = marked.parentElement;
    }
    if (!marked || !isMarked(marked)) flaws.push(`${what} does not show the focus`);
    return { what, flaws };
  });

/** Presses Tab until the focus is where it was, and returns what it found. */
async function walk(page: Page, key = 'Tab'): Promise<{ stops: string[]; flaws: string[] }> {
  const stops: string[] = [];
  const flaws: string[] = [];
  for (let presses = 0; presses < 80; presses++) {
    await page.keyboard.press(key);
    if (await page.evaluate(() => document.activeElement === document.body)) {
      // It may have begun at the end.
      if (presses === 0) continue;
      break;
    }
    const found = await focusFlaws(page);
    if (stops[0] === found.what) break;
    stops.push(found.what);
    flaws.push(...found.flaws);
  }
  return { stops, flaws };
}

/** Past the first unread message. */
async function toNewest(page: Page): Promise<void> {
  await page.locator('.row').last().focus();
  await page.keyboard.press('End');
  await messageText(page, 'Look at').waitFor();
}

describe('the page', () => {
  let page: Page;
  let ann: string;

  beforeAll(async () => {
    ann = await world.account('ann');
    const bob = await world.account('bob');
    await world.room(ann, 'lobby', 'The lobby');
    for (let i = 0; i < 12; i++) await world.room(ann, `room-${i}`, `Room ${i}`);
    for (let i = 0; i < 25; i++) await world.join(await world.account(`member ${i}`), 'lobby');
    await world.join(bob, 'lobby');
    for (let i = 0; i < 30; i++) await world.say(bob, 'lobby', `Message ${i}`);
    const code = '```js\nconst a = 1;\n```';
    await world.say(bob, 'lobby', `Look at https://a.example, @ann\n> quoted\n\n${code}\n- and #room-1`);
    page = await world.signedIn('ann', 'lobby');
    await toNewest(page);
  }, 60_000);

  it('shows where the focus is, wherever Tab leads', async () => {
    const opened = [/online$/, 'Room details', 'Settings', 'Find or create a room'] as const;
    const narrow = [320, 480, undefined, ...opened.slice(0, 2)] as const;
    for (const [width, height, ...all] of [narrow, [1280, 800, undefined, ...opened]] as const) {
      await page.setViewportSize({ width, height });
      for (const open of all) {
        if (open !== undefined) {
          await page.getByRole('button', { name: open }).first().click();
          await page.getByRole('button', { name: 'Close' }).waitFor();
          await page.locator('.skeleton').first().waitFor({ state: 'detached' });
        } else await page.evaluate(() => (document.activeElement as HTMLElement).blur());
        for (const key of ['Tab', 'Shift+Tab']) {
          const { stops, flaws } = await walk(page, key);
          expect(flaws, `${width} ${open} ${key}`).toEqual([]);
          expect(stops.length, `${width} ${open} ${key}`).toBeGreaterThan(0);
        }
        if (open !== undefined) await page.keyboard.press('Escape');
        const close = page.getByRole('button', { name: 'Close' });
        if (await close.isVisible()) await close.click();
      }
    }
    await page.setViewportSize({ width: 1280, height: 800 });
  });

  it('closes a panel that covers the room by a press next to it, and goes on where it was opened', async () => {
    await page.setViewportSize({ width: 320, height: 480 });
    const members = page.getByRole('button', { name: /online$/ });
    const focused = () => members.evaluate((button) => button === document.activeElement);
    for (const close of [() => page.mouse.click(10, 240), () => page.keyboard.press('Escape')]) {
      await members.click();
      await page.locator('.panel').waitFor();
      await close();
      await page.locator('.panel').waitFor({ state: 'detached' });
      expect(await focused()).toBe(true);
    }
    await members.click();
    await page.locator('.panel').getByRole('button', { name: 'bob' }).click();
    await page.getByRole('button', { name: 'Mention' }).click();
    expect(await composer(page).inputValue()).toBe('@bob ');
    expect(await composer(page).evaluate((area) => area === document.activeElement)).toBe(true);
    await composer(page).fill('');
    await page.setViewportSize({ width: 1280, height: 800 });
  });

  it('does not hide the focus below the header of a panel', async () => {
    await page.setViewportSize({ width: 1280, height: 500 });
    const members = page.getByRole('button', { name: /online$/ });
    if ((await members.getAttribute('aria-expanded')) === 'false') await members.click();
    await page.locator('.panel li > button').first().focus();
    await page.keyboard.press('End');
    for (let i = 0; i < 25; i++) {
      await page.keyboard.press('ArrowUp');
      const top = await page.evaluate(() => document.activeElement!.getBoundingClientRect().top);
      const header = await page.locator('.panel > header').evaluate((one) => one.getBoundingClientRect().bottom);
      expect(top).toBeGreaterThanOrEqual(header - 1);
    }
    await page.getByRole('button', { name: 'Close' }).click();
    await page.setViewportSize({ width: 1280, height: 800 });
  });

  it('has targets of at least 24 pixels for a mouse', async () => {
    const small = () =>
      // Not those within a line of text.
      page.locator('button:not(.link), input, textarea, a:not(.text a, p a, .skip)').evaluateAll((all) =>
        all.flatMap((element) => {
          // A label makes its field as large as itself.
          const target = (element as HTMLInputElement).labels?.[0]?.matches('.check, .variable')
            ? (element as HTMLInputElement).labels![0]!
            : element;
          const { width, height } = target.getBoundingClientRect();
          const isShown = element.checkVisibility({ visibilityProperty: true }) && width > 1;
          const isSmall = width < 24 || height < 24;
          return isShown && isSmall ? [`${element.outerHTML.slice(0, 120)} ${width}×${height}`] : [];
        }),
      );
    await page.locator('.row').last().hover();
    expect(await small()).toEqual([]);
    await page.getByRole('button', { name: 'React' }).click();
    expect(await small()).toEqual([]);
    for (const open of [/online$/, 'Room details', 'Settings', 'Find or create a room'] as const) {
      await page.getByRole('button', { name: open }).first().click();
      await page.getByRole('button', { name: 'Close' }).waitFor();
      expect(await small(), String(open)).toEqual([]);
      await page.getByRole('button', { name: 'Close' }).click();
    }
  });

  it('fits a window of 1280 pixels at 400 %', async () => {
    // As large as that is in CSS pixels.
    await page.setViewportSize({ width: 320, height: 256 });
    expect(await overflow(page)).toBe(0);
    await composer(page).fill('Still room to write');
    const box = (await composer(page).boundingBox())!;
    expect(box.y).toBeGreaterThanOrEqual(0);
    expect(box.y + box.height).toBeLessThanOrEqual(256);
    expect((await page.locator('.scroller').boundingBox())!.height).toBeGreaterThan(40);
    await composer(page).fill('');
    expect(await accessibilityFlaws(page)).toEqual([]);
    await screenshot(page, 'wcag-400');
    await page.setViewportSize({ width: 1280, height: 800 });
  });

  it('loses no text if it is spaced more', async () => {
    const spaced = await world.context({ viewport: { width: 1280, height: 800 }, bypassCSP: true });
    const other = await world.newTab(spaced);
    await world.signIn(other, 'ann', 'lobby');
    await toNewest(other);
    await other.addStyleTag({
      content:
        '* { line-height: 1.5 !important; letter-spacing: 0.12em !important; word-spacing: 0.16em !important; } ' +
        'p { margin-bottom: 2em !important; }',
    });
    for (const width of [1280, 320]) {
      await other.setViewportSize({ width, height: 800 });
      await other.waitForTimeout(200);
      expect(await overflow(other)).toBe(0);
      const lost = await other.locator('button, a, h1, h2, .hint, .day, .typing').evaluateAll((all) =>
        all.flatMap((element) => {
          const { overflowX, overflowY, textOverflow } = getComputedStyle(element);
          const isCut = overflowX !== 'visible' && textOverflow !== 'ellipsis';
          const wide = isCut && element.scrollWidth > element.clientWidth + 1;
          const high = overflowY === 'hidden' && element.scrollHeight > element.clientHeight + 3;
          return element.clientWidth > 1 && (wide || high) ? [element.outerHTML.slice(0, 120)] : [];
        }),
      );
      expect(lost, `${width}`).toEqual([]);
      await screenshot(other, `wcag-spaced-${width}`);
    }
    await other.close();
  });

  it('shows what is chosen if the system chooses the colours', async () => {
    await page.emulateMedia({ forcedColors: 'active' });
    const ground = (selector: string) =>
      page.locator(selector).first().evaluate((element) => getComputedStyle(element).backgroundColor);
    expect(await ground('.rooms a[aria-current]')).not.toBe(await ground('.rooms a:not([aria-current])'));
    await composer(page).pressSequentially('@member');
    await page.getByRole('option').nth(1).waitFor();
    await page.keyboard.press('ArrowDown');
    const option = (selected: boolean) => ground(`[role=option][aria-selected=${selected}]`);
    expect(await option(true)).not.toBe(await option(false));
    await screenshot(page, 'wcag-forced');
    await page.keyboard.press('Escape');
    await composer(page).fill('');
    await page.emulateMedia({ forcedColors: 'none' });
  });

  it('moves nothing by itself if the user wants that', async () => {
    await page.emulateMedia({ reducedMotion: 'reduce' });
    const moving = await page.evaluate(() => {
      const all = [...document.querySelectorAll('*')];
      return all.flatMap((element) => {
        const { animationName, transitionDuration, scrollBehavior } = getComputedStyle(element);
        const isStill = animationName === 'none' && /^(?:0s(?:, )?)+$/.test(transitionDuration);
        return isStill && scrollBehavior !== 'smooth' ? [] : [element.outerHTML.slice(0, 100)];
      });
    });
    expect(moving).toEqual([]);
    await page.emulateMedia({ reducedMotion: 'no-preference' });
  });

  it('has a tree that says what everything is', async () => {
    const tree = await page.locator('body').ariaSnapshot();
    for (const part of [
      /- link "Skip to message box"/,
      /- navigation "Rooms"/,
      /- main "The lobby"/,
      /- heading "The lobby" \[level=1\]/,
      /- feed "Messages in The lobby"|- article "bob/,
      /- textbox "Message The lobby"/,
      /- button "Send" \[disabled\]/,
    ]) {
      expect(tree).toMatch(part);
    }
    // Nothing is a button or link without a name.
    expect(tree).not.toMatch(/- (?:button|link|textbox|checkbox|combobox|dialog)(?:$|:| \[)/m);
  });

  it('throws no errors', () => {
    expect(world.pageErrors).toEqual([]);
  });
});

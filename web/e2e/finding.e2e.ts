import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { accessibilityFlaws, composer, createWorld, messageText, overflow, screenshot } from './browser';

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
      await page.emulateMedia({ colorScheme });
      expect(await accessibilityFlaws(page), `${name} ${width} ${colorScheme}`).toEqual([]);
      expect(await overflow(page), `${name} ${width}`).toBe(0);
      await screenshot(page, `finding-${name}-${width}-${colorScheme}`);
    }
    const dialog = page.locator('dialog');
    if ((await dialog.count()) > 0) {
      expect(await dialog.evaluate((element) => element.scrollWidth - element.clientWidth), name).toBe(0);
    }
  }
  await page.emulateMedia({ colorScheme: 'light' });
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
    await expect.poll(() => focused(page)).toBe('composer');
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
    expect(found.slice(0, 2)).toEqual(['Room 2room-2', 'Room 20room-20']);
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

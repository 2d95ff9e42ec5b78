/** The card of a person, and the ways to open it. */
import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { accessibilityFlaws, composer, createWorld, messageText, overflow } from './browser';

const world = createWorld();
const card = (page: Page, name: string) => page.getByRole('dialog', { name: `Profile of ${name}`, exact: true });
const focused = (page: Page, selector: string) => page.locator(`${selector}:focus`).waitFor();
/** The row of a message. */
const row = (page: Page, text: string) => page.locator('.row', { hasText: text });

describe('the card of a person', () => {
  let ann: Page;
  let bob: string;

  beforeAll(async () => {
    const owner = await world.account('ann');
    bob = await world.account('Bob Brown');
    await world.room(owner, 'lobby', 'The lobby');
    for (const name of ['ليلى', 'ada']) await world.join(await world.account(name), 'lobby');
    await world.join(bob, 'lobby');
    await world.say(bob, 'lobby', 'First');
    await world.say(bob, 'lobby', 'Hello @ann and @ada, and @nobody');
    await world.say(await world.token('ليلى'), 'lobby', 'مرحبا');
    await world.say(owner, 'lobby', 'Mine');
    ann = await world.signedIn('ann', 'lobby');
    await messageText(ann, 'Mine').waitFor();
  }, 60_000);

  it('opens from a name and from an avatar, not by hovering, and gives the focus back', async () => {
    await row(ann, 'First').locator('.name').hover();
    expect(await ann.getByRole('dialog').count()).toBe(0);
    await row(ann, 'First').getByRole('button', { name: 'Bob Brown' }).click();
    await card(ann, 'Bob Brown').getByText('Not online').waitFor();
    const year = new Date().getFullYear();
    await card(ann, 'Bob Brown').getByText(new RegExp(`^Member since .*${year}$`)).waitFor();
    expect(await accessibilityFlaws(ann)).toEqual([]);
    await ann.keyboard.press('Escape');
    await card(ann, 'Bob Brown').waitFor({ state: 'detached' });
    await focused(ann, '.name');
    await row(ann, 'مرحبا').locator('.avatar').click();
    await card(ann, 'ليلى').waitFor();
    expect(await card(ann, 'ليلى').locator('bdi').textContent()).toBe('ليلى');
    // A click outside closes it.
    await ann.mouse.click(700, 700);
    await card(ann, 'ليلى').waitFor({ state: 'detached' });
    await row(ann, 'Mine').locator('.name').click();
    const own = ann.getByRole('dialog', { name: 'Your profile' });
    await own.getByText('ann (you)').waitFor();
    await own.getByText(/^Owner · Member since/).waitFor();
    await own.getByText('Online', { exact: true }).waitFor();
    expect(await own.getByRole('button').count()).toBe(1);
    await own.getByRole('button', { name: 'Close' }).click();
    await own.waitFor({ state: 'detached' });
  });

  it('opens with Enter on a message, which costs no stop of the Tab key', async () => {
    await ann.mouse.move(0, 0);
    await ann.locator('.row').last().focus();
    await ann.keyboard.press('ArrowUp');
    await ann.keyboard.press('ArrowUp');
    await focused(ann, '.row');
    // It has no name of its own: it follows another one of the same person.
    expect(await ann.locator('.row:focus').textContent()).toContain('Hello');
    await ann.keyboard.press('Enter');
    await card(ann, 'Bob Brown').waitFor();
    await ann.keyboard.press('Escape');
    await card(ann, 'Bob Brown').waitFor({ state: 'detached' });
    await focused(ann, '.row');
    // Tab goes on to the mentions in the text.
    await ann.keyboard.press('Tab');
    expect(await ann.locator(':focus').textContent()).toBe('@ann');
    await ann.keyboard.press('Tab');
    expect(await ann.locator(':focus').textContent()).toBe('@ada');
    await ann.keyboard.press('Enter');
    await card(ann, 'ada').getByText(/^Member since/).waitFor();
    await ann.keyboard.press('Escape');
    await ann.locator('.mention:focus').waitFor();
    await ann.keyboard.press('Tab');
    expect(await ann.locator(':focus').textContent()).toBe('@nobody');
    await ann.keyboard.press('Enter');
    await card(ann, 'nobody').getByText('Nobody in this room has this name').waitFor();
    expect(await card(ann, 'nobody').getByRole('button').count()).toBe(1);
    await ann.keyboard.press('Escape');
    await ann.locator('.mention:focus').waitFor();
  });

  it('stays within the window, next to what was pressed', async () => {
    for (const [width, height] of [[720, 400], [1280, 800]] as const) {
      await ann.setViewportSize({ width, height });
      const ada = row(ann, 'Hello').getByRole('button', { name: '@ada' });
      for (const open of [row(ann, 'Mine').locator('.avatar'), ada]) {
        const pressed = (await open.boundingBox())!;
        await open.click();
        await ann.locator('dialog[open]').waitFor();
        await ann.getByText(/Member since/).waitFor();
        // It grows when more is known.
        const isWithin = () =>
          ann.locator('dialog[open]').evaluate((dialog) => {
            const { left, top, right, bottom } = dialog.getBoundingClientRect();
            return left >= 0 && top >= 0 && right <= innerWidth && bottom <= innerHeight;
          });
        await expect.poll(isWithin).toBe(true);
        const box = (await ann.locator('dialog[open]').boundingBox())!;
        // On one side or the other.
        const gap = Math.max(box.x - pressed.x - pressed.width, pressed.x - box.x - box.width);
        expect(Math.round(gap)).toBe(8);
        await ann.keyboard.press('Escape');
        await ann.locator('dialog[open]').waitFor({ state: 'detached' });
      }
    }
  });

  it('mentions the person in the message box', async () => {
    await composer(ann).fill('Thanks');
    await row(ann, 'First').locator('.name').click();
    await card(ann, 'Bob Brown').getByRole('button', { name: 'Mention' }).press('Enter');
    await focused(ann, '#composer');
    await ann.keyboard.type('for that');
    expect(await composer(ann).inputValue()).toBe('Thanks @Bob Brown for that');
    await composer(ann).fill('');
  });

  it('opens from the members, where it removes one after a question', async () => {
    const page = await world.signedIn('Bob Brown', 'lobby');
    await ann.getByRole('button', { name: '2 online' }).click();
    const panel = ann.getByRole('complementary', { name: 'Members' });
    await panel.getByRole('button', { name: /^Bob Brown ?, online/ }).click();
    await card(ann, 'Bob Brown').getByText('Online', { exact: true }).waitFor();
    await page.context().close();
    await card(ann, 'Bob Brown').getByText('Not online').waitFor();
    await card(ann, 'Bob Brown').getByRole('button', { name: 'Remove from room' }).click();
    await ann.getByRole('dialog', { name: 'Remove Bob Brown?' }).waitFor();
    await ann.getByRole('button', { name: 'Remove', exact: true }).click();
    await panel.getByText('Bob Brown').waitFor({ state: 'detached' });
    await ann.keyboard.press('Escape');
    // The messages stay.
    await row(ann, 'First').locator('.name').click();
    await card(ann, 'Bob Brown').getByText('Not a member of this room').waitFor();
    expect(await card(ann, 'Bob Brown').getByRole('button', { name: 'Remove from room' }).count()).toBe(0);
    await ann.keyboard.press('Escape');
  });

  it('offers nothing to a member that only the owner may do', async () => {
    const ada = await world.signedIn('ada', 'lobby');
    await row(ada, 'Mine').locator('.name').click();
    await card(ada, 'ann').getByText(/^Owner · Member since/).waitFor();
    await card(ada, 'ann').getByText('Online', { exact: true }).waitFor();
    expect(await card(ada, 'ann').getByRole('button').allTextContents()).toEqual(['Mention', '']);
    await ada.context().close();
  });

  it('is a sheet on a phone', async () => {
    const context = await world.context({ hasTouch: true, isMobile: true, viewport: { width: 320, height: 640 } });
    const phone = await world.newTab(context);
    await world.signIn(phone, 'ada', 'lobby');
    await row(phone, 'First').locator('.avatar').tap();
    await card(phone, 'Bob Brown').getByText('Not a member').waitFor();
    const box = (await card(phone, 'Bob Brown').boundingBox())!;
    expect(box.width).toBe(320);
    expect(Math.round(box.y + box.height)).toBe(640);
    expect(await overflow(phone)).toBe(0);
    expect(await accessibilityFlaws(phone)).toEqual([]);
    for (const button of await card(phone, 'Bob Brown').getByRole('button').all()) {
      expect((await button.boundingBox())!.height).toBeGreaterThanOrEqual(44);
    }
    await card(phone, 'Bob Brown').getByRole('button', { name: 'Close' }).tap();
    await card(phone, 'Bob Brown').waitFor({ state: 'detached' });
    // From the members, which lie over the message box.
    await phone.locator('.room-head .members').tap();
    await phone.getByRole('complementary').getByRole('button', { name: 'ann' }).tap();
    await card(phone, 'ann').getByRole('button', { name: 'Mention' }).tap();
    await focused(phone, '#composer');
    expect(await composer(phone).inputValue()).toBe('@ann ');
    await phone.getByRole('complementary').waitFor({ state: 'detached' });
  });

  it('throws no errors', () => {
    expect(world.pageErrors).toEqual([]);
  });
});

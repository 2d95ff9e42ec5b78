/** What owners and moderators do about people: roles, silences and bans. */
import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { accessibilityFlaws, createWorld, messageText, overflow, screenshot, send } from './browser';

const world = createWorld();
const card = (page: Page, name: string) => page.getByRole('dialog', { name: `Profile of ${name}`, exact: true });
/** Opens the card of the author of a message. */
const open = async (page: Page, text: string, name: string) => {
  await page.locator('.row', { hasText: text }).locator('.name').click();
  await card(page, name).waitFor();
};

describe('moderation', () => {
  let ann: Page;
  let ben: Page;
  let cleo: Page;

  beforeAll(async () => {
    const owner = await world.account('ann');
    await world.room(owner, 'lobby', 'The lobby');
    for (const name of ['ben', 'cleo']) {
      const token = await world.account(name);
      await world.join(token, 'lobby');
      await world.say(token, 'lobby', `This is ${name}`);
    }
    await world.say(owner, 'lobby', 'Welcome');
    ann = await world.signedIn('ann', 'lobby');
    ben = await world.signedIn('ben', 'lobby');
    cleo = await world.signedIn('cleo', 'lobby');
    for (const page of [ann, ben, cleo]) await messageText(page, 'Welcome').waitFor();
  }, 60_000);

  it('an owner makes somebody a moderator, who can moderate at once', async () => {
    await open(ben, 'This is cleo', 'cleo');
    await card(ben, 'cleo').getByText(/Member since/).waitFor();
    expect(await card(ben, 'cleo').getByRole('button', { name: 'Ban' }).count()).toBe(0);
    await ben.keyboard.press('Escape');
    await open(ann, 'This is ben', 'ben');
    await card(ann, 'ben').getByLabel('Role').selectOption('Moderator');
    await card(ann, 'ben').getByText(/^Moderator · Member since/).waitFor();
    expect(await accessibilityFlaws(ann)).toEqual([]);
    await screenshot(ann, 'moderation-card');
    await ann.keyboard.press('Escape');
    await open(ben, 'This is cleo', 'cleo');
    await card(ben, 'cleo').getByRole('button', { name: 'Ban' }).waitFor();
    expect(await card(ben, 'cleo').getByLabel('Role').count()).toBe(0);
    await ben.keyboard.press('Escape');
    // Not over somebody of a higher role.
    await open(ben, 'Welcome', 'ann');
    await card(ben, 'ann').getByText(/^Owner · Member since/).waitFor();
    expect(await card(ben, 'ann').getByRole('button', { name: 'Ban' }).count()).toBe(0);
    await ben.keyboard.press('Escape');
  });

  it('a moderator silences a member, and lets them post again', async () => {
    await open(ben, 'This is cleo', 'cleo');
    await card(ben, 'cleo').getByRole('button', { name: 'Silence for 24 hours' }).click();
    await card(ben, 'cleo').getByText(/^Can only read until /).waitFor();
    await send(cleo, 'Can you hear me?');
    await cleo.getByText(/silenced/i).first().waitFor();
    expect(await messageText(ann, 'Can you hear me?').count()).toBe(0);
    await card(ben, 'cleo').getByRole('button', { name: 'Let them post again' }).click();
    await card(ben, 'cleo').getByText(/^Can only read until /).waitFor({ state: 'detached' });
    await ben.keyboard.press('Escape');
    await send(cleo, 'And now?');
    await messageText(ann, 'And now?').waitFor();
  });

  it('a moderator bans a member with what they wrote, and lifts the ban', async () => {
    await open(ben, 'This is cleo', 'cleo');
    await card(ben, 'cleo').getByRole('button', { name: 'Ban' }).click();
    const question = ben.getByRole('dialog', { name: 'Ban cleo?' });
    await question.getByLabel('Also delete their messages').check();
    expect(await accessibilityFlaws(ben)).toEqual([]);
    await screenshot(ben, 'moderation-ban');
    await question.getByRole('button', { name: 'Ban' }).click();
    await question.waitFor({ state: 'detached' });
    await messageText(ann, 'This is cleo').waitFor({ state: 'detached' });
    await cleo.getByRole('button', { name: 'Join again' }).click();
    await cleo.getByText('You’re banned from this room.').waitFor();
    // The name is still there, above the deleted message.
    await ann.locator('.row .name', { hasText: 'cleo' }).first().click();
    await card(ann, 'cleo').getByText('Not a member of this room').waitFor();
    await card(ann, 'cleo').getByRole('button', { name: 'Lift the ban' }).click();
    await card(ann, 'cleo').getByRole('button', { name: 'Ban', exact: true }).waitFor();
    await ann.keyboard.press('Escape');
    await cleo.getByRole('button', { name: 'Join again' }).click();
    await messageText(cleo, 'Welcome').waitFor();
  });

  it('fits on a phone', async () => {
    const context = await world.context({ hasTouch: true, isMobile: true, viewport: { width: 320, height: 640 } });
    const phone = await world.newTab(context);
    await world.signIn(phone, 'ann', 'lobby');
    await phone.locator('.row', { hasText: 'This is ben' }).locator('.avatar').tap();
    await card(phone, 'ben').getByRole('button', { name: 'Ban' }).waitFor();
    expect(await overflow(phone)).toBe(0);
    expect(await accessibilityFlaws(phone)).toEqual([]);
    await screenshot(phone, 'moderation-phone');
  });

  it('throws no errors', () => {
    expect(world.pageErrors).toEqual([]);
  });
});

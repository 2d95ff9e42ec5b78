import { type Page } from 'playwright-core';
import { describe, expect, it } from 'vitest';
import {
  PASSWORD,
  accessibilityFlaws,
  allStored,
  composer,
  createWorld,
  messageText,
  overflow,
  screenshot,
  send,
} from './browser';

const world = createWorld();

async function signUp(page: Page, name: string): Promise<void> {
  await page.goto(world.server.page);
  await page.getByRole('button', { name: 'Create an account' }).click();
  await page.getByLabel('Username').fill(name);
  await page.getByLabel('Email').fill(`${name}@example.org`);
  await page.getByLabel('Password').fill(PASSWORD);
  await page.keyboard.press('Enter');
  await page.getByRole('navigation', { name: 'Rooms' }).waitFor();
}

describe('the web client', () => {
  let ann: Page;
  let bob: Page;

  it('signs up, and shows errors next to their fields', async () => {
    ann = await world.newVisitor();
    await ann.goto(world.server.page);
    await screenshot(ann, 'sign-in');
    expect(await accessibilityFlaws(ann)).toEqual([]);
    await ann.getByRole('button', { name: 'Create an account' }).click();
    await ann.getByLabel('Username').fill('@ann');
    await ann.getByLabel('Email').fill('ann@example.org');
    await ann.getByLabel('Password').fill(PASSWORD);
    await ann.getByRole('button', { name: 'Create account' }).click();
    await ann.locator('.field:has(input[name=username]) .error').waitFor();
    await signUp(ann, 'ann');
    bob = await world.newVisitor();
    await signUp(bob, 'bob');
  });

  it('creates, finds and joins a room', async () => {
    await ann.getByRole('button', { name: 'Find or create a room' }).click();
    await ann.getByLabel('Room name').fill('lobby');
    await ann.getByLabel('Display name').fill('The lobby');
    await ann.getByRole('button', { name: 'Create “lobby”' }).click();
    await ann.getByRole('button', { name: 'Skip' }).click();
    await ann.getByText('No messages in').waitFor();
    await screenshot(ann, 'empty');
    await bob.getByRole('button', { name: 'Find or create a room' }).click();
    await bob.getByRole('button', { name: 'Join' }).click();
    await composer(bob).waitFor();
  });

  it('shows messages and typing to the other person', async () => {
    await send(ann, 'Hello, <b>Bob</b>\nhttps://example.org/x');
    await messageText(bob, 'Hello, <b>Bob</b>').waitFor();
    expect(await bob.locator('.row .text b').count()).toBe(0);
    expect(await bob.locator('.row .text a').getAttribute('href')).toBe('https://example.org/x');
    await composer(bob).pressSequentially('Hi @ann');
    await ann.getByText('bob is typing').waitFor();
    await composer(bob).press('Enter');
    await ann.locator('.mention.me').waitFor();
    await ann.getByRole('button', { name: '2 online' }).waitFor();
  });

  it('inserts a line break with Shift+Enter', async () => {
    await composer(bob).pressSequentially('one');
    await composer(bob).press('Shift+Enter');
    await composer(bob).pressSequentially('two');
    await composer(bob).press('Enter');
    await messageText(ann, 'one\ntwo').waitFor();
  });

  it('edits, reacts, replies and deletes', async () => {
    await messageText(ann, 'Hello, <b>Bob</b>').hover();
    await ann.getByRole('button', { name: 'Edit' }).click();
    await ann.getByLabel('Edit message').fill('Hello, Robert');
    await ann.keyboard.press('Enter');
    await messageText(bob, 'Hello, Robert').waitFor();
    await messageText(bob, 'Hello, Robert').hover();
    await bob.getByRole('button', { name: 'React' }).click();
    await bob.getByRole('button', { name: '🎉' }).click();
    await ann.getByRole('button', { name: '🎉, 1' }).click();
    await bob.getByRole('button', { name: '🎉, 2' }).waitFor();
    await messageText(bob, 'Hello, Robert').hover();
    await bob.getByRole('button', { name: 'Reply' }).click();
    await send(bob, 'Robert it is');
    await ann.locator('.quote', { hasText: 'Hello, Robert' }).waitFor();
    await send(bob, 'A slip');
    await messageText(bob, 'A slip').hover();
    await bob.getByRole('button', { name: 'Delete' }).last().click();
    await bob.locator('.actions').getByRole('button', { name: 'Delete' }).click();
    await messageText(ann, 'This message was deleted.').waitFor();
    expect(await messageText(ann, 'A slip').count()).toBe(0);
    await screenshot(ann, 'room-light');
    expect(await accessibilityFlaws(ann)).toEqual([]);
    await ann.emulateMedia({ colorScheme: 'dark' });
    await screenshot(ann, 'room-dark');
    expect(await accessibilityFlaws(ann)).toEqual([]);
    await ann.emulateMedia({ colorScheme: 'light' });
  });

  it('neither loses nor repeats messages over a restart of the server', async () => {
    await world.server.stop('SIGKILL');
    await ann.getByText('Connection lost').waitFor();
    await send(ann, 'Written while away');
    await send(bob, 'Me too');
    await messageText(ann, 'Written while away').waitFor();
    await world.server.start();
    await messageText(bob, 'Written while away').waitFor({ timeout: 20_000 });
    await messageText(ann, 'Me too').waitFor({ timeout: 20_000 });
    await allStored(ann);
    expect(await messageText(ann, 'Written while away').count()).toBe(1);
    expect(await messageText(bob, 'Written while away').count()).toBe(1);
  });

  it('shows unread messages of another room until they are read', async () => {
    const bobsToken = await world.token('bob');
    await world.room(bobsToken, 'Quiet', 'Quiet room');
    await world.join(await world.token('ann'), 'quiet');
    await ann.getByRole('link', { name: 'Quiet room' }).waitFor();
    for (const text of ['psst', '@ann are you there?']) {
      await world.say(bobsToken, 'quiet', text);
    }
    await ann.getByRole('link', { name: 'Quiet room @2 unread' }).click();
    await messageText(ann, 'psst').waitFor();
    await ann.locator('.new-divider').waitFor();
    await ann.getByRole('link', { name: 'Quiet room', exact: true }).waitFor();
  });

  it('lists people, and keeps the theme chosen in the settings', async () => {
    await ann.getByRole('link', { name: 'The lobby' }).click();
    await ann.getByRole('button', { name: /online$/ }).click();
    await ann.getByRole('complementary', { name: 'Members' }).getByText('bob').first().waitFor();
    await ann.getByRole('button', { name: 'Settings' }).click();
    await ann.getByLabel('Dark').check();
    await screenshot(ann, 'settings');
    expect(await accessibilityFlaws(ann)).toEqual([]);
    await ann.keyboard.press('Escape');
    await ann.reload();
    expect(await ann.evaluate(() => document.documentElement.dataset['theme'])).toBe('dark');
  });

  it('fits on a phone and works with the keyboard', async () => {
    const phone = await world.newVisitor(320, 640);
    await phone.goto(world.server.page);
    await phone.getByLabel('Username or email').fill('ann');
    await phone.keyboard.press('Tab');
    await phone.keyboard.type(PASSWORD);
    await phone.keyboard.press('Enter');
    await phone.getByRole('link', { name: 'The lobby' }).waitFor();
    await screenshot(phone, 'phone-rooms');
    await phone.getByRole('link', { name: 'The lobby' }).focus();
    await phone.keyboard.press('Enter');
    await composer(phone).waitFor();
    await messageText(phone, 'Hello, Robert').waitFor();
    await screenshot(phone, 'phone-room');
    expect(await overflow(phone)).toBe(0);
    await phone.keyboard.press('Shift+Tab');
    await phone.locator('.row').last().focus();
    await phone.keyboard.press('ArrowUp');
    expect(await phone.evaluate(() => document.activeElement?.getAttribute('role'))).toBe('article');
  });
});

import { type Page } from 'playwright-core';
import { describe, expect, it } from 'vitest';
import { PASSWORD, composer, flaws, overflow, said, send, settled, shot, world } from './browser';
import { post } from './server';

const the = world();

async function signUp(page: Page, name: string): Promise<void> {
  await page.goto(the.server.page);
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

  it('signs up, and says what is wrong with a field at the field', async () => {
    ann = await the.visitor();
    await ann.goto(the.server.page);
    await shot(ann, 'sign-in');
    expect(await flaws(ann)).toEqual([]);
    await ann.getByRole('button', { name: 'Create an account' }).click();
    await ann.getByLabel('Username').fill('@ann');
    await ann.getByLabel('Email').fill('ann@example.org');
    await ann.getByLabel('Password').fill(PASSWORD);
    await ann.getByRole('button', { name: 'Create account' }).click();
    await ann.locator('.field:has(input[name=username]) .error').waitFor();
    await signUp(ann, 'ann');
    bob = await the.visitor();
    await signUp(bob, 'bob');
  });

  it('creates a room, finds and joins it', async () => {
    await ann.getByRole('button', { name: 'Find or create a room' }).click();
    await ann.getByLabel('Room name').fill('lobby');
    await ann.getByLabel('Display name').fill('The lobby');
    await ann.getByRole('button', { name: 'Create “lobby”' }).click();
    await ann.getByText('No messages in').waitFor();
    await shot(ann, 'empty');
    await bob.getByRole('button', { name: 'Find or create a room' }).click();
    await bob.getByRole('button', { name: 'Join' }).click();
    await composer(bob).waitFor();
  });

  it('two people chat', async () => {
    await send(ann, 'Hello, <b>Bob</b>\nhttps://example.org/x');
    await said(bob, 'Hello, <b>Bob</b>').waitFor();
    expect(await bob.locator('.row .text b').count()).toBe(0);
    expect(await bob.locator('.row .text a').getAttribute('href')).toBe('https://example.org/x');
    await composer(bob).pressSequentially('Hi @ann');
    await ann.getByText('bob is typing').waitFor();
    await composer(bob).press('Enter');
    await ann.locator('.mention.me').waitFor();
    await ann.getByRole('button', { name: '2 online' }).waitFor();
  });

  it('Shift and Enter break the line', async () => {
    await composer(bob).pressSequentially('one');
    await composer(bob).press('Shift+Enter');
    await composer(bob).pressSequentially('two');
    await composer(bob).press('Enter');
    await said(ann, 'one\ntwo').waitFor();
  });

  it('edits, reacts, replies, deletes', async () => {
    await said(ann, 'Hello, <b>Bob</b>').hover();
    await ann.getByRole('button', { name: 'Edit' }).click();
    await ann.getByLabel('Edit message').fill('Hello, Robert');
    await ann.keyboard.press('Enter');
    await said(bob, 'Hello, Robert').waitFor();
    await said(bob, 'Hello, Robert').hover();
    await bob.getByRole('button', { name: 'React' }).click();
    await bob.getByRole('button', { name: '🎉' }).click();
    await ann.getByRole('button', { name: '🎉, 1' }).click();
    await bob.getByRole('button', { name: '🎉, 2' }).waitFor();
    await said(bob, 'Hello, Robert').hover();
    await bob.getByRole('button', { name: 'Reply' }).click();
    await send(bob, 'Robert it is');
    await ann.locator('.quote', { hasText: 'Hello, Robert' }).waitFor();
    await send(bob, 'A slip');
    await said(bob, 'A slip').hover();
    await bob.getByRole('button', { name: 'Delete' }).last().click();
    await bob.locator('.actions').getByRole('button', { name: 'Delete' }).click();
    await said(ann, 'This message was deleted.').waitFor();
    expect(await said(ann, 'A slip').count()).toBe(0);
    await shot(ann, 'room-light');
    expect(await flaws(ann)).toEqual([]);
    await ann.emulateMedia({ colorScheme: 'dark' });
    await shot(ann, 'room-dark');
    expect(await flaws(ann)).toEqual([]);
    await ann.emulateMedia({ colorScheme: 'light' });
  });

  it('loses nothing and doubles nothing over a restart of the server', async () => {
    await the.server.stop('SIGKILL');
    await ann.getByText('Connection lost').waitFor();
    await send(ann, 'Written while away');
    await send(bob, 'Me too');
    await said(ann, 'Written while away').waitFor();
    await the.server.start();
    await said(bob, 'Written while away').waitFor({ timeout: 20_000 });
    await said(ann, 'Me too').waitFor({ timeout: 20_000 });
    await settled(ann);
    expect(await said(ann, 'Written while away').count()).toBe(1);
    expect(await said(bob, 'Written while away').count()).toBe(1);
  });

  it('shows what is unread in another room, and reads it', async () => {
    const room = await post<{ room: { name: string } }>(the.server, '/user/createroom', { name: 'Quiet', title: 'Quiet room' }, await the.token('bob'));
    await post(the.server, `/rooms/${room.room.name}/join`, {}, await the.token('ann'));
    await ann.getByRole('link', { name: 'Quiet room' }).waitFor();
    for (const text of ['psst', '@ann are you there?']) {
      await post(the.server, '/rooms/quiet/messages', { text }, await the.token('bob'));
    }
    await ann.getByRole('link', { name: 'Quiet room @2 unread' }).click();
    await said(ann, 'psst').waitFor();
    await ann.locator('.new-divider').waitFor();
    await ann.getByRole('link', { name: 'Quiet room', exact: true }).waitFor();
  });

  it('has people, settings and themes', async () => {
    await ann.getByRole('link', { name: 'The lobby' }).click();
    await ann.getByRole('button', { name: /online$/ }).click();
    await ann.getByRole('complementary', { name: 'People' }).getByText('bob').first().waitFor();
    await ann.getByRole('button', { name: 'Settings' }).click();
    await ann.getByLabel('Dark').check();
    await shot(ann, 'settings');
    expect(await flaws(ann)).toEqual([]);
    await ann.keyboard.press('Escape');
    await ann.reload();
    expect(await ann.evaluate(() => document.documentElement.dataset['theme'])).toBe('dark');
  });

  it('fits a phone, and works by keyboard', async () => {
    const phone = await the.visitor(320, 640);
    await phone.goto(the.server.page);
    await phone.getByLabel('Username or email').fill('ann');
    await phone.keyboard.press('Tab');
    await phone.keyboard.type(PASSWORD);
    await phone.keyboard.press('Enter');
    await phone.getByRole('link', { name: 'The lobby' }).waitFor();
    await shot(phone, 'phone-rooms');
    await phone.getByRole('link', { name: 'The lobby' }).focus();
    await phone.keyboard.press('Enter');
    await composer(phone).waitFor();
    await said(phone, 'Hello, Robert').waitFor();
    await shot(phone, 'phone-room');
    expect(await overflow(phone)).toBe(0);
    await phone.keyboard.press('Shift+Tab');
    await phone.locator('.row').last().focus();
    await phone.keyboard.press('ArrowUp');
    expect(await phone.evaluate(() => document.activeElement?.getAttribute('role'))).toBe('article');
  });
});

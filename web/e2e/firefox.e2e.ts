/** What people do most, in Firefox. The other files test everything in Chromium. */
import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { PASSWORD, allStored, composer, createWorld, messageText, send } from './browser';

const world = createWorld({}, 'firefox');

describe('in Firefox', () => {
  let ann: Page;
  let bob: Page;

  /** The texts of all messages of a page, in their order. */
  const texts = (page: Page) => page.locator('.row .text').allTextContents();

  beforeAll(async () => {
    ann = await world.newVisitor();
    bob = await world.newVisitor();
    await world.account('bob');
  });

  it('a person signs up', async () => {
    await ann.goto(world.server.page);
    await ann.getByRole('button', { name: 'Create an account' }).click();
    await ann.getByLabel('Username').fill('ann');
    await ann.getByLabel('Email').fill('ann@example.org');
    await ann.getByLabel('Password').fill(PASSWORD);
    await ann.getByRole('button', { name: 'Create account' }).click();
    await ann.getByText('You haven’t joined any rooms yet.').waitFor();
  });

  it('a person signs in, and sees why a wrong password does not work', async () => {
    await bob.goto(world.server.page);
    await bob.getByLabel('Username or email').fill('bob');
    await bob.getByLabel('Password').fill('a wrong password');
    await bob.getByRole('button', { name: 'Sign in' }).click();
    await bob.getByRole('alert').filter({ hasText: 'password' }).waitFor();
    await bob.getByLabel('Password').fill(PASSWORD);
    await bob.getByRole('button', { name: 'Sign in' }).click();
    await bob.getByText('You haven’t joined any rooms yet.').waitFor();
  });

  it('one creates a room, and the other finds it', async () => {
    await ann.getByRole('button', { name: 'Find or create a room' }).click();
    await ann.getByLabel('Room name').fill('lobby');
    await ann.getByLabel('Display name').fill('The lobby');
    await ann.getByRole('button', { name: 'Create “lobby”' }).click();
    await ann.getByRole('button', { name: 'Skip' }).click();
    await ann.getByText('No messages in The lobby yet').waitFor();
    await bob.getByRole('button', { name: 'Find or create a room' }).click();
    await bob.getByRole('button', { name: 'Join' }).click();
    await composer(bob).waitFor();
    await ann.getByRole('button', { name: '2 online' }).waitFor();
  });

  it('what one sends appears in the other’s window, as text', async () => {
    await composer(ann).fill('Hello, <b>Bob</b> https://example.org/x');
    await ann.getByRole('button', { name: 'Send' }).click();
    await messageText(bob, 'Hello, <b>Bob</b>').waitFor();
    expect(await bob.locator('.row .text b').count()).toBe(0);
    expect(await bob.locator('.row .text a').getAttribute('href')).toBe('https://example.org/x');
    await composer(bob).pressSequentially('Hi');
    await ann.getByText('bob is typing').waitFor();
    await composer(bob).press('Enter');
    await messageText(ann, 'Hi').waitFor();
  });

  it('the keyboard sends, breaks lines, and edits the last message', async () => {
    await ann.evaluate(() => (document.activeElement as HTMLElement).blur());
    await ann.keyboard.type('One');
    await ann.keyboard.press('Shift+Enter');
    await ann.keyboard.type('Two');
    await ann.keyboard.press('Enter');
    await messageText(bob, 'One\nTwo').waitFor();
    expect(await composer(ann).inputValue()).toBe('');
    await allStored(ann);
    await ann.keyboard.press('ArrowUp');
    await ann.getByLabel('Edit message').waitFor();
    await ann.keyboard.type(', three');
    await ann.keyboard.press('Enter');
    await messageText(bob, 'One\nTwo, three').waitFor();
  });

  it('an edit replaces the text', async () => {
    await messageText(ann, 'Hello').hover();
    await ann.getByRole('button', { name: 'Edit', exact: true }).click();
    await ann.getByLabel('Edit message').fill('Hello, Robert');
    await ann.getByRole('button', { name: 'Save' }).click();
    await messageText(bob, 'Hello, Robert (edited)').waitFor();
    expect(await messageText(bob, 'Hello, <b>').count()).toBe(0);
  });

  it('reactions are counted', async () => {
    await messageText(bob, 'Hello, Robert').hover();
    await bob.getByRole('button', { name: 'React', exact: true }).click();
    await bob.getByRole('button', { name: '🎉' }).click();
    await ann.getByRole('button', { name: '🎉, 1' }).click();
    await bob.getByRole('button', { name: '🎉, 2' }).waitFor();
    await ann.getByRole('button', { name: '🎉, 2' }).click();
    await bob.getByRole('button', { name: '🎉, 1' }).waitFor();
  });

  it('a deleted message is gone, after a question', async () => {
    await send(bob, 'A slip');
    await messageText(ann, 'A slip').waitFor();
    await allStored(bob);
    await messageText(bob, 'A slip').hover();
    await bob.locator('.actions').getByRole('button', { name: 'Delete' }).click();
    await bob.getByText('Delete this message?').waitFor();
    await bob.locator('.actions').getByRole('button', { name: 'Delete' }).click();
    await messageText(ann, 'This message was deleted.').waitFor();
    expect(await messageText(ann, 'A slip').count()).toBe(0);
  });

  it('a reload keeps the room and its history', async () => {
    const before = await texts(ann);
    expect(before.length).toBe(4);
    await composer(ann).fill('Half a sent');
    await ann.reload();
    await messageText(ann, 'This message was deleted.').waitFor();
    expect(await texts(ann)).toEqual(before);
    expect(await composer(ann).inputValue()).toBe('Half a sent');
    await composer(ann).fill('');
  });

  it('nothing is lost or repeated while a person is offline', async () => {
    await ann.context().setOffline(true);
    await ann.getByText('Connection lost').waitFor();
    await send(ann, 'Written offline');
    await ann.locator('.row.pending', { hasText: 'Written offline' }).waitFor();
    await send(bob, 'Sent in the meantime');
    await allStored(bob);
    expect(await messageText(ann, 'Sent in the meantime').count()).toBe(0);
    await ann.context().setOffline(false);
    await ann.getByText('Back online. 1 new message.').waitFor({ timeout: 20_000 });
    for (const page of [ann, bob]) {
      await messageText(page, 'Written offline').waitFor();
      await allStored(page);
      expect((await texts(page)).slice(-2)).toEqual(['Sent in the meantime', 'Written offline']);
    }
  });

  it('unread messages and mentions are counted until they are read', async () => {
    const bobsToken = await world.token('bob');
    await world.room(bobsToken, 'quiet', 'Quiet room');
    await world.join(await world.token('ann'), 'quiet');
    await ann.getByRole('link', { name: 'Quiet room', exact: true }).waitFor();
    // Only a window in front reads. The messages of the lobby are no longer unread then.
    await ann.bringToFront();
    await expect.poll(() => ann.title()).toBe('The lobby · Uproar');
    await world.say(bobsToken, 'quiet', 'psst');
    await ann.getByRole('link', { name: 'Quiet room 1 unread' }).waitFor();
    expect(await ann.title()).toBe('(1) The lobby · Uproar');
    await world.say(bobsToken, 'quiet', '@ann are you there?');
    await ann.getByRole('link', { name: 'Quiet room @2 unread' }).click();
    await ann.locator('.mention.me', { hasText: '@ann' }).waitFor();
    await ann.locator('.new-divider').waitFor();
    await ann.getByRole('link', { name: 'Quiet room', exact: true }).waitFor();
  });

  it('the page changes to German without a reload, and remembers it', async () => {
    await bob.getByRole('button', { name: 'Settings' }).click();
    await bob.getByRole('combobox', { name: 'Language' }).selectOption('Deutsch');
    await bob.getByRole('heading', { name: 'Einstellungen' }).waitFor();
    await bob.getByRole('heading', { name: 'Heute' }).first().waitFor({ state: 'attached' });
    await bob.reload();
    await bob.getByRole('button', { name: 'Einstellungen' }).waitFor();
    expect(await bob.evaluate(() => document.documentElement.lang)).toBe('de');
  });

  it('the page throws no errors and follows its Content-Security-Policy', () => {
    // Firefox reports as an error of the page that it was offline.
    const offline = /can’t establish a connection to|was interrupted while the page was loading/;
    expect(world.pageErrors.filter((error) => !offline.test(error))).toEqual([]);
  });
});

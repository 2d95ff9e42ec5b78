import { type BrowserContext, type Page } from 'playwright-core';
import { beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { allStored, composer, createWorld, messageText, send } from './browser';
import { remove } from './server';

const world = createWorld();

/** What the browser keeps about users, in all places where a page can keep something. */
const kept = (page: Page) =>
  page.evaluate(async () => {
    const keys = [...Object.keys(localStorage), ...Object.keys(sessionStorage)].filter(key => key !== 'uproar.theme');
    const databases = (await indexedDB.databases()).map(({ name }) => name);
    const requests: readonly Request[][] = await Promise.all(
      (await caches.keys()).map(async (name) => [...(await (await caches.open(name)).keys())]),
    );
    // The page itself is the same for everyone.
    const paths = requests.flat().map(({ url }) => new URL(url).pathname);
    return [...keys, ...databases, ...paths.filter((path) => path !== '/' && !path.startsWith('/assets/'))];
  });
const signOut = async (page: Page) => {
  await page.getByRole('button', { name: 'Settings' }).click();
  await page.getByRole('button', { name: 'Sign out' }).click();
};
const signInForm = (page: Page) => page.getByRole('heading', { name: 'Sign in' });

describe('what a browser keeps', () => {
  let context: BrowserContext;
  let token: string;
  const open = async (room = 'lobby') => {
    const page = await world.newTab(context);
    await page.goto(`${world.server.page}/#/${room}`);
    await composer(page).waitFor();
    return page;
  };

  beforeAll(async () => {
    token = await world.account('ann');
    for (const room of ['lobby', 'attic']) await world.room(token, room);
    await world.account('bob');
    for (const room of ['lobby', 'attic']) await world.join(await world.token('bob'), room);
    await world.say(token, 'lobby', 'The first message');
  });

  beforeEach(async () => {
    context = await world.context();
    const page = await world.signedIn('ann', 'lobby', await world.newTab(context));
    await composer(page).waitFor();
    await page.close();
  });

  it('is one draft for each tab', async () => {
    const [one, two] = [await open(), await open()];
    await composer(one).fill('Draft of one');
    await two.reload();
    await composer(two).waitFor();
    expect(await composer(two).inputValue()).toBe('');
    await composer(two).fill('Draft of two');
    await composer(one).press('Enter');
    await allStored(one);
    await two.reload();
    await composer(two).waitFor();
    expect(await composer(two).inputValue()).toBe('Draft of two');
    // The reply and the edit belong to the tab, too.
    await messageText(two, 'The first message').hover();
    await two.getByRole('button', { name: 'Reply' }).click();
    await one.reload();
    await composer(one).waitFor();
    expect(await one.locator('.replying').count()).toBe(0);
    // A tab that closes leaves its draft to the next one.
    await two.close({ runBeforeUnload: true });
    const three = await open();
    await expect.poll(() => composer(three).inputValue()).toBe('Draft of two');
    await three.locator('.replying').waitFor();
  });

  it('is the draft of a closed tab until a room is opened again, whatever other tabs write in it', async () => {
    const [one, two] = [await open(), await open()];
    await composer(two).fill('A long draft');
    await two.close({ runBeforeUnload: true });
    const isLeft = () => Object.keys(localStorage).some(key => key.startsWith('uproar.left.'));
    await expect.poll(() => one.evaluate(isLeft)).toBe(true);
    await composer(one).pressSequentially('ok');
    expect(await composer(one).inputValue()).toBe('ok');
    const three = await open();
    await expect.poll(() => composer(three).inputValue()).toBe('A long draft');
    await one.close();
    await three.close();
  });

  it('is nothing after signing out, in any tab', async () => {
    const [one, two] = [await open(), await open('attic')];
    await composer(one).fill('A secret');
    await composer(two).fill('Another secret');
    const three = await open();
    await composer(three).fill('A third one');
    await three.close({ runBeforeUnload: true });
    expect(await kept(one)).not.toEqual([]);
    await signOut(one);
    for (const page of [one, two]) {
      await signInForm(page).waitFor();
      await expect.poll(() => kept(page)).toEqual([]);
      expect(page.url()).not.toMatch(/lobby|attic/);
      expect(await page.getByText('Nothing you wrote is lost').count()).toBe(0);
    }
    await world.signInAgain(one, 'ann');
    await one.getByRole('link', { name: 'lobby' }).click();
    expect(await composer(one).inputValue()).toBe('');
  });

  it('asks before it deletes messages that have not been sent', async () => {
    const page = await open();
    await page.routeWebSocket(/connection/, () => {});
    await page.reload();
    await page.evaluate(() => {
      const item = { id: 'x', room: 'lobby', text: 'Unsent', time: 1, status: 'failed', error: 'No.' };
      const owner = localStorage.getItem('uproar.owner');
      localStorage.setItem(`uproar.outbox.${owner}.x`, JSON.stringify(item));
    });
    await page.reload();
    await signOut(page);
    await page.getByText('A message hasn’t been sent yet.').waitFor();
    await page.getByRole('button', { name: 'Sign out anyway' }).click();
    await signInForm(page).waitFor();
    expect(await kept(page)).toEqual([]);
  });

  it('is only what the user who signs in wrote', async () => {
    const page = await open();
    await composer(page).fill('Ann’s secret');
    const other = await open('attic');
    await composer(other).fill('Another secret of Ann’s');
    await other.close({ runBeforeUnload: true });
    // The session ends without signing out here.
    await world.server.stop();
    await world.server.start();
    await context.clearCookies();
    await page.reload();
    await signInForm(page).waitFor();
    await world.signInAgain(page, 'bob');
    await composer(page).waitFor();
    expect(await composer(page).inputValue()).toBe('');
    const values = await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }]));
    expect(values).not.toContain('secret');
  });

  it('can have any shape without keeping a room empty', async () => {
    const page = await open();
    const user = await page.evaluate(() => localStorage.getItem('uproar.owner'));
    for (const value of ['{}', '5', 'null', '[1,{}]', '"x"', '{"text":{}}', '{"id":"x","room":{},"text":[]}', '{']) {
      await page.evaluate(
        ([user, value]) => {
          for (const key of [
            `recent.${user}`,
            `draft.${user}.lobby`,
            `left.${user}.lobby`,
            `outbox.${user}.x`,
            'theme',
          ]) {
            for (const storage of [localStorage, sessionStorage]) storage.setItem(`uproar.${key}`, value!);
          }
        },
        [user, value],
      );
      await page.reload();
      await messageText(page, 'The first message').waitFor();
    }
    await page.evaluate(() => {
      const sizes = { '--size': '900px', '--leading': '{}', '--measure': '5' };
      localStorage.setItem(
        'uproar.theme',
        JSON.stringify({ mode: 7, light: { '--ink': 'url(x)' }, dark: null, sizes }),
      );
    });
    await page.reload();
    await messageText(page, 'The first message').waitFor();
    expect(await page.evaluate(() => getComputedStyle(document.body).fontSize)).toBe('15px');
  });

  it('does not reach another room that takes the name', async () => {
    const owner = await world.token('ann');
    const room = async () => world.room(owner, 'doomed', 'Doomed');
    await room();
    await world.join(await world.token('bob'), 'doomed');
    const bob = await world.signedIn('bob', 'doomed');
    await composer(bob).waitFor();
    await bob.context().setOffline(true);
    await bob.getByText('Connection lost').waitFor();
    await send(bob, 'For these people only');
    await messageText(bob, 'For these people only').waitFor();
    await remove(world.server, '/rooms/doomed', owner);
    await room();
    await world.join(await world.token('bob'), 'doomed');
    await bob.context().setOffline(false);
    await bob.getByText('This room has been replaced since you wrote this.').waitFor({ timeout: 20_000 });
    const headers = { Authorization: `Bearer ${owner}` };
    const chats = await fetch(`${world.server.url}/user/getchats?room=doomed`, { headers });
    expect(await chats.text()).not.toContain('For these people only');
    // The user may decide otherwise.
    await bob.getByRole('button', { name: 'Retry' }).click();
    await allStored(bob);
    await messageText(bob, 'For these people only').waitFor();
  });

  it('shows nothing of a deleted room in another one that takes the name', async () => {
    const owner = await world.token('ann');
    const room = async (first: string) => {
      await world.room(owner, 'reborn', 'Reborn');
      const token = await world.token('bob');
      await world.join(token, 'reborn');
      const offset = await world.say(owner, 'reborn', first);
      // The page loads the newest 100 messages, so the first one is fetched to be quoted.
      for (let i = 0; i < 105; i++) await world.say(token, 'reborn', `Message ${i}`);
      await world.reply('ann', 'reborn', 'What do you think?', offset);
    };
    await room('A secret of the old room');
    const bob = await world.signedIn('bob', 'reborn');
    const quote = (text: string) => bob.locator('.quote', { hasText: text });
    await quote('A secret of the old room').waitFor();
    await bob.context().setOffline(true);
    await bob.getByText('Connection lost').waitFor();
    await remove(world.server, '/rooms/reborn', owner);
    await room('Welcome to the new room');
    await bob.context().setOffline(false);
    await quote('Welcome to the new room').waitFor({ timeout: 20_000 });
    expect(await quote('A secret of the old room').count()).toBe(0);
  });

  it('throws no errors', () => {
    expect(world.pageErrors).toEqual([]);
  });
});

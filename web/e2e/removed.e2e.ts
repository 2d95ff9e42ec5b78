/** What somebody is told who was removed from a room, and what becomes of what they wrote there. */
import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { accessibilityFlaws, composer, createWorld, messageText, overflow, send } from './browser';
import { post } from './server';

const world = createWorld();

describe('a removed member', () => {
  let owner: string;
  let bob: Page;

  const call = async (path: string) => {
    const headers = { Authorization: `Bearer ${owner}` };
    const { ok } = await fetch(world.server.url + path, { method: 'DELETE', headers });
    expect(ok).toBe(true);
  };
  const remove = (room: string) => call(`/rooms/${room}/members/bob`);
  const add = (room: string) => post(world.server, `/rooms/${room}/members`, { username: 'bob' }, owner);
  const open = async (page: Page, room: string) => {
    await page.goto(`${world.server.page}/#/${room}`);
    await composer(page).waitFor();
  };
  const told = (page: Page, title: string) =>
    page.getByRole('heading', { name: `You’re no longer a member of ${title}` }).waitFor();
  const unsent = (page: Page) => page.locator('.unsent li');
  const clipboard = (page: Page) => page.evaluate(() => navigator.clipboard.readText());

  beforeAll(async () => {
    owner = await world.account('ann');
    await world.account('bob');
    await world.room(owner, 'lobby', 'The lobby');
    await world.room(owner, 'hall', 'The hall');
    await post(world.server, '/user/createroom', { name: 'cellar', title: 'The cellar', private: true }, owner);
    for (const room of ['lobby', 'hall', 'cellar']) await add(room);
    const context = await world.context({ permissions: ['clipboard-read', 'clipboard-write'] });
    bob = await world.newTab(context);
    await world.signIn(bob, 'bob', 'lobby');
    await composer(bob).waitFor();
  }, 60_000);

  it('of the open room is told so in both tabs, copies the draft, and goes on with it after joining again', async () => {
    const other = await world.newTab(bob.context());
    await open(other, 'lobby');
    await composer(bob).fill('Half a *sentence*');
    await remove('lobby');
    for (const page of [bob, other]) {
      await told(page, 'The lobby');
      await page.getByText('You left it or were removed. It’s public').waitFor();
    }
    expect(await unsent(other).count()).toBe(0);
    await other.close();
    await bob.bringToFront();
    await bob.getByRole('button', { name: 'Copy' }).click();
    await bob.getByText('Copied').waitFor();
    expect(await clipboard(bob)).toBe('Half a *sentence*');
    expect(await accessibilityFlaws(bob)).toEqual([]);
    await bob.getByRole('button', { name: 'Join again' }).click();
    await composer(bob).waitFor();
    expect(await composer(bob).inputValue()).toBe('Half a *sentence*');
  });

  it('of another room finds the draft there in the list, until it is discarded', async () => {
    await bob.getByRole('link', { name: 'The hall' }).click();
    await composer(bob).waitFor();
    await remove('lobby');
    await bob.getByText('You’re no longer a member of “The lobby”.').waitFor();
    await bob.getByRole('link', { name: /lobby.*Not sent/ }).click();
    await told(bob, 'The lobby');
    await bob.reload();
    await unsent(bob).getByText('Half a *sentence*').waitFor();
    await bob.getByRole('button', { name: 'Discard' }).click();
    await unsent(bob).waitFor({ state: 'detached' });
    await bob.getByRole('link', { name: /lobby/ }).waitFor({ state: 'detached' });
  });

  it('of a private room is told whom to ask, and is back with the draft when added', async () => {
    await open(bob, 'cellar');
    await composer(bob).fill('Secret');
    await remove('cellar');
    await told(bob, 'The cellar');
    await bob.getByText('Ask somebody in the room to add you.').waitFor();
    expect(await bob.getByRole('button', { name: /^Join/ }).count()).toBe(0);
    await unsent(bob).getByText('Secret').waitFor();
    await add('cellar');
    await composer(bob).waitFor();
    expect(await composer(bob).inputValue()).toBe('Secret');
    await composer(bob).fill('');
  });

  it('who was offline keeps what was not sent, and sends it after joining again', async () => {
    await open(bob, 'hall');
    await bob.context().setOffline(true);
    await bob.getByText('Connection lost').waitFor();
    await send(bob, 'Not lost');
    await composer(bob).fill('And a draft');
    await remove('hall');
    await bob.context().setOffline(false);
    await bob.getByText('You’re no longer a member of “The hall”.').waitFor({ timeout: 20_000 });
    await told(bob, 'The hall');
    expect(await unsent(bob).locator('.text').allTextContents()).toEqual(['Not lost', 'And a draft']);
    await unsent(bob).filter({ hasText: 'Not lost' }).getByRole('button', { name: 'Copy' }).click();
    await bob.getByText('Copied').waitFor();
    expect(await clipboard(bob)).toBe('Not lost');
    await bob.getByRole('button', { name: 'Join again' }).click();
    await composer(bob).waitFor();
    expect(await composer(bob).inputValue()).toBe('And a draft');
    await bob.getByRole('button', { name: 'Retry' }).click();
    await messageText(bob, 'Not lost').waitFor();
    await bob.locator('.row.failed').waitFor({ state: 'detached' });
    await composer(bob).fill('');
  });

  it('on a phone is told the same, also that the room was deleted', async () => {
    const context = await world.context({ hasTouch: true, isMobile: true, viewport: { width: 320, height: 640 } });
    const phone = await world.newTab(context);
    await world.signIn(phone, 'bob', 'hall');
    await composer(phone).fill('A long word: Donaudampfschifffahrtsgesellschaftskapitänsmützenbommel');
    await call('/rooms/hall');
    await told(phone, 'The hall');
    await phone.getByText('It was deleted.').waitFor();
    await unsent(phone).getByText('A long word').waitFor();
    expect(await overflow(phone)).toBe(0);
    expect(await accessibilityFlaws(phone)).toEqual([]);
    for (const button of await unsent(phone).getByRole('button').all()) {
      expect((await button.boundingBox())!.height).toBeGreaterThanOrEqual(44);
    }
    await told(bob, 'The hall');
  });

  it('causes no errors', () => {
    expect(world.pageErrors).toEqual([]);
  });
});

import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { accessibilityFlaws, createWorld, messageText } from './browser';

const world = createWorld();

describe('the list of rooms', () => {
  let page: Page;
  let bob: string;
  const order = () => page.locator('.rooms li .title').allTextContents();
  const inOrder = (...titles: string[]) => expect.poll(order).toEqual(titles);
  const mark = (name: 'Favourite' | 'Mute') => page.locator('.panel').getByRole('button', { name });

  beforeAll(async () => {
    const ann = await world.account('ann');
    bob = await world.account('bob');
    for (const name of ['attic', 'barn', 'cellar']) {
      await world.room(ann, name);
      await world.join(bob, name);
    }
    await world.say(bob, 'barn', 'First');
    page = await world.signedIn('ann', 'cellar');
  }, 60_000);

  it('begins with the room that has the latest message', async () => {
    await inOrder('barn', 'cellar', 'attic');
    await world.say(bob, 'attic', 'Second');
    await inOrder('attic', 'barn', 'cellar');
    await page.reload();
    await inOrder('attic', 'barn', 'cellar');
  });

  it('shows favourites before the others, in all tabs and after a reload', async () => {
    await page.getByRole('button', { name: 'Room details' }).click();
    await mark('Favourite').click();
    await inOrder('cellar', 'attic', 'barn');
    expect(await mark('Favourite').getAttribute('aria-pressed')).toBe('true');
    await page.getByRole('link', { name: /cellar favourite/ }).waitFor();
    expect(await accessibilityFlaws(page)).toEqual([]);

    const other = await world.newTab(page.context());
    await other.goto(`${world.server.page}/#/barn`);
    await other.getByRole('button', { name: 'Room details' }).click();
    await mark('Favourite').waitFor();
    await other.locator('.panel').getByRole('button', { name: 'Favourite' }).click();
    await inOrder('barn', 'cellar', 'attic');
    await other.close();
    await page.reload();
    await inOrder('barn', 'cellar', 'attic');
  });

  it('does not count what is unread in a muted room', async () => {
    await page.goto(`${world.server.page}/#/attic`);
    await messageText(page, 'Second').waitFor();
    if (!(await mark('Mute').isVisible())) await page.getByRole('button', { name: 'Room details' }).click();
    await mark('Mute').click();
    await page.goto(`${world.server.page}/#/cellar`);
    await page.getByRole('heading', { name: 'cellar', level: 1 }).waitFor();
    await world.say(bob, 'attic', 'Third');
    await page.getByRole('link', { name: /attic muted 1 unread/ }).waitFor();
    await world.say(bob, 'barn', 'Fourth');
    await page.getByRole('link', { name: /barn favourite 1 unread/ }).waitFor();
    await expect.poll(() => page.title()).toMatch(/^\(1\) cellar/);
    expect(await accessibilityFlaws(page)).toEqual([]);
  });
});

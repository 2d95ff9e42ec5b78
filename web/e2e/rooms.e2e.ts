import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { accessibilityFlaws, composer, createWorld, messageText } from './browser';

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

  it('is walked through with Alt and the arrow keys, also from unread room to unread room', async () => {
    const at = (title: string) => page.getByRole('heading', { name: title, level: 1, exact: true }).waitFor();
    await page.goto(`${world.server.page}/#/barn`);
    await inOrder('barn', 'cellar', 'attic');
    await composer(page).fill('Half');
    for (const title of ['cellar', 'attic', 'barn']) {
      await page.keyboard.press('Alt+ArrowDown');
      await at(title);
    }
    for (const title of ['attic', 'cellar', 'barn']) {
      await page.keyboard.press('Alt+ArrowUp');
      await at(title);
    }
    // The muted one is passed over.
    await world.say(bob, 'attic', 'Fifth');
    await world.say(bob, 'cellar', 'Sixth');
    await page.getByRole('link', { name: /cellar.* 1 unread/ }).waitFor();
    await page.keyboard.press('Alt+Shift+ArrowDown');
    await at('cellar');
    expect(await composer(page).inputValue()).toBe('');
    await page.getByRole('link', { name: /cellar.* 1 unread/ }).waitFor({ state: 'detached' });
    await page.keyboard.press('Alt+Shift+ArrowDown');
    await at('cellar');
  });
});

describe('a new room', () => {
  it('asks for its people, one after the other, and says how each went', async () => {
    await world.account('olga');
    for (const name of ['carla', 'Dan Dee']) await world.account(name);
    const page = await world.signedIn('olga');
    await page.getByRole('button', { name: 'Find or create one' }).click();
    await page.getByLabel('Room name').fill('den');
    await page.getByLabel('Private').check();
    await page.getByLabel('Room name').press('Enter');
    await page.getByRole('button', { name: 'Create “den”' }).click();
    const step = page.getByRole('dialog', { name: 'Add people to “den”' });
    await step.getByText('only the people you add can see it').waitFor();
    await step.getByRole('button', { name: 'Skip' }).waitFor();
    await step.locator('input:focus').waitFor();
    for (const [name, answer] of [
      ['carla', 'carla is now a member.'],
      ['dan dee', 'Dan Dee is now a member.'],
      ['CARLA', 'carla is already a member.'],
      ['olga', 'olga is already a member.'],
      ['nobody', 'There is no user with this name.'],
    ] as const) {
      await page.keyboard.type(name);
      await page.keyboard.press('Enter');
      await step.getByText(answer).waitFor();
    }
    // What could not be added can be corrected.
    expect(await step.getByLabel('Add by username').inputValue()).toBe('nobody');
    expect(await accessibilityFlaws(page)).toEqual([]);
    await step.getByRole('button', { name: 'Done' }).click();
    await page.getByRole('heading', { name: 'den' }).waitFor();
    const carla = await world.signedIn('carla');
    await carla.getByRole('link', { name: 'den' }).waitFor();
    await carla.context().close();
  });
});

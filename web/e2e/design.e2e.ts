import { type Locator, type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { contrast } from '../src/state/colour';
import { accessibilityFlaws, composer, createWorld, messageText } from './browser';
import { createDemoRoom } from './demo-room';

const world = createWorld();

/** The colour of a property on screen, as `#rrggbb`. */
async function colourOf(element: Locator, property: string): Promise<string> {
  return element.evaluate((element, property) => {
    // The canvas turns every notation into channels.
    const context = document.createElement('canvas').getContext('2d')!;
    context.fillStyle = getComputedStyle(element).getPropertyValue(property);
    context.fillRect(0, 0, 1, 1);
    const channels = [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
    return `#${channels.map((channel) => channel.toString(16).padStart(2, '0')).join('')}`;
  }, property);
}

/** The left and right edge of an element on screen, in whole pixels. */
async function edgesOf(element: Locator): Promise<[number, number]> {
  const { x, width } = (await element.boundingBox())!;
  return [Math.round(x), Math.round(x + width)];
}

describe('the design', () => {
  let page: Page;

  beforeAll(async () => {
    const token = await createDemoRoom(world);
    for (let i = 0; i < 3; i++) await world.say(token['jonas']!, 'kitchen', `In a row ${i}`);
    page = await world.signedIn('Mira', 'kitchen');
    await messageText(page, 'In a row 2').waitFor();
  }, 60_000);

  it('shows who speaks by initials on a colour of their own, once for messages in a row', async () => {
    const avatarOf = (text: string) => page.locator('.row', { hasText: text }).locator('.avatar');
    const initialsOf = (text: string) => avatarOf(text).getAttribute('data-initials');
    expect(await initialsOf('Who wants to bake')).toBe('M');
    expect(await initialsOf('שבת')).toBe('ל');
    expect(await avatarOf('In a row 0').count()).toBe(1);
    expect(await avatarOf('In a row 1').count()).toBe(0);
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme });
      const paper = await colourOf(page.locator('body'), 'background-color');
      const colours: string[] = [];
      for (const text of ['Who wants to bake', 'How old is she', 'In a row 0', 'how hot does', 'Recipe', 'שבת']) {
        const avatar = page.locator('.row', { has: page.locator('.avatar'), hasText: text }).locator('.avatar');
        if ((await avatar.count()) === 0) continue;
        const background = await colourOf(avatar, 'background-color');
        expect(contrast(await colourOf(avatar, 'color'), background), text).toBeGreaterThanOrEqual(4.5);
        expect(contrast(background, paper), text).toBeGreaterThanOrEqual(3);
        colours.push(background);
      }
      expect(colours.length).toBe(5);
      expect(new Set(colours).size).toBe(5);
    }
    await page.emulateMedia({ colorScheme: 'light' });
    // The same in all rooms and messages.
    const eight = await colourOf(avatarOf('Eight in March'), 'background-color');
    expect(await colourOf(avatarOf('In a row 0'), 'background-color')).toBe(eight);
    // A copied message has no initials in it.
    expect(await page.locator('.row', { hasText: 'In a row 0' }).innerText()).toMatch(/^jonas/);
  });

  it('has one left and one right edge', async () => {
    for (const width of [768, 1440, 2560]) {
      await page.setViewportSize({ width, height: 900 });
      await page.locator('.scroller').evaluate((scroller) => scroller.scrollTo(0, 0));
      const [left, right] = await edgesOf(page.locator('.input-row'));
      expect((await edgesOf(page.locator('.row .avatar').first()))[0], `${width}`).toBe(left);
      expect((await edgesOf(page.locator('.room-head .kind')))[0], `${width}`).toBe(left);
      expect(await edgesOf(page.locator('.day').first()), `${width}`).toEqual([left, right]);
      expect((await edgesOf(page.locator('.room-head button').last()))[1], `${width}`).toBe(right);
      const texts = await page.locator('.row .text, .row .by, .room-head h1').evaluateAll((all) =>
        all.map((element) => Math.round(element.getBoundingClientRect().left)),
      );
      expect(new Set(texts).size, `${width}`).toBe(1);
    }
    await page.setViewportSize({ width: 1280, height: 800 });
    await page.locator('.scroller').evaluate((scroller) => scroller.scrollTo(0, scroller.scrollHeight));
  });

  it('shows the actions of a message next to its text, and says what they do', async () => {
    for (const text of ['In a row 1', 'Sorted, then', 'I’ll be there at nine']) {
      const height = (await page.locator('.row', { hasText: text }).boundingBox())!.height;
      await messageText(page, text).hover();
      const words = (await messageText(page, text).boundingBox())!;
      const actions = (await page.locator('.actions').boundingBox())!;
      expect(actions.x - (words.x + words.width), text).toBeGreaterThan(0);
      expect(actions.x - (words.x + words.width), text).toBeLessThan(24);
      expect(Math.abs(actions.y + actions.height / 2 - (words.y + 11)), text).toBeLessThan(6);
      expect((await page.locator('.row', { hasText: text }).boundingBox())!.height, text).toBe(height);
    }
    // The actions stay within the column.
    await page.setViewportSize({ width: 720, height: 800 });
    await messageText(page, 'Recipe').hover();
    const [left, right] = await edgesOf(page.locator('.actions'));
    expect(left).toBeGreaterThan((await edgesOf(page.locator('.row .avatar').first()))[0]);
    expect(right).toBeLessThanOrEqual((await edgesOf(page.locator('.input-row')))[1]);
    await page.setViewportSize({ width: 1280, height: 800 });
    await messageText(page, 'Sorted, then').hover();
    for (const name of ['React', 'Reply', 'Edit', 'Delete']) {
      const button = page.locator('.actions').getByRole('button', { name });
      const tip = () => button.evaluate((element) => getComputedStyle(element, '::after').content);
      expect(await tip()).toBe('none');
      await button.hover();
      expect(await tip(), name).toContain(`"${name}"`);
    }
    expect(await accessibilityFlaws(page)).toEqual([]);
    await page.mouse.move(0, 0);
    await composer(page).focus();
  });

  it('formats the selection in the message box by buttons', async () => {
    await composer(page).fill('some words here');
    const select = (start: number, end: number) =>
      composer(page).evaluate(
        (area, [start, end]) => (area as HTMLTextAreaElement).setSelectionRange(start!, end!),
        [start, end],
      );
    await select(5, 10);
    const buttons = page.getByRole('group', { name: 'Formatting' });
    const press = (name: string) => buttons.getByRole('button', { name }).click();
    await press('Bold');
    expect(await composer(page).inputValue()).toBe('some **words** here');
    await composer(page).and(page.locator(':focus')).waitFor();
    await press('Italic');
    expect(await composer(page).inputValue()).toBe('some **_words_** here');
    await press('Italic');
    await press('Bold');
    await press('Code');
    expect(await composer(page).inputValue()).toBe('some `words` here');
    await page.keyboard.type('letters');
    expect(await composer(page).inputValue()).toBe('some `letters` here');
    await composer(page).fill('');
  });

  it('has buttons and fields whose outline can be seen, and spends no accent on the composer’s focus', async () => {
    await composer(page).focus();
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme });
      const paper = await colourOf(page.locator('body'), 'background-color');
      const ground = await colourOf(page.locator('.rooms'), 'background-color');
      const outlined: [Locator, string][] = [
        [page.locator('.room-head .members'), paper],
        [page.getByRole('button', { name: 'Room details' }), paper],
        [page.locator('.input-row'), paper],
        [page.getByRole('button', { name: 'Find or create a room' }), ground],
      ];
      for (const [element, background] of outlined) {
        const outline = await colourOf(element, 'border-top-color');
        expect(contrast(outline, background), `${colorScheme} ${outline}`).toBeGreaterThanOrEqual(3);
      }
      await composer(page).fill('x');
      const send = await colourOf(page.getByRole('button', { name: 'Send' }), 'background-color');
      expect(await colourOf(page.locator('.input-row'), 'border-top-color')).not.toBe(send);
      await composer(page).fill('');
    }
    await page.emulateMedia({ colorScheme: 'light' });
  });

  it('shows members and details beside the messages, or over them on narrow screens', async () => {
    const panel = page.locator('.panel');
    for (const [name, button] of [['Members', /online$/], ['Room details', 'Room details']] as const) {
      await page.setViewportSize({ width: 1280, height: 800 });
      const opener = page.locator('.room-head').getByRole('button', { name: button });
      await opener.click();
      await page.getByRole('complementary', { name }).waitFor();
      expect(await panel.count()).toBe(1);
      expect(await opener.getAttribute('aria-expanded')).toBe('true');
      expect((await edgesOf(page.locator('.messages')))[1]).toBeLessThanOrEqual((await edgesOf(panel))[0]);
      await page.setViewportSize({ width: 700, height: 800 });
      expect((await edgesOf(page.locator('.messages')))[1]).toBe((await edgesOf(panel))[1]);
      expect(await accessibilityFlaws(page), name).toEqual([]);
    }
    await page.setViewportSize({ width: 1280, height: 800 });
    // One panel takes the place of the other, and the focus goes back to the button of the one that is closed.
    await page.keyboard.press('Escape');
    await panel.waitFor({ state: 'detached' });
    await page.getByRole('button', { name: 'Room details' }).and(page.locator(':focus')).waitFor();
  });

  it('says what a room is', async () => {
    await page.getByRole('button', { name: 'Room details' }).click();
    const panel = page.getByRole('complementary', { name: 'Room details' });
    for (const text of ['The kitchen', 'kitchen', 'Everyone', '5', 'You own this room']) {
      await panel.locator('dd', { hasText: text }).first().waitFor();
    }
    await panel.getByRole('button', { name: 'Delete room' }).click();
    await page.getByRole('button', { name: 'Cancel' }).click();
    await page.getByRole('heading', { name: 'The kitchen' }).waitFor();
    await page.getByRole('button', { name: 'Close' }).click();
  });

  it('shows who is here by a green dot, and asks before it removes a member', async () => {
    const tomás = await world.signedIn('Tomás', 'kitchen');
    await page.getByRole('button', { name: '2 online' }).click();
    const panel = page.getByRole('complementary', { name: 'Members' });
    await panel.getByRole('heading', { name: 'Members (5)' }).waitFor();
    expect(await panel.locator('li').count()).toBe(5);
    expect(await panel.locator('li.here bdi').allTextContents()).toEqual(['Mira', 'Tomás']);
    const tomásInPanel = panel.getByRole('button', { name: /^Tomás ?, online/ });
    const card = page.getByRole('dialog', { name: 'Profile of Tomás' });
    const remove = card.getByRole('button', { name: 'Remove from room' });
    await tomásInPanel.click();
    await remove.click();
    await page.getByText('It’s public, so they can join it again.').waitFor();
    expect(await accessibilityFlaws(page)).toEqual([]);
    await page.getByRole('button', { name: 'Cancel' }).click();
    await tomásInPanel.and(page.locator(':focus')).waitFor();
    expect(await composer(tomás).count()).toBe(1);
    await tomásInPanel.press('Enter');
    await remove.press('Enter');
    await page.getByRole('button', { name: 'Remove', exact: true }).press('Enter');
    await tomásInPanel.waitFor({ state: 'detached' });
    await panel.locator('button:focus').waitFor();
    await tomás.getByText('You’re no longer a member of The kitchen').waitFor();
    await panel.getByRole('heading', { name: 'Members (4)' }).waitFor();
    await page.getByRole('button', { name: 'Close' }).click();
    await tomás.context().close();
  });

  it('shows the shapes of messages, rooms and members until they are loaded', async () => {
    const tab = await world.newTab(page.context());
    let waiting: (() => void)[] | undefined = [];
    for (const what of ['**/user/getchats*', '**/members*']) {
      await tab.route(what, async (route) => {
        if (waiting) await new Promise<void>((go) => waiting!.push(go));
        await route.continue();
      });
    }
    const goOn = () => {
      waiting?.forEach((go) => go());
      waiting = undefined;
    };
    await tab.goto(`${world.server.page}/#/kitchen`);
    await tab.locator('.messages .skeleton .avatar').first().waitFor();
    await composer(tab).waitFor();
    const before = await edgesOf(tab.locator('.input-row'));
    goOn();
    await messageText(tab, 'In a row 2').waitFor();
    expect(await tab.locator('.skeleton').count()).toBe(0);
    expect(await edgesOf(tab.locator('.input-row'))).toEqual(before);
    waiting = [];
    await tab.locator('.room-head .members').click();
    await tab.locator('.panel .skeleton .avatar').first().waitFor();
    goOn();
    await tab.locator('.panel').getByText('Owner').waitFor();
    expect(await tab.locator('.skeleton').count()).toBe(0);
    await tab.close();
  });

  it('moves nothing when it has something to say', async () => {
    await page.bringToFront();
    const places = () =>
      page.locator('.room-head, .rooms li, .row, .composer').evaluateAll((all) =>
        all.map((element) => element.getBoundingClientRect().top),
      );
    const before = await places();
    await page.context().setOffline(true);
    await page.locator('.banner', { hasText: 'Connection lost' }).waitFor();
    expect(await places()).toEqual(before);
    expect(await accessibilityFlaws(page)).toEqual([]);
    await page.context().setOffline(false);
    await page.locator('.banner', { hasText: 'Back online' }).waitFor({ timeout: 20_000 });
    expect(await places()).toEqual(before);
  });

  it('names the licences of what it contains', async () => {
    await page.getByRole('button', { name: 'Settings' }).click();
    const href = await page.getByRole('link', { name: 'software of others' }).getAttribute('href');
    const text = await page.evaluate(async (href) => (await fetch(href)).text(), href!);
    for (const name of ['lucide', 'preact', 'centrifuge']) expect(text).toMatch(new RegExp(`^${name}$`, 'm'));
    expect(text).toContain('ISC License');
    await page.keyboard.press('Escape');
  });

  it('throws no errors', () => {
    expect(world.pageErrors).toEqual([]);
  });
});

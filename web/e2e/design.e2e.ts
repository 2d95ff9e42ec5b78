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
      expect(await edgesOf(page.locator('.day').first()), `${width}`).toEqual([left, right]);
      expect((await edgesOf(page.locator('.room-head h1')))[0], `${width}`).toBe(left);
      expect((await edgesOf(page.locator('.room-head button').last()))[1], `${width}`).toBe(right);
      const texts = await page.locator('.row .text, .row .by').evaluateAll((all) =>
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

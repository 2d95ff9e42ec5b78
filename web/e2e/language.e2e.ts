import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { accessibilityFlaws, composer, createWorld } from './browser';

const world = createWorld();

const lang = (page: Page) => page.evaluate(() => document.documentElement.lang);

describe('the language', () => {
  let ann: Page;

  beforeAll(async () => {
    const token = await world.account('ann');
    await world.room(token, 'lobby', 'The lobby');
    ann = await world.signedIn('ann', 'lobby');
  });

  it('is that of the browser', async () => {
    expect(await lang(ann)).toBe('en-GB');
    const page = await world.newTab(await world.context({ locale: 'de-AT' }));
    await page.goto(world.server.page);
    await page.getByRole('heading', { name: 'Anmelden' }).waitFor();
    expect(await lang(page)).toBe('de-AT');
    expect(await accessibilityFlaws(page)).toEqual([]);
  });

  it('can be chosen before signing in, and is remembered', async () => {
    const page = await world.newVisitor();
    await page.goto(world.server.page);
    await page.getByLabel('Username or email').fill('ann');
    await page.getByLabel('Language').selectOption('Deutsch');
    await page.getByRole('heading', { name: 'Anmelden' }).waitFor();
    expect(await page.getByLabel('Benutzername oder E-Mail-Adresse').inputValue()).toBe('ann');
    await page.reload();
    await page.getByRole('heading', { name: 'Anmelden' }).waitFor();
    expect(await lang(page)).toBe('de');
  });

  it('changes in the settings without a reload, and in other tabs', async () => {
    const other = await world.newTab(ann.context());
    await other.goto(`${world.server.page}/#/lobby`);
    await composer(ann).fill('Half a sent');
    await ann.evaluate(() => Object.assign(window, { marker: true }));
    await ann.getByRole('button', { name: 'Settings' }).click();
    const choice = ann.getByRole('combobox', { name: /Language|Sprache/ });
    await choice.focus();
    await choice.selectOption('Deutsch');
    await ann.getByRole('heading', { name: 'Einstellungen' }).waitFor();
    expect(await choice.evaluate((element) => element === document.activeElement)).toBe(true);
    expect(await lang(ann)).toBe('de');
    await expect.poll(() => lang(other)).toBe('de');
    await ann.keyboard.press('Escape');
    expect(await composer(ann).inputValue()).toBe('Half a sent');
    expect(await ann.evaluate(() => 'marker' in window)).toBe(true);
  });
});

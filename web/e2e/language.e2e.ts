/** The page in German, and changing its language and its times. */
import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
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

const lang = (page: Page) => page.evaluate(() => document.documentElement.lang);

async function signInInGerman(page: Page): Promise<void> {
  await page.getByLabel('Benutzername oder E-Mail-Adresse').fill('ann');
  await page.getByLabel('Passwort').fill(PASSWORD);
  await page.getByRole('button', { name: 'Anmelden' }).click();
  await page.locator('.main').waitFor();
}

/** Chooses a language in the settings, which stay open. */
async function choose(page: Page, language: string): Promise<void> {
  await page.getByRole('button', { name: /^(Settings|Einstellungen)$/ }).click();
  await page.getByRole('combobox', { name: /^(Language|Sprache)$/ }).selectOption(language);
}

describe('the language', () => {
  let ann: Page;

  beforeAll(async () => {
    const token = await world.account('ann');
    await world.room(token, 'lobby', 'The lobby');
    await world.room(token, 'library', 'The library');
    const bob = await world.account('bob');
    await world.join(bob, 'library');
    await world.say(bob, 'library', 'Hello');
    for (let i = 1; i <= 60; i++) await world.say(token, 'lobby', `Message ${i}.${' And so on.'.repeat(i % 9)}`);
    ann = await world.signedIn('ann', 'lobby');
    await messageText(ann, 'Message 60').waitFor();
  }, 60_000);

  it('is that of the browser, with the dates of its region', async () => {
    expect(await lang(ann)).toBe('en-GB');
    const page = await world.newTab(await world.context({ locale: 'de-AT' }));
    await page.goto(world.server.page);
    await page.getByRole('heading', { name: 'Anmelden' }).waitFor();
    expect(await lang(page)).toBe('de-AT');
    expect(await accessibilityFlaws(page)).toEqual([]);
  });

  it('can be chosen before signing in, also for an error on screen, and is remembered', async () => {
    const page = await world.newVisitor();
    await page.goto(world.server.page);
    await page.getByLabel('Username or email').fill('ann');
    await page.getByLabel('Password').fill('wrong password');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByText('There is no such user, or the password is wrong.').waitFor();
    await page.getByRole('combobox', { name: 'Language' }).selectOption('Deutsch');
    await page.getByText('Dieses Konto gibt es nicht, oder das Passwort ist falsch.').waitFor();
    expect(await page.getByLabel('Benutzername oder E-Mail-Adresse').inputValue()).toBe('ann');
    await page.reload();
    await page.getByRole('heading', { name: 'Anmelden' }).waitFor();
    expect(await lang(page)).toBe('de');
    await signInInGerman(page);
    await page.getByText('Wähle einen Raum aus.').waitFor();
    await page.getByRole('button', { name: 'Einstellungen' }).click();
    await page.getByRole('button', { name: 'Überall abmelden' }).click();
    await page.getByRole('heading', { name: 'Anmelden' }).waitFor();
    await ann.getByRole('heading', { name: 'Sign in' }).waitFor();
    await world.signInAgain(ann, 'ann');
  });

  it('changes without a reload, in all tabs, and keeps the draft, the focus and the place in the messages', async () => {
    const other = await world.newTab(ann.context());
    await other.goto(`${world.server.page}/#/lobby`);
    await composer(ann).fill('Half a sent');
    await ann.evaluate(() => Object.assign(window, { marker: true }));
    await messageText(ann, 'Message 60').waitFor();
    await ann.locator('.scroller').evaluate((scroller) => (scroller.scrollTop = scroller.scrollHeight / 2));
    const firstRow = () =>
      ann.evaluate(() => {
        const { top } = document.querySelector('.scroller')!.getBoundingClientRect();
        const row = [...document.querySelectorAll('.row')].find((row) => row.getBoundingClientRect().bottom > top)!;
        return [row.querySelector('.text')!.textContent!, Math.round(row.getBoundingClientRect().top - top)];
      });
    await ann.getByRole('button', { name: 'Jump to latest' }).waitFor();
    const before = await firstRow();
    await ann.getByRole('button', { name: 'Settings' }).click();
    const choice = ann.getByRole('combobox', { name: /^(Language|Sprache)$/ });
    await choice.focus();
    await choice.selectOption('Deutsch');
    await ann.getByRole('heading', { name: 'Einstellungen' }).waitFor();
    expect(await choice.evaluate((element) => element === document.activeElement)).toBe(true);
    expect(await lang(ann)).toBe('de');
    await expect.poll(() => lang(other)).toBe('de');
    await other.getByRole('button', { name: 'Einstellungen' }).waitFor();
    await other.close();
    await ann.keyboard.press('Escape');
    expect(await composer(ann).inputValue()).toBe('Half a sent');
    expect(await firstRow()).toEqual(before);
    expect(await ann.evaluate(() => 'marker' in window)).toBe(true);
    await composer(ann).fill('');
    await ann.getByRole('button', { name: 'Zu den neuesten' }).click();
  });

  it('has its own plurals, dates and numbers', async () => {
    await ann.getByRole('link', { name: 'The library' }).click();
    await ann.getByRole('heading', { name: 'Heute' }).waitFor();
    await ann.getByRole('button', { name: 'Raum finden oder erstellen' }).click();
    await ann.getByRole('listitem').filter({ hasText: 'The lobby' }).getByText('1 Mitglied', { exact: true }).waitFor();
    await ann.getByRole('listitem').filter({ hasText: 'The library' }).getByText('2 Mitglieder').waitFor();
    await ann.keyboard.press('Escape');
    await composer(ann).fill('😀'.repeat(10_000));
    await ann.getByText('Deine Nachricht ist 5.904 Zeichen zu lang.').waitFor();
    await composer(ann).fill('');
  });

  it('writes times with 12 or 24 hours, wherever they are', async () => {
    const time = ann.locator('.row.head time').last();
    const texts = async () => [await time.textContent(), await time.getAttribute('title')];
    for (const text of await texts()) expect(text).not.toMatch(/[AP]M/);
    await ann.getByRole('button', { name: 'Einstellungen' }).click();
    const clock = ann.getByRole('combobox', { name: 'Uhrzeiten' });
    await clock.selectOption('12 Stunden');
    for (const text of await texts()) expect(text).toMatch(/\d\s[AP]M$/);
    await ann.reload();
    await time.waitFor();
    for (const text of await texts()) expect(text).toMatch(/\d\s[AP]M$/);
    await ann.getByRole('button', { name: 'Einstellungen' }).click();
    await clock.selectOption('24 Stunden');
    for (const text of await texts()) expect(text).toMatch(/:\d\d$/);
    await ann.keyboard.press('Escape');
  });

  it('finds emoji by their names in it, and by the English ones', async () => {
    await ann.getByRole('button', { name: 'Emojis', exact: true }).click();
    const search = ann.getByLabel('Emojis suchen');
    await search.fill('herz rot');
    await ann.getByRole('button', { name: 'rotes Herz' }).waitFor();
    await search.fill('red heart');
    await ann.getByRole('button', { name: 'rotes Herz' }).click();
    expect(await composer(ann).inputValue()).toBe('❤️');
    await composer(ann).fill('');
    await composer(ann).pressSequentially('hm :frö');
    await ann.getByRole('listbox', { name: 'Emojis' }).waitFor();
    await composer(ann).fill('');
  });

  it('is there without the network, even for what is on screen already', async () => {
    const hasGerman = () =>
      ann.evaluate(async () => {
        for (const name of await caches.keys()) {
          const files = await (await caches.open(name)).keys();
          if (files.some(({ url }) => url.includes('/assets/de-'))) return true;
        }
        return false;
      });
    await expect.poll(hasGerman).toBe(true);
    await ann.context().setOffline(true);
    const banner = ann.locator('.banner');
    await banner.filter({ hasText: 'Verbindung unterbrochen' }).waitFor();
    await choose(ann, 'English');
    await banner.filter({ hasText: 'Connection lost' }).waitFor();
    await ann.getByRole('combobox', { name: 'Language' }).selectOption('Deutsch');
    await banner.filter({ hasText: 'Verbindung unterbrochen' }).waitFor();
    await ann.keyboard.press('Escape');
    await send(ann, 'Offline geschrieben');
    await ann.locator('.row.pending').waitFor();
    await ann.reload();
    await ann.getByText('1 Nachricht wartet darauf, gesendet zu werden.').waitFor();
    await ann.context().setOffline(false);
    await messageText(ann, 'Offline geschrieben').waitFor();
    await allStored(ann);
  });

  it('fits every width in both themes, without accessibility violations', async () => {
    const dialogs = ['Einstellungen', 'Raum finden oder erstellen'];
    for (const [width, height] of [[320, 640], [1440, 900]] as const) {
      for (const colorScheme of ['light', 'dark'] as const) {
        await ann.emulateMedia({ colorScheme });
        await ann.setViewportSize({ width, height });
        const look = async (view: string) => {
          expect(await overflow(ann), `${view} ${width}`).toBe(0);
          const wide = await ann.locator('dialog, .panel').evaluateAll((all) =>
            all.map((element) => element.scrollWidth - element.clientWidth),
          );
          expect(Math.max(0, ...wide), `${view} ${width}`).toBe(0);
          await screenshot(ann, `german-${view}-${width}-${colorScheme}`);
          expect(await accessibilityFlaws(ann), `${view} ${width} ${colorScheme}`).toEqual([]);
        };
        await look('room');
        for (const panel of ['Mitglieder', 'Raumdetails']) {
          const button = panel === 'Mitglieder' ? ann.locator('.room-head .members') : ann.getByLabel(panel);
          await button.first().click();
          await ann.getByRole('complementary', { name: panel }).waitFor();
          await look(panel);
          await ann.getByRole('complementary').getByRole('button', { name: 'Schließen' }).click();
        }
        if (width === 320) {
          await ann.getByRole('link', { name: 'Alle Räume' }).click();
          await screenshot(ann, `german-rooms-320-${colorScheme}`);
        }
        for (const dialog of dialogs) {
          await ann.getByRole('button', { name: dialog }).click();
          await ann.getByRole('dialog', { name: dialog }).waitFor();
          await look(dialog.slice(0, 4));
          if (dialog === 'Einstellungen') {
            await ann.getByRole('button', { name: 'Tastenkürzel anzeigen' }).click();
            await ann.getByRole('dialog', { name: 'Tastenkürzel' }).waitFor();
            await look('keys');
          }
          await ann.keyboard.press('Escape');
        }
        await ann.getByRole('link', { name: 'The lobby' }).click();
        await composer(ann).waitFor();
      }
    }
  }, 120_000);

  it('throws no errors', () => {
    expect(world.pageErrors).toEqual([]);
  });
});

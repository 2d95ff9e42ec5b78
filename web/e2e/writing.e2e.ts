import { type Locator, type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { accessibilityFlaws, allStored, composer, createWorld, messageText, overflow, screenshot } from './browser';

const world = createWorld();
const rowOf = (page: Page, text: string) =>
  page.locator('.row').filter({ has: page.locator('.text', { hasText: text }) });

describe('writing', () => {
  let page: Page;
  const list = () => page.getByRole('listbox');
  const options = () => list().getByRole('option');
  const picker = (name = 'Emoji') => page.getByRole('dialog', { name });
  const isFocused = (locator: Locator) => locator.and(page.locator(':focus')).waitFor();

  beforeAll(async () => {
    const ann = await world.account('ann');
    await world.account('bob');
    await world.room(ann, 'lobby', 'The lobby');
    await world.room(ann, 'garden', 'The garden');
    await world.room(ann, 'gate');
    for (const name of ['cem', 'dov', 'eva', 'fay']) await world.join(await world.account(name), 'lobby');
    await world.join(await world.token('bob'), 'lobby');
    page = await world.signedIn('ann', 'lobby');
    await composer(page).waitFor();
  }, 60_000);

  it('loads the emoji only when somebody wants them', async () => {
    const loaded = () => page.evaluate(() => performance.getEntriesByType('resource').map(({ name }) => name).join());
    expect(await loaded()).not.toMatch(/emoji/i);
    await composer(page).pressSequentially('Well done :thum');
    await options().first().waitFor();
    expect(await loaded()).toMatch(/emoji/i);
    await composer(page).fill('');
  });

  it('completes emoji, by keyboard and by pointer', async () => {
    await composer(page).pressSequentially('Well done :thumbs');
    await options().filter({ hasText: ':thumbsup:' }).waitFor();
    expect(await options().first().getAttribute('aria-selected')).toBe('true');
    expect(await accessibilityFlaws(page)).toEqual([]);
    await page.keyboard.press('Enter');
    expect(await composer(page).inputValue()).toBe('Well done 👍');
    await page.keyboard.type(' :hear');
    await options().first().waitFor();
    await page.keyboard.press('Tab');
    expect(await composer(page).inputValue()).toBe('Well done 👍 ❤️');
    await page.keyboard.type(' :thumb');
    await options().nth(1).waitFor();
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Enter');
    expect(await composer(page).inputValue()).toBe('Well done 👍 ❤️ 👎');
    await page.keyboard.type(' :tada');
    await options().first().click();
    expect(await composer(page).inputValue()).toBe('Well done 👍 ❤️ 👎 🎉');
    await isFocused(composer(page));
    // In the middle of a text, too.
    await page.keyboard.press('Home');
    await page.keyboard.type(':ok_h');
    await options().first().waitFor();
    await page.keyboard.press('Enter');
    expect(await composer(page).inputValue()).toBe('👌Well done 👍 ❤️ 👎 🎉');
    await page.keyboard.press('Enter');
    await messageText(page, '👌Well done 👍 ❤️ 👎 🎉').waitFor();
    await allStored(page);
  });

  it('leaves faces, times and addresses alone, and Escape keeps what was written', async () => {
    for (const text of [':-)', ':D', '12:30', 'https://example.org', 'std::vector', 'a:heart']) {
      await composer(page).fill('');
      await composer(page).pressSequentially(text);
      expect(await list().count(), text).toBe(0);
    }
    await composer(page).fill('');
    await composer(page).pressSequentially(':heart');
    await options().first().waitFor();
    await page.keyboard.press('Escape');
    expect(await list().count()).toBe(0);
    await page.keyboard.press('Enter');
    await messageText(page, ':heart').waitFor();
  });

  it('completes rooms and people', async () => {
    await composer(page).pressSequentially('See #ga');
    await options().nth(1).waitFor();
    expect((await options().allTextContents()).sort()).toEqual(['#The gardengarden', '#gate']);
    await page.keyboard.type('r');
    await expect.poll(() => options().count()).toBe(1);
    await page.keyboard.press('ArrowDown');
    await page.keyboard.press('Enter');
    expect(await composer(page).inputValue()).toBe('See #garden ');
    await page.keyboard.type('with @bo');
    await options().filter({ hasText: 'bob' }).waitFor();
    await page.keyboard.press('Tab');
    expect(await composer(page).inputValue()).toBe('See #garden with @bob ');
    await page.keyboard.press('Enter');
    await messageText(page, 'See #garden with @bob').waitFor();
  });

  it('links to rooms of the user', async () => {
    await composer(page).fill('Come to #Garden, not to #nowhere');
    await page.keyboard.press('Enter');
    await allStored(page);
    const text = rowOf(page, 'Come to #Garden').locator('.text');
    expect(await text.locator('a').allTextContents()).toEqual(['#Garden']);
    expect(await text.locator('a').getAttribute('href')).toBe('#/garden');
    expect(await accessibilityFlaws(page)).toEqual([]);
    await text.locator('a').click();
    await page.getByRole('heading', { name: 'The garden', level: 1 }).waitFor();
    expect(page.context().pages()).toHaveLength(1);
    await page.goBack();
    await page.getByRole('heading', { name: 'The lobby', level: 1 }).waitFor();
    // A room that the user leaves is only a text.
    await world.room(await world.token('ann'), 'shed');
    await composer(page).fill('And to #shed');
    await page.keyboard.press('Enter');
    const shed = rowOf(page, 'And to #shed').locator('.text a');
    await shed.waitFor();
    const headers = { Authorization: `Bearer ${await world.token('ann')}` };
    await fetch(`${world.server.url}/rooms/shed`, { method: 'DELETE', headers });
    await shed.waitFor({ state: 'detached' });
  });

  it('helps in the editor of a message as in the message box', async () => {
    await composer(page).fill('To be edited');
    await page.keyboard.press('Enter');
    await allStored(page);
    await page.keyboard.press('ArrowUp');
    const editor = page.getByLabel('Edit message');
    await isFocused(editor);
    await page.keyboard.type(' with @bo');
    await options().filter({ hasText: 'bob' }).waitFor();
    expect(await editor.getAttribute('aria-controls')).toBe(await list().getAttribute('id'));
    expect(await accessibilityFlaws(page)).toEqual([]);
    // All of the list is in view.
    const { top, bottom } = await list().evaluate((element) => element.getBoundingClientRect());
    const scroller = await page.locator('.scroller').evaluate((element) => element.getBoundingClientRect());
    expect(top).toBeGreaterThanOrEqual(scroller.top);
    expect(bottom).toBeLessThanOrEqual(scroller.bottom);
    // Escape closes the list, not the editor.
    await page.keyboard.press('Escape');
    await list().waitFor({ state: 'detached' });
    await page.keyboard.type('b in #gar');
    await options().filter({ hasText: 'The garden' }).waitFor();
    await page.keyboard.press('Tab');
    await page.keyboard.type(':tada');
    await options().first().waitFor();
    await page.keyboard.press('Enter');
    expect(await editor.inputValue()).toBe('To be edited with @bob in #garden 🎉');
    await page.locator('.editor').getByRole('button', { name: 'Emoji', exact: true }).click();
    await isFocused(picker().getByLabel('Search emoji'));
    await page.keyboard.type('hedgehog');
    await picker().getByRole('button', { name: 'hedgehog' }).waitFor();
    await page.keyboard.press('Enter');
    await picker().waitFor({ state: 'detached' });
    await isFocused(editor);
    await editor.evaluate((area) => (area as HTMLTextAreaElement).setSelectionRange(0, 2));
    await page.locator('.editor').getByRole('button', { name: 'Bold' }).click();
    expect(await editor.inputValue()).toBe('**To** be edited with @bob in #garden 🎉🦔');
    await page.keyboard.press('Enter');
    await messageText(page, 'To be edited with @bob in #garden 🎉🦔').locator('a', { hasText: '#garden' }).waitFor();
  });

  it('has the remark that a text was edited in its last line', async () => {
    for (const [text, word] of [['one\n- two', 'two'], ['three\n> four', 'four'], ['```\nfive\n```', 'five']] as const) {
      await composer(page).fill(text);
      await page.keyboard.press('Enter');
      await allStored(page);
      const shown = rowOf(page, word).last().locator('.text');
      const before = await shown.evaluate(({ clientHeight }) => clientHeight);
      await page.keyboard.press('ArrowUp');
      await page.getByLabel('Edit message').fill(text.replace(word, `${word}!`));
      await page.keyboard.press('Enter');
      await shown.locator('.edited').waitFor();
      expect(await shown.evaluate(({ clientHeight }) => clientHeight)).toBe(before);
    }
  });

  it('offers all emoji, with the keyboard alone', async () => {
    await composer(page).fill('ab');
    await composer(page).press('ArrowLeft');
    const open = async () => {
      // Behind the buttons that format.
      for (const name of ['Bold', 'Italic', 'Code', 'Emoji']) {
        await page.keyboard.press('Tab');
        await isFocused(page.getByRole('button', { name, exact: true }));
      }
      await page.keyboard.press('Enter');
    };
    await open();
    const search = picker().getByLabel('Search emoji');
    await isFocused(search);
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme });
      await page.waitForTimeout(300);
      expect(await accessibilityFlaws(page), colorScheme).toEqual([]);
      await screenshot(page, `emoji-${colorScheme}`);
    }
    await page.emulateMedia({ colorScheme: 'light' });
    // Escape returns to the text.
    await page.keyboard.press('Escape');
    await picker().waitFor({ state: 'detached' });
    await isFocused(composer(page));
    await open();
    await isFocused(search);
    await page.keyboard.type('hedgehog');
    await picker().getByRole('button', { name: 'hedgehog' }).waitFor();
    await page.keyboard.press('Enter');
    await picker().waitFor({ state: 'detached' });
    expect(await composer(page).inputValue()).toBe('a🦔b');
    await page.keyboard.type('!');
    expect(await composer(page).inputValue()).toBe('a🦔!b');
    // What was used last comes first.
    await open();
    await isFocused(search);
    await page.keyboard.press('ArrowDown');
    await isFocused(picker().getByRole('group', { name: 'Recently used' }).getByRole('button').first());
    await isFocused(picker().getByRole('button', { name: 'hedgehog' }));
    await page.keyboard.press('ArrowUp');
    await isFocused(search);
    // The groups, then the emoji in them.
    await page.keyboard.press('Tab');
    await isFocused(picker().getByRole('button', { name: 'Recently used' }));
    for (let i = 0; i < 3; i++) await page.keyboard.press('ArrowRight');
    await isFocused(picker().getByRole('button', { name: 'Animals & nature' }));
    await page.keyboard.press('Enter');
    await page.keyboard.press('Tab');
    const animals = picker().getByRole('group', { name: 'Animals & nature' }).getByRole('button');
    await isFocused(animals.first());
    await page.keyboard.press('ArrowRight');
    await isFocused(animals.nth(1));
    await page.keyboard.press('ArrowDown');
    const [above, below] = [await animals.nth(1).boundingBox(), await page.locator(':focus').boundingBox()];
    expect(below!.x).toBeCloseTo(above!.x, 0);
    expect(below!.y).toBeGreaterThan(above!.y);
    await page.keyboard.press('End');
    await isFocused(animals.last());
    await page.keyboard.press('Home');
    await page.keyboard.press('Enter');
    expect(await composer(page).inputValue()).toBe('a🦔!🐵b');
    await composer(page).fill('');
  });

  it('keeps the skin tone over a reload', async () => {
    await page.getByRole('button', { name: 'Emoji', exact: true }).click();
    await picker().getByLabel('Skin tone').selectOption({ label: '✋🏿 Dark' });
    await picker().getByLabel('Search emoji').fill('waving hand');
    await picker().getByRole('button', { name: 'waving hand', exact: true }).click();
    expect(await composer(page).inputValue()).toBe('👋🏿');
    await composer(page).fill('');
    await page.reload();
    await composer(page).pressSequentially(':thumbsu');
    await options().first().waitFor();
    await page.keyboard.press('Enter');
    expect(await composer(page).inputValue()).toBe('👍🏿');
    await page.getByRole('button', { name: 'Emoji', exact: true }).click();
    const recent = picker().getByRole('group', { name: 'Recently used' }).getByRole('button');
    await expect.poll(async () => (await recent.allTextContents()).slice(0, 2)).toEqual(['👍🏿', '👋🏿']);
    await picker().getByLabel('Skin tone').selectOption({ label: '✋ None' });
    await page.keyboard.press('Escape');
    await composer(page).fill('');
  });

  it('reacts with any emoji', async () => {
    const row = rowOf(page, 'See #garden');
    await row.focus();
    await row.getByRole('button', { name: 'React' }).press('Enter');
    await row.getByRole('button', { name: 'More emoji' }).press('Enter');
    await picker('React').getByLabel('Search emoji').fill('rainbow flag');
    expect(await accessibilityFlaws(page)).toEqual([]);
    await page.keyboard.press('Enter');
    await picker('React').waitFor({ state: 'detached' });
    await row.getByRole('button', { name: '🏳️‍🌈, 1' }).waitFor();
    await isFocused(row);
    // Escape changes nothing and returns to the message.
    await row.getByRole('button', { name: 'React' }).click();
    await row.getByRole('button', { name: 'More emoji' }).click();
    await picker('React').getByLabel('Search emoji').waitFor();
    await page.keyboard.press('Escape');
    await picker('React').waitFor({ state: 'detached' });
    await isFocused(row);
    expect(await row.locator('.reactions button').count()).toBe(1);
  });

  it('says who reacted, also before the page was opened', async () => {
    for (const name of ['bob', 'cem', 'dov', 'eva']) {
      const other = await world.signedIn(name, 'lobby');
      const row = rowOf(other, 'Well done');
      await row.waitFor();
      await row.focus();
      await row.getByRole('button', { name: 'React' }).press('Enter');
      await row.locator('.actions').getByRole('button', { name: '🎉' }).press('Enter');
      await row.locator('.reactions button', { hasText: '🎉' }).waitFor();
      await other.close();
    }
    await page.reload();
    const row = rowOf(page, 'Well done');
    const party = row.getByRole('button', { name: '🎉, 4' });
    const height = () => row.evaluate((element) => element.getBoundingClientRect().height);
    await party.waitFor();
    const before = await height();
    await party.hover();
    const who = row.getByRole('tooltip');
    await who.filter({ hasText: 'bob, cem and 2 others' }).waitFor();
    expect(await height()).toBe(before);
    await screenshot(page, 'who-reacted');
    expect(await accessibilityFlaws(page)).toEqual([]);
    await page.mouse.move(0, 0);
    await who.waitFor({ state: 'detached' });
    // With the keyboard, and up to date.
    await row.focus();
    while (!(await party.evaluate((element) => element === document.activeElement))) await page.keyboard.press('Tab');
    await who.waitFor();
    await page.keyboard.press('Enter');
    await who.filter({ hasText: 'You, bob and 3 others' }).waitFor();
    await page.keyboard.press('Escape');
    await who.waitFor({ state: 'detached' });
  });
});

describe('on a phone', () => {
  it('chooses emoji by touch, and a long press says who reacted', async () => {
    const token = await world.account('gus');
    await world.room(token, 'porch');
    await world.say(token, 'porch', 'Small screens');
    const context = await world.context({ viewport: { width: 320, height: 640 }, hasTouch: true, isMobile: true });
    const page = await world.newTab(context);
    await world.signIn(page, 'gus', 'porch');
    await page.getByRole('button', { name: 'Emoji', exact: true }).tap();
    const picker = page.getByRole('dialog', { name: 'Emoji' });
    await picker.getByRole('button', { name: 'Food & drink' }).tap();
    const food = picker.getByRole('group', { name: 'Food & drink' }).getByRole('button');
    const { width, height } = (await food.first().boundingBox())!;
    expect(Math.min(width, height)).toBeGreaterThanOrEqual(44);
    expect(await overflow(page)).toBe(0);
    const dialog = page.locator('dialog');
    const hidden = await dialog.evaluate(({ scrollWidth, clientWidth, scrollHeight, clientHeight }) => [
      scrollWidth - clientWidth,
      scrollHeight - clientHeight,
    ]);
    expect(hidden).toEqual([0, 0]);
    expect(await accessibilityFlaws(page)).toEqual([]);
    await screenshot(page, '320-emoji');
    await food.first().tap();
    expect(await composer(page).inputValue()).toBe('🍇');
    await composer(page).fill('');
    const row = rowOf(page, 'Small screens');
    await row.tap();
    await row.getByRole('button', { name: 'React' }).tap();
    await row.locator('.actions').getByRole('button', { name: '👀' }).tap();
    const reaction = row.getByRole('button', { name: '👀, 1' });
    await reaction.waitFor();
    const { x, y } = (await reaction.boundingBox())!;
    const session = await context.newCDPSession(page);
    const touchPoints = [{ x: x + 10, y: y + 10 }];
    await session.send('Input.dispatchTouchEvent', { type: 'touchStart', touchPoints });
    await row.getByRole('tooltip').filter({ hasText: '👀 You' }).waitFor();
    await session.send('Input.dispatchTouchEvent', { type: 'touchEnd', touchPoints: [] });
    await page.waitForTimeout(300);
    // The reaction is still there, and a tap takes it back.
    expect(await reaction.getAttribute('aria-pressed')).toBe('true');
    expect(await row.getByRole('tooltip').count()).toBe(1);
    await reaction.tap();
    await reaction.waitFor({ state: 'detached' });
    expect(world.pageErrors).toEqual([]);
  });
});

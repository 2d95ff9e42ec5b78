import { type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import {
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

const CODE = ['```rust', 'fn main() {', `    println!("${'wide '.repeat(60)}");`, '}', '```'].join('\n');

describe('formatted messages', () => {
  let ann: string;
  let bob: string;
  let page: Page;

  const say = (text: string) => world.say(bob, 'kitchen', text);

  beforeAll(async () => {
    ann = await world.account('ann');
    bob = await world.account('bob');
    await world.room(ann, 'kitchen');
    await world.join(bob, 'kitchen');
    page = await world.signedIn('ann', 'kitchen');
    await composer(page).waitFor();
  });

  it('show emphasis, code, links, quotes and lists as elements', async () => {
    await send(page, 'Some *words* and **more**, ~~less~~, `let a = *b*;` and @bob');
    await allStored(page);
    const text = messageText(page, 'Some words and more');
    expect(await text.locator('em').textContent()).toBe('words');
    expect(await text.locator('strong').textContent()).toBe('more');
    expect(await text.locator('del').textContent()).toBe('less');
    expect(await text.locator('code').textContent()).toBe('let a = *b*;');
    expect(await text.locator('.mention').textContent()).toBe('@bob');
    await say('> quoted *text*\nBuy:\n- milk\n- eggs\n  1. white\n  3. brown');
    const quote = messageText(page, 'quoted text');
    expect(await quote.locator('blockquote em').textContent()).toBe('text');
    expect(await quote.locator('ul > li').count()).toBe(2);
    const numbers = quote.locator('ul ol > li');
    expect(await numbers.evaluateAll((all) => all.map((li) => (li as HTMLLIElement).value))).toEqual([1, 3]);
    await say('<b>no</b> **[the docs](https://docs.example/a_b)** [https://bank.example](https://evil.example)');
    const links = messageText(page, '<b>no</b>').locator('a');
    await links.nth(2).waitFor();
    expect(await links.evaluateAll((all) => all.map((a) => (a as HTMLAnchorElement).href))).toEqual([
      'https://docs.example/a_b',
      'https://bank.example/',
      'https://evil.example/',
    ]);
    // The name says where it leads.
    await page.getByRole('link', { name: 'the docs (docs.example)' }).waitFor();
    // What is being written, and what has no end, is as it was typed.
    await say('2*3*4 snake_case_word `open **open');
    await messageText(page, '2*3*4 snake_case_word `open **open').waitFor();
  });

  it('fit every width in both themes, with code that scrolls in its block', async () => {
    await say(`Look:\n${CODE}\nand [a link](https://a.example) in\n> a quote\n> - with \`code\``);
    await say(`- a list\n  - in a list\n    > ${'with a quote '.repeat(9)}\n- \`${'long'.repeat(80)}\`\n999. c`);
    await say('مرحبا **بالعالم**\n- قائمة `code`\n> اقتباس');
    await say(Array.from({ length: 6 }, (_, i) => `${'   '.repeat(i)}1. ${'deep '.repeat(i + 1)}`).join('\n'));
    const deepest = page.locator('.text li li li li li li p');
    await deepest.waitFor();
    const pre = page.locator('pre');
    for (const width of [320, 1280]) {
      await page.setViewportSize({ width, height: 700 });
      for (const colorScheme of ['light', 'dark'] as const) {
        await page.emulateMedia({ colorScheme });
        await page.waitForTimeout(100);
        expect(await overflow(page), `${width}`).toBe(0);
        const wide = await page.locator('.row').evaluateAll((rows) =>
          rows.filter((row) => row.scrollWidth > row.clientWidth + 1).map((row) => row.textContent),
        );
        expect(wide, `${width}`).toEqual([]);
        expect(await pre.evaluate((element) => element.scrollWidth - element.clientWidth)).toBeGreaterThan(500);
        expect(await deepest.evaluate(({ clientWidth }) => clientWidth)).toBeGreaterThan(100);
        await screenshot(page, `markdown-${width}-${colorScheme}`);
        expect(await accessibilityFlaws(page), `${width} ${colorScheme}`).toEqual([]);
      }
    }
    // The keyboard scrolls it, and leads back to the message.
    await page.getByRole('article').filter({ hasText: 'fn main' }).focus();
    for (let i = 0; i < 4 && !(await pre.evaluate((element) => element === document.activeElement)); i++) {
      await page.keyboard.press('Tab');
    }
    for (let i = 0; i < 5; i++) await page.keyboard.press('ArrowRight');
    await expect.poll(() => pre.evaluate(({ scrollLeft }) => scrollLeft)).toBeGreaterThan(50);
    await page.keyboard.press('Escape');
    expect(await page.evaluate(() => document.activeElement!.getAttribute('role'))).toBe('article');
    // Tab does not stop at code in other messages. The window shows all of them.
    await page.setViewportSize({ width: 1280, height: 2400 });
    await say(CODE.replace('main', 'other'));
    await page.locator('pre', { hasText: 'fn other' }).waitFor();
    const stops = async (name: string) => {
      await page.getByRole('article').filter({ hasText: name }).focus();
      return page.locator('pre').evaluateAll((all) => all.map(({ tabIndex }) => tabIndex));
    };
    await expect.poll(() => stops('fn main')).toEqual([0, -1]);
    await expect.poll(() => stops('fn other')).toEqual([-1, 0]);
    expect(await accessibilityFlaws(page)).toEqual([]);
    await page.setViewportSize({ width: 1280, height: 700 });
    // Tab does not stop at code that fits.
    await say('```\nshort\n```');
    const short = messageText(page, 'short').locator('pre');
    await short.waitFor();
    expect(await short.evaluate(({ tabIndex }) => tabIndex)).toBe(-1);
  }, 60_000);

  it('have code in colours if the language is known, which are loaded on demand and move nothing', async () => {
    await world.room(ann, 'colours');
    await world.join(bob, 'colours');
    const visitor = await world.signedIn('ann', 'colours');
    const loaded = () =>
      visitor.evaluate(() => performance.getEntriesByType('resource').map(({ name }) => name).join());
    const code = (text: string) => visitor.locator('pre', { hasText: text });
    const height = (text: string) => code(text).evaluate((pre) => [pre.clientHeight, pre.scrollWidth]);
    await world.say(bob, 'colours', '```\nfn plain() { return "yes"; } // 1\n```');
    await world.say(bob, 'colours', '```klingon\nfn qapla() { return "yes"; }\n```');
    await code('qapla').waitFor();
    expect(await loaded()).not.toMatch(/tokens|rust/);
    await world.say(bob, 'colours', '```rust\nfn other() { return "yes"; } // 1\n```');
    await code('other').locator('.code-keyword', { hasText: 'return' }).waitFor();
    await code('other').locator('.code-comment', { hasText: '// 1' }).waitFor();
    expect(await loaded()).toMatch(/tokens.*rust/);
    expect(await visitor.locator('pre span').count()).toBe(await code('other').locator('span').count());
    expect(await height('other')).toEqual(await height('plain'));
    // What is nasty or long stays plain, and the page goes on.
    await world.say(bob, 'colours', `\`\`\`js\n${'('.repeat(501)}\n\`\`\``);
    await world.say(bob, 'colours', `\`\`\`yaml\n${`${"\\".repeat(499)}\n`.repeat(30)}\`\`\``);
    await world.say(bob, 'colours', '```diff\n-old\n+new\n```\n```js\nconst a = `b`; // 1\n```');
    await code('+new').locator('.code-added').waitFor();
    await code('const a').locator('.code-comment').waitFor();
    expect(await code('(((').locator('span').count()).toBe(0);
    for (const colorScheme of ['light', 'dark'] as const) {
      await visitor.emulateMedia({ colorScheme });
      await visitor.waitForTimeout(100);
      expect(await accessibilityFlaws(visitor), colorScheme).toEqual([]);
      await screenshot(visitor, `code-${colorScheme}`);
    }
    // It is copied as it was written, and selected while the colours arrive.
    await code('other').click({ clickCount: 3 });
    expect(await visitor.evaluate(() => getSelection()!.toString().trim())).toBe('fn other() { return "yes"; } // 1');
    await visitor.close();
  });

  it('are copied as they were written', async () => {
    const copied = (from: [string, string], to: [string, string] = from) =>
      page.evaluate(
        ([from, to]) => {
          const find = ([row, word]: [string, string], atEnd: boolean): [Node, number] => {
            const text = [...document.querySelectorAll('.row .text')].find((one) => one.textContent!.includes(row))!;
            const begin = text.textContent!.indexOf(word);
            let at = begin + (atEnd ? word.length : 0);
            const walker = document.createTreeWalker(text, NodeFilter.SHOW_TEXT);
            for (let node; begin >= 0 && (node = walker.nextNode()); at -= node.textContent!.length) {
              const { length } = node.textContent!;
              if (atEnd ? at <= length : at < length) return [node, at];
            }
            throw new Error(`no ${word}`);
          };
          getSelection()!.setBaseAndExtent(...find(from, false), ...find(to, true));
          const clipboardData = new DataTransfer();
          const event = new ClipboardEvent('copy', { clipboardData, bubbles: true, cancelable: true });
          document.querySelector('.scroller')!.dispatchEvent(event);
          return clipboardData.getData('text/plain');
        },
        [from, to] as const,
      );
    const first = 'Some words and more';
    expect(await copied([first, 'Some'], [first, '@bob'])).toBe(
      'Some *words* and **more**, ~~less~~, `let a = *b*;` and @bob',
    );
    expect(await copied([first, 'and '], [first, 'more'])).toBe('and **more**');
    expect(await copied([first, 'let a = *b*;'])).toBe('let a = *b*;');
    expect(await copied(['fn main', 'fn main'], ['fn main', '}'])).toBe(CODE.slice(8, -4));
    expect(await copied(['quoted text', 'quoted'], ['the docs', 'the docs'])).toBe(
      '> quoted *text*\nBuy:\n- milk\n- eggs\n  1. white\n  3. brown\n' +
        '<b>no</b> **[the docs](https://docs.example/a_b)**',
    );
    // Code has its markers only among other messages, and half a link has none.
    expect(await copied(['fn main', 'fn main'], ['fn other', '}'])).toMatch(
      /^```rust\nfn main\(\)[^]*\n}\n```\n[^]*\n```rust\nfn other\(\)[^]*\n}\n```$/,
    );
    await say('> look:\n> ```\n> first();\n> second();\n> ```');
    await messageText(page, 'first();').waitFor();
    expect(await copied(['first();', 'first();'], ['first();', 'second();'])).toBe('first();\nsecond();');
    await say('see [the manual](https://a.example) now');
    await messageText(page, 'see the manual').waitFor();
    expect(await copied(['see the manual', 'manual'], ['see the manual', ' now'])).toBe('manual now');
    // With the names of those who wrote them.
    expect(await copied(['Some words', 'Some'], ['quoted text', 'milk'])).toMatch(
      /^Some \*words.*@bob\nbob, \d\d:\d\d\n> quoted \*text\*\nBuy:\n- milk$/s,
    );
    await page.evaluate(() => getSelection()!.removeAllRanges());
    // The whole text by a triple click and the real clipboard.
    await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
    await messageText(page, '2*3*4').click({ clickCount: 3 });
    await page.keyboard.press('Control+c');
    expect(await page.evaluate(() => navigator.clipboard.readText())).toBe('2*3*4 snake_case_word `open **open');
  });

  it('are edited as they were written, and quoted and announced without markers', async () => {
    await send(page, 'an **edit** of _mine_');
    await allStored(page);
    await page.keyboard.press('ArrowUp');
    expect(await page.getByLabel('Edit message').inputValue()).toBe('an **edit** of _mine_');
    await page.keyboard.type(' [here](https://a.example)');
    await page.keyboard.press('Enter');
    const text = messageText(page, 'an edit of mine here');
    await text.locator('.edited').waitFor();
    await text.hover();
    await page.getByRole('button', { name: 'Reply' }).click();
    await page.locator('.replying', { hasText: 'an edit of mine here' }).waitFor();
    await send(page, 'A reply');
    await page.locator('.quote', { hasText: 'an edit of mine here' }).waitFor();
    await page.bringToFront();
    await say('**Loud** `code` [link](https://a.example)');
    await page.locator('[aria-live=polite]', { hasText: 'bob: Loud code link' }).waitFor({ state: 'attached' });
  });

  it('have the same height when they are stored', async () => {
    await page.context().setOffline(true);
    await page.getByText('Connection lost').waitFor();
    for (const text of ['```\nunsent code\n```', '- unsent item', 'unsent\n> quote']) await send(page, text);
    const rows = page.locator('.row', { hasText: 'unsent' });
    const heights = () => rows.evaluateAll((all) => all.map((row) => row.querySelector('.text')!.clientHeight));
    await page.locator('.row.pending', { hasText: 'quote' }).waitFor();
    const before = await heights();
    expect(before).toHaveLength(3);
    await page.context().setOffline(false);
    await allStored(page);
    expect(await page.locator('.row.pending').count()).toBe(0);
    expect(await heights()).toEqual(before);
  }, 60_000);

  it('keep the view where it is', async () => {
    for (let i = 0; i < 30; i++) await say(`Message ${i}\n- *a*\n- b\n\n\`\`\`\ncode ${i}\n\`\`\``);
    await messageText(page, 'code 29').waitFor();
    const gap = () =>
      page.locator('.scroller').evaluate((list) => list.scrollHeight - list.scrollTop - list.clientHeight);
    await expect.poll(gap).toBeLessThan(2);
    await page.locator('.scroller').hover();
    await page.mouse.wheel(0, -2500);
    await page.waitForTimeout(300);
    // What is measured while scrolling moves nothing.
    const places = () =>
      page.locator('.row').evaluateAll((rows) =>
        Object.fromEntries(rows.map((row) => [(row as HTMLElement).dataset['key'], row.getBoundingClientRect().top])),
      );
    const before = await places();
    await say('One more *message*');
    await page.waitForTimeout(300);
    const after = await places();
    const same = Object.keys(before).filter((key) => key in after);
    expect(same.length).toBeGreaterThan(5);
    for (const key of same) expect(Math.abs(after[key]! - before[key]!)).toBeLessThan(1.5);
  }, 30_000);

  it('are folded if they are long, and unfold where they are', async () => {
    await world.room(ann, 'long');
    await world.join(bob, 'long');
    const lines = (name: string, count: number) => Array.from({ length: count }, (_, i) => `${name} ${i}`).join('\n');
    const first = await world.say(ann, 'long', `**${lines('First', 60)}**`);
    for (let i = 0; i < 20; i++) await world.say(bob, 'long', `Short ${i}`);
    await world.say(bob, 'long', lines('Twenty', 20));
    await world.say(bob, 'long', `\`\`\`\n${lines('Last', 60)}\n\`\`\``);
    await world.reply('bob', 'long', 'About the first', first);
    await page.getByRole('link', { name: 'long' }).click();
    const row = (text: string) => page.locator('.row', { hasText: text });
    const last = row('Last 0');
    // Past the first unread message.
    await row('Short 0').waitFor();
    await page.locator('.row').last().focus();
    await page.keyboard.press('End');
    await last.getByRole('button', { name: 'Show more' }).waitFor();
    expect(await last.locator('pre').textContent()).toBe(lines('Last', 12));
    expect(await row('Twenty 19').getByRole('button', { name: /^Show/ }).count()).toBe(0);
    expect(await accessibilityFlaws(page)).toEqual([]);

    // What is above it stays where it is, and the focus on the button.
    const top = async () => (await last.boundingBox())!.y;
    await last.getByRole('button', { name: 'Show more' }).focus();
    await page.waitForTimeout(200);
    const before = await top();
    await page.keyboard.press('Enter');
    await last.getByText('Last 59').waitFor();
    expect(Math.abs((await top()) - before)).toBeLessThan(1.5);
    await last.getByRole('button', { name: 'Show less' }).and(page.locator(':focus')).waitFor();
    await world.say(bob, 'long', 'One more');
    await page.locator('[aria-live=polite]', { hasText: 'One more' }).waitFor({ state: 'attached' });
    expect(Math.abs((await top()) - before)).toBeLessThan(1.5);
    // Folded from its end, it comes into view.
    await last.getByRole('button', { name: 'Show less' }).scrollIntoViewIfNeeded();
    await page.waitForTimeout(200);
    expect(await top()).toBeLessThan(0);
    await page.keyboard.press('Enter');
    await last.getByRole('button', { name: 'Show more' }).and(page.locator(':focus')).waitFor();
    const list = (await page.locator('.scroller').boundingBox())!;
    expect(await top()).toBeGreaterThanOrEqual(list.y - 1.5);
    expect(await top()).toBeLessThan(list.y + list.height);

    // What a reply leads to is shown in full, and stays so.
    await page.keyboard.press('End');
    await row('About the first').locator('.quote').click();
    await row('First 0').getByText('First 59').waitFor();
    await page.keyboard.press('End');
    await row('About the first').waitFor();
    await row('About the first').locator('.quote').click();
    await row('First 0').getByRole('button', { name: 'Show less' }).waitFor();
    // And so is what the user edits.
    await send(page, lines('Mine', 30));
    await allStored(page);
    await row('Mine 0').getByRole('button', { name: 'Show more' }).waitFor();
    await composer(page).press('ArrowUp');
    await page.getByLabel('Edit message').press('Enter');
    await row('Mine 29').getByRole('button', { name: 'Show less' }).waitFor();

    // What is hidden is not copied.
    await row('Mine 0').getByRole('button', { name: 'Show less' }).click();
    const copied = await page.evaluate(() => {
      const text = [...document.querySelectorAll('.row .text')].find((one) => one.textContent!.includes('Mine 0'))!;
      getSelection()!.selectAllChildren(text);
      const clipboardData = new DataTransfer();
      text.dispatchEvent(new ClipboardEvent('copy', { clipboardData, bubbles: true, cancelable: true }));
      return clipboardData.getData('text/plain');
    });
    expect(copied).toBe(lines('Mine', 12));
    await page.getByRole('link', { name: 'kitchen' }).click();
    await messageText(page, 'code 29').waitFor();
  }, 60_000);

  it('are formatted by keys while they are written', async () => {
    const box = composer(page);
    await box.fill('some words here');
    const select = (start: number, end: number) =>
      box.evaluate((area, [start, end]) => (area as HTMLTextAreaElement).setSelectionRange(start!, end!), [start, end]);
    await box.focus();
    await select(5, 10);
    await page.keyboard.press('Control+b');
    expect(await box.inputValue()).toBe('some **words** here');
    await page.keyboard.press('Control+i');
    expect(await box.inputValue()).toBe('some **_words_** here');
    // The selection is what is formatted.
    await page.keyboard.press('Control+i');
    await page.keyboard.press('Control+b');
    expect(await box.inputValue()).toBe('some words here');
    await page.keyboard.press('Control+Shift+C');
    expect(await box.inputValue()).toBe('some `words` here');
    // The browser undoes it, step by step, and does it again.
    await page.keyboard.press('Control+z');
    expect(await box.inputValue()).toBe('some words here');
    await page.keyboard.press('Control+z');
    expect(await box.inputValue()).toBe('some **words** here');
    await page.keyboard.press('Control+Shift+Z');
    expect(await box.inputValue()).toBe('some words here');
    await page.keyboard.press('End');
    await page.keyboard.type(' ');
    await page.keyboard.press('Control+e');
    await page.keyboard.type('code');
    expect(await box.inputValue()).toBe('some words here `code`');
    // The draft has it, and the editor has the same keys.
    await page.keyboard.press('Enter');
    await allStored(page);
    await messageText(page, 'some words here code').locator('code').waitFor();
    await page.keyboard.press('ArrowUp');
    const editor = page.getByLabel('Edit message');
    await editor.selectText();
    await page.keyboard.press('Control+b');
    expect(await editor.inputValue()).toBe('**some words here `code`**');
    await page.keyboard.press('Enter');
    await messageText(page, 'some words here code').locator('strong code').waitFor();
    // Empty markers go as they came.
    await box.focus();
    await page.keyboard.press('Control+b');
    expect(await box.inputValue()).toBe('****');
    await page.keyboard.press('Control+b');
    expect(await box.inputValue()).toBe('');
  });

  it('throw no errors', () => {
    expect(world.pageErrors).toEqual([]);
  });
});

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
    // Code in other messages is no stop.
    await say(CODE.replace('main', 'other'));
    await page.locator('pre', { hasText: 'fn other' }).waitFor();
    const stops = async (name: string) => {
      await page.getByRole('article').filter({ hasText: name }).focus();
      return page.locator('pre').evaluateAll((all) => all.map(({ tabIndex }) => tabIndex));
    };
    await expect.poll(() => stops('fn main')).toEqual([0, -1]);
    await expect.poll(() => stops('fn other')).toEqual([-1, 0]);
    expect(await accessibilityFlaws(page)).toEqual([]);
    // Code that fits is none.
    await say('```\nshort\n```');
    const short = messageText(page, 'short').locator('pre');
    await short.waitFor();
    expect(await short.evaluate(({ tabIndex }) => tabIndex)).toBe(-1);
  }, 60_000);

  it('are copied as they were written', async () => {
    const copied = (from: [string, string], to: [string, string] = from) =>
      page.evaluate(
        ([from, to]) => {
          const find = ([row, word]: [string, string], atEnd: boolean): [Node, number] => {
            const text = [...document.querySelectorAll('.row .text')].find((one) => one.textContent!.includes(row))!;
            const walker = document.createTreeWalker(text, NodeFilter.SHOW_TEXT);
            for (let node; (node = walker.nextNode());) {
              const at = node.textContent!.indexOf(word);
              if (at >= 0) return [node, at + (atEnd ? word.length : 0)];
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

  it('throw no errors', () => {
    expect(world.pageErrors).toEqual([]);
  });
});

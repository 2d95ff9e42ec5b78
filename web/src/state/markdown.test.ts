import { describe, expect, it } from 'vitest';
import { busyTime } from './busy';
import { type Node, mentionsMe, parseMarkdown, plainText, visible, written } from './markdown';
import { Names } from './mentions';

const names = new Names();
names.add('Karl Gustav');
const parse = (text: string) => parseMarkdown(text, 'ann', names);

/** A tree as a text, with tags that show what is what. */
function shown(node: Node): string {
  if ('text' in node) return node.text;
  const inner = (node.children as Node[]).map(shown).join('');
  if (!('kind' in node)) return `<li${node.number === undefined ? '' : ` ${node.number}`}>${inner}</li>`;
  const tags = { paragraph: 'p', quote: 'quote', list: 'list', 'code-block': 'pre' } as const;
  const tag = node.kind in tags ? tags[node.kind as keyof typeof tags] : node.kind;
  if (node.kind === 'link') return `<a ${node.href}${node.host === undefined ? '' : ` (${node.host})`}>${inner}</a>`;
  return `<${tag}>${inner}</${tag}>`;
}

const blocks = (text: string) => parse(text).map(shown).join('');
const inline = (text: string) => {
  const all = blocks(text);
  expect(all).toMatch(/^<p>[^]*<\/p>$/);
  return all.slice(3, -4);
};

describe('emphasis', () => {
  it('is marked by stars, lines and tildes', () => {
    expect(inline('*a* _a b_ **a** __a__ ~~a~~')).toBe(
      '<em>a</em> <em>a b</em> <strong>a</strong> <strong>a</strong> <del>a</del>',
    );
    expect(inline('***a*** ___b___')).toBe('<strong><em>a</em></strong> <strong><em>b</em></strong>');
    expect(inline('**a *b* c** *a **b***')).toBe('<strong>a <em>b</em> c</strong> <em>a <strong>b</strong></em>');
    expect(inline('***a** b* ***a* b**')).toBe('<em><strong>a</strong> b</em> <strong><em>a</em> b</strong>');
    expect(inline('_“a”_, (*b*), **c**!')).toBe('<em>“a”</em>, (<em>b</em>), <strong>c</strong>!');
    expect(inline('**yes**/**no** **word**s')).toBe(
      '<strong>yes</strong>/<strong>no</strong> <strong>word</strong>s',
    );
    expect(inline('*"a"* "*b*" (*“c”*) _(d and e)_ (**f**) *(g)*. *"h"*.')).toBe(
      '<em>"a"</em> "<em>b</em>" (<em>“c”</em>) <em>(d and e)</em> (<strong>f</strong>) *(g)*. <em>"h"</em>.',
    );
    expect(inline('*two\nlines*')).toBe('<em>two\nlines</em>');
  });

  it('works without spaces where a script has none', () => {
    expect(inline('这是**重点**内容')).toBe('这是<strong>重点</strong>内容');
    expect(inline('他说**「重点」**。')).toBe('他说<strong>「重点」</strong>。');
    expect(inline('これは*強調*です、**「強調」**です')).toBe('これは<em>強調</em>です、<strong>「強調」</strong>です');
    expect(inline('**강조**는 ~~취소~~를')).toBe('<strong>강조</strong>는 <del>취소</del>를');
    expect(inline('用**Rust**写的')).toBe('用<strong>Rust</strong>写的');
    expect(inline('شاهد **هذا** الآن')).toBe('شاهد <strong>هذا</strong> الآن');
  });

  it('leaves everything else as it was typed', () => {
    for (const text of [
      'snake_case_word and another_one_',
      '2*3*4 = 2 * 3 * 4, 2**3**4',
      'file_paths_like_this/and_that_.txt /usr/_lib_/x',
      ':-* and :-*',
      'a kiss :* :*',
      '*open and **open and _open and __open and ~~open',
      '* * *',
      '- - -',
      '---',
      '**** ____ ~~~~ ~a~ *** __ ~~',
      '*a **b_ c~~',
      'f*** this s*** f**k',
      '^_^ and ^_^, >_< -_- T_T ;_; ._. *_* and *_*, (*_*)',
      '¯\\_(ツ)_/¯',
      'self.__init__ and __init__.py and __init__()',
      '/* a comment */ /*x*/ **/*.ts and src/*/a/*/b and lib/**/x/**/y',
      'f(*args, **kwargs) (*p)->x = (*q)->y; a*(b+c)*d',
      '\\*not this\\* \\_nor this\\_ \\`nor that\\`',
      '文件_名字_测试',
      '@snake_case_name @_ann_',
      'two*\n\n*paragraphs',
      '["*.ts", "*.js"]',
      "if (*p == '*') char *s = '*';",
      'if (*p == "*") char *s = "*";',
      'print("*" + "*")',
      "'_' and '_', '**' and '**'",
      'git add "*.ts" && git commit -m "*"',
      'git add *.ts && git commit -m "*"',
      'rm *.log https://a.example/*',
      "ls '*/a' \"**/b\" '*.{c,d}'",
      '(*´ω`*)',
      '(*≧▽≦) (≧▽≦*)',
      '(*￣▽￣*)',
      '(*°▽°*)',
      '_(:3」∠)_',
      '_(┐「ε:)_',
      '(´･ω･`) (´･ω･`)',
      '(´ω`) (´ω`)',
      '(*`Д´)ﾉ (`ω´)',
      '(`･ω･´) (`･ω･´)ゞ',
      "In function `main': undefined reference to `foo'",
      "``quoted'' and ``more''",
      '**\u200b** _\u2800_ `\u200b` ~~\u2060~~',
    ]) {
      expect(plainText(text), text).toBe(text);
    }
  });

  it('is not nested without end', () => {
    const text = `${'*_'.repeat(1000)}a${'_*'.repeat(1000)}`;
    const depth = (node: Node): number =>
      'children' in node ? 1 + Math.max(0, ...(node.children as Node[]).map(depth)) : 0;
    expect(Math.max(...parse(text).map(depth))).toBeLessThan(10);
    expect(visible(parse(text)[0]!)).toContain('*a*'.replace(/\*/g, ''));
  });
});

describe('code', () => {
  it('ends with as many backticks as it began with', () => {
    expect(inline('`a` ``b ` c`` ` d `')).toBe('<code>a</code> <code>b ` c</code> <code>d</code>');
    expect(inline('`` ` `` and `*a* [b](https://a.example)`')).toBe(
      '<code>`</code> and <code>*a* [b](https://a.example)</code>',
    );
    expect(inline('*a `b* c`')).toBe('*a <code>b* c</code>');
    expect(inline('**`a`**: the `Foo`s')).toBe('<strong><code>a</code></strong>: the <code>Foo</code>s');
  });

  it('is not opened by a lone backtick or an apostrophe', () => {
    for (const text of ['a ` b', 'don`t and can`t', '`` a `', '` `', '`a\n\nb`']) expect(plainText(text)).toBe(text);
    expect(inline('don`t use `x`')).toBe('don`t use <code>x</code>');
  });

  it('contains neither links nor mentions', () => {
    expect(inline('`https://a.example @ann`')).toBe('<code>https://a.example @ann</code>');
    expect(mentionsMe('`@ann`', 'ann', names)).toBe(false);
    expect(mentionsMe('```\n@ann\n```', 'ann', names)).toBe(false);
    expect(mentionsMe('> - *hi* **@ann**.', 'ann', names)).toBe(true);
    expect(mentionsMe('hi @ann.', 'ann', names)).toBe(true);
    expect(mentionsMe('hi @anna', 'ann', names)).toBe(false);
  });

  it('knows its language', () => {
    const languages = (text: string) => parse(text).map((block) => (block.kind === 'code-block' ? block.language : ''));
    expect(languages('```rust\na\n```\n``` C++ \r\na\n```\n```\na\n```\n```js a\nb\n```')).toEqual(
      ['rust', 'C++', undefined, undefined],
    );
    // Which is also copied.
    expect(written('```js\na\n```\nb', parse('```js\na\n```\nb'), 0, 2)).toBe('```js\na\n```\nb');
  });

  it('stands in blocks between fences', () => {
    expect(blocks('```\na *b*\n\n  c\n```')).toBe('<pre>a *b*\n\n  c</pre>');
    expect(blocks('See:\n\n```Rust\nfn main() {}\n```\n\nOK?')).toBe(
      '<p>See:</p><pre>fn main() {}</pre><p>OK?</p>',
    );
    expect(blocks('````\n```\na\n```\n````')).toBe('<pre>```\na\n```</pre>');
    expect(blocks('  ```\n  a\n    b\n  ```')).toBe('<pre>a\n  b</pre>');
    expect(blocks('```\r\na\r\n```\r\nb')).toBe('<pre>a\r</pre><p>b</p>');
    expect(blocks('````\na\n```\nb\n`````\n```\nc\n```')).toBe('<pre>a\n```\nb</pre><pre>c</pre>');
  });

  it('may begin on the line of the fence, unless that names a language', () => {
    for (const language of ['js', 'c++', 'c#', 'objective-c', 'F90']) {
      expect(blocks(`\`\`\` ${language} \r\na\n\`\`\``)).toBe('<pre>a</pre>');
    }
    expect(blocks('```const a = 1;\nconst b = 2;\n```')).toBe('<pre>const a = 1;\nconst b = 2;</pre>');
    expect(blocks('``` js a\n```')).toBe('<pre>js a</pre>');
    expect(blocks('> ```a.b\n> c\n> ```')).toBe('<quote><pre>a.b\nc</pre></quote>');
    for (const line of ['...', '42', 'привет', '$ ls', '\u2028js', 'x'.repeat(40)]) {
      expect(blocks(`\`\`\`${line}\na\n\`\`\``)).toBe(`<pre>${line}\na</pre>`);
    }
  });

  it('is shown as it was typed without the second fence', () => {
    for (const text of ['```\na', '````\na\n```', '```js\na', 'a\n```']) expect(plainText(text)).toBe(text);
  });

  it('is shown as it was typed if there is nothing to see in it', () => {
    for (const text of ['```\n```', '```\n \u2800\n```', '> ```\n> ```']) {
      expect(plainText(text)).toBe(text.replace(/^> /gm, ''));
    }
  });
});

describe('quotes and lists', () => {
  it('stand beside paragraphs', () => {
    expect(blocks('> a\n> *b*\nc')).toBe('<quote><p>a\n<em>b</em></p></quote><p>c</p>');
    expect(blocks('> a\n>\n> > b')).toBe('<quote><p>a</p><quote><p>b</p></quote></quote>');
    expect(blocks('> *a\n> b*')).toBe('<quote><p><em>a\nb</em></p></quote>');
    expect(blocks('Buy:\n- milk\n- **eggs**\n\nBye')).toBe(
      '<p>Buy:</p><list><li><p>milk</p></li><li><p><strong>eggs</strong></p></li></list><p>Bye</p>',
    );
    expect(blocks('* a\n  b\n  1. c\n  2. d\n* e')).toBe(
      '<list><li><p>a\nb</p><list><li 1><p>c</p></li><li 2><p>d</p></li></list></li><li><p>e</p></li></list>',
    );
    expect(blocks('1. a\n3. b\n- c')).toBe(
      '<list><li 1><p>a</p></li><li 3><p>b</p></li></list><list><li><p>c</p></li></list>',
    );
    for (const gap of ['\n\n', '\n\n\n', '\n \r\n']) {
      expect(blocks(`- a${gap}- b${gap}c`)).toBe('<list><li><p>a</p></li><li><p>b</p></li></list><p>c</p>');
    }
    expect(blocks('1. a\n\n2. b\n\n- c')).toBe(
      '<list><li 1><p>a</p></li><li 2><p>b</p></li></list><list><li><p>c</p></li></list>',
    );
    expect(blocks('- 5 eggs\n- 2 l milk')).toBe('<list><li><p>5 eggs</p></li><li><p>2 l milk</p></li></list>');
    expect(blocks('- a\n\n  ```\n  b\n\n  c\n  ```\n- d')).toBe(
      '<list><li><p>a</p><pre>b\n\nc</pre></li><li><p>d</p></li></list>',
    );
    expect(blocks('> 1. a\n> ```\n> b\n> ```')).toBe('<quote><list><li 1><p>a</p></li></list><pre>b</pre></quote>');
  });

  it('need a space behind the marker, and text', () => {
    for (const text of [
      ...['>:( >3', '>_<', '>>> print(1)', '>', '>\n> \n', '-5 °C', '-', '- '],
      ...['1.5', '1.', '2026. A', '007. Bond', '01. Intro', '* * * * * /bin/x', '3. 5. wäre gut', '- - x', '- 1. x'],
      ...['- 5 °C', 'Brr:\n- 5 °C\nhere', '- \u200b', '> \u2800', '1. \u2800'],
    ]) {
      expect(plainText(text), text).toBe(text);
      expect(blocks(text)).toMatch(/^<p>/);
    }
  });

  it('hide nothing behind the other ends of lines', () => {
    for (const separator of ['\r', '\u2028', '\u2029', '\x85', '\v', '\f']) {
      for (const text of [
        `> a\n${separator}secret`,
        `${separator}secret\n- a`,
        `- a\n${separator}secret`,
        `- a\n  ${separator}secret`,
        `- a\n\n  ${separator}secret`,
        `- ${separator}secret`,
        `>${separator}secret`,
        `> ${separator}secret`,
        `\`\`\`\na\n\`\`\`${separator}secret`,
        `\`\`\`\na\n\`\`\`${separator}\`x\` secret`,
        `\`\`\`js${separator}secret\na\n\`\`\``,
        `\`\`\`\n${separator}secret\n\`\`\``,
        `a\n${separator}secret\n\n${separator}secret\n- b`,
      ]) {
        const shown = plainText(text);
        expect(shown, JSON.stringify(text)).toContain('secret');
        if (separator !== '\r') expect(shown, JSON.stringify(text)).toContain(separator);
      }
    }
  });

  it('keep the lines of a text, and the spaces at their beginning', () => {
    for (const text of ['a\nb', 'a\n\n\nb *c* ', 'The plan:\n  9:00 dough\n 12:00 *oven*', '\n\na\n', ' ']) {
      expect(plainText(text)).toBe(text.replace(/\*/g, ''));
    }
    expect(blocks('a\n\n\nb')).toBe('<p>a\n\n\nb</p>');
  });

  it('are not nested without end', () => {
    expect(blocks('> '.repeat(8) + 'a')).toBe(
      `${'<quote>'.repeat(6)}<p>> > a</p>${'</quote>'.repeat(6)}`,
    );
    const nested = Array.from({ length: 8 }, (_, i) => `${'  '.repeat(i)}- ${i}a`).join('\n');
    expect(plainText(nested)).toBe('• 0a\n• 1a\n• 2a\n• 3a\n• 4a\n• 5a\n- 6a\n  - 7a');
  });
});

describe('links', () => {
  it('have a text of their own, which may be formatted', () => {
    expect(inline('see [the *docs*](https://a.example/x_(y)), ok')).toBe(
      'see <a https://a.example/x_(y) (a.example)>the <em>docs</em></a>, ok',
    );
    expect(inline('**[a](http://a.example:81/)** [`x`](HTTPS://A.example/b)')).toBe(
      '<strong><a http://a.example:81/ (a.example:81)>a</a></strong> ' +
        '<a https://a.example/b (a.example)><code>x</code></a>',
    );
    expect(inline('[a [b](https://a.example) c](https://b.example)')).toMatch(
      /^\[a <a https:\/\/a.example\/ \(a.example\)>b<\/a> c\]\(<a https:\/\/b.example>/,
    );
    expect(inline('[1] [a](https://a.example)')).toBe('[1] <a https://a.example/ (a.example)>a</a>');
    expect(inline('[@ann](https://a.example)')).toBe('<a https://a.example/ (a.example)><me>@ann</me></a>');
  });

  it('lead to pages only', () => {
    for (const text of [
      '[a](javascript:alert(1))',
      '[a](data:text/html,x)',
      '[a](mailto:a)',
      '[a](//a.example)',
      '[a](/x)',
      '[a](https:\\\\a.example)',
      '[a](https://)',
      '[ ](https://)',
      '[a] (x)',
      '\\[a](x)',
    ]) {
      expect(inline(text), text).toBe(text);
    }
  });

  it('do not pretend to lead elsewhere', () => {
    for (const label of [
      'https://bank.example',
      'https://**bank.example**',
      '**https:**//bank.example',
      '`https`://bank.example',
      '~~https~~://bank.example',
      '**h**~~t~~_tps_://bank.example',
      'https:/_/bank.example_',
      '`www`.bank.example',
      'www.**bank**.example',
      'w*w*w.bank.example',
      'https://bank.example@',
      'https://x@bank.example',
      'https://evil.example@bank.example',
      'https://bank.example:99999',
      'https://evil.example:1',
      'xhttps://bank.example',
      '_https://bank.example',
      '.www.bank.example',
      '@www.bank.example',
      '/www.bank.example',
      'https:∕∕bank.example',
      'https:⁄⁄bank.example',
      'https:\\\\bank.example',
      'https:/\\bank.example',
      'https∶//bank.example',
      'ftp://bank.example',
      'ftp://evil.example',
      '//bank.example'.replace('//', 'x:/ /'),
      'www。bank.example',
      '**me**@bank.example',
      'me@bank。example',
      'https://evil.example.bank.example',
      'https://evil.exam',
      'https://evil.exam...',
      'https://evil.example/other',
      'https://evil.example https://bank.example',
      'www.bank.example/login',
      'me@bank.example',
      '*https://bank.example*',
      'ｈｔｔｐｓ://bank.example',
      'https\u200b://bank.example',
      'go to https://bank.example now',
    ]) {
      expect(blocks(`[${label}](https://evil.example)`), label).not.toContain('(evil.example)');
    }
    // What the browser would take for a password.
    expect(inline('[a](https://bank.example@evil.example)')).not.toContain('<a');
    // Others show where they lead.
    expect(inline('[bank.example](https://evil.example)')).toContain('(evil.example)');
    for (const [label, address] of [
      ['https://a.example', 'https://a.example/x'],
      ['http://a.example/', 'https://a.example/x'],
      ['https://a.example/x', 'https://a.example/x?y=1#z'],
      ['https://a.example/x_y_', 'https://a.example/x_y_'],
      ['https://a.example/lon…', 'https://a.example/long'],
      ['www.a.example', 'https://a.example'],
      ['https://a.example:81/x', 'https://a.example:81/x/y'],
      ['https://例え.テスト/日本', 'https://例え.テスト/日本'],
      ['Awww.', 'https://a.example'],
      ['ratio 1:2, // and ann@work', 'https://a.example'],
    ] as const) {
      expect(inline(`[${label}](${address})`), label).toMatch(/^<a [^>]*\([^>]*>.*<\/a>$/);
    }
    for (const [label, address] of [
      ['https://github.com/good/repo', 'https://github.com/evil/repo'],
      ['https://github.com/good', 'https://github.com/good-evil'],
      ['https://a.example:80', 'https://a.example:81'],
      ['https://a.example', 'https://a.example:81'],
      ['https://a.example/a', 'https://a.example/A'],
    ] as const) {
      expect(inline(`[${label}](${address})`), label).not.toContain(' (');
    }
    // A host in another script shows its letters that look alike.
    expect(inline('[a](https://bаnk.example)')).toContain('(xn--bnk-6cd.example)');
  });

  it('show where they lead beside their text', () => {
    for (const label of [
      'bank.example/login\n\u200b\n\u200b\n',
      'bank\nexample',
      'bank\rexample',
      'bank\u2028example',
      ' bank.example',
      'bank.example ',
      'bank.example\u200b',
      '\u3164bank.example',
      'bank.example\u2800',
      '**bank.example\u2800**',
      `bank.example${'\u3000'.repeat(40)}.`,
      `bank.example${'\u2800'.repeat(4)}.`,
      `bank.example\u00a0\u200b\u00a0\u200b.`,
      'bank.example\u202e',
      'a\u202eelpmaxe.knab',
      'a\u2067b',
      'a\u200fb',
    ]) {
      const text = `[${label}](https://evil.example)`;
      expect(blocks(text), JSON.stringify(label)).not.toContain('(evil.example)');
    }
    for (const label of ['❤️', '🏴󠁧󠁢󠁥󠁮󠁧󠁿', 'a  b', '👩‍👩‍👧', '日本　語', 'e\u0301', 'हिन्दी']) {
      expect(inline(`[${label}](https://a.example)`)).toBe(`<a https://a.example/ (a.example)>${label}</a>`);
    }
  });

  it('without a text keep their stars and lines, except those that end what began before', () => {
    for (const url of ['https://a.example/a_b_c*d*', 'https://a.example/_x_', 'www.example.org/~a/__b__']) {
      expect(inline(`see ${url} there`)).toMatch(new RegExp(`^see <a [^>]*>${url.replace(/\*/g, '\\*')}</a> there$`));
    }
    expect(inline('**see https://a.example/x.** _https://a.example/a_b_ (*https://a.example/c*)')).toBe(
      '<strong>see <a https://a.example/x>https://a.example/x</a>.</strong> ' +
        '<em><a https://a.example/a_b>https://a.example/a_b</a></em> ' +
        '(<em><a https://a.example/c>https://a.example/c</a></em>)',
    );
    expect(inline('_me@example.org_ *www.example.org*')).toBe(
      '<em><a mailto:me@example.org>me@example.org</a></em> ' +
        '<em><a https://www.example.org>www.example.org</a></em>',
    );
  });
});

it('finds mentions in formatted text', () => {
  expect(inline('**@ann** _@bob_ *hi @karl gustav*')).toBe(
    '<strong><me>@ann</me></strong> <em><mention>@bob</mention></em> <em>hi <mention>@karl gustav</mention></em>',
  );
  expect(blocks('> @ann\n- @bob')).toBe(
    '<quote><p><me>@ann</me></p></quote><list><li><p><mention>@bob</mention></p></li></list>',
  );
});

it('finds names that contain markers', () => {
  const known = new Names();
  for (const name of ['`bob`', 'Ann *x*', 'Ann _x_', 'a[b](c)', 'snake_', 'Cy']) known.add(name);
  const mentions = (text: string, me: string) => {
    const found = parseMarkdown(text, me, known).map(shown).join('');
    expect(mentionsMe(text, me, known), text).toBe(found.includes('<me>'));
    return found;
  };
  expect(mentions('@`bob` `x`', '`bob`')).toBe('<p><me>@`bob`</me> <code>x</code></p>');
  expect(mentions('*hi* @Ann *x*, *you*', 'Ann *x*')).toBe('<p><em>hi</em> <me>@Ann *x*</me>, <em>you</em></p>');
  expect(mentions('*hi @Ann _x_*', 'Ann _x_')).toBe('<p><em>hi <me>@Ann _x_</me></em></p>');
  expect(mentions('@a[b](c) [@a[b](c)](https://a.example)', 'a[b](c)')).toBe(
    '<p><me>@a[b](c)</me> <a https://a.example/ (a.example)><me>@a[b](c)</me></a></p>',
  );
  expect(mentions('@snake_ and *@snake_*', 'snake_')).toBe('<p><me>@snake_</me> and <em><me>@snake_</me></em></p>');
  expect(mentions('`a @snake_ b` @Cy *x*', 'Cy')).toBe(
    '<p><code>a @snake_ b</code> <me>@Cy</me> <em>x</em></p>',
  );
  expect(mentions('https://a.example/@snake_/b', 'snake_')).not.toContain('<me>');
});

it('makes a text without markers', () => {
  expect(plainText('**a** `b` [c](https://a.example) https://b.example')).toBe('a b c https://b.example');
  expect(plainText('> a\n> b\n\n- c\n  - d\n3. e\n```js\nf\n```')).toBe('a\nb\n• c\n• d\n3. e\nf');
});

const SAMPLE = [
  'A **bold _word_** and `code`, @ann: [text](https://a.example) https://b.example/x_',
  '> quoted *over',
  '> two* lines',
  '> ```',
  '> let a = 1;',
  '> ```',
  '- one',
  '  1. two ~~three~~',
  '',
  '```js',
  'f();',
  '',
  'g();',
  '```',
  'end',
].join('\n');

describe('the ranges', () => {
  /** The leaves, and a check that each node encloses its children. */
  function leaves(node: Node): Node[] {
    if ('text' in node) return [node];
    for (const { start, end } of node.children) expect(start >= node.start && end <= node.end).toBe(true);
    return (node.children as Node[]).flatMap(leaves);
  }

  it('are those of what is written', () => {
    const all = parse(SAMPLE).flatMap(leaves);
    expect(all.length).toBeGreaterThan(15);
    let at = 0;
    for (const leaf of all) {
      expect(visible(leaf)).toBe(SAMPLE.slice(leaf.start, leaf.end));
      expect(leaf.start).toBeGreaterThanOrEqual(at);
      at = leaf.end;
    }
  });

  /** What is copied when this part of the shown text is selected. */
  function copied(text: string, selected: string): string {
    const tree = parse(text);
    const from = tree.map(visible).join('').indexOf(selected);
    expect(from).toBeGreaterThanOrEqual(0);
    return written(text, tree, from, from + selected.length);
  }

  it('lead from a selection to what was written', () => {
    const all = parse(SAMPLE).map(visible).join('');
    expect(copied(SAMPLE, all)).toBe(SAMPLE);
    expect(copied('a **b** c', 'a b')).toBe('a **b**');
    expect(copied('a **b** c', ' b c')).toBe(' **b** c');
    expect(copied('a **b** c', 'a ')).toBe('a ');
    expect(copied('a **b** c', ' c')).toBe(' c');
    expect(copied('a **b** c', 'b')).toBe('**b**');
    expect(copied('a **bold text** c', 'text')).toBe('text');
    expect(copied('a `b` c', 'b')).toBe('b');
    expect(copied('a `b` c', 'a b')).toBe('a `b`');
    expect(copied('```\na\nb\n```', 'a\nb')).toBe('a\nb');
    expect(copied('x\n```\na\n```\ny', 'xay')).toBe('x\n```\na\n```\ny');
    expect(copied('- a\n- b\n- c', 'bc')).toBe('- b\n- c');
    expect(copied('[a](https://a.example)', 'a')).toBe('[a](https://a.example)');
    expect(copied('plain', 'lai')).toBe('lai');
    expect(written('plain', parse('plain'), 2, 2)).toBe('');
    expect(written('', [], 0, 0)).toBe('');
  });

  it('leave code alone if nothing else is selected', () => {
    const all = ['`npm i`', '- `npm i`', '> `npm i`', '> 1. `npm i`\n> 2. b', '```\nnpm i\n```', 'a `npm i` b'];
    for (const text of all) {
      expect(copied(text, 'npm i'), text).toBe('npm i');
      expect(copied(text, 'pm'), text).toBe('pm');
    }
    expect(copied('**`a`**', 'a')).toBe('**`a`**');
    expect(copied('[`a`](https://a.example)', 'a')).toBe('[`a`](https://a.example)');
    expect(copied('> look:\n> ```\n> a\n> b\n> ```', 'a\nb')).toBe('a\nb');
    expect(copied('- look:\n  ```\n  a\n    b\n  c\n  ```', '  b\nc')).toBe('  b\nc');
    expect(copied('> look:\n> ```\n> a\n> b\n> ```', 'look:a\nb')).toBe('> look:\n> ```\n> a\n> b\n> ```');
  });

  it('lead to no marker without the other one', () => {
    expect(copied('see [the docs](https://a.example) now', 'docs now')).toBe('docs now');
    expect(copied('see [the docs](https://a.example) now', 'see the')).toBe('see the');
    expect(copied('a **bold _te_ xt** b', 'te xt b')).toBe('_te_ xt b');
    expect(copied('a **bold _text_** b', 'ext b')).toBe('ext b');
    expect(copied('**_a b_ c** d', 'a b c')).toBe('**_a b_ c**');
    expect(copied('**_a b_ c** d', 'b c d')).toBe('b c d');
    expect(copied('a `b c` d', 'c d')).toBe('c d');
    expect(copied('*a b* *c d*', 'b c')).toBe('b c');
    expect(copied('```\na\nb\n```\nc', 'bc')).toBe('b\nc');
    expect(copied('x\n```js\na\nb\n```\nc', 'xa')).toBe('x\na');
  });
});

describe('any text', () => {
  const hostile = [
    ...['*', '_', '~', '`', '[', ']', '(', '>', '-', '\\', '@', '#', '1', ':'],
    ...['\n', '\r', '\t', ' ', '\u2028', '\u2029'],
    ...['> ', '- ', '1. ', '* ', '*a', 'a*', '**a', 'a**', '_a ', ' a_', '~~a', '*_', '*a _b ', '*a **b ', '**a *b* '],
    ...['`a', '``a`', '[a', '[](', '](', '](https://', '[a](https://', '[a](https://a', '[a](https://(', '![a]('],
    ...['](http://a)', '](http://a@b)', '[www.a.b](http://c)', '(http://a(b)'],
    ...['https://a.example/*', '*https://a.example/*', 'https://a.example/_ ', '@a_', '@ann*', 'a@b*', 'me@a.example'],
    ...['www.', 'http://', 'www.a.b:', 'http://a:', 'http://a/b重', 'http://a.b谢/谢', 'www.aa.重', 'www.a_a.', 'a.'],
    ...['```', '```\n', '```a\n', '``` a b\n', '``` ', '````a\n```\n', '> ```\n', '- ```\n', '>\n', '> a\n', '- a\n'],
    ...['- a\n\n', '  - a\n', '\n\n  '],
    ...['***a*', '*a***', '*a* ', '**a** ', '`a` ', '[a](https://a.example) ', '~~a~~', '重**点**', '\u0301*', '😀*'],
  ];
  let seed = 1;
  const random = (below: number) => (seed = (seed * 48_271) % 2_147_483_647) % below;

  it('is parsed in linear time', () => {
    const fill = (piece: string, size: number) => piece.repeat(Math.ceil(size / piece.length));
    /** What becomes longer, so that nothing pairs up. */
    const growing = (piece: string, size: number, between: string) => {
      const lines = Array.from({ length: Math.sqrt(2 * size) }, (_, i) => fill(piece, i + 3));
      return lines.reverse().join(between);
    };
    const texts: ((size: number) => string)[] = [
      (size) => growing('`', size / 2, '\n') + '\n```' + ' '.repeat(size / 2) + '`',
      (size) => growing('`', size / 2, '\n') + '\n' + growing('`', size / 2, ' a\n'),
      (size) => fill('[', size / 12) + fill('www.a.b:', size / 2) + fill('](http://a)', size / 2),
      (size) => fill('[', size / 12) + fill('](http://a)](http://b)', size),
    ];
    for (const piece of hostile) {
      texts.push((size) => fill(piece, size));
      texts.push((size) => `*[\`${fill(piece, size)}`);
      texts.push((size) => growing(piece, size, ' '));
    }
    for (let i = 0; i < 150; i++) {
      const pieces = Array.from({ length: 4 }, () => hostile[random(hostile.length)]!);
      texts.push((size) => pieces.map((piece) => fill(piece, size / 4)).join(''));
    }
    for (const text of texts) {
      const times = [Infinity, Infinity];
      /** 16 times the text takes 16 times the work, or 256 times. */
      const isLinear = () => times[1]! < 60 || times[1]! / Math.max(times[0]!, 1) < 64;
      for (let i = 0; i < 12 && !isLinear(); i++) {
        [2000, 32_000].forEach((size, which) => {
          const long = text(size);
          times[which] = Math.min(times[which]!, busyTime(() => parse(long)));
        });
      }
      expect(isLinear(), JSON.stringify(text(60))).toBe(true);
    }
  }, 60_000);

  it('is shown in its order, without anything else', () => {
    /** What disappears: markers, addresses and languages. */
    const MARKERS = /^(?:[ \t\r\n*_~`[\]>-]|\d+\.|\]\(http[^\s\u2028]*\)|```a)*$/;
    for (let round = 0; round < 5000; round++) {
      const text = Array.from({ length: random(14) }, () => hostile[random(hostile.length)]).join('');
      let at = 0;
      const check = (node: Node) => {
        if ('text' in node) {
          expect(node.start, text).toBeGreaterThanOrEqual(at);
          expect(node.text).toBe(text.slice(node.start, node.end));
          expect(text.slice(at, node.start), JSON.stringify(text)).toMatch(MARKERS);
          at = node.end;
        } else for (const child of node.children) check(child);
      };
      const tree = parse(text);
      tree.forEach(check);
      expect(text.slice(at), JSON.stringify(text)).toMatch(MARKERS);
      const all = tree.map(visible).join('');
      const [from, to] = [random(all.length + 1), random(all.length + 1)].sort((a, b) => a - b) as [number, number];
      const part = written(text, tree, from, to);
      // In this order.
      let found = 0;
      for (const char of all.slice(from, to)) {
        found = part.indexOf(char, found) + 1;
        expect(found, JSON.stringify([text, from, to])).toBeGreaterThan(0);
      }
    }
  }, 60_000);
});

import { describe, expect, it } from 'vitest';
import { type Mark, toggleMark } from './format';
import { parseMarkdown } from './markdown';
import { Names } from './mentions';

/** A text in which `[` and `]` enclose the selection, before and after. */
function toggled(marked: string, mark: Mark): string {
  const start = marked.indexOf('[');
  const end = marked.indexOf(']') - 1;
  const text = marked.replace(/[[\]]/g, '');
  const change = toggleMark(text, start, end, mark);
  const next = text.slice(0, change.from) + change.insert + text.slice(change.to);
  return `${next.slice(0, change.start)}[${next.slice(change.start, change.end)}]${next.slice(change.end)}`;
}

describe('a marker', () => {
  it('comes and goes around the selection', () => {
    const pairs: [string, Mark, string][] = [
      ['a [b] c', 'strong', 'a **[b]** c'],
      ['a [b] c', 'em', 'a _[b]_ c'],
      ['a [b] c', 'code', 'a `[b]` c'],
      ['[]', 'strong', '**[]**'],
      ['a []', 'em', 'a _[]_'],
      ['**[b]**', 'em', '**_[b]_**'],
      ['_[b]_', 'strong', '_**[b]**_'],
      ['这是[重点]内容', 'em', '这是*[重点]*内容'],
      ['x [a\nb] y', 'code', 'x \n```\n[a\nb]\n```\n y'],
      ['[a\nb]', 'code', '```\n[a\nb]\n```'],
    ];
    for (const [without, mark, withIt] of pairs) {
      expect(toggled(without, mark)).toBe(withIt);
      if (!without.startsWith('x ')) expect(toggled(withIt, mark)).toBe(without);
    }
  });

  it('stands beside words, not spaces', () => {
    expect(toggled('a[ b ]c', 'strong')).toBe('a **[b]** c');
    expect(toggled('a[  ]c', 'strong')).toBe('a**[]**  c');
  });

  it('goes if it is selected, too', () => {
    expect(toggled('a [**b**] c', 'strong')).toBe('a [b] c');
    expect(toggled('a [__b__] c', 'strong')).toBe('a [b] c');
    expect(toggled('a [*b*] c', 'em')).toBe('a [b] c');
    expect(toggled('a [`b`] c', 'code')).toBe('a [b] c');
  });

  it('is told from another of the same character', () => {
    expect(toggled('**[b]**', 'em')).toBe('**_[b]_**');
    expect(toggled('***[b]***', 'em')).toBe('**[b]**');
    expect(toggled('***[b]***', 'strong')).toBe('*[b]*');
    expect(toggled('*[b]*', 'strong')).toBe('***[b]***');
    expect(toggled('[**b**]', 'em')).toBe('_[**b**]_');
  });

  it('is longer than those in the code', () => {
    expect(toggled('[a ` b]', 'code')).toBe('`` [a ` b] ``');
    expect(toggled('[a `` b]', 'code')).toBe('``` [a `` b] ```');
    const [block] = parseMarkdown('`` a ` b ``', '', new Names());
    expect(block).toMatchObject({ children: [{ kind: 'code', children: [{ text: 'a ` b' }] }] });
  });

  it('has a fence around lines, whatever its language', () => {
    expect(toggled('```js\n[a\nb]\n```\nc', 'code')).toBe('[a\nb]\nc');
  });
});

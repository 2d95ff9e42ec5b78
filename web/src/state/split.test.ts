import { describe, expect, it } from 'vitest';
import { MOST_PARTS, countLines, split } from './split';
import { parseMarkdown } from './markdown';
import { Names } from './mentions';

const lines = (count: number, text = 'line') => Array.from({ length: count }, (_, i) => `${text} ${i}`);
const bytes = (text: string) => new TextEncoder().encode(text).length;

describe('split', () => {
  it('leaves a short text as it is', () => {
    expect(split('a\n\nb', 100)).toEqual(['a\n\nb']);
    expect(split('x'.repeat(100), 100)).toEqual(['x'.repeat(100)]);
  });

  it('keeps paragraphs and lines together, and every line', () => {
    const [a, b] = [lines(8).join('\n'), lines(9, 'other').join('\n')];
    expect(split(`${a}\n\n${b}`, bytes(a) + 20)).toEqual([a, ...split(b, bytes(a) + 20)!]);
    const all = lines(250);
    const parts = split(all.join('\n'), 16_384)!;
    expect(parts.map(countLines)).toEqual([100, 100, 50]);
    expect(parts.join('\n')).toBe(all.join('\n'));
  });

  it('cuts a long line between words, and never within a character', () => {
    const words = 'word '.repeat(100).trim();
    const parts = split(words, 64)!;
    for (const part of parts) expect(part).toMatch(/^word( word)*$/);
    expect(parts.join(' ')).toBe(words);
    const family = '👨‍👩‍👧‍👦'.repeat(40);
    const emoji = split(family, 64)!;
    for (const part of emoji) expect(part).toMatch(/^(?:👨‍👩‍👧‍👦)+$/);
    expect(emoji.join('')).toBe(family);
    // One with very many marks.
    const marks = `e${"\u0301".repeat(100)}`;
    for (const part of split(marks, 64)!) expect(bytes(part)).toBeLessThanOrEqual(64);
  });

  it('closes code at a cut, and opens it again with its language', () => {
    const code = lines(150, 'let a =');
    const parts = split(['Look:', '```rust', ...code, '```', 'Good?'].join('\n'), 600)!;
    expect(parts.length).toBeGreaterThan(2);
    expect(parts[0]).toMatch(/^Look:\n```rust\nlet a = 0\n[^]*\n```$/);
    expect(parts[1]).toMatch(/^```rust\nlet a[^]*\n```$/);
    expect(parts.at(-1)).toMatch(/^```rust\nlet a[^]*\n```\nGood\?$/);
    const found = parts.flatMap((part) => {
      expect(bytes(part)).toBeLessThanOrEqual(1000);
      return part.split('\n').filter((line) => line.startsWith('let'));
    });
    expect(found).toEqual(code);
    for (const part of parts) {
      expect(parseMarkdown(part, 'ann', new Names()).filter(({ kind }) => kind === 'code-block')).toHaveLength(1);
    }
    // Blank lines within code stay, and a fence without an end is none.
    expect(split(`\`\`\`\n${'a\n\n'.repeat(40)}\`\`\``, 60)!.join('').match(/\n\n/g)!.length).toBeGreaterThan(30);
    expect(split(`\`\`\`\n${'abc\n'.repeat(40)}`, 60)!.slice(1).join('\n')).not.toContain('`');
  });

  it('gives up if there would be too many, and takes little time', () => {
    const long = 'x'.repeat(100);
    expect(split(long.repeat(MOST_PARTS), 100)).toHaveLength(MOST_PARTS);
    expect(split(`${long.repeat(MOST_PARTS)}x`, 100)).toBeUndefined();
    expect(split('x\n'.repeat(LOTS), 16_384)).toBeUndefined();
    expect(split('\n'.repeat(300_000), 16_384)).toEqual([]);
    for (const text of ['\n', ' ', '`', '```\n', '```\nx\n', '\u0301', '``` \n````\n']) {
      for (const part of split(text.repeat(20_000 / text.length), 1000) ?? []) {
        expect(bytes(part)).toBeLessThanOrEqual(1000);
      }
    }
  }, 30_000);
});

const LOTS = 100_000;

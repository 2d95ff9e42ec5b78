import { expect, it } from 'vitest';
import { folded, isLong } from './fold';
import { type Block, parseMarkdown, visible, written } from './markdown';
import { Names } from './mentions';

const lines = (count: number, prefix = '') => Array.from({ length: count }, (_, i) => `${prefix}line ${i}`).join('\n');
const beginning = (text: string): Block[] => folded(parseMarkdown(text, '', new Names()));
const shown = (text: string) => beginning(text).map(visible).join('|');

it('tells long texts by their lines and characters', () => {
  expect(isLong('')).toBe(false);
  expect(isLong(lines(20))).toBe(false);
  expect(isLong(lines(21))).toBe(true);
  expect(isLong('a '.repeat(700))).toBe(false);
  expect(isLong('a '.repeat(850))).toBe(true);
  expect(isLong(`${'a'.repeat(800)}\n${lines(10)}`)).toBe(false);
  expect(isLong(`${'a'.repeat(800)}\n${lines(11)}`)).toBe(true);
});

it('shows the first lines', () => {
  expect(shown(lines(30))).toBe(lines(12));
  expect(shown(`\`\`\`\n${lines(30)}\n\`\`\``)).toBe(lines(12));
  expect(shown(lines(30, '- '))).toBe(lines(12).replace(/\n/g, ''));
  expect(shown(lines(30, '> '))).toBe(lines(12));
  expect(shown(`${lines(10)}\n- a\n- b\n- c\nd`)).toBe(`${lines(10)}|ab`);
});

it('ends between words, or else between characters', () => {
  const text = shown('some words '.repeat(200));
  expect(text.length).toBeGreaterThan(940);
  expect(text.length).toBeLessThanOrEqual(960);
  expect(text).toMatch(/(some|words)$/);
  expect(shown('😀'.repeat(2000))).toBe('😀'.repeat(480));
  expect(shown('👩‍🚀'.repeat(1000))).toBe('👩‍🚀'.repeat(192));
});

it('keeps the formatting, and the ranges of what is left', () => {
  const text = `**bold\n${lines(40)}**`;
  const [block] = beginning(text);
  expect(block).toMatchObject({ kind: 'paragraph', children: [{ kind: 'strong' }] });
  const length = visible(block!).length;
  expect(written(text, [block!], 0, length)).toBe(`**bold\n${lines(11)}`);
});

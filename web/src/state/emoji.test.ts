import { describe, expect, it } from 'vitest';
import german from 'virtual:emoji/de';
import { EmojiSet, TONES, toned } from './emoji';

const set = new EmojiSet();
const all = set.groups.flatMap(({ emoji }) => emoji);
const first = (query: string, recent?: string[]) => set.search(query, recent)[0]?.emoji;
// TypeScript doesn't know this flag of ES2024.
const RGI = new RegExp(String.raw`^\p{RGI_Emoji}$`, 'v');
const MAYBE = /^[\p{Emoji}\p{Emoji_Component}\u200d\ufe0f]+$/u;

describe('the emoji', () => {
  it('are all there, each once', () => {
    expect(set.groups.map(({ name }) => name)).toContain('Food & drink');
    expect(all.length).toBeGreaterThan(1800);
    expect(new Set(all.map(({ emoji }) => emoji)).size).toBe(all.length);
    for (const { emoji, names } of all) expect(names.length, emoji).toBeGreaterThan(0);
  });

  it('have the form that the server stores', () => {
    const emoji = all.map(({ emoji }) => emoji);
    for (const one of ['👍', '❤️', '⭐', '🏳️‍🌈', '#️⃣', '🇫🇷']) expect(emoji).toContain(one);
    // This version of Node.js may not know the latest.
    for (const { emoji, version } of all) expect(emoji, emoji).toMatch(version <= 15.1 ? RGI : MAYBE);
  });

  it('take skin tones', () => {
    const [thumb, couple, victory] = ['👍', '🧑‍🤝‍🧑', '✌️'].map((emoji) => set.find(emoji)!);
    expect(toned(thumb!, 0)).toBe('👍');
    expect(toned(thumb!, 1)).toBe('👍🏻');
    expect(toned(couple!, 5)).toBe('🧑🏿‍🤝‍🧑🏿');
    expect(toned(victory!, 3)).toBe('✌🏽');
    expect(toned(set.find('🎉')!, 3)).toBe('🎉');
    for (const one of all.filter(({ version, hasTones }) => hasTones && version <= 15.1)) {
      for (const tone of TONES.keys()) {
        const emoji = toned(one, tone);
        expect(set.find(emoji), emoji).toBe(one);
        expect(emoji, emoji).toMatch(RGI);
      }
    }
  });
});

describe('searching emoji', () => {
  it('finds them by their short names', () => {
    expect(first('thumbsup')).toBe('👍');
    expect(first('+1')).toBe('👍');
    expect(first('-1')).toBe('👎');
    expect(first('heart')).toBe('❤️');
    expect(first(':tada:')).toBe('🎉');
    expect(first('HEART_EYES')).toBe('😍');
    expect(set.search('thumb').slice(0, 2).map(({ emoji }) => emoji)).toEqual(['👍', '👎']);
  });

  it('finds them by words for what they show', () => {
    expect(set.search('flag franc').map(({ emoji }) => emoji)).toContain('🇫🇷');
    expect(set.search('happy').length).toBeGreaterThan(3);
    expect(first('red heart')).toBe('❤️');
    expect(set.search('')).toEqual([]);
    expect(set.search('qqqq')).toEqual([]);
  });

  it('prefers those that were used last', () => {
    const [best, second] = set.search('smil');
    expect(first('smil', [second!.emoji])).toBe(second!.emoji);
    expect(first('smil', ['👎', '👍'])).toBe(best!.emoji);
    expect(first('thum', ['👎🏿', '👍'])).toBe('👎');
    expect(first('thum', ['👍', '👎'])).toBe('👍');
    // But not to the one that was meant.
    expect(first('heart', ['😍'])).toBe('❤️');
  });
});

describe('emoji in another language', () => {
  const own = new EmojiSet(german);

  it('have the names of that language', () => {
    expect(own.groups.map(({ name }) => name)).toContain('Essen & Trinken');
    expect(own.find('❤️')!.label).toBe('rotes Herz');
    expect(own.groups.map(({ emoji }) => emoji.length)).toEqual(set.groups.map(({ emoji }) => emoji.length));
    expect(own.find('👍🏿')!.names).toEqual(set.find('👍🏿')!.names);
  });

  it('are found in that language, and in English', () => {
    const found = (query: string) => own.search(query).map(({ emoji }) => emoji);
    expect(found('Herz')).toContain('❤️');
    expect(found('fröhlich').length).toBeGreaterThan(3);
    expect(found('red heart')[0]).toBe('❤️');
    expect(found('tada')[0]).toBe('🎉');
    expect(found('flag franc')).toContain('🇫🇷');
  });
});

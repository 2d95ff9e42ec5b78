import { describe, expect, it } from 'vitest';
import type { RoomInfo } from '@uproar/client';
import { complete, isEmojiQuery } from './completion';
import { EmojiSet, toned } from './emoji';

const rooms = [
  ['general', 'General'],
  ['garden', 'The garden'],
  ['the kitchen', 'The kitchen'],
].map(([name, title]) => ({ name, title }) as RoomInfo);
const set = new EmojiSet();
const sources = { names: ['Ann', 'Anna'], rooms, emoji: (query: string) => set.search(query) };
const texts = (text: string) => complete(text, sources)?.options.map(({ text }) => text);

describe('the completion of emoji', () => {
  it('begins with two letters after a colon', () => {
    expect(texts('fine :thumbsu')).toEqual(['👍']);
    expect(texts(':hea')).toContain('❤️');
    expect(texts('(:TAD')).toEqual(['🎉']);
    expect(texts('👍:tad')).toEqual(['🎉']);
    expect(texts('你好:tad')).toEqual(['🎉']);
    expect(texts(':+1')?.[0]).toBe('👍');
    expect(complete('ok :thumbs', sources)).toMatchObject({ kind: 'emoji', start: 3 });
    expect(complete(':thumbs', sources)?.options[0]).toMatchObject({ sign: '👍', title: ':thumbsup:' });
    expect(texts(':he')).toHaveLength(6);
  });

  it('knows when a name is complete', () => {
    expect(texts(':heart:')).toEqual(['❤️']);
    expect(texts(':hear:')).toBeUndefined();
  });

  it('keeps quiet where a colon means something else', () => {
    const faces = [':', ':h', ':-)', ':)', ':D', ':/', ':3'];
    const others = ['12:30', '12:30 ', 'https://ex', 'https:', '::', 'std::ve', '::he'];
    for (const text of [...faces, ...others, 'a:heart', 'C:he', ':he ', ': he', ':1st', ':12', 'note:th', '[:he', '":']) {
      expect(texts(text), text).toBeUndefined();
      expect(isEmojiQuery(text), text).toBe(false);
    }
    expect(complete(':he', { ...sources, emoji: undefined })).toBeUndefined();
    expect(texts(':qqqq')).toBeUndefined();
  });

  it('keeps the skin tone', () => {
    const dark = { ...sources, tone: (emoji: Parameters<typeof toned>[0]) => toned(emoji, 5) };
    expect(complete(':thumbsup', dark)?.options[0]!.text).toBe('👍🏿');
  });
});

describe('the completion of rooms', () => {
  it('finds rooms by name and title', () => {
    expect(texts('see #')).toEqual(['#general ', '#garden ', '#the kitchen ']);
    expect(texts('see #g')).toEqual(['#general ', '#garden ']);
    expect(texts('#The K')).toEqual(['#the kitchen ']);
    expect(texts('#kit')).toEqual(['#the kitchen ']);
    expect(texts('#the ')).toEqual(['#the kitchen ']);
    expect(complete('in #gar', sources)).toMatchObject({ kind: 'rooms', start: 3 });
    expect(complete('#gar', sources)?.options).toEqual([
      { text: '#garden ', sign: '#', title: 'The garden', hint: 'garden' },
    ]);
  });

  it('keeps quiet otherwise', () => {
    for (const text of ['C#', 'a#g', '##', '# g', '#1', '#garden', '#garden is', '#general ', '#x', '#g\n', '#nr']) {
      expect(texts(text), text).toBeUndefined();
    }
  });
});

it('completes the names of people', () => {
  expect(complete('hi @an', sources)).toEqual({
    kind: 'people',
    start: 3,
    options: [
      { text: '@Ann ', title: 'Ann' },
      { text: '@Anna ', title: 'Anna' },
    ],
  });
});

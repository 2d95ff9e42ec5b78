import { describe, expect, it } from 'vitest';
import { Names } from './mentions';
import { cut, excess, isBlank, isEmojiOnly, parseText, storable } from './text';

const names = new Names();
const rooms = new Names();
for (const name of ['Lobby', 'Lobby 2', '広場', 'c++']) rooms.add(name);
const kinds = (text: string) => parseText(text, 'ann', names, rooms).map(part => `${part.kind}:${part.text}`);

describe('parseText', () => {
  it('leaves plain text unchanged', () => {
    expect(kinds('<script>alert(1)</script> & <b>')).toEqual(['text:<script>alert(1)</script> & <b>']);
    expect(kinds('')).toEqual([]);
  });

  it('finds addresses without the surrounding punctuation', () => {
    expect(kinds('see https://a.example/x_(y) (and http://b.example/z).')).toEqual([
      'text:see ',
      'link:https://a.example/x_(y)',
      'text: (and ',
      'link:http://b.example/z',
      'text:).',
    ]);
    expect(kinds('https://a.example/?q=1&r=2, ok')).toEqual(['link:https://a.example/?q=1&r=2', 'text:, ok']);
  });

  it('keeps the brackets that the address itself opens, in linear time', () => {
    const many = `http://a.example/${')'.repeat(16_000)}`;
    expect(parseText(many, 'ann', names, rooms)).toEqual([
      { kind: 'link', text: 'http://a.example/', href: 'http://a.example/' },
      { kind: 'text', text: ')'.repeat(16_000) },
    ]);
    expect(kinds('(https://a.example/((x)))')).toEqual(['text:(', 'link:https://a.example/((x))', 'text:)']);
    expect(kinds('[https://a.example/[1]]…')).toEqual(['text:[', 'link:https://a.example/[1]', 'text:]…']);
  });

  it('turns nothing else into links', () => {
    for (const text of ['javascript:alert(1)', 'data:text/html,x', 'xhttps://a', 'https://', 'ftp://a.example']) {
      expect(parseText(text, 'ann', names, rooms).some(({ kind }) => kind === 'link')).toBe(false);
    }
  });

  it('finds mentions, and those of the user', () => {
    expect(kinds('@Ann and @bob-the-2nd, me@example.org')).toEqual([
      'me:@Ann',
      'text: and ',
      'mention:@bob-the-2nd',
      'text:, ',
      'link:me@example.org',
    ]);
  });

  it('finds rooms that the user knows, the longest name first', () => {
    const found = (text: string) => {
      const parts = parseText(text, 'ann', names, rooms);
      return parts.flatMap((part) => (part.kind === 'room' ? [`${part.text}=${part.room}`] : []));
    };
    expect(found('#lobby, #LOBBY 2. (#Lobby) #lobbyists #c++!')).toEqual(
      ['#lobby=Lobby', '#LOBBY 2=Lobby 2', '#Lobby=Lobby', '#c++=c++'],
    );
    expect(found('話は#広場で')).toEqual(['#広場=広場']);
    expect(found('C#lobby ##lobby &#lobby /#lobby #other https://a.example/#lobby #12')).toEqual([]);
    expect(kinds('@ann in #lobby')).toEqual(['me:@ann', 'text: in ', 'room:#lobby']);
  });

  it('keeps every character', () => {
    const text = 'a @b https://c.example/ @@ ) . @ann! https://x.example.';
    expect(
      parseText(text, 'ann', names, rooms)
        .map(part => part.text)
        .join(''),
    ).toBe(text);
  });
});

it('cuts between characters', () => {
  expect(cut('short', 5)).toBe('short');
  expect(cut('longer', 5)).toBe('longe…');
  const crew = '👩‍🚀';
  expect(cut(`ab${crew}${crew}`, 8)).toBe(`ab${crew}…`);
  expect(cut(`ab${crew}`, 4)).toBe('ab…');
  expect(cut('e\u0301e\u0301', 3)).toBe('e\u0301…');
});

it('counts the characters that are too many for a limit in bytes', () => {
  expect(excess('a'.repeat(10), 10)).toBe(0);
  expect(excess('a'.repeat(12), 10)).toBe(2);
  expect(excess('ä'.repeat(10), 10)).toBe(5);
  expect(excess(`${'a'.repeat(10)}👩‍🚀`, 10)).toBe(1);
});

it('knows when there is nothing to see', () => {
  // The cases of the server's `is_visible` in `model/src/text.rs`, and more.
  for (const text of [
    '',
    ' \n\t',
    '\u3000',
    '\u200b\u200d',
    '\u2066\u3164',
    '\u0007',
    '\u0301',
    '\u0301\u0301',
    '\u200e\u2800',
    '\u2800',
    '\uffa0',
    '\u115f',
    '\u034f',
    '\ufe0f',
    '\u{e0100}',
    '\u{1d173}',
    '\u202e',
    '\ufeff',
    '\u{1d159}',
    '\0',
    '\ufffc',
    '\u{16fe4}',
  ])
    expect(isBlank(text), JSON.stringify(text)).toBe(true);
  for (const text of [
    'a',
    ' . ',
    '👍🏽',
    '\ufffd',
    'e\u0301',
    '한',
    '\ufe0f!',
    '\u{10ffff}',
    '\u0378',
    '\u06dd',
    '\u0600',
  ]) {
    expect(isBlank(text), JSON.stringify(text)).toBe(false);
  }
});

it('removes only what cannot be stored', () => {
  expect(storable('a\0b\u0007 \ud83d \ude00\ud83d\ude00')).toBe('ab\u0007 \ufffd \ufffd\ud83d\ude00');
});

describe('isEmojiOnly', () => {
  it('is true for a few emoji and nothing else', () => {
    for (const text of ['👍', '🎉🎉', ' 👩‍👩‍👧 🇩🇪 ❤️\n1️⃣ ', '👍🏽']) expect(isEmojiOnly(text), text).toBe(true);
    for (const text of ['', ' ', '1', '#', 'ok 👍', '👍.', '😀'.repeat(7), '❤️'.repeat(1000)]) {
      expect(isEmojiOnly(text), text).toBe(false);
    }
  });
});

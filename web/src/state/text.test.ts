import { describe, expect, it } from 'vitest';
import { byteLength, mentionsMe, parseText, storable } from './text';

const kinds = (text: string) => parseText(text, 'ann').map((part) => `${part.kind}:${part.text}`);

describe('parseText', () => {
  it('leaves plain text unchanged', () => {
    expect(kinds('<script>alert(1)</script> & <b>')).toEqual(['text:<script>alert(1)</script> & <b>']);
    expect(kinds('')).toEqual([]);
  });

  it('finds addresses without the surrounding punctuation', () => {
    expect(kinds('see https://a.example/x_(y) (and http://b.example/z).')).toEqual([
      'text:see ', 'link:https://a.example/x_(y)', 'text: (and ', 'link:http://b.example/z', 'text:).',
    ]);
    expect(kinds('https://a.example/?q=1&r=2, ok')).toEqual(['link:https://a.example/?q=1&r=2', 'text:, ok']);
  });

  it('keeps the brackets that the address itself opens, in linear time', () => {
    const many = `http://a.example/${')'.repeat(16_000)}`;
    expect(parseText(many, 'ann')).toEqual([
      { kind: 'link', text: 'http://a.example/', href: 'http://a.example/' },
      { kind: 'text', text: ')'.repeat(16_000) },
    ]);
    expect(kinds('(https://a.example/((x)))')).toEqual(['text:(', 'link:https://a.example/((x))', 'text:)']);
    expect(kinds('[https://a.example/[1]]…')).toEqual(['text:[', 'link:https://a.example/[1]', 'text:]…']);
  });

  it('turns nothing else into links', () => {
    for (const text of ['javascript:alert(1)', 'data:text/html,x', 'xhttps://a', 'https://', 'ftp://a.example']) {
      expect(parseText(text, 'ann').some(({ kind }) => kind === 'link')).toBe(false);
    }
  });

  it('finds mentions, and those of the user', () => {
    expect(kinds('@Ann and @bob-the-2nd, me@example.org')).toEqual([
      'me:@Ann', 'text: and ', 'mention:@bob-the-2nd', 'text:, me@example.org',
    ]);
    expect(mentionsMe('hi @ann.', 'ann')).toBe(true);
    expect(mentionsMe('hi @anna', 'ann')).toBe(false);
  });

  it('keeps every character', () => {
    const text = 'a @b https://c.example/ @@ ) . @ann! https://x.example.';
    expect(parseText(text, 'ann').map((part) => part.text).join('')).toBe(text);
  });
});

it('counts bytes like the server', () => {
  expect(byteLength('aä👍')).toBe(7);
});

it('removes only what cannot be stored', () => {
  expect(storable('a\0b\u0007 \ud83d \ude00\ud83d\ude00')).toBe('ab\u0007 \ufffd \ufffd\ud83d\ude00');
});

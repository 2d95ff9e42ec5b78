import { describe, expect, it } from 'vitest';
import { busyTime } from './busy';
import { findLinks } from './links';

const links = (text: string) => findLinks(text).map(({ start, end }) => text.slice(start, end));
const hrefs = (text: string) => findLinks(text).map(({ href }) => href);

describe('findLinks', () => {
  it('leaves out the punctuation of the sentence, in every script', () => {
    const cases: Record<string, string> = {
      '请看 https://example.com，谢谢': 'https://example.com',
      '请看https://example.com/a。谢谢': 'https://example.com/a',
      '（https://example.com/b）': 'https://example.com/b',
      '「https://example.com/c」': 'https://example.com/c',
      'https://example.com/d、それから': 'https://example.com/d',
      'https://example.com/e！': 'https://example.com/e',
      'https://example.com/f، شكرا': 'https://example.com/f',
      'https://example.com/f؟': 'https://example.com/f',
      'https://example.com/g\u200b': 'https://example.com/g',
      'https://example.com/h।': 'https://example.com/h',
      'https://example.com/i～': 'https://example.com/i',
      'https://example.com/j｜k': 'https://example.com/j',
      '“https://example.com/k”, she said': 'https://example.com/k',
      '«https://example.com/l»': 'https://example.com/l',
      'https://example.com/m…': 'https://example.com/m',
      'https://example.com/n——谢谢': 'https://example.com/n',
      'see http://example.com/x_(y).': 'http://example.com/x_(y)',
      '[https://a.example/[1]]…': 'https://a.example/[1]',
      'https://a.example/?q=1&r=2, ok': 'https://a.example/?q=1&r=2',
    };
    for (const [text, link] of Object.entries(cases)) expect(links(text), text).toEqual([link]);
  });

  it('keeps the letters of every script', () => {
    for (const link of [
      'https://example.com/路径/日本',
      'https://例え.jp/テスト',
      'https://例え.テスト',
      'https://ja.example/ジョン・レノン',
      'https://ca.example/col·lecció',
      'https://en.example/O’Brien',
      'https://en.example/A–B',
      'https://example.com/हिन्दी',
      'http://localhost:8080/x',
      'http://[::1]:8080/',
    ])
      expect(links(`看 ${link} x`), link).toEqual([link]);
  });

  it('ends the host where another script follows it directly', () => {
    expect(links('请看https://example.com谢谢')).toEqual(['https://example.com']);
    expect(links('www.example.comです')).toEqual(['www.example.com']);
    expect(links('https://example.com:8080谢谢')).toEqual(['https://example.com:8080']);
    expect(links('https://a.example谢谢https://b.example')).toEqual(['https://a.example', 'https://b.example']);
  });

  it('ends the host at punctuation that touches the next word', () => {
    for (const mark of [...',!;*~&$=+}_-)|^%']) {
      for (const word of ['谢谢', 'thanks', 'Привет']) {
        expect(links(`看https://example.com${mark}${word}`), mark + word).toEqual(['https://example.com']);
        expect(links(`www.example.com${mark}${word}.`), mark + word).toEqual(['www.example.com']);
      }
    }
    expect(links('(https://example.com)and')).toEqual(['https://example.com']);
    expect(links('https://example.com:8080,谢谢')).toEqual(['https://example.com:8080']);
    expect(links('https://127.0.0.1谢谢')).toEqual(['https://127.0.0.1']);
    expect(links('https://localhost-谢谢')).toEqual(['https://localhost']);
    expect(links('https://localhost_谢谢')).toEqual(['https://localhost']);
    for (const text of [
      'https://example.com.请看',
      'https://example.com谢谢/',
      'https://example.com🎉',
      'https://example.com・次',
    ]) {
      expect(links(text), text).toEqual(['https://example.com']);
    }
    for (const text of ['me@example.com.请看', 'me@example.com,谢谢', 'me@example.com-谢谢', 'me@example.com请看']) {
      expect(links(text), text).toEqual(['me@example.com']);
    }
    for (const host of [
      'my_host.example.com',
      'my-server',
      'my_server:8080',
      'münchen',
      'a-b.example',
      'nic.みんな',
      'www.nic.みんな',
      'ジョン・レノン.jp',
      'xn--bcher-kva.example',
      '例え.com',
      'x.xn--p1ai',
    ])
      expect(links(`https://${host}/x`), host).toEqual([`https://${host}/x`]);
  });

  it('ends a path where a sentence in another script follows it directly', () => {
    for (const [text, link] of [
      ['https://example.com/a很好', 'https://example.com/a'],
      ['https://example.com/a?b=1を見て', 'https://example.com/a?b=1'],
      ['https://example.com/a,谢谢', 'https://example.com/a'],
      ['(https://example.com/a)谢谢', 'https://example.com/a'],
      ['https://example.com/%E4%BD%A0.请看', 'https://example.com/%E4%BD%A0'],
      ['https://example.com/a를', 'https://example.com/a'],
      ['https://example.com/a🎉', 'https://example.com/a'],
      ['https://example.com/wiki/日本2024年', 'https://example.com/wiki/日本2024年'],
      ['https://example.com/wiki/Wikipedia:首页', 'https://example.com/wiki/Wikipedia:首页'],
      ['https://example.com/café', 'https://example.com/café'],
      ['https://example.com/?q=日本', 'https://example.com/?q=日本'],
      ['https://example.com/🎉', 'https://example.com/🎉'],
    ])
      expect(links(text!), text).toEqual([link]);
  });

  it('finds addresses without a scheme', () => {
    expect(hrefs('www.example.org, WWW.example.org/x.')).toEqual([
      'https://www.example.org',
      'https://WWW.example.org/x',
    ]);
    for (const text of ['www.', 'www.org', 'awww.example.org', 'www..org', '@www.example.org'])
      expect(links(text), text).toEqual([]);
  });

  it('finds mailboxes', () => {
    expect(hrefs('Write to me@example.org.')).toEqual(['mailto:me@example.org']);
    expect(hrefs('<a.b+c@mail.example.co.uk>,x@y.de')).toEqual(['mailto:a.b+c@mail.example.co.uk', 'mailto:x@y.de']);
    expect(links('请写信给me@example.org谢谢')).toEqual(['me@example.org']);
    expect(links('mailto:me@example.org')).toEqual(['me@example.org']);
    expect(links('me@例え.テスト')).toEqual(['me@例え.テスト']);
    for (const text of [
      'me@example',
      '@ann',
      'a@b@c.org',
      'é@example.org',
      '.a@example.org',
      'a@-x.org',
      'a@x.o',
      'x@1.2',
    ]) {
      expect(links(text), text).toEqual([]);
    }
  });

  it('finds nothing that could run, or that leads elsewhere than it seems to', () => {
    for (const text of [
      'javascript:alert(1)',
      'data:text/html,x',
      'xhttps://a',
      'https://',
      'ftp://a.example',
      'https://bank.example@evil.example/',
      'https://bank.example:x@evil.example/',
      'https://bank.example:@evil.example/',
      'https://bank.example:80:x@evil.example/',
      'https://bank.example@www.evil.example',
      `https://bank.example:${'x'.repeat(1000)}@evil.example/`,
    ])
      expect(links(text), text).toEqual([]);
    // What no host could be.
    expect(links(`https://${'a.'.repeat(60)}example`)).toEqual([]);
    expect(links('https://bank.example:x me@evil.example')).toEqual(['https://bank.example', 'me@evil.example']);
    expect(links('https://a.example:80 http://a:x@b c@d.example')).toEqual(['https://a.example:80', 'c@d.example']);
  });

  it('takes time in proportion to the length of the text', () => {
    for (const text of [
      'http://a.example/' + ')'.repeat(16_000),
      'a@'.repeat(8000),
      'a.'.repeat(8000),
      'www.'.repeat(4000),
      `https://${'_.'.repeat(8000)}`,
      `https://${'_'.repeat(16_000)}`,
      `https://a:${'b'.repeat(16_000)}`,
    ]) {
      expect(findLinks(text).length).toBeLessThan(2);
    }
    for (const piece of ['https://a.b谢', 'http://a/b重', 'http://a.b谢/谢', 'www.aa.重', 'www.a.b:']) {
      /** How many milliseconds it takes at best. */
      const time = (count: number) => {
        const text = piece.repeat(count);
        expect(findLinks(text).length, piece).toBeGreaterThanOrEqual(count / 2);
        return Math.min(...Array.from({ length: 3 }, () => busyTime(() => findLinks(text))));
      };
      // Not 256 times as long.
      expect(time(32_000), piece).toBeLessThan(64 * Math.max(time(2000), 2));
    }
  }, 60_000);
});

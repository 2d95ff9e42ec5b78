import { describe, expect, it } from 'vitest';
import { Names, findMentions, fold, suggest } from './mentions';

function mentioned(text: string, me = 'ann', ...others: string[]): string[] {
  const names = new Names();
  for (const name of [me, ...others]) names.add(name);
  return findMentions(text, me, names).map(({ start, end, isMe }) => (isMe ? '!' : '') + text.slice(start, end));
}

describe('findMentions', () => {
  it('finds every name that the server accepts', () => {
    const names = [
      'सुनीता',
      'Jürgen Müller',
      'Jürgen'.normalize('NFD'),
      'O’Brien',
      "O'Brien",
      'محمّد',
      'ann🚀',
      'a+b',
      'x-',
      'a/b',
      '...',
      'Ms. Smith, PhD',
      '小明',
      '👩‍🚀',
      '1',
      'ann@home',
    ];
    for (const name of names) {
      expect(mentioned(`hello @${name} are you there`, name), name).toEqual([`!@${name}`]);
      expect(mentioned(`@${name}`, name, 'someone else'), name).toEqual([`!@${name}`]);
    }
  });

  it('compares names as the server does, whatever their case and form', () => {
    expect(mentioned('@jürgen müller!', 'Jürgen Müller')).toEqual(['!@jürgen müller']);
    expect(mentioned(`@${'JÜRGEN'.normalize('NFD')}`, 'jürgen')).toHaveLength(1);
    expect(mentioned('@STRASSE', 'Straße')).toEqual(['!@STRASSE']);
    expect(mentioned('@ΣΊΣΥΦΟΣ', 'Σίσυφος')).toEqual(['!@ΣΊΣΥΦΟΣ']);
    expect(mentioned('＠ann', 'ann')).toEqual(['!＠ann']);
    expect(fold('ﬁn')).toBe(fold('FIN'));
    expect(mentioned('@O’Brien and @o‘brien', "O'Brien")).toEqual(['!@O’Brien', '!@o‘brien']);
    expect(mentioned('@a–b', 'a-b')).toEqual(['!@a–b']);
    expect(mentioned('@x ❤ and @x ❤\ufe0f', 'x ❤\ufe0f')).toEqual(['!@x ❤', '!@x ❤\ufe0f']);
    expect(mentioned('@ann  lee', 'ann lee')).toEqual(['!@ann  lee']);
    expect(mentioned('@ni\u0307', 'ni')).toEqual(['!@ni\u0307']);
  });

  it('folds case as the server does', () => {
    // Where the server's rule (full case folding, section 3.13 of the Unicode Standard) is not simply lower case.
    const folded = {
      ß: 'ss',
      ẞ: 'ss',
      ſ: 's',
      ς: 'σ',
      ϲ: 'σ',
      ᾳ: 'αι',
      ᾼ: 'αι',
      '\u0345': 'ι',
      '\u1fbe': 'ι',
      İ: 'i',
      K: 'k',
      և: 'եւ',
      ŉ: "'n",
      ᲀ: 'в',
      ᲁ: 'д',
      ᲂ: 'о',
      ᲃ: 'с',
      ᲄ: 'т',
      ᲅ: 'т',
      ᲆ: 'ъ',
      ᲇ: 'ѣ',
      ᲈ: 'ꙋ',
      Ꭰ: 'Ꭰ',
      ꭰ: 'Ꭰ',
      ﬆ: 'st',
      ϴ: 'θ',
    };
    for (const [text, same] of Object.entries(folded)) expect(fold(text), text).toBe(fold(same));
    // Other letters.
    expect(fold('ı')).not.toBe(fold('i'));
    expect(mentioned('@alıX', 'aliX')).toEqual(['@alıX']);
    expect(mentioned('@ALIX', 'aliX')).toEqual(['!@ALIX']);
  });

  it('prefers the longest name', () => {
    expect(mentioned('@ann lee', 'ann', 'Ann Lee')).toEqual(['@ann lee']);
    expect(mentioned('@ann lee', 'ann lee', 'ann')).toEqual(['!@ann lee']);
    expect(mentioned('@ann leeds', 'ann', 'ann lee')).toEqual(['!@ann']);
  });

  it('does not find a name in a longer one', () => {
    for (const text of ['@anna', '@ann-lee', '@ann.lee', '@ann_', '@ann2', '@ann\u0301', 'me@ann', 'x.@ann', '@@ann']) {
      expect(
        mentioned(text).filter(mention => mention.startsWith('!')),
        text,
      ).toEqual([]);
    }
    for (const text of [
      '@ann.',
      '@ann, hi',
      '@ann’s',
      "@ann's",
      '@ann🎉',
      '(@ann)',
      '@ann你好',
      '你好@ann',
      '@ann: x',
    ]) {
      expect(mentioned(text), text).toEqual(['!@ann']);
    }
  });

  it('finds names that nobody here has', () => {
    expect(mentioned("@bob-the-2nd and @सुनीता, @O'Brien. @ @!")).toEqual(['@bob-the-2nd', '@सुनीता', "@O'Brien"]);
  });

  it('takes little time for many', () => {
    const names = Array.from({ length: 1000 }, (_, i) => `Somebody with a long name ${i}`);
    expect(mentioned('@Somebody with a long nam '.repeat(600), 'ann', ...names)).toHaveLength(600);
  });
});

it('forgets the oldest of too many names', () => {
  const names = new Names();
  for (let i = 0; i <= 5000; i++) names.add(`name ${i}`);
  expect(names.find('name 0', 0, 'ann')).toBeUndefined();
  expect(names.find('name 5000', 0, 'ann')).toEqual({ end: 9, isMe: false, name: 'name 5000' });
});

describe('suggest', () => {
  const names = ['Ann', 'Anna', 'Jürgen Müller', 'ann🚀', 'सुनीता'];
  const suggested = (text: string) => suggest(text, names)?.names;

  it('offers the names that begin like the mention', () => {
    expect(suggested('hi @an')).toEqual(['Ann', 'ann🚀', 'Anna']);
    expect(suggested('hi @JÜRGEN M')).toEqual(['Jürgen Müller']);
    expect(suggested('सु @सु')).toEqual(['सुनीता']);
    expect(suggested('@')).toHaveLength(5);
    expect(suggest('hi @an', names)!.start).toBe(3);
  });

  it('keeps quiet otherwise', () => {
    for (const text of ['', 'hi', 'me@an', '@x', '@anna', '@ann is here', '@an\n', '@ann @']) {
      if (text !== '@ann @') expect(suggested(text), text).toBeUndefined();
    }
  });
});

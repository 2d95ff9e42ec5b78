import { describe, expect, it } from 'vitest';
import { type Catalogue, en } from './en';
import { type Formats, formats } from './formats';
import { LANGUAGES } from './language';

/** Texts that are the same in another language. */
const SAME: Record<string, readonly string[]> = {
  de: [
    'appearance.modes.system',
    'banner.mentioned',
    'composer.code',
    'details.name',
    'members.isOnline',
    'members.online',
    'message.by',
    'person.online',
    'person.roles.moderator',
  ],
};

/** All texts, and all functions that make them, by their paths. */
function texts(of: object, path = ''): Map<string, unknown> {
  return new Map(
    Object.entries(of).flatMap(([key, value]: [string, unknown]): [string, unknown][] =>
      typeof value === 'object' && value !== null ? [...texts(value, `${path}${key}.`)] : [[path + key, value]],
    ),
  );
}

/** What a text says about these values. Elements and the texts in them come out as their own text. */
function say(text: unknown, values: readonly unknown[]): string {
  if (typeof text !== 'function') return String(text);
  const said: unknown = (text as (...values: unknown[]) => unknown)(...values);
  return Array.isArray(said) ? said.join('') : String(said);
}

/** A value that a text may write out, or call with a part of it. */
const marks = ['«a»', '«b»', '«c»'].map((mark) =>
  Object.assign((text: string) => mark + text, { toString: () => mark }),
);

/** Formats that don't mind what they are given. `isOne`: numbers have the form for one. */
const fake = (isOne: boolean): Formats => ({
  ...formats('en'),
  number: String,
  plural: (number, forms) => ((isOne && forms.one) || forms.other).replace('#', String(number)),
  list: (items) => String(items),
  time: String,
  fullTime: String,
  date: String,
  day: String,
});

describe.each(Object.keys(LANGUAGES).filter((code) => code !== 'en'))('the texts in %s', async (code) => {
  const make = await LANGUAGES[code as keyof typeof LANGUAGES].load();
  const both = (format: Formats) => [texts(en(format)), texts(make(format))] as const;

  it('are translated', () => {
    const [english, other] = both(fake(false));
    const same = [...english].filter(([path, text]) => say(text, marks) === say(other.get(path), marks));
    expect(same.map(([path]) => path).sort()).toEqual(SAME[code] ?? []);
  });

  it('say what the English ones say', () => {
    for (const isOne of [false, true]) {
      const [english, other] = both(fake(isOne));
      for (const [path, text] of english) {
        const marksIn = (text: string) => [...new Set(text.match(/«.»/g))].sort();
        // One thing may need no number.
        if (isOne && marksIn(say(text, marks)).length !== marksIn(say(other.get(path), marks)).length) continue;
        expect(marksIn(say(other.get(path), marks)), path).toEqual(marksIn(say(text, marks)));
      }
    }
  });

  it('have a form for each number', () => {
    const wanted = new Intl.PluralRules(code).resolvedOptions().pluralCategories;
    const forms = new Set<string>();
    const format: Formats = {
      ...fake(false),
      plural: (_, given) => {
        forms.add(Object.keys(given).sort().join());
        return given.other;
      },
    };
    for (const text of texts(make(format)).values()) say(text, marks);
    expect([...forms]).toEqual([[...wanted].sort().join()]);
  });
});

describe('every text', () => {
  it.each(Object.keys(LANGUAGES))('is written carefully in %s', async (code) => {
    const make = await LANGUAGES[code as keyof typeof LANGUAGES].load();
    for (const [path, text] of texts(make(fake(false)) satisfies Catalogue)) {
      const said = say(text, marks);
      expect(said, path).toBe(said.trim());
      expect(said, path).not.toMatch(/["']|\.\.\.| {2}|undefined|\[object/);
      expect(said, path).not.toBe('');
    }
  });
});

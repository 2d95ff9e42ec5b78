/** All emoji of Unicode, and finding one by its name. Loaded on demand, because the data are large. */
import data from 'virtual:emoji';

export interface Emoji {
  /** In the form in which the server stores it, without a skin tone. */
  emoji: string;
  /** What it shows, in the language of the page. */
  label: string;
  /** What it is called between colons. */
  names: readonly string[];
  /** The words that it is found by, in lower case. */
  words: readonly string[];
  /** The version of Unicode's emoji that it came with. */
  version: number;
  hasTones: boolean;
}

export interface Group {
  name: string;
  emoji: readonly Emoji[];
}

/** Groups of emoji in another language, with the label and keywords of each emoji. */
export type Translation = typeof import('virtual:emoji/*').default;

/** None, then from light to dark. */
export const TONES = ['', '\u{1f3fb}', '\u{1f3fc}', '\u{1f3fd}', '\u{1f3fe}', '\u{1f3ff}'] as const;

/** An emoji with a skin tone, which is the same for everyone in it. */
export function toned({ emoji, hasTones }: Emoji, tone: number): string {
  if (!hasTones || !TONES[tone]) return emoji;
  // The hands that two people hold have none of their own.
  return emoji.replace(/(?!🤝\u200d)(\p{Emoji_Modifier_Base})\ufe0f?/gu, `$1${TONES[tone]}`);
}

const plain = (emoji: string) => emoji.replace(/[\p{Emoji_Modifier}\ufe0f]/gu, '');

/** How well an emoji matches what was typed: a lower number is better. */
function rank({ names, words }: Emoji, query: string, parts: readonly string[]): number | undefined {
  const longer = names.filter((name) => name.startsWith(query)).map((name) => name.length - query.length);
  // The less is missing, the better.
  if (longer.length > 0) return 1 - 1 / (1 + Math.min(...longer));
  if (parts.every((part) => words.includes(part))) return 2;
  if (parts.every((part) => words.some((word) => word.startsWith(part)))) return 3;
  return undefined;
}

/** All emoji, as a language calls them. They are also found by their English words. */
export class EmojiSet {
  readonly groups: readonly Group[];
  private readonly all: readonly Emoji[];
  private readonly byCharacter: ReadonlyMap<string, Emoji>;

  constructor(translation?: Translation) {
    this.groups = data.map(([name, emoji], group) => {
      const [ownName, own] = translation?.[group] ?? [name];
      return {
        name: `${ownName[0]!.toUpperCase()}${ownName.slice(1)}`,
        emoji: emoji.map(([emoji, label, names, words, version, hasTones], i) => {
          const [ownLabel, ownWords] = own?.[i] ?? [label, ''];
          const all = `${ownLabel} ${ownWords} ${own ? label : ''} ${words} ${names}`;
          return {
            emoji,
            label: ownLabel,
            names: names === '' ? [] : names.split(' '),
            words: all.toLowerCase().split(/[^\p{L}\p{M}\p{N}+]+/u).filter(Boolean),
            version,
            hasTones: hasTones === 1,
          };
        }),
      };
    });
    this.all = this.groups.flatMap(({ emoji }) => emoji);
    this.byCharacter = new Map(this.all.map((one) => [plain(one.emoji), one]));
  }

  /** What is known about an emoji, which may have a skin tone. */
  find(emoji: string): Emoji | undefined {
    return this.byCharacter.get(plain(emoji));
  }

  /** The emoji that match, the best first, and before the others those of `recent`. */
  search(text: string, recent: readonly string[] = []): Emoji[] {
    const query = text.toLowerCase().trim().replace(/^:|:$/g, '').replace(/\s+/g, '_');
    const parts = query.split(/[_-]+/).filter(Boolean);
    if (query === '') return [];
    const used = new Map(recent.map((emoji, i) => [this.find(emoji), i]));
    const found = this.all.flatMap((emoji) => {
      const by = rank(emoji, query, parts.length > 0 ? parts : [query]);
      if (by === undefined) return [];
      const last = used.get(emoji);
      // What was meant exactly comes first, then what was used, then the rest.
      return [{ emoji, by: by === 0 || last === undefined ? by : (last + 1) / (used.size + 1) / 1000 }];
    });
    return found.sort((a, b) => a.by - b.by).map(({ emoji }) => emoji);
  }
}

/** The data about emoji, without what the page does not need: a module that is loaded when somebody wants emoji. */
import { readFileSync } from 'node:fs';
import type { Plugin } from 'vite';

const NAME = 'virtual:emoji';
/** `virtual:emoji/LANGUAGE` has the labels and words in another language. */
const ID = new RegExp(`^\0${NAME}(?:/([a-z]+))?$`);
const FOLDER = `${import.meta.dirname}/node_modules/emojibase-data`;

interface Emoji {
  emoji: string;
  hexcode: string;
  label: string;
  tags?: string[];
  order?: number;
  group?: number;
  version: number;
  skins?: object[];
}

/** Parts of emoji, such as hair, are not among those to choose from. */
const COMPONENTS = 2;
/** Short names of the first of these that has any come first, and the others are known as well. */
const SHORT_NAMES = ['github', 'iamcal', 'emojibase'];

function read<T>(file: string, language = 'en'): T {
  return JSON.parse(readFileSync(`${FOLDER}/${language}/${file}.json`, 'utf8')) as T;
}

/** U+FE0F only behind what would otherwise be shown as text, as the server stores emoji. */
function normalised(emoji: string): string {
  return emoji.replace(/(\p{Emoji_Presentation})\ufe0f/gu, '$1');
}

interface Group {
  message: string;
  order: number;
}

const inOrder = <T extends { order?: number }>(all: T[]) => all.sort((a, b) => (a.order ?? 0) - (b.order ?? 0));
const readGroups = (language?: string) =>
  read<{ groups: Group[] }>('messages', language).groups.filter(({ order }) => order !== COMPONENTS);

/**
 * Groups of emoji. Each emoji is `[emoji, label, short names, keywords, version, 1 if it has skin tones]`, where names
 * and keywords are separated by spaces.
 */
function groups(): [string, (string | number)[][]][] {
  const sources = SHORT_NAMES.map((name) => read<Record<string, string | string[]>>(`shortcodes/${name}`));
  const all = inOrder(read<Emoji[]>('data'));
  return readGroups().map(({ message, order }) => {
    const emoji = all
      .filter(({ group }) => group === order)
      .map(({ emoji, hexcode, label, tags = [], version, skins }) => {
        const names = [...new Set(sources.flatMap((source) => source[hexcode] ?? []))];
        const known = new Set([...label.split(' '), ...names.flatMap((name) => name.split('_'))]);
        const words = tags.filter((tag) => !known.has(tag));
        return [normalised(emoji), label, names.join(' '), words.join(' '), version, ...(skins ? [1] : [])];
      });
    return [message, emoji];
  });
}

/** The groups in another language, in the same order: their names, and the label and keywords of each emoji. */
function translation(language: string): [string, [string, string][]][] {
  const own = new Map(read<Emoji[]>('data', language).map((emoji) => [emoji.hexcode, emoji]));
  const all = inOrder(read<Emoji[]>('data'));
  return readGroups(language).map(({ message, order }) => [
    message,
    all
      .filter(({ group }) => group === order)
      .map(({ hexcode }) => {
        const { label, tags = [] } = own.get(hexcode)!;
        const known = label.toLowerCase().split(' ');
        return [label, tags.filter((tag) => !known.includes(tag)).join(' ')];
      }),
  ]);
}

export function emojiData(): Plugin {
  return {
    name: 'emoji-data',
    resolveId: (id) => (ID.test(`\0${id}`) ? `\0${id}` : undefined),
    load(id) {
      const found = ID.exec(id);
      if (!found) return undefined;
      const data = found[1] === undefined ? groups() : translation(found[1]);
      // Browsers read JSON faster than literals.
      return `export default JSON.parse(${JSON.stringify(JSON.stringify(data))})`;
    },
  };
}

/** The package that a module of the bundle is made from, if it is this one. */
export const sourceOf = (module: string): string | undefined => (ID.test(module) ? FOLDER : undefined);

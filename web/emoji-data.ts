/** The data about emoji, without what the page does not need: a module that is loaded when somebody wants emoji. */
import { readFileSync } from 'node:fs';
import type { Plugin } from 'vite';

const NAME = 'virtual:emoji';
const ID = `\0${NAME}`;
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

function read<T>(file: string): T {
  return JSON.parse(readFileSync(`${FOLDER}/en/${file}.json`, 'utf8')) as T;
}

/** U+FE0F only behind what would otherwise be shown as text, as the server stores emoji. */
function normalised(emoji: string): string {
  return emoji.replace(/(\p{Emoji_Presentation})\ufe0f/gu, '$1');
}

/**
 * Groups of emoji. Each emoji is `[emoji, label, short names, keywords, version, 1 if it has skin tones]`, where names
 * and keywords are separated by spaces.
 */
function groups(): [string, (string | number)[][]][] {
  const sources = SHORT_NAMES.map((name) => read<Record<string, string | string[]>>(`shortcodes/${name}`));
  const { groups } = read<{ groups: { message: string; order: number }[] }>('messages');
  const all = read<Emoji[]>('data').sort((a, b) => (a.order ?? 0) - (b.order ?? 0));
  return groups
    .filter(({ order }) => order !== COMPONENTS)
    .map(({ message, order }) => {
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

export function emojiData(): Plugin {
  return {
    name: 'emoji-data',
    resolveId: (id) => (id === NAME ? ID : undefined),
    // Browsers read JSON faster than literals.
    load: (id) => (id === ID ? `export default JSON.parse(${JSON.stringify(JSON.stringify(groups()))})` : undefined),
  };
}

/** The package that a module of the bundle is made from, if it is this one. */
export const sourceOf = (module: string): string | undefined => (module === ID ? FOLDER : undefined);

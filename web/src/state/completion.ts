/** What is completed while it is written: the names of people after `@`, of emoji after `:`, of rooms after `#`. */
import type { RoomInfo } from '@uproar/client';
import type { Emoji } from './emoji';
import { SPACELESS, suggest } from './mentions';
import { match, searchable } from './switcher';

export interface Option {
  /** What takes the place of what was written. */
  text: string;
  title: string;
  /** Shown in front of the title, or else a person's initials are. */
  sign?: string;
  hint?: string;
}

export interface Completion {
  kind: 'people' | 'emoji' | 'rooms';
  /** Where it begins in the text. */
  start: number;
  options: readonly Option[];
}

/** What there is to choose from. */
export interface Sources {
  names: Iterable<string>;
  /** The user's rooms, in their order. */
  rooms: readonly RoomInfo[];
  /** Finds emoji once their data are loaded. */
  emoji: ((query: string) => readonly Emoji[]) | undefined;
  /** An emoji in the user's skin tone. */
  tone?: (emoji: Emoji) => string;
}

const SHOWN = 6;
/**
 * What stands before an emoji or a room. There are colons and number signs in other places, such as `12:30` or `C#`.
 */
const BEFORE = String.raw`(?<=^|[\s(“”„‘’"'«»「（\p{Emoji_Presentation}\p{Emoji_Modifier}\ufe0f${SPACELESS}])`;
/** Two letters or more. One makes a face, as in `:D`. */
const EMOJI = new RegExp(String.raw`${BEFORE}:(\p{L}[\p{L}\p{N}_+-]{1,40}:?|[+-]1:?)$`, 'u');
const ROOM = new RegExp(String.raw`${BEFORE}#([^\s#][^#\n]{0,63})?$`, 'u');
/** How far before the caret it may begin. */
export const REACH = 66;

/** Whether an emoji may be completed at the end of a text. */
export function isEmojiQuery(text: string): boolean {
  return EMOJI.test(text);
}

/** What may be completed at the end of a text. */
export function complete(text: string, sources: Sources): Completion | undefined {
  return completeEmoji(text, sources) ?? completeRoom(text, sources) ?? completeName(text, sources);
}

function completeEmoji(text: string, { emoji, tone }: Sources): Completion | undefined {
  const found = EMOJI.exec(text);
  if (!found || !emoji) return undefined;
  const query = found[1]!.toLowerCase();
  const name = query.replace(/:$/, '');
  // With a colon at its end the name is complete.
  const all = name === query ? emoji(name) : emoji(name).filter(({ names }) => names.includes(name));
  if (all.length === 0) return undefined;
  const options = all.slice(0, SHOWN).map((one): Option => {
    const sign = tone?.(one) ?? one.emoji;
    return { text: sign, sign, title: nameOf(one, name) };
  });
  return { kind: 'emoji', start: found.index, options };
}

/** The name that was meant, between colons. */
function nameOf({ names }: Emoji, query: string): string {
  return `:${names.find((name) => name.startsWith(query)) ?? names[0]}:`;
}

function completeRoom(text: string, { rooms }: Sources): Completion | undefined {
  const found = ROOM.exec(text);
  if (!found) return undefined;
  const written = found[1] ?? '';
  const query = searchable(written);
  // A sentence that goes on is no name.
  const isSentence = /\s$/.test(written);
  const ranked = rooms.flatMap((room) => {
    const ranks = [room.name, room.title].map((name) => match(query, searchable(name)) ?? 0);
    const rank = Math.max(...ranks);
    // The letters are next to each other and begin a word.
    return rank >= 2 && !(isSentence && !searchable(room.name).startsWith(`${query} `)) ? [{ room, rank }] : [];
  });
  ranked.sort((a, b) => b.rank - a.rank);
  const [only] = ranked;
  if (!only || (ranked.length === 1 && searchable(only.room.name) === query)) return undefined;
  const options = ranked.slice(0, SHOWN).map(({ room: { name, title } }): Option => ({
    text: `#${name} `,
    sign: '#',
    title,
    ...(title === name ? {} : { hint: name }),
  }));
  return { kind: 'rooms', start: found.index, options };
}

function completeName(text: string, { names }: Sources): Completion | undefined {
  const found = suggest(text, names);
  if (!found) return undefined;
  const options = found.names.map((name) => ({ text: `@${name} `, title: name }));
  return { kind: 'people', start: found.start, options };
}

/** Finding one of the user's rooms by a few letters of its name or title. */
import type { RoomInfo } from '@uproar/client';
import { fold } from './mentions';

/** What decides which of several rooms comes first. */
export interface Order {
  /** The names of the rooms, the one opened last first. */
  recent: readonly string[];
  /** The room on screen, which nobody needs to switch to. */
  open: string | undefined;
  unread(name: string): number;
  isMentioned(room: RoomInfo): boolean;
}

/** Marks on Latin, Greek and Cyrillic letters, as `fold` has separated them. */
const ACCENTS = /[\u0300-\u036f]/g;
/** Letters that people without them on their keyboard write as others. They have no decomposition. */
const PLAIN: Record<string, string> = { æ: 'ae', œ: 'oe', ø: 'o', ł: 'l', đ: 'd', ð: 'd', þ: 'th', ħ: 'h', ı: 'i' };

/** The form in which titles are compared with what was typed: without upper case, accents and outer spaces. */
export function searchable(text: string): string {
  return fold(text).replace(ACCENTS, '').replace(/[æœøłđðþħı]/g, (letter) => PLAIN[letter]!).trim();
}

const WHOLE = 4;
const BEGINNING = 3;
const WORDS = 2;
const INSIDE = 1;
/** The letters need not be next to each other. */
const SCATTERED = 0;

/** How well a text matches a query, both in their plain form: a number that is higher for better matches, or none. */
export function match(query: string, text: string): number | undefined {
  if (text === query) return WHOLE;
  if (text.startsWith(query)) return BEGINNING;
  const wanted = query.split(' ');
  const words = text.split(/[^\p{L}\p{M}\p{N}]+/u);
  if (wanted.every((part) => words.some((word) => word.startsWith(part)))) return WORDS;
  if (wanted.every((part) => text.includes(part))) return INSIDE;
  return isScattered(query.replace(/ /g, ''), text) ? SCATTERED : undefined;
}

function isScattered(letters: string, text: string): boolean {
  let at = 0;
  for (const letter of letters) {
    at = text.indexOf(letter, at);
    if (at < 0) return false;
    at += letter.length;
  }
  return true;
}

/**
 * The rooms that match, the best match first. Among equal matches, and without a query, mentions come first, then what
 * is unread, then the rooms that were opened last.
 */
export function findRooms(query: string, rooms: readonly RoomInfo[], order: Order): RoomInfo[] {
  const wanted = searchable(query);
  const rank = new Map(order.recent.map((name, index) => [name, index]));
  const found = rooms.flatMap((room, index) => {
    const matches = [room.title, room.name].flatMap((text) => match(wanted, searchable(text)) ?? []);
    if (matches.length === 0) return [];
    const { name } = room;
    const news = order.isMentioned(room) ? 2 : order.unread(name) > 0 ? 1 : 0;
    const keys = [name === order.open ? 1 : 0, -news, rank.get(name) ?? Infinity, index];
    return [{ room, keys: [-Math.max(...matches), ...keys] }];
  });
  return found.sort((a, b) => compare(a.keys, b.keys)).map(({ room }) => room);
}

function compare(a: readonly number[], b: readonly number[]): number {
  const at = a.findIndex((key, i) => key !== b[i]);
  return at < 0 ? 0 : a[at]! < b[at]! ? -1 : 1;
}

/** The next or previous one of some names, beginning again at the end. */
export function neighbour(names: readonly string[], current: string | undefined, by: 1 | -1): string | undefined {
  const at = current === undefined ? -1 : names.indexOf(current);
  return names.at(at < 0 && by < 0 ? -1 : (at + by) % names.length);
}

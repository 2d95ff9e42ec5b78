/** Parsing the text of a message, and preparing it for sending. */
import { findLinks } from './links';
import { Names, findMentions, findRooms } from './mentions';

/** A piece of a message's text. */
export type Part =
  | { kind: 'text' | 'mention' | 'me'; text: string }
  | { kind: 'link'; text: string; href: string }
  | { kind: 'room'; text: string; room: string };

/** Splits a text into links, mentions of people and rooms, and plain text. */
export function parseText(text: string, me: string, names: Names, rooms: Names): Part[] {
  const out: Part[] = [];
  let at = 0;
  for (const { start, end, href } of findLinks(text)) {
    splitMentions(text.slice(at, start), me, names, rooms, out);
    out.push({ kind: 'link', text: text.slice(start, end), href });
    at = end;
  }
  splitMentions(text.slice(at), me, names, rooms, out);
  return out;
}

function splitMentions(text: string, me: string, names: Names, rooms: Names, out: Part[]): void {
  let at = 0;
  const found = [...findMentions(text, me, names), ...findRooms(text, rooms)].sort((a, b) => a.start - b.start);
  for (const mention of found) {
    const { start, end } = mention;
    // In the name of another.
    if (start < at) continue;
    if (start > at) out.push({ kind: 'text', text: text.slice(at, start) });
    const piece = text.slice(start, end);
    if ('room' in mention) out.push({ kind: 'room', text: piece, room: mention.room });
    else out.push({ kind: mention.isMe ? 'me' : 'mention', text: piece });
    at = end;
  }
  if (at < text.length) out.push({ kind: 'text', text: text.slice(at) });
}

/** Removes U+0000, which databases can't store, and replaces lone surrogates. */
export function storable(text: string): string {
  return text.replace(/\0/g, '').replace(/\p{Surrogate}/gu, '\ufffd');
}

/** What shows something by itself, as in the server's `model/src/text.rs`. The format characters enclose digits. */
const ENCLOSING = String.raw`\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u{110bd}\u{110cd}`;
const BLANK = String.raw`\p{Default_Ignorable_Code_Point}\u2800\ufffc\u{13441}\u{13442}\u{16fe4}\u{1d159}`;
const VISIBLE = new RegExp(String.raw`[${ENCLOSING}]|[^\p{Z}\p{Cc}\p{Cf}\p{M}${BLANK}]`, 'u');

/** Whether there is nothing in a text that can be seen. */
export function isBlank(text: string): boolean {
  return !VISIBLE.test(text);
}

/** What people count as characters: an emoji or a letter with its marks is one. Older browsers count code points. */
export function characters(text: string): Iterable<string> {
  if (!('Segmenter' in Intl)) return text;
  return Array.from(new Intl.Segmenter().segment(text), ({ segment }) => segment);
}

export function countCharacters(text: string): number {
  return [...characters(text)].length;
}

/** The beginning of a text, at most this long in UTF-16, without a part of a character at its end. */
export function cut(text: string, limit: number): string {
  if (text.length <= limit) return text;
  let end = 0;
  for (const character of characters(text.slice(0, limit + 1))) {
    // The last one may go on beyond the slice.
    if (end + character.length > limit) break;
    end += character.length;
  }
  return `${text.slice(0, end)}…`;
}

/** How many characters at the end of a text are too many for a limit that the server counts in UTF-8. */
export function excess(text: string, limitBytes: number): number {
  if (text.length <= limitBytes / 3) return 0;
  const encoder = new TextEncoder();
  let bytes = encoder.encode(text).length;
  if (bytes <= limitBytes) return 0;
  const all = [...characters(text)];
  let kept = all.length;
  while (bytes > limitBytes) bytes -= encoder.encode(all[--kept]!).length;
  return all.length - kept;
}

/** As many emoji as are shown larger if nothing else is in the text. */
const LARGE_EMOJI = 6;
/** `RGI_Emoji` is a property of strings, and its pattern matches the longest one first. */
const EMOJI_ONLY = new RegExp(String.raw`^(?:\p{RGI_Emoji}\s*){1,${LARGE_EMOJI}}$`, 'v');

/** Whether a text is nothing but a few emoji. */
export function isEmojiOnly(text: string): boolean {
  return text.length <= 100 && EMOJI_ONLY.test(text.trim());
}

/** Mentions: a name after an @. Whatever name the server accepts can be mentioned. */

/** Scripts whose sentences have no spaces, so that a letter does not continue the word before it. */
export const SPACELESS =
  String.raw`\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}` +
  String.raw`\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}`;

export interface Mention {
  start: number;
  end: number;
  isMe: boolean;
  /** Whether this tab has seen the name. */
  isKnown: boolean;
}

/** Apostrophes and dashes that people can't tell apart, as in the server's `plain_mark` in `model/src/text.rs`. */
const APOSTROPHES = /[`´‘’‛′‵\u02b9-\u02bf\u02c8\u02ca\u02cb\u05f3\ua78b\ua78c\u1fbd\u1fbf\u1fef\u1ffd\u1ffe]/g;
const plain = (text: string) => text.replace(APOSTROPHES, "'").replace(/\p{Dash}/gu, '-');
const INVISIBLE = /\p{Default_Ignorable_Code_Point}/gu;
/** The dot on a letter that has one anyway. */
const SECOND_DOT = /(?<=\p{Soft_Dotted})\u0307/gu;

/** The form in which names are compared, and in which they are searched for. */
export function fold(text: string): string {
  // Decomposed, so that the form of a text is that of its characters, one after the other.
  const cased = plain(text).normalize('NFKD').replace(/[^ı]+/g, foldCase).replace(/ς/g, 'σ').normalize('NFKD');
  return plain(cased).replace(INVISIBLE, '').replace(SECOND_DOT, '').replace(/\s+/g, ' ');
}

/**
 * Full case folding, which JavaScript doesn't have: `ẞ` and `ß` meet `SS` in upper case. A dotless `ı` would meet `i`
 * there, although it is another letter.
 */
function foldCase(text: string): string {
  return text.toLowerCase().toUpperCase().toLowerCase();
}

const KNOWN_LIMIT = 5000;

/** The names that this tab has seen. */
export class Names {
  /** In the form in which they are compared, and as they are. */
  private readonly names = new Map<string, string>();
  private longest = 0;
  /** Changes with the names. */
  version = 0;

  add(name: string): void {
    const folded = fold(name);
    if (folded === '' || this.names.has(folded)) return;
    if (this.names.size === KNOWN_LIMIT) this.names.delete(this.names.keys().next().value!);
    this.names.set(folded, name);
    this.longest = Math.max(this.longest, folded.length);
    this.version++;
  }

  /** The longest of these names, or `own`, that the text at this place begins with. Returns where it ends. */
  find(text: string, start: number, own: string): { end: number; isMe: boolean; name: string } | undefined {
    const longest = Math.max(this.longest, own.length);
    let found: { end: number; isMe: boolean; name: string } | undefined;
    let folded = '';
    for (let at = start; at < text.length;) {
      const char = String.fromCodePoint(text.codePointAt(at)!);
      at += char.length;
      const next = char < '\x80' && char !== '`' ? char.toLowerCase() : fold(char);
      if (!isPartOfLast(folded, next)) folded += next;
      if (folded.length > longest) break;
      const isMe = folded === own;
      const name = this.names.get(folded);
      if ((isMe || name !== undefined) && endsWord(text, at)) found = { end: at, isMe, name: name ?? own };
    }
    return found;
  }
}

/** Whether folding leaves nothing of this character after those. */
function isPartOfLast(folded: string, next: string): boolean {
  return (next === ' ' && folded.endsWith(' ')) || (next === '\u0307' && /\p{Soft_Dotted}$/u.test(folded));
}

const AT = new RegExp(String.raw`(?<!(?![${SPACELESS}])[\p{L}\p{N}_@＠.])[@＠](?=\S)`, 'gu');
/** A name that this tab has not seen, which may be longer than its first word. */
const UNKNOWN = /[\p{L}\p{N}\p{M}_]+(?:[.'’+-][\p{L}\p{N}\p{M}_]+)*/uy;
/** What continues a word, or the character before. */
const CONTINUES = new RegExp(
  String.raw`(?![${SPACELESS}])[\p{L}\p{N}_]|[\p{M}\p{Emoji_Modifier}\u200d]|[.+-](?![${SPACELESS}])[\p{L}\p{N}]`,
  'uy',
);

export function findMentions(text: string, me: string, names: Names): Mention[] {
  const mentions: Mention[] = [];
  const own = fold(me);
  for (const { index: start } of text.matchAll(AT)) {
    if (start < (mentions.at(-1)?.end ?? 0)) continue;
    const known = names.find(text, start + 1, own);
    if (known) mentions.push({ start, end: known.end, isMe: known.isMe, isKnown: true });
    else {
      UNKNOWN.lastIndex = start + 1;
      const name = UNKNOWN.exec(text)?.[0];
      if (name) mentions.push({ start, end: start + 1 + name.length, isMe: false, isKnown: false });
    }
  }
  return mentions;
}

const HASH = new RegExp(String.raw`(?<!(?![${SPACELESS}])[\p{L}\p{N}_#＃&/])[#＃](?=\S)`, 'gu');

/** A room after a #, with its own name. Only those that the user knows: a number after # is mostly something else. */
export interface RoomMention {
  start: number;
  end: number;
  room: string;
}

export function findRooms(text: string, rooms: Names): RoomMention[] {
  const found: RoomMention[] = [];
  for (const { index: start } of text.matchAll(HASH)) {
    if (start < (found.at(-1)?.end ?? 0)) continue;
    const known = rooms.find(text, start + 1, '');
    if (known) found.push({ start, end: known.end, room: known.name });
  }
  return found;
}

/** Whether a name may end here: no `@ann` in `@anna`, `@ann-lee` or `@ann.lee`, but one in `@ann, yes`. */
function endsWord(text: string, at: number): boolean {
  CONTINUES.lastIndex = at;
  return !CONTINUES.test(text);
}

const SUGGESTED = 6;
const QUERY = new RegExp(String.raw`${AT.source}([^@＠\n]{0,32})$|(?<![\S])[@＠]$`, 'u');

/** The mention that is being written at the end of a text, and the names that it may become. */
export function suggest(text: string, names: Iterable<string>): { start: number; names: string[] } | undefined {
  const match = QUERY.exec(text);
  if (!match) return undefined;
  const query = fold(match[1] ?? '');
  const found = [...names].filter(name => fold(name).startsWith(query));
  // A name that is complete needs no help, and neither does a sentence that goes on.
  if (found.length === 0 || (found.length === 1 && fold(found[0]!) === query)) return undefined;
  found.sort((a, b) => a.localeCompare(b));
  return { start: match.index, names: found.slice(0, SUGGESTED) };
}

/**
 * The formatting of a message: a subset of Markdown for chats. Everything that is shown is a slice of the text, in its
 * order; only markers that take effect disappear. All of it takes time in proportion to the length of the text.
 */
import { findLinks } from './links';
import { Names, SPACELESS, findMentions, findRooms } from './mentions';
import { isBlank, parseText } from './text';

interface Span {
  /** Where it begins and ends in the text, with its markers. */
  start: number;
  end: number;
}

/** A slice of the text as it is written. */
export interface Leaf extends Span {
  kind: 'text';
  text: string;
}

export type Inline =
  | Leaf
  | (Span & { kind: 'em' | 'strong' | 'del' | 'code' | 'mention' | 'me'; children: Inline[] })
  | (Span & { kind: 'room'; room: string; children: Inline[] })
  /** `host` is where it leads if its text is not the address itself. */
  | (Span & { kind: 'link'; href: string; host?: string; children: Inline[] });

export interface Item extends Span {
  children: Block[];
  /** The number of an item in a numbered list. */
  number?: number;
}

export type Block =
  | (Span & { kind: 'paragraph'; children: Inline[] })
  /** `language` is what is written behind its fence. */
  | (Span & { kind: 'code-block'; language?: string; children: Leaf[] })
  | (Span & { kind: 'quote'; children: Block[] })
  | (Span & { kind: 'list'; isNumbered: boolean; children: Item[] });

export type Node = Block | Item | Inline;

/** What is nested more deeply is shown as it is written. */
const MAX_DEPTH = 6;

/** A text with a chance of formatting. */
const MARKED = /[*_~`[]|^[ \t]*(?:>|[-*]|\d+\.)/m;

const NOTHING = new Names();

/** Formats a text with mentions of people, whose names this tab has seen, and of the user's rooms. */
export function parseMarkdown(text: string, me: string, names: Names, rooms = NOTHING): Block[] {
  const parser = new Parser(text, me, names, rooms);
  if (!MARKED.test(text)) return text === '' ? [] : [parser.plainParagraph()];
  return parser.blocks(linesOf(text), 0);
}


/** A text without its markers, for where it cannot be formatted. */
export function plainText(text: string): string {
  return MARKED.test(text) ? plainBlocks(parseMarkdown(text, '', NOTHING)) : text;
}

function plainBlocks(blocks: Block[]): string {
  return blocks
    .map((block) => {
      if (block.kind === 'quote') return plainBlocks(block.children);
      if (block.kind !== 'list') return visible(block);
      return block.children
        .map(({ number, children }) => `${number === undefined ? '•' : `${number}.`} ${plainBlocks(children)}`)
        .join('\n');
    })
    .join('\n');
}

/** The text of a node that is shown, which is also what the document has of it. */
export function visible(node: Node): string {
  return 'text' in node ? node.text : (node.children as Node[]).map(visible).join('');
}

export function mentionsMe(text: string, me: string, names: Names): boolean {
  const has = (node: Node): boolean =>
    'children' in node && (('kind' in node && node.kind === 'me') || (node.children as Node[]).some(has));
  return parseMarkdown(text, me, names).some(has);
}

/**
 * What was written for a part of what is shown, from one position in that to another. Markers belong to it if all that
 * they mark does. Code alone is without its markers and those around its lines.
 */
export function written(text: string, blocks: readonly Block[], from: number, to: number): string {
  let start = Infinity;
  let end = -Infinity;
  /** Markers without all that they mark. */
  const lone: Span[] = [];
  let code: string | undefined;
  let at = 0;
  const grow = (span: Span) => {
    start = Math.min(start, span.start);
    end = Math.max(end, span.end);
  };
  const visit = (node: Node, isMarked: boolean): void => {
    const before = at;
    if ('text' in node) {
      at += node.text.length;
      if (at <= from || before >= to) return;
      grow({
        start: node.start + Math.max(0, from - before),
        end: node.start + Math.min(node.text.length, to - before),
      });
      return;
    }
    const kind = 'kind' in node ? node.kind : undefined;
    const isBlock = kind === undefined || kind === 'paragraph' || kind === 'quote' || kind === 'list';
    for (const child of node.children) visit(child, isMarked || !isBlock);
    if (at <= from || before >= to) return;
    const isWhole = before >= from && at <= to;
    const isCode = kind === 'code' || kind === 'code-block';
    if (isCode && before <= from && at >= to && !(isWhole && isMarked)) {
      code = visible(node).slice(from - before, to - before);
    }
    if (isWhole) grow(node);
    else if (!isBlock) {
      lone.push({ start: node.start, end: node.children[0]!.start });
      lone.push({ start: node.children.at(-1)!.end, end: node.end });
    }
  };
  for (const block of blocks) visit(block, false);
  if (code !== undefined) return code;
  let out = '';
  for (const marker of lone.sort((a, b) => a.start - b.start)) {
    if (marker.start > start) out += text.slice(start, Math.min(marker.start, end));
    start = Math.max(start, marker.end);
  }
  return start < end ? out + text.slice(start, end) : out;
}

/** A line without its end, and without the markers of what it is a part of. */
type Line = Span;

function linesOf(text: string): Line[] {
  const lines: Line[] = [];
  for (let start = 0; start <= text.length;) {
    const found = text.indexOf('\n', start);
    const end = found < 0 ? text.length : found;
    lines.push({ start, end });
    start = end + 1;
  }
  return lines;
}

/** A text with a chance of links and mentions. */
const SPECIAL = /[@＠#＃]|:\/\/|www\./i;
/** The end of a line. `$` would also match before `\r` and Unicode's line separators, which end none here. */
const END = String.raw`(?=\n|(?![^]))`;
const BLANK = new RegExp(String.raw`[ \t\r]*${END}`, 'y');
const FENCE = new RegExp(String.raw`( {0,3})(\x60{3,})([^\x60\n]*)${END}`, 'y');
/** What may follow a fence without being code. */
const LANGUAGE = new RegExp(String.raw`[ \t]*[a-z][\w+#-]{0,31}[ \t\r]*${END}`, 'iy');
const QUOTE = new RegExp(String.raw` {0,3}>(?: |\r?${END})`, 'y');
/** No item begins with another marker: not a line that someone drew, no crontab and no date. */
const ITEM = /([ \t]*)(?:[-*]|(0|[1-9]\d{0,2})\.)[ \t]+(?=\S)(?!(?:[-*]|\d+\.)(?:\s|(?![^])))/y;
const INDENT = /[ \t]*/y;

/** Matches at a place. None of these expressions goes beyond the end of a line. */
function matchAt(expression: RegExp, text: string, at: number): RegExpExecArray | null {
  expression.lastIndex = at;
  return expression.exec(text);
}

/** What begins at a line: a block, or nothing. */
type Found =
  | { block: Block; next: number }
  /** The lines up to `next` are a part of a paragraph. */
  | { block?: never; next: number }
  | undefined;

interface Fence {
  indent: number;
  length: number;
  /** Where it ends. */
  end: number;
  /** Whether nothing else stands on its line. */
  isLone: boolean;
}

class Parser {
  constructor(
    private readonly text: string,
    private readonly me: string,
    private readonly names: Names,
    private readonly rooms: Names,
  ) {}

  plainParagraph(): Block {
    const { text } = this;
    const content = new Content(text, [{ start: 0, end: text.length }]);
    return { kind: 'paragraph', start: 0, end: text.length, children: this.leaves(content, 0, text.length, true) };
  }

  blocks(lines: readonly Line[], depth: number): Block[] {
    const blocks: Block[] = [];
    let paragraph: Line[] = [];
    /** Where the blocks of code end. */
    let ends: ReadonlyMap<number, number> | undefined;
    const endParagraph = (isLast: boolean) => {
      const isAlone = isLast && blocks.length === 0 && depth === 0;
      const trimmed = isAlone ? paragraph : this.trim(paragraph, blocks.length > 0 || depth > 0, !isLast || depth > 0);
      if (trimmed.length > 0) blocks.push(this.paragraph(trimmed));
      paragraph = [];
    };
    for (let i = 0; i < lines.length;) {
      let found: Found;
      if (depth < MAX_DEPTH) {
        found = this.code(lines, i, () => (ends ??= this.fenceEnds(lines)));
        found ??= this.quote(lines, i, depth) ?? this.list(lines, i, depth);
      }
      if (found?.block) {
        endParagraph(false);
        blocks.push(found.block);
        i = found.next;
      } else {
        const next = found?.next ?? i + 1;
        for (; i < next; i++) paragraph.push(lines[i]!);
      }
    }
    if (paragraph.length > 0) endParagraph(true);
    return blocks;
  }

  private isBlank(line: Line): boolean {
    return matchAt(BLANK, this.text, line.start) !== null;
  }

  /** Without the blank lines beside other blocks. */
  private trim(lines: readonly Line[], atStart: boolean, atEnd: boolean): readonly Line[] {
    let first = 0;
    let end = lines.length;
    if (atStart) while (first < end && this.isBlank(lines[first]!)) first++;
    if (atEnd) while (end > first && this.isBlank(lines[end - 1]!)) end--;
    return lines.slice(first, end);
  }

  private paragraph(lines: readonly Line[]): Block {
    const content = new Content(this.text, lines);
    return { kind: 'paragraph', ...content.span(0, content.text.length), children: this.inline(content) };
  }

  private fenceAt({ start }: Line): Fence | undefined {
    const match = matchAt(FENCE, this.text, start);
    if (!match) return undefined;
    const indent = match[1]!.length;
    const length = match[2]!.length;
    const end = start + indent + length;
    return { indent, length, end, isLone: matchAt(BLANK, this.text, end) !== null };
  }

  /** For each line with a fence, the next one below with a fence that may end its block. */
  private fenceEnds(lines: readonly Line[]): ReadonlyMap<number, number> {
    const ends = new Map<number, number>();
    /** For each length, the next line with a fence as long as that or longer. */
    const next: number[] = [];
    for (let i = lines.length - 1; i >= 0; i--) {
      const fence = this.fenceAt(lines[i]!);
      if (!fence) continue;
      const end = next[fence.length];
      if (end !== undefined) ends.set(i, end);
      if (fence.isLone) for (let length = 3; length <= fence.length; length++) next[length] = i;
    }
    return ends;
  }

  private code(lines: readonly Line[], first: number, ends: () => ReadonlyMap<number, number>): Found {
    const { text } = this;
    const { start, end } = lines[first]!;
    const fence = this.fenceAt(lines[first]!);
    const last = fence && ends().get(first);
    if (last === undefined) return undefined;
    const language = matchAt(LANGUAGE, text, fence!.end)?.[0].trim();
    const isCode = !fence!.isLone && language === undefined;
    const inner = lines.slice(first + 1, last).map((line) => this.outdented(line, fence!.indent));
    if (isCode) inner.unshift({ start: this.textStart(fence!.end), end });
    const content = new Content(text, inner);
    // Fences around nothing mark nothing.
    if (isBlank(content.text)) return { next: last + 1 };
    const block: Block = {
      kind: 'code-block',
      start,
      end: lines[last]!.end,
      ...(language === undefined ? {} : { language }),
      children: content.leaves(0, content.text.length),
    };
    return { block, next: last + 1 };
  }

  private quote(lines: readonly Line[], first: number, depth: number): Found {
    const inner: Line[] = [];
    let next = first;
    for (; next < lines.length; next++) {
      const { start, end } = lines[next]!;
      const marker = matchAt(QUOTE, this.text, start)?.[0];
      if (marker === undefined) break;
      inner.push({ start: Math.min(end, start + marker.length), end });
    }
    if (inner.length === 0) return undefined;
    // A lone `>` marks nothing.
    if (inner.every(({ start, end }) => isBlank(this.text.slice(start, end)))) return { next };
    const span = { start: lines[first]!.start, end: lines[next - 1]!.end };
    const block: Block = { kind: 'quote', ...span, children: this.blocks(inner, depth + 1) };
    return { block, next };
  }

  private list(lines: readonly Line[], first: number, depth: number): Found {
    const { text } = this;
    const opening = this.item(lines[first]!);
    if (!opening || opening[1]!.length > 3) return undefined;
    const indent = opening[1]!.length;
    const isNumbered = opening[2] !== undefined;
    const items: Item[] = [];
    let next = first;
    for (let marker: RegExpExecArray | null = opening; marker;) {
      const { start, end } = lines[next++]!;
      const width = marker[0].length;
      const inner: Line[] = [{ start: start + width, end }];
      let i: number;
      for (;;) {
        // Blank lines belong to the item if it goes on behind them.
        i = next;
        while (i < lines.length && this.isBlank(lines[i]!)) i++;
        if (i === lines.length || this.indent(lines[i]!) < indent + 2) break;
        for (; next <= i; next++) inner.push(this.outdented(lines[next]!, width));
      }
      const number = isNumbered ? { number: Number(marker[2]) } : {};
      items.push({ start, end: inner.at(-1)!.end, ...number, children: this.blocks(inner, depth + 1) });
      // And so do those before the next item.
      marker = i < lines.length ? this.item(lines[i]!) : null;
      if (marker && (marker[2] !== undefined) !== isNumbered) marker = null;
      if (marker) next = i;
    }
    const begins = lines[first]!.start + opening[0].length;
    // Minus five degrees.
    if (next === first + 1 && !isNumbered && /\d/.test(text[begins]!)) return undefined;
    const block: Block = { kind: 'list', start: items[0]!.start, end: items.at(-1)!.end, isNumbered, children: items };
    return { block, next };
  }

  /** Behind spaces and tabs. */
  private textStart(at: number): number {
    return at + matchAt(INDENT, this.text, at)![0].length;
  }

  /** The marker of an item that has a text. */
  private item({ start, end }: Line): RegExpExecArray | null {
    const marker = matchAt(ITEM, this.text, start);
    return marker && !isBlank(this.text.slice(start + marker[0].length, end)) ? marker : null;
  }

  private indent(line: Line): number {
    const length = this.textStart(line.start) - line.start;
    // One tab is enough.
    return this.text[line.start] === '\t' ? Math.max(4, length) : length;
  }

  private outdented({ start, end }: Line, by: number): Line {
    if (this.text[start] === '\t') return { start: start + 1, end };
    return { start: Math.min(start + by, this.textStart(start)), end };
  }

  private inline(content: Content): Inline[] {
    const { text } = content;
    const nodes: Inline[] = [];
    let at = 0;
    // Nothing goes on behind a blank line.
    for (const { index, 0: gap } of text.matchAll(/(?:\n[ \t\r]*)+(?=\n)/g)) {
      for (const node of this.formatted(content, at, index, true)) nodes.push(node);
      at = index + gap.length;
      for (const leaf of content.leaves(index, at)) nodes.push(leaf);
    }
    for (const node of this.formatted(content, at, text.length, true)) nodes.push(node);
    return joined(nodes);
  }

  /** A range of text without formatting: with links, where they are allowed, and mentions. */
  private leaves(content: Content, from: number, to: number, withLinks: boolean): Inline[] {
    const text = content.text.slice(from, to);
    if (!SPECIAL.test(text)) return content.leaves(from, to);
    const nodes: Inline[] = [];
    let at = from;
    const push = (length: number, wrap?: (node: Span & { children: Leaf[] }) => Inline) => {
      const children = content.leaves(at, at + length);
      if (wrap) nodes.push(wrap({ ...content.span(at, at + length), children }));
      else nodes.push(...children);
      at += length;
    };
    if (!withLinks) {
      for (const { start, end, isMe } of findMentions(text, this.me, this.names)) {
        push(from + start - at);
        push(end - start, (node) => ({ kind: isMe ? 'me' : 'mention', ...node }));
      }
      push(to - at);
      return nodes;
    }
    for (const part of parseText(text, this.me, this.names, this.rooms)) {
      const { kind } = part;
      const { length } = part.text;
      if (kind === 'link') push(length, (node) => ({ kind, href: part.href, ...node }));
      else if (kind === 'room') push(length, (node) => ({ kind, room: part.room, ...node }));
      else if (kind === 'text') push(length);
      else push(length, (node) => ({ kind, ...node }));
    }
    return nodes;
  }

  /** A range of text with its formatting. There are no links within the text of a link. */
  private formatted(content: Content, from: number, to: number, withLinks: boolean): Inline[] {
    const text = content.text.slice(from, to);
    if (!/[*_~`[]/.test(text)) return this.leaves(content, from, to, withLinks);
    const all = this.markedNames(text, withLinks);
    const codes = findCode(text, all);
    const names = without(all, codes);
    const named = withLinks ? findNamedLinks(text, codes, names) : [];
    const known = [...codes, ...named, ...names].sort((a, b) => a.start - b.start);
    const { pairs, atoms } = findPairs(text, known, withLinks);
    const events = [
      ...pairs.flatMap((pair) => [
        { at: pair.start, until: pair.innerStart, pair },
        { at: pair.innerEnd, until: pair.end, pair },
      ]),
      ...atoms.map((atom) => ({ at: atom.start, until: atom.end, atom })),
    ].sort((a, b) => a.at - b.at);
    let nodes: Inline[] = [];
    const outer: { pair: Pair; nodes: Inline[] }[] = [];
    const tooDeep = new Set<Pair>();
    let at = 0;
    const plain = (end: number) => {
      if (end > at) nodes.push(...this.leaves(content, from + at, from + end, withLinks));
      at = end;
    };
    for (const event of events) {
      if ('atom' in event) {
        plain(event.at);
        nodes.push(this.atom(content, from, event.atom));
      } else if (tooDeep.has(event.pair)) continue;
      else if (event.at === event.pair.start) {
        if (outer.length === MAX_DEPTH) {
          tooDeep.add(event.pair);
          continue;
        }
        plain(event.at);
        outer.push({ pair: event.pair, nodes });
        nodes = [];
      } else {
        plain(event.at);
        const { pair, nodes: before } = outer.pop()!;
        before.push({ kind: pair.kind, ...content.span(from + pair.start, from + pair.end), children: joined(nodes) });
        nodes = before;
      }
      at = event.until;
    }
    plain(text.length);
    return nodes;
  }

  /** The mentions of known names that contain markers. */
  private markedNames(text: string, withLinks: boolean): Name[] {
    if (!/[@＠#＃]/.test(text)) return [];
    const isMarked = (start: number, end: number) => /[*_~`[\]]/.test(text.slice(start, end));
    const names: Name[] = [];
    for (const { start, end, isMe, isKnown } of findMentions(text, this.me, this.names)) {
      if (!isKnown || !isMarked(start, end)) continue;
      names.push({ kind: 'name', as: isMe ? 'me' : 'mention', start, innerStart: start, innerEnd: end, end });
    }
    for (const { start, end, room } of withLinks ? findRooms(text, this.rooms) : []) {
      if (!isMarked(start, end) || names.some((name) => name.start < end && start < name.end)) continue;
      names.push({ kind: 'name', as: 'room', room, start, innerStart: start, innerEnd: end, end });
    }
    names.sort((a, b) => a.start - b.start);
    if (!withLinks || names.length === 0) return names;
    return without(names, findLinks(text));
  }

  private atom(content: Content, from: number, atom: Atom): Inline {
    const span = content.span(from + atom.start, from + atom.end);
    const [start, end] = [from + atom.innerStart, from + atom.innerEnd];
    if (atom.kind === 'code') return { kind: 'code', ...span, children: content.leaves(start, end) };
    if (atom.kind === 'name') {
      const children = content.leaves(start, end);
      if (atom.as === 'room') return { kind: 'room', room: atom.room, ...span, children };
      return { kind: atom.as, ...span, children };
    }
    if (atom.kind === 'bare') return { kind: 'link', href: atom.href, ...span, children: content.leaves(start, end) };
    const children = joined(this.formatted(content, start, end, false));
    return { kind: 'link', href: atom.href, host: atom.host, ...span, children };
  }
}

/** Lines as one text. */
class Content {
  readonly text: string;
  /** Where each run of lines that follow one another begins: here, and in the whole text. */
  private readonly runs: { here: number; there: number }[] = [];

  constructor(text: string, lines: readonly Line[]) {
    const pieces: string[] = [];
    let here = 0;
    for (let i = 0; i < lines.length;) {
      const { start } = lines[i]!;
      while (i + 1 < lines.length && lines[i + 1]!.start === lines[i]!.end + 1) i++;
      // The end of a line belongs to it, except to the last one.
      const end = lines[i]!.end + (++i < lines.length ? 1 : 0);
      this.runs.push({ here, there: start });
      pieces.push(text.slice(start, end));
      here += end - start;
    }
    this.text = pieces.join('');
  }

  leaves(from: number, to: number): Leaf[] {
    const leaves: Leaf[] = [];
    for (let run = this.run(from); from < to; run++) {
      const end = Math.min(to, this.runs[run + 1]?.here ?? to);
      const start = this.there(run, from);
      leaves.push({ kind: 'text', text: this.text.slice(from, end), start, end: start + end - from });
      from = end;
    }
    return leaves;
  }

  span(from: number, to: number): Span {
    const start = this.there(this.run(from), from);
    return { start, end: to > from ? this.there(this.run(to - 1), to - 1) + 1 : start };
  }

  private there(run: number, at: number): number {
    const { here, there } = this.runs[run] ?? { here: 0, there: 0 };
    return there + at - here;
  }

  private run(at: number): number {
    let low = 0;
    let high = this.runs.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.runs[middle]!.here <= at) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

/** Joins pieces of text that follow one another. */
function joined(nodes: Inline[]): Inline[] {
  const out: Inline[] = [];
  let texts: string[] = [];
  let first: Leaf | undefined;
  let end = 0;
  const flush = () => {
    if (first) out.push(texts.length === 1 ? first : { kind: 'text', text: texts.join(''), start: first.start, end });
    first = undefined;
  };
  for (const node of nodes) {
    if (node.kind !== 'text' || !first || node.start !== end) flush();
    if (node.kind !== 'text') out.push(node);
    else if (first) texts.push(node.text);
    else {
      first = node;
      texts = [node.text];
    }
    end = node.end;
  }
  flush();
  return out;
}

interface Range extends Span {
  innerStart: number;
  innerEnd: number;
}

interface Pair extends Range {
  kind: 'em' | 'strong' | 'del';
}

type Code = Range & { kind: 'code' };
type NamedLink = Range & { kind: 'named'; href: string; host: string };
type Name = Range & { kind: 'name' } & ({ as: 'mention' | 'me' } | { as: 'room'; room: string });
type Atom = Code | NamedLink | Name | (Range & { kind: 'bare'; href: string });

/** Scripts in which a letter next to a marker is not a part of the same word, or may be an ending. */
const WIDE = new RegExp(
  String.raw`[${SPACELESS}\p{Script=Hangul}\u3001-\u303f\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]`,
  'u',
);
const WORD = /[\p{L}\p{N}\p{M}_]/u;
const LETTER = /\p{L}/u;
/** Emphasis begins and ends with these or with `WORD`, so that `>_<` and `(*)` stay as they are. */
const OPENS = /[^\0-\x7f\s]|["'([{<@#$&+.*_~`-]/u;
const CLOSES = /[^\0-\x7f\s]|["')\]}>!?,.;:%+*_~`…-]/u;
/** Code, formulas and paths go on from these to a marker, and from a marker to those. */
const JOINS_STAR = /[)\]}\\.$%&=^<+@]/;
const JOINS_LINE = /[)\]}\\./:@#$&=%+?-]/;
const JOINED_LINE = /[([/\\@=+-]/;

/** In `"*" + "*.ts"`, no star marks anything. */
const QUOTATION = /["'“”„‟‘’‚‛«»‹›]/;
const isQuoted = (before: string, after: string, afterThat: string) =>
  QUOTATION.test(before) && (QUOTATION.test(after) || (/[./]/.test(after) && /[\p{L}\p{N}*{]/u.test(afterThat)));
/** In `(*´ω`*)`, none does, either. */
const FACE_LEFT = /[^\0-\x7f\p{L}\p{N}\p{M}\p{Ps}\p{Pi}\p{Sc}\p{Emoji_Presentation}¿¡…]/u;
const FACE_RIGHT = /[^\0-\x7f\p{L}\p{N}\p{M}\p{Pe}\p{Pf}\p{Po}\p{Sc}\p{Emoji_Presentation}\ufe0f]/u;
/** Nor in `_(:3」∠)_`. */
const FACE = /^[(（](?!.*\p{L}\p{L}).*[)）]$/u;

const isNarrow = (char: string) => WORD.test(char) && !WIDE.test(char) && char !== '\ufe0f';

function charBefore(text: string, at: number): string {
  if (at === 0) return '';
  const low = text.charCodeAt(at - 1);
  return at > 1 && low >= 0xdc00 && low < 0xe000 ? text.slice(at - 2, at) : text[at - 1]!;
}

function charAt(text: string, at: number): string {
  return at < text.length ? String.fromCodePoint(text.codePointAt(at)!) : '';
}

function opens(mark: string, length: number, before: string, after: string): boolean {
  if (!WORD.test(after) && !OPENS.test(after)) return false;
  if (/[(（]/.test(before) && FACE_LEFT.test(after)) return false;
  if (mark === '_' && '-+.<'.includes(after)) return false;
  if (before === '' || /\s/.test(before)) return true;
  if (mark === '_') return !WORD.test(before) && !JOINS_LINE.test(before);
  if (JOINS_STAR.test(before) || (length === 1 && before === '/')) return false;
  return !isNarrow(before) || WIDE.test(after);
}

function closes(mark: string, length: number, before: string, after: string, afterThat: string): boolean {
  if (!WORD.test(before) && !CLOSES.test(before)) return false;
  if (/[)）]/.test(after) && FACE_RIGHT.test(before)) return false;
  if (after === '' || /\s/.test(after)) return true;
  if (mark === '_') {
    // Not in `__init__.py`.
    const goesOn = after === '.' && WORD.test(afterThat);
    return !WORD.test(after) && !JOINED_LINE.test(after) && !goesOn;
  }
  if (length === 1 && '/([{'.includes(after)) return false;
  // An ending may follow, as in `**word**s`. In `f*ck`, the star is a letter.
  return !isNarrow(after) || WIDE.test(before) || (length > 1 && LETTER.test(after) && LETTER.test(before));
}

/**
 * Finds `code`. It ends with as many backticks as it begins with, and behind a space only if it begins with one. Those
 * within a name belong to the name.
 */
function findCode(text: string, names: readonly Range[] = []): Code[] {
  let name = 0;
  const runs = [...text.matchAll(/`+/g)]
    .map(({ index, 0: { length } }) => ({ index, length }))
    .filter(({ index }) => {
      while (name < names.length && names[name]!.end <= index) name++;
      return index < (names[name]?.start ?? Infinity);
    });
  /** The ends of each length that are not behind the current position, the next one last; without and with a space. */
  const ends: [Map<number, number[]>, Map<number, number[]>] = [new Map(), new Map()];
  for (const { index, length } of runs.reverse()) {
    const [before, after] = [charBefore(text, index), charAt(text, index + length)];
    // In `(`ω´)`, it ends none.
    if (OPENING.test(before) && !/^$|[\s)\]}.,:;!?]/.test(after)) continue;
    const byLength = ends[isSpace(before) ? 1 : 0];
    const same = byLength.get(length);
    if (same) same.push(index);
    else byLength.set(length, [index]);
  }
  const next = (index: number, length: number, withSpace: boolean): number => {
    const all = ends[withSpace ? 1 : 0].get(length) ?? [];
    while (all.length > 0 && all.at(-1)! <= index) all.pop();
    return all.at(-1) ?? Infinity;
  };
  const codes: Code[] = [];
  let at = 0;
  for (const { index, length } of runs.reverse()) {
    const [before, after] = [charBefore(text, index), charAt(text, index + length)];
    if (index < at || before === '\\') continue;
    // An apostrophe.
    if (length === 1 && isNarrow(before) && isNarrow(after)) continue;
    // In `(´ω`*)`, it begins none.
    if (/[^\0-\x7f\s]/.test(before)) {
      const isBetween = WIDE.test(before) && (after === '*' || LETTER.test(before));
      if (/[)）*]/.test(after) && !isBetween) continue;
    }
    const close = Math.min(next(index, length, false), isSpace(after) ? next(index, length, true) : Infinity);
    if (close === Infinity) continue;
    const code = text.slice(index + length, close);
    if (isBlank(code)) continue;
    const padding = code.startsWith(' ') && code.endsWith(' ') ? 1 : 0;
    at = close + length;
    codes.push({
      kind: 'code',
      start: index,
      innerStart: index + length + padding,
      innerEnd: close - padding,
      end: at,
    });
  }
  return codes;
}

const OPENING = /[([{（]/;
const isSpace = (char: string) => char === ' ' || char === '\t';

const URL_CHAR = String.raw`[^\s\x60()<>\\]`;
const DESTINATION = new RegExp(String.raw`\((https?:\/\/${URL_CHAR}*(?:\(${URL_CHAR}*\)${URL_CHAR}*)*)\)`, 'iy');

/** Those ranges that touch none of the others. Both are in the order of the text. */
function without<R extends Span>(ranges: readonly R[], others: readonly Span[]): R[] {
  let i = 0;
  return ranges.filter(({ start, end }) => {
    while (i < others.length && others[i]!.end <= start) i++;
    return (others[i]?.start ?? Infinity) >= end;
  });
}

/** Finds `[text](https://…)`, with what may be in its text. */
function findNamedLinks(text: string, codes: readonly Code[], names: readonly Name[]): NamedLink[] {
  const links: NamedLink[] = [];
  if (!text.includes('](')) return links;
  let open: number[] = [];
  let end = 0;
  const brackets = [...text.matchAll(/[[\]]/g)].map(({ index, 0: bracket }) => ({
    start: index,
    end: index + 1,
    bracket,
  }));
  for (const { start: index, bracket } of without(without(brackets, codes), names)) {
    if (index < end || text[index - 1] === '\\') continue;
    if (bracket === '[') {
      open.push(index);
      continue;
    }
    const start = open.pop();
    const destination = start === undefined ? null : matchAt(DESTINATION, text, index + 1);
    if (!destination) continue;
    // A link contains no other, and what contains a text that pretends to be an address does so, too.
    open = [];
    const address = addressOf(text.slice(start! + 1, index), destination[1]!);
    if (!address) continue;
    end = index + 1 + destination[0].length;
    links.push({ kind: 'named', start: start!, innerStart: start! + 1, innerEnd: index, end, ...address });
  }
  return links;
}

/** Where a link leads. None may pretend to lead elsewhere. */
function addressOf(label: string, address: string): { href: string; host: string } | undefined {
  const url = urlOf(address);
  if (!url) return undefined;
  const shown = withoutMarkers(label);
  if (isBlank(shown) || HIDES_HOST.test(shown)) return undefined;
  const plain = shown.normalize('NFKC').replace(INVISIBLE, '');
  const seems = SEEMS_ADDRESS.test(plain) || SEEMS_ADDRESS.test(plain.replace(/[*_~`]/g, ''));
  return seems && !isAbout(plain, url) ? undefined : { href: url.href, host: url.host };
}

/** The address of a page. `https://bank.example@evil.example/` would seem to lead elsewhere. */
function urlOf(address: string): URL | undefined {
  try {
    const url = new URL(address);
    return url.hostname !== '' && url.username === '' && url.password === '' ? url : undefined;
  } catch {
    return undefined;
  }
}

const INVISIBLE = /\p{Default_Ignorable_Code_Point}/gu;
const SPACE = String.raw`[\p{Z}\p{Cc}\p{Cf}\u115f\u1160\u2800\u3164\uffa0\u{13441}\u{13442}\u{16fe4}\u{1d159}]`;
/** Line breaks and much space push the host out of sight, and characters that change the direction move it. */
const HIDES_HOST = new RegExp(
  String.raw`[\n\v\f\r\x85\u2028\u2029\p{Bidi_Control}]|^${SPACE}|(?:(?![\u{e0020}-\u{e007f}])${SPACE}){4}` +
  String.raw`|(?![\u{e0020}-\u{e007f}])${SPACE}$`,
  'u',
);
/** What looks like the beginning of an address, or like a mailbox, after whatever else. */
const SEEMS_ADDRESS = new RegExp(
  String.raw`[:\u02d0\u0589\u05c3\u0703\u0704\u16ec\u1803\u1809\u205a\u2236\u2982\ua789]` +
  String.raw`(?:\s?[/\\\u0337\u0338\u1735\u2044\u2215\u2216\u2571\u2572\u27cb\u27cd\u29f5\u29f8\u29f9\u3033]){2}` +
  String.raw`|www[.\u3002\u00b7\u2027\u2219\u22c5\u30fb][\p{L}\p{N}\p{M}_-]` +
  String.raw`|[\p{L}\p{N}\p{M}.%+_-]@[\p{L}\p{N}\p{M}-]+(?:[.\u3002][\p{L}\p{N}\p{M}-]+)*[.\u3002]\p{L}\p{M}*\p{L}`,
  'iu',
);

/** Whether a text is an address, or the beginning of one. */
function isAbout(text: string, { host, pathname, search, hash }: URL): boolean {
  const isCut = text.endsWith('...');
  const address = isCut ? text.slice(0, -3) : text;
  const own = urlOf(/^www\./i.test(address) ? `https://${address}` : address);
  const bare = (name: string) => name.replace(/^www\./, '');
  if (!own || !/^https?:$/.test(own.protocol) || bare(own.host) !== bare(host)) return false;
  const whole = pathname + search + hash;
  const part = own.pathname + own.search + own.hash;
  if (!whole.startsWith(part)) return false;
  return isCut || part === whole || part.endsWith('/') || '/?#&'.includes(whole[part.length]!);
}

/** A text as it is shown, with its formatting but without links. */
function withoutMarkers(text: string): string {
  const codes = findCode(text);
  const ranges: Range[] = [...codes, ...findPairs(text, codes, false).pairs];
  const markers = ranges.flatMap(({ start, innerStart, innerEnd, end }) => [[start, innerStart], [innerEnd, end]]);
  let at = 0;
  let shown = '';
  for (const [start, end] of markers.sort(([a], [b]) => a! - b!)) {
    shown += text.slice(at, start);
    at = end!;
  }
  return shown + text.slice(at);
}

interface Run {
  mark: string;
  start: number;
  end: number;
  /** Where it ended at first. */
  last: number;
}

/** Finds the pairs of `*`, `_` and `~~` around what is no atom, and the addresses there, which become atoms. */
function findPairs(text: string, known: readonly Atom[], withLinks: boolean): { pairs: Pair[]; atoms: Atom[] } {
  const pairs: Pair[] = [];
  const atoms: Atom[] = [];
  const stack: Run[] = [];
  /** How many opening runs of each mark and length are on the stack. */
  const counts: Record<string, number[]> = { '*': [0, 0, 0, 0], _: [0, 0, 0, 0], '~': [0, 0, 0, 0] };
  const count = ({ mark, start, end }: Run, by: 1 | -1) => (counts[mark]![end - start]! += by);
  /** Behind the last character that is neither white space nor a marker. */
  let shown = 0;

  const fits = (open: number, length: number) => open === length || open === 3 || length === 3;
  const isOpen = (mark: string, length: number) =>
    [1, 2, 3].some((open) => fits(open, length) && counts[mark]![open]! > 0);

  /** Whether a run of markers ends what began before it. */
  const closesAny = (start: number, end: number): boolean => {
    const length = end - start;
    const mark = text[start]!;
    if ((mark === '~' ? length !== 2 : length > 3) || !isOpen(mark, length)) return false;
    const after = charAt(text, end);
    return closes(mark, length, charBefore(text, start), after, charAt(text, end + after.length));
  };

  const close = (run: Run): void => {
    for (;;) {
      const length = run.end - run.start;
      if (length === 0 || !isOpen(run.mark, length)) return;
      let open: Run;
      do {
        open = stack.pop()!;
        count(open, -1);
      } while (open.mark !== run.mark || !fits(open.end - open.start, length));
      // There is nothing between them.
      if (shown <= open.last) return;
      if (run.start - open.end < 16 && FACE.test(text.slice(open.end, run.start))) return;
      const most = Math.min(length, open.end - open.start);
      const used = most === 3 ? 1 : most;
      const kind = run.mark === '~' ? 'del' : used === 1 ? 'em' : 'strong';
      pairs.push({
        kind,
        start: open.end - used,
        innerStart: open.end,
        innerEnd: run.start,
        end: run.start + used,
      });
      open.end -= used;
      run.start += used;
      if (open.end > open.start) {
        stack.push(open);
        count(open, 1);
      }
    }
  };

  const marks = /\*+|_+|~+/g;
  let next: RegExpExecArray | null | undefined;
  /** The next markers. Asked from left to right, it searches each part of the text once. */
  const nextMarks = (from: number) => {
    if (next === undefined || (next && next.index < from)) {
      marks.lastIndex = from;
      next = marks.exec(text);
    }
    return next;
  };

  const scan = (from: number, to: number): void => {
    let at = from;
    for (let match; (match = nextMarks(at)) && match.index < to;) {
      const start = match.index;
      const end = Math.min(to, start + match[0].length);
      if (!isBlank(text.slice(at, start))) shown = start;
      at = end;
      const mark = match[0][0]!;
      const length = end - start;
      if (mark === '~' ? length !== 2 : length > 3) continue;
      const [before, after] = [charBefore(text, start), charAt(text, end)];
      if (before === '\\') continue;
      const run = { mark, start, end, last: end };
      const afterThat = charAt(text, end + after.length);
      if (isQuoted(before, after, afterThat)) continue;
      if (closes(mark, length, before, after, afterThat)) close(run);
      if (run.start < end && opens(mark, length, before, after)) {
        stack.push(run);
        count(run, 1);
      }
    }
    if (!isBlank(text.slice(at, to))) shown = to;
  };

  const gap = (from: number, to: number): void => {
    let at = from;
    if (withLinks) {
      const piece = text.slice(from, to);
      for (let { start, end, href } of findLinks(piece)) {
        scan(at, from + start);
        // A marker at its end belongs to what began before it.
        const tail = /[*_~][^\p{L}\p{N}/&=#]*$/u.exec(piece.slice(Math.max(start, end - 16), end))?.[0] ?? '';
        for (const { index, 0: mark } of tail.matchAll(/\*+|_+|~+/g)) {
          const markStart = end - tail.length + index;
          if (!closesAny(from + markStart, from + markStart + mark.length)) continue;
          const [own] = findLinks(piece.slice(start, markStart));
          if (own?.start === 0) ({ end, href } = { end: start + own.end, href: own.href });
          break;
        }
        const range = { start: from + start, innerStart: from + start, innerEnd: from + end, end: from + end };
        atoms.push({ kind: 'bare', href, ...range });
        shown = at = range.end;
      }
    }
    scan(at, to);
  };

  let at = 0;
  for (const atom of known) {
    // Code within the text of a link belongs to the link.
    if (atom.start < at) continue;
    gap(at, atom.start);
    atoms.push(atom);
    shown = at = atom.end;
  }
  gap(at, text.length);
  return { pairs, atoms };
}

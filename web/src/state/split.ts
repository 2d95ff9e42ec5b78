/** Splitting a text that is too long for one message into several. */
import { characters, isBlank } from './text';

/** A pasted text of so many lines may be meant as several messages. */
export const MANY_LINES = 200;
/** How many lines each of them has, at most, and how many there may be. */
const LINES = 100;
export const MOST_PARTS = 20;

const FENCE = /^ {0,3}(`{3,})([^`]*)$/;
const encoder = new TextEncoder();
const bytesOf = (text: string) => (text.length < 2 && text < '\x80' ? text.length : encoder.encode(text).length);

export function countLines(text: string): number {
  let lines = 1;
  for (let at = text.indexOf('\n'); at >= 0; at = text.indexOf('\n', at + 1)) lines++;
  return lines;
}

/** A block of code. What is cut within it is closed, and opened again in the next part. */
interface Fence {
  opening: string;
  closing: string;
}

interface Line {
  text: string;
  bytes: number;
  /** The block of code around it, without the lines of the fence itself. */
  fence: Fence | undefined;
  /** The fence behind it. */
  after: Fence | undefined;
}

/**
 * Splits a text between its paragraphs or lines, and within a line only if that is too long. Blank lines at the ends of
 * the parts are left out. Returns undefined if there would be too many parts.
 */
export function split(text: string, limitBytes: number): string[] | undefined {
  if (text.length > limitBytes * MOST_PARTS) return undefined;
  const parts: string[] = [];
  const lines = linesOf(text, limitBytes);
  const isGap = (line: Line | undefined) => line !== undefined && !line.fence && isBlank(line.text);
  for (let at = 0; at < lines.length;) {
    const part = lines.slice(at, at + LINES);
    part.length = endOfPart(part, lines.length - at, limitBytes);
    at += part.length;
    while (isGap(lines[at])) at++;
    const { fence } = part[0]!;
    const { after } = part.at(-1)!;
    const texts = part.map(({ text }) => text);
    if (fence) texts.unshift(fence.opening);
    if (after) texts.push(after.closing);
    const joined = after ? texts.join('\n') : texts.join('\n').trimEnd();
    if (!isBlank(joined)) parts.push(joined);
    if (parts.length > MOST_PARTS) return undefined;
  }
  return parts;
}

function linesOf(text: string, limitBytes: number): Line[] {
  const texts = text.split('\n');
  const closings = texts.map((text) => (/^ {0,3}`{3,}\s*$/.test(text) ? text.trim().length : 0));
  // The longest fence from each line on that may end a block.
  const longest = [...closings, 0];
  for (let i = texts.length - 1; i >= 0; i--) longest[i] = Math.max(longest[i]!, longest[i + 1]!);
  const lines: Line[] = [];
  let fence: Fence | undefined;
  for (const [i, text] of texts.entries()) {
    const begins = fence ? undefined : fenceAt(text, longest[i + 1]!, limitBytes);
    const ends = fence !== undefined && closings[i]! >= fence.closing.length;
    const after: Fence | undefined = begins ?? (ends ? undefined : fence);
    const room = limitBytes - (fence ? bytesOf(fence.opening) + bytesOf(fence.closing) + 2 : 0);
    const pieces: string[] = bytesOf(text) <= room ? [text] : piecesOf(text, room);
    for (const piece of pieces) lines.push({ text: piece, bytes: bytesOf(piece) + 1, fence, after });
    fence = after;
  }
  return lines;
}

/** The block that begins at a line and ends somewhere below, unless its fence would take too much of each part. */
function fenceAt(text: string, longestBelow: number, limitBytes: number): Fence | undefined {
  const closing = FENCE.exec(text)?.[1];
  if (closing === undefined || closing.length > longestBelow || bytesOf(text) > limitBytes / 4) return undefined;
  return { opening: text, closing };
}

/** Cuts a line between words if there are any, and never within a character. */
function piecesOf(line: string, limitBytes: number): string[] {
  const pieces: string[] = [];
  let piece = '';
  let bytes = 0;
  const end = () => {
    const word = /\s\S*$/.exec(piece)?.index ?? 0;
    const at = word > piece.length / 2 ? word + 1 : piece.length;
    pieces.push(piece.slice(0, at));
    piece = piece.slice(at);
    bytes = bytesOf(piece);
  };
  for (const character of characters(line)) {
    // One with very many marks is cut all the same.
    for (const part of bytesOf(character) > limitBytes ? character : [character]) {
      const own = bytesOf(part);
      if (bytes + own > limitBytes) end();
      piece += part;
      bytes += own;
    }
  }
  pieces.push(piece);
  return pieces;
}

/**
 * Where a part ends that begins with these lines, of which so many are left: between paragraphs, or else between lines.
 */
function endOfPart(lines: readonly Line[], left: number, limitBytes: number): number {
  const { fence } = lines[0]!;
  // The end of the last line is no part of it.
  let bytes = (fence ? bytesOf(fence.opening) + 1 : 0) - 1;
  let end = 0;
  let best = 0;
  for (; end < lines.length; end++) {
    const { text, bytes: own, after, fence } = lines[end]!;
    bytes += own;
    if (bytes + (after ? bytesOf(after.closing) + 1 : 0) > limitBytes) break;
    if (!fence && isBlank(text)) best = end + 1;
  }
  if (end === left) return end;
  // Not after the opening of a fence.
  while (end > 1 && lines[end - 1]!.after && lines[end - 1]!.after !== lines[end - 1]!.fence) end--;
  return best > end / 2 ? best : Math.max(1, end);
}

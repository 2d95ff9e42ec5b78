/** Formatting what is being written: markers around a selection come and go. */
export type Mark = 'strong' | 'em' | 'code';

/** What to replace in a text, and what is selected then. */
export interface Change {
  from: number;
  to: number;
  insert: string;
  start: number;
  end: number;
}

const WORD = /[\p{L}\p{N}\p{M}_]/u;
const FENCE_BEFORE = /(?:^|\n)```[^`\n]*\n$/;
const FENCE_AFTER = /^\n```(?=\n|$)/;

/** Puts a selection between markers, or takes it out of them. */
export function toggleMark(text: string, start: number, end: number, mark: Mark): Change {
  const selected = text.slice(start, end);
  // Markers stand beside a word, not beside a space.
  const inner = selected.trim();
  if (inner !== '') start += selected.indexOf(inner);
  end = start + inner.length;
  const before = text.slice(0, start);
  const after = text.slice(end);
  for (const marker of markers(mark)) {
    const [char] = marker;
    if (isMarker(marker, endRun(before, char!), startRun(after, char!))) {
      return unwrapped(start, end, inner, marker.length);
    }
    const content = inner.slice(marker.length, -marker.length);
    if (content !== '' && isMarker(marker, startRun(inner, char!), endRun(inner, char!))) {
      return { from: start, to: end, insert: content, start, end: start + content.length };
    }
  }
  if (mark === 'code' && inner.includes('\n')) return fenced(before, inner, after);
  const marker = markerFor(mark, inner, before, after);
  const padding = marker.length > 1 && mark === 'code' ? ' ' : '';
  const at = start + marker.length + padding.length;
  const insert = marker + padding + inner + padding + marker;
  return { from: start, to: end, insert, start: at, end: at + inner.length };
}

function markers(mark: Mark): readonly string[] {
  return mark === 'strong' ? ['**', '__'] : mark === 'em' ? ['_', '*'] : ['`'];
}

function startRun(text: string, char: string): number {
  let length = 0;
  while (text[length] === char) length++;
  return length;
}

function endRun(text: string, char: string): number {
  let length = 0;
  while (text[text.length - 1 - length] === char) length++;
  return length;
}

/** Whether there is this marker among those on both sides. Three stars or lines are both markers at once. */
function isMarker(marker: string, left: number, right: number): boolean {
  const length = Math.min(left, right);
  return length === marker.length || (length === 3 && marker !== '`');
}

function unwrapped(start: number, end: number, inner: string, by: number): Change {
  return { from: start - by, to: end + by, insert: inner, start: start - by, end: end - by };
}

function fenced(before: string, inner: string, after: string): Change {
  const start = before.length;
  const opening = FENCE_BEFORE.exec(before)?.[0].replace(/^\n/, '');
  if (opening !== undefined && FENCE_AFTER.test(after)) {
    const from = start - opening.length;
    return { from, to: start + inner.length + 4, insert: inner, start: from, end: from + inner.length };
  }
  const head = `${before === '' || before.endsWith('\n') ? '' : '\n'}\`\`\`\n`;
  const tail = `\n\`\`\`${after === '' || after.startsWith('\n') ? '' : '\n'}`;
  const at = start + head.length;
  return { from: start, to: start + inner.length, insert: head + inner + tail, start: at, end: at + inner.length };
}

function markerFor(mark: Mark, inner: string, before: string, after: string): string {
  if (mark === 'strong') return '**';
  // Lines within a word mark nothing.
  const isInWord = WORD.test(before.slice(-1)) || WORD.test(after.slice(0, 1));
  if (mark === 'em') return isInWord ? '*' : '_';
  const longest = Math.max(0, ...(inner.match(/`+/g) ?? []).map(({ length }) => length));
  return '`'.repeat(longest === 0 ? 1 : longest + 1);
}

/** Copying messages as they were written, with their markers. */
import { folded } from '../state/fold';
import { type Block, visible, written } from '../state/markdown';

interface Source {
  text: string;
  isFolded: boolean;
}

/** Puts the selected messages onto the clipboard, unless something else is selected, too. */
export function copyMessages(
  event: ClipboardEvent,
  list: HTMLElement,
  sourceOf: (key: string) => Source | undefined,
  parse: (text: string) => Block[],
) {
  const selection = getSelection();
  if (!selection || selection.isCollapsed || !event.clipboardData) return;
  if (event.target instanceof Element && event.target.closest('textarea, input')) return;
  const range = selection.getRangeAt(0);
  if (!range.intersectsNode(list) || reachesBeyond(range, list)) return;
  const pieces: (string | Selected)[] = [];
  for (const row of list.querySelectorAll<HTMLElement>('[data-key]')) {
    const shown = row.querySelector<HTMLElement>(':scope > .text');
    if (!shown || !range.intersectsNode(shown)) continue;
    const selected = selectedText(range, shown, sourceOf(row.dataset['key']!), parse);
    if (selected.part === '') continue;
    const by = row.querySelector(':scope > .by');
    if (by && range.intersectsNode(by)) pieces.push([...by.children].map((child) => child.textContent).join(', '));
    pieces.push(selected);
  }
  if (pieces.length === 0) return;
  // Code keeps its markers among other messages.
  const copied = pieces.map((piece) =>
    typeof piece === 'string' ? piece : pieces.length === 1 ? piece.part : (piece.whole ?? piece.part),
  );
  event.clipboardData.setData('text/plain', copied.join('\n'));
  event.preventDefault();
}

/** A selection by a triple click ends at the beginning of whatever follows. */
function reachesBeyond(range: Range, list: HTMLElement): boolean {
  const all = document.createRange();
  all.selectNode(list);
  const before = range.cloneRange();
  const after = range.cloneRange();
  if (range.compareBoundaryPoints(Range.START_TO_START, all) < 0) before.setEndBefore(list);
  else before.collapse(true);
  if (range.compareBoundaryPoints(Range.END_TO_END, all) > 0) after.setStartAfter(list);
  else after.collapse(false);
  return `${before.toString()}${after.toString()}`.trim() !== '';
}

interface Selected {
  part: string;
  /** The text of the message if all of it is selected. */
  whole?: string;
}

/** The selected part of a message. `source` is what was written, `shown` shows it, and perhaps a remark behind it. */
function selectedText(
  range: Range,
  shown: HTMLElement,
  source: Source | undefined,
  parse: (text: string) => Block[],
): Selected {
  const part = document.createRange();
  part.selectNodeContents(shown);
  const before = part.cloneRange();
  const startsInside = range.compareBoundaryPoints(Range.START_TO_START, part) > 0;
  if (startsInside) {
    part.setStart(range.startContainer, range.startOffset);
    before.setEnd(range.startContainer, range.startOffset);
  } else before.collapse(true);
  if (range.compareBoundaryPoints(Range.END_TO_END, part) < 0) part.setEnd(range.endContainer, range.endOffset);
  if (!source) return { part: part.toString() };
  const { text, isFolded } = source;
  const blocks = isFolded ? folded(parse(text)) : parse(text);
  const whole = blocks.map(visible).join('');
  if (!shown.textContent!.startsWith(whole)) return { part: part.toString() };
  const from = before.toString().length;
  const to = Math.min(whole.length, from + part.toString().length);
  if (from > 0 || to < whole.length || isFolded) return { part: written(text, blocks, from, to) };
  // All of it, with what is not shown at its ends.
  return { part: blocks.length > 1 ? text : written(text, blocks, from, to), whole: text };
}

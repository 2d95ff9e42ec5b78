/** Long texts, of which only the beginning is shown until the reader asks for more. */
import type { Block, Item, Node } from './markdown';
import { cut } from './text';

/** How many lines may be shown of a text in full, and how many of a longer one. */
const LONG = 20;
const FOLDED = 12;
/** About as many characters fit into a line. */
const WIDTH = 80;

const height = (length: number) => Math.max(1, Math.ceil(length / WIDTH));

export function isLong(text: string): boolean {
  let lines = 0;
  for (let start = 0; start <= text.length && lines <= LONG;) {
    const end = text.indexOf('\n', start);
    lines += height((end < 0 ? text.length : end) - start);
    start = end < 0 ? text.length + 1 : end + 1;
  }
  return lines > LONG;
}

/** The beginning of a text. */
export function folded(blocks: readonly Block[]): Block[] {
  const space = new Space();
  const out: Block[] = [];
  for (const block of blocks) {
    if (space.isFull) break;
    const part = shortened(block, space);
    if (part) out.push(part);
    space.endLine();
  }
  return out;
}

/** As much of a node as there is room for. */
function shortened<N extends Node>(node: N, space: Space): N | undefined {
  if ('text' in node) {
    const text = space.take(node.text);
    return text === '' ? undefined : { ...node, text, end: node.start + text.length };
  }
  const children: Node[] = [];
  const isOfLines = !('kind' in node) || node.kind === 'list' || node.kind === 'quote';
  for (const child of node.children as (Node | Item)[]) {
    if (space.isFull) break;
    const part = shortened(child, space);
    if (part) children.push(part);
    if (isOfLines) space.endLine();
  }
  const last = children.at(-1);
  if (!last) return undefined;
  return { ...node, children, ...(space.isFull ? { end: last.end } : {}) };
}

/** The lines that are left. */
class Space {
  private lines = FOLDED;
  /** How much is in the current line, which may be wrapped. */
  private column = 0;

  get isFull(): boolean {
    return this.lines <= 0;
  }

  endLine(): void {
    if (this.column > 0) this.lines -= height(this.column);
    this.column = 0;
  }

  /** The part of a text for which there is space. */
  take(text: string): string {
    for (let at = 0; at < text.length;) {
      const end = text.indexOf('\n', at);
      const length = (end < 0 ? text.length : end) - at;
      const left = this.lines * WIDTH - this.column;
      if (length > left) {
        this.lines = 0;
        return text.slice(0, at) + beginning(text.slice(at, at + length), left);
      }
      this.column += length;
      if (end < 0) break;
      this.lines -= height(this.column);
      this.column = 0;
      if (this.isFull) return text.slice(0, end);
      at = end + 1;
    }
    return text;
  }
}

/** Ends between words if there are any. */
function beginning(line: string, length: number): string {
  const part = cut(line, length).slice(0, -1);
  const words = part.replace(/\s+\S*$/, '');
  return words === '' ? part : words;
}

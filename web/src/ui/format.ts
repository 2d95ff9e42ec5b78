import { type Mark, toggleMark } from '../state/format';
import { isShortcut } from './keys';

/** Formats the selection in a text field if these are the keys for that. */
export function onFormatKey(event: KeyboardEvent): boolean {
  const mark = markOf(event);
  if (!mark) return false;
  event.preventDefault();
  format(event.currentTarget as HTMLTextAreaElement, mark);
  return true;
}

/** Formats the selection in a text field that has the focus, or takes the format away. The browser can undo it. */
export function format(area: HTMLTextAreaElement, mark: Mark): void {
  const { from, to, insert, start, end } = toggleMark(area.value, area.selectionStart, area.selectionEnd, mark);
  area.setSelectionRange(from, to);
  // It is deprecated, but nothing else can be undone.
  if (!document.execCommand(insert === '' ? 'delete' : 'insertText', false, insert)) {
    area.setRangeText(insert, from, to, 'end');
    area.dispatchEvent(new InputEvent('input', { bubbles: true }));
  }
  area.setSelectionRange(start, end);
}

function markOf(event: KeyboardEvent): Mark | undefined {
  if (isShortcut(event, 'b')) return 'strong';
  if (isShortcut(event, 'i')) return 'em';
  return isShortcut(event, 'e') || isShortcut(event, 'c', true) ? 'code' : undefined;
}

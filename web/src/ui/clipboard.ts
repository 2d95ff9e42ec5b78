import { ChatError } from '@uproar/client';

/** Copies a text. Throws if the browser does not allow it. */
export async function copy(text: string): Promise<void> {
  // A server on a local network often has no secure origin, and so no `clipboard`.
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const focused = document.activeElement;
  const area = document.createElement('textarea');
  area.className = 'visually-hidden';
  area.value = text;
  // Nothing outside of a modal dialog can be selected.
  (document.querySelector('dialog[open]') ?? document.body).append(area);
  area.select();
  const isCopied = document.execCommand('copy');
  area.remove();
  if (focused instanceof HTMLElement) focused.focus({ preventScroll: true });
  if (!isCopied) throw new ChatError('no_clipboard', 'the browser does not let the page copy');
}

/** What the keyboard does apart from the focused element. */
import { useEffect } from 'preact/hooks';

/**
 * Moves the focus among the elements of a list, of which only one is a stop of the Tab key. Returns whether the key
 * does that.
 */
export function moveFocus(event: KeyboardEvent, list: HTMLElement, selector: string): boolean {
  const all = [...list.querySelectorAll<HTMLElement>(selector)];
  const at = all.indexOf(event.target as HTMLElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
  if (at < 0 || to === undefined || event.altKey || event.ctrlKey || event.metaKey) return false;
  event.preventDefault();
  all[Math.max(0, Math.min(to, all.length - 1))]?.focus();
  return true;
}

const FIELDS = 'input, textarea, select, [contenteditable]';

/** The element with the focus takes no text, and isn't in something that lies above the composer. */
function isElsewhere(target: EventTarget | null): boolean {
  return target instanceof Element && target.closest(`${FIELDS}, dialog, .people`) === null;
}

function shownComposer(): HTMLTextAreaElement | undefined {
  const composer = document.querySelector<HTMLTextAreaElement>('#composer');
  return composer && composer.offsetParent !== null && !document.querySelector('dialog[open]') ? composer : undefined;
}

/** Makes what is typed or pasted outside of any field go to the composer. */
export function useTyping(): void {
  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      // A space presses buttons and scrolls. Process and Dead begin a composition.
      const isText = [...event.key].length === 1 ? event.key !== ' ' : event.key === 'Process' || event.key === 'Dead';
      // The browser enters the character where the focus is by then.
      if (isText && isElsewhere(event.target)) shownComposer()?.focus();
    };
    const onPaste = (event: ClipboardEvent) => {
      const text = event.clipboardData?.getData('text/plain');
      const composer = text && isElsewhere(event.target) ? shownComposer() : undefined;
      if (!text || !composer) return;
      event.preventDefault();
      composer.focus();
      composer.setRangeText(text, composer.selectionStart, composer.selectionEnd, 'end');
      composer.dispatchEvent(new InputEvent('input', { bubbles: true }));
    };
    addEventListener('keydown', onKeyDown);
    addEventListener('paste', onPaste);
    return () => {
      removeEventListener('keydown', onKeyDown);
      removeEventListener('paste', onPaste);
    };
  }, []);
}

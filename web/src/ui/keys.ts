/** What the keyboard does apart from the focused element. */
import type { TargetedEvent } from 'preact';
import { useEffect, useState } from 'preact/hooks';

/** Moves the focus among the stops of a list. */
function moveFocus(event: KeyboardEvent, list: HTMLElement): void {
  const all = [...list.querySelectorAll<HTMLElement>('[data-stop]')];
  const at = all.indexOf(event.target as HTMLElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
  if (at < 0 || to === undefined || event.altKey || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  all[Math.max(0, Math.min(to, all.length - 1))]?.focus();
}

/**
 * Makes the Tab key stop only once in a list: at the element that had the focus last, or else at the preferred or first
 * one. The arrow keys move on from there. Returns the properties of the list, and those of the element for a key.
 */
export function useOneStop(keys: readonly string[], preferred?: string) {
  const [focused, setFocused] = useState<string>();
  const reachable = [focused, preferred].find((key) => key !== undefined && keys.includes(key)) ?? keys[0];
  return {
    list: {
      onKeyDown: (event: TargetedEvent<HTMLElement, KeyboardEvent>) => moveFocus(event, event.currentTarget),
      onFocus: (event: FocusEvent) => setFocused((event.target as HTMLElement).dataset['stop']),
    },
    stop: (key: string) => ({ 'data-stop': key, tabIndex: key === reachable ? 0 : -1 }),
  };
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

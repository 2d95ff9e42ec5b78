/** What the keyboard does apart from the focused element. */
import type { TargetedEvent } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import { storage } from '../storage';

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

const SINGLE_KEYS = 'uproar.single-keys';

/** Whether keys without Ctrl or ⌘ do something outside of text fields. Those who dictate may want none that do. */
export const hasSingleKeys = (): boolean => storage.getItem(SINGLE_KEYS) !== 'off';

export function setSingleKeys(has: boolean): void {
  if (has) storage.removeItem(SINGLE_KEYS);
  else storage.setItem(SINGLE_KEYS, 'off');
}

const FIELDS = 'input, textarea, select, [contenteditable]';

/** The element with the focus takes no text, and isn't in something that lies above the composer. */
function isElsewhere(target: EventTarget | null): boolean {
  return target instanceof Element && target.closest(`${FIELDS}, dialog, .panel`) === null;
}

function shownComposer(): HTMLTextAreaElement | undefined {
  const composer = document.querySelector<HTMLTextAreaElement>('#composer');
  return composer && composer.offsetParent !== null && !document.querySelector('dialog[open]') ? composer : undefined;
}

const IS_MAC = typeof navigator !== 'undefined' && /^(Mac|iP)/.test(navigator.platform);
/** How keys are written. `control`: the name of that key. On a Mac, those with Ctrl edit the line. */
export const shortcut = (letter: string, control: string) => (IS_MAC ? `⌘${letter}` : `${control}+${letter}`);

/** Whether this is ⌘ on a Mac, or else Ctrl, with a letter. */
export function isShortcut(event: KeyboardEvent, letter: string, withShift = false): boolean {
  const { key, code, ctrlKey, metaKey, altKey, shiftKey } = event;
  const [wanted, other] = IS_MAC ? [metaKey, ctrlKey] : [ctrlKey, metaKey];
  // The key of a Greek or Russian keyboard is called by its place.
  const isKey = key.toLowerCase() === letter || (code === `Key${letter.toUpperCase()}` && !/^[a-z]$/i.test(key));
  return isKey && wanted && !other && !altKey && shiftKey === withShift;
}

function isHelp({ key, target, ctrlKey, metaKey, altKey }: KeyboardEvent): boolean {
  const isFree = target instanceof Element && target.closest(`${FIELDS}, dialog`) === null;
  return key === '?' && isFree && hasSingleKeys() && !ctrlKey && !metaKey && !altKey;
}

/** Alt with an arrow key goes through the rooms; with Shift as well, through those with unread messages. */
function roomStep({ key, altKey, ctrlKey, metaKey }: KeyboardEvent): 1 | -1 | undefined {
  if (!altKey || ctrlKey || metaKey || document.querySelector('dialog[open]')) return undefined;
  return key === 'ArrowDown' ? 1 : key === 'ArrowUp' ? -1 : undefined;
}

interface Actions {
  onSwitch: () => void;
  onHelp: () => void;
  onStep: (by: 1 | -1, onlyUnread: boolean) => void;
}

/** Calls these when their keys are pressed. To be used before `useTyping`, which has what is left. */
export function useShortcuts(actions: Actions): void {
  const latest = useRef(actions);
  latest.current = actions;
  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.isComposing) return;
      const { onSwitch, onHelp, onStep } = latest.current;
      const by = roomStep(event);
      const step = by && (() => onStep(by, event.shiftKey));
      const action = isShortcut(event, 'k') ? onSwitch : isHelp(event) ? onHelp : step;
      if (!action) return;
      event.preventDefault();
      action();
    };
    addEventListener('keydown', onKeyDown);
    return () => removeEventListener('keydown', onKeyDown);
  }, []);
}

/** Writes something into the composer, in place of what is selected there, and continues there. */
function write(composer: HTMLTextAreaElement, text: string, inputType = 'insertText'): void {
  composer.focus();
  composer.setRangeText(text, composer.selectionStart, composer.selectionEnd, 'end');
  composer.dispatchEvent(new InputEvent('input', { bubbles: true, inputType }));
}

/** Mentions somebody at the caret of the composer. */
export function mention(name: string): void {
  const composer = shownComposer();
  if (!composer) return;
  const { value, selectionEnd } = composer;
  composer.setSelectionRange(selectionEnd, selectionEnd);
  write(composer, `${/\S$/.test(value.slice(0, selectionEnd)) ? ' ' : ''}@${name} `);
}

/** Makes what is typed or pasted outside of any field go to the composer. */
export function useTyping(): void {
  useEffect(() => {
    const onKeyDown = (event: KeyboardEvent) => {
      if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
      // A space presses buttons and scrolls. Process and Dead begin a composition.
      const isText = [...event.key].length === 1 ? event.key !== ' ' : event.key === 'Process' || event.key === 'Dead';
      // The browser enters the character where the focus is by then.
      if (isText && isElsewhere(event.target) && hasSingleKeys()) shownComposer()?.focus();
    };
    const onPaste = (event: ClipboardEvent) => {
      const text = event.clipboardData?.getData('text/plain');
      const composer = text && isElsewhere(event.target) ? shownComposer() : undefined;
      if (!text || !composer) return;
      event.preventDefault();
      write(composer, text, 'insertFromPaste');
    };
    addEventListener('keydown', onKeyDown);
    addEventListener('paste', onPaste);
    return () => {
      removeEventListener('keydown', onKeyDown);
      removeEventListener('paste', onPaste);
    };
  }, []);
}

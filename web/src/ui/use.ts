import { useEffect, useReducer } from 'preact/hooks';
import type { Store } from '../state/store';

/** Renders anew whenever one of these changes. */
export function useStores(...stores: (Store | undefined)[]): void {
  const [, again] = useReducer((n: number) => n + 1, 0);
  useEffect(() => {
    const ends = stores.map((store) => store?.subscribe(() => again(0)));
    // Something may have changed between rendering and now.
    again(0);
    return () => ends.forEach((end) => end?.());
  }, stores);
}

/** The room that the address names. */
export function roomInAddress(): string | undefined {
  const match = /^#\/(.+)$/.exec(location.hash);
  if (!match) return undefined;
  try {
    return decodeURIComponent(match[1]!);
  } catch {
    return undefined;
  }
}

export function addressOf(room: string | undefined): string {
  return room === undefined ? '#/' : `#/${encodeURIComponent(room)}`;
}

export function go(room: string | undefined): void {
  location.hash = addressOf(room);
}

/** Takes the focus when what had it is gone, so that the keyboard goes on from here. */
export function focusIfLost(element: HTMLElement | null): void {
  if (document.activeElement === document.body) element?.focus({ preventScroll: true });
}

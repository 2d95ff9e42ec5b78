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

/** Takes the focus when what had it is gone, so that the keyboard goes on from here. */
export function focusIfLost(element: HTMLElement | null): void {
  if (document.activeElement === document.body) element?.focus({ preventScroll: true });
}

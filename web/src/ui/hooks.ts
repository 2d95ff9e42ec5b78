import { useEffect, useReducer, useState } from 'preact/hooks';
import type { Room, RoomEvents, Store } from '@uproar/client';

/** Renders the component again whenever one of the stores changes. */
export function useStores(...stores: (Store | undefined)[]): void {
  const [, rerender] = useReducer((n: number) => n + 1, 0);
  useEffect(() => {
    const cleanups = stores.map((store) => store?.subscribe(() => rerender(0)));
    // A store may have changed between rendering and this effect.
    rerender(0);
    return () => cleanups.forEach((cleanup) => cleanup?.());
  }, stores);
}

/** Renders the component again whenever one of these events happens in a room. */
export function useEvents(room: Room | undefined, ...events: (keyof RoomEvents)[]): void {
  const [, rerender] = useReducer((n: number) => n + 1, 0);
  useEffect(() => {
    const cleanups = events.map((event) => room?.on(event, () => rerender(0)));
    // Something may have happened between rendering and this effect.
    rerender(0);
    return () => cleanups.forEach((cleanup) => cleanup?.());
  }, [room, ...events]);
}

/** Whether an element may take the focus when it appears. A frame never takes it from the page around it. */
export function mayTakeFocus(): boolean {
  return window.parent === window || document.hasFocus();
}

/** Focuses the element if the focused one is gone, so that the keyboard continues from here. */
export function focusIfLost(element: HTMLElement | null): void {
  if (document.activeElement === document.body && mayTakeFocus()) element?.focus({ preventScroll: true });
}

/** Whether a media query matches now. */
export function useMedia(query: string): boolean {
  const [matches, setMatches] = useState(() => matchMedia(query).matches);
  useEffect(() => {
    const list = matchMedia(query);
    const onChange = () => setMatches(list.matches);
    onChange();
    list.addEventListener('change', onChange);
    return () => list.removeEventListener('change', onChange);
  }, [query]);
  return matches;
}

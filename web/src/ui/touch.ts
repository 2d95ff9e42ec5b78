/** What fingers do apart from tapping and scrolling. */

/** A little less than it takes the system to select a word. */
const HOLD_MS = 450;
/** A finger that rests moves no further than this. */
const REST_PX = 10;
/** Where a swipe back begins, and how far it goes. */
const EDGE_PX = 24;
const SWIPE_PX = 70;

/** What does something else when it is held, or takes part in none of this. */
const OTHERS = 'a, button, input, textarea, select, dialog';

/** Calls back when a finger rests on something in the element. Returns what ends that. */
export function onHold(element: HTMLElement, held: (target: Element) => void): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let start = { x: 0, y: 0 };
  let isDown = false;
  let isHeld = false;
  const stop = () => clearTimeout(timer);
  const end = new AbortController();
  const on = <K extends keyof HTMLElementEventMap>(type: K, listener: (event: HTMLElementEventMap[K]) => void) =>
    element.addEventListener(type, listener, { signal: end.signal, passive: type !== 'touchend' });
  on('touchstart', ({ touches, target }) => {
    stop();
    isHeld = false;
    isDown = touches.length === 1 && target instanceof Element && !target.closest(OTHERS);
    if (!isDown) return;
    start = { x: touches[0]!.clientX, y: touches[0]!.clientY };
    timer = setTimeout(() => {
      isHeld = true;
      held(target as Element);
    }, HOLD_MS);
  });
  on('touchmove', ({ touches }) => {
    if (Math.hypot(touches[0]!.clientX - start.x, touches[0]!.clientY - start.y) > REST_PX) stop();
  });
  on('touchend', (event) => {
    stop();
    // What has appeared under the finger is not pressed by lifting it.
    if (isHeld) event.preventDefault();
    isDown = false;
  });
  on('touchcancel', () => {
    stop();
    isDown = false;
  });
  element.addEventListener('contextmenu', (event) => isDown && event.preventDefault(), { signal: end.signal });
  return () => {
    stop();
    end.abort();
  };
}

/** Calls back when a finger swipes from the edge at which lines begin. Returns what ends that. */
export function onSwipeBack(element: HTMLElement, swiped: () => void): () => void {
  let start: { x: number; y: number } | undefined;
  const end = new AbortController();
  const on = <K extends keyof HTMLElementEventMap>(type: K, listener: (event: HTMLElementEventMap[K]) => void) =>
    element.addEventListener(type, listener, { signal: end.signal, passive: true });
  /** The distance from that edge. */
  const across = ({ clientX }: Touch) =>
    getComputedStyle(element).direction === 'rtl' ? innerWidth - clientX : clientX;
  on('touchstart', ({ touches }) => {
    const [touch] = touches;
    const x = touch && touches.length === 1 ? across(touch) : Infinity;
    start = x <= EDGE_PX ? { x, y: touch!.clientY } : undefined;
  });
  on('touchend', ({ changedTouches }) => {
    const [touch] = changedTouches;
    if (!start || !touch) return;
    const x = across(touch) - start.x;
    const isLevel = Math.abs(touch.clientY - start.y) < x / 2;
    start = undefined;
    if (x >= SWIPE_PX && isLevel) swiped();
  });
  // The system has taken it for a gesture of its own, or for scrolling.
  on('touchcancel', () => {
    start = undefined;
  });
  return () => end.abort();
}

/** Keeps the page above the keyboard on the screen, in browsers that would lay it over the page (Safari). */
export function stayAboveKeyboard(): void {
  const { visualViewport: view } = window;
  if (!view) return;
  const root = document.documentElement;
  const fit = () => {
    // A page that was magnified is larger than the screen on purpose.
    const covered = Math.abs(view.scale - 1) < 0.01 ? Math.max(0, Math.round(root.clientHeight - view.height)) : 0;
    root.style.setProperty('--covered', `${covered}px`);
    // The browser has moved the page up to show the focused field, which is above the keyboard now.
    if (covered > 0) scrollTo(0, 0);
  };
  view.addEventListener('resize', fit);
  fit();
}

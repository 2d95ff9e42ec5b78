/**
 * The fragment of the URL names the open room, and maybe one of its messages: `#/NAME`, `#/NAME/OFFSET`, or
 * `#/NAME/OFFSET/WORD` with the room's own part of its epoch, which another room of the same name does not have.
 */
import { isOffset } from '@uproar/client';
import { type Depth, above, depthIn } from '../state/steps';

export interface Place {
  room: string | undefined;
  message: Target | undefined;
}

/** A message that an address names. */
export interface Target {
  offset: number;
  /** See `wordOf`. */
  word?: string | undefined;
}

/** The place that a fragment names. A slash in the name of a room is encoded, unless somebody typed it. */
export function parseAddress(fragment: string): Place {
  const nowhere = { room: undefined, message: undefined };
  const match = /^#\/(.+?)(?:\/(\d+)(?:\/([\da-f]{16}))?)?$/.exec(fragment);
  if (!match) return nowhere;
  try {
    // A link that was typed or cut from a text may bring a space along.
    const room = decodeURIComponent(match[1]!).trim() || undefined;
    const offset = Number(match[2]);
    return { room, message: room !== undefined && isOffset(offset) ? { offset, word: match[3] } : undefined };
  } catch {
    return nowhere;
  }
}

/** The place that the URL names. */
export function placeInAddress(): Place {
  return parseAddress(location.hash);
}

/** The link to a room or one of its messages, or to the list of rooms. */
export function addressOf(room: string | undefined, message?: Target): string {
  if (room === undefined) return '#/';
  return ['#', encodeURIComponent(room), message?.offset, message?.word].filter((part) => part !== undefined).join('/');
}

/**
 * The room's own part of its epoch. Links leave out the part of the database, which changes when a backup is restored:
 * the messages in the backup keep their offsets.
 */
export function wordOf(epoch: string): string {
  return epoch.split('.', 1)[0]!;
}

/** An address without a place on the page; in a frame on another site, that of the whole page. */
const pageOf = (href: string) => href.replace(/(embed\.html)?(#.*)?$/, '');

/** The link to a room or one of its messages, for other programs. */
export function linkTo(room: string, message?: Target): string {
  return pageOf(location.href) + addressOf(room, message);
}

/** Whether a link leads to a place on this page. */
export function isPlace(href: string): boolean {
  const [, fragment = ''] = href.split('#', 2);
  return pageOf(href) === pageOf(location.href) && parseAddress(`#${fragment}`).room !== undefined;
}

/** Opens a room, or the list of rooms. */
export function go(room: string | undefined): void {
  location.hash = addressOf(room);
}

/** Corrects the address of the open room, without a step in the browser's history. */
export function replace(room: string, message?: Target): void {
  history.replaceState(history.state, '', addressOf(room, message));
  dispatchEvent(new HashChangeEvent('hashchange'));
}

/** That of the entry on screen. */
let depth: Depth;

/**
 * Makes each entry of the browser's history remember how far above the list of rooms it lies. On a phone, the list lies
 * below a room that a link has opened, so that the way back leads there and not to another page.
 */
export function followHistory(): void {
  const { room } = placeInAddress();
  depth = depthIn(history.state);
  if (depth === undefined && room !== undefined && isNarrow()) {
    const address = location.hash;
    history.replaceState({ depth: 0 }, '', addressOf(undefined));
    history.pushState({ depth: 1 }, '', address);
    depth = 1;
  } else if (depth === undefined) {
    depth = above(undefined, room);
    history.replaceState({ depth }, '');
  }
  addEventListener('hashchange', () => {
    const isNew = history.state === null;
    depth = isNew ? above(depth, placeInAddress().room) : depthIn(history.state);
    if (isNew) history.replaceState({ depth }, '');
  });
}

/** Whether there is space for the list of rooms or for a room, but not for both. */
export function isNarrow(): boolean {
  return matchMedia('(max-width: 44rem)').matches;
}

/** Goes back to the list of rooms, as the system's own way back does. */
export function toList(): void {
  if (depth === undefined || depth === 0) go(undefined);
  else history.go(-depth);
}

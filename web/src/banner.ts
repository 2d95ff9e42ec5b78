/** The line above the rooms: the state of the connection, and what the user missed. */
import { type RoomInfo, Store } from '@uproar/client';
import { Missed } from './state/missed';
import type { Say } from './texts/language';

const SHOWN_MS = 8000;
/** How long the page waits for what it missed before it says how much that is. */
const MISSED_MS = 3000;

export class Banner extends Store {
  /** None while all is well. */
  text: Say | undefined;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private resetTimer: ReturnType<typeof setTimeout> | undefined;
  private readonly missed = new Missed();
  /** The titles of the rooms that the user lost while offline. */
  private lostRooms: string[] = [];

  /** Shows a text, and does something else after a while. */
  show(text: Say | undefined, forMs?: number, then = () => this.show(undefined)): void {
    clearTimeout(this.timer);
    this.text = text;
    if (forMs !== undefined) this.timer = setTimeout(then, forMs);
    this.changed();
  }

  /** Shows a text unless something else is shown by then. */
  showLater(text: Say, afterMs: number): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.show(text), afterMs);
  }

  stop(): void {
    clearTimeout(this.timer);
    clearTimeout(this.resetTimer);
  }

  /** The user lost a room. While offline, they learn of it when they are back. */
  lostRoom(title: string, isOnline: boolean): void {
    if (isOnline) this.show(lostText([title]), SHOWN_MS);
    else this.lostRooms.push(title);
  }

  /** The connection is lost. */
  lost(rooms: readonly RoomInfo[]): void {
    this.stop();
    this.missed.lost(rooms);
  }

  /** The connection is back, and the list of rooms has been loaded. `position`: that of a subscribed room. */
  back(rooms: readonly RoomInfo[], position: (room: string) => number | undefined): void {
    this.missed.back(rooms, position);
    if (this.missed.isComplete) this.showMissed();
    else this.show((t) => t.banner.back, MISSED_MS, () => this.showMissed());
  }

  /** A publication arrived. */
  publication(room: string, offset: number, isFromOthers: boolean): void {
    const wasComplete = this.missed.isComplete;
    this.missed.publication(room, offset, isFromOthers);
    if (!wasComplete && this.missed.isComplete) this.showMissed();
  }

  /** Nothing that was missed in this room will arrive. */
  skip(room: string): void {
    if (this.missed.isComplete) return;
    this.missed.skip(room);
    if (this.missed.isComplete) this.showMissed();
  }

  private showMissed(): void {
    const { count } = this.missed;
    const lost = this.lostRooms.length > 0 ? [lostText(this.lostRooms)] : [];
    this.show((t) => [t.banner.backWith(count), ...lost.map((say) => say(t))].join(' '), SHOWN_MS);
    // Until then, the user may not have seen it, and if the connection breaks again, counting goes on.
    clearTimeout(this.resetTimer);
    this.resetTimer = setTimeout(() => {
      this.missed.reset();
      this.lostRooms = [];
    }, SHOWN_MS);
  }
}

function lostText(titles: readonly string[]): Say {
  return (t) => t.banner.lostRooms(titles.map(t.quoted));
}

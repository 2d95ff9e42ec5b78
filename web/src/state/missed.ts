/** Counts the messages of other people that arrived while the page was offline. */
import type { RoomInfo } from '@uproar/client';

/**
 * In the rooms that the page subscribes to again, what was missed arrives as publications, which name their authors: a
 * message that the user had sent just before the connection broke is not among the missed ones, although the page did
 * not know that it was stored. In all other rooms only the numbers of messages are known.
 */
export class Missed {
  /** The rooms as they were before, by epoch: another room may have taken a name since. */
  private before: Map<string, RoomInfo> | undefined;
  /** The list of rooms has not been loaded since the connection was lost. */
  private isAway = false;
  /** The offsets up to which publications were missed, in rooms that have not reached them. */
  private readonly until = new Map<string, number>();
  private arrived = 0;
  private elsewhere = 0;

  /** The connection is lost. If that happens again before `reset`, counting goes on. */
  lost(rooms: readonly RoomInfo[]): void {
    this.before ??= new Map(rooms.map((room) => [room.epoch, room]));
    this.isAway = true;
    this.until.clear();
  }

  /** The connection is back, and the list of rooms has been loaded. `position`: that of a subscribed room. */
  back(rooms: readonly RoomInfo[], position: (room: string) => number | undefined): void {
    this.until.clear();
    this.elsewhere = 0;
    this.isAway = false;
    for (const { name, epoch, offset, number } of rooms) {
      const reached = position(name);
      if (reached === undefined) this.elsewhere += Math.max(0, number - (this.before?.get(epoch)?.number ?? number));
      else if (reached < offset) this.until.set(name, offset);
    }
  }

  /** A publication arrived. */
  publication(room: string, offset: number, isFromOthers: boolean): void {
    const until = this.until.get(room);
    // Subscriptions may have resumed already, while the list is loaded once more.
    if (this.isAway && isFromOthers) this.arrived++;
    if (until === undefined) return;
    if (offset <= until && isFromOthers) this.arrived++;
    if (offset >= until) this.until.delete(room);
  }

  /** Nothing that was missed in this room will arrive. */
  skip(room: string): void {
    this.until.delete(room);
  }

  /** Whether everything that was missed has arrived. */
  get isComplete(): boolean {
    return this.until.size === 0;
  }

  get count(): number {
    return this.arrived + this.elsewhere;
  }

  reset(): void {
    this.before = undefined;
    this.until.clear();
    this.arrived = this.elsewhere = 0;
  }
}

/** The user's rooms as the page shows them: with the marks of this browser, and the favourites first. */
import { type RoomInfo, type RoomList as ServerList, Store, UNREAD_LIMIT } from '@uproar/client';
import { Names } from './mentions';
import type { UnreadMark, UnreadMarks } from './unread-marks';

/** What the list needs to know of the user's marks: see `RoomMarks`. */
interface Marks {
  has(mark: 'favourite' | 'muted', room: string): boolean;
}

export class RoomList extends Store {
  /** The epochs of the rooms with an unread mention. */
  private mentioned = new Set<string>();
  sorted: readonly RoomInfo[] = [];
  /** Their names, which may be mentioned. Another object when they change. */
  names = new Names();
  /** All of them, in one text. */
  private listed = '';

  constructor(
    private readonly list: ServerList,
    private readonly marks: Marks = { has: () => false },
    private readonly unreadMarks?: UnreadMarks,
  ) {
    super();
    list.subscribe(() => this.update());
    this.sort();
  }

  get loaded(): boolean {
    return this.list.loaded;
  }

  get(name: string): RoomInfo | undefined {
    return this.list.get(name);
  }

  private update(): void {
    const { sorted } = this.list;
    // A room that was read elsewhere, or is gone, takes its mark with it.
    if (this.mentioned.size > 0) {
      const unread = new Set(sorted.flatMap((room) => (room.unread > 0 ? [room.epoch] : [])));
      this.mentioned = new Set([...this.mentioned].filter((epoch) => unread.has(epoch)));
    }
    if (this.loaded) this.unreadMarks?.keep(new Set(sorted.map(({ epoch }) => epoch)));
    this.sort();
  }

  /** Marks the room with this epoch. Another one that takes its name is not marked. */
  mention(epoch: string): void {
    this.mentioned.add(epoch);
    this.changed();
  }

  /** The mark on a room that the user marked as unread. */
  markOf(name: string): UnreadMark | undefined {
    const room = this.list.get(name);
    return room && this.unreadMarks?.get(room.epoch);
  }

  /** Marks a room as unread from a message on, or removes the mark. */
  setMark(name: string, mark: UnreadMark | undefined): void {
    const room = this.list.get(name);
    if (room && this.unreadMarks?.set(room.epoch, mark)) this.changed();
  }

  /** A key of the browser's storage has been changed by another tab; `null`: all of them. */
  stored(key: string | null): void {
    if (this.unreadMarks?.stored(key)) this.changed();
  }

  /** The messages up to this offset are read. */
  readUpTo(name: string): number {
    return Math.min(this.markOf(name)?.after ?? Infinity, this.list.get(name)?.read.offset ?? 0);
  }

  isMentioned({ epoch }: RoomInfo): boolean {
    return this.mentioned.has(epoch);
  }

  unread(name: string): number {
    const unread = (this.list.get(name)?.unread ?? 0) + (this.markOf(name)?.count ?? 0);
    return Math.min(unread, UNREAD_LIMIT + 1);
  }

  /** How many rooms have unread messages, apart from this one and from those that are muted. */
  unreadBeside(name: string): number {
    const isCounted = (other: string) => other !== name && this.unread(other) > 0 && !this.isMuted(other);
    return this.list.sorted.filter(({ name }) => isCounted(name)).length;
  }

  /** Unread messages in all rooms that are not muted. */
  get total(): number {
    let total = 0;
    for (const { name } of this.list.sorted) if (!this.isMuted(name)) total += this.unread(name);
    return total;
  }

  isFavourite(name: string): boolean {
    return this.marks.has('favourite', name);
  }

  isMuted(name: string): boolean {
    return this.marks.has('muted', name);
  }

  /** Also called when the marks have changed. */
  sort(): void {
    const { sorted } = this.list;
    const isFavourite = ({ name }: RoomInfo) => this.isFavourite(name);
    this.sorted = [...sorted.filter(isFavourite), ...sorted.filter((room) => !isFavourite(room))];
    this.updateNames();
    this.changed();
  }

  private updateNames(): void {
    const all = this.list.sorted.map(({ name }) => name).sort();
    const listed = all.join('\n');
    if (listed === this.listed) return;
    this.listed = listed;
    this.names = new Names();
    for (const name of all) this.names.add(name);
  }
}

/** The user's rooms and their unread counts. */
import { type RoomInfo, Store, UNREAD_LIMIT } from '@uproar/client';
import { Names } from './mentions';
import type { UnreadMark, UnreadMarks } from './unread-marks';

/** What the list needs to know of the user's marks: see `RoomMarks`. */
interface Marks {
  has(mark: 'favourite' | 'muted', room: string): boolean;
}

const COLLATOR = new Intl.Collator(undefined, { numeric: true });

/**
 * The server counts unread messages. Between two of its lists, live publications and the user's reading go on from it.
 * Favourites come first, and then the room with the latest message.
 */
export class RoomList extends Store {
  private rooms = new Map<string, RoomInfo>();
  /** The epochs of the rooms with an unread mention. */
  private mentioned = new Set<string>();
  loaded = false;
  sorted: readonly RoomInfo[] = [];
  /** Their names, which may be mentioned. Another object when they change. */
  names = new Names();

  constructor(
    private readonly marks: Marks = { has: () => false },
    private readonly unreadMarks?: UnreadMarks,
  ) {
    super();
  }

  get(name: string): RoomInfo | undefined {
    return this.rooms.get(name);
  }

  /** Replaces the list, but keeps what live publications have changed since it was read. */
  set(list: readonly RoomInfo[]): void {
    const rooms = new Map<string, RoomInfo>();
    for (const room of list) {
      const known = this.rooms.get(room.name);
      rooms.set(room.name, known && known.epoch === room.epoch ? newest(known, room) : room);
    }
    this.rooms = rooms;
    // A room that was read elsewhere, or is gone, takes its mark with it.
    const unread = new Set([...rooms.values()].flatMap(room => (room.unread > 0 ? [room.epoch] : [])));
    this.mentioned = new Set([...this.mentioned].filter(epoch => unread.has(epoch)));
    this.unreadMarks?.keep(new Set(list.map(({ epoch }) => epoch)));
    this.loaded = true;
    this.sort();
  }

  /** Counts a live publication, unless it was counted already, as after a reconnect. */
  publication(name: string, offset: number, time: number, isMessage: boolean, isMine: boolean): void {
    const room = this.rooms.get(name);
    if (!room || offset <= room.offset) return;
    if (!isMessage) return this.replace({ ...room, offset });
    const unread = Math.min(room.unread + (isMine ? 0 : 1), UNREAD_LIMIT + 1);
    this.rooms.set(name, { ...room, offset, number: room.number + 1, unread, time: Math.max(room.time, time) });
    this.sort();
  }

  /** Moves the read marker. It never moves back. */
  read(name: string, offset: number, number: number): void {
    const room = this.rooms.get(name);
    if (!room || offset < room.read.offset) return;
    const read = { offset, number: Math.max(number, room.read.number) };
    const unread = remaining(room, read.number);
    if (unread === 0) this.mentioned.delete(room.epoch);
    this.replace({ ...room, read, unread });
  }

  /** Marks the room with this epoch. Another one that takes its name is not marked. */
  mention(epoch: string): void {
    this.mentioned.add(epoch);
    this.changed();
  }

  /** The mark on a room that the user marked as unread. */
  markOf(name: string): UnreadMark | undefined {
    const room = this.rooms.get(name);
    return room && this.unreadMarks?.get(room.epoch);
  }

  /** Marks a room as unread from a message on, or removes the mark. */
  setMark(name: string, mark: UnreadMark | undefined): void {
    const room = this.rooms.get(name);
    if (room && this.unreadMarks?.set(room.epoch, mark)) this.changed();
  }

  /** A key of the browser's storage has been changed by another tab; `null`: all of them. */
  stored(key: string | null): void {
    if (this.unreadMarks?.stored(key)) this.changed();
  }

  /** The messages up to this offset are read. */
  readUpTo(name: string): number {
    return Math.min(this.markOf(name)?.after ?? Infinity, this.rooms.get(name)?.read.offset ?? 0);
  }

  isMentioned({ epoch }: RoomInfo): boolean {
    return this.mentioned.has(epoch);
  }

  remove(name: string): void {
    if (this.rooms.delete(name)) this.sort();
  }

  unread(name: string): number {
    const unread = (this.rooms.get(name)?.unread ?? 0) + (this.markOf(name)?.count ?? 0);
    return Math.min(unread, UNREAD_LIMIT + 1);
  }

  /** How many rooms have unread messages, apart from this one and from those that are muted. */
  unreadBeside(name: string): number {
    const isCounted = (other: string) => other !== name && this.unread(other) > 0 && !this.isMuted(other);
    return [...this.rooms.keys()].filter(isCounted).length;
  }

  /** Unread messages in all rooms that are not muted. */
  get total(): number {
    let total = 0;
    for (const name of this.rooms.keys()) if (!this.isMuted(name)) total += this.unread(name);
    return total;
  }

  isFavourite(name: string): boolean {
    return this.marks.has('favourite', name);
  }

  isMuted(name: string): boolean {
    return this.marks.has('muted', name);
  }

  /** The number of messages in all rooms. Its growth while offline is how many were missed. */
  get messages(): number {
    let messages = 0;
    for (const room of this.rooms.values()) messages += room.number;
    return messages;
  }

  private replace(room: RoomInfo): void {
    this.rooms.set(room.name, room);
    this.sorted = this.sorted.map(other => (other.name === room.name ? room : other));
    this.changed();
  }

  /** Also called when the marks have changed. */
  sort(): void {
    const rank = ({ name }: RoomInfo) => (this.isFavourite(name) ? 0 : 1);
    this.sorted = [...this.rooms.values()].sort(
      (a, b) =>
        rank(a) - rank(b) ||
        b.time - a.time ||
        COLLATOR.compare(a.title, b.title) ||
        (a.name < b.name ? -1 : 1),
    );
    this.updateNames();
    this.changed();
  }

  private updateNames(): void {
    const all = [...this.rooms.keys()];
    if (all.length === this.names.size && all.every((name) => this.names.has(name))) return;
    this.names = new Names();
    for (const name of all) this.names.add(name);
  }
}

function newest(known: RoomInfo, room: RoomInfo): RoomInfo {
  const { offset, number, unread, time } = known.offset > room.offset ? known : room;
  const read = known.read.offset > room.read.offset ? known.read : room.read;
  const merged = { ...room, offset, number, unread, read, time };
  return { ...merged, unread: remaining(merged, read.number) };
}

/** What can still be unread once everything up to this number was read: no more than there are messages after it. */
function remaining(room: RoomInfo, read: number): number {
  return Math.min(room.unread, Math.max(0, room.number - read));
}

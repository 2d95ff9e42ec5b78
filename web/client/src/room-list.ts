/** The user's rooms and their unread counts. */
import { Store } from './store.ts';
import type { Role } from './timeline.ts';

/** A room as the method `rooms` returns it. */
export interface RoomInfo {
  name: string;
  title: string;
  private: boolean;
  size: number;
  members: number;
  epoch: string;
  /** The offset of the room's last publication. */
  offset: number;
  /** How many messages the room has. */
  number: number;
  read: { offset: number; number: number };
  role?: Role;
  /** Messages of others after the marker that still exist. 1,001 stands for more than 1,000. */
  unread: number;
  /** When the last message was sent. For a room without messages, when it was created. */
  time: number;
}

/** More unread messages than this are not counted exactly. */
export const UNREAD_LIMIT = 1000;

const COLLATOR = new Intl.Collator(undefined, { numeric: true });

/**
 * The server counts unread messages. Between two of its lists, live publications and the user's reading go on from it.
 * The room with the latest message comes first.
 */
export class RoomList extends Store {
  private rooms = new Map<string, RoomInfo>();
  loaded = false;
  sorted: readonly RoomInfo[] = [];

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
    this.replace({ ...room, read, unread: remaining(room, read.number) });
  }

  remove(name: string): void {
    if (this.rooms.delete(name)) this.sort();
  }

  private replace(room: RoomInfo): void {
    this.rooms.set(room.name, room);
    this.sorted = this.sorted.map((other) => (other.name === room.name ? room : other));
    this.changed();
  }

  private sort(): void {
    this.sorted = [...this.rooms.values()].sort(
      (a, b) => b.time - a.time || COLLATOR.compare(a.title, b.title) || (a.name < b.name ? -1 : 1),
    );
    this.changed();
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

/**
 * Chooses the rooms to subscribe to if there are more than a connection may subscribe to: the most recently opened
 * ones, then those with unread messages.
 */
export function chooseRooms(
  rooms: readonly RoomInfo[],
  recent: readonly string[],
  limit: number,
): string[] {
  const rank = new Map(recent.map((name, index) => [name, index]));
  return [...rooms]
    .sort(
      (a, b) =>
        (rank.get(a.name) ?? Infinity) - (rank.get(b.name) ?? Infinity) ||
        Math.sign(b.unread) - Math.sign(a.unread) ||
        (a.name < b.name ? -1 : 1),
    )
    .slice(0, limit)
    .map(({ name }) => name);
}

/** The names of rooms in a text that may be anything: another version of the page, or a person, may have stored it. */
export function parseNames(text: string | null): string[] {
  try {
    const names: unknown = JSON.parse(text ?? '[]');
    return Array.isArray(names) ? names.filter(name => typeof name === 'string') : [];
  } catch {
    return [];
  }
}

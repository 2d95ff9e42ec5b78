import { Store } from './store';

/** A room as the method `rooms` has it. */
export interface RoomInfo {
  name: string;
  title: string;
  private: boolean;
  size: number;
  members: number;
  epoch: string;
  /** The room's last publication, and how many messages it has. */
  offset: number;
  number: number;
  read: { offset: number; number: number };
  role?: 'member' | 'moderator' | 'owner';
  unread?: number;
}

const COLLATOR = new Intl.Collator(undefined, { numeric: true });

/** The user's rooms. Unread is a difference of two numbers: of messages, and of messages read. */
export class RoomList extends Store {
  private rooms = new Map<string, RoomInfo>();
  private mentioned = new Set<string>();
  loaded = false;
  sorted: readonly RoomInfo[] = [];

  get(name: string): RoomInfo | undefined {
    return this.rooms.get(name);
  }

  /** Takes the server's list. What came live since it was read is not undone. */
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

  /** A live publication. Those that were counted already, or come again after a reconnect, count once. */
  publication(name: string, offset: number, isMessage: boolean): void {
    const room = this.rooms.get(name);
    if (!room || offset <= room.offset) return;
    this.replace({ ...room, offset, number: room.number + (isMessage ? 1 : 0) });
  }

  /** The marker has moved, in whatever tab. It never goes back. */
  read(name: string, offset: number, number: number): void {
    const room = this.rooms.get(name);
    if (!room || offset < room.read.offset) return;
    const read = { offset, number: Math.max(number, room.read.number) };
    if (room.number <= read.number) this.mentioned.delete(name);
    this.replace({ ...room, read });
  }

  mention(name: string): void {
    this.mentioned.add(name);
    this.changed();
  }

  isMentioned(name: string): boolean {
    return this.mentioned.has(name);
  }

  remove(name: string): void {
    if (this.rooms.delete(name)) this.sort();
  }

  unread(name: string): number {
    const room = this.rooms.get(name);
    return room ? Math.max(0, room.number - room.read.number) : 0;
  }

  get total(): number {
    let total = 0;
    for (const name of this.rooms.keys()) total += this.unread(name);
    return total;
  }

  /** How many messages all rooms have: the difference over an absence is what was missed. */
  get messages(): number {
    let messages = 0;
    for (const room of this.rooms.values()) messages += room.number;
    return messages;
  }

  private replace(room: RoomInfo): void {
    this.rooms.set(room.name, room);
    this.sorted = this.sorted.map((other) => (other.name === room.name ? room : other));
    this.changed();
  }

  private sort(): void {
    this.sorted = [...this.rooms.values()].sort((a, b) => COLLATOR.compare(a.title, b.title) || (a.name < b.name ? -1 : 1));
    this.changed();
  }
}

function newest(known: RoomInfo, room: RoomInfo): RoomInfo {
  const ahead = known.offset > room.offset;
  return {
    ...room,
    offset: ahead ? known.offset : room.offset,
    number: ahead ? known.number : room.number,
    read: known.read.offset > room.read.offset ? known.read : room.read,
  };
}

/** Which rooms to subscribe to when there are more than a connection may have: the open one, then those lately
 *  opened, then those with something unread. */
export function chooseRooms(
  rooms: readonly RoomInfo[],
  recent: readonly string[],
  limit: number,
  unread: (name: string) => number,
): string[] {
  const rank = new Map(recent.map((name, index) => [name, index]));
  return [...rooms]
    .sort(
      (a, b) =>
        (rank.get(a.name) ?? Infinity) - (rank.get(b.name) ?? Infinity) ||
        Math.sign(unread(b.name)) - Math.sign(unread(a.name)) ||
        (a.name < b.name ? -1 : 1),
    )
    .slice(0, limit)
    .map(({ name }) => name);
}

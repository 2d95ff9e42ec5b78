/** The user's rooms and their unread counts. */

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
  role?: 'member' | 'moderator' | 'owner';
  /** Messages of others after the marker that still exist. 1,001 stands for more than 1,000. */
  unread: number;
  /** When the last message was sent. For a room without messages, when it was created. */
  time: number;
}

/** More unread messages than this are not counted exactly. */
export const UNREAD_LIMIT = 1000;

/**
 * Chooses the rooms to subscribe to if there are more than a connection may subscribe to: the most recently opened
 * ones, then those with unread messages.
 */
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

/** The names of rooms in a text that may be anything: another version of the page, or a person, may have stored it. */
export function parseNames(text: string | null): string[] {
  try {
    const names: unknown = JSON.parse(text ?? '[]');
    return Array.isArray(names) ? names.filter(name => typeof name === 'string') : [];
  } catch {
    return [];
  }
}

/** Tells the user of new messages: aloud those on screen, and by a notification those that mention the user. */
import type { RoomList } from './state/room-list';
import type { Names } from './state/mentions';
import { Store } from './state/store';
import { cut, mentionsMe } from './state/text';
import type { User } from './state/timeline';

/** Gives another tab that shows the room time to mark the message as read. */
const NOTIFY_AFTER_MS = 1500;

export class Announcer extends Store {
  /** The latest message in the open room, for screen readers. */
  text = '';
  count = 0;
  private stopped = false;

  constructor(
    private readonly me: User,
    private readonly rooms: RoomList,
    private readonly names: Names,
    private readonly notify: (title: string, body: string, tag: string, room: string) => void,
  ) {
    super();
  }

  stop(): void {
    this.stopped = true;
  }

  /** A message of another user arrived. `isSeen`: the user is looking at its room. */
  message(name: string, user: User, text: string, offset: number, isSeen: boolean): void {
    if (isSeen) {
      this.text = `${user.username}: ${cut(text, 300)}`;
      this.count++;
      this.changed();
    } else if (mentionsMe(text, this.me.username, this.names)) {
      this.rooms.mention(name);
      const title = this.rooms.get(name)?.title ?? name;
      setTimeout(() => {
        const isRead = (this.rooms.get(name)?.read.offset ?? Infinity) >= offset;
        if (isRead || this.stopped) return;
        this.notify(`${user.username} in ${title}`, cut(text, 200), `${name} ${offset}`, name);
      }, NOTIFY_AFTER_MS);
    }
  }
}

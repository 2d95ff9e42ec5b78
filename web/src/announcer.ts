/** Tells the user of new messages: aloud those on screen, and by a notification those that mention the user. */
import { Store, type User } from '@uproar/client';
import type { RoomList } from './state/room-list';
import { mentionsMe, plainText } from './state/markdown';
import type { Names } from './state/mentions';
import { cut } from './state/text';
import type { Say } from './texts/language';

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
    private readonly notify: (title: Say, body: string, tag: string, room: string) => void,
  ) {
    super();
  }

  stop(): void {
    this.stopped = true;
  }

  /** A message of another user arrived in a room with this epoch. `isSeen`: the user is looking at the room. */
  message(name: string, epoch: string, user: User, text: string, offset: number, isSeen: boolean): void {
    if (isSeen) {
      this.text = `${user.username}: ${cut(plainText(text), 300)}`;
      this.count++;
      this.changed();
    } else if (mentionsMe(text, this.me.username, this.names)) {
      this.rooms.mention(epoch);
      if (this.rooms.isMuted(name)) return;
      const title = this.rooms.get(name)?.title ?? name;
      setTimeout(() => {
        const room = this.rooms.get(name);
        if (this.stopped || room?.epoch !== epoch || room.read.offset >= offset) return;
        const say: Say = (t) => t.banner.mentioned(user.username, title);
        this.notify(say, cut(plainText(text), 200), `${epoch} ${offset}`, name);
      }, NOTIFY_AFTER_MS);
    }
  }
}

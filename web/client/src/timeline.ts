/** The timeline of a room: pages of its history and live publications, merged in order. */
import { Store } from './store.ts';

export interface User {
  id: string;
  username: string;
}

export interface Reaction {
  emoji: string;
  count: number;
  mine: boolean;
  /** The users seen reacting live. Pages contain only counts, so this list may be incomplete. */
  by?: string[];
}

export interface Message {
  offset: number;
  user: User;
  /** Null when deleted. */
  text: string | null;
  /** The id that the sender chose. */
  id: string | null;
  time: number;
  replyTo?: number;
  edited?: boolean;
  reactions: Reaction[];
  /** The offset of the last publication applied to this message. */
  asOf: number;
  /** Only messages that are not in the history yet have one. */
  status?: undefined;
}

/** Somebody joined the room or left it, or another user added or removed them. */
export interface MemberChange {
  offset: number;
  time: number;
  /** Who did it. */
  user: User;
  kind: 'added' | 'removed';
  member: Member;
}

/** The name is that of the time. Earlier versions of the server did not record it. */
interface Member {
  id: string;
  username?: string;
}

/** A change as `GET /user/getchats` returns it: it has `added` or `removed`. */
export interface WireMemberChange {
  offset: number;
  time: number;
  user: User;
  added?: Member;
  removed?: Member;
}

/** A message as `GET /user/getchats` returns it. */
export interface WireMessage {
  offset: number;
  user: User;
  text: string | null;
  id: string | null;
  time: number;
  reply_to?: number;
  edited?: number;
  deleted?: boolean;
  reactions?: Reaction[];
}

/** Messages read from the database when the room was at position `offset`. */
export interface Page {
  messages: WireMessage[];
  /** The joins and departures between the messages, if they were asked for. */
  memberships?: WireMemberChange[];
  epoch: string;
  offset: number;
  more: boolean;
}

export interface Publication {
  offset: number;
  user: User;
  time: number;
  data: Data;
}

/** What a publication may contain. Unknown fields and kinds are ignored. */
export interface Data {
  text?: string;
  id?: string;
  reply_to?: number;
  edited?: number;
  deleted?: boolean;
  edit?: number;
  delete?: number;
  react?: number;
  unreact?: number;
  emoji?: string;
  added?: string;
  removed?: string;
  username?: string;
  /** The user whose role changed to `is`. */
  role?: string;
  is?: Role;
  /** The user who was banned, until `until` or for ever, or may join again. */
  banned?: string;
  unbanned?: string;
  /** The member who can only read until `until`, or may post again. */
  silenced?: string;
  unsilenced?: string;
  until?: number;
  reason?: string;
  /** The offset of the message that was pinned, or is no longer. */
  pinned?: number;
  unpinned?: number;
  /** The settings of the room that have changed. */
  room?: RoomSettings;
}

export type Role = 'member' | 'moderator' | 'owner';

/** What the owners of a room can set. */
export interface RoomSettings {
  title?: string;
  topic?: string;
  private?: boolean;
  size?: number;
  /** The time between two messages of a member. 0: no slow mode. */
  slow_mode_seconds?: number;
  who_may_post?: 'members' | 'moderators' | 'nobody';
  who_may_invite?: 'members' | 'moderators';
}

export type Kind = 'message' | 'edit' | 'delete' | 'react' | 'unreact' | 'other';

export function kindOf(data: Data): Kind {
  if (typeof data.edit === 'number') return 'edit';
  if (typeof data.delete === 'number') return 'delete';
  if (typeof data.react === 'number') return 'react';
  if (typeof data.unreact === 'number') return 'unreact';
  if (typeof data.text === 'string' || data.deleted === true) return 'message';
  return 'other';
}

/** How many live publications are kept, to be applied to pages. */
const LOG_LIMIT = 1024;
/** Live messages extend the window up to this many messages. */
const LIVE_LIMIT = 2000;
/** Joins and departures extend it up to this many; then the oldest are dropped. */
const CHANGES_LIMIT = 1000;

/**
 * A window onto the history of one room, without gaps.
 *
 * The window ends at the newest message unless `hasNewer` is set. A page was read when the room was at `page.offset`,
 * and live publications may have arrived since. A log keeps the latest ones to apply them to arriving pages.
 */
export class Timeline extends Store {
  messages: readonly Message[] = [];
  /** The joins and departures in the window, in order. */
  changes: readonly MemberChange[] = [];
  hasOlder = true;
  hasNewer = false;
  loaded = false;
  /** Whether the view stays at the end as messages arrive. */
  follows = true;
  epoch = '';
  /** The offset of the last publication received. */
  position = 0;
  /** Changes whenever the window as a whole is replaced. */
  generation = 0;
  /** While the room is not on screen, only the position is kept. */
  private asleep = false;
  private log: Publication[] = [];
  /** The log contains every publication after this offset, up to `position`. */
  private logFrom = 0;

  constructor(private readonly me: string) {
    super();
  }

  /** Starts over: live publications follow after this position, and what was loaded belongs to another history. */
  begin(epoch: string, position: number): void {
    this.epoch = epoch;
    this.position = position;
    this.log = [];
    this.logFrom = position;
    this.clear();
  }

  /** Removes all messages. Live publications continue. */
  clear(): void {
    this.messages = [];
    this.changes = [];
    this.hasOlder = true;
    this.hasNewer = false;
    this.loaded = false;
    this.generation++;
    this.changed();
  }

  /** Stops keeping messages until `wake`. */
  sleep(): void {
    this.asleep = true;
    this.log = [];
    this.logFrom = this.position;
    this.clear();
  }

  wake(): void {
    this.asleep = false;
  }

  /** Applies a live publication. Returns false if there was a gap before it, in which case the window was cleared. */
  publish(publication: Publication): boolean {
    if (publication.offset <= this.position) return true;
    const isNext = publication.offset === this.position + 1;
    if (!isNext) {
      this.log = [];
      this.logFrom = publication.offset - 1;
      this.clear();
    }
    this.position = publication.offset;
    if (this.asleep) {
      this.logFrom = this.position;
      return isNext;
    }
    this.log.push(publication);
    if (this.log.length > LOG_LIMIT) this.logFrom = this.log.shift()!.offset;
    if (this.loaded && this.apply(publication)) this.changed();
    return isNext;
  }

  /** Replaces the window with the newest page. Returns false if it is too old to be merged with live publications. */
  showNewest(page: Page): boolean {
    return this.show(page, page.more, false);
  }

  /** Replaces the window with a page from the middle of the history. */
  showMiddle(page: Page): boolean {
    return this.show(page, page.more, true);
  }

  /** Replaces the window with a page that starts after a message. */
  showFrom(page: Page): boolean {
    return this.show(page, true, page.more);
  }

  private show(page: Page, hasOlder: boolean, hasNewer: boolean): boolean {
    if (this.asleep) return true;
    if (page.epoch !== this.epoch || page.offset < this.logFrom) return false;
    this.messages = page.messages.map((message) => fromWire(message, page.offset));
    this.changes = changesOf(page);
    this.hasOlder = hasOlder;
    this.hasNewer = hasNewer;
    this.loaded = true;
    this.generation++;
    this.replay(page.offset);
    this.changed();
    return true;
  }

  /** Adds the page that was requested with `before`. Returns false if it no longer fits. */
  prepend(page: Page, before: number): boolean {
    const first = this.messages[0];
    if (!first || first.offset !== before || page.epoch !== this.epoch || page.offset < this.logFrom) return false;
    const older = page.messages
      .filter(({ offset }) => offset < before)
      .map((message) => fromWire(message, page.offset));
    this.messages = [...older, ...this.messages];
    this.changes = [...changesOf(page), ...this.changes.filter(({ offset }) => offset > before)];
    this.hasOlder = page.more;
    this.replay(page.offset);
    this.changed();
    return true;
  }

  /** Adds the page that was requested with `after`. Returns false if it no longer fits. */
  append(page: Page, after: number): boolean {
    const last = this.messages.at(-1);
    if (!last || last.offset !== after || page.epoch !== this.epoch || page.offset < this.logFrom) return false;
    const newer = page.messages
      .filter(({ offset }) => offset > after)
      .map((message) => fromWire(message, page.offset));
    this.messages = [...this.messages, ...newer];
    this.changes = [...this.changes.filter(({ offset }) => offset < after), ...changesOf(page)];
    if (!page.more) this.hasNewer = false;
    this.replay(page.offset);
    this.changed();
    return true;
  }

  /** Keeps at most `limit` messages, dropping them at one end. */
  trim(limit: number, from: 'oldest' | 'newest'): void {
    if (this.messages.length <= limit) return;
    if (from === 'oldest') this.dropOldest(limit);
    else {
      this.messages = this.messages.slice(0, limit);
      const last = this.messages.at(-1)?.offset ?? 0;
      this.changes = this.changes.filter(({ offset }) => offset < last);
      this.hasNewer = true;
    }
    this.changed();
  }

  /** The next older page has everything before the first message that stays. */
  private dropOldest(limit: number): void {
    this.messages = this.messages.slice(-limit);
    const first = this.messages[0]?.offset ?? 0;
    this.changes = this.changes.filter(({ offset }) => offset > first);
    this.hasOlder = true;
  }

  find(offset: number): Message | undefined {
    return this.messages[this.indexOf(offset)];
  }

  private indexOf(offset: number): number {
    let low = 0;
    let high = this.messages.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      const found = this.messages[middle]!.offset;
      if (found === offset) return middle;
      if (found < offset) low = middle + 1;
      else high = middle - 1;
    }
    return -1;
  }

  private replay(from: number): void {
    for (const publication of this.log) {
      if (publication.offset > from) this.apply(publication);
    }
  }

  private apply(publication: Publication): boolean {
    const { data, offset, user } = publication;
    switch (kindOf(data)) {
      case 'message':
        return this.add(publication);
      case 'edit':
        return this.change(data.edit!, offset, (message) =>
          data.deleted ? markDeleted(message) : { ...message, text: data.text ?? message.text, edited: true },
        );
      case 'delete':
        return this.change(data.delete!, offset, markDeleted);
      case 'react':
        return this.change(data.react!, offset, (message) => react(message, data.emoji ?? '', user.id, this.me));
      case 'unreact':
        return this.change(data.unreact!, offset, (message) => unreact(message, data.emoji ?? '', user.id, this.me));
      case 'other':
        return this.addChange(publication);
    }
  }

  private addChange({ data, offset, user, time }: Publication): boolean {
    const { added, removed, username } = data;
    const id = added ?? removed;
    if (id === undefined || this.hasNewer || (this.changes.at(-1)?.offset ?? 0) >= offset) return false;
    const member: Member = username === undefined ? { id } : { id, username };
    const change: MemberChange = { offset, time, user, kind: added === undefined ? 'removed' : 'added', member };
    this.changes = [...this.changes.slice(1 - CHANGES_LIMIT), change];
    return true;
  }

  private add({ data, offset, user, time }: Publication): boolean {
    if (this.hasNewer) return false;
    const last = this.messages.at(-1);
    if (last && last.offset >= offset) return false;
    const message: Message = {
      offset,
      user,
      time,
      text: data.deleted ? null : (data.text ?? null),
      id: data.id ?? null,
      reactions: [],
      asOf: offset,
    };
    if (data.reply_to !== undefined) message.replyTo = data.reply_to;
    if (data.edited !== undefined) message.edited = true;
    if (this.messages.length < LIVE_LIMIT) this.messages = [...this.messages, message];
    else if (this.follows) {
      // A reader who stays at the end doesn't need messages from far above.
      this.dropOldest(LIVE_LIMIT / 2);
      this.messages = [...this.messages, message];
    } else this.hasNewer = true;
    return true;
  }

  private change(target: number, offset: number, update: (message: Message) => Message): boolean {
    const index = this.indexOf(target);
    const message = this.messages[index];
    if (!message || message.asOf >= offset) return false;
    const messages = [...this.messages];
    messages[index] = { ...update(message), asOf: offset };
    this.messages = messages;
    return true;
  }
}

function changesOf({ memberships = [] }: Page): MemberChange[] {
  return memberships.flatMap(({ offset, time, user, added, removed }) => {
    const member = added ?? removed;
    return member ? [{ offset, time, user, kind: added ? ('added' as const) : ('removed' as const), member }] : [];
  });
}

function fromWire(wire: WireMessage, asOf: number): Message {
  const message: Message = {
    offset: wire.offset,
    user: wire.user,
    text: wire.deleted ? null : wire.text,
    id: wire.id,
    time: wire.time,
    reactions: wire.reactions ?? [],
    asOf,
  };
  if (wire.reply_to !== undefined) message.replyTo = wire.reply_to;
  if (wire.edited !== undefined) message.edited = true;
  return message;
}

function markDeleted(message: Message): Message {
  return { ...message, text: null, reactions: [] };
}

function react(message: Message, emoji: string, user: string, me: string): Message {
  const found = message.reactions.find((reaction) => reaction.emoji === emoji);
  if (!found) {
    return { ...message, reactions: [...message.reactions, { emoji, count: 1, mine: user === me, by: [user] }] };
  }
  if (found.by?.includes(user) || (user === me && found.mine)) return message;
  const changed = {
    emoji,
    count: found.count + 1,
    mine: found.mine || user === me,
    by: [...(found.by ?? []), user],
  };
  return { ...message, reactions: message.reactions.map((reaction) => (reaction === found ? changed : reaction)) };
}

function unreact(message: Message, emoji: string, user: string, me: string): Message {
  const found = message.reactions.find((reaction) => reaction.emoji === emoji);
  if (!found || (user === me && !found.mine)) return message;
  const changed = {
    emoji,
    count: found.count - 1,
    mine: found.mine && user !== me,
    by: (found.by ?? []).filter((id) => id !== user),
  };
  return {
    ...message,
    reactions: message.reactions.flatMap((reaction) =>
      reaction !== found ? [reaction] : changed.count > 0 ? [changed] : [],
    ),
  };
}

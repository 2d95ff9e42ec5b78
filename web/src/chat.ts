import { Api, type Fetch, type FoundRoom, inWords } from './api';
import { Connection } from './connection';
import { Room } from './room';
import { type Session, backoff, isSignedOut, wait } from './session';
import { type Keep, Outbox, SendError } from './state/outbox';
import { type Data, type Publication, type User, kindOf } from './state/room';
import { Store } from './state/store';
import { mentionsMe } from './state/text';
import { RoomList, chooseRooms } from './state/unread';

/** Below the server's `subscription_limit`, which is 128 unless the operator sets it; then one learns of it. */
const SUBSCRIPTIONS = 100;
const LIMIT_EXCEEDED = 106;
const UNSUBSCRIBED = 2000;
const POLL_MS = 20_000;
const REFUSED_MS = 60_000;
const TYPING_EVERY_MS = 3000;
/** Another tab may show it, and so mark it as read. */
const NOTIFY_AFTER_MS = 1500;
const SIGNED_OUT = 'You’ve been signed out. Sign in again to continue. Nothing you wrote is lost.';

export interface Environment {
  url: string;
  fetch: Fetch;
  keep: Keep;
  visible(): boolean;
  notify(title: string, body: string, tag: string, room: string): void;
}

/** Everything that somebody who is signed in has: the rooms, the outbox, the connection. */
export class Chat extends Store {
  readonly api: Api;
  readonly connection: Connection;
  readonly outbox: Outbox;
  readonly rooms = new RoomList();
  /** The room on the screen. */
  open: string | undefined;
  /** What the line on the connection says. */
  line = '';
  /** The latest message of the open room, for those who listen rather than look. */
  heard = '';
  heardCount = 0;
  private readonly received = new Map<string, Room>();
  private recent: string[];
  private wasConnected = false;
  private missedFrom: number | undefined;
  private lineTimer: ReturnType<typeof setTimeout> | undefined;
  private pollTimer: ReturnType<typeof setInterval> | undefined;
  private refreshing: Promise<void> | undefined;
  private refreshAgain = false;
  private subscriptions = SUBSCRIPTIONS;
  private refused = new Map<string, { at: number; reason: string }>();
  private reading = new Set<string>();
  private lastTyping = 0;
  private cameBack = 0;
  private stopped = false;

  constructor(
    readonly me: User,
    private readonly session: Session,
    private readonly around: Environment,
  ) {
    super();
    this.api = new Api(around.fetch, session);
    this.connection = new Connection(around.url, session);
    this.outbox = new Outbox({
      user: me.id,
      keep: around.keep,
      send: (item) => {
        const data: Data = { text: item.text, id: item.id };
        if (item.replyTo !== undefined) data.reply_to = item.replyTo;
        if (!this.rooms.get(item.room)) return Promise.reject(new SendError('You’re no longer in this room.', false));
        return this.connection.publish(item.room, data);
      },
      position: (room) => this.received.get(room)?.timeline.position ?? Infinity,
      newId,
      now: Date.now,
      wait,
    });
    try {
      this.recent = JSON.parse(around.keep.getItem(this.recentKey) ?? '[]') as string[];
    } catch {
      this.recent = [];
    }
    this.connection.onConnected = () => void this.connected();
    this.connection.onNews = (news) => {
      if (news.read) this.rooms.read(news.read.room, news.read.offset, news.read.number);
      if (news.left !== undefined) this.gone(news.left);
      if (news.joined !== undefined || news.left !== undefined) void this.refresh();
    };
    this.connection.onChange = () => this.connectionChanged();
  }

  private get recentKey(): string {
    return `uproar.recent.${this.me.id}`;
  }

  start(): void {
    this.connection.start();
    this.pollTimer = setInterval(() => {
      const polled = this.rooms.sorted.some(({ name }) => !this.received.has(name));
      if (polled && this.connection.state === 'connected') void this.refresh();
    }, POLL_MS);
  }

  stop(): void {
    this.stopped = true;
    this.outbox.stop();
    clearInterval(this.pollTimer);
    clearTimeout(this.lineTimer);
    this.connection.stop();
  }

  room(name: string): Room | undefined {
    return this.received.get(name);
  }

  /** Why a room of one's own is not received. */
  refusal(name: string): string | undefined {
    return this.refused.get(name)?.reason;
  }

  /** Rooms that one is not in (any more), for which something is left to send. */
  get stranded(): string[] {
    return this.rooms.loaded ? this.outbox.rooms.filter((name) => !this.rooms.get(name)) : [];
  }

  /** Asks again for a room that was refused. */
  receiveAgain(name: string): void {
    this.refused.delete(name);
    this.receive();
  }

  private connectionChanged(): void {
    if (this.stopped) return;
    const { state, code } = this.connection;
    clearTimeout(this.lineTimer);
    if (state !== 'connected') {
      this.outbox.setOnline(false);
      this.connection.unsubscribeAll();
      if (this.wasConnected) this.missedFrom ??= this.rooms.messages;
    }
    if (state === 'ended') {
      if (code === 3500 || code === 3503) {
        void this.comeBack();
        return;
      }
      // The SDK's own: there is no token to be had.
      if (code === 1) {
        this.session.end(SIGNED_OUT);
        return;
      }
      this.say(`The server closed the connection: ${this.connection.reason || code}.`);
    } else if (state === 'connecting' && this.wasConnected) {
      this.say('Connection lost. Reconnecting… Your messages will be sent when you’re back.');
    } else if (state === 'connecting') {
      this.lineTimer = setTimeout(() => this.say('Connecting…'), 1000);
    }
  }

  /** The token is no good any more. After a change of the password there is another one. */
  private async comeBack(): Promise<void> {
    const often = Date.now() - this.cameBack < 10_000;
    this.cameBack = Date.now();
    if (often) return this.session.end(SIGNED_OUT);
    for (let tries = 0; !this.stopped; tries++) {
      try {
        const token = await this.session.renew();
        if (!this.stopped) this.connection.start(token);
        return;
      } catch (error) {
        if (this.stopped) return;
        if (isSignedOut(error)) return this.session.end(SIGNED_OUT);
        this.say(`${inWords(error)} Trying again…`);
        await wait(backoff(tries));
      }
    }
  }

  /** It does not try again by itself. */
  get isEnded(): boolean {
    return this.connection.state === 'ended';
  }

  private say(line: string, forMs?: number): void {
    clearTimeout(this.lineTimer);
    this.line = line;
    if (forMs !== undefined) this.lineTimer = setTimeout(() => this.say(''), forMs);
    this.changed();
  }

  private async connected(): Promise<void> {
    const missedFrom = this.missedFrom;
    const before = this.wasConnected;
    this.wasConnected = true;
    await this.refresh();
    if (this.connection.state !== 'connected') return;
    if (before && missedFrom !== undefined) {
      const missed = Math.max(0, this.rooms.messages - missedFrom);
      this.say(`Back online. ${missed || 'No'} new ${missed === 1 ? 'message' : 'messages'}.`, 8000);
    } else this.say('');
    this.missedFrom = undefined;
    // Only now, so that one's own messages do not count as missed.
    this.outbox.setOnline(true);
    const open = this.open === undefined ? undefined : this.received.get(this.open);
    if (open?.error) {
      open.error = '';
      open.touch();
    }
    if (open && !open.timeline.loaded) void this.begin(open);
  }

  private begin(room: Room): Promise<void> {
    return room.begin(this.rooms.get(room.name)?.read.offset ?? 0, this.rooms.unread(room.name));
  }

  /** Reads the list of rooms anew, and receives those that are to be received. */
  refresh(): Promise<void> {
    if (this.refreshing) {
      this.refreshAgain = true;
      return this.refreshing;
    }
    const once = async () => {
      do {
        this.refreshAgain = false;
        for (let tries = 0; !this.stopped && this.connection.state === 'connected'; tries++) {
          try {
            this.rooms.set(await this.connection.rooms());
            this.receive();
            break;
          } catch {
            await wait(backoff(tries));
          }
        }
      } while (this.refreshAgain && !this.stopped);
    };
    this.refreshing = once().finally(() => {
      this.refreshing = undefined;
    });
    return this.refreshing;
  }

  private receive(): void {
    const wanted = new Set(chooseRooms(this.rooms.sorted, this.recent, this.subscriptions, (name) => this.rooms.unread(name)));
    // What is to be sent to a room needs a subscription.
    for (const { name } of this.rooms.sorted) if (this.outbox.of(name).length > 0) wanted.add(name);
    for (const name of [...this.received.keys()]) {
      if (wanted.has(name) || (name === this.open && this.rooms.get(name))) continue;
      this.connection.unsubscribe(name);
      this.received.delete(name);
    }
    for (const name of wanted) this.join(name);
    this.changed();
  }

  /** Receives a room: from where the list of rooms has it, or else from where it was left when the connection was lost. */
  private join(name: string): void {
    const info = this.rooms.get(name);
    if (!info || this.connection.isSubscribed(name) || Date.now() - (this.refused.get(name)?.at ?? 0) < REFUSED_MS) return;
    this.refused.delete(name);
    const known = this.received.get(name);
    const room = known ?? new Room(name, this.me, (where) => this.api.chats(name, where));
    const { timeline } = room;
    if (!known) {
      timeline.begin(info.epoch, info.offset);
      if (name === this.open) timeline.wake();
      else timeline.sleep();
      this.received.set(name, room);
    }
    this.connection.subscribe(name, { epoch: timeline.epoch, offset: timeline.position }, {
      subscribed: (position, recovered) => {
        if (!recovered) {
          // Another room of this name, or a restored backup.
          if (position) timeline.begin(position.epoch, position.offset);
          void this.refresh();
        }
        if (name === this.open) {
          if (!timeline.loaded) void this.begin(room);
          void this.lookAround(room);
        }
      },
      publication: (publication) => this.take(room, publication),
      typing: (user) => room.isTyping(user),
      online: (count) => {
        room.online = count;
        room.touch();
      },
      join: (client, user) => {
        room.people.set(client, user);
        this.peopleChanged(room);
      },
      leave: (client) => {
        room.people.delete(client);
        this.peopleChanged(room);
      },
      ended: (code, reason) => {
        this.received.delete(name);
        if (code === UNSUBSCRIBED) this.gone(name);
        // Whatever it was may still be so: asking again at once would go on for ever.
        else this.refused.set(name, { at: Date.now(), reason: inWords(new Error(reason || `error ${code}`)) });
        // The operator allows fewer than the page expects. The room that is open is one of them.
        if (code === LIMIT_EXCEEDED && this.received.size > 0 && this.received.size < this.subscriptions) {
          this.subscriptions = this.received.size;
          this.refused.clear();
        }
        void this.refresh();
      },
    });
    // Beside the subscription: the timeline joins the page to what comes live.
    if (name === this.open && !timeline.loaded) void this.begin(room);
  }

  /** Who came and went was not told while there were too many, so who is here is asked for. */
  private peopleChanged(room: Room): void {
    const wereMany = room.online !== undefined;
    room.online = undefined;
    room.touch();
    if (wereMany && room.name === this.open) void this.lookAround(room);
  }

  private take(room: Room, publication: Publication): void {
    const { name } = room;
    const { data, user, offset } = publication;
    const kind = kindOf(data);
    room.forgetQuote(data.edit ?? data.delete);
    if (!room.timeline.publish(publication) && name === this.open) void room.newest();
    const wasRead = this.rooms.unread(name) === 0;
    this.rooms.publication(name, offset, kind === 'message');
    // Whoever writes, be it elsewhere, has read what was there.
    if (wasRead && kind === 'message' && user.id === this.me.id) void this.read(name);
    if (user.id === this.me.id && data.id !== undefined) this.outbox.received(name, data.id);
    this.outbox.reached(name, room.timeline.position);
    if (kind === 'message') {
      room.wrote(user);
      if (user.id !== this.me.id && data.text !== undefined) this.noticed(name, user, data.text, offset);
    } else if (data.room) void this.refresh();
  }

  private noticed(name: string, user: User, text: string, offset: number): void {
    const seen = name === this.open && this.around.visible();
    if (seen) {
      this.heard = `${user.username}: ${text.slice(0, 300)}`;
      this.heardCount++;
      this.changed();
    }
    if (!seen && mentionsMe(text, this.me.username)) {
      this.rooms.mention(name);
      const title = this.rooms.get(name)?.title ?? name;
      setTimeout(() => {
        const isRead = (this.rooms.get(name)?.read.offset ?? Infinity) >= offset;
        if (!isRead && !this.stopped) this.around.notify(`${user.username} in ${title}`, text.slice(0, 200), `${name} ${offset}`, name);
      }, NOTIFY_AFTER_MS);
    }
  }

  private gone(name: string): void {
    this.connection.unsubscribe(name);
    this.received.delete(name);
    this.rooms.remove(name);
    this.changed();
  }

  private async lookAround(room: Room): Promise<void> {
    try {
      const people = await this.connection.presence(room.name);
      room.people.clear();
      for (const [client, user] of people) room.people.set(client, user);
      room.touch();
    } catch {
      // It is asked again when the room is opened or the connection is back.
    }
  }

  /** Shows a room, or none. */
  show(name: string | undefined): void {
    if (name === this.open) return;
    const last = this.open === undefined ? undefined : this.received.get(this.open);
    last?.timeline.sleep();
    this.open = name;
    if (name !== undefined) {
      this.recent = [name, ...this.recent.filter((other) => other !== name)].slice(0, SUBSCRIPTIONS);
      this.around.keep.setItem(this.recentKey, JSON.stringify(this.recent));
      const room = this.received.get(name);
      if (room) {
        room.timeline.wake();
        void this.begin(room);
        void this.lookAround(room);
      } else if (this.rooms.loaded) {
        this.receiveAgain(name);
      }
    }
    this.changed();
  }

  /** The newest messages are on the screen: marks them as read, for all tabs. */
  async read(name: string): Promise<void> {
    const room = this.received.get(name);
    if (!room || this.rooms.unread(name) === 0 || this.reading.has(name) || this.connection.state !== 'connected') return;
    this.reading.add(name);
    try {
      const { offset, number } = await this.connection.read(name, room.timeline.position);
      this.rooms.read(name, offset, number);
    } catch {
      await wait(2000);
    } finally {
      this.reading.delete(name);
    }
    // Others may have come in the meantime.
    if (this.rooms.unread(name) > 0) this.changed();
  }

  typed(name: string): void {
    const now = Date.now();
    if (now - this.lastTyping < TYPING_EVERY_MS) return;
    this.lastTyping = now;
    this.connection.typing(name);
  }

  /** Edits, deletions and reactions. They are not kept in the outbox: whoever did it sees whether it was taken. */
  async change(name: string, data: Data): Promise<void> {
    await this.connection.publish(name, { ...data, id: newId() });
  }

  async enter(name: string): Promise<FoundRoom> {
    const room = await this.api.join(name);
    await this.refresh();
    return room;
  }

  async create(room: { name: string; title?: string; private?: boolean }): Promise<FoundRoom> {
    const created = await this.api.createRoom(room);
    await this.refresh();
    return created;
  }

  async leave(name: string): Promise<void> {
    await this.api.leave(name);
    this.gone(name);
  }

  async remove(name: string): Promise<void> {
    await this.api.deleteRoom(name);
    this.gone(name);
  }
}

/** `crypto.randomUUID` is there on secure origins only, which a server in a local network is not. */
function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

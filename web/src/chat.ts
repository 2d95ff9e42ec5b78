import { Api, type Fetch, type FoundRoom, inWords } from './api';
import { Connection } from './connection';
import type { Session } from './session';
import { type Keep, Outbox } from './state/outbox';
import { type Data, type Message, type Page, type Publication, Timeline, type User, kindOf } from './state/room';
import { Store } from './state/store';
import { mentionsMe } from './state/text';
import { RoomList, chooseRooms } from './state/unread';

/** Below the server's `subscription_limit`, which is 128 unless the operator sets it; then one learns of it. */
const SUBSCRIPTIONS = 100;
const LIMIT_EXCEEDED = 106;
const UNSUBSCRIBED = 2000;
const POLL_MS = 20_000;
const REFUSED_MS = 60_000;
const TYPING_MS = 5000;
const TYPING_EVERY_MS = 3000;
const WINDOW = 1500;
const SIGNED_OUT = 'You were signed out. Sign in again: nothing that you wrote is lost.';

export interface Environment {
  url: string;
  fetch: Fetch;
  keep: Keep;
  visible(): boolean;
  notify(title: string, body: string, tag: string, room: string): void;
}

export type Quote = Pick<Message, 'offset' | 'user' | 'text'>;

/** A room that is received: its messages, who is here, who is typing. */
export class Room extends Store {
  private static made = 0;
  /** Of two with the same name, one after the other. */
  readonly id = ++Room.made;
  readonly timeline: Timeline;
  readonly people = new Map<string, User>();
  /** How many connections there are, where it is not said who. */
  online: number | undefined;
  loading: 'newest' | 'older' | 'newer' | undefined;
  error = '';
  typing: readonly User[] = [];
  private quotes = new Map<number, Quote | undefined>();
  private typingUntil = new Map<string, number>();

  constructor(
    readonly name: string,
    private readonly me: User,
    private readonly fetchPage: (where: { before?: number; after?: number; limit?: number }) => Promise<Page>,
  ) {
    super();
    this.timeline = new Timeline(me.id);
  }

  /** Everybody here, once, whatever the number of their tabs. */
  get users(): User[] {
    const users = new Map([...this.people.values()].map((user) => [user.id, user]));
    return [...users.values()].sort((a, b) => a.username.localeCompare(b.username));
  }

  touch(): void {
    this.changed();
  }

  async newest(): Promise<void> {
    await this.load('newest', async () => {
      // A page can be older than what is live already, or of a history that is about to be announced.
      for (let tries = 0; tries < 6; tries++) {
        if (this.timeline.showNewest(await this.fetchPage({}))) return;
        await new Promise((resolve) => setTimeout(resolve, 100 * 2 ** tries));
      }
      throw new Error('The history cannot be read just now');
    });
  }

  async older(): Promise<void> {
    const { timeline } = this;
    const before = timeline.messages[0]?.offset;
    if (!timeline.hasOlder || before === undefined) return;
    await this.load('older', async () => {
      timeline.prepend(await this.fetchPage({ before }), before);
      timeline.trim(WINDOW, 'newest');
    });
  }

  async newer(): Promise<void> {
    const { timeline } = this;
    const after = timeline.messages.at(-1)?.offset;
    if (!timeline.hasNewer || after === undefined) return;
    await this.load('newer', async () => {
      timeline.append(await this.fetchPage({ after }), after);
      timeline.trim(WINDOW, 'oldest');
    });
  }

  /** Shows the part of the history that ends with this message. */
  async goTo(offset: number): Promise<void> {
    if (this.timeline.find(offset)) return;
    await this.load('newest', async () => {
      this.timeline.showMiddle(await this.fetchPage({ before: offset + 1 }));
    });
  }

  private async load(what: NonNullable<Room['loading']>, how: () => Promise<void>): Promise<void> {
    if (this.loading === what || (this.loading && what !== 'newest')) return;
    this.loading = what;
    this.error = '';
    this.changed();
    try {
      await how();
    } catch (error) {
      this.error = inWords(error);
    } finally {
      this.loading = undefined;
      this.changed();
    }
  }

  /** A message that is quoted. Where it is not in the window it is fetched, and there the next time. */
  quoted(offset: number): Quote | undefined {
    const found = this.timeline.find(offset) ?? this.quotes.get(offset);
    if (!found && !this.quotes.has(offset)) {
      this.quotes.set(offset, undefined);
      this.fetchPage({ after: offset - 1, limit: 1 }).then(
        ({ messages: [message] }) => {
          if (message?.offset === offset) this.quotes.set(offset, message);
          this.changed();
        },
        () => this.quotes.delete(offset),
      );
    }
    return found;
  }

  /** What is quoted has another text now, or none. */
  forgetQuote(offset: number | undefined): void {
    if (offset !== undefined) this.quotes.delete(offset);
  }

  isTyping(user: User): void {
    if (user.id === this.me.id) return;
    this.typingUntil.set(user.id, Date.now() + TYPING_MS);
    if (!this.typing.some(({ id }) => id === user.id)) this.setTyping([...this.typing, user]);
    setTimeout(() => this.settleTyping(), TYPING_MS + 50);
  }

  wrote(user: User): void {
    if (this.typingUntil.delete(user.id)) this.settleTyping();
  }

  private settleTyping(): void {
    const now = Date.now();
    const left = this.typing.filter(({ id }) => (this.typingUntil.get(id) ?? 0) > now);
    if (left.length !== this.typing.length) this.setTyping(left);
  }

  private setTyping(typing: readonly User[]): void {
    this.typing = typing;
    this.changed();
  }
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
        return this.connection.publish(item.room, data);
      },
      position: (room) => this.received.get(room)?.timeline.position ?? Infinity,
      newId,
      now: Date.now,
      wait: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
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

  /** Asks again for a room that was refused. */
  receiveAgain(name: string): void {
    this.refused.delete(name);
    this.receive();
  }

  private connectionChanged(): void {
    if (this.stopped) return;
    const { state, code } = this.connection;
    if (state !== 'connected') {
      this.outbox.setOnline(false);
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
      this.say(`The server has ended the connection: ${this.connection.reason || code}.`);
    } else if (state === 'connecting' && this.wasConnected) {
      this.say('The connection is lost. Reconnecting… What you write is sent when it is back.');
    } else if (state === 'connecting') {
      this.lineTimer = setTimeout(() => this.say('Connecting…'), 1000);
    }
  }

  /** The token is no good any more. After a change of the password there is another one. */
  private async comeBack(): Promise<void> {
    const often = Date.now() - this.cameBack < 10_000;
    this.cameBack = Date.now();
    try {
      if (often) throw new Error();
      const token = await this.session.renew();
      if (!this.stopped) this.connection.start(token);
    } catch {
      if (!this.stopped) this.session.end(SIGNED_OUT);
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
      const what = missed === 0 ? 'nothing was missed' : missed === 1 ? '1 message came meanwhile' : `${missed} messages came meanwhile`;
      this.say(`Connected again: ${what}.`, 8000);
    } else this.say('');
    this.missedFrom = undefined;
    // Only now, so that one's own messages do not count as missed.
    this.outbox.setOnline(true);
    const open = this.open === undefined ? undefined : this.received.get(this.open);
    if (open && !open.timeline.loaded) void open.newest();
    if (open) void this.lookAround(open);
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
        for (let tries = 0; tries < 4 && this.connection.state === 'connected'; tries++) {
          try {
            this.rooms.set(await this.connection.rooms());
            this.receive();
            break;
          } catch {
            await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** tries));
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
    for (const name of this.received.keys()) {
      if (wanted.has(name) || name === this.open) continue;
      this.connection.unsubscribe(name);
      this.received.delete(name);
    }
    for (const name of wanted) this.join(name);
    this.changed();
  }

  private join(name: string): void {
    const info = this.rooms.get(name);
    if (!info || this.received.has(name) || Date.now() - (this.refused.get(name)?.at ?? 0) < REFUSED_MS) return;
    this.refused.delete(name);
    const room = new Room(name, this.me, (where) => this.api.chats(name, where));
    const { timeline } = room;
    timeline.begin(info.epoch, info.offset);
    if (name === this.open) timeline.wake();
    else timeline.sleep();
    this.received.set(name, room);
    this.connection.subscribe(name, info, {
      subscribed: (position, recovered) => {
        if (!recovered) {
          // Another room of this name, or a restored backup.
          if (position) timeline.begin(position.epoch, position.offset);
          void this.refresh();
        }
        if (name === this.open) {
          if (!timeline.loaded) void room.newest();
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
        room.online = undefined;
        room.people.set(client, user);
        room.touch();
      },
      leave: (client) => {
        room.online = undefined;
        room.people.delete(client);
        room.touch();
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
    if (name === this.open) void room.newest();
  }

  private take(room: Room, publication: Publication): void {
    const { name } = room;
    const { data, user, offset } = publication;
    const kind = kindOf(data);
    room.forgetQuote(data.edit ?? data.delete);
    if (!room.timeline.publish(publication) && name === this.open) void room.newest();
    this.rooms.publication(name, offset, kind === 'message');
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
      this.changed();
    }
    if (!seen && mentionsMe(text, this.me.username)) {
      this.rooms.mention(name);
      const title = this.rooms.get(name)?.title ?? name;
      this.around.notify(`${user.username} in ${title}`, text.slice(0, 200), `${name} ${offset}`, name);
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
      try {
        this.around.keep.setItem(this.recentKey, JSON.stringify(this.recent));
      } catch {
        // Only the order of preference is lost.
      }
      const room = this.received.get(name);
      if (room) {
        room.timeline.wake();
        void room.newest();
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
      await new Promise((resolve) => setTimeout(resolve, 2000));
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

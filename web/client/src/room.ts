/** A room: its messages, and the people in it. */
import type { Api } from './api.ts';
import { Emitter } from './emitter.ts';
import { type ChatError, clientError, toChatError } from './errors.ts';
import type { Item, Outbox } from './outbox.ts';
import { type Reactors, ReactorCollector } from './reactors.ts';
import type { RoomInfo } from './room-list.ts';
import { firstSince } from './seek.ts';
import {
  type Data,
  type Message,
  type Page,
  type Publication,
  type Reaction,
  Timeline,
  type User,
  type WireMessage,
} from './timeline.ts';

const TYPING_MS = 5000;
/** Messages kept while the user scrolls through the history. */
const WINDOW_MESSAGES = 1500;
const PAGE_MESSAGES = 100;
const TYPING_EVERY_MS = 3000;
/** How many pages of publications are searched for reactions to a message. */
const REACTOR_PAGES = 10;

export type Quote = Pick<Message, 'offset' | 'user' | 'text'>;

export interface PagePosition {
  before?: number;
  after?: number;
  limit?: number;
  /** Whether the page has the joins and departures, too. */
  memberships?: true;
}

type Loading = 'newest' | 'middle' | 'older' | 'newer';

/** A message of the user's own that is not in the room's history yet. */
export interface UnsentMessage extends Item {
  user: User;
  reactions: readonly Reaction[];
}

const unsentMessages = new WeakMap<Item, UnsentMessage>();

/** The same object for the same item. */
function unsentOf(item: Item, user: User): UnsentMessage {
  const message = unsentMessages.get(item) ?? { ...item, user, reactions: [] };
  unsentMessages.set(item, message);
  return message;
}

/** A message with a `status` is not in the history yet. */
export type RoomMessage = Message | UnsentMessage;

/** What happens in a room. The listeners get no arguments, and read the room. */
export type RoomEvents = {
  /** `messages`, or what is known about them. */
  messages: [];
  /** `people` or `online`. */
  people: [];
  /** `typingUsers`. */
  typing: [];
  /** `members`. */
  members: [];
  /** `loading`, the `error` of loading, or a message that was asked for with `quoted`. */
  loading: [];
  /** `isAvailable`, its `error`, or `id`. */
  state: [];
};

/** What a room needs of the client. */
export interface RoomEnvironment {
  user: User;
  api: Api;
  outbox: Outbox;
  info(room: string): RoomInfo | undefined;
  fetchPage(room: string, where: PagePosition): Promise<Page>;
  history(room: string, since: { epoch: string; offset: number }): Promise<Publication[]>;
  change(room: Room, data: Data): Promise<number>;
  read(room: Room, offset: number): Promise<void>;
  typing(room: string): void;
  retry(room: Room): void;
  close(room: Room): void;
  seen(users: readonly User[]): void;
}

export class Room extends Emitter<RoomEvents> {
  private static count = 0;
  /** Changes when the room starts afresh, because too much was missed, or because another room has taken its name. */
  id = 0;
  /** The part of the history that is loaded. */
  readonly timeline: Timeline;
  /** Whether the room receives messages. It does not while `error` says why, nor at first. */
  isAvailable = false;
  /** The number of connections, if there are too many for the server to name the people. */
  online: number | undefined;
  /** The first 100 members, once `loadMembers` has loaded them. */
  members: readonly User[] = [];
  /** Which part of the history is being loaded. */
  loading: Loading | undefined;
  /** Why the room is not available, or why messages could not be loaded. `retry` tries again. */
  error: ChatError | undefined;
  /** Who is typing, apart from the user. */
  typingUsers: readonly User[] = [];
  /** How many joins and departures there were while the room was subscribed to. */
  memberChanges = 0;
  /** @internal Whether the application has opened the room. */
  isOpen = false;
  /** @internal Loads what is shown first. */
  loadFirst = (): void => {
    const info = this.env.info(this.name);
    void this.loadInitial(info?.read.offset ?? 0, info?.unread ?? 0);
  };
  private request = 0;
  /** Loads again what could not be loaded. */
  private again: (() => Promise<void>) | undefined;
  private quotes = new Map<number, Quote | undefined>();
  private readonly connections = new Map<string, User>();
  private typingUntil = new Map<string, number>();
  private typedAt = 0;
  private unsent: readonly UnsentMessage[] = [];
  /** `messages`, as long as what it consists of is the same. */
  private merged: readonly RoomMessage[] = [];
  private mergedFrom: unknown[] = [];

  /** @internal */
  constructor(
    readonly name: string,
    private readonly env: RoomEnvironment,
  ) {
    super();
    this.timeline = new Timeline(env.user.id);
    this.timeline.subscribe(() => this.emit('messages'));
    this.outboxChanged();
  }

  /** What the list of rooms says about this one; `undefined` if the user is not a member. */
  get info(): RoomInfo | undefined {
    return this.env.info(this.name);
  }

  /** The loaded messages, the newest last, followed by the user's own that are not in the history yet. */
  get messages(): readonly RoomMessage[] {
    const { messages: stored } = this.timeline;
    const { unsent } = this;
    if (this.mergedFrom[0] !== stored || this.mergedFrom[1] !== unsent) {
      this.mergedFrom = [stored, unsent];
      const isStored = ({ id }: Item) => stored.some((other) => other.id === id && other.user.id === this.env.user.id);
      this.merged = unsent.length === 0 ? stored : [...stored, ...unsent.filter((item) => !isStored(item))];
    }
    return this.merged;
  }

  /** Whether there are messages before the first one that is loaded. */
  get hasBefore(): boolean {
    return this.timeline.hasOlder;
  }

  /** Whether there are messages after the last one that is loaded. If so, new ones are not added. */
  get hasAfter(): boolean {
    return this.timeline.hasNewer;
  }

  /** Everyone here, each listed once however many connections they have. */
  get people(): User[] {
    const users = new Map([...this.connections.values()].map((user) => [user.id, user]));
    return [...users.values()].sort((a, b) => a.username.localeCompare(b.username));
  }

  /** The people in this room, as far as they are known: who is here, who wrote, and the first members. */
  get known(): User[] {
    return [...this.connections.values(), ...this.members, ...this.timeline.messages.map(({ user }) => user)];
  }

  /** Their names. */
  get names(): string[] {
    const others = this.known.filter(({ id }) => id !== this.env.user.id);
    return [...new Set(others.map(({ username }) => username))];
  }

  /** Whether somebody is here, if that is known. */
  isHere({ id }: User): boolean | undefined {
    if (this.online !== undefined || this.connections.size === 0) return undefined;
    return [...this.connections.values()].some((user) => user.id === id);
  }

  /**
   * Sends a message, also later if there is no connection now, and returns its offset once it is stored. If that fails,
   * the message stays in `messages`, with an `error`, until `resend` or `discard` is called.
   */
  send(text: string, { replyTo }: { replyTo?: number | undefined } = {}): Promise<number> {
    const epoch = this.info?.epoch;
    const { outbox } = this.env;
    const item = outbox.add({
      room: this.name,
      text,
      ...(epoch === undefined ? {} : { epoch }),
      ...(replyTo === undefined ? {} : { replyTo }),
    });
    return outbox.stored(item.id);
  }

  /** Sends a message that failed again, by its `id`. */
  resend(id: string): Promise<number> {
    this.env.outbox.retry(id);
    return this.env.outbox.stored(id);
  }

  /** Gives up a message that is not stored, by its `id`. */
  discard(id: string): void {
    this.env.outbox.discard(id);
  }

  /** Changes the text of one of the user's messages. This and the other changes return the offset of the change. */
  edit(offset: number, text: string): Promise<number> {
    return this.env.change(this, { edit: offset, text });
  }

  delete(offset: number): Promise<number> {
    return this.env.change(this, { delete: offset });
  }

  react(offset: number, emoji: string): Promise<number> {
    return this.env.change(this, { react: offset, emoji });
  }

  unreact(offset: number, emoji: string): Promise<number> {
    return this.env.change(this, { unreact: offset, emoji });
  }

  /** Marks everything up to a message as read, by default all that has arrived. */
  markRead(offset = this.timeline.position): Promise<void> {
    return this.env.read(this, offset);
  }

  /** Tells the others that the user is typing. Call it as often as the user types. */
  typing(): void {
    const now = Date.now();
    if (now - this.typedAt < TYPING_EVERY_MS) return;
    this.typedAt = now;
    this.env.typing(this.name);
  }

  /** Stops loading messages and people. The room's unread messages are still counted. */
  close(): void {
    this.env.close(this);
  }

  /** Loads the names of the first members, unless they have been loaded before. */
  async loadMembers(): Promise<void> {
    if (this.members.length > 0) return;
    this.members = [this.env.user];
    await this.reloadMembers();
  }

  /** Returns whether these are all members, if they could be loaded. */
  async reloadMembers(): Promise<boolean | undefined> {
    try {
      const { members, more } = await this.env.api.members(this.name);
      this.members = members.map(({ user }) => user);
      this.env.seen(this.members);
      this.emit('members');
      return !more;
    } catch {
      this.members = [];
      return undefined;
    }
  }

  /** Finds out who reacted to a message, if that is not too far from it in the history. */
  async reactors({ offset, reactions }: Message): Promise<Reactors> {
    const collector = new ReactorCollector(offset);
    const { epoch } = this.timeline;
    for (let page = 0, since = offset; page < REACTOR_PAGES && !collector.explains(reactions); page++) {
      const publications = await this.env.history(this.name, { epoch, offset: since });
      for (const publication of publications) collector.add(publication);
      const last = publications.at(-1);
      if (!last) break;
      since = last.offset;
    }
    return collector.reactors;
  }

  /** Loads what the user sees first: the first unread messages if there are many, otherwise the newest. */
  loadInitial(readOffset: number, unread: number): Promise<void> {
    if (unread <= PAGE_MESSAGES) return this.loadNewest();
    return this.load('middle', (page) => this.timeline.showFrom(page), { after: readOffset });
  }

  /** Shows the newest messages. */
  loadNewest(): Promise<void> {
    return this.load('newest', (page) => this.timeline.showNewest(page), {});
  }

  /** Loads the messages before the first one, if there are any. */
  async loadBefore(): Promise<void> {
    const { timeline } = this;
    const before = timeline.messages[0]?.offset;
    if (!timeline.hasOlder || before === undefined) return;
    const put = (page: Page) => {
      timeline.prepend(page, before);
      timeline.trim(WINDOW_MESSAGES, 'newest');
      return true;
    };
    await this.load('older', put, { before });
  }

  /** Loads the messages after the last one, if there are any. */
  async loadAfter(): Promise<void> {
    const { timeline } = this;
    const after = timeline.messages.at(-1)?.offset;
    if (!timeline.hasNewer || after === undefined) return;
    const put = (page: Page) => {
      timeline.append(page, after);
      timeline.trim(WINDOW_MESSAGES, 'oldest');
      return true;
    };
    await this.load('newer', put, { after });
  }

  /**
   * Loads the part of the history that ends with this message, unless the message is already loaded. Returns whether
   * the message exists; if it does not, nothing changes. Returns undefined if loading failed, or was given up because
   * something else was asked for.
   */
  async goTo(offset: number): Promise<boolean | undefined> {
    if (this.timeline.find(offset)) {
      this.keepWindow();
      return true;
    }
    let found: boolean | undefined;
    const put = (page: Page) => {
      if (page.epoch !== this.timeline.epoch) return false;
      const exists = page.messages.at(-1)?.offset === offset;
      if (exists && !this.timeline.showMiddle(page)) return false;
      found = exists;
      return true;
    };
    // The caller tries again, because it has to show the message.
    await this.load('middle', put, { before: offset + 1 }, false);
    return found;
  }

  /** Gives up loading another part of the history. */
  private keepWindow(): void {
    if (this.loading !== 'newest' && this.loading !== 'middle') return;
    this.request++;
    this.loading = undefined;
    this.emit('loading');
  }

  /** The first message at or after a time, if there is one. */
  firstSince(time: number): Promise<WireMessage | undefined> {
    return firstSince(time, this.timeline.position, (after, limit) => this.fetch({ after, limit }));
  }

  /**
   * Fetches a page and adds it to the timeline. A request for another part of the history replaces the one in progress;
   * a request for the adjacent page is ignored while another is in progress. The page is fetched again if it does not
   * fit: it can be too old to be merged with live publications, or belong to an epoch that was not announced yet.
   */
  private async load(
    what: Loading,
    put: (page: Page) => boolean,
    where: PagePosition,
    canRetry = true,
  ): Promise<void> {
    const isMore = what === 'older' || what === 'newer';
    if (isMore ? this.loading : what === 'newest' && this.loading === 'newest') return;
    const request = ++this.request;
    this.loading = what;
    this.error = undefined;
    this.again = undefined;
    this.emit('loading');
    try {
      for (let tries = 0; ; tries++) {
        const page = await this.fetch({ ...where, memberships: true });
        if (request !== this.request || put(page)) break;
        if (tries === 5) throw clientError('unsettled');
        await new Promise((resolve) => setTimeout(resolve, 100 * 2 ** tries));
      }
    } catch (error) {
      if (request === this.request) {
        this.error = toChatError(error);
        if (canRetry) this.again = () => this.load(what, put, where);
      }
    } finally {
      if (request === this.request) {
        this.loading = undefined;
        this.emit('loading');
      }
    }
  }

  /** Tries again what `error` is about. */
  retry(): void {
    if (!this.isAvailable) this.env.retry(this);
    if (!this.error || !this.isAvailable) return;
    this.error = undefined;
    void this.again?.();
    this.emit('loading');
  }

  /** A quoted message. If it is not loaded, it is fetched and available on a later call. */
  quoted(offset: number): Quote | undefined {
    const found = this.timeline.find(offset) ?? this.quotes.get(offset);
    if (!found && !this.quotes.has(offset)) {
      this.quotes.set(offset, undefined);
      this.fetch({ after: offset - 1, limit: 1 }).then(
        ({ messages: [message], epoch }) => {
          // If it was forgotten in the meantime, its text has changed.
          const isCurrent = epoch === this.timeline.epoch && this.quotes.has(offset);
          if (message?.offset === offset && isCurrent) this.quotes.set(offset, message);
          this.emit('loading');
        },
        () => this.quotes.delete(offset),
      );
    }
    return found;
  }

  private fetch(where: PagePosition): Promise<Page> {
    return this.env.fetchPage(this.name, where);
  }

  /** @internal Starts afresh with nothing but a position, after which publications follow. */
  begin({ epoch, offset }: { epoch: string; offset: number }): void {
    this.id = ++Room.count;
    this.isAvailable = true;
    this.clear();
    this.timeline.begin(epoch, offset);
    this.emit('state');
  }

  /** @internal The room is not available any more, or not yet. */
  end(error: ChatError | undefined): void {
    if (!this.isAvailable && this.error?.code === error?.code) return;
    this.isAvailable = false;
    this.clear();
    this.timeline.clear();
    this.error = error;
    this.emit('state');
  }

  private clear(): void {
    this.request++;
    this.loading = undefined;
    this.error = undefined;
    this.again = undefined;
    this.quotes.clear();
    this.connections.clear();
    this.online = undefined;
    this.members = [];
    this.typingUntil.clear();
    this.typingUsers = [];
    this.memberChanges = 0;
  }

  /** @internal */
  outboxChanged(): void {
    const unsent = this.env.outbox.of(this.name).map((item) => unsentOf(item, this.env.user));
    if (unsent.length === this.unsent.length && unsent.every((item, i) => item === this.unsent[i])) return;
    this.unsent = unsent;
    this.emit('messages');
  }

  /** @internal Discards the cached copy of a quoted message that was edited or deleted. */
  forgetQuote(offset: number | undefined): void {
    if (offset !== undefined) this.quotes.delete(offset);
  }

  /** @internal */
  startedTyping(user: User): void {
    if (user.id === this.env.user.id) return;
    this.typingUntil.set(user.id, Date.now() + TYPING_MS);
    if (!this.typingUsers.some(({ id }) => id === user.id)) this.setTyping([...this.typingUsers, user]);
    setTimeout(() => this.expireTyping(), TYPING_MS + 50);
  }

  /** @internal */
  stoppedTyping(user: string): void {
    if (this.typingUntil.delete(user)) this.expireTyping();
  }

  /** @internal The connections in the room. */
  setConnections(connections: ReadonlyMap<string, User>): void {
    this.connections.clear();
    for (const [client, user] of connections) this.connections.set(client, user);
    this.emit('people');
  }

  /** @internal A connection has come or gone. A user without any other one has stopped typing. */
  setConnection(client: string, user: User | undefined): void {
    const previous = this.connections.get(client);
    if (user) this.connections.set(client, user);
    else this.connections.delete(client);
    this.online = undefined;
    if (!user && previous && ![...this.connections.values()].some(({ id }) => id === previous.id)) {
      this.stoppedTyping(previous.id);
    }
    this.emit('people');
  }

  /** @internal */
  setOnline(count: number): void {
    this.online = count;
    this.emit('people');
  }

  /** @internal Somebody has joined, or was added. */
  added(): void {
    this.memberChanges++;
    this.emit('people');
  }

  /** @internal Somebody has another role, or was banned or silenced, or is no longer. */
  rightsChanged(): void {
    this.memberChanges++;
    this.emit('people');
  }

  /** @internal A member was removed, or left. */
  removed(user: string): void {
    for (const [client, { id }] of this.connections) if (id === user) this.connections.delete(client);
    this.stoppedTyping(user);
    this.memberChanges++;
    this.emit('people');
  }

  private expireTyping(): void {
    const now = Date.now();
    const left = this.typingUsers.filter(({ id }) => (this.typingUntil.get(id) ?? 0) > now);
    if (left.length !== this.typingUsers.length) this.setTyping(left);
  }

  private setTyping(users: readonly User[]): void {
    this.typingUsers = users;
    this.emit('typing');
  }
}

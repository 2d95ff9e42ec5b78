/**
 * A subscribed room: its timeline and pages of history, and the people in it. What it holds belongs to one epoch:
 * another room that takes the name gets an object of its own.
 */
import { clientError } from './errors.ts';
import { firstSince } from './seek.ts';
import { Store } from './store.ts';
import { type Message, type Page, Timeline, type User, type WireMessage } from './timeline.ts';

const TYPING_MS = 5000;
/** Messages kept while the user scrolls through the history. */
const WINDOW_MESSAGES = 1500;
const PAGE_MESSAGES = 100;

export type Quote = Pick<Message, 'offset' | 'user' | 'text'>;

interface PagePosition {
  before?: number;
  after?: number;
  limit?: number;
}

type Loading = 'newest' | 'middle' | 'older' | 'newer';

export class Room extends Store {
  private static count = 0;
  /** Distinguishes this object from an earlier one for the same room. */
  readonly id = ++Room.count;
  readonly timeline: Timeline;
  readonly people = new Map<string, User>();
  /** The first members, once they are needed to mention somebody. */
  members: readonly User[] = [];
  /** The number of connections, if there are too many for the server to name the people. */
  online: number | undefined;
  loading: Loading | undefined;
  /** Why messages could not be loaded. */
  error: Error | undefined;
  typing: readonly User[] = [];
  /** How many members were removed while the room was subscribed. */
  removals = 0;
  private request = 0;
  /** Loads again what could not be loaded. */
  private again: (() => Promise<void>) | undefined;
  private quotes = new Map<number, Quote | undefined>();
  private typingUntil = new Map<string, number>();

  constructor(
    readonly name: string,
    private readonly me: User,
    private readonly fetchPage: (where: PagePosition) => Promise<Page>,
  ) {
    super();
    this.timeline = new Timeline(me.id);
  }

  /** Everyone online, each listed once however many tabs they have. */
  get users(): User[] {
    const users = new Map([...this.people.values()].map((user) => [user.id, user]));
    return [...users.values()].sort((a, b) => a.username.localeCompare(b.username));
  }

  /** The names of the people in this room, as far as they are known: who is here, who wrote, and the first members. */
  get names(): string[] {
    const users = [...this.people.values(), ...this.members, ...this.timeline.messages.map(({ user }) => user)];
    return [...new Set(users.filter(({ id }) => id !== this.me.id).map(({ username }) => username))];
  }

  touch(): void {
    this.changed();
  }

  /** Loads what the user sees first: the first unread messages if there are many, otherwise the newest. */
  loadInitial(readOffset: number, unread: number): Promise<void> {
    if (unread <= PAGE_MESSAGES) return this.loadNewest();
    return this.load('middle', (page) => this.timeline.showFrom(page), { after: readOffset });
  }

  loadNewest(): Promise<void> {
    return this.load('newest', (page) => this.timeline.showNewest(page), {});
  }

  async loadOlder(): Promise<void> {
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

  async loadNewer(): Promise<void> {
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
    if (this.timeline.find(offset)) return true;
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

  /** The first message at or after a time, if there is one. */
  firstSince(time: number): Promise<WireMessage | undefined> {
    return firstSince(time, this.timeline.position, (after, limit) => this.fetchPage({ after, limit }));
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
    this.changed();
    try {
      for (let tries = 0; ; tries++) {
        const page = await this.fetchPage(where);
        if (request !== this.request || put(page)) break;
        if (tries === 5) throw clientError('unsettled');
        await new Promise((resolve) => setTimeout(resolve, 100 * 2 ** tries));
      }
    } catch (error) {
      if (request === this.request) {
        this.error = error instanceof Error ? error : new Error(String(error));
        if (canRetry) this.again = () => this.load(what, put, where);
      }
    } finally {
      if (request === this.request) {
        this.loading = undefined;
        this.changed();
      }
    }
  }

  /** Tries again to load what could not be loaded, if there is anything. */
  retry(): void {
    if (!this.error) return;
    this.error = undefined;
    void this.again?.();
    this.changed();
  }

  /** A quoted message. If it is not loaded, it is fetched and available on a later call. */
  quoted(offset: number): Quote | undefined {
    const found = this.timeline.find(offset) ?? this.quotes.get(offset);
    if (!found && !this.quotes.has(offset)) {
      this.quotes.set(offset, undefined);
      this.fetchPage({ after: offset - 1, limit: 1 }).then(
        ({ messages: [message], epoch }) => {
          // If it was forgotten in the meantime, its text has changed.
          const isCurrent = epoch === this.timeline.epoch && this.quotes.has(offset);
          if (message?.offset === offset && isCurrent) this.quotes.set(offset, message);
          this.changed();
        },
        () => this.quotes.delete(offset),
      );
    }
    return found;
  }

  /** Discards the cached copy of a quoted message that was edited or deleted. */
  forgetQuote(offset: number | undefined): void {
    if (offset !== undefined) this.quotes.delete(offset);
  }

  startedTyping(user: User): void {
    if (user.id === this.me.id) return;
    this.typingUntil.set(user.id, Date.now() + TYPING_MS);
    if (!this.typing.some(({ id }) => id === user.id)) this.setTyping([...this.typing, user]);
    setTimeout(() => this.expireTyping(), TYPING_MS + 50);
  }

  stoppedTyping(user: string): void {
    if (this.typingUntil.delete(user)) this.expireTyping();
  }

  /** A connection is gone. Whoever has no other one is not typing any more. */
  left(client: string): void {
    const user = this.people.get(client);
    this.people.delete(client);
    if (user && ![...this.people.values()].some(({ id }) => id === user.id)) this.stoppedTyping(user.id);
  }

  /** A member was removed, or left. */
  removed(user: string): void {
    for (const [client, { id }] of this.people) if (id === user) this.people.delete(client);
    this.stoppedTyping(user);
    this.removals++;
    this.changed();
  }

  private expireTyping(): void {
    const now = Date.now();
    const left = this.typing.filter(({ id }) => (this.typingUntil.get(id) ?? 0) > now);
    if (left.length !== this.typing.length) this.setTyping(left);
  }

  private setTyping(typing: readonly User[]): void {
    this.typing = typing;
    this.changed();
  }
}

/** Ties together the rooms, subscriptions, outbox and connection of a signed-in user. */
import {
  Api,
  ChatError,
  chooseRooms,
  Connection,
  type Data,
  type Fetch,
  type FoundRoom,
  type Item,
  kindOf,
  type Message,
  Outbox,
  type Page,
  parseNames,
  type Publication,
  ReactorCollector,
  type Reactors,
  Room,
  type RoomInfo,
  SendError,
  type StorageLike,
  Store,
  UNREAD_LIMIT,
  type User,
  type Written,
} from '@uproar/client';
import { Announcer } from './announcer';
import { Banner } from './banner';
import { errorText } from './errors';
import { type Session, backoff, isSignedOut, wait } from './session';
import type { Draft, Drafts } from './state/drafts';
import { Names } from './state/mentions';
import { RoomList } from './state/room-list';
import { RoomMarks } from './state/room-marks';
import { UnreadMarks } from './state/unread-marks';
import type { Say } from './texts/language';

/** Below the server's default `subscription_limit` of 128. If the operator set a lower one, `Chat` adapts to it. */
const MAX_SUBSCRIPTIONS = 100;
const LIMIT_EXCEEDED_CODE = 106;
const UNSUBSCRIBED_CODE = 2000;
const POLL_MS = 20_000;
const REJECTED_MS = 60_000;
const TYPING_EVERY_MS = 3000;
/** How often an edit, deletion or reaction is sent again. */
const CHANGE_RETRIES = 3;
/** How many pages are read, at most, to count what becomes unread. The server looks at as many messages. */
const UNREAD_PAGES = 30;
/** How many pages of publications are searched for reactions to a message. */
const REACTOR_PAGES = 10;
const SIGNED_OUT: Say = (t) => t.session.signedOut;

export interface Environment {
  url: string;
  fetch: Fetch;
  storage: StorageLike;
  drafts: Drafts;
  /** Whether the user is looking at the page. */
  visible(): boolean;
  notify(title: Say, body: string, tag: string, room: string): void;
}

export class Chat extends Store {
  readonly api: Api;
  readonly connection: Connection;
  readonly outbox: Outbox;
  readonly marks: RoomMarks;
  readonly rooms: RoomList;
  /** The people whose names this tab has seen. */
  readonly names = new Names();
  /** The name of the room on screen. */
  openRoom: string | undefined;
  /** The message that the address names, until it is on screen. */
  wanted: { room: string; offset: number } | undefined;
  readonly banner = new Banner();
  readonly announcer: Announcer;
  private readonly subscribedRooms = new Map<string, Room>();
  private recent: string[];
  private wasConnected = false;
  /** The list of rooms has been loaded over this connection. */
  private isUpToDate = false;
  private pollTimer: ReturnType<typeof setInterval> | undefined;
  private refreshing: Promise<void> | undefined;
  private refreshAgain = false;
  private subscriptions = MAX_SUBSCRIPTIONS;
  private rejected = new Map<string, { at: number; error: ChatError }>();
  private reading = new Set<string>();
  /** The epochs of the rooms that the user leaves on purpose. */
  private leaving = new Set<string>();
  /** The rooms that the user lost while the page was open. */
  private readonly former = new Map<string, RoomInfo>();
  /** The epoch of the open room if the user has marked it as unread since it was opened. */
  private keptUnread: string | undefined;
  private lastTyping = { room: '', at: 0 };
  private reauthenticatedAt = 0;
  private stopped = false;

  constructor(
    readonly me: User,
    private readonly session: Session,
    private readonly env: Environment,
  ) {
    super();
    this.marks = new RoomMarks(env.storage, me.id);
    this.rooms = new RoomList(this.marks, new UnreadMarks(env.storage, me.id));
    this.marks.subscribe(() => this.rooms.sort());
    this.api = new Api(env.fetch, session);
    this.connection = new Connection(env.url, session);
    this.outbox = new Outbox({
      user: me.id,
      storage: env.storage,
      send: (item) => {
        const data: Data = { text: item.text, id: item.id };
        if (item.replyTo !== undefined) data.reply_to = item.replyTo;
        if (!this.rooms.get(item.room)) {
          return Promise.reject(new SendError('not_member', false));
        }
        return this.connection.publish(item.room, data, item.epoch);
      },
      position: (room) => this.subscribedRooms.get(room)?.timeline.position ?? Infinity,
      epoch: (room) => this.rooms.get(room)?.epoch,
      newId,
      now: Date.now,
      wait,
    });
    this.announcer = new Announcer(me, this.rooms, this.names, env.notify);
    this.recent = parseNames(env.storage.getItem(this.recentKey));
    this.names.add(me.username);
    this.connection.onConnected = () => void this.connected();
    this.connection.onUserEvent = (event) => {
      if (event.read) this.rooms.read(event.read.room, event.read.offset, event.read.number);
      if (event.left !== undefined) this.removed(event.left);
      if (event.joined !== undefined || event.left !== undefined) void this.refresh();
    };
    this.connection.onChange = () => this.connectionChanged();
  }

  private get recentKey(): string {
    return `uproar.recent.${this.me.id}`;
  }

  start(): void {
    this.connection.start();
    this.pollTimer = setInterval(() => {
      const polled = this.rooms.sorted.some(({ name }) => !this.subscribedRooms.has(name));
      if (polled && this.connection.state === 'connected') void this.refresh();
    }, POLL_MS);
  }

  stop(): void {
    this.stopped = true;
    this.outbox.stop();
    clearInterval(this.pollTimer);
    this.banner.stop();
    this.announcer.stop();
    this.connection.stop();
  }

  /** Whether the user is looking at the page. */
  get isSeen(): boolean {
    return this.env.visible();
  }

  room(name: string): Room | undefined {
    return this.subscribedRooms.get(name);
  }

  get textLimitBytes(): number {
    return this.session.textLimitBytes;
  }

  /** The names of rooms, the one opened last first. */
  get recentRooms(): readonly string[] {
    return this.recent;
  }

  /** Why subscribing to one of the user's rooms failed. */
  subscriptionError(name: string): ChatError | undefined {
    return this.rejected.get(name)?.error;
  }

  /** Rooms with unsent messages that the user is not, or no longer, a member of. */
  get stranded(): string[] {
    return this.rooms.loaded ? this.outbox.rooms.filter((name) => !this.rooms.get(name)) : [];
  }

  /** A room that the user is no longer a member of. */
  formerRoom(name: string): RoomInfo | undefined {
    return this.former.get(name);
  }

  /** Tries again to subscribe to a room that was rejected. */
  retrySubscription(name: string): void {
    this.rejected.delete(name);
    this.updateSubscriptions();
  }

  private connectionChanged(): void {
    if (this.stopped) return;
    const { state, code } = this.connection;
    if (state !== 'connected') {
      this.isUpToDate = false;
      this.outbox.setOnline(false);
      this.connection.unsubscribeAll();
      if (this.wasConnected) this.banner.lost(this.rooms.sorted);
    }
    if (state === 'closed') {
      if (code === 3500 || code === 3503) {
        void this.reauthenticate();
        return;
      }
      // The SDK's own code: `getToken` threw `UnauthorizedError`.
      if (code === 1) {
        this.session.end(SIGNED_OUT);
        return;
      }
      const reason = this.connection.reason || String(code);
      this.banner.show((t) => t.banner.closed(reason));
    } else if (state === 'connecting' && this.wasConnected) {
      this.banner.show((t) => t.banner.lost);
    } else if (state === 'connecting') {
      this.banner.showLater((t) => t.banner.connecting, 1000);
    }
  }

  /** Gets a new token after the server rejected the current one, as it does when the password was changed. */
  private async reauthenticate(): Promise<void> {
    const isRepeated = Date.now() - this.reauthenticatedAt < 10_000;
    this.reauthenticatedAt = Date.now();
    if (isRepeated) return this.session.end(SIGNED_OUT);
    for (let tries = 0; !this.stopped; tries++) {
      try {
        const token = await this.session.renew();
        if (!this.stopped) this.connection.start(token);
        return;
      } catch (error) {
        if (this.stopped) return;
        if (isSignedOut(error)) return this.session.end(SIGNED_OUT);
        this.banner.show((t) => t.session.tryingAgain(errorText(error, t)));
        await wait(backoff(tries));
      }
    }
  }

  /** The connection does not reconnect by itself. */
  get isClosed(): boolean {
    return this.connection.state === 'closed';
  }

  private async connected(): Promise<void> {
    const before = this.wasConnected;
    this.wasConnected = true;
    await this.refresh();
    if (this.connection.state !== 'connected') return;
    this.isUpToDate = true;
    if (before) this.banner.back(this.rooms.sorted, (name) => this.subscribedRooms.get(name)?.timeline.position);
    else this.banner.show(undefined);
    this.outbox.setOnline(true);
    const open = this.openRoom === undefined ? undefined : this.subscribedRooms.get(this.openRoom);
    open?.retry();
    if (open && !open.timeline.loaded) this.loadMessages(open);
  }

  private loadMessages(room: Room): void {
    // The list of messages loads what the address names.
    if (this.wanted?.room === room.name) this.changed();
    else void room.loadInitial(this.rooms.readUpTo(room.name), this.rooms.unread(room.name));
  }

  private async page(name: string, where: Parameters<Api['chats']>[1]): Promise<Page> {
    const page = await this.api.chats(name, where);
    for (const { user } of page.messages) this.names.add(user.username);
    return page;
  }

  /** Reloads the list of rooms and updates the subscriptions. */
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
            const before = this.rooms.sorted;
            this.rooms.set(await this.connection.rooms());
            for (const info of before) if (!this.rooms.get(info.name)) this.lost(info);
            this.updateSubscriptions();
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

  private updateSubscriptions(): void {
    const unread = (name: string) => this.rooms.unread(name);
    const wanted = new Set(chooseRooms(this.rooms.sorted, this.recent, this.subscriptions, unread));
    // Publishing to a room requires a subscription.
    for (const { name } of this.rooms.sorted) if (this.outbox.of(name).length > 0) wanted.add(name);
    for (const name of [...this.subscribedRooms.keys()]) {
      if (wanted.has(name) || (name === this.openRoom && this.rooms.get(name))) continue;
      this.connection.unsubscribe(name);
      this.subscribedRooms.delete(name);
    }
    for (const name of wanted) this.subscribeTo(name);
    this.changed();
  }

  /** Subscribes from the position the room had when the connection was lost, or the one in the list of rooms. */
  private subscribeTo(name: string): void {
    const info = this.rooms.get(name);
    if (!info || this.connection.isSubscribed(name)) return;
    if (Date.now() - (this.rejected.get(name)?.at ?? 0) < REJECTED_MS) return;
    this.rejected.delete(name);
    let room = this.subscribedRooms.get(name) ?? this.beginRoom(name, info);
    const { epoch, position: offset } = room.timeline;
    this.connection.subscribe(name, { epoch, offset }, {
      subscribed: (position, recovered) => {
        if (!recovered) {
          this.banner.skip(name);
          // Too much was missed, the room was created again under the same name, or a backup was restored. Whatever is
          // known of the room may be out of date.
          if (position) {
            room = this.beginRoom(name, position);
            if (position.epoch !== epoch) this.outbox.replaced(name);
            this.changed();
          }
          void this.refresh();
        }
        if (name === this.openRoom) {
          if (!room.timeline.loaded) this.loadMessages(room);
          void this.loadPresence(room);
        }
      },
      publication: (publication) => this.onPublication(room, publication),
      typing: (user) => room.startedTyping(user),
      online: (count) => {
        room.online = count;
        room.touch();
      },
      join: (client, user) => {
        room.people.set(client, user);
        this.names.add(user.username);
        this.peopleChanged(room);
      },
      leave: (client) => {
        room.left(client);
        this.peopleChanged(room);
      },
      unsubscribed: (code, reason) => {
        this.subscribedRooms.delete(name);
        this.banner.skip(name);
        if (code === UNSUBSCRIBED_CODE) this.removed(name);
        // The cause may persist, and retrying immediately would loop.
        else this.rejected.set(name, { at: Date.now(), error: new ChatError('refused', reason || `error ${code}`) });
        // The operator set a lower limit than expected. The open room comes first, so it keeps its subscription.
        const { size } = this.subscribedRooms;
        if (code === LIMIT_EXCEEDED_CODE && size > 0 && size < this.subscriptions) {
          this.subscriptions = size;
          this.rejected.clear();
        }
        void this.refresh();
      },
    });
    // In parallel with subscribing: the timeline merges the page with live publications.
    if (name === this.openRoom && !room.timeline.loaded) this.loadMessages(room);
  }

  /** Starts with nothing but a position, after which live publications follow. */
  private beginRoom(name: string, { epoch, offset }: { epoch: string; offset: number }): Room {
    const room = new Room(name, this.me, (where) => this.page(name, where));
    room.timeline.begin(epoch, offset);
    if (name !== this.openRoom) room.timeline.sleep();
    this.subscribedRooms.set(name, room);
    return room;
  }

  /** The server doesn't report joins and leaves while there are too many people, so the list is loaded afterwards. */
  private peopleChanged(room: Room): void {
    const wereMany = room.online !== undefined;
    room.online = undefined;
    room.touch();
    if (wereMany && room.name === this.openRoom) void this.loadPresence(room);
  }

  private onPublication(room: Room, publication: Publication): void {
    const { name } = room;
    const { data, user, offset, time } = publication;
    const kind = kindOf(data);
    const isMine = user.id === this.me.id;
    this.names.add(user.username);
    room.forgetQuote(data.edit ?? data.delete);
    if (!room.timeline.publish(publication) && name === this.openRoom) void room.loadNewest();
    const wasRead = this.rooms.unread(name) === 0;
    this.rooms.publication(name, offset, time, kind === 'message', isMine);
    // A user who writes, even in another tab, has read everything before.
    if (wasRead && kind === 'message' && isMine) void this.read(name);
    if (isMine && data.id !== undefined) this.outbox.received(name, data.id);
    this.outbox.positionReached(name, room.timeline.position);
    this.banner.publication(name, offset, kind === 'message' && !isMine);
    // Only the server knows whether the deleted message was one of those that count.
    if (data.delete !== undefined && data.delete > (this.rooms.get(name)?.read.offset ?? 0)) void this.refresh();
    if (data.removed !== undefined) {
      room.removed(data.removed);
      void this.refresh();
    }
    if (kind === 'message') {
      room.stoppedTyping(user.id);
      const isSeen = name === this.openRoom && this.isSeen;
      const { epoch } = room.timeline;
      if (!isMine && data.text !== undefined) this.announcer.message(name, epoch, user, data.text, offset, isSeen);
    } else if (data.room) void this.refresh();
  }

  /** The user was removed from a room or left it in another tab, or the room was deleted. */
  private removed(name: string): void {
    const info = this.rooms.get(name);
    this.dropRoom(name);
    if (info) this.lost(info);
  }

  /** Tells the user that they are no longer a member of a room, unless they left it on purpose. */
  private lost(info: RoomInfo): void {
    if (this.leaving.has(info.epoch)) return;
    this.former.set(info.name, info);
    this.banner.lostRoom(info.title, this.isUpToDate);
  }

  /** Forgets a room. */
  private dropRoom(name: string): void {
    this.connection.unsubscribe(name);
    this.subscribedRooms.delete(name);
    this.rooms.remove(name);
    this.changed();
  }

  private async loadPresence(room: Room): Promise<void> {
    try {
      const people = await this.connection.presence(room.name);
      room.people.clear();
      for (const [client, user] of people) {
        room.people.set(client, user);
        this.names.add(user.username);
      }
      room.touch();
    } catch {
      // It is loaded again when the room is opened or the connection is back.
    }
  }

  /** The message that the address names is on screen, or there is no such message. */
  arrived(): void {
    this.wanted = undefined;
    const room = this.openRoom === undefined ? undefined : this.subscribedRooms.get(this.openRoom);
    if (room && !room.timeline.loaded && !room.loading) this.loadMessages(room);
  }

  /** Opens a room, maybe at one of its messages, or closes the open one. */
  show(name: string | undefined, message?: number): void {
    if (name !== undefined && message !== undefined) this.wanted = { room: name, offset: message };
    else if (name !== this.openRoom) this.wanted = undefined;
    if (name === this.openRoom) {
      if (message !== undefined) this.changed();
      return;
    }
    const last = this.openRoom === undefined ? undefined : this.subscribedRooms.get(this.openRoom);
    last?.timeline.sleep();
    this.keptUnread = undefined;
    this.openRoom = name;
    if (name !== undefined) {
      this.recent = [name, ...this.recent.filter((other) => other !== name)].slice(0, MAX_SUBSCRIPTIONS);
      this.env.storage.setItem(this.recentKey, JSON.stringify(this.recent));
      const room = this.subscribedRooms.get(name);
      if (room) {
        room.timeline.wake();
        this.loadMessages(room);
        void this.loadPresence(room);
      } else if (this.rooms.loaded) {
        this.retrySubscription(name);
      }
    }
    this.changed();
  }

  /** Marks a room as read, in all tabs. Called while its newest messages are on screen. */
  async read(name: string): Promise<void> {
    const room = this.subscribedRooms.get(name);
    if (!room || this.keptUnread === room.timeline.epoch) return;
    this.rooms.setMark(name, undefined);
    if (this.rooms.unread(name) === 0) return;
    if (this.reading.has(name) || this.connection.state !== 'connected') return;
    this.reading.add(name);
    try {
      const { offset, number } = await this.connection.read(name, room.timeline.position, room.timeline.epoch);
      if (this.rooms.get(name)?.epoch === room.timeline.epoch) this.rooms.read(name, offset, number);
    } catch {
      await wait(2000);
    } finally {
      this.reading.delete(name);
    }
    // More messages may have arrived in the meantime.
    if (this.rooms.unread(name) > 0) this.changed();
  }

  /** Marks a room as unread from a message on, in this browser, until the room is opened again. */
  async markUnread(name: string, offset: number): Promise<void> {
    // What is just being read counts as read.
    while (this.reading.has(name)) await wait(50);
    const info = this.rooms.get(name);
    if (!info) return;
    // The server counts those after its own marker.
    let count = 0;
    for (let page = 0, after = offset - 1; page < UNREAD_PAGES && after < info.read.offset; page++) {
      const { messages, more } = await this.page(name, { after });
      const counts = messages.filter((message) => message.offset <= info.read.offset && !message.deleted);
      count += counts.filter(({ user }) => user.id !== this.me.id).length;
      const last = messages.at(-1);
      if (!more || !last || count > UNREAD_LIMIT) break;
      after = last.offset;
    }
    if (count === 0 && info.unread === 0) count = 1;
    if (name === this.openRoom) this.keptUnread = info.epoch;
    this.rooms.setMark(name, { after: offset - 1, count });
  }

  /** A key of the browser's storage has been changed by another tab; `null`: all of them. */
  stored(key: string | null): void {
    this.marks.stored(key);
    this.rooms.stored(key);
  }

  /** Whether the user marked this room, which is open, as unread. */
  isKeptUnread({ epoch }: RoomInfo): boolean {
    return this.keptUnread === epoch;
  }

  /** Loads the names of the members, who may be mentioned. */
  async loadMembers(room: Room): Promise<void> {
    if (room.members.length > 0) return;
    room.members = [this.me];
    try {
      room.members = (await this.api.members(room.name)).members.map(({ user }) => user);
      for (const { username } of room.members) this.names.add(username);
      room.touch();
    } catch {
      room.members = [];
    }
  }

  /** Finds out who reacted to a message, if that is not too far from it in the history. */
  async reactors(name: string, { offset, reactions }: Message): Promise<Reactors> {
    const collector = new ReactorCollector(offset);
    const epoch = this.subscribedRooms.get(name)?.timeline.epoch ?? '';
    for (let page = 0, since = offset; page < REACTOR_PAGES && !collector.explains(reactions); page++) {
      const publications = await this.connection.history(name, { epoch, offset: since });
      for (const publication of publications) collector.add(publication);
      const last = publications.at(-1);
      if (!last) break;
      since = last.offset;
    }
    return collector.reactors;
  }

  notifyTyping(name: string): void {
    const now = Date.now();
    if (name === this.lastTyping.room && now - this.lastTyping.at < TYPING_EVERY_MS) return;
    this.lastTyping = { room: name, at: now };
    this.connection.typing(name);
  }

  /**
   * Sends an edit, deletion or reaction. The outbox doesn't keep these: the user sees whether they succeeded. After a
   * failure with an unknown outcome the server accepts nothing else for the room before the same change is sent again.
   */
  async change(name: string, data: Data): Promise<void> {
    const epoch = this.subscribedRooms.get(name)?.timeline.epoch;
    const change = { ...data, id: newId() };
    for (let tries = 0; ; tries++) {
      try {
        await this.connection.publish(name, change, epoch);
        return;
      } catch (error) {
        const isUnknown = error instanceof SendError && error.isUnknown;
        if (!isUnknown || tries >= CHANGE_RETRIES || this.stopped) throw error;
        await wait(backoff(tries));
      }
    }
  }

  /** Puts a message into the outbox. */
  send(message: Omit<Written, 'epoch'>): Item {
    const epoch = this.rooms.get(message.room)?.epoch;
    return this.outbox.add(epoch === undefined ? message : { ...message, epoch });
  }

  private epoch(name: string): string {
    return this.rooms.get(name)?.epoch ?? '';
  }

  draft(name: string): Draft {
    return this.env.drafts.read(this.me.id, name, this.epoch(name));
  }

  claimDraft(name: string): void {
    this.env.drafts.claim(this.me.id, name);
  }

  changeDraft(name: string, change: { [K in keyof Draft]?: Draft[K] | undefined }): void {
    this.env.drafts.change(this.me.id, name, this.epoch(name), change as Partial<Draft>);
  }

  /** The rooms with a draft. */
  get draftRooms(): Set<string> {
    return this.env.drafts.rooms(this.me.id);
  }

  async joinRoom(name: string): Promise<FoundRoom> {
    const room = await this.api.join(name);
    this.former.delete(room.name);
    await this.refresh();
    return room;
  }

  async createRoom(room: { name: string; title?: string; private?: boolean }): Promise<FoundRoom> {
    const created = await this.api.createRoom(room);
    await this.refresh();
    return created;
  }

  async leaveRoom(name: string): Promise<void> {
    await this.without(name, () => this.api.leave(name));
  }

  async deleteRoom(name: string): Promise<void> {
    await this.without(name, () => this.api.deleteRoom(name));
  }

  /** Leaves a room on purpose, so that there's no need to tell the user. */
  private async without(name: string, leave: () => Promise<void>): Promise<void> {
    const epoch = this.epoch(name);
    this.leaving.add(epoch);
    try {
      await leave();
      this.dropRoom(name);
    } finally {
      // The event may arrive later than the answer.
      setTimeout(() => this.leaving.delete(epoch), 5000);
    }
  }
}

/** `crypto.randomUUID` needs a secure origin, which a server on a local network often is not. */
function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

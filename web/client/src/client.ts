/** Ties together the rooms, their subscriptions, the outbox and the connection of a user. */
import { Api, type Fetch, type FoundRoom, type SignedIn, call } from './api.ts';
import { Connection } from './connection.ts';
import { Emitter } from './emitter.ts';
import { ChatError, SendError, clientError, toChatError } from './errors.ts';
import { type Item, Outbox } from './outbox.ts';
import { type RoomInfo, RoomList, chooseRooms, parseNames } from './room-list.ts';
import { type PagePosition, Room } from './room.ts';
import { BrowserStorage, Memory, type StorageLike } from './storage.ts';
import { backoff, wait } from './time.ts';
import { type Data, type Page, type Publication, type User, kindOf } from './timeline.ts';
import { type GetToken, Tokens, isSignedOut } from './tokens.ts';

/** Below the server's default `subscription_limit` of 128. If the operator set a lower one, the client adapts to it. */
const MAX_SUBSCRIPTIONS = 100;
const LIMIT_EXCEEDED_CODE = 106;
const UNSUBSCRIBED_CODE = 2000;
/** The server closed the connection because it does not accept the token, or no longer. */
const TOKEN_CODES = [3500, 3503];
/** The SDK's own code: `getToken` threw `UnauthorizedError`. */
const UNAUTHORIZED_CODE = 1;
const POLL_MS = 20_000;
const REJECTED_MS = 60_000;
/** How long `connect` tries. */
const CONNECT_MS = 30_000;
/** How often an edit, deletion or reaction is sent again. */
const CHANGE_RETRIES = 3;

export interface Options {
  /** Where the server is, such as `https://chat.example.com`. */
  url: string;
  /** The token that signing in returned. Without `getToken`, the client renews it for as long as the server allows. */
  token?: string;
  /** Called when a token is needed: first, unless there is a `token`, and when the server has rejected the last one. */
  getToken?: GetToken;
  /** Where unsent messages survive a reload, such as `localStorage`. By default they are in memory only. */
  storage?: Storage | StorageLike;
  fetch?: Fetch;
  /** The class of WebSockets, where there is no global one. */
  WebSocket?: unknown;
}

/** A message that has just arrived in one of the user's rooms, maybe one of the user's own. */
export interface LiveMessage {
  room: string;
  offset: number;
  user: User;
  text: string;
  /** In Unix milliseconds. */
  time: number;
  replyTo?: number;
}

/** What happens, and the arguments that listeners get. */
export type ClientEvents = {
  /** `state` or `error`. */
  state: [];
  /** The list of rooms, or what is known about one of them. */
  rooms: [];
  /** A message arrived in one of the rooms that the client is subscribed to: usually all of them. */
  message: [message: LiveMessage];
  /** Anything arrived in such a room: messages, edits, deletions, reactions and changes of the room. */
  publication: [room: string, publication: Publication];
  /** What was missed in a room does not arrive as events, because it was too much, or the room is another one. */
  missed: [room: string];
  /** The user is no longer a member of a room, unless that was asked for here. */
  removed: [room: RoomInfo];
  /** People whose names were not known before, perhaps. */
  seen: [users: readonly User[]];
};

/** A user's chat. `connect` makes one that is connected. */
export class Client extends Emitter<ClientEvents> {
  readonly api: Api;
  /** The user's rooms, by name as well. */
  readonly list = new RoomList();
  /** The messages that are not known to be stored. */
  readonly outbox: Outbox;
  /** `connected`: the list of rooms is up to date, and messages are sent. `closed`: until `reconnect` is called. */
  state: 'connecting' | 'connected' | 'closed' = 'connecting';
  /** Why there is no connection. The code is `signed_out` if there will be none with this token. */
  error: ChatError | undefined;
  private readonly connection: Connection;
  private readonly tokens: Tokens;
  private readonly storage: StorageLike;
  /** The rooms that are open or subscribed to. */
  private readonly all = new Map<string, Room>();
  private recent: string[];
  private pollTimer: ReturnType<typeof setInterval> | undefined;
  private refreshing: Promise<void> | undefined;
  private refreshAgain = false;
  /** The list of rooms has been loaded over this connection. */
  private isListCurrent = false;
  private subscriptions = MAX_SUBSCRIPTIONS;
  private rejected = new Map<string, { at: number; error: ChatError }>();
  /** How far each room is being read. */
  private reading = new Map<string, { upTo: number; done: Promise<void> }>();
  /** The epochs of the rooms that the user leaves on purpose. */
  private leaving = new Set<string>();
  private reauthenticatedAt = 0;
  private stopped = false;

  /** A client that does nothing until `start` is called, except that messages can be written. */
  constructor(
    readonly user: User,
    options: Options,
    { api, tokens } = serverCalls(options),
  ) {
    super();
    this.api = api;
    this.tokens = tokens;
    this.storage = storageOf(options.storage);
    const url = `${baseOf(options).replace(/^http/, 'ws')}/connection/websocket`;
    this.connection = new Connection(url, tokens, options.WebSocket);
    this.outbox = new Outbox({
      user: user.id,
      storage: this.storage,
      send: (item) => this.sendItem(item),
      position: (room) => this.available(room)?.timeline.position ?? Infinity,
      epoch: (room) => this.list.get(room)?.epoch,
      newId,
      now: Date.now,
      wait,
    });
    this.recent = parseNames(this.storage.getItem(this.recentKey));
    this.list.subscribe(() => this.emit('rooms'));
    this.outbox.subscribe(() => {
      for (const room of this.all.values()) room.outboxChanged();
    });
    this.connection.onConnected = () => void this.connected();
    this.connection.onUserEvent = (event) => {
      if (event.read) this.list.read(event.read.room, event.read.offset, event.read.number);
      if (event.left !== undefined) this.removed(event.left);
      if (event.joined !== undefined || event.left !== undefined) void this.refresh();
    };
    this.connection.onChange = () => this.connectionChanged();
  }

  private get recentKey(): string {
    return `uproar.recent.${this.user.id}`;
  }

  /** The user's rooms, the one with the latest message first. */
  get rooms(): readonly RoomInfo[] {
    return this.list.sorted;
  }

  /** The names of rooms, the one opened last first. */
  get recentRooms(): readonly string[] {
    return this.recent;
  }

  /** Connects. From then on, the client reconnects by itself. */
  start(): void {
    this.connection.start();
    this.pollTimer = setInterval(() => {
      const isPolled = this.rooms.some(({ name }) => !this.available(name));
      if (isPolled && this.connection.state === 'connected') void this.refresh();
    }, POLL_MS);
  }

  /** Connects again after the server has closed the connection. */
  reconnect(): void {
    this.connection.start();
  }

  /** Closes the connection for good. */
  close(): void {
    this.stopped = true;
    this.outbox.stop();
    clearInterval(this.pollTimer);
    this.connection.stop();
    this.setState('closed', clientError('closed'));
  }

  /**
   * Opens one of the user's rooms: its messages and the people in it are loaded, and stay up to date until the room is
   * closed. The same name gives the same object. `load` loads something else first than the unread or newest messages.
   */
  room(name: string, { load }: { load?: (room: Room) => void } = {}): Room {
    const room = this.all.get(name) ?? this.newRoom(name);
    if (load) room.loadFirst = () => load(room);
    if (room.isOpen) return room;
    room.isOpen = true;
    this.recent = [name, ...this.recent.filter((other) => other !== name)].slice(0, MAX_SUBSCRIPTIONS);
    this.storage.setItem(this.recentKey, JSON.stringify(this.recent));
    if (room.isAvailable) {
      room.timeline.wake();
      room.loadFirst();
      void this.loadPeople(room);
    } else if (this.list.loaded) {
      this.retry(room);
    }
    return room;
  }

  async createRoom(room: { name: string; title?: string; private?: boolean }): Promise<FoundRoom> {
    const created = await this.api.createRoom(room);
    await this.refresh();
    return created;
  }

  async joinRoom(name: string): Promise<FoundRoom> {
    const room = await this.api.join(name);
    await this.refresh();
    return room;
  }

  async leaveRoom(name: string): Promise<void> {
    await this.without(name, () => this.api.leave(name));
  }

  async deleteRoom(name: string): Promise<void> {
    await this.without(name, () => this.api.deleteRoom(name));
  }

  /** Leaves a room on purpose, so that there's no need to tell the user. */
  private async without(name: string, leave: () => Promise<void>): Promise<void> {
    const epoch = this.list.get(name)?.epoch ?? '';
    this.leaving.add(epoch);
    try {
      await leave();
      this.drop(name);
    } finally {
      // The event may arrive later than the answer.
      setTimeout(() => this.leaving.delete(epoch), 5000);
    }
  }

  private setState(state: Client['state'], error?: ChatError): void {
    this.state = state;
    this.error = error;
    this.emit('state');
  }

  private connectionChanged(): void {
    if (this.stopped) return;
    const { state, code, reason } = this.connection;
    // There is more to do until the client is.
    if (state === 'connected') return;
    this.isListCurrent = false;
    this.outbox.setOnline(false);
    this.connection.unsubscribeAll();
    const isRejected = TOKEN_CODES.includes(code);
    if (state === 'connecting' || isRejected) this.setState('connecting');
    else if (code === UNAUTHORIZED_CODE) this.setState('closed', clientError('signed_out'));
    else this.setState('closed', new ChatError('refused', reason || String(code)));
    if (state === 'closed' && isRejected) void this.reauthenticate();
  }

  /** Gets a new token after the server rejected the current one, as it does when the password was changed. */
  private async reauthenticate(): Promise<void> {
    const isRepeated = Date.now() - this.reauthenticatedAt < 10_000;
    this.reauthenticatedAt = Date.now();
    if (isRepeated) return this.setState('closed', clientError('signed_out'));
    for (let tries = 0; !this.stopped; tries++) {
      try {
        const token = await this.tokens.renew(this.connection.token);
        if (!this.stopped) this.connection.start(token);
        return;
      } catch (error) {
        if (this.stopped) return;
        if (isSignedOut(error)) return this.setState('closed', clientError('signed_out'));
        this.setState('connecting', toChatError(error));
        await wait(backoff(tries));
      }
    }
  }

  private async connected(): Promise<void> {
    await this.refresh();
    // The connection may have been lost and restored in the meantime, and this may have happened already.
    if (this.connection.state !== 'connected' || this.state === 'connected' || this.stopped) return;
    this.setState('connected');
    this.outbox.setOnline(true);
    for (const room of this.all.values()) {
      if (!room.isOpen || !room.isAvailable) continue;
      room.retry();
      if (!room.timeline.loaded) room.loadFirst();
    }
  }

  /** A room that messages arrive from, whether it is open or not. */
  available(name: string): Room | undefined {
    const room = this.all.get(name);
    return room?.isAvailable ? room : undefined;
  }

  private newRoom(name: string): Room {
    const room = new Room(name, {
      user: this.user,
      api: this.api,
      outbox: this.outbox,
      info: (room) => this.list.get(room),
      fetchPage: (room, where) => this.page(room, where),
      history: (room, since) => this.connection.history(room, since),
      change: (room, data) => this.change(room, data),
      read: (room, offset) => this.read(room, offset),
      typing: (room) => this.connection.typing(room),
      retry: (room) => this.retry(room),
      close: (room) => this.closeRoom(room),
      seen: (users) => this.emit('seen', users),
    });
    this.all.set(name, room);
    return room;
  }

  private closeRoom(room: Room): void {
    room.isOpen = false;
    room.timeline.sleep();
    // Another object may have taken the name.
    if (!room.isAvailable && this.all.get(room.name) === room) this.all.delete(room.name);
  }

  /** Tries again to subscribe to a room. */
  private retry({ name }: Room): void {
    this.rejected.delete(name);
    this.updateSubscriptions();
  }

  private async page(name: string, where: PagePosition): Promise<Page> {
    const page = await this.api.chats(name, where);
    this.emit('seen', page.messages.map(({ user }) => user));
    return page;
  }

  /** Loads the list of rooms again. */
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
            const before = this.rooms;
            this.list.set(await this.connection.rooms());
            this.isListCurrent = true;
            for (const info of before) if (!this.list.get(info.name)) this.lost(info);
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
    const wanted = new Set(chooseRooms(this.rooms, this.recent, this.subscriptions));
    // Publishing to a room requires a subscription.
    for (const { name } of this.rooms) if (this.outbox.of(name).length > 0) wanted.add(name);
    for (const [name, room] of this.all) if (room.isOpen && this.list.get(name)) wanted.add(name);
    for (const [name, room] of [...this.all]) if (!wanted.has(name)) this.unsubscribe(room);
    for (const name of wanted) this.subscribe(name);
  }

  private unsubscribe(room: Room): void {
    this.connection.unsubscribe(room.name);
    this.end(room, this.list.get(room.name) ? undefined : clientError('not_member'));
  }

  private end(room: Room, error: ChatError | undefined): void {
    room.end(error);
    if (!room.isOpen) this.all.delete(room.name);
  }

  /** Subscribes from the position the room had when the connection was lost, or the one in the list of rooms. */
  private subscribe(name: string): void {
    const info = this.list.get(name);
    // A room that the user was removed from meanwhile must not be joined again.
    if (!info || !this.isListCurrent || this.connection.isSubscribed(name)) return;
    if (Date.now() - (this.rejected.get(name)?.at ?? 0) < REJECTED_MS) return;
    this.rejected.delete(name);
    const room = this.all.get(name) ?? this.newRoom(name);
    if (!room.isAvailable) this.begin(room, info);
    const { epoch, position: offset } = room.timeline;
    this.connection.subscribe(name, { epoch, offset }, {
      subscribed: (position, recovered) => {
        if (!recovered) {
          this.emit('missed', name);
          // Too much was missed, the room was created again under the same name, or a backup was restored. Whatever is
          // known of the room may be out of date.
          if (position) {
            this.begin(room, position);
            if (position.epoch !== epoch) this.outbox.replaced(name);
          }
          void this.refresh();
        }
        if (!room.isOpen) return;
        if (!room.timeline.loaded) room.loadFirst();
        void this.loadPeople(room);
      },
      publication: (publication) => this.onPublication(room, publication),
      typing: (user) => room.startedTyping(user),
      online: (count) => room.setOnline(count),
      join: (client, user) => {
        this.emit('seen', [user]);
        this.setConnection(room, client, user);
      },
      leave: (client) => this.setConnection(room, client, undefined),
      unsubscribed: (code, reason) => {
        this.emit('missed', name);
        if (code === UNSUBSCRIBED_CODE) this.removed(name);
        else {
          const error = new ChatError('refused', reason || `error ${code}`);
          // The cause may persist, and retrying immediately would loop.
          this.rejected.set(name, { at: Date.now(), error });
          this.end(room, error);
        }
        // The operator set a lower limit than expected. Open rooms come first, so they keep their subscriptions.
        const size = [...this.all.values()].filter(({ isAvailable }) => isAvailable).length;
        if (code === LIMIT_EXCEEDED_CODE && size > 0 && size < this.subscriptions) {
          this.subscriptions = size;
          this.rejected.clear();
        }
        void this.refresh();
      },
    });
    // In parallel with subscribing: the timeline merges the page with live publications.
    if (room.isOpen && !room.timeline.loaded) room.loadFirst();
  }

  /** Starts with nothing but a position, after which live publications follow. */
  private begin(room: Room, position: { epoch: string; offset: number }): void {
    room.begin(position);
    if (!room.isOpen) room.timeline.sleep();
  }

  /** The server doesn't report joins and leaves while there are too many people, so the list is loaded afterwards. */
  private setConnection(room: Room, client: string, user: User | undefined): void {
    const wereMany = room.online !== undefined;
    room.setConnection(client, user);
    if (wereMany && room.isOpen) void this.loadPeople(room);
  }

  private async loadPeople(room: Room): Promise<void> {
    try {
      const people = await this.connection.presence(room.name);
      if (!room.isAvailable) return;
      this.emit('seen', [...people.values()]);
      room.setConnections(people);
    } catch {
      // It is loaded again when the room is opened or the connection is back.
    }
  }

  private onPublication(room: Room, publication: Publication): void {
    const { name } = room;
    const { data, user, offset, time } = publication;
    const kind = kindOf(data);
    const isMine = user.id === this.user.id;
    this.emit('seen', [user]);
    room.forgetQuote(data.edit ?? data.delete);
    if (!room.timeline.publish(publication) && room.isOpen) void room.loadNewest();
    this.list.publication(name, offset, time, kind === 'message', isMine);
    if (isMine && data.id !== undefined) this.outbox.received(name, data.id, offset);
    this.outbox.positionReached(name, room.timeline.position);
    this.emit('publication', name, publication);
    // Only the server knows whether the deleted message was one of those that count.
    if (data.delete !== undefined && data.delete > (this.list.get(name)?.read.offset ?? 0)) void this.refresh();
    const member = data.added ?? data.removed;
    const { username } = data;
    if (member !== undefined && username !== undefined) this.emit('seen', [{ id: member, username }]);
    if (data.added !== undefined) room.added();
    if (data.removed !== undefined) room.removed(data.removed);
    if ((data.role ?? data.silenced ?? data.unsilenced ?? data.banned ?? data.unbanned) !== undefined) {
      room.rightsChanged();
    }
    // The number of members.
    if (member !== undefined) void this.refresh();
    if (kind === 'message') {
      room.stoppedTyping(user.id);
      const { text, reply_to: replyTo } = data;
      const more = replyTo === undefined ? {} : { replyTo };
      if (text !== undefined) this.emit('message', { room: name, offset, user, text, time, ...more });
    } else if (data.room || data.role === this.user.id) void this.refresh();
  }

  /** The user was removed from a room or left it in another tab, or the room was deleted. */
  private removed(name: string): void {
    const info = this.list.get(name);
    this.drop(name);
    if (info) this.lost(info);
  }

  private lost(info: RoomInfo): void {
    if (!this.leaving.has(info.epoch)) this.emit('removed', info);
  }

  /** Forgets a room. */
  private drop(name: string): void {
    this.list.remove(name);
    const room = this.all.get(name);
    if (room) this.unsubscribe(room);
  }

  private sendItem({ room, text, id, replyTo, epoch }: Item): Promise<{ offset: number }> {
    if (!this.list.get(room)) return Promise.reject(new SendError('not_member', false));
    const data: Data = { text, id };
    if (replyTo !== undefined) data.reply_to = replyTo;
    return this.connection.publish(room, data, epoch);
  }

  /**
   * Sends an edit, deletion or reaction. The outbox doesn't keep these: the user sees whether they succeeded. After a
   * failure with an unknown outcome the server accepts nothing else for the room before the same change is sent again.
   */
  private async change({ name, timeline }: Room, data: Data): Promise<number> {
    const { epoch } = timeline;
    const change = { ...data, id: newId() };
    for (let tries = 0; ; tries++) {
      try {
        return (await this.connection.publish(name, change, epoch)).offset;
      } catch (error) {
        const isUnknown = error instanceof SendError && error.isUnknown;
        if (!isUnknown || tries >= CHANGE_RETRIES || this.stopped) throw error;
        await wait(backoff(tries));
      }
    }
  }

  private async read(room: Room, offset: number): Promise<void> {
    const current = this.reading.get(room.name);
    if (current) {
      current.upTo = Math.max(current.upTo, offset);
      return current.done;
    }
    const reading = { upTo: offset, done: Promise.resolve() };
    this.reading.set(room.name, reading);
    reading.done = this.readUpTo(room, reading).finally(() => this.reading.delete(room.name));
    return reading.done;
  }

  private async readUpTo({ name, timeline }: Room, reading: { upTo: number }): Promise<void> {
    for (;;) {
      const { upTo } = reading;
      const info = this.list.get(name);
      if (!info || info.unread === 0 || upTo <= info.read.offset) return;
      if (this.connection.state !== 'connected') throw clientError('no_connection');
      const { epoch } = timeline;
      const read = await this.connection.read(name, upTo, epoch).catch((error: unknown) => {
        throw toChatError(error);
      });
      if (this.list.get(name)?.epoch === epoch) this.list.read(name, read.offset, read.number);
      if (reading.upTo === upTo) return;
    }
  }
}

/** Connects to a server, and loads the list of rooms. Fails if the server does not accept the token or is away. */
export async function connect(options: Options): Promise<Client> {
  const server = serverCalls(options);
  const { id, username } = await server.api.me();
  const client = new Client({ id, username }, options, server);
  await new Promise<void>((resolve, reject) => {
    const done = (error?: ChatError) => {
      clearTimeout(timer);
      stop();
      if (!error) return resolve();
      client.close();
      reject(error);
    };
    const timer = setTimeout(() => done(client.error ?? clientError('no_connection')), CONNECT_MS);
    const stop = client.on('state', () => {
      if (client.state === 'connected') done();
      else if (client.state === 'closed') done(client.error);
    });
    client.start();
  });
  return client;
}

interface ServerCalls {
  api: Api;
  tokens: Tokens;
}

function baseOf({ url }: Options): string {
  return url.replace(/\/+$/, '');
}

function serverCalls(options: Options): ServerCalls {
  const { token, getToken, fetch = globalThis.fetch } = options;
  const base = baseOf(options);
  const toServer: Fetch = (path, init) => fetch(base + path, init);
  const renew = async (rejected?: string) => (await call<SignedIn>(toServer, 'POST', '/token/refresh', rejected)).token;
  const tokens = new Tokens(token, getToken ?? renew);
  return { api: new Api(toServer, tokens), tokens };
}

function storageOf(storage: Options['storage']): StorageLike {
  if (!storage) return new Memory();
  return typeof Storage === 'function' && storage instanceof Storage
    ? new BrowserStorage(() => storage)
    : (storage as StorageLike);
}

/** `crypto.randomUUID` needs a secure origin, which a server on a local network often is not. */
function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

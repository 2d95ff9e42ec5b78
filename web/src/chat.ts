/** The page's chat: the client, and what only this page and this browser know. */
import {
  Client,
  type FoundRoom,
  type Outbox,
  type Publication,
  type Room,
  type RoomInfo,
  type StorageLike,
  Store,
  UNREAD_LIMIT,
  type User,
  kindOf,
  wait,
} from '@uproar/client';
import { Announcer } from './announcer';
import { Banner } from './banner';
import { errorText } from './errors';
import type { Session } from './session';
import type { Draft, Drafts, Part } from './state/drafts';
import { Names, fold } from './state/mentions';
import { RoomList } from './state/room-list';
import { RoomMarks } from './state/room-marks';
import { UnreadMarks } from './state/unread-marks';
import type { Say } from './texts/language';
import type { Target } from './ui/address';

/** How many pages are read, at most, to count what becomes unread. The server looks at as many messages. */
const UNREAD_PAGES = 30;
const SIGNED_OUT: Say = (t) => t.session.signedOut;

export interface Environment {
  /** Where the server is. */
  url: string;
  storage: StorageLike;
  drafts: Drafts;
  /** Whether the user is looking at the page. */
  visible(): boolean;
  notify(title: Say, body: string, tag: string, room: string): void;
}

export class Chat extends Store {
  readonly client: Client;
  readonly marks: RoomMarks;
  readonly rooms: RoomList;
  /** The people whose names this tab has seen. */
  readonly names = new Names();
  /** The name of the room on screen. */
  openRoom: string | undefined;
  /** The message that the address names, until it is on screen. */
  wanted: ({ room: string } & Target) | undefined;
  readonly banner = new Banner();
  readonly announcer: Announcer;
  private wasConnected = false;
  /** The rooms that the user lost while the page was open. */
  private readonly former = new Map<string, RoomInfo>();
  /** The epoch of the open room if the user has marked it as unread since it was opened. */
  private keptUnread: string | undefined;
  private opened: { room: Room; stop(): void } | undefined;

  constructor(
    readonly me: User,
    private readonly session: Session,
    private readonly env: Environment,
  ) {
    super();
    const { url, storage } = env;
    const client = new Client(me, { url, storage, getToken: (rejected) => session.tokenOf(me.id, rejected) });
    this.client = client;
    this.marks = new RoomMarks(storage, me.id);
    this.rooms = new RoomList(client.list, this.marks, new UnreadMarks(storage, me.id));
    this.marks.subscribe(() => this.rooms.sort());
    this.announcer = new Announcer(me, this.rooms, this.names, env.notify);
    this.names.add(me.username);
    client.on('state', () => this.stateChanged());
    client.on('seen', (users) => {
      for (const { username } of users) this.names.add(username);
    });
    client.on('publication', (room, publication) => this.onPublication(room, publication));
    client.on('missed', (room) => this.banner.skip(room));
    client.on('removed', (room) => {
      this.former.set(room.name, room);
      this.banner.lostRoom(room.title, client.state === 'connected');
    });
  }

  get api(): Client['api'] {
    return this.client.api;
  }

  get outbox(): Outbox {
    return this.client.outbox;
  }

  start(): void {
    this.client.start();
  }

  stop(): void {
    this.banner.stop();
    this.announcer.stop();
    this.client.close();
  }

  /** Whether the user is looking at the page. */
  get isSeen(): boolean {
    return this.env.visible();
  }

  /** A room that messages arrive from. */
  room(name: string): Room | undefined {
    return this.client.available(name);
  }

  get textLimitBytes(): number {
    return this.session.textLimitBytes;
  }

  /** The open room, also while it is not available. */
  get open(): Room | undefined {
    return this.opened?.room;
  }

  /** Rooms that the user is not, or no longer, a member of, in which they wrote something that was not sent. */
  get stranded(): string[] {
    const names = this.rooms.loaded ? [...new Set([...this.outbox.rooms, ...this.draftRooms])] : [];
    return names.filter((name) => !this.rooms.get(name));
  }

  /** A room that the user is no longer a member of. */
  formerRoom(name: string): RoomInfo | undefined {
    return this.former.get(name);
  }

  private stateChanged(): void {
    const { state, error } = this.client;
    if (error?.code === 'closed') return;
    if (state === 'connected') {
      const position = (name: string) => this.client.available(name)?.timeline.position;
      if (this.wasConnected) this.banner.back(this.rooms.sorted, position);
      else this.banner.show(undefined);
      this.wasConnected = true;
    } else {
      if (this.wasConnected) this.banner.lost(this.rooms.sorted);
      if (error?.code === 'signed_out') this.session.end(SIGNED_OUT);
      else if (state === 'closed') this.banner.show((t) => t.banner.closed(error?.message ?? ''));
      else if (error) this.banner.show((t) => t.session.tryingAgain(errorText(error, t)));
      else if (!this.wasConnected) this.banner.showLater((t) => t.banner.connecting, 1000);
      else this.banner.show((t) => t.banner.lost);
    }
    this.changed();
  }

  /** The connection does not reconnect by itself. */
  get isClosed(): boolean {
    return this.client.state === 'closed';
  }

  /** Loads what a room shows first. */
  private load(room: Room): void {
    // The list of messages loads what the address names.
    if (this.wanted?.room === room.name) this.changed();
    else void room.loadInitial(this.rooms.readUpTo(room.name), this.rooms.unread(room.name));
  }

  private onPublication(name: string, { data, user, offset }: Publication): void {
    const isMessage = kindOf(data) === 'message';
    const isMine = user.id === this.me.id;
    this.banner.publication(name, offset, isMessage && !isMine);
    const epoch = this.rooms.get(name)?.epoch;
    if (!isMessage || isMine || data.text === undefined || epoch === undefined) return;
    const isSeen = name === this.openRoom && this.isSeen;
    this.announcer.message(name, epoch, user, data.text, offset, isSeen);
  }

  /** The message that the address names is on screen, or there is no such message. */
  arrived(): void {
    this.wanted = undefined;
    const { open: room } = this;
    if (room?.isAvailable && !room.timeline.loaded && !room.loading) this.load(room);
  }

  /** Opens a room, maybe at one of its messages, or closes the open one. */
  show(name: string | undefined, message?: Target): void {
    if (name !== undefined && message !== undefined) this.wanted = { room: name, ...message };
    else if (name !== this.openRoom) this.wanted = undefined;
    if (name === this.openRoom) {
      if (message !== undefined) this.changed();
      return;
    }
    this.opened?.stop();
    this.opened = undefined;
    this.keptUnread = undefined;
    this.openRoom = name;
    if (name !== undefined) {
      const room = this.client.room(name, { load: (room) => this.load(room) });
      const stop = room.on('state', () => this.changed());
      this.opened = {
        room,
        stop: () => {
          stop();
          room.close();
        },
      };
    }
    this.changed();
  }

  /** Marks a room as read, in all tabs. Called while its newest messages are on screen. */
  async read(name: string): Promise<void> {
    const room = this.room(name);
    if (!room || this.keptUnread === room.timeline.epoch) return;
    this.rooms.setMark(name, undefined);
    if (this.rooms.unread(name) === 0 || this.client.state !== 'connected') return;
    try {
      await room.markRead();
    } catch {
      await wait(2000);
    }
    // More messages may have arrived in the meantime. Those that are still to come are read when they are here.
    const readUpTo = this.rooms.get(name)?.read.offset ?? 0;
    if (this.rooms.unread(name) > 0 && room.timeline.position > readUpTo) this.changed();
  }

  /** Marks a room as unread from a message on, in this browser, until the room is opened again. */
  async markUnread(name: string, offset: number): Promise<void> {
    // What is just being read counts as read.
    await this.room(name)?.markRead(0).catch(() => {});
    const info = this.rooms.get(name);
    if (!info) return;
    // The server counts those after its own marker.
    let count = 0;
    for (let page = 0, after = offset - 1; page < UNREAD_PAGES && after < info.read.offset; page++) {
      const { messages, more } = await this.api.chats(name, { after });
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

  /** Somebody in a room by name, as far as they are known. */
  person(room: Room, name: string): User | undefined {
    const folded = fold(name);
    return [this.me, ...room.known].find(({ username }) => username === name || fold(username) === folded);
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

  /** The texts that the user did not send in a room that they are no longer a member of. */
  unfinished(name: string): { part: Part; text: string }[] {
    return this.env.drafts.parts(this.me.id, name);
  }

  discardDraft(name: string, part: Part): void {
    this.env.drafts.discard(this.me.id, name, part);
    this.changed();
  }

  /** The rooms with a draft. */
  get draftRooms(): Set<string> {
    return this.env.drafts.rooms(this.me.id);
  }

  async joinRoom(name: string): Promise<FoundRoom> {
    const room = await this.client.joinRoom(name);
    this.former.delete(room.name);
    return room;
  }
}

/** Messages that are not known to be stored. */
import { type ChatError, SendError, clientError } from './errors.ts';
import type { StorageLike } from './storage.ts';
import { Store } from './store.ts';

/** A message as it was written. */
export interface Written {
  room: string;
  /** The room's epoch at that time. Another room may take the name before the message is sent. */
  epoch?: string;
  text: string;
  replyTo?: number;
}

export interface Item extends Written {
  /** The message's id. The server stores a message once, however often it is sent with the same id. */
  id: string;
  /** When it was written, in Unix milliseconds. */
  time: number;
  /** `stored`: acknowledged, but not yet seen among the room's publications. */
  status: 'pending' | 'failed' | 'stored';
  /** Why it failed. */
  error?: Pick<ChatError, 'code' | 'message'>;
  /** It failed, but may have been stored all the same. */
  isUnknown?: boolean;
  /** It waits for an earlier message with an unknown outcome. */
  isHeld?: boolean;
  offset?: number;
}

export interface OutboxEnvironment {
  user: string;
  storage: StorageLike;
  send(item: Item): Promise<{ offset: number }>;
  /** The offset of the last publication received in a room. */
  position(room: string): number;
  /** The room's epoch, if it is known. */
  epoch(room: string): string | undefined;
  newId(): string;
  now(): number;
  wait(ms: number): Promise<void>;
}

/** How often a message is sent before it is marked as failed. */
const TRIES = 5;
const PENDING = { status: 'pending', error: undefined, isUnknown: undefined, isHeld: undefined } as const;
const HELD = { status: 'failed', error: plain(clientError('previous_message')), isHeld: true } as const;

/**
 * The outbox survives a reload. Every item has its own key in the storage, so that tabs don't overwrite each other's
 * items. Two tabs may send the same item; its id makes that harmless.
 */
export class Outbox extends Store {
  private items: Item[] = [];
  private online = false;
  private sending = new Set<string>();
  private stopped = false;
  /** Who waits for an item to be stored. */
  private readonly waiting = new Map<string, { resolve(offset: number): void; reject(error: Error): void }[]>();

  constructor(private readonly env: OutboxEnvironment) {
    super();
    const prefix = this.key('');
    for (const key of env.storage.keys()) {
      if (!key.startsWith(prefix)) continue;
      const item = parse(env.storage.getItem(key));
      if (item) this.items.push(item);
    }
    this.items.sort((a, b) => a.time - b.time);
  }

  of(room: string): readonly Item[] {
    return this.items.filter(item => item.room === room);
  }

  /** The rooms with items in the outbox. */
  get rooms(): string[] {
    return [...new Set(this.items.map(({ room }) => room))];
  }

  get size(): number {
    return this.items.length;
  }

  add(written: Written): Item {
    // Strictly increasing, so that the order survives a reload.
    const time = Math.max(this.env.now(), (this.items.at(-1)?.time ?? 0) + 1);
    const item: Item = { ...written, id: this.env.newId(), time, status: 'pending' };
    this.items = [...this.items, item];
    if (this.of(item.room).some(({ isUnknown, isHeld }) => isUnknown || isHeld)) this.update(item.id, HELD);
    else this.save(item);
    this.changed();
    void this.sendPending(item.room);
    return item;
  }

  /** The offset of an item that has been added, once it is stored. */
  stored(id: string): Promise<number> {
    return new Promise((resolve, reject) => {
      const item = this.find(id);
      if (item?.status === 'stored') resolve(item.offset!);
      else if (!item) reject(clientError('discarded'));
      else this.waiting.set(id, [...(this.waiting.get(id) ?? []), { resolve, reject }]);
    });
  }

  private settle(id: string, outcome: number | Error): void {
    const waiting = this.waiting.get(id) ?? [];
    this.waiting.delete(id);
    for (const { resolve, reject } of waiting) {
      if (typeof outcome === 'number') resolve(outcome);
      else reject(outcome);
    }
  }

  /**
   * Sends an item again, followed by the items that wait for it. The user decides that the present room may have it.
   */
  retry(id: string): void {
    const item = this.find(id);
    if (!item) return;
    const epoch = this.env.epoch(item.room);
    const isMoved = epoch !== undefined && item.epoch !== undefined && epoch !== item.epoch;
    // The offset of the message that it replied to means nothing there.
    this.update(id, { ...PENDING, ...(isMoved ? { epoch, replyTo: undefined } : {}) } as Partial<Item>);
    this.release(item);
  }

  /** Removes an item and sends those that wait for it. */
  discard(id: string): void {
    const item = this.find(id);
    this.remove(id);
    if (item) this.release(item);
  }

  private release({ room, time }: Item): void {
    for (const item of this.of(room)) if (item.isHeld && item.time > time) this.update(item.id, PENDING);
    void this.sendPending(room);
  }

  /** Removes the stored items that the room's timeline shows by now, because it has reached `position`. */
  positionReached(room: string, position: number): void {
    for (const item of this.of(room)) {
      if (item.status === 'stored' && item.offset! <= position) this.remove(item.id);
    }
  }

  /** Removes the stored items of a room whose history goes on elsewhere: their offsets mean nothing there. */
  replaced(room: string): void {
    this.positionReached(room, Infinity);
  }

  /** Removes the item whose message arrived as a publication. */
  received(room: string, id: string, offset: number): void {
    const item = this.find(id);
    if (item?.room !== room) return;
    this.settle(id, offset);
    this.remove(id);
  }

  /** Follows another tab that removed an item from the storage. */
  removedElsewhere(key: string): void {
    const id = key.slice(this.key('').length);
    if (key.startsWith(this.key('')) && this.find(id)?.status !== 'stored') this.remove(id);
  }

  setOnline(online: boolean): void {
    if (online && !this.online) {
      // Sending them again over the new connection reveals whether they were stored.
      for (const item of this.items) if (item.isUnknown || item.isHeld) this.update(item.id, PENDING);
    }
    this.online = online;
    if (online) for (const room of this.rooms) void this.sendPending(room);
  }

  stop(): void {
    this.stopped = true;
    for (const id of [...this.waiting.keys()]) this.settle(id, clientError('closed'));
  }

  /** Sends a room's pending items one at a time, so that no message overtakes an earlier one. */
  private async sendPending(room: string): Promise<void> {
    if (this.sending.has(room)) return;
    this.sending.add(room);
    try {
      let tries = 0;
      while (this.online && !this.stopped) {
        const item = this.items.find(item => item.room === room && item.status === 'pending');
        if (!item) return;
        try {
          const epoch = this.env.epoch(room);
          if (item.epoch !== undefined && epoch !== undefined && item.epoch !== epoch) {
            throw new SendError('wrong_epoch', false);
          }
          const { offset } = await this.env.send(item);
          tries = 0;
          this.env.storage.removeItem(this.key(item.id));
          this.settle(item.id, offset);
          this.update(item.id, { status: 'stored', offset }, false);
          // A retried message that was stored long ago is not published again.
          this.positionReached(room, this.env.position(room));
        } catch (error) {
          if (this.stopped) return;
          const failure = error instanceof SendError ? error : new SendError('refused', true, true, String(error));
          const { temporary, isUnknown } = failure;
          // Being offline is not a failure: the item stays pending.
          if (temporary && !this.online) return;
          if (temporary && ++tries < TRIES) {
            await this.env.wait(250 * 2 ** tries);
            continue;
          }
          tries = 0;
          this.settle(item.id, failure);
          this.update(item.id, { status: 'failed', error: plain(failure), isUnknown });
          // Later messages must not overtake it.
          if (temporary) this.hold(item);
        }
      }
    } finally {
      this.sending.delete(room);
    }
  }

  private hold({ room, time }: Item): void {
    for (const item of this.of(room)) {
      if (item.status !== 'pending' || item.time < time) continue;
      this.update(item.id, HELD);
    }
  }

  private find(id: string): Item | undefined {
    return this.items.find(item => item.id === id);
  }

  private update(id: string, change: Partial<Item>, save = true): void {
    this.items = this.items.map(item => {
      if (item.id !== id) return item;
      const changed = { ...item, ...change };
      if (save) this.save(changed);
      return changed;
    });
    this.changed();
  }

  private remove(id: string): void {
    this.env.storage.removeItem(this.key(id));
    if (!this.find(id)) return;
    this.settle(id, clientError('discarded'));
    this.items = this.items.filter(item => item.id !== id);
    this.changed();
  }

  private save(item: Item): void {
    this.env.storage.setItem(this.key(item.id), JSON.stringify(item));
  }

  private key(id: string): string {
    return keyOf(this.env.user, id);
  }
}

function keyOf(user: string, id: string): string {
  return `uproar.outbox.${user}.${id}`;
}

/** How many of a user's messages wait to be sent. */
export function countPending(storage: StorageLike, user: string): number {
  const keys = storage.keys().filter((key) => key.startsWith(keyOf(user, '')));
  return keys.filter((key) => parse(storage.getItem(key))?.status === 'pending').length;
}

/** The item in a text that may be anything: another version of the page, or a person, may have stored it. */
function parse(text: string | null): Item | undefined {
  try {
    const {
      id,
      room,
      epoch,
      text: written,
      time,
      replyTo,
      status,
      error,
      isUnknown,
      isHeld,
    } = JSON.parse(text ?? '') as Record<string, unknown>;
    if (typeof id !== 'string' || typeof room !== 'string' || typeof written !== 'string') return undefined;
    return {
      id,
      room,
      text: written,
      time: typeof time === 'number' && Number.isFinite(time) ? time : 0,
      status: status === 'failed' ? 'failed' : 'pending',
      ...(typeof epoch === 'string' ? { epoch } : {}),
      ...(isOffset(replyTo) ? { replyTo } : {}),
      ...errorIn(error),
      ...(isUnknown === true ? { isUnknown } : {}),
      ...(isHeld === true ? { isHeld } : {}),
    };
  } catch {
    return undefined;
  }
}

/** What of an error survives a reload. */
function plain({ code, message }: ChatError): { code: string; message: string } {
  return { code, message };
}

function errorIn(stored: unknown): Pick<Item, 'error'> {
  const { code, message } = (stored ?? {}) as Record<string, unknown>;
  return typeof code === 'string' && typeof message === 'string' ? { error: { code, message } } : {};
}

export function isOffset(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value > 0;
}

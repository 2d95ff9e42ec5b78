/** Unfinished input: what was written in a room and not sent. */
import { type StorageLike, isOffset } from '@uproar/client';
import { isBlank } from './text';

export interface Draft {
  text: string;
  /** The epoch of the room that the offsets belong to. */
  epoch?: string;
  /** The offset of the message being replied to. */
  replyTo?: number;
  /** The message being edited, and its new text so far. */
  edit?: { offset: number; text?: string };
}

/** What can be discarded by itself. */
export type Part = 'text' | 'edit';

const NOTHING: Draft = { text: '' };
const OWN = 'uproar.draft.';
const LEFT = 'uproar.left.';
const LEFT_LIMIT = 8;

/**
 * A draft belongs to one tab, so that tabs neither show nor erase each other's. A tab that closes leaves its drafts to
 * the next one in which the room is opened.
 */
export class Drafts {
  constructor(
    private readonly tab: StorageLike,
    private readonly shared: StorageLike,
  ) {
    this.reclaim();
  }

  /** This tab's draft in a room. Offsets that belong to another epoch refer to other messages, and are dropped. */
  read(user: string, room: string, epoch: string): Draft {
    const draft = parse(this.tab.getItem(`${OWN}${user}.${room}`));
    if (!draft) return NOTHING;
    return draft.epoch === epoch ? draft : { text: draft.text };
  }

  /**
   * Takes over the draft that another tab left in a room, unless this tab has one. Only when the room is opened: later,
   * what is being written would replace it.
   */
  claim(user: string, room: string): void {
    const key = `${user}.${room}`;
    if (parse(this.tab.getItem(OWN + key))) return;
    const left = this.left(key);
    const draft = left.pop();
    if (!draft) return;
    this.tab.setItem(OWN + key, JSON.stringify(draft));
    this.setLeft(key, left);
  }

  /** The rooms in which something was begun, in this tab or in one that left it. */
  rooms(user: string): Set<string> {
    const prefix = `${user}.`;
    const left = this.shared.keys().flatMap((key) => (key.startsWith(LEFT) ? [key.slice(LEFT.length)] : []));
    const begun = left.filter((key) => this.left(key).some(isBegun));
    for (const [key, draft] of this.own()) if (isBegun(draft)) begun.push(key);
    return new Set(begun.flatMap((key) => (key.startsWith(prefix) ? [key.slice(prefix.length)] : [])));
  }

  /** The texts of this tab's draft in a room, whatever its epoch is. */
  parts(user: string, room: string): { part: Part; text: string }[] {
    const draft = parse(this.tab.getItem(`${OWN}${user}.${room}`));
    const parts = [{ part: 'text' as const, text: draft?.text }, { part: 'edit' as const, text: draft?.edit?.text }];
    return parts.flatMap(({ part, text = '' }) => (isBlank(text) ? [] : [{ part, text }]));
  }

  discard(user: string, room: string, part: Part): void {
    const draft = parse(this.tab.getItem(`${OWN}${user}.${room}`));
    if (!draft) return;
    if (part === 'edit') delete draft.edit;
    else draft.text = '';
    this.keep(user, room, draft);
  }

  change(user: string, room: string, epoch: string, change: Partial<Draft>): void {
    this.keep(user, room, { ...this.read(user, room, epoch), ...change, epoch });
  }

  private keep(user: string, room: string, draft: Draft): void {
    const isEmpty = draft.text === '' && draft.replyTo === undefined && draft.edit === undefined;
    if (isEmpty) this.tab.removeItem(`${OWN}${user}.${room}`);
    else this.tab.setItem(`${OWN}${user}.${room}`, JSON.stringify(draft));
  }

  /** Leaves the drafts of this tab to others. */
  leave(): void {
    for (const [key, draft] of this.own()) {
      const left = this.left(key).filter((other) => !isSame(other, draft));
      this.setLeft(key, [...left, draft].slice(-LEFT_LIMIT));
    }
  }

  /** Takes back the drafts that `leave` left, because this tab is still there: it was reloaded. */
  reclaim(): void {
    for (const [key, draft] of this.own()) {
      this.setLeft(key, this.left(key).filter((other) => !isSame(other, draft)));
    }
  }

  private own(): [string, Draft][] {
    return this.tab.keys().flatMap((key) => {
      const draft = key.startsWith(OWN) ? parse(this.tab.getItem(key)) : undefined;
      return draft ? [[key.slice(OWN.length), draft] as [string, Draft]] : [];
    });
  }

  private left(key: string): Draft[] {
    try {
      const left: unknown = JSON.parse(this.shared.getItem(LEFT + key) ?? '[]');
      return Array.isArray(left) ? left.flatMap((draft) => check(draft) ?? []) : [];
    } catch {
      return [];
    }
  }

  private setLeft(key: string, left: Draft[]): void {
    if (left.length > 0) this.shared.setItem(LEFT + key, JSON.stringify(left));
    else this.shared.removeItem(LEFT + key);
  }
}

function isBegun({ text, edit }: Draft): boolean {
  return !isBlank(text) || edit !== undefined;
}

function isSame(a: Draft, b: Draft): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

function parse(text: string | null): Draft | undefined {
  try {
    return text === null ? undefined : check(JSON.parse(text));
  } catch {
    return undefined;
  }
}

/** The draft in a value that may be anything: another version of the page, or a person, may have stored it. */
function check(value: unknown): Draft | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { text, epoch, replyTo, edit } = value as Record<string, unknown>;
  if (typeof text !== 'string') return undefined;
  const draft: Draft = { text };
  if (typeof epoch === 'string') draft.epoch = epoch;
  if (isOffset(replyTo)) draft.replyTo = replyTo;
  const { offset, text: edited } = (edit ?? {}) as Record<string, unknown>;
  if (isOffset(offset)) draft.edit = { offset, ...(typeof edited === 'string' ? { text: edited } : {}) };
  return draft;
}

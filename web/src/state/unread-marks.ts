/** Rooms that the user marked as unread. Only this browser knows: the server's marker never moves back. */
import { type StorageLike, isOffset } from '@uproar/client';

export interface UnreadMark {
  /** Messages after this offset are unread. */
  after: number;
  /** How many messages are unread that would not be without the mark. */
  count: number;
}

/** By the epoch of the room, so that no other room of the same name is marked. */
export class UnreadMarks {
  private marks = new Map<string, UnreadMark>();

  private readonly key: string;

  constructor(
    private readonly storage: StorageLike,
    user: string,
  ) {
    this.key = `uproar.unread.${user}`;
    this.load();
  }

  /** Another tab has changed a key of the browser's storage; `null`: all of them. Returns whether it is this one. */
  stored(key: string | null): boolean {
    if (key !== null && key !== this.key) return false;
    this.load();
    return true;
  }

  private load(): void {
    this.marks = parse(this.storage.getItem(this.key));
  }

  get(epoch: string): UnreadMark | undefined {
    return this.marks.get(epoch);
  }

  /** Returns whether this changed anything. */
  set(epoch: string, mark: UnreadMark | undefined): boolean {
    // Another tab may have changed them since.
    this.load();
    if (mark === undefined ? !this.marks.delete(epoch) : !this.marks.set(epoch, mark)) return false;
    if (this.marks.size === 0) this.storage.removeItem(this.key);
    else this.storage.setItem(this.key, JSON.stringify(Object.fromEntries(this.marks)));
    return true;
  }

  /** Forgets the marks of all other rooms. */
  keep(epochs: ReadonlySet<string>): void {
    for (const epoch of [...this.marks.keys()]) if (!epochs.has(epoch)) this.set(epoch, undefined);
  }
}

/** The marks in a text that may be anything: another version of the page, or a person, may have stored it. */
function parse(text: string | null): Map<string, UnreadMark> {
  try {
    const marks = Object.entries((JSON.parse(text ?? '{}') ?? {}) as Record<string, Partial<UnreadMark> | null>);
    return new Map(marks.filter((entry): entry is [string, UnreadMark] => isMark(entry[1])));
  } catch {
    return new Map();
  }
}

function isMark(mark: Partial<UnreadMark> | null): boolean {
  const isCount = (value: unknown) => value === 0 || isOffset(value);
  return isCount(mark?.after) && isCount(mark?.count);
}

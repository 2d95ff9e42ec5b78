/** How the user has marked rooms. The marks are kept in this browser. */
import { parseNames, type StorageLike, Store } from '@uproar/client';

/** Favourites come first in the list. Muted rooms neither notify nor count. */
export type Mark = 'favourite' | 'muted';

const MARKS: readonly Mark[] = ['favourite', 'muted'];

export class RoomMarks extends Store {
  private readonly rooms = { favourite: new Set<string>(), muted: new Set<string>() };

  constructor(
    private readonly storage: StorageLike,
    private readonly user: string,
  ) {
    super();
    this.load();
  }

  has(mark: Mark, room: string): boolean {
    return this.rooms[mark].has(room);
  }

  set(mark: Mark, room: string, isMarked: boolean): void {
    // Another tab may have changed them since.
    this.load();
    if (isMarked) this.rooms[mark].add(room);
    else this.rooms[mark].delete(room);
    this.storage.setItem(this.key(mark), JSON.stringify([...this.rooms[mark]]));
    this.changed();
  }

  /** A key of the browser's storage has been changed by another tab; `null`: all of them. */
  stored(key: string | null): void {
    if (key !== null && !MARKS.some((mark) => this.key(mark) === key)) return;
    this.load();
    this.changed();
  }

  private load(): void {
    for (const mark of MARKS) this.rooms[mark] = new Set(parseNames(this.storage.getItem(this.key(mark))));
  }

  private key(mark: Mark): string {
    return `uproar.${mark}.${this.user}`;
  }
}

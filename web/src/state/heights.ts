/** The positions of the rows of a virtual list, from the heights measured so far and a guess for all other rows. */
export class Heights {
  private keys: readonly string[] = [];
  private measured = new Map<string, number>();
  /** `tops[i]` is where row `i` begins. One more entry says where the last row ends. */
  private tops: number[] = [0];
  private stale = true;

  constructor(private readonly guess: number) {}

  setKeys(keys: readonly string[]): void {
    if (keys === this.keys) return;
    this.keys = keys;
    this.stale = true;
    // Forget the rows that have left the list once there are many of them.
    if (this.measured.size > 4 * keys.length + 1000) {
      const current = new Set(keys);
      for (const key of this.measured.keys()) if (!current.has(key)) this.measured.delete(key);
    }
  }

  /** Records the height of a row. Returns whether it changed. */
  measure(key: string, height: number): boolean {
    if (this.measured.get(key) === height) return false;
    this.measured.set(key, height);
    this.stale = true;
    return true;
  }

  /** Forgets all measured heights. */
  forget(): void {
    this.measured.clear();
    this.stale = true;
  }

  top(index: number): number {
    this.recompute();
    return this.tops[Math.min(index, this.keys.length)]!;
  }

  get total(): number {
    this.recompute();
    return this.tops[this.keys.length]!;
  }

  /** The row at this position: the last one that begins at or above it. */
  at(y: number): number {
    this.recompute();
    let low = 0;
    let high = this.keys.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.tops[middle]! <= y) low = middle;
      else high = middle - 1;
    }
    return Math.max(0, low);
  }

  /** The rows between two positions, from `first` up to but not including `end`. */
  range(from: number, to: number): { first: number; end: number } {
    if (this.keys.length === 0) return { first: 0, end: 0 };
    return { first: this.at(from), end: this.at(to) + 1 };
  }

  private recompute(): void {
    if (!this.stale) return;
    this.stale = false;
    const tops = new Array<number>(this.keys.length + 1);
    let top = 0;
    for (let i = 0; i < this.keys.length; i++) {
      tops[i] = top;
      top += this.measured.get(this.keys[i]!) ?? this.guess;
    }
    tops[this.keys.length] = top;
    this.tops = tops;
  }
}

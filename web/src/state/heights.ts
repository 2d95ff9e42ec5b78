/** Where the rows of a long list are, of which few are there at a time: measured heights, and a guess for the rest. */
export class Heights {
  private keys: readonly string[] = [];
  private measured = new Map<string, number>();
  /** `tops[i]` is where row `i` begins; one more says where the last ends. */
  private tops: number[] = [0];
  private stale = true;

  constructor(private readonly guess: number) {}

  setKeys(keys: readonly string[]): void {
    if (keys === this.keys) return;
    this.keys = keys;
    this.stale = true;
    // Rows that are long gone need not be remembered for ever.
    if (this.measured.size > 4 * keys.length + 1000) {
      const there = new Set(keys);
      for (const key of this.measured.keys()) if (!there.has(key)) this.measured.delete(key);
    }
  }

  /** True: it was not known to be so high. */
  measure(key: string, height: number): boolean {
    if (this.measured.get(key) === height) return false;
    this.measured.set(key, height);
    this.stale = true;
    return true;
  }

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

  /** The row at this height: the last one that begins there or above. */
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

  /** Rows between two heights: from `first` up to, but without, `end`. */
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

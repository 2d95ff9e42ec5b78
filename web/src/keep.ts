import type { Keep } from './state/outbox';

/** What lasts as long as the page, for browsers that forbid pages to keep anything. */
class Memory implements Keep {
  private readonly map = new Map<string, string>();
  get length(): number {
    return this.map.size;
  }
  key(index: number): string | null {
    return [...this.map.keys()][index] ?? null;
  }
  getItem(key: string): string | null {
    return this.map.get(key) ?? null;
  }
  setItem(key: string, value: string): void {
    this.map.set(key, value);
  }
  removeItem(key: string): void {
    this.map.delete(key);
  }
}

/** This browser's memory over reloads. */
export const keep: Keep = (() => {
  try {
    return localStorage;
  } catch {
    return new Memory();
  }
})();

/** Keeps a value, or nothing where it is undefined. Where there is no room left, it lasts as long as what shows it. */
export function remember(key: string, value: string | undefined): void {
  try {
    if (value === undefined) keep.removeItem(key);
    else keep.setItem(key, value);
  } catch {
    // The quota is used up.
  }
}

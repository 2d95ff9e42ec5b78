import type { StorageLike } from './state/outbox';

/** What this browser remembers over reloads. What it does not take, being full or forbidden, lasts as long as the page. */
class BrowserStorage implements StorageLike {
  private readonly rest = new Map<string, string>();

  constructor(private readonly store: Storage | null) {}

  keys(): string[] {
    return [...new Set([...Object.keys(this.store ?? {}), ...this.rest.keys()])];
  }

  getItem(key: string): string | null {
    return this.rest.get(key) ?? this.store?.getItem(key) ?? null;
  }

  setItem(key: string, value: string): void {
    try {
      if (!this.store) throw new Error('no store');
      this.store.setItem(key, value);
      this.rest.delete(key);
    } catch {
      this.rest.set(key, value);
    }
  }

  removeItem(key: string): void {
    this.rest.delete(key);
    this.store?.removeItem(key);
  }
}

export const storage: StorageLike = new BrowserStorage(
  (() => {
    try {
      return localStorage;
    } catch {
      return null;
    }
  })(),
);

/** Keeps a value, or nothing where it is undefined. */
export function remember(key: string, value: string | undefined): void {
  if (value === undefined) storage.removeItem(key);
  else storage.setItem(key, value);
}

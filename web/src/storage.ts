import type { StorageLike } from './state/outbox';

/** `localStorage`, or memory for what it won't take because it is full or blocked: that lasts as long as the page. */
class BrowserStorage implements StorageLike {
  private readonly fallback = new Map<string, string>();

  constructor(private readonly localStorage: Storage | null) {}

  keys(): string[] {
    return [...new Set([...Object.keys(this.localStorage ?? {}), ...this.fallback.keys()])];
  }

  getItem(key: string): string | null {
    return this.fallback.get(key) ?? this.localStorage?.getItem(key) ?? null;
  }

  setItem(key: string, value: string): void {
    try {
      if (!this.localStorage) throw new Error('no localStorage');
      this.localStorage.setItem(key, value);
      this.fallback.delete(key);
    } catch {
      this.fallback.set(key, value);
    }
  }

  removeItem(key: string): void {
    this.fallback.delete(key);
    this.localStorage?.removeItem(key);
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

/** Stores a value, or removes it if it is undefined. */
export function remember(key: string, value: string | undefined): void {
  if (value === undefined) storage.removeItem(key);
  else storage.setItem(key, value);
}

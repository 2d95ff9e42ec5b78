/** Where unsent messages are kept. */

/** A part of the Web Storage API, with a list of the keys. */
export interface StorageLike {
  keys(): string[];
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
  removeItem(key: string): void;
}

/** Keeps everything for as long as the program runs. */
export class Memory implements StorageLike {
  readonly map = new Map<string, string>();

  keys(): string[] {
    return [...this.map.keys()];
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

/** Web Storage, or memory for what it won't take because it is full or blocked: that lasts as long as the page. */
export class BrowserStorage implements StorageLike {
  private readonly fallback = new Memory();
  private readonly web: Storage | null;

  constructor(open: () => Storage | null) {
    let web: Storage | null;
    try {
      web = open();
    } catch {
      web = null;
    }
    this.web = web;
  }

  keys(): string[] {
    return [...new Set([...Object.keys(this.web ?? {}), ...this.fallback.keys()])];
  }

  getItem(key: string): string | null {
    return this.fallback.getItem(key) ?? this.web?.getItem(key) ?? null;
  }

  setItem(key: string, value: string): void {
    try {
      if (!this.web) throw new Error('no storage');
      this.web.setItem(key, value);
      this.fallback.removeItem(key);
    } catch {
      this.fallback.setItem(key, value);
    }
  }

  removeItem(key: string): void {
    this.fallback.removeItem(key);
    this.web?.removeItem(key);
  }
}

import type { StorageLike } from './outbox.ts';

/** A storage for tests. */
export class Memory implements StorageLike {
  map = new Map<string, string>();
  keys() { return [...this.map.keys()]; }
  getItem(key: string) { return this.map.get(key) ?? null; }
  setItem(key: string, value: string) { this.map.set(key, value); }
  removeItem(key: string) { this.map.delete(key); }
}

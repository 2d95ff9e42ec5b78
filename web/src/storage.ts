/** What the browser remembers: for all tabs (`storage`), or for this one only (`tabStorage`). Both survive a reload. */
import type { StorageLike } from '@uproar/client';
import { Drafts } from './state/drafts';
import { forget, forgetOthers } from './state/privacy';

/** Web Storage, or memory for what it won't take because it is full or blocked: that lasts as long as the page. */
class BrowserStorage implements StorageLike {
  private readonly fallback = new Map<string, string>();
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
    return this.fallback.get(key) ?? this.web?.getItem(key) ?? null;
  }

  setItem(key: string, value: string): void {
    try {
      if (!this.web) throw new Error('no storage');
      this.web.setItem(key, value);
      this.fallback.delete(key);
    } catch {
      this.fallback.set(key, value);
    }
  }

  removeItem(key: string): void {
    this.fallback.delete(key);
    this.web?.removeItem(key);
  }
}

export const storage: StorageLike = new BrowserStorage(() => localStorage);
export const tabStorage: StorageLike = new BrowserStorage(() => sessionStorage);
export const drafts = new Drafts(tabStorage, storage);

export const browserPrivacy = {
  forget: (user: string) => forget([storage, tabStorage], user),
  forgetOthers: (user: string | undefined) => forgetOthers(storage, tabStorage, user),
};

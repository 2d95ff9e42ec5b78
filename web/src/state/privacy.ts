/** Removing what the browser keeps about a user. */
import type { StorageLike } from '@uproar/client';

/** Names the user whose data the browser keeps. Its removal tells the other tabs that this user signed out. */
export const OWNER_KEY = 'uproar.owner';

/** The user in a key `uproar.KIND.USER.REST`. What belongs to no user, such as `uproar.theme`, is not private. */
function userOf(key: string): string | undefined {
  return key.startsWith('uproar.') ? key.split('.')[2] : undefined;
}

function remove(storages: readonly StorageLike[], matches: (user: string) => boolean): void {
  for (const storage of storages) {
    for (const key of storage.keys()) {
      const user = userOf(key);
      if (user !== undefined && matches(user)) storage.removeItem(key);
    }
  }
}

/** Removes everything about a user who signed out. */
export function forget(storages: readonly StorageLike[], user: string): void {
  remove(storages, (other) => other === user);
  for (const storage of storages) if (storage.getItem(OWNER_KEY) === user) storage.removeItem(OWNER_KEY);
}

/**
 * Removes everything about anyone but the user who is signed in. While nobody is, that is the one who was last, unless
 * they signed out: their session may have expired, and they may return.
 */
export function forgetOthers(storage: StorageLike, tabStorage: StorageLike, user: string | undefined): void {
  const owner = user ?? storage.getItem(OWNER_KEY);
  if (user !== undefined && storage.getItem(OWNER_KEY) !== user) storage.setItem(OWNER_KEY, user);
  remove([storage, tabStorage], (other) => other !== owner);
}

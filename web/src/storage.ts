/** What the browser remembers: for all tabs (`storage`), or for this one only (`tabStorage`). Both survive a reload. */
import { BrowserStorage, type StorageLike } from '@uproar/client';
import { Drafts } from './state/drafts';
import { forget, forgetOthers } from './state/privacy';

export const storage: StorageLike = new BrowserStorage(() => localStorage);
export const tabStorage: StorageLike = new BrowserStorage(() => sessionStorage);
export const drafts = new Drafts(tabStorage, storage);

export const browserPrivacy = {
  forget: (user: string) => forget([storage, tabStorage], user),
  forgetOthers: (user: string | undefined) => forgetOthers(storage, tabStorage, user),
};

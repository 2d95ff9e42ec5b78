/** What the page shows before it knows who is signed in: for a moment, or as long as there is no network. */
import { type StorageLike, countPending } from '@uproar/client';
import { OWNER_KEY } from '../state/privacy';
import type { Say } from '../texts/language';
import { useTexts } from './texts';

export function Starting({ notice, storage }: { notice: Say | undefined; storage: StorageLike }) {
  const texts = useTexts();
  const t = texts.starting;
  const kept = notice ? countPending(storage, storage.getItem(OWNER_KEY) ?? '') : 0;
  return (
    <main class="starting">
      <h1>Uproar</h1>
      <p role="status">
        {notice && (navigator.onLine ? notice(texts) : t.offline)}
        {kept > 0 && ` ${t.unsent(kept)}`}
      </p>
    </main>
  );
}

/** What the page shows before it knows who is signed in: for a moment, or as long as there is no network. */
import { countPending } from '@uproar/client';
import { OWNER_KEY } from '../state/privacy';
import { storage } from '../storage';

export function Starting({ notice }: { notice: string }) {
  const kept = notice ? countPending(storage, storage.getItem(OWNER_KEY) ?? '') : 0;
  return (
    <main class="starting">
      <h1>Uproar</h1>
      <p role="status">
        {notice && (navigator.onLine ? notice : 'You’re offline. The page opens as soon as you’re back.')}
        {kept > 0 && (kept === 1 ? ' 1 message waits to be sent.' : ` ${kept} messages wait to be sent.`)}
      </p>
    </main>
  );
}

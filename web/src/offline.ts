/** What keeps the page going without the network. */
import { wait } from '@uproar/client';

const WORKER = '/sw.js';

interface TrustedTypes {
  createPolicy(name: string, rules: { createScriptURL(url: string): string }): { createScriptURL(url: string): string };
}

/** Lets the service worker keep the page. Browsers have it only over HTTPS and on localhost. */
export async function registerWorker(): Promise<void> {
  if (!('serviceWorker' in navigator)) return;
  // The first visit loads the page first.
  if (document.readyState !== 'complete') await new Promise((done) => addEventListener('load', done, { once: true }));
  // The Content-Security-Policy allows this policy alone. It never turns another string into an address of a script.
  const { trustedTypes } = window as { trustedTypes?: TrustedTypes };
  try {
    navigator.serviceWorker.addEventListener('controllerchange', keepLoaded);
    const policy = trustedTypes?.createPolicy('service-worker', { createScriptURL: () => WORKER });
    await navigator.serviceWorker.register(policy?.createScriptURL('') ?? WORKER, { updateViaCache: 'none' });
  } catch {
    // The browser forbids it, or the server is older or can't be reached. The page works without.
  }
}

/** Tells a new worker which files the page has loaded so far, so that they are there without the network. */
function keepLoaded(): void {
  const urls = performance.getEntriesByType('resource').map(({ name }) => name);
  navigator.serviceWorker.controller?.postMessage(urls.filter((url) => url.startsWith(`${location.origin}/assets/`)));
}

/** Waits, but no longer than until the network is back. */
export async function waitOrOnline(ms: number): Promise<void> {
  const end = new AbortController();
  const online = new Promise((resolve) => addEventListener('online', resolve, { signal: end.signal }));
  await Promise.race([wait(ms), online]);
  end.abort();
}

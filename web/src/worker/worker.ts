/** The service worker. The build turns it into sw.js. */
import { type Build, Shell } from './shell';

declare const self: ServiceWorkerGlobalScope;
/** Put in by the build. */
declare const BUILD: Build;

const shell = new Shell(BUILD, {
  origin: self.location.origin,
  caches: self.caches,
  fetch: (request, init) => self.fetch(request, init),
  wait: (ms) => new Promise((resolve) => setTimeout(resolve, ms)),
});

// It takes over at once, also of the tabs that are open. The page comes from the network anyway, and files of older
// pages stay in the cache.
self.addEventListener('install', (event) => event.waitUntil(shell.install().then(() => self.skipWaiting())));
// With the preload, the network need not wait until the worker has started.
const preload = () => self.registration.navigationPreload?.enable();
const claim = () => self.clients.claim();
self.addEventListener('activate', (event) => event.waitUntil(Promise.all([shell.activate(), preload(), claim()])));
self.addEventListener('message', (event) => event.waitUntil(shell.keep(event.data as string[])));
self.addEventListener('fetch', (event) => {
  const preloaded = event.preloadResponse as Promise<Response | undefined>;
  const response = shell.respond(event.request, preloaded);
  if (response) event.respondWith(response);
});

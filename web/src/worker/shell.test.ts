import { beforeEach, describe, expect, it } from 'vitest';
import { Shell } from './shell';

const ORIGIN = 'https://chat.example.org';
const FILES = ['/assets/index-1.js', '/assets/index-1.css'];
const PAGE = FILES.join(' ');

/** The part of the Cache API that the worker uses. */
class FakeCaches {
  readonly stores = new Map<string, Map<string, string>>();

  constructor(private readonly load: (url: string) => Promise<Response>) {}

  async open(name: string) {
    const store = this.stores.get(name) ?? new Map<string, string>();
    this.stores.set(name, store);
    return {
      match: async (url: string) => (store.has(pathOf(url)) ? new Response(store.get(pathOf(url))) : undefined),
      put: async (url: string, response: Response) => void store.set(pathOf(url), await response.text()),
      addAll: async (urls: string[]) => {
        for (const url of urls) {
          const response = await this.load(url);
          if (!response.ok) throw new TypeError(`${url}: ${response.status}`);
          store.set(pathOf(url), await response.text());
        }
      },
    };
  }

  async match(url: string, { cacheName }: { cacheName?: string }) {
    for (const [name, store] of this.stores) {
      const text = cacheName === undefined || name === cacheName ? store.get(pathOf(url)) : undefined;
      if (text !== undefined) return new Response(text);
    }
    return undefined;
  }

  keys = async () => [...this.stores.keys()];
  delete = async (name: string) => this.stores.delete(name);
}

const pathOf = (url: string) => new URL(url, ORIGIN).pathname;

const request = (path: string, mode = 'cors', method = 'GET') =>
  ({ url: new URL(path, ORIGIN).href, mode, method }) as Request;

describe('Shell', () => {
  let files: Record<string, string>;
  let asked: string[];
  let status: number;
  let isOffline: boolean;
  let caches: FakeCaches;
  /** Ends the wait for the network. */
  let giveUp: () => void;

  const load = async (asking: Request | string) => {
    const path = pathOf(typeof asking === 'string' ? asking : asking.url);
    asked.push(path);
    if (isOffline) throw new TypeError('offline');
    const text = files[path];
    return new Response(text ?? 'not found', { status: text === undefined ? 404 : status });
  };
  const open = (version = '1', names = FILES, fetch = load) =>
    new Shell({ version, files: names }, {
      origin: ORIGIN,
      caches: caches as unknown as CacheStorage,
      fetch,
      wait: () => new Promise((resolve) => (giveUp = () => resolve(undefined))),
    });
  const text = async (response: Promise<Response> | undefined) => (await response!).text();

  beforeEach(() => {
    files = { '/': PAGE, '/assets/index-1.js': 'script', '/assets/index-1.css': 'style' };
    asked = [];
    status = 200;
    isOffline = false;
    caches = new FakeCaches(load);
  });

  it('keeps the page and its files', async () => {
    await open().install();
    expect([...caches.stores.get('shell-1')!.keys()]).toEqual([...FILES, '/']);
  });

  it('is not installed with a page of another build, or with a file missing', async () => {
    files['/'] = '/assets/index-2.js';
    await expect(open().install()).rejects.toThrow('another build');
    files = { '/': PAGE, '/assets/index-1.js': 'script' };
    await expect(open().install()).rejects.toThrow('404');
    status = 503;
    await expect(open().install()).rejects.toThrow('another build');
    expect(await caches.match('/', {})).toBeUndefined();
  });

  it('shows the page from the network, whatever is in the cache', async () => {
    const shell = open();
    await shell.install();
    files['/'] = 'a new build';
    expect(await text(shell.respond(request('/', 'navigate')))).toBe('a new build');
    const preloaded = Promise.resolve(new Response('a newer build'));
    asked = [];
    expect(await text(shell.respond(request('/?x=y', 'navigate'), preloaded))).toBe('a newer build');
    expect(asked).toEqual([]);
  });

  it('shows the page from the cache if the network is gone, slow, or has only an error of a proxy', async () => {
    const shell = open();
    await shell.install();
    isOffline = true;
    expect(await text(shell.respond(request('/', 'navigate')))).toBe(PAGE);
    isOffline = false;
    status = 502;
    expect(await text(shell.respond(request('/', 'navigate')))).toBe(PAGE);
    const slow = open('1', FILES, () => new Promise(() => {}));
    const answer = slow.respond(request('/', 'navigate'));
    giveUp();
    expect(await text(answer)).toBe(PAGE);
  });

  it('waits for the network, or reports its failure, if the page is not in the cache', async () => {
    let respond!: (response: Response) => void;
    const shell = open('1', FILES, () => new Promise((resolve) => (respond = resolve)));
    const answer = shell.respond(request('/', 'navigate'));
    await Promise.resolve();
    giveUp();
    respond(new Response('late'));
    expect(await text(answer)).toBe('late');
    isOffline = true;
    await expect(open().respond(request('/', 'navigate'))).rejects.toThrow('offline');
  });

  it('takes files from the cache, and keeps those that are loaded on demand', async () => {
    const shell = open();
    await shell.install();
    files['/assets/emoji-1.js'] = 'emoji';
    asked = [];
    expect(await text(shell.respond(request('/assets/index-1.js')))).toBe('script');
    for (let i = 0; i < 2; i++) expect(await text(shell.respond(request('/assets/emoji-1.js')))).toBe('emoji');
    expect((await shell.respond(request('/assets/gone-1.js')))!.status).toBe(404);
    expect(asked).toEqual(['/assets/emoji-1.js', '/assets/gone-1.js']);
    expect(await caches.match('/assets/gone-1.js', {})).toBeUndefined();
  });

  it('keeps what the page had loaded before, from the network or from the build before', async () => {
    await open('1').install();
    caches.stores.get('shell-1')!.set('/assets/de-1.js', 'German');
    const shell = open('2');
    await shell.install();
    files['/assets/emoji-1.js'] = 'emoji';
    files['/me'] = 'ann';
    asked = [];
    const gone = '/assets/gone-1.js';
    const others = ['/me', 'https://other.example.org/assets/x.js'];
    const urls = [...FILES, '/assets/de-1.js', '/assets/emoji-1.js', gone, ...others];
    await shell.keep(urls.map((path) => new URL(path, ORIGIN).href));
    expect([...caches.stores.get('shell-2')!.keys()]).toEqual([...FILES, '/', '/assets/de-1.js', '/assets/emoji-1.js']);
    expect(asked).toEqual(['/assets/emoji-1.js', gone]);
  });

  it('stays out of everything else', () => {
    const shell = open();
    for (const other of [
      request('/me'),
      request('/rooms/lobby/messages', 'cors', 'POST'),
      request('/', 'navigate', 'POST'),
      request('/openapi.json', 'navigate'),
      request('/manifest.webmanifest'),
      request('/'),
      request('https://other.example.org/', 'navigate'),
      request('https://other.example.org/assets/index-1.js'),
    ]) {
      expect(shell.respond(other), other.url).toBeUndefined();
    }
    expect(asked).toEqual([]);
  });

  it('deletes the builds before the last one', async () => {
    for (const version of ['1', '2', '3']) {
      const shell = open(version);
      await shell.install();
      await shell.activate();
    }
    await caches.open('of something else');
    await open('3').activate();
    expect(await caches.keys()).toEqual(['shell-2', 'shell-3', 'of something else']);
    // A tab with the page of the second build finds its files, but its page is not shown again.
    caches.stores.get('shell-2')!.set('/', 'the second build').set('/assets/second.js', 'of the second build');
    isOffline = true;
    expect(await text(open('3').respond(request('/assets/second.js')))).toBe('of the second build');
    expect(await text(open('3').respond(request('/', 'navigate')))).toBe(PAGE);
  });
});

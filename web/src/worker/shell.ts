/** What the service worker does: it keeps the page in the browser, so that it opens without the network. */

/** The build that the worker belongs to. */
export interface Build {
  version: string;
  /** The paths of the files that the page needs to start. Their names contain hashes of what they contain. */
  files: readonly string[];
}

export interface Environment {
  origin: string;
  caches: CacheStorage;
  fetch(request: Request | string, init?: RequestInit): Promise<Response>;
  wait(ms: number): Promise<undefined>;
}

const PAGE = '/';
const ASSETS = '/assets/';
const PREFIX = 'shell-';
/** How long the network may take before the page comes from the cache. */
export const TIMEOUT_MS = 3000;

export class Shell {
  private readonly cacheName: string;

  constructor(
    private readonly build: Build,
    private readonly env: Environment,
  ) {
    this.cacheName = PREFIX + build.version;
  }

  /** Puts the page and its files into the cache. */
  async install(): Promise<void> {
    const page = await this.env.fetch(PAGE, { cache: 'no-cache' });
    const text = await page.clone().text();
    // The server may have been upgraded since it sent the worker.
    if (!page.ok || page.redirected || !this.build.files.every((file) => text.includes(file))) {
      throw new Error('the page is of another build');
    }
    const cache = await this.env.caches.open(this.cacheName);
    await cache.addAll([...this.build.files]);
    await cache.put(PAGE, page);
  }

  /** Deletes older builds, apart from the last one: tabs that show it may still need a part of it. */
  async activate(): Promise<void> {
    const { caches } = this.env;
    const older = (await caches.keys()).filter((name) => name.startsWith(PREFIX) && name !== this.cacheName);
    await Promise.all(older.slice(0, -1).map((name) => caches.delete(name)));
  }

  /** Keeps files that the page loaded before this build's worker was in charge, such as its language. */
  async keep(urls: readonly string[]): Promise<void> {
    const cache = await this.env.caches.open(this.cacheName);
    for (const url of urls) {
      const { origin, pathname } = new URL(url, this.env.origin);
      if (origin !== this.env.origin || !pathname.startsWith(ASSETS) || (await cache.match(url))) continue;
      const response = (await this.env.caches.match(url, { ignoreVary: true })) ?? (await this.env.fetch(url));
      if (response.ok) await this.put(url, response);
    }
  }

  /** The answer to a request. If it is undefined, the worker stays out of it, as it does for all calls of the API. */
  respond(request: Request, preloaded?: Promise<Response | undefined>): Promise<Response> | undefined {
    const { origin, pathname } = new URL(request.url);
    if (request.method !== 'GET' || origin !== this.env.origin) return undefined;
    if (request.mode === 'navigate') return pathname === PAGE ? this.page(request, preloaded) : undefined;
    return pathname.startsWith(ASSETS) ? this.asset(request) : undefined;
  }

  /** From the network, so that a new build is seen at once; from the cache only if that fails or takes too long. */
  private async page(request: Request, preloaded?: Promise<Response | undefined>): Promise<Response> {
    const answer = this.load(request, preloaded);
    const first = await Promise.race([answer.catch(() => undefined), this.env.wait(TIMEOUT_MS)]);
    // A proxy whose server is down answers with a page of its own.
    if (first && first.status < 500) return first;
    return (await this.env.caches.match(PAGE, { cacheName: this.cacheName, ignoreVary: true })) ?? answer;
  }

  private async load(request: Request, preloaded?: Promise<Response | undefined>): Promise<Response> {
    return (await preloaded) ?? this.env.fetch(request);
  }

  /** From the cache: what has this name never changes. */
  private async asset(request: Request): Promise<Response> {
    const cached = await this.env.caches.match(request.url, { ignoreVary: true });
    if (cached) return cached;
    const response = await this.env.fetch(request);
    if (response.ok) await this.put(request.url, response.clone());
    return response;
  }

  private async put(url: string, response: Response): Promise<void> {
    try {
      const cache = await this.env.caches.open(this.cacheName);
      await cache.put(url, response);
    } catch {
      // There is no space left. The network has it.
    }
  }
}

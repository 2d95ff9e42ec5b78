/** The page as an app: it can be installed, opens without the network, and is never older than the server. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Page } from 'playwright-core';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { build, preview } from 'vite';
import { accessibilityFlaws, allStored, composer, createWorld, messageText, send } from './browser';
import { freePort } from './server';

const world = createWorld();

/** Waits until the service worker of the build on screen is in charge, and has put the page into the cache. */
const workerReady = (page: Page) => {
  const isReady = async () => {
    const { active, installing, waiting } = await navigator.serviceWorker.ready;
    if (installing || waiting || active!.state !== 'activated') return false;
    const script = document.querySelector<HTMLScriptElement>('script[type=module]')!.getAttribute('src')!;
    for (const name of await caches.keys()) {
      const kept = await (await caches.open(name)).match('/', { ignoreVary: true });
      if (kept && (await kept.text()).includes(script)) return true;
    }
    return false;
  };
  return expect.poll(() => page.evaluate(isReady), { timeout: 10_000 }).toBe(true);
};

/** The paths of everything in the caches. */
const cached = (page: Page) =>
  page.evaluate(async () => {
    const paths: string[] = [];
    for (const name of await caches.keys()) {
      for (const { url } of await (await caches.open(name)).keys()) paths.push(new URL(url).pathname);
    }
    return paths.sort();
  });

describe('an installed page', () => {
  it('can be installed, with icons for every shape', async () => {
    const page = await world.newVisitor();
    await page.goto(world.server.page);
    await workerReady(page);
    const cdp = await page.context().newCDPSession(page);
    const { errors, data } = await cdp.send('Page.getAppManifest');
    expect(errors).toEqual([]);
    const { installabilityErrors } = await cdp.send('Page.getInstallabilityErrors');
    // The profiles of tests are incognito.
    expect(installabilityErrors.filter(({ errorId }) => errorId !== 'in-incognito')).toEqual([]);
    const { icons } = JSON.parse(data!) as { icons: { src: string; sizes: string; purpose?: string }[] };
    expect(icons.map(({ sizes, purpose }) => `${sizes} ${purpose ?? 'any'}`).sort()).toEqual([
      '192x192 any',
      '192x192 maskable',
      '512x512 any',
      '512x512 maskable',
    ]);
    const touch = (await page.locator('link[rel=apple-touch-icon]').getAttribute('href'))!;
    const sizes = await page.evaluate(async (sources) => {
      const decode = async (src: string) => {
        const image = new Image();
        image.src = src;
        await image.decode();
        return `${image.naturalWidth}x${image.naturalHeight}`;
      };
      return Promise.all(sources.map(decode));
    }, [...icons.map(({ src }) => src), touch]);
    expect(sizes).toEqual([...icons.map(({ sizes }) => sizes), '180x180']);
    const type = async (path: string) => (await fetch(world.server.page + path)).headers.get('content-type');
    expect(await type('/manifest.webmanifest')).toMatch('application/manifest+json');
    expect(await type('/sw.js')).toMatch('javascript');
  });

  it('colours what surrounds it like itself', async () => {
    const page = await world.newVisitor();
    const colours = async () => {
      // The browser takes the first one whose condition is met.
      const around = await page.locator('meta[name=theme-color]').evaluateAll((all) => {
        const met = (all as HTMLMetaElement[]).find(({ media }) => matchMedia(media).matches);
        const probe = document.createElement('p');
        probe.style.color = met!.content;
        document.body.append(probe);
        const { color } = getComputedStyle(probe);
        probe.remove();
        return color;
      });
      return [around, await page.evaluate(() => getComputedStyle(document.body).backgroundColor)];
    };
    await page.goto(world.server.page);
    for (const colorScheme of ['light', 'dark'] as const) {
      await page.emulateMedia({ colorScheme });
      const [around, paper] = await colours();
      expect(around).toBe(paper);
    }
    await page.evaluate(() => {
      localStorage.setItem('uproar.theme', JSON.stringify({ mode: 'light', light: { '--paper': '#fffbe6' } }));
    });
    await page.reload();
    expect(await colours()).toEqual(['rgb(255, 251, 230)', 'rgb(255, 251, 230)']);
  });

  it('opens without the network, and keeps what was not sent', async () => {
    const token = await world.account('ann');
    await world.room(token, 'lobby', 'The lobby');
    const page = await world.signedIn('ann', 'lobby');
    await workerReady(page);
    await send(page, 'Sent online');
    await allStored(page);
    await page.context().setOffline(true);
    await page.getByText('Connection lost').waitFor();
    await send(page, 'Written offline');
    await page.locator('.row.pending', { hasText: 'Written offline' }).waitFor();
    await page.reload();
    await page.getByRole('status').filter({ hasText: 'You’re offline' }).waitFor();
    await page.getByText('1 message waits to be sent.').waitFor();
    expect(await accessibilityFlaws(page)).toEqual([]);
    await page.context().setOffline(false);
    await messageText(page, 'Written offline').waitFor();
    await allStored(page);
    expect(await page.locator('.row .text').allTextContents()).toEqual(['Sent online', 'Written offline']);
    // Nothing that the server says about people or rooms is in the cache.
    const paths = await cached(page);
    expect(paths).toContain('/');
    expect(paths.filter((path) => path !== '/' && !path.startsWith('/assets/'))).toEqual([]);
  });

  it('has its dialogs at hand when the network goes, and loads them again if that failed', async () => {
    await world.account('dan');
    const page = await world.newTab(await world.context({ serviceWorkers: 'block' }));
    const parts = '**/assets/later-parts-*.js';
    await page.route(parts, (route) => route.abort());
    const failed = page.waitForEvent('requestfailed', (request) => request.url().includes('later-parts'));
    await world.signedIn('dan', undefined, page);
    await failed;
    await page.getByRole('button', { name: 'Settings' }).click();
    await page.getByRole('alert').getByText('Can’t reach the server').waitFor();
    expect(await accessibilityFlaws(page)).toEqual([]);
    await page.keyboard.press('Escape');
    await page.unroute(parts);
    await page.getByRole('button', { name: 'Settings' }).click();
    await page.getByRole('group', { name: 'Appearance' }).waitFor();

    const other = await world.newTab(await world.context({ serviceWorkers: 'block' }));
    const loaded = other.waitForEvent('requestfinished', (request) => request.url().includes('later-parts'));
    await world.signedIn('dan', undefined, other);
    await loaded;
    await other.context().setOffline(true);
    await other.keyboard.press('Control+k');
    await other.getByRole('dialog', { name: 'Go to a room' }).waitFor();
  });

  it('opens while the server is down, and goes on when it is back', async () => {
    const page = await world.signedIn('ann', 'lobby');
    await workerReady(page);
    await world.server.stop('SIGKILL');
    await page.reload();
    await page.getByRole('status').filter({ hasText: 'Can’t reach the server' }).waitFor();
    await world.server.start();
    await composer(page).waitFor({ timeout: 20_000 });
    await messageText(page, 'Written offline').waitFor();
  });

  it('throws no errors and follows its Content-Security-Policy', () => {
    expect(world.pageErrors).toEqual([]);
  });
});

describe('an upgrade', () => {
  const folder = mkdtempSync(join(tmpdir(), 'uproar-builds-'));
  afterAll(() => {
    rmSync(folder, { recursive: true });
    vi.unstubAllEnvs();
  });

  it('is seen when the page is opened the next time, also without the network', async () => {
    // The test runner sets it to `test`, and Vite looks at it.
    vi.stubEnv('NODE_ENV', 'production');
    const port = await freePort();
    const url = `http://127.0.0.1:${port}`;
    const page = await world.newVisitor();
    const shown = () => page.evaluate(() => document.documentElement.dataset['build']);
    for (const version of ['one', 'two', 'three']) {
      const outDir = join(folder, version);
      const mark = {
        name: 'mark',
        transform: (code: string, id: string) =>
          id.endsWith('/src/main.tsx') ? `${code}\ndocument.documentElement.dataset.build = '${version}';` : null,
      };
      await build({ build: { outDir, emptyOutDir: true }, plugins: [mark], logLevel: 'error' });
      const server = await preview({
        build: { outDir },
        preview: { port, strictPort: true, host: '127.0.0.1' },
        logLevel: 'error',
      });
      await page.goto(url);
      // The first time that it is opened, not the second.
      expect(await shown()).toBe(version);
      await page.getByRole('heading', { name: 'Sign in' }).waitFor();
      await workerReady(page);
      await server.close();
      await page.goto('about:blank');
      await page.goto(url);
      await expect.poll(shown).toBe(version);
      await page.locator('main, .starting').first().waitFor();
    }
    // One older build stays, for tabs that still show it.
    expect((await page.evaluate(() => caches.keys())).length).toBe(2);
  }, 60_000);
});

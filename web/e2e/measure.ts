/** Measures the size of the page, how soon it is usable, and the cost of scrolling through a long history. */
import { gzipSync } from 'node:zlib';
import { readFileSync, readdirSync } from 'node:fs';
import { type CDPSession, type Page } from 'playwright-core';
import { it } from 'vitest';
import { composer, createWorld, messageText } from './browser';
import { bundleClient } from './bundle';

const world = createWorld();
const COUNT = Number(process.env['MESSAGES'] ?? 100_000);
const ROUNDS = 9;

const median = (numbers: number[]) => [...numbers].sort((a, b) => a - b)[numbers.length >> 1]!;
const kib = (bytes: number) => `${(bytes / 1024).toFixed(1)} KiB`;
const report = (name: string, value: string) => console.log(`${name.padEnd(56)} ${value}`);

async function memory(cdp: CDPSession): Promise<{ heap: number; nodes: number }> {
  await cdp.send('HeapProfiler.collectGarbage');
  const { metrics } = await cdp.send('Performance.getMetrics');
  const of = (name: string) => metrics.find((metric) => metric.name === name)!.value;
  return { heap: of('JSHeapUsedSize'), nodes: of('Nodes') };
}

async function openSession(page: Page): Promise<CDPSession> {
  const cdp = await page.context().newCDPSession(page);
  await cdp.send('Performance.enable');
  await cdp.send('Network.enable');
  await cdp.send('Network.setCacheDisabled', { cacheDisabled: true });
  return cdp;
}

it('measure', { timeout: 900_000 }, async () => {
  const token = await world.account('bob');
  await world.room(token, 'long', 'A long history');
  for (let i = 0; i < COUNT; i += 100) {
    const text = (n: number) => `Message ${n}.${' And so on.'.repeat(n % 7)}`;
    await Promise.all(Array.from({ length: 100 }, (_, j) => world.say(token, 'long', text(i + j))));
  }
  await world.say(token, 'long', 'The newest');
  // A user who joins now has no unread messages.
  await world.join(await world.account('ann'), 'long');

  const page = await world.newVisitor();
  const cdp = await openSession(page);
  const bytes = new Map<string, number>();
  const kinds = new Map<string, string>();
  cdp.on('Network.responseReceived', ({ requestId, type }) => kinds.set(requestId, type));
  cdp.on('Network.loadingFinished', ({ requestId, encodedDataLength }) => {
    const kind = kinds.get(requestId) ?? '?';
    bytes.set(kind, (bytes.get(kind) ?? 0) + encodedDataLength);
  });
  await page.goto(world.server.page, { waitUntil: 'networkidle' });
  for (const [kind, sum] of bytes) report(`transferred on the first visit: ${kind}`, kib(sum));
  const files = readdirSync('dist/assets')
    .filter((name) => /\.(js|css)$/.test(name))
    .map((name) => readFileSync(`dist/assets/${name}`));
  report('script and style, uncompressed', kib(files.reduce((sum, file) => sum + file.length, 0)));
  report('script and style, gzip', kib(files.reduce((sum, file) => sum + gzipSync(file, { level: 9 }).length, 0)));
  report('@uproar/client without the SDK, gzip', kib(gzipSync(await bundleClient({ sdk: false })).length));

  await world.signIn(page, 'ann', 'long');
  await messageText(page, 'The newest').waitFor();
  const times: Record<string, number[]> = { 'first paint': [], 'message box': [], 'newest message': [] };
  await page.addInitScript(() => {
    const at: Record<string, number> = {};
    Object.assign(window, { at });
    const look = () => {
      if (document.querySelector('#composer')) at['message box'] ??= performance.now();
      if (document.querySelector('.row')) at['newest message'] ??= performance.now();
      requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  });
  for (let i = 0; i < ROUNDS; i++) {
    await page.reload();
    await messageText(page, 'The newest').waitFor();
    await composer(page).waitFor();
    await page.waitForTimeout(300);
    const at = await page.evaluate(() => ({
      ...(window as unknown as { at: Record<string, number> }).at,
      'first paint': performance.getEntriesByName('first-contentful-paint')[0]!.startTime,
    }));
    for (const [what, time] of Object.entries(at)) times[what]!.push(time);
  }
  for (const [what, all] of Object.entries(times)) {
    report(`reload, nothing cached, signed in: ${what}`, `${median(all).toFixed(0)} ms`);
  }

  const before = await memory(cdp);
  report('JavaScript heap, at the newest message', `${kib(before.heap)}, ${before.nodes} nodes`);
  const scrolled = await page.evaluate(async () => {
    const scroller = document.querySelector('.scroller')!;
    const frames: number[] = [];
    let mostRows = 0;
    let still = 0;
    let last = performance.now();
    const began = last;
    while (still < 100) {
      scroller.scrollTop -= 700;
      await new Promise((done) => requestAnimationFrame(done));
      const now = performance.now();
      frames.push(now - last);
      last = now;
      mostRows = Math.max(mostRows, document.querySelectorAll('.row').length);
      still = scroller.scrollTop === 0 ? still + 1 : 0;
    }
    frames.sort((a, b) => a - b);
    const quantile = (share: number) => frames[Math.floor((frames.length - 1) * share)]!;
    const first = document.querySelector('.row .text')!.textContent;
    const [p50, p99, longest] = [quantile(0.5), quantile(0.99), quantile(1)];
    return { first, mostRows, p50, p99, longest, seconds: (last - began) / 1000 };
  });
  if (!scrolled.first!.startsWith('Message ')) {
    throw new Error(`scrolling did not end at the first message but at: ${scrolled.first}`);
  }
  report(`scrolling back through ${COUNT} messages`, `${scrolled.seconds.toFixed(1)} s`);
  const frames = [scrolled.p50, scrolled.p99, scrolled.longest].map((ms) => ms.toFixed(1));
  report('frames: median, 99th percentile, longest', `${frames.join(', ')} ms`);
  report('most rows in the document', `${scrolled.mostRows}`);
  const after = await memory(cdp);
  report('JavaScript heap, at the first message', `${kib(after.heap)}, ${after.nodes} nodes`);
  await page.locator('.to-newest').click();
  await messageText(page, 'The newest').waitFor();
  const back = await memory(cdp);
  report('JavaScript heap, back at the newest message', `${kib(back.heap)}, ${back.nodes} nodes`);
});

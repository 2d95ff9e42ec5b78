/** Not a test: what the page weighs, how soon it can be used, and what scrolling through a long history costs. */
import { gzipSync } from 'node:zlib';
import { readFileSync, readdirSync } from 'node:fs';
import { type CDPSession, type Page } from 'playwright-core';
import { it } from 'vitest';
import { composer, said, world } from './browser';

const the = world();
const COUNT = Number(process.env['MESSAGES'] ?? 100_000);
const ROUNDS = 9;

const median = (numbers: number[]) => [...numbers].sort((a, b) => a - b)[numbers.length >> 1]!;
const kib = (bytes: number) => `${(bytes / 1024).toFixed(1)} KiB`;
const line = (what: string, figure: string) => console.log(`${what.padEnd(56)} ${figure}`);

async function memory(cdp: CDPSession): Promise<{ heap: number; nodes: number }> {
  await cdp.send('HeapProfiler.collectGarbage');
  const { metrics } = await cdp.send('Performance.getMetrics');
  const of = (name: string) => metrics.find((metric) => metric.name === name)!.value;
  return { heap: of('JSHeapUsedSize'), nodes: of('Nodes') };
}

async function watched(page: Page): Promise<CDPSession> {
  const cdp = await page.context().newCDPSession(page);
  await cdp.send('Performance.enable');
  await cdp.send('Network.enable');
  await cdp.send('Network.setCacheDisabled', { cacheDisabled: true });
  return cdp;
}

it('measure', { timeout: 900_000 }, async () => {
  const token = await the.account('bob');
  await the.room(token, 'long', 'A long history');
  for (let i = 0; i < COUNT; i += 100) {
    await Promise.all(Array.from({ length: 100 }, (_, j) => the.say(token, 'long', `Message ${i + j}.${' And so on.'.repeat((i + j) % 7)}`)));
  }
  await the.say(token, 'long', 'The newest');
  // Whoever joins now has nothing unread.
  await the.join(await the.account('ann'), 'long');

  const page = await the.visitor();
  const cdp = await watched(page);
  const bytes = new Map<string, number>();
  const kinds = new Map<string, string>();
  cdp.on('Network.responseReceived', ({ requestId, type }) => kinds.set(requestId, type));
  cdp.on('Network.loadingFinished', ({ requestId, encodedDataLength }) => {
    const kind = kinds.get(requestId) ?? '?';
    bytes.set(kind, (bytes.get(kind) ?? 0) + encodedDataLength);
  });
  await page.goto(the.server.page, { waitUntil: 'networkidle' });
  for (const [kind, sum] of bytes) line(`transferred, first visit: ${kind}`, kib(sum));
  const files = readdirSync('dist/assets').filter((name) => /\.(js|css)$/.test(name)).map((name) => readFileSync(`dist/assets/${name}`));
  line('script and style, plain', kib(files.reduce((sum, file) => sum + file.length, 0)));
  line('script and style, gzip', kib(files.reduce((sum, file) => sum + gzipSync(file, { level: 9 }).length, 0)));

  await the.signIn(page, 'ann', 'long');
  await said(page, 'The newest').waitFor();
  const times: Record<'first paint' | 'can write' | 'shows the newest', number[]> = { 'first paint': [], 'can write': [], 'shows the newest': [] };
  await page.addInitScript(() => {
    const at: Record<string, number> = {};
    Object.assign(window, { at });
    const look = () => {
      if (document.querySelector('#composer')) at['can write'] ??= performance.now();
      if (document.querySelector('.row')) at['shows the newest'] ??= performance.now();
      requestAnimationFrame(look);
    };
    requestAnimationFrame(look);
  });
  for (let i = 0; i < ROUNDS; i++) {
    await page.reload();
    await said(page, 'The newest').waitFor();
    await composer(page).waitFor();
    await page.waitForTimeout(300);
    const at = await page.evaluate(() => ({
      ...(window as unknown as { at: Record<string, number> }).at,
      'first paint': performance.getEntriesByName('first-contentful-paint')[0]!.startTime,
    }));
    for (const [what, time] of Object.entries(at)) times[what as keyof typeof times].push(time);
  }
  for (const [what, all] of Object.entries(times)) line(`a reload, nothing cached, signed in: ${what}`, `${median(all).toFixed(0)} ms`);

  const before = await memory(cdp);
  line('memory of scripts, the newest shown', `${kib(before.heap)}, ${before.nodes} nodes`);
  const scrolled = await page.evaluate(async () => {
    const scroller = document.querySelector('.scroller')!;
    const frames: number[] = [];
    let highest = 0;
    let still = 0;
    let last = performance.now();
    const began = last;
    while (still < 100) {
      scroller.scrollTop -= 700;
      await new Promise((done) => requestAnimationFrame(done));
      const now = performance.now();
      frames.push(now - last);
      last = now;
      highest = Math.max(highest, document.querySelectorAll('.row').length);
      still = scroller.scrollTop === 0 ? still + 1 : 0;
    }
    frames.sort((a, b) => a - b);
    const of = (share: number) => frames[Math.floor((frames.length - 1) * share)]!;
    const first = document.querySelector('.row .text')!.textContent;
    return { first, highest, frames: frames.length, p50: of(0.5), p99: of(0.99), longest: of(1), seconds: (last - began) / 1000 };
  });
  if (!scrolled.first!.startsWith('Message ')) throw new Error(`not the first message: ${scrolled.first}`);
  line(`scrolling back through ${COUNT} messages`, `${scrolled.seconds.toFixed(1)} s, to “${scrolled.first!.slice(0, 12)}”`);
  line('frames: median, 99th of a hundred, longest', `${scrolled.p50.toFixed(1)}, ${scrolled.p99.toFixed(1)}, ${scrolled.longest.toFixed(1)} ms`);
  line('most rows in the document', `${scrolled.highest}`);
  const after = await memory(cdp);
  line('memory of scripts, at the beginning', `${kib(after.heap)}, ${after.nodes} nodes`);
  await page.getByRole('button', { name: /↓/ }).click();
  await said(page, 'The newest').waitFor();
  const again = await memory(cdp);
  line('memory of scripts, at the newest again', `${kib(again.heap)}, ${again.nodes} nodes`);
});

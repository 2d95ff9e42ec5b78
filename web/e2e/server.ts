import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createServer } from 'node:net';
import { preview } from 'vite';

const BINARY = resolve(process.env['UPROAR_BINARY'] ?? '../target/release/uproar');

export interface Server {
  /** Where the API is. */
  url: string;
  /** Where the page is. */
  page: string;
  stop(signal?: NodeJS.Signals): Promise<void>;
  start(): Promise<void>;
  end(): Promise<void>;
}

async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((done) => probe.listen(0, '127.0.0.1', done));
  const { port } = probe.address() as { port: number };
  await new Promise((done) => probe.close(done));
  return port;
}

export interface Options {
  /** What is set with `--limit`. */
  limits?: Record<string, number>;
}

/** The real binary, with a database of its own. The page comes from the binary; where it has none, or
 *  UPROAR_DIST is set, from dist/ through Vite. */
export async function startServer({ limits = {} }: Options = {}): Promise<Server> {
  const data = mkdtempSync(join(tmpdir(), 'uproar-web-'));
  const port = await freePort();
  const url = `http://localhost:${port}`;
  let child: ChildProcess | undefined;

  const start = async () => {
    // Whoever fills a room with a history is faster than people are.
    const all = Object.entries({ publish_rate_per_second: 0, ...limits }).flatMap(([name, value]) => ['--limit', `${name}=${value}`]);
    child = spawn(BINARY, ['--listen', `127.0.0.1:${port}`, '--data', data, '--shards', '1', ...all], { stdio: 'ignore' });
    for (let tries = 0; tries < 100; tries++) {
      if (await fetch(`${url}/readyz`).then(({ ok }) => ok, () => false)) return;
      await new Promise((done) => setTimeout(done, 100));
    }
    throw new Error('the server does not start');
  };
  const stop = async (signal: NodeJS.Signals = 'SIGTERM') => {
    const ended = new Promise((done) => child!.once('exit', done));
    child!.kill(signal);
    await ended;
  };

  await start();
  const own = !process.env['UPROAR_DIST'] && (await (await fetch(url)).text()).includes('id="app"');
  process.env['UPROAR'] = url;
  const vite = own ? undefined : await preview({ preview: { port: await freePort(), host: '127.0.0.1' }, logLevel: 'error' });
  const page = vite ? `http://127.0.0.1:${(vite.httpServer.address() as { port: number }).port}` : url;
  return {
    url,
    page,
    start,
    stop,
    end: async () => {
      await stop();
      await vite?.close();
      rmSync(data, { recursive: true });
    },
  };
}

export async function post<T>(server: Server, path: string, body: unknown, token?: string): Promise<T> {
  const response = await fetch(server.url + path, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', ...(token ? { Authorization: `Bearer ${token}` } : {}) },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error(`${path}: ${await response.text()}`);
  return (await response.json()) as T;
}

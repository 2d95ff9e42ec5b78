/** Starts the real server for the browser tests. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createServer } from 'node:net';
import { setTimeout } from 'node:timers/promises';
import { preview } from 'vite';

const BINARY = resolve(process.env['UPROAR_BINARY'] ?? '../target/release/uproar');

export interface Server {
  /** The URL of the API. */
  url: string;
  /** The URL of the page. */
  page: string;
  stop(signal?: NodeJS.Signals): Promise<void>;
  /** What `uproar token` prints for a user. */
  token(user: string, lifetimeSeconds: number): string;
  /** Starts it again, on the same port and database. */
  start(): Promise<void>;
  /** Stops it and deletes its data. */
  end(): Promise<void>;
}

export async function freePort(): Promise<number> {
  const probe = createServer();
  await new Promise<void>((done) => probe.listen(0, '127.0.0.1', done));
  const { port } = probe.address() as { port: number };
  await new Promise((done) => probe.close(done));
  return port;
}

export interface Options {
  /** Passed on with `--limit`. */
  limits?: Record<string, number>;
  /** Further options of the server, which may depend on its URL. */
  arguments?: string[] | ((url: string) => string[]);
}

/**
 * Starts the real binary with a database of its own. The page comes from the binary, or from dist/ through Vite if the
 * binary was built without the page or UPROAR_DIST is set.
 */
export async function startServer({ limits = {}, arguments: more = [] }: Options = {}): Promise<Server> {
  const data = mkdtempSync(join(tmpdir(), 'uproar-web-'));
  const port = await freePort();
  const url = `http://localhost:${port}`;
  let child: ChildProcess | undefined;

  const start = async () => {
    // No rate limits, because tests create rooms and messages faster than people do.
    const allLimits = Object.entries({ publish_rate_per_second: 0, user_writes_per_minute: 0, ...limits });
    const limitOptions = allLimits.flatMap(([name, value]) => ['--limit', `${name}=${value}`]);
    const added = typeof more === 'function' ? more(url) : more;
    const options = ['--listen', `127.0.0.1:${port}`, '--data', data, '--shards', '1', ...limitOptions, ...added];
    child = spawn(BINARY, options, { stdio: 'ignore' });
    for (let tries = 0; tries < 100; tries++) {
      if (await fetch(`${url}/readyz`).then(({ ok }) => ok, () => false)) return;
      await setTimeout(100);
    }
    throw new Error('the server did not start within 10 seconds');
  };
  const stop = async (signal: NodeJS.Signals = 'SIGTERM') => {
    const exited = new Promise((done) => child!.once('exit', done));
    child!.kill(signal);
    await exited;
  };

  await start();
  const isEmbedded = !process.env['UPROAR_DIST'] && (await (await fetch(url)).text()).includes('id="app"');
  process.env['UPROAR'] = url;
  const vite = isEmbedded
    ? undefined
    : await preview({ preview: { port: await freePort(), host: '127.0.0.1' }, logLevel: 'error' });
  const page = vite ? `http://127.0.0.1:${(vite.httpServer.address() as { port: number }).port}` : url;
  return {
    url,
    page,
    token: (user, lifetimeSeconds) => {
      const options = ['--user', user, '--lifetime', String(lifetimeSeconds), '--data', data];
      return execFileSync(BINARY, ['token', ...options], { encoding: 'utf8' }).trim();
    },
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
  for (;;) {
    const response = await fetch(server.url + path, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...(token ? { Authorization: `Bearer ${token}` } : {}) },
      body: JSON.stringify(body),
    });
    if (response.ok) return (await response.json()) as T;
    const error = await response.text();
    // Nothing was done: the disk of the machine was busy for long. A client tries again then.
    if (!error.includes('"code":"overloaded"')) throw new Error(`${path}: ${error}`);
    await setTimeout(1000);
  }
}

/** Sends a DELETE request. */
export async function remove(server: Server, path: string, token: string): Promise<void> {
  const headers = { Authorization: `Bearer ${token}` };
  const response = await fetch(server.url + path, { method: 'DELETE', headers });
  if (!response.ok) throw new Error(`${path}: ${await response.text()}`);
}

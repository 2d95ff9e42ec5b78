/** `@uproar/client` against the real server: in Node.js, in pages of another origin, and as a package. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { gzipSync } from 'node:zlib';
import { type Client, Memory, type Options, connect, signIn } from '@uproar/client';
import type { Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { PASSWORD, createWorld } from './browser';
import { bundleClient } from './bundle';
import { type Server, freePort, startServer } from './server';

const WAIT = { timeout: 20_000 };
const port = await freePort();
/** Where the pages of another application are. */
const ORIGIN = `http://127.0.0.1:${port}`;
const world = createWorld({ arguments: ['--allow-origin', ORIGIN] });

const open: Client[] = [];
afterEach(() => {
  for (const client of open.splice(0)) client.close();
});

async function connected(server: Server, options: Omit<Options, 'url'>): Promise<Client> {
  const client = await connect({ url: server.url, ...options });
  open.push(client);
  return client;
}

let count = 0;
/** A new user with this name and a number, connected. */
async function newcomer(name: string, options: Omit<Options, 'url'> = {}): Promise<Client> {
  return connected(world.server, { token: await world.account(`${name}${++count}`), ...options });
}

/** Two users in a room of their own. */
async function pair() {
  const [ann, bob] = [await newcomer('ann'), await newcomer('bob')];
  const { name } = await ann.createRoom({ name: `room${++count}`, title: 'A room' });
  await bob.joinRoom(name);
  const rooms = [ann.room(name), bob.room(name)] as const;
  await expect.poll(() => rooms.map(({ timeline }) => timeline.loaded), WAIT).toEqual([true, true]);
  return { ann, bob, name, annsRoom: rooms[0], bobsRoom: rooms[1] };
}

describe('a chat', () => {
  it('shows what another user writes, changes and does', async () => {
    const { ann, bob, name, annsRoom, bobsRoom } = await pair();
    const arrived: string[] = [];
    bob.on('message', ({ room, user, text }) => arrived.push(`${room} ${user.username}: ${text}`));
    const offset = await annsRoom.send('Hello');
    await expect.poll(() => arrived, WAIT).toEqual([`${name} ${ann.user.username}: Hello`]);
    expect(bob.rooms.map(({ title, unread }) => [title, unread])).toEqual([['A room', 1]]);
    await bobsRoom.markRead();
    expect(bob.rooms[0]!.unread).toBe(0);

    const answer = await bobsRoom.send('Hello to you', { replyTo: offset });
    await bobsRoom.react(offset, '👍');
    await annsRoom.edit(offset, 'Hello all');
    await expect.poll(() => annsRoom.messages, WAIT).toMatchObject([
      { offset, text: 'Hello all', edited: true, reactions: [{ emoji: '👍', count: 1, mine: false }] },
      { offset: answer, text: 'Hello to you', replyTo: offset, user: bob.user },
    ]);
    expect([...(await annsRoom.reactors(annsRoom.timeline.find(offset)!)).get('👍')!.values()]).toEqual([
      bob.user.username,
    ]);
    await bobsRoom.unreact(offset, '👍');
    await bobsRoom.delete(answer);
    await expect.poll(() => annsRoom.messages.map(({ text, reactions }) => [text, reactions.length]), WAIT).toEqual([
      ['Hello all', 0],
      [null, 0],
    ]);

    expect(bobsRoom.people.map(({ id }) => id).sort()).toEqual([ann.user.id, bob.user.id].sort());
    annsRoom.typing();
    await expect.poll(() => bobsRoom.typingUsers, WAIT).toEqual([ann.user]);
    ann.close();
    await expect.poll(() => bobsRoom.people, WAIT).toEqual([bob.user]);
    expect(bobsRoom.typingUsers).toEqual([]);
  });

  it('loses and doubles nothing while the server is killed and starts again', async () => {
    const { annsRoom, bobsRoom, bob } = await pair();
    const texts = Array.from({ length: 60 }, (_, i) => `message ${i}`);
    const arrived: string[] = [];
    bob.on('message', ({ text }) => arrived.push(text));
    const sent = texts.map((text) => annsRoom.send(text));
    await sent[15];
    await world.server.stop('SIGKILL');
    await expect.poll(() => bob.state, WAIT).toBe('connecting');
    await world.server.start();
    const offsets = await Promise.all(sent);
    expect(offsets).toEqual([...offsets].sort((a, b) => a - b));
    expect(new Set(offsets).size).toBe(texts.length);
    for (const room of [annsRoom, bobsRoom]) {
      await expect.poll(() => room.messages.map(({ text, status }) => status ?? text), WAIT).toEqual(texts);
    }
    expect(arrived).toEqual(texts);
  });

  it('sends later what was written without a connection, even by another program', async () => {
    const storage = new Memory();
    const ann = await newcomer('ann', { storage });
    const { name } = await ann.createRoom({ name: `room${++count}` });
    await world.server.stop();
    const kept = ann.room(name).send('Kept');
    expect(ann.room(name).messages).toMatchObject([{ text: 'Kept', status: 'pending', user: ann.user }]);
    ann.close();
    await expect(kept).rejects.toMatchObject({ code: 'closed' });
    await world.server.start();
    const again = await connected(world.server, { token: await world.token(ann.user.username), storage });
    await expect.poll(() => again.room(name).messages.map(({ text, status }) => [text, status]), WAIT).toEqual([
      ['Kept', undefined],
    ]);
  });

  it('loads a thousand messages back to the first', async () => {
    const owner = await world.account('writer');
    await world.room(owner, 'thousand');
    for (let i = 0; i < 1000; i++) await world.say(owner, 'thousand', `${i}`);
    const ann = await newcomer('ann');
    await ann.joinRoom('thousand');
    const room = ann.room('thousand');
    await expect.poll(() => room.messages.length, WAIT).toBe(100);
    while (room.hasBefore) await room.loadBefore();
    expect(room.messages.map(({ text }) => text)).toEqual(Array.from({ length: 1000 }, (_, i) => `${i}`));
    expect(room.hasAfter).toBe(false);
  });
});

describe('what fails', () => {
  it('has a code and a message', async () => {
    await expect(connect({ url: world.server.url, token: 'nonsense' })).rejects.toMatchObject({
      code: 'token_invalid',
    });
    await expect(connect({ url: `http://localhost:${await freePort()}`, token: 'x' })).rejects.toMatchObject({
      code: 'network',
      message: 'the server cannot be reached',
    });
    const wrong = { username: 'nobody', password: 'nothing at all' };
    await expect(signIn(world.server.url, wrong)).rejects.toMatchObject({ code: 'wrong_credentials' });
    const { annsRoom, bobsRoom } = await pair();
    await expect(annsRoom.send('x'.repeat(100_000))).rejects.toMatchObject({ code: 'text_too_large' });
    expect(annsRoom.messages).toMatchObject([{ status: 'failed', error: { code: 'text_too_large' } }]);
    await expect(annsRoom.send('x'.repeat(20_000))).rejects.toMatchObject({ code: 'text_too_large' });
    await annsRoom.send('Short');
    const offset = await bobsRoom.send('Mine');
    await expect(annsRoom.edit(offset, 'Yours')).rejects.toMatchObject({ code: 'not_allowed' });
  });

  it('is everything in a room that the user was removed from', async () => {
    const { ann, bob, name, bobsRoom } = await pair();
    const removed: string[] = [];
    bob.on('removed', (room) => removed.push(room.name));
    await ann.api.removeMember(name, bob.user.username);
    await expect.poll(() => removed, WAIT).toEqual([name]);
    expect([bob.rooms, bobsRoom.isAvailable, bobsRoom.error?.code]).toEqual([[], false, 'not_member']);
    await expect(bobsRoom.send('Still here?')).rejects.toMatchObject({ code: 'not_member' });
    await expect(bobsRoom.edit(1, 'Still here?')).rejects.toMatchObject({ code: 'not_subscribed' });
    const unknown = bob.room('nowhere');
    expect(unknown.error?.code).toBe('not_member');
    // Once the user is a member again, the same object has the messages.
    bobsRoom.discard(bobsRoom.messages[0]!.id!);
    await ann.room(name).send('Welcome back');
    await bob.joinRoom(name);
    await expect.poll(() => bobsRoom.messages.map(({ text }) => text), WAIT).toEqual(['Welcome back']);
  });
});

describe('a token', () => {
  let server: Server;
  beforeAll(async () => {
    server = await startServer({ limits: { token_lifetime_ms: 2000, expired_grace_ms: 2000 } });
  });
  afterAll(() => server.end());

  const account = async (username: string) => {
    const response = await fetch(`${server.url}/user/signup`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body: JSON.stringify({ username, email: `${username}@example.org`, password: PASSWORD }),
    });
    return ((await response.json()) as { token: string }).token;
  };

  it('is asked for again when it expires', async () => {
    await account('asked');
    const rejected: (string | undefined)[] = [];
    const getToken = async (token?: string) => {
      rejected.push(token);
      return (await signIn(server.url, { username: 'asked', password: PASSWORD })).token;
    };
    const chat = await connected(server, { getToken });
    const { name } = await chat.createRoom({ name: 'asked' });
    const states: string[] = [];
    chat.on('state', () => states.push(chat.state));
    await expect.poll(() => rejected.length, WAIT).toBeGreaterThan(2);
    expect(rejected[0]).toBeUndefined();
    expect(rejected[1]).toMatch(/^ey/);
    await chat.room(name).send('Still here');
    expect(states).toEqual([]);
  });

  it('is renewed without being asked for', async () => {
    const token = await account('renewed');
    const chat = await connected(server, { token });
    const { name } = await chat.createRoom({ name: 'renewed' });
    const isExpired = () => fetch(`${server.url}/me`, { headers: { Authorization: `Bearer ${token}` } });
    await expect.poll(async () => (await isExpired()).status, WAIT).toBe(401);
    await chat.api.members(name);
    await chat.room(name).send('Still here');
    expect(chat.state).toBe('connected');
  });

  it('that is not to be had any more ends the connection', async () => {
    let token = await account('ended');
    const chat = await connected(server, {
      getToken: () => {
        const first = token;
        token = '';
        return first;
      },
    });
    await expect.poll(() => [chat.state, chat.error?.code], WAIT).toEqual(['closed', 'signed_out']);
  });
});

describe('a page of another origin', () => {
  /** The client and the SDK, as a CDN would serve them. */
  let bundle: string;
  const pages = createServer((request, response) => {
    response.setHeader('Content-Type', 'text/html');
    const html = readFileSync('client/examples/chat.html', 'utf8');
    response.end(request.url === '/chat' ? html.replace('https://chat.example.com', world.server.url) : '<p>Empty</p>');
  });

  beforeAll(async () => {
    await new Promise<void>((done) => pages.listen(port, '0.0.0.0', done));
    bundle = await bundleClient({ sdk: true });
  });
  afterAll(() => pages.close());

  async function visit(url: string): Promise<Page> {
    const context = await world.context();
    await context.route('https://esm.sh/**', (route) =>
      route.fulfill({ contentType: 'text/javascript', headers: { 'Access-Control-Allow-Origin': '*' }, body: bundle }),
    );
    const page = await world.newTab(context);
    await page.goto(url);
    return page;
  }

  it('is a chat with the example of 40 lines, also after the server was killed', async () => {
    expect(readFileSync('client/examples/chat.html', 'utf8').trim().split('\n').length).toBeLessThanOrEqual(40);
    const owner = await world.account('owner');
    await world.room(owner, 'lobby');
    await world.account('visitor');
    const page = await visit(`${ORIGIN}/chat`);
    await page.getByPlaceholder('Username').fill('visitor');
    await page.getByPlaceholder('Password').fill('wrong password');
    await page.keyboard.press('Enter');
    await page.getByText('wrong').waitFor();
    await page.getByPlaceholder('Username').fill('visitor');
    await page.getByPlaceholder('Password').fill(PASSWORD);
    await page.getByRole('button', { name: 'Sign in' }).click();
    const message = page.getByPlaceholder('Message');
    await message.fill('Hello');
    await message.press('Enter');
    const lines = () => page.locator('li').allTextContents();
    await expect.poll(lines, WAIT).toEqual(['visitor: Hello ']);

    const bob = await newcomer('bob');
    await bob.joinRoom('lobby');
    const room = bob.room('lobby');
    room.typing();
    await page.getByText(`${bob.user.username} is typing`).waitFor();
    await room.send('Hello, visitor');
    await world.server.stop('SIGKILL');
    await message.fill('Is anyone there?');
    await message.press('Enter');
    await page.getByText('visitor: Is anyone there? pending').waitFor();
    await world.server.start();
    const all = ['visitor: Hello ', `${bob.user.username}: Hello, visitor `, 'visitor: Is anyone there? '];
    await expect.poll(lines, WAIT).toEqual(all);
    await expect.poll(() => room.messages.map(({ user, text }) => `${user.username}: ${text} `), WAIT).toEqual(all);
  });

  it('is refused unless the server allows its origin', async () => {
    const token = await world.account('stranger');
    const failure = async (page: Page) =>
      page.evaluate(`import('https://esm.sh/@uproar/client@0.1').then(({ connect }) =>
        connect(${JSON.stringify({ url: world.server.url, token })}).then(
          (chat) => chat.close(),
          (error) => error.code,
        ),
      )`);
    expect(await failure(await visit(ORIGIN))).toBeUndefined();
    // The same server, by another name.
    expect(await failure(await visit(ORIGIN.replace('127.0.0.1', '127.0.0.2')))).toBe('network');
  });
});

describe('the package', () => {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'uproar-client-'));
    const packed = execFileSync('npm', ['pack', '--workspace', 'client', '--pack-destination', folder, '--json'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const installed = join(folder, 'node_modules/@uproar/client');
    mkdirSync(installed, { recursive: true });
    const [file] = /[\w-]+-[\d.]+\.tgz/.exec(packed)!;
    execFileSync('tar', ['-xzf', join(folder, file), '--strip-components=1', '-C', installed]);
    symlinkSync(resolve('node_modules/centrifuge'), join(folder, 'node_modules/centrifuge'));
    writeFileSync(join(folder, 'package.json'), '{ "type": "module" }');
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  it('is at most 20 kB compressed, beside the SDK', async () => {
    expect(gzipSync(await bundleClient({ sdk: false })).length).toBeLessThanOrEqual(20_000);
  });

  it('has types that a strict program can use', () => {
    writeFileSync(join(folder, 'program.ts'), PROGRAM);
    const compilerOptions = { strict: true, module: 'nodenext', target: 'es2022', types: [], noEmit: true };
    const config = { compilerOptions: { ...compilerOptions, lib: ['es2023', 'dom'] }, files: ['program.ts'] };
    writeFileSync(join(folder, 'tsconfig.json'), JSON.stringify(config));
    const check = () => execFileSync(resolve('node_modules/.bin/tsc'), ['-p', folder], { encoding: 'utf8' });
    expect(check()).toBe('');
    writeFileSync(join(folder, 'program.ts'), PROGRAM.replace('replyTo: offset', 'reply: offset'));
    expect(check).toThrow();
  });

  it('runs the example of a bot', async () => {
    const owner = await world.account('botowner');
    const lobby = await fetch(`${world.server.url}/rooms/lobby`, { headers: { Authorization: `Bearer ${owner}` } });
    if (!lobby.ok) await world.room(owner, 'lobby');
    writeFileSync(join(folder, 'bot.js'), readFileSync('client/examples/bot.js'));
    const env = { ...process.env, URL: world.server.url, TOKEN: await world.account('bot') };
    const bot: ChildProcess = spawn(process.execPath, [...process.execArgv, join(folder, 'bot.js')], {
      env,
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    try {
      const ann = await newcomer('ann');
      await ann.joinRoom('lobby');
      const room = ann.room('lobby');
      await expect.poll(() => room.people.map(({ username }) => username), WAIT).toContain('bot');
      const offset = await room.send('ping');
      await expect.poll(() => room.messages.at(-1), WAIT).toMatchObject({
        text: `pong, ${ann.user.username}`,
        replyTo: offset,
        user: { username: 'bot' },
      });
    } finally {
      bot.kill();
    }
  });

  it('shows both examples in its README', () => {
    const readme = readFileSync('client/README.md', 'utf8');
    for (const file of ['chat.html', 'bot.js']) {
      expect(readme).toContain(readFileSync(`client/examples/${file}`, 'utf8').trim());
    }
  });
});

const PROGRAM = `import { type Client, ChatError, type RoomInfo, type RoomMessage, connect, signIn } from '@uproar/client';

export async function main(url: string): Promise<void> {
  const { token } = await signIn(url, { username: 'ann', password: 'secret' });
  const chat: Client = await connect({ url, token, storage: localStorage, fetch });
  const stop: () => void = chat.on('rooms', () => {
    const rooms: readonly RoomInfo[] = chat.rooms;
    console.log(rooms.map(({ title, unread }) => title + unread.toFixed()));
  });
  const room = chat.room('lobby');
  const offset: number = await room.send('Hello');
  await room.send('Hello again', { replyTo: offset });
  const last: RoomMessage | undefined = room.messages.at(-1);
  if (last?.status === 'failed') console.log(last.error?.code);
  if (last?.status === undefined) await room.edit(last?.offset ?? 1, 'Changed');
  chat.on('message', ({ room, text }) => console.log(room.toUpperCase(), text.length));
  await room.loadBefore().catch((error: unknown) => error instanceof ChatError && error.code);
  await room.markRead();
  stop();
  chat.close();
}
`;

/** A room in a frame on another site. */
import { readFileSync } from 'node:fs';
import { gzipSync } from 'node:zlib';
import type { BrowserContext, FrameLocator, Page } from 'playwright-core';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  PASSWORD,
  type World,
  accessibilityFlaws,
  composer,
  createWorld,
  launchWith,
  messageText,
  send,
} from './browser';
import { post } from './server';
import { startSite } from './site';

const site = await startSite();
const stranger = await startSite();
const origins = ['localhost', '127.0.0.1'].map((host) => `http://${host}:${site.port}`);
const options = { arguments: ['--embed-origin', origins.join(',')] };
afterAll(async () => {
  await site.end();
  await stranger.end();
});

/** The only elements of the site's page that matter, and what it does with them. */
interface Embedding {
  elements: string;
  script?: string;
  policy?: string;
}

interface Told {
  type: string;
  detail: unknown;
}

let published = 0;

/** Puts a page on a site, and returns its address. In the elements, SERVER stands for the server. */
function publish(world: World, { elements, script = '', policy }: Embedding, on = site): string {
  const path = `/page-${++published}`;
  const { page: server } = world.server;
  const html = `<!doctype html><html lang="en"><title>A site</title>
    <script src="${server}/embed.js"></script>
    <main><h1>A site</h1><input aria-label="Search">${elements.replaceAll('SERVER', server)}</main>
    ${script && `<script>
      const told = [];
      for (const event of ['ready', 'unread', 'error']) {
        const note = ({ type, detail }) => told.push({ type: type.slice(7), detail });
        for (const room of document.querySelectorAll('uproar-room')) room.addEventListener('uproar-' + event, note);
      }
      const room = document.querySelector('uproar-room');
      const tokenOf = (user) => async () => {
        const response = await fetch('/chat-token?user=' + user);
        return response.ok ? response.text() : null;
      };
      ${script}
    </script>`}</html>`;
  on.pages.set(path, { html, ...(policy ? { policy: policy.replaceAll('SERVER', server) } : {}) });
  return on.besides(server) + path;
}

/** What is in the frame of an element. */
const inside = (page: Page, index = 0): FrameLocator => page.locator('uproar-room iframe').nth(index).contentFrame();
const told = (page: Page) => page.evaluate('told') as Promise<Told[]>;
const room = (name: string, attributes = '') =>
  `<uproar-room server="SERVER" room="${name}" ${attributes}></uproar-room>`;
const SIGNED_IN = `room.getToken = tokenOf('ann');`;

describe('a room in a frame', () => {
  const world = createWorld(options);
  let owner: string;

  /** The pages of a test, which end with it: their users would go on reading. */
  const visited: Page[] = [];
  afterEach(async () => {
    for (const page of visited.splice(0)) await page.context().close();
  });

  async function visit(embedding: Embedding, context?: BrowserContext): Promise<Page> {
    const page = await world.newTab(context ?? (await world.context()));
    visited.push(page);
    await page.goto(publish(world, embedding));
    return page;
  }

  beforeAll(async () => {
    owner = await world.account('owner');
    for (const name of ['lobby', 'garden', 'attic', 'cellar']) await world.room(owner, name, `The ${name}`);
    site.token = (user) => ({ text: world.server.token(user, 3600) });
    // Users exist as soon as the server has seen a token of theirs.
    for (const user of ['ann', 'bob']) {
      for (const name of ['lobby', 'garden']) await world.join(world.server.token(user, 60), name);
    }
  });

  it('shows the room alone, for a user of the site, who sends and receives', async () => {
    const page = await visit({ elements: room('lobby'), script: SIGNED_IN });
    const frame = inside(page);
    await frame.getByRole('heading', { name: 'The lobby' }).waitFor();
    await send(frame, 'Hello from the shop');
    await messageText(frame, 'Hello from the shop').waitFor();
    const bob = await visit({ elements: room('lobby'), script: `room.getToken = tokenOf('bob');` });
    await messageText(inside(bob), 'Hello from the shop').waitFor();
    await send(inside(bob), 'Hello, Ann');
    await messageText(frame, 'Hello, Ann').waitFor();
    for (const name of ['Settings', 'Room details', 'All rooms']) {
      expect(await frame.getByLabel(name).count(), name).toBe(0);
    }
    expect(await frame.getByRole('navigation').count()).toBe(0);
    expect(await told(page)).toContainEqual({ type: 'ready', detail: { room: 'lobby', title: 'The lobby' } });
    await page.getByTitle('Chat in The lobby').waitFor();
    // The token is in no address.
    for (const { url } of await addresses(page)) expect(url).not.toMatch(/eyJ/);
  });

  it('is as large as the site makes it', async () => {
    const page = await visit({
      elements: `<style>#low { height: 250px; width: 300px }</style>
        ${room('lobby')}${room('garden', 'id="low"')}${room('attic', 'hidden')}`,
      script: `for (const room of document.querySelectorAll('uproar-room')) room.getToken = tokenOf('ann');`,
    });
    await composer(inside(page, 1)).waitFor();
    const sizes = await page.locator('uproar-room').evaluateAll((rooms) =>
      rooms.map((room) => {
        const { width, height } = room.getBoundingClientRect();
        const frame = room.shadowRoot!.querySelector('iframe')!.getBoundingClientRect();
        return [width, height, frame.width - width, frame.height - height];
      }),
    );
    const { width } = (await page.locator('main').boundingBox())!;
    expect(sizes).toEqual([[width, 400, 0, 0], [300, 250, 0, 0], [0, 0, 0, 0]]);
    expect(await inside(page, 1).locator('html').evaluate((html) => html.scrollWidth - html.clientWidth)).toBe(0);
  });

  it('answers nobody but its frame, and only while that has a page of the server', async () => {
    const html = `<script>
      const heard = [];
      onmessage = ({ data }) => heard.push(data);
      parent.postMessage('uproar-room', '*');
    </script>`;
    stranger.pages.set('/thief', { html });
    const thief = `${stranger.besides(world.server.page)}/thief`;
    // The element hears everything before this page does.
    const script = `${SIGNED_IN}
      addEventListener('message', ({ data, source }) => data === 'uproar-room' && source.postMessage('heard', '*'));`;
    const page = await visit({ elements: `<iframe src="${thief}"></iframe>${room('lobby')}`, script });
    await composer(inside(page)).waitFor();
    await page.evaluate((thief) => {
      document.querySelector('uproar-room')!.shadowRoot!.querySelector('iframe')!.src = thief;
    }, thief);
    for (const frame of [page.locator('main > iframe'), page.locator('uproar-room iframe')]) {
      const heard = () => frame.contentFrame().locator('html').evaluate('heard') as Promise<unknown>;
      await expect.poll(heard, { timeout: 10_000 }).toEqual(['heard']);
    }
  });

  it('keeps what was begun when the page of the site is reloaded', async () => {
    // On another site, the browser of these tests gives a frame no storage.
    const { hostname } = new URL(world.server.page);
    const address = new URL(publish(world, { elements: room('lobby'), script: SIGNED_IN }));
    const page = await world.newVisitor();
    visited.push(page);
    await page.goto(`http://${hostname}:${site.port}${address.pathname}`);
    await composer(inside(page)).fill('Not finished');
    await page.reload();
    await expect.poll(() => composer(inside(page)).inputValue(), { timeout: 10_000 }).toBe('Not finished');
    await composer(inside(page)).fill('');
  });

  it('gets another token before one expires', async () => {
    site.token = (user) => ({ text: world.server.token(user, 4) });
    const before = site.asked;
    const page = await visit({ elements: room('lobby'), script: SIGNED_IN });
    await composer(inside(page)).waitFor();
    await expect.poll(() => site.asked - before, { timeout: 20_000 }).toBeGreaterThan(2);
    site.token = (user) => ({ text: world.server.token(user, 3600) });
    await send(inside(page), 'Still here');
    await messageText(inside(page), 'Still here').waitFor();
    await inside(page).locator('.row.pending, .row.stored').first().waitFor({ state: 'detached' });
    expect((await told(page)).filter(({ type }) => type === 'error')).toEqual([]);
  });

  it('says when the server refuses the token, and tries again', async () => {
    const good = site.token;
    for (const text of ['nonsense', 'ä\n', world.server.token('ann', 1).replace(/.$/, '')]) {
      site.token = () => ({ text });
      const page = await visit({ elements: room('lobby'), script: SIGNED_IN });
      await inside(page).getByText('The chat doesn’t accept your sign-in from this site.').waitFor();
      await expect.poll(() => told(page)).toContainEqual(
        { type: 'error', detail: { code: 'token_refused', message: expect.any(String) } },
      );
      site.token = good;
      await inside(page).getByRole('button', { name: 'Try again' }).click();
      await composer(inside(page)).waitFor();
    }
  });

  it('says when nobody is signed in to the site, or the site has no answer', async () => {
    const good = site.token;
    site.token = () => ({ status: 401, text: 'not signed in' });
    const page = await visit({ elements: room('lobby'), script: SIGNED_IN });
    await inside(page).getByText('Sign in to this site to see the chat.').waitFor();
    await expect.poll(() => told(page)).toContainEqual(
      { type: 'error', detail: { code: 'token_missing', message: expect.any(String) } },
    );
    site.token = good;
    const failing = await visit({
      elements: room('lobby'),
      script: `let tries = 0;
        addEventListener('error', (event) => event.preventDefault());
        room.getToken = () => tries++ < 2 ? Promise.reject(new Error('no network')) : tokenOf('ann')();`,
    });
    await inside(failing).getByText('This site can’t sign you in right now. Trying again…').waitFor();
    await composer(inside(failing)).waitFor();
    world.pageErrors.splice(0);
  });

  it('has the usual form if the site signs nobody in, until the site does', async () => {
    await world.account('cem');
    const page = await visit({ elements: room('lobby'), script: ' ' });
    const frame = inside(page);
    const signIn = async () => {
      await frame.getByLabel('Username or email').fill('cem');
      await frame.getByLabel('Password').fill(PASSWORD);
      await frame.getByRole('button', { name: 'Sign in' }).click();
    };
    await signIn();
    await frame.getByRole('button', { name: 'Join room' }).click();
    await send(frame, 'I’m Cem');
    await messageText(frame, 'I’m Cem').waitFor();
    // Browsers keep no cookie of a frame on another site.
    await page.reload();
    await signIn();
    await messageText(frame, 'I’m Cem').waitFor();
    await page.evaluate(SIGNED_IN);
    await frame.locator('.row', { hasText: 'I’m Cem' }).waitFor();
    await send(frame, 'And I’m Ann');
    await frame.locator('.row', { hasText: 'And I’m Ann' }).getByText('ann', { exact: true }).waitFor();
  });

  it('follows its attributes', async () => {
    const page = await visit({ elements: room('lobby', 'theme="dark"'), script: SIGNED_IN });
    const scheme = () => inside(page).locator('html').evaluate((html) => getComputedStyle(html).colorScheme);
    await composer(inside(page)).waitFor();
    expect(await scheme()).toBe('dark');
    await page.evaluate(`room.setAttribute('theme', 'light')`);
    await expect.poll(scheme).toBe('light');
    await page.evaluate(`room.removeAttribute('theme')`);
    await expect.poll(scheme).toBe('light dark');
    await page.evaluate(`room.setAttribute('language', 'de-AT')`);
    await expect.poll(() => inside(page).locator('html').getAttribute('lang')).toBe('de');
    await page.getByTitle('Chat im Raum The lobby').waitFor();
    await page.evaluate(`room.removeAttribute('language')`);
    await page.getByTitle('Chat in The lobby').waitFor();
    const steps = await page.evaluate(() => history.length);
    await page.evaluate(`room.setAttribute('room', 'garden')`);
    await inside(page).getByRole('heading', { name: 'The garden' }).waitFor();
    await page.getByTitle('Chat in The garden').waitFor();
    await page.evaluate(`room.removeAttribute('room')`);
    await inside(page).getByText('This site doesn’t say which room to show here.').waitFor();
    await page.evaluate(`room.setAttribute('room', 'lobby')`);
    await inside(page).getByRole('heading', { name: 'The lobby' }).waitFor();
    await page.evaluate(`room.setAttribute('server', new URL(room.getAttribute('server')).href.toUpperCase())`);
    await inside(page).getByRole('heading', { name: 'The lobby' }).waitFor();
    // The way back leads away from the site's page, not through the rooms.
    expect(await page.evaluate(() => history.length)).toBe(steps);
    await page.evaluate(`room.setAttribute('server', 'chat')`);
    expect(await page.locator('uproar-room iframe').count()).toBe(0);
    expect((await told(page)).at(-1)).toMatchObject({ type: 'error', detail: { code: 'bad_server' } });
    await page.evaluate(`room.removeAttribute('server')`);
    const missing = { code: 'bad_server', message: 'the attribute "server" is missing' };
    await expect.poll(() => told(page)).toContainEqual({ type: 'error', detail: missing });
  });

  it('asks the site for another token when the site says so', async () => {
    const page = await visit({ elements: room('lobby'), script: SIGNED_IN });
    await send(inside(page), 'Ann was here');
    await page.evaluate(`room.getToken = tokenOf('bob'); room.reload()`);
    await send(inside(page), 'Bob too');
    await inside(page).locator('.row', { hasText: 'Bob too' }).getByText('bob', { exact: true }).waitFor();
    await page.evaluate(`room.getToken = () => null; room.reload()`);
    await inside(page).getByText('Sign in to this site to see the chat.').waitFor();
  });

  it('has one frame if its tag comes before the script', async () => {
    const html = `<!doctype html>${room('lobby')}`.replaceAll('SERVER', world.server.page);
    site.pages.set('/early', { html });
    const page = await world.newTab(await world.context());
    visited.push(page);
    const asked: string[] = [];
    page.on('request', (request) => asked.push(new URL(request.url()).pathname));
    await page.goto(`${site.besides(world.server.page)}/early`);
    await page.addScriptTag({ url: `${world.server.page}/embed.js` });
    await inside(page).getByLabel('Username or email').waitFor();
    expect(asked.filter((path) => path === '/embed.html')).toHaveLength(1);
  });

  it('can be on a page twice, for two users', async () => {
    const page = await visit({
      elements: room('garden') + room('garden'),
      script: `const [first, second] = document.querySelectorAll('uproar-room');
        first.getToken = tokenOf('ann');
        second.getToken = tokenOf('bob');`,
    });
    await send(inside(page, 0), 'Question');
    await messageText(inside(page, 1), 'Question').waitFor();
    await send(inside(page, 1), 'Answer');
    await messageText(inside(page, 0), 'Answer').waitFor();
    const names = inside(page, 0).locator('.row .name');
    expect(new Set(await names.allTextContents())).toEqual(new Set(['ann', 'bob']));
  });

  it('stops when it is removed, and starts again when it is put back', async () => {
    for (const user of ['ann', 'bob']) await world.join(world.server.token(user, 60), 'attic');
    const page = await visit({ elements: room('attic'), script: SIGNED_IN });
    const watcher = await visit({ elements: room('attic'), script: `room.getToken = tokenOf('bob');` });
    await inside(watcher).getByRole('button', { name: '2 online' }).waitFor();
    await page.evaluate('room.remove()');
    await inside(watcher).getByRole('button', { name: '1 online' }).waitFor();
    const { asked } = site;
    await page.evaluate(`room.setAttribute('room', 'lobby'); room.getToken = tokenOf('ann');`);
    await page.evaluate(`room.setAttribute('room', 'attic')`);
    expect([page.frames().length, site.asked]).toEqual([1, asked]);
    await page.evaluate(`document.body.append(room)`);
    await inside(watcher).getByRole('button', { name: '2 online' }).waitFor();
  });

  it('asks before it joins a room, and says why a room cannot be shown', async () => {
    for (const room of [{ name: 'secret', private: true }, { name: 'closet', size: 1 }]) {
      await post(world.server, '/user/createroom', room, owner);
    }
    const dora = `room.getToken = tokenOf('dora');`;
    const page = await visit({ elements: room('ATTIC'), script: dora });
    const frame = inside(page);
    await frame.getByText('You’re not a member of attic').waitFor();
    expect(await frame.getByRole('link').count()).toBe(0);
    await frame.getByRole('button', { name: 'Join room' }).click();
    await composer(frame).waitFor();
    // Now with the focus, because the user has done something in the frame.
    await frame.locator('#composer:focus').waitFor();
    const remove = await fetch(`${world.server.url}/rooms/attic/members/dora`, {
      method: 'DELETE',
      headers: { Authorization: `Bearer ${owner}` },
    });
    expect(remove.ok).toBe(true);
    await frame.getByText('You left it or were removed. It’s public, so you can join it again.').waitFor();
    for (const name of ['nowhere', 'secret']) {
      await page.evaluate(`room.setAttribute('room', '${name}')`);
      await frame.getByText(`You’re not a member of ${name}`).waitFor();
      await frame.getByText('There is no such room, or only its members can see it.').waitFor();
      expect(await frame.getByRole('button').count()).toBe(0);
    }
    await page.evaluate(`room.setAttribute('room', 'closet')`);
    await frame.getByRole('button', { name: 'Join room' }).click();
    await frame.getByRole('alert').getByText('This room is full.').waitFor();
  });

  it('leaves the focus and the keys of the site alone', async () => {
    const page = await visit({ elements: room('lobby'), script: SIGNED_IN });
    await page.getByLabel('Search').focus();
    await composer(inside(page)).waitFor();
    await page.keyboard.type('boots');
    expect(await page.getByLabel('Search').inputValue()).toBe('boots');
    expect(await composer(inside(page)).inputValue()).toBe('');
    await inside(page).locator('.scroller').focus();
    await page.keyboard.type('hi');
    expect(await composer(inside(page)).inputValue()).toBe('hi');
    await inside(page).locator('html').evaluate(() => {
      addEventListener('keydown', ({ key, defaultPrevented }) => {
        if (key === 'k') document.documentElement.dataset['prevented'] = String(defaultPrevented);
      });
    });
    await page.keyboard.press('Control+k');
    expect(await inside(page).locator('html').getAttribute('data-prevented')).toBe('false');
    expect(await inside(page).locator('dialog[open]').count()).toBe(0);
  });

  it('counts what is unread while it is not on screen', async () => {
    const page = await visit({ elements: room('lobby'), script: SIGNED_IN });
    await composer(inside(page)).waitFor();
    const unread = async () => (await told(page)).findLast(({ type }) => type === 'unread')?.detail;
    await expect.poll(unread).toBe(0);
    await world.say(owner, 'lobby', 'Seen');
    await messageText(inside(page), 'Seen').waitFor();
    await expect.poll(unread).toBe(0);
    await page.evaluate('room.hidden = true');
    // The frame learns of it a little later.
    const say = () => world.say(owner, 'lobby', 'Not seen');
    await expect.poll(() => say().then(unread), { timeout: 10_000 }).toBeGreaterThan(1);
    await page.evaluate('room.hidden = false');
    await expect.poll(unread, { timeout: 10_000 }).toBe(0);
    await messageText(inside(page), 'Not seen').last().waitFor();
  });

  it('opens other rooms in the whole page, and messages of its own in place', async () => {
    const { page: server } = world.server;
    const first = await world.say(owner, 'cellar', 'The first one');
    await world.join(world.server.token('ann', 60), 'cellar');
    await world.say(owner, 'cellar', `${server}/#/garden and ${server}/#/cellar/${first}`);
    const context = await world.context();
    const page = await visit({ elements: room('cellar'), script: SIGNED_IN }, context);
    const link = (to: string) => inside(page).getByRole('link', { name: `${server}/#/${to}` });
    await link(`cellar/${first}`).click();
    await inside(page).locator('.row.flashed', { hasText: 'The first one' }).waitFor();
    expect(context.pages()).toHaveLength(1);
    const [whole] = await Promise.all([context.waitForEvent('page'), link('garden').click()]);
    expect(whole.url()).toBe(`${server}/#/garden`);
    await world.say(owner, 'cellar', 'See #garden');
    const mention = inside(page).getByRole('link', { name: '#garden', exact: true });
    const [another] = await Promise.all([context.waitForEvent('page'), mention.click()]);
    await another.waitForURL(`${server}/#/garden`);
    await inside(page).getByRole('heading', { name: 'The cellar' }).waitFor();
    await context.grantPermissions(['clipboard-read', 'clipboard-write']);
    const row = inside(page).locator('.row', { hasText: 'The first one' });
    await row.hover();
    await row.getByRole('button', { name: 'Copy link' }).click();
    await inside(page).getByText('Link copied').waitFor();
    expect(await whole.evaluate(() => navigator.clipboard.readText())).toContain(`${server}/#/cellar/${first}/`);
  });

  it('works where the site forbids everything else', async () => {
    const page = await visit({
      elements: room('lobby'),
      policy: `default-src 'none'; script-src SERVER; frame-src SERVER; require-trusted-types-for 'script'`,
    });
    await inside(page).getByLabel('Username or email').waitFor();
    expect((await page.locator('uproar-room iframe').boundingBox())!.height).toBe(400);
  });

  it('needs a small script', async () => {
    const script = await (await fetch(`${world.server.page}/embed.js`)).arrayBuffer();
    expect(gzipSync(script).length).toBeLessThan(2000);
  });

  it('works where the browser gives a frame no storage', async () => {
    const context = await world.context();
    await context.addInitScript(() => {
      if (window.parent === window) return;
      for (const name of ['localStorage', 'sessionStorage']) {
        Object.defineProperty(window, name, { get: () => { throw new DOMException('blocked', 'SecurityError'); } });
      }
    });
    const page = await visit({ elements: room('lobby'), script: SIGNED_IN }, context);
    await send(inside(page), 'Without storage');
    await messageText(inside(page), 'Without storage').waitFor();
  });

  it('is accessible in both themes, large and small', async () => {
    for (const theme of ['light', 'dark']) {
      const page = await visit({ elements: room('lobby', `theme="${theme}"`), script: SIGNED_IN });
      await messageText(inside(page), 'Without storage').waitFor();
      expect(await accessibilityFlaws(page)).toEqual([]);
      expect(await accessibilityFlaws(page.frames()[1]!)).toEqual([]);
      await page.setViewportSize({ width: 320, height: 640 });
      await inside(page).getByRole('button', { name: /online/ }).click();
      await inside(page).getByRole('heading', { name: 'Members' }).waitFor();
      expect(await accessibilityFlaws(page.frames()[1]!)).toEqual([]);
      await page.screenshot({ path: `e2e/shots/embed-${theme}.png` });
    }
    site.token = () => ({ status: 401, text: '' });
    const page = await visit({ elements: room('lobby'), script: SIGNED_IN });
    await inside(page).getByRole('button', { name: 'Try again' }).waitFor();
    expect(await accessibilityFlaws(page.frames()[1]!)).toEqual([]);
    site.token = (user) => ({ text: world.server.token(user, 3600) });
  });

  it('leads to the whole page when it is opened without a site around it', async () => {
    const page = await world.newVisitor();
    await page.goto(`${world.server.page}/embed.html#/lobby`);
    await page.waitForURL(`${world.server.page}/#/lobby`);
  });

  it('is on no other site, and the whole page on none', async (test) => {
    const { page: server, url } = world.server;
    // Only the server sends the policy.
    if (server !== url) return test.skip();
    const pages: Page[] = [];
    const shown = async (address: string, selector: string) => {
      const page = await (await world.context()).newPage();
      pages.push(page);
      const refused = page.waitForEvent('console', {
        predicate: (message) => message.text().includes('frame-ancestors'),
        timeout: 10_000,
      });
      await page.goto(address);
      await refused;
      return page.locator(selector).contentFrame().locator('#app').count();
    };
    const element = publish(world, { elements: room('lobby'), script: SIGNED_IN }, stranger);
    expect(await shown(element, 'uproar-room iframe')).toBe(0);
    // The element says so, after a while.
    await expect.poll(() => told(pages.at(-1)!), { timeout: 15_000 }).toMatchObject(
      [{ type: 'error', detail: { code: 'not_loaded', message: expect.stringContaining('--embed-origin') } }],
    );
    const frame = { elements: `<iframe src="SERVER/"></iframe>` };
    expect(await shown(publish(world, frame), 'iframe')).toBe(0);
  });

  it('has broken no policy, and thrown no error', () => {
    expect(world.pageErrors).toEqual([]);
  });

  /** Everything that the page and its frames have loaded. */
  async function addresses(page: Page): Promise<{ url: string }[]> {
    const all = await Promise.all(
      page.frames().map((frame) =>
        frame.evaluate(() => [location.href, ...performance.getEntriesByType('resource').map(({ name }) => name)]),
      ),
    );
    return all.flat().map((url) => ({ url }));
  }
});

describe('the example', () => {
  const world = createWorld(options);

  it('shows a room on its page', async () => {
    await world.room(await world.account('owner'), 'lobby');
    const token = world.server.token('ann', 3600);
    await world.join(token, 'lobby');
    site.token = () => ({ text: token });
    const html = readFileSync('client/examples/embed.html', 'utf8');
    expect(html.trimEnd().split('\n').length).toBeLessThanOrEqual(40);
    site.pages.set('/example', { html });
    const { port } = new URL(world.server.page);
    const browser = await launchWith('localhost:8080', `127.0.0.1:${port}`);
    try {
      const page = await world.newTab(await browser.newContext());
      await page.goto(`http://localhost:${site.port}/example`);
      await send(inside(page), 'It works');
      await messageText(inside(page), 'It works').waitFor();
      await page.evaluate(`room.hidden = true`);
      await world.say(await world.token('owner'), 'lobby', 'Good');
      await expect.poll(() => page.locator('#unread').textContent()).toBe('1');
    } finally {
      await browser.close();
    }
  });
});

describe('in Firefox', () => {
  const world = createWorld(options, 'firefox');

  it('a room is shown in a frame', async () => {
    await world.room(await world.account('owner'), 'lobby', 'The lobby');
    await world.join(world.server.token('ann', 60), 'lobby');
    site.token = () => ({ text: world.server.token('ann', 3600) });
    const page = await world.newVisitor();
    await page.goto(publish(world, { elements: room('lobby'), script: SIGNED_IN }));
    // Playwright's keys and clicks reach no frame in Firefox.
    await composer(inside(page)).evaluate((area: HTMLTextAreaElement) => {
      area.value = 'Hello from Firefox';
      area.dispatchEvent(new InputEvent('input', { bubbles: true }));
    });
    await inside(page).getByRole('button', { name: 'Send' }).dispatchEvent('click');
    await messageText(inside(page), 'Hello from Firefox').waitFor();
    await page.getByTitle('Chat in The lobby').waitFor();
  });
});

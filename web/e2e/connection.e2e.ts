import { type BrowserContext, type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { PASSWORD, composer, said, send, settled, world } from './browser';
import { post } from './server';

const the = world();

/** Nothing lost, nothing doubled, and in this order. */
async function expectTexts(page: Page, texts: string[]): Promise<void> {
  await settled(page);
  for (const text of texts) await said(page, text).first().waitFor({ timeout: 20_000 });
  const shown = await page.locator('.row .text').allTextContents();
  expect(shown.filter((text) => texts.includes(text))).toEqual(texts);
}

describe('a connection that comes and goes', () => {
  let ann: Page;
  let bob: Page;
  let context: BrowserContext;
  let tokens: { ann: string; bob: string };

  beforeAll(async () => {
    tokens = { ann: await the.account('ann'), bob: await the.account('bob') };
    await the.room(tokens.ann, 'lobby', 'The lobby');
    await the.room(tokens.ann, 'quiet', 'Quiet');
    for (const room of ['lobby', 'quiet']) await the.join(tokens.bob, room);
    context = await the.context();
    ann = await the.signedIn('ann', 'lobby', await the.tab(context));
    bob = await the.signedIn('bob', 'lobby');
    await composer(ann).waitFor();
    await composer(bob).waitFor();
  }, 60_000);

  it('stays signed in over a reload, in the room that was open', async () => {
    await ann.reload();
    await composer(ann).waitFor();
    await send(ann, 'Still here');
    await said(bob, 'Still here').waitFor();
    // What scripts can read has no token in it.
    const kept = await ann.evaluate(() => document.cookie + JSON.stringify({ ...localStorage, ...sessionStorage }));
    expect(kept).not.toMatch(/eyJ/);
  });

  it('is offline and comes back, and nothing is missing', async () => {
    await context.setOffline(true);
    await ann.getByText('Connection lost').waitFor();
    await send(ann, 'Written offline');
    await ann.locator('.row.pending').waitFor();
    await send(bob, 'Said meanwhile');
    await said(bob, 'Said meanwhile').waitFor();
    expect(await said(ann, 'Said meanwhile').count()).toBe(0);
    await context.setOffline(false);
    await ann.getByText('Back online. 1 new message.').waitFor({ timeout: 20_000 });
    await expectTexts(ann, ['Said meanwhile', 'Written offline']);
    await expectTexts(bob, ['Said meanwhile', 'Written offline']);
    // It has the time at which it was stored, not that at which it came.
    const time = (page: Page) => page.locator('.row', { hasText: 'Said meanwhile' }).locator('.by time').getAttribute('datetime');
    expect(await time(ann)).toBe(await time(bob));
  });

  it('keeps what is not sent over a reload', async () => {
    await the.server.stop('SIGKILL');
    await ann.getByText('Connection lost').waitFor();
    await send(ann, 'First of two');
    await send(ann, 'Second of two');
    await composer(ann).fill('A draft');
    await ann.goto('about:blank');
    await the.server.start();
    await ann.goto(`${the.server.page}/#/lobby`);
    await expectTexts(ann, ['First of two', 'Second of two']);
    await expectTexts(bob, ['First of two', 'Second of two']);
    expect(await composer(ann).inputValue()).toBe('A draft');
    await composer(ann).fill('');
  }, 60_000);

  it('does not double what was stored when the answer was lost', async () => {
    let deaf = false;
    const page = await the.tab(context);
    await page.routeWebSocket(/connection/, (socket) => {
      const server = socket.connectToServer();
      socket.onMessage((message) => server.send(message));
      server.onMessage((message) => {
        if (!deaf) socket.send(message);
      });
    });
    await page.goto(`${the.server.page}/#/lobby`);
    await composer(page).waitFor();
    await said(page, 'Second of two').waitFor();
    deaf = true;
    await send(page, 'Said once');
    await said(bob, 'Said once').waitFor();
    expect(await page.locator('.row.pending').count()).toBe(1);
    // It waits for the answer, gives up, and asks again with the same id.
    await page.waitForTimeout(6000);
    deaf = false;
    await page.locator('.row.pending').waitFor({ state: 'detached' });
    await send(page, 'Said next');
    await expectTexts(page, ['Said once', 'Said next']);
    await expectTexts(bob, ['Said once', 'Said next']);
    await page.close();
  }, 60_000);

  it('several tabs agree on what is read', async () => {
    const other = await the.tab(context);
    await other.goto(the.server.page);
    await other.getByRole('link', { name: 'Quiet' }).waitFor();
    await the.say(tokens.bob, 'quiet', 'psst');
    const unread = { name: 'Quiet 1 unread' };
    await ann.getByRole('link', unread).waitFor();
    await other.getByRole('link', unread).waitFor();
    await other.bringToFront();
    await other.getByRole('link', unread).click();
    await said(other, 'psst').waitFor();
    for (const page of [ann, other]) await page.getByRole('link', { name: 'Quiet', exact: true }).waitFor();
    await other.close();
    await ann.bringToFront();
  });

  it('a token is renewed, and the connection goes on, after the password was changed in another tab', async () => {
    const other = await the.tab(context);
    await other.goto(the.server.page);
    await other.getByRole('button', { name: 'Settings' }).click();
    await other.getByLabel('Current password').fill(PASSWORD);
    await other.getByLabel('New password').fill(`${PASSWORD}!`);
    await other.getByRole('button', { name: 'Change password' }).click();
    await other.getByText('Password changed').waitFor();
    for (const page of [other, ann]) {
      await page.keyboard.press('Escape');
      await page.goto(`${the.server.page}/#/lobby`);
      await composer(page).waitFor();
      await send(page, `Changed ${page === ann ? 'here' : 'there'}`);
    }
    await expectTexts(bob, ['Changed there', 'Changed here']);
    await other.close();
    const token = await post<{ token: string }>(the.server, '/user/signin', { username: 'ann', password: `${PASSWORD}!` });
    await post(the.server, '/me/password', { current_password: `${PASSWORD}!`, new_password: PASSWORD }, token.token);
  }, 60_000);

  it('a session that ends in the middle of writing loses nothing', async () => {
    const other = await the.tab(context);
    await the.signIn(ann, 'ann', 'lobby');
    await composer(ann).waitFor();
    await other.goto(`${the.server.page}/#/lobby`);
    await composer(other).waitFor();
    await composer(ann).pressSequentially('Half a sent');
    await post(the.server, '/user/signout', {}, await the.token('ann'));
    await ann.getByText('Nothing you wrote is lost').waitFor();
    await other.getByText('Nothing you wrote is lost').waitFor();
    await the.signInAgain(ann, 'ann');
    await composer(ann).waitFor();
    expect(await composer(ann).inputValue()).toBe('Half a sent');
    await composer(ann).pressSequentially('ence');
    await composer(ann).press('Enter');
    await expectTexts(bob, ['Half a sentence']);
    await other.close();
  });

  it('signs out, for good', async () => {
    await ann.getByRole('button', { name: 'Settings' }).click();
    await ann.getByRole('button', { name: 'Sign out' }).click();
    await ann.getByRole('heading', { name: 'Sign in' }).waitFor();
    await ann.reload();
    await ann.getByRole('heading', { name: 'Sign in' }).waitFor();
    await the.signIn(ann, 'ann', 'lobby');
    await composer(ann).waitFor();
  });

  it('says when one was removed from a room, and lets one in again', async () => {
    const remove = await fetch(`${the.server.url}/rooms/lobby/members/bob`, {
      method: 'DELETE',
      headers: { Authorization: `Bearer ${await the.token('ann')}` },
    });
    expect(remove.status).toBe(200);
    await bob.getByText('You’re not a member of lobby').waitFor();
    await bob.getByRole('button', { name: 'Join' }).click();
    await composer(bob).waitFor();
    await said(bob, 'Half a sentence').waitFor();
    await send(bob, 'Back again');
    await said(ann, 'Back again').waitFor();
  });

  it('nobody who was removed while away is a member again by coming back', async () => {
    const away = bob.context();
    await away.setOffline(true);
    await bob.getByText('Connection lost').waitFor();
    await fetch(`${the.server.url}/rooms/lobby/members/bob`, { method: 'DELETE', headers: { Authorization: `Bearer ${await the.token('ann')}` } });
    await away.setOffline(false);
    await bob.getByText('Back online').waitFor({ timeout: 20_000 });
    await bob.getByText('You’re not a member of lobby').waitFor();
    const members = await fetch(`${the.server.url}/rooms/lobby/members`, { headers: { Authorization: `Bearer ${await the.token('ann')}` } });
    expect(JSON.stringify(await members.json())).not.toContain('"bob"');
    await bob.getByRole('button', { name: 'Join' }).click();
    await composer(bob).waitFor();
  });

  it('what was written to a room that is gone is still there, and can be discarded', async () => {
    const owner = await the.token('ann');
    await the.room(owner, 'doomed', 'Doomed');
    await the.join(await the.token('bob'), 'doomed');
    await bob.getByRole('link', { name: 'Doomed' }).click();
    await bob.getByText('No messages in').waitFor();
    const away = bob.context();
    await away.setOffline(true);
    await bob.getByText('Connection lost').waitFor();
    await send(bob, 'Something important');
    await said(bob, 'Something important').waitFor();
    await fetch(`${the.server.url}/rooms/doomed`, { method: 'DELETE', headers: { Authorization: `Bearer ${owner}` } });
    await away.setOffline(false);
    await bob.getByText('Back online').waitFor({ timeout: 20_000 });
    await bob.getByText('Something important').waitFor();
    await bob.getByRole('link', { name: /doomed.*Not sent/ }).waitFor();
    await bob.reload();
    await bob.getByText('Something important').waitFor();
    await bob.getByRole('button', { name: 'Discard' }).click();
    await bob.getByRole('link', { name: /doomed/ }).waitFor({ state: 'detached' });
  });

  it('a database that is away for a moment signs nobody out, and empties no page', async () => {
    const page = await the.tab(bob.context());
    const body = JSON.stringify({ error: { code: 'unavailable', message: 'the database does not answer', field: null } });
    await page.route(/token\/refresh/, (route) => route.fulfill({ status: 503, contentType: 'application/json', body }));
    let refused = 0;
    await page.routeWebSocket(/connection/, (socket) => {
      const server = socket.connectToServer();
      server.onMessage((message) => socket.send(message));
      socket.onMessage((message) => {
        const commands = String(message).split('\n').map((line) => ({ line, command: JSON.parse(line || '{}') as { id?: number; rpc?: { method: string } } }));
        const isRefused = ({ command }: (typeof commands)[0]) => command.rpc?.method === 'rooms' && refused < 5;
        const passed = commands.filter((each) => !isRefused(each));
        for (const { command } of commands.filter(isRefused)) {
          refused++;
          socket.send(JSON.stringify({ id: command.id, error: { code: 100, message: 'internal server error', temporary: true } }));
        }
        if (passed.length > 0) server.send(passed.map(({ line }) => line).join('\n'));
      });
    });
    await page.goto(`${the.server.page}/#/lobby`);
    await page.getByText('The database does not answer. Trying again').waitFor();
    await page.unroute(/token\/refresh/);
    await said(page, 'Back again').waitFor({ timeout: 30_000 });
    expect(refused).toBe(5);
    await page.close();
  }, 60_000);

  it('throws no errors, and keeps to its Content-Security-Policy', async () => {
    expect(the.faults).toEqual([]);
    const { headers } = await fetch(the.server.page);
    // Through Vite there is none.
    if (the.server.page === the.server.url) expect(headers.get('content-security-policy')).toContain("default-src 'self'");
  });
});

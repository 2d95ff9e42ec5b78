import { type BrowserContext, type Page } from 'playwright-core';
import { beforeAll, describe, expect, it } from 'vitest';
import { PASSWORD, allStored, composer, createWorld, messageText, send } from './browser';
import { post, remove } from './server';

const world = createWorld();

/** Expects these texts, each exactly once and in this order. */
async function expectTexts(page: Page, texts: string[]): Promise<void> {
  // In this order: before the rows are there, none of them is pending.
  for (const text of texts) await messageText(page, text).first().waitFor({ timeout: 20_000 });
  await allStored(page);
  // After a gap, the list is empty until the page of messages has come.
  const shown = async () => {
    const all = await page.locator('.row .text').allTextContents();
    return all.filter((text) => texts.includes(text));
  };
  await expect.poll(shown, { timeout: 10_000 }).toEqual(texts);
}

describe('an unreliable connection', () => {
  let ann: Page;
  let bob: Page;
  let context: BrowserContext;
  let tokens: { ann: string; bob: string };

  beforeAll(async () => {
    tokens = { ann: await world.account('ann'), bob: await world.account('bob') };
    await world.room(tokens.ann, 'lobby', 'The lobby');
    await world.room(tokens.ann, 'quiet', 'Quiet');
    for (const room of ['lobby', 'quiet']) await world.join(tokens.bob, room);
    context = await world.context();
    ann = await world.signedIn('ann', 'lobby', await world.newTab(context));
    bob = await world.signedIn('bob', 'lobby');
    await composer(ann).waitFor();
    await composer(bob).waitFor();
  }, 60_000);

  it('stays signed in and in the same room over a reload', async () => {
    await ann.reload();
    await composer(ann).waitFor();
    await send(ann, 'Still here');
    await messageText(bob, 'Still here').waitFor();
    // Scripts cannot read a token.
    const kept = await ann.evaluate(() => document.cookie + JSON.stringify({ ...localStorage, ...sessionStorage }));
    expect(kept).not.toMatch(/eyJ/);
  });

  it('catches up after being offline', async () => {
    await context.setOffline(true);
    await ann.getByText('Connection lost').waitFor();
    await send(ann, 'Written offline');
    await ann.locator('.row.pending').waitFor();
    await send(bob, 'Sent in the meantime');
    // His page shows it before it is stored. If Ann came back in between, she would not have missed it.
    await messageText(bob, 'Sent in the meantime').waitFor();
    await allStored(bob);
    expect(await messageText(ann, 'Sent in the meantime').count()).toBe(0);
    await context.setOffline(false);
    await ann.getByText('Back online. 1 new message.').waitFor({ timeout: 20_000 });
    await expectTexts(ann, ['Sent in the meantime', 'Written offline']);
    await expectTexts(bob, ['Sent in the meantime', 'Written offline']);
    // It shows the time when it was stored, not when it arrived.
    const time = (page: Page) =>
      page.locator('.row', { hasText: 'Sent in the meantime' }).locator('.by time').getAttribute('datetime');
    expect(await time(ann)).toBe(await time(bob));
  });

  it('catches up in a room of which everything had been read', async () => {
    await send(bob, 'The last one before');
    await messageText(ann, 'The last one before').waitFor();
    await ann.bringToFront();
    const read = async () => {
      const answer = await fetch(`${world.server.url}/rooms/lobby`, {
        headers: { Authorization: `Bearer ${tokens.ann}` },
      });
      return ((await answer.json()) as { room: { unread: number } }).room.unread;
    };
    await expect.poll(read).toBe(0);
    await context.setOffline(true);
    await ann.getByText('Connection lost').waitFor();
    await send(bob, 'The first one after');
    await messageText(bob, 'The first one after').waitFor();
    await allStored(bob);
    await context.setOffline(false);
    await messageText(ann, 'The first one after').waitFor({ timeout: 20_000 });
    await expect.poll(read).toBe(0);
  });

  it('does not count a message of the user’s own as missed that was stored when the connection broke', async () => {
    const page = await world.newTab(context);
    let breakOff: (() => void) | undefined;
    await page.routeWebSocket(/connection/, (socket) => {
      const isFirst = breakOff === undefined;
      let isSilent = false;
      const server = socket.connectToServer();
      socket.onMessage((message) => {
        // The server stores what the page publishes, but the page does not learn of it.
        isSilent ||= isFirst && String(message).includes('In flight');
        server.send(message);
      });
      server.onMessage((message) => {
        if (!isSilent) socket.send(message);
      });
      breakOff = () => void socket.close({ code: 4400, reason: 'broken' });
    });
    await page.goto(`${world.server.page}/#/lobby`);
    await messageText(page, 'Written offline').waitFor();
    await send(page, 'In flight');
    await messageText(bob, 'In flight').waitFor();
    await send(bob, 'Only this one is new');
    await messageText(bob, 'Only this one is new').waitFor();
    await allStored(bob);
    breakOff!();
    await page.getByText('Back online. 1 new message.').waitFor({ timeout: 20_000 });
    await expectTexts(page, ['In flight', 'Only this one is new']);
    await page.close();
  });

  it('keeps unsent messages and the draft over a reload', async () => {
    await world.server.stop('SIGKILL');
    await ann.getByText('Connection lost').waitFor();
    await send(ann, 'First of two');
    await send(ann, 'Second of two');
    await composer(ann).fill('A draft');
    await ann.goto('about:blank');
    await world.server.start();
    await ann.goto(`${world.server.page}/#/lobby`);
    await expectTexts(ann, ['First of two', 'Second of two']);
    await expectTexts(bob, ['First of two', 'Second of two']);
    expect(await composer(ann).inputValue()).toBe('A draft');
    await composer(ann).fill('');
  }, 60_000);

  it('does not repeat a message whose reply was lost', async () => {
    let dropsReplies = false;
    const page = await world.newTab(context);
    await page.routeWebSocket(/connection/, (socket) => {
      const server = socket.connectToServer();
      socket.onMessage((message) => server.send(message));
      server.onMessage((message) => {
        if (!dropsReplies) socket.send(message);
      });
    });
    await page.goto(`${world.server.page}/#/lobby`);
    await composer(page).waitFor();
    await messageText(page, 'Second of two').waitFor();
    dropsReplies = true;
    await send(page, 'Said once');
    await messageText(bob, 'Said once').waitFor();
    expect(await page.locator('.row.pending').count()).toBe(1);
    // It waits for the reply, gives up, and sends again with the same id.
    await page.waitForTimeout(6000);
    dropsReplies = false;
    await page.locator('.row.pending').waitFor({ state: 'detached' });
    await send(page, 'Said next');
    await expectTexts(page, ['Said once', 'Said next']);
    await expectTexts(bob, ['Said once', 'Said next']);
    await page.close();
  }, 60_000);

  it('agrees with other tabs on what is read', async () => {
    const other = await world.newTab(context);
    await other.goto(world.server.page);
    await other.getByRole('link', { name: 'Quiet' }).waitFor();
    await world.say(tokens.bob, 'quiet', 'psst');
    const unread = { name: 'Quiet 1 unread' };
    await ann.getByRole('link', unread).waitFor();
    await other.getByRole('link', unread).waitFor();
    await other.bringToFront();
    await other.getByRole('link', unread).click();
    await messageText(other, 'psst').waitFor();
    for (const page of [ann, other]) await page.getByRole('link', { name: 'Quiet', exact: true }).waitFor();
    await other.close();
    await ann.bringToFront();
  });

  it('renews its token after the password was changed in another tab', async () => {
    const other = await world.newTab(context);
    await other.goto(world.server.page);
    await other.getByRole('button', { name: 'Settings' }).click();
    await other.getByLabel('Current password').fill(PASSWORD);
    await other.getByLabel('New password').fill(`${PASSWORD}!`);
    await other.getByRole('button', { name: 'Change password' }).click();
    await other.getByText('Password changed').waitFor();
    for (const page of [other, ann]) {
      await page.keyboard.press('Escape');
      await page.goto(`${world.server.page}/#/lobby`);
      await composer(page).waitFor();
      await send(page, `Changed ${page === ann ? 'here' : 'there'}`);
    }
    await expectTexts(bob, ['Changed there', 'Changed here']);
    await other.close();
    const changed = `${PASSWORD}!`;
    const credentials = { username: 'ann', password: changed };
    const { token } = await post<{ token: string }>(world.server, '/user/signin', credentials);
    await post(world.server, '/me/password', { current_password: changed, new_password: PASSWORD }, token);
  }, 60_000);

  it('keeps a half-written message when the session ends', async () => {
    const other = await world.newTab(context);
    await world.signIn(ann, 'ann', 'lobby');
    await composer(ann).waitFor();
    await other.goto(`${world.server.page}/#/lobby`);
    await composer(other).waitFor();
    await composer(ann).pressSequentially('Half a sent');
    await post(world.server, '/user/signout', {}, await world.token('ann'));
    await ann.getByText('Nothing you wrote is lost').waitFor();
    await other.getByText('Nothing you wrote is lost').waitFor();
    await world.signInAgain(ann, 'ann');
    await composer(ann).waitFor();
    expect(await composer(ann).inputValue()).toBe('Half a sent');
    await composer(ann).pressSequentially('ence');
    await composer(ann).press('Enter');
    await expectTexts(bob, ['Half a sentence']);
    await other.close();
  });

  it('stays signed out over a reload', async () => {
    await ann.getByRole('button', { name: 'Settings' }).click();
    await ann.getByRole('button', { name: 'Sign out' }).click();
    await ann.getByRole('heading', { name: 'Sign in' }).waitFor();
    await ann.reload();
    await ann.getByRole('heading', { name: 'Sign in' }).waitFor();
    await world.signIn(ann, 'ann', 'lobby');
    await composer(ann).waitFor();
  });

  it('shows a removed user that they are not a member, and lets them join again', async () => {
    await remove(world.server, '/rooms/lobby/members/bob', await world.token('ann'));
    await bob.getByText('You’re no longer a member of The lobby').waitFor();
    await bob.getByRole('button', { name: 'Join' }).click();
    await composer(bob).waitFor();
    await messageText(bob, 'Half a sentence').waitFor();
    await send(bob, 'Back again');
    await messageText(ann, 'Back again').waitFor();
  });

  it('does not rejoin a room from which the user was removed while offline', async () => {
    const away = bob.context();
    await away.setOffline(true);
    await bob.getByText('Connection lost').waitFor();
    const annsToken = await world.token('ann');
    await remove(world.server, '/rooms/lobby/members/bob', annsToken);
    await away.setOffline(false);
    await bob.getByText('Back online').waitFor({ timeout: 20_000 });
    await bob.getByText('You’re no longer a member of The lobby').waitFor();
    const headers = { Authorization: `Bearer ${annsToken}` };
    const members = await fetch(`${world.server.url}/rooms/lobby/members`, { headers });
    expect(JSON.stringify(await members.json())).not.toContain('"bob"');
    await bob.getByRole('button', { name: 'Join' }).click();
    await composer(bob).waitFor();
  });

  it('tells a user who was removed from a private room, and does not offer to join it', async () => {
    const owner = await world.token('ann');
    await post(world.server, '/user/createroom', { name: 'cellar', title: 'The cellar', private: true }, owner);
    for (const username of ['bob']) await post(world.server, '/rooms/cellar/members', { username }, owner);
    await bob.getByRole('link', { name: 'The cellar' }).click();
    await bob.getByText('No messages in').waitFor();
    await ann.goto(`${world.server.page}/#/cellar`);
    await ann.getByRole('button', { name: '2 online' }).waitFor();
    await composer(bob).pressSequentially('Half');
    await ann.getByText('bob is typing').waitFor();
    await remove(world.server, '/rooms/cellar/members/bob', owner);
    // Who is not a member any more is not typing either.
    await ann.getByText('bob is typing').waitFor({ state: 'hidden', timeout: 2000 });
    await ann.getByRole('button', { name: '1 online' }).click();
    await ann.getByRole('heading', { name: 'Members (1)' }).waitFor();
    await bob.getByText('You’re no longer a member of “The cellar”.').waitFor();
    await bob.getByText('You left it or were removed, or it was deleted.').waitFor();
    expect(await bob.getByRole('button', { name: /^Join/ }).count()).toBe(0);
    // The number stands above as many names.
    await world.account('carl');
    await post(world.server, '/rooms/cellar/members', { username: 'carl' }, owner);
    const carl = await world.signedIn('carl', 'cellar');
    await composer(carl).waitFor();
    await ann.getByRole('heading', { name: 'Members (2)' }).waitFor();
    expect(await ann.locator('.panel li').count()).toBe(2);
    await carl.close();
    await ann.keyboard.press('Escape');
    await ann.goto(`${world.server.page}/#/lobby`);
    await bob.goto(`${world.server.page}/#/lobby`);
    await composer(bob).waitFor();
  });

  it('keeps messages to a deleted room until they are discarded', async () => {
    const owner = await world.token('ann');
    await world.room(owner, 'doomed', 'Doomed');
    await world.join(await world.token('bob'), 'doomed');
    await bob.getByRole('link', { name: 'Doomed' }).click();
    await bob.getByText('No messages in').waitFor();
    const away = bob.context();
    await away.setOffline(true);
    await bob.getByText('Connection lost').waitFor();
    await send(bob, 'Something important');
    await messageText(bob, 'Something important').waitFor();
    await remove(world.server, '/rooms/doomed', owner);
    await away.setOffline(false);
    await bob.getByText('Back online').waitFor({ timeout: 20_000 });
    await bob.getByText('Something important').waitFor();
    await bob.getByRole('link', { name: /doomed.*Not sent/ }).waitFor();
    await bob.reload();
    await bob.getByText('Something important').waitFor();
    await bob.getByRole('button', { name: 'Discard' }).click();
    await bob.getByRole('link', { name: /doomed/ }).waitFor({ state: 'detached' });
  });

  it('survives a temporary failure of the database', async () => {
    const page = await world.newTab(bob.context());
    const error = { code: 'unavailable', message: 'the database does not respond', field: null };
    await page.route(/token\/refresh/, (route) => route.fulfill({ status: 503, json: { error } }));
    let failures = 0;
    await page.routeWebSocket(/connection/, (socket) => {
      const server = socket.connectToServer();
      server.onMessage((message) => socket.send(message));
      socket.onMessage((message) => {
        const lines = String(message).split('\n');
        const failing = lines.filter((line) => line.includes('"method":"rooms"') && failures < 5);
        for (const line of failing) {
          failures++;
          const { id } = JSON.parse(line) as { id: number };
          const error = { code: 100, message: 'internal server error', temporary: true };
          socket.send(JSON.stringify({ id, error }));
        }
        const passed = lines.filter((line) => !failing.includes(line));
        if (passed.length > 0) server.send(passed.join('\n'));
      });
    });
    await page.goto(`${world.server.page}/#/lobby`);
    await page.getByText('The server can’t reach its database. Trying again').waitFor();
    await page.unroute(/token\/refresh/);
    await messageText(page, 'Back again').waitFor({ timeout: 30_000 });
    expect(failures).toBe(5);
    await page.close();
  }, 60_000);

  it('throws no errors and follows its Content-Security-Policy', async () => {
    expect(world.pageErrors).toEqual([]);
    const { headers } = await fetch(world.server.page);
    // Vite's server doesn't set one.
    if (world.server.page === world.server.url) {
      expect(headers.get('content-security-policy')).toContain("default-src 'self'");
    }
  });
});

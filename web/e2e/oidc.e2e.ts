/** Signing in with an identity provider: npm's oidc-provider, with its own pages for signing in. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import type { Server as HttpServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import Provider from 'oidc-provider';
import type { Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { World, accessibilityFlaws, composer, send } from './browser';
import { freePort } from './server';

const CLIENT = { client_id: 'uproar', client_secret: 'a secret of the provider' };

/** Starts a provider on this port, for the server at `url`. The names of its users are their logins. */
function startProvider(port: number, url: string): Promise<HttpServer> {
  const provider = new Provider(`http://localhost:${port}`, {
    clients: [{ ...CLIENT, redirect_uris: [`${url}/user/signin/oidc/callback`] }],
    claims: { openid: ['sub'], profile: ['preferred_username'] },
    findAccount: (_, id) => ({ accountId: id, claims: async () => ({ sub: id, preferred_username: `${id} of ID` }) }),
    cookies: { keys: ['for this test'] },
  });
  return new Promise((started) => {
    const server: HttpServer = provider.listen(port, '127.0.0.1', () => started(server));
  });
}

/** Signs in on the pages of the provider, and comes back. */
async function signInThere(page: Page, login: string): Promise<void> {
  await page.getByPlaceholder('Enter any login').fill(login);
  await page.getByPlaceholder('and password').fill('x');
  await page.getByRole('button', { name: 'Sign-in' }).click();
  await page.getByRole('button', { name: 'Continue' }).click();
}

describe('signing in with an identity provider', () => {
  const world = new World();
  const folder = mkdtempSync(join(tmpdir(), 'uproar-oidc-'));
  const secretFile = join(folder, 'secret');
  let provider: HttpServer;

  beforeAll(async () => {
    const port = await freePort();
    let url = '';
    writeFileSync(secretFile, CLIENT.client_secret, { mode: 0o600 });
    const options = (own: string) => {
      url = own;
      const oidc = ['--oidc-issuer', `http://localhost:${port}`, '--oidc-client-id', CLIENT.client_id];
      const secret = ['--oidc-client-secret-file', secretFile];
      const allow = ['--outgoing-allow', '127.0.0.0/8', '--outgoing-allow', '::1'];
      return [...oidc, ...secret, '--oidc-name', 'Example ID', '--public-url', own, ...allow, '--password-sign-in', 'off'];
    };
    await world.open({ arguments: options });
    // The server starts without its provider.
    provider = await startProvider(port, url);
    for (let tries = 0; ; tries++) {
      const answer = await fetch(`${url}/user/signin/oidc`, { redirect: 'manual' });
      if (answer.headers.get('location')?.startsWith(`http://localhost:${port}/`)) break;
      if (tries === 200) throw new Error('the server does not know its provider after 20 seconds');
      await new Promise((done) => setTimeout(done, 100));
    }
  }, 60_000);

  afterAll(async () => {
    provider?.closeAllConnections();
    provider?.close();
    await world.close();
    rmSync(folder, { recursive: true });
  });

  it('leads to the provider and back, to the same user each time', async (context) => {
    // The page comes from another server then, to which the provider does not lead back.
    if (world.server.page !== world.server.url) context.skip();
    const page = await world.newVisitor();
    await page.goto(world.server.page);
    const button = page.getByRole('button', { name: 'Sign in with Example ID' });
    await button.waitFor();
    expect(await page.getByLabel('Password').count()).toBe(0);
    expect(await accessibilityFlaws(page)).toEqual([]);
    await button.click();
    await signInThere(page, 'ann');
    await page.locator('.main').waitFor();
    expect(page.url()).toBe(`${world.server.url}/`);

    // The user has the name from there, is the same one after a reload, and in another browser.
    const token = world.server.token('ann of ID', 60);
    await world.room(token, 'lobby', 'The lobby');
    await page.reload();
    await page.getByRole('link', { name: /The lobby/ }).click();
    await composer(page).waitFor();
    await send(page, 'Hello');
    const other = await world.newVisitor();
    await other.goto(world.server.page);
    await other.getByRole('button', { name: 'Sign in with Example ID' }).click();
    await signInThere(other, 'ann');
    await other.getByRole('link', { name: /The lobby/ }).click();
    await other.locator('.row', { hasText: 'Hello' }).getByText('ann of ID').first().waitFor();
    expect(world.pageErrors).toEqual([]);
  });

  it('says so if the user gives up there', async (context) => {
    if (world.server.page !== world.server.url) context.skip();
    const page = await world.newVisitor();
    await page.goto(`${world.server.page}/#lobby`);
    await page.getByRole('button', { name: 'Sign in with Example ID' }).click();
    await page.getByRole('link', { name: /Cancel/ }).click();
    await page.getByText('You didn’t sign in there, or you may not use this chat.').waitFor();
    expect(new URL(page.url()).search).toBe('');
  });

  it('speaks German', async () => {
    const page = await world.newTab(await world.context({ locale: 'de' }));
    await page.goto(world.server.page);
    await page.getByRole('button', { name: 'Mit Example ID anmelden' }).waitFor();
  });
});

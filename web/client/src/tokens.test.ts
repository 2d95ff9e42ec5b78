import { expect, it } from 'vitest';
import { ApiError } from './errors.ts';
import { Tokens, isSignedOut } from './tokens.ts';

it('a token is asked for once, and again when it is rejected', async () => {
  const asked: (string | undefined)[] = [];
  const tokens = new Tokens(undefined, async (rejected) => `token ${asked.push(rejected)}`);
  expect(await Promise.all([tokens.current(), tokens.current()])).toEqual(['token 1', 'token 1']);
  expect(await Promise.all([tokens.renew('token 1'), tokens.renew('token 1')])).toEqual(['token 2', 'token 2']);
  // Another call has renewed it since.
  expect(await tokens.renew('token 1')).toBe('token 2');
  expect(asked).toEqual([undefined, 'token 1']);
});

it('no token means that the user has to sign in again', async () => {
  const error = await new Tokens('old', () => '').renew('old').catch((error: unknown) => error);
  expect([error instanceof ApiError && error.code, isSignedOut(error)]).toEqual(['token_missing', true]);
  expect(isSignedOut(new ApiError('network', 'away'))).toBe(false);
});

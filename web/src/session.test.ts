import { describe, expect, it } from 'vitest';
import { ApiError } from '@uproar/client';
import { errorText } from './errors';
import { Session, expiry } from './session';
import { british } from './texts/british';

const token = (seconds: number, name = 'x') => `h.${btoa(JSON.stringify({ exp: seconds, name })).replace(/=/g, '')}.s`;
const user = { id: '1', username: 'ann', email: null };

interface Request {
  path: string;
  token: string | undefined;
  body: unknown;
}

function server(answer: (request: Request) => [number, unknown] | Promise<[number, unknown]>) {
  const requests: Request[] = [];
  const fetch = async (path: string, init: RequestInit) => {
    const headers = init.headers as Record<string, string>;
    const body = init.body && JSON.parse(init.body as string);
    const request = { path, token: headers['Authorization']?.slice(7), body };
    requests.push(request);
    const [status, json] = await answer(request);
    return new Response(JSON.stringify(json), { status });
  };
  return { fetch, requests };
}
const error = (code: string, message = code) => ({ error: { code, message, field: null } });
const rejected = (code: string, status = 401): [number, unknown] => [status, error(code)];

describe('Session', () => {
  it('signs in with the cookie alone', async () => {
    const { fetch, requests } = server(() => [200, { token: token(5000), user }]);
    const session = new Session(fetch, () => 0);
    await session.start();
    expect(session.state).toBe('in');
    expect(requests).toMatchObject([{ path: '/token/refresh', token: undefined }]);
  });

  it('is signed out without a cookie', async () => {
    const session = new Session(server(() => rejected('token_missing')).fetch);
    await session.start();
    expect([session.state, session.notice]).toEqual(['out', undefined]);
  });

  it('retries while the server is unavailable', async () => {
    const notices: string[] = [];
    let asked = 0;
    const { fetch } = server(() =>
      ++asked < 3 ? [503, error('unavailable', 'the database is down')] : [200, { token: token(5000), user }],
    );
    const session = new Session(
      fetch,
      () => 0,
      async () => void notices.push(session.notice!(british)),
    );
    await session.start();
    expect([session.state, session.notice, asked]).toEqual(['in', undefined, 3]);
    expect(notices).toEqual([
      'The server can’t reach its database. Trying again…',
      'The server can’t reach its database. Trying again…',
    ]);
  });

  it("measures expiry by the server's clock", async () => {
    const hours = 5 * 3600;
    const issued = (iat: number) => `h.${btoa(JSON.stringify({ iat, exp: iat + 3600 })).replace(/=/g, '')}.s`;
    let now = hours * 1000;
    const { fetch, requests } = server(() => [200, { token: issued(now / 1000 - hours), user }]);
    const session = new Session(fetch, () => now);
    await session.signIn('ann', 'x');
    await session.freshToken();
    now += 3_500_000;
    await session.freshToken();
    expect(requests).toHaveLength(1);
    now += 100_000;
    await session.freshToken();
    expect(requests).toHaveLength(2);
  });

  it('renews a token that the server has rejected, unless there is another one since', async () => {
    const { fetch } = server(({ path }) => [
      200,
      { token: path === '/user/signin' ? token(4000) : token(5000), user },
    ]);
    const session = new Session(fetch, () => 0);
    await session.signIn('ann', 'correct horse');
    expect(await session.freshToken(token(3000))).toBe(token(4000));
    expect(await session.freshToken(token(4000))).toBe(token(5000));
  });

  it('renews a token that is about to expire, once for concurrent callers', async () => {
    let now = 0;
    const { fetch, requests } = server(({ path }) => [
      200,
      { token: path === '/user/signin' ? token(100) : token(5000), user },
    ]);
    const session = new Session(fetch, () => now);
    await session.signIn('ann', 'correct horse');
    expect(await session.freshToken()).toBe(token(100));
    now = 90_000;
    expect(await Promise.all([session.freshToken(), session.freshToken()])).toEqual([token(5000), token(5000)]);
    expect(requests.map(({ path }) => path)).toEqual(['/user/signin', '/token/refresh']);
    expect(requests[1]!.token).toBe(token(100));
  });

  it('falls back to the cookie when the token has expired', async () => {
    const { fetch, requests } = server(({ path, token: sent }) => {
      if (path === '/user/signin') return [200, { token: token(1), user }];
      return sent ? rejected('token_expired') : [200, { token: token(9000), user }];
    });
    const session = new Session(fetch, () => 1_000_000);
    await session.signIn('ann', 'x');
    expect(await session.freshToken()).toBe(token(9000));
    expect(requests.slice(1).map(request => request.token)).toEqual([token(1), undefined]);
  });

  it('does not switch to a user who signed in in another tab', async () => {
    const bob = { id: '2', username: 'bob', email: null };
    const { fetch } = server(({ path, token: sent }) => {
      if (path === '/user/signin') return [200, { token: token(1), user }];
      return sent ? rejected('token_expired') : [200, { token: token(9000), user: bob }];
    });
    const session = new Session(fetch, () => 1_000_000);
    await session.signIn('ann', 'x');
    await expect(session.freshToken()).rejects.toBeInstanceOf(ApiError);
    expect([session.state, session.user]).toEqual(['out', undefined]);
    expect(session.notice?.(british)).toContain('Nothing you wrote is lost');
  });

  it('ends when both token and cookie are rejected, but not when the server is unavailable', async () => {
    let isDown = true;
    const { fetch } = server(({ path }) => {
      if (path === '/user/signin') return [200, { token: token(1), user }];
      return isDown ? rejected('unavailable', 503) : rejected('token_invalid');
    });
    const session = new Session(fetch);
    await session.signIn('ann', 'x');
    await expect(session.freshToken()).rejects.toBeInstanceOf(ApiError);
    expect(session.state).toBe('in');
    isDown = false;
    await expect(session.freshToken()).rejects.toBeInstanceOf(ApiError);
    expect(session.state).toBe('out');
    expect(session.notice?.(british)).toContain('Nothing you wrote is lost');
  });

  describe('in a frame', () => {
    const issued = (iat: number, exp: number) => `h.${btoa(JSON.stringify({ iat, exp })).replace(/=/g, '')}.s`;
    /** A server whose clock is at `now`, and a session whose site has these tokens. */
    const framed = (tokens: string[], user: (token?: string) => object, now = () => 1_000_000) => {
      const { fetch, requests } = server(({ token: sent }) => {
        const now_s = now() / 1000;
        return [200, { token: issued(now_s, now_s + 3600), user: user(sent), text_limit_bytes: 5 }];
      });
      const forgotten: string[] = [];
      const privacy = { forget: (user: string) => void forgotten.push(user), forgetOthers: () => {} };
      const siteToken = async () => tokens.shift()!;
      return { session: new Session(fetch, now, async () => {}, privacy, siteToken), requests, forgotten };
    };

    it('uses the tokens of the site, for as long as they are valid', async () => {
      let now = 1_000_000;
      const tokens = [issued(900, 1100), issued(1100, 1300)];
      const [first, second] = tokens;
      const { session, requests } = framed(tokens, () => user, () => now);
      await session.start();
      expect([session.state, session.user, session.textLimitBytes]).toEqual(['in', user, 5]);
      expect([await session.freshToken(), requests.map(({ token }) => token)]).toEqual([first, [first]]);
      now = 1_080_000;
      expect(await session.freshToken()).toBe(second);
      expect(requests).toHaveLength(2);
    });

    it('asks for another token a quarter before a short one expires', async () => {
      let now = 1_000_000;
      const { session } = framed([issued(1000, 1020), issued(1016, 1036)], () => user, () => now);
      await session.start();
      now = 1_014_000;
      expect(await session.freshToken()).toBe(issued(1000, 1020));
      now = 1_016_000;
      expect(await session.freshToken()).toBe(issued(1016, 1036));
    });

    it('asks whose token it is if the site’s own system issued it', async () => {
      const { fetch, requests } = server(({ path }) =>
        path === '/me' ? [200, { user, text_limit_bytes: 5 }] : rejected('not_renewable', 403),
      );
      const issuedThere = issued(900, 1100);
      const session = new Session(fetch, () => 1_000_000, async () => {}, undefined, async () => issuedThere);
      await session.start();
      expect([session.state, session.user, session.textLimitBytes]).toEqual(['in', user, 5]);
      expect(await session.freshToken()).toBe(issuedThere);
      expect(requests.map(({ path }) => path)).toEqual(['/token/refresh', '/me']);
    });

    it('does not accept a token that has expired, whatever the server says', async () => {
      const { session } = framed([issued(900, 999)], () => user);
      await session.start();
      expect(session.state).toBe('out');
    });

    it('switches to another user of the site, and forgets the one before', async () => {
      const bob = { id: '2', username: 'bob', email: null };
      const tokens = [issued(900, 1001), issued(1000, 4600)];
      const { session, forgotten } = framed([...tokens], (sent) => (sent === tokens[0] ? user : bob));
      await session.start();
      await session.renew();
      expect([session.user, forgotten]).toEqual([bob, [user.id]]);
      // What the one before wrote must not be sent as the other one.
      await expect(session.tokenOf(user.id)).rejects.toMatchObject({ code: 'no_site_token' });
      expect(await session.tokenOf(bob.id)).toBe(tokens[1]);
    });
  });

  it('accepts an email address or a username, and tries only one of them', async () => {
    const { fetch, requests } = server(() => rejected('wrong_credentials'));
    for (const who of ['ann', 'ann@home', 'a.b@home', 'ann@example.org']) {
      await expect(new Session(fetch).signIn(who, 'x')).rejects.toBeInstanceOf(ApiError);
    }
    expect(requests.map(({ body }) => Object.keys(body as object)[0])).toEqual([
      'username',
      'username',
      'username',
      'email',
    ]);
  });
});

it('reads the expiry of a token', () => {
  expect(expiry(token(17))).toBe(17_000);
  expect(expiry('nonsense')).toBe(0);
});

describe('what the browser keeps', () => {
  const privacy = () => {
    const calls: string[] = [];
    return {
      calls,
      forget: (user: string) => void calls.push(`forget ${user}`),
      forgetOthers: (user?: string) => void calls.push(`others ${user}`),
    };
  };

  it('is forgotten when the user signs out, even if the server has ended the session first', async () => {
    const kept = privacy();
    const session: Session = new Session(
      server(({ path }) => {
        if (path === '/user/signout') session.end((t) => t.session.ended);
        return [200, { token: token(5000), user }];
      }).fetch,
      () => 0,
      undefined,
      kept,
    );
    await session.start();
    await session.signOut();
    expect(kept.calls).toEqual(['others 1', 'forget 1']);
    expect([session.state, session.notice]).toEqual(['out', undefined]);
  });

  it('is kept when the session ends, and forgotten when another user signs in', async () => {
    const kept = privacy();
    const bob = { ...user, id: '2' };
    const { fetch } = server(({ path }) => [200, { token: token(5000), user: path === '/user/signin' ? bob : user }]);
    const session = new Session(fetch, () => 0, undefined, kept);
    await session.start();
    await session.renew();
    session.end((t) => t.session.ended);
    expect(kept.calls).toEqual(['others 1']);
    await session.signIn('bob', 'x');
    expect(kept.calls).toEqual(['others 1', 'others 2']);
  });
});

it('turns error messages into sentences', () => {
  expect(errorText(new ApiError('teapot', 'it is a teapot'), british)).toBe('It is a teapot.');
  expect(errorText(new Error(''), british)).toBe('Something went wrong.');
});

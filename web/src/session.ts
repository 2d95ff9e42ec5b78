import { type Account, ApiError, type Fetch, type SignedIn, call } from './api';
import { Store } from './state/store';

const MARGIN_MS = 30_000;

/**
 * Who is signed in. The token lives in memory alone. Over a reload a cookie that scripts cannot see is good for
 * `POST /token/refresh`, and for nothing else.
 */
export class Session extends Store {
  state: 'starting' | 'out' | 'in' = 'starting';
  user: Account | undefined;
  /** Why somebody who was signed in is not any more, or why it is not known. */
  notice = '';
  private token: string | undefined;
  private renewing: Promise<string> | undefined;

  constructor(
    private readonly fetch: Fetch,
    private readonly now: () => number = Date.now,
  ) {
    super();
  }

  async start(): Promise<void> {
    try {
      await this.renew();
    } catch (error) {
      if (error instanceof ApiError && error.code === 'network') this.end(error.message);
      else this.end('');
    }
  }

  async signUp(username: string, email: string, password: string): Promise<void> {
    this.set(await call<SignedIn>(this.fetch, 'POST', '/user/signup', undefined, { username, email, password }));
  }

  /** Usernames may hold an @, but addresses must; so the address is tried first where both are possible. */
  async signIn(who: string, password: string): Promise<void> {
    const sign = (body: object) => call<SignedIn>(this.fetch, 'POST', '/user/signin', undefined, body);
    if (!who.includes('@')) return this.set(await sign({ username: who, password }));
    try {
      this.set(await sign({ email: who, password }));
    } catch (error) {
      if (!(error instanceof ApiError) || error.code !== 'wrong_credentials') throw error;
      this.set(await sign({ username: who, password }));
    }
  }

  /** Ends all tokens of this user, in every browser. */
  async signOut(): Promise<void> {
    try {
      await call(this.fetch, 'POST', '/user/signout', await this.fresh());
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 401) throw error;
    }
    this.end('');
  }

  set({ token, user }: SignedIn): void {
    this.token = token;
    this.user = user;
    this.state = 'in';
    this.notice = '';
    this.changed();
  }

  end(notice: string): void {
    this.token = undefined;
    this.user = undefined;
    this.state = 'out';
    this.notice = notice;
    this.changed();
  }

  /** A token that is good for a while yet. */
  async fresh(): Promise<string> {
    if (this.token && expiry(this.token) - MARGIN_MS > this.now()) return this.token;
    return this.renew();
  }

  renew(): Promise<string> {
    this.renewing ??= this.exchange().finally(() => {
      this.renewing = undefined;
    });
    return this.renewing;
  }

  private async exchange(): Promise<string> {
    const refresh = (token?: string) => call<SignedIn>(this.fetch, 'POST', '/token/refresh', token);
    const wasIn = this.state === 'in';
    const had = this.token;
    let answer: SignedIn;
    try {
      // The token first: the cookie may be of somebody who signed in in another tab, and a tab never changes hands.
      answer = had ? await refresh(had).catch((error) => orRethrow(error, refresh)) : await refresh();
      if (this.user && answer.user.id !== this.user.id) throw new ApiError('token_invalid', 'Signed out', null, 401);
    } catch (error) {
      if (wasIn && had === this.token && error instanceof ApiError && error.status === 401) {
        this.end('Your session has ended. Sign in again: nothing that you wrote is lost.');
      }
      throw error;
    }
    // Signed out or in while it was under way: that counts.
    if (had !== this.token) {
      if (this.token) return this.token;
      throw new ApiError('token_invalid', 'Signed out', null, 401);
    }
    this.set(answer);
    return answer.token;
  }
}

function orRethrow(error: unknown, refresh: () => Promise<SignedIn>): Promise<SignedIn> {
  if (error instanceof ApiError && error.status === 401) return refresh();
  throw error;
}

/** When a token ends, in Unix milliseconds; 0 where that cannot be read. */
export function expiry(token: string): number {
  try {
    const payload = token.split('.')[1]!.replace(/-/g, '+').replace(/_/g, '/');
    return (JSON.parse(atob(payload)) as { exp: number }).exp * 1000 || 0;
  } catch {
    return 0;
  }
}

/** Signing in and out, and the token. */
import {
  type Account,
  ApiError,
  type Fetch,
  type SignedIn,
  Store,
  backoff,
  call,
  isSignedOut,
  signIn,
  signUp,
  wait,
} from '@uproar/client';
import { errorText } from './errors';
import type { Say } from './texts/language';

/** A token is renewed this long before it expires, or a quarter of its lifetime before. */
const MARGIN_MS = 30_000;

/** How users sign in, as the operator has decided. */
export interface WaysToSignIn {
  password: boolean;
  sign_up: 'open' | 'closed';
  /** An identity provider, which is at `PROVIDER_PATH`. */
  oidc?: { name: string } | null;
}

/** Where signing in with the identity provider begins. */
export const PROVIDER_PATH = '/user/signin/oidc';

/** Removes what the browser keeps about users. */
export interface Privacy {
  forget(user: string): void;
  /** About anyone but this user; while nobody is signed in, but the one whose session may have expired. */
  forgetOthers(user: string | undefined): void;
}

const NO_PRIVACY: Privacy = { forget: () => {}, forgetOthers: () => {} };

/**
 * Who is signed in. The token is kept in memory only. After a reload, `POST /token/refresh` returns a new one for a
 * cookie that scripts cannot read and that no other call accepts. In a frame, the site around it may give all tokens.
 */
export class Session extends Store {
  state: 'starting' | 'out' | 'in' = 'starting';
  user: Account | undefined;
  /** Why the user was signed out, or why the server could not tell whether they are signed in. */
  notice: Say | undefined;
  /** The longest text of a message that the server accepts. */
  textLimitBytes = 0;
  private token: string | undefined;
  private failure: Say | undefined;
  /** How far the local clock is ahead of the server's. */
  private skewMs = 0;
  private renewing: Promise<string> | undefined;

  constructor(
    private readonly fetch: Fetch,
    private readonly now: () => number = Date.now,
    private readonly pause: (ms: number) => Promise<void> = wait,
    private readonly privacy: Privacy = NO_PRIVACY,
    /** Asks the site around the frame for a token. */
    private readonly siteToken?: () => Promise<string>,
  ) {
    super();
  }

  async start(): Promise<void> {
    for (let tries = 0; this.state === 'starting'; tries++) {
      try {
        await this.renew();
      } catch (error) {
        if (isSignedOut(error)) {
          this.privacy.forgetOthers(undefined);
          return this.end();
        }
        this.notice = (t) => t.session.tryingAgain(errorText(error, t));
        this.changed();
        await this.pause(backoff(tries));
      }
    }
  }

  waysToSignIn(): Promise<WaysToSignIn> {
    return call(this.fetch, 'GET', '/user/signin');
  }

  async signUp(username: string, email: string, password: string): Promise<void> {
    this.set(await signUp('', { username, email, password }, this.fetch));
  }

  /**
   * Takes a username or an email address. A username may contain an @, but no dot after it: then it is taken for an
   * address. It is never tried as both, because a failed attempt counts against the user.
   */
  async signIn(who: string, password: string): Promise<void> {
    const body = /@.*\./.test(who) ? { email: who, password } : { username: who, password };
    this.set(await signIn('', body, this.fetch));
  }

  /** Revokes all of the user's tokens, in every browser, and forgets what this browser keeps about the user. */
  async signOut(): Promise<void> {
    // The server closes the connection too, and that may be noticed first.
    const { user } = this;
    try {
      await call(this.fetch, 'POST', '/user/signout', await this.freshToken());
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 401) throw error;
    }
    if (user) this.signedOut(user.id);
  }

  /** This user signed out, here or in another tab. */
  signedOut(user: string): void {
    if (this.state === 'out' || this.user?.id === user) this.end();
    this.privacy.forget(user);
  }

  set({ token, user, text_limit_bytes }: SignedIn): void {
    this.token = token;
    this.textLimitBytes = text_limit_bytes;
    // A site's token may be older than its answer.
    if (!this.siteToken) this.skewMs = this.skew(token);
    // Not on every renewal: another user may have signed in in another tab since.
    if (this.state !== 'in') this.privacy.forgetOthers(user.id);
    if (this.user && this.user.id !== user.id) this.privacy.forget(this.user.id);
    this.user = user;
    this.state = 'in';
    this.failure = undefined;
    this.notice = undefined;
    this.changed();
  }

  /** Signing in with the provider came to nothing. Says so until the user is signed in. */
  providerFailed(code: string): void {
    this.failure = (t) => t.signIn.providerFailed[code as 'refused'] ?? t.signIn.providerFailed.wrong;
  }

  end(notice: Say | undefined = this.failure): void {
    this.token = undefined;
    this.user = undefined;
    this.state = 'out';
    this.notice = notice;
    this.changed();
  }

  /** Returns a token that won't expire soon, and that the server has not rejected. */
  async freshToken(rejected?: string): Promise<string> {
    if (this.token && this.token !== rejected) {
      const { iat = 0, exp = 0 } = claims(this.token);
      const margin = Math.min(MARGIN_MS, (exp - iat) * 250);
      if (exp * 1000 - margin > this.now() - this.skewMs) return this.token;
    }
    return this.renew();
  }

  /** A token for the chat of this user. The site around a frame may have another one by now. */
  async tokenOf(user: string, rejected?: string): Promise<string> {
    const token = await this.freshToken(rejected);
    if (this.user?.id !== user) throw new ApiError('no_site_token', 'the site has another user');
    return token;
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
    const previous = this.token;
    let answer: SignedIn;
    try {
      if (this.siteToken) answer = await this.askSite(this.siteToken, refresh);
      // The token first: another user may have signed in in another tab, and the cookie is theirs.
      else answer = previous ? await refresh(previous).catch((error) => withCookie(error, refresh)) : await refresh();
      // A site may have another user. This page has not, until they sign out.
      if (!this.siteToken && this.user && answer.user.id !== this.user.id) throw signedOut();
    } catch (error) {
      if (wasIn && previous === this.token && error instanceof ApiError && error.status === 401) {
        this.end((t) => t.session.ended);
      }
      throw error;
    }
    // The user signed out or in while the request was under way.
    if (previous !== this.token) {
      if (this.token) return this.token;
      throw signedOut();
    }
    this.set(answer);
    return answer.token;
  }

  /** The site decides how long its tokens are valid, so they aren't exchanged: the server only says whose they are. */
  private async askSite(
    siteToken: () => Promise<string>,
    refresh: (token: string) => Promise<SignedIn>,
  ): Promise<SignedIn> {
    const token = await siteToken();
    let answer: SignedIn;
    try {
      answer = await refresh(token);
      this.skewMs = this.skew(answer.token);
    } catch (error) {
      // The site's own system issued it. How the clocks differ is then unknown.
      if (!(error instanceof ApiError) || error.code !== 'not_renewable') throw error;
      answer = { ...(await call<Omit<SignedIn, 'token'>>(this.fetch, 'GET', '/me', token)), token };
    }
    // The server still exchanges a token that has just expired.
    if (expiry(token) <= this.now() - this.skewMs) throw new ApiError('token_expired', 'it has expired', null, 401);
    return { ...answer, token };
  }

  /** How far the local clock is ahead, by a token that was just issued. */
  private skew(token: string): number {
    const { iat } = claims(token);
    return iat === undefined ? 0 : this.now() - iat * 1000;
  }
}

function signedOut(): ApiError {
  return new ApiError('token_invalid', 'the user has signed out', null, 401);
}

/** Falls back to the cookie if the token was rejected. */
function withCookie(error: unknown, refresh: () => Promise<SignedIn>): Promise<SignedIn> {
  if (error instanceof ApiError && error.status === 401) return refresh();
  throw error;
}

/** When a token expires, in Unix milliseconds by the server's clock; 0 if the token can't be read. */
export function expiry(token: string): number {
  return (claims(token).exp ?? 0) * 1000;
}

function claims(token: string): { iat?: number; exp?: number } {
  try {
    const payload = token.split('.')[1]!.replace(/-/g, '+').replace(/_/g, '/');
    return JSON.parse(atob(payload)) as { iat?: number; exp?: number };
  } catch {
    return {};
  }
}

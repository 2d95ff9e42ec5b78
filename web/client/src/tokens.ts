/** Where the calls and the connection get their token from. */
import { ApiError } from './errors.ts';

/**
 * Returns a token: the first one, or another one in place of the one that the server has rejected, because it expired
 * or the user signed out. If the user has to sign in again, it throws an error whose `status` is 401. After any other
 * error, the client tries again.
 */
export type GetToken = (rejected?: string) => string | Promise<string>;

/** Whether an error means that the user has to sign in again. Any other error leaves that open. */
export function isSignedOut(error: unknown): boolean {
  const { status } = (error ?? {}) as { status?: unknown };
  return status === 401 || status === 403;
}

/** Keeps a token until the server rejects it. */
export class Tokens {
  private renewing: Promise<string> | undefined;

  constructor(
    private token: string | undefined,
    private readonly getToken: GetToken,
  ) {}

  async current(): Promise<string> {
    return this.token ?? this.renew();
  }

  /** Another token than the rejected one. */
  async renew(rejected?: string): Promise<string> {
    if (this.token !== undefined && rejected !== undefined && this.token !== rejected) return this.token;
    this.renewing ??= this.exchange().finally(() => {
      this.renewing = undefined;
    });
    return this.renewing;
  }

  private async exchange(): Promise<string> {
    const token = await this.getToken(this.token);
    if (!token) throw new ApiError('token_missing', 'there is no token; sign in again', null, 401);
    this.token = token;
    return token;
  }
}

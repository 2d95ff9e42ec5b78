/** The HTTP API. */
import { ApiError } from './errors.ts';
import type { RoomInfo } from './room-list.ts';
import type { Page, Role, RoomSettings, User } from './timeline.ts';
import type { Tokens } from './tokens.ts';

export interface Account extends User {
  email: string | null;
}

export interface SignedIn {
  token: string;
  user: Account;
  text_limit_bytes: number;
}

export interface Member {
  user: User;
  role: Role;
  joined_at: number;
  /** Only owners, moderators and the member see it. */
  silenced_until?: number;
}

/** Somebody who can't become a member of a room, for ever or until a time. */
export interface Ban {
  user: User;
  until?: number;
  reason?: string;
  by: User;
  at: number;
}

/** A page of a room's members. `count` is how many there are in all. */
export interface Members {
  members: Member[];
  more: boolean;
  count?: number;
}

/** A room as the HTTP API returns it. */
export type FoundRoom = Pick<
  RoomInfo,
  'name' | 'title' | 'private' | 'size' | 'members' | 'epoch' | 'offset' | 'role'
>;

export type Fetch = (path: string, init: RequestInit) => Promise<Response>;

export async function call<T>(fetch: Fetch, method: string, path: string, token?: string, body?: unknown): Promise<T> {
  const headers: Record<string, string> = {};
  if (token) headers['Authorization'] = `Bearer ${token}`;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      headers,
      credentials: 'same-origin',
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  } catch {
    throw new ApiError('network', 'the server cannot be reached');
  }
  let answer: unknown;
  try {
    answer = await response.json();
  } catch {
    answer = undefined;
  }
  if (response.ok && answer !== undefined) return answer as T;
  const { error } = (answer ?? {}) as { error?: { code?: string; message?: string; field?: string | null } };
  // A proxy whose server is down doesn't answer with JSON.
  if (!error) {
    throw new ApiError('network', `the server cannot be reached (${response.status})`, null, response.status);
  }
  throw new ApiError(error.code ?? '', error.message ?? '', error.field ?? null, response.status);
}

/** Who signs in: by a username or an e-mail address. */
export type Credentials = { password: string } & ({ username: string } | { email: string });

/** Signs in to the server at `url`. The answer contains the token that `connect` takes. */
export function signIn(url: string, credentials: Credentials, fetch: Fetch = globalThis.fetch): Promise<SignedIn> {
  return call(fetch, 'POST', `${url}/user/signin`, undefined, credentials);
}

/** Creates an account on the server at `url`, and signs in. */
export function signUp(
  url: string,
  account: { username: string; email: string; password: string },
  fetch: Fetch = globalThis.fetch,
): Promise<SignedIn> {
  return call(fetch, 'POST', `${url}/user/signup`, undefined, account);
}

/** The HTTP calls available to a signed-in user. */
export class Api {
  constructor(
    private readonly fetch: Fetch,
    private readonly tokens: Tokens,
  ) {}

  private async call<T>(method: string, path: string, body?: unknown): Promise<T> {
    const token = await this.tokens.current();
    try {
      return await call<T>(this.fetch, method, path, token, body);
    } catch (error) {
      // It expired, or the user has changed the password.
      if (!(error instanceof ApiError) || !error.code.startsWith('token_')) throw error;
      return call<T>(this.fetch, method, path, await this.tokens.renew(token), body);
    }
  }

  async me(): Promise<Account> {
    return (await this.call<{ user: Account }>('GET', '/me')).user;
  }

  chats(
    room: string,
    where: { before?: number; after?: number; limit?: number; memberships?: true } = {},
  ): Promise<Page> {
    return this.call('GET', `/user/getchats?${query({ room, limit: 100, ...where })}`);
  }

  findRooms(text: string, after?: string): Promise<{ rooms: FoundRoom[]; more: boolean }> {
    return this.call('GET', `/rooms?${query({ query: text || undefined, after, limit: 50 })}`);
  }

  async room(name: string): Promise<FoundRoom> {
    return (await this.call<{ room: FoundRoom }>('GET', roomPath(name))).room;
  }

  async createRoom(room: { name: string; title?: string; private?: boolean }): Promise<FoundRoom> {
    return (await this.call<{ room: FoundRoom }>('POST', '/user/createroom', room)).room;
  }

  async join(name: string): Promise<FoundRoom> {
    return (await this.call<{ room: FoundRoom }>('POST', `${roomPath(name)}/join`)).room;
  }

  async leave(name: string): Promise<void> {
    await this.call('POST', `${roomPath(name)}/leave`);
  }

  async deleteRoom(name: string): Promise<void> {
    await this.call('DELETE', roomPath(name));
  }

  members(name: string, after?: string, limit = 100): Promise<Members> {
    return this.call('GET', `${roomPath(name)}/members?${query({ after, limit })}`);
  }

  /** One of the members, who are sorted by id, or undefined if they are not a member. */
  async member(name: string, id: string): Promise<Member | undefined> {
    const { members } = await this.members(name, String(BigInt(id) - 1n), 1);
    return members.find(({ user }) => user.id === id);
  }

  async addMember(name: string, username: string): Promise<Member> {
    return (await this.call<{ member: Member }>('POST', `${roomPath(name)}/members`, { username })).member;
  }

  async removeMember(name: string, username: string): Promise<void> {
    await this.call('DELETE', `${roomPath(name)}/members/${encodeURIComponent(username)}`);
  }

  /** For owners. */
  async setRole(name: string, username: string, role: Role): Promise<void> {
    await this.call('PATCH', `${roomPath(name)}/members/${encodeURIComponent(username)}`, { role });
  }

  /**
   * Removes a user from a room and keeps them out, for ever or until a time. For owners and moderators. With
   * `delete_since`, messages are deleted; true: there are more of them, and the same call deletes them.
   */
  async ban(
    name: string,
    username: string,
    ban: { until?: number; reason?: string; delete_since?: number } = {},
  ): Promise<boolean> {
    const path = `${roomPath(name)}/bans/${encodeURIComponent(username)}`;
    return (await this.call<{ more: boolean }>('PUT', path, ban)).more;
  }

  /** The ban of a user, if there is one. For owners and moderators. */
  async banOf(name: string, id: string): Promise<Ban | undefined> {
    const path = `${roomPath(name)}/bans?${query({ after: String(BigInt(id) - 1n), limit: 1 })}`;
    const { bans } = await this.call<{ bans: Ban[] }>('GET', path);
    return bans.find(({ user }) => user.id === id);
  }

  async unban(name: string, username: string): Promise<void> {
    await this.call('DELETE', `${roomPath(name)}/bans/${encodeURIComponent(username)}`);
  }

  /** Until then the member can only read. For owners and moderators. */
  async silence(name: string, username: string, silence: { until: number; reason?: string }): Promise<void> {
    await this.call('PUT', `${roomPath(name)}/silences/${encodeURIComponent(username)}`, silence);
  }

  async unsilence(name: string, username: string): Promise<void> {
    await this.call('DELETE', `${roomPath(name)}/silences/${encodeURIComponent(username)}`);
  }

  /** For owners and moderators. */
  async pin(name: string, offset: number): Promise<void> {
    await this.call('PUT', `${roomPath(name)}/pins/${offset}`);
  }

  async unpin(name: string, offset: number): Promise<void> {
    await this.call('DELETE', `${roomPath(name)}/pins/${offset}`);
  }

  /** For owners. */
  async changeRoom(name: string, settings: RoomSettings): Promise<FoundRoom> {
    return (await this.call<{ room: FoundRoom }>('PATCH', roomPath(name), settings)).room;
  }

  changePassword(current_password: string, new_password: string): Promise<SignedIn> {
    return this.call('POST', '/me/password', { current_password, new_password });
  }
}

function roomPath(name: string): string {
  return `/rooms/${encodeURIComponent(name)}`;
}

function query(values: Record<string, string | number | true | undefined>): string {
  const out = new URLSearchParams();
  for (const [key, value] of Object.entries(values)) if (value !== undefined) out.set(key, String(value));
  return out.toString();
}

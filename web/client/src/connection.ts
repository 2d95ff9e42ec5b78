/** The WebSocket connection, through Centrifugo's SDK. */
import { Centrifuge, type Subscription, UnauthorizedError } from 'centrifuge';
import { SendError, toSendError } from './errors.ts';
import type { RoomInfo } from './room-list.ts';
import type { Data, Publication, User } from './timeline.ts';
import { type Tokens, isSignedOut } from './tokens.ts';

/** What a subscription to a room reports. */
export interface SubscriptionEvents {
  /** Publications follow from `position` on. If not `recovered`, the missed ones are not among them. */
  subscribed(position: { epoch: string; offset: number } | undefined, recovered: boolean): void;
  publication(publication: Publication): void;
  typing(user: User): void;
  online(count: number): void;
  join(client: string, user: User): void;
  leave(client: string): void;
  /** The subscription is over. Code 2000: the user left or was removed, or the room was deleted. */
  unsubscribed(code: number, reason: string): void;
}

/** As many as the server's `history_page_limit` unless the operator changed it; a lower one applies anyway. */
const HISTORY_LIMIT = 100;

/** The SDK's code for a connection that the server closed because of a message longer than it reads. */
const MESSAGE_SIZE_CODE = 3;

/** An event in the user's own channel. */
export interface UserEvent {
  read?: { room: string; offset: number; number: number };
  joined?: string;
  left?: string;
}

interface Info {
  client: string;
  user: string;
  connInfo?: { username?: string };
}

/** One WebSocket. The SDK reconnects, recovers subscriptions and renews the token. */
export class Connection {
  state: 'connecting' | 'connected' | 'closed' = 'connecting';
  /** Why the connection was closed or could not be opened. */
  code = 0;
  reason = '';
  onUserEvent: (news: UserEvent) => void = () => {};
  onConnected: () => void = () => {};
  onChange: () => void = () => {};
  private readonly client: Centrifuge;
  private readonly subscriptions = new Map<string, Subscription>();
  /** What has been published and not answered. */
  private readonly publishing = new Set<{ length: number; isTooLong?: boolean }>();
  /** The token that the SDK has. */
  token: string | undefined;

  constructor(url: string, tokens: Tokens, websocket: unknown) {
    this.client = new Centrifuge(url, {
      name: 'uproar',
      minReconnectDelay: 300,
      maxReconnectDelay: 10_000,
      timeout: 5000,
      websocket: websocket ?? null,
      getToken: async () => {
        try {
          const token = await tokens.current();
          // Being asked again means that the server has rejected the last token.
          this.token = token === this.token ? await tokens.renew(token) : token;
          return this.token;
        } catch (error) {
          if (isSignedOut(error)) throw new UnauthorizedError('signed out');
          throw error;
        }
      },
    });
    keepPublicationTimes(this.client);
    this.client.on('connecting', ({ code, reason }) => this.set('connecting', code, reason));
    this.client.on('connected', () => {
      this.set('connected', 0, '');
      this.onConnected();
    });
    this.client.on('disconnected', ({ code, reason }) => {
      const longest = [...this.publishing].sort((a, b) => b.length - a.length)[0];
      if (code === MESSAGE_SIZE_CODE && longest) {
        // It fails, so that everything else can be sent.
        longest.isTooLong = true;
        this.client.connect();
      } else this.set('closed', code, reason);
    });
    this.client.on('publication', ({ data }) => this.onUserEvent(data as UserEvent));
  }

  private set(state: Connection['state'], code: number, reason: string): void {
    this.state = state;
    this.code = code;
    this.reason = reason;
    this.onChange();
  }

  start(token?: string): void {
    if (token !== undefined) this.client.setToken((this.token = token));
    this.client.connect();
  }

  stop(): void {
    this.client.disconnect();
  }

  isSubscribed(room: string): boolean {
    return this.subscriptions.has(room);
  }

  /** Subscribes to a room, starting after a position. */
  subscribe(room: string, since: { epoch: string; offset: number }, events: SubscriptionEvents): void {
    if (this.subscriptions.has(room)) return;
    const subscription = this.client.newSubscription(channelOf(room), { since, joinLeave: true });
    this.subscriptions.set(room, subscription);
    subscription.on('subscribed', ({ streamPosition, wasRecovering, recovered }) =>
      events.subscribed(streamPosition, !wasRecovering || recovered),
    );
    subscription.on('publication', (context) => {
      const data = context.data as Data & { typing?: User; online?: number };
      if (context.offset !== undefined) {
        const time = (context as { time?: number }).time ?? Date.now();
        events.publication({ offset: context.offset, time, user: userOf(context.info), data });
      } else if (data.typing) events.typing(data.typing);
      else if (typeof data.online === 'number') events.online(data.online);
    });
    subscription.on('join', ({ info }) => events.join(info.client, userOf(info)));
    subscription.on('leave', ({ info }) => events.leave(info.client));
    subscription.on('unsubscribed', ({ code, reason }) => {
      // `unsubscribe` triggers this event too.
      if (this.subscriptions.get(room) !== subscription) return;
      this.unsubscribe(room);
      events.unsubscribed(code, reason);
    });
    subscription.subscribe();
  }

  unsubscribe(room: string): void {
    const subscription = this.subscriptions.get(room);
    this.subscriptions.delete(room);
    if (subscription) this.client.removeSubscription(subscription);
  }

  /**
   * Drops all subscriptions, so that they don't resume when the connection is back. Subscribing to a public room joins
   * it, which must not happen if the user was removed in the meantime.
   */
  unsubscribeAll(): void {
    for (const room of [...this.subscriptions.keys()]) this.unsubscribe(room);
  }

  /** Publishes to a room, if it still has this epoch, and returns the publication's offset. */
  async publish(room: string, data: Data, epoch: string | undefined): Promise<{ offset: number }> {
    const publishing: { length: number; isTooLong?: boolean } = { length: data.text?.length ?? 0 };
    try {
      await this.ready(room);
      this.publishing.add(publishing);
      const sent = epoch === undefined ? data : { ...data, epoch };
      const answer = await this.client.rpc('publish', { channel: channelOf(room), data: sent });
      return answer.data as { offset: number };
    } catch (error) {
      throw publishing.isTooLong ? new SendError('text_too_large', false) : toSendError(error, data);
    } finally {
      this.publishing.delete(publishing);
    }
  }

  /** Moves the read marker. Returns where it is now. */
  async read(room: string, offset: number, epoch: string): Promise<{ offset: number; number: number }> {
    const answer = await this.client.rpc('read', { channel: channelOf(room), offset, epoch });
    return answer.data as { offset: number; number: number };
  }

  typing(room: string): void {
    if (this.state !== 'connected') return;
    this.client.rpc('typing', { channel: channelOf(room) }).catch(() => {});
  }

  /** Lists all of the user's rooms. */
  async rooms(): Promise<RoomInfo[]> {
    const rooms: RoomInfo[] = [];
    for (;;) {
      const after = rooms.at(-1)?.name;
      const answer = await this.client.rpc('rooms', after === undefined ? {} : { after });
      const page = answer.data as { rooms: RoomInfo[]; more?: boolean };
      rooms.push(...page.rooms);
      if (!page.more || page.rooms.length === 0) return rooms;
    }
  }

  /** Returns the users in a room by the id of their connection. */
  async presence(room: string): Promise<Map<string, User>> {
    const subscription = await this.ready(room);
    const { clients } = await subscription.presence();
    return new Map(Object.entries(clients).map(([client, info]) => [client, userOf(info)]));
  }

  /** The publications after a position, the oldest first, at most one page of them. */
  async history(room: string, since: { epoch: string; offset: number }): Promise<Publication[]> {
    const subscription = await this.ready(room);
    const { publications } = await subscription.history({ since, limit: HISTORY_LIMIT });
    return publications.map(({ offset, info, data }) => ({
      offset: offset ?? 0,
      time: 0,
      user: userOf(info),
      data: data as Data,
    }));
  }

  private async ready(room: string): Promise<Subscription> {
    const subscription = this.subscriptions.get(room);
    if (!subscription) throw new SendError('not_subscribed', true, false);
    await subscription.ready(5000);
    return subscription;
  }
}

/**
 * Makes the SDK pass on the time of a publication, which it drops. If a later version of the SDK has different
 * internals, the time of receipt is used instead.
 */
function keepPublicationTimes(client: Centrifuge): void {
  type Make = (channel: string, publication: { time?: number }) => { time?: number };
  const internals = client as unknown as { _getPublicationContext?: Make };
  const make = internals._getPublicationContext;
  if (typeof make !== 'function') return;
  internals._getPublicationContext = function (channel, publication) {
    const context = make.call(this, channel, publication);
    context.time ??= publication.time;
    return context;
  };
}

function channelOf(room: string): string {
  return `room:${room}`;
}

function userOf(info: Info | undefined): User {
  return { id: info?.user ?? '', username: info?.connInfo?.username ?? '' };
}

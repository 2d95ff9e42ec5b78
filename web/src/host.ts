/** The site around the frame in which the page shows a single room. */
import { ApiError, Store } from '@uproar/client';
import type { FromFrame, ToFrame, Wishes } from '@uproar/client/element';

/** How long the site may take to get a token. */
const TOKEN_MS = 30_000;

type Answer = Exclude<ToFrame, Wishes>;

/** The part of a port that is used here. */
type Port = Pick<MessagePort, 'postMessage' | 'onmessage'>;

/**
 * Waits for the site's answer to the first message, which says nothing. Only pages of the origins that the server names
 * in `frame-ancestors` can be around this one, so that page may use the port that comes with the answer.
 */
export function findHost(): Promise<Host> {
  return new Promise((resolve) => {
    const onMessage = ({ source, data, ports: [port] }: MessageEvent) => {
      if (source !== window.parent || !port) return;
      removeEventListener('message', onMessage);
      resolve(new Host(port, data));
    };
    addEventListener('message', onMessage);
    window.parent.postMessage('uproar-room', '*');
  });
}

export class Host extends Store {
  wishes: Wishes;
  /** Whether the site had a token when it was asked last. */
  isSignedIn = false;
  private answer: ((answer: Answer) => void) | undefined;
  private asking: Promise<Answer> | undefined;

  constructor(
    private readonly port: Port,
    wishes: unknown,
  ) {
    super();
    this.wishes = read(wishes);
    port.onmessage = ({ data }: MessageEvent<ToFrame>) => {
      if ('token' in data || 'failed' in data) return this.answer?.(data);
      this.wishes = read(data);
      this.changed();
    };
  }

  tell(message: FromFrame): void {
    this.port.postMessage(message);
  }

  private ask(): Promise<Answer> {
    this.tell({ ask: true });
    return new Promise((resolve) => {
      this.answer = resolve;
      setTimeout(() => resolve({ failed: true }), TOKEN_MS);
    });
  }

  /** A token of the user. Without one, nobody is signed in to the site. */
  async token(): Promise<string> {
    this.asking ??= this.ask().finally(() => {
      this.asking = undefined;
    });
    const answer = await this.asking;
    if ('failed' in answer) throw new ApiError('no_site_token', 'the site gave no token');
    const token = String(answer.token ?? '').trim();
    this.isSignedIn = token !== '';
    if (!this.isSignedIn) throw new ApiError('token_missing', 'nobody is signed in to the site', null, 401);
    // Nothing else can be sent.
    if (!/^[\w.-]+$/.test(token)) throw new ApiError('token_invalid', 'this is not a token', null, 401);
    return token;
  }
}

function read(value: unknown): Wishes {
  const { room, theme, language, hasToken, isSeen } = Object(value) as Record<keyof Wishes, unknown>;
  return {
    room: String(room ?? '').trim(),
    theme: String(theme ?? ''),
    language: String(language ?? ''),
    hasToken: hasToken === true,
    isSeen: isSeen === true,
  };
}

/**
 * `<uproar-room>` shows a room of an Uproar server on a page of another site, in a frame that fills the element.
 * The frame has a page of the server, `embed.html`. It asks for the site's wishes, and gets them together with a port,
 * over which both talk from then on.
 */

/** What the site wants the frame to show. @internal */
export interface Wishes {
  room: string;
  theme: string;
  language: string;
  /** Whether the site signs the user in. */
  hasToken: boolean;
  /** Whether the element is on screen. */
  isSeen: boolean;
}

/** @internal */
export type ToFrame = Wishes | { token: unknown } | { failed: true };

/** @internal */
export interface FromFrame {
  /** The frame needs a token. */
  ask?: true;
  /** The name of the frame, for screen readers. */
  title?: string;
  /** Something to tell the site: `uproar-EVENT`. */
  event?: string;
  detail?: unknown;
}

/** Returns a token of the user, or nothing if nobody is signed in to the site. */
export type GetToken = () => string | null | undefined | Promise<string | null | undefined>;

/** How long the frame may need to load its scripts. */
const ANSWER_MS = 10_000;
const STYLE =
  ':host{display:block;height:400px;min-width:240px;min-height:240px;overflow:hidden}' +
  ':host([hidden]){display:none}iframe{display:block;width:100%;height:100%;border:0}';

// On a server that renders pages, there are no elements.
const Base = globalThis.HTMLElement ?? class {};

export class UproarRoom extends Base {
  static readonly observedAttributes = ['server', 'room', 'theme', 'language'];
  #getToken: GetToken | undefined;
  #frame: HTMLIFrameElement | undefined;
  #port: MessagePort | undefined;
  #isPlaced = false;
  #isSeen = false;
  #close = (): void => {};

  constructor() {
    super();
    // Not a `<style>`, which the policy of the site may forbid.
    const style = new CSSStyleSheet();
    style.replaceSync(STYLE);
    this.attachShadow({ mode: 'open' }).adoptedStyleSheets = [style];
  }

  get getToken(): GetToken | undefined {
    return this.#getToken;
  }

  set getToken(getToken: GetToken | undefined) {
    this.#getToken = getToken;
    this.#tell();
  }

  connectedCallback(): void {
    // What was set before this script had loaded hides the accessor.
    if (Object.hasOwn(this, 'getToken')) {
      const { getToken } = this;
      delete (this as { getToken?: unknown }).getToken;
      this.getToken = getToken;
    }
    this.#isPlaced = true;
    this.#open();
  }

  disconnectedCallback(): void {
    this.#isPlaced = false;
    this.#close();
  }

  attributeChangedCallback(name: string, before: string | null, now: string | null): void {
    if (before === now) return;
    if (name === 'server') this.#open();
    else this.#tell();
  }

  /** Starts again with a new token. Call it after a user signs in to the site or out of it. */
  reload(): void {
    this.#open();
  }

  #open(): void {
    this.#close();
    // An element that was there before this script has its attributes before it is placed.
    if (!this.#isPlaced) return;
    const server = this.getAttribute('server');
    if (server === null) {
      // A framework may add it in a moment.
      const timer = setTimeout(() => this.#fail('bad_server', 'the attribute "server" is missing'));
      this.#close = () => clearTimeout(timer);
      return;
    }
    const { origin, protocol } = URL.canParse(server) ? new URL(server) : { origin: '', protocol: '' };
    if (!/^https?:$/.test(protocol)) {
      return this.#fail('bad_server', `server="${server}" is not a URL such as https://chat.example.com`);
    }
    const frame = document.createElement('iframe');
    this.#frame = frame;
    frame.title = this.title || 'Chat';
    frame.allow = 'clipboard-write';
    frame.src = `${origin}/embed.html`;
    const onMessage = (event: MessageEvent) => {
      if (event.source !== frame.contentWindow || event.origin !== origin || event.data !== 'uproar-room') return;
      clearTimeout(timer);
      this.#port?.close();
      const { port1, port2 } = new MessageChannel();
      this.#port = port1;
      port1.onmessage = ({ data }) => this.#receive(port1, data as FromFrame);
      frame.contentWindow!.postMessage(this.#wishes(), origin, [port2]);
    };
    addEventListener('message', onMessage);
    const timer = setTimeout(() => {
      this.#fail('not_loaded', `${origin} shows no room here. Does it run, with --embed-origin ${location.origin}?`);
    }, ANSWER_MS);
    const observer = new IntersectionObserver((entries) => {
      this.#isSeen = entries.at(-1)!.isIntersecting;
      this.#tell();
    });
    observer.observe(this);
    this.#close = () => {
      removeEventListener('message', onMessage);
      clearTimeout(timer);
      observer.disconnect();
      this.#port?.close();
      this.#port = undefined;
      frame.remove();
    };
    this.shadowRoot!.append(frame);
  }

  #wishes(): Wishes {
    const [room, theme, language] = ['room', 'theme', 'language'].map((name) => this.getAttribute(name) ?? '');
    return { room: room!, theme: theme!, language: language!, hasToken: !!this.#getToken, isSeen: this.#isSeen };
  }

  #tell(): void {
    this.#port?.postMessage(this.#wishes());
  }

  async #receive(port: MessagePort, { ask, title, event, detail }: FromFrame): Promise<void> {
    if (title) this.#frame!.title = this.title || title;
    if (event) this.dispatchEvent(new CustomEvent(`uproar-${event}`, { detail }));
    if (!ask) return;
    try {
      port.postMessage({ token: await this.#getToken?.() });
    } catch (error) {
      reportError(error);
      port.postMessage({ failed: true });
    }
  }

  #fail(code: string, message: string): void {
    console.error(`<uproar-room>: ${message}`);
    this.dispatchEvent(new CustomEvent('uproar-error', { detail: { code, message } }));
  }
}

declare global {
  interface HTMLElementTagNameMap {
    'uproar-room': UproarRoom;
  }
  interface HTMLElementEventMap {
    'uproar-ready': CustomEvent<{ room: string; title: string }>;
    /** How many messages are unread. */
    'uproar-unread': CustomEvent<number>;
    'uproar-error': CustomEvent<{
      code: 'bad_server' | 'not_loaded' | 'token_missing' | 'token_refused';
      message: string;
    }>;
  }
}

// The package and the script of the server may both be on a page.
if (globalThis.customElements && !customElements.get('uproar-room')) customElements.define('uproar-room', UproarRoom);

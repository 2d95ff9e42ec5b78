import { Component, createRef } from 'preact';
import type { Chat } from '../chat';
import type { Room } from '../room';
import { Heights } from '../state/heights';
import type { Item } from '../state/outbox';
import type { Message } from '../state/timeline';
import { dayLabel, sameDay, startsGroup } from '../state/time';
import { MessageRow, UnsentRow } from './Message';

interface Props {
  /** Gets the list while it is there. */
  handle: { current: MessageList | null };
  chat: Chat;
  room: Room;
  title: string;
  /** Messages above this offset are new to the reader. */
  freshFrom: number;
  editing: number | undefined;
  onEdit: (offset: number | undefined) => void;
  onReply: (message: Message) => void;
}

interface State {
  active: string | undefined;
  flashed: number | undefined;
  atEnd: boolean;
}

interface Row {
  key: string;
  message?: Message;
  item?: Item;
  day?: string;
  fresh: boolean;
  head: boolean;
}

const GUESS_PX = 34;
/** Rendered above and below what is seen. */
const MARGIN_PX = 600;
/** How near to an end of the window the next page is asked for. */
const NEAR_PX = 1600;
const END_PX = 40;

/**
 * A list of which only what is near the view is in the document. Rows have whatever height they have: it is guessed,
 * measured once they are there, and the scroll position is then mended so that what is read does not move.
 */
export class MessageList extends Component<Props, State> {
  override state: State = { active: undefined, flashed: undefined, atEnd: true };
  private scroller = createRef<HTMLDivElement>();
  private inner = createRef<HTMLDivElement>();
  private heights = new Heights(GUESS_PX);
  private rows: Row[] = [];
  private keys: string[] = [];
  private index = new Map<string, number>();
  private builtFrom: unknown[] = [];
  private first = 0;
  private end = 0;
  private view = { top: 0, height: 0, width: 0 };
  /** Otherwise this row stays where it is in the view. */
  private anchor: { key: string; top: number } | undefined;
  private rounds = 0;
  private generation = -1;
  private focusNext: string | undefined;
  private isGone = false;
  private isPointed = false;
  private ends: (() => void)[] = [];
  private observer: ResizeObserver | undefined;
  private flashTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(props: Props) {
    super(props);
    this.stick = true;
  }

  /** The view stays at the end when something comes. */
  private get stick(): boolean {
    return this.props.room.timeline.follows;
  }

  private set stick(is: boolean) {
    this.props.room.timeline.follows = is;
  }

  override componentDidMount(): void {
    const { chat, room, handle } = this.props;
    handle.current = this;
    const again = () => this.forceUpdate();
    this.ends = [room.timeline.subscribe(again), room.subscribe(again), chat.outbox.subscribe(again), chat.subscribe(() => this.seen())];
    const seen = () => this.seen();
    document.addEventListener('visibilitychange', seen);
    addEventListener('focus', seen);
    this.ends.push(() => {
      document.removeEventListener('visibilitychange', seen);
      removeEventListener('focus', seen);
    });
    this.observer = new ResizeObserver(() => this.layout());
    this.observer.observe(this.scroller.current!);
    this.observer.observe(this.inner.current!);
    this.layout();
    again();
  }

  override getSnapshotBeforeUpdate(): boolean {
    return this.inner.current?.contains(document.activeElement) ?? false;
  }

  override componentDidUpdate(_props: Props, _state: State, hadFocus: boolean): void {
    this.layout();
    if (this.focusNext !== undefined) {
      this.element(this.focusNext)?.focus();
      this.focusNext = undefined;
    } else if (hadFocus && (document.activeElement === document.body || !document.activeElement)) {
      // What had the focus is gone; the keyboard still scrolls.
      this.scroller.current?.focus({ preventScroll: true });
    }
  }

  override componentWillUnmount(): void {
    this.isGone = true;
    if (this.props.handle.current === this) this.props.handle.current = null;
    for (const end of this.ends) end();
    this.observer?.disconnect();
    clearTimeout(this.flashTimer);
  }

  /** Shows the newest message, loading it where the window ends before it. */
  toNewest(): void {
    const { room } = this.props;
    this.stick = true;
    this.anchor = undefined;
    // Also when another part is on its way.
    if (room.timeline.hasNewer || room.loading === 'middle') void room.loadNewest();
    else this.forceUpdate();
  }

  /** Shows a message, loading it where it is not in the window. */
  async goTo(offset: number): Promise<void> {
    const { room } = this.props;
    await room.goTo(offset);
    const message = room.timeline.find(offset);
    if (!message || this.isGone) return;
    this.stick = false;
    this.generation = room.timeline.generation;
    this.anchor = { key: keyOf(message), top: this.view.height / 3 };
    this.setState({ flashed: offset, active: keyOf(message) });
    clearTimeout(this.flashTimer);
    this.flashTimer = setTimeout(() => this.setState({ flashed: undefined }), 2000);
  }

  private build(): void {
    const { chat, room, freshFrom } = this.props;
    const { messages } = room.timeline;
    const items = chat.outbox.of(room.name);
    const from = [messages, freshFrom, ...items];
    if (from.length === this.builtFrom.length && from.every((value, i) => value === this.builtFrom[i])) return;
    this.builtFrom = from;
    const now = Date.now();
    const rows: Row[] = [];
    let last: Pick<Message, 'user' | 'time'> | undefined;
    let fresh = false;
    for (const message of messages) {
      const row: Row = { key: keyOf(message), message, head: startsGroup(last, message), fresh: false };
      if (!last || !sameDay(last.time, message.time)) row.day = dayLabel(message.time, now);
      if (!fresh && message.offset > freshFrom && message.user.id !== chat.me.id) {
        fresh = row.fresh = row.head = true;
      }
      rows.push(row);
      last = message;
    }
    const keys = new Set(rows.map(({ key }) => key));
    for (const item of items) {
      const key = `${chat.me.id}:${item.id}`;
      if (keys.has(key)) continue;
      const as = { user: chat.me, time: item.time, ...(item.replyTo === undefined ? {} : { replyTo: item.replyTo }) };
      rows.push({ key, item, head: startsGroup(last, as), fresh: false });
      last = as;
    }
    this.rows = rows;
    this.keys = rows.map(({ key }) => key);
    this.index = new Map(this.keys.map((key, i) => [key, i]));
    this.heights.setKeys(this.keys);
  }

  private choose(): boolean {
    const { heights, view } = this;
    if (this.rows.length === 0) {
      this.first = this.end = 0;
      return false;
    }
    const height = view.height || 800;
    const top = this.stick ? Math.max(0, heights.total - height) : this.wanted();
    const { first, end } = heights.range(top - MARGIN_PX, top + height + MARGIN_PX);
    const enough = this.first <= heights.at(top) && this.end > heights.at(top + height) && this.end <= this.rows.length;
    const near = Math.abs(first - this.first) < 8 && Math.abs(end - this.end) < 8;
    if (enough && near) return false;
    this.first = first;
    this.end = Math.min(end, this.rows.length);
    return true;
  }

  /** Where the view has to begin for the anchor to be where it was. */
  private wanted(): number {
    const at = this.anchor && this.index.get(this.anchor.key);
    if (at === undefined) return this.view.top;
    return Math.max(0, Math.min(this.heights.top(at) - this.anchor!.top, Math.max(0, this.heights.total - this.view.height)));
  }

  private layout(): void {
    const scroller = this.scroller.current;
    const inner = this.inner.current;
    if (!scroller || !inner) return;
    this.notice();
    const { clientHeight, clientWidth } = scroller;
    if (clientWidth !== this.view.width) {
      if (this.view.width !== 0) this.heights.forget();
      this.view.width = clientWidth;
    }
    this.view.height = clientHeight;
    for (const child of inner.children) {
      const { key } = (child as HTMLElement).dataset;
      if (key !== undefined) this.heights.measure(key, child.getBoundingClientRect().height);
    }
    // Set here and not when rendering, since only now the heights are known.
    inner.style.paddingTop = `${this.heights.top(this.first)}px`;
    inner.style.paddingBottom = `${Math.max(0, this.heights.total - this.heights.top(this.end))}px`;
    const top = this.stick ? scroller.scrollHeight - clientHeight : this.wanted();
    if (Math.abs(scroller.scrollTop - top) >= 1) scroller.scrollTop = top;
    this.view.top = scroller.scrollTop;
    if (this.rounds < 6 && this.choose()) {
      this.rounds++;
      this.forceUpdate();
      return;
    }
    this.rounds = 0;
    const { timeline } = this.props.room;
    const left = scroller.scrollHeight - this.view.top - clientHeight;
    if (timeline.loaded && !timeline.hasNewer && left < END_PX) this.stick = true;
    if (!this.stick && !this.anchor) this.hold();
    this.more();
    this.seen();
    this.noteEnd();
  }

  private onScroll = (): void => {
    const top = this.scroller.current!.scrollTop;
    if (Math.abs(top - this.view.top) < 1) return;
    this.scrolledTo(top);
    if (this.choose()) this.forceUpdate();
    this.more();
    this.seen();
    this.noteEnd();
  };

  /** What was scrolled and not yet said by an event: what comes in at this moment must not undo it. */
  private notice(): void {
    const scroller = this.scroller.current;
    if (!scroller) return;
    const { scrollTop: top, scrollHeight, clientHeight } = scroller;
    if (Math.abs(top - this.view.top) < 1) return;
    // That is the browser's doing, when there is less to scroll than there was.
    if (top < this.view.top && top >= scrollHeight - clientHeight - 1) return;
    this.scrolledTo(top);
  }

  private scrolledTo(top: number): void {
    const { scrollHeight, clientHeight } = this.scroller.current!;
    this.view.top = top;
    this.hold();
    this.stick = scrollHeight - top - clientHeight < END_PX && !this.props.room.timeline.hasNewer;
  }

  private hold(): void {
    const { top } = this.view;
    const at = this.heights.at(top);
    const key = this.keys[at];
    if (key !== undefined) this.anchor = { key, top: this.heights.top(at) - top };
  }

  private tryAgain(): void {
    const { room } = this.props;
    room.error = '';
    if (room.timeline.loaded) this.more();
    else void room.loadNewest();
    this.forceUpdate();
  }

  private more(): void {
    const { room } = this.props;
    const { timeline } = room;
    if (!timeline.loaded || room.loading || room.error) return;
    if (timeline.hasOlder && this.view.top < NEAR_PX) void room.loadOlder();
    else if (timeline.hasNewer && this.heights.total - this.view.top - this.view.height < NEAR_PX) void room.loadNewer();
  }

  /** Whoever has the newest messages on the screen has read them. */
  private seen(): void {
    const { chat, room } = this.props;
    const looks = document.visibilityState === 'visible' && document.hasFocus();
    if (looks && room.timeline.loaded && this.stick && !room.timeline.hasNewer) void chat.read(room.name);
  }

  private noteEnd(): void {
    const atEnd = this.stick || this.heights.total - this.view.top - this.view.height < 2 * END_PX;
    const whole = atEnd && !this.props.room.timeline.hasNewer;
    if (whole !== this.state.atEnd) this.setState({ atEnd: whole });
  }

  private element(key: string): HTMLElement | null {
    return this.inner.current?.querySelector<HTMLElement>(`[data-key="${CSS.escape(key)}"]`) ?? null;
  }

  private onKeyDown = (event: KeyboardEvent): void => {
    const target = event.target as HTMLElement;
    if (event.key === 'End' && target.closest('textarea') === null) {
      event.preventDefault();
      this.toNewest();
      return;
    }
    if (target === this.scroller.current && (event.key === 'ArrowUp' || event.key === 'ArrowDown')) return;
    if (target.dataset['key'] === undefined) {
      // From a button in a message Escape leads back to the message.
      if (event.key === 'Escape' && target.closest('textarea') === null) target.closest<HTMLElement>('[data-key]')?.focus();
      return;
    }
    const by = event.key === 'ArrowUp' ? -1 : event.key === 'ArrowDown' ? 1 : 0;
    if (by === 0) return;
    const key = this.keys[(this.index.get(target.dataset['key']) ?? 0) + by];
    if (key === undefined) return;
    event.preventDefault();
    this.focusNext = key;
    this.setState({ active: key });
  };

  private activate = (key: string): void => {
    if (this.state.active !== key) this.setState({ active: key });
  };

  /** What the pointer pointed at is left alone, unless the keyboard is there. */
  private leave = (): void => {
    this.isPointed = false;
    if (!this.inner.current?.contains(document.activeElement)) this.setState({ active: undefined });
  };

  private enter = (): void => {
    this.isPointed = true;
  };

  /** A little later: a button that went when it was pressed gives the focus to its message. */
  private focusOut = (): void => {
    setTimeout(() => {
      if (!this.isGone && !this.isPointed) this.leave();
    });
  };

  override render({ chat, room, title, freshFrom, editing, onEdit, onReply }: Props, { active, flashed, atEnd }: State) {
    const { timeline } = room;
    // Before the rows are others: what is held is one of those that are there.
    this.notice();
    this.build();
    if (timeline.generation !== this.generation && timeline.loaded) {
      // Another window: begin with what is new, or else at the end.
      const first = this.generation === -1;
      this.generation = timeline.generation;
      const fresh = first ? this.rows.find((row) => row.fresh) : undefined;
      this.stick = !fresh && !timeline.hasNewer;
      this.anchor = fresh ? { key: fresh.key, top: 60 } : undefined;
    }
    this.choose();
    if (this.end > this.rows.length) this.end = this.rows.length;
    const shown = this.rows.slice(this.first, this.end);
    // One message can be reached with Tab; arrow keys go on from there.
    const reachable = shown.some(({ key }) => key === active) ? active : shown.at(-1)?.key;
    const unread = chat.rooms.unread(room.name);
    return (
      <div class="messages">
        {room.error && (
          <p class="error notice" role="alert">
            {room.error}{' '}
            <button onClick={() => this.tryAgain()}>Try again</button>
          </p>
        )}
        {timeline.loaded && this.rows.length === 0 && (
          <p class="empty">
            No messages in <strong dir="auto">{title}</strong> yet. Say hello!
          </p>
        )}
        <div
          class="scroller"
          tabIndex={-1}
          ref={this.scroller}
          onScroll={this.onScroll}
          onKeyDown={this.onKeyDown}
          onPointerEnter={this.enter}
          onPointerLeave={this.leave}
          onFocusOut={this.focusOut}
        >
          <div
            class="inner"
            ref={this.inner}
            // A feed without articles is none.
            {...(shown.length > 0 ? { role: 'feed' as const, 'aria-label': `Messages in ${title}`, 'aria-busy': room.loading !== undefined } : {})}
          >
            {shown.map((row, i) => {
              const position = this.first + i + 1;
              const common = {
                rowKey: row.key,
                position,
                head: row.head,
                day: row.day,
                fresh: row.fresh,
                isReachable: row.key === reachable,
                onActivate: this.activate,
              };
              if (row.item) {
                const { replyTo } = row.item;
                const quoted = replyTo === undefined ? undefined : room.quoted(replyTo);
                return <UnsentRow key={row.key} {...common} item={row.item} quoted={quoted} onGoTo={this.goToQuoted} chat={chat} />;
              }
              const message = row.message!;
              return (
                <MessageRow
                  key={row.key}
                  {...common}
                  message={message}
                  quoted={message.replyTo === undefined ? undefined : room.quoted(message.replyTo)}
                  isActive={row.key === active}
                  isFlashed={message.offset === flashed}
                  isEditing={message.offset === editing}
                  onEdit={onEdit}
                  onReply={onReply}
                  onGoTo={this.goToQuoted}
                  chat={chat}
                  room={room.name}
                  me={chat.me.id}
                />
              );
            })}
          </div>
        </div>
        {timeline.loaded && !atEnd && (
          <button class="to-newest" onClick={() => this.toNewest()}>
            {unread > 0 && freshFrom !== undefined ? `${unread} unread ↓` : 'Jump to latest ↓'}
          </button>
        )}
      </div>
    );
  }

  private goToQuoted = (offset: number): void => void this.goTo(offset);
}

/** A message of one's own keeps its key from being written to being stored, so that its row stays the same. */
function keyOf(message: Message): string {
  return message.id === null ? `o${message.offset}` : `${message.user.id}:${message.id}`;
}

/** The virtual list of a room's messages. */
import { Component, createRef } from 'preact';
import type { Item, MemberChange, Message, Room, RoomMessage } from '@uproar/client';
import type { Chat } from '../chat';
import { errorText } from '../errors';
import { isLong } from '../state/fold';
import { Heights } from '../state/heights';
import { sameDay, startsGroup } from '../state/time';
import { parseMarkdown } from '../state/markdown';
import type { Say, Texts } from '../texts/language';
import { ChangesRow } from './Changes';
import { EmojiDialog } from './EmojiDialog';
import { Icon } from './Icon';
import { MessageRow, UnsentRow } from './Message';
import { MessageSkeleton } from './Skeleton';
import { onHold } from './touch';
import type { Person } from './Profile';
import { placeInAddress, replace, wordOf } from './address';
import { copyMessages } from './copy';
import { TextsContext } from './texts';

interface Props {
  /** Refers to the list while it is mounted. */
  handle: { current: MessageList | null };
  chat: Chat;
  room: Room;
  title: string;
  /** Messages after this offset are new to the reader. */
  newAfter: number;
  editing: number | undefined;
  onEdit: (offset: number | undefined) => void;
  onReply: (message: Message) => void;
  onPerson: (person: Person) => void;
}

interface State {
  active: string | undefined;
  /** The message on which a finger has rested. */
  held: string | undefined;
  flashed: number | undefined;
  atEnd: boolean;
  /** What there is to say about the message that was asked for, or a reaction that failed. */
  notice: Say | undefined;
  /** The message for which a reaction is chosen among all emoji. */
  reactingTo: Message | undefined;
}

interface Row {
  key: string;
  message?: Message;
  item?: Item;
  /** Joins and departures that follow each other. */
  changes?: MemberChange[];
  day?: string;
  isFirstNew: boolean;
  isGroupStart: boolean;
}

/** The height assumed for rows that were not measured. */
const GUESS_PX = 34;
/** How far beyond the view rows are rendered. */
const MARGIN_PX = 600;
/** The next page is requested this far from an end of the window. */
const NEAR_PX = 1600;
/** How often the page looks whether another day has begun. */
const DAY_CHECK_MS = 30_000;
/** How long a message that was asked for stands out. */
const FLASH_MS = 2500;
/** Within this distance of the end, the view counts as being there. */
const END_PX = 40;

/**
 * Only rows near the view are in the document. Their heights vary: they are guessed, then measured once rendered, and
 * the scroll position is corrected so that what the user is reading does not move.
 */
export class MessageList extends Component<Props, State> {
  static override contextType = TextsContext;
  override state: State = {
    active: undefined,
    held: undefined,
    flashed: undefined,
    atEnd: true,
    notice: undefined,
    reactingTo: undefined,
  };
  private scroller = createRef<HTMLDivElement>();
  private inner = createRef<HTMLDivElement>();
  private heights = new Heights(GUESS_PX);
  private rows: Row[] = [];
  private keys: string[] = [];
  private index = new Map<string, number>();
  private builtFrom: unknown[] = [];
  private builtAt = 0;
  private first = 0;
  private end = 0;
  /** `below`: the space behind the last row. */
  private view = { top: 0, height: 0, width: 0, below: 0 };
  /** The row that keeps its place in the view unless `sticksToEnd` is set. */
  private anchor: { key: string; top: number } | undefined;
  private layoutRounds = 0;
  private generation = -1;
  private focusNext: string | undefined;
  private isGone = false;
  private isPointed = false;
  private cleanups: (() => void)[] = [];
  private observer: ResizeObserver | undefined;
  /** Shows the message that could not be loaded. */
  private again: (() => void) | undefined;
  /** The message of the address that is being looked for. */
  private seeking: Chat['wanted'];
  /** The long messages that are shown in full. */
  private readonly unfolded = new Set<string>();
  private flashTimer: ReturnType<typeof setTimeout> | undefined;

  constructor(props: Props) {
    super(props);
    this.sticksToEnd = true;
  }

  /** Whether the view stays at the end as messages arrive. */
  private get sticksToEnd(): boolean {
    return this.props.room.timeline.follows;
  }

  private set sticksToEnd(is: boolean) {
    this.props.room.timeline.follows = is;
  }

  override componentDidMount(): void {
    const { chat, room, handle } = this.props;
    handle.current = this;
    const rerender = () => this.forceUpdate();
    const markRead = () => this.markRead();
    const showWanted = () => void this.showWanted();
    this.cleanups = [
      room.on('messages', rerender),
      room.on('loading', rerender),
      chat.subscribe(markRead),
      room.on('loading', showWanted),
      chat.subscribe(showWanted),
    ];
    // “Today” is not for ever. Not one timer until midnight: the computer may sleep, or its clock be set.
    const checkDay = () => {
      if (!sameDay(this.builtAt, Date.now())) rerender();
    };
    const timer = setInterval(checkDay, DAY_CHECK_MS);
    document.addEventListener('visibilitychange', markRead);
    document.addEventListener('visibilitychange', checkDay);
    addEventListener('focus', markRead);
    document.addEventListener('copy', this.onCopy);
    this.cleanups.push(() => {
      document.removeEventListener('copy', this.onCopy);
      clearInterval(timer);
      document.removeEventListener('visibilitychange', markRead);
      document.removeEventListener('visibilitychange', checkDay);
      removeEventListener('focus', markRead);
    });
    this.cleanups.push(onHold(this.inner.current!, this.hold));
    this.observer = new ResizeObserver(() => {
      this.syncScroll();
      this.layout();
    });
    this.observer.observe(this.scroller.current!);
    this.observer.observe(this.inner.current!);
    this.layout();
    rerender();
    showWanted();
  }

  override getSnapshotBeforeUpdate(): boolean {
    // Not afterwards: while rows are replaced, the browser scrolls because there are fewer of them for a moment.
    this.syncScroll();
    return this.inner.current?.contains(document.activeElement) ?? false;
  }

  override componentDidUpdate(_props: Props, _state: State, hadFocus: boolean): void {
    this.layout();
    if (this.focusNext !== undefined) {
      this.element(this.focusNext)?.focus();
      this.focusNext = undefined;
    } else if (hadFocus && (document.activeElement === document.body || !document.activeElement)) {
      // The focused element is gone. The keyboard can still scroll.
      this.scroller.current?.focus({ preventScroll: true });
    }
  }

  override componentWillUnmount(): void {
    this.isGone = true;
    if (this.props.handle.current === this) this.props.handle.current = null;
    for (const cleanup of this.cleanups) cleanup();
    this.observer?.disconnect();
    clearTimeout(this.flashTimer);
  }

  /** Shows the newest message, loading it if necessary. */
  toNewest(): void {
    const { chat, room } = this.props;
    this.sticksToEnd = true;
    this.anchor = undefined;
    this.setState({ notice: undefined });
    // Also if another part of the history is being loaded.
    if (room.timeline.hasNewer || room.loading === 'middle') void room.loadNewest();
    else this.forceUpdate();
    if (chat.wanted) chat.arrived();
    // After a reload, the user is not led back.
    if (placeInAddress().message !== undefined) replace(room.name);
  }

  /**
   * Shows a message, loading it if necessary. If the user came from elsewhere, the keyboard continues there, and there
   * may be something to say about it. Returns whether there is such a message, if that is known.
   */
  async goTo(offset: number, fromElsewhere = false, notice?: Say): Promise<boolean | undefined> {
    const { room } = this.props;
    this.again = undefined;
    const exists = await room.goTo(offset);
    const message = room.timeline.find(offset);
    if (exists === undefined && room.error) this.again = () => void this.goTo(offset, fromElsewhere, notice);
    if (!message || this.isGone) return exists;
    this.sticksToEnd = false;
    this.generation = room.timeline.generation;
    this.anchor = { key: keyOf(message), top: this.view.height / 3 };
    this.unfolded.add(keyOf(message));
    this.setState({ flashed: offset, active: keyOf(message), notice });
    if (fromElsewhere && !isTyping()) this.focusNext = keyOf(message);
    clearTimeout(this.flashTimer);
    this.flashTimer = setTimeout(() => this.setState({ flashed: undefined }), FLASH_MS);
    return true;
  }

  /** Shows the message that the address names. */
  private async showWanted(): Promise<void> {
    const { chat, room } = this.props;
    const { wanted } = chat;
    if (!wanted || wanted.room !== room.name || wanted === this.seeking || room.error || this.isGone) return;
    if (wanted.word !== undefined && wanted.word !== wordOf(room.timeline.epoch)) {
      chat.arrived();
      return this.setState({ notice: (t) => t.messages.otherRoom });
    }
    this.seeking = wanted;
    const exists = await this.goTo(wanted.offset, true);
    this.seeking = undefined;
    if (this.isGone) return;
    // Something else is wanted by now.
    if (chat.wanted !== wanted) return void this.showWanted();
    // Otherwise it is looked for again, once the error is dealt with.
    if (exists === undefined && room.error) return;
    chat.arrived();
    if (exists === undefined) return;
    const message = room.timeline.find(wanted.offset);
    if (!exists) this.setState({ notice: (t) => t.messages.notFound });
    else this.setState({ notice: message?.text === null ? (t) => t.messages.wasDeleted : undefined });
  }

  /** Builds the rows from the timeline and the outbox, if one of them changed. */
  private buildRows(): void {
    const { chat, room, newAfter } = this.props;
    const t: Texts = this.context;
    const { messages } = room;
    const { changes } = room.timeline;
    const now = Date.now();
    // Even a message of the user's own, if it was marked.
    const isMarked = chat.rooms.markOf(room.name)?.after === newAfter;
    const from = [t, messages, changes, newAfter, isMarked, room.timeline.hasNewer];
    const isSame = from.length === this.builtFrom.length && from.every((value, i) => value === this.builtFrom[i]);
    if (isSame && sameDay(this.builtAt, now)) return;
    this.builtFrom = from;
    this.builtAt = now;
    const rows: Row[] = [];
    // The message directly before.
    let last: RoomMessage | undefined;
    let lastTime: number | undefined;
    let hasNew = false;
    const dayOf = (time: number) =>
      lastTime === undefined || !sameDay(lastTime, time) ? { day: t.format.day(time, now) } : {};
    let nextChange = 0;
    /** The joins and departures before this offset. Those of a day are one row. */
    const addChanges = (before: number) => {
      for (let change = changes[nextChange]; change && change.offset < before; change = changes[++nextChange]) {
        const { day } = dayOf(change.time);
        const row = rows.at(-1);
        if (row?.changes && day === undefined) row.changes.push(change);
        else {
          const key = `c${change.offset}`;
          rows.push({ key, changes: [change], isGroupStart: true, isFirstNew: false, ...(day ? { day } : {}) });
        }
        last = undefined;
        lastTime = change.time;
      }
    };
    for (const message of messages) {
      // What is not stored yet comes after everything.
      addChanges(message.status === undefined ? message.offset : Infinity);
      const key = keyOf(message);
      const row: Row = { key, isGroupStart: startsGroup(last, message), isFirstNew: false, ...dayOf(message.time) };
      if (message.status === undefined) row.message = message;
      else row.item = message;
      // Others are missing in between.
      if (row.item && !rows.at(-1)?.item && room.timeline.hasNewer) row.day = t.messages.gap;
      if (row.message && !hasNew && row.message.offset > newAfter && (isMarked || message.user.id !== chat.me.id)) {
        hasNew = row.isFirstNew = row.isGroupStart = true;
      }
      rows.push(row);
      last = message;
      lastTime = message.time;
    }
    addChanges(Infinity);
    this.rows = rows;
    this.keys = rows.map(({ key }) => key);
    this.index = new Map(this.keys.map((key, i) => [key, i]));
    this.heights.setKeys(this.keys);
  }

  /** Chooses the rows to render. Returns whether they changed. */
  private chooseRange(): boolean {
    const { heights, view } = this;
    if (this.rows.length === 0) {
      this.first = this.end = 0;
      return false;
    }
    const height = view.height || 800;
    const top = this.sticksToEnd ? Math.max(0, heights.total - height) : this.wantedTop();
    const { first, end } = heights.range(top - MARGIN_PX, top + height + MARGIN_PX);
    const covered = this.first <= heights.at(top) && this.end > heights.at(top + height);
    const isClose = Math.abs(first - this.first) < 8 && Math.abs(end - this.end) < 8;
    if (covered && this.end <= this.rows.length && isClose) return false;
    this.first = first;
    this.end = Math.min(end, this.rows.length);
    return true;
  }

  /** The scroll position at which the anchor keeps its place. */
  private wantedTop(): number {
    const at = this.anchor && this.index.get(this.anchor.key);
    if (at === undefined) return this.view.top;
    const last = Math.max(0, this.heights.total + this.view.below - this.view.height);
    return Math.max(0, Math.min(this.heights.top(at) - this.anchor!.top, last));
  }

  /** Measures the rendered rows, corrects the scroll position, and renders again if other rows are needed. */
  private layout(): void {
    const scroller = this.scroller.current;
    const inner = this.inner.current;
    if (!scroller || !inner) return;
    const { clientHeight, clientWidth } = scroller;
    if (clientWidth !== this.view.width) {
      if (this.view.width !== 0) this.heights.forget();
      this.view.width = clientWidth;
      // The messages begin and end where the header and the composer do, which have no scroll bar beside them.
      inner.style.setProperty('--scroll-bar', `${scroller.offsetWidth - clientWidth}px`);
    }
    this.view.height = clientHeight;
    this.view.below = parseFloat(getComputedStyle(scroller).paddingBottom);
    for (const child of inner.children) {
      const { key } = (child as HTMLElement).dataset;
      if (key !== undefined) this.heights.measure(key, child.getBoundingClientRect().height);
    }
    // Not set when rendering, because the heights are known only now.
    inner.style.paddingTop = `${this.heights.top(this.first)}px`;
    inner.style.paddingBottom = `${Math.max(0, this.heights.total - this.heights.top(this.end))}px`;
    const top = this.sticksToEnd ? scroller.scrollHeight - clientHeight : this.wantedTop();
    if (Math.abs(scroller.scrollTop - top) >= 1) scroller.scrollTop = top;
    this.view.top = scroller.scrollTop;
    if (this.layoutRounds < 6 && this.chooseRange()) {
      this.layoutRounds++;
      this.forceUpdate();
      return;
    }
    this.layoutRounds = 0;
    const { timeline } = this.props.room;
    const left = scroller.scrollHeight - this.view.top - clientHeight;
    if (timeline.loaded && !timeline.hasNewer && left < END_PX) this.sticksToEnd = true;
    if (!this.sticksToEnd && !this.anchor) this.setAnchor();
    this.loadMore();
    this.markRead();
    this.updateAtEnd();
  }

  private onScroll = (): void => {
    const scroller = this.scroller.current;
    // The event of a scroll may come after the list has gone.
    if (!scroller) return;
    const top = scroller.scrollTop;
    if (Math.abs(top - this.view.top) < 1) return;
    this.scrolledTo(top);
    if (this.chooseRange()) this.forceUpdate();
    this.loadMore();
    this.markRead();
    this.updateAtEnd();
  };

  /** Takes over a scroll position whose event is still to come, so that an update in between doesn't undo it. */
  private syncScroll(): void {
    const scroller = this.scroller.current;
    if (!scroller) return;
    const { scrollTop: top, scrollHeight, clientHeight } = scroller;
    if (Math.abs(top - this.view.top) < 1) return;
    // The browser did that, because the content became shorter.
    if (top < this.view.top && top >= scrollHeight - clientHeight - 1) return;
    this.scrolledTo(top);
  }

  private scrolledTo(top: number): void {
    const { scrollHeight, clientHeight } = this.scroller.current!;
    this.view.top = top;
    this.setAnchor();
    this.sticksToEnd = scrollHeight - top - clientHeight < END_PX && !this.props.room.timeline.hasNewer;
  }

  /** Makes the topmost visible row the anchor. */
  private setAnchor(): void {
    const { top } = this.view;
    const at = this.heights.at(top);
    const key = this.keys[at];
    if (key !== undefined) this.anchor = { key, top: this.heights.top(at) - top };
  }

  private tryAgain(): void {
    const { room } = this.props;
    room.retry();
    if (!room.loading) this.again?.();
    this.loadMore();
  }

  /** Loads the next page if the view is near an end of the window. */
  private loadMore(): void {
    const { room } = this.props;
    const { timeline } = room;
    if (!timeline.loaded || room.loading || room.error) return;
    const below = this.heights.total - this.view.top - this.view.height;
    if (timeline.hasOlder && this.view.top < NEAR_PX) void room.loadBefore();
    else if (timeline.hasNewer && below < NEAR_PX) void room.loadAfter();
  }

  /** Marks the room as read while its newest messages are on screen and the user is looking. */
  private markRead(): void {
    const { chat, room } = this.props;
    if (chat.isSeen && room.timeline.loaded && this.sticksToEnd && !room.timeline.hasNewer) void chat.read(room.name);
  }

  private updateAtEnd(): void {
    const atEnd = this.sticksToEnd || this.heights.total - this.view.top - this.view.height < 2 * END_PX;
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
    const isRow = target.dataset['key'] !== undefined;
    if ((event.key === 'Enter' && isRow) || (/^(Enter| )$/.test(event.key) && target.dataset['person'] !== undefined)) {
      event.preventDefault();
      this.showPerson(target);
      return;
    }
    if (!isRow) {
      // Escape leads from a button in a message back to the message.
      if (event.key === 'Escape' && target.closest('textarea') === null) {
        target.closest<HTMLElement>('[data-key]')?.focus();
      }
      return;
    }
    const by = event.key === 'ArrowUp' ? -1 : event.key === 'ArrowDown' ? 1 : 0;
    if (by === 0) return;
    const key = this.keys[(this.index.get(target.dataset['key']!) ?? 0) + by];
    if (key === undefined) return;
    event.preventDefault();
    this.focusNext = key;
    this.setState({ active: key });
  };

  private onClick = ({ target }: MouseEvent): void => {
    const pressed = target instanceof Element ? target.closest<HTMLElement>('[data-person]') : null;
    // Selecting text may begin and end on a name.
    if (pressed && getSelection()?.isCollapsed !== false) this.showPerson(pressed);
  };

  /** Shows who was pressed, or who wrote a message. */
  private showPerson(target: HTMLElement): void {
    const { chat, onPerson } = this.props;
    const row = this.rows[this.index.get(target.dataset['key'] ?? '') ?? -1];
    if (!row) return onPerson({ username: target.dataset['person']!, near: target });
    const { username, id } = row.message?.user ?? chat.me;
    onPerson({ username, id, near: target.querySelector('.name, .text') ?? target });
  }

  private activate = (key: string): void => {
    if (this.state.active !== key) this.setState({ active: key });
  };

  private hold = (target: Element): void => {
    const key = target.closest<HTMLElement>('[data-key]')?.dataset['key'];
    if (key !== undefined) this.setState({ active: key, held: key });
  };

  private release = (): void => this.setState({ held: undefined });

  /** Deactivates the message that the pointer left, unless the keyboard focus is in the list. */
  private onLeave = (): void => {
    this.isPointed = false;
    if (!this.inner.current?.contains(document.activeElement)) this.setState({ active: undefined });
  };

  private onEnter = (): void => {
    this.isPointed = true;
  };

  /** Deferred, because a button that disappears when pressed passes the focus to its message. */
  private onFocusOut = (): void => {
    setTimeout(() => {
      if (!this.isGone && !this.isPointed) this.onLeave();
    });
  };

  override render(
    { chat, room, title, newAfter, editing, onEdit, onReply }: Props,
    { active, held, flashed, atEnd, notice, reactingTo }: State,
  ) {
    const t: Texts = this.context;
    const { timeline } = room;
    // Before the rows are rebuilt: the anchor must be one of the current rows.
    this.syncScroll();
    this.buildRows();
    if (timeline.generation !== this.generation && timeline.loaded) {
      // A new window: show the first new message, or the end.
      const first = this.generation === -1;
      this.generation = timeline.generation;
      const firstNew = first ? this.rows.find((row) => row.isFirstNew) : undefined;
      this.sticksToEnd = !firstNew && !timeline.hasNewer;
      this.anchor = firstNew ? { key: firstNew.key, top: 60 } : undefined;
    }
    this.chooseRange();
    if (this.end > this.rows.length) this.end = this.rows.length;
    const shown = this.rows.slice(this.first, this.end);
    // Tab leads to one message; the arrow keys move on from there.
    const latest = shown.findLast(({ changes }) => !changes) ?? shown.at(-1);
    const reachable = shown.some(({ key }) => key === active) ? active : latest?.key;
    const unread = chat.rooms.unread(room.name);
    // An empty feed is invalid.
    const feed = shown.length > 0 && {
      role: 'feed' as const,
      'aria-label': t.messages.in(title),
      'aria-busy': room.loading !== undefined,
    };
    // With keys, because Preact otherwise makes a new scroller when something before it and behind it changes at once.
    return (
      <div class="messages">
        {room.error && (
          <p key="error" class="error notice" role="alert">
            {errorText(room.error, t)}{' '}
            <button onClick={() => this.tryAgain()}>{t.buttons.tryAgain}</button>
          </p>
        )}
        <p key="notice" class={notice ? 'notice' : 'visually-hidden'} role="status">
          {notice?.(t)}{' '}
          {notice && <button onClick={() => this.setState({ notice: undefined })}>{t.buttons.dismiss}</button>}
        </p>
        {!timeline.loaded && !room.error && this.rows.length === 0 && <MessageSkeleton key="skeleton" />}
        {timeline.loaded && this.rows.every(({ changes }) => changes) && (
          <p key="empty" class="empty">
            <Icon name="room" />
            <span>{t.messages.none(<strong dir="auto">{title}</strong>)}</span>
          </p>
        )}
        <div
          key="scroller"
          class="scroller"
          tabIndex={-1}
          ref={this.scroller}
          onScroll={this.onScroll}
          onKeyDown={this.onKeyDown}
          onPointerEnter={this.onEnter}
          onPointerLeave={this.onLeave}
          onFocusOut={this.onFocusOut}
        >
          <div
            class="inner"
            ref={this.inner}
            onClick={this.onClick}
            {...feed}
          >
            {shown.map((row, i) => {
              const position = this.first + i + 1;
              const common = {
                rowKey: row.key,
                position,
                isGroupStart: row.isGroupStart,
                day: row.day,
                isFirstNew: row.isFirstNew,
                isReachable: row.key === reachable,
                onActivate: this.activate,
                isFolded: !this.unfolded.has(row.key),
                onFold: this.onFold,
              };
              if (row.changes) {
                const { isGroupStart: _, isFirstNew: __, ...own } = common;
                return <ChangesRow key={row.key} {...own} changes={row.changes} />;
              }
              if (row.item) {
                const { replyTo } = row.item;
                const quoted = replyTo === undefined ? undefined : room.quoted(replyTo);
                return (
                  <UnsentRow
                    key={row.key}
                    {...common}
                    item={row.item}
                    quoted={quoted}
                    onGoTo={this.onGoTo}
                    chat={chat}
                  />
                );
              }
              const message = row.message!;
              // Nobody folds what they have just edited.
              if (message.offset === editing) this.unfolded.add(row.key);
              return (
                <MessageRow
                  key={row.key}
                  {...common}
                  message={message}
                  quoted={message.replyTo === undefined ? undefined : room.quoted(message.replyTo)}
                  isActive={row.key === active}
                  isHeld={row.key === held}
                  onRelease={this.release}
                  isFlashed={message.offset === flashed}
                  isEditing={message.offset === editing}
                  knownNames={chat.names.version}
                  knownRooms={chat.rooms.names}
                  onEdit={onEdit}
                  onReply={onReply}
                  onGoTo={this.onGoTo}
                  onPickReaction={this.onPickReaction}
                  chat={chat}
                  room={room.name}
                  me={chat.me.id}
                />
              );
            })}
          </div>
        </div>
        {reactingTo && (
          <EmojiDialog
            key="react"
            title={t.message.react}
            user={chat.me.id}
            onChoose={(emoji) => this.react(reactingTo, emoji)}
            onClose={() => {
              // The button that opened it is gone.
              this.focusNext = keyOf(reactingTo);
              this.setState({ reactingTo: undefined, active: keyOf(reactingTo) });
            }}
          />
        )}
        {timeline.loaded && !atEnd && (
          <button key="newest" class="to-newest" onClick={() => this.toNewest()}>
            {unread > 0 && newAfter !== undefined ? t.messages.unread(unread) : t.messages.latest}
            <Icon name="down" />
          </button>
        )}
      </div>
    );
  }

  /** Its beginning keeps its place, or comes into view when the rest goes. */
  private onFold = (key: string, isFolded: boolean): void => {
    const top = this.heights.top(this.index.get(key) ?? 0) - this.view.top;
    this.sticksToEnd = false;
    this.anchor = { key, top: isFolded ? Math.max(0, top) : top };
    if (isFolded) this.unfolded.delete(key);
    else this.unfolded.add(key);
    this.forceUpdate();
  };

  private onCopy = (event: ClipboardEvent): void => {
    const { me, names, rooms } = this.props.chat;
    const sourceOf = (key: string) => {
      const row = this.rows[this.index.get(key) ?? -1];
      const text = row?.item?.text ?? row?.message?.text;
      return text == null ? undefined : { text, isFolded: isLong(text) && !this.unfolded.has(key) };
    };
    copyMessages(event, this.inner.current!, sourceOf, (text) => parseMarkdown(text, me.username, names, rooms.names));
  };

  private onGoTo = (offset: number): void => void this.goTo(offset);

  private onPickReaction = (message: Message): void => this.setState({ reactingTo: message });

  private react({ offset }: Message, emoji: string): void {
    const { room } = this.props;
    const failed = (error: unknown) => this.setState({ notice: (t) => errorText(error, t) });
    room.react(offset, emoji).catch(failed);
  }
}

/** The user is writing something, wherever that is. */
function isTyping(): boolean {
  const { activeElement } = document;
  const isField = activeElement instanceof HTMLTextAreaElement || activeElement instanceof HTMLInputElement;
  return isField && activeElement.value !== '';
}

/** A message keeps its key when it is stored, so that its row stays the same. */
function keyOf(message: RoomMessage): string {
  return message.id === null ? `o${message.offset}` : `${message.user.id}:${message.id}`;
}

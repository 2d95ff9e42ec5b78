/** A message in the list, sent or not. */
import { type ComponentChildren, Fragment } from 'preact';
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { Item, Message, Quote, Room } from '@uproar/client';
import { errorText } from '../errors';
import type { Chat } from '../chat';
import { isLong } from '../state/fold';
import { plainText } from '../state/markdown';
import type { Names } from '../state/mentions';
import { cut, excess, isBlank, isEmojiOnly, storable } from '../state/text';
import { Avatar } from './Avatar';
import { ErrorText } from './ErrorText';
import { IconButton } from './Icon';
import { Reactions } from './Reactions';
import { Sheet, type SheetProps } from './Sheet';
import { Text } from './Text';
import { Writing } from './Writing';
import { linkTo, wordOf } from './address';
import { copy } from './clipboard';
import { memo } from './memo';
import { useTexts } from './texts';

const EMOJI = ['👍', '❤️', '😂', '🎉', '😮', '😢', '👀', '✅'];

/** What the page says was done. */
type Done = 'linkCopied' | 'textCopied' | 'markedUnread';
/** How long the page says that something was done. */
const DONE_MS = 2500;

interface Common {
  rowKey: string;
  position: number;
  isGroupStart: boolean;
  day: string | undefined;
  isFirstNew: boolean;
  row?: { current: HTMLDivElement | null };
  /** Whether Tab leads to this row. */
  isReachable: boolean;
  onActivate: (key: string) => void;
  /** Whether only the beginning of a long text is shown. */
  isFolded: boolean;
  onFold: (key: string, isFolded: boolean) => void;
}

interface FrameProps extends Common {
  className: string;
  name: string;
  time: number;
  children: ComponentChildren;
}

function Frame(props: FrameProps) {
  const t = useTexts();
  const { row, rowKey, position, isGroupStart, day, isFirstNew, isReachable, onActivate } = props;
  const { className, name, time, children } = props;
  return (
    <div
      ref={row ?? null}
      class={`row ${isGroupStart ? 'head ' : ''}${className}`}
      role="article"
      data-key={rowKey}
      tabIndex={isReachable ? 0 : -1}
      aria-posinset={position}
      aria-setsize={-1}
      aria-label={t.message.by(name, t.format.time(time))}
      onFocusIn={() => onActivate(rowKey)}
      onPointerEnter={(event) => {
        // Not on touch: the buttons would appear under the finger and be pressed.
        if (event.pointerType === 'mouse') onActivate(rowKey);
      }}
    >
      {day && (
        <h2 class="day">
          <span>{day}</span>
        </h2>
      )}
      {isFirstNew && <p class="new-divider">{t.message.isNew}</p>}
      {isGroupStart ? (
        <>
          <Avatar name={name} isPerson />
          <p class="by">
            <PersonName name={name} />
            <time dateTime={new Date(time).toISOString()} title={t.format.fullTime(time)}>
              {t.format.time(time)}
            </time>
          </p>
        </>
      ) : (
        <time class="beside" aria-hidden="true" title={t.format.fullTime(time)}>
          {t.format.time(time)}
        </time>
      )}
      {children}
    </div>
  );
}

/** A click on a person opens their card. So does Enter on the message, without another Tab stop. */
function PersonName({ name }: { name: string }) {
  return (
    <bdi class="name" role="button" tabIndex={-1} aria-haspopup="dialog" data-person={name}>
      {name}
    </bdi>
  );
}

interface MessageProps extends Common {
  message: Message;
  quoted: Quote | undefined;
  isActive: boolean;
  /** A finger has rested on it, so its actions are in a sheet. */
  isHeld: boolean;
  onRelease: () => void;
  isFlashed: boolean;
  isEditing: boolean;
  /** They change when there are other names, which the text may mention. */
  knownNames: number;
  knownRooms: Names;
  chat: Chat;
  room: string;
  me: string;
  onEdit: (offset: number | undefined) => void;
  onReply: (message: Message) => void;
  onGoTo: (offset: number) => void;
  /** Opens the dialog with all emoji. */
  onPickReaction: (message: Message) => void;
}

export const MessageRow = memo(function MessageRow(props: MessageProps) {
  const t = useTexts();
  const { message, quoted, isActive, isHeld, isReachable, isFlashed, isEditing, chat, room, me } = props;
  const { onEdit, onReply, onGoTo, onRelease } = props;
  const long = message.text !== null && isLong(message.text);
  const known = { me: chat.me.username, names: chat.names, rooms: chat.rooms.names };
  const textProps = { ...known, isReachable, isFolded: long && props.isFolded };
  const [error, setError] = useState<unknown>();
  const [menu, setMenu] = useState<'react' | 'delete' | 'done'>();
  /** What the page says instead of the actions, for a while. */
  const [done, setDone] = useState<Done>('linkCopied');
  const isMine = message.user.id === me;
  const isGone = message.text === null;
  const row = useRef<HTMLDivElement>(null);
  const sheet = useRef<HTMLDialogElement>(null);
  const closeSheet = () => sheet.current?.close();
  const Place = isHeld ? ActionSheet : Actions;
  const previousMenu = useRef(menu);
  useEffect(() => {
    if (!isActive && !isHeld) setMenu(undefined);
  }, [isActive, isHeld]);
  // The sheet begins with all actions.
  useEffect(() => setMenu(undefined), [isHeld]);
  useLayoutEffect(() => {
    // The pressed button has been replaced.
    if (previousMenu.current !== menu && document.activeElement === document.body) {
      row.current?.focus({ preventScroll: true });
    }
    previousMenu.current = menu;
  }, [menu]);

  useEffect(() => {
    if (menu !== 'done') return;
    const timer = setTimeout(() => setMenu(undefined), DONE_MS);
    return () => clearTimeout(timer);
  }, [menu, done]);

  /** Closes the sheet first: behind it, nothing takes the focus. */
  function leaveSheet(then: () => void): void {
    closeSheet();
    then();
  }

  async function act(what: () => Promise<void>, done: Done): Promise<void> {
    setError(undefined);
    try {
      await what();
      setDone(done);
      setMenu('done');
    } catch (error) {
      setError(error);
    }
  }

  const copyLink = () => {
    const word = wordOf(chat.rooms.get(room)!.epoch);
    return act(() => copy(linkTo(room, { offset: message.offset, word })), 'linkCopied');
  };
  const copyText = () => act(() => copy(message.text!), 'textCopied');
  const markUnread = () => act(() => chat.markUnread(room, message.offset), 'markedUnread');

  async function change(what: (room: Room) => Promise<number>): Promise<boolean> {
    setError(undefined);
    setMenu(undefined);
    closeSheet();
    try {
      await what(chat.open!);
      return true;
    } catch (error) {
      setError(error);
      return false;
    }
  }

  const react = (emoji: string, mine: boolean) =>
    void change((room) => (mine ? room.unreact(message.offset, emoji) : room.react(message.offset, emoji)));

  return (
    <Frame {...props} row={row} className={isFlashed ? 'flashed' : ''} name={message.user.username} time={message.time}>
      {message.replyTo !== undefined && (
        <Quoted offset={message.replyTo} quoted={quoted} onGoTo={onGoTo} isReachable={isReachable} />
      )}
      {isEditing && !isGone ? (
        <Editor
          chat={chat}
          room={room}
          text={message.text!}
          kept={keptEdit(chat, room, message.offset)}
          onKeep={(text) => chat.changeDraft(room, { edit: { offset: message.offset, text } })}
          error={error}
          onCancel={() => {
            setError(undefined);
            onEdit(undefined);
          }}
          onSave={async (text) => {
            if (text === message.text || (await change((room) => room.edit(message.offset, text)))) onEdit(undefined);
          }}
        />
      ) : (
        <div class={isGone ? 'text gone' : textClass(message.text!)} dir="auto">
          {isGone ? (
            t.message.deleted
          ) : (
            <Text {...textProps} text={message.text!}>
              {message.edited && <span class="edited"> {t.message.edited}</span>}
            </Text>
          )}
        </div>
      )}
      {long && !isEditing && <Fold {...props} />}
      {message.reactions.length > 0 && (
        <Reactions chat={chat} message={message} isReachable={isReachable} onToggle={react} />
      )}
      {!isEditing && <ErrorText error={error} />}
      {(isActive || isHeld) && !isGone && !isEditing && (
        <Place handle={sheet} onClose={onRelease}>
          {menu === 'react' ? (
            // The keys keep Preact from reusing a button as another one under the finger or the focus.
            <Fragment key="react">
              {EMOJI.map((emoji) => {
                const mine = message.reactions.some((reaction) => reaction.emoji === emoji && reaction.mine);
                return (
                  <button key={emoji} aria-pressed={mine} onClick={() => react(emoji, mine)}>
                    {emoji}
                  </button>
                );
              })}
              <IconButton icon="more" label={t.message.moreEmoji} onClick={() => props.onPickReaction(message)} />
            </Fragment>
          ) : menu === 'delete' ? (
            <Fragment key="delete">
              <span>{t.message.askDelete}</span>
              <button onClick={() => void change((room) => room.delete(message.offset))}>{t.buttons.delete}</button>
              <button onClick={() => setMenu(undefined)}>{t.buttons.cancel}</button>
            </Fragment>
          ) : menu === 'done' ? (
            <span key="done" role="status">
              {t.message[done]}
            </span>
          ) : (
            <Fragment key="all">
              <IconButton icon="react" label={t.message.react} onClick={() => setMenu('react')} />
              <IconButton icon="reply" label={t.message.reply} onClick={() => leaveSheet(() => onReply(message))} />
              {isHeld && (
                // Holding it selects no text.
                <IconButton icon="copy" label={t.message.copyText} onClick={() => void copyText()} />
              )}
              <IconButton icon="link" label={t.message.copyLink} onClick={() => void copyLink()} />
              <IconButton icon="unread" label={t.message.markUnread} onClick={() => void markUnread()} />
              {isMine && (
                <IconButton
                  icon="edit"
                  label={t.buttons.edit}
                  onClick={() => leaveSheet(() => onEdit(message.offset))}
                />
              )}
              {isMine && <IconButton icon="delete" label={t.buttons.delete} onClick={() => setMenu('delete')} />}
            </Fragment>
          )}
        </Place>
      )}
    </Frame>
  );
});

type ActionsProps = Omit<SheetProps, 'label'>;

function ActionSheet({ children, ...rest }: ActionsProps) {
  const t = useTexts();
  return (
    <Sheet label={t.message.actions} {...rest}>
      <div class="actions" role="group" aria-label={t.message.actions}>
        {children}
      </div>
    </Sheet>
  );
}

/**
 * What can be done with a message, right behind its text. If there is no space, it lies above the end of the first
 * line. The frame around it is as high as the text, so that it stays in view in a high one.
 */
function Actions({ children }: ActionsProps) {
  const t = useTexts();
  const frame = useRef<HTMLDivElement>(null);
  const actions = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    const { style, classList, clientWidth, parentElement } = frame.current!;
    const text = parentElement!.querySelector<HTMLElement>('.text')!;
    style.setProperty('--text-top', `${text.offsetTop}px`);
    style.setProperty('--text-width', `${text.offsetWidth}px`);
    classList.toggle('above', text.offsetWidth + actions.current!.offsetWidth > clientWidth);
  });
  return (
    <div class="actions-frame" ref={frame}>
      <div class="actions" role="group" aria-label={t.message.actions} ref={actions}>
        {children}
      </div>
    </div>
  );
}

const textClass = (text: string) => (isEmojiOnly(text) ? 'text emoji' : 'text');

function Fold({ rowKey, isFolded, onFold, isReachable }: Common) {
  const t = useTexts();
  return (
    <button class="link fold" tabIndex={isReachable ? 0 : -1} onClick={() => onFold(rowKey, !isFolded)}>
      {isFolded ? t.buttons.showMore : t.message.showLess}
    </button>
  );
}

/** The unfinished edit of a message. */
function keptEdit(chat: Chat, room: string, offset: number): string | undefined {
  const { edit } = chat.draft(room);
  return edit?.offset === offset ? edit.text : undefined;
}

interface QuotedProps {
  offset: number;
  quoted: Quote | undefined;
  isReachable: boolean;
  onGoTo: (offset: number) => void;
}

function Quoted({ offset, quoted, isReachable, onGoTo }: QuotedProps) {
  const t = useTexts();
  return (
    <button class="quote" tabIndex={isReachable ? 0 : -1} onClick={() => onGoTo(offset)}>
      {quoted ? (
        <>
          <bdi class="name">{quoted.user.username}</bdi>{' '}
          <span dir="auto">{quoted.text === null ? t.message.quotedDeleted : cut(plainText(quoted.text), 200)}</span>
        </>
      ) : (
        t.message.earlier
      )}
    </button>
  );
}

interface EditorProps {
  chat: Chat;
  room: string;
  text: string;
  /** The unfinished edit, if there is one. */
  kept: string | undefined;
  onKeep: (text: string) => void;
  error: unknown;
  onCancel: () => void;
  onSave: (text: string) => Promise<void>;
}

function Editor(props: EditorProps) {
  const t = useTexts();
  const area = useRef<HTMLTextAreaElement>(null);
  const [text, setText] = useState(props.kept ?? props.text);
  const tooLong = excess(text, props.chat.textLimitBytes);
  // A layout effect, so that no keystroke goes elsewhere.
  useLayoutEffect(() => {
    const element = area.current!;
    if (props.kept !== undefined) return;
    element.focus({ preventScroll: true });
    element.setSelectionRange(element.value.length, element.value.length);
  }, []);
  const canSave = !isBlank(storable(text)) && tooLong === 0;
  const save = () => {
    if (canSave) void props.onSave(storable(text));
  };
  return (
    <div class="editor">
      <Writing
        chat={props.chat}
        room={props.room}
        area={area}
        label={t.message.edit}
        enterkeyhint="done"
        text={text}
        onText={(text) => {
          setText(text);
          props.onKeep(text);
        }}
        onKey={(event) => {
          if (event.key === 'Escape') {
            event.stopPropagation();
            props.onCancel();
          } else if (event.key === 'Enter' && !event.shiftKey) {
            event.preventDefault();
            save();
          }
        }}
      />
      {tooLong > 0 ? (
        <p class="error" role="alert">
          {t.composer.tooLong(tooLong)}
        </p>
      ) : (
        <ErrorText error={props.error} />
      )}
      <div class="buttons">
        <button class="primary" disabled={!canSave} onClick={save}>
          {t.buttons.save}
        </button>
        <button onClick={props.onCancel}>{t.buttons.cancel}</button>
      </div>
    </div>
  );
}

interface UnsentProps extends Common {
  item: Item;
  quoted: Quote | undefined;
  onGoTo: (offset: number) => void;
  chat: Chat;
}

export const UnsentRow = memo(function UnsentRow(props: UnsentProps) {
  const t = useTexts();
  const { item, quoted, onGoTo, chat, isReachable } = props;
  const tabIndex = isReachable ? 0 : -1;
  const long = isLong(item.text);
  const known = { me: chat.me.username, names: chat.names, rooms: chat.rooms.names };
  const textProps = { ...known, isReachable, isFolded: long && props.isFolded };
  return (
    <Frame {...props} className={item.status} name={chat.me.username} time={item.time}>
      {item.replyTo !== undefined && (
        <Quoted offset={item.replyTo} quoted={quoted} onGoTo={onGoTo} isReachable={isReachable} />
      )}
      <div class={textClass(item.text)} dir="auto">
        <Text {...textProps} text={item.text}>
          {item.status === 'pending' && <span class="edited"> {t.message.sending}</span>}
        </Text>
      </div>
      {long && <Fold {...props} />}
      {item.status === 'failed' && (
        <p class="error" role="alert">
          {!item.isHeld && (item.isUnknown ? t.message.maybeNotSent : t.message.notSent)}{' '}
          {item.error && errorText(item.error, t)}{' '}
          {!item.isHeld && (
            <button tabIndex={tabIndex} onClick={() => chat.open?.resend(item.id).catch(() => {})}>
              {t.buttons.retry}
            </button>
          )}{' '}
          <button tabIndex={tabIndex} onClick={() => chat.open?.discard(item.id)}>
            {t.buttons.discard}
          </button>
        </p>
      )}
    </Frame>
  );
});

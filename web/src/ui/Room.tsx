/** The open room. */
import type { ComponentChild } from 'preact';
import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import { ApiError, type Message, type Room as SubscribedRoom, type RoomInfo } from '@uproar/client';
import { errorText } from '../errors';
import type { Chat } from '../chat';
import type { Texts } from '../texts/language';
import { Back } from './Back';
import { Composer } from './Composer';
import { ErrorText } from './ErrorText';
import { Icon, IconButton } from './Icon';
import { JumpToDate } from './JumpToDate';
import { Members, hereText } from './Members';
import { MessageList } from './MessageList';
import { RoomDetails } from './RoomDetails';
import { MessageSkeleton, RoomSkeleton } from './Skeleton';
import { addressOf, replace } from './address';
import { focusIfLost, useEvents, useStores } from './hooks';
import { useOneStop } from './keys';
import { useTexts } from './texts';

/** `isAlone`: there is nothing beside this room, because it is in a frame on another site. */
export function Room({ chat, name, isAlone = false }: { chat: Chat; name: string; isAlone?: boolean }) {
  useStores(chat, chat.rooms);
  const info = chat.rooms.get(name);
  if (!info) return <NotAMember chat={chat} name={name} isAlone={isAlone} />;
  // Another room that takes the name starts afresh.
  return <OpenRoom key={info.epoch} chat={chat} name={name} info={info} isAlone={isAlone} />;
}

interface OpenRoomProps {
  chat: Chat;
  name: string;
  info: RoomInfo;
  isAlone: boolean;
}

function OpenRoom({ chat, name, info, isAlone }: OpenRoomProps) {
  const t = useTexts();
  const room = chat.room(name);
  useEvents(room, 'people', 'members', 'typing', 'loading');
  const [replyTo, setReplyTo] = useState<number | undefined>(() => {
    chat.claimDraft(name);
    return chat.draft(name).replyTo;
  });
  function updateReplyTo(offset: number | undefined): void {
    setReplyTo(offset);
    chat.changeDraft(name, { replyTo: offset });
  }
  // An edit survives a reload, the end of the session, and its row, which may be scrolled out of the document.
  const [editing, setEditing] = useState<number | undefined>(() => chat.draft(name).edit?.offset);
  const [panel, setPanel] = useState<'members' | 'details'>();
  const [isJumping, setJumping] = useState(false);
  const list = useRef<MessageList>(null);
  const reply = useCallback((message: Message) => {
    updateReplyTo(message.offset);
    document.getElementById('composer')?.focus();
  }, []);
  const edit = useCallback((offset: number | undefined) => {
    setEditing(offset);
    chat.changeDraft(name, { edit: undefined });
    // The focused editor is gone.
    if (offset === undefined) document.getElementById('composer')?.focus();
  }, []);
  // The marker of new messages stays while the room is open.
  const newAfter = useRef<number>(undefined);
  if (newAfter.current === undefined || chat.isKeptUnread(info)) {
    newAfter.current = chat.rooms.unread(name) > 0 ? chat.rooms.readUpTo(name) : Infinity;
  }

  useEffect(() => {
    // A user who looks away finds the marker where they left off.
    const onBlur = () => {
      if (room?.timeline.loaded && chat.rooms.unread(name) === 0) newAfter.current = room.timeline.position;
    };
    addEventListener('blur', onBlur);
    return () => removeEventListener('blur', onBlur);
  }, [chat, room, name]);

  const here = room ? room.people.length : 0;
  // Narrow screens show only the number.
  const word = (text: ComponentChild) => <span class="word">{text}</span>;
  const toggle = (which: 'members' | 'details') => () => setPanel(panel === which ? undefined : which);
  const close = () => setPanel(undefined);
  return (
    <>
      <main class="room" aria-label={info.title}>
        <header class="room-head">
          {!isAlone && <Back chat={chat} room={name} />}
          <span class="kind" role="img" aria-label={info.private ? t.room.private : t.room.public}>
            <Icon name={info.private ? 'private' : 'public'} />
          </span>
          <h1 title={`${info.title} (${info.name})`}>
            <bdi>{info.title}</bdi>
          </h1>
          {room && <IconButton icon="date" label={t.jump.title} class="below" onClick={() => setJumping(true)} />}
          <button class="members" aria-expanded={panel === 'members'} onClick={toggle('members')}>
            <Icon name="members" />
            <span>
              {here > 0 || room?.online !== undefined ? hereText(t, here, room?.online, word) : t.members.title}
            </span>
          </button>
          {!isAlone && (
            <IconButton
              icon="details"
              label={t.details.title}
              class="below"
              aria-expanded={panel === 'details'}
              onClick={toggle('details')}
            />
          )}
        </header>
        {room ? (
          <MessageList
            key={room.id}
            handle={list}
            chat={chat}
            room={room}
            title={info.title}
            newAfter={newAfter.current ?? Infinity}
            editing={editing}
            onEdit={edit}
            onReply={reply}
          />
        ) : (
          <div class="messages">
            {chat.open?.error ? (
              <p class="error notice" role="alert">
                {t.room.failed} {errorText(chat.open.error, t)}{' '}
                <button onClick={() => chat.open?.retry()}>{t.buttons.tryAgain}</button>
              </p>
            ) : (
              <MessageSkeleton />
            )}
          </div>
        )}
        <p class="typing" aria-live="off">
          <span>{room && typingText(t, room)}</span>
        </p>
        <Composer
          chat={chat}
          room={name}
          title={info.title}
          replyTo={replyTo}
          quoted={replyTo === undefined ? undefined : room?.quoted(replyTo)}
          onCancelReply={() => updateReplyTo(undefined)}
          onSent={() => {
            updateReplyTo(undefined);
            list.current?.toNewest();
          }}
          onEditLast={() => {
            // The last message is not stored yet, and the user doesn't mean the one before.
            if (chat.outbox.of(name).length > 0) return;
            const last = room?.timeline.messages.findLast(({ user, text }) => user.id === chat.me.id && text !== null);
            if (!last) return;
            setEditing(last.offset);
            void list.current?.goTo(last.offset);
          }}
        />
      </main>
      {panel === 'members' && room && <Members key="members" chat={chat} room={room} info={info} onClose={close} />}
      {panel === 'details' && <RoomDetails key="details" chat={chat} info={info} onClose={close} />}
      {isJumping && room && (
        <JumpToDate
          room={room}
          onGoTo={(offset, notice) => void list.current?.goTo(offset, true, notice)}
          onClose={() => setJumping(false)}
        />
      )}
    </>
  );
}

function typingText(t: Texts, { typingUsers }: SubscribedRoom): string {
  const names = typingUsers.map(({ username }) => username);
  if (names.length === 0) return '';
  if (names.length === 1) return t.room.isTyping(names[0]!);
  return names.length === 2 ? t.room.areTyping(names) : t.room.manyTyping(names.length);
}

/** A room that the user is not, or no longer, a member of. */
function NotAMember({ chat, name, isAlone }: { chat: Chat; name: string; isAlone: boolean }) {
  const t = useTexts();
  const [error, setError] = useState<unknown>();
  const [found, setFound] = useState<'public' | 'hidden'>();
  useStores(chat.outbox);
  const unsent = chat.outbox.of(name);
  const stops = useOneStop(unsent.map(({ id }) => id));
  const { loaded } = chat.rooms;
  useEffect(() => {
    if (!loaded) return;
    let isCurrent = true;
    setError(undefined);
    setFound(undefined);
    chat.api.room(name).then(
      (room) => {
        if (!isCurrent) return;
        // The name in the URL may be spelled differently.
        if (room.name === name) setFound('public');
        else replace(room.name, chat.wanted?.offset);
      },
      (error: unknown) => {
        if (!isCurrent) return;
        if (error instanceof ApiError && error.code === 'no_such_room') setFound('hidden');
        else setError(error);
      },
    );
    return () => {
      isCurrent = false;
    };
  }, [name, loaded]);
  if (!loaded) return <RoomSkeleton />;
  const former = chat.formerRoom(name);

  async function join(): Promise<void> {
    try {
      await chat.joinRoom(name);
    } catch (error) {
      setError(error);
    }
  }

  return (
    <main class="room nothing" tabIndex={-1} ref={focusIfLost}>
      {!isAlone && <a href={addressOf(undefined)}>{t.rooms.all}</a>}
      <h1>{t.noMember.title(<bdi>{name}</bdi>)}</h1>
      {found && <p role="status">{whyNot(t, former, found)}</p>}
      {found === 'public' && (
        <button class="primary" onClick={() => void join()}>
          {t.noMember.join}
        </button>
      )}
      <ErrorText error={error} />
      {unsent.length > 0 && (
        <section class="unsent">
          <h2>{t.noMember.unsent}</h2>
          <ul {...stops.list}>
            {unsent.map(({ id, text }) => (
              <li key={id}>
                <span class="text" dir="auto">
                  {text}
                </span>
                <button {...stops.stop(id)} onClick={() => chat.outbox.discard(id)}>
                  {t.buttons.discard}
                </button>
              </li>
            ))}
          </ul>
        </section>
      )}
    </main>
  );
}

/** Why the user is not a member of a room, and how to become one, as far as the server reveals it. */
function whyNot(t: Texts, former: RoomInfo | undefined, found: 'public' | 'hidden'): string {
  if (found === 'public') return former ? t.noMember.public : '';
  if (!former) return t.noMember.unknown;
  return former.private ? t.noMember.private : t.noMember.deleted;
}

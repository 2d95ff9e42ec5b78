/** The open room. */
import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import { ApiError } from '../api';
import { errorText } from '../errors';
import type { Chat } from '../chat';
import type { Room as SubscribedRoom } from '../room';
import type { RoomInfo } from '../state/room-list';
import type { Message } from '../state/timeline';
import { Composer } from './Composer';
import { Dialog } from './Dialog';
import { MessageList } from './MessageList';
import { Presence, connections } from './Presence';
import { addressOf, go, replace } from './address';
import { focusIfLost, useStores } from './hooks';
import { useOneStop } from './keys';

export function Room({ chat, name }: { chat: Chat; name: string }) {
  useStores(chat, chat.rooms);
  const info = chat.rooms.get(name);
  if (!info) return <NotAMember chat={chat} name={name} />;
  // Another room that takes the name starts afresh.
  return <OpenRoom key={info.epoch} chat={chat} name={name} info={info} />;
}

function OpenRoom({ chat, name, info }: { chat: Chat; name: string; info: RoomInfo }) {
  const room = chat.room(name);
  useStores(room);
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
  const [people, setPeople] = useState(false);
  const [leaving, setLeaving] = useState(false);
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
  if (newAfter.current === undefined) {
    newAfter.current = chat.rooms.unread(name) > 0 ? info.read.offset : Infinity;
  }

  useEffect(() => {
    // A user who looks away finds the marker where they left off.
    const onBlur = () => {
      if (room?.timeline.loaded && chat.rooms.unread(name) === 0) newAfter.current = room.timeline.position;
    };
    addEventListener('blur', onBlur);
    return () => removeEventListener('blur', onBlur);
  }, [chat, room, name]);

  const online = room ? room.users.length : 0;
  return (
    <>
      <main class="room" aria-label={info.title}>
        <header class="room-head">
          <a class="back" href={addressOf(undefined)} aria-label="All rooms">
            ‹
          </a>
          <h1 title={`${info.title} (${info.name})`}>
            <bdi>{info.title}</bdi>
          </h1>
          <button class="quiet" aria-expanded={people} onClick={() => setPeople(!people)}>
            {room?.online !== undefined ? connections(room.online) : online > 0 ? `${online} online` : 'People'}
          </button>
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
            {chat.subscriptionError(name) && (
              <p class="error notice" role="alert">
                Can’t load this room. {chat.subscriptionError(name)}{' '}
                <button onClick={() => chat.retrySubscription(name)}>Try again</button>
              </p>
            )}
          </div>
        )}
        <p class="typing" aria-live="off">
          <span>{room && typingText(room)}</span>
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
      {people && room && (
        <Presence
          chat={chat}
          room={room}
          info={info}
          onLeave={() => setLeaving(true)}
          onClose={() => setPeople(false)}
        />
      )}
      {leaving && <LeaveDialog chat={chat} info={info} onClose={() => setLeaving(false)} />}
    </>
  );
}

function typingText({ typing }: SubscribedRoom): string {
  const names = typing.map(({ username }) => username);
  if (names.length === 0) return '';
  if (names.length === 1) return `${names[0]} is typing…`;
  if (names.length === 2) return `${names[0]} and ${names[1]} are typing…`;
  return `${names.length} people are typing…`;
}

/** Asks before leaving a room, or deleting it if the user owns it. */
function LeaveDialog({ chat, info, onClose }: { chat: Chat; info: RoomInfo; onClose: () => void }) {
  const { name, title } = info;
  const isOwner = info.role === 'owner';
  const [error, setError] = useState('');
  async function confirm(): Promise<void> {
    try {
      await (isOwner ? chat.deleteRoom(name) : chat.leaveRoom(name));
      go(undefined);
    } catch (error) {
      setError(errorText(error));
    }
  }
  return (
    <Dialog title={isOwner ? 'Delete room?' : 'Leave room?'} onClose={onClose}>
      <p>
        {isOwner
          ? `You own “${title}”, so you can’t leave it. Deleting it also deletes all of its messages, for everyone.`
          : `You’ll stop receiving messages from “${title}”.`}
      </p>
      {error && (
        <p class="error" role="alert">
          {error}
        </p>
      )}
      <button class="primary" onClick={() => void confirm()}>
        {isOwner ? 'Delete' : 'Leave'}
      </button>
    </Dialog>
  );
}

/** A room that the user is not, or no longer, a member of. */
function NotAMember({ chat, name }: { chat: Chat; name: string }) {
  const [error, setError] = useState('');
  const [found, setFound] = useState<'public' | 'hidden'>();
  useStores(chat.outbox);
  const unsent = chat.outbox.of(name);
  const stops = useOneStop(unsent.map(({ id }) => id));
  const { loaded } = chat.rooms;
  useEffect(() => {
    if (!loaded) return;
    let isCurrent = true;
    setError('');
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
        else setError(errorText(error));
      },
    );
    return () => {
      isCurrent = false;
    };
  }, [name, loaded]);
  if (!loaded) return <main class="room nothing" aria-busy="true" />;
  const former = chat.formerRoom(name);

  async function join(): Promise<void> {
    try {
      await chat.joinRoom(name);
    } catch (error) {
      setError(errorText(error));
    }
  }

  return (
    <main class="room nothing" tabIndex={-1} ref={focusIfLost}>
      <a href={addressOf(undefined)}>All rooms</a>
      <h1>
        You’re not a member of <bdi>{name}</bdi>
      </h1>
      {found && <p role="status">{whyNot(former, found)}</p>}
      {found === 'public' && (
        <button class="primary" onClick={() => void join()}>
          Join room
        </button>
      )}
      {error && (
        <p class="error" role="alert">
          {error}
        </p>
      )}
      {unsent.length > 0 && (
        <section class="unsent">
          <h2>Unsent messages</h2>
          <ul {...stops.list}>
            {unsent.map(({ id, text }) => (
              <li key={id}>
                <span class="text" dir="auto">
                  {text}
                </span>
                <button {...stops.stop(id)} onClick={() => chat.outbox.discard(id)}>
                  Discard
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
function whyNot(former: RoomInfo | undefined, found: 'public' | 'hidden'): string {
  if (found === 'public') return former ? 'You left it or were removed. It’s public, so you can join it again.' : '';
  if (!former) return 'There is no such room, or only its members can see it. Ask one of them to add you.';
  return former.private
    ? 'You left it or were removed, or it was deleted. Its owner can add you again.'
    : 'It was deleted.';
}

import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import { errorText } from '../api';
import type { Chat } from '../chat';
import { storage, remember } from '../storage';
import type { Room as Received } from '../room';
import type { Message } from '../state/timeline';
import { Composer } from './Composer';
import { Dialog } from './Dialog';
import { MessageList } from './MessageList';
import { Presence, connections } from './Presence';
import { addressOf, go } from './address';
import { focusIfLost, useStores } from './hooks';

export function Room({ chat, name }: { chat: Chat; name: string }) {
  const room = chat.room(name);
  useStores(chat, chat.rooms, room);
  const info = chat.rooms.get(name);
  const replyKey = `uproar.reply.${chat.me.id}.${name}`;
  const [replyTo, setReplyTo] = useState<number | undefined>(() => Number(storage.getItem(replyKey)) || undefined);
  function answer(offset: number | undefined): void {
    setReplyTo(offset);
    remember(replyKey, offset?.toString());
  }
  const editKey = `uproar.edit.${chat.me.id}.${name}`;
  // An edit outlives the row, which is in the document only while it is near the view, and the session.
  const [editing, setEditing] = useState<number | undefined>(() => Number(storage.getItem(editKey)?.split(' ', 1)[0]) || undefined);
  const [people, setPeople] = useState(false);
  const [ending, setEnding] = useState(false);
  const list = useRef<MessageList>(null);
  const reply = useCallback((message: Message) => {
    answer(message.offset);
    document.getElementById('composer')?.focus();
  }, []);
  const edit = useCallback((offset: number | undefined) => {
    setEditing(offset);
    remember(editKey, undefined);
    // The field that had the focus is gone.
    if (offset === undefined) document.getElementById('composer')?.focus();
  }, []);
  // What was unread when the room was opened stays marked until it is left.
  const freshFrom = useRef<number>(undefined);
  if (freshFrom.current === undefined && info) {
    freshFrom.current = chat.rooms.unread(name) > 0 ? info.read.offset : Infinity;
  }

  useEffect(() => {
    // Whoever looks away finds a line where they left.
    const away = () => {
      if (room?.timeline.loaded && chat.rooms.unread(name) === 0) freshFrom.current = room.timeline.position;
    };
    addEventListener('blur', away);
    return () => removeEventListener('blur', away);
  }, [chat, room, name]);

  if (!info) return <Stranger chat={chat} name={name} />;
  const here = room ? room.users.length : 0;
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
            {room?.online !== undefined ? connections(room.online) : here > 0 ? `${here} online` : 'People'}
          </button>
        </header>
        {room ? (
          <MessageList
            key={room.id}
            handle={list}
            chat={chat}
            room={room}
            title={info.title}
            freshFrom={freshFrom.current ?? Infinity}
            editing={editing}
            onEdit={edit}
            onReply={reply}
          />
        ) : (
          <div class="messages">
            {chat.subscriptionError(name) && (
              <p class="error notice" role="alert">
                Can’t load this room. {chat.subscriptionError(name)} <button onClick={() => chat.retrySubscription(name)}>Try again</button>
              </p>
            )}
          </div>
        )}
        <p class="typing" aria-live="off">
          {room && whoTypes(room)}
        </p>
        <Composer
          chat={chat}
          room={name}
          title={info.title}
          replyTo={replyTo}
          quoted={replyTo === undefined ? undefined : room?.quoted(replyTo)}
          onCancelReply={() => answer(undefined)}
          onSent={() => {
            answer(undefined);
            list.current?.toNewest();
          }}
          onEditLast={() => {
            // The last one cannot be edited yet, and the one before is not meant.
            if (chat.outbox.of(name).length > 0) return;
            const last = room?.timeline.messages.findLast(({ user, text }) => user.id === chat.me.id && text !== null);
            if (!last) return;
            setEditing(last.offset);
            void list.current?.goTo(last.offset);
          }}
        />
      </main>
      {people && room && <Presence chat={chat} room={room} info={info} onEnd={() => setEnding(true)} onClose={() => setPeople(false)} />}
      {ending && <Ending chat={chat} name={name} title={info.title} isOwner={info.role === 'owner'} onClose={() => setEnding(false)} />}
    </>
  );
}

function whoTypes({ typing }: Received): string {
  const names = typing.map(({ username }) => username);
  if (names.length === 0) return '';
  if (names.length === 1) return `${names[0]} is typing…`;
  if (names.length === 2) return `${names[0]} and ${names[1]} are typing…`;
  return `${names.length} people are typing…`;
}

function Ending(props: { chat: Chat; name: string; title: string; isOwner: boolean; onClose: () => void }) {
  const { chat, name, title, isOwner, onClose } = props;
  const [error, setError] = useState('');
  async function end(): Promise<void> {
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
      <button class="primary" onClick={() => void end()}>
        {isOwner ? 'Delete' : 'Leave'}
      </button>
    </Dialog>
  );
}

/** A room that one is not a member of, or not any more. */
function Stranger({ chat, name }: { chat: Chat; name: string }) {
  const [error, setError] = useState('');
  useStores(chat.outbox);
  useEffect(() => setError(''), [name]);
  if (!chat.rooms.loaded) return <main class="room nothing" aria-busy="true" />;
  const unsent = chat.outbox.of(name);

  async function enter(): Promise<void> {
    try {
      // The address may have it in other letters.
      go((await chat.joinRoom(name)).name);
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
      <button class="primary" onClick={() => void enter()}>
        Join room
      </button>
      {error && (
        <p class="error" role="alert">
          {error}
        </p>
      )}
      {unsent.length > 0 && (
        <section class="unsent">
          <h2>Unsent messages</h2>
          {unsent.map(({ id, text }) => (
            <p key={id}>
              <span class="text" dir="auto">
                {text}
              </span>
              <button onClick={() => chat.outbox.discard(id)}>Discard</button>
            </p>
          ))}
        </section>
      )}
    </main>
  );
}

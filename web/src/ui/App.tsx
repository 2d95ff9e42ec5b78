import { useEffect, useState } from 'preact/hooks';
import { Chat } from '../chat';
import { storage } from '../storage';
import type { Session } from '../session';
import { FindRoom } from './FindRoom';
import { Room } from './Room';
import { Rooms } from './Rooms';
import { Settings } from './Settings';
import { SignIn } from './SignIn';
import { go, roomInAddress } from './address';
import { focusIfLost, useStores } from './hooks';

export function App({ session }: { session: Session }) {
  useStores(session);
  const chat = useChat(session);
  if (session.state === 'out') return <SignIn session={session} />;
  if (!chat) {
    return (
      <p class="starting" role="status">
        {session.notice || 'Uproar'}
      </p>
    );
  }
  return <Main chat={chat} session={session} />;
}

function useChat(session: Session): Chat | undefined {
  const [chat, setChat] = useState<Chat>();
  const { user } = session;
  useEffect(() => {
    if (!user) return;
    const made = new Chat(user, session, {
      url: `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/connection/websocket`,
      fetch: (path, init) => fetch(path, init),
      storage,
      visible: () => document.visibilityState === 'visible' && document.hasFocus(),
      notify,
    });
    const elsewhere = ({ key, newValue }: StorageEvent) => {
      if (key !== null && newValue === null) made.outbox.removedElsewhere(key);
    };
    addEventListener('storage', elsewhere);
    made.show(roomInAddress());
    made.start();
    setChat(made);
    return () => {
      removeEventListener('storage', elsewhere);
      made.stop();
      setChat(undefined);
    };
  }, [user?.id]);
  return chat;
}

function notify(title: string, body: string, tag: string, room: string): void {
  if (typeof Notification === 'undefined' || Notification.permission !== 'granted') return;
  try {
    // The tag makes one of those that several tabs show.
    const notification = new Notification(title, { body, tag });
    notification.onclick = () => {
      window.focus();
      go(room);
      notification.close();
    };
  } catch {
    // Some phones know notifications of service workers only.
  }
}

function Main({ chat, session }: { chat: Chat; session: Session }) {
  useStores(chat, chat.rooms);
  const [dialog, setDialog] = useState<'find' | 'settings'>();
  const close = () => setDialog(undefined);
  useEffect(() => {
    const moved = () => chat.show(roomInAddress());
    addEventListener('hashchange', moved);
    return () => removeEventListener('hashchange', moved);
  }, [chat]);
  const { total, loaded } = chat.rooms;
  const info = chat.openRoom === undefined ? undefined : chat.rooms.get(chat.openRoom);
  useEffect(() => {
    document.title = `${total > 0 ? `(${total}) ` : ''}${info ? `${info.title} · ` : ''}Uproar`;
    return () => {
      document.title = 'Uproar';
    };
  }, [total, info?.title]);
  return (
    <div class={chat.openRoom === undefined ? 'main' : 'main in-room'}>
      <a class="skip" href="#composer" onClick={skip}>
        Skip to message box
      </a>
      <Rooms chat={chat} onFind={() => setDialog('find')} onSettings={() => setDialog('settings')} />
      <p key="line" class={chat.banner ? 'line' : 'heard'} role="status">
        {chat.banner} {chat.isClosed && <button onClick={() => chat.connection.start()}>Reconnect</button>}
      </p>
      {chat.openRoom === undefined ? (
        <main class="room nothing" tabIndex={-1} ref={focusIfLost}>
          {loaded && chat.rooms.sorted.length > 0 && <p>Choose a room.</p>}
          {loaded && chat.rooms.sorted.length === 0 && (
            <>
              <p>You haven’t joined any rooms yet.</p>
              <button class="primary" onClick={() => setDialog('find')}>
                Find or create one
              </button>
            </>
          )}
        </main>
      ) : (
        <Room key={chat.openRoom} chat={chat} name={chat.openRoom} />
      )}
      {dialog === 'find' && <FindRoom chat={chat} onClose={close} />}
      {dialog === 'settings' && <Settings chat={chat} session={session} onClose={close} />}
      <p key="heard" class="heard" aria-live="polite">
        {/* Another element each time: the same words twice are said twice. */}
        <span key={chat.announcementCount}>{chat.announcement}</span>
      </p>
    </div>
  );
}

/** The address holds the room, so a link to a part of the page must not change it. */
function skip(event: Event): void {
  event.preventDefault();
  document.getElementById('composer')?.focus();
}

/** The page: signing in, or the rooms and the open room. */
import { useEffect, useState } from 'preact/hooks';
import type { Chat } from '../chat';
import type { Session } from '../session';
import { OWNER_KEY } from '../state/privacy';
import { neighbour } from '../state/switcher';
import { drafts, storage } from '../storage';
import type { Say } from '../texts/language';
import { Announcement, BannerLine } from './BannerLine';
import { Icon } from './Icon';
import { Room } from './Room';
import { Rooms } from './Rooms';
import { SignIn } from './SignIn';
import { Starting } from './Starting';
import { go } from './address';
import { focusIfLost, useStores } from './hooks';
import { useShortcuts, useTyping } from './keys';
import { FindRoom, Settings, Shortcuts, Switcher, usePreload } from './later';
import { language, useTexts } from './texts';
import { type Surroundings, useChat, usePlaces } from './use-chat';

export function App({ session }: { session: Session }) {
  useStores(session);
  const chat = useChat(session, whole);
  useEffect(() => {
    const onStorage = ({ key, oldValue, newValue }: StorageEvent) => {
      if (key !== OWNER_KEY || newValue !== null || oldValue === null) return;
      session.signedOut(oldValue);
      if (session.state === 'out') go(undefined);
    };
    addEventListener('storage', onStorage);
    return () => removeEventListener('storage', onStorage);
  }, [session]);
  if (session.state === 'out') return <SignIn session={session} />;
  if (!chat) return <Starting notice={session.notice} storage={storage} />;
  return <Main chat={chat} session={session} />;
}

const whole: Surroundings = {
  storage,
  drafts,
  visible: () => document.visibilityState === 'visible' && document.hasFocus(),
  notify,
  stopped: closeNotifications,
};

/** The notifications on screen, which show messages. */
const notifications = new Set<Notification>();

function closeNotifications(): void {
  for (const notification of notifications) notification.close();
  notifications.clear();
}

function notify(title: Say, body: string, tag: string, room: string): void {
  if (typeof Notification === 'undefined' || Notification.permission !== 'granted') return;
  try {
    // Tabs that notify with the same tag show a single notification.
    const notification = new Notification(title(language.texts), { body, tag });
    notifications.add(notification);
    notification.onclose = () => notifications.delete(notification);
    notification.onclick = () => {
      window.focus();
      go(room);
      notification.close();
    };
  } catch {
    // Some phones only allow notifications from service workers.
  }
}

function Main({ chat, session }: { chat: Chat; session: Session }) {
  const t = useTexts();
  useStores(chat, chat.rooms);
  const [dialog, setDialog] = useState<'find' | 'settings' | 'switch' | 'shortcuts'>();
  const close = () => setDialog(undefined);
  const toggleSwitcher = () => {
    if (dialog === 'switch') close();
    else if (!document.querySelector('dialog[open]')) setDialog('switch');
  };
  const step = (by: 1 | -1, onlyUnread: boolean) => {
    const isCalling = (name: string) => chat.rooms.unread(name) > 0 && !chat.rooms.isMuted(name);
    const rooms = chat.rooms.sorted.filter(({ name }) => !onlyUnread || name === chat.openRoom || isCalling(name));
    const next = neighbour(rooms.map(({ name }) => name), chat.openRoom, by);
    if (next !== undefined && next !== chat.openRoom) go(next);
  };
  useShortcuts({ onSwitch: toggleSwitcher, onHelp: () => setDialog('shortcuts'), onStep: step });
  useTyping();
  usePlaces(chat);
  usePreload();
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
      {info && (
        <a key="skip" class="skip" href="#composer" onClick={skip}>
          {t.main.skip}
        </a>
      )}
      <Rooms chat={chat} onFind={() => setDialog('find')} onSettings={() => setDialog('settings')} />
      <BannerLine key="banner" chat={chat} />
      {chat.openRoom === undefined ? (
        <main class="room nothing" tabIndex={-1} ref={focusIfLost}>
          {loaded && chat.rooms.sorted.length > 0 && <p>{t.main.choose}</p>}
          {loaded && chat.rooms.sorted.length === 0 && (
            <div class="empty">
              <Icon name="room" />
              <span>{t.main.noRooms}</span>
              <button class="primary" onClick={() => setDialog('find')}>
                {t.main.find}
              </button>
            </div>
          )}
        </main>
      ) : (
        <Room key={chat.openRoom} chat={chat} name={chat.openRoom} />
      )}
      {dialog === 'find' && <FindRoom chat={chat} onClose={close} />}
      {dialog === 'switch' && <Switcher chat={chat} onFind={() => setDialog('find')} onClose={close} />}
      {dialog === 'settings' && (
        <Settings chat={chat} session={session} onShortcuts={() => setDialog('shortcuts')} onClose={close} />
      )}
      {dialog === 'shortcuts' && <Shortcuts onClose={close} />}
      <Announcement key="announcement" chat={chat} />
    </div>
  );
}

/** The URL fragment holds the room, so the link must not change it. */
function skip(event: Event): void {
  event.preventDefault();
  document.getElementById('composer')?.focus();
}

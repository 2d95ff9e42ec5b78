/** A single room, in a frame on another site. */
import { useEffect } from 'preact/hooks';
import type { Chat } from '../chat';
import type { Host } from '../host';
import type { Session } from '../session';
import { Announcement, BannerLine } from './BannerLine';
import { Room } from './Room';
import { SignIn } from './SignIn';
import { Starting } from './Starting';
import { useEvents, useStores } from './hooks';
import { useTyping } from './keys';
import { usePreload } from './later';
import { useTexts } from './texts';
import { type Surroundings, useChat, usePlaces } from './use-chat';

interface Props {
  host: Host;
  session: Session;
  surroundings: Surroundings;
  onRetry: () => void;
}

export function Embedded({ host, session, surroundings, onRetry }: Props) {
  useStores(session, host);
  const t = useTexts().embed;
  const chat = useChat(session, surroundings);
  if (!chat && host.wishes.room === '') return <Notice text={t.noRoom} />;
  if (session.state === 'out' && host.wishes.hasToken) return <Refused host={host} onRetry={onRetry} />;
  if (session.state === 'out') return <SignIn session={session} inFrame />;
  if (!chat) return <Starting notice={session.notice} storage={surroundings.storage} />;
  return <Alone chat={chat} host={host} />;
}

function Notice({ text, onRetry }: { text: string; onRetry?: () => void }) {
  const t = useTexts();
  return (
    <main class="room nothing">
      <div role="status">
        <h1>{text}</h1>
      </div>
      {onRetry && <button onClick={onRetry}>{t.buttons.tryAgain}</button>}
    </main>
  );
}

/** The site has no token for the user, or one that the server does not accept. */
function Refused({ host, onRetry }: { host: Host; onRetry: () => void }) {
  const t = useTexts().embed;
  const { isSignedIn } = host;
  useEffect(() => {
    host.tell({
      event: 'error',
      detail: isSignedIn
        ? { code: 'token_refused', message: 'the server does not accept the token' }
        : { code: 'token_missing', message: 'getToken returned no token' },
    });
  }, [isSignedIn]);
  return <Notice text={isSignedIn ? t.refused : t.signedOut} onRetry={onRetry} />;
}

function Alone({ chat, host }: { chat: Chat; host: Host }) {
  const t = useTexts().embed;
  const name = chat.openRoom ?? '';
  const room = chat.room(name);
  useStores(chat, chat.rooms);
  useEvents(room, 'loading');
  useTyping();
  usePlaces(chat, true);
  usePreload();
  const info = chat.rooms.get(name);
  const title = info?.title;
  const isReady = title !== undefined && (room?.timeline.loaded ?? false);
  const unread = info && chat.rooms.unread(name);
  useEffect(() => {
    if (isReady) host.tell({ event: 'ready', detail: { room: name, title } });
  }, [isReady, name]);
  useEffect(() => {
    if (title !== undefined) host.tell({ title: t.title(title) });
  }, [title, t]);
  useEffect(() => {
    if (unread !== undefined) host.tell({ event: 'unread', detail: unread });
  }, [unread]);
  if (chat.openRoom === undefined) return <Notice text={t.noRoom} />;
  return (
    <div class="main alone in-room">
      <BannerLine chat={chat} />
      <Room key={name} chat={chat} name={name} isAlone />
      <Announcement chat={chat} />
    </div>
  );
}

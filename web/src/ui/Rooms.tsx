/** The list of the user's rooms. */
import { useEffect, useRef, useState } from 'preact/hooks';
import type { Chat } from '../chat';
import { fold } from '../state/mentions';
import { Icon, IconButton } from './Icon';
import { ListSkeleton } from './Skeleton';
import { UnreadCount } from './UnreadCount';
import { addressOf, go } from './address';
import { useStores } from './hooks';
import { useOneStop } from './keys';
import { useTexts } from './texts';

/** The list can be filtered if it is longer than this. */
const MANY = 12;

export function Rooms({ chat, onFind, onSettings }: { chat: Chat; onFind: () => void; onSettings: () => void }) {
  const t = useTexts();
  useStores(chat, chat.rooms, chat.outbox);
  const [filter, setFilter] = useState('');
  const [onlyUnread, setOnlyUnread] = useState(false);
  const current = useRef<HTMLAnchorElement>(null);
  const list = useRef<HTMLUListElement>(null);
  const { sorted, loaded } = chat.rooms;
  // The page has one first-level heading: the open room, or the brand if none is open.
  const Brand = chat.openRoom === undefined ? 'h1' : 'p';
  const words = fold(filter.trim());
  const shown = sorted.filter(
    ({ name, title }) =>
      (!words || fold(name).includes(words) || fold(title).includes(words)) &&
      (!onlyUnread || name === chat.openRoom || chat.rooms.unread(name) > 0),
  );
  // The draft of the open room is in sight.
  const drafts = chat.draftRooms;
  const isBegun = (name: string) => name !== chat.openRoom && drafts.has(name);
  const stops = useOneStop([...shown.map(({ name }) => name), ...chat.stranded], chat.openRoom);
  useEffect(() => current.current?.scrollIntoView({ block: 'nearest' }), [chat.openRoom, loaded]);

  return (
    <nav class="rooms" aria-label={t.rooms.title}>
      <header>
        <Brand class="brand">Uproar</Brand>
        <IconButton icon="settings" label={t.settings.title} class="quiet below" onClick={onSettings} />
      </header>
      {sorted.length > MANY && (
        <div class="filter">
          <input
            type="search"
            placeholder={t.rooms.filter}
            aria-label={t.rooms.filterLabel}
            value={filter}
            onInput={(event) => setFilter(event.currentTarget.value)}
            onKeyDown={(event) => {
              const [first] = shown;
              if (event.key === 'Enter' && !event.isComposing && words && first) go(first.name);
              if (event.key === 'ArrowDown') {
                event.preventDefault();
                list.current?.querySelector<HTMLElement>('a')?.focus();
              }
            }}
          />
          <button aria-pressed={onlyUnread} onClick={() => setOnlyUnread(!onlyUnread)}>
            {t.rooms.unread}
          </button>
        </div>
      )}
      {!loaded && <ListSkeleton />}
      {loaded && sorted.length === 0 && <p class="hint">{t.rooms.none}</p>}
      <ul ref={list} {...stops.list}>
        {shown.map((room) => {
          const unread = chat.rooms.unread(room.name);
          const isOpen = room.name === chat.openRoom;
          const isFavourite = chat.rooms.isFavourite(room.name);
          const isMuted = chat.rooms.isMuted(room.name);
          return (
            <li key={room.name}>
              <a
                ref={isOpen ? current : undefined}
                href={addressOf(room.name)}
                {...stops.stop(room.name)}
                aria-current={isOpen ? 'page' : undefined}
                class={unread > 0 && !isMuted ? 'unread' : undefined}
                title={room.title}
              >
                <Icon name={isFavourite ? 'favourite' : room.private ? 'private' : 'public'} />
                <span class="title">
                  <bdi>{room.title}</bdi>
                </span>
                {isBegun(room.name) && <span class="mark draft">{t.rooms.draft}</span>}
                {room.private && <span class="visually-hidden"> {t.rooms.isPrivate}</span>}
                {isFavourite && <span class="visually-hidden"> {t.rooms.isFavourite}</span>}
                {isMuted && (
                  <span class="mark">
                    <Icon name="muted" />
                    <span class="visually-hidden"> {t.rooms.isMuted}</span>
                  </span>
                )}
                <UnreadCount rooms={chat.rooms} room={room} />
              </a>
            </li>
          );
        })}
        {chat.stranded.map((name) => (
          <li key={name}>
            <a
              href={addressOf(name)}
              {...stops.stop(name)}
              aria-current={name === chat.openRoom ? 'page' : undefined}
            >
              <Icon name="public" />
              <span class="title">
                <bdi>{name}</bdi>
              </span>
              <span class="mark error">{t.rooms.notSent}</span>
            </a>
          </li>
        ))}
      </ul>
      {words && shown.length === 0 && <p class="hint">{t.rooms.noMatches}</p>}
      {!words && onlyUnread && shown.length === 0 && <p class="hint">{t.rooms.caughtUp}</p>}
      <footer>
        <button class="wide" onClick={onFind}>
          <Icon name="add" />
          {t.rooms.find}
        </button>
      </footer>
    </nav>
  );
}

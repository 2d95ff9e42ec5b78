import { useEffect, useRef, useState } from 'preact/hooks';
import { type FoundRoom, fieldOf, inWords } from '../api';
import type { Chat } from '../chat';
import type { Session } from '../session';
import { Dialog } from './Dialog';
import { Field } from './Field';
import { Settings } from './Settings';
import { addressOf, go, useStores } from './use';

const MANY = 12;

export function Rooms({ chat, session }: { chat: Chat; session: Session }) {
  useStores(chat, chat.rooms);
  const [dialog, setDialog] = useState<'find' | 'settings'>();
  const [filter, setFilter] = useState('');
  const current = useRef<HTMLAnchorElement>(null);
  const { sorted, loaded } = chat.rooms;
  const words = filter.trim().toLowerCase();
  const shown = words ? sorted.filter(({ name, title }) => name.includes(words) || title.toLowerCase().includes(words)) : sorted;
  useEffect(() => current.current?.scrollIntoView({ block: 'nearest' }), [chat.open, loaded]);

  return (
    <nav class="rooms" aria-label="Rooms">
      <header>
        <h1>Uproar</h1>
        <button class="quiet" onClick={() => setDialog('settings')}>
          Settings
        </button>
      </header>
      {sorted.length > MANY && (
        <input
          class="filter"
          type="search"
          placeholder="Filter"
          aria-label="Filter your rooms"
          value={filter}
          onInput={(event) => setFilter(event.currentTarget.value)}
        />
      )}
      <ul>
        {shown.map((room) => {
          const unread = chat.rooms.unread(room.name);
          const isOpen = room.name === chat.open;
          const mentioned = chat.rooms.isMentioned(room.name);
          return (
            <li key={room.name}>
              <a
                ref={isOpen ? current : undefined}
                href={addressOf(room.name)}
                aria-current={isOpen ? 'page' : undefined}
                class={unread > 0 ? 'unread' : undefined}
                title={room.title}
              >
                <span class="title" dir="auto">
                  {room.title}
                </span>
                {room.private && <span class="mark">private</span>}
                {unread > 0 && (
                  <span class={mentioned ? 'count mentioned' : 'count'}>
                    {mentioned && '@'}
                    {unread > 999 ? '999+' : unread}
                    <span class="heard"> unread</span>
                  </span>
                )}
              </a>
            </li>
          );
        })}
      </ul>
      {loaded && sorted.length === 0 && <p class="hint">No rooms yet.</p>}
      {words && shown.length === 0 && <p class="hint">None of your rooms is called that.</p>}
      <footer>
        <button class="wide" onClick={() => setDialog('find')}>
          Find or create a room
        </button>
      </footer>
      {dialog === 'find' && <FindRoom chat={chat} onClose={() => setDialog(undefined)} />}
      {dialog === 'settings' && <Settings chat={chat} session={session} onClose={() => setDialog(undefined)} />}
    </nav>
  );
}

function FindRoom({ chat, onClose }: { chat: Chat; onClose: () => void }) {
  const [text, setText] = useState('');
  const [found, setFound] = useState<{ rooms: FoundRoom[]; more: boolean }>();
  const [error, setError] = useState<{ of: string; error: unknown }>();
  const [isPrivate, setPrivate] = useState(false);
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    let current = true;
    const timer = setTimeout(async () => {
      try {
        const rooms = await chat.api.findRooms(text.trim());
        if (current) setFound(rooms);
      } catch (error) {
        if (current) setError({ of: 'search', error });
      }
    }, text === '' ? 0 : 200);
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [text]);

  async function attempt(of: string, what: () => Promise<FoundRoom>): Promise<void> {
    setBusy(true);
    setError(undefined);
    try {
      const room = await what();
      onClose();
      go(room.name);
    } catch (error) {
      setError({ of, error });
      setBusy(false);
    }
  }

  const of = (name: string) => (error?.of === name ? inWords(error.error) : undefined);
  const wrong = error?.of === 'create' ? fieldOf(error.error) ?? 'name' : undefined;
  return (
    <Dialog title="Find or create a room" onClose={onClose}>
      <Field label="Name" name="query" value={text} onInput={setText} error={of('search')} focus />
      <ul class="found" aria-label="Rooms found">
        {found?.rooms.map((room) => (
          <li key={room.name}>
            <span class="title" dir="auto" title={room.name}>
              {room.title}
            </span>
            <span class="hint">{room.members === 1 ? '1 member' : `${room.members} members`}</span>
            {room.role ? (
              <button
                onClick={() => {
                  onClose();
                  go(room.name);
                }}
              >
                Open
              </button>
            ) : (
              <button disabled={busy} onClick={() => void attempt(room.name, () => chat.enter(room.name))}>
                Join
              </button>
            )}
            {of(room.name) && (
              <p class="error" role="alert">
                {of(room.name)}
              </p>
            )}
          </li>
        ))}
      </ul>
      {found?.rooms.length === 0 && <p class="hint">There is no such room. You can create it:</p>}
      {found?.more && <p class="hint">There are more. Type a part of the name.</p>}
      <form
        class="create"
        onSubmit={(event) => {
          event.preventDefault();
          const data = new FormData(event.currentTarget);
          const name = text.trim();
          const title = String(data.get('title') ?? '').trim();
          void attempt('create', () => chat.create({ name, private: isPrivate, ...(title ? { title } : {}) }));
        }}
      >
        <Field
          label="Title, if it is another than the name"
          name="title"
          error={wrong === 'title' ? of('create') : undefined}
        />
        <label class="check">
          <input type="checkbox" checked={isPrivate} onInput={(event) => setPrivate(event.currentTarget.checked)} />
          Private: only those whom you add see it
        </label>
        {wrong !== undefined && wrong !== 'title' && (
          <p class="error" role="alert">
            {of('create')}
          </p>
        )}
        <button class="primary" disabled={busy || text.trim() === ''}>
          {text.trim() ? `Create “${text.trim()}”` : 'Create'}
        </button>
      </form>
    </Dialog>
  );
}

/** The dialog to find, join and create rooms. */
import { useEffect, useRef, useState } from 'preact/hooks';
import type { FoundRoom } from '@uproar/client';
import type { Chat } from '../chat';
import { check, errorField, errorText } from '../errors';
import { fold } from '../state/mentions';
import { AddPeopleStep } from './AddPeople';
import { Dialog } from './Dialog';
import { Field } from './Field';
import { go } from './address';
import { useOneStop } from './keys';
import { useTexts } from './texts';

interface Found {
  /** What was searched for. */
  query: string;
  rooms: FoundRoom[];
  more: boolean;
}

export function FindRoom({ chat, onClose }: { chat: Chat; onClose: () => void }) {
  const t = useTexts();
  const [text, setText] = useState('');
  const [found, setFound] = useState<Found>();
  const [error, setError] = useState<{ of: string; error: unknown }>();
  const [isPrivate, setPrivate] = useState(false);
  const [busy, setBusy] = useState(false);
  const [created, setCreated] = useState<FoundRoom>();
  const list = useRef<HTMLUListElement>(null);
  const create = useRef<HTMLButtonElement>(null);
  const query = text.trim();
  const latest = useRef(query);
  latest.current = query;

  /** Loads the rooms that match. Returns them unless something else has been typed meanwhile. */
  async function search(): Promise<FoundRoom[] | undefined> {
    try {
      const answer = await chat.api.findRooms(query);
      if (query !== latest.current) return undefined;
      setFound({ ...answer, query });
      setError((error) => (error?.of === 'search' ? undefined : error));
      return answer.rooms;
    } catch (error) {
      if (query === latest.current) setError({ of: 'search', error });
      return undefined;
    }
  }
  useEffect(() => {
    const timer = setTimeout(search, query === '' ? 0 : 200);
    return () => clearTimeout(timer);
  }, [query]);

  function open(name: string): void {
    onClose();
    go(name);
  }

  async function attempt(of: string, what: () => Promise<FoundRoom>, then = ({ name }: FoundRoom) => open(name)) {
    setBusy(true);
    setError(undefined);
    try {
      then(await what());
    } catch (error) {
      setError({ of, error });
      setBusy(false);
    }
  }

  function enter(room: FoundRoom): void {
    if (room.role) open(room.name);
    else void attempt(room.name, () => chat.joinRoom(room.name));
  }

  /** Enter opens the room that is meant, if that is clear. Otherwise it leads to what can be done. */
  async function choose(): Promise<void> {
    const rooms = found?.query === query ? found.rooms : await search();
    if (!rooms || busy) return;
    const wanted = fold(query);
    const named = rooms.filter(({ name }) => fold(name) === wanted);
    const titled = rooms.filter(({ title }) => fold(title) === wanted);
    const meant = [named, titled, query === '' ? [] : rooms].find(({ length }) => length === 1)?.[0];
    if (meant) enter(meant);
    // Only now has the list been rendered.
    else setTimeout(() => (rooms.length > 0 ? list.current?.querySelector('button') : create.current)?.focus());
  }

  const of = (name: string) => (error?.of === name ? errorText(error.error, t) : undefined);
  const wrong = error?.of === 'create' ? errorField(error.error) ?? 'name' : undefined;
  const stops = useOneStop(found?.rooms.map(({ name }) => name) ?? []);
  if (created) {
    const done = () => open(created.name);
    return (
      <Dialog key="people" title={t.addPeople.title(created.title)} onClose={done}>
        <AddPeopleStep chat={chat} room={created} onDone={done} />
      </Dialog>
    );
  }
  return (
    <Dialog key="find" title={t.find.title} onClose={onClose}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void choose();
        }}
      >
        <Field
          label={t.find.name}
          name="query"
          value={text}
          onInput={setText}
          error={of('search') ?? (wrong === 'name' ? of('create') : undefined)}
          focus
        />
      </form>
      <ul class="found" aria-label={t.find.matching} ref={list} {...stops.list}>
        {found?.rooms.map((room) => (
          <li key={room.name}>
            <span class="title" title={room.name}>
              <bdi>{room.title}</bdi>
            </span>
            <span class="hint">{t.find.members(room.members)}</span>
            <button {...stops.stop(room.name)} disabled={!room.role && busy} onClick={() => enter(room)}>
              {room.role ? t.buttons.open : t.buttons.join}
            </button>
            {of(room.name) && (
              <p class="error" role="alert">
                {of(room.name)}
              </p>
            )}
          </li>
        ))}
      </ul>
      {found?.rooms.length === 0 && (
        <p class="hint">{query ? t.find.noMatches : t.find.none}</p>
      )}
      {found?.more && <p class="hint">{t.find.more}</p>}
      <form
        class="create"
        onSubmit={(event) => {
          event.preventDefault();
          const data = new FormData(event.currentTarget);
          const title = String(data.get('title') ?? '').trim();
          const wrong = check({ name: query, title });
          if (wrong) setError({ of: 'create', error: wrong });
          else {
            const room = { name: query, private: isPrivate, ...(title ? { title } : {}) };
            void attempt('create', () => chat.client.createRoom(room), setCreated);
          }
        }}
      >
        <Field
          label={t.find.displayName}
          name="title"
          error={wrong === 'title' ? of('create') : undefined}
        />
        <label class="check">
          <input type="checkbox" checked={isPrivate} onInput={(event) => setPrivate(event.currentTarget.checked)} />
          {t.find.private}
        </label>
        {wrong !== undefined && wrong !== 'title' && wrong !== 'name' && (
          <p class="error" role="alert">
            {of('create')}
          </p>
        )}
        <button class="primary" ref={create} disabled={busy}>
          {query ? t.find.createNamed(query) : t.find.create}
        </button>
      </form>
    </Dialog>
  );
}

/** The dialog to find, join and create rooms. */
import { useEffect, useState } from 'preact/hooks';
import { type FoundRoom, errorField, errorText } from '../api';
import type { Chat } from '../chat';
import { Dialog } from './Dialog';
import { Field } from './Field';
import { go } from './address';

export function FindRoom({ chat, onClose }: { chat: Chat; onClose: () => void }) {
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
        if (!current) return;
        setFound(rooms);
        setError((error) => (error?.of === 'search' ? undefined : error));
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

  const of = (name: string) => (error?.of === name ? errorText(error.error) : undefined);
  const wrong = error?.of === 'create' ? errorField(error.error) ?? 'name' : undefined;
  return (
    <Dialog title="Find or create a room" onClose={onClose}>
      <Field label="Room name" name="query" value={text} onInput={setText} error={of('search')} focus />
      <ul class="found" aria-label="Matching rooms">
        {found?.rooms.map((room) => (
          <li key={room.name}>
            <span class="title" title={room.name}>
              <bdi>{room.title}</bdi>
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
              <button disabled={busy} onClick={() => void attempt(room.name, () => chat.joinRoom(room.name))}>
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
      {found?.rooms.length === 0 && (
        <p class="hint">{text.trim() ? 'No matches. You can create this room:' : 'No rooms yet. Create one:'}</p>
      )}
      {found?.more && <p class="hint">There are more rooms. Type part of a name to find them.</p>}
      <form
        class="create"
        onSubmit={(event) => {
          event.preventDefault();
          const data = new FormData(event.currentTarget);
          const name = text.trim();
          const title = String(data.get('title') ?? '').trim();
          void attempt('create', () => chat.createRoom({ name, private: isPrivate, ...(title ? { title } : {}) }));
        }}
      >
        <Field
          label="Display name (optional)"
          name="title"
          error={wrong === 'title' ? of('create') : undefined}
        />
        <label class="check">
          <input type="checkbox" checked={isPrivate} onInput={(event) => setPrivate(event.currentTarget.checked)} />
          Private: only people you add can see it
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

/** Adds people to a room by their usernames, one after the other. */
import { useState } from 'preact/hooks';
import type { User } from '@uproar/client';
import type { Chat } from '../chat';
import { errorText } from '../errors';
import { Avatar } from './Avatar';
import { Field } from './Field';
import { useTexts } from './texts';

interface Props {
  chat: Chat;
  room: string;
  focus?: boolean;
  /** Whether somebody is known to have been a member already. The server accepts that. */
  isMember: (user: User) => boolean;
  onAdded: (user: User) => void;
}

export function AddPeople({ chat, room, focus = false, isMember, onAdded }: Props) {
  const t = useTexts();
  const [username, setUsername] = useState('');
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<unknown>();
  const [results, setResults] = useState<{ user: User; isNew: boolean }[]>([]);
  const name = username.trim();

  async function add(): Promise<void> {
    setBusy(true);
    setError(undefined);
    try {
      const { user } = await chat.api.addMember(room, name);
      const isNew = !isMember(user) && !results.some((result) => result.user.id === user.id);
      setResults([...results.filter((result) => result.user.id !== user.id), { user, isNew }]);
      // The next name may have been begun.
      setUsername((now) => (now.trim() === name ? '' : now));
      if (isNew) onAdded(user);
    } catch (error) {
      setError(error);
    } finally {
      setBusy(false);
    }
  }

  return (
    <form
      class="add-people"
      onSubmit={(event) => {
        event.preventDefault();
        if (name !== '' && !busy) void add();
      }}
    >
      <div class="with-button">
        <Field
          label={t.members.addLabel}
          name="username"
          value={username}
          onInput={setUsername}
          error={error === undefined ? undefined : errorText(error, t)}
          focus={focus}
        />
        <button disabled={name === '' || busy}>{t.buttons.add}</button>
      </div>
      <div class="results" role="status">
        {results.map(({ user, isNew }) => (
          <p key={user.id}>
            <Avatar name={user.username} />
            <span>{(isNew ? t.addPeople.added : t.addPeople.already)(<bdi>{user.username}</bdi>)}</span>
          </p>
        ))}
      </div>
    </form>
  );
}

interface StepProps {
  chat: Chat;
  room: { name: string; private: boolean };
  onDone: () => void;
}

/** What follows the creation of a room. */
export function AddPeopleStep({ chat, room, onDone }: StepProps) {
  const t = useTexts();
  const [isAny, setAny] = useState(false);
  return (
    <>
      <p>{room.private ? t.addPeople.whyPrivate : t.addPeople.whyPublic}</p>
      <AddPeople
        chat={chat}
        room={room.name}
        isMember={({ id }) => id === chat.me.id}
        onAdded={() => setAny(true)}
        focus
      />
      <div class="buttons">
        <button class={isAny ? 'primary' : ''} onClick={onDone}>
          {isAny ? t.addPeople.done : t.addPeople.skip}
        </button>
      </div>
    </>
  );
}

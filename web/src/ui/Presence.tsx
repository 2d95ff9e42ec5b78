/** The panel with the people in a room: who is online, and the members. */
import { useEffect, useRef, useState } from 'preact/hooks';
import type { Member, Members } from '../api';
import { errorText } from '../errors';
import type { Chat } from '../chat';
import type { Room } from '../room';
import type { RoomInfo } from '../state/room-list';
import { Avatar } from './Avatar';
import { Field } from './Field';
import { focusIfLost, useStores } from './hooks';
import { useOneStop } from './keys';

interface Props {
  chat: Chat;
  room: Room;
  info: RoomInfo;
  onLeave: () => void;
  onClose: () => void;
}

/** The count that replaces the list of people in a room with many connections. */
export function connections(count: number): string {
  return count === 1 ? '1 connection' : `${count} connections`;
}

/** The number of members agrees with the list below it, which is complete unless there are more. */
function countOf({ members, more, count }: Members, known: number): number {
  if (more && count !== undefined) return count;
  return more ? Math.max(known, members.length + 1) : members.length;
}

export function Presence({ chat, room, info, onLeave, onClose }: Props) {
  useStores(room);
  const [members, setMembers] = useState<Members>();
  const [error, setError] = useState('');
  const [adding, setAdding] = useState<{ error?: string; done?: string }>({});
  const [username, setUsername] = useState('');
  const { users, online } = room;
  const close = useRef<HTMLButtonElement>(null);
  const list = useRef<HTMLUListElement>(null);
  // On narrow screens the panel covers the room, and the focus must not stay behind it.
  useEffect(() => {
    const opener = document.activeElement;
    close.current?.focus();
    return () => {
      if (opener instanceof HTMLElement) opener.focus();
    };
  }, []);
  const canAdd = info.role === 'owner' || info.role === 'moderator';
  const canRemove = ({ user, role }: Member) =>
    role !== 'owner' && (info.role === 'owner' || (canAdd && role === 'member')) && user.id !== chat.me.id;
  const removable = new Set(members?.members.filter(canRemove).map(({ user }) => user.id));
  const stops = useOneStop([...removable]);
  // Whoever is here is a member, so somebody who is not in the list has joined since it was loaded.
  const listed = new Set(members?.members.map(({ user }) => user.id));
  const newcomer = members && !members.more && users.find(({ id }) => !listed.has(id))?.id;
  useEffect(() => {
    let isCurrent = true;
    chat.api.members(room.name).then(
      (loaded) => {
        if (!isCurrent) return;
        for (const { user } of loaded.members) chat.names.add(user.username);
        setMembers(loaded);
        // The count comes from the list of rooms, which may be older.
        if (!loaded.more && loaded.members.length !== info.members) void chat.refresh();
      },
      (error: unknown) => isCurrent && setError(errorText(error)),
    );
    return () => {
      isCurrent = false;
    };
  }, [room.name, info.members, adding.done, newcomer, room.removals]);

  async function attempt(what: () => Promise<void>): Promise<void> {
    setError('');
    try {
      await what();
    } catch (error) {
      setError(errorText(error));
    }
  }

  const more = () =>
    attempt(async () => {
      const next = await chat.api.members(room.name, members!.members.at(-1)!.user.id);
      setMembers({ ...next, members: [...members!.members, ...next.members] });
    });

  const remove = (username: string) =>
    attempt(async () => {
      await chat.api.removeMember(room.name, username);
      setMembers(
        (shown) =>
          shown && { ...shown, members: shown.members.filter(({ user }) => user.username !== username) },
      );
      // The pressed button is gone by then.
      setTimeout(() => focusIfLost(list.current?.querySelector<HTMLElement>('[tabindex="0"]') ?? close.current));
    });

  async function add(event: SubmitEvent): Promise<void> {
    event.preventDefault();
    try {
      const { user } = await chat.api.addMember(room.name, username.trim());
      setUsername('');
      setAdding({ done: user.username });
    } catch (error) {
      setAdding({ error: errorText(error) });
    }
  }

  return (
    <aside
      class="people"
      aria-label="People"
      onKeyDown={(event) => {
        if (event.key === 'Escape') onClose();
      }}
    >
      <header>
        <h2>People</h2>
        <button class="quiet" ref={close} onClick={onClose}>
          Close
        </button>
      </header>
      <h3>Online{users.length > 0 ? ` (${users.length})` : ''}</h3>
      {online !== undefined && <p class="hint">{connections(online)}</p>}
      <ul>
        {users.map((user) => (
          <li key={user.id} class="here">
            <Avatar name={user.username} />
            <span class="title">
              <bdi>{user.username}</bdi>
            </span>
          </li>
        ))}
      </ul>
      <h3>Members{members ? ` (${countOf(members, info.members)})` : ''}</h3>
      {error && (
        <p class="error" role="alert">
          {error}
        </p>
      )}
      <ul ref={list} {...stops.list}>
        {members?.members.map(({ user, role }) => (
          <li key={user.id}>
            <Avatar name={user.username} />
            <span class="title">
              <bdi>{user.username}</bdi>
            </span>
            {role !== 'member' && <span class="hint"> {role === 'owner' ? 'Owner' : 'Moderator'}</span>}
            {removable.has(user.id) && (
              <button
                {...stops.stop(user.id)}
                class="quiet"
                aria-label={`Remove ${user.username} from this room`}
                onClick={() => void remove(user.username)}
              >
                Remove
              </button>
            )}
          </li>
        ))}
      </ul>
      {members?.more && (
        <p class="more">
          <button onClick={() => void more()}>Show more</button>
        </p>
      )}
      {canAdd && (
        <form onSubmit={add}>
          <Field
            label="Add someone by username"
            name="username"
            value={username}
            onInput={setUsername}
            error={adding.error}
          />
          {adding.done && (
            <p class="hint" role="status">
              {adding.done} is now a member.
            </p>
          )}
          <button disabled={username.trim() === ''}>Add</button>
        </form>
      )}
      <p class="end">
        <button onClick={onLeave}>{info.role === 'owner' ? 'Delete room' : 'Leave room'}</button>
      </p>
    </aside>
  );
}

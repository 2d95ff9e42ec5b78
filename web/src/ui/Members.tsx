/** The panel with the members of a room, those who are online first. */
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { Member, Members as Page, Room, RoomInfo, User } from '@uproar/client';
import type { Chat } from '../chat';
import { AddPeople } from './AddPeople';
import { Avatar } from './Avatar';
import { ErrorText } from './ErrorText';
import { Panel } from './Panel';
import type { Person } from './Profile';
import { ListSkeleton } from './Skeleton';
import { focusIfLost, useEvents } from './hooks';
import { useOneStop } from './keys';
import { hereText } from './here';
import { useTexts } from './texts';

interface Props {
  chat: Chat;
  room: Room;
  info: RoomInfo;
  onPerson: (person: Person) => void;
  onClose: () => void;
}

interface Shown {
  user: User;
  /** Unknown until their page is loaded. */
  member: Member | undefined;
  isHere: boolean;
}

/** The number of members agrees with the list below it, which is complete unless there are more. */
function countOf({ members, more, count }: Page, known: number): number {
  if (more && count !== undefined) return count;
  return more ? Math.max(known, members.length + 1) : members.length;
}

/** Everyone who is here, whether their page of the members is loaded or not, then the other members. */
function inOrder(here: readonly User[], members: readonly Member[]): Shown[] {
  const known = new Map(members.map((member) => [member.user.id, member]));
  const isHere = new Set(here.map(({ id }) => id));
  return [
    ...here.map((user) => ({ user, member: known.get(user.id), isHere: true })),
    ...members.filter(({ user }) => !isHere.has(user.id)).map((member) => ({ ...member, member, isHere: false })),
  ];
}

export function Members({ chat, room, info, onPerson, onClose }: Props) {
  const t = useTexts();
  useEvents(room, 'people');
  const [members, setMembers] = useState<Page>();
  const [error, setError] = useState<unknown>();
  const [additions, setAdditions] = useState(0);
  const { people, online } = room;
  const list = useRef<HTMLUListElement>(null);
  const canAdd = info.role === 'owner' || info.role === 'moderator';
  const shown = inOrder(people, members?.members ?? []);
  const stops = useOneStop(shown.map(({ user }) => user.id));
  const listItems = () => [...(list.current?.querySelectorAll<HTMLElement>('[data-stop]') ?? [])];
  const focusedAt = listItems().indexOf(document.activeElement as HTMLElement);
  // The member whose row had the focus is gone.
  useLayoutEffect(() => {
    if (focusedAt >= 0) focusIfLost(listItems().at(Math.min(focusedAt, shown.length - 1)) ?? null);
  });
  // Whoever is here is a member, so somebody who is not in the list has joined since it was loaded.
  const listed = new Set(members?.members.map(({ user }) => user.id));
  const newcomer = members && !members.more && people.find(({ id }) => !listed.has(id))?.id;
  useEffect(() => {
    let isCurrent = true;
    chat.api.members(room.name).then(
      (loaded) => {
        if (!isCurrent) return;
        for (const { user } of loaded.members) chat.names.add(user.username);
        setMembers(loaded);
        // The count comes from the list of rooms, which may be older.
        if (!loaded.more && loaded.members.length !== info.members) void chat.client.refresh();
      },
      (error: unknown) => isCurrent && setError(error),
    );
    return () => {
      isCurrent = false;
    };
  }, [room.name, info.members, additions, newcomer, room.memberChanges]);

  async function more(): Promise<void> {
    setError(undefined);
    try {
      const next = await chat.api.members(room.name, members!.members.at(-1)!.user.id);
      setMembers({ ...next, members: [...members!.members, ...next.members] });
    } catch (error) {
      setError(error);
    }
  }

  return (
    <Panel title={t.members.title} count={members && countOf(members, info.members)} onClose={onClose}>
      {(online !== undefined || people.length > 0) && (
        <p class="hint">{hereText(t, people.length, online)}</p>
      )}
      <ErrorText error={error} />
      <ul class="members" ref={list} {...stops.list}>
        {shown.map(({ user, member, isHere }) => (
          <li key={user.id} class={isHere ? 'here' : ''}>
            <button
              class="quiet"
              aria-haspopup="dialog"
              {...stops.stop(user.id)}
              onClick={(event) => onPerson({ ...user, near: event.currentTarget })}
            >
              <Avatar name={user.username} />
              <span class="title">
                <bdi>{user.username}</bdi>
                {isHere && <span class="visually-hidden">, {t.members.isOnline}</span>}
              </span>
              {member && member.role !== 'member' && <span class="hint">{t.person.roles[member.role]}</span>}
            </button>
          </li>
        ))}
      </ul>
      {!members && error === undefined && <ListSkeleton hasAvatars />}
      {members?.more && (
        <p class="more">
          <button onClick={() => void more()}>{t.buttons.showMore}</button>
        </p>
      )}
      {canAdd && (
        <AddPeople
          chat={chat}
          room={room.name}
          isMember={({ id }) => listed.has(id)}
          onAdded={() => setAdditions((count) => count + 1)}
        />
      )}
    </Panel>
  );
}

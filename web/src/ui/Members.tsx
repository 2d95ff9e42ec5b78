/** The panel with the members of a room, those who are online first. */
import type { ComponentChild } from 'preact';
import { useEffect, useRef, useState } from 'preact/hooks';
import type { Member, Members as Page, Room, RoomInfo, User } from '@uproar/client';
import type { Chat } from '../chat';
import type { Texts } from '../texts/language';
import { AddPeople } from './AddPeople';
import { Avatar } from './Avatar';
import { ConfirmDialog } from './Dialog';
import { ErrorText } from './ErrorText';
import { IconButton } from './Icon';
import { Panel } from './Panel';
import { ListSkeleton } from './Skeleton';
import { focusIfLost, useEvents } from './hooks';
import { useOneStop } from './keys';
import { useTexts } from './texts';

interface Props {
  chat: Chat;
  room: Room;
  info: RoomInfo;
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

/** How many people are here, or how many connections there are if nobody counts the people. */
export function hereText(
  { members: t }: Texts,
  people: number,
  connections: number | undefined,
  word = (text: ComponentChild) => text,
) {
  return connections === undefined ? t.online(people, word) : t.connections(connections, word);
}

export function Members({ chat, room, info, onClose }: Props) {
  const t = useTexts();
  useEvents(room, 'people');
  const [members, setMembers] = useState<Page>();
  const [error, setError] = useState<unknown>();
  const [additions, setAdditions] = useState(0);
  const [removing, setRemoving] = useState<string>();
  const { people, online } = room;
  const list = useRef<HTMLUListElement>(null);
  const canAdd = info.role === 'owner' || info.role === 'moderator';
  const canRemove = ({ user, role }: Member) =>
    role !== 'owner' && (info.role === 'owner' || (canAdd && role === 'member')) && user.id !== chat.me.id;
  const shown = inOrder(people, members?.members ?? []);
  const removable = new Set(shown.flatMap(({ user, member }) => (member && canRemove(member) ? [user.id] : [])));
  const stops = useOneStop([...removable]);
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
  }, [room.name, info.members, additions, newcomer, room.removals]);

  async function attempt(what: () => Promise<void>): Promise<void> {
    setError(undefined);
    try {
      await what();
    } catch (error) {
      setError(error);
    }
  }

  const more = () =>
    attempt(async () => {
      const next = await chat.api.members(room.name, members!.members.at(-1)!.user.id);
      setMembers({ ...next, members: [...members!.members, ...next.members] });
    });

  async function remove(username: string): Promise<void> {
    await chat.api.removeMember(room.name, username);
    setMembers(
      (shown) => shown && { ...shown, members: shown.members.filter(({ user }) => user.username !== username) },
    );
    setRemoving(undefined);
    // The pressed button is gone by then.
    setTimeout(() => {
      const next = list.current?.querySelector<HTMLElement>('[tabindex="0"]');
      focusIfLost(next ?? document.querySelector<HTMLElement>('.panel .close'));
    });
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
            <Avatar name={user.username} />
            <span class="title">
              <bdi>{user.username}</bdi>
              {isHere && <span class="visually-hidden">, {t.members.isOnline}</span>}
            </span>
            {member && member.role !== 'member' && (
              <span class="hint">{member.role === 'owner' ? t.members.owner : t.members.moderator}</span>
            )}
            {removable.has(user.id) && (
              <IconButton
                icon="remove"
                label={t.members.remove(user.username)}
                class="quiet"
                {...stops.stop(user.id)}
                onClick={() => setRemoving(user.username)}
              />
            )}
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
      {removing !== undefined && (
        <ConfirmDialog
          title={t.members.askRemove(removing)}
          action={t.buttons.remove}
          onConfirm={() => remove(removing)}
          onClose={() => setRemoving(undefined)}
        >
          {t.members.removed(<bdi>{removing}</bdi>)}{' '}
          {info.private ? t.members.comesBackPrivate : t.members.comesBackPublic}
        </ConfirmDialog>
      )}
    </Panel>
  );
}

/** The card of a person: who they are in this room, and what can be done about them. */
import { useEffect, useRef, useState } from 'preact/hooks';
import type { Member, Room, RoomInfo, User } from '@uproar/client';
import type { Chat } from '../chat';
import type { Texts } from '../texts/language';
import { Avatar } from './Avatar';
import { Moderation } from './Moderation';
import { mayRemove } from './RemoveMember';
import { Popover } from './Popover';
import { Sheet } from './Sheet';
import { isNarrow } from './address';
import { useEvents } from './hooks';
import { mention } from './keys';
import { useTexts } from './texts';

/** Somebody whose card is open. Of a mention, only the name is known. */
export interface Person {
  username: string;
  id?: string;
  /** What was pressed. */
  near: Element;
}

interface Props {
  chat: Chat;
  room: Room;
  info: RoomInfo;
  person: Person;
  onMention: () => void;
  onRemove: (user: User) => void;
  onBan: (user: User) => void;
  onClose: () => void;
}

export function Profile({ chat, room, info, person, onMention, onRemove, onBan, onClose }: Props) {
  const t = useTexts();
  useEvents(room, 'people', 'members');
  const dialog = useRef<HTMLDialogElement>(null);
  const [isSheet] = useState(isNarrow);
  /** Null: they are not a member. Undefined: that is not known. */
  const [member, setMember] = useState<Member | null>();
  const { id } = person;
  const user: User | undefined = id === undefined ? chat.person(room, person.username) : { ...person, id };
  const name = user?.username ?? person.username;
  const isMe = user?.id === chat.me.id;
  const isHere = user && room.isHere(user);
  /** There is nobody of this name in the room. */
  const [isNobody, setNobody] = useState(false);
  useEffect(() => {
    if (!user) void room.reloadMembers().then((areAll) => setNobody(areAll === true));
  }, []);
  useEffect(() => {
    if (!user) return;
    let isCurrent = true;
    // Without an answer, the card shows what is known anyway.
    chat.api.member(room.name, user.id).then((member) => isCurrent && setMember(member ?? null), () => {});
    return () => {
      isCurrent = false;
    };
  }, [user?.id, room.memberChanges]);

  const content = (
    <div class="profile">
      <Avatar name={name} />
      <div>
        <h2>
          {isMe ? t.person.you(<bdi>{name}</bdi>) : <bdi>{name}</bdi>}
        </h2>
        {isHere !== undefined && (
          <p class={isHere ? 'presence here' : 'presence'}>{isHere ? t.person.online : t.person.notOnline}</p>
        )}
      </div>
      <p class="hint">{!user && isNobody ? t.person.nobody : membership(t, member)}</p>
      {member?.silenced_until !== undefined && (
        <p class="hint">{t.moderation.silencedUntil(t.format.fullTime(member.silenced_until))}</p>
      )}
      <div class="buttons">
        {!isMe && (user || !isNobody) && (
          <button
            onClick={() => {
              dialog.current?.close();
              onMention();
              // Once a panel that covers the message box has gone.
              queueMicrotask(() => mention(name));
            }}
          >
            {t.person.mention}
          </button>
        )}
        {member && mayRemove(info, chat.me, member) && (
          <button
            class="danger"
            onClick={() => {
              dialog.current?.close();
              onRemove(member.user);
            }}
          >
            {t.person.remove}
          </button>
        )}
      </div>
      {user && member !== undefined && (
        <Moderation
          chat={chat}
          room={room}
          info={info}
          user={user}
          member={member}
          onBan={(user) => {
            dialog.current?.close();
            onBan(user);
          }}
        />
      )}
    </div>
  );
  const props = { label: isMe ? t.person.ownProfile : t.person.profileOf(name), handle: dialog, onClose };
  return isSheet ? (
    <Sheet {...props}>{content}</Sheet>
  ) : (
    <Popover {...props} near={person.near}>
      {content}
    </Popover>
  );
}

function membership({ person, format }: Texts, member: Member | null | undefined): string {
  if (member === undefined) return '';
  if (member === null) return person.notAMember;
  const since = person.memberSince(format.date(member.joined_at));
  return member.role === 'member' ? since : `${person.roles[member.role]} · ${since}`;
}

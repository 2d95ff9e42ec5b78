/** The open room. */
import type { ComponentChild } from 'preact';
import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import type { Message, Room as SubscribedRoom, RoomInfo, User } from '@uproar/client';
import { errorText } from '../errors';
import type { Chat } from '../chat';
import type { Texts } from '../texts/language';
import { Back } from './Back';
import { Composer } from './Composer';
import { Icon, IconButton } from './Icon';
import { MessageList } from './MessageList';
import { NotAMember } from './NotAMember';
import type { Person } from './Profile';
import { BanPerson } from './Moderation';
import { RemoveMember } from './RemoveMember';
import { MessageSkeleton } from './Skeleton';
import { focusIfLost, useEvents, useMedia, useStores } from './hooks';
import { hereText } from './here';
import { JumpToDate, Members, Profile, RoomDetails } from './later';
import { useTexts } from './texts';

/** `isAlone`: there is nothing beside this room, because it is in a frame on another site. */
export function Room({ chat, name, isAlone = false }: { chat: Chat; name: string; isAlone?: boolean }) {
  useStores(chat, chat.rooms);
  const info = chat.rooms.get(name);
  if (!info) return <NotAMember chat={chat} name={name} isAlone={isAlone} />;
  // Another room that takes the name starts afresh.
  return <OpenRoom key={info.epoch} chat={chat} name={name} info={info} isAlone={isAlone} />;
}

interface OpenRoomProps {
  chat: Chat;
  name: string;
  info: RoomInfo;
  isAlone: boolean;
}

function OpenRoom({ chat, name, info, isAlone }: OpenRoomProps) {
  const t = useTexts();
  const room = chat.room(name);
  useEvents(room, 'people', 'members', 'typing', 'loading');
  const [replyTo, setReplyTo] = useState<number | undefined>(() => {
    chat.claimDraft(name);
    return chat.draft(name).replyTo;
  });
  function updateReplyTo(offset: number | undefined): void {
    setReplyTo(offset);
    chat.changeDraft(name, { replyTo: offset });
  }
  // An edit survives a reload, the end of the session, and its row, which may be scrolled out of the document.
  const [editing, setEditing] = useState<number | undefined>(() => chat.draft(name).edit?.offset);
  const [panel, setPanel] = useState<'members' | 'details'>();
  const [isJumping, setJumping] = useState(false);
  const [person, setPerson] = useState<Person>();
  const cards = useRef(0);
  const showPerson = useCallback((person: Person) => {
    // A card that has just been closed may still be there.
    cards.current++;
    setPerson(person);
  }, []);
  const [removing, setRemoving] = useState<User>();
  const [banning, setBanning] = useState<User>();
  const list = useRef<MessageList>(null);
  const reply = useCallback((message: Message) => {
    updateReplyTo(message.offset);
    document.getElementById('composer')?.focus();
  }, []);
  const edit = useCallback((offset: number | undefined) => {
    setEditing(offset);
    chat.changeDraft(name, { edit: undefined });
    // The focused editor is gone.
    if (offset === undefined) document.getElementById('composer')?.focus();
  }, []);
  // The marker of new messages stays while the room is open.
  const newAfter = useRef<number>(undefined);
  if (newAfter.current === undefined || chat.isKeptUnread(info)) {
    newAfter.current = chat.rooms.unread(name) > 0 ? chat.rooms.readUpTo(name) : Infinity;
  }

  useEffect(() => {
    // A user who looks away finds the marker where they left off.
    const onBlur = () => {
      if (room?.timeline.loaded && chat.rooms.unread(name) === 0) newAfter.current = room.timeline.position;
    };
    addEventListener('blur', onBlur);
    return () => removeEventListener('blur', onBlur);
  }, [chat, room, name]);

  // There, a panel covers the room, and the focus must not be behind it.
  const isOverlaid = useMedia('(max-width: 64rem)');
  const here = room ? room.people.length : 0;
  // Narrow screens show only the number.
  const word = (text: ComponentChild) => <span class="word">{text}</span>;
  const toggle = (which: 'members' | 'details') => () => setPanel(panel === which ? undefined : which);
  const close = () => setPanel(undefined);
  return (
    <>
      <main class="room" aria-label={info.title} inert={isOverlaid && panel !== undefined}>
        <header class="room-head">
          {!isAlone && <Back chat={chat} room={name} />}
          <span class="kind" role="img" aria-label={info.private ? t.room.private : t.room.public}>
            <Icon name={info.private ? 'private' : 'public'} />
          </span>
          <h1 title={`${info.title} (${info.name})`}>
            <bdi>{info.title}</bdi>
          </h1>
          {room && <IconButton icon="date" label={t.jump.title} class="below" onClick={() => setJumping(true)} />}
          <button class="members" aria-expanded={panel === 'members'} onClick={toggle('members')}>
            <Icon name="members" />
            <span>
              {here > 0 || room?.online !== undefined ? hereText(t, here, room?.online, word) : t.members.title}
            </span>
          </button>
          {!isAlone && (
            <IconButton
              icon="details"
              label={t.details.title}
              class="below"
              aria-expanded={panel === 'details'}
              onClick={toggle('details')}
            />
          )}
        </header>
        {room ? (
          <MessageList
            key={room.id}
            handle={list}
            chat={chat}
            room={room}
            title={info.title}
            newAfter={newAfter.current ?? Infinity}
            editing={editing}
            onEdit={edit}
            onReply={reply}
            onPerson={showPerson}
          />
        ) : (
          <div class="messages">
            {chat.open?.error ? (
              <p class="error notice" role="alert">
                {t.room.failed} {errorText(chat.open.error, t)}{' '}
                <button onClick={() => chat.open?.retry()}>{t.buttons.tryAgain}</button>
              </p>
            ) : (
              <MessageSkeleton />
            )}
          </div>
        )}
        <p class="typing" aria-live="off">
          <span>{room && typingText(t, room)}</span>
        </p>
        <Composer
          chat={chat}
          room={name}
          title={info.title}
          replyTo={replyTo}
          quoted={replyTo === undefined ? undefined : room?.quoted(replyTo)}
          onCancelReply={() => updateReplyTo(undefined)}
          onSent={() => {
            updateReplyTo(undefined);
            list.current?.toNewest();
          }}
          onEditLast={() => {
            // The last message is not stored yet, and the user doesn't mean the one before.
            if (chat.outbox.of(name).length > 0) return;
            const last = room?.timeline.messages.findLast(({ user, text }) => user.id === chat.me.id && text !== null);
            if (!last) return;
            setEditing(last.offset);
            void list.current?.goTo(last.offset);
          }}
        />
      </main>
      {panel === 'members' && room && (
        <Members key="members" chat={chat} room={room} info={info} onPerson={showPerson} onClose={close} />
      )}
      {panel === 'details' && <RoomDetails key="details" chat={chat} info={info} onClose={close} />}
      {person && room && (
        <Profile
          key={`card ${cards.current}`}
          chat={chat}
          room={room}
          info={info}
          person={person}
          onMention={() => {
            // There, it covers the message box.
            if (isOverlaid) close();
          }}
          onRemove={setRemoving}
          onBan={setBanning}
          onClose={() => {
            setPerson((shown) => (shown === person ? undefined : shown));
            // What was pressed may be gone.
            focusIfLost(document.querySelector('.scroller'));
          }}
        />
      )}
      {removing && (
        <RemoveMember key="remove" chat={chat} info={info} user={removing} onClose={() => setRemoving(undefined)} />
      )}
      {banning && (
        <BanPerson key="ban" chat={chat} info={info} user={banning} onClose={() => setBanning(undefined)} />
      )}
      {isJumping && room && (
        <JumpToDate
          room={room}
          onGoTo={(offset, notice) => void list.current?.goTo(offset, true, notice)}
          onClose={() => setJumping(false)}
        />
      )}
    </>
  );
}

function typingText(t: Texts, { typingUsers }: SubscribedRoom): string {
  const names = typingUsers.map(({ username }) => username);
  if (names.length === 0) return '';
  if (names.length === 1) return t.room.isTyping(names[0]!);
  return names.length === 2 ? t.room.areTyping(names) : t.room.manyTyping(names.length);
}

/** A room that the user is not, or no longer, a member of, and what they wrote there that was not sent. */
import { useEffect, useState } from 'preact/hooks';
import { ApiError, type RoomInfo } from '@uproar/client';
import { errorText } from '../errors';
import type { Chat } from '../chat';
import type { Texts } from '../texts/language';
import { ErrorText } from './ErrorText';
import { RoomSkeleton } from './Skeleton';
import { addressOf, replace } from './address';
import { copy } from './clipboard';
import { focusIfLost, useStores } from './hooks';
import { useOneStop } from './keys';
import { useTexts } from './texts';

/** `isAlone`: there is nothing beside this room, because it is in a frame on another site. */
export function NotAMember({ chat, name, isAlone }: { chat: Chat; name: string; isAlone: boolean }) {
  const t = useTexts();
  const [error, setError] = useState<unknown>();
  const [found, setFound] = useState<'public' | 'hidden'>();
  const { loaded } = chat.rooms;
  useEffect(() => {
    if (!loaded) return;
    let isCurrent = true;
    setError(undefined);
    setFound(undefined);
    chat.api.room(name).then(
      (room) => {
        if (!isCurrent) return;
        // The name in the URL may be spelled differently.
        if (room.name === name) setFound('public');
        else replace(room.name, chat.wanted);
      },
      (error: unknown) => {
        if (!isCurrent) return;
        if (error instanceof ApiError && error.code === 'no_such_room') setFound('hidden');
        else setError(error);
      },
    );
    return () => {
      isCurrent = false;
    };
  }, [name, loaded]);
  if (!loaded) return <RoomSkeleton />;
  const former = chat.formerRoom(name);
  const title = <bdi>{former?.title ?? name}</bdi>;

  async function join(): Promise<void> {
    setError(undefined);
    try {
      await chat.joinRoom(name);
    } catch (error) {
      setError(error);
    }
  }

  return (
    <main class="room nothing" tabIndex={-1} ref={focusIfLost}>
      {!isAlone && (
        <a class="all" href={addressOf(undefined)}>
          {t.rooms.all}
        </a>
      )}
      <h1>{former ? t.notAMember.noLonger(title) : t.notAMember.not(title)}</h1>
      {found && <p role="status">{whyNot(t, former, found)}</p>}
      {found === 'public' && (
        <button class="primary" onClick={() => void join()}>
          {former ? t.notAMember.joinAgain : t.notAMember.join}
        </button>
      )}
      <ErrorText error={error} />
      <Unsent chat={chat} name={name} />
    </main>
  );
}

/** What was written and not sent, to be copied before it is discarded. */
function Unsent({ chat, name }: { chat: Chat; name: string }) {
  const t = useTexts();
  useStores(chat, chat.outbox);
  /** What was copied last, and whether that succeeded. */
  const [copied, setCopied] = useState<{ id: string; text: string }>();
  useState(() => chat.claimDraft(name));
  const drafts = chat.unfinished(name).map(({ part, text }) => ({ id: part, part, text }));
  const messages = chat.outbox.of(name);
  const stops = useOneStop([...drafts, ...messages].flatMap(({ id }) => [`copy ${id}`, id]));
  if (drafts.length + messages.length === 0) return null;

  async function copyText(id: string, text: string): Promise<void> {
    try {
      await copy(text);
      setCopied({ id, text: t.notAMember.copied });
    } catch (error) {
      setCopied({ id, text: errorText(error, t) });
    }
  }

  return (
    <section class="unsent">
      <h2>{t.notAMember.unsent}</h2>
      <ul {...stops.list}>
        {[...messages, ...drafts].map((item) => (
          <li key={item.id}>
            <span class="text" dir="auto">
              {item.text}
            </span>
            <button {...stops.stop(`copy ${item.id}`)} onClick={() => void copyText(item.id, item.text)}>
              {t.notAMember.copy}
            </button>
            <button
              {...stops.stop(item.id)}
              onClick={() => ('part' in item ? chat.discardDraft(name, item.part) : chat.outbox.discard(item.id))}
            >
              {t.buttons.discard}
            </button>
            {copied?.id === item.id && (
              <span class="hint" role="status">
                {copied.text}
              </span>
            )}
          </li>
        ))}
      </ul>
    </section>
  );
}

/** Why the user is not a member of a room, and how to become one, as far as the server reveals it. */
function whyNot({ notAMember: t }: Texts, former: RoomInfo | undefined, found: 'public' | 'hidden'): string {
  if (found === 'public') return former ? t.wasPublic : '';
  if (!former) return t.unknown;
  return former.private ? t.wasPrivate : t.deleted;
}

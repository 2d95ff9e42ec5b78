/** What the whole page and a room in a frame have in common: the chat, and the places in it. */
import { useEffect, useState } from 'preact/hooks';
import { Chat, type Environment } from '../chat';
import type { Session } from '../session';
import { OWNER_KEY } from '../state/privacy';
import { isPlace, linkTo, parseAddress, placeInAddress, replace } from './address';

/** What differs between the whole page and a room in a frame. */
export interface Surroundings extends Omit<Environment, 'url'> {
  /** Called when the user is no longer signed in. */
  stopped?(): void;
}

/** The chat of the user who is signed in. */
export function useChat(session: Session, surroundings: Surroundings): Chat | undefined {
  const [chat, setChat] = useState<Chat>();
  const { user } = session;
  useEffect(() => {
    if (!user) return;
    const chat = new Chat(user, session, {
      url: location.origin,
      ...surroundings,
    });
    const onStorage = ({ key, newValue }: StorageEvent) => {
      chat.stored(key);
      // What another user's signing in removed is still to be sent by this tab.
      const isOurs = surroundings.storage.getItem(OWNER_KEY) === user.id;
      if (key !== null && newValue === null && isOurs) chat.outbox.removedElsewhere(key);
    };
    addEventListener('storage', onStorage);
    const { room, message } = placeInAddress();
    chat.show(room, message);
    chat.start();
    setChat(chat);
    return () => {
      removeEventListener('storage', onStorage);
      chat.stop();
      surroundings.stopped?.();
      setChat(undefined);
    };
  }, [user?.id]);
  return chat;
}

/**
 * Shows what the address names, and makes links to places in the chat lead there. In a frame, only those to the open
 * room do: the others open the whole page, in a tab of its own.
 */
export function usePlaces(chat: Chat, isAlone = false): void {
  useEffect(() => {
    const moved = () => {
      const { room, message } = placeInAddress();
      chat.show(room, message);
    };
    const onClick = (event: MouseEvent) => {
      const link = event.target instanceof Element ? event.target.closest('a') : null;
      const isPlain = !event.defaultPrevented && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
      if (!link || !isPlain || !isPlace(link.href)) return;
      const { room, message } = parseAddress(link.hash);
      event.preventDefault();
      if (isAlone && room !== chat.openRoom) window.open(linkTo(room!, message), '_blank', 'noopener');
      // The browser's history belongs to the site around the frame.
      else if (isAlone) replace(room!, message);
      // If it is the one in the address, it leads back to the message.
      else if (link.hash === location.hash) moved();
      else location.hash = link.hash;
    };
    addEventListener('hashchange', moved);
    addEventListener('click', onClick);
    return () => {
      removeEventListener('hashchange', moved);
      removeEventListener('click', onClick);
    };
  }, [chat, isAlone]);
}

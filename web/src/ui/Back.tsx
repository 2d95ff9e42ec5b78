/** The way from a room back to the list of rooms, which a phone does not show beside the room. */
import { useEffect, useRef } from 'preact/hooks';
import type { Chat } from '../chat';
import { Icon } from './Icon';
import { addressOf, toList } from './address';
import { useTexts } from './texts';
import { onSwipeBack } from './touch';

export function Back({ chat, room }: { chat: Chat; room: string }) {
  const t = useTexts();
  const link = useRef<HTMLAnchorElement>(null);
  useEffect(() => onSwipeBack(link.current!.closest('main')!, toList), []);
  const others = chat.rooms.unreadBeside(room);
  return (
    <a
      ref={link}
      class="back icon-button"
      href={addressOf(undefined)}
      aria-label={others > 0 ? t.rooms.allUnread(others) : t.rooms.all}
      onClick={(event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return;
        event.preventDefault();
        toList();
      }}
    >
      <Icon name="back" />
      {others > 0 && <span class="count">{t.format.number(others)}</span>}
    </a>
  );
}

import { type RoomInfo, UNREAD_LIMIT } from '@uproar/client';
import { type RoomList } from '../state/room-list';
import { useTexts } from './texts';

/** How many messages in a room are unread, with a sign if one of them mentions the user. Nothing if all are read. */
export function UnreadCount({ rooms, room }: { rooms: RoomList; room: RoomInfo }) {
  const t = useTexts();
  const unread = rooms.unread(room.name);
  if (unread === 0) return null;
  const mentioned = rooms.isMentioned(room);
  return (
    <span class={mentioned ? 'count mentioned' : 'count'}>
      {mentioned && '@'}
      {unread > UNREAD_LIMIT ? `${t.format.number(UNREAD_LIMIT)}+` : t.format.number(unread)}
      <span class="visually-hidden"> {t.rooms.isUnread}</span>
    </span>
  );
}

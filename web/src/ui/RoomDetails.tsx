/** The panel with what a room is, and the way out of it. */
import { useState } from 'preact/hooks';
import type { RoomInfo } from '@uproar/client';
import type { Chat } from '../chat';
import type { Mark } from '../state/room-marks';
import { ConfirmDialog } from './Dialog';
import { Icon } from './Icon';
import { Panel } from './Panel';
import { go } from './address';
import { useStores } from './hooks';

interface Props {
  chat: Chat;
  info: RoomInfo;
  onClose: () => void;
}

const ROLES = { owner: 'You own this room', moderator: 'You moderate this room', member: 'You’re a member' };

const MARKS: Record<Mark, string> = { favourite: 'Favourite', muted: 'Mute' };

export function RoomDetails({ chat, info, onClose }: Props) {
  useStores(chat.marks);
  const [leaving, setLeaving] = useState(false);
  const { name, title, members, role = 'member' } = info;
  const isOwner = role === 'owner';
  return (
    <Panel title="Room details" onClose={onClose}>
      <dl>
        <dt>Title</dt>
        <dd>
          <bdi>{title}</bdi>
        </dd>
        <dt>Name</dt>
        <dd>
          <bdi>{name}</bdi>
        </dd>
        <dt>Who can join</dt>
        <dd>
          <Icon name={info.private ? 'private' : 'public'} />
          {info.private ? 'People who are added' : 'Everyone'}
        </dd>
        <dt>Members</dt>
        <dd>{members}</dd>
        <dt>Your role</dt>
        <dd>{ROLES[role]}</dd>
      </dl>
      <p class="marks">
        {(Object.keys(MARKS) as Mark[]).map((mark) => (
          <button
            key={mark}
            aria-pressed={chat.marks.has(mark, name)}
            onClick={() => chat.marks.set(mark, name, !chat.marks.has(mark, name))}
          >
            <Icon name={mark} />
            {MARKS[mark]}
          </button>
        ))}
      </p>
      <p class="hint">
        Favourites come first in your list. Muted rooms don’t notify you, and their messages aren’t counted. Both are
        remembered in this browser only.
      </p>
      <p class="end">
        <button class="danger" onClick={() => setLeaving(true)}>
          {isOwner ? 'Delete room' : 'Leave room'}
        </button>
      </p>
      {leaving && (
        <ConfirmDialog
          title={isOwner ? 'Delete room?' : 'Leave room?'}
          action={isOwner ? 'Delete' : 'Leave'}
          onConfirm={async () => {
            await (isOwner ? chat.deleteRoom(name) : chat.leaveRoom(name));
            go(undefined);
          }}
          onClose={() => setLeaving(false)}
        >
          {isOwner
            ? `You own “${title}”, so you can’t leave it. Deleting it also deletes all of its messages, for everyone.`
            : `You’ll stop receiving messages from “${title}”.`}
        </ConfirmDialog>
      )}
    </Panel>
  );
}

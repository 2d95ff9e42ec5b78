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
import { useTexts } from './texts';

interface Props {
  chat: Chat;
  info: RoomInfo;
  onClose: () => void;
}

const MARKS: readonly Mark[] = ['favourite', 'muted'];

export function RoomDetails({ chat, info, onClose }: Props) {
  const t = useTexts();
  useStores(chat.marks);
  const [leaving, setLeaving] = useState(false);
  const { name, title, members, role = 'member' } = info;
  const isOwner = role === 'owner';
  return (
    <Panel title={t.details.title} onClose={onClose}>
      <dl>
        <dt>{t.details.roomTitle}</dt>
        <dd>
          <bdi>{title}</bdi>
        </dd>
        <dt>{t.details.name}</dt>
        <dd>
          <bdi>{name}</bdi>
        </dd>
        <dt>{t.details.joining}</dt>
        <dd>
          <Icon name={info.private ? 'private' : 'public'} />
          {info.private ? t.details.private : t.details.public}
        </dd>
        <dt>{t.members.title}</dt>
        <dd>{t.format.number(members)}</dd>
        <dt>{t.details.role}</dt>
        <dd>{t.details.roles[role]}</dd>
      </dl>
      <p class="marks">
        {MARKS.map((mark) => (
          <button
            key={mark}
            aria-pressed={chat.marks.has(mark, name)}
            onClick={() => chat.marks.set(mark, name, !chat.marks.has(mark, name))}
          >
            <Icon name={mark} />
            {t.details.marks[mark]}
          </button>
        ))}
      </p>
      <p class="hint">
        {t.details.marksHint}
      </p>
      <p class="end">
        <button class="danger" onClick={() => setLeaving(true)}>
          {isOwner ? t.details.delete : t.details.leave}
        </button>
      </p>
      {leaving && (
        <ConfirmDialog
          title={isOwner ? t.details.askDelete : t.details.askLeave}
          action={isOwner ? t.buttons.delete : t.buttons.leave}
          onConfirm={async () => {
            await (isOwner ? chat.client.deleteRoom(name) : chat.client.leaveRoom(name));
            go(undefined);
          }}
          onClose={() => setLeaving(false)}
        >
          {isOwner ? t.details.deleted(title) : t.details.left(title)}
        </ConfirmDialog>
      )}
    </Panel>
  );
}

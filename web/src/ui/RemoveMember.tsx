/** The question before a member is removed. */
import type { Member, RoomInfo, User } from '@uproar/client';
import type { Chat } from '../chat';
import { ConfirmDialog } from './Dialog';
import { useTexts } from './texts';

export function mayRemove({ role: own }: RoomInfo, me: User, { user, role }: Member): boolean {
  if (user.id === me.id || role === 'owner') return false;
  return own === 'owner' || (own === 'moderator' && role === 'member');
}

interface Props {
  chat: Chat;
  info: RoomInfo;
  user: User;
  onClose: () => void;
}

export function RemoveMember({ chat, info, user: { username }, onClose }: Props) {
  const t = useTexts();
  return (
    <ConfirmDialog
      title={t.members.askRemove(username)}
      action={t.buttons.remove}
      onConfirm={async () => {
        await chat.api.removeMember(info.name, username);
        onClose();
      }}
      onClose={onClose}
    >
      {t.members.removed(<bdi>{username}</bdi>)}{' '}
      {info.private ? t.members.comesBackPrivate : t.members.comesBackPublic}
    </ConfirmDialog>
  );
}

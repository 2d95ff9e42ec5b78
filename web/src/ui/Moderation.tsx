/** What owners and moderators can do about a person: the role, a silence, and a ban. */
import { useEffect, useState } from 'preact/hooks';
import type { Ban, Member, Role, Room, RoomInfo, User } from '@uproar/client';
import type { Chat } from '../chat';
import { ConfirmDialog } from './Dialog';
import { ErrorText } from './ErrorText';
import { useTexts } from './texts';

const DAY_MS = 24 * 3600 * 1000;
/** How far back a ban deletes messages, if that is wanted. */
const DELETED_MS = 7 * DAY_MS;

const RANKS: Record<Role, number> = { member: 0, moderator: 1, owner: 2 };

/** Whether the user may silence and ban a member, or ban somebody who is not a member (`role` is undefined). */
function mayModerate({ role: own = 'member' }: RoomInfo, role: Role | undefined): boolean {
  return RANKS[own] >= 1 && (role === undefined || RANKS[own] > RANKS[role]);
}

interface Props {
  chat: Chat;
  room: Room;
  info: RoomInfo;
  user: User;
  /** Null: they are not a member. */
  member: Member | null;
  onBan: (user: User) => void;
}

export function Moderation({ chat, room, info, user, member, onBan }: Props) {
  const t = useTexts();
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  const [ban, setBan] = useState<Ban>();
  const mayBan = mayModerate(info, member?.role);
  const { name } = room;
  useEffect(() => {
    setBan(undefined);
    if (member || !mayBan) return;
    let isCurrent = true;
    // Without an answer, the card offers to ban them, which changes nothing then.
    chat.api.banOf(name, user.id).then((found) => isCurrent && setBan(found), () => {});
    return () => {
      isCurrent = false;
    };
  }, [user.id, member, mayBan, room.memberChanges]);

  // The publication of the change makes the card load what it shows.
  async function change(action: () => Promise<void>): Promise<void> {
    setBusy(true);
    setError(undefined);
    try {
      await action();
    } catch (error) {
      setError(error);
    }
    setBusy(false);
  }

  const isMe = user.id === chat.me.id;
  if (isMe || !(mayBan || info.role === 'owner')) return null;
  const silenced = member?.silenced_until;
  return (
    <>
      {member && info.role === 'owner' && (
        <label class="variable">
          {t.moderation.role}
          <select
            value={member.role}
            disabled={busy}
            onChange={({ currentTarget: select }) => {
              const role = select.value as Role;
              void change(() => chat.api.setRole(name, user.username, role));
            }}
          >
            {(['member', 'moderator', 'owner'] as const).map((role) => (
              <option key={role} value={role}>
                {t.person.roles[role]}
              </option>
            ))}
          </select>
        </label>
      )}
      <ErrorText error={error} />
      {mayBan && (
        <div class="buttons">
          {member &&
            (silenced === undefined ? (
              <button
                disabled={busy}
                onClick={() =>
                  void change(() => chat.api.silence(name, user.username, { until: Date.now() + DAY_MS }))
                }
              >
                {t.moderation.silence}
              </button>
            ) : (
              <button disabled={busy} onClick={() => void change(() => chat.api.unsilence(name, user.username))}>
                {t.moderation.unsilence}
              </button>
            ))}
          {ban ? (
            <button disabled={busy} onClick={() => void change(() => chat.api.unban(name, user.username))}>
              {t.moderation.unban}
            </button>
          ) : (
            <button class="danger" disabled={busy} onClick={() => onBan(user)}>
              {t.moderation.ban}
            </button>
          )}
        </div>
      )}
    </>
  );
}

/** The question before a person is banned. */
export function BanPerson({
  chat,
  info,
  user: { username },
  onClose,
}: {
  chat: Chat;
  info: RoomInfo;
  user: User;
  onClose: () => void;
}) {
  const t = useTexts();
  const [deletes, setDeletes] = useState(false);
  return (
    <ConfirmDialog
      title={t.moderation.askBan(username)}
      action={t.moderation.ban}
      onConfirm={async () => {
        const since = deletes ? { delete_since: Date.now() - DELETED_MS } : {};
        // The server deletes a bounded number at a time.
        while (await chat.api.ban(info.name, username, since));
        onClose();
      }}
      onClose={onClose}
    >
      {t.moderation.banned(<bdi>{username}</bdi>)}
      <label class="check">
        <input type="checkbox" checked={deletes} onInput={(event) => setDeletes(event.currentTarget.checked)} />
        {t.moderation.deleteMessages}
      </label>
    </ConfirmDialog>
  );
}

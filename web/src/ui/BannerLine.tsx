/** What the page says about itself: to everyone above the rooms, and to screen readers alone. */
import type { Chat } from '../chat';
import { useStores } from './hooks';
import { useTexts } from './texts';

export function BannerLine({ chat }: { chat: Chat }) {
  const t = useTexts();
  useStores(chat, chat.banner);
  return (
    <p class={chat.banner.text ? 'banner' : 'visually-hidden'} role="status">
      {chat.banner.text?.(t)}{' '}
      {chat.isClosed && <button onClick={() => chat.client.reconnect()}>{t.main.reconnect}</button>}
    </p>
  );
}

export function Announcement({ chat: { announcer } }: { chat: Chat }) {
  useStores(announcer);
  return (
    <p class="visually-hidden" aria-live="polite">
      {/* A new element each time, so that a repeated text is announced again. */}
      <span key={announcer.count}>{announcer.text}</span>
    </p>
  );
}

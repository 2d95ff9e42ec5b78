/** The box to write messages in. */
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { Quote } from '@uproar/client';
import type { Chat } from '../chat';
import { plainText } from '../state/markdown';
import { cut, excess, isBlank, storable } from '../state/text';
import { Icon } from './Icon';
import { Writing } from './Writing';
import { mayTakeFocus } from './hooks';
import { useTexts } from './texts';

/** A title of this length fits into the placeholder on a phone. */
const SHORT_TITLE = 20;

interface Props {
  chat: Chat;
  room: string;
  title: string;
  /** The offset of the message being replied to. */
  replyTo: number | undefined;
  /** That message, once it is loaded. */
  quoted: Quote | undefined;
  onCancelReply: () => void;
  onSent: () => void;
  onEditLast: () => void;
}

export function Composer({ chat, room, title, replyTo, quoted, onCancelReply, onSent, onEditLast }: Props) {
  const t = useTexts();
  const [text, setText] = useState(() => chat.draft(room).text);
  const area = useRef<HTMLTextAreaElement>(null);
  const tooLong = excess(text, chat.textLimitBytes);
  const canSend = !isBlank(storable(text)) && tooLong === 0;

  // A layout effect, so that it does not take the focus from what is shown by then.
  useLayoutEffect(() => {
    // On a phone, focusing would open the keyboard.
    if (matchMedia('(pointer: fine)').matches && mayTakeFocus()) area.current?.focus();
  }, []);

  function updateDraft(text: string): void {
    setText(text);
    chat.changeDraft(room, { text });
  }

  function send(): void {
    if (!canSend) return;
    chat.send({ room, text: storable(text), ...(replyTo === undefined ? {} : { replyTo }) });
    updateDraft('');
    onSent();
    area.current?.focus();
  }

  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      {replyTo !== undefined && (
        <p class="replying">
          {quoted ? (
            <span dir="auto">
              {t.composer.replyingTo(
                <bdi class="name">{quoted.user.username}</bdi>,
                quoted.text === null ? t.message.quotedDeleted : cut(plainText(quoted.text), 120),
              )}
            </span>
          ) : (
            <span>{t.composer.replyingToEarlier}</span>
          )}
          <button type="button" class="quiet" onClick={onCancelReply}>
            {t.buttons.cancel}
          </button>
        </p>
      )}
      <Writing
        chat={chat}
        room={room}
        area={area}
        id="composer"
        label={t.composer.to(title)}
        placeholder={title.length <= SHORT_TITLE ? t.composer.to(title) : t.composer.placeholder}
        describedBy={tooLong > 0 ? 'composer-error' : undefined}
        enterkeyhint="send"
        text={text}
        onText={(text) => {
          updateDraft(text);
          if (!isBlank(text)) chat.notifyTyping(room);
        }}
        onKey={(event) => {
          if (event.key === 'Enter' && !event.shiftKey) {
            event.preventDefault();
            send();
          } else if (event.key === 'ArrowUp' && text === '') {
            event.preventDefault();
            onEditLast();
          } else if (event.key === 'Escape' && replyTo !== undefined) onCancelReply();
        }}
      >
        <button class="primary icon-button" aria-label={t.composer.send} disabled={!canSend}>
          <Icon name="send" />
        </button>
      </Writing>
      {tooLong > 0 && (
        <p id="composer-error" class="error" role="alert">
          {t.composer.tooLong(tooLong)}
        </p>
      )}
    </form>
  );
}

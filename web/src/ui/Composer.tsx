/** The box to write messages in. */
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { Chat } from '../chat';
import type { Quote } from '../room';
import { byteLength, storable } from '../state/text';
import { remember, storage } from '../storage';

/** The server's default `text_limit_bytes`. Longer texts are not sent. */
const TEXT_LIMIT_BYTES = 16384;
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
  const key = `uproar.draft.${chat.me.id}.${room}`;
  const [text, setText] = useState(() => storage.getItem(key) ?? '');
  const area = useRef<HTMLTextAreaElement>(null);
  const excessBytes = text.length > TEXT_LIMIT_BYTES / 4 ? byteLength(text) - TEXT_LIMIT_BYTES : 0;
  const canSend = storable(text).trim() !== '' && excessBytes <= 0;

  useEffect(() => {
    // On a phone, focusing would open the keyboard.
    if (matchMedia('(pointer: fine)').matches) area.current?.focus();
  }, []);

  function fitHeight(): void {
    const { style } = area.current!;
    style.height = 'auto';
    style.height = `${area.current!.scrollHeight + 2}px`;
  }
  useLayoutEffect(fitHeight, [text]);
  useEffect(() => {
    addEventListener('resize', fitHeight);
    return () => removeEventListener('resize', fitHeight);
  }, []);

  function updateDraft(text: string): void {
    setText(text);
    // A draft survives a reload and the end of the session.
    remember(key, text === '' ? undefined : text);
  }

  function send(): void {
    if (!canSend) return;
    chat.outbox.add({ room, text: storable(text), ...(replyTo === undefined ? {} : { replyTo }) });
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
              Replying to <bdi class="name">{quoted.user.username}</bdi>:{' '}
              {quoted.text?.slice(0, 120) ?? 'Message deleted'}
            </span>
          ) : (
            <span>Replying to an earlier message</span>
          )}
          <button type="button" class="quiet" onClick={onCancelReply}>
            Cancel
          </button>
        </p>
      )}
      <div class="input-row">
        <textarea
          id="composer"
          ref={area}
          rows={1}
          dir="auto"
          placeholder={title.length <= SHORT_TITLE ? `Message ${title}` : 'Write a message'}
          aria-label={`Message ${title}`}
          aria-describedby={excessBytes > 0 ? 'composer-error' : undefined}
          enterkeyhint="send"
          value={text}
          onInput={(event) => {
            updateDraft(event.currentTarget.value);
            if (event.currentTarget.value.trim() !== '') chat.notifyTyping(room);
          }}
          onKeyDown={(event) => {
            // Some browsers end a composition before they report the key that ended it.
            if (event.isComposing || event.keyCode === 229) return;
            if (event.key === 'Enter' && !event.shiftKey) {
              event.preventDefault();
              send();
            } else if (event.key === 'ArrowUp' && text === '') {
              event.preventDefault();
              onEditLast();
            } else if (event.key === 'Escape' && replyTo !== undefined) onCancelReply();
          }}
        />
        <button class="primary" disabled={!canSend}>
          Send
        </button>
      </div>
      {excessBytes > 0 && (
        <p id="composer-error" class="error" role="alert">
          Your message is {excessBytes} {excessBytes === 1 ? 'byte' : 'bytes'} too long.
        </p>
      )}
    </form>
  );
}

import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { Chat } from '../chat';
import { keep, remember } from '../keep';
import type { Message } from '../state/room';
import { bytes, storable } from '../state/text';

/** The server's `text_limit_bytes`, unless the operator sets it: longer texts are refused before they are sent. */
const TEXT_LIMIT_BYTES = 16384;

interface Props {
  chat: Chat;
  room: string;
  title: string;
  replyTo: Message | undefined;
  onCancelReply: () => void;
  onSent: () => void;
  onEditLast: () => void;
}

export function Composer({ chat, room, title, replyTo, onCancelReply, onSent, onEditLast }: Props) {
  const key = `uproar.draft.${chat.me.id}.${room}`;
  const [text, setText] = useState(() => keep.getItem(key) ?? '');
  const area = useRef<HTMLTextAreaElement>(null);
  const over = text.length > TEXT_LIMIT_BYTES / 4 ? bytes(text) - TEXT_LIMIT_BYTES : 0;
  const canSend = storable(text).trim() !== '' && over <= 0;

  useEffect(() => {
    // On a phone that would open the keyboard.
    if (matchMedia('(pointer: fine)').matches) area.current?.focus();
  }, []);

  useLayoutEffect(() => {
    const { style } = area.current!;
    style.height = 'auto';
    style.height = `${area.current!.scrollHeight + 2}px`;
  }, [text]);

  function write(text: string): void {
    setText(text);
    // What is typed outlives a reload and the end of a session.
    remember(key, text === '' ? undefined : text);
  }

  function send(): void {
    if (!canSend) return;
    chat.outbox.add({ room, text: storable(text), ...(replyTo ? { replyTo: replyTo.offset } : {}) });
    write('');
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
      {replyTo && (
        <p class="replying">
          <span dir="auto">
            Reply to <bdi class="name">{replyTo.user.username}</bdi>: {replyTo.text?.slice(0, 120)}
          </span>
          <button type="button" class="quiet" onClick={onCancelReply}>
            Cancel
          </button>
        </p>
      )}
      <div class="line-of">
        <textarea
          id="composer"
          ref={area}
          rows={1}
          dir="auto"
          placeholder={`Write to ${title}`}
          aria-label={`Write to ${title}`}
          aria-describedby={over > 0 ? 'composer-error' : undefined}
          enterkeyhint="send"
          value={text}
          onInput={(event) => {
            write(event.currentTarget.value);
            if (event.currentTarget.value.trim() !== '') chat.typed(room);
          }}
          onKeyDown={(event) => {
            if (event.isComposing) return;
            if (event.key === 'Enter' && !event.shiftKey) {
              event.preventDefault();
              send();
            } else if (event.key === 'ArrowUp' && text === '') {
              event.preventDefault();
              onEditLast();
            } else if (event.key === 'Escape' && replyTo) onCancelReply();
          }}
        />
        <button class="primary" disabled={!canSend}>
          Send
        </button>
      </div>
      {over > 0 && (
        <p id="composer-error" class="error" role="alert">
          The text is too long by {over} bytes.
        </p>
      )}
    </form>
  );
}

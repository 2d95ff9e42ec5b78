/** The box to write messages in. */
import { useLayoutEffect, useMemo, useRef, useState } from 'preact/hooks';
import type { Quote } from '@uproar/client';
import type { Chat } from '../chat';
import { plainText } from '../state/markdown';
import { MANY_LINES, MOST_PARTS, countLines, split } from '../state/split';
import { cut, excess, isBlank, storable } from '../state/text';
import { Icon } from './Icon';
import { Writing } from './Writing';
import { mayTakeFocus } from './hooks';
import { useTexts } from './texts';

/** A placeholder of this length fits on a phone. */
const SHORT = 28;

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
  /** Whether the text was pasted, and may be meant as several messages. */
  const [isPasted, setPasted] = useState(false);
  /** Whether the user keeps the text as it is, although it may be split. */
  const [isKept, setKept] = useState(false);
  const tooLong = excess(text, chat.textLimitBytes);
  const canSend = !isBlank(storable(text)) && tooLong === 0;
  const isOffered = (tooLong > 0 || isPasted) && !isKept;
  const parts = useMemo(
    () => (isOffered ? split(storable(text), chat.textLimitBytes) : undefined),
    [isOffered, text, chat.textLimitBytes],
  );

  // A layout effect, so that it does not take the focus from what is shown by then.
  useLayoutEffect(() => {
    // On a phone, focusing would open the keyboard.
    if (matchMedia('(pointer: fine)').matches && mayTakeFocus()) area.current?.focus();
  }, []);

  function updateDraft(text: string): void {
    setText(text);
    if (text === '') {
      setPasted(false);
      setKept(false);
    }
    chat.changeDraft(room, { text });
  }

  function send(): void {
    if (canSend) sendAll([storable(text)]);
  }

  /** Sends messages. The first one is the reply. */
  function sendAll(texts: readonly string[]): void {
    for (const [i, text] of texts.entries()) {
      // The list of messages shows what fails.
      chat.open?.send(text, i > 0 ? {} : { replyTo }).catch(() => {});
    }
    updateDraft('');
    onSent();
    area.current?.focus();
  }

  function keep(): void {
    setKept(true);
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
      <Offer text={isOffered ? text : ''} isTooLong={tooLong > 0} parts={parts} onSend={sendAll} onKeep={keep} />
      <Writing
        chat={chat}
        room={room}
        area={area}
        id="composer"
        label={t.composer.to(title)}
        placeholder={t.composer.to(title).length <= SHORT ? t.composer.to(title) : t.composer.placeholder}
        describedBy={tooLong > 0 ? 'composer-error' : undefined}
        enterkeyhint="send"
        text={text}
        onText={(now, isPasted) => {
          updateDraft(now);
          if (isPasted && countLines(now) - countLines(text) >= MANY_LINES - 1) {
            setPasted(true);
            setKept(false);
          }
          if (!isBlank(now)) chat.open?.typing();
        }}
        onKey={(event) => {
          if (event.key === 'Enter' && !event.shiftKey) {
            event.preventDefault();
            send();
          } else if (event.key === 'ArrowUp' && !event.altKey && text === '') {
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

interface OfferProps {
  /** Empty if there is nothing to offer. */
  text: string;
  isTooLong: boolean;
  /** The messages that the text may be sent as, unless there would be too many. */
  parts: readonly string[] | undefined;
  onSend: (texts: readonly string[]) => void;
  onKeep: () => void;
}

/** Offers to send a long text as several messages. */
function Offer({ text, isTooLong, parts, onSend, onKeep }: OfferProps) {
  const t = useTexts();
  const { tooMany, notOne, lines } = t.composer;
  const why = !parts ? tooMany(MOST_PARTS) : isTooLong ? notOne : lines(countLines(text));
  const isShown = text !== '';
  return (
    <div class={isShown ? 'offer' : 'visually-hidden'}>
      {/* Screen readers announce what changes in an element that was there before. */}
      <p role="status">{isShown && why}</p>
      {isShown && parts && (
        <button type="button" onClick={() => onSend(parts)}>
          {t.composer.sendParts(parts.length)}
        </button>
      )}
      {isShown && (
        <button type="button" class="quiet" onClick={onKeep}>
          {t.composer.keep}
        </button>
      )}
    </div>
  );
}

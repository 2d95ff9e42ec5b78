/** The reactions to a message, and who gave them. */
import { useEffect, useRef, useState } from 'preact/hooks';
import type { Message, Reactors } from '@uproar/client';
import type { Chat } from '../chat';
import { whoReacted } from '../state/reactors';
import { useTexts } from './texts';

/** How long a finger stays on a reaction to see who gave it. */
const LONG_PRESS_MS = 500;

interface Props {
  chat: Chat;
  message: Message;
  isReachable: boolean;
  onToggle: (emoji: string, mine: boolean) => void;
}

export function Reactions({ chat, message, isReachable, onToggle }: Props) {
  const t = useTexts();
  /** The emoji whose people are shown. */
  const [shown, setShown] = useState<string>();
  const [known, setKnown] = useState<{ asOf: number; reactors: Reactors }>();
  const press = useRef<ReturnType<typeof setTimeout>>(undefined);
  const wasLong = useRef(false);
  const isTouched = useRef(false);
  const reaction = message.reactions.find(({ emoji }) => emoji === shown);
  const isKnown = known?.asOf === message.asOf;
  const id = `who-${message.offset}`;

  useEffect(() => {
    if (!reaction || isKnown) return;
    let isCurrent = true;
    chat.open?.reactors(message).then(
      (reactors) => isCurrent && setKnown({ asOf: message.asOf, reactors }),
      // Their number is shown, and the names the next time.
      () => {},
    );
    return () => {
      isCurrent = false;
    };
  }, [reaction === undefined, message.asOf, isKnown]);
  useEffect(() => () => clearTimeout(press.current), []);
  useEffect(() => {
    if (shown === undefined) return;
    const hide = () => setShown(undefined);
    const onKeyDown = ({ key }: KeyboardEvent) => key === 'Escape' && hide();
    addEventListener('pointerdown', hide);
    addEventListener('keydown', onKeyDown);
    return () => {
      removeEventListener('pointerdown', hide);
      removeEventListener('keydown', onKeyDown);
    };
  }, [shown]);

  const hide = () => setShown(undefined);
  return (
    <div class="reactions">
      {message.reactions.map(({ emoji, count, mine }) => (
        <button
          key={emoji}
          aria-pressed={mine}
          aria-label={`${emoji}, ${t.format.number(count)}`}
          aria-describedby={emoji === shown ? id : undefined}
          tabIndex={isReachable ? 0 : -1}
          onClick={({ detail }) => {
            // The keyboard's clicks have no number.
            if (!wasLong.current || detail === 0) onToggle(emoji, mine);
            wasLong.current = false;
          }}
          onPointerEnter={(event) => event.pointerType === 'mouse' && setShown(emoji)}
          onPointerLeave={(event) => {
            clearTimeout(press.current);
            if (event.pointerType === 'mouse') hide();
          }}
          onFocus={(event) => event.currentTarget.matches(':focus-visible') && setShown(emoji)}
          onBlur={hide}
          onPointerDown={(event) => {
            wasLong.current = false;
            isTouched.current = event.pointerType !== 'mouse';
            clearTimeout(press.current);
            if (!isTouched.current) return;
            // Not a long press on the message.
            event.stopPropagation();
            hide();
            press.current = setTimeout(() => {
              wasLong.current = true;
              setShown(emoji);
            }, LONG_PRESS_MS);
          }}
          onPointerUp={() => clearTimeout(press.current)}
          onPointerCancel={() => clearTimeout(press.current)}
          onContextMenu={(event) => {
            // A long press would open the browser's menu.
            if (isTouched.current) event.preventDefault();
          }}
        >
          {emoji} {t.format.number(count)}
        </button>
      ))}
      {reaction && (
        <span class="who" id={id} role="tooltip">
          {reaction.emoji} {whoReacted(reaction, chat.me.id, known?.reactors, t)}
        </span>
      )}
    </div>
  );
}

/** The box to write messages in. */
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { Chat } from '../chat';
import type { Quote } from '../room';
import { plainText } from '../state/markdown';
import { suggest } from '../state/mentions';
import { cut, excess, isBlank, storable } from '../state/text';
import { Grow } from './Grow';
import { Icon } from './Icon';
import { MENTIONS_ID, Mentions, mentionId } from './Mentions';

/** A title of this length fits into the placeholder on a phone. */
const SHORT_TITLE = 20;

export function tooLongText(characters: number): string {
  return `Your message is ${characters} ${characters === 1 ? 'character' : 'characters'} too long.`;
}

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
  const [text, setText] = useState(() => chat.draft(room).text);
  const area = useRef<HTMLTextAreaElement>(null);
  /** The text before the caret while a mention may be completed there, and the name chosen so far. */
  const [mention, setMention] = useState<{ before: string; selected: number }>();
  const subscribed = chat.room(room);
  const suggested = mention && subscribed && suggest(mention.before, subscribed.names);
  const tooLong = excess(text, chat.textLimitBytes);
  const canSend = !isBlank(storable(text)) && tooLong === 0;

  // A layout effect, so that it does not take the focus from what is shown by then.
  useLayoutEffect(() => {
    // On a phone, focusing would open the keyboard.
    if (matchMedia('(pointer: fine)').matches) area.current?.focus();
  }, []);

  function updateDraft(text: string): void {
    setText(text);
    chat.changeDraft(room, { text });
  }

  function suggestNames(): void {
    const { value, selectionStart, selectionEnd } = area.current!;
    const before = value.slice(0, selectionStart);
    // Only what is behind the last @ matters.
    const isMention = selectionStart === selectionEnd && /[@＠][^@＠\n]{0,32}$/u.test(before);
    setMention(isMention ? { before: before.slice(-64), selected: -1 } : undefined);
    if (isMention && subscribed) void chat.loadMembers(subscribed);
  }

  function complete(name: string): void {
    const element = area.current!;
    const start = element.selectionStart - (mention!.before.length - suggested!.start);
    element.setRangeText(`@${name} `, start, element.selectionStart, 'end');
    updateDraft(element.value);
    setMention(undefined);
  }

  /** The keys that choose a name. Enter sends the message, unless a name has been chosen with an arrow key. */
  function onMentionKey(event: KeyboardEvent, names: readonly string[], selected: number): boolean {
    const by = event.key === 'ArrowDown' ? 1 : event.key === 'ArrowUp' ? -1 : 0;
    if (by !== 0) {
      const next = selected < 0 ? (by > 0 ? 0 : names.length - 1) : (selected + by + names.length) % names.length;
      setMention({ before: mention!.before, selected: next });
    } else if ((event.key === 'Enter' && selected >= 0) || (event.key === 'Tab' && !event.shiftKey)) {
      complete(names[Math.max(0, selected)]!);
    } else if (event.key === 'Escape') setMention(undefined);
    else return false;
    event.preventDefault();
    return true;
  }

  function send(): void {
    if (!canSend) return;
    chat.send({ room, text: storable(text), ...(replyTo === undefined ? {} : { replyTo }) });
    updateDraft('');
    setMention(undefined);
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
              {quoted.text === null ? 'Message deleted' : cut(plainText(quoted.text), 120)}
            </span>
          ) : (
            <span>Replying to an earlier message</span>
          )}
          <button type="button" class="quiet" onClick={onCancelReply}>
            Cancel
          </button>
        </p>
      )}
      {suggested && <Mentions names={suggested.names} selected={mention.selected} onChoose={complete} />}
      <div class="input-row">
        <Grow text={text}>
          <textarea
            id="composer"
            ref={area}
            rows={1}
            dir="auto"
            placeholder={title.length <= SHORT_TITLE ? `Message ${title}` : 'Write a message'}
            aria-label={`Message ${title}`}
            aria-describedby={tooLong > 0 ? 'composer-error' : undefined}
            aria-autocomplete="list"
            aria-controls={suggested ? MENTIONS_ID : undefined}
            aria-activedescendant={suggested && mention.selected >= 0 ? mentionId(mention.selected) : undefined}
            onBlur={() => setMention(undefined)}
            enterkeyhint="send"
            value={text}
            onInput={(event) => {
              updateDraft(event.currentTarget.value);
              suggestNames();
              if (!isBlank(event.currentTarget.value)) chat.notifyTyping(room);
            }}
            onKeyDown={(event) => {
              // Some browsers end a composition before they report the key that ended it.
              if (event.isComposing || event.keyCode === 229) return;
              if (suggested && onMentionKey(event, suggested.names, mention.selected)) return;
              if (event.key === 'Enter' && !event.shiftKey) {
                event.preventDefault();
                send();
              } else if (event.key === 'ArrowUp' && text === '') {
                event.preventDefault();
                onEditLast();
              } else if (event.key === 'Escape' && replyTo !== undefined) onCancelReply();
            }}
          />
        </Grow>
        <button class="primary icon-button" aria-label="Send" disabled={!canSend}>
          <Icon name="send" />
        </button>
      </div>
      {tooLong > 0 && (
        <p id="composer-error" class="error" role="alert">
          {tooLongText(tooLong)}
        </p>
      )}
    </form>
  );
}

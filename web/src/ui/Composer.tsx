/** The box to write messages in. */
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { Quote } from '@uproar/client';
import type { Chat } from '../chat';
import { type Option, REACH, type Sources, complete, isEmojiQuery } from '../state/completion';
import { plainText } from '../state/markdown';
import { cut, excess, isBlank, storable } from '../state/text';
import { COMPLETION_ID, Completion, optionId } from './Completion';
import { EmojiDialog } from './EmojiDialog';
import { FormatButtons } from './FormatButtons';
import { Grow } from './Grow';
import { Icon, IconButton } from './Icon';
import { emojiData, habits, loadEmojiData, remember } from './emoji';
import { onFormatKey } from './format';
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
  /** The text before the caret while something may be completed there, and the option chosen so far. */
  const [caret, setCaret] = useState<{ before: string; selected: number }>();
  const [isPicking, setPicking] = useState(false);
  const subscribed = chat.room(room);
  const completion = caret && complete(caret.before, sources());
  // Enter sends the message, unless an option has been chosen with an arrow key. An emoji is meant to be inserted.
  const selected = completion?.kind === 'emoji' ? Math.max(0, caret!.selected) : (caret?.selected ?? -1);
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

  /** What there is to complete. */
  function sources(): Sources {
    const { recent, tone } = habits(chat.me.id);
    const data = emojiData;
    return {
      names: subscribed?.names ?? [],
      rooms: chat.rooms.sorted,
      emoji: data && ((query) => data.searchEmoji(query, recent)),
      tone: (emoji) => data?.toned(emoji, tone) ?? emoji.emoji,
    };
  }

  function lookBeforeCaret(): void {
    const { value, selectionStart, selectionEnd } = area.current!;
    const before = value.slice(Math.max(0, selectionStart - REACH), selectionStart);
    const isPossible = selectionStart === selectionEnd && /[@＠:#][^\n]*$/.test(before);
    setCaret(isPossible ? { before, selected: -1 } : undefined);
    if (!isPossible) return;
    if (subscribed && /[@＠]/.test(before)) void chat.loadMembers(subscribed);
    // The same place is looked at again once the data are there.
    if (!emojiData && isEmojiQuery(before)) {
      loadEmojiData().then(() => setCaret((now) => now && { ...now }), () => {});
    }
  }

  /** Writes something into the text, in place of what is there. */
  function write(text: string, start: number, end: number): void {
    const element = area.current!;
    element.setRangeText(text, start, end, 'end');
    updateDraft(element.value);
    setCaret(undefined);
  }

  function openPicker(): void {
    // To where the focus returns. On a phone that would open the keyboard.
    if (matchMedia('(pointer: fine)').matches) area.current?.focus();
    setPicking(true);
  }

  function choose(option: Option): void {
    const { selectionStart } = area.current!;
    write(option.text, selectionStart - (caret!.before.length - completion!.start), selectionStart);
    if (completion!.kind === 'emoji') remember(chat.me.id, option.text);
  }

  /** The keys that choose an option. */
  function onCompletionKey(event: KeyboardEvent, options: readonly Option[]): boolean {
    const by = event.key === 'ArrowDown' ? 1 : event.key === 'ArrowUp' ? -1 : 0;
    if (by !== 0) {
      const next = selected < 0 ? (by > 0 ? 0 : options.length - 1) : (selected + by + options.length) % options.length;
      setCaret({ before: caret!.before, selected: next });
    } else if (!event.shiftKey && ((event.key === 'Enter' && selected >= 0) || event.key === 'Tab')) {
      choose(options[Math.max(0, selected)]!);
    } else if (event.key === 'Escape') setCaret(undefined);
    else return false;
    event.preventDefault();
    return true;
  }

  function send(): void {
    if (!canSend) return;
    chat.send({ room, text: storable(text), ...(replyTo === undefined ? {} : { replyTo }) });
    updateDraft('');
    setCaret(undefined);
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
      {completion && <Completion completion={completion} selected={selected} onChoose={choose} />}
      <div class="input-row">
        <Grow text={text}>
          <textarea
            id="composer"
            ref={area}
            rows={1}
            dir="auto"
            placeholder={title.length <= SHORT_TITLE ? t.composer.to(title) : t.composer.placeholder}
            aria-label={t.composer.to(title)}
            aria-describedby={tooLong > 0 ? 'composer-error' : undefined}
            aria-autocomplete="list"
            aria-controls={completion ? COMPLETION_ID : undefined}
            aria-activedescendant={completion && selected >= 0 ? optionId(selected) : undefined}
            onBlur={() => setCaret(undefined)}
            enterkeyhint="send"
            value={text}
            onInput={(event) => {
              updateDraft(event.currentTarget.value);
              lookBeforeCaret();
              if (!isBlank(event.currentTarget.value)) chat.notifyTyping(room);
            }}
            onKeyDown={(event) => {
              // Some browsers end a composition before they report the key that ended it.
              if (event.isComposing || event.keyCode === 229) return;
              if (completion && onCompletionKey(event, completion.options)) return;
              if (onFormatKey(event)) return;
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
        <FormatButtons area={area} />
        <IconButton
          icon="emoji"
          label={t.composer.emoji}
          class="quiet emoji"
          aria-haspopup="dialog"
          onClick={openPicker}
        />
        <button class="primary icon-button" aria-label={t.composer.send} disabled={!canSend}>
          <Icon name="send" />
        </button>
      </div>
      {isPicking && (
        <EmojiDialog
          title={t.composer.emoji}
          user={chat.me.id}
          onChoose={(emoji) => write(emoji, area.current!.selectionStart, area.current!.selectionEnd)}
          onClose={() => setPicking(false)}
        />
      )}
      {tooLong > 0 && (
        <p id="composer-error" class="error" role="alert">
          {t.composer.tooLong(tooLong)}
        </p>
      )}
    </form>
  );
}

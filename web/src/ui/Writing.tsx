/** A box to write in, with what helps: completion, keys and buttons for formatting, and the emoji picker. */
import type { ComponentChildren, RefObject } from 'preact';
import { useLayoutEffect, useState } from 'preact/hooks';
import type { Chat } from '../chat';
import { type Option, REACH, type Sources, complete, isEmojiQuery } from '../state/completion';
import { COMPLETION_ID, Completion, optionId } from './Completion';
import { EmojiDialog } from './EmojiDialog';
import { FormatButtons } from './FormatButtons';
import { Grow } from './Grow';
import { IconButton } from './Icon';
import { emojiData, habits, loadEmojiData, remember } from './emoji';
import { onFormatKey } from './format';
import { useTexts } from './texts';

interface Props {
  chat: Chat;
  room: string;
  area: RefObject<HTMLTextAreaElement | null>;
  id?: string;
  label: string;
  placeholder?: string;
  describedBy?: string | undefined;
  text: string;
  /** `isPasted`: all that is new was pasted. */
  onText: (text: string, isPasted: boolean) => void;
  /** A key that neither completes nor formats. */
  onKey: (event: KeyboardEvent) => void;
  enterkeyhint?: 'send' | 'done';
  /** Stands behind the other buttons. */
  children?: ComponentChildren;
}

export function Writing(props: Props) {
  const { chat, room, area, text, onText, onKey, children } = props;
  const t = useTexts();
  /** The text before the caret while something may be completed there, and the option chosen so far. */
  const [caret, setCaret] = useState<{ before: string; selected: number }>();
  const [isPicking, setPicking] = useState(false);
  const subscribed = chat.room(room);
  const completion = caret && complete(caret.before, sources());
  // Enter sends the message, unless an option has been chosen with an arrow key. An emoji is meant to be inserted.
  const selected = completion?.kind === 'emoji' ? Math.max(0, caret!.selected) : (caret?.selected ?? -1);

  // What was completed has been sent.
  useLayoutEffect(() => {
    if (text === '') setCaret(undefined);
  }, [text]);

  /** What there is to complete. */
  function sources(): Sources {
    const { recent, tone } = habits(chat.me.id);
    const data = emojiData(t.code);
    return {
      names: subscribed?.names ?? [],
      rooms: chat.rooms.sorted,
      emoji: data && ((query) => data.set.search(query, recent)),
      tone: (emoji) => data?.toned(emoji, tone) ?? emoji.emoji,
    };
  }

  function lookBeforeCaret(): void {
    const { value, selectionStart, selectionEnd } = area.current!;
    const before = value.slice(Math.max(0, selectionStart - REACH), selectionStart);
    const isPossible = selectionStart === selectionEnd && /[@＠:#][^\n]*$/.test(before);
    setCaret(isPossible ? { before, selected: -1 } : undefined);
    if (!isPossible) return;
    if (subscribed && /[@＠]/.test(before)) void subscribed.loadMembers();
    // The same place is looked at again once the data are there.
    if (!emojiData(t.code) && isEmojiQuery(before)) {
      loadEmojiData(t.code).then(() => setCaret((now) => now && { ...now }), () => {});
    }
  }

  /** Writes something into the text, in place of what is there. */
  function write(text: string, start: number, end: number): void {
    const element = area.current!;
    element.setRangeText(text, start, end, 'end');
    onText(element.value, false);
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

  return (
    <>
      {completion && <Completion completion={completion} selected={selected} onChoose={choose} />}
      <div class="input-row">
        <Grow text={text}>
          <textarea
            id={props.id}
            ref={area}
            rows={1}
            dir="auto"
            placeholder={props.placeholder}
            aria-label={props.label}
            aria-describedby={props.describedBy}
            aria-autocomplete="list"
            aria-controls={completion ? COMPLETION_ID : undefined}
            aria-activedescendant={completion && selected >= 0 ? optionId(selected) : undefined}
            onBlur={() => setCaret(undefined)}
            enterkeyhint={props.enterkeyhint}
            value={text}
            onInput={(event) => {
              onText(event.currentTarget.value, event.inputType === 'insertFromPaste');
              lookBeforeCaret();
            }}
            onKeyDown={(event) => {
              // Some browsers end a composition before they report the key that ended it.
              if (event.isComposing || event.keyCode === 229) return;
              if (completion && onCompletionKey(event, completion.options)) return;
              if (!onFormatKey(event)) onKey(event);
            }}
          />
        </Grow>
        <FormatButtons area={area} />
        <IconButton
          icon="emoji"
          label={t.composer.emoji}
          class="quiet emoji"
          aria-haspopup="dialog"
          type="button"
          onClick={openPicker}
        />
        {children}
      </div>
      {isPicking && (
        <EmojiDialog
          title={t.composer.emoji}
          user={chat.me.id}
          onChoose={(emoji) => write(emoji, area.current!.selectionStart, area.current!.selectionEnd)}
          onClose={() => setPicking(false)}
        />
      )}
    </>
  );
}

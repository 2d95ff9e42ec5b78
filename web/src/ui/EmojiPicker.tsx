/** All emoji, in groups and to be searched. Loaded on demand, with the data. */
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { type Emoji, type EmojiSet, TONES, toned } from '../state/emoji';
import { rememberTone } from '../state/emoji-habits';
import { storage } from '../storage';
import { drawable } from './drawable';
import { habits } from './emoji';
import { useTexts } from './texts';

/** Other emoji are found by more letters. */
const FOUND = 200;
/** The group of those used last. */
const RECENT = -1;

let canDraw: ((emoji: Emoji) => boolean) | undefined;

interface Props {
  set: EmojiSet;
  user: string;
  onChoose: (emoji: string) => void;
}

interface Choice {
  /** What is inserted. */
  text: string;
  emoji: Emoji;
}

export function EmojiPicker({ set, user, onChoose }: Props) {
  const t = useTexts().emoji;
  canDraw ??= drawable(set.groups.flatMap(({ emoji }) => emoji));
  // As it was when the dialog was opened.
  const [{ recent, tone: firstTone }] = useState(() => habits(user));
  const [tone, setTone] = useState(firstTone);
  const [query, setQuery] = useState('');
  /** Its place among them. */
  const [group, setGroup] = useState(recent.length > 0 ? RECENT : 0);
  const [pointed, setPointed] = useState<Emoji>();
  const search = useRef<HTMLInputElement>(null);
  const grid = useRef<HTMLDivElement>(null);
  useEffect(() => {
    // On a phone, focusing would open the keyboard.
    if (matchMedia('(pointer: fine)').matches) search.current?.focus();
  }, []);

  const isSearching = query.trim() !== '';
  const withTone = (emoji: Emoji): Choice => ({ text: toned(emoji, tone), emoji });
  const choices: Choice[] = isSearching
    ? set.search(query, recent).filter(canDraw).slice(0, FOUND).map(withTone)
    : group === RECENT
      ? recent.flatMap((text) => {
          const emoji = set.find(text);
          return emoji ? [{ text, emoji }] : [];
        })
      : set.groups[group]!.emoji.filter(canDraw).map(withTone);
  const [first] = choices;
  useLayoutEffect(() => grid.current?.scrollTo({ top: 0 }), [query, group]);
  const groups = [
    ...(recent.length > 0 ? [{ id: RECENT, name: t.recent, sign: '🕘' }] : []),
    ...set.groups.map(({ name, emoji }, id) => ({ id, name, sign: emoji[0]!.emoji })),
  ];

  return (
    // The keys are not those of the messages behind it.
    <div class="emoji-picker" onKeyDown={(event) => event.stopPropagation()}>
      <input
        ref={search}
        type="text"
        aria-label={t.search}
        placeholder={t.placeholder}
        autocomplete="off"
        spellcheck={false}
        enterkeyhint="done"
        value={query}
        onInput={(event) => setQuery(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.isComposing || event.keyCode === 229) return;
          if (event.key === 'Enter') {
            if (isSearching && first) onChoose(first.text);
          } else if (event.key === 'ArrowDown') grid.current?.querySelector<HTMLElement>('[tabindex="0"]')?.focus();
          else return;
          event.preventDefault();
        }}
      />
      <Stops class="emoji-groups" label={t.groups} preferred={groups.findIndex(({ id }) => id === group)}>
        {(stop) =>
          groups.map(({ id, name, sign }, i) => (
            <button
              key={id}
              type="button"
              class="quiet"
              aria-label={name}
              title={name}
              aria-pressed={!isSearching && id === group}
              {...stop(i)}
              onClick={() => {
                setQuery('');
                setGroup(id);
              }}
            >
              {sign}
            </button>
          ))
        }
      </Stops>
      <div class="emoji-list" ref={grid}>
        <Stops
          key={isSearching ? query : group}
          class="emoji-grid"
          label={isSearching ? t.matching : groups.find(({ id }) => id === group)!.name}
          onAbove={() => search.current?.focus()}
        >
          {(stop) =>
            choices.map(({ text, emoji }, i) => (
              <button
                key={text}
                type="button"
                class="quiet"
                aria-label={emoji.label}
                {...stop(i)}
                onPointerEnter={() => setPointed(emoji)}
                onFocusCapture={() => setPointed(emoji)}
                onClick={() => onChoose(text)}
              >
                {text}
              </button>
            ))
          }
        </Stops>
      </div>
      <p class={choices.length > 0 ? 'visually-hidden' : 'hint'} role="status">
        {isSearching && (choices.length > 0 ? t.found(choices.length) : t.none)}
      </p>
      <footer>
        <span class="hint title" aria-hidden="true">
          {pointed && `${pointed.label} :${pointed.names[0]}:`}
        </span>
        <label>
          {t.tone}{' '}
          <select
            value={tone}
            onChange={(event) => {
              const chosen = Number(event.currentTarget.value);
              setTone(chosen);
              rememberTone(storage, user, chosen);
            }}
          >
            {TONES.map((sign, i) => (
              <option key={sign} value={i}>
                ✋{sign} {t.tones[i]}
              </option>
            ))}
          </select>
        </label>
      </footer>
    </div>
  );
}

interface StopProps {
  class: string;
  label: string;
  /** The one that Tab leads to first. */
  preferred?: number;
  /** The arrow leads up from the first line. */
  onAbove?: () => void;
  children: (stop: (index: number) => { tabIndex: number; onFocus: () => void }) => preact.ComponentChildren;
}

/** Buttons in lines, among which the arrow keys move. Tab stops once among them. */
function Stops({ class: className, label, preferred = 0, onAbove, children }: StopProps) {
  const [focused, setFocused] = useState<number>();
  const element = useRef<HTMLDivElement>(null);
  const reachable = focused ?? preferred;

  function onKeyDown(event: KeyboardEvent): void {
    const all = [...element.current!.querySelectorAll<HTMLElement>('button')];
    const at = all.indexOf(event.target as HTMLElement);
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const isRtl = getComputedStyle(element.current!).direction === 'rtl';
    const by = { ArrowLeft: isRtl ? 1 : -1, ArrowRight: isRtl ? -1 : 1 }[event.key];
    let next: HTMLElement | undefined;
    if (by !== undefined) next = all[at + by];
    else if (event.key === 'Home') next = all[0];
    else if (event.key === 'End') next = all.at(-1);
    else if (event.key === 'ArrowDown') next = inNextLine(all.slice(at + 1), all[at]!);
    else if (event.key === 'ArrowUp') {
      next = inNextLine(all.slice(0, at).reverse(), all[at]!);
      if (!next) onAbove?.();
    } else return;
    event.preventDefault();
    next?.focus();
  }

  return (
    <div class={className} role="group" aria-label={label} ref={element} onKeyDown={onKeyDown}>
      {children((index) => ({ tabIndex: index === reachable ? 0 : -1, onFocus: () => setFocused(index) }))}
    </div>
  );
}

/** Of the elements in the line after this one, or before it if they come in reverse, the one nearest to its column. */
function inNextLine(others: readonly HTMLElement[], from: HTMLElement): HTMLElement | undefined {
  const line = others.find(({ offsetTop }) => offsetTop !== from.offsetTop)?.offsetTop;
  const distance = ({ offsetLeft }: HTMLElement) => Math.abs(offsetLeft - from.offsetLeft);
  return others.filter(({ offsetTop }) => offsetTop === line).sort((a, b) => distance(a) - distance(b))[0];
}

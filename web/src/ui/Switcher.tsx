/** The dialog that leads to another room by a few letters. */
import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { Chat } from '../chat';
import { findRooms } from '../state/switcher';
import { Dialog } from './Dialog';
import { UnreadCount } from './UnreadCount';
import { go } from './address';
import { useStores } from './hooks';
import { useTexts } from './texts';

const LIST_ID = 'switcher-rooms';
/** More rooms are found by more letters. */
const SHOWN = 50;

interface Props {
  chat: Chat;
  onFind: () => void;
  onClose: () => void;
}

export function Switcher({ chat, onFind, onClose }: Props) {
  const t = useTexts();
  useStores(chat, chat.rooms);
  const [query, setQuery] = useState('');
  const [selected, setSelected] = useState<string>();
  const input = useRef<HTMLInputElement>(null);
  const list = useRef<HTMLUListElement>(null);
  const { rooms } = chat;
  const found = findRooms(query, rooms.sorted, {
    recent: chat.client.recentRooms,
    open: chat.openRoom,
    unread: (name) => rooms.unread(name),
    isMentioned: (room) => rooms.isMentioned(room),
  }).slice(0, SHOWN);
  // By its name, because the rooms change their places when messages arrive.
  const at = Math.max(0, found.findIndex(({ name }) => name === selected));
  const optionId = (index: number) => `${LIST_ID}-${index}`;

  useEffect(() => input.current?.focus(), []);
  useLayoutEffect(() => {
    list.current?.children[at]?.scrollIntoView({ block: 'nearest' });
  }, [at, query]);

  function open(name: string): void {
    onClose();
    if (name !== chat.openRoom) go(name);
    // The composer of another room takes the focus by itself.
    else setTimeout(() => document.getElementById('composer')?.focus());
  }

  function onKeyDown(event: KeyboardEvent): void {
    if (event.isComposing || event.keyCode === 229) return;
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8 }[event.key];
    const room = found[at];
    if (event.key === 'Enter' && room) open(room.name);
    else if (by !== undefined && found.length > 0) {
      // Only single steps lead around the ends.
      const next = Math.abs(by) === 1 ? (at + by + found.length) % found.length : at + by;
      setSelected(found[Math.max(0, Math.min(next, found.length - 1))]!.name);
    } else return;
    event.preventDefault();
  }

  return (
    <Dialog title={t.switcher.title} onClose={onClose}>
      <input
        ref={input}
        type="text"
        role="combobox"
        aria-label={t.switcher.room}
        aria-autocomplete="list"
        aria-expanded={found.length > 0}
        aria-controls={found.length > 0 ? LIST_ID : undefined}
        aria-activedescendant={found.length > 0 ? optionId(at) : undefined}
        autocomplete="off"
        spellcheck={false}
        enterkeyhint="go"
        value={query}
        onInput={(event) => {
          setQuery(event.currentTarget.value);
          setSelected(undefined);
        }}
        onKeyDown={onKeyDown}
      />
      {found.length > 0 && (
        <ul class="switcher" id={LIST_ID} role="listbox" aria-label={t.rooms.title} ref={list}>
          {found.map((room, i) => (
            <li
              key={room.name}
              id={optionId(i)}
              role="option"
              aria-selected={i === at}
              // The focus stays in the field.
              onPointerDown={(event) => event.preventDefault()}
              onClick={() => open(room.name)}
            >
              <span class="title">
                <bdi>{room.title}</bdi>
              </span>
              {room.name !== room.title && (
                <span class="hint title">
                  <bdi>{room.name}</bdi>
                </span>
              )}
              <UnreadCount rooms={rooms} room={room} />
            </li>
          ))}
        </ul>
      )}
      {found.length === 0 && (
        <p role="status">
          {t.switcher.none} <button onClick={onFind}>{t.rooms.find}</button>
        </p>
      )}
    </Dialog>
  );
}

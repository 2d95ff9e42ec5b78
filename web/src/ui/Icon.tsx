/** The icons of Lucide that the page uses. Only these end up in what is built. */
import {
  ArrowDown,
  BellOff,
  CalendarSearch,
  Bold,
  ChevronLeft,
  Code,
  Copy,
  Ellipsis,
  Hash,
  type IconNode,
  Info,
  Italic,
  Link,
  Lock,
  MailDot,
  MessagesSquare,
  Pencil,
  Plus,
  Reply,
  SendHorizontal,
  Settings,
  Smile,
  SmilePlus,
  Star,
  Trash2,
  Users,
  X,
} from 'lucide';
import { type ButtonHTMLAttributes, type Ref, h } from 'preact';

const ICONS = {
  add: Plus,
  back: ChevronLeft,
  bold: Bold,
  close: X,
  copy: Copy,
  date: CalendarSearch,
  code: Code,
  delete: Trash2,
  details: Info,
  down: ArrowDown,
  edit: Pencil,
  emoji: Smile,
  favourite: Star,
  italic: Italic,
  link: Link,
  members: Users,
  more: Ellipsis,
  muted: BellOff,
  private: Lock,
  public: Hash,
  react: SmilePlus,
  reply: Reply,
  room: MessagesSquare,
  send: SendHorizontal,
  settings: Settings,
  unread: MailDot,
} satisfies Record<string, IconNode>;

export type IconName = keyof typeof ICONS;

/** An icon that is a decoration: what it means is written next to it, or is the name of its button. */
export function Icon({ name }: { name: IconName }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
      {ICONS[name].map(([shape, attributes], key) => h(shape, { key, ...attributes }))}
    </svg>
  );
}

interface IconButtonProps extends ButtonHTMLAttributes<HTMLButtonElement> {
  icon: IconName;
  /** What the button does: its name, and what appears next to it under the pointer or the focus. */
  label: string;
  buttonRef?: Ref<HTMLButtonElement>;
}

export function IconButton({ icon, label, class: extra = '', buttonRef, ...rest }: IconButtonProps) {
  return (
    <button type="button" class={`icon-button ${extra as string}`} aria-label={label} ref={buttonRef} {...rest}>
      <Icon name={icon} />
    </button>
  );
}

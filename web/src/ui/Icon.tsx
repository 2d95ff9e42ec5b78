/** The icons of Lucide that the page uses. Only these end up in what is built. */
import { type IconNode, Link, Pencil, Reply, SmilePlus, Trash2 } from 'lucide';
import { type ButtonHTMLAttributes, h } from 'preact';

const ICONS = { delete: Trash2, edit: Pencil, link: Link, react: SmilePlus, reply: Reply } satisfies Record<string, IconNode>;

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
}

export function IconButton({ icon, label, ...rest }: IconButtonProps) {
  return (
    <button type="button" class="icon-button" aria-label={label} {...rest}>
      <Icon name={icon} />
    </button>
  );
}

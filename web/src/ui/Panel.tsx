import type { ComponentChildren } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import { IconButton } from './Icon';
import { useTexts } from './texts';

/** A panel about the open room: beside its messages, or over them on narrow screens. */
interface Props {
  title: string;
  /** How many of what the title says there are. */
  count?: number | undefined;
  onClose: () => void;
  children: ComponentChildren;
}

export function Panel({ title, count, onClose, children }: Props) {
  const t = useTexts();
  const panel = useRef<HTMLElement>(null);
  // On narrow screens the panel covers the room, and the focus must not stay behind it.
  useEffect(() => {
    const opener = document.activeElement;
    panel.current!.querySelector<HTMLElement>('.close')!.focus();
    return () => {
      const { activeElement } = document;
      // Another panel may have been opened instead.
      const isLeft = activeElement !== document.body && !panel.current?.contains(activeElement);
      if (opener instanceof HTMLElement && !isLeft) opener.focus();
    };
  }, []);
  return (
    <aside
      class="panel"
      aria-label={title}
      ref={panel}
      onKeyDown={(event) => {
        if (event.key === 'Escape') onClose();
      }}
    >
      <header>
        <h2>{count === undefined ? title : `${title} (${t.format.number(count)})`}</h2>
        <IconButton icon="close" label={t.buttons.close} class="quiet close" onClick={onClose} />
      </header>
      {children}
    </aside>
  );
}

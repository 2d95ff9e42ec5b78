import type { ComponentChildren } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';
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
  const opener = useRef(document.activeElement);
  useLayoutEffect(() => {
    panel.current!.querySelector<HTMLElement>('.close')!.focus();
    // Once the panel has gone, and no longer keeps the room from taking the focus.
    return () =>
      queueMicrotask(() => {
        const { activeElement } = document;
        if (opener.current instanceof HTMLElement && (!activeElement || activeElement === document.body)) {
          opener.current.focus();
        }
      });
  }, []);
  return (
    <>
      <div class="cover" onClick={onClose} />
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
    </>
  );
}

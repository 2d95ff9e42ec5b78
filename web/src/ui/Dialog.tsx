import type { ComponentChildren } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';

/** A modal dialog. The browser keeps the focus inside and closes it on Escape. */
interface Props {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
}

export function Dialog({ title, onClose, children }: Props) {
  const dialog = useRef<HTMLDialogElement>(null);
  const isOutside = useRef(false);
  // A layout effect runs before the effects of fields inside, which may take the focus from the first button.
  useLayoutEffect(() => {
    const element = dialog.current!;
    const opener = document.activeElement;
    element.showModal();
    return () => {
      element.close();
      if (!(opener instanceof HTMLElement)) return;
      // Chromium has returned the focus, but not the caret: what is typed would be lost.
      opener.blur();
      opener.focus();
    };
  }, []);
  return (
    <dialog
      ref={dialog}
      aria-label={title}
      onCancel={(event) => {
        event.preventDefault();
        onClose();
      }}
      onPointerDown={(event) => {
        isOutside.current = event.target === dialog.current;
      }}
      onClick={(event) => {
        // Both pressed and released outside: selecting text may end there too.
        if (isOutside.current && event.target === dialog.current) onClose();
      }}
    >
      <div class="dialog">
        <header>
          <h2>{title}</h2>
          <button class="quiet" onClick={onClose}>
            Close
          </button>
        </header>
        {children}
      </div>
    </dialog>
  );
}

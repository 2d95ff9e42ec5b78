/** A dialog at the lower edge of the screen, where a thumb reaches it. */
import type { ComponentChildren } from 'preact';
import { useLayoutEffect } from 'preact/hooks';
import { useTexts } from './texts';

export interface SheetProps {
  label: string;
  /** Refers to the sheet while it is open. Closing it makes the rest of the page usable at once. */
  handle: { current: HTMLDialogElement | null };
  onClose: () => void;
  children: ComponentChildren;
}

export function Sheet({ label, handle, onClose, children }: SheetProps) {
  const t = useTexts();
  useLayoutEffect(() => handle.current!.showModal(), []);
  return (
    <dialog
      ref={handle}
      class="sheet"
      aria-label={label}
      onClose={onClose}
      onClick={(event) => {
        if (event.target === handle.current) handle.current?.close();
      }}
    >
      {children}
      <button class="wide" onClick={() => handle.current?.close()}>
        {t.buttons.close}
      </button>
    </dialog>
  );
}

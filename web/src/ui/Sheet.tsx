/** What can be done with a message, at the lower edge of the screen, where a thumb reaches it. */
import type { ComponentChildren } from 'preact';
import { useLayoutEffect } from 'preact/hooks';

export interface SheetProps {
  /** Refers to the sheet while it is open. Closing it makes the rest of the page usable at once. */
  handle: { current: HTMLDialogElement | null };
  onClose: () => void;
  children: ComponentChildren;
}

export function Sheet({ handle, onClose, children }: SheetProps) {
  useLayoutEffect(() => handle.current!.showModal(), []);
  return (
    <dialog
      ref={handle}
      class="sheet"
      aria-label="Message actions"
      onClose={onClose}
      onClick={(event) => {
        if (event.target === handle.current) handle.current?.close();
      }}
    >
      <div class="actions" role="group" aria-label="Message actions">
        {children}
      </div>
      <button class="wide" onClick={() => handle.current?.close()}>
        Close
      </button>
    </dialog>
  );
}

import type { ComponentChildren } from 'preact';
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { ErrorText } from './ErrorText';
import { IconButton } from './Icon';
import { useTexts } from './texts';

/** A modal dialog. The browser keeps the focus inside and closes it on Escape. */
interface Props {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
}

export function Dialog({ title, onClose, children }: Props) {
  const t = useTexts();
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
          <IconButton icon="close" label={t.buttons.close} class="quiet" onClick={onClose} />
        </header>
        {children}
      </div>
    </dialog>
  );
}

interface ConfirmProps extends Props {
  /** What the button does that cannot be undone. */
  action: string;
  onConfirm: () => Promise<void>;
}

/** Asks before something that cannot be undone. The text below the title says what it means. */
export function ConfirmDialog({ title, action, onConfirm, onClose, children }: ConfirmProps) {
  const t = useTexts();
  const [error, setError] = useState<unknown>();
  const [busy, setBusy] = useState(false);
  async function confirm(): Promise<void> {
    setBusy(true);
    setError(undefined);
    try {
      await onConfirm();
    } catch (error) {
      setError(error);
      setBusy(false);
    }
  }
  return (
    <Dialog title={title} onClose={onClose}>
      <p>{children}</p>
      <ErrorText error={error} />
      <div class="buttons">
        <button class="primary danger" disabled={busy} onClick={() => void confirm()}>
          {action}
        </button>
        <button onClick={onClose}>{t.buttons.cancel}</button>
      </div>
    </Dialog>
  );
}

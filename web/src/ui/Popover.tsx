/** A dialog next to what opened it. */
import { useLayoutEffect } from 'preact/hooks';
import { IconButton } from './Icon';
import type { SheetProps } from './Sheet';
import { useTexts } from './texts';

interface Props extends SheetProps {
  near: Element;
}

/** The distance from what opened it, and from the edges of the window. */
const GAP_PX = 8;

export function Popover({ label, near, handle, onClose, children }: Props) {
  const t = useTexts();
  useLayoutEffect(() => {
    const dialog = handle.current!;
    // What opened it may be gone by the time that the window or the dialog changes its size.
    const rect = near.getBoundingClientRect();
    const update = () => place(dialog, rect);
    dialog.showModal();
    update();
    const observer = new ResizeObserver(update);
    observer.observe(dialog);
    addEventListener('resize', update);
    return () => {
      observer.disconnect();
      removeEventListener('resize', update);
    };
  }, []);
  return (
    <dialog
      ref={handle}
      class="popover"
      aria-label={label}
      onClose={onClose}
      onClick={(event) => {
        if (event.target === handle.current) handle.current?.close();
      }}
    >
      {children}
      <IconButton icon="close" label={t.buttons.close} class="quiet close" onClick={() => handle.current?.close()} />
    </dialog>
  );
}

/** Behind what opened it, or before it, or else below or above it, and always within the window. */
function place(dialog: HTMLElement, near: DOMRect): void {
  const { offsetWidth: width, offsetHeight: height } = dialog;
  const fits = (left: number) => left >= GAP_PX && left + width + GAP_PX <= innerWidth;
  const sides = [near.right + GAP_PX, near.left - GAP_PX - width];
  if (getComputedStyle(dialog).direction === 'rtl') sides.reverse();
  const beside = sides.find(fits);
  const isBelow = near.bottom + 2 * GAP_PX + height <= innerHeight;
  const vertical = isBelow ? near.bottom + GAP_PX : near.top - GAP_PX - height;
  const within = (value: number, size: number, limit: number) =>
    `${Math.max(GAP_PX, Math.min(value, limit - size - GAP_PX))}px`;
  dialog.style.left = within(beside ?? near.left, width, innerWidth);
  dialog.style.top = within(beside === undefined ? vertical : near.top, height, innerHeight);
}

/** The buttons in the composer that do what the keys for formatting do. */
import type { RefObject } from 'preact';
import type { Mark } from '../state/format';
import { IconButton, type IconName } from './Icon';
import { format } from './format';

const MARKS: readonly { mark: Mark; icon: IconName; label: string }[] = [
  { mark: 'strong', icon: 'bold', label: 'Bold' },
  { mark: 'em', icon: 'italic', label: 'Italic' },
  { mark: 'code', icon: 'code', label: 'Code' },
];

export function FormatButtons({ area }: { area: RefObject<HTMLTextAreaElement | null> }) {
  return (
    <div class="format" role="group" aria-label="Formatting">
      {MARKS.map(({ mark, icon, label }) => (
        <IconButton
          key={mark}
          icon={icon}
          label={label}
          class="quiet"
          // The focus stays in the message box, where the selection is.
          onPointerDown={(event) => event.preventDefault()}
          onClick={() => {
            area.current!.focus();
            format(area.current!, mark);
          }}
        />
      ))}
    </div>
  );
}

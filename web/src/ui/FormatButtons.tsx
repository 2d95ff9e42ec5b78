/** The buttons in the composer that do what the keys for formatting do. */
import type { RefObject } from 'preact';
import type { Mark } from '../state/format';
import { IconButton, type IconName } from './Icon';
import { format } from './format';
import { useTexts } from './texts';

const MARKS: readonly { mark: Mark; icon: IconName }[] = [
  { mark: 'strong', icon: 'bold' },
  { mark: 'em', icon: 'italic' },
  { mark: 'code', icon: 'code' },
];

export function FormatButtons({ area }: { area: RefObject<HTMLTextAreaElement | null> }) {
  const t = useTexts().composer;
  return (
    <div class="format" role="group" aria-label={t.formatting}>
      {MARKS.map(({ mark, icon }) => (
        <IconButton
          key={mark}
          icon={icon}
          label={t[mark]}
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

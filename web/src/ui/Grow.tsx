import type { ComponentChildren } from 'preact';

/**
 * Makes a textarea as high as its text, whatever the font, its size, and the width: an invisible copy of the text gives
 * the height.
 */
export function Grow({ text, children }: { text: string; children: ComponentChildren }) {
  return (
    <div class="grow" data-text={text}>
      {children}
    </div>
  );
}

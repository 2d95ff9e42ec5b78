import { describe, expect, it } from 'vitest';
import { contrast, mix } from '../state/colour';
import { coloursOf } from './theme';

describe('coloursOf', () => {
  it('keeps the focus and the buttons in sight, whatever accent the user chooses', () => {
    for (const [scheme, paper] of [['light', '#ffffff'], ['dark', '#171614']] as const) {
      for (const accent of [paper, '#ffff66', '#000080', '#808080']) {
        const shown = coloursOf(scheme, { '--accent': accent });
        expect(contrast(shown['--accent']!, paper), `${scheme} ${accent}`).toBeGreaterThanOrEqual(3);
        expect(contrast(shown['--on-accent']!, shown['--accent']!), `${scheme} ${accent}`).toBeGreaterThanOrEqual(4.5);
        expect(contrast(shown['--outline']!, paper), `${scheme} ${accent}`).toBeGreaterThanOrEqual(3);
      }
      // A visible one is kept.
      expect(coloursOf(scheme, { '--accent': '#b05050' })['--accent']).toBe('#b05050');
    }
  });

  it('lets code be read on every background', () => {
    for (const scheme of ['light', 'dark'] as const) {
      for (const paper of [undefined, '#ffffff', '#000000', '#808080', '#1c6a2e']) {
        const shown = coloursOf(scheme, paper === undefined ? {} : { '--paper': paper });
        const ground = mix(shown['--ink']!, shown['--paper']!, 0.09);
        for (const [name, colour] of Object.entries(shown).filter(([name]) => name.startsWith('--code-'))) {
          // Between black and white, there is no more.
          const most = Math.max(contrast('#000000', ground), contrast('#ffffff', ground));
          expect(contrast(colour, ground), `${scheme} ${paper} ${name}`).toBeGreaterThanOrEqual(Math.min(4.5, most));
        }
      }
    }
  });
});

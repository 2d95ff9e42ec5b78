import { describe, expect, it } from 'vitest';
import { contrast } from '../state/colour';
import { coloursOf } from './Theme';

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
});

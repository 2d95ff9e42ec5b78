import { describe, expect, it } from 'vitest';
import { contrast, isColour, legible, mix } from './colour';

describe('colours', () => {
  it('have the contrast that WCAG defines', () => {
    expect(contrast('#000000', '#ffffff')).toBeCloseTo(21);
    expect(contrast('#777777', '#ffffff')).toBeCloseTo(4.48, 1);
    expect(contrast('#ffffff', '#ffffff')).toBe(1);
  });

  it('are kept if they can be read, and moved just far enough otherwise', () => {
    expect(legible('#1d1b19', ['#ffffff'], 4.5)).toBe('#1d1b19');
    for (const background of ['#000000', '#333333', '#777777', '#ffee88', '#ffffff']) {
      for (const colour of ['#000000', '#ffff00', '#808080', '#b4431f', '#ffffff']) {
        expect(contrast(legible(colour, [background], 4.5), background), `${colour} ${background}`).toBeGreaterThan(
          4.4,
        );
      }
    }
    expect(legible('#ffff00', ['#ffffff'], 4.5)).not.toBe('#000000');
  });

  it('are mixed by share', () => {
    expect(mix('#ff0000', '#0000ff', 0.5)).toBe('#800080');
  });

  it('are recognised', () => {
    expect(isColour('#aAbB09')).toBe(true);
    for (const value of ['red', '#fff', '#12345g', '#1234567', 5, null, {}]) expect(isColour(value)).toBe(false);
  });
});

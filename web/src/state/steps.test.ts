import { describe, expect, it } from 'vitest';
import { above, depthIn } from './steps';

describe('the steps back to the list of rooms', () => {
  it('grow with each room, and begin anew at the list', () => {
    const rooms = ['lobby', 'quiet', undefined, 'lobby'];
    const depths: unknown[] = [];
    let depth = above(undefined, undefined);
    for (const room of rooms) depths.push((depth = above(depth, room)));
    expect(depths).toEqual([1, 2, 0, 1]);
  });

  it('are unknown while there is no list below', () => {
    expect(above(undefined, 'lobby')).toBeUndefined();
    expect(above(undefined, undefined)).toBe(0);
  });

  it('are read only from what looks like them', () => {
    expect(depthIn({ depth: 2 })).toBe(2);
    for (const state of [null, undefined, 3, 'x', {}, { depth: '1' }, { depth: -1 }, { depth: 0.5 }]) {
      expect(depthIn(state)).toBeUndefined();
    }
  });
});

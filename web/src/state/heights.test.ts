import { describe, expect, it } from 'vitest';
import { Heights } from './heights';

describe('Heights', () => {
  it('uses the guess for rows that were not measured', () => {
    const heights = new Heights(20);
    heights.setKeys(['a', 'b', 'c', 'd']);
    expect(heights.total).toBe(80);
    expect(heights.measure('b', 50)).toBe(true);
    expect(heights.measure('b', 50)).toBe(false);
    expect(heights.total).toBe(110);
    expect(heights.top(2)).toBe(70);
    expect(heights.at(0)).toBe(0);
    expect(heights.at(69)).toBe(1);
    expect(heights.at(70)).toBe(2);
    expect(heights.at(1000)).toBe(3);
    expect(heights.range(25, 75)).toEqual({ first: 1, end: 3 });
  });

  it('keeps measured heights when rows are inserted before them', () => {
    const heights = new Heights(20);
    heights.setKeys(['c']);
    heights.measure('c', 33);
    heights.setKeys(['a', 'b', 'c']);
    expect(heights.top(2)).toBe(40);
    expect(heights.total).toBe(73);
  });

  it('handles an empty list', () => {
    const heights = new Heights(20);
    expect(heights.total).toBe(0);
    expect(heights.at(5)).toBe(0);
    expect(heights.range(0, 100)).toEqual({ first: 0, end: 0 });
  });
});

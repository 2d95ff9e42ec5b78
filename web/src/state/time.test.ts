import { describe, expect, it } from 'vitest';
import { dayRange, dayValue, sameDay, startsGroup } from './time';

const at = (day: number, hour: number, minute = 0) => new Date(2026, 10, day, hour, minute).getTime();
const ann = { id: '1', username: 'ann' };
const bob = { id: '2', username: 'bob' };

describe('grouping', () => {
  it('groups what one person writes within minutes', () => {
    const first = { user: ann, time: at(28, 10) };
    expect(startsGroup(undefined, first)).toBe(true);
    expect(startsGroup(first, { user: ann, time: at(28, 10, 4) })).toBe(false);
    expect(startsGroup(first, { user: ann, time: at(28, 10, 6) })).toBe(true);
    expect(startsGroup(first, { user: bob, time: at(28, 10, 1) })).toBe(true);
    expect(startsGroup(first, { user: ann, time: at(28, 10, 1), replyTo: 3 })).toBe(true);
  });

  it('starts a new group at midnight', () => {
    expect(startsGroup({ user: ann, time: at(27, 23, 59) }, { user: ann, time: at(28, 0, 1) })).toBe(true);
  });
});

it('knows whether two times are on the same day', () => {
  expect(sameDay(at(28, 0), at(28, 23, 59))).toBe(true);
  expect(sameDay(at(27, 23, 59), at(28, 0))).toBe(false);
});

describe('the day in a date field', () => {
  it('lasts from midnight to midnight', () => {
    for (const [year, month, day] of [[2026, 3, 29], [2026, 10, 25], [2028, 2, 29], [99, 12, 31], [2026, 12, 31]]) {
      const midnight = (plus: number) => {
        const date = new Date(2000, 0, 1);
        date.setFullYear(year!, month! - 1, day! + plus);
        return date.getTime();
      };
      const value = dayValue(midnight(0));
      expect(dayRange(value), value).toEqual({ from: midnight(0), to: midnight(1) });
    }
    expect(dayValue(at(3, 23, 59))).toBe('2026-11-03');
  });

  it('must exist', () => {
    for (const value of ['', 'today', '2026-02-30', '2026-13-01', '26-1-1', '2026-11-031']) {
      expect(dayRange(value), value).toBeUndefined();
    }
  });
});

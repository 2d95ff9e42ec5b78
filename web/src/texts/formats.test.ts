import { describe, expect, it } from 'vitest';
import { formats } from './formats';

const at = (day: number, hour: number, minute = 0) => new Date(2026, 10, day, hour, minute).getTime();

describe('days', () => {
  const now = at(28, 20);
  const day = (time: number, locale: string) => formats(locale).day(time, now);

  it('are named if they are near', () => {
    expect([day(at(28, 0), 'en-GB'), day(at(28, 0), 'de')]).toEqual(['Today', 'Heute']);
    expect([day(at(27, 23, 59), 'en-GB'), day(at(27, 23, 59), 'de')]).toEqual(['Yesterday', 'Gestern']);
    expect(day(at(26, 12), 'en-GB')).toBe('Thursday 26 November');
    expect(day(at(26, 12), 'de')).toBe('Donnerstag, 26. November');
    expect(day(new Date(2025, 0, 2).getTime(), 'en-GB')).toContain('2025');
  });
});

describe('times', () => {
  const time = (hour: number, ...how: Parameters<typeof formats>) => formats(...how).time(at(28, hour, 5));

  it('are those of the language and the region', () => {
    expect([time(9, 'en-GB'), time(21, 'de')]).toEqual(['09:05', '21:05']);
    expect(time(21, 'en-US')).toMatch(/^09:05\sPM$/);
  });

  it('have as many hours as was chosen', () => {
    expect(time(21, 'en-US', '24')).toBe('21:05');
    expect(time(0, 'en-US', '24')).toBe('00:05');
    expect(time(21, 'de', '12')).toMatch(/^09:05\sPM$/);
    expect(time(0, 'de', '12')).toMatch(/^12:05\sAM$/);
    expect(formats('de', '12').fullTime(at(28, 21, 5))).toMatch(/9:05:00\sPM$/);
    expect(formats('en-US', '24').fullTime(at(28, 21, 5))).toMatch(/21:05:00$/);
  });
});

describe('plurals', () => {
  it('have the forms of the language', () => {
    const messages = { one: '# message', other: '# messages' };
    const { plural } = formats('en');
    expect([0, 1, 2, 1234].map((n) => plural(n, messages))).toEqual([
      '0 messages',
      '1 message',
      '2 messages',
      '1,234 messages',
    ]);
    const polish = { one: 'jeden', few: 'kilka', many: 'wiele', other: '' };
    expect([1, 2, 5].map((n) => formats('pl').plural(n, polish))).toEqual(['jeden', 'kilka', 'wiele']);
  });
});

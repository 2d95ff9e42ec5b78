import { describe, expect, it } from 'vitest';
import { british } from '../texts/british';
import { whoReacted } from './reactors';

describe('who reacted', () => {
  it('is said in few words', () => {
    const who = (count: number, mine: boolean, ...names: string[]) =>
      whoReacted(
        { emoji: '👍', count, mine },
        'm',
        new Map([['👍', new Map(names.map((name) => [name[0]!, name]))]]),
        british,
      );
    expect(who(1, false, 'Ann')).toBe('Ann');
    expect(who(2, false, 'Ann', 'Bob')).toBe('Ann and Bob');
    expect(who(3, false, 'Ann', 'Bob', 'Cem')).toBe('Ann, Bob and Cem');
    expect(who(5, false, 'Ann', 'Bob', 'Cem', 'Dov', 'Eva')).toBe('Ann, Bob and 3 others');
    expect(who(2, true, 'Ann', 'me')).toBe('You and Ann');
    expect(who(1, true)).toBe('You');
  });

  it('says how many there are if they are not known', () => {
    const who = (count: number, mine: boolean) => whoReacted({ emoji: '👍', count, mine }, 'm', undefined, british);
    expect(who(1, false)).toBe('1 person');
    expect(who(7, false)).toBe('7 people');
    expect(who(2, true)).toBe('You and 1 other');
    expect(who(7, true)).toBe('You and 6 others');
    const known = new Map([['👍', new Map([['a', 'Ann']])]]);
    expect(whoReacted({ emoji: '👍', count: 4, mine: false }, 'm', known, british)).toBe('Ann and 3 others');
    expect(whoReacted({ emoji: '🎉', count: 4, mine: false }, 'm', known, british)).toBe('4 people');
  });
});

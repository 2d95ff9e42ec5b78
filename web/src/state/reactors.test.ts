import { describe, expect, it } from 'vitest';
import { ReactorCollector, whoReacted } from './reactors';
import type { Data } from './timeline';

const publication = (offset: number, name: string, data: Data) => ({
  offset,
  user: { id: name[0]!, username: name },
  time: 0,
  data,
});

describe('who reacted', () => {
  it('is found in the publications after the message', () => {
    const collector = new ReactorCollector(1);
    const reactions = [{ emoji: '👍', count: 2, mine: false }];
    collector.add(publication(2, 'ann', { react: 1, emoji: '👍' }));
    collector.add(publication(3, 'bob', { react: 9, emoji: '👍' }));
    expect(collector.explains(reactions)).toBe(false);
    collector.add(publication(4, 'bob', { react: 1, emoji: '👍' }));
    expect(collector.explains(reactions)).toBe(true);
    collector.add(publication(5, 'cem', { text: 'Hello', reply_to: 1 }));
    collector.add(publication(6, 'ann', { unreact: 1, emoji: '👍' }));
    collector.add(publication(7, 'ann', { react: 1, emoji: '👍' }));
    expect([...collector.reactors.get('👍')!.values()]).toEqual(['bob', 'ann']);
    collector.add(publication(8, 'bob', { delete: 1 }));
    expect(collector.explains([...reactions, { emoji: '🎉', count: 1, mine: true }])).toBe(false);
  });

  it('is said in few words', () => {
    const who = (count: number, mine: boolean, ...names: string[]) =>
      whoReacted({ emoji: '👍', count, mine }, 'm', new Map([['👍', new Map(names.map((name) => [name[0]!, name]))]]));
    expect(who(1, false, 'Ann')).toBe('Ann');
    expect(who(2, false, 'Ann', 'Bob')).toBe('Ann and Bob');
    expect(who(3, false, 'Ann', 'Bob', 'Cem')).toBe('Ann, Bob and Cem');
    expect(who(5, false, 'Ann', 'Bob', 'Cem', 'Dov', 'Eva')).toBe('Ann, Bob and 3 others');
    expect(who(2, true, 'Ann', 'me')).toBe('You and Ann');
    expect(who(1, true)).toBe('You');
  });

  it('says how many there are if they are not known', () => {
    const who = (count: number, mine: boolean) => whoReacted({ emoji: '👍', count, mine }, 'm', undefined);
    expect(who(1, false)).toBe('1 person');
    expect(who(7, false)).toBe('7 people');
    expect(who(2, true)).toBe('You and 1 other');
    expect(who(7, true)).toBe('You and 6 others');
    const known = new Map([['👍', new Map([['a', 'Ann']])]]);
    expect(whoReacted({ emoji: '👍', count: 4, mine: false }, 'm', known)).toBe('Ann and 3 others');
    expect(whoReacted({ emoji: '🎉', count: 4, mine: false }, 'm', known)).toBe('4 people');
  });
});

import { describe, expect, it } from 'vitest';
import { ReactorCollector } from './reactors.ts';
import type { Data } from './timeline.ts';

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
});

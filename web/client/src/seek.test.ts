import { describe, expect, it } from 'vitest';
import { firstSince } from './seek.ts';

const user = { id: '1', username: 'ann' };

/** A room with messages at these offsets and times, of which the server returns at most `most` at once. */
function room(times: readonly (readonly [offset: number, time: number])[], most = 100) {
  let reads = 0;
  const messages = times.map(([offset, time]) => ({ offset, time, user, text: '', id: null }));
  const read = async (after: number, limit: number) => {
    reads++;
    const following = messages.filter(({ offset }) => offset > after);
    const count = Math.min(limit, most);
    return { messages: following.slice(0, count), more: following.length > count };
  };
  return {
    first: async (time: number, last = times.at(-1)?.[0] ?? 0) => (await firstSince(time, last, read))?.offset,
    reads: () => reads,
  };
}

describe('firstSince', () => {
  it('finds the first of many messages with few requests', async () => {
    const { first, reads } = room(Array.from({ length: 100_000 }, (_, i) => [i + 1, (i + 1) * 10]));
    expect(await first(5)).toBe(1);
    const before = reads();
    expect(await first(500_000)).toBe(50_000);
    expect(await first(500_001)).toBe(50_001);
    expect(reads() - before).toBeLessThan(30);
    expect(await first(1_000_000)).toBe(100_000);
    expect(await first(1_000_001)).toBeUndefined();
  });

  it('agrees with looking at each message, whatever lies between them', async () => {
    for (let seed = 1; seed < 300; seed++) {
      let state = seed;
      const random = (below: number) => (state = (state * 48_271) % 2_147_483_647) % below;
      let [offset, time] = [0, 0];
      const times = Array.from({ length: random(200) }, () => {
        // Now and then, nothing but edits and reactions for a long time.
        offset += 1 + (random(10) === 0 ? random(900) : random(3));
        time += random(4);
        return [offset, time] as const;
      });
      const { first } = room(times, 1 + random(100));
      const wanted = random(time + 2);
      const expected = times.find(([, at]) => at >= wanted)?.[0];
      expect(await first(wanted, offset + random(1500)), `seed ${seed}`).toBe(expected);
    }
  });

  it('finds nothing in an empty room', async () => {
    expect(await room([]).first(0)).toBeUndefined();
    expect(await room([]).first(0, 500)).toBeUndefined();
  });
});

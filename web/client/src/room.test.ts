import { describe, expect, it } from 'vitest';
import { Room } from './room.ts';
import type { Page } from './timeline.ts';

it('does not quote a message of another room of the same name', async () => {
  const user = { id: '2', username: 'bob' };
  const message = { offset: 1, user, text: 'Elsewhere', id: null, time: 0 };
  let epoch = 'other';
  const room = new Room('lobby', { id: '1', username: 'ann' }, async () => {
    return { messages: [message], epoch, offset: 1, more: false } satisfies Page;
  });
  room.timeline.begin('own', 5);
  const fetched = () => new Promise((done) => setTimeout(done));
  expect(room.quoted(1)).toBeUndefined();
  await fetched();
  expect(room.quoted(1)).toBeUndefined();
  room.forgetQuote(1);
  epoch = 'own';
  room.quoted(1);
  await fetched();
  expect(room.quoted(1)?.text).toBe('Elsewhere');
});

describe('going to a message', () => {
  const user = { id: '2', username: 'bob' };
  const wire = (offset: number) => ({ offset, user, text: `text ${offset}`, id: `id-${offset}`, time: offset });
  /** A room with messages at all offsets but 7, of which `answer` may change what the server says. */
  function lobby(answer: (page: Page) => Page | Promise<Page> = (page) => page): Room {
    const room = new Room('lobby', { id: '1', username: 'ann' }, async ({ before = 21 }) => {
      const offsets = Array.from({ length: Math.min(before, 21) - 1 }, (_, i) => i + 1).filter((at) => at !== 7);
      return answer({ messages: offsets.slice(-5).map(wire), epoch: 'e', offset: 20, more: offsets.length > 5 });
    });
    room.timeline.begin('e', 20);
    return room;
  }
  const offsets = (room: Room) => room.timeline.messages.map(({ offset }) => offset);

  it('loads it with those before it, and knows that others follow', async () => {
    const room = lobby();
    expect(await room.goTo(10)).toBe(true);
    expect([offsets(room), room.timeline.hasOlder, room.timeline.hasNewer]).toEqual([[5, 6, 8, 9, 10], true, true]);
    // Nothing is added behind the gap.
    room.timeline.publish({ offset: 21, user, time: 21, data: { text: 'live' } });
    expect(offsets(room).at(-1)).toBe(10);
    expect(await room.goTo(8)).toBe(true);
  });

  it('changes nothing if there is no such message', async () => {
    const room = lobby();
    await room.loadNewest();
    const before = offsets(room);
    expect(await room.goTo(7)).toBe(false);
    expect(await room.goTo(300)).toBe(false);
    expect(offsets(room)).toEqual(before);
  });

  it('is not known to lead anywhere if loading fails, or something else is asked for', async () => {
    const failing = lobby(() => {
      throw new Error('no');
    });
    expect(await failing.goTo(10)).toBeUndefined();
    expect(failing.error?.message).toBe('no');
    let release = () => {};
    const slow = lobby((page) => new Promise((done) => (release = () => done(page))));
    const going = slow.goTo(10);
    const first = release;
    const newest = slow.loadNewest();
    first();
    release();
    expect(await going).toBeUndefined();
    await newest;
    expect(offsets(slow).at(-1)).toBe(20);
  });

  it('loads what a room begins with again after an error, however much is unread', async () => {
    for (const unread of [0, 500]) {
      let isBroken = true;
      const room = lobby((page) => {
        if (isBroken) throw new Error('no');
        return page;
      });
      await room.loadInitial(3, unread);
      expect([room.error?.message, room.timeline.loaded]).toEqual(['no', false]);
      isBroken = false;
      room.retry();
      await new Promise((done) => setTimeout(done));
      expect([room.error, room.timeline.loaded], `${unread}`).toEqual([undefined, true]);
    }
  });
});

import { describe, expect, it } from 'vitest';
import { Outbox, type OutboxEnvironment } from './outbox.ts';
import { type PagePosition, Room, type RoomEnvironment } from './room.ts';
import { Memory } from './storage.ts';
import type { Page, User } from './timeline.ts';

const ann: User = { id: '1', username: 'ann' };
const bob: User = { id: '2', username: 'bob' };

function newOutbox(send: OutboxEnvironment['send'] = () => new Promise(() => {})): Outbox {
  let ids = 0;
  return new Outbox({
    user: ann.id,
    storage: new Memory(),
    send,
    position: () => 0,
    epoch: () => undefined,
    newId: () => `id-${++ids}`,
    now: () => 1000,
    wait: () => Promise.resolve(),
  });
}

function newRoom(fetchPage: (where: PagePosition) => Promise<Page>, outbox = newOutbox()): Room {
  const used = { user: ann, outbox, info: () => undefined, fetchPage: (_: string, where: PagePosition) => fetchPage(where) };
  return new Room('lobby', used satisfies Partial<RoomEnvironment> as unknown as RoomEnvironment);
}

it('does not quote a message of another room of the same name', async () => {
  const user = { id: '2', username: 'bob' };
  const message = { offset: 1, user, text: 'Elsewhere', id: null, time: 0 };
  let epoch = 'other';
  const room = newRoom(async () => {
    return { messages: [message], epoch, offset: 1, more: false } satisfies Page;
  });
  room.begin({ epoch: 'own', offset: 5 });
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
    const room = newRoom(async ({ before = 21 }) => {
      const offsets = Array.from({ length: Math.min(before, 21) - 1 }, (_, i) => i + 1).filter((at) => at !== 7);
      return answer({ messages: offsets.slice(-5).map(wire), epoch: 'e', offset: 20, more: offsets.length > 5 });
    });
    room.begin({ epoch: 'e', offset: 20 });
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

  it('gives up loading another part of the history for a message that is there', async () => {
    const room = lobby();
    await room.goTo(10);
    const newest = room.loadNewest();
    expect(await room.goTo(9)).toBe(true);
    await newest;
    expect([offsets(room).at(-1), room.loading]).toEqual([10, undefined]);
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

describe('the messages of a room', () => {
  const nothing = () => Promise.resolve({ messages: [], epoch: 'e', offset: 0, more: false });
  const texts = (room: Room) => room.messages.map(({ text, status }) => (status ? `${text} (${status})` : text));

  it('end with those that are not in the history yet, each once', async () => {
    const outbox = newOutbox();
    const room = newRoom(nothing, outbox);
    let changes = 0;
    room.on('messages', () => changes++);
    outbox.subscribe(() => room.outboxChanged());
    room.begin({ epoch: 'e', offset: 0 });
    await room.loadNewest();
    room.send('mine').catch(() => {});
    expect(texts(room)).toEqual(['mine (pending)']);
    expect(room.messages).toBe(room.messages);
    expect(room.messages[0]).toMatchObject({ id: 'id-1', user: ann, reactions: [] });
    const before = changes;
    outbox.add({ room: 'other', text: 'elsewhere' });
    expect(changes).toBe(before);
    // Another user's message may have the same id.
    room.timeline.publish({ offset: 1, user: bob, time: 1, data: { text: 'theirs', id: 'id-1' } });
    expect(texts(room)).toEqual(['theirs', 'mine (pending)']);
    room.timeline.publish({ offset: 2, user: ann, time: 2, data: { text: 'mine', id: 'id-1' } });
    expect(texts(room)).toEqual(['theirs', 'mine']);
  });

  it('are gone when the room starts afresh, and so are the people', async () => {
    const room = newRoom(nothing);
    room.begin({ epoch: 'e', offset: 0 });
    await room.loadNewest();
    room.timeline.publish({ offset: 1, user: bob, time: 1, data: { text: 'old' } });
    room.setConnection('c1', bob);
    room.startedTyping(bob);
    expect([room.people, room.typingUsers]).toEqual([[bob], [bob]]);
    const { id } = room;
    room.begin({ epoch: 'f', offset: 0 });
    expect([room.messages, room.people, room.typingUsers, room.id === id]).toEqual([[], [], [], false]);
  });
});

it('lists each person once, until the last connection is gone', () => {
  const room = newRoom(() => Promise.reject(new Error('no')));
  room.setConnections(new Map([['c1', bob], ['c2', bob], ['c3', ann]]));
  expect(room.people).toEqual([ann, bob]);
  room.startedTyping(bob);
  room.setConnection('c1', undefined);
  expect([room.people, room.typingUsers]).toEqual([[ann, bob], [bob]]);
  room.setConnection('c2', undefined);
  expect([room.people, room.typingUsers]).toEqual([[ann], []]);
});

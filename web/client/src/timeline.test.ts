import { beforeEach, describe, expect, it } from 'vitest';
import { type Data, type Page, Timeline, type WireMessage, kindOf } from './timeline.ts';

const ann = { id: '1', username: 'ann' };
const bob = { id: '2', username: 'bob' };

const wire = (offset: number, more: Partial<WireMessage> = {}): WireMessage => ({
  offset, user: bob, text: `text ${offset}`, id: `id-${offset}`, time: offset * 1000, reactions: [], ...more,
});
const page = (offsets: number[], offset: number, more = false): Page => ({
  messages: offsets.map((at) => wire(at)), epoch: 'e', offset, more,
});

describe('kindOf', () => {
  it('distinguishes the kinds', () => {
    expect(kindOf({ text: 'a' })).toBe('message');
    expect(kindOf({ deleted: true, id: 'a' })).toBe('message');
    expect(kindOf({ edit: 3, text: 'b' })).toBe('edit');
    expect(kindOf({ edit: 3, deleted: true })).toBe('edit');
    expect(kindOf({ delete: 3 })).toBe('delete');
    expect(kindOf({ react: 3, emoji: '👍' })).toBe('react');
    expect(kindOf({ unreact: 3, emoji: '👍' })).toBe('unreact');
    expect(kindOf({ removed: '4' })).toBe('other');
    expect(kindOf({ room: {} })).toBe('other');
  });
});

describe('Timeline', () => {
  let room: Timeline;
  const publish = (offset: number, data: Data, user = bob) =>
    room.publish({ offset, user, time: offset * 1000, data });
  const offsets = () => room.messages.map(({ offset }) => offset);
  const texts = () => room.messages.map(({ text }) => text);

  beforeEach(() => {
    room = new Timeline(ann.id);
    room.begin('e', 10);
  });

  it('merges the newest page with live publications without duplicates', () => {
    publish(11, { text: 'eleven' });
    publish(12, { text: 'twelve' });
    expect(room.showNewest(page([9, 10, 11], 11))).toBe(true);
    expect(offsets()).toEqual([9, 10, 11, 12]);
    publish(12, { text: 'again' });
    publish(13, { text: 'thirteen' });
    expect(texts()).toEqual(['text 9', 'text 10', 'text 11', 'twelve', 'thirteen']);
  });

  it('stays bounded under live messages, at the end and away from it', () => {
    room.showNewest(page([9, 10], 10));
    for (let offset = 11; offset <= 6000; offset++) publish(offset, { text: `text ${offset}` });
    expect(room.messages.length).toBeLessThanOrEqual(2000);
    expect([offsets().at(-1), room.hasOlder, room.hasNewer]).toEqual([6000, true, false]);
    const last = offsets();
    expect(last).toEqual(last.map((_, i) => last[0]! + i));

    room.showNewest(page([5999, 6000], 6000));
    room.follows = false;
    for (let offset = 6001; offset <= 12_000; offset++) publish(offset, { text: `text ${offset}` });
    expect([offsets()[0], offsets().length, room.hasNewer]).toEqual([5999, 2000, true]);
    const after = offsets().at(-1)!;
    expect(room.append(page([after + 1, after + 2], 12_000, true), after)).toBe(true);
    expect(offsets().slice(-2)).toEqual([after + 1, after + 2]);
  });

  it('starts in the middle, with more on both sides', () => {
    expect(room.showFrom(page([3, 4], 10, true))).toBe(true);
    publish(11, { text: 'eleven' });
    expect([offsets(), room.hasOlder, room.hasNewer]).toEqual([[3, 4], true, true]);
    room.append(page([5, 6], 11, false), 4);
    expect([offsets(), room.hasNewer]).toEqual([[3, 4, 5, 6], false]);
    publish(12, { text: 'twelve' });
    expect(offsets()).toEqual([3, 4, 5, 6, 12]);
  });

  it('accepts a page that is ahead of the live publications', () => {
    const edited = wire(12, { text: 'second', edited: 14 });
    room.showNewest({ messages: [wire(10), edited], epoch: 'e', offset: 14, more: false });
    publish(11, { react: 10, emoji: '👍' });
    publish(12, { text: 'first' });
    publish(13, { edit: 12, text: 'between' });
    expect(texts()).toEqual(['text 10', 'second']);
    expect(room.messages[0]!.reactions).toEqual([]);
    publish(14, { edit: 12, text: 'second' });
    publish(15, { edit: 12, text: 'third' });
    expect(texts()).toEqual(['text 10', 'third']);
  });

  it('rejects a page of another history, and one older than its log', () => {
    expect(room.showNewest({ ...page([1], 10), epoch: 'f' })).toBe(false);
    expect(room.showNewest(page([1], 9))).toBe(false);
    expect(room.loaded).toBe(false);
  });

  it('applies edits, and keeps deleted messages without their text', () => {
    room.showNewest(page([9, 10], 10));
    publish(11, { edit: 9, text: 'new' });
    expect(room.messages[0]).toMatchObject({ text: 'new', edited: true });
    publish(12, { delete: 9 });
    publish(13, { edit: 10, deleted: true });
    expect(texts()).toEqual([null, null]);
    publish(14, { edit: 99, text: 'an edit of a message that is not loaded' });
    expect(offsets()).toEqual([9, 10]);
  });

  it('counts a reaction once per person', () => {
    const liked = wire(9, { reactions: [{ emoji: '👍', count: 2, mine: true }] });
    room.showNewest({ messages: [liked], epoch: 'e', offset: 10, more: false });
    publish(11, { react: 9, emoji: '👍' });
    publish(12, { react: 9, emoji: '👍' });
    publish(13, { react: 9, emoji: '👍' }, ann);
    expect(room.messages[0]!.reactions).toMatchObject([{ count: 3, mine: true }]);
    publish(14, { unreact: 9, emoji: '👍' }, ann);
    expect(room.messages[0]!.reactions).toMatchObject([{ count: 2, mine: false }]);
    publish(15, { react: 9, emoji: '🎉' }, ann);
    publish(16, { unreact: 9, emoji: '🎉' }, ann);
    expect(room.messages[0]!.reactions.map(({ emoji }) => emoji)).toEqual(['👍']);
  });

  it('prepends older pages only where they fit', () => {
    room.showNewest(page([7, 8, 10], 10, true));
    expect(room.hasOlder).toBe(true);
    expect(room.prepend(page([3, 4], 10, true), 6)).toBe(false);
    expect(room.prepend(page([3, 4], 10, false), 7)).toBe(true);
    expect(offsets()).toEqual([3, 4, 7, 8, 10]);
    expect(room.hasOlder).toBe(false);
  });

  it('applies live publications to an older page that arrives after them', () => {
    room.showNewest(page([9, 10], 10, true));
    publish(11, { edit: 5, text: 'changed' });
    room.prepend(page([5], 10), 9);
    expect(texts()).toEqual(['changed', 'text 9', 'text 10']);
  });

  it('omits live messages while the window ends before them, then catches up', () => {
    room.showNewest(page([6, 7, 8, 9, 10], 10, true));
    room.trim(3, 'newest');
    expect(offsets()).toEqual([6, 7, 8]);
    expect(room.hasNewer).toBe(true);
    publish(11, { text: 'eleven' });
    expect(offsets()).toEqual([6, 7, 8]);
    expect(room.append(page([9, 10], 10), 8)).toBe(true);
    expect(offsets()).toEqual([6, 7, 8, 9, 10, 11]);
    expect(room.hasNewer).toBe(false);
    room.trim(2, 'oldest');
    expect(offsets()).toEqual([10, 11]);
    expect(room.hasOlder).toBe(true);
  });

  it('clears the window at a gap and continues after it', () => {
    room.showNewest(page([9, 10], 10));
    expect(publish(13, { text: 'thirteen' })).toBe(false);
    expect(room.loaded).toBe(false);
    expect(room.showNewest(page([9, 10], 11))).toBe(false);
    expect(room.showNewest(page([9, 10, 12], 12))).toBe(true);
    expect(offsets()).toEqual([9, 10, 12, 13]);
  });

  it('keeps only the position while asleep', () => {
    room.showNewest(page([9, 10], 10));
    room.sleep();
    publish(11, { text: 'eleven' });
    expect(offsets()).toEqual([]);
    room.wake();
    publish(12, { text: 'twelve' });
    expect(room.showNewest(page([10], 10))).toBe(false);
    expect(room.showNewest(page([10, 11], 11))).toBe(true);
    expect(offsets()).toEqual([10, 11, 12]);
  });

  it('rejects a page that its log does not reach back to', () => {
    for (let offset = 11; offset < 1200; offset++) publish(offset, { text: 'many' });
    expect(room.showNewest(page([9, 10], 10))).toBe(false);
    expect(room.showNewest(page([1100], 1150))).toBe(true);
    expect(offsets()).toHaveLength(1 + 1199 - 1150);
  });

  describe('joins and departures', () => {
    const change = (offset: number, added = true) => ({
      offset, time: offset * 1000, user: bob, ...(added ? { added: bob } : { removed: bob }),
    });
    const withChanges = (of: Page, ...changes: number[]): Page => ({ ...of, memberships: changes.map((at) => change(at)) });
    const changes = () => room.changes.map(({ offset }) => offset);

    it('are not messages', () => {
      room.showNewest(page([9, 10], 10));
      publish(11, { added: bob.id, username: 'bob' });
      publish(12, { removed: '7' }, ann);
      expect(offsets()).toEqual([9, 10]);
      expect(room.changes).toEqual([
        { offset: 11, time: 11_000, user: bob, kind: 'added', member: { id: bob.id, username: 'bob' } },
        { offset: 12, time: 12_000, user: ann, kind: 'removed', member: { id: '7' } },
      ]);
    });

    it('come once, from a page and live', () => {
      publish(11, { added: bob.id, username: 'bob' });
      publish(12, { removed: bob.id, username: 'bob' });
      expect(room.showNewest(withChanges(page([9, 10], 11), 8, 11))).toBe(true);
      expect(changes()).toEqual([8, 11, 12]);
      publish(12, { removed: bob.id, username: 'bob' });
      publish(13, { added: bob.id, username: 'bob' });
      expect(changes()).toEqual([8, 11, 12, 13]);
    });

    it('follow the window', () => {
      room.showNewest(withChanges(page([7, 9], 10, true), 8, 10));
      room.prepend(withChanges(page([3, 5], 10, true), 4, 6), 7);
      expect(changes()).toEqual([4, 6, 8, 10]);
      room.trim(3, 'newest');
      expect([offsets(), changes()]).toEqual([[3, 5, 7], [4, 6]]);
      publish(11, { added: bob.id, username: 'bob' });
      expect(changes()).toEqual([4, 6]);
      room.append(withChanges(page([9], 10), 8, 10), 7);
      expect(changes()).toEqual([4, 6, 8, 10, 11]);
      room.trim(2, 'oldest');
      expect([offsets(), changes()]).toEqual([[7, 9], [8, 10, 11]]);
      room.prepend(withChanges(page([5], 11), 6), 7);
      expect(changes()).toEqual([6, 8, 10, 11]);
      room.clear();
      expect(changes()).toEqual([]);
    });

    it('stay bounded without messages, and with many', () => {
      room.showNewest(page([9, 10], 10));
      for (let offset = 11; offset <= 6000; offset++) publish(offset, { added: bob.id, username: 'bob' });
      expect([changes().length, changes().at(-1)]).toEqual([1000, 6000]);
      for (let offset = 6001; offset <= 12_000; offset += 2) {
        publish(offset, { text: 'x' });
        publish(offset + 1, { added: bob.id, username: 'bob' });
      }
      expect(changes().length).toBeLessThanOrEqual(1000);
      expect(changes()[0]).toBeGreaterThan(offsets()[0]!);
    });
  });
});

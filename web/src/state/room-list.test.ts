import { describe, expect, it } from 'vitest';
import { chooseRooms, Memory, type RoomInfo } from '@uproar/client';
import { RoomList } from './room-list';
import { UnreadMarks } from './unread-marks';

const info = (name: string, more: Partial<RoomInfo> = {}): RoomInfo => ({
  name, title: name, private: false, size: 10, members: 1, epoch: `e-${name}`,
  offset: 10, number: 8, read: { offset: 10, number: 8 }, role: 'member', unread: 0, time: 0, ...more,
});

describe('RoomList', () => {
  it('counts messages of others but not edits or reactions', () => {
    const rooms = new RoomList();
    rooms.set([info('a')]);
    rooms.publication('a', 11, 1, true, false);
    rooms.publication('a', 12, 1, false, false);
    rooms.publication('a', 13, 1, true, false);
    rooms.publication('a', 13, 1, true, false);
    rooms.publication('a', 14, 1, true, true);
    rooms.publication('unknown', 1, 1, true, false);
    expect(rooms.unread('a')).toBe(2);
    expect(rooms.total).toBe(2);
  });

  it('puts favourites first, then the room with the latest message', () => {
    const favourites = new Set(['c']);
    const rooms = new RoomList({ has: (mark, name) => mark === 'favourite' && favourites.has(name) });
    const order = () => rooms.sorted.map(({ name }) => name).join('');
    rooms.set([info('a', { time: 5 }), info('b', { time: 7 }), info('c', { time: 1 }), info('d', { time: 5 })]);
    expect(order()).toBe('cbad');
    rooms.publication('d', 11, 8, true, true);
    expect(order()).toBe('cdba');
    // Edits and reactions are no reason to move.
    rooms.publication('a', 11, 9, false, false);
    expect(order()).toBe('cdba');
    favourites.add('b');
    rooms.sort();
    expect(order()).toBe('bcda');
    // An older list does not undo what live publications have changed.
    rooms.set([info('a', { time: 5 }), info('b', { time: 7 }), info('c', { time: 1 }), info('d', { time: 5 })]);
    expect(order()).toBe('bcda');
  });

  it('does not count muted rooms', () => {
    const rooms = new RoomList({ has: (mark, name) => mark === 'muted' && name === 'b' });
    rooms.set([info('a', { unread: 2 }), info('b', { unread: 3 })]);
    expect([rooms.total, rooms.unread('b')]).toEqual([2, 3]);
  });

  it('counts the other rooms with unread messages', () => {
    const rooms = new RoomList({ has: (mark, name) => mark === 'muted' && name === 'd' });
    const muted = info('d', { number: 9, unread: 1 });
    rooms.set([info('a'), info('b', { number: 9, unread: 1 }), info('c', { number: 12, unread: 4 }), muted]);
    expect(['a', 'b', 'unknown'].map((name) => rooms.unreadBeside(name))).toEqual([2, 1, 2]);
    rooms.publication('a', 11, 9, true, false);
    rooms.read('c', 10, 12);
    expect(['a', 'b', 'unknown'].map((name) => rooms.unreadBeside(name))).toEqual([1, 1, 2]);
  });

  it('moves the read marker forward only', () => {
    const rooms = new RoomList();
    rooms.set([info('a', { offset: 20, number: 16, unread: 8 })]);
    expect(rooms.unread('a')).toBe(8);
    rooms.read('a', 15, 12);
    rooms.read('a', 12, 10);
    expect(rooms.unread('a')).toBe(4);
    rooms.mention('e-a');
    rooms.read('a', 20, 16);
    expect(rooms.unread('a')).toBe(0);
    expect(rooms.isMentioned(rooms.get('a')!)).toBe(false);
  });

  it('adds what the user marked as unread to what is', () => {
    const rooms = new RoomList(undefined, new UnreadMarks(new Memory(), '1'));
    rooms.set([info('a', { unread: 2 }), info('b')]);
    rooms.setMark('a', { after: 3, count: 4 });
    rooms.setMark('unknown', { after: 3, count: 4 });
    rooms.publication('a', 11, 1, true, false);
    expect([rooms.unread('a'), rooms.unread('b'), rooms.total]).toEqual([7, 0, 7]);
    expect([rooms.readUpTo('a'), rooms.readUpTo('b')]).toEqual([3, 10]);
    rooms.setMark('b', { after: 3, count: 1 });
    expect([rooms.unreadBeside('a'), rooms.unreadBeside('c')]).toEqual([1, 2]);
    rooms.setMark('a', { after: 3, count: 1001 });
    expect(rooms.unread('a')).toBe(1001);
    // Another room that takes the name is not marked.
    rooms.set([info('a', { epoch: 'f' })]);
    expect([rooms.unread('a'), rooms.markOf('a')]).toEqual([0, undefined]);
  });

  it('keeps the latest publication when an older list arrives', () => {
    const rooms = new RoomList();
    rooms.set([info('a')]);
    rooms.publication('a', 11, 1, true, false);
    rooms.read('a', 11, 9);
    rooms.set([info('a'), info('b', { number: 9, unread: 1 })]);
    expect(rooms.unread('a')).toBe(0);
    expect(rooms.get('a')).toMatchObject({ offset: 11, number: 9 });
    expect(rooms.unread('b')).toBe(1);
  });

  it('starts over when the epoch changes', () => {
    const rooms = new RoomList();
    rooms.set([info('a')]);
    rooms.set([info('a', { epoch: 'f', offset: 2, number: 2, read: { offset: 0, number: 0 }, unread: 2 })]);
    expect(rooms.unread('a')).toBe(2);
  });

  it('does not pass the mark of a mention on to another room of the same name, or to later messages', () => {
    const rooms = new RoomList();
    rooms.set([info('a', { unread: 1 }), info('b', { unread: 1 })]);
    rooms.mention('e-a');
    rooms.mention('e-b');
    const isMarked = (name: string) => rooms.isMentioned(rooms.get(name)!);
    expect([isMarked('a'), isMarked('b')]).toEqual([true, true]);
    // The first was created again. The second was read elsewhere.
    rooms.set([info('a', { epoch: 'f', unread: 1 }), info('b', { read: { offset: 11, number: 9 } })]);
    rooms.publication('b', 11, 1, true, false);
    expect([isMarked('a'), isMarked('b')]).toEqual([false, false]);
  });

  it('sorts by title', () => {
    const rooms = new RoomList();
    rooms.set([info('x', { title: 'Älpler' }), info('y', { title: 'zebra' }), info('z', { title: 'Bar' })]);
    expect(rooms.sorted.map(({ name }) => name)).toEqual(['x', 'z', 'y']);
    rooms.remove('z');
    expect(rooms.sorted.map(({ name }) => name)).toEqual(['x', 'y']);
  });
});

describe('chooseRooms', () => {
  it('prefers recently opened rooms, then rooms with unread messages', () => {
    const rooms = ['a', 'b', 'c', 'd', 'e'].map((name) => info(name));
    const unread = (name: string) => (name === 'd' ? 3 : 0);
    expect(chooseRooms(rooms, ['e', 'b', 'gone'], 4, unread)).toEqual(['e', 'b', 'd', 'a']);
  });
});

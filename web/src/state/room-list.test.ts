import { beforeEach, describe, expect, it } from 'vitest';
import { Memory, type RoomInfo, RoomList as ServerList } from '@uproar/client';
import { RoomList } from './room-list';
import { UnreadMarks } from './unread-marks';

const info = (name: string, more: Partial<RoomInfo> = {}): RoomInfo => ({
  name, title: name, private: false, size: 10, members: 1, epoch: `e-${name}`,
  offset: 10, number: 8, read: { offset: 10, number: 8 }, role: 'member', unread: 0, time: 0, ...more,
});

let list: ServerList;
beforeEach(() => {
  list = new ServerList();
});

describe('RoomList', () => {
  it('puts favourites first', () => {
    const favourites = new Set(['c']);
    const rooms = new RoomList(list, { has: (mark, name) => mark === 'favourite' && favourites.has(name) });
    const order = () => rooms.sorted.map(({ name }) => name).join('');
    list.set([info('a', { time: 5 }), info('b', { time: 7 }), info('c', { time: 1 }), info('d', { time: 5 })]);
    expect(order()).toBe('cbad');
    list.publication('d', 11, 8, true, true);
    expect(order()).toBe('cdba');
    favourites.add('b');
    rooms.sort();
    expect(order()).toBe('bcda');
  });

  it('does not count muted rooms', () => {
    const rooms = new RoomList(list, { has: (mark, name) => mark === 'muted' && name === 'b' });
    list.set([info('a', { unread: 2 }), info('b', { unread: 3 })]);
    expect([rooms.total, rooms.unread('b')]).toEqual([2, 3]);
  });

  it('counts the other rooms with unread messages', () => {
    const rooms = new RoomList(list, { has: (mark, name) => mark === 'muted' && name === 'd' });
    const muted = info('d', { number: 9, unread: 1 });
    list.set([info('a'), info('b', { number: 9, unread: 1 }), info('c', { number: 12, unread: 4 }), muted]);
    expect(['a', 'b', 'unknown'].map((name) => rooms.unreadBeside(name))).toEqual([2, 1, 2]);
    list.publication('a', 11, 9, true, false);
    list.read('c', 10, 12);
    expect(['a', 'b', 'unknown'].map((name) => rooms.unreadBeside(name))).toEqual([1, 1, 2]);
  });

  it('adds what the user marked as unread to what is', () => {
    const rooms = new RoomList(list, undefined, new UnreadMarks(new Memory(), '1'));
    list.set([info('a', { unread: 2 }), info('b')]);
    rooms.setMark('a', { after: 3, count: 4 });
    rooms.setMark('unknown', { after: 3, count: 4 });
    list.publication('a', 11, 1, true, false);
    expect([rooms.unread('a'), rooms.unread('b'), rooms.total]).toEqual([7, 0, 7]);
    expect([rooms.readUpTo('a'), rooms.readUpTo('b')]).toEqual([3, 10]);
    rooms.setMark('b', { after: 3, count: 1 });
    expect([rooms.unreadBeside('a'), rooms.unreadBeside('c')]).toEqual([1, 2]);
    rooms.setMark('a', { after: 3, count: 1001 });
    expect(rooms.unread('a')).toBe(1001);
    // Another room that takes the name is not marked.
    list.set([info('a', { epoch: 'f' })]);
    expect([rooms.unread('a'), rooms.markOf('a')]).toEqual([0, undefined]);
  });

  it('does not pass the mark of a mention on to another room of the same name, or to later messages', () => {
    const rooms = new RoomList(list);
    list.set([info('a', { unread: 1 }), info('b', { unread: 1 })]);
    rooms.mention('e-a');
    rooms.mention('e-b');
    const isMarked = (name: string) => rooms.isMentioned(rooms.get(name)!);
    expect([isMarked('a'), isMarked('b')]).toEqual([true, true]);
    // The first was created again. The second was read elsewhere.
    list.set([info('a', { epoch: 'f', unread: 1 }), info('b', { read: { offset: 11, number: 9 } })]);
    list.publication('b', 11, 1, true, false);
    expect([isMarked('a'), isMarked('b')]).toEqual([false, false]);
  });

  it('forgets a mention that was read', () => {
    const rooms = new RoomList(list);
    list.set([info('a', { offset: 20, number: 16, unread: 8 })]);
    rooms.mention('e-a');
    list.read('a', 15, 12);
    expect(rooms.isMentioned(rooms.get('a')!)).toBe(true);
    list.read('a', 20, 16);
    expect(rooms.isMentioned(rooms.get('a')!)).toBe(false);
  });
});

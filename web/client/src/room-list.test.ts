import { describe, expect, it } from 'vitest';
import { type RoomInfo, RoomList, chooseRooms } from './room-list.ts';

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
    expect(rooms.get('a')!.unread).toBe(2);
  });

  it('puts the room with the latest message first', () => {
    const rooms = new RoomList();
    const order = () => rooms.sorted.map(({ name }) => name).join('');
    rooms.set([info('a', { time: 5 }), info('b', { time: 7 }), info('c', { time: 1 }), info('d', { time: 5 })]);
    expect(order()).toBe('badc');
    rooms.publication('d', 11, 8, true, true);
    expect(order()).toBe('dbac');
    // Edits and reactions are no reason to move.
    rooms.publication('a', 11, 9, false, false);
    expect(order()).toBe('dbac');
    // An older list does not undo what live publications have changed.
    rooms.set([info('a', { time: 5 }), info('b', { time: 7 }), info('c', { time: 1 }), info('d', { time: 5 })]);
    expect(order()).toBe('dbac');
  });

  it('moves the read marker forward only', () => {
    const rooms = new RoomList();
    rooms.set([info('a', { offset: 20, number: 16, unread: 8 })]);
    expect(rooms.get('a')!.unread).toBe(8);
    rooms.read('a', 15, 12);
    rooms.read('a', 12, 10);
    expect(rooms.get('a')!.unread).toBe(4);
    rooms.read('a', 20, 16);
    expect(rooms.get('a')!.unread).toBe(0);
  });

  it('keeps the latest publication when an older list arrives', () => {
    const rooms = new RoomList();
    rooms.set([info('a')]);
    rooms.publication('a', 11, 1, true, false);
    rooms.read('a', 11, 9);
    rooms.set([info('a'), info('b', { number: 9, unread: 1 })]);
    expect(rooms.get('a')!.unread).toBe(0);
    expect(rooms.get('a')).toMatchObject({ offset: 11, number: 9 });
    expect(rooms.get('b')!.unread).toBe(1);
  });

  it('starts over when the epoch changes', () => {
    const rooms = new RoomList();
    rooms.set([info('a')]);
    rooms.set([info('a', { epoch: 'f', offset: 2, number: 2, read: { offset: 0, number: 0 }, unread: 2 })]);
    expect(rooms.get('a')!.unread).toBe(2);
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
    const rooms = ['a', 'b', 'c', 'd', 'e'].map((name) => info(name, { unread: name === 'd' ? 3 : 0 }));
    expect(chooseRooms(rooms, ['e', 'b', 'gone'], 4)).toEqual(['e', 'b', 'd', 'a']);
  });
});

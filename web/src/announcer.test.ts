import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { type RoomInfo, RoomList as ServerList } from '@uproar/client';
import { Announcer } from './announcer';
import { Names } from './state/mentions';
import { RoomList } from './state/room-list';

const bob = { id: '2', username: 'bob' };
const room = (epoch: string): RoomInfo => ({
  name: 'lobby',
  title: 'Lobby',
  private: false,
  size: 10,
  members: 2,
  epoch,
  offset: 5,
  number: 5,
  read: { offset: 4, number: 4 },
  role: 'member',
  unread: 1,
  time: 0,
});

let list: ServerList;
let rooms: RoomList;
let notified: [string, string][];
let announcer: Announcer;

beforeEach(() => {
  vi.useFakeTimers();
  list = new ServerList();
  rooms = new RoomList(list);
  list.set([room('old')]);
  notified = [];
  announcer = new Announcer({ id: '1', username: 'ann' }, rooms, new Names(), (_, body, tag) =>
    notified.push([body, tag]),
  );
});
afterEach(() => vi.useRealTimers());

it('notifies the user of a mention, with a tag that no message of another room has', () => {
  announcer.message('lobby', 'old', bob, '@ann one', 5, false);
  vi.runAllTimers();
  list.set([room('new')]);
  announcer.message('lobby', 'new', bob, '@ann two', 5, false);
  vi.runAllTimers();
  expect(notified).toEqual([
    ['@ann one', 'old 5'],
    ['@ann two', 'new 5'],
  ]);
});

it('does not notify the user of a mention in a muted room', () => {
  rooms = new RoomList(list, { has: (mark, name) => mark === 'muted' && name === 'lobby' });
  list.set([room('old')]);
  announcer = new Announcer({ id: '1', username: 'ann' }, rooms, new Names(), (_, body, tag) =>
    notified.push([body, tag]),
  );
  announcer.message('lobby', 'old', bob, '@ann one', 5, false);
  vi.runAllTimers();
  expect(notified).toEqual([]);
  expect(rooms.isMentioned(rooms.get('lobby')!)).toBe(true);
});

it('does not notify the user of a message in a room that was deleted meanwhile', () => {
  announcer.message('lobby', 'old', bob, '@ann one', 5, false);
  list.set([room('new')]);
  vi.runAllTimers();
  expect(notified).toEqual([]);
  expect(rooms.isMentioned(rooms.get('lobby')!)).toBe(false);
});

it('tells of a message without its markers, and not of a name in code', () => {
  announcer.message('lobby', 'old', bob, '**@ann**: `two`', 5, false);
  announcer.message('lobby', 'old', bob, '`@ann`', 6, false);
  vi.runAllTimers();
  expect(notified).toEqual([['@ann: two', 'old 5']]);
  announcer.message('lobby', 'old', bob, '> *three*', 7, true);
  expect(announcer.text).toBe('bob: three');
});

import { describe, expect, it } from 'vitest';
import type { RoomInfo } from '@uproar/client';
import { type Order, findRooms, match, neighbour, searchable } from './switcher';

const info = (name: string, title = name): RoomInfo => ({
  name, title, private: false, size: 10, members: 1, epoch: `e-${name}`,
  offset: 10, number: 8, read: { offset: 10, number: 8 }, role: 'member', unread: 0, time: 0,
});
const ROOMS = [info('attic'), info('cafe', 'Café Zürich'), info('garden', 'The garden'), info('garage'), info('zoo')];
const find = (query: string, order: Partial<Order> = {}) =>
  findRooms(query, ROOMS, { recent: [], open: undefined, unread: () => 0, isMentioned: () => false, ...order })
    .map(({ name }) => name);

describe('searchable', () => {
  it('leaves out case, accents and letters that are missing on other keyboards', () => {
    expect(searchable('  CAFÉ Zürich ')).toBe('cafe zurich');
    expect(searchable('Cafe\u0301')).toBe('cafe');
    expect(searchable('Łódź, Ærø, Straße')).toBe('lodz, aero, strasse');
    expect(searchable('Ёлка')).toBe(searchable('елка'));
  });

  it('keeps the marks that are letters of their own', () => {
    expect(searchable('हिन्दी')).toBe('हिन्दी');
    expect(searchable('が')).not.toBe(searchable('か'));
  });
});

describe('match', () => {
  it('prefers the whole text to its beginning, that to words, words to parts of them, and those to letters', () => {
    const matches = ['the gar', 'the garden', 'in the gar', 'lathe ogar', 'tohe-g-a-r'].map((text) => match('the gar', text));
    expect(matches).toEqual([...matches].sort((a, b) => b! - a!));
    expect(new Set(matches).size).toBe(5);
    expect(matches).not.toContain(undefined);
  });

  it('wants all letters in their order', () => {
    expect(match('ba', 'abc')).toBeUndefined();
    expect(match('aa', 'abc')).toBeUndefined();
    expect(match('👍', 'so 👍')).toBeDefined();
  });
});

describe('findRooms', () => {
  it('finds rooms by title and name, the better match first', () => {
    expect(find('gar')).toEqual(['garden', 'garage']);
    expect(find('the g')).toEqual(['garden']);
    expect(find('zuri')).toEqual(['cafe']);
    expect(find('Z')).toEqual(['zoo', 'cafe']);
    expect(find('gdn')).toEqual(['garden']);
    expect(find('nothing like it')).toEqual([]);
  });

  it('lists mentions first, then what is unread, then what was open, and the open room last', () => {
    const order = {
      recent: ['garden', 'attic'],
      open: 'garden',
      unread: (name: string) => (name === 'zoo' || name === 'cafe' ? 1 : 0),
      isMentioned: ({ name }: RoomInfo) => name === 'zoo',
    };
    expect(find('', order)).toEqual(['zoo', 'cafe', 'attic', 'garage', 'garden']);
    // What was typed counts more.
    expect(find('g', order)).toEqual(['garage', 'garden']);
    expect(find('gard', order)).toEqual(['garden']);
  });
});

describe('neighbour', () => {
  it('goes round', () => {
    const names = ['a', 'b', 'c'];
    expect([neighbour(names, 'a', 1), neighbour(names, 'c', 1), neighbour(names, 'a', -1)]).toEqual(['b', 'a', 'c']);
    expect([neighbour(names, undefined, 1), neighbour(names, undefined, -1)]).toEqual(['a', 'c']);
    expect([neighbour(names, 'gone', -1), neighbour([], 'a', 1)]).toEqual(['c', undefined]);
  });
});

import { describe, expect, it } from 'vitest';
import { addressOf, parseAddress, wordOf } from './address';

const room = (name: string | undefined, offset?: number, word?: string) => ({
  room: name,
  message: offset === undefined ? undefined : { offset, word },
});

describe('the address', () => {
  it('names a room, and maybe a message', () => {
    for (const place of [room('lobby'), room('lobby', 12), room('24/7'), room('24/7', 7), room('été 50%?#', 1)]) {
      expect(parseAddress(addressOf(place.room, place.message))).toEqual(place);
    }
    expect(parseAddress('#/lobby%20')).toEqual(room('lobby'));
    expect(parseAddress('#/a/b')).toEqual(room('a/b'));
  });

  it('may say of which room of the name the message is', () => {
    const word = wordOf('00f1a2b3c4d5e6f7.1f');
    expect(word).toBe('00f1a2b3c4d5e6f7');
    for (const name of ['lobby', '24/7']) {
      expect(parseAddress(addressOf(name, { offset: 12, word }))).toEqual(room(name, 12, word));
    }
    expect(addressOf('lobby', { offset: 12, word })).toBe('#/lobby/12/00f1a2b3c4d5e6f7');
    expect(parseAddress('#/24/7/365')).toEqual(room('24/7', 365));
  });

  it('names nothing if it cannot be read', () => {
    for (const fragment of ['', '#', '#/', '#/%20', '#/%', '#lobby', '#/%20/3']) {
      expect(parseAddress(fragment), fragment).toEqual(room(undefined));
    }
    expect(parseAddress('#/lobby/0')).toEqual(room('lobby'));
    expect(parseAddress('#/lobby/99999999999999999999')).toEqual(room('lobby'));
  });
});

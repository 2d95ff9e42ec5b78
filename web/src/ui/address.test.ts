import { describe, expect, it } from 'vitest';
import { addressOf, parseAddress } from './address';

const room = (name: string | undefined, message?: number) => ({ room: name, message });

describe('the address', () => {
  it('names a room, and maybe a message', () => {
    for (const place of [room('lobby'), room('lobby', 12), room('24/7'), room('24/7', 7), room('été 50%?#', 1)]) {
      expect(parseAddress(addressOf(place.room, place.message))).toEqual(place);
    }
    expect(parseAddress('#/lobby%20')).toEqual(room('lobby'));
    expect(parseAddress('#/a/b')).toEqual(room('a/b'));
  });

  it('names nothing if it cannot be read', () => {
    for (const fragment of ['', '#', '#/', '#/%20', '#/%', '#lobby', '#/%20/3']) {
      expect(parseAddress(fragment), fragment).toEqual(room(undefined));
    }
    expect(parseAddress('#/lobby/0')).toEqual(room('lobby'));
    expect(parseAddress('#/lobby/99999999999999999999')).toEqual(room('lobby'));
  });
});

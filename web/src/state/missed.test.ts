import { describe, expect, it } from 'vitest';
import type { RoomInfo } from '@uproar/client';
import { Missed } from './missed';

const room = (name: string, offset: number, number = offset): RoomInfo => ({
  name,
  offset,
  number,
  title: name,
  private: false,
  size: 10,
  members: 2,
  epoch: `e-${name}`,
  read: { offset: 0, number: 0 },
  unread: 0,
  time: 0,
});

describe('Missed', () => {
  it('does not count a message of the user’s own that was stored just before the connection broke', () => {
    const missed = new Missed();
    // The page had sent one message. It was stored as 11, but neither the answer nor the publication arrived.
    missed.lost([room('lobby', 10)]);
    missed.back([room('lobby', 12)], () => 10);
    expect(missed.isComplete).toBe(false);
    missed.publication('lobby', 11, false);
    missed.publication('lobby', 12, true);
    expect([missed.isComplete, missed.count]).toEqual([true, 1]);
    // What arrives from now on is not missed.
    missed.publication('lobby', 13, true);
    expect(missed.count).toBe(1);
  });

  it('counts what arrives before the list of rooms has been loaded for the last time', () => {
    const missed = new Missed();
    missed.lost([room('lobby', 10)]);
    missed.publication('lobby', 11, false);
    missed.publication('lobby', 12, true);
    missed.back([room('lobby', 12)], () => 12);
    expect([missed.isComplete, missed.count]).toEqual([true, 1]);
    missed.publication('lobby', 13, true);
    expect(missed.count).toBe(1);
  });

  it('counts by numbers in rooms that are not subscribed to', () => {
    const missed = new Missed();
    missed.lost([room('a', 10, 8), room('b', 5, 5)]);
    missed.back([room('a', 14, 11), room('b', 5, 5), room('new', 9, 9)], () => undefined);
    expect([missed.isComplete, missed.count]).toEqual([true, 3]);
  });

  it('goes on counting if the connection breaks again before the user has seen the result', () => {
    const missed = new Missed();
    missed.lost([room('lobby', 1), room('far', 1)]);
    missed.back([room('lobby', 3), room('far', 2)], name => (name === 'lobby' ? 1 : undefined));
    missed.publication('lobby', 2, true);
    missed.lost([room('lobby', 3), room('far', 2)]);
    missed.back([room('lobby', 4), room('far', 3)], name => (name === 'lobby' ? 2 : undefined));
    missed.publication('lobby', 3, true);
    missed.publication('lobby', 4, true);
    expect([missed.isComplete, missed.count]).toEqual([true, 5]);
    missed.reset();
    missed.lost([room('lobby', 4)]);
    missed.back([room('lobby', 4)], () => 4);
    expect([missed.isComplete, missed.count]).toEqual([true, 0]);
  });

  it('does not compare a room with an earlier one of the same name', () => {
    const missed = new Missed();
    missed.lost([room('lobby', 10)]);
    missed.back([{ ...room('lobby', 14), epoch: 'other' }], () => undefined);
    expect(missed.count).toBe(0);
  });

  it('does not wait for a room that was replaced or left', () => {
    const missed = new Missed();
    missed.lost([room('lobby', 1), room('gone', 1)]);
    missed.back([room('lobby', 2), room('gone', 2)], () => 1);
    missed.skip('gone');
    expect(missed.isComplete).toBe(false);
    missed.skip('lobby');
    expect([missed.isComplete, missed.count]).toEqual([true, 0]);
  });
});

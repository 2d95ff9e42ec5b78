import { describe, expect, it } from 'vitest';
import { Memory } from '@uproar/client';
import { RoomMarks } from './room-marks';

describe('RoomMarks', () => {
  it('keeps marks in the browser, for each user', () => {
    const storage = new Memory();
    const marks = new RoomMarks(storage, '1');
    marks.set('favourite', 'lobby', true);
    marks.set('muted', 'news', true);
    expect([marks.has('favourite', 'lobby'), marks.has('muted', 'lobby')]).toEqual([true, false]);

    const again = new RoomMarks(storage, '1');
    expect([again.has('favourite', 'lobby'), again.has('muted', 'news')]).toEqual([true, true]);
    again.set('favourite', 'lobby', false);
    expect(new RoomMarks(storage, '1').has('favourite', 'lobby')).toBe(false);
    expect(new RoomMarks(storage, '2').has('muted', 'news')).toBe(false);
  });

  it('takes over what another tab has marked, and does not undo it', () => {
    const storage = new Memory();
    const [here, there] = [new RoomMarks(storage, '1'), new RoomMarks(storage, '1')];
    let changes = 0;
    here.subscribe(() => changes++);
    there.set('muted', 'news', true);
    here.stored('uproar.draft.1.news');
    expect([changes, here.has('muted', 'news')]).toEqual([0, false]);
    here.stored('uproar.muted.1');
    expect([changes, here.has('muted', 'news')]).toEqual([1, true]);

    there.set('muted', 'lobby', true);
    here.set('muted', 'den', true);
    expect(['news', 'lobby', 'den'].map((room) => here.has('muted', room))).toEqual([true, true, true]);
  });

  it('survives whatever is in the storage', () => {
    const storage = new Memory();
    storage.setItem('uproar.favourite.1', '{"lobby": true');
    storage.setItem('uproar.muted.1', '[1, "news", null]');
    const marks = new RoomMarks(storage, '1');
    expect([marks.has('favourite', 'lobby'), marks.has('muted', 'news')]).toEqual([false, true]);
  });
});

import { expect, it } from 'vitest';
import { Memory } from '@uproar/client';
import { UnreadMarks } from './unread-marks';

it('keeps marks over a reload, and shares them with other tabs', () => {
  const storage = new Memory();
  const marks = new UnreadMarks(storage, '1');
  marks.set('e', { after: 0, count: 3 });
  marks.set('f', { after: 7, count: 0 });
  const other = new UnreadMarks(storage, '1');
  expect([other.get('e'), other.get('f'), other.get('g')]).toEqual([
    { after: 0, count: 3 },
    { after: 7, count: 0 },
    undefined,
  ]);
  expect([marks.set('e', undefined), marks.set('e', undefined)]).toEqual([true, false]);
  expect([other.stored('uproar.unread.2'), other.get('e') === undefined]).toEqual([false, false]);
  expect([other.stored('uproar.unread.1'), other.get('e')]).toEqual([true, undefined]);
  // What another tab has marked stays.
  other.set('h', { after: 1, count: 1 });
  marks.set('i', { after: 1, count: 1 });
  expect([marks.get('h'), new UnreadMarks(storage, '2').get('h')]).toEqual([{ after: 1, count: 1 }, undefined]);
  marks.keep(new Set(['g']));
  expect([marks.get('f'), storage.keys()]).toEqual([undefined, []]);
});

it('ignores what is not a mark', () => {
  for (const text of ['', '{', 'null', '[]', '7', '{"e":null}', '{"e":{"after":-1,"count":1}}', '{"e":{"after":1}}']) {
    const storage = new Memory();
    storage.setItem('uproar.unread.1', text);
    expect(new UnreadMarks(storage, '1').get('e'), text).toBeUndefined();
  }
});

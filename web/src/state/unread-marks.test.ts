import { expect, it } from 'vitest';
import { UnreadMarks } from './unread-marks';
import { Memory } from './memory';

it('keeps marks over a reload, and shares them with other tabs', () => {
  const storage = new Memory();
  const marks = new UnreadMarks(storage, 'key');
  marks.set('e', { after: 0, count: 3 });
  marks.set('f', { after: 7, count: 0 });
  const other = new UnreadMarks(storage, 'key');
  expect([other.get('e'), other.get('f'), other.get('g')]).toEqual([
    { after: 0, count: 3 },
    { after: 7, count: 0 },
    undefined,
  ]);
  expect([marks.set('e', undefined), marks.set('e', undefined)]).toEqual([true, false]);
  other.reload();
  expect(other.get('e')).toBeUndefined();
  marks.keep(new Set(['g']));
  expect([marks.get('f'), storage.keys()]).toEqual([undefined, []]);
});

it('ignores what is not a mark', () => {
  for (const text of ['', '{', 'null', '[]', '7', '{"e":null}', '{"e":{"after":-1,"count":1}}', '{"e":{"after":1}}']) {
    const storage = new Memory();
    storage.setItem('key', text);
    expect(new UnreadMarks(storage, 'key').get('e'), text).toBeUndefined();
  }
});

import { expect, it } from 'vitest';
import { Memory } from '@uproar/client';
import { readHabits, rememberEmoji, rememberTone } from './emoji-habits';
import { forget } from './privacy';

it('remembers the emoji that were used last, and the skin tone', () => {
  const storage = new Memory();
  expect(readHabits(storage, '1')).toEqual({ recent: [], tone: 0 });
  for (const emoji of ['👍', '🎉', '👍']) rememberEmoji(storage, '1', emoji);
  rememberTone(storage, '1', 3);
  expect(readHabits(storage, '1')).toEqual({ recent: ['👍', '🎉'], tone: 3 });
  expect(readHabits(storage, '2')).toEqual({ recent: [], tone: 0 });
  for (let i = 0; i < 50; i++) rememberEmoji(storage, '1', String.fromCodePoint(0x1f600 + i));
  expect(readHabits(storage, '1')).toMatchObject({ tone: 3 });
  expect(readHabits(storage, '1').recent).toHaveLength(24);
  forget([storage], '1');
  expect(readHabits(storage, '1')).toEqual({ recent: [], tone: 0 });
});

it('is not confused by what is stored', () => {
  const storage = new Memory();
  for (const kept of ['no JSON', 'null', '[]', '{"recent":7,"tone":"x"}', '{"recent":[1,{}],"tone":9}', '{"tone":1.5}']) {
    storage.setItem('uproar.emoji.1', kept);
    expect(readHabits(storage, '1'), kept).toEqual({ recent: [], tone: 0 });
  }
});

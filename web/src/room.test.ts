import { expect, it } from 'vitest';
import { Room } from './room';
import type { Page } from './state/timeline';

it('does not quote a message of another room of the same name', async () => {
  const user = { id: '2', username: 'bob' };
  const message = { offset: 1, user, text: 'Elsewhere', id: null, time: 0 };
  let epoch = 'other';
  const room = new Room('lobby', { id: '1', username: 'ann' }, async () => {
    return { messages: [message], epoch, offset: 1, more: false } satisfies Page;
  });
  room.timeline.begin('own', 5);
  const fetched = () => new Promise((done) => setTimeout(done));
  expect(room.quoted(1)).toBeUndefined();
  await fetched();
  expect(room.quoted(1)).toBeUndefined();
  room.forgetQuote(1);
  epoch = 'own';
  room.quoted(1);
  await fetched();
  expect(room.quoted(1)?.text).toBe('Elsewhere');
});

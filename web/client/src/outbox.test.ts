import { beforeEach, describe, expect, it } from 'vitest';
import { SendError } from './errors.ts';
import { Memory } from './storage.ts';
import { type Item, Outbox, countPending } from './outbox.ts';

const settle = async () => {
  for (let i = 0; i < 200; i++) await Promise.resolve();
};

describe('Outbox', () => {
  let storage: Memory;
  let sent: Item[];
  let answer: (item: Item) => Promise<{ offset: number }>;
  let ids: number;
  let position: number;
  let epoch: string | undefined;
  const open = (user = '1') =>
    new Outbox({
      user,
      storage,
      send: item => {
        sent.push(item);
        return answer(item);
      },
      position: () => position,
      epoch: () => epoch,
      newId: () => `id-${++ids}`,
      now: () => 1000,
      wait: () => Promise.resolve(),
    });

  beforeEach(() => {
    storage = new Memory();
    sent = [];
    ids = 0;
    position = 0;
    epoch = 'e1';
    answer = () => Promise.resolve({ offset: sent.length });
  });

  it('shows a message immediately, sends it, and removes it when its publication arrives', async () => {
    const outbox = open();
    outbox.setOnline(true);
    outbox.add({ room: 'lobby', text: 'Hello' });
    expect(outbox.of('lobby')).toMatchObject([{ text: 'Hello', status: 'pending' }]);
    await settle();
    expect(outbox.of('lobby')).toMatchObject([{ status: 'stored', offset: 1 }]);
    expect(storage.map.size).toBe(0);
    outbox.positionReached('lobby', 1);
    expect(outbox.size).toBe(0);
  });

  it('removes stored messages when another room takes the name, but no others', async () => {
    const outbox = open();
    outbox.setOnline(true);
    outbox.add({ room: 'lobby', text: 'Stored' });
    await settle();
    answer = () => Promise.reject(new SendError('refused', false));
    outbox.add({ room: 'lobby', text: 'Failed' });
    await settle();
    outbox.replaced('lobby');
    expect(outbox.of('lobby').map(({ text }) => text)).toEqual(['Failed']);
  });

  it('removes a message whose publication arrived before the reply', async () => {
    const outbox = open();
    position = 5;
    answer = () => Promise.resolve({ offset: 3 });
    outbox.setOnline(true);
    outbox.add({ room: 'lobby', text: 'Hello' });
    await settle();
    expect(outbox.size).toBe(0);
  });

  it('recognizes its own message by id before the reply arrives', async () => {
    answer = () => new Promise(() => {});
    const outbox = open();
    outbox.setOnline(true);
    const { id } = outbox.add({ room: 'lobby', text: 'Hello' });
    outbox.received('lobby', id, 7);
    expect(outbox.size).toBe(0);
    expect(storage.map.size).toBe(0);
  });

  it('promises the offset of a message, which is known when it is stored or arrives', async () => {
    answer = ({ text }) => (text === 'Stored' ? Promise.resolve({ offset: 3 }) : new Promise(() => {}));
    const outbox = open();
    const stored = outbox.stored(outbox.add({ room: 'lobby', text: 'Stored' }).id);
    const arrives = outbox.add({ room: 'lobby', text: 'Arrives' });
    const arrived = outbox.stored(arrives.id);
    outbox.setOnline(true);
    expect(await stored).toBe(3);
    outbox.received('lobby', arrives.id, 4);
    expect(await arrived).toBe(4);
  });

  it('says why a message is not stored, and lets it be sent again', async () => {
    answer = () => Promise.reject(new SendError('text_too_large', false));
    const outbox = open();
    outbox.setOnline(true);
    const { id } = outbox.add({ room: 'lobby', text: 'Long' });
    await expect(outbox.stored(id)).rejects.toMatchObject({ code: 'text_too_large' });
    answer = () => new Promise(() => {});
    outbox.retry(id);
    const again = outbox.stored(id);
    outbox.discard(id);
    await expect(again).rejects.toMatchObject({ code: 'discarded' });
    const { id: last } = outbox.add({ room: 'lobby', text: 'Last' });
    const kept = outbox.stored(last);
    outbox.stop();
    await expect(kept).rejects.toMatchObject({ code: 'closed' });
    expect(open().of('lobby').map(({ text }) => text)).toEqual(['Last']);
  });

  it('keeps unsent messages over a reload, in order and with their ids', async () => {
    const before = open();
    const written = ['a', 'b', 'c'].map(text => before.add({ room: 'lobby', text }));
    const other = open('2');
    expect(other.size).toBe(0);
    const after = open();
    expect(after.of('lobby').map(({ id, text }) => [id, text])).toEqual(written.map(({ id, text }) => [id, text]));
    after.setOnline(true);
    await settle();
    expect(sent.map(({ id }) => id)).toEqual(written.map(({ id }) => id));
  });

  it('keeps messages pending while offline', async () => {
    const outbox = open();
    outbox.setOnline(true);
    answer = () => {
      outbox.setOnline(false);
      return Promise.reject(new SendError('no_connection', true));
    };
    outbox.add({ room: 'lobby', text: 'Hello' });
    await settle();
    expect(outbox.of('lobby')).toMatchObject([{ status: 'pending' }]);
    answer = () => Promise.resolve({ offset: 7 });
    outbox.setOnline(true);
    await settle();
    expect(sent.map(({ id }) => id)).toEqual(['id-1', 'id-1']);
    expect(outbox.of('lobby')).toMatchObject([{ status: 'stored', offset: 7 }]);
  });

  it('sends a message five times, then offers a retry with the same id', async () => {
    const outbox = open();
    outbox.setOnline(true);
    answer = () => Promise.reject(new SendError('rate_limited', true));
    const { id } = outbox.add({ room: 'lobby', text: 'Hello' });
    await settle();
    expect(sent).toHaveLength(5);
    expect(outbox.of('lobby')).toMatchObject([{ status: 'failed', error: { code: 'rate_limited' } }]);
    answer = () => Promise.resolve({ offset: 3 });
    outbox.retry(id);
    await settle();
    expect(new Set(sent.map(item => item.id))).toEqual(new Set([id]));
    expect(outbox.of('lobby')).toMatchObject([{ status: 'stored', offset: 3 }]);
  });

  it('holds messages back while the outcome of an earlier one is unknown', async () => {
    const outbox = open();
    outbox.setOnline(true);
    answer = ({ text }) =>
      text === 'one' ? Promise.reject(new SendError('no_answer', true)) : Promise.resolve({ offset: 9 });
    const [one, two, other] = ['one', 'two', 'three'].map(text => outbox.add({ room: 'lobby', text }));
    outbox.add({ room: 'elsewhere', text: 'free' });
    await settle();
    expect(new Set(sent.map(({ text }) => text))).toEqual(new Set(['one', 'free']));
    expect(outbox.of('lobby')).toMatchObject([{ isUnknown: true }, { isHeld: true }, { isHeld: true }]);
    // A message written now waits as well.
    const four = outbox.add({ room: 'lobby', text: 'four' });
    await settle();
    expect(sent.map(({ text }) => text)).not.toContain('four');
    // Discarding the first one releases the others.
    sent = [];
    outbox.discard(one!.id);
    await settle();
    expect(sent.map(({ id }) => id)).toEqual([two!.id, other!.id, four.id]);
  });

  it('sends failed messages again in order when the connection is back', async () => {
    const outbox = open();
    outbox.setOnline(true);
    answer = () => Promise.reject(new SendError('no_answer', true));
    outbox.add({ room: 'lobby', text: 'one' });
    outbox.add({ room: 'lobby', text: 'two' });
    await settle();
    expect(outbox.of('lobby').map(({ status }) => status)).toEqual(['failed', 'failed']);
    outbox.setOnline(false);
    sent = [];
    answer = () => Promise.resolve({ offset: 10 });
    outbox.setOnline(true);
    await settle();
    expect(sent.map(({ text }) => text)).toEqual(['one', 'two']);
  });

  it('fails a rejected message alone', async () => {
    const outbox = open();
    answer = ({ text }) =>
      text === 'bad' ? Promise.reject(new SendError('text_too_large', false)) : Promise.resolve({ offset: 1 });
    outbox.add({ room: 'lobby', text: 'bad' });
    outbox.add({ room: 'lobby', text: 'good' });
    outbox.setOnline(true);
    await settle();
    expect(sent.map(({ text }) => text)).toEqual(['bad', 'good']);
    expect(outbox.of('lobby').map(({ status }) => status)).toEqual(['failed', 'stored']);
    const [bad] = outbox.of('lobby');
    outbox.discard(bad!.id);
    expect(storage.map.size).toBe(0);
  });

  it('waits for the previous message in the same room only', async () => {
    answer = () => new Promise(() => {});
    const outbox = open();
    outbox.setOnline(true);
    outbox.add({ room: 'lobby', text: 'first' });
    outbox.add({ room: 'lobby', text: 'second' });
    outbox.add({ room: 'other', text: 'third' });
    await settle();
    expect(sent.map(({ text }) => text)).toEqual(['first', 'third']);
  });

  it('follows removals in other tabs and ignores unreadable items', () => {
    const outbox = open();
    const { id } = outbox.add({ room: 'lobby', text: 'Hello' });
    outbox.removedElsewhere('something.else');
    expect(outbox.size).toBe(1);
    outbox.removedElsewhere(`uproar.outbox.1.${id}`);
    expect(outbox.size).toBe(0);
    storage.setItem('uproar.outbox.1.x', '{');
    storage.setItem('uproar.outbox.1.y', '{"id":3}');
    expect(open().size).toBe(0);
  });

  it('does not give a room what was written for another one of the same name, unless the user says so', async () => {
    const outbox = open();
    const { id } = outbox.add({ room: 'lobby', epoch: 'e1', text: 'For these people only', replyTo: 3 });
    outbox.add({ room: 'lobby', epoch: 'e2', text: 'For the new ones' });
    epoch = 'e2';
    outbox.setOnline(true);
    await settle();
    expect(sent.map(({ text }) => text)).toEqual(['For the new ones']);
    expect(outbox.of('lobby')[0]).toMatchObject({ status: 'failed', error: { code: 'wrong_epoch' } });
    outbox.retry(id);
    await settle();
    expect(sent.at(-1)).toMatchObject({ text: 'For these people only', epoch: 'e2' });
    expect(sent.at(-1)!.replyTo).toBeUndefined();
  });

  it('keeps the epoch over a reload, and ignores what has another shape', async () => {
    open().add({ room: 'lobby', epoch: 'e1', text: 'x', replyTo: 3 });
    expect(open().of('lobby')).toMatchObject([{ epoch: 'e1', replyTo: 3 }]);
    storage.map.clear();
    storage.setItem(
      'uproar.outbox.1.x',
      JSON.stringify({
        id: 'x',
        room: 'lobby',
        text: 'x',
        time: '1e400',
        status: 7,
        replyTo: 'x',
        error: {},
        epoch: 5,
        isHeld: 'x',
        offset: {},
      }),
    );
    expect(open().of('lobby')).toEqual([{ id: 'x', room: 'lobby', text: 'x', time: 0, status: 'pending' }]);
  });

  it('counts what waits to be sent, by user', async () => {
    const outbox = open();
    outbox.add({ room: 'lobby', text: 'one' });
    outbox.add({ room: 'quiet', text: 'two' });
    open('12').add({ room: 'lobby', text: 'of another user' });
    storage.setItem('uproar.outbox.1.broken', '{');
    expect([countPending(storage, '1'), countPending(storage, '12'), countPending(storage, '')]).toEqual([2, 1, 0]);
    answer = () => Promise.reject(new SendError('refused', false));
    outbox.setOnline(true);
    await settle();
    expect(countPending(storage, '1')).toBe(0);
  });
});

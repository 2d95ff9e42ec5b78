import type { MemberChange } from '@uproar/client';
import { describe, expect, it } from 'vitest';
import { de } from '../texts/de';
import { en } from '../texts/en';
import { formats } from '../texts/formats';
import { changesText } from './changes';

const english = { ...en(formats('en-GB')), format: formats('en-GB') };
const german = { ...de(formats('de')), format: formats('de') };

/** A change such as “Bob+Carol” (Bob added Carol), “Ann+” (Ann joined) or “Ann-” (Ann left). */
const change = (text: string, i: number): MemberChange => {
  const [, user = '', sign, member = ''] = /^(.*?)([+-])(.*)$/.exec(text)!;
  const of = (username: string) => ({ id: `id of ${username}`, username });
  const kind = sign === '+' ? 'added' : 'removed';
  return { offset: i + 1, time: i, user: of(user), kind, member: of(member || user) };
};
const say = (...changes: string[]) => changesText(changes.map(change), english);

describe('changesText', () => {
  it('says who did what', () => {
    expect(say('Alice+')).toBe('Alice joined');
    expect(say('Alice-')).toBe('Alice left');
    expect(say('Bob+Carol')).toBe('Bob added Carol');
    expect(say('Bob-Carol')).toBe('Bob removed Carol');
  });

  it('takes people together who did the same', () => {
    expect(say('Alice+', 'Bob+')).toBe('Alice and Bob joined');
    expect(say('Alice+', 'Bob+', 'Carol+')).toBe('Alice, Bob and Carol joined');
    expect(say('Alice+', 'Bob+', 'Carol+', 'Dan+', 'Eve+')).toBe('Alice, Bob and 3 others joined');
    expect(say('Bob+Carol', 'Bob+Dan', 'Ann+Eve')).toBe('Bob added Carol and Dan · Ann added Eve');
    expect(say('Alice+', 'Bob-', 'Carol+')).toBe('Alice and Carol joined · Bob left');
  });

  it('says what became of each person', () => {
    expect(say('Alice+', 'Alice-')).toBe('Alice joined and left');
    expect(say('Alice+', 'Bob-Alice')).toBe('Alice joined and left');
    expect(say('Alice-', 'Alice+')).toBe('Alice left and joined again');
    expect(say('Alice+', 'Alice-', 'Alice+', 'Bob+')).toBe('Alice and Bob joined');
    expect(say('Bob+Alice', 'Alice-', 'Carol+Alice')).toBe('Carol added Alice');
  });

  it('does without a name that was not recorded', () => {
    const nameless = (user: string, id: string): MemberChange => ({
      offset: 1, time: 1, kind: 'removed', user: { id: user, username: `name ${user}` }, member: { id },
    });
    expect(changesText([nameless('1', '1')], english)).toBe('name 1 left');
    expect(changesText([nameless('1', '2')], english)).toBe('name 1 removed a member');
  });

  it('keeps names that are written from right to left together', () => {
    expect(say('שלום+')).toBe('\u2068שלום\u2069 joined');
  });

  it('is good German', () => {
    const sagt = (...changes: string[]) => changesText(changes.map(change), german);
    expect(sagt('Alice+')).toBe('Alice ist beigetreten');
    expect(sagt('Alice+', 'Bob+', 'Carol+', 'Dan+')).toBe('Alice, Bob und 2 weitere sind beigetreten');
    expect(sagt('Alice-')).toBe('Alice hat den Raum verlassen');
    expect(sagt('Bob-Carol')).toBe('Bob hat Carol entfernt');
  });
});

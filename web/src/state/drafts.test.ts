import { beforeEach, describe, expect, it } from 'vitest';
import { Memory } from '@uproar/client';
import { Drafts } from './drafts';
import { OWNER_KEY, forget, forgetOthers } from './privacy';

describe('Drafts', () => {
  let shared: Memory;
  let tab: Memory;
  let drafts: Drafts;

  beforeEach(() => {
    shared = new Memory();
    tab = new Memory();
    drafts = new Drafts(tab, shared);
  });

  it('belong to one tab', () => {
    const other = new Drafts(new Memory(), shared);
    drafts.change('1', 'lobby', 'e', { text: 'Here' });
    expect(other.read('1', 'lobby', 'e').text).toBe('');
    other.change('1', 'lobby', 'e', { text: 'There' });
    other.change('1', 'lobby', 'e', { text: '' });
    expect(drafts.read('1', 'lobby', 'e').text).toBe('Here');
  });

  it('can be read and discarded in parts, whatever room took the name', () => {
    drafts.change('1', 'lobby', 'e', { text: 'Half', edit: { offset: 4, text: 'Better' } });
    const parts = () => drafts.parts('1', 'lobby').map(({ text }) => text);
    expect(parts()).toEqual(['Half', 'Better']);
    drafts.discard('1', 'lobby', 'text');
    expect(parts()).toEqual(['Better']);
    expect(drafts.rooms('1')).toEqual(new Set(['lobby']));
    drafts.discard('1', 'lobby', 'edit');
    expect(parts()).toEqual([]);
    expect(tab.keys()).toEqual([]);
  });

  it('are known by their rooms, whichever tab left them', () => {
    const other = new Drafts(new Memory(), shared);
    drafts.change('1', 'lobby', 'e', { text: 'Half' });
    drafts.change('1', 'a.b', 'e', { edit: { offset: 4 } });
    drafts.change('1', 'blank', 'e', { text: ' \n' });
    drafts.change('1', 'reply', 'e', { replyTo: 3 });
    drafts.change('12', 'hall', 'e', { text: 'Another user' });
    other.change('1', 'attic', 'e', { text: 'Still open' });
    expect([...drafts.rooms('1')].sort()).toEqual(['a.b', 'lobby']);
    other.leave();
    expect([...drafts.rooms('1')].sort()).toEqual(['a.b', 'attic', 'lobby']);
    drafts.change('1', 'lobby', 'e', { text: '' });
    expect([...drafts.rooms('1')].sort()).toEqual(['a.b', 'attic']);
  });

  it('survive a reload', () => {
    drafts.change('1', 'lobby', 'e', { text: 'Half', replyTo: 3, edit: { offset: 4, text: 'Other' } });
    drafts.leave();
    const reloaded = new Drafts(tab, shared);
    expect(shared.map.size).toBe(0);
    expect(reloaded.read('1', 'lobby', 'e')).toEqual({
      text: 'Half',
      epoch: 'e',
      replyTo: 3,
      edit: { offset: 4, text: 'Other' },
    });
  });

  it('stay with the tab that closed while another one writes in the room', () => {
    const open = new Drafts(new Memory(), shared);
    open.claim('1', 'lobby');
    drafts.change('1', 'lobby', 'e', { text: 'A long draft', replyTo: 3, edit: { offset: 4, text: 'Other' } });
    drafts.leave();
    for (const change of [{ text: 'ok' }, { replyTo: 5 }, { edit: undefined }]) open.change('1', 'lobby', 'e', change);
    expect(open.read('1', 'lobby', 'e')).toEqual({ text: 'ok', epoch: 'e', replyTo: 5 });
    const next = new Drafts(new Memory(), shared);
    next.claim('1', 'lobby');
    expect(next.read('1', 'lobby', 'e').text).toBe('A long draft');
  });

  it('pass on to the next tab when theirs closes, each once', () => {
    const second = new Drafts(new Memory(), shared);
    drafts.change('1', 'lobby', 'e', { text: 'First' });
    second.change('1', 'lobby', 'e', { text: 'Second' });
    drafts.leave();
    second.leave();
    const open = () => {
      const next = new Drafts(new Memory(), shared);
      next.claim('1', 'lobby');
      return next.read('1', 'lobby', 'e').text;
    };
    expect([open(), open(), open()]).toEqual(['Second', 'First', '']);
    expect(shared.map.size).toBe(0);
  });

  it('keep their text but not their offsets when another room takes the name', () => {
    drafts.change('1', 'lobby', 'old', { text: 'Half', replyTo: 3, edit: { offset: 4 } });
    expect(drafts.read('1', 'lobby', 'new')).toEqual({ text: 'Half' });
    drafts.change('1', 'lobby', 'new', { text: 'Half a' });
    expect(drafts.read('1', 'lobby', 'new')).toEqual({ text: 'Half a', epoch: 'new' });
  });

  it('are removed when nothing is left of them', () => {
    drafts.change('1', 'lobby', 'e', { text: 'x' });
    drafts.change('1', 'lobby', 'e', { text: '' });
    expect(tab.map.size).toBe(0);
  });

  it('ignore values of another shape', () => {
    for (const value of ['', '{', 'null', '5', '[]', '{"text":5}', '"x"']) {
      tab.setItem('uproar.draft.1.lobby', value);
      shared.setItem('uproar.left.1.lobby', value);
      drafts.claim('1', 'lobby');
      expect(drafts.read('1', 'lobby', 'e'), value).toEqual({ text: '' });
      expect(() => new Drafts(tab, shared).leave()).not.toThrow();
    }
    tab.setItem('uproar.draft.1.lobby', '{"text":"x","epoch":"e","replyTo":"3","edit":{"offset":-1}}');
    expect(drafts.read('1', 'lobby', 'e')).toEqual({ text: 'x', epoch: 'e' });
  });
});

describe('what the browser keeps', () => {
  const fill = (storage: Memory) => {
    for (const user of ['1', '12']) {
      for (const kind of ['draft', 'left', 'outbox', 'recent', 'reply'])
        storage.setItem(`uproar.${kind}.${user}.lobby`, 'x');
    }
    storage.setItem('uproar.theme', '{}');
    storage.setItem('elsewhere', 'x');
    storage.setItem(OWNER_KEY, '1');
  };
  const users = (storage: Memory) => [
    ...new Set(storage.keys().flatMap(key => /^uproar\.\w+\.(\d+)/.exec(key)?.[1] ?? [])),
  ];

  it('is removed when its user signs out', () => {
    const storages = [new Memory(), new Memory()] as const;
    storages.forEach(fill);
    forget(storages, '1');
    for (const storage of storages) {
      expect(users(storage)).toEqual(['12']);
      expect([storage.getItem(OWNER_KEY), storage.getItem('uproar.theme'), storage.getItem('elsewhere')]).toEqual([
        null,
        '{}',
        'x',
      ]);
    }
  });

  it('is removed when another user signs in', () => {
    const [storage, tab] = [new Memory(), new Memory()];
    [storage, tab].forEach(fill);
    forgetOthers(storage, tab, '12');
    expect([users(storage), users(tab), storage.getItem(OWNER_KEY)]).toEqual([['12'], ['12'], '12']);
  });

  it('waits for the user whose session expired, but not for one who signed out', () => {
    const [storage, tab] = [new Memory(), new Memory()];
    [storage, tab].forEach(fill);
    forgetOthers(storage, tab, undefined);
    expect([users(storage), users(tab)]).toEqual([['1'], ['1']]);
    storage.removeItem(OWNER_KEY);
    forgetOthers(storage, tab, undefined);
    expect([users(storage), users(tab)]).toEqual([[], []]);
  });
});

/** Joins and departures between messages, several of them in one line. */
import type { MemberChange } from '@uproar/client';
import type { Texts } from '../texts/language';

/** What became of people: whether they came, went, or both, and who did that if they did not. */
interface Part {
  what: 'joined' | 'left' | 'joinedAndLeft' | 'leftAndJoined';
  /** Somebody else. */
  by?: string;
  /** Undefined: the name is not known. */
  names: (string | undefined)[];
}

/** What the texts are made of. */
type Words = Pick<Texts, 'changes' | 'format'>;

/** So many names are written out, if there are more of them. */
const NAMES_SHOWN = 2;

/** One line for changes that follow each other. */
export function changesText(changes: readonly MemberChange[], texts: Words): string {
  return partsOf(changes)
    .map((part) => partText(part, texts))
    .join(' · ');
}

/** Each person is in one part, by the first and the last change. Parts are in the order of those who came first. */
function partsOf(changes: readonly MemberChange[]): Part[] {
  const people = new Map<string, { first: MemberChange; last: MemberChange }>();
  for (const change of changes) {
    const known = people.get(change.member.id);
    if (known) known.last = change;
    else people.set(change.member.id, { first: change, last: change });
  }
  const parts = new Map<string, Part>();
  for (const { first, last } of people.values()) {
    const { member, user } = last;
    const isOwn = member.id === user.id;
    const both = first.kind === 'added' ? 'joinedAndLeft' : 'leftAndJoined';
    const what = first.kind !== last.kind ? both : last.kind === 'added' ? 'joined' : 'left';
    const by = isOwn || first.kind !== last.kind ? undefined : user;
    const key = `${what} ${by?.id ?? ''}`;
    let part = parts.get(key);
    if (!part) parts.set(key, (part = { what, names: [], ...(by ? { by: by.username } : {}) }));
    part.names.push(member.username ?? first.member.username ?? (isOwn ? user.username : undefined));
  }
  return [...parts.values()];
}

function partText({ what, by, names }: Part, { changes, format }: Words): string {
  const shown = names.length <= NAMES_SHOWN + 1 ? names : names.slice(0, NAMES_SHOWN);
  const written = shown.map((name) => (name === undefined ? changes.someone : isolated(name)));
  const others = names.length - shown.length;
  const list = format.list(others > 0 ? [...written, changes.others(others)] : written);
  if (by === undefined) return changes[what](list, names.length);
  return (what === 'joined' ? changes.added : changes.removed)(isolated(by), list);
}

/** Keeps a name that is written from right to left from moving what stands beside it. */
function isolated(name: string): string {
  return /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff]/.test(name) ? `\u2068${name}\u2069` : name;
}

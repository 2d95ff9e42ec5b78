/** Saying who reacted to a message. */
import type { Reaction, Reactors } from '@uproar/client';

const NAMED = 3;

/** Says who reacted, such as “Ann, Bob and 3 others”. */
export function whoReacted({ emoji, count, mine }: Reaction, me: string, reactors: Reactors | undefined): string {
  const names = [...(reactors?.get(emoji) ?? [])].flatMap(([id, name]) => (id === me ? [] : [name]));
  const known = [...(mine ? ['You'] : []), ...names].slice(0, count);
  const named = known.length <= NAMED && known.length === count ? known : known.slice(0, NAMED - 1);
  const others = count - named.length;
  if (named.length === 0) return others === 1 ? '1 person' : `${others} people`;
  const all = others === 0 ? named : [...named, others === 1 ? '1 other' : `${others} others`];
  return all.length === 1 ? all[0]! : `${all.slice(0, -1).join(', ')} and ${all.at(-1)}`;
}

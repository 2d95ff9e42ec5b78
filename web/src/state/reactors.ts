/** Saying who reacted to a message. */
import type { Reaction, Reactors } from '@uproar/client';
import type { Texts } from '../texts/language';

const NAMED = 3;

/** Says who reacted, such as “Ann, Bob and 3 others”. */
export function whoReacted(
  { emoji, count, mine }: Reaction,
  me: string,
  reactors: Reactors | undefined,
  { format, reactions: t }: Texts,
): string {
  const names = [...(reactors?.get(emoji) ?? [])].flatMap(([id, name]) => (id === me ? [] : [name]));
  const known = [...(mine ? [t.you] : []), ...names].slice(0, count);
  const named = known.length <= NAMED && known.length === count ? known : known.slice(0, NAMED - 1);
  const others = count - named.length;
  if (named.length === 0) return t.people(others);
  return format.list(others === 0 ? named : [...named, t.others(others)]);
}

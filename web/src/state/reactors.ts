/** Who reacted to a message. Pages of messages have only counts; the publications in a room's history have names. */
import type { Publication, Reaction } from './timeline';

/** The usernames by user id, for each emoji, the first one first. */
export type Reactors = ReadonlyMap<string, ReadonlyMap<string, string>>;

/** Collects who reacted to the message at this offset, from publications in their order. */
export class ReactorCollector {
  readonly reactors = new Map<string, Map<string, string>>();

  constructor(private readonly target: number) {}

  add({ data, user }: Publication): void {
    const { emoji, react, unreact } = data;
    if (emoji === undefined || (react ?? unreact) !== this.target) return;
    const users = this.reactors.get(emoji) ?? new Map<string, string>();
    this.reactors.set(emoji, users);
    if (react === undefined) users.delete(user.id);
    else if (!users.has(user.id)) users.set(user.id, user.username);
  }

  /** Whether everyone who is counted has been found. */
  explains(reactions: readonly Reaction[]): boolean {
    return reactions.every(({ emoji, count }) => (this.reactors.get(emoji)?.size ?? 0) === count);
  }
}

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

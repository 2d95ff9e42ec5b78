/** Who reacted to a message. Pages of messages have only counts; the publications in a room's history have names. */
import type { Publication, Reaction } from './timeline.ts';

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

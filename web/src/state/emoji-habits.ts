/** Which emoji a user chose last in this browser, and their skin tone. */
import type { StorageLike } from '@uproar/client';

export interface Habits {
  /** With their skin tones, the last one first. */
  recent: readonly string[];
  /** From 1 (light) to 5 (dark), or 0: none. */
  tone: number;
}

const KEPT = 24;
const keyOf = (user: string) => `uproar.emoji.${user}`;

/** What the storage has, where another version of the page, or a person, may have put anything. */
export function readHabits(storage: StorageLike, user: string): Habits {
  let kept: Record<string, unknown>;
  try {
    kept = (JSON.parse(storage.getItem(keyOf(user)) ?? '{}') ?? {}) as Record<string, unknown>;
  } catch {
    kept = {};
  }
  const recent = Array.isArray(kept['recent']) ? kept['recent'] : [];
  const tone = Number(kept['tone']);
  return {
    recent: recent.filter((emoji): emoji is string => typeof emoji === 'string').slice(0, KEPT),
    tone: Number.isInteger(tone) && tone > 0 && tone <= 5 ? tone : 0,
  };
}

function write(storage: StorageLike, user: string, habits: Habits): void {
  storage.setItem(keyOf(user), JSON.stringify(habits));
}

export function rememberEmoji(storage: StorageLike, user: string, emoji: string): void {
  const { recent, tone } = readHabits(storage, user);
  write(storage, user, { recent: [emoji, ...recent.filter((other) => other !== emoji)].slice(0, KEPT), tone });
}

export function rememberTone(storage: StorageLike, user: string, tone: number): void {
  write(storage, user, { ...readHabits(storage, user), tone });
}

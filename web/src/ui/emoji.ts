/** Emoji for the page: the data, loaded when they are needed, and what the user chose before. */
import { type Habits, readHabits, rememberEmoji } from '../state/emoji-habits';
import { storage } from '../storage';

type Data = typeof import('../state/emoji');

let loading: Promise<Data> | undefined;
/** The data, once they are loaded. */
export let emojiData: Data | undefined;

export function loadEmojiData(): Promise<Data> {
  loading ??= import('../state/emoji').then(
    (data) => (emojiData = data),
    (error: unknown) => {
      // It may succeed later.
      loading = undefined;
      throw error;
    },
  );
  return loading;
}

export const habits = (user: string): Habits => readHabits(storage, user);
export const remember = (user: string, emoji: string): void => rememberEmoji(storage, user, emoji);
